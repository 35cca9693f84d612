//! `pintle plugin`: see the plugins in the plugins' directory, and measure one.

mod reload;
mod test;

use clap::Subcommand;
use pintle_client::{Client, api::plugin::Plugin};

use crate::{
    exit::Exit,
    global::Global,
    output::{self, Table},
    session,
};

/// What to do with plugins.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List the files in the plugins' directory
    List,
    /// Show what a plugin offers, needs and takes as settings
    Inspect {
        /// Name of the plugin: its file without `.wasm`
        name: String,
    },
    /// Let the file of a plugin take over that lies in the plugins' directory
    Accept(reload::Accept),
    /// Show what changes when one file takes the place of another
    Diff(reload::Diff),
    /// Measure what a plugin's file keeps of what it promises, on a test backend
    Test(test::Arguments),
}

pub(crate) async fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    match verb {
        Verb::List => session::with(global, async |client| list(global, client).await).await,
        Verb::Inspect { name } => {
            session::with(global, async |client| inspect(global, client, &name).await).await
        }
        Verb::Accept(arguments) => {
            session::with(global, async |client| reload::accept(global, client, arguments).await)
                .await
        }
        Verb::Diff(arguments) => reload::diff(global, arguments).await,
        Verb::Test(arguments) => test::run(global, arguments).await,
    }
}

async fn list(global: &Global, client: &Client) -> anyhow::Result<Exit> {
    let plugins = client.admin().plugins().await?;
    if global.print(&plugins)? {
        return Ok(Exit::OK);
    }
    let mut table = Table::new(["PLUGIN", "VERSION", "OFFERS", "SUMMARY"]);
    for file in plugins.plugins {
        match file.plugin {
            Some(plugin) => table.row([
                plugin.name,
                plugin.version,
                plugin.capabilities.join(" "),
                plugin.summary,
            ]),
            None => table.row([
                file.name,
                "-".into(),
                "-".into(),
                format!("cannot be loaded: {}", file.problem.unwrap_or_default()),
            ]),
        }
    }
    table.print("no plugins")?;
    Ok(Exit::OK)
}

async fn inspect(global: &Global, client: &Client, name: &str) -> anyhow::Result<Exit> {
    let plugin = client.admin().plugin(name).await?;
    if !global.print_facts(&plugin)? {
        print(&plugin)?;
    }
    Ok(Exit::OK)
}

fn print(plugin: &Plugin) -> anyhow::Result<()> {
    let yes_or_no = |flag| if flag { "yes" } else { "no" }.to_owned();
    output::facts(&[
        ("plugin", format!("{} {}", plugin.name, plugin.version)),
        ("summary", plugin.summary.clone()),
        ("file", plugin.path.clone()),
        ("size", format!("{} bytes", plugin.size_bytes)),
        ("sha256", plugin.sha256.clone()),
        ("offers", plugin.capabilities.join(" ")),
        ("features", plugin.features.join(" ")),
        ("single writer", yes_or_no(plugin.single_writer)),
        ("keeps files", yes_or_no(plugin.data_directory)),
    ])?;
    output::line("imports")?;
    for import in &plugin.imports {
        output::line(&format!("  {import}"))?;
    }
    output::line("settings")?;
    let none = serde_json::Map::new();
    let properties = plugin.settings_schema.get("properties").and_then(|p| p.as_object());
    let required: Vec<&str> = plugin
        .settings_schema
        .get("required")
        .and_then(|names| names.as_array())
        .map(|names| names.iter().filter_map(|name| name.as_str()).collect())
        .unwrap_or_default();
    for (name, property) in properties.unwrap_or(&none) {
        let text = |field: &str| property.get(field).and_then(|value| value.as_str());
        let mut notes = Vec::new();
        if required.contains(&name.as_str()) {
            notes.push("required".to_owned());
        }
        if property.get("writeOnly").and_then(serde_json::Value::as_bool) == Some(true) {
            notes.push("secret".to_owned());
        }
        if let Some(default) = property.get("default") {
            notes.push(format!("default {default}"));
        }
        let notes =
            if notes.is_empty() { String::new() } else { format!(" ({})", notes.join(", ")) };
        output::line(&format!("  {name}{notes}"))?;
        for line in text("description").unwrap_or_default().lines() {
            output::line(&format!("      {line}"))?;
        }
    }
    if properties.is_none_or(serde_json::Map::is_empty) {
        output::line("  none")?;
    }
    Ok(())
}
