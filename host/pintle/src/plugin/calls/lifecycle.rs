//! `pintle:plugin/lifecycle`.

use crate::{
    error::Error,
    plugin::{
        actor::Operation,
        backend::{Backend, Call},
        bindings::lifecycle as wit,
        convert,
    },
};

const HEALTH: Operation = Operation::read("lifecycle.health");

/// How well a plugin says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthState {
    /// Calls are expected to succeed.
    Serving,
    /// Some calls fail or are slow.
    Degraded,
    /// Calls are expected to fail.
    Unavailable,
}

/// What a plugin says of itself and its server.
#[derive(Debug, Clone)]
pub struct Health {
    /// In one word.
    pub state: HealthState,
    /// In one sentence.
    pub message: String,
    /// Facts: `endpoint`, `server-version`, `session` …
    pub details: Vec<(String, String)>,
    /// Counters since the plugin started.
    pub counters: Vec<(String, u64)>,
}

impl Backend {
    pub(crate) async fn health(&self) -> Result<Health, Error> {
        let serving = self.serving(HEALTH, self.limits.call_timeout).await?;
        let call = Call::new(HEALTH, None).on(&serving);
        let report = self.call(call, move |accessor, guest, context| {
            Box::pin(async move { guest.lifecycle.call_health(accessor, context).await })
        });
        let report = report.await?;
        let (scrubber, limits) = (&serving.scrubber, &self.limits);
        let counters = report.counters.iter().take(limits.facts_max);
        Ok(Health {
            state: match report.state {
                wit::State::Serving => HealthState::Serving,
                wit::State::Degraded => HealthState::Degraded,
                wit::State::Unavailable => HealthState::Unavailable,
            },
            message: convert::shown(&report.message, scrubber, limits),
            details: convert::facts(&report.details, scrubber, limits).collect(),
            counters: counters
                .map(|(name, count)| (convert::shown(name, scrubber, limits), *count))
                .collect(),
        })
    }
}
