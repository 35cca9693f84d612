//! One live connection to one of a backend's servers, opened again whenever it breaks.

use crate::backoff::Backoff;
use crate::endpoints::{Endpoints, none_reached};
use crate::runtime::{StopOnDrop, spawn};
use crate::signal::Signal;
use crate::time::{Elapsed, Instant, timeout};
use crate::{Context, Endpoint, Error};
use futures::future::{Either, LocalBoxFuture, select};
use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// A connection that has lived this long was a success; one that breaks sooner counts as a failure,
/// so that a server which accepts and hangs up is not stormed.
const SUCCESS_AFTER: Duration = Duration::from_secs(5);

/// What opening one connection gives: a client, and why it is gone, once it is.
pub type Opened<C> = (C, LocalBoxFuture<'static, String>);

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long one server may take, whatever `open` does.
    pub open_timeout: Duration,
    /// Pauses between rounds in which no server could be reached.
    pub backoff: Backoff,
}

impl Default for Options {
    fn default() -> Self {
        Self { open_timeout: Duration::from_secs(5), backoff: Backoff::default() }
    }
}

/// How a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// There is a connection to this server.
    Connected(Endpoint),
    /// There is none; why, if one was tried.
    Connecting(Option<Error>),
}

/// Keeps one connection to any of the servers. Dropping it closes the connection.
pub struct Link<C> {
    shared: Rc<Shared<C>>,
    task: RefCell<Option<StopOnDrop>>,
}

struct Shared<C> {
    current: RefCell<Current<C>>,
    changed: Signal,
    failed_rounds: Cell<u64>,
    reconnects: Cell<u64>,
}

enum Current<C> {
    Connected {
        endpoint: Endpoint,
        client: C,
    },
    /// Its user found it wanting.
    Left(String),
    Connecting(Option<Error>),
    /// Its user wants none any more.
    Closed,
}

impl<C: Clone + 'static> Link<C> {
    /// Starts connecting in the background; `open` makes a client of one endpoint.
    ///
    /// # Errors
    ///
    /// `invalid` when there are no endpoints.
    pub fn start(
        endpoints: Vec<Endpoint>,
        options: Options,
        open: impl AsyncFn(Endpoint) -> Result<Opened<C>, Error> + 'static,
    ) -> Result<Self, Error> {
        let endpoints = Endpoints::new(endpoints)?;
        let shared = Rc::new(Shared {
            current: RefCell::new(Current::Connecting(None)),
            changed: Signal::default(),
            failed_rounds: Cell::new(0),
            reconnects: Cell::new(0),
        });
        let keeping = Rc::clone(&shared);
        let task = spawn(async move { keeping.keep(endpoints, options, open).await });
        Ok(Self { shared, task: RefCell::new(Some(task.stop_on_drop())) })
    }

    /// The client, as soon as there is one.
    ///
    /// # Errors
    ///
    /// What stood in the way: when all servers were tried in vain since the call began, or its time
    /// is over. Nothing was sent.
    pub async fn client(&self, cx: &Context) -> Result<C, Error> {
        let shared = &self.shared;
        let failed_before = shared.failed_rounds.get();
        let outcome = pin!(shared.changed.wait(|| match &*shared.current.borrow() {
            Current::Connected { client, .. } => Some(Ok(client.clone())),
            Current::Connecting(Some(error)) if shared.failed_rounds.get() > failed_before => {
                Some(Err(error.clone()))
            }
            Current::Closed => Some(Err(closed())),
            Current::Connecting(_) | Current::Left(_) => None,
        }));
        match select(outcome, pin!(cx.cancelled())).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right((end, _)) => Err(match self.state() {
                State::Connecting(Some(error)) => error,
                _ => cx.error(end),
            }),
        }
    }

    /// As [`client`](Self::client), over any number of rounds in which no server could be reached.
    /// The link makes its own pauses: others on top of them would keep what is kept open waiting when
    /// a server is back.
    ///
    /// # Errors
    ///
    /// When the call's time is over or the link is closed, and what `passes` says does not pass.
    pub async fn client_patiently(
        &self,
        cx: &Context,
        passes: impl Fn(&Error) -> bool,
    ) -> Result<C, Error> {
        loop {
            match self.client(cx).await {
                Err(error) if passes(&error) && cx.ended().is_none() && !self.is_closed() => {
                    tracing::debug!(%error, "waiting for a connection");
                }
                outcome => return outcome,
            }
        }
    }

    /// The client, if there is one now.
    pub fn client_now(&self) -> Option<C> {
        match &*self.shared.current.borrow() {
            Current::Connected { client, .. } => Some(client.clone()),
            _ => None,
        }
    }

    /// How it is, for the plugin's health.
    pub fn state(&self) -> State {
        match &*self.shared.current.borrow() {
            Current::Connected { endpoint, .. } => State::Connected(endpoint.clone()),
            Current::Left(reason) => State::Connecting(Some(Error::unavailable(reason.clone()))),
            Current::Connecting(error) => State::Connecting(error.clone()),
            Current::Closed => State::Connecting(Some(closed())),
        }
    }

    /// Connections lost since the start.
    pub fn reconnects(&self) -> u64 {
        self.shared.reconnects.get()
    }

    /// Leaves the current server for another, because it answers but cannot serve (it has no leader,
    /// say). Who has its client may go on with it: what was asked there is answered.
    pub fn leave(&self, reason: &str) {
        let mut current = self.shared.current.borrow_mut();
        if matches!(*current, Current::Connected { .. }) {
            *current = Current::Left(reason.to_owned());
            drop(current);
            self.shared.changed.notify();
        }
    }

    /// Closes the connection and opens no other.
    pub fn close(&self) {
        // Stopping the task drops the connection, so nothing may be borrowed while it goes.
        let task = self.task.borrow_mut().take();
        drop(task);
        self.shared.set(Current::Closed);
    }

    fn is_closed(&self) -> bool {
        matches!(*self.shared.current.borrow(), Current::Closed)
    }

    /// As [`leave`](Self::leave), unless the connection that was found wanting is gone already and
    /// this is another.
    pub fn leave_if(&self, reason: &str, is_wanting: impl FnOnce(&C) -> bool) {
        let is_current = match &*self.shared.current.borrow() {
            Current::Connected { client, .. } => is_wanting(client),
            _ => false,
        };
        if is_current {
            self.leave(reason);
        }
    }

    /// Waits until a connection is lost, the present one or the next, and answers why.
    pub async fn lost(&self) -> String {
        let mut state = self.state();
        while !matches!(state, State::Connected(_)) {
            state = self.changed(&state).await;
        }
        loop {
            match self.changed(&state).await {
                State::Connecting(Some(error)) => return error.message().to_owned(),
                State::Connecting(None) => return "the connection is gone".to_owned(),
                connected => state = connected,
            }
        }
    }

    /// Waits until the link's state is other than `known`.
    pub async fn changed(&self, known: &State) -> State {
        self.shared.changed.wait(|| Some(self.state()).filter(|state| state != known)).await
    }
}

impl<C> Shared<C> {
    async fn keep(
        &self,
        mut endpoints: Endpoints,
        options: Options,
        open: impl AsyncFn(Endpoint) -> Result<Opened<C>, Error>,
    ) {
        let mut backoff = options.backoff;
        loop {
            match round(&mut endpoints, options.open_timeout, &open).await {
                Ok((endpoint, (client, gone))) => {
                    let begun = Instant::now();
                    self.set(Current::Connected { endpoint, client });
                    let reason = self.until_gone_or_left(gone).await;
                    self.reconnects.set(self.reconnects.get() + 1);
                    tracing::info!(reason, "connection lost");
                    self.set(Current::Connecting(Some(Error::unavailable(reason))));
                    if begun.elapsed() >= SUCCESS_AFTER {
                        backoff.reset();
                        continue;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "no server can be used");
                    self.failed_rounds.set(self.failed_rounds.get() + 1);
                    self.set(Current::Connecting(Some(error)));
                }
            }
            backoff.wait().await;
        }
    }

    async fn until_gone_or_left(&self, gone: LocalBoxFuture<'static, String>) -> String {
        let left = pin!(self.changed.wait(|| match &*self.current.borrow() {
            Current::Left(reason) => Some(reason.clone()),
            _ => None,
        }));
        match select(gone, left).await {
            Either::Left((reason, _)) | Either::Right((reason, _)) => reason,
        }
    }

    fn set(&self, current: Current<C>) {
        drop(self.current.replace(current));
        self.changed.notify();
    }
}

fn closed() -> Error {
    Error::unavailable("the connection was closed for good")
}

/// Tries each server once.
async fn round<C>(
    endpoints: &mut Endpoints,
    limit: Duration,
    open: &impl AsyncFn(Endpoint) -> Result<Opened<C>, Error>,
) -> Result<(Endpoint, Opened<C>), Error> {
    let mut failures = Vec::new();
    for _ in 0..endpoints.count() {
        let endpoint = endpoints.next_endpoint();
        match timeout(limit, open(endpoint.clone())).await {
            Ok(Ok(opened)) => return Ok((endpoint, opened)),
            Ok(Err(error)) => failures.push(error),
            Err(Elapsed) => failures.push(
                Error::unavailable(format!(
                    "{endpoint}: not ready within {} ms",
                    limit.as_millis()
                ))
                .detail("endpoint", endpoint.to_string()),
            ),
        }
    }
    Err(none_reached(failures))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::run;
    use crate::time::sleep;
    use futures::channel::oneshot;

    fn endpoints(count: u16) -> Vec<Endpoint> {
        (1..=count).map(|port| Endpoint { host: "zk".to_owned(), port, tls: false }).collect()
    }

    fn call() -> Context {
        Context::background("test", Duration::from_secs(5))
    }

    fn open_for_ever(endpoint: &Endpoint) -> Opened<u16> {
        (endpoint.port, Box::pin(std::future::pending()))
    }

    #[test]
    fn a_server_that_fails_is_passed_over() {
        run(async {
            let link = Link::start(endpoints(3), Options::default(), async |endpoint: Endpoint| {
                match endpoint.port {
                    2 => Ok(open_for_ever(&endpoint)),
                    _ => Err(Error::unavailable("refused")),
                }
            });
            assert_eq!(link.unwrap().client(&call()).await.unwrap(), 2);
        });
    }

    #[test]
    fn a_call_learns_why_no_server_can_be_reached() {
        run(async {
            let link = Link::<u16>::start(endpoints(2), Options::default(), async |endpoint| {
                Err(Error::unavailable(format!("{endpoint}: refused")))
            });
            let link = link.unwrap();
            let begun = Instant::now();
            let error = link.client(&call()).await.unwrap_err();
            assert!(error.message().contains("zk:1: refused"), "{error}");
            assert!(error.message().contains("zk:2: refused"), "{error}");
            assert!(begun.elapsed() < Duration::from_secs(1), "not at the call's deadline");
        });
    }

    #[test]
    fn who_is_patient_waits_until_a_server_is_back_but_not_for_what_does_not_pass() {
        run(async {
            let attempts = Rc::new(Cell::new(0));
            let count = Rc::clone(&attempts);
            let open = async move |endpoint: Endpoint| {
                count.set(count.get() + 1);
                match count.get() {
                    1..=3 => Err(Error::unavailable("refused")),
                    _ => Ok(open_for_ever(&endpoint)),
                }
            };
            let start = |open| Link::start(endpoints(1), Options::default(), open).unwrap();
            let cx = Context::background("test", Duration::from_secs(60));
            let link = start(open.clone());
            assert_eq!(link.client_patiently(&cx, |_| true).await.unwrap(), 1);
            assert_eq!(attempts.replace(0), 4);
            let refused = start(open).client_patiently(&cx, |_| false).await.unwrap_err();
            assert!(refused.message().contains("refused"), "{refused}");
            assert_eq!(attempts.get(), 1);
        });
    }

    #[test]
    fn a_server_that_does_not_answer_is_given_up_and_the_next_is_tried() {
        run(async {
            let link = Link::start(endpoints(2), Options::default(), async |endpoint: Endpoint| {
                if endpoint.port == 1 {
                    return std::future::pending().await;
                }
                Ok(open_for_ever(&endpoint))
            });
            let cx = Context::background("test", Duration::from_secs(60));
            assert_eq!(link.unwrap().client(&cx).await.unwrap(), 2);
        });
    }

    #[test]
    fn a_broken_connection_is_opened_again_with_growing_pauses() {
        run(async {
            let opened = Rc::new(RefCell::new(Vec::new()));
            let times = Rc::clone(&opened);
            let open = async move |endpoint: Endpoint| {
                times.borrow_mut().push(Instant::now());
                let gone = async { "reset by peer".to_owned() };
                Ok((endpoint.port, Box::pin(gone) as LocalBoxFuture<'static, String>))
            };
            let link = Link::start(endpoints(1), Options::default(), open).unwrap();
            sleep(Duration::from_secs(60)).await;
            let count = opened.borrow().len();
            assert!((8..30).contains(&count), "{count} connections in a minute");
            assert_eq!(link.reconnects(), u64::try_from(count).unwrap());
            drop(link);
            sleep(Duration::from_secs(60)).await;
            assert_eq!(opened.borrow().len(), count, "a link that was dropped does nothing");
        });
    }

    #[test]
    fn a_server_that_cannot_serve_is_left() {
        run(async {
            let link = Link::start(endpoints(2), Options::default(), async |endpoint: Endpoint| {
                Ok(open_for_ever(&endpoint))
            });
            let link = link.unwrap();
            let first = link.client(&call()).await.unwrap();
            link.leave("no leader");
            assert_eq!(link.client_now(), None);
            link.leave_if("late", |client| *client == first);
            let second = link.client(&call()).await.unwrap();
            assert_ne!(first, second);
            link.leave_if("what another call found out late", |client| *client == first);
            assert_eq!(link.client_now(), Some(second));
        });
    }

    #[test]
    fn a_link_that_was_closed_opens_no_other_connection() {
        run(async {
            let opened = Rc::new(Cell::new(0));
            let count = Rc::clone(&opened);
            let open = async move |endpoint: Endpoint| {
                count.set(count.get() + 1);
                Ok(open_for_ever(&endpoint))
            };
            let link = Link::start(endpoints(2), Options::default(), open).unwrap();
            link.client(&call()).await.unwrap();
            link.close();
            assert_eq!(link.client_now(), None);
            let error = link.client(&call()).await.unwrap_err();
            assert_eq!(error.message(), "the connection was closed for good");
            let patiently = link.client_patiently(&call(), |_| true).await.unwrap_err();
            assert_eq!(patiently, error);
            sleep(Duration::from_secs(60)).await;
            assert_eq!(opened.get(), 1);
        });
    }

    #[test]
    fn a_link_that_breaks_says_so_at_once() {
        run(async {
            let (break_it, broken) = oneshot::channel::<()>();
            let broken = Cell::new(Some(broken));
            let open = async move |endpoint: Endpoint| {
                let Some(broken) = broken.take() else { return Err(Error::unavailable("down")) };
                let gone = async move {
                    let _ = broken.await;
                    "reset by peer".to_owned()
                };
                Ok((endpoint.port, Box::pin(gone) as LocalBoxFuture<'static, String>))
            };
            let link = Link::start(endpoints(1), Options::default(), open).unwrap();
            link.client(&call()).await.unwrap();
            let connected = link.state();
            assert!(matches!(connected, State::Connected(_)));
            break_it.send(()).unwrap();
            assert_eq!(link.lost().await, "reset by peer");
            let State::Connecting(Some(why)) = link.state() else { panic!() };
            assert!(!why.message().is_empty());
        });
    }
}
