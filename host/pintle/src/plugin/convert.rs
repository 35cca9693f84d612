//! Between the generated WIT types and those of the library.

pub(crate) mod bounds;
pub(crate) mod config;
pub(crate) mod lock;
pub(crate) mod registry;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{bindings::types, guest::printable, limits::Limits};
use crate::{
    config::Consistency,
    error::{Effect, PluginError},
    secret::Scrubber,
};

pub(crate) fn error(error: types::Error, scrubber: &Scrubber, limits: &Limits) -> PluginError {
    let text = |text: &str| shown(text, scrubber, limits);
    PluginError {
        code: text(&error.code),
        effect: match error.effect {
            types::Effect::None => Effect::None,
            types::Effect::Unknown => Effect::Unknown,
        },
        retry_after: error.retry_after_ms.map(|ms| Duration::from_millis(u64::from(ms))),
        message: text(&error.message),
        details: facts(&error.details, scrubber, limits).collect(),
    }
}

/// A text of a plugin as others see it: without secrets, printable, and of a sensible length.
pub(crate) fn shown(text: &str, scrubber: &Scrubber, limits: &Limits) -> String {
    let len_max = limits.error_text_bytes;
    printable(&scrubber.scrub_head(text, len_max), len_max)
}

/// The first of a plugin's facts.
pub(crate) fn facts<'a>(
    facts: &'a [(String, String)],
    scrubber: &'a Scrubber,
    limits: &'a Limits,
) -> impl Iterator<Item = (String, String)> + 'a {
    let text = |text: &str| shown(text, scrubber, limits);
    facts.iter().take(limits.facts_max).map(move |(name, value)| (text(name), text(value)))
}

pub(crate) const fn consistency(consistency: Consistency) -> types::Consistency {
    match consistency {
        Consistency::Linearizable => types::Consistency::Linearizable,
        Consistency::Sequential => types::Consistency::Sequential,
        Consistency::Any => types::Consistency::Any,
    }
}

fn time(ms: Option<u64>) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(ms?))
}

/// Milliseconds for a plugin; more than it can count means the most it can.
pub(crate) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
