//! Spans on their way, and headers of traces.

use pintle_api::tracing::{Carried, Headers, Inject, Status};

use super::{Operation, Verb, json};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::read("trace.status", "/v1/tracing/status", "What became of the spans that came in")
        .answers(json::<Status>()),
    Operation::read(
        "trace.extract",
        "/v1/tracing/extract",
        "What headers tell of a trace, whatever convention they follow",
    )
    .verb(Verb::Post)
    .takes(json::<Headers>())
    .answers(json::<Carried>())
    .example("", r#"{"headers":{"b3":"80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1"}}"#, 200),
    Operation::read("trace.inject", "/v1/tracing/inject", "The headers with which a trace goes on")
        .verb(Verb::Post)
        .takes(json::<Inject>())
        .answers(json::<Headers>())
        .example(
            "",
            r#"{"format":"w3c","carried":{"trace_id":"80f198ee56343ba864fe8b2a57d3eff7","span_id":"e457b5a2e4d86bd1","sampled":true}}"#,
            200,
        ),
];
