//! `pintle plugin test`: measure what a plugin keeps of what the interface promises.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use pintle::{
    DEFAULT,
    direct::Bench,
    settings::{BackendSettings, Settings},
};
use pintle_conformance::{Hook, Hooks, Options, Report, Subject, markdown, measure};

use crate::{
    exit::{Exit, Failure},
    global::Global,
    output,
};

/// Which plugin to measure, and how.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The plugin's file; --backend names the backend of the settings to measure it on
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// Leave out what takes long
    #[arg(long)]
    smoke: bool,
    /// Only these checks, like `watch` or `config.cas`; may be repeated
    #[arg(long, value_name = "ID")]
    only: Vec<String>,
    /// A command that makes the server forget what was before version $PINTLE_VERSION, like a
    /// compaction
    #[arg(long, value_name = "COMMAND")]
    provoke_gap: Option<String>,
    /// A command that writes $PINTLE_VALUE under $PINTLE_KEY with the server's own tools, or removes
    /// the key where there is no value
    #[arg(long, value_name = "COMMAND")]
    write_as_other: Option<String>,
    /// Print the measured capabilities as a Markdown table
    #[arg(long)]
    markdown: bool,
    /// Write the report to this file as well, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The backend of a plugin that is measured without settings.
const BACKEND: &str = "test";

pub(crate) async fn run(global: &Global, arguments: Arguments) -> anyhow::Result<Exit> {
    let (settings, backend) = settings(global, &arguments.file)?;
    let bench = Bench::open(settings)?;
    let hooks = Hooks {
        forget: arguments.provoke_gap.map(Hook::command),
        write: arguments.write_as_other.map(Hook::command),
    };
    let (smoke, only) = (arguments.smoke, arguments.only);
    let options = Options { smoke, only, hooks, ..Options::default() };
    let report = match Subject::open(&bench, &backend).await {
        Ok(subject) => {
            measure(subject, &options, |progress| {
                let width = progress.total.to_string().len();
                let (done, total, line) = (progress.done, progress.total, progress.check.line());
                output::note(format_args!("{done:>width$}/{total} {line}"));
            })
            .await
        }
        Err(report) => *report,
    };
    if report.checks.is_empty() {
        let text =
            "no check applies: see the ids in docs/conformance.md, and what the plugin offers";
        return Err(Failure::error(Exit::USAGE, text));
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    print(global, arguments.markdown, &report)?;
    Ok(if report.passed() { Exit::OK } else { Exit::FAILED })
}

fn print(global: &Global, as_markdown: bool, report: &Report) -> anyhow::Result<()> {
    if global.print(report)? {
        Ok(())
    } else if as_markdown {
        output::line(markdown(std::slice::from_ref(report)).trim_end())
    } else {
        output::line(&format!("\n{}", report.text()))
    }
}

/// The settings with the plugin in place of whatever the backend uses, and nothing else.
fn settings(global: &Global, file: &Path) -> anyhow::Result<(Settings, String)> {
    let file = file.canonicalize().with_context(|| format!("cannot read {}", file.display()))?;
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    let (Some(stem), Some(dir), true) =
        (stem, file.parent(), file.extension().is_some_and(|extension| extension == "wasm"))
    else {
        let text = format!("{} is no plugin's file: its name has to end in .wasm", file.display());
        return Err(Failure::error(Exit::USAGE, text));
    };
    let mut settings = global.load_settings()?;
    let name = if global.backend() == DEFAULT { BACKEND } else { global.backend() };
    let found = settings.backends.remove(name);
    let backend = match found {
        Some(backend) => backend,
        None if name == BACKEND => BackendSettings::default(),
        None => {
            let known: Vec<&str> = settings.backends.keys().map(String::as_str).collect();
            let text = format!("no backend is named \"{name}\"; known: {}", known.join(", "));
            return Err(Failure::error(Exit::USAGE, text));
        }
    };
    // The file that was named, whatever is pinned for the one in use.
    let backend = BackendSettings { plugin: stem.to_owned(), sha256: None, ..backend };
    settings.backends = [(name.to_owned(), backend)].into();
    settings.plugins.dir = Some(dir.to_owned());
    Ok((settings, name.to_owned()))
}
