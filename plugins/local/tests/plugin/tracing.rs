//! Spans through the plugin.

use crate::Node;
use pintle_plugin_local::wire::{Group, Span, TraceWriter, decode};
use pintle_plugin_sdk::testing::StartOptions;
use pintle_plugin_sdk::tracing::QueryRequest;
use prost::bytes::Bytes;

/// A `Span` with nothing but its ids and a name.
fn span(trace: u8, id: u8, name: &str) -> Span {
    let mut bytes = vec![0x0A, 16];
    bytes.extend([trace; 16]);
    bytes.extend([0x12, 8]);
    bytes.extend([id; 8]);
    bytes.extend([0x2A, name.len() as u8]);
    bytes.extend(name.as_bytes());
    Span {
        bytes: Bytes::from(bytes),
        trace_id: Bytes::copy_from_slice(&[trace; 16]),
        span_id: Bytes::copy_from_slice(&[id; 8]),
    }
}

/// A `Resource` that names a service.
fn resource(service: &str) -> Bytes {
    let mut value = vec![0x0A, service.len() as u8];
    value.extend(service.as_bytes());
    let mut attribute = vec![0x0A, 12];
    attribute.extend(b"service.name");
    attribute.extend([0x12, value.len() as u8]);
    attribute.extend(value);
    let mut resource = vec![0x0A, attribute.len() as u8];
    resource.extend(attribute);
    Bytes::from(resource)
}

fn batch(service: &str, spans: Vec<Span>) -> Vec<u8> {
    let mut writer = TraceWriter::default();
    writer.add(Group { resource: Some(resource(service)), spans, ..Group::default() });
    writer.finish()
}

fn newest(service: Option<&str>, limit: u32) -> QueryRequest {
    QueryRequest { trace_id: None, service: service.map(str::to_owned), limit }
}

/// For each trace its first byte, and the services and numbers of its spans.
fn read(traces: Vec<Vec<u8>>) -> Vec<(u8, Vec<(String, usize)>)> {
    let trace = |bytes: Vec<u8>| {
        let groups = decode(bytes).unwrap().groups;
        let id = groups[0].spans[0].trace_id[0];
        (
            id,
            groups
                .into_iter()
                .map(|group| (group.service.to_string(), group.spans.len()))
                .collect(),
        )
    };
    traces.into_iter().map(trace).collect()
}

#[test]
fn spans_come_back_as_traces_newest_first() {
    Node::new().fresh(async |host| {
        let tracing = host.tracing();
        let first = batch("shop", vec![span(1, 1, "a"), span(2, 1, "b"), span(1, 2, "c")]);
        let second = batch("stock", vec![span(3, 1, "d"), span(1, 3, "e")]);
        assert_eq!(tracing.export(first).await.unwrap().accepted, 3);
        assert_eq!(tracing.export(second).await.unwrap().accepted, 2);
        let shop = |spans| ("shop".to_owned(), spans);
        let stock = |spans| ("stock".to_owned(), spans);
        let one = (1, vec![shop(2), stock(1)]);
        let found = read(tracing.query(newest(None, 10)).await.unwrap());
        assert_eq!(found, [one.clone(), (3, vec![stock(1)]), (2, vec![shop(1)])]);
        let found = read(tracing.query(newest(Some("shop"), 10)).await.unwrap());
        assert_eq!(found, [one.clone(), (2, vec![shop(1)])]);
        let found = read(tracing.query(newest(None, 1)).await.unwrap());
        assert_eq!(found, [one]);
        let request = QueryRequest { trace_id: Some("03".repeat(16)), service: None, limit: 10 };
        let found = read(tracing.query(request).await.unwrap());
        assert_eq!(found, [(3, vec![stock(1)])]);
    });
}

#[test]
fn spans_without_proper_ids_are_counted_and_do_not_fail_the_others() {
    Node::new().fresh(async |host| {
        let spans = vec![span(0, 1, "no trace"), span(1, 0, "no id"), span(1, 1, "good")];
        let result = host.tracing().export(batch("shop", spans)).await.unwrap();
        assert_eq!(result.accepted, 1);
        assert_eq!(result.rejected.iter().map(|rejection| rejection.spans).sum::<u64>(), 2);
        assert_eq!(result.rejected.len(), 2);
    });
}

#[test]
fn what_is_no_batch_is_refused() {
    Node::new().fresh(async |host| {
        let error = host.tracing().export(b"not protobuf".to_vec()).await.unwrap_err();
        assert_eq!(error.code(), "invalid");
        assert_eq!(host.tracing().export(vec![]).await.unwrap().accepted, 0);
        for id in ["", "xyz", &"A".repeat(32), &"0".repeat(31)] {
            let request = QueryRequest { trace_id: Some(id.into()), service: None, limit: 1 };
            assert_eq!(host.tracing().query(request).await.unwrap_err().code(), "invalid");
        }
    });
}

#[test]
fn the_oldest_spans_make_room_for_the_newest() {
    let options =
        StartOptions { settings: serde_json::json!({ "spans_max": 3 }), ..StartOptions::default() };
    Node::new().start(options, async |host| {
        for trace in 1..=5 {
            host.tracing().export(batch("s", vec![span(trace, 1, "x")])).await.unwrap();
        }
        let found = read(host.tracing().query(newest(None, 10)).await.unwrap());
        assert_eq!(found.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), [5, 4, 3]);
        let report = host.health().await.unwrap();
        assert!(report.counters.contains(&("spans-dropped".into(), 2)));
    });
}

#[test]
fn spans_take_no_more_bytes_than_the_setting_says() {
    let options = StartOptions {
        settings: serde_json::json!({ "spans_bytes_max": 2_000 }),
        ..StartOptions::default()
    };
    Node::new().start(options, async |host| {
        let long = "n".repeat(100);
        for trace in 1..=50 {
            host.tracing().export(batch("s", vec![span(trace, 1, &long)])).await.unwrap();
        }
        let found = host.tracing().query(newest(None, 100)).await.unwrap();
        assert!((2..=8).contains(&found.len()), "{} traces", found.len());
    });
}
