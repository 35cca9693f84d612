//! Changing one value with a look at it: in an editor, or back to what it was.

use std::{io::Write, path::Path};

use anyhow::{Context, bail};
use clap::Args;
use pintle_client::{
    Client,
    api::config::{Entry, Expect, GetQuery},
    config::{Put, WriteOutcome},
};
use serde_json::json;
use tokio::process::Command;

use super::{
    bytes_of, content,
    difference::{Difference, coloured},
    document::Item,
    fenced, no_value,
    plan::item_of,
    read, stale,
};
use crate::{
    exit::{self, Exit, Failure},
    global::Global,
    output, question,
    signals::Signals,
};

/// Revisions that are looked through for one.
const REVISIONS_MAX: usize = 10_000;

#[derive(Debug, Args)]
pub(crate) struct RollbackArguments {
    /// Path of segments between `/`: app/db/url
    key: String,
    /// The version to go back to, as `history` shows it [default: the one before]
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    /// Show what would change, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(super) async fn rollback(
    global: &Global,
    client: &Client,
    arguments: &RollbackArguments,
) -> anyhow::Result<Exit> {
    let key = &arguments.key;
    let current = client.config(global.backend()).get(key).await?;
    let limit = if arguments.to.is_some() { REVISIONS_MAX } else { 2 };
    let past = read::revisions(global, client, key, limit).await?;
    let mut revisions = past.revisions.into_iter();
    let target = match &arguments.to {
        Some(version) => revisions.find(|revision| revision.version == *version),
        // The newest is what is there now, or that it was deleted.
        None => revisions.nth(1),
    };
    let Some(target) = target else {
        let text = match &arguments.to {
            Some(version) => format!("{key} has no version {version} that is kept"),
            None => format!("{key} has no earlier version that is kept"),
        };
        return Err(Failure::error(Exit::NOT_FOUND, format!("{text}: see `config history {key}`")));
    };
    let Some(entry) = target.entry else {
        let text = format!("at version {} {key} was deleted: use `config delete`", target.version);
        return Err(Failure::error(Exit::USAGE, text));
    };
    let after = item_of(&entry)?;
    let before = current.as_ref().map(item_of).transpose()?;
    if let Some(current) = current.as_ref().filter(|_| before.as_ref() == Some(&after)) {
        let text = format!("{key} has the value of version {} already", target.version);
        return unchanged(global, current, &text);
    }
    let difference = Difference { key: key.clone(), before, after: Some(after.clone()) };
    let asks = !arguments.yes && !arguments.dry_run && question::can_be_asked();
    if (arguments.dry_run && !global.is_for_machines()) || asks {
        output::note_part(coloured(&difference.text(), true));
    }
    if arguments.dry_run {
        let version = current.as_ref().map(|entry| &entry.version);
        let facts = json!({
            "key": key, "version": version, "to": target.version, "changed": true, "dry_run": true,
        });
        global.print_facts(&facts)?;
        return Ok(Exit::OK);
    }
    if asks {
        question::ask("Write this?")?;
    }
    write(global, client, key, after, current.as_ref()).await
}

/// Says that there was nothing to write.
fn unchanged(global: &Global, current: &Entry, text: &str) -> anyhow::Result<Exit> {
    let facts = json!({ "key": current.key, "version": current.version, "changed": false });
    if !global.print_facts(&facts)? {
        output::line(text)?;
    }
    Ok(Exit::OK)
}

pub(super) async fn edit(global: &Global, client: &Client, key: &str) -> anyhow::Result<Exit> {
    let query = GetQuery::default();
    let Some(entry) = client.config(global.backend()).get_with(key, query).await? else {
        return Err(no_value(key));
    };
    let before = bytes_of(&entry)?;
    if std::str::from_utf8(&before).is_err() {
        bail!("{key} is no text: write it with `config put {key} @FILE`");
    }
    let kind = content::Kind::of(key, entry.content_type.as_deref());
    let suffix = kind.map_or("txt", content::Kind::extension);
    let mut file = tempfile::Builder::new()
        .prefix("pintle-")
        .suffix(&format!(".{suffix}"))
        .tempfile()
        .context("cannot make a file to edit")?;
    file.write_all(&before)?;
    file.flush()?;
    run_editor(file.path()).await?;
    let value = std::fs::read(file.path()).context("the edited file cannot be read")?;
    let value = without_added_newline(&before, value);
    if value == before {
        return unchanged(global, &entry, &format!("{key} is as it was"));
    }
    let checked = kind.map_or(Ok(()), |kind| content::check(kind, &value));
    let outcome = match checked {
        Err(fault) => Err(Failure::error(Exit::USAGE, format!("{key}: {fault}"))),
        Ok(()) => {
            let mut signals = Signals::to_interrupt()?;
            let item = Item { value, content_type: entry.content_type.clone() };
            tokio::select! {
                written = write(global, client, key, item, Some(&entry)) => written,
                signal = signals.next() => Err(exit::ended_by(signal)),
            }
        }
    };
    if outcome.is_err() {
        // Nobody's work is thrown away.
        let (_, path) = file.keep().context("the edited file cannot be kept")?;
        output::note(format_args!("what you wrote is in {}", path.display()));
    }
    outcome
}

/// Most editors end the last line, whether it was ended before or not.
fn without_added_newline(before: &[u8], mut after: Vec<u8>) -> Vec<u8> {
    if !before.ends_with(b"\n") && after.ends_with(b"\n") {
        after.pop();
    }
    after
}

/// Runs the editor to its end. What the terminal interrupts meanwhile is meant for the editor.
async fn run_editor(path: &Path) -> anyhow::Result<()> {
    let mut signals = Signals::to_interrupt()?;
    let named = |name| std::env::var(name).ok().filter(|editor| !editor.trim().is_empty());
    let editor = named("VISUAL").or_else(|| named("EDITOR")).unwrap_or_else(|| "vi".into());
    // As other programs do: it may have arguments.
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let mut running = Command::new(program)
        .args(words)
        .arg(path)
        .spawn()
        .with_context(|| format!("cannot start the editor {editor:?}: set VISUAL or EDITOR"))?;
    let status = loop {
        tokio::select! {
            status = running.wait() => break status?,
            _ = signals.next() => {}
        }
    };
    if !status.success() {
        bail!("the editor {editor:?} ended with {status}; nothing was written");
    }
    Ok(())
}

/// Writes over what was seen, and over nothing else.
async fn write(
    global: &Global,
    client: &Client,
    key: &str,
    Item { value, content_type }: Item,
    seen: Option<&Entry>,
) -> anyhow::Result<Exit> {
    let expect = seen.map_or(Expect::Absent, |entry| Expect::Version(entry.version.clone()));
    let put = Put { content_type, expect, ..Put::new(key, value) };
    match client.config(global.backend()).put(put).await? {
        WriteOutcome::Done(stored) => {
            let facts = json!({ "key": key, "version": stored.version, "changed": true });
            if !global.print_facts(&facts)? {
                output::line(&format!("{key} is at version {}", stored.version))?;
            }
            Ok(Exit::OK)
        }
        WriteOutcome::Stale(current) => Err(stale(key, current.as_deref())),
        WriteOutcome::Fenced => Err(fenced(key)),
    }
}
