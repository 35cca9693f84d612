//! The functions of WASI 0.2, which standard libraries use.

use std::pin::Pin;

use bytes::Bytes;
use futures::FutureExt;
use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource},
};
use wasmtime_wasi::{
    filesystem::{Descriptor, WasiFilesystemView},
    p2::{
        DynOutputStream, FsResult, OutputStream, Pollable, StreamError, StreamResult,
        bindings::filesystem::types::{
            DescriptorFlags, ErrorCode, HostDescriptor, OpenFlags, PathFlags,
        },
    },
};

use super::{Filling, GuestState, PIECE_BYTES_MAX};

/// As the engine offers it: the name has to be the same to replace anything. Where it is not, the
/// limits are kept by looks at the directory alone, and their tests fail.
const TYPES: &str = "wasi:filesystem/types@0.2.12";

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.func_wrap_async("[method]descriptor.open-at", |store, arguments| {
        Box::new(open_at(store, arguments))
    })?;
    types.func_wrap_async("[method]descriptor.create-directory-at", |store, arguments| {
        Box::new(create_directory_at(store, arguments))
    })?;
    types.func_wrap_async("[method]descriptor.symlink-at", |store, arguments| {
        Box::new(symlink_at(store, arguments))
    })?;
    types.func_wrap_async("[method]descriptor.write", |store, arguments| {
        Box::new(write(store, arguments))
    })?;
    types.func_wrap("[method]descriptor.write-via-stream", write_via_stream)?;
    types.func_wrap("[method]descriptor.append-via-stream", append_via_stream)?;
    Ok(())
}

type Store<'a> = StoreContextMut<'a, GuestState>;
type Answer<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

fn answer<T>(result: FsResult<T>) -> Answer<T> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(error.downcast()?),
    },))
}

type OpenAt = (Resource<Descriptor>, PathFlags, String, OpenFlags, DescriptorFlags);

async fn open_at(
    mut store: Store<'_>,
    (dir, path_flags, path, open_flags, flags): OpenAt,
) -> Answer<Resource<Descriptor>> {
    let state = store.data_mut();
    state.check_open_files()?;
    let mut files = state.filesystem();
    let opened = files.open_at(dir, path_flags, path, open_flags, flags).await;
    if let Ok(opened) = &opened
        && open_flags.contains(OpenFlags::CREATE)
    {
        state.count_opened(opened)?;
    }
    answer(opened)
}

async fn create_directory_at(
    mut store: Store<'_>,
    (dir, path): (Resource<Descriptor>, String),
) -> Answer<()> {
    let state = store.data_mut();
    let made = state.filesystem().create_directory_at(dir, path).await;
    state.count_made(made.is_ok())?;
    answer(made)
}

async fn symlink_at(
    mut store: Store<'_>,
    (dir, target, path): (Resource<Descriptor>, String, String),
) -> Answer<()> {
    let state = store.data_mut();
    let made = state.filesystem().symlink_at(dir, target, path).await;
    state.count_made(made.is_ok())?;
    answer(made)
}

async fn write(
    mut store: Store<'_>,
    (file, mut bytes, offset): (Resource<Descriptor>, Vec<u8>, u64),
) -> Answer<u64> {
    // It is told how much was written.
    bytes.truncate(PIECE_BYTES_MAX);
    let state = store.data_mut();
    let mut filling = state.filling(&file)?;
    if let Some(filling) = &mut filling {
        filling.begin(bytes.len())?;
    }
    let written = state.filesystem().write(file, bytes, offset).await;
    if let Some(filling) = filling {
        filling.end()?;
    }
    answer(written)
}

fn write_via_stream(
    mut store: Store<'_>,
    (file, offset): (Resource<Descriptor>, u64),
) -> Answer<Resource<DynOutputStream>> {
    let state = store.data_mut();
    let filling = state.filling(&file)?;
    let stream = state.filesystem().write_via_stream(file, offset);
    counted(state, filling, stream)
}

fn append_via_stream(
    mut store: Store<'_>,
    (file,): (Resource<Descriptor>,),
) -> Answer<Resource<DynOutputStream>> {
    let state = store.data_mut();
    let filling = state.filling(&file)?;
    let stream = state.filesystem().append_via_stream(file);
    counted(state, filling, stream)
}

/// Puts a stream that counts in place of one that does not.
fn counted(
    state: &mut GuestState,
    filling: Option<Filling>,
    stream: FsResult<Resource<DynOutputStream>>,
) -> Answer<Resource<DynOutputStream>> {
    let (filling, stream) = match (filling, stream) {
        (Some(filling), Ok(stream)) => (filling, stream),
        (_, stream) => return answer(stream),
    };
    let inner = state.table.delete(stream)?;
    let stream: DynOutputStream = Box::new(Counted { inner, filling });
    Ok((Ok(state.table.push(stream)?),))
}

/// Counts what a stream writes to a file.
struct Counted {
    inner: DynOutputStream,
    filling: Filling,
}

impl OutputStream for Counted {
    /// Writes at once: what is written in the background cannot be counted.
    fn write(&mut self, mut bytes: Bytes) -> StreamResult<()> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE_BYTES_MAX));
            self.filling.begin(piece.len()).map_err(StreamError::Trap)?;
            let written = self.inner.blocking_write_and_flush(piece).now_or_never();
            self.filling.end().map_err(StreamError::Trap)?;
            // The plugin's thread may wait for the disk, so the stream never has to.
            let late = || Err(StreamError::trap("a file was not written at once"));
            written.unwrap_or_else(late)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.inner.check_write()
    }
}

impl Pollable for Counted {
    fn ready<'life, 'future>(&'life mut self) -> Pin<Box<dyn Future<Output = ()> + Send + 'future>>
    where
        'life: 'future,
        Self: 'future,
    {
        self.inner.ready()
    }
}
