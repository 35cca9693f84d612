//! The way over HTTP, through the host.

use crate::error::of_response;
use crate::settings::Settings;
use bytes::Bytes;
use pintle_otlp::ExportTraceServiceResponse;
use pintle_plugin_sdk::http::{HeaderMap, Limits, Method, Servers};
use pintle_plugin_sdk::{Context, Endpoint, Error, Health, gzip};
use prost::Message;
use std::cell::Cell;

pub(crate) struct HttpWay {
    servers: Servers,
    headers: HeaderMap,
    settings: Settings,
    bytes_out: Cell<u64>,
}

impl HttpWay {
    /// # Errors
    ///
    /// `invalid` when there are no endpoints, or a setting does not work.
    pub(crate) fn start(endpoints: Vec<Endpoint>, settings: &Settings) -> Result<Self, Error> {
        Ok(Self {
            servers: Servers::new(endpoints)?,
            headers: settings.http_headers()?,
            settings: settings.clone(),
            bytes_out: Cell::new(0),
        })
    }

    pub(crate) async fn send(
        &self,
        cx: &Context,
        request: Bytes,
    ) -> Result<ExportTraceServiceResponse, Error> {
        let body = if self.settings.is_compressed() { gzip::compress(&request) } else { request };
        let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
        self.bytes_out.set(self.bytes_out.get().saturating_add(length));
        let timeout = self.settings.timeout().min(cx.remaining());
        let limits = Limits { timeout, ..Limits::default() };
        let endpoint = self.servers.current();
        let path = &self.settings.path;
        let response = self.servers.send(Method::POST, path, &self.headers, body, limits).await?;
        if !response.status().is_success() {
            return Err(of_response(&response, &endpoint));
        }
        // Some receivers answer in words of their own: what they took they took.
        let answer = ExportTraceServiceResponse::decode(response.into_body());
        Ok(answer.unwrap_or_default())
    }

    pub(crate) fn health(&self) -> Health {
        let endpoint = self.servers.current().to_string();
        let health = match self.servers.trouble() {
            Some(trouble) => Health::unavailable(trouble),
            None if self.servers.answered() == 0 => Health::serving("nothing was sent yet"),
            None => Health::serving(format!("{endpoint} takes spans")),
        };
        health
            .detail("endpoint", endpoint)
            .counter("reconnects", self.servers.moves())
            .counter("bytes-out", self.bytes_out.get())
    }
}
