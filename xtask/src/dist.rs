//! `cargo xtask dist`: one folder to install.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;

use crate::build::{self, Profile, TargetArguments};
use crate::process;
use crate::report::timed;
use crate::target::GuestToolchain;
use crate::workspace::Workspace;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Where to put it; `target/dist` unless given
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    target: TargetArguments,
}

const SETTINGS: &str = include_str!("../assets/pintle.toml");
const UNIT: &str = include_str!("../assets/pintle.service");

/// Files of the repository that go along where they exist: what an operator reads, and what that
/// points to. So does the page of each plugin.
const ALONG: [&str; 10] = [
    "README.md",
    "LICENSE",
    "docs/operating.md",
    "docs/settings.md",
    "docs/security.md",
    "docs/config-format.md",
    "docs/layout.md",
    "docs/tracing.md",
    "docs/opentracing.md",
    "docs/grafana-dashboard.json",
];

pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let toolchain = timed("wasm target", || {
        GuestToolchain::ensure(workspace, arguments.target.force_target_fallback)
    })?;
    let (binary, plugins) = timed("build the host for release and its plugins (minutes)", || {
        build::host_and_plugins(workspace, Profile::Release, &toolchain)
    })?;
    let folder = arguments.out.clone().unwrap_or_else(|| workspace.target.join("dist"));
    assemble(&workspace.root, &folder, &binary, &plugins)?;
    strip(&folder.join("pintle"))?;
    eprintln!("==> {}", folder.display());
    eprintln!("    try it:  {}/pintle serve --settings {0}/pintle.toml", folder.display());
    eprintln!(
        "    install: the head of {}/pintle.service says where each file goes",
        folder.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn assemble(root: &Path, folder: &Path, binary: &Path, plugins: &[PathBuf]) -> Result<()> {
    let plugins_folder = folder.join("plugins");
    fs::create_dir_all(&plugins_folder)
        .with_context(|| format!("cannot create {}", plugins_folder.display()))?;
    copy(binary, folder)?;
    for plugin in plugins {
        copy(plugin, &plugins_folder)?;
    }
    for (name, text) in [("pintle.toml", SETTINGS), ("pintle.service", UNIT)] {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let pages = plugins.iter().filter_map(|plugin| plugin.file_stem()?.to_str());
    let pages = pages.map(|plugin| format!("plugins/{plugin}/README.md"));
    for name in ALONG.map(str::to_owned).into_iter().chain(pages) {
        let (file, place) = (root.join(&name), folder.join(&name));
        let place = place.parent().unwrap_or(folder);
        if file.is_file() {
            fs::create_dir_all(place)
                .with_context(|| format!("cannot create {}", place.display()))?;
            copy(&file, place)?;
        }
    }
    Ok(())
}

/// Takes away what only a debugger needs: most of the file. Names of functions stay.
fn strip(binary: &Path) -> Result<()> {
    if !process::is_installed("strip") {
        eprintln!("    `strip` is not installed (binutils): {} is large", binary.display());
        return Ok(());
    }
    process::run(Command::new("strip").arg("--strip-debug").arg(binary))
}

/// Copies a file under a temporary name first: the old one may be running.
fn copy(file: &Path, folder: &Path) -> Result<()> {
    let name = file.file_name().with_context(|| format!("{} has no name", file.display()))?;
    let partial = folder.join(format!(".{}.partial", name.to_string_lossy()));
    fs::copy(file, &partial).with_context(|| format!("cannot copy {}", file.display()))?;
    let path = folder.join(name);
    fs::rename(&partial, &path).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_holds_all_that_an_operator_needs() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("docs")).unwrap();
        fs::create_dir_all(at("plugins/local")).unwrap();
        let page = "plugins/local/README.md";
        for name in ["pintle", "local.wasm", "README.md", "docs/settings.md", page] {
            fs::write(at(name), name).unwrap();
        }
        let out = at("out");
        // Twice: the second time everything is there already.
        for _ in 0..2 {
            assemble(root.path(), &out, &at("pintle"), &[at("local.wasm")]).unwrap();
        }
        let mut names: Vec<String> = fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            ["README.md", "docs", "pintle", "pintle.service", "pintle.toml", "plugins"]
        );
        for file in ["plugins/local.wasm", "docs/settings.md", page] {
            assert!(out.join(file).is_file(), "{file}");
        }
    }

    #[test]
    fn what_a_document_points_to_goes_along_with_it() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for name in ALONG.into_iter().filter(|name| name.starts_with("docs/")) {
            let text = fs::read_to_string(root.join(name)).unwrap();
            let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
            for link in links.filter(|link| !link.is_empty() && !link.contains("://")) {
                let target = format!("docs/{link}");
                assert!(ALONG.contains(&target.as_str()), "{name} points to {target}");
            }
        }
    }

    #[test]
    fn the_sample_settings_are_whole_with_and_without_their_comments() {
        SETTINGS.parse::<toml::Table>().unwrap();
        let uncommented: String = SETTINGS
            .lines()
            .map(|line| format!("{}\n", line.strip_prefix("#: ").unwrap_or(line)))
            .collect();
        let table = uncommented.parse::<toml::Table>().unwrap();
        for section in ["server", "plugins", "defaults", "backends"] {
            assert!(table.contains_key(section), "{section}");
        }
    }
}
