//! What `diff` finds and `apply` does: the changes by which a backend comes to hold a document.

use std::collections::BTreeMap;

use anyhow::Context;
use pintle_client::{
    Client,
    api::{
        backend::{Backend, State},
        bytes::Value,
        config::{Condition, Entry, Expect, ListQuery, Txn, TxnOp},
    },
    config::{Delete, Put, TxnOutcome, WriteOutcome},
};
use serde_json::json;

use super::{
    all_pages, bytes_of,
    difference::Difference,
    document::{Document, Item},
    fenced, stale,
};
use crate::{
    exit::{Exit, Failure},
    global::Global,
    output,
    progress::Progress,
};

/// Changes that fit into one transaction.
const TXN_OPS_MAX: usize = 128;
/// Bytes of values that do, with room for their escapes.
const TXN_BYTES_MAX: usize = 1 << 20;

/// What has to be done.
pub(super) struct Plan {
    steps: Vec<Step>,
    pub(super) unchanged: usize,
    features: Features,
}

struct Step {
    difference: Difference,
    expect: Expect,
}

impl Plan {
    /// Compares. Says how many media types are left out because the backend keeps none.
    pub(super) async fn make(
        global: &Global,
        client: &Client,
        document: &Document,
        prune: bool,
    ) -> anyhow::Result<Self> {
        let query = ListQuery { prefix: document.prefix().to_owned(), ..ListQuery::default() };
        let whole = all_pages(global, client, query, usize::MAX).await?;
        // After the keys: by then the plugin runs, and has told.
        let features = Features::of_backend(global, client).await?;
        let mut present: BTreeMap<String, Entry> =
            whole.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        let mut plan = Self { steps: Vec::new(), unchanged: 0, features };
        let keeps_types = plan.features.may_have("config.content-type");
        for (rest, item) in &document.items {
            let key = document.key(rest);
            let step = Step::between(key.clone(), present.remove(&key), item, keeps_types)?;
            match step {
                Some(step) => plan.steps.push(step),
                None => plan.unchanged += 1,
            }
        }
        for (_, entry) in present.into_iter().filter(|_| prune) {
            plan.steps.push(Step::away_with(entry)?);
        }
        let typed = document.items.values().filter(|item| item.content_type.is_some()).count();
        if typed > 0 && !keeps_types {
            let types = output::counted(typed, "media type");
            output::note(format_args!("{types} left out: the backend keeps none"));
        }
        Ok(plan)
    }

    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many values are deleted, or written.
    pub(super) fn count(&self, deletes: bool) -> usize {
        self.steps.iter().filter(|step| step.difference.after.is_none() == deletes).count()
    }

    /// All of it, in the form of `diff -u`.
    pub(super) fn differences(&self) -> String {
        self.steps.iter().map(|step| step.difference.text()).collect()
    }

    /// All of it, for programs.
    pub(super) fn summary(&self, dry_run: bool) -> serde_json::Value {
        let changes: Vec<_> = self
            .steps
            .iter()
            .map(|Step { difference, .. }| {
                let what = match (&difference.before, &difference.after) {
                    (None, _) => "add",
                    (Some(_), Some(_)) => "change",
                    (Some(_), None) => "delete",
                };
                json!({ "key": difference.key, "change": what })
            })
            .collect();
        json!({ "changes": changes, "unchanged": self.unchanged, "dry_run": dry_run })
    }

    /// Does it, at once where that can be.
    pub(super) async fn carry_out(&self, global: &Global, client: &Client) -> anyhow::Result<()> {
        let values = self.steps.iter().filter_map(|step| step.difference.after.as_ref());
        let bytes: usize = values.map(|item| item.value.len()).sum();
        let fits = self.steps.len() <= TXN_OPS_MAX && bytes <= TXN_BYTES_MAX;
        if self.steps.len() > 1 && fits && self.features.has("config.txn") {
            return self.at_once(global, client).await;
        }
        // Where it is not known, a backend that cannot compare refuses, and overwrites nothing.
        let compares = self.features.may_have("config.cas");
        let total = self.steps.len();
        let mut progress = Progress::new("changes made");
        for (done, step) in self.steps.iter().enumerate() {
            progress.at(done, Some(total));
            step.carry_out(global, client, compares)
                .await
                .with_context(|| format!("{done} of {total} changes were made"))?;
        }
        Ok(())
    }

    async fn at_once(&self, global: &Global, client: &Client) -> anyhow::Result<()> {
        let key = |step: &Step| step.difference.key.clone();
        let conditions =
            self.steps.iter().map(|step| Condition { key: key(step), expect: step.expect.clone() });
        let ops = self.steps.iter().map(|step| match &step.difference.after {
            Some(Item { value, content_type }) => TxnOp::Put {
                key: key(step),
                value: Value::of(value),
                content_type: content_type.clone(),
            },
            None => TxnOp::Delete { key: key(step) },
        });
        let txn = Txn { conditions: conditions.collect(), held: Vec::new(), ops: ops.collect() };
        match client.config(global.backend()).txn(&txn).await? {
            TxnOutcome::Committed(_) => Ok(()),
            TxnOutcome::Fenced => Err(fenced("the changes")),
            TxnOutcome::Stale(mismatches) => {
                let changed = mismatches.first().and_then(|first| txn.conditions.get(first.index));
                let key = changed.map_or("a key", |condition| condition.key.as_str());
                let text = format!("nothing was done: {key} was changed meanwhile; compare again");
                Err(Failure::error(Exit::LOST, text))
            }
        }
    }
}

impl Step {
    /// What makes `item` of what is there; none where it is that already.
    fn between(
        key: String,
        found: Option<Entry>,
        item: &Item,
        keeps_types: bool,
    ) -> anyhow::Result<Option<Self>> {
        let before = found.as_ref().map(item_of).transpose()?;
        let expect = found.map_or(Expect::Absent, |entry| Expect::Version(entry.version));
        let stored = before.as_ref().and_then(|before| before.content_type.clone());
        // A source that names no media type has nothing to say against the one that is stored.
        let content_type = item.content_type.clone().or(stored).filter(|_| keeps_types);
        let after = Item { value: item.value.clone(), content_type };
        if before.as_ref() == Some(&after) {
            return Ok(None);
        }
        Ok(Some(Self { difference: Difference { key, before, after: Some(after) }, expect }))
    }

    fn away_with(entry: Entry) -> anyhow::Result<Self> {
        let before = Some(item_of(&entry)?);
        let expect = Expect::Version(entry.version);
        Ok(Self { difference: Difference { key: entry.key, before, after: None }, expect })
    }

    async fn carry_out(
        &self,
        global: &Global,
        client: &Client,
        compares: bool,
    ) -> anyhow::Result<()> {
        let config = client.config(global.backend());
        let key = &self.difference.key;
        let expect = if compares { self.expect.clone() } else { Expect::Anything };
        let refused = match self.difference.after.clone() {
            Some(Item { value, content_type }) => {
                let put = Put { content_type, expect, ..Put::new(key.clone(), value) };
                match config.put(put).await? {
                    WriteOutcome::Done(_) => return Ok(()),
                    WriteOutcome::Stale(current) => Some(current),
                    WriteOutcome::Fenced => None,
                }
            }
            None => match config.delete(Delete { expect, ..Delete::new(key.clone()) }).await? {
                WriteOutcome::Done(_) => return Ok(()),
                WriteOutcome::Stale(current) => Some(current),
                WriteOutcome::Fenced => None,
            },
        };
        Err(refused.map_or_else(|| fenced(key), |current| stale(key, current.as_deref())))
    }
}

/// A stored value with its media type.
pub(super) fn item_of(entry: &Entry) -> anyhow::Result<Item> {
    Ok(Item { value: bytes_of(entry)?, content_type: entry.content_type.clone() })
}

/// What a backend promises besides what all do; none where the server does not tell.
struct Features(Option<Vec<String>>);

impl Features {
    async fn of_backend(global: &Global, client: &Client) -> anyhow::Result<Self> {
        let name = global.backend();
        let serves_by_default = |backend: &Backend| {
            name == pintle::DEFAULT && backend.default_for.iter().any(|noun| noun == "config")
        };
        let backends = client.admin().backends().await?;
        let found = backends.into_iter().find(|one| one.name == name || serves_by_default(one));
        // One whose plugin does not run has told of none.
        let known = found.filter(|backend| backend.state == State::Serving);
        Ok(Self(known.map(|backend| backend.features)))
    }

    fn has(&self, feature: &str) -> bool {
        self.0.as_ref().is_some_and(|known| known.iter().any(|known| known == feature))
    }

    fn may_have(&self, feature: &str) -> bool {
        self.0.is_none() || self.has(feature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: &str, content_type: Option<&str>) -> Entry {
        Entry {
            key: "k".into(),
            value: Value::of(value.as_bytes()),
            content_type: content_type.map(str::to_owned),
            version: "7".into(),
            ..Entry::default()
        }
    }

    fn item(value: &str, content_type: Option<&str>) -> Item {
        Item { value: value.into(), content_type: content_type.map(str::to_owned) }
    }

    fn after(found: Option<Entry>, item: &Item, keeps_types: bool) -> Option<Item> {
        Step::between("k".into(), found, item, keeps_types).unwrap()?.difference.after
    }

    #[test]
    fn another_media_type_is_a_difference_and_none_named_keeps_the_stored_one() {
        let (typed, plain) = (item("1", Some("text/x")), item("1", None));
        assert_eq!(after(None, &typed, true), Some(typed.clone()));
        assert_eq!(after(Some(entry("1", Some("text/x"))), &typed, true), None);
        assert_eq!(after(Some(entry("1", None)), &typed, true), Some(typed.clone()));
        assert_eq!(after(Some(entry("1", Some("text/y"))), &typed, true), Some(typed.clone()));
        assert_eq!(after(Some(entry("1", Some("text/x"))), &plain, true), None);
        assert_eq!(after(Some(entry("0", Some("text/x"))), &plain, true), Some(typed));
    }

    #[test]
    fn a_backend_that_keeps_no_media_types_is_sent_none() {
        let typed = item("1", Some("text/x"));
        assert_eq!(after(None, &typed, false), Some(item("1", None)));
        assert_eq!(after(Some(entry("1", None)), &typed, false), None);
    }
}
