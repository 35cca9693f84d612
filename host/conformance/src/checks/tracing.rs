//! Where spans go.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use pintle::direct::{Failure, tracing::QueryRequest};

use crate::{
    check::{Check, Need, Outcome, SOON, check, ensure},
    owner::call,
    trial::{Trial, eventually},
};

pub(super) const CHECKS: &[Check] = &[
    check!("tracing.adds-up", adds_up, "accepted and rejected spans add up to the batch"),
    check!("tracing.partial", partial, "spans that are refused do not fail the others"),
    check!("tracing.malformed", malformed, "what is no batch of spans is refused as `invalid`"),
    check!("tracing.query", query, "a trace that was accepted is read back",
        needs Need::Feature("tracing.query")),
    check!("tracing.query/newest", newest, "the newest traces of a service come first, and no others",
        needs Need::Feature("tracing.query")),
];

async fn adds_up(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    for spans in [0, 1, 10, 500] {
        let result = owner.raw.tracing_export(call(), batch(spans)).await?;
        let rejected: u64 = result.rejected.iter().map(|rejection| rejection.spans).sum();
        ensure!(
            result.accepted + rejected == u64::from(spans),
            "of {spans} spans {} are accepted and {rejected} rejected",
            result.accepted
        );
    }
    Ok(())
}

async fn partial(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let good = (0..8).map(|number| span(&[7; 16], &[number + 1; 8]));
    // No trace and no span has such an id.
    let bad = [span(&[], &[]), span(&[0; 16], &[0; 8])];
    let spans: Vec<Vec<u8>> = good.chain(bad).collect();
    let result = owner.raw.tracing_export(call(), request(&spans)).await?;
    let rejected: u64 = result.rejected.iter().map(|rejection| rejection.spans).sum();
    ensure!(
        result.accepted + rejected == 10 && result.accepted >= 8,
        "of 8 good spans and 2 without ids {} are accepted and {rejected} rejected",
        result.accepted
    );
    let silent = result.rejected.iter().find(|rejection| rejection.reason.trim().is_empty());
    ensure!(silent.is_none(), "spans are rejected without a reason: {silent:?}");
    Ok(())
}

async fn malformed(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let whole = batch(2);
    let cut = whole.get(..whole.len() - 3).unwrap_or_default().to_vec();
    for bytes in [b"{\"resourceSpans\": []}".to_vec(), vec![0xff; 40], cut] {
        let answer = owner.raw.tracing_export(call(), bytes.clone()).await;
        ensure!(
            matches!(&answer, Err(Failure::Error(error)) if error.code == "invalid"),
            "{} bytes that are no batch of spans are answered {answer:?} instead of `invalid`",
            bytes.len()
        );
    }
    Ok(())
}

async fn query(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let trace = now.to_be_bytes();
    let one = span(&trace, &[1, 2, 3, 4, 5, 6, 7, 8]);
    owner.raw.tracing_export(call(), request(&[one])).await?;
    owner.raw.tracing_export(call(), batch(3)).await?;
    let trace_id: String = trace.iter().map(|byte| format!("{byte:02x}")).collect();
    let ask = || QueryRequest { trace_id: Some(trace_id.clone()), service: None, limit: 10 };
    let found = eventually("a trace that was accepted is found by its id", SOON, || async {
        let traces = owner.raw.tracing_query(call(), ask()).await?;
        Ok((!traces.is_empty()).then_some(traces))
    })
    .await?;
    let holds = |bytes: &Vec<u8>| bytes.windows(trace.len()).any(|part| part == trace);
    ensure!(
        found.len() == 1 && found.iter().all(holds),
        "one trace has the id {trace_id}; found are {} answers, {} of them with it",
        found.len(),
        found.iter().filter(|bytes| holds(bytes)).count()
    );
    Ok(())
}

async fn newest(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let service = trial.service("newest");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let traces: Vec<[u8; 16]> = (0..3).map(|number| (now + number).to_be_bytes()).collect();
    for trace in &traces {
        let one = span(trace, &[1; 8]);
        owner.raw.tracing_export(call(), request_of(&service, &[one])).await?;
        owner.raw.tracing_export(call(), batch(1)).await?;
    }
    let (owner, traces) = (&owner, &traces);
    let ask = |service: &str, limit: u32| {
        let request = QueryRequest { trace_id: None, service: Some(service.to_owned()), limit };
        async move {
            let found = owner.raw.tracing_query(call(), request).await?;
            let number = |bytes: &Vec<u8>| {
                traces_in(bytes, traces)
                    .first()
                    .map_or_else(|| "another".into(), ToString::to_string)
            };
            Outcome::Ok(found.iter().map(number).collect::<Vec<String>>())
        }
    };
    let what = "all three traces of a service are read back, the newest first";
    eventually(what, SOON, || async {
        Ok((ask(&service, 10).await? == ["2", "1", "0"]).then_some(()))
    })
    .await?;
    let two = ask(&service, 2).await?;
    ensure!(
        two == ["2", "1"],
        "the newest two of the traces 0, 1 and 2 are asked for; came {two:?}"
    );
    let none = ask(&trial.service("unheard-of"), 10).await?;
    ensure!(none.is_empty(), "no trace is of that service, and {none:?} come");
    Ok(())
}

/// Which of the traces occur in an answer.
fn traces_in(bytes: &[u8], traces: &[[u8; 16]]) -> Vec<usize> {
    let occurs = |trace: &[u8; 16]| bytes.windows(trace.len()).any(|part| part == trace);
    traces.iter().enumerate().filter(|(_, trace)| occurs(trace)).map(|(number, _)| number).collect()
}

/// A batch of so many spans of one trace, another one in each batch: a plugin may know again what it
/// has delivered.
pub(super) fn batch(spans: u32) -> Vec<u8> {
    static BATCHES: AtomicU64 = AtomicU64::new(1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let number =
        (now.as_nanos() << 16) | u128::from(BATCHES.fetch_add(1, Ordering::Relaxed) & 0xffff);
    let trace_id = number.to_be_bytes();
    let all: Vec<Vec<u8>> =
        (1..=spans).map(|number| span(&trace_id, &u64::from(number).to_be_bytes())).collect();
    request(&all)
}

/// `ExportTraceServiceRequest` of OTLP with one resource and one scope.
fn request(spans: &[Vec<u8>]) -> Vec<u8> {
    request_of("pintle-conformance", spans)
}

fn request_of(service: &str, spans: &[Vec<u8>]) -> Vec<u8> {
    let name = field(2, &field(1, service.as_bytes()));
    let service = [field(1, b"service.name"), name].concat();
    let resource = field(1, &service);
    let scope: Vec<u8> = spans.iter().flat_map(|span| field(2, span)).collect();
    let resource_spans = [field(1, &resource), field(2, &scope)].concat();
    field(1, &resource_spans)
}

/// `Span` of OTLP, of one millisecond, now.
fn span(trace_id: &[u8], span_id: &[u8]) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let start = u64::try_from(now.as_nanos()).unwrap_or_default();
    [
        field(1, trace_id),
        field(2, span_id),
        field(5, b"a check"),
        vec![6 << 3, 1],
        fixed(7, start),
        fixed(8, start + 1_000_000),
    ]
    .concat()
}

/// A field of protobuf with bytes in it.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut rest = bytes.len();
    while rest >= 0x80 {
        out.push(u8::try_from(rest & 0x7f).unwrap_or_default() | 0x80);
        rest >>= 7;
    }
    out.push(u8::try_from(rest).unwrap_or_default());
    out.extend_from_slice(bytes);
    out
}

/// A field of protobuf with eight bytes in it.
fn fixed(number: u8, value: u64) -> Vec<u8> {
    let mut out = vec![number << 3 | 1];
    out.extend_from_slice(&value.to_le_bytes());
    out
}
