//! Listening.

mod crowd;
mod stall;

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tower::ServiceExt;

use crate::{
    access::{Peer, check_address},
    state::{Api, State},
    tls::Tls,
};
use crowd::{Crowd, connections_max};
use stall::Stalling;

/// Time for answers that are under way when the server stops.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// Time in which a client has to say what it wants, from the answer before on.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// Time in which a new client has to have said what it wants.
const FIRST_HEAD_MAX: Duration = Duration::from_secs(10);
/// Time after which a client that takes nothing of its answer is given up.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Bytes of a request's head, and of what is buffered of its body.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// Time in which a client has to have agreed on TLS.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Pause after the system had no room for a connection.
const PAUSE: Duration = Duration::from_secs(1);

/// A place to listen at.
#[derive(Debug)]
pub struct Listen {
    listener: TcpListener,
    tls: Option<Tls>,
}

impl Listen {
    /// Speaks plain HTTP there.
    #[must_use]
    pub fn plain(listener: TcpListener) -> Self {
        Self { listener, tls: None }
    }

    /// Speaks TLS there.
    #[must_use]
    pub fn tls(listener: TcpListener, tls: Tls) -> Self {
        Self { listener, tls: Some(tls) }
    }
}

impl Api {
    /// Serves plain HTTP on a listener of this machine until `shutdown` completes, then drains
    /// ([`Api::drain`]) and returns.
    ///
    /// # Errors
    ///
    /// Fails when the listener's address is not allowed ([`check_address`]).
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        self.serve_at(vec![Listen::plain(listener)], shutdown).await
    }

    /// Serves on several listeners until `shutdown` completes, then drains ([`Api::drain`]) and
    /// returns.
    ///
    /// # Errors
    ///
    /// Fails when an address is not allowed ([`check_address`]).
    pub async fn serve_at(
        &self,
        places: Vec<Listen>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        for place in &places {
            let address = place.listener.local_addr()?;
            check_address(address, place.tls.is_some(), self.has_tokens())
                .map_err(io::Error::other)?;
        }
        let connections = TaskTracker::new();
        let (closing, stopped) = (CancellationToken::new(), CancellationToken::new());
        // Aborted with this call, should it be dropped.
        let mut tasks = Vec::new();
        let state = Arc::clone(&self.state);
        tasks.push(AbortOnDropHandle::new(tokio::spawn(async move {
            state.gate.tokens.follow_file().await;
        })));
        // Each listener has places of its own: who fills the public one keeps no command out.
        let each_max = connections_max() / places.len().max(1);
        for place in places {
            if let Some(tls) = place.tls.clone() {
                tasks.push(AbortOnDropHandle::new(tokio::spawn(tls.follow_files())));
            }
            let door = Door {
                router: self.router(),
                state: Arc::clone(&self.state),
                places: Arc::new(Semaphore::new(each_max)),
                crowd: Crowd::new(each_max),
                connections: connections.clone(),
                closing: closing.clone(),
                stopped: stopped.clone(),
            };
            tasks.push(AbortOnDropHandle::new(tokio::spawn(door.accept(place))));
        }
        // Connections end with this call, too.
        let _cut = stopped.clone().drop_guard();
        shutdown.await;
        // Clients still have to be able to release what they hold.
        self.drain().await;
        drop(tasks);
        closing.cancel();
        connections.close();
        if tokio::time::timeout(LAST_ANSWERS, connections.wait()).await.is_err() {
            tracing::warn!("some answers were cut off");
        }
        Ok(())
    }
}

/// Takes connections.
struct Door {
    router: Router,
    state: Arc<State>,
    /// Further connections wait to be taken.
    places: Arc<Semaphore>,
    crowd: Crowd,
    connections: TaskTracker,
    /// Each connection ends with the answer that is under way.
    closing: CancellationToken,
    /// Each connection ends.
    stopped: CancellationToken,
}

impl Door {
    async fn accept(self, place: Listen) {
        loop {
            // Never closed.
            let Ok(permit) = Arc::clone(&self.places).acquire_owned().await else { return };
            match place.listener.accept().await {
                Ok((stream, address)) => self.take(stream, address, place.tls.clone(), permit),
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be taken; trying again in a second");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn take(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        tls: Option<Tls>,
        permit: OwnedSemaphorePermit,
    ) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY is not set");
        }
        let from = canonical(address.ip());
        let Some(member) = self.crowd.enter(from) else {
            self.state.metrics.refused("too-many-connections");
            tracing::debug!(address = %from, "too many connections of one address");
            return;
        };
        let local = stream.local_addr().map_or(address.ip(), |local| local.ip());
        let peer = Peer { address: from, local, tls: tls.is_some() };
        let router = self.router.clone();
        let (closing, stopped) = (self.closing.clone(), self.stopped.clone());
        self.connections.spawn(async move {
            let _place = (permit, member);
            let stream = Stalling::new(stream, STALL_MAX);
            let speak = async {
                match tls {
                    None => speak(stream, peer, router, &closing).await,
                    Some(tls) => {
                        let handshake = tls.acceptor.accept(stream);
                        match tokio::time::timeout(HANDSHAKE_MAX, handshake).await {
                            Ok(Ok(stream)) => speak(stream, peer, router, &closing).await,
                            Ok(Err(error)) => {
                                tracing::debug!(%error, address = %peer.address, "no TLS");
                            }
                            Err(_) => tracing::debug!(address = %peer.address, "no TLS in time"),
                        }
                    }
                }
            };
            tokio::select! {
                () = speak => {}
                () = stopped.cancelled() => {}
            }
        });
    }
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    router: Router,
    closing: &CancellationToken,
) {
    let asked = Arc::new(Notify::new());
    let heard = Arc::clone(&asked);
    let service = service_fn(move |request: Request<Incoming>| {
        heard.notify_one();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        let router = router.clone();
        async move {
            Ok::<_, Infallible>(
                router.oneshot(request).await.unwrap_or_else(|never| match never {}),
            )
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = silence(&asked) => {
            tracing::debug!(address = %peer.address, "no request in time");
            return;
        }
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, address = %peer.address, "connection ended");
    }
}

/// Completes when there was no first request in time.
async fn silence(asked: &Notify) {
    if tokio::time::timeout(FIRST_HEAD_MAX, asked.notified()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
