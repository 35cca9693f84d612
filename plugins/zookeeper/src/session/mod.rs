//! Sessions: what the server keeps for us over all connections, until it expires.
//!
//! A session is taken up again on any server after its connection broke. When the server has ended
//! it, the next one begins: its *generation* tells who relied on which.

mod client;
mod own;
mod pool;
mod tally;
mod watches;

pub(crate) use client::{Client, Failure, Identity, Reply};
pub(crate) use own::look_at_own;
pub(crate) use pool::{Pool, PooledSession, check_granted};
pub(crate) use tally::Tally;
pub(crate) use watches::{Listener, Notice, Watches};

use crate::limits::Budget;
use crate::wire::{
    Auth, CloseSession, ConnectRequest, ConnectResponse, Decoder, Encoder, ErrorCode, SetWatches2,
    WatchMode, begin_frame, end_frame, split_frame,
};
use futures::future::{Either, FutureExt as _, LocalBoxFuture, select};
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use pintle_plugin_sdk::backoff::Backoff;
use pintle_plugin_sdk::connection::{Connection, Traffic};
use pintle_plugin_sdk::link::{self, Link, Opened};
use pintle_plugin_sdk::signal::Signal;
use pintle_plugin_sdk::time::{Instant, timeout};
use pintle_plugin_sdk::{Context, Endpoint, Error, Secret};
use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Bytes of a connect response: far more than any.
const HANDSHAKE_BYTES_MAX: usize = 4 << 10;
/// Bytes of the paths in one request that sets watches again; a server hangs up on much more.
const WATCHES_BYTES_MAX: usize = 128 << 10;

/// How one server is connected to.
pub(crate) type Dial = Rc<dyn Fn(Endpoint) -> LocalBoxFuture<'static, Result<Connection, Error>>>;

/// What all sessions of a plugin share.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) dial: Dial,
    /// `user:password` of scheme `digest`.
    pub(crate) digest: Option<Secret<String>>,
    pub(crate) request_bytes_max: usize,
    pub(crate) answer_bytes_max: usize,
    /// Newest transaction that any session has shown: no server that is behind it will do.
    pub(crate) newest_zxid: Rc<Cell<i64>>,
    pub(crate) traffic: Traffic,
    pub(crate) tally: Rc<Tally>,
    /// Sessions that the server has ended.
    pub(crate) expirations: Rc<Cell<u64>>,
    /// What watches may keep.
    pub(crate) watched: Rc<Budget>,
    /// A server was older than 3.6 and hung up when it was asked for several nodes at once: it is not
    /// tried again.
    pub(crate) reads_nodes_alone: Rc<Cell<bool>>,
}

/// What takes a session up again.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SessionKey {
    pub(crate) id: i64,
    pub(crate) password: Vec<u8>,
    /// What was asked for, which the server may have cut.
    pub(crate) timeout: Duration,
}

/// One session after the other.
pub(crate) struct Session {
    shared: Rc<State>,
    link: Link<Client>,
}

struct State {
    common: Common,
    purpose: &'static str,
    timeout: Duration,
    key: RefCell<Option<SessionKey>>,
    generation: Cell<u64>,
    /// The key or the generation has changed.
    changed: Signal,
    watches: Rc<Watches>,
    /// How many it has had.
    connections: Cell<u64>,
    /// Up to which of them the server is taken not to know lasting watches.
    without_lasting_until: Cell<u64>,
    /// It is being closed: no other is begun.
    closing: Cell<bool>,
    /// Called when the key has changed, before anything relies on it.
    keep: Box<dyn Fn()>,
}

/// How a session is, for health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has a connection to this server.
    Connected(Endpoint),
    /// It is looking for a server, and may be taken up again.
    Suspended(String),
    /// The server has ended it, and no other is had yet.
    Expired(String),
    /// None was had yet.
    Absent(String),
}

impl Session {
    /// Starts to connect. `timeout` is how long the server shall keep the session; `resume` is what a
    /// predecessor had.
    ///
    /// # Errors
    ///
    /// `invalid` when there are no endpoints.
    pub(crate) fn start(
        common: Common,
        purpose: &'static str,
        timeout: Duration,
        resume: Option<SessionKey>,
        keep: impl Fn() + 'static,
    ) -> Result<Self, Error> {
        let endpoints = common.endpoints.clone();
        let watches = Rc::new(Watches::new(Rc::clone(&common.watched)));
        let shared = Rc::new(State {
            common,
            purpose,
            timeout,
            key: RefCell::new(resume),
            generation: Cell::new(0),
            changed: Signal::default(),
            watches,
            connections: Cell::new(0),
            without_lasting_until: Cell::new(0),
            closing: Cell::new(false),
            keep: Box::new(keep),
        });
        let opening = Rc::clone(&shared);
        let options = link::Options {
            open_timeout: (timeout / 6).clamp(Duration::from_millis(500), Duration::from_secs(5)),
            // Far below the session's time: whoever pauses longer loses what it keeps.
            backoff: Backoff::new(
                Duration::from_millis(20),
                (timeout / 12).clamp(Duration::from_millis(200), Duration::from_secs(1)),
            ),
        };
        let open = async move |endpoint| State::open(&opening, endpoint).await;
        let link = Link::start(endpoints, options, open)?;
        Ok(Self { shared, link })
    }

    /// The connection, as soon as there is one.
    ///
    /// # Errors
    ///
    /// Why no server could be used, or that the call's time is over. Nothing was sent.
    pub(crate) async fn client(&self, cx: &Context) -> Result<Client, Error> {
        self.link.client(cx).await
    }

    /// As [`client`](Self::client), over any number of rounds in which no server could be reached.
    ///
    /// # Errors
    ///
    /// When the call's time is over, the session is closed, or the server refuses who we are.
    pub(crate) async fn client_patiently(&self, cx: &Context) -> Result<Client, Error> {
        let passes = |error: &Error| !matches!(error.code(), "unauthenticated" | "denied");
        self.link.client_patiently(cx, passes).await
    }

    /// The connection, if there is one now.
    pub(crate) fn client_now(&self) -> Option<Client> {
        self.link.client_now()
    }

    /// What takes it up again, if the server keeps it.
    pub(crate) fn key(&self) -> Option<SessionKey> {
        self.shared.key.borrow().clone()
    }

    /// Whether the session of this generation has expired.
    pub(crate) fn is_over(&self, generation: u64) -> bool {
        self.shared.generation.get() != generation
    }

    /// Waits until its connection is lost, now or later, and answers why.
    pub(crate) async fn lost(&self) -> String {
        self.link.lost().await
    }

    /// Leaves the present server for another.
    pub(crate) fn leave(&self, reason: &str) {
        self.link.leave(reason);
    }

    /// Who listens to what.
    pub(crate) fn watches(&self) -> &Rc<Watches> {
        &self.shared.watches
    }

    /// Whether the server keeps watches until they are taken away.
    pub(crate) fn has_lasting_watches(&self) -> bool {
        self.shared.has_lasting_watches()
    }

    /// The server has said that it does not.
    pub(crate) fn lacks_lasting_watches(&self) {
        self.shared.lacks_lasting_watches(self.shared.connections.get());
    }

    /// Connections lost since the start.
    pub(crate) fn reconnects(&self) -> u64 {
        self.link.reconnects()
    }

    /// How it is.
    pub(crate) fn standing(&self) -> Standing {
        let why = match self.link.state() {
            link::State::Connected(endpoint) => return Standing::Connected(endpoint),
            link::State::Connecting(Some(error)) => error.message().to_owned(),
            link::State::Connecting(None) => "no server has answered yet".to_owned(),
        };
        match *self.shared.key.borrow() {
            Some(_) => Standing::Suspended(why),
            None if self.is_over(0) => Standing::Expired(why),
            None => Standing::Absent(why),
        }
    }

    /// Ends it on the server, with all that the server keeps for it, and for good: no other is begun.
    ///
    /// A connection that breaks says nothing, since the server answers before it hangs up: the session
    /// is taken up again and closed again, until that is answered or the server knows it no more.
    ///
    /// # Errors
    ///
    /// When the server could not be told; it ends the session by itself after its timeout.
    pub(crate) async fn close(&self, limit: Duration) -> Result<(), Error> {
        let generation = self.shared.generation.get();
        self.shared.closing.set(true);
        let doing = format!("closing the {} session", self.shared.purpose);
        let cx = Context::background("closing a session", limit);
        while self.shared.key.borrow().is_some() && !self.is_over(generation) {
            let ended = self.shared.changed.wait(|| self.is_over(generation).then_some(()));
            let client = match select(pin!(ended), pin!(self.client(&cx))).await {
                Either::Left(_) => break,
                Either::Right((client, _)) => client.map_err(Error::effect_unknown)?,
            };
            match timeout(cx.remaining(), client.call(&CloseSession {})).await {
                Ok(Ok(())) => self.shared.forget(),
                Ok(Err(failure)) if failure.is_passing() => self.settle(&client),
                Ok(Err(failure)) => return Err(failure.explain(&doing)),
                Err(_) => {
                    let message = format!("{doing}: no answer in time");
                    return Err(Error::timeout(message).effect_unknown());
                }
            }
        }
        self.link.close();
        Ok(())
    }
}

impl State {
    /// Connects to one server: takes the session up again, or begins one where the old has expired.
    async fn open(this: &Rc<Self>, endpoint: Endpoint) -> Result<Opened<Client>, Error> {
        loop {
            let asked = this.key.borrow().clone();
            if asked.is_none() && this.closing.get() {
                return Err(Error::unavailable("the session is closed"));
            }
            let connection = (this.common.dial)(endpoint.clone()).await?;
            let connection = connection.counted_by(&this.common.traffic);
            let sent_at = Instant::now();
            let (connection, response) = this.greet(connection, asked.as_ref()).await?;
            if response.is_expired() && asked.is_some() {
                this.expire();
                continue;
            }
            if response.is_expired() || response.read_only {
                let message = format!("{endpoint}: the server has no quorum and only reads");
                return Err(Error::unavailable(message).detail("endpoint", endpoint.to_string()));
            }
            return this.serve(connection, response, sent_at).await;
        }
    }

    /// Sends the request for a session and reads the answer.
    async fn greet(
        &self,
        mut connection: Connection,
        asked: Option<&SessionKey>,
    ) -> Result<(Connection, ConnectResponse), Error> {
        let request = ConnectRequest {
            last_zxid: self.common.newest_zxid.get(),
            timeout_ms: i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX),
            session_id: asked.map_or(0, |key| key.id),
            password: asked.map_or_else(|| vec![0; 16], |key| key.password.clone()),
        };
        let mut out = Vec::new();
        let at = begin_frame(&mut out);
        request.encode(&mut Encoder::new(&mut out));
        end_frame(&mut out, at);
        let peer = connection.peer().to_owned();
        let failed = |reason: String| Error::unavailable(reason).detail("endpoint", &peer);
        connection.write_all(&out).await.map_err(|error| failed(error.to_string()))?;
        connection.flush().await.map_err(|error| failed(error.to_string()))?;

        let mut input = Vec::new();
        loop {
            let wrong = |error| failed(format!("{peer}: no ZooKeeper answers there: {error}"));
            if let Some(frame) = split_frame(&input, HANDSHAKE_BYTES_MAX).map_err(wrong)? {
                let response = ConnectResponse::decode(&mut Decoder::new(frame)).map_err(wrong)?;
                return Ok((connection, response));
            }
            let mut chunk = [0; 256];
            let count =
                connection.read(&mut chunk).await.map_err(|error| failed(error.to_string()))?;
            if count == 0 {
                return Err(failed(format!(
                    "{peer}: the server hung up on the request for a session: it is behind what was \
                     seen (transaction {:#x}), has no quorum, or has too many connections",
                    self.common.newest_zxid.get()
                )));
            }
            input.extend_from_slice(chunk.get(..count).unwrap_or_default());
        }
    }

    /// Makes a client of a connection on which the server has granted a session.
    async fn serve(
        self: &Rc<Self>,
        connection: Connection,
        response: ConnectResponse,
        sent_at: Instant,
    ) -> Result<Opened<Client>, Error> {
        let peer = connection.peer().to_owned();
        let timeout_ms = u64::try_from(response.timeout_ms).unwrap_or_default();
        let granted = Duration::from_millis(timeout_ms);
        let (id, password) = (response.session_id, response.password);
        let key = SessionKey { id, password, timeout: self.timeout };
        if self.key.borrow().as_ref() != Some(&key) {
            *self.key.borrow_mut() = Some(key);
            (self.keep)();
        }
        let generation = self.generation.get();
        let identity = Identity { id, generation, timeout: granted };
        let client = Client::new(identity, &self.common, Rc::downgrade(&self.watches));
        tracing::debug!(
            purpose = self.purpose,
            endpoint = peer,
            session = format!("{:#x}", identity.id),
            took_ms = u64::try_from(sent_at.elapsed().as_millis()).unwrap_or(u64::MAX),
            "session established"
        );
        let gone = client.clone().drive(connection).boxed_local();
        let (prepared, gone) = match select(gone, pin!(self.prepare(&client))).await {
            Either::Right((prepared, gone)) => (prepared, gone),
            // A server that refuses hangs up behind its answer.
            Either::Left((reason, preparing)) => {
                let unprepared = || Err(Error::unavailable(reason.clone()));
                let prepared = preparing.now_or_never().unwrap_or_else(unprepared);
                (prepared, std::future::ready(reason).boxed_local())
            }
        };
        prepared.map_err(|error| error.context(&peer).detail("endpoint", &peer))?;
        let first = self.connections.replace(self.connections.get() + 1) == 0;
        let gap = (!first).then_some("the connection to ZooKeeper was lost in between");
        self.watches.armed(self.has_lasting_watches().then_some(&client), gap);
        self.changed.notify();
        Ok((client, gone))
    }

    /// Says who we are, and sets the lasting watches.
    async fn prepare(&self, client: &Client) -> Result<(), Error> {
        if let Some(digest) = &self.common.digest {
            let credentials = digest.expose().as_bytes();
            let auth = Auth { scheme: "digest", credentials };
            let answer = client.call(&auth).await;
            answer.map_err(|failure| failure.explain("authenticating"))?;
        }
        let number = self.connections.get() + 1;
        if number <= self.without_lasting_until.get() {
            return Ok(());
        }
        let lasting = self.watches.lasting();
        let bytes_max = WATCHES_BYTES_MAX.min(self.common.request_bytes_max / 2);
        for (nodes, trees) in in_parts(&lasting, bytes_max) {
            let since_zxid = self.common.newest_zxid.get();
            let set = SetWatches2 { since_zxid, nodes: &nodes, trees: &trees };
            match client.call(&set).await {
                Ok(()) => {}
                Err(Failure::Refused(ErrorCode::UNIMPLEMENTED)) => {
                    self.lacks_lasting_watches(number);
                    return Ok(());
                }
                Err(failure) => return Err(failure.explain("setting watches again")),
            }
        }
        Ok(())
    }

    /// On this connection the server has said that it knows no lasting watches. It hangs up behind
    /// that, so the next one does without them; the one after it may be to a newer server.
    fn lacks_lasting_watches(&self, number: u64) {
        self.without_lasting_until.set(number + 1);
        self.watches.disarm();
    }

    fn has_lasting_watches(&self) -> bool {
        self.connections.get() > self.without_lasting_until.get()
    }

    /// The server has ended the session.
    fn expire(&self) {
        tracing::info!(purpose = self.purpose, "the session has expired");
        self.common.expirations.set(self.common.expirations.get() + 1);
        self.forget();
    }

    fn forget(&self) {
        *self.key.borrow_mut() = None;
        self.generation.set(self.generation.get() + 1);
        (self.keep)();
        self.changed.notify();
    }
}

/// Paths to watch, in parts of at most so many bytes each.
fn in_parts(lasting: &[(String, WatchMode)], bytes_max: usize) -> Vec<(Vec<&str>, Vec<&str>)> {
    let mut parts = Vec::new();
    let mut bytes = usize::MAX;
    for (path, mode) in lasting {
        let size = path.len() + size_of::<i32>();
        bytes = bytes.saturating_add(size);
        if bytes > bytes_max {
            parts.push((Vec::new(), Vec::new()));
            bytes = size;
        }
        if let Some((nodes, trees)) = parts.last_mut() {
            match mode {
                WatchMode::Node => nodes.push(path.as_str()),
                WatchMode::Tree => trees.push(path.as_str()),
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests;
