//! `pintle lock`: run commands one at a time in a whole cluster.

mod wait;

use std::{ffi::OsString, time::Duration};

use clap::{Args, Subcommand};
use pintle_client::{
    Client,
    api::lock::{Claim, ListQuery, LocksPage, Mode},
    lease::HeldLease,
};

use serde_json::json;

use crate::{
    child::Job,
    exit::{self, Exit, Failure},
    global::Global,
    guard::Guard,
    output::{self, Table},
    question,
    session::{self, Session},
    signals::Signals,
};

/// What to do with locks.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a command while holding a lock
    ///
    /// Waits for the lock, runs the command, releases. When the lease is lost, or when this process
    /// is killed, the command and all that it started is asked to end (SIGTERM), and ended (SIGKILL)
    /// after --grace.
    Run(RunArguments),
    /// Show who holds a lock, and who waits
    Show {
        /// Name of the lock, a path: jobs/nightly
        name: String,
    },
    /// Take a lock away from whoever holds it or waits for it
    ///
    /// The holder is told that its lease is lost. What it does meanwhile is not undone: use this for
    /// a holder that is known to be gone.
    Release(ReleaseArguments),
    /// List the locks that somebody holds or waits for
    List {
        /// What to list: `a/b` is everything below it; everything if it is left out
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ReleaseArguments {
    /// Name of the lock, a path: jobs/nightly
    name: String,
    /// The claim to take away, as `show` prints it [default: the only holder's]
    claim: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Name of the lock, a path: jobs/nightly
    pub(crate) name: String,
    /// How long the lock stays taken after this process dies, 2s to 1h
    #[arg(long, value_name = "TIME", default_value = "15s")]
    #[arg(value_parser = pintle::settings::parse_duration)]
    pub(crate) ttl: Duration,
    /// How long to wait for the lock, also while the server is started again; 0s to try once
    /// [default: without end]
    #[arg(long, value_name = "TIME", value_parser = pintle::settings::parse_duration)]
    pub(crate) wait: Option<Duration>,
    /// Share the lock with others who share it
    #[arg(long, conflicts_with = "permits")]
    pub(crate) shared: bool,
    /// Be one of so many holders; all who use the lock give the same number
    #[arg(long, value_name = "NUMBER")]
    pub(crate) permits: Option<u32>,
    /// Who asks, shown to others [default: host and process]
    #[arg(long)]
    pub(crate) owner: Option<String>,
    /// Time for the command to end when the lease is lost
    #[arg(long, value_name = "TIME", default_value = "5s")]
    #[arg(value_parser = pintle::settings::parse_duration)]
    pub(crate) grace: Duration,
    /// The command. It finds PINTLE_LOCK, PINTLE_TOKEN and PINTLE_TOKEN_EPOCH in its environment
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

pub(crate) async fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    match verb {
        Verb::Run(arguments) => run_command(global, arguments).await,
        Verb::Show { name } => {
            session::with(global, async |client| show(global, client, &name).await).await
        }
        Verb::Release(arguments) => {
            session::with(global, async |client| release(global, client, arguments).await).await
        }
        Verb::List { prefix } => {
            session::with(global, async |client| list(global, client, prefix).await).await
        }
    }
}

/// Runs a command while holding a lock.
pub(crate) async fn run_command(global: &Global, arguments: RunArguments) -> anyhow::Result<Exit> {
    let mut session = Session::open(global).await?;
    let outcome = run_in(&mut session, global, arguments).await;
    session.close().await;
    outcome
}

async fn run_in(
    session: &mut Session,
    global: &Global,
    arguments: RunArguments,
) -> anyhow::Result<Exit> {
    let mut signals = Signals::to_forward()?;
    let lease = tokio::select! {
        lease = wait::acquire(session, global, &arguments) => lease?,
        signal = signals.next() => return Err(exit::ended_by(signal)),
    };
    let token = lease.token();
    // Without a token of its own it must not show another lock's, under which this process may run.
    let variables = vec![
        ("PINTLE_LOCK", Some(arguments.name.clone())),
        ("PINTLE_TOKEN", token.map(|token| token.value.to_string())),
        ("PINTLE_TOKEN_EPOCH", token.map(|token| token.epoch.clone())),
    ];
    tracing::info!(lock = arguments.name, token = token.map(|token| token.value), "held");
    let job = Guard::start(arguments.grace)
        .and_then(|guard| Job::start(&arguments.command, variables, signals, Some(guard)));
    let outcome = match job {
        Ok(mut job) => attend(&mut job, &lease, &arguments).await,
        Err(error) => Err(error),
    };
    if let Err(error) = lease.release().await {
        output::note(format_args!("pintle: the lock was not released, it will expire: {error}"));
    }
    outcome
}

/// Waits for the end of the command, and brings it about when the lease is lost.
async fn attend(job: &mut Job, lease: &HeldLease, run: &RunArguments) -> anyhow::Result<Exit> {
    let reason = tokio::select! {
        exit = job.ended() => return Ok(exit?),
        reason = lease.lost() => reason,
    };
    // Nothing before this, not even a word: who reads it may be slow.
    job.stop(run.grace).await?;
    let text = format!("lock {} was lost while the command ran: {reason}", run.name);
    Err(Failure::error(Exit::LEASE_LOST, text))
}

async fn show(global: &Global, client: &Client, name: &str) -> anyhow::Result<Exit> {
    let state = client.lock(global.backend()).inspect(name).await?;
    if global.print(&state)? {
        return Ok(Exit::OK);
    }
    if state.holders.is_empty() && state.waiters.is_empty() {
        output::line(&format!("{name} is free"))?;
        return Ok(Exit::OK);
    }
    let mut table = Table::new(["", "OWNER", "MODE", "TOKEN", "SINCE", "CLAIM"]);
    let holders = state.holders.iter().map(|claim| ("holds", claim));
    let waiters = state.waiters.iter().map(|claim| ("waits", claim));
    for (part, claim) in holders.chain(waiters) {
        let token = claim.token.as_ref().map(|token| token.value.to_string());
        table.row([
            part.into(),
            output::or_dash(claim.owner.clone()),
            mode_text(claim.mode),
            output::or_dash(token.unwrap_or_default()),
            output::moment(claim.since_ms),
            claim.claim_id.clone(),
        ]);
    }
    table.print("")?;
    Ok(Exit::OK)
}

async fn release(
    global: &Global,
    client: &Client,
    arguments: ReleaseArguments,
) -> anyhow::Result<Exit> {
    let ReleaseArguments { name, claim, yes } = arguments;
    let lock = client.lock(global.backend());
    let state = lock.inspect(&name).await?;
    let mut claims = state.holders.iter().chain(&state.waiters);
    let found = match (&claim, state.holders.as_slice()) {
        (Some(id), _) => claims.find(|claim| claim.claim_id == *id),
        (None, [only]) => Some(only),
        (None, []) => None,
        (None, several) => {
            let ids: Vec<&str> = several.iter().map(|claim| claim.claim_id.as_str()).collect();
            let text = format!("{name} has {} holders: name one of {}", ids.len(), ids.join(", "));
            return Err(Failure::error(Exit::USAGE, text));
        }
    };
    let Some(found) = found else {
        let what = claim.map_or_else(|| "nobody holds it".into(), |id| format!("no claim {id}"));
        return Err(Failure::error(Exit::NOT_FOUND, format!("{name}: {what}")));
    };
    if !yes && question::can_be_asked() {
        question::ask(&format!("Take {name} away from {}?", holder(found)))?;
    }
    let released = lock.force_release(&name, &found.claim_id).await?;
    if !released.released {
        let text = format!("{name}: {} had released it already", holder(found));
        return Err(Failure::error(Exit::NOT_FOUND, text));
    }
    if !global.print_facts(&json!({ "name": name, "released": found }))? {
        output::line(&format!("{name} is taken away from {}", holder(found)))?;
    }
    Ok(Exit::OK)
}

async fn list(global: &Global, client: &Client, prefix: String) -> anyhow::Result<Exit> {
    let lock = client.lock(global.backend());
    let mut query = ListQuery { prefix, ..ListQuery::default() };
    let mut whole = LocksPage::default();
    loop {
        let page = lock.list(&query).await?;
        whole.names.extend(page.names);
        query.page = page.next;
        if query.page.is_none() {
            break;
        }
    }
    if global.print(&whole)? {
        return Ok(Exit::OK);
    }
    let mut table = Table::new(["LOCK"]);
    for name in whole.names {
        table.row([name]);
    }
    table.print("nobody holds or waits for a lock")?;
    Ok(Exit::OK)
}

pub(crate) fn holder(claim: &Claim) -> String {
    let owner = output::or_dash(claim.owner.clone());
    match &claim.token {
        Some(token) => format!("{owner} (token {})", token.value),
        None => owner,
    }
}

fn mode_text(mode: Mode) -> String {
    match mode {
        Mode::Exclusive => "exclusive".into(),
        Mode::Shared => "shared".into(),
        Mode::Permit(permits) => format!("1 of {permits}"),
    }
}
