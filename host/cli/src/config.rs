//! `pintle config`: read, write and watch configuration.

use std::{
    io::{self, IsTerminal, Read, Write},
    path::Path,
};

use anyhow::Context;
use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use futures::StreamExt;
use pintle_client::{
    Client,
    api::{
        config::{
            Consistency, DeletePrefixQuery, EntriesPage, Entry, Expect, GetQuery, ListQuery,
            WatchQuery,
        },
        event::ConfigEvent,
    },
    config::{Delete, Put, WriteOutcome},
    watch::Delivery,
};
use serde_json::json;

use crate::{
    exit::{Exit, Failure},
    global::Global,
    output::{self, Table},
    session,
    signals::Signals,
};

/// What to do with configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Print the value of a key, byte for byte
    Get {
        /// Path of segments between `/`: app/db/url
        key: String,
        #[command(flatten)]
        read: ReadArguments,
    },
    /// Write a key
    Put(PutArguments),
    /// Delete a key, or everything below a prefix
    Delete(DeleteArguments),
    /// List the keys below a prefix
    List {
        /// What to list: `a/b` is everything below it; everything if it is left out
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
        /// Leave values out
        #[arg(long)]
        keys_only: bool,
        /// Stop after this many
        #[arg(long, value_name = "NUMBER")]
        limit: Option<usize>,
        #[command(flatten)]
        read: ReadArguments,
    },
    /// Print the present state, then each change, one line each
    Watch {
        /// A key; with --prefix a prefix, and everything if it is left out
        #[arg(required_unless_present = "prefix")]
        target: Option<String>,
        /// Watch everything below the target
        #[arg(long)]
        prefix: bool,
        /// Every change after this version instead of the present state first
        #[arg(long, value_name = "VERSION")]
        from_version: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ReadArguments {
    /// How fresh it has to be [default: the strongest that the backend has]
    #[arg(long, value_enum)]
    consistency: Option<ConsistencyArgument>,
    /// Read as of this version
    #[arg(long, value_name = "VERSION")]
    at: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ConsistencyArgument {
    /// Sees every write acknowledged before
    Linearizable,
    /// Never goes back
    Sequential,
    /// Whatever is at hand
    Any,
}

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
    /// Media type to store with the value
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
}

pub(crate) async fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    // Before a host is started for it.
    let value = match &verb {
        Verb::Put(put) => read_value(put)?,
        _ => Bytes::new(),
    };
    session::with(global, async |client| match verb {
        Verb::Get { key, read } => get(global, client, &key, read).await,
        Verb::Put(arguments) => put(global, client, arguments, value).await,
        Verb::Delete(arguments) if arguments.prefix => {
            delete_prefix(global, client, arguments.target).await
        }
        Verb::Delete(arguments) => delete(global, client, arguments).await,
        Verb::List { prefix, keys_only, limit, read } => {
            let query = ListQuery {
                prefix,
                keys_only,
                consistency: read.consistency(),
                at: read.at,
                ..ListQuery::default()
            };
            list(global, client, query, limit).await
        }
        Verb::Watch { target, prefix, from_version } => {
            let target = target.unwrap_or_default();
            let (key, prefix) = if prefix { (None, Some(target)) } else { (Some(target), None) };
            watch(global, client, &WatchQuery { key, prefix, from_version }).await
        }
    })
    .await
}

async fn get(
    global: &Global,
    client: &Client,
    key: &str,
    read: ReadArguments,
) -> anyhow::Result<Exit> {
    let query = GetQuery { consistency: read.consistency(), at: read.at, format: None };
    let Some(entry) = client.config(&global.backend).get_with(key, query).await? else {
        return Err(no_value(key));
    };
    if global.is_json() {
        output::json(&entry)?;
        return Ok(Exit::OK);
    }
    let bytes = bytes_of(&entry)?;
    let mut out = io::stdout().lock();
    out.write_all(&bytes)?;
    // A prompt should not follow on the same line; a program gets the bytes and nothing else.
    if out.is_terminal() && bytes.last() != Some(&b'\n') {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(Exit::OK)
}

async fn put(
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
    match client.config(&global.backend).put(put).await? {
        WriteOutcome::Done(stored) => {
            if global.is_json() {
                output::json(&json!({ "key": key, "version": stored.version }))?;
            } else {
                output::line(&format!("{key} is at version {}", stored.version))?;
            }
            Ok(Exit::OK)
        }
        WriteOutcome::Stale(current) => Err(stale(&key, current.as_deref())),
        WriteOutcome::Fenced => Err(fenced(&key)),
    }
}

async fn delete(
    global: &Global,
    client: &Client,
    arguments: DeleteArguments,
) -> anyhow::Result<Exit> {
    let key = arguments.target;
    let expect = arguments.if_version.map_or(Expect::Anything, Expect::Version);
    let delete = Delete { expect, ..Delete::new(key.clone()) };
    match client.config(&global.backend).delete(delete).await? {
        WriteOutcome::Done(done) if done.deleted => {
            if global.is_json() {
                output::json(&json!({ "key": key, "deleted": true }))?;
            } else {
                output::line(&format!("{key} is deleted"))?;
            }
            Ok(Exit::OK)
        }
        WriteOutcome::Done(_) => Err(no_value(&key)),
        WriteOutcome::Stale(current) => Err(stale(&key, current.as_deref())),
        WriteOutcome::Fenced => Err(fenced(&key)),
    }
}

async fn delete_prefix(global: &Global, client: &Client, prefix: String) -> anyhow::Result<Exit> {
    let query = DeletePrefixQuery { prefix: prefix.clone(), held: None };
    match client.config(&global.backend).delete_prefix(&query).await? {
        WriteOutcome::Done(done) => {
            if global.is_json() {
                output::json(&json!({ "prefix": prefix, "deleted": done.deleted }))?;
            } else {
                output::line(&format!("{} keys below {prefix:?} are deleted", done.deleted))?;
            }
            Ok(Exit::OK)
        }
        WriteOutcome::Stale(_) | WriteOutcome::Fenced => Err(fenced(&prefix)),
    }
}

async fn list(
    global: &Global,
    client: &Client,
    mut query: ListQuery,
    limit: Option<usize>,
) -> anyhow::Result<Exit> {
    let config = client.config(&global.backend);
    let limit = limit.unwrap_or(usize::MAX);
    let mut whole = EntriesPage::default();
    loop {
        let missing = limit.saturating_sub(whole.entries.len());
        query.limit = Some(u32::try_from(missing).unwrap_or(u32::MAX).clamp(1, 1_000));
        let page = config.list(&query).await?;
        whole.entries.extend(page.entries);
        whole.skipped = whole.skipped.saturating_add(page.skipped);
        whole.version = whole.version.or(page.version);
        query.page = page.next;
        if query.page.is_none() || whole.entries.len() >= limit {
            break;
        }
    }
    whole.entries.truncate(limit);
    if global.is_json() {
        output::json(&whole)?;
        return Ok(Exit::OK);
    }
    let mut table = Table::new(["KEY", "VERSION", "MODIFIED", "VALUE"]);
    for entry in &whole.entries {
        table.row([
            entry.key.clone(),
            entry.version.clone(),
            output::moment(entry.modified_ms),
            preview(entry),
        ]);
    }
    table.print("no keys")?;
    if whole.skipped > 0 {
        eprintln!("{} things there cannot be named by a key and are not listed", whole.skipped);
    }
    Ok(Exit::OK)
}

async fn watch(global: &Global, client: &Client, query: &WatchQuery) -> anyhow::Result<Exit> {
    let mut signals = Signals::to_end()?;
    let mut watch = client.config(&global.backend).watch(query).await?;
    loop {
        let delivery = tokio::select! {
            delivery = watch.next() => delivery,
            _ = signals.next() => return Ok(Exit::OK),
        };
        match delivery {
            Some(Ok(Delivery::Event(event))) if global.is_json() => output::json_line(&event)?,
            Some(Ok(Delivery::Event(event))) => output::line(&describe(&event))?,
            Some(Ok(Delivery::Disconnected(reason))) => {
                eprintln!("{reason}; connecting again");
            }
            Some(Err(error)) => return Err(error.into()),
            None => return Ok(Exit::OK),
        }
    }
}

fn describe(event: &ConfigEvent) -> String {
    match event {
        ConfigEvent::SnapshotBegin => "snapshot-begin".into(),
        ConfigEvent::SnapshotEnd => "snapshot-end".into(),
        ConfigEvent::Put(put) => {
            let Entry { key, version, .. } = &put.entry;
            format!("put       {key}  {version}  {}", preview(&put.entry))
        }
        ConfigEvent::Removed(removed) => {
            let version = removed.version.as_deref().unwrap_or("-");
            format!("removed   {}  {version}", removed.key)
        }
        ConfigEvent::Resync(resync) => format!("resync    {}", resync.reason),
    }
}

fn preview(entry: &Entry) -> String {
    match entry.value.bytes() {
        Ok(Some(bytes)) => output::preview(&bytes),
        Ok(None) => String::new(),
        Err(problem) => problem,
    }
}

fn bytes_of(entry: &Entry) -> anyhow::Result<Vec<u8>> {
    entry.value.bytes().map_err(anyhow::Error::msg)?.context("the server left the value out")
}

fn read_value(put: &PutArguments) -> anyhow::Result<Bytes> {
    if put.literal {
        return Ok(put.value.clone().into());
    }
    if put.value == "-" {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).context("standard input")?;
        return Ok(bytes.into());
    }
    match put.value.strip_prefix('@') {
        Some(path) => {
            let bytes = std::fs::read(Path::new(path))
                .with_context(|| format!("{path} (a value that begins with @ needs --literal)"))?;
            Ok(bytes.into())
        }
        None => Ok(put.value.clone().into()),
    }
}

fn no_value(key: &str) -> anyhow::Error {
    Failure::error(Exit::NOT_FOUND, format!("there is no value under {key:?}"))
}

fn stale(key: &str, current: Option<&Entry>) -> anyhow::Error {
    let text = match current {
        Some(entry) => {
            format!("not done: {key} is at version {}: {}", entry.version, preview(entry))
        }
        None => format!("not done: there is no value under {key:?}"),
    };
    Failure::error(Exit::LOST, text)
}

fn fenced(key: &str) -> anyhow::Error {
    Failure::error(Exit::LOST, format!("not done: {key}: the lease is not held any more"))
}

impl ReadArguments {
    fn consistency(&self) -> Option<Consistency> {
        self.consistency.map(|consistency| match consistency {
            ConsistencyArgument::Linearizable => Consistency::Linearizable,
            ConsistencyArgument::Sequential => Consistency::Sequential,
            ConsistencyArgument::Any => Consistency::Any,
        })
    }
}
