//! `pintle:tracing`.

use crate::otlp::{Otlp, Way};
use crate::wire::{partial_success, prepare};
use pintle_plugin_sdk::tracing::{ExportResult, Rejection, Tracing};
use pintle_plugin_sdk::{Context, Error};
use std::cell::Cell;

impl Tracing for Otlp {
    async fn export(&self, cx: &Context, batch: Vec<u8>) -> Result<ExportResult, Error> {
        let prepared = prepare(batch.into()).map_err(|error| Error::invalid(error.to_string()))?;
        let rejection =
            |(reason, spans): (&str, u64)| Rejection { reason: reason.to_owned(), spans };
        let mut rejected: Vec<_> = prepared.rejected.into_iter().map(rejection).collect();
        let mut accepted = 0;
        if prepared.spans > 0 {
            let sent = match &self.way {
                Way::Grpc(way) => way.send(cx, prepared.request).await,
                Way::Http(way) => way.send(cx, prepared.request).await,
            };
            let answer = sent.inspect_err(|_| add(&self.errors, 1))?;
            accepted = prepared.spans;
            if let Some((reason, spans)) = partial_success(&answer, prepared.spans) {
                accepted -= spans;
                rejected.push(Rejection { reason, spans });
            }
        }
        add(&self.spans, accepted);
        add(&self.rejected, rejected.iter().map(|rejection| rejection.spans).sum());
        Ok(ExportResult { accepted, rejected })
    }
}

fn add(counter: &Cell<u64>, number: u64) {
    counter.set(counter.get().saturating_add(number));
}
