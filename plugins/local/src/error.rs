//! What a failure of the store is called towards the host.

use crate::store::StoreError;
use pintle_plugin_sdk::Error;

impl From<&StoreError> for Error {
    fn from(failure: &StoreError) -> Self {
        let message = failure.to_string();
        match failure {
            StoreError::Invalid { .. } => Self::invalid(message),
            StoreError::TooLarge { limit, max, .. } => {
                Self::too_large(message).detail("limit", *limit).detail("max", max.to_string())
            }
            StoreError::Exhausted { .. } => Self::exhausted(message),
            StoreError::Compacted { oldest, .. } => {
                Self::compacted(message).detail("oldest", oldest.to_string())
            }
            StoreError::Conflict { .. } => Self::conflict(message),
            StoreError::NotFound { .. } => Self::not_found(message),
            StoreError::Unusable { path, .. } => {
                Self::unavailable(message).detail("file", path.display().to_string())
            }
            StoreError::Storage { .. } if failure.is_disk_full() => {
                let error = Self::exhausted(format!("{message}; free space on the disk"));
                with_effect(error, failure)
            }
            StoreError::Storage { .. } | StoreError::Closed { .. } => {
                with_effect(Self::unavailable(message), failure)
            }
            StoreError::Damaged { .. } => Self::internal(message),
        }
    }
}

impl From<StoreError> for Error {
    fn from(failure: StoreError) -> Self {
        Self::from(&failure)
    }
}

/// Whether the store itself will be open again: then a watch waits, and ends for all else.
pub(crate) fn is_passing(error: &Error) -> bool {
    matches!(error.code(), "unavailable" | "exhausted")
}

fn with_effect(error: Error, failure: &StoreError) -> Error {
    if failure.maybe_durable() { error.effect_unknown() } else { error }
}
