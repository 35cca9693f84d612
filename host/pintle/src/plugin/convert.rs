//! Between the generated WIT types and those of the library.

pub(crate) mod config;
pub(crate) mod lock;
pub(crate) mod registry;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::bindings::types;
use crate::{
    config::Consistency,
    error::{Effect, PluginError},
    secret::Scrubber,
};

pub(crate) fn error(error: types::Error, scrubber: &Scrubber) -> PluginError {
    PluginError {
        code: error.code,
        effect: match error.effect {
            types::Effect::None => Effect::None,
            types::Effect::Unknown => Effect::Unknown,
        },
        retry_after: error.retry_after_ms.map(|ms| Duration::from_millis(u64::from(ms))),
        message: scrubber.scrub(&error.message).into_owned(),
        details: error
            .details
            .into_iter()
            .map(|(name, value)| (name, scrubber.scrub(&value).into_owned()))
            .collect(),
    }
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
