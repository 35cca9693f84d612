//! One connection to one server, and what that server is.

use crate::auth::Auth;
use crate::error::{Failure, Remedy, is_passing};
use crate::reader::Gets;
use crate::wire::messages::{StatusRequest, StatusResponse};
use crate::wire::version::has_reliable_progress;
use pintle_plugin_sdk::connection::{Connection, Traffic};
use pintle_plugin_sdk::grpc::{self, tonic};
use pintle_plugin_sdk::link::Opened;
use pintle_plugin_sdk::{Endpoint, Error, http2};
use std::cell::{Cell, OnceCell};
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
    /// Requests that it has answered.
    pub(crate) answers: Rc<Cell<u64>>,
    /// Keys that are read over it.
    pub(crate) gets: Rc<OnceCell<Gets>>,
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
        auth: &Auth,
    ) -> Result<Opened<Self>, Error> {
        let over_tls = endpoint.tls;
        let connection = Connection::open(&endpoint, options.connect_timeout).await?;
        let connection = connection.counted_by(traffic);
        let channel = grpc::Channel::open(connection, options.http2).await?;
        let closing = channel.clone();
        let (answers, gets) = Default::default();
        let mut server = Self { channel, version: "".into(), answers, gets };
        match server.status(auth).await {
            Ok(status) => {
                check(&status, server.channel.peer())?;
                server.version = status.version.into();
            }
            // Nothing was asked of it yet.
            Err(error) if is_passing(&error) => return Err(unusable(error, over_tls)),
            // A server that does not tell us how it is may serve all the same; if it does not, the
            // request itself is refused, and says so.
            Err(error) => tracing::debug!(%error, "the server does not tell how it is"),
        }
        Ok((server, Box::pin(async move { closing.closed().await })))
    }

    /// Asks how the server is. Some demand to know who asks.
    async fn status(&self, auth: &Auth) -> Result<StatusResponse, Error> {
        let request = tonic::Request::new(StatusRequest {});
        let request = auth.sign(self, request).await.map_err(|failure| failure.error)?;
        let answer = grpc::unary::<StatusRequest, _>(&self.channel, STATUS, request).await;
        answer.map_err(|status| {
            let failure = Failure::of(&status, self.channel.peer());
            if failure.remedy == Remedy::Authenticate {
                auth.renew(self);
            }
            failure.error
        })
    }

    /// Whether both are the same connection.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.answers, &other.answers)
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
