//! Watches what a store grows to, and says in words which limit was met.

use wasmtime::ResourceLimiter;

use super::Limits;
use crate::{plugin::output::LastWords, settings::ByteSize};

/// Holds the memories and tables of one store within its limits, all of a kind together.
pub(crate) struct GuestLimiter {
    memory_bytes_max: usize,
    memory_bytes: usize,
    table_elements_max: usize,
    table_elements: usize,
    core_instances: usize,
    memories: usize,
    tables: usize,
    /// Where it says what was not given: a guest that gets no memory only knows to panic.
    last_words: LastWords,
}

impl GuestLimiter {
    pub(crate) fn new(limits: &Limits, last_words: LastWords) -> Self {
        Self {
            memory_bytes_max: limits.memory_bytes,
            memory_bytes: 0,
            table_elements_max: limits.table_elements,
            table_elements: 0,
            core_instances: limits.core_instances,
            memories: limits.memories,
            tables: limits.tables,
            last_words,
        }
    }
}

impl ResourceLimiter for GuestLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        let fits = total <= self.memory_bytes_max;
        if fits {
            self.memory_bytes = total;
        } else {
            let max = ByteSize::from_bytes(self.memory_bytes_max.try_into().unwrap_or(u64::MAX));
            self.last_words.note(&format!("it wanted more memory than limits.memory = \"{max}\""));
        }
        Ok(fits)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.table_elements.saturating_add(desired.saturating_sub(current));
        let fits = total <= self.table_elements_max;
        if fits {
            self.table_elements = total;
        } else {
            let max = self.table_elements_max;
            self.last_words.note(&format!("it wanted more than table_elements = {max}"));
        }
        Ok(fits)
    }

    fn instances(&self) -> usize {
        self.core_instances
    }

    fn tables(&self) -> usize {
        self.tables
    }

    fn memories(&self) -> usize {
        self.memories
    }
}

/// Names the limit behind an error of wasmtime that only hints at it.
pub(crate) fn explain_trap(error: &str, limits: &Limits) -> Option<String> {
    let bytes = ByteSize::from_bytes(limits.hostcall_bytes.try_into().unwrap_or(u64::MAX));
    let known = [
        ("fuel allocated for hostcalls", format!("hostcall_bytes = \"{bytes}\"")),
        ("store handle limit exceeded", format!("handles_max = {}", limits.handles_max)),
        ("instance count too high", format!("core_instances = {}", limits.core_instances)),
        ("memory count too high", format!("memories = {}", limits.memories)),
        ("table count too high", format!("tables = {}", limits.tables)),
    ];
    let found = known.into_iter().find(|(hint, _)| error.contains(hint));
    found.map(|(_, limit)| format!("it passed {limit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(words: &LastWords) -> GuestLimiter {
        let limits = Limits { memory_bytes: 3 << 16, table_elements: 10, ..Limits::default() };
        GuestLimiter::new(&limits, words.clone())
    }

    #[test]
    fn memories_count_together() {
        let words = LastWords::default();
        let mut limiter = limiter(&words);
        assert!(limiter.memory_growing(0, 1 << 16, None).unwrap());
        assert!(limiter.memory_growing(0, 2 << 16, None).unwrap());
        assert_eq!(words.summary(), None);
        assert!(!limiter.memory_growing(1 << 16, 2 << 16, None).unwrap());
        assert!(words.summary().unwrap().contains("limits.memory = \"192KiB\""));
    }

    #[test]
    fn tables_count_together() {
        let words = LastWords::default();
        let mut limiter = limiter(&words);
        assert!(limiter.table_growing(0, 6, None).unwrap());
        assert!(!limiter.table_growing(0, 6, None).unwrap());
        assert!(limiter.table_growing(6, 10, None).unwrap());
    }
}
