//! The way to the server: over gRPC on a connection of our own, or over HTTP through the host.

use crate::settings::{Protocol, Settings};
use crate::wire::json;
use crate::wire::messages::{
    COLLECT, Commands, InstancePing, InstanceProperties, KEEP_ALIVE, REPORT_PROPERTIES,
    SegmentObject,
};
use futures::StreamExt as _;
use futures::stream;
use pintle_plugin_sdk::connection::{Connection, Traffic};
use pintle_plugin_sdk::grpc::{self, Channel, tonic};
use pintle_plugin_sdk::http::{HeaderMap, Limits, Method, Servers, error_of};
use pintle_plugin_sdk::link::{self, Link, State};
use pintle_plugin_sdk::{Context, Endpoint, Error, Health, gzip, http2, time};
use prost::Message;
use std::time::Duration;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};

/// How long one server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) struct Reporter {
    way: Way,
    timeout: Duration,
}

enum Way {
    Grpc { link: Link<Channel>, traffic: Traffic, metadata: MetadataMap },
    Http { servers: Servers, headers: HeaderMap },
}

impl Reporter {
    /// Starts to connect.
    ///
    /// # Errors
    ///
    /// `invalid` when there are no endpoints, or a setting does not work.
    pub(crate) fn start(endpoints: Vec<Endpoint>, settings: &Settings) -> Result<Self, Error> {
        let way = match settings.protocol {
            Protocol::Http => {
                Way::Http { servers: Servers::new(endpoints)?, headers: settings.headers()? }
            }
            Protocol::Grpc => {
                let traffic = Traffic::default();
                let link = connect(endpoints, traffic.clone(), settings.timeout())?;
                Way::Grpc { link, traffic, metadata: settings.metadata()? }
            }
        };
        Ok(Self { way, timeout: settings.timeout() })
    }

    /// Sends segments; when this answers the server has them.
    pub(crate) async fn collect(&self, segments: Vec<SegmentObject>) -> Result<(), Error> {
        match &self.way {
            Way::Http { .. } => self.post("/v3/segments", &json::segments(&segments)).await,
            Way::Grpc { metadata, .. } => {
                let call = async |channel: &Channel| {
                    let mut request = Request::new(stream::iter(segments));
                    *request.metadata_mut() = metadata.clone();
                    let mut answers =
                        grpc::streaming::<_, Commands, _>(channel, COLLECT, request).await?;
                    // The server answers when it has read the stream to its end.
                    match answers.next().await {
                        Some(answer) => answer.map(drop),
                        None => Err(Status::unavailable("the stream ended without an answer")),
                    }
                };
                self.call(call).await
            }
        }
    }

    pub(crate) async fn report_properties(&self, of: InstanceProperties) -> Result<(), Error> {
        match &self.way {
            Way::Http { .. } => {
                self.post("/v3/management/reportProperties", &json::properties(&of)).await
            }
            Way::Grpc { .. } => self.unary(REPORT_PROPERTIES, of).await,
        }
    }

    pub(crate) async fn keep_alive(&self, of: InstancePing) -> Result<(), Error> {
        match &self.way {
            Way::Http { .. } => self.post("/v3/management/keepAlive", &json::ping(&of)).await,
            Way::Grpc { .. } => self.unary(KEEP_ALIVE, of).await,
        }
    }

    async fn unary<Q>(&self, path: &'static str, message: Q) -> Result<(), Error>
    where
        Q: Message + Send + Sync + 'static,
    {
        let Way::Grpc { metadata, .. } = &self.way else { return Ok(()) };
        let call = async |channel: &Channel| {
            let mut request = Request::new(message);
            *request.metadata_mut() = metadata.clone();
            grpc::unary::<Q, Commands>(channel, path, request).await.map(drop)
        };
        self.call(call).await
    }

    async fn call(
        &self,
        call: impl AsyncFnOnce(&Channel) -> Result<(), Status>,
    ) -> Result<(), Error> {
        let Way::Grpc { link, .. } = &self.way else { return Ok(()) };
        let cx = Context::background("tracing.export", self.timeout);
        let channel = match link.client_now() {
            Some(channel) => channel,
            None => link.client(&cx).await?,
        };
        match time::timeout(cx.remaining(), call(&channel)).await {
            Ok(answer) => answer.map_err(|status| error(&status, channel.peer())),
            Err(_) => {
                let limit = self.timeout.as_millis();
                let message = format!("{}: no answer within {limit} ms", channel.peer());
                // It answers PINGs, or would be gone: another may answer requests too.
                link.leave_if(&message, |current| current.is(&channel));
                Err(Error::timeout(message).effect_unknown())
            }
        }
    }

    async fn post(&self, path: &str, body: &serde_json::Value) -> Result<(), Error> {
        let Way::Http { servers, headers } = &self.way else { return Ok(()) };
        let body = gzip::compress(body.to_string().as_bytes());
        let limits = Limits { timeout: self.timeout, ..Limits::default() };
        let endpoint = servers.current();
        let response = servers.send(Method::POST, path, headers, body, limits).await?;
        if response.status().is_success() { Ok(()) } else { Err(error_of(&response, &endpoint)) }
    }

    pub(crate) fn health(&self) -> Health {
        match &self.way {
            Way::Grpc { link, traffic, .. } => {
                let health = match link.state() {
                    State::Connected(endpoint) => {
                        Health::serving(format!("connected to {endpoint}"))
                            .detail("endpoint", endpoint.to_string())
                    }
                    State::Connecting(Some(error)) => Health::unavailable(error.message()),
                    State::Connecting(None) => Health::degraded("connecting for the first time"),
                };
                health
                    .counter("reconnects", link.reconnects())
                    .counter("bytes-in", traffic.read())
                    .counter("bytes-out", traffic.written())
            }
            Way::Http { servers, .. } => {
                let endpoint = servers.current().to_string();
                let health = match servers.trouble() {
                    Some(trouble) => Health::unavailable(trouble),
                    None if servers.answered() == 0 => Health::serving("nothing was sent yet"),
                    None => Health::serving(format!("{endpoint} takes segments")),
                };
                health.detail("endpoint", endpoint).counter("reconnects", servers.moves())
            }
        }
    }
}

fn connect(
    endpoints: Vec<Endpoint>,
    traffic: Traffic,
    timeout: Duration,
) -> Result<Link<Channel>, Error> {
    let options = link::Options { open_timeout: CONNECT_TIMEOUT, ..link::Options::default() };
    let open = async move |endpoint: Endpoint| {
        let connection = Connection::open(&endpoint, CONNECT_TIMEOUT).await?;
        // Servers hang up on clients that PING while they ask for nothing.
        let http2 = http2::Options::patient(timeout);
        let channel = Channel::open(connection.counted_by(&traffic), http2).await?;
        let closing = channel.clone();
        let closed: futures::future::LocalBoxFuture<'static, String> =
            Box::pin(async move { closing.closed().await });
        Ok((channel, closed))
    };
    Link::start(endpoints, options, open)
}

fn error(status: &Status, endpoint: &str) -> Error {
    let text = status.message();
    match status.code() {
        // A token that is wrong or missing is refused with this code.
        Code::PermissionDenied => {
            Error::unauthenticated(format!("{endpoint}: {text}; check `token`"))
                .detail("endpoint", endpoint)
        }
        Code::ResourceExhausted if text.contains("exceeds max") || text.contains("larger than") => {
            Error::too_large(format!("{endpoint}: {text}")).detail("limit", "bytes of a message")
        }
        Code::Cancelled | Code::Aborted => {
            Error::unavailable(format!("{endpoint}: {text}")).effect_unknown()
        }
        _ => grpc::error(status, endpoint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_token_is_told_as_such() {
        let status = Status::permission_denied("The request is denied");
        let told = error(&status, "oap:11800");
        assert_eq!(told.code(), "unauthenticated");
        assert!(told.message().ends_with("check `token`"), "{told}");
    }

    #[test]
    fn segments_that_are_too_large_can_be_sent_in_parts() {
        let status = Status::resource_exhausted("gRPC message exceeds maximum size 4: 5");
        assert_eq!(error(&status, "oap:11800").code(), "too-large");
    }
}
