//! Taking a lock, and keeping it.

use super::Lease;
use super::claim::{Place, Queue, kind, unique};
use crate::path::{child, parent};
use crate::session::{Client, Failure, Listener, PooledSession, check_granted, look_at_own};
use crate::wire::{Children, CreateMode, ErrorCode, Exists, GetData, Stat, WatchMode};
use crate::zookeeper::ZooKeeper;
use futures::future::{Either, select};
use pintle_plugin_sdk::backoff::Backoff;
use pintle_plugin_sdk::lock::{AcquireRequest, Acquired, LeaseReporter, Mode};
use pintle_plugin_sdk::record::ClaimRecord;
use pintle_plugin_sdk::session::{LeaseClock, Renewal, keep_lease};
use pintle_plugin_sdk::time::{Instant, sleep_until, timeout};
use pintle_plugin_sdk::{Context, Effect, Error, Validity, spawn};
use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

/// How long taking a claim back may hold up the answer to a call that has ended.
const WITHDRAW_PATIENCE: Duration = Duration::from_millis(700);

/// One who asks for a lock.
struct Attempt {
    plugin: Rc<ZooKeeper>,
    session: PooledSession,
    request: AcquireRequest,
    directory: String,
    /// What its claim's name begins with.
    unique: String,
    wait_until: Instant,
    /// The session in which something was sent that may have made a claim.
    generation: Cell<Option<u64>>,
    /// Its claim, as soon as it is known.
    claim: RefCell<Option<String>>,
}

/// How an attempt went, with a claim on the server if it holds.
enum Outcome {
    Holding {
        client: Client,
        stat: Stat,
        sent_at: Instant,
        own: Listener,
    },
    /// The wait is over; these hold.
    Busy(Queue),
}

pub(super) async fn acquire(
    plugin: Rc<ZooKeeper>,
    cx: &Context,
    request: AcquireRequest,
    reporter: LeaseReporter,
) -> Result<Acquired<Lease>, Error> {
    let ttl = Duration::from_millis(request.ttl_ms.into());
    let session = plugin.lock_sessions.session(ttl)?;
    let attempt = Rc::new(Attempt {
        directory: plugin.paths.lock(&request.name),
        plugin,
        session,
        unique: unique(),
        wait_until: Instant::now().after(Duration::from_millis(request.wait_ms.into())),
        request,
        generation: Cell::new(None),
        claim: RefCell::new(None),
    });
    let outcome = match select(pin!(attempt.run(cx)), pin!(cx.cancelled())).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right((end, _)) => Err(cx.error(end)),
    };
    match outcome {
        Ok(Outcome::Holding { client, stat, sent_at, own }) => {
            Ok(attempt.hold(&client, &stat, sent_at, own, reporter))
        }
        Ok(Outcome::Busy(queue)) => {
            let holders = attempt.holders(cx, &queue).await;
            attempt.withdraw_within(None).await?;
            holders.map(Acquired::Busy)
        }
        Err(error) => {
            attempt.withdraw_within(Some(&error)).await?;
            Err(error)
        }
    }
}

impl Attempt {
    async fn run(&self, cx: &Context) -> Result<Outcome, Error> {
        let doing = format!("asking for lock `{}`", self.request.name);
        loop {
            let client = match self.generation.get() {
                None => self.session.client(cx).await?,
                // It has its place in the queue, perhaps, as long as the session lives.
                Some(_) => self.session.client_patiently(cx).await?,
            };
            let identity = client.identity();
            if self.generation.get().is_some_and(|before| before != identity.generation) {
                let message = format!("{doing}: the session has expired, and the claim with it");
                return Err(Error::unavailable(message));
            }
            let ttl = Duration::from_millis(self.request.ttl_ms.into());
            if let Err(error) = check_granted(identity.timeout, ttl) {
                self.plugin.lock_sessions.discard(&self.session);
                return Err(error);
            }
            match self.queue_up(&client).await {
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => {
                    let message = format!("{doing}: the claim was taken away while it waited");
                    return Err(Error::conflict(message));
                }
                Err(failure) if failure.is_passing() => self.session.settle(&client),
                Err(failure) => return Err(failure.explain(&doing)),
            }
        }
    }

    /// Claims and waits on one connection; nothing when the claim is gone.
    async fn queue_up(&self, client: &Client) -> Result<Option<Outcome>, Failure> {
        match self.request.mode {
            // Tokens say which ensemble they are of.
            Mode::Exclusive => self.plugin.identify(client).await?,
            Mode::Shared | Mode::Permit(_) => self.plugin.recognise(client).await?,
        }
        let claim = self.claimed(client).await?;
        let path = child(&self.directory, &claim);
        // Events of the own claim, of the one before it, and of all: whichever is waited for.
        let own = self.listen(&path);
        loop {
            own.clear();
            let many = self.listen(&self.directory);
            let is_permit = matches!(self.request.mode, Mode::Permit(_));
            let children = Children { path: &self.directory, watch: is_permit };
            let (names, _) = match client.call(&children).await {
                Ok(children) => children,
                Err(failure) if failure.is(ErrorCode::NO_NODE) => return Ok(None),
                Err(failure) => return Err(failure),
            };
            let queue = Queue::new(&names);
            let event = match queue.place(&claim) {
                Place::Gone => return Ok(None),
                Place::Holding => return self.confirm(client, &path, own).await,
                Place::BehindMany => many,
                Place::Behind(blocking) => {
                    let blocking = child(&self.directory, &blocking);
                    let event = self.listen(&blocking);
                    match client.call(&GetData { path: &blocking, watch: true }).await {
                        Ok(_) => event,
                        // It has gone in between: look again.
                        Err(failure) if failure.is(ErrorCode::NO_NODE) => continue,
                        Err(failure) => return Err(failure),
                    }
                }
            };
            if Instant::now() >= self.wait_until {
                return Ok(Some(Outcome::Busy(queue)));
            }
            let exists = client.call(&Exists { path: &path, watch: true }).await;
            match exists {
                Ok(_) => {}
                Err(failure) if failure.is(ErrorCode::NO_NODE) => return Ok(None),
                Err(failure) => return Err(failure),
            }
            let (event, own) = (pin!(event.next()), pin!(own.next()));
            let news = select(event, own);
            let lost = pin!(self.session.lost());
            match select(select(news, lost), sleep_until(self.wait_until)).await {
                Either::Left((Either::Left(_), _)) => {}
                Either::Left((Either::Right((reason, _)), _)) => {
                    return Err(Failure::Lost { reason: reason.into(), sent: false });
                }
                // Once more, since it may have become free in this very moment.
                Either::Right(_) => {}
            }
        }
    }

    fn listen(&self, path: &str) -> Listener {
        self.session.watches().listen(path, WatchMode::Node, false)
    }

    /// The name of the claim: made now, or found again where its making was not answered.
    async fn claimed(&self, client: &Client) -> Result<String, Failure> {
        if let Some(claim) = self.claim.borrow().clone() {
            return Ok(claim);
        }
        if self.generation.get().is_some()
            && let Some(claim) = self.find(client).await?
        {
            *self.claim.borrow_mut() = Some(claim.clone());
            return Ok(claim);
        }
        let before = self.generation.replace(Some(client.identity().generation));
        let record = ClaimRecord {
            mode: self.request.mode,
            owner: self.request.owner.clone(),
            since_ms: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .ok()
                .and_then(|since| u64::try_from(since.as_millis()).ok()),
        };
        // A record of these types can always be written.
        let data = record.encode().unwrap_or_default();
        let kind = kind(self.request.mode, self.plugin.exclusive_claims);
        let path = format!("{}/{}{kind}", self.directory, self.unique);
        let mode = CreateMode::EphemeralSequential;
        let created = self.plugin.create_in_container(client, &path, &data, mode).await;
        let (path, _) = created.inspect_err(|failure| {
            if failure.explain("").effect() == Effect::None {
                // The server refused it: nothing was made.
                self.generation.set(before);
            }
        })?;
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        *self.claim.borrow_mut() = Some(name.clone());
        Ok(name)
    }

    /// Looks for a claim of which only the unique part of the name is known. The barrier makes the
    /// server show what it has taken on another connection.
    async fn find(&self, client: &Client) -> Result<Option<String>, Failure> {
        client.barrier().await?;
        match client.call(&Children { path: &self.directory, watch: false }).await {
            Ok((names, _)) => {
                Ok(Queue::new(&names).find(&self.unique).map(|claim| claim.name.clone()))
            }
            Err(failure) if failure.is(ErrorCode::NO_NODE) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Reads the own claim again before it is believed, behind the quorum's word: a server that is cut
    /// off goes on showing claims of sessions that have ended.
    async fn confirm(
        &self,
        client: &Client,
        path: &str,
        own: Listener,
    ) -> Result<Option<Outcome>, Failure> {
        let sent_at = Instant::now();
        match look_at_own(client, path).await {
            Ok(stat) if stat.ephemeral_owner == client.identity().id => {
                Ok(Some(Outcome::Holding { client: client.clone(), stat, sent_at, own }))
            }
            Ok(_) => Ok(None),
            Err(failure) if failure.is(ErrorCode::NO_NODE) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    async fn holders(
        &self,
        cx: &Context,
        queue: &Queue,
    ) -> Result<Vec<pintle_plugin_sdk::lock::Claim>, Error> {
        let (holders, _) = queue.split();
        let doing = format!("reading who holds lock `{}`", self.request.name);
        let client = self.session.client(cx).await?;
        let claims = self.plugin.claims(&client, &self.directory, holders, true).await;
        claims.map_err(|failure| failure.explain(&doing))
    }

    /// The lease, and a task that keeps it.
    fn hold(
        &self,
        client: &Client,
        stat: &Stat,
        sent_at: Instant,
        own: Listener,
        reporter: LeaseReporter,
    ) -> Acquired<Lease> {
        let name = self.claim.borrow().clone().unwrap_or_default();
        let path = child(&self.directory, &name);
        let identity = client.identity();
        let lease = Lease {
            session: self.session.clone(),
            generation: identity.generation,
            path,
            releasing: Rc::default(),
            deletions: Rc::default(),
        };
        let validity = Validity { sent_at, valid_for: identity.timeout };
        let token = match self.request.mode {
            Mode::Exclusive => self.plugin.identities.token(stat.czxid),
            Mode::Shared | Mode::Permit(_) => None,
        };
        spawn(keep(lease.clone(), validity, own, reporter)).detach();
        Acquired::Held { lease, validity, token }
    }

    /// Removes the claim, if there may be one; in the background where that takes long.
    async fn withdraw_within(self: &Rc<Self>, error: Option<&Error>) -> Result<(), Error> {
        if timeout(WITHDRAW_PATIENCE, self.withdraw()).await.is_ok() {
            return Ok(());
        }
        let attempt = Rc::clone(self);
        spawn(async move { attempt.withdraw().await }).detach();
        let fallback = || Error::unavailable("the claim could not be taken back yet");
        Err(error.cloned().unwrap_or_else(fallback).effect_unknown())
    }

    /// Removes the claim for certain: tries until it is gone, or its session is.
    async fn withdraw(&self) {
        let Some(generation) = self.generation.get() else { return };
        let mut pauses = Backoff::default();
        while !self.session.is_over(generation) {
            let cx = Context::background("taking a claim back", Duration::from_secs(5));
            match self.withdraw_once(&cx, generation).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, "a claim could not be taken back"),
            }
            pauses.wait().await;
        }
    }

    async fn withdraw_once(&self, cx: &Context, generation: u64) -> Result<(), Error> {
        let client = self.session.client(cx).await?;
        if client.identity().generation != generation {
            return Ok(());
        }
        let known = self.claim.borrow().clone();
        let doing = "taking a claim back";
        let claim = match known {
            Some(claim) => Some(claim),
            None => self.find(&client).await.map_err(|failure| failure.explain(doing))?,
        };
        let Some(claim) = claim else { return Ok(()) };
        let path = child(&self.directory, &claim);
        let delete = crate::wire::Delete { path: &path, version: -1 };
        match client.call(&delete).await {
            Ok(()) => Ok(()),
            Err(failure) if failure.is(ErrorCode::NO_NODE) => Ok(()),
            Err(failure) => {
                if failure.is_passing() {
                    self.session.settle(&client);
                }
                Err(failure.explain(doing))
            }
        }
    }
}

/// Keeps a lease until it is lost, released or closed; what is lost is removed, so that it blocks
/// nobody.
async fn keep(lease: Lease, validity: Validity, own: Listener, reporter: LeaseReporter) {
    // A third of the time is left to the others' clocks, and to a server that is slow to count.
    let clock = LeaseClock::with_margin(validity, validity.valid_for / 3);
    let renew = async || lease.renew(&own).await;
    let doubt = async || match select(pin!(lease.session.lost()), pin!(own.next())).await {
        Either::Left((reason, _)) => reason,
        Either::Right(_) => "the claim was touched".to_owned(),
    };
    keep_lease(reporter, clock, renew, doubt).await;
    if !lease.releasing.get() {
        lease.remove_at_last().await;
    }
}

impl Lease {
    /// Reads the own claim, behind a sign of life that the leader has seen.
    async fn renew(&self, own: &Listener) -> Result<Renewal, Error> {
        let doing = format!("renewing the lease of `{}`", parent(&self.path));
        let gone = |reason: &str| Ok(Renewal::Gone(reason.to_owned()));
        if self.session.is_over(self.generation) {
            return gone("the session has expired");
        }
        let cx = Context::background("renewing a lease", Duration::from_secs(3_600));
        let client = self.session.client_patiently(&cx).await?;
        let identity = client.identity();
        if identity.generation != self.generation {
            return gone("the session has expired");
        }
        own.clear();
        let sent_at = Instant::now();
        match look_at_own(&client, &self.path).await {
            Ok(stat) if stat.ephemeral_owner == identity.id => {
                Ok(Renewal::Renewed(Validity { sent_at, valid_for: identity.timeout }))
            }
            Ok(_) => gone("the claim belongs to another session"),
            Err(failure) if failure.is(ErrorCode::NO_NODE) => {
                if self.releasing.get() {
                    // Whoever gives it back says how that went.
                    std::future::pending::<()>().await;
                }
                gone("the claim was taken away")
            }
            Err(failure) => {
                if failure.is_passing() {
                    self.session.settle(&client);
                }
                Err(failure.explain_read(&doing))
            }
        }
    }
}
