//! Locks: leases with fencing tokens and a notice when they are lost.

mod clock;
mod lease;
mod record;
mod types;

use std::{sync::Arc, time::Duration};

use futures::{Stream, stream};

use crate::{
    error::{Error, Refusal},
    names,
    plugin::{Acquired, Backend, LockWatchRoute, Made},
};

pub(crate) use clock::LeaseClock;
pub use lease::Lease;
pub(crate) use record::LeaseRecord;
pub use types::*;

/// Shortest time that a lease may be asked for.
pub const TTL_MIN: Duration = Duration::from_secs(2);
/// Longest time that a lease may be asked for.
pub const TTL_MAX: Duration = Duration::from_secs(3600);

/// The lock capability of one backend. Cheap to clone.
#[derive(Clone)]
pub struct Lock {
    backend: Arc<Backend>,
    timeout: Option<Duration>,
}

/// How an acquire went.
#[derive(Debug)]
pub enum AcquireOutcome {
    /// The lease is ours until it is released, dropped or lost.
    Held(Lease),
    /// Not within the wait; who holds it.
    Busy(Vec<Claim>),
}

impl Lock {
    pub(crate) fn new(backend: Arc<Backend>) -> Self {
        Self { backend, timeout: None }
    }

    /// Name of the backend.
    #[must_use]
    pub fn backend(&self) -> &str {
        &self.backend.name
    }

    /// The same with another timeout for each call; waiting for a lock comes on top.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Asks for a lease, and waits for it as long as the request says.
    ///
    /// # Errors
    ///
    /// `invalid` for a name or TTL that cannot be; `unsupported` for a mode that the backend does
    /// not offer. Not getting the lock is no error.
    ///
    /// # Cancellation
    ///
    /// Safe: a dropped acquire leaves nothing behind on the backend.
    pub async fn acquire(&self, request: LockRequest) -> Result<AcquireOutcome, Error> {
        names::check_key("lock", &request.name)?;
        check_ttl(request.ttl)?;
        if let Mode::Permit(0) = request.mode {
            let problem = "0 permits can never be held; use 1 or more".into();
            return Err(Refusal::Invalid { argument: "permits", problem }.into());
        }
        let record = Arc::new(LeaseRecord::new(self.backend.next_id(), request.ttl));
        self.backend.routes.leases.insert(record.id, &record);
        let asking = Asking { backend: &self.backend, id: record.id, is_held: false };
        let name = request.name.clone();
        match self.backend.lock_acquire(self.timeout, &record, request).await? {
            Acquired::Held(token) => {
                asking.held();
                let lease = Lease::new(Arc::clone(&self.backend), record, name, token);
                Ok(AcquireOutcome::Held(lease))
            }
            Acquired::Busy(holders) => Ok(AcquireOutcome::Busy(holders)),
        }
    }

    /// Who holds a lock, and who waits for it.
    ///
    /// # Errors
    ///
    /// As any read.
    pub async fn inspect(&self, name: &str) -> Result<LockState, Error> {
        names::check_key("lock", name)?;
        self.backend.lock_inspect(self.timeout, name.to_owned()).await
    }

    /// Names of locks below `prefix` that somebody holds or waits for; `limit` 0 means 1,000.
    ///
    /// # Errors
    ///
    /// As any read.
    pub async fn list(
        &self,
        prefix: &str,
        page: Option<String>,
        limit: u32,
    ) -> Result<LocksPage, Error> {
        names::check_prefix(prefix)?;
        self.backend.lock_list(self.timeout, prefix.to_owned(), page, limit).await
    }

    /// Takes a claim away from whoever has it, and answers whether there was one (feature
    /// `lock.force-release`).
    ///
    /// # Errors
    ///
    /// As any write.
    pub async fn force_release(&self, name: &str, claim_id: &str) -> Result<bool, Error> {
        names::check_key("lock", name)?;
        let (name, claim_id) = (name.to_owned(), claim_id.to_owned());
        self.backend.lock_force_release(self.timeout, name, claim_id).await
    }

    /// The state of a lock, now and after each change (feature `lock.watch`). States in between may
    /// be left out.
    ///
    /// # Errors
    ///
    /// The stream ends after an error.
    pub async fn watch(
        &self,
        name: &str,
    ) -> Result<impl Stream<Item = Result<LockState, Error>> + Send + use<>, Error> {
        names::check_key("lock", name)?;
        let route = Arc::new(LockWatchRoute {
            name: name.to_owned(),
            made: Made::default(),
            state: tokio::sync::watch::Sender::new(None),
        });
        let id = self.backend.next_id();
        self.backend.routes.lock_watches.insert(id, &route);
        let open = OpenWatch { backend: Arc::clone(&self.backend), id, route };
        // Before the first state can come.
        let states = open.route.state.subscribe();
        self.backend.lock_watch(id, &open.route).await?;
        Ok(stream::unfold(Some((open, states)), |following| async move {
            let (open, mut states) = following?;
            states.changed().await.ok()?;
            let next = states.borrow_and_update().clone()?;
            let going_on = next.is_ok().then_some((open, states));
            Some((next, going_on))
        }))
    }
}

/// Takes a lease that nobody got out of the table again, also when who asks for it goes away.
struct Asking<'a> {
    backend: &'a Backend,
    id: u64,
    is_held: bool,
}

impl Asking<'_> {
    fn held(mut self) {
        self.is_held = true;
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.is_held {
            self.backend.routes.leases.remove(self.id);
        }
    }
}

/// Closes the upstream watch when the stream goes.
struct OpenWatch {
    backend: Arc<Backend>,
    id: u64,
    route: Arc<LockWatchRoute>,
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.backend.routes.lock_watches.remove(self.id);
        self.backend.lock_close(self.id);
    }
}

/// Refuses times that the lease clock cannot keep.
pub(crate) fn check_ttl(ttl: Duration) -> Result<(), Refusal> {
    if (TTL_MIN..=TTL_MAX).contains(&ttl) {
        return Ok(());
    }
    let (min, max) = (TTL_MIN.as_secs(), TTL_MAX.as_secs());
    let problem = format!("{} ms; it has to be {min} s to {max} s", ttl.as_millis());
    Err(Refusal::Invalid { argument: "ttl", problem })
}
