//! Moving configuration in and out: export, diff, apply.

use std::{collections::BTreeMap, io::IsTerminal, path::Path};

use anyhow::Context;
use clap::Args;
use pintle_client::{
    Client,
    api::{
        bytes::Value,
        config::{Condition, Expect, ListQuery, Txn, TxnOp},
    },
    config::{Delete, Put, TxnOutcome, WriteOutcome},
};
use serde_json::json;

use super::{
    all_pages, bytes_of, content,
    difference::{self, Difference},
    document::{Document, Item, Text, join},
    fenced, stale,
    write::read_file,
};
use crate::{
    exit::{Exit, Failure},
    global::Global,
    output, question,
};

/// Changes that fit into one transaction.
const TXN_OPS_MAX: usize = 128;
/// Bytes of values that do, with room for their escapes.
const TXN_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// What to write; everything if it is left out
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// A file, or a folder if it ends with `/`, instead of standard output; .yaml makes YAML of it
    #[arg(long, value_name = "PATH")]
    to: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Source {
    /// A document, a folder of files, or `-` for standard input
    #[arg(value_name = "SOURCE")]
    path: String,
    /// Prefix to compare with, instead of the one that the source names
    #[arg(long)]
    prefix: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArguments {
    #[command(flatten)]
    pub(super) source: Source,
    /// Delete what lies below the prefix and is not in the source
    #[arg(long)]
    prune: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Write JSON, YAML, TOML and properties without checking them
    #[arg(long)]
    unchecked: bool,
}

impl Source {
    pub(super) fn read(&self) -> anyhow::Result<Document> {
        let path = Path::new(&self.path);
        let mut document = if self.path != "-" && path.is_dir() {
            Document::read_folder(path)
        } else {
            Document::parse(&read_file(&self.path)?)
        }
        .with_context(|| self.path.clone())
        .map_err(|error| Failure::error(Exit::USAGE, format!("{error:#}")))?;
        if let Some(prefix) = &self.prefix {
            document.prefix.clone_from(prefix);
        }
        Ok(document)
    }
}

pub(super) async fn export(
    global: &Global,
    client: &Client,
    arguments: &ExportArguments,
) -> anyhow::Result<Exit> {
    let prefix = arguments.prefix.trim_end_matches('/').to_owned();
    let query = ListQuery { prefix: prefix.clone(), ..ListQuery::default() };
    let whole = all_pages(global, client, query, usize::MAX).await?;
    let mut items = BTreeMap::new();
    for entry in &whole.entries {
        let rest = entry.key.strip_prefix(&prefix).unwrap_or(&entry.key).trim_start_matches('/');
        let item = Item { value: bytes_of(entry)?, content_type: entry.content_type.clone() };
        items.insert(rest.to_owned(), item);
    }
    let count = items.len();
    let document = Document { prefix, items };
    super::read::tell_skipped(whole.skipped);
    let Some(to) = &arguments.to else {
        let form = if global.is_yaml() { Text::Yaml } else { Text::Json };
        output::line(document.text(form)?.trim_end())?;
        return Ok(Exit::OK);
    };
    let path = Path::new(to);
    if to.ends_with('/') || path.is_dir() {
        document.write_folder(path)?;
    } else {
        let is_yaml = to.ends_with(".yaml") || to.ends_with(".yml") || global.is_yaml();
        let text = document.text(if is_yaml { Text::Yaml } else { Text::Json })?;
        std::fs::write(path, text).with_context(|| format!("cannot write {to}"))?;
    }
    eprintln!("{count} keys are written to {to}");
    Ok(Exit::OK)
}

pub(super) async fn diff(
    global: &Global,
    client: &Client,
    document: &Document,
) -> anyhow::Result<Exit> {
    let plan = Plan::make(global, client, document, true).await?;
    if !global.print(&plan.summary(true))? {
        let text: String = plan.steps.iter().map(|step| step.difference.text()).collect();
        output::line(difference::coloured(&text, false).trim_end())?;
    }
    Ok(if plan.steps.is_empty() { Exit::OK } else { Exit::FAILED })
}

pub(super) async fn apply(
    global: &Global,
    client: &Client,
    arguments: &ApplyArguments,
    document: &Document,
) -> anyhow::Result<Exit> {
    if !arguments.unchecked {
        check(document)?;
    }
    let plan = Plan::make(global, client, document, arguments.prune).await?;
    let asks = !arguments.yes && !arguments.dry_run && question::can_be_asked();
    if (arguments.dry_run && !global.is_for_machines()) || (asks && !plan.steps.is_empty()) {
        let text: String = plan.steps.iter().map(|step| step.difference.text()).collect();
        eprint!("{}", difference::coloured(&text, true));
    }
    if asks && !plan.steps.is_empty() {
        question::ask(&format!("Make these {} changes?", plan.steps.len()))?;
    }
    if !arguments.dry_run {
        plan.carry_out(global, client).await?;
    }
    if !global.print(&plan.summary(arguments.dry_run))? {
        let [written, deleted] = [false, true].map(|deletes| plan.count(deletes));
        let would = if arguments.dry_run { "would be " } else { "" };
        output::line(&format!(
            "{written} {would}written, {deleted} {would}deleted, {} unchanged",
            plan.unchanged
        ))?;
    }
    Ok(Exit::OK)
}

/// Everything that is not what it says it is.
fn check(document: &Document) -> anyhow::Result<()> {
    let faults: Vec<String> = document
        .items
        .iter()
        .filter_map(|(key, item)| {
            let kind = content::Kind::of(key, item.content_type.as_deref())?;
            let fault = content::check(kind, &item.value).err()?;
            Some(format!("{}: {fault}", join(&document.prefix, key)))
        })
        .collect();
    if faults.is_empty() {
        return Ok(());
    }
    let text = format!(
        "nothing was written (--unchecked writes it all the same)\n  {}",
        faults.join("\n  ")
    );
    Err(Failure::error(Exit::USAGE, text))
}

/// What has to be done.
struct Plan {
    steps: Vec<Step>,
    unchanged: usize,
}

struct Step {
    difference: Difference,
    content_type: Option<String>,
    expect: Expect,
}

impl Plan {
    async fn make(
        global: &Global,
        client: &Client,
        document: &Document,
        prune: bool,
    ) -> anyhow::Result<Self> {
        let query = ListQuery { prefix: document.prefix.clone(), ..ListQuery::default() };
        let whole = all_pages(global, client, query, usize::MAX).await?;
        let mut present = BTreeMap::new();
        for entry in whole.entries {
            present.insert(entry.key.clone(), entry);
        }
        let mut plan = Self { steps: Vec::new(), unchanged: 0 };
        for (rest, item) in &document.items {
            let key = join(&document.prefix, rest);
            let found = present.remove(&key);
            let before = found.as_ref().map(bytes_of).transpose()?;
            let same_type = item.content_type.is_none()
                || found.as_ref().is_some_and(|entry| {
                    // A backend that keeps no media type has none to differ.
                    entry.content_type.is_none() || entry.content_type == item.content_type
                });
            if before.as_deref() == Some(item.value.as_slice()) && same_type {
                plan.unchanged += 1;
                continue;
            }
            let difference = Difference { key, before, after: Some(item.value.clone()) };
            let expect = found.map_or(Expect::Absent, |entry| Expect::Version(entry.version));
            plan.steps.push(Step { difference, content_type: item.content_type.clone(), expect });
        }
        for (key, entry) in present.into_iter().filter(|_| prune) {
            let difference = Difference { key, before: Some(bytes_of(&entry)?), after: None };
            let expect = Expect::Version(entry.version);
            plan.steps.push(Step { difference, content_type: None, expect });
        }
        Ok(plan)
    }

    fn count(&self, deletes: bool) -> usize {
        self.steps.iter().filter(|step| step.difference.after.is_none() == deletes).count()
    }

    fn summary(&self, dry_run: bool) -> serde_json::Value {
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

    async fn carry_out(&self, global: &Global, client: &Client) -> anyhow::Result<()> {
        let features = features(global, client).await?;
        let has = |feature: &str| {
            features.as_ref().map(|known| known.iter().any(|known| known == feature))
        };
        // Where it is not known, a backend that cannot compare refuses, and overwrites nothing.
        let compares = has("config.cas").unwrap_or(true);
        let sizes = self.steps.iter().filter_map(|step| step.difference.after.as_ref());
        let bytes: usize = sizes.map(Vec::len).sum();
        let fits = self.steps.len() <= TXN_OPS_MAX && bytes <= TXN_BYTES_MAX;
        if self.steps.len() > 1 && fits && has("config.txn").unwrap_or(false) {
            return self.at_once(global, client).await;
        }
        let shows = std::io::stderr().is_terminal();
        let total = self.steps.len();
        for (done, step) in self.steps.iter().enumerate() {
            step.carry_out(global, client, compares)
                .await
                .with_context(|| format!("{done} of {total} changes were made"))?;
            if shows && (done + 1) % 10 == 0 {
                eprint!("\r{}/{total}", done + 1);
            }
        }
        if shows && total >= 10 {
            eprintln!("\r{total}/{total}");
        }
        Ok(())
    }

    async fn at_once(&self, global: &Global, client: &Client) -> anyhow::Result<()> {
        let key = |step: &Step| step.difference.key.clone();
        let conditions =
            self.steps.iter().map(|step| Condition { key: key(step), expect: step.expect.clone() });
        let ops = self.steps.iter().map(|step| match &step.difference.after {
            Some(value) => TxnOp::Put {
                key: key(step),
                value: Value::of(value),
                content_type: step.content_type.clone(),
            },
            None => TxnOp::Delete { key: key(step) },
        });
        let txn = Txn { conditions: conditions.collect(), held: Vec::new(), ops: ops.collect() };
        match client.config(&global.backend).txn(&txn).await? {
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
    async fn carry_out(
        &self,
        global: &Global,
        client: &Client,
        compares: bool,
    ) -> anyhow::Result<()> {
        let config = client.config(&global.backend);
        let key = &self.difference.key;
        let expect = if compares { self.expect.clone() } else { Expect::Anything };
        let refused = match &self.difference.after {
            Some(value) => {
                let content_type = self.content_type.clone();
                let put = Put { content_type, expect, ..Put::new(key.clone(), value.clone()) };
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

/// What the backend in use offers, where the server tells.
async fn features(global: &Global, client: &Client) -> anyhow::Result<Option<Vec<String>>> {
    let backends = client.admin().backends().await?;
    let is_meant = |backend: &pintle_client::api::backend::Backend| {
        backend.name == global.backend
            || (global.backend == pintle::DEFAULT
                && backend.default_for.iter().any(|capability| capability == "config"))
    };
    let known = backends.into_iter().find(is_meant).map(|backend| backend.features);
    // A plugin that is not loaded yet has told of none.
    Ok(known.filter(|features| !features.is_empty()))
}
