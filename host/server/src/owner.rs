//! Whose the files in the data folder are.
//!
//! The superuser may run a command on the data folder of a service. What that command makes there
//! has to belong to the service, or the service could not use it. Only what was made just now is
//! given away: what is there already may be a link to something else.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, fchown, lchown},
    path::Path,
};

const SUPERUSER: u32 = 0;

/// Creates a folder, and those above it. What the superuser makes belongs to the owner of the place.
pub(crate) fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = parent(folder);
    create_folder(above)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => {
            made?;
            match heir(&fs::symlink_metadata(folder)?, above)? {
                Some((uid, gid)) => lchown(folder, Some(uid), Some(gid)),
                None => Ok(()),
            }
        }
    }
}

/// Creates a file that is not there. What the superuser makes belongs to the owner of its folder.
pub(crate) fn create_file(path: &Path, options: &OpenOptions) -> io::Result<File> {
    let file = options.clone().create_new(true).open(path)?;
    if let Some((uid, gid)) = heir(&file.metadata()?, parent(path))? {
        fchown(&file, Some(uid), Some(gid))?;
    }
    Ok(file)
}

/// Opens a file, and creates it where it is not there.
pub(crate) fn open_file(path: &Path, options: &OpenOptions) -> io::Result<File> {
    match create_file(path, options) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path),
        made => made,
    }
}

/// To whom goes what was made in a folder, if not to its maker.
fn heir(made: &fs::Metadata, folder: &Path) -> io::Result<Option<(u32, u32)>> {
    if made.uid() != SUPERUSER {
        return Ok(None);
    }
    let folder = fs::metadata(folder)?;
    Ok((folder.uid() != SUPERUSER).then(|| (folder.uid(), folder.gid())))
}

fn parent(path: &Path) -> &Path {
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    above.unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::chown;

    #[test]
    fn what_the_superuser_makes_belongs_to_the_owner_of_the_folder() {
        const SERVICE: u32 = 12_345;
        let folder = tempfile::tempdir().unwrap();
        let options = File::options().append(true).clone();
        let before = folder.path().join("before");
        open_file(&before, &options).unwrap();
        if chown(folder.path(), Some(SERVICE), Some(SERVICE)).is_err() {
            // Only the superuser can be tried.
            return;
        }
        let below = folder.path().join("a/b");
        create_folder(&below).unwrap();
        let file = below.join("c");
        open_file(&file, &options).unwrap();
        for made in [folder.path().join("a"), below, file] {
            assert_eq!(fs::metadata(&made).unwrap().uid(), SERVICE, "{}", made.display());
        }
        open_file(&before, &options).unwrap();
        assert_eq!(fs::metadata(&before).unwrap().uid(), SUPERUSER, "it was not made here");
    }
}
