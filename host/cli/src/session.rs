//! The way to a host: over HTTP to one that runs, or within this process.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use pintle::Pintle;
use pintle_client::Client;
use pintle_server::Api;

use crate::{
    compile,
    exit::{Exit, Failure},
    global::Global,
    output,
    runtime_file::{self, Record, State},
};

/// A host to speak to, for the time of one command.
pub(crate) struct Session {
    /// Speaks to it.
    pub(crate) client: Client,
    /// The host, if it is within this process.
    host: Option<(Pintle, Api)>,
}

impl Session {
    /// Finds the server that was named, or the one that runs on the same data directory, or else
    /// starts a host in this process.
    pub(crate) async fn open(global: &Global) -> anyhow::Result<Self> {
        let client = match find_server(global).await? {
            Some(client) => client,
            None => return Self::in_process(global).await,
        };
        Ok(Self { client: client.with_timeout(global.timeout), host: None })
    }

    async fn in_process(global: &Global) -> anyhow::Result<Self> {
        tracing::info!("no server runs; working in this process");
        let settings = global.load_settings()?;
        let program = compile::program();
        let pintle = Pintle::builder().settings(settings).compiler(program).start().await?;
        let api = Api::open(pintle.clone(), None)?;
        // Who may read the data folder owns the host.
        let client = Client::in_process(api.router_of_owner()).with_timeout(global.timeout);
        Ok(Self { client, host: Some((pintle, api)) })
    }

    /// Looks for the server once more: since it was started again it may have another address, and
    /// know its owner by another secret. Changes nothing while there is none, and never begins to
    /// work in this process, where that would keep the server from its data.
    pub(crate) async fn find_again(&mut self, global: &Global) -> anyhow::Result<()> {
        if self.host.is_none()
            && let Some(client) = find_server(global).await?
        {
            self.client = client.with_timeout(global.timeout);
        }
        Ok(())
    }

    /// Ends what is left of the command: releases what it held, stops the host in this process.
    pub(crate) async fn close(self) {
        self.client.finish().await;
        if let Some((pintle, api)) = self.host {
            api.drain().await;
            pintle.shutdown().await;
        }
    }
}

/// Runs a verb in a session and closes that, whatever comes of it.
pub(crate) async fn with<T>(
    global: &Global,
    verb: impl AsyncFnOnce(&Client) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let session = Session::open(global).await?;
    let result = verb(&session.client).await;
    session.close().await;
    result
}

/// Runs a verb on a server that runs, where a host in this process would make no sense.
pub(crate) async fn with_server<T>(
    global: &Global,
    verb: impl AsyncFnOnce(&Client) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let Some(client) = find_server(global).await? else {
        let text = "no server runs on this data folder: start one with `pintle serve`, or name one \
                    by --server";
        return Err(Failure::error(Exit::UNAVAILABLE, text));
    };
    let client = client.with_timeout(global.timeout);
    let result = verb(&client).await;
    client.finish().await;
    result
}

/// How long a command waits for a server that is starting or stopping.
const CHANGE_MAX: Duration = Duration::from_secs(60);
/// After this time it says what it waits for.
const QUIET_MAX: Duration = Duration::from_millis(500);
/// How often it looks.
const LOOK_PERIOD: Duration = Duration::from_millis(25);

/// The server on the data directory, waiting while it is starting or stopping: until it serves it
/// cannot be asked, and nobody else can have the data.
async fn find_server(global: &Global) -> anyhow::Result<Option<Client>> {
    let token = global.token()?;
    if let Some(url) = &global.server {
        let client = global.client(url)?;
        return Ok(Some(match token {
            Some(token) => client.with_token(&token)?,
            None => client,
        }));
    }
    let settings = global.load_settings()?;
    let root = settings.data_root()?;
    let begun = Instant::now();
    let mut told = false;
    while runtime_file::is_reserved(&root)? {
        let record = runtime_file::read(&root);
        let doing = match &record {
            Some(record) if record.state == State::Serving => {
                if let Some(client) = answering(&root, record).await? {
                    return Ok(Some(match token {
                        Some(token) => client.with_token(&token)?,
                        None => client.with_token_file(runtime_file::owner_path(&root)),
                    }));
                }
                // It began to stop a moment ago, or this is what a killed one left behind.
                "not answering"
            }
            Some(Record { state: State::Stopping, .. }) => "stopping",
            _ => "starting",
        };
        let process = record.map(|record| format!(" (process {})", record.pid)).unwrap_or_default();
        let server = format!("the server on {}{process}", root.display());
        if begun.elapsed() >= CHANGE_MAX {
            let text = format!(
                "{server} is still {doing} after {} s: stop that process, name another server by \
                 --server, or use another `data_dir`",
                CHANGE_MAX.as_secs()
            );
            return Err(Failure::error(Exit::FAILED, text));
        }
        if begun.elapsed() >= QUIET_MAX && !std::mem::replace(&mut told, true) {
            output::note(format_args!("{server} is {doing}; waiting for it"));
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
    Ok(None)
}

/// A client of the server, if it answers.
async fn answering(root: &Path, record: &Record) -> anyhow::Result<Option<Client>> {
    let client = Client::http(&record.url)
        .with_context(|| format!("in {}", runtime_file::path(root).display()))?;
    match client.admin().liveness().await {
        Ok(liveness) if i32::try_from(liveness.pid).ok() == Some(record.pid) => Ok(Some(client)),
        Ok(liveness) => {
            tracing::info!(url = record.url, pid = liveness.pid, "another server answers there");
            Ok(None)
        }
        Err(error) => {
            tracing::info!(url = record.url, %error, "the server does not answer");
            Ok(None)
        }
    }
}
