//! One incarnation under test, with its events fetched as a host does it.

mod config;
mod lock;
mod registry;
mod ttl;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use pintle::{
    Capability,
    direct::{self, Call, Failure, Faults, Incarnation},
};
use tokio::{sync::watch, task::AbortHandle};

use crate::{
    check::{Outcome, PROMPT, Stop},
    inbox::Inbox,
    subject::Subject,
};
pub(crate) use config::{anything, read, typed, write};
pub(crate) use lock::{Grant, asking};
pub(crate) use registry::{OVERRULED, instance};

/// An incarnation that owns what it makes on the backend.
pub(crate) struct Owner {
    /// Its interface, for what has no shorter form here.
    pub(crate) raw: Arc<Incarnation>,
    /// What its network does wrong.
    pub(crate) faults: Arc<Faults>,
    pub(crate) config: Arc<Inbox<direct::config::Event>>,
    pub(crate) registry: Arc<Inbox<direct::registry::Event>>,
    pub(crate) lock: Arc<Inbox<direct::lock::Event>>,
    subject: Arc<Subject>,
    next_id: AtomicU64,
    fetching: watch::Sender<bool>,
    /// Polls that are pending.
    polls: watch::Sender<usize>,
    pumps: Vec<AbortHandle>,
}

/// How long one poll waits; its empty answer is the heartbeat.
const POLL: Duration = Duration::from_secs(5);
/// Events of one poll.
const EVENTS_MAX: u32 = 256;
/// After a poll that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// One poll under way.
type Fetch<'a, E> = BoxFuture<'a, Result<Vec<(u64, E)>, Failure>>;

/// A call with the usual time.
pub(crate) fn call() -> Call {
    Call::within(PROMPT)
}

impl Owner {
    pub(crate) fn new(subject: Arc<Subject>, raw: Incarnation, faults: Arc<Faults>) -> Self {
        let mut owner = Self {
            raw: Arc::new(raw),
            faults,
            config: Arc::default(),
            registry: Arc::default(),
            lock: Arc::default(),
            next_id: AtomicU64::new(1),
            fetching: watch::Sender::new(true),
            polls: watch::Sender::new(0),
            pumps: Vec::new(),
            subject,
        };
        for capability in owner.subject.plugin().capabilities.clone() {
            let pump: BoxFuture<'static, ()> = match capability {
                Capability::Config => {
                    owner.pump(&owner.config, |raw| Box::pin(raw.config_poll(poll(), EVENTS_MAX)))
                }
                Capability::Registry => owner
                    .pump(&owner.registry, |raw| Box::pin(raw.registry_poll(poll(), EVENTS_MAX))),
                Capability::Lock => {
                    owner.pump(&owner.lock, |raw| Box::pin(raw.lock_poll(poll(), EVENTS_MAX)))
                }
                Capability::Tracing => continue,
            };
            owner.pumps.push(tokio::spawn(pump).abort_handle());
        }
        owner
    }

    /// A number for a watch, lease or registration.
    pub(crate) fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether the plugin declares `feature`.
    pub(crate) fn has(&self, feature: &str) -> bool {
        self.subject.plugin().features.contains(feature)
    }

    /// Whether the plugin offers `capability`.
    pub(crate) fn offers(&self, capability: Capability) -> bool {
        self.subject.plugin().capabilities.contains(&capability)
    }

    /// Sees to it that lost replies are not only asked for: how many there were.
    ///
    /// # Errors
    ///
    /// Unclear when there was none. A plugin that waits for no reply, or for none over its sockets,
    /// is not measured by what would be if one were lost.
    pub(crate) fn lost_replies(&self) -> Outcome<u64> {
        match self.faults.replies_lost() {
            0 => Err(Stop::Unclear("no reply was lost: it waited for none over a socket".into())),
            lost => Ok(lost),
        }
    }

    /// Begins no further poll, as a host that is too busy; a poll that is pending may still bring
    /// one batch.
    pub(crate) fn stop_fetching(&self) {
        self.fetching.send_replace(false);
    }

    /// Begins no further poll, and waits until none is pending.
    pub(crate) async fn without_polls(&self) {
        self.stop_fetching();
        // Fails only when the sender is gone, which `self` has.
        let _ = self.polls.subscribe().wait_for(|polls| *polls == 0).await;
    }

    /// Polls again.
    pub(crate) fn go_on_fetching(&self) {
        self.fetching.send_replace(true);
    }

    /// Ends as a host that shuts down.
    ///
    /// # Errors
    ///
    /// What the plugin answers to `stop`.
    pub(crate) async fn stop(&self) -> Outcome {
        let stopped = self.raw.stop(call()).await;
        self.kill().await;
        Ok(stopped?)
    }

    /// Ends as a host that crashes.
    pub(crate) async fn kill(&self) {
        self.pumps.iter().for_each(AbortHandle::abort);
        self.raw.kill().await;
    }

    fn pump<E: Clone + Send + 'static>(
        &self,
        inbox: &Arc<Inbox<E>>,
        fetch: for<'a> fn(&'a Incarnation) -> Fetch<'a, E>,
    ) -> BoxFuture<'static, ()> {
        let (raw, inbox) = (Arc::clone(&self.raw), Arc::clone(inbox));
        let (mut fetching, polls) = (self.fetching.subscribe(), self.polls.clone());
        Box::pin(async move {
            while fetching.wait_for(|fetching| *fetching).await.is_ok() {
                polls.send_modify(|polls| *polls += 1);
                let fetched = fetch(&raw).await.map(|events| inbox.put(events));
                polls.send_modify(|polls| *polls -= 1);
                match fetched {
                    Ok(()) => {}
                    Err(Failure::Ended(_)) => return,
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        })
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.pumps.iter().for_each(AbortHandle::abort);
    }
}

fn poll() -> Call {
    Call::within(POLL)
}
