//! `pintle server`: how a running server works.

use clap::Subcommand;
use pintle_client::{Client, api::server::LogLevel};

use crate::{exit::Exit, global::Global, output, session};

/// What to see or set of a running server.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show what the server logs, or set it until the server ends
    LogLevel {
        /// error, warn, info, debug or trace; or by target, as in warn,pintle=debug
        filter: Option<String>,
    },
}

pub(crate) async fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    match verb {
        Verb::LogLevel { filter } => {
            session::with_server(global, async |client| log_level(global, client, filter).await)
                .await
        }
    }
}

async fn log_level(
    global: &Global,
    client: &Client,
    filter: Option<String>,
) -> anyhow::Result<Exit> {
    let level = match filter {
        Some(filter) => client.admin().set_log_level(&LogLevel { filter }).await?,
        None => client.admin().log_level().await?,
    };
    if !global.print_facts(&level)? {
        output::line(&level.filter)?;
    }
    Ok(Exit::OK)
}
