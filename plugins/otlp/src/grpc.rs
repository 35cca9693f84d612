//! The way over gRPC, on a connection of our own.

use crate::error::of_status;
use crate::settings::Settings;
use crate::wire::Passed;
use bytes::Bytes;
use pintle_otlp::{ExportTraceServiceResponse, GRPC_PATH};
use pintle_plugin_sdk::connection::{Connection, Traffic};
use pintle_plugin_sdk::grpc::{self, Channel, tonic};
use pintle_plugin_sdk::link::{self, Link, State};
use pintle_plugin_sdk::{Context, Endpoint, Error, Health, http2, time};
use std::time::Duration;
use tonic::Request;
use tonic::metadata::MetadataMap;

/// How long one receiver may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) struct GrpcWay {
    link: Link<Channel>,
    traffic: Traffic,
    metadata: MetadataMap,
    is_compressed: bool,
    timeout: Duration,
}

impl GrpcWay {
    /// Starts to connect.
    ///
    /// # Errors
    ///
    /// `invalid` when there are no endpoints, or a setting does not work.
    pub(crate) fn start(endpoints: Vec<Endpoint>, settings: &Settings) -> Result<Self, Error> {
        let traffic = Traffic::default();
        let counted = traffic.clone();
        let timeout = settings.timeout();
        let options = link::Options { open_timeout: CONNECT_TIMEOUT, ..link::Options::default() };
        let open = async move |endpoint: Endpoint| {
            let connection = Connection::open(&endpoint, CONNECT_TIMEOUT).await?;
            // Receivers hang up on clients that PING while they ask for nothing.
            let http2 = http2::Options::patient(timeout);
            let channel = Channel::open(connection.counted_by(&counted), http2).await?;
            let closing = channel.clone();
            let closed: futures::future::LocalBoxFuture<'static, String> =
                Box::pin(async move { closing.closed().await });
            Ok((channel, closed))
        };
        Ok(Self {
            link: Link::start(endpoints, options, open)?,
            traffic,
            metadata: settings.metadata()?,
            is_compressed: settings.is_compressed(),
            timeout,
        })
    }

    pub(crate) async fn send(
        &self,
        cx: &Context,
        request: Bytes,
    ) -> Result<ExportTraceServiceResponse, Error> {
        let channel = match self.link.client_now() {
            Some(channel) => channel,
            None => self.link.client(cx).await?,
        };
        let mut request = Request::new(Passed(request));
        *request.metadata_mut() = self.metadata.clone();
        let sent = async {
            if self.is_compressed {
                grpc::unary_gzip::<Passed, _>(&channel, GRPC_PATH, request).await
            } else {
                grpc::unary::<Passed, _>(&channel, GRPC_PATH, request).await
            }
        };
        let limit = self.timeout.min(cx.remaining());
        let Ok(answer) = time::timeout(limit, sent).await else {
            let message = format!("{}: no answer within {} ms", channel.peer(), limit.as_millis());
            // It answers PINGs, or would be gone: others may answer requests too.
            self.link.leave_if(&message, |current| current.is(&channel));
            return Err(Error::timeout(message).effect_unknown());
        };
        answer.map_err(|status| of_status(&status, channel.peer()))
    }

    pub(crate) fn health(&self) -> Health {
        let health = match self.link.state() {
            State::Connected(endpoint) => Health::serving(format!("connected to {endpoint}"))
                .detail("endpoint", endpoint.to_string()),
            State::Connecting(Some(error)) => Health::unavailable(error.message()),
            State::Connecting(None) => Health::degraded("connecting for the first time"),
        };
        health
            .counter("reconnects", self.link.reconnects())
            .counter("bytes-in", self.traffic.read())
            .counter("bytes-out", self.traffic.written())
    }
}
