//! Compiled components on disk, so that a plugin is compiled once per machine.
//!
//! This is the one module with `unsafe`: wasmtime cannot check precompiled code, so loading it is
//! as trusted as running it. What makes it sound here: the directory and every file in it belong to
//! us and nobody else may write there (checked on each load), and a file is used only if it holds
//! the digest of its own content and is named after the exact component and engine.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use sha2::{Digest, Sha256};
use wasmtime::component::Component;

use super::{audit, compiler::Compiler};

/// A directory of compiled components.
pub(crate) struct CompiledCache {
    /// Without one, everything is compiled each time.
    dir: Option<PathBuf>,
    engine: wasmtime::Engine,
    compiler: Compiler,
}

/// Why a cached file was not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("its owner or its permissions let others write it")]
    Exposed,
    #[error("it is not what was compiled from this plugin by this engine")]
    Digest,
    #[error("wasmtime does not take it: {0}")]
    Refused(wasmtime::Error),
}

const DIGEST_LEN: usize = 32;
/// Files that are kept.
const FILES_MAX: usize = 128;

/// What a file was compiled from, and by what. It is part of the digest, so that one file cannot
/// stand in for another.
struct Origin<'a> {
    sha256: &'a str,
    engine: u64,
}

impl Origin<'_> {
    fn digest(&self, compiled: &[u8]) -> [u8; DIGEST_LEN] {
        let mut digest = Sha256::new();
        digest.update(self.sha256);
        digest.update(self.engine.to_be_bytes());
        digest.update(compiled);
        digest.finalize().into()
    }
}

impl CompiledCache {
    /// Uses `dir`, which is created for its owner only.
    ///
    /// # Errors
    ///
    /// Fails when the directory cannot be created or belongs to somebody else.
    pub(crate) fn open(dir: PathBuf, engine: wasmtime::Engine) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        if !is_ours(&fs::symlink_metadata(&dir)?) {
            let problem = format!("{}: others may write here", dir.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
        }
        Ok(Self { dir: Some(dir), engine, compiler: Compiler::Here })
    }

    /// Has what is not there compiled by `compiler`.
    pub(crate) fn compiled_by(self, compiler: Compiler) -> Self {
        Self { compiler, ..self }
    }

    /// Uses `dir` if it is there and ours, and creates nothing.
    pub(crate) fn if_present(dir: Option<PathBuf>, engine: wasmtime::Engine) -> Self {
        let usable = |dir: &PathBuf| {
            fs::symlink_metadata(dir).is_ok_and(|dir| dir.is_dir() && is_ours(&dir))
        };
        Self { dir: dir.filter(usable), engine, compiler: Compiler::Here }
    }

    /// The compiled form of `bytes`, from the cache or compiled now.
    ///
    /// # Errors
    ///
    /// Fails when `bytes` are no component that this engine takes. A cache that cannot be used is
    /// only logged.
    pub(crate) fn compile(&self, bytes: &[u8], sha256: &str) -> wasmtime::Result<Component> {
        let Some(dir) = &self.dir else { return Component::new(&self.engine, bytes) };
        let path = dir.join(format!("{sha256}-{:016x}.cwasm", self.engine_key()));
        let origin = Origin { sha256, engine: self.engine_key() };
        match self.load(&path, &origin) {
            Ok(component) => return Ok(component),
            Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(reason) => {
                tracing::warn!(file = %path.display(), %reason, "compiled plugin not used; compiling again");
                let file = path.display().to_string();
                audit::refused("load-compiled-plugin", &file, &reason.to_string());
            }
        }
        let compiled = self.compiler.compile(&self.engine, bytes)?;
        if let Err(error) = self.store(&path, &compiled, &origin) {
            tracing::warn!(file = %path.display(), %error, "compiled plugin not kept");
        }
        self.deserialize(&compiled)
    }

    fn load(&self, path: &Path, origin: &Origin<'_>) -> Result<Component, Unusable> {
        // Never follow a link: its target may be anybody's.
        if !is_ours(&fs::symlink_metadata(path)?) {
            return Err(Unusable::Exposed);
        }
        let content = fs::read(path)?;
        let (digest, compiled) = content.split_at_checked(DIGEST_LEN).ok_or(Unusable::Digest)?;
        if origin.digest(compiled) != digest {
            return Err(Unusable::Digest);
        }
        self.deserialize(compiled).map_err(Unusable::Refused)
    }

    fn store(&self, path: &Path, compiled: &[u8], origin: &Origin<'_>) -> io::Result<()> {
        // Another host may write the same file, and another task of this one.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let unfinished = path.with_extension(format!("{}-{number}.tmp", std::process::id()));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(&origin.digest(compiled))?;
        file.write_all(compiled)?;
        fs::rename(unfinished, path)?;
        self.prune()
    }

    /// Removes what was not written lately: each version of a plugin has a file of its own.
    fn prune(&self) -> io::Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let mut files = Vec::new();
        for file in fs::read_dir(dir)? {
            let file = file?;
            if file.path().extension().is_some_and(|extension| extension == "cwasm") {
                files.push((file.metadata()?.modified()?, file.path()));
            }
        }
        files.sort();
        let excess = files.len().saturating_sub(FILES_MAX);
        files.iter().take(excess).try_for_each(|(_, path)| fs::remove_file(path))
    }

    #[allow(unsafe_code, reason = "see the module's comment")]
    fn deserialize(&self, compiled: &[u8]) -> wasmtime::Result<Component> {
        // SAFETY: the bytes were produced by `precompile_component`: just now, or by a process of
        // this user, unchanged since (`load` checks owner, mode and digest).
        unsafe { Component::deserialize(&self.engine, compiled) }
    }

    /// Changes with wasmtime's version and every setting that shapes the code.
    fn engine_key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut hasher);
        hasher.finish()
    }
}

/// Whether nobody but this user may write it.
pub(super) fn is_ours(metadata: &fs::Metadata) -> bool {
    let writable_by_others = metadata.mode() & 0o022 != 0;
    !metadata.is_symlink()
        && metadata.uid() == rustix::process::geteuid().as_raw()
        && !writable_by_others
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const EMPTY_COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    fn cache() -> (tempfile::TempDir, CompiledCache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = CompiledCache::open(dir.path().join("c"), wasmtime::Engine::default()).unwrap();
        (dir, cache)
    }

    fn load(cache: &CompiledCache, path: &Path) -> Result<Component, Unusable> {
        cache.load(path, &Origin { sha256: "abc", engine: cache.engine_key() })
    }

    fn only_file(cache: &CompiledCache) -> PathBuf {
        let files: Vec<_> = fs::read_dir(cache.dir.as_ref().unwrap())
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }

    #[test]
    fn a_component_is_compiled_once_and_then_loaded() {
        let (_dir, cache) = cache();
        cache.compile(EMPTY_COMPONENT, "abc").unwrap();
        let path = only_file(&cache);
        load(&cache, &path).unwrap();
    }

    #[test]
    fn a_flipped_bit_is_noticed_and_the_file_made_anew() {
        let (_dir, cache) = cache();
        cache.compile(EMPTY_COMPONENT, "abc").unwrap();
        let path = only_file(&cache);
        let mut content = fs::read(&path).unwrap();
        *content.last_mut().unwrap() ^= 1;
        fs::write(&path, &content).unwrap();
        assert!(matches!(load(&cache, &path), Err(Unusable::Digest)));
        cache.compile(EMPTY_COMPONENT, "abc").unwrap();
        load(&cache, &path).unwrap();
    }

    #[test]
    fn a_file_that_was_made_of_another_plugin_or_by_another_engine_is_not_used() {
        let (_dir, cache) = cache();
        cache.compile(EMPTY_COMPONENT, "abd").unwrap();
        let foreign = only_file(&cache);
        let path = cache.dir.as_ref().unwrap().join("abc.cwasm");
        fs::rename(foreign, &path).unwrap();
        assert!(matches!(load(&cache, &path), Err(Unusable::Digest)));
        let stale = Origin { sha256: "abd", engine: !cache.engine_key() };
        assert!(matches!(cache.load(&path, &stale), Err(Unusable::Digest)));
    }

    #[test]
    fn a_file_that_others_may_write_is_not_used() {
        let (_dir, cache) = cache();
        cache.compile(EMPTY_COMPONENT, "abc").unwrap();
        let path = only_file(&cache);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(load(&cache, &path), Err(Unusable::Exposed)));
    }

    #[test]
    fn a_link_is_not_followed() {
        let (dir, cache) = cache();
        cache.compile(EMPTY_COMPONENT, "abc").unwrap();
        let path = only_file(&cache);
        let elsewhere = dir.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(matches!(load(&cache, &path), Err(Unusable::Exposed)));
    }

    #[test]
    fn a_directory_that_others_may_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let opened = CompiledCache::open(dir.path().to_owned(), wasmtime::Engine::default());
        assert!(opened.is_err());
    }
}
