//! Writing.

use std::{
    io::{self, Read},
    path::Path,
};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use pintle_client::{
    Client,
    api::config::{DeletePrefixQuery, Expect, ListQuery, Txn, TxnResult},
    config::{Delete, Put, TxnOutcome, WriteOutcome},
};
use serde_json::json;

use super::{all_pages, content, fenced, no_value, preview, stale};
use crate::{
    exit::{Exit, Failure},
    global::Global,
    output::{self, Table},
    progress::Progress,
    question,
};

/// Keys that are named before everything below a prefix is deleted.
const NAMED_MAX: usize = 20;

#[derive(Debug, Args)]
pub(crate) struct PutArguments {
    /// Path of segments between `/`: app/db/url
    key: String,
    /// The value; `-` for standard input, @FILE for a file
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// Take the value as it stands, also if it is `-` or begins with `@`
    #[arg(long)]
    literal: bool,
    /// Write only if the key has this version
    #[arg(long, value_name = "VERSION", conflicts_with = "if_absent")]
    if_version: Option<String>,
    /// Write only if there is no value
    #[arg(long)]
    if_absent: bool,
    /// Media type to store with the value; JSON, YAML and TOML are checked first
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArguments {
    /// A key; with --prefix a prefix
    target: String,
    /// Delete everything below the target
    #[arg(long, conflicts_with = "if_version")]
    prefix: bool,
    /// Delete only if the key has this version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// Bytes of a file, or of standard input for `-`.
pub(super) fn read_file(path: &str) -> anyhow::Result<Vec<u8>> {
    if path == "-" {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).context("standard input")?;
        return Ok(bytes);
    }
    std::fs::read(Path::new(path)).with_context(|| format!("cannot read {path}"))
}

pub(super) fn read_value(put: &PutArguments) -> anyhow::Result<Bytes> {
    let value = if put.literal {
        put.value.clone().into_bytes()
    } else if put.value == "-" {
        read_file("-")?
    } else if let Some(path) = put.value.strip_prefix('@') {
        std::fs::read(Path::new(path))
            .with_context(|| format!("{path} (a value that begins with @ needs --literal)"))?
    } else {
        put.value.clone().into_bytes()
    };
    // The key's ending alone does not make it wrong: it may be about to be mended.
    if let Some(kind) = put.content_type.as_deref().and_then(content::Kind::of_media_type) {
        content::check(kind, &value)
            .map_err(|fault| Failure::error(Exit::USAGE, format!("{}: {fault}", put.key)))?;
    }
    Ok(value.into())
}

pub(super) async fn put(
    global: &Global,
    client: &Client,
    arguments: PutArguments,
    value: Bytes,
) -> anyhow::Result<Exit> {
    let PutArguments { key, if_version, if_absent, content_type, .. } = arguments;
    let expect = match if_version {
        Some(version) => Expect::Version(version),
        None if if_absent => Expect::Absent,
        None => Expect::Anything,
    };
    let put = Put { content_type, expect, ..Put::new(key.clone(), value) };
    match client.config(global.backend()).put(put).await? {
        WriteOutcome::Done(stored) => {
            if !global.print_facts(&json!({ "key": key, "version": stored.version }))? {
                output::line(&format!("{key} is at version {}", stored.version))?;
            }
            Ok(Exit::OK)
        }
        WriteOutcome::Stale(current) => Err(stale(&key, current.as_deref())),
        WriteOutcome::Fenced => Err(fenced(&key)),
    }
}

pub(super) async fn delete(
    global: &Global,
    client: &Client,
    arguments: DeleteArguments,
) -> anyhow::Result<Exit> {
    if arguments.prefix {
        return delete_prefix(global, client, arguments.target, arguments.yes).await;
    }
    let key = arguments.target;
    let expect = arguments.if_version.map_or(Expect::Anything, Expect::Version);
    let delete = Delete { expect, ..Delete::new(key.clone()) };
    match client.config(global.backend()).delete(delete).await? {
        WriteOutcome::Done(done) if done.deleted => {
            if !global.print_facts(&json!({ "key": key, "deleted": true }))? {
                output::line(&format!("{key} is deleted"))?;
            }
            Ok(Exit::OK)
        }
        WriteOutcome::Done(_) => Err(no_value(&key)),
        WriteOutcome::Stale(current) => Err(stale(&key, current.as_deref())),
        WriteOutcome::Fenced => Err(fenced(&key)),
    }
}

async fn delete_prefix(
    global: &Global,
    client: &Client,
    prefix: String,
    yes: bool,
) -> anyhow::Result<Exit> {
    let asks = !yes && question::can_be_asked();
    if !yes && !asks && prefix.is_empty() {
        let text = "this would delete every key of the backend: --yes does it all the same";
        return Err(Failure::error(Exit::USAGE, text));
    }
    if asks {
        let query = ListQuery { prefix: prefix.clone(), keys_only: true, ..ListQuery::default() };
        let found = all_pages(global, client, query, usize::MAX).await?;
        for entry in found.entries.iter().take(NAMED_MAX) {
            output::note(format_args!("  {}", entry.key));
        }
        if let Some(more) = found.entries.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
            output::note(format_args!("  and {more} more"));
        }
        question::ask(&format!("Delete {}?", output::counted(found.entries.len(), "key")))?;
    }
    let query = DeletePrefixQuery { prefix: prefix.clone(), held: None };
    let config = client.config(global.backend());
    let deleting = config.delete_prefix(&query);
    match Progress::seconds("seconds; deleting", deleting).await? {
        WriteOutcome::Done(done) => {
            if !global.print_facts(&json!({ "prefix": prefix, "deleted": done.deleted }))? {
                output::line(&format!("{} keys below {prefix:?} are deleted", done.deleted))?;
            }
            Ok(Exit::OK)
        }
        WriteOutcome::Stale(_) | WriteOutcome::Fenced => Err(fenced(&prefix)),
    }
}

pub(super) fn read_txn(file: &str) -> anyhow::Result<Txn> {
    let text = read_file(file)?;
    serde_json::from_slice(&text)
        .map_err(|error| Failure::error(Exit::USAGE, format!("{file}: no transaction: {error}")))
}

pub(super) async fn txn(global: &Global, client: &Client, txn: &Txn) -> anyhow::Result<Exit> {
    let committed = match client.config(global.backend()).txn(txn).await? {
        TxnOutcome::Committed(committed) => committed,
        TxnOutcome::Fenced => {
            return Err(Failure::error(Exit::LOST, "not done: a lease is not held any more"));
        }
        TxnOutcome::Stale(mismatches) => {
            let mut text = "not done: conditions do not hold".to_owned();
            for mismatch in mismatches {
                let key = txn.conditions.get(mismatch.index).map_or("", |c| c.key.as_str());
                let present = mismatch.current.as_ref().map_or_else(
                    || "there is no value".into(),
                    |entry| format!("version {}: {}", entry.version, preview(entry)),
                );
                text.push_str(&format!("\n  {key}: {present}"));
            }
            return Err(Failure::error(Exit::LOST, text));
        }
    };
    if global.print(&committed)? {
        return Ok(Exit::OK);
    }
    let mut table = Table::new(["OPERATION", "KEY", "RESULT"]);
    for (op, result) in txn.ops.iter().zip(&committed.results) {
        use pintle_client::api::config::TxnOp;
        let (TxnOp::Get { key } | TxnOp::Put { key, .. } | TxnOp::Delete { key }) = op;
        let (name, result) = match result {
            TxnResult::Get { entry } => {
                ("get", entry.as_ref().map_or_else(|| "no value".into(), preview))
            }
            TxnResult::Put { version } => ("put", format!("version {version}")),
            TxnResult::Delete { deleted: true } => ("delete", "deleted".into()),
            TxnResult::Delete { deleted: false } => ("delete", "there was no value".into()),
        };
        table.row([name.into(), key.clone(), result]);
    }
    table.print("done; there was nothing to do")?;
    Ok(Exit::OK)
}
