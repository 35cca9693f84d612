//! One connection to one server, and what that server is.

use crate::error::Failure;
use crate::wire::messages::{StatusRequest, StatusResponse};
use crate::wire::version::has_reliable_progress;
use pintle_plugin_sdk::connection::{Connection, Traffic};
use pintle_plugin_sdk::link::Opened;
use pintle_plugin_sdk::{Endpoint, Error, grpc, http2};
use std::rc::Rc;
use std::time::Duration;

const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// How to connect.
#[derive(Clone, Debug)]
pub(crate) struct ServerOptions {
    pub(crate) connect_timeout: Duration,
    pub(crate) http2: http2::Options,
}

/// A connection. Clones share it.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) channel: grpc::Channel,
    /// The server's version, where it tells.
    pub(crate) version: Rc<str>,
}

impl Server {
    /// Connects, and looks whether the server can serve.
    ///
    /// # Errors
    ///
    /// When it cannot be reached, or has no leader, or is a learner.
    pub(crate) async fn open(
        endpoint: Endpoint,
        options: &ServerOptions,
        traffic: &Traffic,
    ) -> Result<Opened<Self>, Error> {
        let over_tls = endpoint.tls;
        let connection = Connection::open(&endpoint, options.connect_timeout).await?;
        let connection = connection.counted_by(traffic);
        let channel = grpc::Channel::open(connection, options.http2).await?;
        let status = grpc::unary(&channel, STATUS, StatusRequest {}).await;
        let version = match status {
            Ok(status) => {
                check(&status, channel.peer())?;
                status.version
            }
            Err(status) => {
                let failure = Failure::of(&status, channel.peer());
                // A server that does not tell strangers how it is may serve all the same.
                if !matches!(failure.error.code(), "unauthenticated" | "denied" | "unsupported") {
                    return Err(unusable(failure.error, over_tls));
                }
                String::new()
            }
        };
        let closing = channel.clone();
        let gone = Box::pin(async move { closing.closed().await });
        Ok((Self { channel, version: version.into() }, gone))
    }

    /// Whether a progress notice of this server proves that nothing is missing before it.
    pub(crate) fn has_reliable_progress(&self) -> bool {
        has_reliable_progress(&self.version)
    }
}

/// The connection stood, and its first request failed: nobody has asked for anything yet.
fn unusable(error: Error, over_tls: bool) -> Error {
    let error = error.effect_none();
    if error.code() != "unavailable" || error.message().contains("etcdserver: ") {
        return error;
    }
    let spoken = if over_tls { "HTTP/2 over TLS" } else { "HTTP/2 without TLS; see `tls`" };
    let message = format!("{} (it has to be an etcd that speaks {spoken})", error.message());
    let told = Error::unavailable(message);
    error.details().iter().fold(told, |told, (name, value)| told.detail(name, value))
}

fn check(status: &StatusResponse, peer: &str) -> Result<(), Error> {
    let unfit = |reason: &str| Err(Error::unavailable(format!("{peer}: {reason}")));
    if status.is_learner {
        return unfit("this member is a learner and serves no clients");
    }
    if status.leader == 0 {
        return unfit("this member has no leader; the cluster may have lost its quorum");
    }
    Ok(())
}
