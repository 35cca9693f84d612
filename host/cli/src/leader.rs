//! `pintle leader`: one leader at a time in a whole cluster.

use std::{ffi::OsString, time::Duration};

use clap::{Args, Subcommand};
use pintle_client::{Client, api::leader::lock_name};

use crate::{
    exit::Exit,
    global::Global,
    lock::{self, holder},
    output, session,
};

/// What to do with elections.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a command while leading
    ///
    /// Stands for election, runs the command once elected, resigns. When the leadership is lost, or
    /// when this process is killed, the command and all that it started is asked to end (SIGTERM),
    /// and ended (SIGKILL) after --grace.
    Run(RunArguments),
    /// Show who leads, and who would like to
    Show {
        /// Name of the election
        election: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Name of the election
    election: String,
    /// How long nobody else can lead after this process dies, 2s to 1h
    #[arg(long, value_name = "TIME", default_value = "15s")]
    #[arg(value_parser = pintle::settings::parse_duration)]
    ttl: Duration,
    /// How long to wait to be elected, also while the server is started again; 0s to try once
    /// [default: without end]
    #[arg(long, value_name = "TIME", value_parser = pintle::settings::parse_duration)]
    wait: Option<Duration>,
    /// Who stands, shown to others [default: host and process]
    #[arg(long)]
    candidate: Option<String>,
    /// Time for the command to end when the leadership is lost
    #[arg(long, value_name = "TIME", default_value = "5s")]
    #[arg(value_parser = pintle::settings::parse_duration)]
    grace: Duration,
    /// The command. It finds PINTLE_LOCK, PINTLE_TOKEN and PINTLE_TOKEN_EPOCH in its environment
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(crate) async fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    match verb {
        Verb::Run(arguments) => {
            let RunArguments { election, ttl, wait, candidate, grace, command } = arguments;
            let arguments = lock::RunArguments {
                name: lock_name(&election),
                ttl,
                wait,
                shared: false,
                permits: None,
                owner: candidate,
                grace,
                command,
            };
            lock::run_command(global, arguments).await
        }
        Verb::Show { election } => {
            session::with(global, async |client| show(global, client, &election).await).await
        }
    }
}

async fn show(global: &Global, client: &Client, name: &str) -> anyhow::Result<Exit> {
    let election = client.lock(global.backend()).election(name).await?;
    if global.print_facts(&election)? {
        return Ok(Exit::OK);
    }
    match &election.leader {
        Some(leader) => {
            let since = output::moment(leader.since_ms);
            output::line(&format!("{} leads {name} since {since}", holder(leader)))?;
        }
        None => output::line(&format!("nobody leads {name}"))?,
    }
    for candidate in &election.candidates {
        output::line(&format!("{} waits", holder(candidate)))?;
    }
    Ok(Exit::OK)
}
