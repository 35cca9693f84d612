//! Watches over the directory of a plugin while that uses it.
//!
//! The host has so many open files and so much of a disk for everybody, and between two looks at a
//! directory a plugin could take them all. So the functions of WASI by which it opens, makes and fills
//! files are replaced by ones that count. They work on the plugin's own thread, one after the other.

mod wasi02;
mod wasi03;

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, File};

use super::{
    data_dir::{FILE_BYTES_MIN, held, one_too_many, size},
    guest::GuestState,
    limits::Limits,
};

/// Most bytes that are written before they are counted.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// The directory that a plugin has, and how much of it there may be.
pub(crate) struct Files {
    dir: PathBuf,
    open_max: u64,
    bytes_max: u64,
    /// What the directory holds at most: what was found there, and what was added since. What was
    /// removed since is in it too.
    bytes: AtomicU64,
}

impl Files {
    pub(crate) fn new(dir: PathBuf, limits: &Limits) -> Self {
        let (open_max, bytes_max) = (limits.open_files, limits.data_bytes);
        // Nobody has looked: the first bytes that are added make the host look.
        Self { dir, open_max, bytes_max, bytes: AtomicU64::new(bytes_max) }
    }

    /// Ends the incarnation that has too many open already. Looks into `/proc`, which waits for
    /// nothing.
    fn check_open(&self) -> wasmtime::Result<()> {
        match one_too_many(&self.dir, self.open_max) {
            Some(problem) => Err(wasmtime::Error::msg(problem)),
            None => Ok(()),
        }
    }

    /// Counts what was added, and ends the incarnation when it is too much.
    fn add(&self, bytes: u64) -> wasmtime::Result<()> {
        let mut held_now = self.bytes.load(Ordering::Relaxed).saturating_add(bytes);
        if bytes > 0 && held_now > self.bytes_max {
            held_now = held(&self.dir, self.bytes_max).map_err(wasmtime::Error::msg)?;
        }
        self.bytes.store(held_now, Ordering::Relaxed);
        Ok(())
    }

    /// Counts a file that was opened and may be new. One that has something in it was there before.
    fn add_opened(&self, file: &File) -> wasmtime::Result<()> {
        match file.file.metadata() {
            Ok(metadata) if metadata.len() > 0 => Ok(()),
            _ => self.add(FILE_BYTES_MIN),
        }
    }
}

/// A file that is being filled.
struct Filling {
    files: Arc<Files>,
    file: Arc<fs::File>,
    before: u64,
}

impl Filling {
    /// What the file takes now counts from here on.
    fn begin(&mut self) -> io::Result<()> {
        self.before = size(&self.file.metadata()?);
        Ok(())
    }

    /// Counts what the file has taken since, and ends the incarnation when it is too much.
    fn end(&self) -> wasmtime::Result<()> {
        let now = size(&self.file.metadata()?);
        self.files.add(now.saturating_sub(self.before))
    }
}

impl GuestState {
    fn check_open_files(&self) -> wasmtime::Result<()> {
        self.files.as_ref().map_or(Ok(()), |files| files.check_open())
    }

    /// Counts a name that was made, with what it stands for.
    fn count_made(&self, is_made: bool) -> wasmtime::Result<()> {
        match &self.files {
            Some(files) if is_made => files.add(FILE_BYTES_MIN),
            _ => Ok(()),
        }
    }

    /// Counts a file that was opened where it may have been made.
    fn count_opened(&self, opened: &Resource<Descriptor>) -> wasmtime::Result<()> {
        match (&self.files, self.table.get(opened)?) {
            (Some(files), Descriptor::File(file)) => files.add_opened(file),
            _ => Ok(()),
        }
    }

    /// The file that is to be filled; nothing for what is none.
    fn filling(&self, file: &Resource<Descriptor>) -> wasmtime::Result<Option<Filling>> {
        let (Some(files), Descriptor::File(file)) = (&self.files, self.table.get(file)?) else {
            return Ok(None);
        };
        Ok(Some(Filling { files: Arc::clone(files), file: Arc::clone(&file.file), before: 0 }))
    }
}

/// Call it after WASI has been added, of which it replaces some functions.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    wasi02::add_to_linker(linker)?;
    wasi03::add_to_linker(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 1 << 20;

    fn directory() -> (tempfile::TempDir, Files) {
        let root = tempfile::tempdir().unwrap();
        let limits = Limits { data_bytes: MAX, ..Limits::default() };
        let files = Files::new(root.path().canonicalize().unwrap(), &limits);
        (root, files)
    }

    #[test]
    fn what_is_added_counts_until_it_is_too_much() {
        let (root, files) = directory();
        fs::write(root.path().join("a"), vec![1; 600 << 10]).unwrap();
        // Whatever was said to be added: the directory was not looked at before.
        files.add(1).unwrap();
        fs::write(root.path().join("b"), vec![1; 600 << 10]).unwrap();
        let error = files.add(600 << 10).unwrap_err().to_string();
        assert!(error.contains("data_bytes = \"1MiB\""), "{error}");
    }

    #[test]
    fn what_was_removed_is_noticed_before_there_is_too_much() {
        let (root, files) = directory();
        for _ in 0..10 {
            fs::write(root.path().join("a"), vec![1; 600 << 10]).unwrap();
            files.add(600 << 10).unwrap();
            fs::remove_file(root.path().join("a")).unwrap();
        }
    }

    #[test]
    fn a_file_that_is_written_again_takes_nothing_more() {
        let (root, files) = directory();
        let path = root.path().join("a");
        fs::write(&path, vec![1; 600 << 10]).unwrap();
        let file = Arc::new(fs::File::options().write(true).open(path).unwrap());
        let mut filling = Filling { files: Arc::new(files), file, before: 0 };
        filling.files.add(1).unwrap();
        let counted = filling.files.bytes.load(Ordering::Relaxed);
        for _ in 0..10 {
            filling.begin().unwrap();
            std::os::unix::fs::FileExt::write_all_at(&*filling.file, &[2; 4096], 0).unwrap();
            filling.end().unwrap();
        }
        assert_eq!(filling.files.bytes.load(Ordering::Relaxed), counted);
    }
}
