//! Watches over the directory of a plugin while that uses it.
//!
//! The host has so many open files and so much of a disk for everybody, and between two looks at a
//! directory a plugin could take them all. So the functions of WASI by which it opens, makes and fills
//! files are replaced by ones that count. They work on the plugin's own thread, one after the other.

mod wasi02;
mod wasi03;

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
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
/// In which systems give room to files, mostly.
const PAGE_BYTES: usize = 4096;
/// A look at a directory that takes longer is not for now and then.
const LOOK_MAX: Duration = Duration::from_millis(10);

/// The directory that a plugin has, and how much of it there may be.
pub(crate) struct Files {
    dir: PathBuf,
    open_max: u64,
    bytes_max: u64,
    look_max: Duration,
    /// What the directory holds at most: what was found there, and what was added since. What was
    /// removed since is in it too.
    bytes: AtomicU64,
    /// What was found when the host last looked.
    found: AtomicU64,
    /// Whether what is written is measured, since there is little room left, or so much in it that looking
    /// takes long. Else all of it counts as added, also what replaces something, until the next look. A file
    /// that is measured has the exact time of its next change noted by the system, which makes syncing it
    /// dearer by a third.
    is_measured: AtomicBool,
}

impl Files {
    pub(crate) fn new(dir: PathBuf, limits: &Limits) -> Self {
        let (open_max, bytes_max) = (limits.open_files, limits.data_bytes);
        // Nobody has looked: the first bytes that are added make the host look.
        let (bytes, found) = (AtomicU64::new(bytes_max), AtomicU64::new(0));
        let (look_max, is_measured) = (LOOK_MAX, AtomicBool::new(false));
        Self { dir, open_max, bytes_max, look_max, bytes, found, is_measured }
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
        let held_now = self.bytes.load(Ordering::Relaxed).saturating_add(bytes);
        if bytes > 0 && held_now > self.bytes_max {
            return self.look();
        }
        self.bytes.store(held_now, Ordering::Relaxed);
        Ok(())
    }

    /// Finds out what the directory holds, and ends the incarnation when it is too much.
    fn look(&self) -> wasmtime::Result<()> {
        let begun = Instant::now();
        let held = held(&self.dir, self.bytes_max).map_err(wasmtime::Error::msg)?;
        self.bytes.store(held, Ordering::Relaxed);
        self.found.store(held, Ordering::Relaxed);
        let is_full = held > self.bytes_max - 2 * self.eighth();
        self.is_measured.store(is_full || begun.elapsed() > self.look_max, Ordering::Relaxed);
        Ok(())
    }

    /// An eighth of what there may be: more than a piece adds.
    fn eighth(&self) -> u64 {
        self.bytes_max / 8
    }

    /// Whether the next piece is to be measured, rather than counted as added. The host looks whenever an
    /// eighth was added: systems may give more room to a piece than what counts.
    fn measures(&self) -> wasmtime::Result<bool> {
        let is_measured = || self.is_measured.load(Ordering::Relaxed);
        let (bytes, found) =
            (self.bytes.load(Ordering::Relaxed), self.found.load(Ordering::Relaxed));
        if !is_measured() && bytes.saturating_sub(found) > self.eighth() {
            self.look()?;
        }
        Ok(is_measured())
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
    /// What the file took before the piece that is being written, where that is measured.
    before: Option<u64>,
}

impl Filling {
    /// A piece of so many bytes is about to be written.
    fn begin(&mut self, len: usize) -> wasmtime::Result<()> {
        self.before = None;
        if len == 0 {
            return Ok(());
        }
        if self.files.measures()? {
            self.before = Some(size(&self.file.metadata()?));
            return Ok(());
        }
        // It may begin and end within a page.
        let pages = u64::try_from(len.div_ceil(PAGE_BYTES) + 1)?;
        self.files.add(pages * u64::try_from(PAGE_BYTES)?)
    }

    /// Counts what was written, and ends the incarnation when it is too much.
    fn end(&self) -> wasmtime::Result<()> {
        let Some(before) = self.before else { return Ok(()) };
        let now = size(&self.file.metadata()?);
        self.files.add(now.saturating_sub(before))
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
        Ok(Some(Filling { files: Arc::clone(files), file: Arc::clone(&file.file), before: None }))
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
        (root, Files { look_max: Duration::MAX, ..files })
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

    fn filling(files: Files, path: &std::path::Path) -> Filling {
        let file = fs::File::options().write(true).open(path).unwrap();
        Filling { files: Arc::new(files), file: Arc::new(file), before: None }
    }

    fn write(filling: &mut Filling, offset: u64) -> wasmtime::Result<()> {
        let page = [2; PAGE_BYTES];
        filling.begin(page.len())?;
        std::os::unix::fs::FileExt::write_all_at(&*filling.file, &page, offset).unwrap();
        filling.end()
    }

    #[test]
    fn a_file_that_is_written_again_takes_nothing_more_however_little_room_there_is() {
        for held in [100 << 10, 1000 << 10] {
            let (root, files) = directory();
            let path = root.path().join("a");
            fs::write(&path, vec![1; held]).unwrap();
            let mut filling = filling(files, &path);
            for _ in 0..1_000 {
                write(&mut filling, 0).unwrap();
            }
        }
    }

    #[test]
    fn a_file_is_measured_only_where_there_is_little_room_left() {
        let (root, files) = directory();
        let path = root.path().join("a");
        fs::write(&path, vec![1; 100 << 10]).unwrap();
        let mut filling = filling(files, &path);
        write(&mut filling, 0).unwrap();
        assert_eq!(filling.before, None);
        fs::write(root.path().join("b"), vec![1; 860 << 10]).unwrap();
        let measured = (0..1_000).any(|_| {
            write(&mut filling, 0).unwrap();
            filling.before.is_some()
        });
        assert!(measured);
        fs::remove_file(root.path().join("b")).unwrap();
        filling.files.look().unwrap();
        write(&mut filling, 0).unwrap();
        assert_eq!(filling.before, None);
    }

    #[test]
    fn a_directory_in_which_looking_takes_long_is_not_looked_at_for_what_is_written_again() {
        let (root, files) = directory();
        let path = root.path().join("a");
        fs::write(&path, vec![1; 64 << 10]).unwrap();
        let mut filling = filling(Files { look_max: Duration::ZERO, ..files }, &path);
        write(&mut filling, 0).unwrap();
        fs::write(root.path().join("b"), vec![1; 2 << 20]).unwrap();
        for _ in 0..1_000 {
            write(&mut filling, 0).unwrap();
        }
    }

    #[test]
    fn the_host_looks_whenever_an_eighth_was_added() {
        let (root, files) = directory();
        let path = root.path().join("a");
        fs::write(&path, vec![1; 64 << 10]).unwrap();
        let mut filling = filling(files, &path);
        write(&mut filling, 0).unwrap();
        // More room than what is counted, as some systems give.
        fs::write(root.path().join("b"), vec![1; 2 << 20]).unwrap();
        let pages = MAX / 8 / PAGE_BYTES as u64;
        assert!((0..=pages).any(|_| write(&mut filling, 0).is_err()));
    }

    #[test]
    fn nothing_is_not_counted() {
        let (root, files) = directory();
        let path = root.path().join("a");
        fs::write(&path, []).unwrap();
        let mut filling = filling(files, &path);
        write(&mut filling, 0).unwrap();
        let counted = filling.files.bytes.load(Ordering::Relaxed);
        filling.begin(0).unwrap();
        filling.end().unwrap();
        assert_eq!(filling.files.bytes.load(Ordering::Relaxed), counted);
    }

    #[test]
    fn a_file_ends_the_plugin_with_the_first_page_that_is_too_much() {
        let (root, files) = directory();
        let path = root.path().join("a");
        fs::write(&path, []).unwrap();
        let mut filling = filling(files, &path);
        let page = PAGE_BYTES as u64;
        let written =
            (0..).take_while(|page_number| write(&mut filling, page_number * page).is_ok());
        let written = written.count() as u64 * page;
        // The directory takes some of it too.
        assert!((MAX - 16 * page..=MAX).contains(&written), "{written}");
    }
}
