//! What calls on backends came to and how long they took, for whoever watches a host.

use std::{sync::Arc, time::Instant};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::{error::Error, plugin::Operation};

/// From a sixteenth of a millisecond to 16 seconds.
const BUCKETS: (f64, f64, u16) = (0.000_062_5, 4.0, 10);

/// The call was made and answered; a lost race is an answer too.
const OK: &str = "ok";
/// Who made the call went away before it was answered.
const ABANDONED: &str = "abandoned";
/// A code that `pintle:plugin` does not list: plugins may have their own, and make no new labels.
const OTHER: &str = "other";

/// Codes of errors that are shown: those that `pintle:plugin` lists, and the host's own.
const CODES: [&str; 22] = [
    "busy",
    "cancelled",
    "compacted",
    "conflict",
    "denied",
    "exhausted",
    "foreign-lease",
    "internal",
    "invalid",
    "lease-lost",
    "no-capability",
    "no-default",
    "not-found",
    "not-running",
    "plugin-ended",
    "shutting-down",
    "timeout",
    "too-large",
    "unauthenticated",
    "unavailable",
    "unknown-backend",
    "unsupported",
];

/// Names of backends stand in the settings; all else is one of a few words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    capability: &'static str,
    backend: Arc<str>,
    operation: &'static str,
    outcome: &'static str,
}

/// The calls of a host on its backends.
pub(crate) struct CallMetrics {
    seconds: Family<Labels, Histogram, fn() -> Histogram>,
}

/// A call under way.
struct Measured<'a> {
    metrics: &'a CallMetrics,
    labels: Labels,
    begun: Instant,
}

impl Default for CallMetrics {
    fn default() -> Self {
        Self {
            seconds: Family::new_with_constructor(|| {
                let (start, factor, length) = BUCKETS;
                Histogram::new(exponential_buckets(start, factor, length))
            }),
        }
    }
}

impl CallMetrics {
    /// Shows them in a registry from now on.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Calls on backends, with the waits in them, by what they came to";
        registry.register("call_seconds", help, self.seconds.clone());
    }

    /// Makes a call. Dropped before its end it counts as abandoned.
    pub(crate) async fn measure<T>(
        &self,
        backend: &Arc<str>,
        operation: Operation,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let measured = self.begin(backend, operation);
        let result = call.await;
        if let Some(measured) = measured {
            measured.end(result.as_ref().err());
        }
        result
    }

    /// A call that began then could not be made.
    pub(crate) fn not_made(
        &self,
        backend: &Arc<str>,
        operation: Operation,
        error: &Error,
        begun: Instant,
    ) {
        if let Some(mut measured) = self.begin(backend, operation) {
            measured.begun = begun;
            measured.end(Some(error));
        }
    }

    /// A call begins; none of the lifecycle, which is the host's own affair.
    fn begin(&self, backend: &Arc<str>, operation: Operation) -> Option<Measured<'_>> {
        let (capability, operation) = operation.parts()?;
        let (capability, backend) = (capability.as_str(), Arc::clone(backend));
        let labels = Labels { capability, backend, operation, outcome: ABANDONED };
        Some(Measured { metrics: self, labels, begun: Instant::now() })
    }
}

impl Measured<'_> {
    fn end(mut self, error: Option<&Error>) {
        self.labels.outcome = error.map_or(OK, outcome);
    }
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        let seconds = self.metrics.seconds.get_or_create(&self.labels);
        seconds.observe(self.begun.elapsed().as_secs_f64());
    }
}

fn outcome(error: &Error) -> &'static str {
    let code = error.code();
    CODES.into_iter().find(|known| *known == code).unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prometheus_client::encoding::text;

    use super::*;
    use crate::error::{Cause, Effect, Place, PluginError, Refusal};

    const GET: Operation = Operation::read("config.get");

    fn told(code: &str) -> Error {
        let error = PluginError {
            code: code.into(),
            effect: Effect::None,
            retry_after: None,
            message: String::new(),
            details: BTreeMap::new(),
        };
        let place = Place { backend: "main".into(), plugin: "".into(), operation: GET.name };
        Error::new(Cause::Plugin(error), place)
    }

    fn shown(metrics: &CallMetrics) -> String {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut shown = String::new();
        text::encode(&mut shown, &registry).unwrap();
        shown
    }

    #[test]
    fn each_call_is_counted_once_by_its_outcome() {
        let metrics = CallMetrics::default();
        let begin = || metrics.begin(&"main".into(), GET).unwrap();
        begin().end(None);
        begin().end(None);
        begin().end(Some(&told("unavailable")));
        begin().end(Some(&Refusal::ShuttingDown.into()));
        drop(begin());
        let shown = shown(&metrics);
        for (outcome, count) in
            [("ok", 2), ("unavailable", 1), ("shutting-down", 1), ("abandoned", 1)]
        {
            let line = format!(
                "call_seconds_count{{capability=\"config\",backend=\"main\",operation=\"get\",\
                 outcome=\"{outcome}\"}} {count}\n"
            );
            assert!(shown.contains(&line), "{line}{shown}");
        }
    }

    #[test]
    fn a_plugin_makes_no_new_outcomes() {
        let metrics = CallMetrics::default();
        for number in 0..100 {
            let error = told(&format!("my-own-{number}"));
            metrics.begin(&"main".into(), GET).unwrap().end(Some(&error));
        }
        let shown = shown(&metrics);
        assert_eq!(shown.matches("call_seconds_count").count(), 1, "{shown}");
        assert!(shown.contains("outcome=\"other\"} 100\n") && !shown.contains("my-own"), "{shown}");
    }

    #[test]
    fn calls_of_the_lifecycle_are_not_counted() {
        let metrics = CallMetrics::default();
        assert!(metrics.begin(&"main".into(), Operation::read("lifecycle.health")).is_none());
    }

    #[test]
    fn every_code_that_plugins_are_told_of_is_shown_as_it_is() {
        let contract = include_str!("../../../wit/plugin/plugin.wit");
        let listed = contract.lines().filter_map(|line| line.trim().strip_prefix("/// - `"));
        let codes: Vec<_> = listed.filter_map(|line| line.split('`').next()).collect();
        assert!(codes.len() >= 13, "{codes:?}");
        for code in codes {
            assert_eq!(outcome(&told(code)), code);
        }
    }
}
