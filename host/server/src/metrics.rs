//! Metrics, as Prometheus reads them. Labels come from lists of this server and from the names of
//! its backends: no caller can make new ones.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::StatusCode;
use pintle::{Pintle, tracing::PipelineStatus};
use prometheus_client::{
    encoding::text,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};

use crate::{operations, state::State};

type Labels = Vec<(&'static str, String)>;

/// What is counted while requests come in, and what is read when somebody asks.
pub(crate) struct Metrics {
    registry: Registry,
    /// By the index of the operation.
    operations: Vec<OfOperation>,
    refusals: Family<Labels, Counter>,
    scraped: Mutex<Scraped>,
}

struct OfOperation {
    /// By the first digit of the status, from 1 on.
    answers: [Counter; 5],
    seconds: Histogram,
}

/// Set anew whenever somebody asks.
#[derive(Default)]
struct Scraped {
    streams: Gauge,
    leases: Gauge,
    registrations: Gauge,
    audit_failures: Gauge,
    backend_state: Family<Labels, Gauge>,
    backend_restarts: Family<Labels, Gauge>,
    network: Family<Labels, Gauge>,
    spans: Family<Labels, Gauge>,
    backend_spans: Family<Labels, Gauge>,
}

/// From a quarter of a millisecond to 16 seconds.
const BUCKETS: (f64, f64, u16) = (0.00025, 4.0, 9);

impl Metrics {
    pub(crate) fn new(pintle: &Pintle) -> Self {
        let mut registry = Registry::with_prefix("pintle");
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version that runs", version);
        let answers = Family::<Labels, Counter>::default();
        let seconds = Family::<Labels, Histogram, fn() -> Histogram>::new_with_constructor(|| {
            let (start, factor, length) = BUCKETS;
            Histogram::new(exponential_buckets(start, factor, length))
        });
        registry.register("http_requests", "Answered requests", answers.clone());
        registry.register(
            "http_request_seconds",
            "Time until the answer began; for what waits, with the wait",
            seconds.clone(),
        );
        let refusals = Family::<Labels, Counter>::default();
        registry.register("http_refusals", "Requests that were not let in", refusals.clone());
        pintle.register_metrics(&mut registry);
        let operations = operations::all()
            .map(|operation| {
                let label = ("operation", operation.id.to_owned());
                let of_class = |class: u8| {
                    let labels = vec![label.clone(), ("code", format!("{class}xx"))];
                    answers.get_or_create_owned(&labels)
                };
                OfOperation {
                    answers: [1, 2, 3, 4, 5].map(of_class),
                    seconds: seconds.get_or_create_owned(&vec![label.clone()]),
                }
            })
            .collect();
        let scraped = Scraped::default();
        scraped.register(&mut registry);
        Self { registry, operations, refusals, scraped: Mutex::new(scraped) }
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, operation: usize, status: StatusCode, after: Duration) {
        let Some(of) = self.operations.get(operation) else { return };
        of.seconds.observe(after.as_secs_f64());
        let class = usize::from(status.as_u16() / 100);
        if let Some(counter) = class.checked_sub(1).and_then(|class| of.answers.get(class)) {
            counter.inc();
        }
    }

    /// Counts a request that was not let in, by the code of its problem.
    pub(crate) fn refused(&self, code: &str) {
        self.refusals.get_or_create(&vec![("reason", code.to_owned())]).inc();
    }

    /// All of them as text.
    pub(crate) fn text(&self, state: &State) -> Result<String, fmt::Error> {
        let scraped = self.scraped.lock().unwrap_or_else(PoisonError::into_inner);
        scraped.read(state);
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Scraped {
    fn register(&self, registry: &mut Registry) {
        let Self { streams, leases, registrations, audit_failures, .. } = self;
        registry.register("http_streams", "Watches and waiting calls", streams.clone());
        registry.register("leases", "Leases that clients keep here", leases.clone());
        let help = "Registrations that clients keep here";
        registry.register("registrations", help, registrations.clone());
        let help = "Lines that could not be written to the audit trail";
        registry.register("audit_failures", help, audit_failures.clone());
        let help = "1 for the state in which a backend is";
        registry.register("backend_state", help, self.backend_state.clone());
        let help = "How often the plugin of a backend was started again";
        registry.register("backend_restarts", help, self.backend_restarts.clone());
        let help = "What a backend used of the network since the host started";
        registry.register("backend_network", help, self.network.clone());
        registry.register("spans", "What became of spans that came in", self.spans.clone());
        let help = "What became of spans that were passed on to a backend";
        registry.register("backend_spans", help, self.backend_spans.clone());
    }

    fn read(&self, state: &State) {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.streams.set(signed(state.calls.streams()));
        self.leases.set(signed(state.leases.count()));
        self.registrations.set(signed(state.registrations.count()));
        self.audit_failures.set(signed(state.audit.failures()));
        self.backend_state.clear();
        for status in state.pintle.backends() {
            let backend = ("backend", status.name.clone());
            let labels = vec![
                backend.clone(),
                ("plugin", status.plugin),
                ("state", status.state.as_str().into()),
            ];
            self.backend_state.get_or_create(&labels).set(1);
            self.backend_restarts
                .get_or_create(&vec![backend.clone()])
                .set(signed(status.restarts));
            let network = &status.network;
            for (what, number) in [
                ("connections", network.connections_total),
                ("requests", network.requests_total),
                ("bytes_received", network.bytes_received),
                ("bytes_sent", network.bytes_sent),
                ("denials", network.denials),
                ("failures", network.failures),
            ] {
                let labels = vec![backend.clone(), ("what", what.to_owned())];
                self.network.get_or_create(&labels).set(signed(number));
            }
        }
        self.read_spans(&state.pintle.pipeline().status());
    }

    /// Without the reasons: some are the words of receivers.
    fn read_spans(&self, of: &PipelineStatus) {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let sum = |reasons: &BTreeMap<String, u64>| reasons.values().sum();
        for (what, number) in [
            ("received", of.received),
            ("turned_away", of.turned_away),
            ("rejected", sum(&of.rejected)),
            ("sampled_out", sum(&of.sampled_out)),
            ("passed", of.passed),
        ] {
            self.spans.get_or_create(&vec![("what", what.to_owned())]).set(signed(number));
        }
        for sink in &of.sinks {
            for (what, number) in [
                ("delivered", sink.delivered),
                ("rejected", sum(&sink.rejected)),
                ("dropped", sum(&sink.dropped)),
                ("pending", sink.pending),
            ] {
                let labels = vec![("backend", sink.backend.clone()), ("what", what.to_owned())];
                self.backend_spans.get_or_create(&labels).set(signed(number));
            }
        }
    }
}
