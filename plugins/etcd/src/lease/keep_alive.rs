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
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
/// How long opening the stream may wait for a connection; the lease's own clock is shorter.
const OPEN_LIMIT: Duration = Duration::from_secs(3_600);
/// A server that does not answer a renewal for a sixth of the lease's TTL is left for another, but not
/// sooner than this, which leaves the shortest lease time for a second attempt …
const ANSWER_LIMIT_MIN: Duration = Duration::from_millis(700);
/// … and not later than this.
const ANSWER_LIMIT_MAX: Duration = Duration::from_secs(5);

/// Renews leases: requests of all go over one stream, which is opened when it is needed.
pub(super) struct KeepAlive {
    client: Rc<Client>,
    /// The stream that is open or being opened.
    stream: RefCell<Option<Rc<Stream>>>,
}

/// One stream, from its opening to its end.
struct Stream {
    requests: mpsc::UnboundedSender<LeaseKeepAliveRequest>,
    /// Who waits for which lease, in the order of their requests: so the server answers them.
    waiting: RefCell<HashMap<i64, VecDeque<Waiting>>>,
    /// The server that requests go to, and since when.
    server: RefCell<Option<(Server, Instant)>>,
    ended: Cell<bool>,
}

struct Waiting {
    sent_at: Instant,
    answer: oneshot::Sender<Result<Renewal, Error>>,
}

impl KeepAlive {
    pub(super) fn new(client: Rc<Client>) -> Rc<Self> {
        Rc::new(Self { client, stream: RefCell::default() })
    }

    /// Renews a lease with this TTL.
    ///
    /// # Errors
    ///
    /// When the stream breaks first, or the server does not answer.
    ///
    /// # Cancellation
    ///
    /// The answer is not waited for any more.
    pub(super) async fn renew(self: &Rc<Self>, id: i64, ttl: Duration) -> Result<Renewal, Error> {
        let limit = (ttl / 6).clamp(ANSWER_LIMIT_MIN, ANSWER_LIMIT_MAX);
        let stream = self.stream();
        let mut answered = stream.request(id);
        let asked_at = Instant::now();
        loop {
            match timeout(limit, &mut answered).await {
                Ok(Ok(outcome)) => return outcome,
                Ok(Err(_)) => return Err(Error::unavailable("the renewal was given up")),
                Err(_) => {
                    // While there is no server nobody keeps silent.
                    let asked = stream.server.borrow().clone();
                    let Some((server, since)) = asked else { continue };
                    if since.max(asked_at).elapsed() >= limit {
                        let reason = "the server does not answer a renewal";
                        self.client.leave(Lane::Lease, &server, reason);
                        return Err(Error::unavailable(reason));
                    }
                }
            }
        }
    }

    /// The stream that is open or being opened, or a new one.
    fn stream(self: &Rc<Self>) -> Rc<Stream> {
        let mut current = self.stream.borrow_mut();
        if let Some(stream) = current.as_ref().filter(|stream| !stream.has_ended()) {
            return Rc::clone(stream);
        }
        let (requests, sent) = mpsc::unbounded();
        let stream = Rc::new(Stream {
            requests,
            waiting: RefCell::default(),
            server: RefCell::default(),
            ended: Cell::new(false),
        });
        *current = Some(Rc::clone(&stream));
        let (client, running) = (Rc::clone(&self.client), Rc::clone(&stream));
        spawn(async move { running.run(&client, sent).await }).detach();
        stream
    }
}

impl Stream {
    fn has_ended(&self) -> bool {
        self.ended.get() || self.requests.is_closed()
    }

    /// Asks for a renewal; the receiver gets the answer.
    fn request(&self, id: i64) -> oneshot::Receiver<Result<Renewal, Error>> {
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { sent_at: Instant::now(), answer };
        self.waiting.borrow_mut().entry(id).or_default().push_back(waiting);
        // A stream that has just broken tells all who wait.
        let _ = self.requests.unbounded_send(LeaseKeepAliveRequest { id });
        answered
    }

    /// Opens the stream and hands out its answers until it breaks.
    async fn run(&self, client: &Client, requests: mpsc::UnboundedReceiver<LeaseKeepAliveRequest>) {
        let error = self.until_it_breaks(client, requests).await;
        self.ended.set(true);
        for waiting in self.waiting.take().into_values().flatten() {
            // Who does not wait any more need not know.
            let _ = waiting.answer.send(Err(error.clone()));
        }
    }

    async fn until_it_breaks(
        &self,
        client: &Client,
        requests: mpsc::UnboundedReceiver<LeaseKeepAliveRequest>,
    ) -> Error {
        let cx = Context::background("renewing leases", OPEN_LIMIT);
        let link = match client.link(Lane::Lease) {
            Ok(link) => link,
            Err(error) => return error,
        };
        // Who is kept waiting by this has been told that the connection is lost, and the lease's own
        // clock goes on.
        let server = match client.server_patiently(&cx, Lane::Lease).await {
            Ok(server) => server,
            Err(error) => return error,
        };
        self.server.replace(Some((server.clone(), Instant::now())));
        let answers = pin!(self.hand_out(client, &server, requests));
        match select(answers, pin!(link.lost())).await {
            Either::Left((Failure { error, remedy }, _)) => {
                client.remedy(Lane::Lease, &server, remedy, &error);
                error
            }
            Either::Right((reason, _)) => Error::unavailable(reason),
        }
    }

    async fn hand_out(
        &self,
        client: &Client,
        server: &Server,
        requests: mpsc::UnboundedReceiver<LeaseKeepAliveRequest>,
    ) -> Failure {
        let failure = |status| Failure::of(&status, server.channel.peer());
        let request = match client.sign_stream(server, requests).await {
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
        let mut waiting = self.waiting.borrow_mut();
        let Some(queue) = waiting.get_mut(&answer.id) else { return };
        let first = queue.pop_front();
        if queue.is_empty() {
            waiting.remove(&answer.id);
        }
        drop(waiting);
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
