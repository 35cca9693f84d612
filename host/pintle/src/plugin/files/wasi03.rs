//! The functions of WASI 0.3.

use std::{
    fs, io,
    os::unix::fs::FileExt,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::sync::oneshot;
use wasmtime::{
    StoreContextMut,
    component::{
        Accessor, FutureReader, Linker, Resource, Source, StreamConsumer, StreamReader,
        StreamResult,
    },
};
use wasmtime_wasi::{
    filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView},
    p3::{
        bindings::filesystem::types::{
            DescriptorFlags, ErrorCode, HostDescriptorWithStore, OpenFlags, PathFlags,
        },
        filesystem::FilesystemResult,
    },
};

use super::{Filling, GuestState, PIECE_BYTES_MAX};

/// As the engine offers it: the name has to be the same to replace anything. Where it is not, the
/// limits are kept by looks at the directory alone, and their tests fail.
const TYPES: &str = "wasi:filesystem/types@0.3.0";

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.func_wrap_concurrent("[method]descriptor.open-at", |accessor, arguments| {
        Box::pin(open_at(accessor, arguments))
    })?;
    types
        .func_wrap_concurrent("[method]descriptor.create-directory-at", |accessor, arguments| {
            Box::pin(create_directory_at(accessor, arguments))
        })?;
    types.func_wrap_concurrent("[method]descriptor.symlink-at", |accessor, arguments| {
        Box::pin(symlink_at(accessor, arguments))
    })?;
    types.func_wrap("[method]descriptor.write-via-stream", write_via_stream)?;
    types.func_wrap("[method]descriptor.append-via-stream", append_via_stream)?;
    Ok(())
}

type Answer<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

fn answer<T>(result: FilesystemResult<T>) -> Answer<T> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(error.downcast()?),
    },))
}

type OpenAt = (Resource<Descriptor>, PathFlags, String, OpenFlags, DescriptorFlags);

async fn open_at(
    accessor: &Accessor<GuestState>,
    (dir, path_flags, path, open_flags, flags): OpenAt,
) -> Answer<Resource<Descriptor>> {
    accessor.with(|mut store| store.get().check_open_files())?;
    let files = accessor.with_getter::<WasiFilesystem>(GuestState::filesystem);
    let opened = <WasiFilesystem as HostDescriptorWithStore<GuestState>>::open_at(
        &files, dir, path_flags, path, open_flags, flags,
    )
    .await;
    if let Ok(opened) = &opened
        && open_flags.contains(OpenFlags::CREATE)
    {
        accessor.with(|mut store| store.get().count_opened(opened))?;
    }
    answer(opened)
}

async fn create_directory_at(
    accessor: &Accessor<GuestState>,
    (dir, path): (Resource<Descriptor>, String),
) -> Answer<()> {
    let files = accessor.with_getter::<WasiFilesystem>(GuestState::filesystem);
    let made = <WasiFilesystem as HostDescriptorWithStore<GuestState>>::create_directory_at(
        &files, dir, path,
    )
    .await;
    accessor.with(|mut store| store.get().count_made(made.is_ok()))?;
    answer(made)
}

async fn symlink_at(
    accessor: &Accessor<GuestState>,
    (dir, target, path): (Resource<Descriptor>, String, String),
) -> Answer<()> {
    let files = accessor.with_getter::<WasiFilesystem>(GuestState::filesystem);
    let made = <WasiFilesystem as HostDescriptorWithStore<GuestState>>::symlink_at(
        &files, dir, target, path,
    )
    .await;
    accessor.with(|mut store| store.get().count_made(made.is_ok()))?;
    answer(made)
}

type Ended = Result<(), ErrorCode>;

fn write_via_stream(
    store: StoreContextMut<'_, GuestState>,
    (file, data, offset): (Resource<Descriptor>, StreamReader<u8>, u64),
) -> wasmtime::Result<(FutureReader<Ended>,)> {
    fill(store, &file, data, Place::At(offset))
}

fn append_via_stream(
    store: StoreContextMut<'_, GuestState>,
    (file, data): (Resource<Descriptor>, StreamReader<u8>),
) -> wasmtime::Result<(FutureReader<Ended>,)> {
    fill(store, &file, data, Place::End)
}

fn fill(
    mut store: StoreContextMut<'_, GuestState>,
    file: &Resource<Descriptor>,
    mut data: StreamReader<u8>,
    place: Place,
) -> wasmtime::Result<(FutureReader<Ended>,)> {
    let (ended, end) = oneshot::channel();
    match store.data_mut().writable(file)? {
        Ok(filling) => {
            let filler = Filler { filling, place, ended: Some(ended) };
            data.pipe(&mut store, filler)?;
        }
        Err(code) => {
            data.close(&mut store)?;
            // Nobody listens when the guest dropped the future.
            let _ = ended.send(Err(code));
        }
    }
    Ok((FutureReader::new(&mut store, end)?,))
}

impl GuestState {
    fn writable(
        &self,
        file: &Resource<Descriptor>,
    ) -> wasmtime::Result<Result<Filling, ErrorCode>> {
        let is_writable = match self.table.get(file)? {
            Descriptor::File(file) => !file.perms.write_not_permitted(),
            Descriptor::Dir(_) => return Ok(Err(ErrorCode::BadDescriptor)),
        };
        let filling = self.filling(file)?.filter(|_| is_writable);
        Ok(filling.ok_or(ErrorCode::NotPermitted))
    }
}

/// Where the next bytes go.
#[derive(Clone, Copy)]
enum Place {
    At(u64),
    End,
}

impl Place {
    fn write(self, file: &fs::File, bytes: &[u8]) -> io::Result<usize> {
        let offset = match self {
            Self::At(offset) => offset,
            // Nobody else writes at the same time.
            Self::End => file.metadata()?.len(),
        };
        file.write_at(bytes, offset)
    }

    fn after(self, written: usize) -> Option<Self> {
        match self {
            Self::At(offset) => Some(Self::At(offset.checked_add(u64::try_from(written).ok()?)?)),
            Self::End => Some(Self::End),
        }
    }
}

/// Writes straight from the guest's buffer, and counts.
struct Filler {
    filling: Filling,
    place: Place,
    ended: Option<oneshot::Sender<Ended>>,
}

impl Filler {
    fn end(&mut self, how: Ended) {
        if let Some(ended) = self.ended.take() {
            // Nobody listens when the guest dropped the future.
            let _ = ended.send(how);
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.end(Ok(()));
    }
}

impl<D> StreamConsumer<D> for Filler {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        store: StoreContextMut<D>,
        source: Source<'_, u8>,
        _: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = &mut *self;
        let mut source = source.as_direct(store);
        let bytes = source.remaining();
        let piece = bytes.get(..PIECE_BYTES_MAX).unwrap_or(bytes);
        this.filling.begin(piece.len())?;
        let written = this.place.write(&this.filling.file, piece);
        this.filling.end()?;
        let code = match written.map(|count| (count, this.place.after(count))) {
            Ok((count, Some(place))) => {
                source.mark_read(count);
                this.place = place;
                return Poll::Ready(Ok(StreamResult::Completed));
            }
            Ok((_, None)) => ErrorCode::Overflow,
            Err(error) => error.into(),
        };
        this.end(Err(code));
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}
