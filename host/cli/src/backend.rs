//! `pintle backend`: see and check the backends.

mod restart;

use clap::Subcommand;
use pintle_client::{
    Client,
    api::backend::{Backend, Backends, Check, HealthState},
};

use crate::{
    exit::Exit,
    global::Global,
    output::{self, Table},
    session,
};

/// What to do with backends.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List the backends and how they stand
    List,
    /// Ask the plugins of the backends how their servers are
    Check {
        /// Name of a backend; all of them if it is left out
        name: Option<String>,
    },
    /// End a backend's plugin and start it again, also where it was given up
    Restart {
        /// Name of the backend
        name: String,
    },
}

pub(crate) async fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    session::with(global, async |client| match verb {
        Verb::List => list(global, client).await,
        Verb::Check { name } => check(global, client, name).await,
        Verb::Restart { name } => restart::run(global, client, &name).await,
    })
    .await
}

async fn list(global: &Global, client: &Client) -> anyhow::Result<Exit> {
    let Backends { backends } = {
        let document = Backends { backends: client.admin().backends().await? };
        if global.print(&document)? {
            return Ok(Exit::OK);
        }
        document
    };
    let mut table =
        Table::new(["BACKEND", "PLUGIN", "STATE", "OFFERS", "DEFAULT FOR", "RESTARTS", "REASON"]);
    for backend in backends {
        table.row([
            backend.name.clone(),
            plugin(&backend),
            backend.state.as_str().into(),
            output::or_dash(backend.capabilities.join(" ")),
            output::or_dash(backend.default_for.join(" ")),
            backend.restarts.to_string(),
            backend.reason,
        ]);
    }
    table.print("no backends")?;
    Ok(Exit::OK)
}

async fn check(global: &Global, client: &Client, name: Option<String>) -> anyhow::Result<Exit> {
    let admin = client.admin();
    let names = match name {
        Some(name) => vec![name],
        None => admin.backends().await?.into_iter().map(|backend| backend.name).collect(),
    };
    let mut checks = Vec::new();
    let mut failure = None;
    for name in names {
        match admin.check(&name).await {
            Ok(check) => checks.push(check),
            Err(error) if error.problem().is_some() => {
                // The last one is what this command ends with.
                if let Some(earlier) = failure.replace(error) {
                    output::note(format_args!("error: {earlier}"));
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    if !global.print(&checks)? {
        for (index, check) in checks.iter().enumerate() {
            if index > 0 {
                output::line("")?;
            }
            print(check)?;
        }
    }
    if let Some(error) = failure {
        return Err(error.into());
    }
    let all_serve = checks.iter().all(|check| check.health == HealthState::Serving);
    Ok(if all_serve { Exit::OK } else { Exit::FAILED })
}

fn print(check: &Check) -> anyhow::Result<()> {
    let health = match check.health {
        HealthState::Serving => "serving",
        HealthState::Degraded => "degraded",
        HealthState::Unavailable => "unavailable",
    };
    output::line(&format!(
        "{} ({}): {health}, answered in {} ms",
        check.backend.name,
        plugin(&check.backend),
        check.elapsed_ms
    ))?;
    if !check.message.is_empty() {
        output::line(&format!("  {}", check.message))?;
    }
    for (name, value) in &check.details {
        output::line(&format!("  {name}: {value}"))?;
    }
    for (name, value) in &check.counters {
        output::line(&format!("  {name}: {value}"))?;
    }
    Ok(())
}

fn plugin(backend: &Backend) -> String {
    match &backend.plugin_version {
        Some(version) => format!("{} {version}", backend.plugin),
        None => backend.plugin.clone(),
    }
}
