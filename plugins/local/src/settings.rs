//! What the operator can set.

use crate::store::{Options, Retention};
use schemars::JsonSchema;
use serde::Deserialize;

/// Settings of the embedded backend; every one has a default.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Most bytes of one configuration value.
    #[schemars(range(min = 1, max = 4_194_304))]
    pub value_bytes_max: u64,
    /// Most revisions that can be read back and watched from.
    #[schemars(range(min = 1, max = 100_000))]
    pub history_revisions_max: u64,
    /// Most bytes that those revisions may take together.
    #[schemars(range(min = 1_048_576))]
    pub history_bytes_max: u64,
    /// Greatest age, in seconds, of a revision that can be read back; no bound if absent.
    #[schemars(range(min = 1))]
    pub history_age_s_max: Option<u64>,
    /// So many of the newest versions of a key stay in its history, however old they are.
    #[schemars(range(min = 1, max = 1_000))]
    pub history_versions_per_key: u32,
    /// Raise this after restoring a copy of the data: lock tokens from before do not compare with
    /// later ones.
    pub epoch: u32,
    /// Bytes of memory that may cache the database.
    #[schemars(range(min = 1_048_576, max = 33_554_432))]
    pub cache_bytes: u32,
    /// A database file of up to this many bytes is verified in full at the start.
    pub verify_bytes_max: u64,
    /// Most spans that are kept, in memory.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub spans_max: u32,
    /// Most bytes that those spans may take together.
    #[schemars(range(min = 1, max = 33_554_432))]
    pub spans_bytes_max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        let Options {
            value_bytes_max,
            retention,
            epoch_generation,
            cache_bytes,
            verify_bytes_max,
            ..
        } = Options::default();
        Self {
            value_bytes_max,
            history_revisions_max: retention.revisions_max,
            history_bytes_max: retention.bytes_max,
            history_age_s_max: None,
            history_versions_per_key: retention.versions_per_key,
            epoch: epoch_generation,
            cache_bytes: u32::try_from(cache_bytes).unwrap_or(u32::MAX),
            verify_bytes_max,
            spans_max: 50_000,
            spans_bytes_max: 8 * 1024 * 1024,
        }
    }
}

impl Settings {
    /// What of them concerns the store.
    pub(crate) fn store_options(&self) -> Options {
        Options {
            value_bytes_max: self.value_bytes_max,
            retention: Retention {
                revisions_max: self.history_revisions_max,
                bytes_max: self.history_bytes_max,
                age_ms_max: self.history_age_s_max.map(|seconds| seconds.saturating_mul(1_000)),
                versions_per_key: self.history_versions_per_key,
            },
            epoch_generation: self.epoch,
            cache_bytes: usize::try_from(self.cache_bytes).unwrap_or(usize::MAX),
            verify_bytes_max: self.verify_bytes_max,
            ..Options::default()
        }
    }
}
