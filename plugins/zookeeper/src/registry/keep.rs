//! Registering, and staying registered.

use super::read::TOGETHER;
use super::{Registration, node};
use crate::session::{Client, Failure, Listener, Session, check_granted, look_at_own};
use crate::wire::{CreateMode, Delete, Ephemerals, ErrorCode, Exists, SetData, WatchMode};
use crate::zookeeper::ZooKeeper;
use futures::future::{Either, join_all, select};
use futures::lock::Mutex;
use pintle_plugin_sdk::backoff::Backoff;
use pintle_plugin_sdk::record::InstanceRecord;
use pintle_plugin_sdk::registry::{
    InstanceState, RegisterRequest, Registered, RegistrationReporter,
};
use pintle_plugin_sdk::session::{Again, LeaseClock, Renewal, keep_registered};
use pintle_plugin_sdk::time::{Instant, sleep, timeout};
use pintle_plugin_sdk::{Context, Effect, Error, Validity, spawn};
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// How long removing a node may hold up the answer to a call that has ended.
const REMOVE_PATIENCE: Duration = Duration::from_millis(700);
/// How long one attempt to register again may take.
const AGAIN_PATIENCE: Duration = Duration::from_secs(10);
/// The host repeats registrations after a restart; what it has not by then belongs to nobody.
const ADOPTION_PATIENCE: Duration = Duration::from_secs(30);
/// How often a registration starts over because others wrote in between.
const ATTEMPTS: u32 = 32;

/// How one attempt went.
#[allow(clippy::large_enum_variant, reason = "one value per attempt, moved at once")]
enum Attempt {
    Registered(Validity),
    Taken(InstanceState),
}

pub(super) async fn register(
    plugin: Rc<ZooKeeper>,
    cx: &Context,
    request: RegisterRequest,
    reporter: RegistrationReporter,
) -> Result<Registered<Registration>, Error> {
    let RegisterRequest { instance, ttl_ms } = request;
    let ttl = Duration::from_millis(ttl_ms.into());
    let path = plugin.paths.instance(&plugin.paths.instances(), &instance.service, &instance.id);
    let session = plugin.registry_sessions.session(ttl)?;
    let record = plugin.record(instance);
    let claim = {
        let claimed = pin!(plugin.kept.claim_when_free(&path));
        match select(claimed, pin!(cx.cancelled())).await {
            Either::Left((claim, _)) => claim,
            Either::Right((end, _)) => return Err(cx.error(end)),
        }
    };
    let Some(claim) = claim else {
        return plugin.taken_here(cx, &session, &path, &record).await;
    };
    let registration = Registration {
        session,
        path,
        record: Rc::new(Mutex::new(record)),
        given_up: Rc::clone(&claim.given_up),
        _claim: claim,
    };
    let sent = Cell::new(false);
    let attempt = plugin.attempt(cx, &registration, ttl, &sent);
    let outcome = match select(pin!(attempt), pin!(cx.cancelled())).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right((end, _)) => Err(cx.error(end)),
    };
    match outcome {
        Ok(Attempt::Registered(validity)) => {
            let keeping = Rc::clone(&plugin).keep(registration.clone(), validity, ttl, reporter);
            spawn(keeping).detach();
            Ok(Registered::Registered { registration, validity })
        }
        Ok(Attempt::Taken(state)) => Ok(Registered::Taken(state)),
        Err(error) if sent.get() => Err(take_back(registration, error).await),
        Err(error) => Err(error),
    }
}

/// Removes what an attempt that failed may have left, in the background where that takes long.
async fn take_back(registration: Registration, error: Error) -> Error {
    registration.given_up.set(true);
    let cx = Context::background("taking a registration back", REMOVE_PATIENCE);
    if let Ok(Ok(())) = timeout(REMOVE_PATIENCE, registration.remove(&cx)).await {
        return error.effect_none();
    }
    spawn(async move { registration.remove_at_last().await }).detach();
    error.effect_unknown()
}

impl ZooKeeper {
    /// The name is that of another registration of this plugin.
    async fn taken_here(
        &self,
        cx: &Context,
        session: &Session,
        path: &str,
        record: &InstanceRecord,
    ) -> Result<Registered<Registration>, Error> {
        let (service, id) = (&record.instance.service, &record.instance.id);
        let doing = format!("registering `{id}` of `{service}`");
        let client = session.client(cx).await?;
        let there = node(&client, path).await.map_err(|failure| failure.explain_read(&doing))?;
        let Some((data, stat)) = there else {
            let message = format!("{doing}: another registration of this host is under way");
            return Err(Error::unavailable(message));
        };
        let state = self.state_of(&client, service, id, &data, &stat).await;
        Ok(Registered::Taken(state.map_err(|failure| failure.explain_read(&doing))?))
    }

    /// Creates the node, or finds that it is ours already: after a lost reply, or left by a
    /// predecessor. `sent` tells whether there may be something to take back.
    async fn attempt(
        &self,
        cx: &Context,
        registration: &Registration,
        ttl: Duration,
        sent: &Cell<bool>,
    ) -> Result<Attempt, Error> {
        let doing = format!("registering `{}`", registration.path);
        for _ in 0..ATTEMPTS {
            let client = registration.session.client(cx).await?;
            if let Err(error) = check_granted(client.identity().timeout, ttl) {
                self.registry_sessions.discard(&registration.session);
                return Err(error);
            }
            let record = registration.record.lock().await;
            let data = record.encode()?;
            let before = sent.replace(true);
            match self.attempt_once(&client, &registration.path, &record, &data).await {
                Ok(Some(attempt)) => return Ok(attempt),
                Ok(None) => {}
                Err(failure) if failure.is_passing() => registration.session.settle(&client),
                Err(failure) => {
                    let error = failure.explain(&doing);
                    if error.effect() == Effect::None {
                        // The server refused it: nothing was made.
                        sent.set(before);
                    }
                    return Err(error);
                }
            }
        }
        Err(Error::exhausted(format!("{doing}: others wrote {ATTEMPTS} times in between")))
    }

    /// Nothing when others wrote in between.
    async fn attempt_once(
        &self,
        client: &Client,
        path: &str,
        record: &InstanceRecord,
        data: &[u8],
    ) -> Result<Option<Attempt>, Failure> {
        let identity = client.identity();
        let sent_at = Instant::now();
        let registered =
            || Ok(Some(Attempt::Registered(Validity { sent_at, valid_for: identity.timeout })));
        match self.create_in_container(client, path, data, CreateMode::Ephemeral).await {
            Ok(_) => return registered(),
            Err(failure) if failure.is(ErrorCode::NODE_EXISTS) => {}
            Err(failure) => return Err(failure),
        }
        let Some((found, stat)) = node(client, path).await? else { return Ok(None) };
        if stat.ephemeral_owner != identity.id {
            let (service, id) = (&record.instance.service, &record.instance.id);
            let state = self.state_of(client, service, id, &found, &stat).await?;
            return Ok(Some(Attempt::Taken(state)));
        }
        if found == data {
            return registered();
        }
        match client.call(&SetData { path, data: Some(data), version: stat.version }).await {
            Ok(_) => registered(),
            Err(failure) if super::is_race(&failure) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Replaces what a registration says of itself.
    pub(super) async fn rewrite(
        &self,
        client: &Client,
        path: &str,
        record: &InstanceRecord,
    ) -> Result<(), Error> {
        let data = record.encode()?;
        let doing = format!("updating `{}`", record.instance.id);
        let there = node(client, path).await.map_err(|failure| failure.explain_read(&doing))?;
        let owned = there.filter(|(_, stat)| stat.ephemeral_owner == client.identity().id);
        let Some((_, stat)) = owned else {
            let message = format!("{doing}: it is not registered at the moment; it will be again");
            return Err(Error::unavailable(message).retry_after(Duration::from_secs(1)));
        };
        let set = SetData { path, data: Some(&data), version: stat.version };
        client.call(&set).await.map(drop).map_err(|failure| failure.explain(&doing))
    }

    /// Keeps an instance registered until nobody wants it any more.
    async fn keep(
        self: Rc<Self>,
        registration: Registration,
        validity: Validity,
        ttl: Duration,
        reporter: RegistrationReporter,
    ) {
        let watches = registration.session.watches();
        let own = watches.listen(&registration.path, WatchMode::Node, false);
        let renew = async || registration.renew(&own).await;
        let doubt = async || match select(pin!(registration.session.lost()), pin!(own.next())).await
        {
            Either::Left((reason, _)) => reason,
            Either::Right(_) => "the node was touched".to_owned(),
        };
        let trying = Cell::new(false);
        let again = async || {
            if registration.given_up.get() {
                // Whoever gives it up says how that went.
                std::future::pending::<()>().await;
            }
            let cx = Context::background("registering again", AGAIN_PATIENCE);
            let sent = Cell::new(false);
            trying.set(true);
            let attempt = self.attempt(&cx, &registration, ttl, &sent).await;
            if registration.given_up.get() {
                // What was made goes with it, below.
                std::future::pending::<()>().await;
            }
            trying.set(false);
            Ok(match attempt? {
                Attempt::Registered(validity) => Again::Registered(validity),
                Attempt::Taken(state) => Again::Taken(state),
            })
        };
        // Due at once: from the beginning it is told when somebody touches the node.
        let clock = LeaseClock::new(validity).due_now();
        keep_registered(reporter, clock, renew, doubt, again).await;
        if trying.get() || registration.given_up.get() {
            // It may have been registered again while it was given up.
            registration.remove_at_last().await;
        }
    }

    /// Removes what a predecessor left and the host has not repeated.
    pub(crate) async fn reap_unclaimed(self: Rc<Self>, session: Rc<Session>) {
        let Some(adopted) = session.key() else { return };
        sleep(ADOPTION_PATIENCE).await;
        // Older servers do not list what a session keeps.
        let mut is_listed = true;
        loop {
            let cx = Context::background("removing what nobody repeated", AGAIN_PATIENCE);
            let Ok(client) = session.client(&cx).await else {
                sleep(REMOVE_PATIENCE).await;
                continue;
            };
            if client.identity().id != adopted.id {
                return;
            }
            match self.reap_once(&client, is_listed).await {
                Ok(()) => return,
                Err(failure) if failure.is(ErrorCode::UNIMPLEMENTED) && is_listed => {
                    is_listed = false;
                    // The server hangs up behind such an answer.
                    session.settle(&client);
                    continue;
                }
                Err(failure) => tracing::debug!(?failure, "could not remove what nobody repeated"),
            }
            sleep(AGAIN_PATIENCE).await;
        }
    }

    async fn reap_once(&self, client: &Client, is_listed: bool) -> Result<(), Failure> {
        let directory = self.paths.instances();
        let kept_there = match is_listed {
            true => client.call(&Ephemerals { prefix: &directory }).await?,
            false => self.instances_of(client).await?,
        };
        for path in kept_there {
            if self.kept.contains(&path) {
                continue;
            }
            tracing::info!(path, "removing an instance that nobody registers any more");
            match client.call(&Delete { path: &path, version: -1 }).await {
                Ok(()) => {}
                Err(failure) if failure.is(ErrorCode::NO_NODE) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }
}

impl ZooKeeper {
    /// The nodes of instances that the session of this connection keeps.
    async fn instances_of(&self, client: &Client) -> Result<Vec<String>, Failure> {
        let directory = self.paths.instances();
        let mut own = Vec::new();
        for (service, _) in self.names(client, &directory).await? {
            let ids = self.names(client, &self.paths.service(&directory, &service)).await?;
            let path = |(id, _): &(String, String)| self.paths.instance(&directory, &service, id);
            let paths: Vec<_> = ids.iter().map(path).collect();
            for paths in paths.chunks(TOGETHER) {
                let looks = paths.iter().map(|path| client.call(&Exists { path, watch: false }));
                for (path, look) in paths.iter().zip(join_all(looks).await) {
                    match look {
                        Ok(stat) if stat.ephemeral_owner == client.identity().id => {
                            own.push(path.clone());
                        }
                        Ok(_) => {}
                        Err(failure) if failure.is(ErrorCode::NO_NODE) => {}
                        Err(failure) => return Err(failure),
                    }
                }
            }
        }
        Ok(own)
    }
}

/// Goes on in the background where deregistering failed, or was broken off: the session lives on for
/// others, so the node would.
pub(super) struct Removal {
    pub(super) registration: Rc<Registration>,
    pub(super) done: bool,
}

impl Drop for Removal {
    fn drop(&mut self) {
        if !self.done {
            let registration = Rc::clone(&self.registration);
            spawn(async move { registration.remove_at_last().await }).detach();
        }
    }
}

impl Registration {
    /// Looks at the own node, behind a sign of life that the leader has seen.
    async fn renew(&self, own: &Listener) -> Result<Renewal, Error> {
        let cx = Context::background("renewing a registration", Duration::from_secs(3_600));
        let client = self.session.client(&cx).await?;
        let identity = client.identity();
        own.clear();
        let sent_at = Instant::now();
        let gone = |reason: &str| Ok(Renewal::Gone(reason.to_owned()));
        match look_at_own(&client, &self.path).await {
            Ok(stat) if stat.ephemeral_owner == identity.id => {
                Ok(Renewal::Renewed(Validity { sent_at, valid_for: identity.timeout }))
            }
            // Whoever gives it up says how that went.
            Ok(_) if self.given_up.get() => std::future::pending().await,
            Err(failure) if self.given_up.get() && failure.is(ErrorCode::NO_NODE) => {
                std::future::pending().await
            }
            Ok(_) => gone("the node belongs to another session"),
            Err(failure) if failure.is(ErrorCode::NO_NODE) => {
                gone("the node is gone: its session has expired, or it was deleted")
            }
            Err(failure) => {
                if failure.is_passing() {
                    self.session.settle(&client);
                }
                Err(failure.explain_read("renewing a registration"))
            }
        }
    }

    /// Deletes the node if it is ours.
    pub(super) async fn remove(&self, cx: &Context) -> Result<(), Error> {
        loop {
            let client = self.session.client(cx).await?;
            match self.remove_once(&client).await {
                Ok(()) => return Ok(()),
                Err(failure) if failure.is_passing() => {
                    self.session.settle(&client);
                    if let Some(end) = cx.ended() {
                        return Err(cx.error(end).effect_unknown());
                    }
                }
                Err(failure) => return Err(failure.explain("removing a registration")),
            }
        }
    }

    async fn remove_once(&self, client: &Client) -> Result<(), Failure> {
        // What was sent on another connection is shown, too.
        client.barrier().await?;
        let Some((_, stat)) = node(client, &self.path).await? else { return Ok(()) };
        if stat.ephemeral_owner != client.identity().id {
            return Ok(());
        }
        match client.call(&Delete { path: &self.path, version: -1 }).await {
            Err(failure) if failure.is(ErrorCode::NO_NODE) => Ok(()),
            outcome => outcome,
        }
    }

    /// The same, however long it takes.
    async fn remove_at_last(&self) {
        let mut pauses = Backoff::default();
        loop {
            let cx = Context::background("removing a registration", AGAIN_PATIENCE);
            match self.remove(&cx).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, "a registration could not be removed"),
            }
            pauses.wait().await;
        }
    }
}
