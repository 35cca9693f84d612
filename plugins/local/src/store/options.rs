//! What the operator can set about the store.

/// Limits and retention of a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most bytes of one value.
    pub value_bytes_max: u64,
    /// How much of the past is kept.
    pub retention: Retention,
    /// Raised by the operator after a restore, so that tokens from before do not compare.
    pub epoch_generation: u32,
    /// Bytes that the database may use to cache pages.
    pub cache_bytes: usize,
    /// Files up to this many bytes are verified in full when they are opened.
    pub verify_bytes_max: u64,
    /// Files of this many bytes and more are kept so that they open quickly after a crash, which
    /// makes each checkpoint slower; smaller ones are repaired as a whole.
    pub quick_repair_bytes_min: u64,
    /// Length of the log ahead of the database: with a longer one checkpoints are rarer, and take
    /// longer.
    pub log_bytes: usize,
}

/// How much of the past is kept: what lies beyond any of the first three bounds is compacted.
#[derive(Clone, Debug)]
pub struct Retention {
    /// Most revisions that can be read back and watched from.
    pub revisions_max: u64,
    /// Most bytes of keys and values that those revisions may take together.
    pub bytes_max: u64,
    /// Greatest age of a revision; none for no bound.
    pub age_ms_max: Option<u64>,
    /// So many of the newest versions of a key that exists stay in its history all the same.
    pub versions_per_key: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            value_bytes_max: 1024 * 1024,
            retention: Retention::default(),
            epoch_generation: 0,
            cache_bytes: 8 * 1024 * 1024,
            verify_bytes_max: 32 * 1024 * 1024,
            quick_repair_bytes_min: 32 * 1024 * 1024,
            log_bytes: 256 * 1024,
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            revisions_max: 10_000,
            bytes_max: 256 * 1024 * 1024,
            age_ms_max: None,
            versions_per_key: 5,
        }
    }
}
