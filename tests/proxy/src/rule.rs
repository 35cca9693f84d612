//! Rules choose messages; actions are what happens to them.

use std::sync::Arc;

use crate::state::{Shared, WaitError, wait_for};
use crate::{Connection, Cut, Direction, Fault, Message};

type Choose = Box<dyn FnMut(&Message<'_>) -> bool + Send>;

/// Which messages are meant. Unless told otherwise, the first one that fits.
///
/// Closures run while the proxy's state is locked: they must not call the proxy.
pub struct Rule {
    direction: Direction,
    choose: Choose,
    request: Option<Choose>,
    skip: u64,
    times: u64,
    connection: Option<u64>,
    awaited: Vec<(u64, Option<u64>)>,
}

impl Rule {
    /// A message from the server that fits.
    pub fn reply(choose: impl FnMut(&Message<'_>) -> bool + Send + 'static) -> Rule {
        Rule::new(Direction::ToClient, Box::new(choose), None)
    }

    /// A message from the client that fits.
    pub fn request(choose: impl FnMut(&Message<'_>) -> bool + Send + 'static) -> Rule {
        Rule::new(Direction::ToServer, Box::new(choose), None)
    }

    /// The first message of the reply to a request that fits: the next message to the client on
    /// the same connection with the same correlation, or the very next if the request has none.
    pub fn reply_to(request: impl FnMut(&Message<'_>) -> bool + Send + 'static) -> Rule {
        Rule::new(Direction::ToClient, Box::new(|_| true), Some(Box::new(request)))
    }

    fn new(direction: Direction, choose: Choose, request: Option<Choose>) -> Rule {
        let awaited = Vec::new();
        Rule { direction, choose, request, skip: 0, times: 1, connection: None, awaited }
    }

    /// Of those messages only the ones that also fit this: with [`Rule::reply_to`] and
    /// [`Message::ends_stream`], the last frame of an HTTP/2 reply.
    #[must_use]
    pub fn and(mut self, mut fits: impl FnMut(&Message<'_>) -> bool + Send + 'static) -> Rule {
        let mut choose = self.choose;
        self.choose = Box::new(move |message| choose(message) && fits(message));
        self
    }

    /// The n-th that fits, from 1, counted over all connections.
    #[must_use]
    pub fn nth(mut self, n: u64) -> Rule {
        self.skip = n.saturating_sub(1);
        self
    }

    /// This many, one after the other.
    #[must_use]
    pub fn times(mut self, times: u64) -> Rule {
        self.times = times;
        self
    }

    /// Every one.
    #[must_use]
    pub fn always(self) -> Rule {
        self.times(u64::MAX)
    }

    /// Only on this connection.
    #[must_use]
    pub fn on(mut self, connection: &Connection) -> Rule {
        self.connection = Some(connection.id());
        self
    }

    /// Whether this message is one of those meant. Called once for each message, in order.
    pub(crate) fn chooses(&mut self, message: &Message<'_>) -> bool {
        if self.times == 0 || self.connection.is_some_and(|only| only != message.connection) {
            return false;
        }
        if !self.fits(message) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times -= 1;
        true
    }

    fn fits(&mut self, message: &Message<'_>) -> bool {
        let Some(request) = &mut self.request else {
            return message.direction == self.direction && (self.choose)(message);
        };
        if message.direction == Direction::ToServer {
            if request(message) {
                self.awaited.push((message.connection, message.head.correlation));
            }
            return false;
        }
        let correlation = message.head.correlation;
        let position = self.awaited.iter().position(|(connection, awaited)| {
            *connection == message.connection && (awaited.is_none() || *awaited == correlation)
        });
        match position {
            Some(position) if (self.choose)(message) => {
                self.awaited.swap_remove(position);
                true
            }
            _ => false,
        }
    }
}

/// What happens to a chosen message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The connection is cut; the message is not delivered.
    CutBefore(Cut),
    /// The message is delivered, then the connection is cut.
    CutAfter(Cut),
    /// The message vanishes; the connection stays.
    Drop,
    /// The connection gets this fault before the message is delivered: with
    /// [`Fault::BlackholeTowards`] the message is held, and what is behind it, until the fault ends.
    Fault(Fault),
}

/// A rule in force.
pub struct Armed {
    pub(crate) id: u64,
    pub(crate) shared: Arc<Shared>,
}

impl Armed {
    /// Waits until the rule has fired and its action is complete: for cuts, both sockets closed.
    ///
    /// # Errors
    /// [`WaitError`] when it has not within the proxy's deadline.
    pub async fn fired(&self) -> Result<(), WaitError> {
        self.fired_times(1).await
    }

    /// Waits until the rule has fired this many times.
    ///
    /// # Errors
    /// [`WaitError`] when it has not within the proxy's deadline.
    pub async fn fired_times(&self, n: u64) -> Result<(), WaitError> {
        let what = || format!("a rule to fire {n} times, it fired {} times", self.count());
        wait_for(&self.shared, || self.count() >= n, what).await
    }

    /// How many times it has fired.
    pub fn count(&self) -> u64 {
        self.shared.lock().rules.get(&self.id).map_or(0, |rule| rule.fired)
    }

    /// Takes the rule out of force.
    pub fn disarm(&self) {
        if let Some(rule) = self.shared.lock().rules.get_mut(&self.id) {
            rule.rule.times = 0;
        }
    }
}
