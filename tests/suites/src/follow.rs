//! Follows a watch in the background, and keeps all that it delivered.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use pintle::config::{Config, Target, Watch, WatchEvent};
use pintle_test_history::{
    Change, Opening, Promise, Report, Seen, Target as CheckedTarget, Watcher, Written, check_watch,
};
use tokio::{sync::watch, task::JoinHandle};

use crate::{DEADLINE, within};

/// A watch, everything that it delivered, and the state that this adds up to.
pub struct Follower {
    name: String,
    target: Target,
    shared: Arc<Mutex<Followed>>,
    changed: watch::Receiver<()>,
    task: JoinHandle<()>,
}

/// What a watch delivered so far.
#[derive(Debug, Default, Clone)]
pub struct Followed {
    /// Everything, in its order.
    pub events: Vec<WatchEvent>,
    /// Key and value of what is there.
    pub state: BTreeMap<String, String>,
    /// The reason of each resync.
    pub resyncs: Vec<String>,
    /// Why it ended.
    pub ended: Option<String>,
    has_snapshot: bool,
}

impl Follower {
    /// Opens a watch and waits for its snapshot.
    ///
    /// # Errors
    ///
    /// Fails when there is none in time.
    pub async fn open(config: &Config, name: &str, target: Target) -> Result<Self> {
        let follower = Self::begin(config, name, target).await?;
        follower.until("the snapshot", |followed| followed.has_snapshot).await?;
        Ok(follower)
    }

    /// Opens a watch.
    ///
    /// # Errors
    ///
    /// As [`Config::watch`].
    pub async fn begin(config: &Config, name: &str, target: Target) -> Result<Self> {
        let watch = config.watch(target.clone()).await?;
        let shared = Arc::<Mutex<Followed>>::default();
        let (sender, changed) = watch::channel(());
        let task = tokio::spawn(follow(watch, Arc::clone(&shared), sender));
        Ok(Self { name: name.into(), target, shared, changed, task })
    }

    /// What was delivered so far.
    #[must_use]
    pub fn now(&self) -> Followed {
        lock(&self.shared).clone()
    }

    /// Waits until what was delivered is as `holds` wants it.
    ///
    /// # Errors
    ///
    /// Fails when it is not in time, with what was delivered.
    pub async fn until(&self, what: &str, holds: impl Fn(&Followed) -> bool) -> Result<()> {
        let mut changed = self.changed.clone();
        let waiting = async {
            while !holds(&lock(&self.shared)) {
                // It ends with the watch; nothing more comes then.
                if changed.changed().await.is_err() {
                    break;
                }
            }
        };
        let waited = tokio::time::timeout(DEADLINE, waiting).await;
        let followed = self.now();
        ensure!(
            waited.is_ok() && holds(&followed),
            "{}: {what}: not within {} s; so far {} events, {} keys, resyncs {:?}, ended: {:?}",
            self.name,
            DEADLINE.as_secs(),
            followed.events.len(),
            followed.state.len(),
            followed.resyncs,
            followed.ended
        );
        Ok(())
    }

    /// Waits until the state is this one.
    ///
    /// # Errors
    ///
    /// As [`until`](Self::until).
    pub async fn until_state(&self, wanted: &BTreeMap<String, String>) -> Result<()> {
        self.until("the final state", |followed| followed.state == *wanted).await
    }

    /// Checks everything against what was written, each change once where there was no resync.
    pub fn check(&self, written: &Written, resyncs_max: usize) -> Report {
        self.check_for(Promise::EveryChange, written, resyncs_max)
    }

    /// The same for a backend whose watches promise this.
    pub fn check_for(&self, promise: Promise, written: &Written, resyncs_max: usize) -> Report {
        let followed = self.now();
        // After a resync the library delivers the differences only, without saying where they end:
        // from then on they cannot be told from changes.
        let promise = if followed.resyncs.is_empty() { promise } else { Promise::FinalState };
        let mut seen: Vec<Seen> = followed.events.iter().filter_map(seen).collect();
        seen.extend(followed.ended.clone().map(Seen::Ended));
        let watcher = Watcher {
            name: self.name.clone(),
            target: match &self.target {
                Target::Key(key) => CheckedTarget::Key(key.clone()),
                Target::Prefix(prefix) => CheckedTarget::Prefix(prefix.clone()),
            },
            opening: Opening::Snapshot,
            promise,
            resyncs_max: None,
            seen,
        };
        let mut report = check_watch(written, &watcher);
        if followed.resyncs.len() > resyncs_max {
            let count = followed.resyncs.len();
            report.undecided.push(format!(
                "{}: {count} resyncs, {resyncs_max} are explained: {:?}",
                self.name, followed.resyncs
            ));
        }
        report
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Checks all of them; see [`Follower::check`].
///
/// # Panics
///
/// When something is wrong.
pub fn check_all(followers: &[Follower], written: &Written, resyncs_max: usize) {
    let mut report = Report::default();
    for follower in followers {
        report.absorb(follower.check(written, resyncs_max));
    }
    assert!(report.checked > 0 && report.is_clean(), "{report}");
}

/// What was written, key by key, and the state that it leads to.
#[derive(Debug, Default, Clone)]
pub struct Record {
    /// The changes of each key.
    pub written: Written,
    /// Key and value of what is there.
    pub state: BTreeMap<String, String>,
}

impl Record {
    /// A write that was acknowledged. Of one key they come in their order.
    pub fn put(&mut self, key: &str, value: &str) {
        self.written.push(key, Change::put(value, None));
        self.state.insert(key.into(), value.into());
    }

    /// A removal that was acknowledged.
    pub fn removed(&mut self, key: &str) {
        self.written.push(key, Change::removal(None));
        self.state.remove(key);
    }
}

/// The text of an event's value.
#[must_use]
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// The next event of a watch.
///
/// # Errors
///
/// Fails when none comes in time, or the watch has ended.
pub async fn next_event(watch: &mut Watch) -> Result<WatchEvent> {
    let next = within("an event", watch.next()).await?;
    Ok(next.context("the watch ended")??)
}

/// Reads a snapshot to its end; its keys and values.
///
/// # Errors
///
/// Fails when something else comes.
pub async fn snapshot(watch: &mut Watch) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let first = next_event(watch).await?;
    ensure!(first == WatchEvent::SnapshotBegin, "a snapshot begins with {first:?}");
    loop {
        match next_event(watch).await? {
            WatchEvent::Put { entry, .. } => {
                found.insert(entry.key.to_string(), text(&entry.value));
            }
            WatchEvent::SnapshotEnd => return Ok(found),
            other => anyhow::bail!("{other:?} in a snapshot"),
        }
    }
}

async fn follow(mut watch: Watch, shared: Arc<Mutex<Followed>>, changed: watch::Sender<()>) {
    while let Some(next) = watch.next().await {
        lock(&shared).take(next);
        changed.send_replace(());
    }
}

impl Followed {
    fn take(&mut self, next: Result<WatchEvent, pintle::Error>) {
        let event = match next {
            Ok(event) => event,
            Err(error) => {
                self.ended = Some(error.to_string());
                return;
            }
        };
        match &event {
            WatchEvent::SnapshotBegin => self.state.clear(),
            WatchEvent::SnapshotEnd => self.has_snapshot = true,
            WatchEvent::Put { entry, .. } => {
                self.state.insert(entry.key.to_string(), text(&entry.value));
            }
            WatchEvent::Removed { key, .. } => {
                self.state.remove(&**key);
            }
            WatchEvent::Resync(reason) => self.resyncs.push(reason.to_string()),
        }
        self.events.push(event);
    }
}

fn seen(event: &WatchEvent) -> Option<Seen> {
    Some(match event {
        WatchEvent::SnapshotBegin => Seen::SnapshotBegin,
        WatchEvent::SnapshotEnd => Seen::SnapshotEnd,
        WatchEvent::Put { entry, .. } => {
            Seen::Put { key: entry.key.to_string(), value: text(&entry.value), version: None }
        }
        WatchEvent::Removed { key, .. } => Seen::Removed { key: key.to_string(), version: None },
        WatchEvent::Resync(_) => return None,
    })
}

fn lock(shared: &Mutex<Followed>) -> MutexGuard<'_, Followed> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
