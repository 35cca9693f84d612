//! `pintle:registry`: instances are ephemeral nodes; what operators say of them lies beside.

mod keep;
mod read;
mod reap;
mod watch;

pub(crate) use read::children_of;

use crate::session::{Client, Failure, PooledSession};
use crate::wire::{Create, CreateMode, Delete, ErrorCode, GetData, SetData, Stat};
use crate::zookeeper::ZooKeeper;
use futures::lock::Mutex;
use pintle_plugin_sdk::record::{InstanceRecord, encode_override};
use pintle_plugin_sdk::registry::{
    AddOutcome, Consistency, Instance, InstancesPage, OperatorOverride, RegisterRequest,
    Registered, RegistrationReporter, Registry, RemoveOutcome, ServicesPage, WatchSink,
};
use pintle_plugin_sdk::signal::Signal;
use pintle_plugin_sdk::{Context, Error};
use reap::Inheritance;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;
use std::time::SystemTime;

/// How often a write starts over because others wrote in between.
const ATTEMPTS: u32 = 32;

/// A registration, as the SDK keeps it. Clones are the same registration.
#[derive(Clone)]
pub struct Registration {
    session: PooledSession,
    path: String,
    /// What is registered, and again after a loss.
    /// Locked while it is written, so that what is older never comes last.
    record: Rc<Mutex<InstanceRecord>>,
    /// An update was sent of which nobody knows yet whether the server has it.
    in_doubt: Rc<Cell<bool>>,
    /// The name is taken within this plugin as long as this lives.
    claim: Rc<NameClaim>,
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registration").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Nodes of registrations of this incarnation: one of its own is not to be adopted twice.
#[derive(Clone, Default)]
pub(crate) struct Kept {
    /// How each stands, by path.
    paths: Rc<RefCell<HashMap<String, Rc<NameState>>>>,
    /// One has gone.
    freed: Rc<Signal>,
    inheritance: Rc<Inheritance>,
}

/// How a name stands that is claimed.
#[derive(Default)]
struct NameState {
    /// It has been registered, and is kept so.
    is_kept: Cell<bool>,
    /// It was asked to go: whatever is registered from now on goes too.
    given_up: Cell<bool>,
}

/// Whose a name is within this plugin.
enum Claimed {
    /// Ours, from now on.
    Now(Rc<NameClaim>),
    /// Still that of a registration that goes.
    Going,
    /// That of another registration.
    Kept,
}

/// Keeps a path in [`Kept`].
struct NameClaim {
    kept: Kept,
    path: String,
    state: Rc<NameState>,
}

impl Kept {
    fn claim(&self, path: &str) -> Claimed {
        match self.paths.borrow_mut().entry(path.to_owned()) {
            Entry::Occupied(other) if other.get().given_up.get() => Claimed::Going,
            Entry::Occupied(_) => Claimed::Kept,
            Entry::Vacant(vacant) => {
                let state = Rc::clone(vacant.insert(Rc::default()));
                let (kept, path) = (self.clone(), path.to_owned());
                Claimed::Now(Rc::new(NameClaim { kept, path, state }))
            }
        }
    }

    /// Claims a name, as soon as what is going has gone; none if another registration has it.
    async fn claim_when_free(&self, path: &str) -> Option<Rc<NameClaim>> {
        let claimed = || match self.claim(path) {
            Claimed::Now(claim) => Some(Some(claim)),
            Claimed::Going => None,
            Claimed::Kept => Some(None),
        };
        self.freed.wait(claimed).await
    }

    /// How a name stands, if it is claimed.
    fn state_of(&self, path: &str) -> Option<Rc<NameState>> {
        self.paths.borrow().get(path).cloned()
    }
}

impl Drop for NameClaim {
    fn drop(&mut self) {
        self.kept.paths.borrow_mut().remove(&self.path);
        self.kept.inheritance.let_go(&self.path);
        self.kept.freed.notify();
    }
}

impl Registry for ZooKeeper {
    type Registration = Registration;

    async fn register(
        self: Rc<Self>,
        cx: &Context,
        request: RegisterRequest,
        reporter: RegistrationReporter,
    ) -> Result<Registered<Registration>, Error> {
        keep::register(self, cx, request, reporter).await
    }

    async fn update(
        &self,
        cx: &Context,
        registration: Rc<Registration>,
        instance: Instance,
    ) -> Result<(), Error> {
        let client = registration.session.client(cx).await?;
        let mut kept = registration.record.lock().await;
        let now = &kept.instance;
        if (&instance.service, &instance.id) != (&now.service, &now.id) {
            return Err(Error::invalid("an instance cannot change its name"));
        }
        let record = InstanceRecord { instance, ..kept.clone() };
        registration.rewrite(&client, &mut kept, record).await
    }

    async fn deregister(&self, cx: &Context, registration: Rc<Registration>) -> Result<(), Error> {
        let first = !registration.claim.state.given_up.replace(true);
        let mut removed = keep::Removal { registration, done: !first };
        let outcome = removed.registration.remove(cx).await;
        removed.done |= outcome.is_ok();
        // It goes on in the background.
        outcome.map_err(Error::effect_unknown)
    }

    async fn add(
        &self,
        cx: &Context,
        instance: Instance,
        replace: bool,
    ) -> Result<AddOutcome, Error> {
        let (service, id) = (instance.service.clone(), instance.id.clone());
        let path = self.paths.instance(&self.paths.instances(), &service, &id);
        let doing = format!("adding instance `{id}` of `{service}`");
        let data = self.record(instance).encode()?;
        for _ in 0..ATTEMPTS {
            let client = self.main.client(cx).await?;
            let mode = CreateMode::Persistent;
            match self.create_in_container(&client, &path, &data, mode).await {
                Ok(_) => return Ok(AddOutcome::Stored),
                Err(failure) if failure.is(ErrorCode::NODE_EXISTS) => {}
                Err(failure) => return Err(failure.explain(&doing)),
            }
            let there = node(&client, &path).await;
            let there = there.map_err(|failure| failure.explain_read(&doing))?;
            let Some((found, stat)) = there else { continue };
            if stat.ephemeral_owner != 0 || !replace {
                let state = self.state_of(&client, &service, &id, &found, &stat).await;
                let state = state.map_err(|failure| failure.explain_read(&doing))?;
                return Ok(AddOutcome::Taken(state));
            }
            let set = SetData { path: &path, data: Some(&data), version: stat.version };
            match client.call(&set).await {
                Ok(_) => return Ok(AddOutcome::Stored),
                Err(failure) if is_race(&failure) => {}
                Err(failure) => return Err(failure.explain(&doing)),
            }
        }
        Err(Error::exhausted(format!("{doing}: others wrote {ATTEMPTS} times in between")))
    }

    async fn remove(
        &self,
        cx: &Context,
        service: String,
        id: String,
    ) -> Result<RemoveOutcome, Error> {
        let path = self.paths.instance(&self.paths.instances(), &service, &id);
        let doing = format!("removing instance `{id}` of `{service}`");
        for _ in 0..ATTEMPTS {
            let client = self.main.client(cx).await?;
            let read = async {
                client.barrier().await?;
                node(&client, &path).await
            };
            let there = read.await.map_err(|failure| failure.explain_read(&doing))?;
            let Some((_, stat)) = there else { return Ok(RemoveOutcome::Absent) };
            if stat.ephemeral_owner != 0 {
                return Ok(RemoveOutcome::Ephemeral);
            }
            match client.call(&Delete { path: &path, version: stat.version }).await {
                Ok(()) => return Ok(RemoveOutcome::Removed),
                Err(failure) if is_race(&failure) => {}
                Err(failure) => return Err(failure.explain(&doing)),
            }
        }
        Err(Error::exhausted(format!("{doing}: others wrote {ATTEMPTS} times in between")))
    }

    async fn set_override(
        &self,
        cx: &Context,
        service: String,
        id: String,
        operator: Option<OperatorOverride>,
    ) -> Result<(), Error> {
        let path = self.paths.instance(&self.paths.overrides(), &service, &id);
        let doing = format!("overriding instance `{id}` of `{service}`");
        let client = self.main.client(cx).await?;
        let data = operator.as_ref().map(encode_override).transpose()?;
        let written = self.write_override(&client, &path, data.as_deref()).await;
        written.map_err(|failure| failure.explain(&doing))
    }

    async fn services(
        &self,
        cx: &Context,
        page: Option<String>,
        limit: u32,
    ) -> Result<ServicesPage, Error> {
        self.services_page(cx, page.as_deref().unwrap_or_default(), limit).await
    }

    async fn instances(
        &self,
        cx: &Context,
        service: String,
        page: Option<String>,
        limit: u32,
        consistency: Consistency,
    ) -> Result<InstancesPage, Error> {
        let after = page.unwrap_or_default();
        self.instances_page(cx, &service, &after, limit, consistency).await
    }

    async fn watch(self: Rc<Self>, service: Option<String>, sink: WatchSink) -> Result<(), Error> {
        self.feed_registry_watch(service, sink).await
    }
}

impl ZooKeeper {
    fn record(&self, instance: Instance) -> InstanceRecord {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok();
        let registered_ms = since.and_then(|since| u64::try_from(since.as_millis()).ok());
        InstanceRecord { instance, owner: self.owner.clone(), registered_ms }
    }

    async fn write_override(
        &self,
        client: &Client,
        path: &str,
        data: Option<&[u8]>,
    ) -> Result<(), Failure> {
        let Some(data) = data else {
            return match client.call(&Delete { path, version: -1 }).await {
                Err(failure) if failure.is(ErrorCode::NO_NODE) => Ok(()),
                outcome => outcome,
            };
        };
        for _ in 1..ATTEMPTS {
            match client.call(&SetData { path, data: Some(data), version: -1 }).await {
                Ok(_) => return Ok(()),
                Err(failure) if failure.is(ErrorCode::NO_NODE) => {}
                Err(failure) => return Err(failure),
            }
            match self.create_in_container(client, path, data, CreateMode::Persistent).await {
                Ok(_) => return Ok(()),
                Err(failure) if failure.is(ErrorCode::NODE_EXISTS) => {}
                Err(failure) => return Err(failure),
            }
        }
        let create =
            Create { path, data: Some(data), acl: &self.acl, mode: CreateMode::Persistent };
        client.call(&create).await.map(drop)
    }
}

/// A node's data and stat, if there is one.
async fn node(client: &Client, path: &str) -> Result<Option<(Vec<u8>, Stat)>, Failure> {
    match client.call(&GetData { path, watch: false }).await {
        Ok((data, stat)) => Ok(Some((data.unwrap_or_default(), stat))),
        Err(failure) if failure.is(ErrorCode::NO_NODE) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Whether a refusal only says that something was changed in between.
fn is_race(failure: &Failure) -> bool {
    failure.is(ErrorCode::NO_NODE)
        || failure.is(ErrorCode::BAD_VERSION)
        || failure.is(ErrorCode::NODE_EXISTS)
}

#[cfg(test)]
mod tests;
