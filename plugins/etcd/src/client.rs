//! Requests to the servers: which connection they take, and what is tried again.

use crate::auth::Auth;
use crate::error::{Failure, Remedy, is_passing};
use crate::server::{Server, ServerOptions};
use crate::wire::messages::{
    DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, LeaseGrantResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    ResponseHeader, TxnRequest, TxnResponse,
};
use futures::future::{Either, select};
use pintle_plugin_sdk::backoff::Backoff;
use pintle_plugin_sdk::connection::Traffic;
use pintle_plugin_sdk::grpc::prost::Message;
use pintle_plugin_sdk::grpc::{self, tonic};
use pintle_plugin_sdk::link::{self, Link};
use pintle_plugin_sdk::time::Instant;
use pintle_plugin_sdk::{Context, Endpoint, Error};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tonic::Request;
use tonic::metadata::MetadataValue;

/// How often one call is sent at most.
const ATTEMPTS_MAX: u32 = 3;
/// The first pause between rounds in which no server could be reached …
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// … and the longest: what is kept and watched is right again soon after a server is back.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// A call that got no answer for so long, on a connection over which no other was answered meanwhile,
/// speaks against the server.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// Which connection a request takes. What must not wait behind a large answer has one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Keys and values.
    Data,
    /// Leases, and what hangs on them.
    Lease,
    /// Watches.
    Watch,
}

/// A method of the API.
pub(crate) struct Method<Q, A> {
    path: &'static str,
    writes: bool,
    types: PhantomData<fn(Q) -> A>,
}

impl<Q, A> Method<Q, A> {
    const fn read(path: &'static str) -> Self {
        Self { path, writes: false, types: PhantomData }
    }

    const fn write(path: &'static str) -> Self {
        Self { path, writes: true, types: PhantomData }
    }
}

pub(crate) const RANGE: Method<RangeRequest, RangeResponse> =
    Method::read("/etcdserverpb.KV/Range");
pub(crate) const PUT: Method<PutRequest, PutResponse> = Method::write("/etcdserverpb.KV/Put");
pub(crate) const DELETE_RANGE: Method<DeleteRangeRequest, DeleteRangeResponse> =
    Method::write("/etcdserverpb.KV/DeleteRange");
pub(crate) const TXN: Method<TxnRequest, TxnResponse> = Method::write("/etcdserverpb.KV/Txn");
/// A transaction that only reads.
pub(crate) const READ_TXN: Method<TxnRequest, TxnResponse> = Method::read("/etcdserverpb.KV/Txn");
pub(crate) const LEASE_GRANT: Method<LeaseGrantRequest, LeaseGrantResponse> =
    Method::write("/etcdserverpb.Lease/LeaseGrant");
pub(crate) const LEASE_REVOKE: Method<LeaseRevokeRequest, LeaseRevokeResponse> =
    Method::write("/etcdserverpb.Lease/LeaseRevoke");

/// An answer that says at which revision it was given.
pub(crate) trait Answer: Message + Default + Send + Sync + 'static {
    fn header(&self) -> Option<&ResponseHeader>;

    /// The revision of the store when the request was applied.
    fn revision(&self) -> i64 {
        self.header().map_or(0, |header| header.revision)
    }
}

macro_rules! answers {
    ($($answer:ty),*) => {
        $(impl Answer for $answer {
            fn header(&self) -> Option<&ResponseHeader> {
                self.header.as_ref()
            }
        })*
    };
}

answers!(
    RangeResponse,
    PutResponse,
    DeleteRangeResponse,
    TxnResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse
);

/// What has been done, for `health`.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) operations: Cell<u64>,
    pub(crate) retries: Cell<u64>,
    pub(crate) resyncs: Cell<u64>,
    pub(crate) errors: RefCell<BTreeMap<String, u64>>,
}

impl Counters {
    pub(crate) fn add(counter: &Cell<u64>) {
        counter.set(counter.get() + 1);
    }

    fn failed(&self, error: &Error) {
        *self.errors.borrow_mut().entry(error.code().to_owned()).or_default() += 1;
    }
}

/// The connections to the servers.
pub(crate) struct Client {
    endpoints: Vec<Endpoint>,
    options: ServerOptions,
    auth: Rc<Auth>,
    lanes: [OnceCell<Link<Server>>; 3],
    traffic: Traffic,
    /// The newest revision that an answer spoke of: `sequential` reads never go behind it.
    revision_seen: Cell<i64>,
    cluster: Cell<u64>,
    pub(crate) counters: Counters,
}

impl Client {
    /// Starts to connect.
    ///
    /// # Errors
    ///
    /// `invalid` when there are no endpoints.
    pub(crate) fn start(
        endpoints: Vec<Endpoint>,
        options: ServerOptions,
        auth: Auth,
    ) -> Result<Rc<Self>, Error> {
        let client = Self {
            endpoints,
            options,
            auth: Rc::new(auth),
            lanes: Default::default(),
            traffic: Traffic::default(),
            revision_seen: Cell::new(0),
            cluster: Cell::new(0),
            counters: Counters::default(),
        };
        client.link(Lane::Data)?;
        Ok(Rc::new(client))
    }

    /// The connection of a lane; it is opened when it is first asked for.
    ///
    /// # Errors
    ///
    /// `invalid` when there are no endpoints.
    pub(crate) fn link(&self, lane: Lane) -> Result<&Link<Server>, Error> {
        let [data, lease, watch] = &self.lanes;
        let link = match lane {
            Lane::Data => data,
            Lane::Lease => lease,
            Lane::Watch => watch,
        };
        if let Some(link) = link.get() {
            return Ok(link);
        }
        let (options, traffic, auth) =
            (self.options.clone(), self.traffic.clone(), Rc::clone(&self.auth));
        let limits = link::Options {
            open_timeout: options.connect_timeout,
            backoff: Backoff::new(RECONNECT_PAUSE, RECONNECT_PAUSE_MAX),
        };
        let open = async move |endpoint| Server::open(endpoint, &options, &traffic, &auth).await;
        let started = Link::start(self.endpoints.clone(), limits, open)?;
        Ok(link.get_or_init(|| started))
    }

    /// The connection of a lane, as soon as there is one.
    ///
    /// # Errors
    ///
    /// As [`Link::client`].
    pub(crate) async fn server(&self, cx: &Context, lane: Lane) -> Result<Server, Error> {
        let link = self.link(lane)?;
        match link.client_now() {
            Some(server) => Ok(server),
            None => link.client(cx).await,
        }
    }

    /// As [`Link::client_patiently`].
    ///
    /// # Errors
    ///
    /// When the call's time is over, and what does not pass.
    pub(crate) async fn server_patiently(&self, cx: &Context, lane: Lane) -> Result<Server, Error> {
        self.link(lane)?.client_patiently(cx, is_passing).await
    }

    /// Leaves a server for another, if the lane has not done so already.
    pub(crate) fn leave(&self, lane: Lane, server: &Server, reason: &str) {
        if let Ok(link) = self.link(lane) {
            link.leave_if(reason, |current| current.is(server));
        }
    }

    /// Sends a request. What certainly did nothing, and reads, are tried again a few times within
    /// the call's time; everything else is told to the caller.
    ///
    /// # Errors
    ///
    /// As `error.rs` says; of reads the effect is always `none`.
    ///
    /// # Cancellation
    ///
    /// Dropping the future gives the request up; the server may have done it.
    pub(crate) async fn call<Q, A>(
        &self,
        cx: &Context,
        lane: Lane,
        method: Method<Q, A>,
        request: Q,
    ) -> Result<A, Error>
    where
        Q: Message + Clone + Send + Sync + 'static,
        A: Answer,
    {
        Counters::add(&self.counters.operations);
        let mut pauses = Backoff::new(Duration::from_millis(20), Duration::from_millis(200));
        let mut authenticated = false;
        loop {
            let server = self.server(cx, lane).await?;
            let failure = match self.attempt(&server, lane, &method, &request).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let Failure { error, remedy } = failure;
            self.remedy(lane, &server, remedy, &error);
            let safe = !method.writes || remedy == Remedy::LeaveAndRetry;
            let again = match remedy {
                Remedy::Authenticate => !std::mem::replace(&mut authenticated, true),
                _ => safe && is_passing(&error) && pauses.failures() + 1 < ATTEMPTS_MAX,
            };
            if !again || cx.ended().is_some() {
                let told = if method.writes { error } else { error.effect_none() };
                self.counters.failed(&told);
                return Err(told);
            }
            Counters::add(&self.counters.retries);
            if remedy != Remedy::Authenticate {
                pauses.wait().await;
            }
        }
    }

    /// As [`call`](Self::call), for those whose future is not dropped when the call is over.
    pub(crate) async fn call_in_time<Q, A>(
        &self,
        cx: &Context,
        lane: Lane,
        method: Method<Q, A>,
        request: Q,
    ) -> Result<A, Error>
    where
        Q: Message + Clone + Send + Sync + 'static,
        A: Answer,
    {
        let writes = method.writes;
        let call = pin!(self.call(cx, lane, method, request));
        match select(call, pin!(cx.cancelled())).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right((end, _)) if writes => Err(cx.error(end).effect_unknown()),
            Either::Right((end, _)) => Err(cx.error(end)),
        }
    }

    async fn attempt<Q, A>(
        &self,
        server: &Server,
        lane: Lane,
        method: &Method<Q, A>,
        request: &Q,
    ) -> Result<A, Failure>
    where
        Q: Message + Clone + Send + Sync + 'static,
        A: Answer,
    {
        let untried = |error| Failure { error, remedy: Remedy::LeaveAndRetry };
        if server.channel.is_closed() {
            let message = format!("{}: the connection is closed", server.channel.peer());
            return Err(untried(Error::unavailable(message)));
        }
        let request = self.auth.sign(server, Request::new(request.clone())).await?;
        let silence = Silence {
            client: self,
            server,
            lane,
            begun: Instant::now(),
            answers: server.answers.get(),
        };
        let outcome = grpc::unary::<Q, A>(&server.channel, method.path, request).await;
        Counters::add(&server.answers);
        drop(silence);
        match outcome {
            Ok(answer) => {
                self.saw(answer.header());
                Ok(answer)
            }
            Err(status) => Err(Failure::of(&status, server.channel.peer())),
        }
    }

    /// A request that opens a stream: with our token, and so that a member that loses its leader
    /// ends the stream instead of keeping silent.
    ///
    /// # Errors
    ///
    /// When the server does not give a token.
    pub(crate) async fn sign_stream<S>(
        &self,
        server: &Server,
        requests: S,
    ) -> Result<Request<S>, Failure> {
        let mut request = Request::new(requests);
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        self.auth.sign(server, request).await
    }

    /// Does what a failure calls for, so that the next attempt fares better.
    pub(crate) fn remedy(&self, lane: Lane, server: &Server, remedy: Remedy, error: &Error) {
        match remedy {
            Remedy::None => {}
            Remedy::Authenticate => self.auth.renew(server),
            Remedy::Leave | Remedy::LeaveAndRetry => self.leave(lane, server, error.message()),
        }
    }

    /// The newest revision that an answer spoke of.
    pub(crate) fn revision_seen(&self) -> i64 {
        self.revision_seen.get()
    }

    /// Takes note of what an answer says of the store.
    pub(crate) fn saw(&self, header: Option<&ResponseHeader>) {
        let Some(header) = header else { return };
        let known = self.cluster.replace(header.cluster_id);
        if known == header.cluster_id {
            self.revision_seen.set(self.revision_seen.get().max(header.revision));
            return;
        }
        if known != 0 {
            tracing::warn!(
                was = format!("{known:x}"),
                is = format!("{:x}", header.cluster_id),
                "this is another cluster: was one restored, or do the endpoints belong to two?"
            );
        }
        self.revision_seen.set(header.revision);
    }

    /// The store went back to this revision.
    pub(crate) fn went_back(&self, revision: i64) {
        self.revision_seen.set(revision);
    }

    /// Bytes that passed through all connections.
    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// What does not go on at the moment, though keys can be asked for: a member that has lost its
    /// leader says so where something is kept open.
    pub(crate) fn interruption(&self) -> Option<String> {
        let [_, lease, watch] = &self.lanes;
        let why = |lane: &OnceCell<Link<Server>>| match lane.get()?.state() {
            link::State::Connecting(Some(error)) => Some(error.message().to_owned()),
            _ => None,
        };
        let leases = why(lease).map(|reason| format!("leases are not renewed: {reason}"));
        leases.or_else(|| why(watch).map(|reason| format!("watches are interrupted: {reason}")))
    }

    /// Connections lost since the start.
    pub(crate) fn reconnects(&self) -> u64 {
        self.lanes.iter().filter_map(OnceCell::get).map(Link::reconnects).sum()
    }
}

/// Lives while an answer is waited for. Dropped before that came, because the call's time was over,
/// it looks whether the server answered anybody meanwhile: one that is cut off from the others still
/// answers PINGs.
struct Silence<'a> {
    client: &'a Client,
    server: &'a Server,
    lane: Lane,
    begun: Instant,
    answers: u64,
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        let silent = self.server.answers.get() == self.answers;
        if silent && self.begun.elapsed() >= SILENCE_MAX {
            self.client.leave(self.lane, self.server, "the server does not answer");
        }
    }
}
