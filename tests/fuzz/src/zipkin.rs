//! Requests of OTLP that go to Zipkin.

use crate::in_proportion;
use pintle_otlp::ExportTraceServiceRequest;
use pintle_plugin_zipkin::wire::{body, convert, to_json};
use prost::Message;

/// A control character takes one byte on the wire and 6 in JSON, which is written twice.
const BYTES_PER_BYTE: u64 = 128;

pub(crate) fn read(input: &[u8]) {
    let Ok(request) = ExportTraceServiceRequest::decode(input) else { return };
    // One span after the other: all together may take more than the batch allows.
    let spans = in_proportion(BYTES_PER_BYTE, input, |_| {
        convert(request)
            .flatten()
            .map(|span| check(&to_json(&span).expect("it can be written")))
            .count()
    });
    assert_eq!(body(&vec!["{}".to_owned(); spans]).len(), 2 + (3 * spans).saturating_sub(1));
}

fn check(json: &str) {
    assert!(json.is_ascii());
    let span: serde_json::Value = serde_json::from_str(json).expect("it is JSON");
    assert_eq!(span["traceId"].as_str().map(str::len), Some(32));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::request;

    #[test]
    fn what_spans_share_takes_memory_once_at_a_time() {
        read(&request("attribute", 1_000));
    }
}
