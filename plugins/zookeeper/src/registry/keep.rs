//! Registering, and staying registered.

use super::{Registration, is_race, node};
use crate::session::{Client, Failure, Listener, Session, check_granted, look_at_own};
use crate::wire::{
    Create, CreateMode, Delete, ErrorCode, Exists, MultiOutcome, Op, SetData, Stat, WatchMode,
};
use crate::zookeeper::ZooKeeper;
use futures::future::{Either, select};
use futures::lock::Mutex;
use pintle_plugin_sdk::backoff::Backoff;
use pintle_plugin_sdk::record::InstanceRecord;
use pintle_plugin_sdk::registry::{
    InstanceState, RegisterRequest, Registered, RegistrationReporter,
};
use pintle_plugin_sdk::session::{Again, LeaseClock, Renewal, keep_registered};
use pintle_plugin_sdk::time::{Instant, timeout};
use pintle_plugin_sdk::{Context, Effect, Error, Validity, spawn};
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// How long removing a node may hold up the answer to a call that has ended.
const REMOVE_PATIENCE: Duration = Duration::from_millis(700);
/// How long one attempt to register again may take.
const AGAIN_PATIENCE: Duration = Duration::from_secs(10);
/// How often a registration starts over because others wrote in between.
const ATTEMPTS: u32 = 32;

/// What an attempt may leave behind where it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    /// A node that it has made, perhaps.
    Made,
    /// A node of a predecessor, which was there before.
    Found,
}

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
    let record = plugin.record(instance);
    let Some(claim) = unless_ended(cx, plugin.kept.claim_when_free(&path)).await? else {
        let session = plugin.registry_sessions.session(ttl)?;
        return plugin.taken_here(cx, &session, &path, &record).await;
    };
    let session = unless_ended(cx, plugin.session_for(cx, &path, ttl)).await??;
    let (record, in_doubt) = (Rc::new(Mutex::new(record)), Rc::default());
    let registration = Registration { session, path, record, in_doubt, claim };
    let left = Cell::new(Left::Nothing);
    let attempt = plugin.attempt(cx, &registration, ttl, &left);
    let outcome = match select(pin!(attempt), pin!(cx.cancelled())).await {
        // What is answered too late is taken back.
        Either::Left((outcome, _)) if left.get() == Left::Found => {
            cx.ended().map_or(outcome, |end| Err(cx.error(end)))
        }
        Either::Left((outcome, _)) => outcome,
        Either::Right((end, _)) => Err(cx.error(end)),
    };
    match outcome {
        Ok(Attempt::Registered(validity)) => {
            if left.get() == Left::Found {
                plugin.kept.inheritance.adopted();
            }
            registration.claim.state.is_kept.set(true);
            let keeping = Rc::clone(&plugin).keep(registration.clone(), validity, ttl, reporter);
            spawn(keeping).detach();
            Ok(Registered::Registered { registration, validity })
        }
        Ok(Attempt::Taken(state)) => Ok(Registered::Taken(state)),
        Err(error) => Err(match left.get() {
            Left::Nothing => error,
            Left::Made => take_back(registration, error).await,
            // The host repeats this, or it is reaped: removed here, it would be a gap.
            Left::Found => error.effect_unknown(),
        }),
    }
}

/// Waits for something no longer than the call that wants it.
async fn unless_ended<T>(cx: &Context, awaited: impl Future<Output = T>) -> Result<T, Error> {
    match select(pin!(awaited), pin!(cx.cancelled())).await {
        Either::Left((done, _)) => Ok(done),
        Either::Right((end, _)) => Err(cx.error(end)),
    }
}

/// Removes what an attempt that failed may have left, in the background where that takes long.
async fn take_back(registration: Registration, error: Error) -> Error {
    registration.claim.state.given_up.set(true);
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
    /// predecessor. `left` tells what there may be now.
    async fn attempt(
        &self,
        cx: &Context,
        registration: &Registration,
        ttl: Duration,
        left: &Cell<Left>,
    ) -> Result<Attempt, Error> {
        let doing = format!("registering `{}`", registration.path);
        for _ in 0..ATTEMPTS {
            let client = registration.session.client(cx).await?;
            if let Err(error) = check_granted(client.identity().timeout, ttl) {
                self.registry_sessions.discard(&registration.session);
                return Err(error);
            }
            let mut record = registration.record.lock().await;
            let data = record.encode()?;
            match self.attempt_once(&client, &registration.path, &mut record, data, left).await {
                Ok(Some(attempt)) => return Ok(attempt),
                Ok(None) => {}
                Err(failure) if failure.is_passing() => registration.session.settle(&client),
                Err(failure) => return Err(failure.explain(&doing)),
            }
        }
        Err(Error::exhausted(format!("{doing}: others wrote {ATTEMPTS} times in between")))
    }

    /// Nothing when others wrote in between.
    async fn attempt_once(
        &self,
        client: &Client,
        path: &str,
        record: &mut InstanceRecord,
        mut data: Vec<u8>,
        left: &Cell<Left>,
    ) -> Result<Option<Attempt>, Failure> {
        let identity = client.identity();
        let sent_at = Instant::now();
        let registered =
            || Ok(Some(Attempt::Registered(Validity { sent_at, valid_for: identity.timeout })));
        let mut there = None;
        if self.kept.inheritance.is_open() {
            // A creation that is not answered would not tell whose the node is.
            there = node(client, path).await?;
        }
        if there.is_none() {
            if self.create(client, path, &data, left).await? {
                return registered();
            }
            there = node(client, path).await?;
        }
        let Some((found, stat)) = there else { return Ok(None) };
        if stat.ephemeral_owner != identity.id && self.is_inherited(&stat) {
            let data = continued(record, &found).unwrap_or(data);
            let is_moved = self.move_here(client, path, &data, &stat, left).await?;
            return if is_moved { registered() } else { Ok(None) };
        }
        if stat.ephemeral_owner != identity.id {
            let (service, id) = (&record.instance.service, &record.instance.id);
            let state = self.state_of(client, service, id, &found, &stat).await?;
            return Ok(Some(Attempt::Taken(state)));
        }
        if left.get() == Left::Nothing {
            left.set(Left::Found);
        }
        data = continued(record, &found).unwrap_or(data);
        if found == data {
            return registered();
        }
        match client.call(&SetData { path, data: Some(&data), version: stat.version }).await {
            Ok(_) => registered(),
            Err(failure) if is_race(&failure) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Creates the node; answers whether there was none.
    async fn create(
        &self,
        client: &Client,
        path: &str,
        data: &[u8],
        left: &Cell<Left>,
    ) -> Result<bool, Failure> {
        let before = left.get();
        if before == Left::Nothing {
            left.set(Left::Made);
        }
        let created = self.create_in_container(client, path, data, CreateMode::Ephemeral).await;
        match created {
            Ok(_) => Ok(true),
            Err(failure) => {
                if failure.explain("").effect() == Effect::None {
                    // The server refused it, or never had it: nothing was made.
                    left.set(before);
                }
                if failure.is(ErrorCode::NODE_EXISTS) { Ok(false) } else { Err(failure) }
            }
        }
    }

    /// Moves a node to the session of this connection from another of ours, without a gap; answers
    /// whether it was still as it was found.
    async fn move_here(
        &self,
        client: &Client,
        path: &str,
        data: &[u8],
        found: &Stat,
        left: &Cell<Left>,
    ) -> Result<bool, Failure> {
        let delete = Delete { path, version: found.version };
        let mode = CreateMode::Ephemeral;
        let create = Create { path, data: Some(data), acl: &self.acl, mode };
        // Nobody reaps it here: whoever gives up takes it back.
        let before = left.replace(Left::Made);
        let failure = match client.multi(vec![Op::Delete(delete), Op::Create(create)]).await {
            Ok(MultiOutcome::Done(_)) => {
                self.kept.inheritance.adopted();
                return Ok(true);
            }
            Ok(MultiOutcome::Failed { code, .. }) => Failure::Refused(code),
            Err(failure) => failure,
        };
        if failure.explain("").effect() == Effect::None {
            left.set(before);
        }
        if is_race(&failure) { Ok(false) } else { Err(failure) }
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
        let doubt = async || {
            let lost = registration.session.lost();
            match select(pin!(lost), pin!(registration.touched(&own))).await {
                Either::Left((reason, _)) => reason,
                Either::Right(_) => "the node was touched".to_owned(),
            }
        };
        let trying = Cell::new(false);
        let again = async || {
            if registration.is_given_up() {
                // Whoever gives it up says how that went.
                std::future::pending::<()>().await;
            }
            let cx = Context::background("registering again", AGAIN_PATIENCE);
            let left = Cell::new(Left::Nothing);
            trying.set(true);
            let attempt = self.attempt(&cx, &registration, ttl, &left).await;
            if registration.is_given_up() {
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
        if trying.get() || registration.is_given_up() {
            // It may have been registered again while it was given up.
            registration.remove_at_last().await;
        }
    }
}

/// What to write where a record was found: it has been registered since then, whoever kept it.
fn continued(record: &mut InstanceRecord, found: &[u8]) -> Option<Vec<u8>> {
    let InstanceRecord { registered_ms, .. } = InstanceRecord::decode(found).ok()?;
    let data = (InstanceRecord { registered_ms, ..record.clone() }).encode().ok()?;
    record.registered_ms = registered_ms;
    Some(data)
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
    fn is_given_up(&self) -> bool {
        self.claim.state.given_up.get()
    }

    /// Replaces what it says of itself: `kept`, by `record`.
    pub(super) async fn rewrite(
        &self,
        client: &Client,
        kept: &mut InstanceRecord,
        record: InstanceRecord,
    ) -> Result<(), Error> {
        let data = record.encode()?;
        let doing = format!("updating `{}`", record.instance.id);
        let there =
            node(client, &self.path).await.map_err(|failure| failure.explain_read(&doing))?;
        let owned = there.filter(|(_, stat)| stat.ephemeral_owner == client.identity().id);
        let Some((_, stat)) = owned else {
            let message = format!("{doing}: it is not registered at the moment; it will be again");
            return Err(Error::unavailable(message).retry_after(Duration::from_secs(1)));
        };
        // From now on it may be what the server has, also where nobody waits for the answer.
        let before = std::mem::replace(kept, record);
        let was_in_doubt = self.in_doubt.replace(true);
        let set = SetData { path: &self.path, data: Some(&data), version: stat.version };
        let written = client.call(&set).await.map(drop).map_err(|failure| failure.explain(&doing));
        match &written {
            Ok(()) => self.in_doubt.set(false),
            Err(error) if error.effect() == Effect::None => {
                *kept = before;
                self.in_doubt.set(was_in_doubt);
            }
            Err(_) => {}
        }
        written
    }

    /// Takes over what the server has, where an update leaves that in doubt. What was sent before is
    /// shown: by the own connection, or behind the word of the quorum.
    async fn end_doubt(&self, client: &Client) -> Result<(), Failure> {
        // An update that is under way says itself how it went.
        let Some(mut kept) = self.record.try_lock().filter(|_| self.in_doubt.get()) else {
            return Ok(());
        };
        let there = node(client, &self.path).await?;
        if let Some((data, stat)) = there
            && stat.ephemeral_owner == client.identity().id
            && let Ok(record) = InstanceRecord::decode(&data)
        {
            *kept = record;
            self.in_doubt.set(false);
        }
        Ok(())
    }

    /// Looks at the own node, behind a sign of life that the leader has seen.
    async fn look(&self, client: &Client) -> Result<Stat, Failure> {
        let stat = look_at_own(client, &self.path).await?;
        if stat.ephemeral_owner == client.identity().id {
            self.end_doubt(client).await?;
        }
        Ok(stat)
    }

    /// Waits until something has happened to the node that may have taken it away.
    async fn touched(&self, own: &Listener) {
        // What is written to it uses the watch up, and leaves it where it is.
        while own.next().await.is_of_data() && self.watches_again().await {}
    }

    /// Has the next change to the node told, unless it is not its own any more.
    async fn watches_again(&self) -> bool {
        let Some(client) = self.session.client_now() else { return false };
        let there = client.call(&Exists { path: &self.path, watch: true }).await;
        there.is_ok_and(|stat| stat.ephemeral_owner == client.identity().id)
    }

    /// Proves that the node is its own still.
    async fn renew(&self, own: &Listener) -> Result<Renewal, Error> {
        let cx = Context::background("renewing a registration", Duration::from_secs(3_600));
        let client = self.session.client_patiently(&cx).await?;
        let identity = client.identity();
        own.clear();
        let sent_at = Instant::now();
        let gone = |reason: &str| Ok(Renewal::Gone(reason.to_owned()));
        match self.look(&client).await {
            Ok(stat) if stat.ephemeral_owner == identity.id => {
                Ok(Renewal::Renewed(Validity { sent_at, valid_for: identity.timeout }))
            }
            // Whoever gives it up says how that went.
            Ok(_) if self.is_given_up() => std::future::pending().await,
            Err(failure) if self.is_given_up() && failure.is(ErrorCode::NO_NODE) => {
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
        while let Some((_, stat)) = node(client, &self.path).await?
            && stat.ephemeral_owner == client.identity().id
        {
            match client.call(&Delete { path: &self.path, version: stat.version }).await {
                Err(failure) if is_race(&failure) => {}
                outcome => return outcome,
            }
        }
        Ok(())
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
