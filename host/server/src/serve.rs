//! Listening.

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
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tower::ServiceExt;

use crate::{
    access::{Peer, check_address},
    state::Api,
    tls::Tls,
};

/// Time for answers that are under way when the server stops.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// Time in which a client has to say what it wants, from the answer before on.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// Time in which a client has to have agreed on TLS.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Connections at a time; further ones wait to be taken.
const CONNECTIONS_MAX: usize = 32_768;
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
        for place in places {
            if let Some(tls) = place.tls.clone() {
                tasks.push(AbortOnDropHandle::new(tokio::spawn(tls.follow_files())));
            }
            let door = Door {
                router: self.router(),
                places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
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
    places: Arc<Semaphore>,
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
        let local = stream.local_addr().map_or(address.ip(), |local| local.ip());
        let peer = Peer { address: canonical(address.ip()), local, tls: tls.is_some() };
        let router = self.router.clone();
        let (closing, stopped) = (self.closing.clone(), self.stopped.clone());
        self.connections.spawn(async move {
            let _permit = permit;
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
    let service = service_fn(move |request: Request<Incoming>| {
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
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, address = %peer.address, "connection ended");
    }
}

fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
