//! `pintle:tracing`: the newest spans, in memory, to be looked at.

use crate::local::Local;
use crate::settings::Settings;
use crate::wire::{Group, Span, TraceWriter, decode};
use pintle_plugin_sdk::tracing::{ExportResult, QueryRequest, Rejection, Tracing};
use pintle_plugin_sdk::{Context, Error};
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

/// What a span takes beside its bytes, roughly.
const SPAN_OVERHEAD_BYTES: usize = 160;
/// Bytes of traces after which an answer to a query takes no more of them.
const ANSWER_BYTES_MAX: usize = 2 * 1024 * 1024;

type TraceId = [u8; 16];

/// A bounded ring of spans; the oldest go first.
pub(crate) struct Spans {
    spans_max: usize,
    bytes_max: usize,
    ring: VecDeque<Kept>,
    /// Number of the oldest span in the ring, counted from the first that ever came.
    oldest: u64,
    bytes: usize,
    /// Numbers of the spans of each trace, ascending.
    traces: HashMap<TraceId, VecDeque<u64>>,
    dropped: u64,
}

struct Kept {
    trace_id: TraceId,
    span: Span,
    /// Resource and scope, without spans.
    origin: Rc<Group>,
    weight: usize,
}

impl Tracing for Local {
    async fn export(&self, _: &Context, batch: Vec<u8>) -> Result<ExportResult, Error> {
        let batch = decode(batch).map_err(|malformed| Error::invalid(malformed.to_string()))?;
        let mut spans = self.spans.borrow_mut();
        let (mut accepted, mut bad_trace, mut bad_span) = (0, 0, 0);
        for mut group in batch.groups {
            let arrived = std::mem::take(&mut group.spans);
            let shared = shared_weight(&group, arrived.len());
            let origin = Rc::new(group);
            for span in arrived {
                match TraceId::try_from(&span.trace_id[..]) {
                    Ok(id) if id == [0; 16] => bad_trace += 1,
                    Err(_) => bad_trace += 1,
                    Ok(_) if span.span_id.len() != 8 || span.span_id.iter().all(|b| *b == 0) => {
                        bad_span += 1;
                    }
                    Ok(trace_id) => {
                        let weight = span.bytes.len() + shared + SPAN_OVERHEAD_BYTES;
                        let origin = Rc::clone(&origin);
                        spans.push(Kept { trace_id, span, origin, weight });
                        accepted += 1;
                    }
                }
            }
        }
        let rejected = [
            ("the trace id is not 16 bytes, or all of them are zero", bad_trace),
            ("the span id is not 8 bytes, or all of them are zero", bad_span),
        ];
        let rejected = rejected.into_iter().filter(|(_, spans)| *spans > 0);
        Ok(ExportResult {
            accepted,
            rejected: rejected
                .map(|(reason, spans)| Rejection { reason: reason.to_owned(), spans })
                .collect(),
        })
    }

    async fn query(&self, _: &Context, request: QueryRequest) -> Result<Vec<Vec<u8>>, Error> {
        let wanted = request.trace_id.as_deref().map(trace_id_from).transpose()?;
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        if !(1..=1_000).contains(&limit) {
            return Err(Error::invalid(format!("limit {limit}: a query answers 1 to 1000 traces")));
        }
        Ok(self.spans.borrow().query(wanted, request.service.as_deref(), limit))
    }
}

impl Spans {
    pub(crate) fn new(settings: &Settings) -> Self {
        let size = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        Self {
            spans_max: size(settings.spans_max),
            bytes_max: size(settings.spans_bytes_max),
            ring: VecDeque::new(),
            oldest: 0,
            bytes: 0,
            traces: HashMap::new(),
            dropped: 0,
        }
    }

    /// Spans that had to make room for later ones.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    fn push(&mut self, kept: Kept) {
        let number = self.oldest + self.ring.len() as u64;
        self.bytes += kept.weight;
        self.traces.entry(kept.trace_id).or_default().push_back(number);
        self.ring.push_back(kept);
        while self.ring.len() > self.spans_max || self.bytes > self.bytes_max {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some(gone) = self.ring.pop_front() else { return };
        self.oldest += 1;
        self.bytes = self.bytes.saturating_sub(gone.weight);
        self.dropped += 1;
        if let Some(numbers) = self.traces.get_mut(&gone.trace_id) {
            numbers.pop_front();
            if numbers.is_empty() {
                self.traces.remove(&gone.trace_id);
            }
        }
    }

    /// Traces whose newest span is newest come first.
    fn query(&self, wanted: Option<TraceId>, service: Option<&str>, limit: usize) -> Vec<Vec<u8>> {
        let serves = |kept: &Kept| service.is_none_or(|service| *kept.origin.service == *service);
        let found: Vec<TraceId> = match wanted {
            Some(trace_id) => {
                let serves = self.spans_of(&trace_id).any(serves);
                serves.then_some(trace_id).into_iter().collect()
            }
            None => self.newest_traces(serves, limit),
        };
        let mut bytes = 0;
        let mut traces = Vec::new();
        for trace_id in found {
            if bytes >= ANSWER_BYTES_MAX {
                break;
            }
            let trace = self.trace(&trace_id);
            bytes += trace.len();
            traces.push(trace);
        }
        traces
    }

    fn newest_traces(&self, serves: impl Fn(&Kept) -> bool, limit: usize) -> Vec<TraceId> {
        // A trace may match by an earlier span than its newest, whose place it has all the same.
        let serving: HashSet<_> =
            self.ring.iter().filter(|kept| serves(kept)).map(|kept| kept.trace_id).collect();
        let mut answered = HashSet::new();
        self.ring
            .iter()
            .rev()
            .map(|kept| kept.trace_id)
            .filter(|trace_id| serving.contains(trace_id) && answered.insert(*trace_id))
            .take(limit)
            .collect()
    }

    fn spans_of(&self, trace_id: &TraceId) -> impl Iterator<Item = &Kept> {
        let numbers = self.traces.get(trace_id).into_iter().flatten();
        numbers.filter_map(|number| {
            let index = usize::try_from(number.checked_sub(self.oldest)?).ok()?;
            self.ring.get(index)
        })
    }

    /// One `TracesData`: spans of one resource and scope stand together.
    fn trace(&self, trace_id: &TraceId) -> Vec<u8> {
        let mut groups: Vec<(Rc<Group>, Vec<Span>)> = Vec::new();
        for kept in self.spans_of(trace_id) {
            match groups.iter_mut().find(|(origin, _)| Rc::ptr_eq(origin, &kept.origin)) {
                Some((_, spans)) => spans.push(kept.span.clone()),
                None => groups.push((Rc::clone(&kept.origin), vec![kept.span.clone()])),
            }
        }
        let mut writer = TraceWriter::default();
        for (origin, spans) in groups {
            writer.add(Group { spans, ..(*origin).clone() });
        }
        writer.finish()
    }
}

/// Each span's share of what a group's spans have in common.
fn shared_weight(group: &Group, spans: usize) -> usize {
    let length = |bytes: Option<&prost::bytes::Bytes>| bytes.map_or(0, |bytes| bytes.len());
    let shared = length(group.resource.as_ref())
        + length(group.scope.as_ref())
        + group.service.len()
        + group.resource_schema.len()
        + group.scope_schema.len();
    shared.div_ceil(spans.max(1))
}

fn trace_id_from(text: &str) -> Result<TraceId, Error> {
    let digits = text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    match u128::from_str_radix(text, 16) {
        Ok(number) if digits && text.len() == 32 => Ok(number.to_be_bytes()),
        _ => Err(Error::invalid(format!(
            "`{}` is no trace id: it takes 32 lower-case hexadecimal digits",
            text.escape_debug().take(64).collect::<String>()
        ))),
    }
}
