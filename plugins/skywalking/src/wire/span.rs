//! How an OTLP span reads in SkyWalking's words, apart from its place in a segment.

use super::messages::{KeyStringValuePair, Log, SpanLayer, SpanObject, SpanType};
use pintle_otlp::text::{hex, value_text};
use pintle_otlp::{Event, KeyValue, Link, Resource, Span, SpanKind, StatusCode, find};

/// What stands for a service that has no name.
const UNKNOWN_SERVICE: &str = "unknown_service";
/// What stands for an instance of which nothing is known.
const UNKNOWN_INSTANCE: &str = "unknown";
/// What stands for a peer that no attribute names. It may not be empty.
const UNKNOWN_PEER: &str = "unknown";

/// Attributes that name the other side, the best first, and those that hold its port.
const PEERS: [(&str, Option<&str>); 10] = [
    ("server.address", Some("server.port")),
    ("net.peer.name", Some("net.peer.port")),
    ("network.peer.address", Some("network.peer.port")),
    ("net.sock.peer.addr", Some("net.sock.peer.port")),
    ("peer.address", None),
    ("peer.hostname", Some("peer.port")),
    ("peer.service", None),
    ("messaging.destination.name", None),
    ("rpc.service", None),
    ("db.name", None),
];

/// Names that SkyWalking's analysis goes by, and the attributes that say the same, the newest first.
const TAGS: [(&str, &[&str]); 8] = [
    ("url", &["url.full", "http.url", "url.path", "http.target"]),
    ("http.method", &["http.request.method"]),
    ("http.status_code", &["http.response.status_code"]),
    ("db.type", &["db.system.name", "db.system"]),
    ("db.instance", &["db.namespace", "db.name"]),
    ("db.statement", &["db.query.text"]),
    ("mq.queue", &["messaging.destination.name", "messaging.destination"]),
    ("mq.broker", &["server.address", "net.peer.name"]),
];

/// Ids of SkyWalking's `component-libraries.yml`: a system, and the id of who calls it or takes from
/// it.
const COMPONENTS: [(&str, i32, i32); 17] = [
    ("mysql", 5, 5),
    ("oracle", 6, 6),
    ("redis", 7, 7),
    ("mongodb", 9, 9),
    ("memcached", 20, 20),
    ("postgresql", 22, 22),
    ("sqlite", 31, 31),
    ("elasticsearch", 47, 47),
    ("cassandra", 70, 70),
    ("mariadb", 86, 86),
    ("clickhouse", 120, 120),
    ("rocketmq", 38, 39),
    ("kafka", 40, 41),
    ("activemq", 45, 46),
    ("rabbitmq", 52, 53),
    ("pulsar", 73, 74),
    ("nats", 132, 132),
];
const COMPONENT_GRPC: i32 = 23;
const COMPONENT_DUBBO: i32 = 3;
const COMPONENT_RPC: i32 = 50;
const COMPONENT_HTTP: i32 = 49;

/// Most bytes of a name that OTLP says once and segments repeat: of a service, an instance, a scope, a peer,
/// and of the span that others refer to. The server cuts names at 70 to 150 characters unless it is told
/// otherwise (`core.default.serviceNameMaxLength` and its like).
const NAME_BYTES_MAX: usize = 1_024;

/// Which process a span comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    /// `service.name`.
    pub service: String,
    /// `service.instance.id`, or what else tells processes of a service apart.
    pub instance: String,
}

impl Process {
    /// The process that a resource describes.
    pub fn of(resource: &Resource) -> Self {
        let text = |key: &str| {
            let found = find(&resource.attributes, key)?;
            Some(value_text(found.value.as_ref())).filter(|text| !text.is_empty())
        };
        let host = text("host.name").or_else(|| text("k8s.pod.name"));
        let instance = text("service.instance.id").or_else(|| match (text("process.pid"), host) {
            (Some(pid), Some(host)) => Some(format!("{pid}@{host}")),
            (pid, host) => host.or(pid),
        });
        Self {
            service: cut(text("service.name").as_deref().unwrap_or(UNKNOWN_SERVICE)).to_owned(),
            instance: cut(instance.as_deref().unwrap_or(UNKNOWN_INSTANCE)).to_owned(),
        }
    }
}

/// A name, without what is behind [`NAME_BYTES_MAX`].
pub fn cut(name: &str) -> &str {
    name.split_at(name.floor_char_boundary(NAME_BYTES_MAX)).0
}

/// What the server shows of an instance, in the names that its agents use.
pub fn properties(resource: &Resource) -> Vec<KeyStringValuePair> {
    let mut properties = Vec::new();
    for (name, keys) in [
        ("language", &["telemetry.sdk.language"][..]),
        ("OS Name", &["os.description", "os.type"]),
        ("hostname", &["host.name"]),
        ("Process No.", &["process.pid"]),
        ("ipv4", &["host.ip"]),
    ] {
        let found = keys.iter().find_map(|key| find(&resource.attributes, key));
        if let Some(attribute) = found {
            properties.push(KeyStringValuePair::new(name, value_text(attribute.value.as_ref())));
        }
    }
    // The server takes no instance without a language.
    if !properties.iter().any(|property| property.key == "language") {
        properties.push(KeyStringValuePair::new("language", "unknown"));
    }
    let known = ["service.name", "telemetry.sdk.language"];
    let others = resource.attributes.iter().filter(|it| !known.contains(&it.key.as_str()));
    properties.extend(
        others.map(|it| KeyStringValuePair::new(it.key.as_str(), value_text(it.value.as_ref()))),
    );
    properties
}

/// The span, without its numbers and references.
pub fn span_object(span: &Span, scope_name: &str) -> SpanObject {
    let span_type = span_type(span.kind());
    let layer = layer(&span.attributes);
    let is_error = span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
    SpanObject {
        span_id: 0,
        parent_span_id: -1,
        start_time: millis(span.start_time_unix_nano),
        end_time: millis(span.end_time_unix_nano.max(span.start_time_unix_nano)),
        refs: Vec::new(),
        operation_name: span.name.clone(),
        peer: if span_type == SpanType::Exit { peer(&span.attributes) } else { String::new() },
        span_type: span_type.into(),
        span_layer: layer.into(),
        component_id: component(span, layer),
        is_error,
        tags: tags(span, scope_name),
        logs: span.events.iter().map(log).collect(),
        skip_analysis: false,
    }
}

fn span_type(kind: SpanKind) -> SpanType {
    match kind {
        SpanKind::Server | SpanKind::Consumer => SpanType::Entry,
        SpanKind::Client | SpanKind::Producer => SpanType::Exit,
        SpanKind::Internal | SpanKind::Unspecified => SpanType::Local,
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let text = value_text(find(attributes, key)?.value.as_ref());
    (!text.is_empty()).then_some(text)
}

fn peer(attributes: &[KeyValue]) -> String {
    let named = PEERS.iter().find_map(|(name, port)| {
        let name = text(attributes, name)?;
        let port = port.and_then(|port| text(attributes, port));
        Some(match port {
            Some(port) => format!("{name}:{port}"),
            None => name,
        })
    });
    let of_url = || {
        let url = text(attributes, "url.full").or_else(|| text(attributes, "http.url"))?;
        let (_, rest) = url.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let host = authority.rsplit('@').next()?;
        (!host.is_empty()).then(|| host.to_owned())
    };
    cut(named.or_else(of_url).as_deref().unwrap_or(UNKNOWN_PEER)).to_owned()
}

fn layer(attributes: &[KeyValue]) -> SpanLayer {
    let has = |prefix: &str| attributes.iter().any(|it| it.key.starts_with(prefix));
    if let Some(system) = database(attributes) {
        let is_cache = matches!(system.as_str(), "redis" | "memcached");
        if is_cache { SpanLayer::Cache } else { SpanLayer::Database }
    } else if has("messaging.") {
        SpanLayer::Mq
    } else if has("rpc.") {
        SpanLayer::RpcFramework
    } else if has("http.") || has("url.") {
        SpanLayer::Http
    } else if has("faas.") {
        SpanLayer::Faas
    } else {
        SpanLayer::Unknown
    }
}

fn database(attributes: &[KeyValue]) -> Option<String> {
    text(attributes, "db.system.name").or_else(|| text(attributes, "db.system"))
}

fn component(span: &Span, layer: SpanLayer) -> i32 {
    let attributes = &span.attributes;
    let takes = matches!(span.kind(), SpanKind::Server | SpanKind::Consumer);
    let system = match layer {
        SpanLayer::Database | SpanLayer::Cache => database(attributes),
        SpanLayer::Mq => text(attributes, "messaging.system"),
        SpanLayer::RpcFramework => {
            let system = text(attributes, "rpc.system").unwrap_or_default();
            return match system.as_str() {
                "grpc" => COMPONENT_GRPC,
                "apache_dubbo" | "dubbo" => COMPONENT_DUBBO,
                _ => COMPONENT_RPC,
            };
        }
        SpanLayer::Http => return COMPONENT_HTTP,
        SpanLayer::Faas | SpanLayer::Unknown => None,
    };
    let system = system.unwrap_or_default();
    let known = COMPONENTS.iter().find(|(name, ..)| system.contains(name));
    known.map_or(0, |(_, gives, gets)| if takes { *gets } else { *gives })
}

fn tags(span: &Span, scope_name: &str) -> Vec<KeyStringValuePair> {
    let mut tags = Vec::with_capacity(span.attributes.len() + 4);
    for (name, sources) in TAGS {
        let is_mq = name.starts_with("mq.");
        let wanted = !is_mq || span.attributes.iter().any(|it| it.key.starts_with("messaging."));
        if wanted && find(&span.attributes, name).is_none() {
            let value = sources.iter().find_map(|source| text(&span.attributes, source));
            tags.extend(value.map(|value| KeyStringValuePair::new(name, value)));
        }
    }
    for attribute in &span.attributes {
        let value = value_text(attribute.value.as_ref());
        tags.push(KeyStringValuePair::new(attribute.key.as_str(), value));
    }
    tags.push(KeyStringValuePair::new("otel.span_id", hex(&span.span_id)));
    if !scope_name.is_empty() {
        tags.push(KeyStringValuePair::new("otel.scope.name", cut(scope_name)));
    }
    if !span.trace_state.is_empty() {
        tags.push(KeyStringValuePair::new("otel.trace_state", span.trace_state.as_str()));
    }
    if let Some(status) = span.status.as_ref().filter(|status| !status.message.is_empty()) {
        tags.push(KeyStringValuePair::new("otel.status_description", status.message.as_str()));
    }
    for (index, link) in span.links.iter().enumerate() {
        tags.push(KeyStringValuePair::new(format!("otel.link.{index}"), link_text(link)));
    }
    tags
}

fn link_text(link: &Link) -> String {
    let mut text = format!("{}-{}", hex(&link.trace_id), hex(&link.span_id));
    for attribute in &link.attributes {
        let value = value_text(attribute.value.as_ref());
        text.push_str(&format!(" {}={value}", attribute.key));
    }
    text
}

/// Exceptions are told in the words that SkyWalking's agents use.
fn log(event: &Event) -> Log {
    let is_exception = event.name == "exception";
    let name = if is_exception { "error" } else { &event.name };
    let mut data = vec![KeyStringValuePair::new("event", name)];
    for attribute in &event.attributes {
        let key = match attribute.key.as_str() {
            "exception.type" if is_exception => "error.kind",
            "exception.message" if is_exception => "message",
            "exception.stacktrace" if is_exception => "stack",
            key => key,
        };
        data.push(KeyStringValuePair::new(key, value_text(attribute.value.as_ref())));
    }
    Log { time: millis(event.time_unix_nano), data }
}

fn millis(nanos: u64) -> i64 {
    i64::try_from(nanos / 1_000_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_otlp::{Status, Value};

    fn exit(attributes: Vec<KeyValue>) -> SpanObject {
        let span = Span { kind: SpanKind::Client.into(), attributes, ..Span::default() };
        span_object(&span, "")
    }

    #[test]
    fn a_span_that_leaves_the_process_always_has_a_peer() {
        assert_eq!(exit(vec![]).peer, "unknown");
        let named = vec![
            KeyValue::text("server.address", "db"),
            KeyValue::new("server.port", Value::Int(5432)),
        ];
        assert_eq!(exit(named).peer, "db:5432");
        let url = vec![KeyValue::text("url.full", "https://user@shop.example:8443/a?b")];
        assert_eq!(exit(url).peer, "shop.example:8443");
    }

    #[test]
    fn layer_and_component_follow_the_attributes() {
        let of = |key: &str, value: &str| {
            let span = exit(vec![KeyValue::text(key, value)]);
            (span.span_layer(), span.component_id)
        };
        assert_eq!(of("db.system", "postgresql"), (SpanLayer::Database, 22));
        assert_eq!(of("db.system.name", "redis"), (SpanLayer::Cache, 7));
        assert_eq!(of("messaging.system", "kafka"), (SpanLayer::Mq, 40));
        assert_eq!(of("rpc.system", "grpc"), (SpanLayer::RpcFramework, 23));
        assert_eq!(of("http.request.method", "GET"), (SpanLayer::Http, 49));
        assert_eq!(of("x", "y"), (SpanLayer::Unknown, 0));
        let takes = Span {
            kind: SpanKind::Consumer.into(),
            attributes: vec![KeyValue::text("messaging.system", "kafka")],
            ..Span::default()
        };
        assert_eq!(span_object(&takes, "").component_id, 41);
    }

    #[test]
    fn tags_have_the_names_that_the_analysis_goes_by_beside_their_own() {
        let span = exit(vec![
            KeyValue::text("http.request.method", "GET"),
            KeyValue::new("http.response.status_code", Value::Int(503)),
        ]);
        let tag = |key: &str| {
            let found = span.tags.iter().find(|tag| tag.key == key);
            found.map(|tag| tag.value.clone())
        };
        assert_eq!(tag("http.method").unwrap(), "GET");
        assert_eq!(tag("http.status_code").unwrap(), "503");
        assert_eq!(tag("http.request.method").unwrap(), "GET");
        assert_eq!(tag("mq.broker"), None);
    }

    #[test]
    fn an_exception_is_told_as_agents_tell_it() {
        let event = Event {
            time_unix_nano: 5_000_000,
            name: "exception".into(),
            attributes: vec![
                KeyValue::text("exception.type", "Oops"),
                KeyValue::text("exception.message", "it broke"),
            ],
            ..Event::default()
        };
        let span = Span {
            events: vec![event],
            status: Some(Status { code: StatusCode::Error.into(), message: "no".into() }),
            ..Span::default()
        };
        let object = span_object(&span, "lib");
        assert!(object.is_error);
        assert_eq!(object.logs[0].time, 5);
        let data: Vec<_> =
            object.logs[0].data.iter().map(|it| (it.key.as_str(), it.value.as_str())).collect();
        assert_eq!(data, [("event", "error"), ("error.kind", "Oops"), ("message", "it broke")]);
    }

    #[test]
    fn a_process_is_named_by_what_is_known_of_it() {
        let process = |pairs: &[(&str, &str)]| {
            let attributes =
                pairs.iter().map(|(key, value)| KeyValue::text(*key, *value)).collect();
            Process::of(&Resource { attributes, dropped_attributes_count: 0 })
        };
        assert_eq!(process(&[]).service, "unknown_service");
        assert_eq!(process(&[("host.name", "a"), ("process.pid", "7")]).instance, "7@a");
        let named = process(&[("service.instance.id", "i"), ("host.name", "a")]);
        assert_eq!(named.instance, "i");
    }
}
