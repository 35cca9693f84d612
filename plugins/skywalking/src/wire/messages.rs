//! Messages of SkyWalking's data collect protocol, version 3, by the field numbers of its public
//! definition (`language-agent/Tracing.proto`, `management/Management.proto`, `common/Common.proto`).
#![allow(missing_docs, reason = "names are those of the public definition")]

use prost::{Enumeration, Message};

/// A stream of segments in, commands out.
pub const COLLECT: &str = "/skywalking.v3.TraceSegmentReportService/collect";
pub const REPORT_PROPERTIES: &str = "/skywalking.v3.ManagementService/reportInstanceProperties";
pub const KEEP_ALIVE: &str = "/skywalking.v3.ManagementService/keepAlive";

/// What one process did for one request that came in.
#[derive(Clone, PartialEq, Message)]
pub struct SegmentObject {
    #[prost(string, tag = "1")]
    pub trace_id: String,
    #[prost(string, tag = "2")]
    pub trace_segment_id: String,
    #[prost(message, repeated, tag = "3")]
    pub spans: Vec<SpanObject>,
    #[prost(string, tag = "4")]
    pub service: String,
    #[prost(string, tag = "5")]
    pub service_instance: String,
    #[prost(bool, tag = "6")]
    pub is_size_limited: bool,
}

/// Where in another segment this one began.
#[derive(Clone, PartialEq, Message)]
pub struct SegmentReference {
    #[prost(enumeration = "RefType", tag = "1")]
    pub ref_type: i32,
    #[prost(string, tag = "2")]
    pub trace_id: String,
    #[prost(string, tag = "3")]
    pub parent_trace_segment_id: String,
    #[prost(int32, tag = "4")]
    pub parent_span_id: i32,
    #[prost(string, tag = "5")]
    pub parent_service: String,
    #[prost(string, tag = "6")]
    pub parent_service_instance: String,
    #[prost(string, tag = "7")]
    pub parent_endpoint: String,
    /// The address that the caller used: by it the server finds out who is who.
    #[prost(string, tag = "8")]
    pub network_address_used_at_peer: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct SpanObject {
    /// From 0, within the segment.
    #[prost(int32, tag = "1")]
    pub span_id: i32,
    /// −1 for the first.
    #[prost(int32, tag = "2")]
    pub parent_span_id: i32,
    /// Milliseconds since 1970.
    #[prost(int64, tag = "3")]
    pub start_time: i64,
    #[prost(int64, tag = "4")]
    pub end_time: i64,
    #[prost(message, repeated, tag = "5")]
    pub refs: Vec<SegmentReference>,
    #[prost(string, tag = "6")]
    pub operation_name: String,
    /// Required where the span leaves the process.
    #[prost(string, tag = "7")]
    pub peer: String,
    #[prost(enumeration = "SpanType", tag = "8")]
    pub span_type: i32,
    #[prost(enumeration = "SpanLayer", tag = "9")]
    pub span_layer: i32,
    #[prost(int32, tag = "10")]
    pub component_id: i32,
    #[prost(bool, tag = "11")]
    pub is_error: bool,
    #[prost(message, repeated, tag = "12")]
    pub tags: Vec<KeyStringValuePair>,
    #[prost(message, repeated, tag = "13")]
    pub logs: Vec<Log>,
    #[prost(bool, tag = "14")]
    pub skip_analysis: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Log {
    #[prost(int64, tag = "1")]
    pub time: i64,
    #[prost(message, repeated, tag = "2")]
    pub data: Vec<KeyStringValuePair>,
}

#[derive(Clone, PartialEq, Message)]
pub struct KeyStringValuePair {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct InstanceProperties {
    #[prost(string, tag = "1")]
    pub service: String,
    #[prost(string, tag = "2")]
    pub service_instance: String,
    #[prost(message, repeated, tag = "3")]
    pub properties: Vec<KeyStringValuePair>,
    #[prost(string, tag = "4")]
    pub layer: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct InstancePing {
    #[prost(string, tag = "1")]
    pub service: String,
    #[prost(string, tag = "2")]
    pub service_instance: String,
    #[prost(string, tag = "3")]
    pub layer: String,
}

/// What the server wants done; nothing of it concerns us.
#[derive(Clone, PartialEq, Message)]
pub struct Commands {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum SpanType {
    Entry = 0,
    Exit = 1,
    Local = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum RefType {
    CrossProcess = 0,
    CrossThread = 1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum SpanLayer {
    Unknown = 0,
    Database = 1,
    RpcFramework = 2,
    Http = 3,
    Mq = 4,
    Cache = 5,
    Faas = 6,
}

impl KeyStringValuePair {
    pub fn new(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into() }
    }
}
