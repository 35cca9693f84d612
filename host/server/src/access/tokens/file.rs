//! The file of the access tokens.
//!
//! Several processes may change it: the server, and commands where no server runs. Each takes the
//! lock beside it, reads it again, and puts another file in its place. Readers need no lock.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use pintle_api::access::Token;
use pintle_otlp::text::{from_hex, hex};
use serde::{Deserialize, Serialize};

use super::{Hash, TokensError};
use crate::owner;

/// Form of the file.
const FORMAT: u32 = 1;

/// The file of one data folder.
#[derive(Debug)]
pub(super) struct TokensFile {
    path: PathBuf,
}

/// Tells one content of the file from the next, without reading it: each comes in a file of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    changed: (i64, i64),
    bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    tokens: Vec<Stored>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    token: Token,
    /// Of the secret, in hexadecimal digits.
    sha256: String,
}

impl TokensFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// How the file looks; nothing where it is not there.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        let metadata = fs::metadata(&self.path).ok()?;
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Some(Stamp { inode: metadata.ino(), changed, bytes: metadata.len() })
    }

    /// The tokens in it; nothing where it is not there.
    pub(super) fn read(&self) -> Result<Option<Vec<(Token, Hash)>>, TokensError> {
        let text = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| self.failed(error.to_string()))?,
        };
        let metadata = fs::metadata(&self.path).map_err(|error| self.failed(error.to_string()))?;
        if metadata.mode() & 0o022 != 0 {
            let text = "others may write this file, and so let themselves in: chmod 600 it";
            return Err(self.failed(text.into()));
        }
        parse(&text).map(Some).map_err(|reason| self.failed(reason))
    }

    /// Keeps other processes from changing it until the answer is dropped.
    pub(super) fn lock(&self) -> io::Result<File> {
        owner::create_folder(self.folder())?;
        let options = File::options().write(true).mode(0o600).clone();
        let lock = owner::open_file(&self.path.with_extension("lock"), &options)?;
        lock.lock()?;
        Ok(lock)
    }

    /// Writes it, as a whole or not at all, readable by its owner only. Only under the lock.
    pub(super) fn write<'a>(
        &self,
        tokens: impl Iterator<Item = (&'a Token, &'a Hash)>,
    ) -> io::Result<()> {
        let stored = tokens.map(|(token, hash)| Stored { token: token.clone(), sha256: hex(hash) });
        let content = Content { format: FORMAT, tokens: stored.collect() };
        let text = serde_json::to_vec_pretty(&content)?;
        let draft = self.path.with_extension("json.new");
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut out = owner::create_file(&draft, &File::options().write(true).mode(0o600).clone())?;
        out.write_all(&text)?;
        out.sync_all()?;
        fs::rename(&draft, &self.path)?;
        File::open(self.folder())?.sync_all()
    }

    /// What is wrong, with the place.
    pub(super) fn failed(&self, reason: String) -> TokensError {
        TokensError { path: self.path.clone(), reason }
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }
}

fn parse(text: &[u8]) -> Result<Vec<(Token, Hash)>, String> {
    let content: Content = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if content.format != FORMAT {
        return Err(format!("form {} is not known to this version", content.format));
    }
    let live = |stored: Stored| {
        let hash = from_hex(&stored.sha256).ok_or("`sha256` has to be 64 digits")?;
        Ok((stored.token, hash))
    };
    content.tokens.into_iter().map(live).collect::<Result<_, &str>>().map_err(str::to_owned)
}
