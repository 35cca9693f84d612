//! `pintle:tracing`.

use crate::otlp::{Otlp, Way};
use crate::wire::{Prepared, partial_success, prepare, sift};
use bytes::Bytes;
use pintle_otlp::{ExportTraceServiceResponse, Malformed};
use pintle_plugin_sdk::tracing::{ExportResult, Rejection, Tracing};
use pintle_plugin_sdk::{Context, Error};
use std::cell::Cell;

impl Tracing for Otlp {
    async fn export(&self, cx: &Context, batch: Vec<u8>) -> Result<ExportResult, Error> {
        let batch = Bytes::from(batch);
        let invalid = |error: Malformed| Error::invalid(error.to_string());
        let prepared = prepare(batch.clone()).map_err(invalid)?;
        let result = match self.deliver(cx, prepared).await {
            // Receivers refuse a whole batch over one span that they cannot read.
            Err(refused) if matches!(refused.code(), "invalid" | "internal") => {
                let sifted = sift(batch).map_err(invalid)?;
                if sifted.rejected.is_empty() {
                    Err(refused)
                } else {
                    self.deliver(cx, sifted).await
                }
            }
            result => result,
        };
        let result = result.inspect_err(|_| add(&self.errors, 1))?;
        add(&self.spans, result.accepted);
        add(&self.rejected, result.rejected.iter().map(|rejection| rejection.spans).sum());
        Ok(result)
    }
}

impl Otlp {
    async fn deliver(&self, cx: &Context, prepared: Prepared) -> Result<ExportResult, Error> {
        let Prepared { request, spans, rejected } = prepared;
        let told = |(reason, spans): (&str, u64)| Rejection { reason: reason.to_owned(), spans };
        let mut rejected: Vec<_> = rejected.into_iter().map(told).collect();
        if spans == 0 {
            return Ok(ExportResult { accepted: 0, rejected });
        }
        let answer = self.send(cx, request).await?;
        let mut accepted = spans;
        if let Some((reason, spans)) = partial_success(&answer, spans) {
            accepted -= spans;
            rejected.push(Rejection { reason, spans });
        }
        Ok(ExportResult { accepted, rejected })
    }

    async fn send(
        &self,
        cx: &Context,
        request: Bytes,
    ) -> Result<ExportTraceServiceResponse, Error> {
        match &self.way {
            Way::Grpc(way) => way.send(cx, request).await,
            Way::Http(way) => way.send(cx, request).await,
        }
    }
}

fn add(counter: &Cell<u64>, number: u64) {
    counter.set(counter.get().saturating_add(number));
}
