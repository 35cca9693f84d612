//! `pintle audit`: who changed what.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use pintle_client::{
    Client,
    api::audit::{AuditPage, AuditQuery, Change, Record},
};

use crate::{
    exit::Exit,
    global::Global,
    output::{self, Table},
    session,
};

/// What to show. A record has to fit all that is given.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only of this last time, like 24h
    #[arg(long, value_name = "TIME", value_parser = pintle::settings::parse_duration)]
    last: Option<Duration>,
    /// By this caller
    #[arg(long)]
    caller: Option<String>,
    /// This operation, like config.put; or all of a noun, like config
    #[arg(long)]
    operation: Option<String>,
    /// About this key, or what lies below it
    #[arg(long)]
    key: Option<String>,
    /// With this outcome: `done`, or the code of a problem
    #[arg(long)]
    outcome: Option<String>,
    /// Stop after this many
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: usize,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> anyhow::Result<Exit> {
    session::with(global, async |client| show(global, client, arguments).await).await
}

async fn show(global: &Global, client: &Client, arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { last, caller, operation, key, outcome, limit } = arguments;
    let backend = Some(global.backend().to_owned()).filter(|name| name != pintle::DEFAULT);
    let mut query = AuditQuery {
        since_ms: last.map(before_now),
        caller,
        operation,
        backend,
        key,
        outcome,
        ..AuditQuery::default()
    };
    let mut whole = AuditPage::default();
    loop {
        let missing = limit.saturating_sub(whole.records.len());
        query.limit = Some(u32::try_from(missing).unwrap_or(u32::MAX).clamp(1, 1_000));
        let page = client.admin().audit(&query).await?;
        whole.records.extend(page.records);
        whole.unreadable = whole.unreadable.saturating_add(page.unreadable);
        query.page = page.next;
        if query.page.is_none() || whole.records.len() >= limit {
            break;
        }
    }
    whole.records.truncate(limit);
    if global.print(&whole)? {
        return Ok(Exit::OK);
    }
    let mut table =
        Table::new(["TIME", "CALLER", "FROM", "OPERATION", "BACKEND", "WHAT", "OUTCOME"]);
    for record in whole.records {
        let what = what(&record);
        table.row([
            output::moment(Some(record.time_ms)),
            record.caller,
            output::or_dash(record.address.unwrap_or_default()),
            record.operation,
            output::or_dash(record.backend.unwrap_or_default()),
            what,
            record.outcome,
        ]);
    }
    table.print("nothing was changed")?;
    if whole.unreadable > 0 {
        output::note(format_args!("{} lines of the trail cannot be read", whole.unreadable));
    }
    Ok(Exit::OK)
}

fn what(record: &Record) -> String {
    let mut parts: Vec<String> = record.changes.iter().map(change).collect();
    parts.extend(record.detail.clone());
    output::or_dash(output::preview(parts.join(", ").as_bytes()))
}

fn change(change: &Change) -> String {
    let Change { key, before, after } = change;
    match (before, after) {
        (None, None) => key.clone(),
        (None, Some(after)) => format!("{key} -> {after}"),
        (Some(before), None) => format!("{key} {before} ->"),
        (Some(before), Some(after)) => format!("{key} {before} -> {after}"),
    }
}

fn before_now(time: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.saturating_sub(time).as_millis()).unwrap_or_default()
}
