//! `pintle settings`: check and show what the operator wrote.

use clap::Subcommand;
use pintle::Pintle;

use crate::{
    exit::Exit,
    global::Global,
    output::{self, Table},
    session,
};

/// What to do with the settings.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Check the settings file, the environment, and what is set for each plugin against what the
    /// plugin takes, without starting a backend
    Check,
    /// Show the settings in force, where each was set, and no secrets
    Show,
}

pub(crate) async fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    match verb {
        Verb::Check => check(global).await,
        Verb::Show => show(global).await,
    }
}

async fn check(global: &Global) -> anyhow::Result<Exit> {
    let mut settings = global.load_settings()?;
    settings.ensure_backend()?;
    let warnings = Pintle::check(&settings).await?;
    let texts: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    if global.print_facts(&serde_json::json!({ "ok": true, "warnings": texts }))? {
        return Ok(Exit::OK);
    }
    for warning in warnings {
        output::note(format_args!("warning: {warning}"));
    }
    let names: Vec<&str> = settings.backends.keys().map(String::as_str).collect();
    output::line(&format!("the settings are right; backends: {}", names.join(", ")))?;
    Ok(Exit::OK)
}

async fn show(global: &Global) -> anyhow::Result<Exit> {
    session::with(global, async |client| {
        let settings = client.admin().settings().await?;
        if global.print(&settings)? {
            return Ok(Exit::OK);
        }
        let mut table = Table::new(["KEY", "VALUE", "SET IN"]);
        for setting in settings.settings {
            table.row([setting.key, setting.value, setting.origin]);
        }
        table.print("no settings")?;
        Ok(Exit::OK)
    })
    .await
}
