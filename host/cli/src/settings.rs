//! `pintle settings`: check and show what the operator wrote.

use clap::Subcommand;

use crate::{
    exit::Exit,
    global::Global,
    output::{self, Table},
    session,
};

/// What to do with the settings.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Check the settings file and the environment, without starting anything
    Check,
    /// Show the settings in force, where each was set, and no secrets
    Show,
}

pub(crate) async fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    match verb {
        Verb::Check => check(global),
        Verb::Show => show(global).await,
    }
}

fn check(global: &Global) -> anyhow::Result<Exit> {
    let settings = global.load_settings()?;
    if global.is_json() {
        output::json(&serde_json::json!({ "ok": true }))?;
    } else {
        let names: Vec<&str> = settings.backends.keys().map(String::as_str).collect();
        output::line(&format!("the settings are right; backends: {}", names.join(", ")))?;
    }
    Ok(Exit::OK)
}

async fn show(global: &Global) -> anyhow::Result<Exit> {
    session::with(global, async |client| {
        let settings = client.admin().settings().await?;
        if global.is_json() {
            output::json(&settings)?;
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
