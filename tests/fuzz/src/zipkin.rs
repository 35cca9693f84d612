//! Requests of OTLP that go to Zipkin.

use crate::in_proportion;
use pintle_otlp::ExportTraceServiceRequest;
use pintle_plugin_zipkin::wire::{body, convert, to_json};
use prost::Message;

/// An empty span takes 2 bytes on the wire; of one that has all it needs, a control character takes one,
/// and 6 in JSON, which may be written twice.
const BYTES_PER_BYTE: u64 = 640;

pub(crate) fn read(input: &[u8]) {
    in_proportion(BYTES_PER_BYTE, input, |input| {
        let Ok(request) = ExportTraceServiceRequest::decode(input) else { return };
        // One span after the other: all together may take more than the batch allows.
        for span in convert(request).flatten() {
            let json = to_json(&span).expect("it can be written");
            allocation_counter::opt_out(|| check(json.clone()));
        }
    });
}

fn check(json: String) {
    assert!(json.is_ascii());
    let spans = [json.clone(), json];
    let spans: serde_json::Value = serde_json::from_slice(&body(&spans)).expect("it is JSON");
    assert_eq!(spans[1]["traceId"].as_str().map(str::len), Some(32));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::request;

    #[test]
    fn what_spans_share_takes_memory_once_at_a_time() {
        read(&request("attribute", ""));
    }
}
