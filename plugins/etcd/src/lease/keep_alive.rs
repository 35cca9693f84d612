//! The stream over which leases are renewed.

use super::validity;
use crate::client::{Client, Lane};
use crate::error::Failure;
use crate::server::Server;
use crate::wire::messages::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use futures::channel::{mpsc, oneshot};
use futures::future::{Either, select};
use pintle_plugin_sdk::grpc;
use pintle_plugin_sdk::session::Renewal;
use pintle_plugin_sdk::time::{Instant, timeout};
use pintle_plugin_sdk::{Context, Error, spawn};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
/// How long opening the stream may wait for a connection; the lease's own clock is shorter.
const OPEN_LIMIT: Duration = Duration::from_secs(3_600);
/// A server that does not answer a renewal for so long is left for another: the shortest lease has
/// time for a second attempt.
const ANSWER_LIMIT: Duration = Duration::from_millis(700);

/// Renews leases: requests of all go over one stream, which is opened when it is needed.
pub(super) struct KeepAlive {
    client: Rc<Client>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Into the open stream, or the one that is being opened.
    requests: Option<mpsc::UnboundedSender<LeaseKeepAliveRequest>>,
    /// Who waits for which lease, in the order of their requests: so the server answers them.
    waiting: HashMap<i64, VecDeque<Waiting>>,
}

struct Waiting {
    sent_at: Instant,
    answer: oneshot::Sender<Result<Renewal, Error>>,
}

impl KeepAlive {
    pub(super) fn new(client: Rc<Client>) -> Rc<Self> {
        Rc::new(Self { client, state: RefCell::default() })
    }

    /// Renews a lease.
    ///
    /// # Errors
    ///
    /// When the stream breaks first, or the server does not answer.
    ///
    /// # Cancellation
    ///
    /// The answer is not waited for any more.
    pub(super) async fn renew(self: &Rc<Self>, id: i64) -> Result<Renewal, Error> {
        let (answer, answered) = oneshot::channel();
        self.request(id, answer);
        match timeout(ANSWER_LIMIT, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Error::unavailable("the renewal was given up")),
            Err(_) => {
                let reason = "the server does not answer a renewal";
                self.client.leave(Lane::Lease, reason);
                Err(Error::unavailable(reason))
            }
        }
    }

    fn request(self: &Rc<Self>, id: i64, answer: oneshot::Sender<Result<Renewal, Error>>) {
        let mut state = self.state.borrow_mut();
        let waiting = Waiting { sent_at: Instant::now(), answer };
        state.waiting.entry(id).or_default().push_back(waiting);
        let request = LeaseKeepAliveRequest { id };
        let sent = state.requests.as_ref().map(|requests| requests.unbounded_send(request));
        if !matches!(sent, Some(Ok(()))) {
            let (requests, stream) = mpsc::unbounded();
            // The receiver is in our hands: it cannot be closed.
            let _ = requests.unbounded_send(request);
            state.requests = Some(requests);
            let this = Rc::clone(self);
            spawn(async move { this.run(stream).await }).detach();
        }
    }

    /// Opens a stream and hands out its answers until it breaks.
    async fn run(&self, requests: mpsc::UnboundedReceiver<LeaseKeepAliveRequest>) {
        let error = self.until_it_breaks(requests).await;
        let mut state = self.state.borrow_mut();
        state.requests = None;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for waiting in waiting.into_values().flatten() {
            // Who does not wait any more need not know.
            let _ = waiting.answer.send(Err(error.clone()));
        }
    }

    async fn until_it_breaks(
        &self,
        requests: mpsc::UnboundedReceiver<LeaseKeepAliveRequest>,
    ) -> Error {
        let cx = Context::background("renewing leases", OPEN_LIMIT);
        let link = match self.client.link(Lane::Lease) {
            Ok(link) => link,
            Err(error) => return error,
        };
        let server = match link.client(&cx).await {
            Ok(server) => server,
            Err(error) => return error,
        };
        let answers = pin!(self.hand_out(&server, requests));
        match select(answers, pin!(link.lost())).await {
            Either::Left((Failure { error, remedy }, _)) => {
                self.client.remedy(Lane::Lease, &server, remedy, &error);
                error
            }
            Either::Right((reason, _)) => Error::unavailable(reason),
        }
    }

    async fn hand_out(
        &self,
        server: &Server,
        requests: mpsc::UnboundedReceiver<LeaseKeepAliveRequest>,
    ) -> Failure {
        let failure = |status| Failure::of(&status, server.channel.peer());
        let request = match self.client.sign_stream(server, requests).await {
            Ok(request) => request,
            Err(failure) => return failure,
        };
        let opened = grpc::streaming(&server.channel, KEEP_ALIVE, request).await;
        let mut answers = match opened {
            Ok(answers) => answers,
            Err(status) => return failure(status),
        };
        loop {
            match answers.message().await {
                Ok(Some(answer)) => self.answered(answer),
                Ok(None) => return Failure::ended(server.channel.peer()),
                Err(status) => return failure(status),
            }
        }
    }

    fn answered(&self, answer: LeaseKeepAliveResponse) {
        let mut state = self.state.borrow_mut();
        let Some(queue) = state.waiting.get_mut(&answer.id) else { return };
        let first = queue.pop_front();
        if queue.is_empty() {
            state.waiting.remove(&answer.id);
        }
        drop(state);
        let Some(Waiting { sent_at, answer: waiting }) = first else { return };
        let renewal = if answer.ttl > 0 {
            Renewal::Renewed(validity(sent_at, answer.ttl))
        } else {
            Renewal::Gone("the server does not know the lease any more".to_owned())
        };
        // Who does not wait any more need not know.
        let _ = waiting.send(Ok(renewal));
    }
}
