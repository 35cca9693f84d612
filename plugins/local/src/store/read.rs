//! Reading the store as it is after the last turn.

use super::config::read::{self, AnswerSize};
use super::key::{bounds_below, check_key, check_name, check_prefix, is_below};
use super::registry::read::{self as instances, Scope};
use super::tables::{INSTANCES, OVERRIDES, VERSIONS};
use super::{
    Entry, HistoryPage, InstanceState, List, LockState, Page, Result, ServiceSummary, Store,
    StoreError,
};

impl Store {
    /// The entry of a key, now or at a revision.
    pub fn entry(&self, key: &str, at: Option<u64>) -> Result<Option<Entry>> {
        check_key(key)?;
        let at = self.readable(at)?;
        read::entry_at(&self.snapshot()?.open_table(VERSIONS)?, key, at)
    }

    /// The entries of several keys at one moment, in order.
    pub fn entries(&self, keys: &[String], at: Option<u64>) -> Result<Vec<Option<Entry>>> {
        let at = self.readable(at)?;
        let versions = self.snapshot()?.open_table(VERSIONS)?;
        let mut size = AnswerSize::default();
        let mut entries = Vec::with_capacity(keys.len());
        for key in keys {
            check_key(key)?;
            let entry = read::entry_at(&versions, key, at)?;
            size.add(entry.as_ref())?;
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Part of what lies below a prefix.
    pub fn list(&self, request: &List) -> Result<Page> {
        check_prefix(&request.prefix)?;
        let at = self.readable(request.at)?;
        read::list(&self.snapshot()?.open_table(VERSIONS)?, request, at)
    }

    /// Kept versions of a key, newest first, those before revision `before` only.
    pub fn history(&self, key: &str, before: Option<u64>, limit: usize) -> Result<HistoryPage> {
        check_key(key)?;
        read::history(&self.snapshot()?.open_table(VERSIONS)?, key, before, limit)
    }

    /// Instances of a service with ids after the given one.
    pub fn instances(
        &self,
        service: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<InstanceState>> {
        check_name("name of a service", service)?;
        let txn = self.snapshot()?;
        let after = after.map(|id| (service, id));
        instances::scan(
            &txn.open_table(INSTANCES)?,
            &txn.open_table(OVERRIDES)?,
            &Scope::Service(service.to_owned()),
            after,
            limit,
        )
    }

    /// Services after the given one, and whether there are more.
    pub fn services(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<ServiceSummary>, bool)> {
        instances::services(&self.snapshot()?.open_table(INSTANCES)?, after, limit)
    }

    /// Who has a lock and who waits for it.
    pub fn lock(&self, name: &str) -> Result<LockState> {
        check_key(name)?;
        Ok(self.memory.locks.get(name).map(|queue| queue.state()).unwrap_or_default())
    }

    /// Names of locks below a prefix that somebody has or waits for, and whether there are more.
    pub fn locks(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<String>, bool)> {
        check_prefix(prefix)?;
        let (first, _) = bounds_below(prefix);
        let from = after.filter(|after| *after > first.as_str()).unwrap_or(&first);
        let mut names: Vec<String> = self
            .memory
            .locks
            .range(from.to_owned()..)
            .map(|(name, _)| name)
            .filter(|name| after.is_none_or(|after| name.as_str() > after))
            .take_while(|name| is_below(name, prefix))
            .take(limit.saturating_add(1))
            .cloned()
            .collect();
        let more = names.len() > limit;
        names.truncate(limit);
        Ok((names, more))
    }

    /// The revision to read: the newest, or the one asked for while it is kept.
    fn readable(&self, at: Option<u64>) -> Result<u64> {
        match at {
            None => Ok(self.memory.revision),
            Some(asked) if asked < self.memory.compacted => {
                Err(StoreError::Compacted { asked, oldest: self.memory.compacted })
            }
            Some(asked) if asked > self.memory.revision => Err(StoreError::invalid(format!(
                "version {asked} does not exist: the newest is {}",
                self.memory.revision
            ))),
            Some(asked) => Ok(asked),
        }
    }
}
