//! What a check works with: a part of the backend of its own, and as many owners as it starts.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use pintle::{
    Capability,
    direct::{Failure, Start, Weather},
};

use crate::{
    check::{Outcome, Stop},
    evidence::Evidence,
    hook::Hooks,
    owner::{OVERRULED, Owner, call},
    pace::within,
    subject::{Space, Subject},
};

/// One run of one check.
pub(crate) struct Trial {
    pub(crate) subject: Arc<Subject>,
    pub(crate) evidence: Evidence,
    pub(crate) hooks: Hooks,
    space: Space,
    owners: Vec<Arc<Owner>>,
    /// The services that it has named.
    services: Mutex<BTreeSet<String>>,
}

impl Trial {
    pub(crate) fn new(subject: Arc<Subject>, hooks: Hooks) -> Self {
        let space = subject.space();
        let (owners, services) = (Vec::new(), Mutex::default());
        Self { subject, evidence: Evidence::new(), hooks, space, owners, services }
    }

    /// Starts an owner; its name shows in the evidence.
    pub(crate) async fn owner(&mut self, name: &str) -> Outcome<Arc<Owner>> {
        Ok(self.try_owner(name, Start::default()).await?)
    }

    /// Starts an owner that takes over from one that has ended.
    pub(crate) async fn successor(&mut self, name: &str, of: &Owner) -> Outcome<Arc<Owner>> {
        let resume = of.raw.checkpoint();
        self.note(format!(
            "{name} starts with a checkpoint of {} bytes",
            resume.as_ref().map_or(0, Vec::len)
        ));
        Ok(self.try_owner(name, Start { resume, ..Start::default() }).await?)
    }

    /// Starts an owner that may be refused.
    pub(crate) async fn try_owner(
        &mut self,
        name: &str,
        start: Start,
    ) -> Result<Arc<Owner>, Failure> {
        let owner = self.subject.start(name, &self.space, start, &self.evidence).await?;
        self.owners.push(Arc::clone(&owner));
        Ok(owner)
    }

    /// Several owners at once where the backend lets them, or else one under several names.
    pub(crate) async fn contenders<const N: usize>(&mut self) -> Outcome<[Arc<Owner>; N]> {
        let shares = self.subject.shares();
        let first = self.owner("a").await?;
        let mut all = Vec::new();
        for number in 0..N {
            let owner = match number {
                1.. if shares => self.owner(&format!("contender-{number}")).await?,
                _ => Arc::clone(&first),
            };
            all.push(owner);
        }
        all.try_into().map_err(|_| Stop::Unclear("the suite counted wrong".into()))
    }

    /// Another owner where the backend lets two work at once; else the same.
    pub(crate) async fn other(&mut self, owner: &Arc<Owner>) -> Outcome<Arc<Owner>> {
        if self.subject.shares() { self.owner("b").await } else { Ok(Arc::clone(owner)) }
    }

    /// The prefix that belongs to this check alone.
    pub(crate) fn prefix(&self) -> String {
        self.space.prefix.clone()
    }

    /// A key, or the name of a lock, below it.
    pub(crate) fn key(&self, tail: &str) -> String {
        format!("{}/{tail}", self.space.prefix)
    }

    /// The name of a service that belongs to this check alone.
    pub(crate) fn service(&self, tail: &str) -> String {
        let name = format!("{}-{tail}", self.space.prefix.replace('/', "-"));
        self.services().insert(name.clone());
        name
    }

    /// What a feature is asked for with that is not declared, whatever it names: a key, a lock, or a
    /// service.
    pub(crate) fn undeclared(&self, feature: &str) -> String {
        let name = self.key(&format!("undeclared/{feature}"));
        self.services().insert(name.clone());
        name
    }

    fn services(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what the suite itself does.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        self.evidence.note(text);
    }

    /// Whether the plugin declares `feature`.
    pub(crate) fn has(&self, feature: &str) -> bool {
        self.subject.plugin().features.contains(feature)
    }

    /// Ends all owners, and removes what the check has written.
    pub(crate) async fn end(self) {
        self.owners.iter().for_each(|owner| owner.faults.set(Weather::Clear));
        join_all(self.owners.iter().map(|owner| stop(owner))).await;
        if self.subject.has_network() && !self.owners.is_empty() {
            // What stays is under the suite's own names; the next run does not meet it.
            let _ = tokio::time::timeout(CLEAN, self.clean()).await;
        }
        if let Some(dir) = &self.space.data_dir {
            let _ = std::fs::remove_dir_all(dir);
        }
    }

    /// Removes what outlives owners, by one that nothing was done to. What they held ends with their
    /// leases.
    async fn clean(&self) -> Result<(), Failure> {
        let start = Start::default();
        let owner = self.subject.start("end", &self.space, start, &self.evidence).await?;
        if owner.offers(Capability::Config) {
            let _ = owner.raw.config_delete_prefix(call(), self.prefix(), None).await;
        }
        let services = std::mem::take(&mut *self.services());
        for service in services.iter().filter(|_| owner.offers(Capability::Registry)) {
            for state in owner.instances(service).await.unwrap_or_default() {
                let id = state.instance.id;
                let _ = owner.raw.registry_remove(call(), service.clone(), id).await;
            }
            // Overrides stand there without an instance, too.
            let id = OVERRULED.to_owned();
            let _ = owner.raw.registry_set_override(call(), service.clone(), id, None).await;
        }
        stop(&owner).await;
        Ok(())
    }
}

async fn stop(owner: &Owner) {
    let _ = tokio::time::timeout(STOP, owner.stop()).await;
    owner.kill().await;
}

/// How long an owner may take to stop when its check is over.
const STOP: Duration = Duration::from_secs(2);
/// How long it may take to remove what a check has written.
const CLEAN: Duration = Duration::from_secs(10);

/// How often a condition is looked at that has no event.
pub(crate) const LOOK: Duration = Duration::from_millis(25);

/// Waits until `look` answers something.
///
/// # Errors
///
/// As [`within`].
pub(crate) async fn eventually<T, F>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> F,
) -> Outcome<T>
where
    F: Future<Output = Outcome<Option<T>>>,
{
    let looking = async {
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    within(what, limit, looking).await
}
