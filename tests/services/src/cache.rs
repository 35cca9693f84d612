//! A folder outside `target/` for what is slow to get, safe when two processes want it at once.
//!
//! It is `$XDG_CACHE_HOME/pintle`, or `~/.cache/pintle`. An entry is made in a partial folder and
//! renamed when it is whole, under an advisory lock of its own: whoever comes second waits, then
//! finds it. Entries are never changed afterwards; deleting the cache is always safe.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// The cache's root folder; it need not exist yet.
pub fn root() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    base.join("pintle")
}

/// The entry `name` (for example `servers/etcd-3.5`), if it is there already.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = root().join(name);
    path.is_dir().then_some(path)
}

/// Gives the entry `name`; where it is missing, `make` fills an empty folder that becomes it.
///
/// # Errors
/// Those of `make`, and of the file system; a failed attempt leaves nothing behind.
pub fn provide<E: From<Error>>(
    name: &str,
    make: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<PathBuf, E> {
    provide_in(&root(), name, make)
}

/// Prints one line of progress about something slow, to standard error.
pub fn progress(text: &str) {
    eprintln!("    {text}");
}

/// Runs a helper program to its end and gives what it printed to standard output.
///
/// # Errors
/// [`Error::Program`] with `remedy` when it cannot be started, [`Error::Command`] when it fails.
pub fn run(command: &mut Command, remedy: &'static str) -> Result<String> {
    let output = command.output().map_err(|source| Error::Program {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
        remedy,
    })?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(Error::Command {
        command: describe(command),
        status: output.status,
        output: last_lines(&format!("{printed}{errors}"), 30),
    })
}

/// The last `count` lines of a text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(count);
    lines.get(first..).unwrap_or_default().join("\n")
}

fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

fn provide_in<E: From<Error>>(
    root: &Path,
    name: &str,
    make: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<PathBuf, E> {
    let entry = root.join(name);
    if entry.is_dir() {
        return Ok(entry);
    }
    let _lock = lock(&beside(&entry, ".lock"), name)?;
    if entry.is_dir() {
        return Ok(entry);
    }
    let partial = beside(&entry, ".partial");
    // Left behind by a process that was killed: the lock shows that nobody works on it.
    remove(&partial)?;
    fs::create_dir_all(&partial).map_err(Error::file("create", &partial))?;
    if let Err(error) = make(&partial) {
        remove(&partial)?;
        return Err(error);
    }
    fs::rename(&partial, &entry).map_err(Error::file("rename to", &entry))?;
    Ok(entry)
}

fn beside(entry: &Path, suffix: &str) -> PathBuf {
    let mut name = entry.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn lock(path: &Path, name: &str) -> Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
    }
    let file = File::create(path).map_err(Error::file("create", path))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {
            progress(&format!("{name}: another process is getting it; waiting for that"));
        }
        Err(TryLockError::Error(source)) => return Err(Error::file("lock", path)(source)),
    }
    file.lock().map_err(Error::file("lock", path))?;
    Ok(file)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

/// The SHA-256 of a text, in hexadecimal digits.
pub fn digest_of_text(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn make_one(folder: &Path) -> Result<()> {
        fs::write(folder.join("file"), "whole").map_err(Error::file("write", folder))
    }

    #[test]
    fn an_entry_is_made_once_and_found_afterwards() {
        let root = tempfile::tempdir().unwrap();
        let made = AtomicUsize::new(0);
        for _ in 0..2 {
            let entry = provide_in(root.path(), "a/b", |folder| {
                made.fetch_add(1, Ordering::Relaxed);
                make_one(folder)
            })
            .unwrap();
            assert_eq!(fs::read_to_string(entry.join("file")).unwrap(), "whole");
        }
        assert_eq!(made.into_inner(), 1);
    }

    #[test]
    fn many_at_once_make_an_entry_once() {
        let root = tempfile::tempdir().unwrap();
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let entry = provide_in(root.path(), "one", |folder| {
                        made.fetch_add(1, Ordering::Relaxed);
                        make_one(folder)
                    })
                    .unwrap();
                    assert!(entry.join("file").is_file());
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }

    #[test]
    fn a_failed_attempt_leaves_no_entry_and_the_next_one_works() {
        let root = tempfile::tempdir().unwrap();
        let failed = provide_in(root.path(), "x", |folder| {
            make_one(folder)?;
            Err(Error::NoPort { first: 1, last: 2 })
        });
        assert!(matches!(failed, Err(Error::NoPort { .. })));
        assert!(!root.path().join("x").exists());
        assert!(!root.path().join("x.partial").exists());
        assert!(provide_in(root.path(), "x", make_one).is_ok());
    }

    #[test]
    fn a_partial_entry_of_a_killed_process_is_not_used() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("x.partial")).unwrap();
        fs::write(root.path().join("x.partial/half"), "").unwrap();
        let entry = provide_in(root.path(), "x", make_one).unwrap();
        assert!(!entry.join("half").exists());
    }
}
