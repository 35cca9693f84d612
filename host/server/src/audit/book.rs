//! Lines in numbered files of one folder, of which the oldest make room.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::owner;

/// Files that are kept.
pub(super) const FILES_MAX: usize = 16;

/// Where lines are written to.
#[derive(Debug)]
pub(super) struct Book {
    folder: PathBuf,
    /// After this many bytes a new file is begun.
    file_bytes_max: u64,
    out: Mutex<Option<Out>>,
}

#[derive(Debug)]
struct Out {
    file: File,
    number: u64,
    bytes: u64,
}

impl Book {
    pub(super) fn open(folder: PathBuf, file_bytes_max: u64) -> io::Result<Self> {
        owner::create_folder(&folder)?;
        let out = Out::last(&folder)?;
        Ok(Self { folder, file_bytes_max, out: Mutex::new(Some(out)) })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a line, which ends with a line feed.
    pub(super) fn write(&self, line: &[u8]) -> io::Result<()> {
        let mut out = self.out();
        // Taken out until it has succeeded: after a failure the file is opened anew.
        let mut present = match out.take() {
            Some(present) if present.bytes < self.file_bytes_max => present,
            Some(full) => Out::next(&self.folder, full.number)?,
            None => Out::last(&self.folder)?,
        };
        // In one piece: another process may write to the same file.
        present.file.write_all(line)?;
        present.bytes += u64::try_from(line.len()).unwrap_or_default();
        *out = Some(present);
        Ok(())
    }

    /// Makes the next line open its file anew.
    #[cfg(test)]
    pub(super) fn close(&self) {
        *self.out() = None;
    }

    fn out(&self) -> MutexGuard<'_, Option<Out>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Out {
    fn open(folder: &Path, number: u64) -> io::Result<Self> {
        let path = path_of(folder, number);
        let options = File::options().append(true).read(true).mode(0o600).clone();
        let mut file = owner::open_file(&path, &options)?;
        let bytes = file.metadata()?.len();
        if bytes > 0 {
            // A crash may have cut the last line; the next must not be lost with it.
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(Self { file, number, bytes })
    }

    /// Goes on where the folder ends.
    fn last(folder: &Path) -> io::Result<Self> {
        Self::open(folder, numbers(folder)?.last().copied().unwrap_or(1))
    }

    /// Begins the next file, and takes the oldest away.
    fn next(folder: &Path, number: u64) -> io::Result<Self> {
        let out = Self::open(folder, number + 1)?;
        let numbers = numbers(folder)?;
        let excess = numbers.len().saturating_sub(FILES_MAX);
        for old in numbers.into_iter().take(excess) {
            fs::remove_file(path_of(folder, old))?;
        }
        Ok(out)
    }
}

pub(super) fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:08}.jsonl"))
}

/// The numbers of the files that there are.
pub(super) fn numbers(folder: &Path) -> io::Result<BTreeSet<u64>> {
    let mut numbers = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".jsonl"));
        numbers.extend(stem.and_then(|stem| stem.parse::<u64>().ok()));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(folder: &Path) -> Vec<String> {
        let files = numbers(folder).unwrap().into_iter();
        let texts = files.map(|number| fs::read_to_string(path_of(folder, number)).unwrap());
        texts.collect::<String>().lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_outlive_the_process_and_one_that_was_cut_harms_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Book::open(folder.path().into(), 1 << 20).unwrap();
        open().write(b"one\n").unwrap();
        let path = path_of(folder.path(), 1);
        fs::write(&path, "one\ntw").unwrap();
        open().write(b"three\n").unwrap();
        assert_eq!(lines(folder.path()), ["one", "tw", "three"]);
    }

    #[test]
    fn old_files_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let book = Book::open(folder.path().into(), 1).unwrap();
        for number in 0..FILES_MAX + 3 {
            book.write(format!("{number}\n").as_bytes()).unwrap();
        }
        let files = numbers(folder.path()).unwrap();
        assert_eq!(files.len(), FILES_MAX);
        assert!(!files.contains(&1));
        assert_eq!(lines(folder.path()).last(), Some(&(FILES_MAX + 2).to_string()));
    }

    #[test]
    fn writing_goes_on_when_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("audit");
        let book = Book::open(place.clone(), 1).unwrap();
        book.write(b"full\n").unwrap();
        fs::remove_dir_all(&place).unwrap();
        assert!(book.write(b"lost\n").is_err());
        fs::create_dir(&place).unwrap();
        book.write(b"found\n").unwrap();
        assert_eq!(lines(&place), ["found"]);
    }
}
