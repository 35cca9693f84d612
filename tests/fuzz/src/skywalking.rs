//! Requests of OTLP that go to SkyWalking.

use crate::in_proportion;
use pintle_otlp::ExportTraceServiceRequest;
use pintle_plugin_skywalking::assembly::{Arrival, Arrived, Assembly, TraceId};
use pintle_plugin_skywalking::wire::json;
use pintle_plugin_skywalking::wire::messages::SegmentObject;
use pintle_plugin_skywalking::wire::span::{Process, properties};
use prost::Message;
use std::collections::BTreeSet;
use std::rc::Rc;

/// An empty span takes 2 bytes on the wire. One that has all it needs takes 30, and becomes a segment of its
/// own, which says where it comes from.
const BYTES_PER_BYTE: u64 = 640;
/// Spans whose places are remembered.
const KNOWN_MAX: usize = 64;

pub(crate) fn read(input: &[u8]) {
    let convert = |input: &[u8]| {
        let request = ExportTraceServiceRequest::decode(input).ok()?;
        for resource in request.resource_spans.iter().flat_map(|it| &it.resource) {
            properties(resource);
        }
        Some(assemble(request))
    };
    let Some((segments, held)) = in_proportion(BYTES_PER_BYTE, input, convert) else { return };
    let spans: usize = segments.iter().map(|segment| segment.spans.len()).sum();
    assert_eq!(spans, held, "each span is in one segment");
    for segment in &segments {
        let bytes = segment.encode_to_vec();
        assert_eq!(SegmentObject::decode(bytes.as_slice()).as_ref(), Ok(segment));
    }
    assert_eq!(json::segments(&segments).as_array().map(Vec::len), Some(segments.len()));
}

/// The segments of all spans, and how many spans those are.
fn assemble(request: ExportTraceServiceRequest) -> (Vec<SegmentObject>, usize) {
    let mut assembly = Assembly::new(KNOWN_MAX);
    let (mut held, mut traces) = (0, BTreeSet::new());
    for resource_spans in request.resource_spans {
        let process = Rc::new(Process::of(&resource_spans.resource.unwrap_or_default()));
        for scope_spans in resource_spans.scope_spans {
            let scope: Rc<str> = scope_spans.scope.unwrap_or_default().name.into();
            for span in scope_spans.spans {
                let trace_id = TraceId::try_from(span.trace_id.as_slice());
                let (process, scope) = (Rc::clone(&process), Rc::clone(&scope));
                let arrival = assembly.add(Arrived { ticket: 1, process, scope, span });
                if let (Arrival::Held, Ok(trace_id)) = (arrival, trace_id) {
                    held += 1;
                    traces.insert(trace_id);
                }
            }
        }
    }
    let segments = traces.into_iter().flat_map(|trace| assembly.flush(trace));
    (segments.map(|segment| segment.object).collect(), held)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::request;

    #[test]
    fn names_that_segments_repeat_take_no_more_memory_than_they_may() {
        read(&request("service.name", ""));
    }
}
