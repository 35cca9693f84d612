//! Counts the files that a plugin opens, as it opens them.
//!
//! The host has so many open files for everybody, and between two looks at a directory a plugin could
//! take them all. So WASI's `open-at`, the one way to a file, is replaced by one that counts first.

use std::path::PathBuf;

use wasmtime::{
    StoreContextMut,
    component::{Accessor, Linker, Resource},
};
use wasmtime_wasi::{
    filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView},
    p2::bindings::filesystem::types as wasi02,
    p3::bindings::filesystem::types as wasi03,
};

use super::{data_dir::one_too_many, guest::GuestState};

/// The interfaces as the engine offers them: names have to be the same to replace anything. Where
/// they are not, the limit is kept by looks at the directory alone, and its test fails.
const WASI_02: &str = "wasi:filesystem/types@0.2.12";
const WASI_03: &str = "wasi:filesystem/types@0.3.0";
const OPEN_AT: &str = "[method]descriptor.open-at";

/// The directory that a plugin has, and how much of it may be open.
pub(crate) struct OpenFiles {
    pub(crate) dir: PathBuf,
    pub(crate) files_max: u64,
}

impl OpenFiles {
    /// Ends the incarnation that has too many already.
    fn check(&self) -> wasmtime::Result<()> {
        match one_too_many(&self.dir, self.files_max) {
            Some(problem) => Err(wasmtime::Error::msg(problem)),
            None => Ok(()),
        }
    }
}

impl GuestState {
    /// Looks into `/proc`, which waits for nothing.
    fn check_open_files(&self) -> wasmtime::Result<()> {
        self.open_files.as_ref().map_or(Ok(()), OpenFiles::check)
    }
}

/// Call it after WASI has been added, of which it replaces two functions.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.instance(WASI_02)?.func_wrap_async(OPEN_AT, |store, arguments: Arguments02| {
        Box::new(open_at_02(store, arguments))
    })?;
    linker
        .instance(WASI_03)?
        .func_wrap_concurrent(OPEN_AT, |accessor, arguments: Arguments03| {
            Box::pin(open_at_03(accessor, arguments))
        })?;
    linker.allow_shadowing(false);
    Ok(())
}

type Arguments02 =
    (Resource<Descriptor>, wasi02::PathFlags, String, wasi02::OpenFlags, wasi02::DescriptorFlags);

async fn open_at_02(
    mut store: StoreContextMut<'_, GuestState>,
    (dir, path_flags, path, open_flags, flags): Arguments02,
) -> wasmtime::Result<(Result<Resource<Descriptor>, wasi02::ErrorCode>,)> {
    let state = store.data_mut();
    state.check_open_files()?;
    let mut files = state.filesystem();
    let opened =
        wasi02::HostDescriptor::open_at(&mut files, dir, path_flags, path, open_flags, flags);
    Ok((match opened.await {
        Ok(file) => Ok(file),
        Err(error) => Err(error.downcast()?),
    },))
}

type Arguments03 =
    (Resource<Descriptor>, wasi03::PathFlags, String, wasi03::OpenFlags, wasi03::DescriptorFlags);

async fn open_at_03(
    accessor: &Accessor<GuestState>,
    (dir, path_flags, path, open_flags, flags): Arguments03,
) -> wasmtime::Result<(Result<Resource<Descriptor>, wasi03::ErrorCode>,)> {
    accessor.with(|mut store| store.get().check_open_files())?;
    let files = accessor.with_getter::<WasiFilesystem>(GuestState::filesystem);
    let opened = <WasiFilesystem as wasi03::HostDescriptorWithStore<GuestState>>::open_at(
        &files, dir, path_flags, path, open_flags, flags,
    );
    Ok((match opened.await {
        Ok(file) => Ok(file),
        Err(error) => Err(error.downcast()?),
    },))
}
