//! What the handles and the tasks of one proxy share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::connection::Link;
use crate::{Action, Direction, Fault, Framing, Message, Rule};

/// What a proxy has counted since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that are open now.
    pub live: u64,
    /// Connections that ended because the server could not be reached.
    pub unreachable: u64,
    /// Connections that the proxy itself cut.
    pub cut: u64,
    /// Messages delivered to the server.
    pub messages_to_server: u64,
    /// Messages delivered to clients.
    pub messages_to_client: u64,
    /// Bytes delivered to the server.
    pub bytes_to_server: u64,
    /// Bytes delivered to clients.
    pub bytes_to_client: u64,
}

/// Something did not happen within the deadline.
#[derive(Debug, Clone, thiserror::Error)]
#[error("waited {seconds} s for {what}")]
pub struct WaitError {
    pub(crate) seconds: u64,
    pub(crate) what: String,
}

pub(crate) struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    pub(crate) framing: Framing,
    pub(crate) record_len_max: usize,
    pub(crate) deadline: Duration,
}

pub(crate) struct State {
    pub(crate) upstream: SocketAddr,
    pub(crate) fault: Fault,
    pub(crate) links: Vec<Arc<Link>>,
    pub(crate) rules: BTreeMap<u64, ArmedRule>,
    pub(crate) counts: Counts,
}

pub(crate) struct ArmedRule {
    pub(crate) rule: Rule,
    pub(crate) action: Action,
    pub(crate) fired: u64,
}

/// A rule chose a message: what to do, and which rule to report to when it is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chosen {
    pub(crate) rule: u64,
    pub(crate) action: Action,
}

impl Shared {
    pub(crate) fn new(
        upstream: SocketAddr,
        framing: Framing,
        record_len_max: usize,
        deadline: Duration,
    ) -> Shared {
        let state = State {
            upstream,
            fault: Fault::None,
            links: Vec::new(),
            rules: BTreeMap::new(),
            counts: Counts::default(),
        };
        let (changed, _) = watch::channel(());
        Shared { state: Mutex::new(state), changed, framing, record_len_max, deadline }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes whoever waits for a change.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_replace(());
        result
    }

    pub(crate) fn choose(&self, message: &Message<'_>) -> Option<Chosen> {
        let mut state = self.lock();
        let mut chosen = None;
        // Every rule sees every message, so that those that count go on counting.
        for (id, armed) in &mut state.rules {
            if armed.rule.chooses(message) && chosen.is_none() {
                chosen = Some(Chosen { rule: *id, action: armed.action });
            }
        }
        chosen
    }

    pub(crate) fn report_fired(&self, rule: u64) {
        self.update(|state| {
            if let Some(armed) = state.rules.get_mut(&rule) {
                armed.fired += 1;
            }
        });
    }

    pub(crate) fn report_delivered(&self, direction: Direction, bytes: usize) {
        self.update(|state| {
            let counts = &mut state.counts;
            let (messages, total) = match direction {
                Direction::ToServer => {
                    (&mut counts.messages_to_server, &mut counts.bytes_to_server)
                }
                Direction::ToClient => {
                    (&mut counts.messages_to_client, &mut counts.bytes_to_client)
                }
            };
            *messages += 1;
            *total += bytes as u64;
        });
    }
}

/// Waits until `holds`, which is asked after every change of the state.
pub(crate) async fn wait_for(
    shared: &Shared,
    holds: impl Fn() -> bool,
    what: impl FnOnce() -> String,
) -> Result<(), WaitError> {
    let mut changes = shared.changed.subscribe();
    let waiting = async {
        while !holds() {
            // The sender lives in `shared`, which is borrowed here.
            if changes.changed().await.is_err() {
                break;
            }
        }
    };
    match tokio::time::timeout(shared.deadline, waiting).await {
        Ok(()) => Ok(()),
        Err(_) => Err(WaitError { seconds: shared.deadline.as_secs(), what: what() }),
    }
}
