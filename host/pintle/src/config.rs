//! Configuration: values under keys, with versions, transactions and watches.

mod changes;
mod types;
mod watch;

use std::{sync::Arc, time::Duration};

use crate::{
    error::{Error, Refusal},
    lock::LeaseRef,
    names,
    plugin::{Backend, ConfigWatched, FeedUser, TailUser, join},
};

pub use changes::Changes;
pub use types::*;
pub use watch::{CachedEntry, Mirror, Watch};

const KEYS_MAX: usize = 128;

/// Refuses what can be no key, without asking a backend: for whoever has many to write.
///
/// # Errors
/// [`Refusal::Invalid`], which says how to write it instead.
pub fn check_key(key: &str) -> Result<(), Refusal> {
    names::check_key("key", key)
}

/// The configuration capability of one backend. Cheap to clone.
///
/// Every call fails with `invalid` for a key that cannot be, with `unsupported` for what the
/// backend does not offer, and with `not-running` while its plugin does not run. Dropping a call
/// cancels it; a write that was dropped may have happened.
#[derive(Clone)]
pub struct Config {
    backend: Arc<Backend>,
    timeout: Option<Duration>,
}

impl Config {
    pub(crate) fn new(backend: Arc<Backend>) -> Self {
        Self { backend, timeout: None }
    }

    /// Name of the backend.
    #[must_use]
    pub fn backend(&self) -> &str {
        &self.backend.name
    }

    /// The same with another timeout for each call.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Whether the backend offers `feature`; false while its plugin could not be loaded.
    #[must_use]
    pub fn has_feature(&self, feature: &str) -> bool {
        self.backend.has(feature)
    }

    /// Reads a key, with the strongest consistency that the backend offers.
    ///
    /// # Errors
    ///
    /// See [`Config`].
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.get_with(key, ReadOptions::default()).await
    }

    /// Reads a key.
    ///
    /// # Errors
    ///
    /// See [`Config`].
    pub async fn get_with(&self, key: &str, options: ReadOptions) -> Result<Option<Entry>, Error> {
        names::check_key("key", key)?;
        self.backend.config_get(self.timeout, key.to_owned(), options).await
    }

    /// Reads several keys, at most 128; one result per key, in order.
    ///
    /// # Errors
    ///
    /// See [`Config`].
    pub async fn get_many(
        &self,
        keys: &[String],
        options: ReadOptions,
    ) -> Result<Vec<Option<Entry>>, Error> {
        check_count("keys", keys.len())?;
        keys.iter().try_for_each(|key| names::check_key("key", key))?;
        self.backend.config_get_many(self.timeout, keys.to_vec(), options).await
    }

    /// Lists one page of the keys below a prefix.
    ///
    /// # Errors
    ///
    /// See [`Config`].
    pub async fn list(&self, request: ListRequest) -> Result<Page, Error> {
        names::check_prefix(&request.prefix)?;
        self.backend.config_list(self.timeout, request).await
    }

    /// Writes a key. Losing a race is an outcome, not an error.
    ///
    /// # Errors
    ///
    /// See [`Config`].
    pub async fn put(&self, put: Put) -> Result<PutOutcome, Error> {
        names::check_key("key", &put.key)?;
        self.backend.config_put(self.timeout, put).await
    }

    /// Deletes a key. Losing a race is an outcome, not an error.
    ///
    /// # Errors
    ///
    /// See [`Config`].
    pub async fn delete(&self, delete: Delete) -> Result<DeleteOutcome, Error> {
        names::check_key("key", &delete.key)?;
        self.backend.config_delete(self.timeout, delete).await
    }

    /// Deletes everything below a prefix, and answers how many keys.
    ///
    /// # Errors
    ///
    /// See [`Config`]. With an unknown effect some keys may be gone.
    pub async fn delete_prefix(&self, prefix: &str, held: Option<LeaseRef>) -> Result<u64, Error> {
        names::check_prefix(prefix)?;
        self.backend.config_delete_prefix(self.timeout, prefix.to_owned(), held).await
    }

    /// Does several operations at one moment, or none (feature `config.txn`).
    ///
    /// # Errors
    ///
    /// See [`Config`].
    pub async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        check_count("operations", txn.ops.len())?;
        check_count("conditions", txn.conditions.len())?;
        txn.conditions.iter().try_for_each(|(key, _)| names::check_key("key", key))?;
        let mut keys: Vec<&str> = txn.ops.iter().map(op_key).collect();
        keys.iter().try_for_each(|key| names::check_key("key", key))?;
        keys.sort_unstable();
        if let Some([key, _]) = keys.array_windows().find(|[key, next]| key == next) {
            let problem = format!("\"{key}\" occurs twice; a transaction touches a key once");
            return Err(Refusal::Invalid { argument: "operations", problem }.into());
        }
        self.backend.config_txn(self.timeout, txn).await
    }

    /// Past values of a key, newest first (feature `config.history`).
    ///
    /// # Errors
    ///
    /// See [`Config`].
    pub async fn history(&self, request: HistoryRequest) -> Result<HistoryPage, Error> {
        names::check_key("key", &request.key)?;
        self.backend.config_history(self.timeout, request).await
    }

    /// Follows a key or everything below a prefix, from a snapshot on.
    ///
    /// All who follow the same target share one watch on the backend.
    ///
    /// # Errors
    ///
    /// `invalid` for a target that cannot be. Whatever else goes wrong ends the stream.
    pub async fn watch(&self, target: Target) -> Result<Watch, Error> {
        let user = self.join(target)?;
        Ok(Watch::new(user.subscribe(), user))
    }

    /// Follows a target from after `last`, an event of an earlier watch on it; what is not kept any
    /// more becomes a resync.
    ///
    /// # Errors
    ///
    /// As [`Config::watch`].
    pub async fn watch_resuming(&self, target: Target, last: EventId) -> Result<Watch, Error> {
        let user = self.join(target)?;
        Ok(Watch::new(user.resume(last), user))
    }

    /// Follows a target from after a version on (feature `watch.from-version`): every change, each
    /// once and in order, without a snapshot first.
    ///
    /// This is a watch of its own on the backend, which goes on where it was when the plugin is
    /// started again. What the backend does not keep any more becomes a resync and a snapshot.
    ///
    /// # Errors
    ///
    /// `unsupported` without the feature, `invalid` for a target that cannot be, `exhausted`, and
    /// `not-running`. Whatever else goes wrong, a version that the backend does not know too, ends
    /// the stream.
    ///
    /// # Limits
    ///
    /// At most 1,024 changes and 8 MiB of them wait for the reader, and after a resync the whole
    /// snapshot; one of more than 256 MiB or a million entries ends the watch with `exhausted`, and
    /// so is opening refused on a backend that has 256 of them. When more changes come, the watch on
    /// the backend is closed, and opened again where it was once the reader has caught up: nothing is
    /// lost by reading slowly while the backend keeps it.
    pub async fn watch_from(
        &self,
        target: Target,
        position: impl Into<ChangePosition>,
    ) -> Result<Changes, Error> {
        check_target(&target)?;
        let backend = Arc::clone(&self.backend);
        Ok(Changes::new(TailUser::open(backend, target, position.into()).await?))
    }

    /// Keeps a copy of a target in memory, for reads that do not wait. Returns when it is filled.
    ///
    /// # Errors
    ///
    /// The error with which the watch ended.
    pub async fn mirror(&self, target: Target) -> Result<Mirror, Error> {
        let user = self.join(target)?;
        user.feed.mirror.filled().await?;
        Ok(Mirror::new(user))
    }

    fn join(&self, target: Target) -> Result<FeedUser<ConfigWatched>, Error> {
        check_target(&target)?;
        Ok(join(&self.backend, target))
    }
}

fn op_key(op: &TxnOp) -> &str {
    match op {
        TxnOp::Get(key) | TxnOp::Put { key, .. } | TxnOp::Delete(key) => key,
    }
}

fn check_target(target: &Target) -> Result<(), Refusal> {
    match target {
        Target::Key(key) => names::check_key("key", key),
        Target::Prefix(prefix) => names::check_prefix(prefix),
    }
}

fn check_count(argument: &'static str, count: usize) -> Result<(), Refusal> {
    if count <= KEYS_MAX {
        return Ok(());
    }
    let problem = format!("{count}; the limit is {KEYS_MAX}");
    Err(Refusal::Invalid { argument, problem })
}
