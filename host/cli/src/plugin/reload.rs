//! `pintle plugin accept` and `diff`: letting another file of a plugin take over, and seeing what
//! that would change.

use std::path::PathBuf;

use clap::Args;
use pintle::{Names, Pair, PluginDiff, direct::Bench};
use pintle_client::Client;

use crate::{exit::Exit, global::Global, output};

/// Which file may take over.
#[derive(Debug, Args)]
pub(crate) struct Accept {
    /// Name of the plugin: its file without `.wasm`
    name: String,
    /// Only if the file has this digest
    #[arg(long, value_name = "DIGEST")]
    sha256: Option<String>,
}

/// Which files to compare.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The file that runs now
    #[arg(value_name = "OLD.wasm")]
    old: PathBuf,
    /// The file that would take over
    #[arg(value_name = "NEW.wasm")]
    new: PathBuf,
}

pub(crate) async fn accept(
    global: &Global,
    client: &Client,
    arguments: Accept,
) -> anyhow::Result<Exit> {
    let plugin = client.admin().accept(&arguments.name, arguments.sha256.as_deref()).await?;
    if !global.print(&plugin)? {
        output::line(&format!(
            "{} {} is accepted, sha256 {}",
            plugin.name, plugin.version, plugin.sha256
        ))?;
    }
    Ok(Exit::OK)
}

/// Compares two files without running a host: each is compiled and describes itself without a grant.
/// Answers 1 when the new one would have to be accepted.
pub(crate) async fn diff(global: &Global, arguments: Diff) -> anyhow::Result<Exit> {
    let bench = Bench::open(global.load_settings()?)?;
    let old = bench.inspect(&arguments.old).await?;
    let diff = PluginDiff::between(&old, &bench.inspect(&arguments.new).await?);
    let needs = diff.needs_acceptance();
    if !global.print(&document(&diff))? {
        print(&diff)?;
        output::line(&match &needs {
            Some(reason) => format!("it has to be accepted: {reason}"),
            None => "it may take over by itself".to_owned(),
        })?;
    }
    Ok(if needs.is_some() { Exit::FAILED } else { Exit::OK })
}

fn print(diff: &PluginDiff) -> anyhow::Result<()> {
    let pair = |pair: &Pair<String>| format!("{} -> {}", pair.old, pair.new);
    output::facts(&[
        ("version", pair(&diff.version)),
        ("sha256", pair(&diff.sha256)),
        ("size", format!("{} -> {} bytes", diff.size.old, diff.size.new)),
        ("single writer", format!("{} -> {}", diff.single_writer.old, diff.single_writer.new)),
        ("keeps files", format!("{} -> {}", diff.data_directory.old, diff.data_directory.new)),
    ])?;
    for (what, names) in [
        ("exports", &diff.capabilities),
        ("imports", &diff.imports),
        ("features", &diff.features),
        ("settings", &diff.settings),
    ] {
        for name in &names.added {
            output::line(&format!("{what}: + {name}"))?;
        }
        for name in &names.removed {
            output::line(&format!("{what}: - {name}"))?;
        }
    }
    for name in &diff.settings_changed {
        output::line(&format!("settings: ~ {name}"))?;
    }
    Ok(())
}

fn document(diff: &PluginDiff) -> serde_json::Value {
    let names =
        |names: &Names| serde_json::json!({ "added": names.added, "removed": names.removed });
    serde_json::json!({
        "version": { "old": diff.version.old, "new": diff.version.new },
        "sha256": { "old": diff.sha256.old, "new": diff.sha256.new },
        "size_bytes": { "old": diff.size.old, "new": diff.size.new },
        "single_writer": { "old": diff.single_writer.old, "new": diff.single_writer.new },
        "data_directory": { "old": diff.data_directory.old, "new": diff.data_directory.new },
        "exports": names(&diff.capabilities),
        "imports": names(&diff.imports),
        "features": names(&diff.features),
        "settings": names(&diff.settings),
        "settings_changed": diff.settings_changed,
        "needs_acceptance": diff.needs_acceptance(),
    })
}
