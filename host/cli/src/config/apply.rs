//! Moving configuration in and out: export, diff, apply.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use clap::Args;
use pintle_client::{Client, api::config::ListQuery};
use serde_json::json;

use super::{
    all_pages, bytes_of, content,
    difference::coloured,
    document::{Document, Item, Text},
    plan::Plan,
    write::read_file,
};
use crate::{
    exit::{Exit, Failure},
    global::Global,
    output, question,
};

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
            document.prefix = Some(prefix.clone());
        }
        let faults = document.faults_of_keys();
        if !faults.is_empty() {
            let text = format!("{}: keys that cannot be\n  {}", self.path, faults.join("\n  "));
            return Err(Failure::error(Exit::USAGE, text));
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
    if items.is_empty() {
        output::note(format_args!("no keys below {prefix:?}"));
    }
    let document = Document { prefix: Some(prefix.clone()), items };
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
    if !global.print_facts(&json!({ "prefix": prefix, "keys": count, "to": to }))? {
        output::note(format_args!("{} written to {to}", output::counted(count, "key")));
    }
    Ok(Exit::OK)
}

pub(super) async fn diff(
    global: &Global,
    client: &Client,
    document: &Document,
) -> anyhow::Result<Exit> {
    let plan = Plan::make(global, client, document, true).await?;
    if !global.print(&plan.summary(true))? {
        output::line(coloured(&plan.differences(), false).trim_end())?;
    }
    Ok(if plan.is_empty() { Exit::OK } else { Exit::FAILED })
}

pub(super) async fn apply(
    global: &Global,
    client: &Client,
    arguments: &ApplyArguments,
    document: &Document,
) -> anyhow::Result<Exit> {
    if arguments.prune && !arguments.yes && !arguments.dry_run {
        check_pruning(document)?;
    }
    if !arguments.unchecked {
        check(document)?;
    }
    let plan = Plan::make(global, client, document, arguments.prune).await?;
    let [written, deleted] = [false, true].map(|deletes| plan.count(deletes));
    let asks = !arguments.yes && !arguments.dry_run && !plan.is_empty() && question::can_be_asked();
    // What is deleted is shown in any case: it may be looked for afterwards.
    if (arguments.dry_run && !global.is_for_machines())
        || asks
        || (deleted > 0 && !arguments.dry_run)
    {
        output::note_part(coloured(&plan.differences(), true));
    }
    if asks {
        question::ask(&format!("Make {}?", output::counted(written + deleted, "change")))?;
    }
    if !arguments.dry_run {
        plan.carry_out(global, client).await?;
    }
    if !global.print(&plan.summary(arguments.dry_run))? {
        let would = if arguments.dry_run { "would be " } else { "" };
        output::line(&format!(
            "{written} {would}written, {deleted} {would}deleted, {} unchanged",
            plan.unchanged
        ))?;
    }
    Ok(Exit::OK)
}

/// Refuses what would delete everything, and is more likely a wrong source than meant.
fn check_pruning(document: &Document) -> anyhow::Result<()> {
    let what = if document.items.is_empty() {
        format!("the source is empty: --prune would delete all keys below {:?}", document.prefix())
    } else if document.prefix.is_none() {
        "the source names no prefix: --prune would delete all other keys; give it one by --prefix"
            .to_owned()
    } else {
        return Ok(());
    };
    Err(Failure::error(Exit::USAGE, format!("{what} (--yes does it all the same)")))
}

/// Everything that is not what it says it is.
fn check(document: &Document) -> anyhow::Result<()> {
    let faults: Vec<String> = document
        .items
        .iter()
        .filter_map(|(key, item)| {
            let kind = content::Kind::of(key, item.content_type.as_deref())?;
            let fault = content::check(kind, &item.value).err()?;
            Some(format!("{}: {fault}", document.key(key)))
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
