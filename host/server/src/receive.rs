//! Taking spans of applications: OTLP over gRPC and HTTP, and Zipkin's API.
//!
//! Each stands on a port of its own, the one that its senders look for, on loopback, and only where
//! the settings say so. What is taken goes into the host's pipeline; a sender learns of every span
//! that was not.

use std::{io, net::SocketAddr, time::Duration};

use axum::{Router, extract::DefaultBodyLimit, middleware, serve::ListenerExt};
use pintle::{
    Pintle,
    settings::ReceiveSettings,
    tracing::{NotTaken, Taken},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::access;

mod body;
mod grpc;
mod http;
mod zipkin;

/// Most bytes of a request, before and after it is unpacked.
const REQUEST_BYTES_MAX: usize = 16 << 20;
/// Time for answers that are under way when a receiver stops.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Receivers whose ports are open.
pub struct Receivers {
    open: Vec<(Kind, TcpListener)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Grpc,
    Http,
    Zipkin,
}

impl Receivers {
    /// Opens the ports that the settings name.
    ///
    /// # Errors
    ///
    /// Names the setting when its address cannot be listened on.
    pub async fn bind(settings: &ReceiveSettings) -> io::Result<Self> {
        let mut open = Vec::new();
        for (key, address) in settings.addresses() {
            let kind = match key {
                "otlp_grpc" => Kind::Grpc,
                "otlp_http" => Kind::Http,
                _ => Kind::Zipkin,
            };
            let refuse = |reason: String| {
                io::Error::other(format!("tracing.receive.{key}: {address}: {reason}"))
            };
            if !address.ip().to_canonical().is_loopback() {
                let reason = "it can be reached from other machines, and nobody is asked for a token \
                              here: listen on 127.0.0.1 or [::1]";
                return Err(refuse(reason.to_owned()));
            }
            let listener = TcpListener::bind(address).await;
            open.push((kind, listener.map_err(|error| refuse(error.to_string()))?));
        }
        Ok(Self { open })
    }

    /// What is listened on: the key of the setting, and the address.
    ///
    /// # Errors
    ///
    /// Fails when the system does not tell an address.
    pub fn addresses(&self) -> io::Result<Vec<(&'static str, SocketAddr)>> {
        let address = |(kind, listener): &(Kind, TcpListener)| {
            let key = match kind {
                Kind::Grpc => "otlp_grpc",
                Kind::Http => "otlp_http",
                Kind::Zipkin => "zipkin",
            };
            Ok((key, listener.local_addr()?))
        };
        self.open.iter().map(address).collect()
    }

    /// Takes spans until `shutdown` completes.
    ///
    /// # Errors
    ///
    /// Fails when a port is lost.
    pub async fn serve(
        self,
        pintle: Pintle,
        shutdown: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        let stop = watch::Sender::new(false);
        let mut serving = JoinSet::new();
        for (kind, listener) in self.open {
            let listener = listener.tap_io(|stream| {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY is not set");
                }
            });
            let mut stopped = stop.subscribe();
            let stopped = async move {
                // Fails only when the sender is gone: then it is over as well.
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            let serve = axum::serve(listener, router(kind, pintle.clone()));
            serving.spawn(serve.with_graceful_shutdown(stopped).into_future());
        }
        shutdown.await;
        stop.send_replace(true);
        let ended = async {
            while let Some(ended) = serving.join_next().await {
                ended.map_err(io::Error::other)??;
            }
            Ok(())
        };
        // Senders keep connections open for the next batch.
        tokio::time::timeout(LAST_ANSWERS, ended).await.unwrap_or(Ok(()))
    }
}

impl std::fmt::Debug for Receivers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receivers").field("addresses", &self.addresses()).finish()
    }
}

fn router(kind: Kind, pintle: Pintle) -> Router {
    let router = match kind {
        Kind::Grpc => grpc::routes(pintle),
        Kind::Http => http::routes(pintle),
        Kind::Zipkin => zipkin::routes(pintle),
    };
    router
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .layer(middleware::from_fn(access::from_here))
}

/// How many spans were refused, and why, in one sentence.
fn refused(taken: &Taken) -> Option<(i64, String)> {
    let spans: u64 = taken.rejected.iter().map(|(_, spans)| spans).sum();
    let reasons = taken.rejected.iter().map(|(reason, spans)| format!("{spans} spans: {reason}"));
    let reasons: Vec<_> = reasons.collect();
    (spans > 0).then(|| (i64::try_from(spans).unwrap_or(i64::MAX), reasons.join("; ")))
}

/// When to send it again, where that may help.
fn retry_after(refusal: &NotTaken) -> Option<Duration> {
    match refusal {
        NotTaken::Full { retry_after } => Some(*retry_after),
        NotTaken::Closed => Some(Duration::from_secs(5)),
        NotTaken::Malformed(_) | NotTaken::NoSink => None,
    }
}
