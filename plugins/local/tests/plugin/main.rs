//! The plugin, as a host sees it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod config;
mod lifecycle;
mod lock;
mod recovery;
mod registry;
mod tracing;

use pintle_plugin_local::store::Directory;
use pintle_plugin_local::{Local, set_native_storage};
use pintle_plugin_sdk::config::{
    Consistency, Event, Expectation, PutOutcome, ReadOptions, Target, WatchRequest,
};
use pintle_plugin_sdk::lock::{AcquireRequest, Mode};
use pintle_plugin_sdk::registry::RegisterRequest;
use pintle_plugin_sdk::testing::{
    AcquireOutcome, GrantedLease, Host, PutRequest, StartOptions, checkpoint, instance, run,
};
use tempfile::TempDir;

pub(crate) const TTL_MS: u32 = 9_000;

/// One data directory, and the incarnations that come and go on it.
pub(crate) struct Node {
    directory: TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// Runs an incarnation that knows nothing of the one before, as after a crash of the host. What
    /// is not stopped inside ends as by a crash.
    pub(crate) fn fresh<T>(&self, test: impl AsyncFnOnce(Host<Local>) -> T) -> T {
        self.start(StartOptions::default(), test)
    }

    /// Runs an incarnation that has its predecessor's checkpoint, as after a trap.
    pub(crate) fn resumed<T>(&self, test: impl AsyncFnOnce(Host<Local>) -> T) -> T {
        let resume = checkpoint();
        assert!(resume.is_some(), "the predecessor wrote no checkpoint");
        self.start(StartOptions { resume, ..StartOptions::default() }, test)
    }

    pub(crate) fn start<T>(
        &self,
        options: StartOptions,
        test: impl AsyncFnOnce(Host<Local>) -> T,
    ) -> T {
        let path = self.path().to_owned();
        set_native_storage(move || Box::new(Directory::new(&path)));
        run(async move { test(Host::start(options).await.unwrap()).await })
    }
}

pub(crate) fn read() -> ReadOptions {
    ReadOptions { consistency: Consistency::Linearizable, at: None, selectors: Vec::new() }
}

pub(crate) fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: key.to_owned(),
        value: value.as_bytes().to_vec(),
        content_type: None,
        expect: Expectation::Anything,
        held: None,
        previous: false,
        selectors: Vec::new(),
    }
}

pub(crate) fn version(outcome: PutOutcome) -> String {
    match outcome {
        PutOutcome::Stored(stored) => stored.version,
        other => panic!("not stored: {other:?}"),
    }
}

pub(crate) fn below(prefix: &str) -> WatchRequest {
    WatchRequest {
        target: Target::Prefix(prefix.to_owned()),
        from_version: None,
        previous: false,
        selectors: Vec::new(),
    }
}

pub(crate) fn exclusive(name: &str, wait_ms: u32) -> AcquireRequest {
    AcquireRequest {
        name: name.to_owned(),
        mode: Mode::Exclusive,
        ttl_ms: TTL_MS,
        wait_ms,
        owner: "test".to_owned(),
    }
}

pub(crate) fn held(outcome: AcquireOutcome) -> GrantedLease {
    match outcome {
        AcquireOutcome::Held(lease) => lease,
        AcquireOutcome::Busy(holders) => panic!("held by {holders:?}"),
    }
}

pub(crate) fn registration(id: &str) -> RegisterRequest {
    RegisterRequest { instance: instance("shop", id), ttl_ms: TTL_MS }
}

/// Events in short: `begin`, `put a/b=v`, `removed a/b`, `end 7` …
pub(crate) fn short(events: &[(u64, Event)]) -> Vec<String> {
    let text = |event: &Event| match event {
        Event::SnapshotBegin => "begin".to_owned(),
        Event::Put(put) => {
            format!("put {}={}", put.entry.key, String::from_utf8_lossy(&put.entry.value))
        }
        Event::Removed(removed) => format!("removed {}", removed.key),
        Event::SnapshotEnd(version) => format!("end {}", version.clone().unwrap_or_default()),
        Event::Resync(_) => "resync".to_owned(),
        Event::Progress(version) => format!("progress {}", version.clone().unwrap_or_default()),
        Event::Ended(error) => format!("ended {}", error.code),
    };
    events.iter().map(|(_, event)| text(event)).collect()
}
