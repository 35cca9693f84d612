//! What happens to spans on their way: `[tracing]`.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::values::{ByteSize, duration_as_text, listen_address};

/// What happens to spans between those who report them and the backends that they go to:
/// `[tracing]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracingSettings {
    /// Which traces are passed on. Default: `"always"`.
    pub sampling: Sampling,
    /// Part of the traces that `ratio` and `parent` keep, 0 to 1. Default: 1.
    pub ratio: f64,
    /// Names of attributes whose values are overwritten; `*` at an end stands for anything.
    pub redact: Vec<String>,
    /// Report what this host itself does, as service `pintle`. Default: false.
    pub own: bool,
    /// Most spans that wait for one backend, those under way included. Default: 50,000.
    pub queue_spans: u32,
    /// Most bytes of them. Default: `"32MiB"`.
    pub queue_bytes: ByteSize,
    /// Most spans handed to a backend at once. Default: 512.
    pub batch_spans: u32,
    /// Most bytes of them. Default: `"1MiB"`.
    pub batch_bytes: ByteSize,
    /// A batch that is not full goes after this long. Default: `"1s"`.
    #[serde(with = "duration_as_text")]
    pub batch_delay: Duration,
    /// For how long a batch is tried again that a backend cannot take at the moment. Default:
    /// `"5min"`.
    #[serde(with = "duration_as_text")]
    pub retry_for: Duration,
    /// Where `pintle serve` takes spans of applications.
    pub receive: ReceiveSettings,
}

/// Which traces are passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// All.
    #[default]
    Always,
    /// None.
    Never,
    /// A part of the traces, chosen by their ids: of a trace all spans or none.
    Ratio,
    /// Those whose sender does not say otherwise; of the others a part, as for `ratio`.
    Parent,
}

/// Where `pintle serve` takes spans of applications: `[tracing.receive]`. Only loopback addresses,
/// and nothing unless it is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReceiveSettings {
    /// OTLP over gRPC, usually `"127.0.0.1:4317"`.
    #[serde(deserialize_with = "optional_listen_address")]
    pub otlp_grpc: Option<SocketAddr>,
    /// OTLP over HTTP, usually `"127.0.0.1:4318"`.
    #[serde(deserialize_with = "optional_listen_address")]
    pub otlp_http: Option<SocketAddr>,
    /// Zipkin's API, usually `"127.0.0.1:9411"`.
    #[serde(deserialize_with = "optional_listen_address")]
    pub zipkin: Option<SocketAddr>,
}

impl Default for TracingSettings {
    fn default() -> Self {
        Self {
            sampling: Sampling::Always,
            ratio: 1.0,
            redact: Vec::new(),
            own: false,
            queue_spans: 50_000,
            queue_bytes: ByteSize::from_mib(32),
            batch_spans: 512,
            batch_bytes: ByteSize::from_mib(1),
            batch_delay: Duration::from_secs(1),
            retry_for: Duration::from_secs(300),
            receive: ReceiveSettings::default(),
        }
    }
}

impl TracingSettings {
    /// What no type tells: the key, and what would be right.
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut expect = |holds: bool, key, text: &str| {
            if !holds {
                problems.push((key, format!("expected {text}")));
            }
        };
        expect((0.0..=1.0).contains(&self.ratio), "ratio", "a number between 0 and 1");
        let spans = 1..=10_000_000;
        expect(spans.contains(&self.queue_spans), "queue_spans", "1 to 10,000,000 spans");
        let bytes = ByteSize::from_bytes(64 << 10)..=ByteSize::from_mib(4096);
        expect(bytes.contains(&self.queue_bytes), "queue_bytes", "\"64KiB\" to \"4GiB\"");
        expect((1..=10_000).contains(&self.batch_spans), "batch_spans", "1 to 10,000 spans");
        let bytes = ByteSize::from_bytes(1 << 10)..=ByteSize::from_mib(8);
        expect(bytes.contains(&self.batch_bytes), "batch_bytes", "\"1KiB\" to \"8MiB\"");
        let delay = Duration::from_millis(1)..=Duration::from_secs(60);
        expect(delay.contains(&self.batch_delay), "batch_delay", "\"1ms\" to \"1min\"");
        let retry = ..=Duration::from_secs(24 * 3600);
        expect(retry.contains(&self.retry_for), "retry_for", "at most \"24h\"");
        problems
    }
}

impl ReceiveSettings {
    /// Each key that is set, and its address.
    pub fn addresses(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let all =
            [("otlp_grpc", self.otlp_grpc), ("otlp_http", self.otlp_http), ("zipkin", self.zipkin)];
        all.into_iter().filter_map(|(key, address)| Some((key, address?)))
    }
}

fn optional_listen_address<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<SocketAddr>, D::Error> {
    struct Present(SocketAddr);

    impl<'de> Deserialize<'de> for Present {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            listen_address(from).map(Self)
        }
    }

    Ok(Option::<Present>::deserialize(from)?.map(|Present(address)| address))
}
