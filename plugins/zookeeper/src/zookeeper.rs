//! The plugin: what it offers, how it starts and stops, how it is, and what its parts share.

use crate::legacy::Legacy;
use crate::limits::Budget;
use crate::lock::Identities;
use crate::path::{Paths, ancestors};
use crate::registry::Kept;
use crate::session::{Client, Common, Dial, Failure, Pool, Session, SessionKey, Standing};
use crate::settings::{ExclusiveClaims, Settings};
use crate::wire::{Acl, Create, CreateMode, ErrorCode, Stat};
use futures::future::join_all;
use pintle_plugin_sdk::backoff::Backoff;
use pintle_plugin_sdk::connection::Connection;
use pintle_plugin_sdk::time::Instant;
use pintle_plugin_sdk::{
    Context, Description, Endpoint, Error, Feature, Health, Plugin, Start, spawn,
};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// How long connecting to one address may take; a session's own limit is often shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a read is tried again on another connection.
const READ_ATTEMPTS: u32 = 3;
/// How often a node is created again whose parent was gone by then.
const CREATE_ATTEMPTS: u32 = 8;
/// Bytes of an answer beside the value that it brings.
const ANSWER_SLACK_BYTES: usize = 4 << 10;
/// How long closing one session may take, when the plugin stops or after a predecessor.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The first pause after a session of a predecessor could not be closed.
const CLOSE_PAUSE: Duration = Duration::from_millis(500);

/// ZooKeeper as a backend.
pub struct ZooKeeper {
    pub(crate) paths: Paths,
    pub(crate) acl: Vec<Acl>,
    pub(crate) exclusive_claims: ExclusiveClaims,
    /// For configuration, for reads and for watches.
    pub(crate) main: Session,
    pub(crate) lock_sessions: Rc<Pool>,
    pub(crate) registry_sessions: Rc<Pool>,
    pub(crate) common: Common,
    /// Names this host and backend as an owner.
    pub(crate) owner: String,
    pub(crate) identities: Identities,
    pub(crate) kept: Kept,
    pub(crate) counters: Counters,
    pub(crate) started: Instant,
}

/// What is counted since the start.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) resyncs: Cell<u64>,
    pub(crate) unreadable: Cell<u64>,
}

/// How servers are connected to: through the host, but for tests, which bring their own.
fn dial() -> Dial {
    #[cfg(test)]
    if let Some(dial) = crate::ensemble::dial() {
        return dial;
    }
    Rc::new(|endpoint: Endpoint| {
        Box::pin(async move { Ok(Connection::open(&endpoint, CONNECT_TIMEOUT).await?) })
    })
}

fn as_bytes(setting: u32) -> usize {
    usize::try_from(setting).unwrap_or(usize::MAX)
}

/// Adds one to a counter.
pub(crate) fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

impl Plugin for ZooKeeper {
    type Settings = Settings;

    fn description() -> Description {
        let summary = "Configuration, registry and locks in Apache ZooKeeper";
        Description::new(env!("CARGO_PKG_VERSION"), summary).features([
            Feature::ConfigCas,
            Feature::ConfigVersionUnique,
            Feature::ConfigTxn,
            Feature::ConfigHeld,
            Feature::ConfigLinearizable,
            Feature::WatchPrevious,
            Feature::RegistryPersistent,
            Feature::RegistryOverride,
            Feature::LockShared,
            Feature::LockPermits,
            Feature::LockWaiters,
            Feature::LockForceRelease,
            Feature::LockWatch,
        ])
    }

    async fn start(_: &Context, start: Start<Settings>) -> Result<Rc<Self>, Error> {
        let settings = &start.settings;
        let common = Common {
            endpoints: start.endpoints.clone(),
            dial: dial(),
            digest: settings.digest()?,
            request_bytes_max: as_bytes(settings.request_bytes_max),
            // A value as large as a request may be has to come back.
            answer_bytes_max: as_bytes(settings.answer_bytes_max)
                .max(as_bytes(settings.request_bytes_max).saturating_add(ANSWER_SLACK_BYTES)),
            newest_zxid: Rc::default(),
            traffic: Default::default(),
            tally: Rc::default(),
            expirations: Rc::default(),
            watched: Budget::new(as_bytes(settings.watched_bytes_max)),
            reads_nodes_alone: Rc::default(),
        };
        let paths = Paths::new(settings.root()?);
        let acl = settings.acl()?;
        let (adopted, orphaned) = Legacy::resumed(start.resume.as_deref()).into_keys(paths.root());
        let keeper = Rc::new(Keeper::new(paths.root(), &orphaned));
        let keep: Rc<dyn Fn()> = {
            let keeper = Rc::clone(&keeper);
            Rc::new(move || keeper.keep())
        };
        let lock_sessions = Rc::new(Pool::new(common.clone(), "lock", Rc::clone(&keep)));
        let registry_sessions = Rc::new(Pool::new(common.clone(), "registry", keep));
        keeper.pools.replace(Some((Rc::clone(&registry_sessions), Rc::clone(&lock_sessions))));
        let session_timeout = Duration::from_millis(settings.session_timeout_ms.into());
        let main = Session::start(common.clone(), "main", session_timeout, None, || {})?;
        if !orphaned.is_empty() {
            spawn(close_orphaned(common.clone(), orphaned, Rc::clone(&keeper))).detach();
        }
        let plugin = Rc::new(Self {
            paths,
            acl,
            exclusive_claims: settings.exclusive_claims,
            main,
            lock_sessions,
            registry_sessions,
            common,
            owner: format!("{}/{}", start.node, start.backend),
            identities: Identities::new(settings.epoch),
            kept: Kept::default(),
            counters: Counters::default(),
            started: Instant::now(),
        });
        for key in adopted {
            let session = plugin.registry_sessions.resume(key)?;
            spawn(Rc::clone(&plugin).reap_unclaimed(session)).detach();
        }
        Ok(plugin)
    }

    fn health(&self) -> Health {
        let (locks, registries) =
            (self.lock_sessions.standings(), self.registry_sessions.standings());
        let down = locks.down() + registries.down();
        let (health, session) = match self.main.standing() {
            Standing::Connected(endpoint) if down == 0 => {
                (Health::serving(format!("connected to {endpoint}")), "connected")
            }
            Standing::Connected(endpoint) => {
                let message = format!(
                    "connected to {endpoint}, but {down} sessions of locks or registrations are not"
                );
                (Health::degraded(message), "connected")
            }
            Standing::Suspended(why) => (Health::unavailable(why), "suspended"),
            Standing::Expired(why) => (Health::unavailable(why), "expired"),
            Standing::Absent(why) => (Health::unavailable(why), "connecting"),
        };
        let reconnects = [&self.lock_sessions, &self.registry_sessions]
            .iter()
            .flat_map(|pool| pool.all())
            .map(|session| session.reconnects())
            .sum::<u64>();
        let mut health = health
            .detail("session", session)
            .detail("lock-sessions", locks.to_string())
            .detail("registry-sessions", registries.to_string())
            .detail("transaction", format!("{:#x}", self.common.newest_zxid.get()))
            .counter("operations", self.common.tally.operations())
            .counter("reconnects", self.main.reconnects() + reconnects)
            .counter("expirations", self.common.expirations.get())
            .counter("resyncs", self.counters.resyncs.get())
            .counter("records-unreadable", self.counters.unreadable.get())
            .counter("bytes-in", self.common.traffic.read())
            .counter("bytes-out", self.common.traffic.written());
        for (code, count) in self.common.tally.errors() {
            health = health.counter(format!("errors.{code}"), count);
        }
        health
    }

    async fn stop(&self, cx: &Context) -> Result<(), Error> {
        let limit = CLOSE_TIMEOUT.min(cx.remaining());
        let kept: Vec<_> =
            self.lock_sessions.all().into_iter().chain(self.registry_sessions.all()).collect();
        let closing = kept.iter().map(|session| session.close(limit));
        let (main, kept) = futures::future::join(self.main.close(limit), join_all(closing)).await;
        // The main session keeps nothing on the server.
        if let Err(error) = main {
            tracing::debug!(%error, "the main session could not be closed");
        }
        kept.into_iter().collect()
    }
}

impl ZooKeeper {
    /// Reads, again on the next connection if this one breaks.
    pub(crate) async fn read<T>(
        &self,
        cx: &Context,
        doing: &str,
        read: impl AsyncFn(Client) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let mut attempt = 1;
        loop {
            let client = self.main.client(cx).await?;
            match read(client.clone()).await {
                Ok(read) => return Ok(read),
                Err(failure) if failure.is_passing() && attempt < READ_ATTEMPTS => {
                    attempt += 1;
                    self.main.settle(&client);
                }
                Err(failure) => return Err(failure.explain_read(doing)),
            }
        }
    }

    /// A barrier where the main session has not seen yet what other sessions of this plugin have:
    /// what was written through them.
    pub(crate) async fn catch_up(&self, client: &Client) -> Result<(), Failure> {
        if client.zxid() < self.common.newest_zxid.get() {
            client.barrier().await?;
        }
        Ok(())
    }

    /// Creates a node, and what is missing above it: directories, and right above it a container,
    /// which the server removes some time after its last child has gone.
    pub(crate) async fn create_in_container(
        &self,
        client: &Client,
        path: &str,
        data: &[u8],
        mode: CreateMode,
    ) -> Result<(String, Stat), Failure> {
        let create = Create { path, data: Some(data), acl: &self.acl, mode };
        let mut refusal = None;
        for _ in 1..CREATE_ATTEMPTS {
            match client.call(&create).await {
                Err(failure) if failure.is(ErrorCode::NO_NODE) => {}
                outcome => return outcome,
            }
            refusal = self.create_above(client, path, CreateMode::Container).await?;
        }
        let created = client.call(&create).await;
        created.map_err(|failure| match refusal {
            Some(refusal) if failure.is(ErrorCode::NO_NODE) => refusal,
            _ => failure,
        })
    }

    /// Creates what is missing above a node; `last` is what stands right above it. Answers the first
    /// refusal: where the node cannot be created then, that is why.
    pub(crate) async fn create_above(
        &self,
        client: &Client,
        path: &str,
        last: CreateMode,
    ) -> Result<Option<Failure>, Failure> {
        let above = ancestors(path);
        let creations = above.iter().enumerate().map(|(position, directory)| {
            let is_last = position + 1 == above.len();
            let mode = if is_last { last } else { CreateMode::Persistent };
            client.call(&Create { path: directory, data: None, acl: &self.acl, mode })
        });
        let mut refusal = None;
        for created in join_all(creations).await {
            match created {
                Ok(_) => {}
                Err(failure) if failure.is_lost() => return Err(failure),
                Err(failure)
                    if failure.is(ErrorCode::NODE_EXISTS) || failure.is(ErrorCode::NO_NODE) => {}
                Err(failure) => refusal = refusal.or(Some(failure)),
            }
        }
        Ok(refusal)
    }
}

impl Failure {
    /// Whether another connection may do.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Lost { .. } => true,
            Self::Refused(code) => {
                matches!(*code, ErrorCode::SESSION_EXPIRED | ErrorCode::SESSION_MOVED)
            }
            Self::TooLarge { .. }
            | Self::AnswerTooLarge { .. }
            | Self::TooMuch { .. }
            | Self::OverLimit { .. } => false,
        }
    }
}

/// Writes a checkpoint whenever a session has changed.
struct Keeper {
    root: String,
    /// Of registrations, and of locks.
    pools: RefCell<Option<(Rc<Pool>, Rc<Pool>)>>,
    /// Sessions of predecessors that are to be closed, and are not yet.
    orphaned: RefCell<Vec<SessionKey>>,
}

impl Keeper {
    fn new(root: &str, orphaned: &[SessionKey]) -> Self {
        let orphaned = RefCell::new(orphaned.to_vec());
        Self { root: root.to_owned(), pools: RefCell::default(), orphaned }
    }

    fn keep(&self) {
        if let Some((registry, locks)) = &*self.pools.borrow() {
            let mut locks = locks.keys();
            locks.extend(self.orphaned.borrow().iter().cloned());
            Legacy::new(&self.root, &registry.keys(), &locks).checkpoint();
        }
    }
}

/// Ends sessions of predecessors that nobody takes over, so that their locks block nobody: one at a
/// time, so that one connection does for all, and the newest first, since older ones have less time left
/// anyway.
async fn close_orphaned(common: Common, orphaned: Vec<SessionKey>, keeper: Rc<Keeper>) {
    let mut orphaned = VecDeque::from(orphaned);
    let mut pauses = Backoff::new(CLOSE_PAUSE, CLOSE_TIMEOUT);
    while let Some(key) = orphaned.pop_front() {
        let resumed = Some(key.clone());
        let started = Session::start(common.clone(), "orphaned", key.timeout, resumed, || {});
        let Ok(session) = started else { return };
        match session.close(CLOSE_TIMEOUT).await {
            Ok(()) => {
                pauses.reset();
                keeper.orphaned.borrow_mut().retain(|other| *other != key);
                keeper.keep();
            }
            Err(error) => {
                tracing::debug!(%error, "a predecessor's session could not be closed, trying again");
                orphaned.push_back(key);
                drop(session);
                pauses.wait().await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
