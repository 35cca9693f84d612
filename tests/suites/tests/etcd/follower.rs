//! Follows a watch in the background, and keeps all that it delivered.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use pintle::config::{Target, Watch, WatchEvent};
use pintle_test_history::{
    Change, Opening, Promise, Report, Seen, Target as CheckedTarget, Watcher, Written, check_watch,
};
use pintle_test_suites::DEADLINE;
use tokio::{sync::watch, task::JoinHandle};

use crate::stage::Node;

/// A watch, everything that it delivered, and the state that this adds up to.
pub(crate) struct Follower {
    name: String,
    target: Target,
    shared: Arc<Mutex<Followed>>,
    changed: watch::Receiver<()>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Followed {
    pub(crate) events: Vec<WatchEvent>,
    /// Key and value of what is there.
    pub(crate) state: BTreeMap<String, String>,
    pub(crate) resyncs: Vec<String>,
    /// Why it ended.
    pub(crate) ended: Option<String>,
    has_snapshot: bool,
}

impl Follower {
    /// Opens a watch and waits for its snapshot.
    pub(crate) async fn open(node: &Node, name: &str, target: Target) -> Result<Self> {
        let follower = Self::begin(node, name, target).await?;
        follower.until("the snapshot", |followed| followed.has_snapshot).await?;
        Ok(follower)
    }

    /// Opens a watch.
    pub(crate) async fn begin(node: &Node, name: &str, target: Target) -> Result<Self> {
        let watch = node.config.watch(target.clone()).await?;
        let shared = Arc::<Mutex<Followed>>::default();
        let (sender, changed) = watch::channel(());
        let task = tokio::spawn(follow(watch, Arc::clone(&shared), sender));
        Ok(Self { name: name.into(), target, shared, changed, task })
    }

    /// What was delivered so far.
    pub(crate) fn now(&self) -> Followed {
        lock(&self.shared).clone()
    }

    /// Waits until what was delivered is as `holds` wants it.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Followed) -> bool) -> Result<()> {
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
            "{}: {what}: not within {} s; {followed:?}",
            self.name,
            DEADLINE.as_secs()
        );
        Ok(())
    }

    /// Waits until the state is this one.
    pub(crate) async fn until_state(&self, wanted: &BTreeMap<String, String>) -> Result<()> {
        self.until("the final state", |followed| followed.state == *wanted).await
    }

    /// Checks everything against what was written, each change once where there was no resync.
    pub(crate) fn check(&self, written: &Written, resyncs_max: usize) -> Report {
        let followed = self.now();
        // After a resync the library delivers the differences only, without saying where they end:
        // from then on they cannot be told from changes.
        let promise =
            if followed.resyncs.is_empty() { Promise::EveryChange } else { Promise::FinalState };
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

/// Every check of a watch is clean.
pub(crate) fn check_all(followers: &[Follower], written: &Written, resyncs_max: usize) {
    let mut report = Report::default();
    for follower in followers {
        report.absorb(follower.check(written, resyncs_max));
    }
    assert!(report.checked > 0 && report.is_clean(), "{report}");
}

/// What was written, key by key, and the state that it leads to.
#[derive(Debug, Default, Clone)]
pub(crate) struct Record {
    pub(crate) written: Written,
    pub(crate) state: BTreeMap<String, String>,
}

impl Record {
    /// A write that was acknowledged. Of one key they come in their order.
    pub(crate) fn put(&mut self, key: &str, value: &str) {
        self.written.push(key, Change::put(value, None));
        self.state.insert(key.into(), value.into());
    }

    /// A removal that was acknowledged.
    pub(crate) fn removed(&mut self, key: &str) {
        self.written.push(key, Change::removal(None));
        self.state.remove(key);
    }
}

/// The text of an event's value.
pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// The next event of a watch.
pub(crate) async fn next_event(watch: &mut Watch) -> Result<WatchEvent> {
    let next = pintle_test_suites::within("an event", watch.next()).await?;
    Ok(next.context("the watch ended")??)
}

/// Reads a snapshot to its end; its keys and values.
pub(crate) async fn snapshot(watch: &mut Watch) -> Result<BTreeMap<String, String>> {
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
