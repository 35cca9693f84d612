//! `pintle:tracing`.

use crate::wire::{body, convert, to_json};
use crate::zipkin::{Counters, Zipkin};
use bytes::Bytes;
use pintle_otlp::ExportTraceServiceRequest;
use pintle_plugin_sdk::http::{Limits, Method, StatusCode, error_of};
use pintle_plugin_sdk::tracing::{ExportResult, Rejection, Tracing};
use pintle_plugin_sdk::{Context, Error, gzip};
use prost::Message;

/// A request is sent once its spans have so many bytes in JSON. Spans repeat what the batch says once for
/// all of them, so that together they may not fit into the plugin's memory, nor into what a server takes, which
/// is 10 MiB unless it is told otherwise.
const BODY_BYTES: usize = 8 << 20;
/// As many requests are sent to find out which spans of a body the server does not take.
const SEARCH_MAX: u32 = 64;

impl Tracing for Zipkin {
    async fn export(&self, cx: &Context, batch: Vec<u8>) -> Result<ExportResult, Error> {
        let request = ExportTraceServiceRequest::decode(Bytes::from(batch))
            .map_err(|error| Error::invalid(format!("no OTLP trace request: {error}")))?;
        let mut result = ExportResult { accepted: 0, rejected: Vec::new() };
        let (mut spans, mut bytes) = (Vec::new(), 0);
        for span in convert(request) {
            let span = match span {
                Ok(span) => span,
                Err(reason) => {
                    self.reject(&mut result, reason.to_owned(), 1);
                    continue;
                }
            };
            let json = to_json(&span)
                .map_err(|error| Error::internal(format!("a span cannot be written: {error}")))?;
            bytes += json.len();
            spans.push(json);
            if bytes >= BODY_BYTES {
                self.deliver(cx, &std::mem::take(&mut spans), &mut result).await?;
                bytes = 0;
            }
        }
        self.deliver(cx, &spans, &mut result).await?;
        Ok(result)
    }
}

impl Zipkin {
    /// Sends spans. Zipkin takes or refuses a request as a whole: where it refuses one, the culprits are
    /// looked for, so that the others get through.
    async fn deliver(
        &self,
        cx: &Context,
        spans: &[String],
        result: &mut ExportResult,
    ) -> Result<(), Error> {
        let mut parts = vec![spans];
        let mut sent = 0;
        while let Some(spans) = parts.pop() {
            if spans.is_empty() {
                continue;
            }
            let count = u64::try_from(spans.len()).unwrap_or(u64::MAX);
            sent += 1;
            match self.send(cx, spans).await? {
                None => {
                    result.accepted += count;
                    Counters::add(&self.counters.spans, count);
                }
                Some(_) if spans.len() > 1 && sent < SEARCH_MAX => {
                    let (left, right) = spans.split_at(spans.len() / 2);
                    parts.extend([right, left]);
                }
                Some(refused) => self.reject(result, refused.message().to_owned(), count),
            }
        }
        Ok(())
    }

    /// Sends spans; answers with the refusal, where the server finds fault with them.
    async fn send(&self, cx: &Context, spans: &[String]) -> Result<Option<Error>, Error> {
        let json = body(spans);
        let body = if self.settings.gzip { gzip::compress(&json) } else { json.into() };
        Counters::add(&self.counters.bytes_out, u64::try_from(body.len()).unwrap_or(u64::MAX));
        let timeout = self.settings.timeout().min(cx.remaining());
        let limits = Limits { timeout, ..Limits::default() };
        let endpoint = self.servers.current();
        let path = &self.settings.path;
        let exchange = self.servers.send(Method::POST, path, &self.headers, body, limits).await;
        let response = exchange.inspect_err(|_| Counters::add(&self.counters.errors, 1))?;
        if response.status().is_success() {
            return Ok(None);
        }
        Counters::add(&self.counters.errors, 1);
        let error = error_of(&response, &endpoint);
        if response.status() == StatusCode::BAD_REQUEST { Ok(Some(error)) } else { Err(error) }
    }

    fn reject(&self, result: &mut ExportResult, reason: String, spans: u64) {
        Counters::add(&self.counters.rejected, spans);
        match result.rejected.iter_mut().find(|rejection| rejection.reason == reason) {
            Some(rejection) => rejection.spans += spans,
            None => result.rejected.push(Rejection { reason, spans }),
        }
    }
}
