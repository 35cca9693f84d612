//! Notices new files in the plugins' directory, and lets them take over.
//!
//! A file counts when two looks at it find the same size, times and content: one that is being
//! copied does not. What is then no whole component, or not what may take over, is reported, and the
//! old one keeps serving. A change is noticed through the system, and by a look now and then where
//! that does not tell (file systems of a network).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use notify::{RecursiveMode, Watcher};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use super::{
    audit,
    backend::{Backend, BackendState, Shared},
    diff::PluginDiff,
    file::PluginFileError,
    loader::Plugin,
};
use crate::settings::Reload;

/// Between two looks at a file that has changed.
const SETTLE: Duration = Duration::from_millis(100);
/// Larger files than any limit allows.
const HASHED_BYTES_MAX: u64 = 1 << 30;
/// Between two looks where nobody tells of changes.
const PERIOD: Duration = Duration::from_secs(2);

/// Follows the files of `backends`' plugins until the backends are gone, or does nothing if the
/// settings say so.
pub(crate) fn follow(shared: &Arc<Shared>, backends: &[Arc<Backend>]) {
    if shared.settings.plugins.reload == Reload::Off {
        return;
    }
    let dir = shared.loader.dir().to_owned();
    let plugins: BTreeSet<String> =
        backends.iter().map(|backend| backend.settings.plugin.clone()).collect();
    let files = plugins.into_iter().map(|name| (name, File::default())).collect();
    let backends = backends.iter().map(Arc::downgrade).collect();
    let mut follower = Follower { shared: Arc::downgrade(shared), backends, dir, files };
    // What is there now is what the backends start with, or will be compared with that.
    follower.note_present();
    shared.engine.host_runtime().spawn(follower.run());
}

struct Follower {
    shared: Weak<Shared>,
    backends: Vec<Weak<Backend>>,
    dir: PathBuf,
    files: BTreeMap<String, File>,
}

/// What is known of one file.
#[derive(Default)]
struct File {
    /// How it looked when it was dealt with last; nothing when it was not there.
    settled: Option<Stamp>,
    /// How it looked at the last look, when it was not settled then.
    moving: Option<(Stamp, Option<[u8; 32]>)>,
}

/// How a file looks from the outside. What is no file counts as not there: opening a pipe would wait
/// for its other end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What a look at a file found.
enum Look {
    Unchanged,
    Moving,
    Settled,
    Removed,
}

impl Follower {
    async fn run(mut self) {
        let changed = Arc::new(Notify::new());
        // It lives as long as this does.
        let _watcher = self.watch(Arc::clone(&changed));
        let mut pause = PERIOD;
        loop {
            // Whichever comes first: both only mean to look again.
            let _ = tokio::time::timeout(pause, changed.notified()).await;
            let backends = self.living();
            let Some(shared) = self.shared.upgrade() else { return };
            if backends.is_empty() {
                return;
            }
            pause = PERIOD;
            let names: Vec<String> = self.files.keys().cloned().collect();
            for name in names {
                let path = self.dir.join(format!("{name}.wasm"));
                let file = self.files.entry(name.clone()).or_default();
                let using = backends.iter().filter(|backend| backend.settings.plugin == name);
                match look(file, path).await {
                    Look::Unchanged => {}
                    Look::Moving => pause = SETTLE,
                    Look::Settled => {
                        for backend in using {
                            offer(&shared, backend).await;
                        }
                    }
                    Look::Removed => tell_removed(&name, using),
                }
            }
        }
    }

    /// Those that are not stopped.
    fn living(&self) -> Vec<Arc<Backend>> {
        let backends = self.backends.iter().filter_map(Weak::upgrade);
        backends.filter(|backend| backend.state() != BackendState::Stopped).collect()
    }

    /// Asks the system to tell of changes.
    fn watch(&self, changed: Arc<Notify>) -> Option<notify::RecommendedWatcher> {
        let tell = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                changed.notify_one();
            }
        };
        let watching = notify::recommended_watcher(tell).and_then(|mut watcher| {
            watcher.watch(&self.dir, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watching {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                let dir = self.dir.display();
                tracing::warn!(%dir, %error, "new plugin files are noticed late");
                None
            }
        }
    }

    fn note_present(&mut self) {
        for (name, file) in &mut self.files {
            file.settled = stamp(&self.dir.join(format!("{name}.wasm"))).ok();
        }
    }
}

async fn look(file: &mut File, path: PathBuf) -> Look {
    let now = match stamp(&path) {
        Ok(now) => now,
        Err(_) if file.settled.take().is_some() => {
            file.moving = None;
            return Look::Removed;
        }
        Err(_) => {
            file.moving = None;
            return Look::Unchanged;
        }
    };
    if file.settled.as_ref() == Some(&now) {
        file.moving = None;
        return Look::Unchanged;
    }
    // What cannot be read is told when it is loaded, once it stays so.
    let hashed = tokio::task::spawn_blocking(move || hash(&path)).await;
    let seen = (now, hashed.ok().and_then(Result::ok));
    if file.moving.as_ref() == Some(&seen) {
        file.moving = None;
        file.settled = Some(seen.0);
        return Look::Settled;
    }
    file.moving = Some(seen);
    Look::Moving
}

/// Lets the file of a backend's plugin take over, if it may.
async fn offer(shared: &Arc<Shared>, backend: &Arc<Backend>) {
    let name = &backend.settings.plugin;
    let pin = shared.accepted.pin_of(&backend.name, &backend.settings);
    let plugin = match shared.loader.load(name, pin.as_deref()).await {
        Ok(plugin) => plugin,
        Err(error) => return refuse(backend, &error),
    };
    let running = backend.plugin();
    if running.as_ref().is_some_and(|running| running.info.sha256 == plugin.info.sha256) {
        if backend.want_nothing() {
            let backend = &*backend.name;
            tracing::info!(backend, "the new file was taken back before it took over");
        }
        return backend.remark(None);
    }
    if let Some(running) = &running
        && let Some(reason) = PluginDiff::between(&running.info, &plugin.info).needs_acceptance()
        && !shared.accepted.holds(name, &plugin.info.sha256)
    {
        let text = format!(
            "a new file waits: {reason}; look at it with `pintle plugin diff`, and let it take \
             over with `pintle plugin accept {name}`"
        );
        tracing::warn!(backend = &*backend.name, reason, "plugin not replaced");
        audit::refused("replace-plugin", &backend.name, &text);
        return backend.remark(Some(&text));
    }
    take_over(backend, &plugin);
}

/// Lets `plugin` take over from whatever runs.
pub(crate) fn take_over(backend: &Backend, plugin: &Arc<Plugin>) {
    let info = &plugin.info;
    let text = format!("{} {} with sha256 {}", info.name, info.version, info.sha256);
    tracing::info!(backend = &*backend.name, plugin = text, "a new file takes over");
    audit::done("replace-plugin", &backend.name, &text);
    backend.remark(None);
    backend.want(plugin);
}

fn refuse(backend: &Backend, error: &PluginFileError) {
    let name = &backend.settings.plugin;
    let remedy = match error {
        PluginFileError::Digest { .. } => {
            format!("; let it take over with `pintle plugin accept {name}`")
        }
        _ => String::new(),
    };
    let text = format!("a new file cannot take over: {error}{remedy}");
    tracing::error!(backend = &*backend.name, %error, "plugin not replaced");
    backend.remark(Some(&text));
}

fn tell_removed<'a>(name: &str, using: impl Iterator<Item = &'a Arc<Backend>>) {
    for backend in using {
        let text = format!(
            "its file {name}.wasm was removed; it runs on until the host ends, and does not start \
             again then"
        );
        tracing::warn!(backend = &*backend.name, plugin = name, "{text}");
        audit::done("remove-plugin", &backend.name, &text);
        backend.remark(Some(&text));
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(Stamp {
        inode: metadata.ino(),
        len: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// A digest of the content. What no limit lets be loaded is told apart by its size alone.
fn hash(path: &Path) -> io::Result<[u8; 32]> {
    let file = fs::File::open(path)?;
    if file.metadata()?.len() > HASHED_BYTES_MAX {
        return Ok([0; 32]);
    }
    let mut reader = io::BufReader::with_capacity(64 << 10, file);
    let mut hasher = Sha256::new();
    loop {
        let piece = io::BufRead::fill_buf(&mut reader)?;
        if piece.is_empty() {
            return Ok(hasher.finalize().into());
        }
        hasher.update(piece);
        let len = piece.len();
        io::BufRead::consume(&mut reader, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_counts_when_two_looks_find_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.wasm");
        let mut file = File::default();
        assert!(matches!(look(&mut file, path.clone()).await, Look::Unchanged));
        fs::write(&path, "half").unwrap();
        assert!(matches!(look(&mut file, path.clone()).await, Look::Moving));
        fs::write(&path, "half and half").unwrap();
        assert!(matches!(look(&mut file, path.clone()).await, Look::Moving));
        assert!(matches!(look(&mut file, path.clone()).await, Look::Settled));
        assert!(matches!(look(&mut file, path.clone()).await, Look::Unchanged));
        // Another file under the same name, moved there.
        fs::write(dir.path().join("y"), "half and half").unwrap();
        fs::rename(dir.path().join("y"), &path).unwrap();
        assert!(matches!(look(&mut file, path.clone()).await, Look::Moving));
        assert!(matches!(look(&mut file, path.clone()).await, Look::Settled));
        fs::remove_file(&path).unwrap();
        assert!(matches!(look(&mut file, path.clone()).await, Look::Removed));
        assert!(matches!(look(&mut file, path.clone()).await, Look::Unchanged));
        // What is no file is not waited for.
        fs::create_dir(&path).unwrap();
        assert!(matches!(look(&mut file, path.clone()).await, Look::Unchanged));
    }
}
