//! `pintle config`: read, write, watch, compare and move configuration.

mod apply;
mod content;
mod difference;
mod document;
mod edit;
mod plan;
mod read;
mod watch;
mod write;

use clap::{Args, Subcommand, ValueEnum};
use pintle_client::{
    Client,
    api::config::{Consistency, EntriesPage, Entry, ListQuery},
};

use crate::{
    exit::{Exit, Failure},
    global::Global,
    output,
    progress::Progress,
    session,
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
    Put(write::PutArguments),
    /// Delete a key, or everything below a prefix
    Delete(write::DeleteArguments),
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
    /// Draw the keys below a prefix as a tree
    Tree {
        /// What to draw; everything if it is left out
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Print the present state, then each change, one line each
    Watch(watch::Arguments),
    /// Show the past of a key, newest first
    History {
        /// Path of segments between `/`: app/db/url
        key: String,
        /// Stop after this many
        #[arg(long, value_name = "NUMBER", default_value_t = 20)]
        limit: usize,
    },
    /// Write an earlier value of a key again
    Rollback(edit::RollbackArguments),
    /// Change a value in an editor ($VISUAL, $EDITOR)
    Edit {
        /// Path of segments between `/`: app/db/url
        key: String,
    },
    /// Do several things at one moment, or none of them
    ///
    /// Reads a JSON document: {"conditions": [{"key": "a", "expect": "absent"}], "ops": [{"op":
    /// "put", "key": "a", "value": "1"}, {"op": "delete", "key": "b"}]}. An expectation is
    /// "absent", "exists" or {"version": "7"}.
    Txn {
        /// File with the document; `-` for standard input
        #[arg(value_name = "FILE")]
        file: String,
    },
    /// Write everything below a prefix to a document, or to a folder of files
    Export(apply::ExportArguments),
    /// Show what `apply` would change; exits with 1 if something differs
    Diff(apply::Source),
    /// Make what lies below a prefix what a document or a folder says
    Apply(apply::ApplyArguments),
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

pub(crate) async fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    // What is wrong with arguments is told before a host is started for them.
    match verb {
        Verb::Put(arguments) => {
            let value = write::read_value(&arguments)?;
            session::with(global, async |client| write::put(global, client, arguments, value).await)
                .await
        }
        Verb::Txn { file } => {
            let txn = write::read_txn(&file)?;
            session::with(global, async |client| write::txn(global, client, &txn).await).await
        }
        Verb::Diff(source) => {
            let document = source.read()?;
            session::with(global, async |client| apply::diff(global, client, &document).await).await
        }
        Verb::Apply(arguments) => {
            let document = arguments.source.read()?;
            session::with(global, async |client| {
                apply::apply(global, client, &arguments, &document).await
            })
            .await
        }
        verb => session::with(global, async |client| plain(global, client, verb).await).await,
    }
}

async fn plain(global: &Global, client: &Client, verb: Verb) -> anyhow::Result<Exit> {
    match verb {
        Verb::Get { key, read } => read::get(global, client, &key, read).await,
        Verb::Delete(arguments) => write::delete(global, client, arguments).await,
        Verb::List { prefix, keys_only, limit, read } => {
            let query = ListQuery {
                prefix,
                keys_only,
                consistency: read.consistency(),
                at: read.at,
                ..ListQuery::default()
            };
            read::list(global, client, query, limit).await
        }
        Verb::Tree { prefix } => read::tree(global, client, prefix).await,
        Verb::Watch(arguments) => watch::run(global, client, arguments).await,
        Verb::History { key, limit } => read::history(global, client, &key, limit).await,
        Verb::Rollback(arguments) => edit::rollback(global, client, &arguments).await,
        Verb::Edit { key } => edit::edit(global, client, &key).await,
        Verb::Export(arguments) => apply::export(global, client, &arguments).await,
        Verb::Put(_) | Verb::Txn { .. } | Verb::Diff(_) | Verb::Apply(_) => {
            Err(Failure::error(Exit::FAILED, "not reached: handled before"))
        }
    }
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

/// Everything that a query asks for, page after page, up to a limit.
async fn all_pages(
    global: &Global,
    client: &Client,
    mut query: ListQuery,
    limit: usize,
) -> anyhow::Result<EntriesPage> {
    let config = client.config(global.backend());
    let mut whole = EntriesPage::default();
    let mut progress = Progress::new("keys read");
    loop {
        progress.at(whole.entries.len(), None);
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
    Ok(whole)
}

fn preview(entry: &Entry) -> String {
    match entry.value.bytes() {
        Ok(Some(bytes)) => output::preview(&bytes),
        Ok(None) => String::new(),
        Err(problem) => problem,
    }
}

fn bytes_of(entry: &Entry) -> anyhow::Result<Vec<u8>> {
    use anyhow::Context;
    entry.value.bytes().map_err(anyhow::Error::msg)?.context("the server left the value out")
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
