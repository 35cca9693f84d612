//! `pintle:tracing`.

use std::time::Duration;

use bytes::Bytes;

use super::config::page_len;
use crate::{
    error::Error,
    plugin::{
        actor::Operation,
        backend::{Backend, Call},
        bindings::tracing as wit,
        convert::shown,
        loader::Exports,
    },
    tracing::{ExportResult, Rejection, TraceQuery},
};

const EXPORT: Operation = Operation::mutation("tracing.export");
const QUERY: Operation = Operation::read("tracing.query");

fn exports(exports: &Exports) -> wasmtime::Result<&wit::Guest> {
    exports.tracing.as_ref().ok_or_else(|| wasmtime::format_err!("tracing is not exported"))
}

impl Backend {
    pub(crate) async fn tracing_export(
        &self,
        timeout: Option<Duration>,
        batch: Bytes,
    ) -> Result<ExportResult, Error> {
        let batch = batch.into();
        let waiting = timeout.unwrap_or(self.limits.call_timeout);
        let serving = self.serving(EXPORT, waiting).await?;
        let call = Call::new(EXPORT, timeout).on(&serving);
        let result = self.call(call, move |accessor, guest, context| {
            Box::pin(async move { exports(guest)?.call_export(accessor, context, batch).await })
        });
        let wit::ExportResult { accepted, rejected } = result.await?;
        let rejection = |wit::Rejection { reason, spans }| Rejection {
            reason: shown(&reason, &serving.scrubber, &self.limits),
            spans,
        };
        Ok(ExportResult { accepted, rejected: rejected.into_iter().map(rejection).collect() })
    }

    pub(crate) async fn tracing_query(
        &self,
        timeout: Option<Duration>,
        query: TraceQuery,
    ) -> Result<Vec<Bytes>, Error> {
        let call = Call::new(QUERY, timeout).needs_if(true, "tracing.query");
        let request = wit::QueryRequest {
            trace_id: query.trace_id,
            service: query.service,
            limit: page_len(query.limit),
        };
        let traces = self.call(call, move |accessor, guest, context| {
            Box::pin(async move { exports(guest)?.call_query(accessor, context, request).await })
        });
        Ok(traces.await?.into_iter().map(Bytes::from).collect())
    }
}
