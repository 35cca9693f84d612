//! `cargo xtask plants`: shows that the checks of `cargo xtask chaos` find bugs.
//!
//! A plant is a bug: a few lines of a plugin that are replaced. They are listed in `tests/plants/`, each
//! with the row that has to find it. The plugin is built with the bug from a copy of the sources, so that
//! nothing of the working tree is touched, and the row has to fail with it at its small load. That it passes
//! without a bug is shown by the tests, which run all rows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::build::Profile;
use crate::chaos::{self, ChaosRow};
use crate::report::timed;
use crate::rows::{self, Row, Verdict};
use crate::target::GuestToolchain;
use crate::workspace::{Guest, Workspace};
use crate::{build, process};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Plants for one program of `chaos`; without it all of them
    name: Option<String>,
    /// Only for this row, or all that begin so, up to a dash: R4-etcd, R6; more than once for more
    #[arg(long, value_name = "ROW")]
    only: Vec<String>,
    /// Write all rows to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Where the lists are, each named as its program of `chaos`.
const FOLDER: &str = "tests/plants";
/// Names the folder of plugins to the programs of `chaos`.
const PLUGINS: &str = "PINTLE_TEST_PLUGINS";
/// A row that takes longer than this with a bug has not found it.
const LIMIT: Duration = Duration::from_secs(900);

/// A file in [`FOLDER`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    plant: Vec<Plant>,
}

/// A bug, and who has to find it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plant {
    /// The row of `chaos`.
    row: String,
    /// What the row says where it does not come to its end with this bug. Any other that does not has
    /// found nothing.
    says: Option<String>,
    /// What is wrong with it.
    bug: String,
    /// More than one where a second protection stands behind the first.
    edit: Vec<Edit>,
}

/// A replacement.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    /// A file of a plugin.
    file: PathBuf,
    /// What is taken out; it is there once.
    find: String,
    put: String,
}

/// What became of one plant.
#[derive(Serialize, Deserialize)]
struct PlantRow {
    id: String,
    bug: String,
    /// What the row said.
    detail: String,
    verdict: Verdict,
}

pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let plants = chosen(lists(&workspace.root)?, arguments)?;
    let mut programs: Vec<String> = plants.iter().map(|(program, _)| program.clone()).collect();
    programs.dedup();
    chaos::FAMILY.prepare(workspace, &programs, Profile::Development)?;
    let garden = timed("copy the sources", || Garden::new(workspace))?;
    let mut rows = Vec::new();
    for (program, plant) in &plants {
        let headline = format!("{}: {}", plant.row, plant.bug);
        rows.push(timed(&headline, || Ok(judged(plant, garden.grow(program, plant))))?);
    }
    rows::publish(&rows, arguments.json.as_ref())
}

/// All plants, with the name of their program.
fn lists(root: &Path) -> Result<Vec<(String, Plant)>> {
    let folder = root.join(FOLDER);
    let entries = folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let mut plants = Vec::new();
    for file in files {
        let program = file.file_stem().and_then(|name| name.to_str()).context("a file's name")?;
        let list: List = toml::from_str(&read(&file)?)
            .with_context(|| format!("{} is no list of plants", file.display()))?;
        plants.extend(list.plant.into_iter().map(|plant| (program.to_owned(), plant)));
    }
    Ok(plants)
}

fn chosen(plants: Vec<(String, Plant)>, arguments: &Arguments) -> Result<Vec<(String, Plant)>> {
    let is_row = |plant: &Plant, wanted: &String| {
        plant
            .row
            .strip_prefix(wanted.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let is_wanted = |(program, plant): &(String, Plant)| {
        arguments.name.as_ref().is_none_or(|name| name == program)
            && (arguments.only.is_empty()
                || arguments.only.iter().any(|wanted| is_row(plant, wanted)))
    };
    let known: Vec<String> = plants.iter().map(|(_, plant)| plant.row.clone()).collect();
    let chosen: Vec<_> = plants.into_iter().filter(is_wanted).collect();
    if chosen.is_empty() {
        bail!("there is no such plant; there are some for {}", known.join(", "));
    }
    Ok(chosen)
}

impl Plant {
    /// The name of the plugin that it is in.
    fn plugin(&self) -> Result<&str> {
        let names = self.edit.iter().map(|edit| {
            let mut parts = edit.file.iter().filter_map(|part| part.to_str());
            parts.next().filter(|first| *first == "plugins").and_then(|_| parts.next())
        });
        let mut names: Vec<Option<&str>> = names.collect();
        names.dedup();
        match names[..] {
            [Some(name)] => Ok(name),
            _ => bail!("the plant for {} ({}) is not one of one plugin", self.row, self.bug),
        }
    }
}

/// A file that a plant changes.
struct Planted {
    sound: String,
    text: String,
}

impl Plant {
    /// What the files below `root` become, by their names.
    fn planted(&self, root: &Path) -> Result<BTreeMap<&Path, Planted>> {
        let mut files: BTreeMap<&Path, Planted> = BTreeMap::new();
        for edit in &self.edit {
            let (sound, text) = match files.remove(edit.file.as_path()) {
                Some(Planted { sound, text }) => (sound, text),
                None => {
                    let sound = read(&root.join(&edit.file))?;
                    (sound.clone(), sound)
                }
            };
            files.insert(&edit.file, Planted { text: edit.planted(&text)?, sound });
        }
        Ok(files)
    }
}

impl Edit {
    /// The text with the bug in it.
    fn planted(&self, sound: &str) -> Result<String> {
        let (count, file) = (sound.matches(&self.find).count(), self.file.display());
        ensure!(
            count == 1,
            "a plant does not fit any more: what it takes out is {count} times in {file}: {}",
            self.find
        );
        Ok(sound.replace(&self.find, &self.put))
    }
}

/// A copy of the sources, to plant bugs in, with a target folder of its own.
struct Garden<'a> {
    workspace: &'a Workspace,
    copy: Workspace,
    toolchain: GuestToolchain,
    guests: Vec<Guest>,
    /// The sound plugins, and one with a bug at a time.
    plugins: PathBuf,
}

impl<'a> Garden<'a> {
    fn new(workspace: &'a Workspace) -> Result<Self> {
        let folder = workspace.target.join("plants");
        let root = folder.join("sources");
        let copy = Workspace { target: root.join("target"), root, packages: Vec::new() };
        let listed = process::capture(Command::new("git").current_dir(&workspace.root).args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
        ]))?;
        // What is deleted and not committed yet is listed as well.
        let names = listed.lines().filter(|name| workspace.root.join(name).is_file());
        let names: BTreeSet<PathBuf> = names.map(PathBuf::from).collect();
        for name in &names {
            let from = workspace.root.join(name);
            let bytes =
                fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
            write_if_changed(&copy.root.join(name), &bytes)?;
        }
        remove_others(&copy.root, Path::new(""), &names)?;
        let toolchain = GuestToolchain::ensure(workspace, false)?;
        let guests = workspace.plugins()?;
        Ok(Self { workspace, copy, toolchain, guests, plugins: folder.join("plugins") })
    }

    /// Plants one bug, and runs the row that has to find it.
    fn grow(&self, program: &str, plant: &Plant) -> Result<Vec<ChaosRow>> {
        let plugin = plant.plugin()?;
        let guest = self.guests.iter().find(|guest| guest.folder == plugin);
        let guest = guest.with_context(|| format!("there is no plugin `{plugin}`"))?;
        self.copy_sound_plugins()?;
        let files = plant.planted(&self.copy.root)?;
        let built = self.write(&files, |planted| &planted.text).and_then(|()| {
            build::guests(&self.copy, &self.toolchain, std::slice::from_ref(guest), &self.plugins)
        });
        // Whatever came of it: the next one grows on sound ground.
        self.write(&files, |planted| &planted.sound)?;
        built?;
        chaos::FAMILY.run_built(
            self.workspace,
            program,
            Profile::Development,
            Some(LIMIT),
            |command| {
                command.args(["--smoke", "--only", &plant.row]).env(PLUGINS, &self.plugins);
            },
        )
    }

    fn write(
        &self,
        files: &BTreeMap<&Path, Planted>,
        text: impl Fn(&Planted) -> &String,
    ) -> Result<()> {
        files.iter().try_for_each(|(file, planted)| {
            write_if_changed(&self.copy.root.join(file), text(planted).as_bytes())
        })
    }

    fn copy_sound_plugins(&self) -> Result<()> {
        for guest in &self.guests {
            let name = format!("{}.wasm", guest.folder);
            let from = build::plugins_folder(self.workspace).join(&name);
            let bytes =
                fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
            write_if_changed(&self.plugins.join(&name), &bytes)?;
        }
        Ok(())
    }
}

/// The row that fails has found the bug.
fn judged(plant: &Plant, rows: Result<Vec<ChaosRow>>) -> PlantRow {
    let found = rows.map(|rows| rows.into_iter().find(|row| row.id() == plant.row));
    let (detail, verdict) = match found {
        Ok(Some(row)) => {
            let said = row.summary();
            let is_found = row.verdict() == Verdict::Fail
                && match &plant.says {
                    Some(wanted) => said.contains(wanted),
                    None => row.has_ended(),
                };
            (said, if is_found { Verdict::Pass } else { Verdict::Fail })
        }
        Ok(None) => (format!("there is no row {}", plant.row), Verdict::Fail),
        Err(error) => (format!("{error:#}"), Verdict::Fail),
    };
    PlantRow { id: plant.row.clone(), bug: plant.bug.clone(), detail, verdict }
}

/// Removes the files below `root` that are not named, but for what cargo has built.
fn remove_others(root: &Path, below: &Path, names: &BTreeSet<PathBuf>) -> Result<()> {
    let folder = root.join(below);
    let entries = folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        let (path, name) = (entry.path(), below.join(entry.file_name()));
        if path.is_dir() {
            if name != Path::new("target") {
                remove_others(root, &name, names)?;
            }
        } else if !names.contains(&name) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Leaves alone what is as it should be: cargo goes by times.
fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let folder = path.parent().context("a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

impl Row for PlantRow {
    const HEADINGS: &'static [&'static str] = &["row", "bug", "what it said", "found"];

    fn cells(&self) -> Vec<String> {
        let found = if self.verdict == Verdict::Pass { "yes" } else { "NO" };
        vec![self.id.clone(), self.bug.clone(), self.detail.clone(), found.to_owned()]
    }

    fn verdict(&self) -> Verdict {
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn every_plant_fits_what_is_there() {
        let plants = lists(&root()).unwrap();
        assert!(!plants.is_empty());
        for (_, plant) in plants {
            assert!(root().join("plugins").join(plant.plugin().unwrap()).is_dir());
            for planted in plant.planted(&root()).unwrap().values() {
                assert_ne!(planted.text, planted.sound, "{}", plant.bug);
            }
        }
    }

    #[test]
    fn the_edits_of_one_file_are_made_one_after_the_other() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a.rs"), "one").unwrap();
        let edit = |find: &str, put: &str| Edit {
            file: "a.rs".into(),
            find: find.to_owned(),
            put: put.to_owned(),
        };
        let plant = Plant { edit: vec![edit("one", "two"), edit("two", "three")], ..plant() };
        let files = plant.planted(root.path()).unwrap();
        let planted = &files[Path::new("a.rs")];
        assert_eq!((planted.sound.as_str(), planted.text.as_str()), ("one", "three"));
    }

    #[test]
    fn what_does_not_fit_once_is_refused() {
        let edit = Edit { file: "a.rs".into(), find: "a".into(), put: "b".into() };
        assert_eq!(edit.planted("a").unwrap(), "b");
        for text in ["a and a", "none"] {
            let error = edit.planted(text).unwrap_err().to_string();
            assert!(error.contains("a.rs"), "{error}");
        }
    }

    #[test]
    fn what_was_deleted_does_not_stay_in_the_copy() {
        let root = tempfile::tempdir().unwrap();
        for name in ["src/kept.rs", "src/gone.rs", "target/built"] {
            write_if_changed(&root.path().join(name), b"").unwrap();
        }
        let names = BTreeSet::from([PathBuf::from("src/kept.rs")]);
        remove_others(root.path(), Path::new(""), &names).unwrap();
        let is_there = |name: &str| root.path().join(name).exists();
        assert!(is_there("src/kept.rs") && is_there("target/built") && !is_there("src/gone.rs"));
    }

    fn plant() -> Plant {
        Plant { row: "R1".into(), says: None, bug: "a bug".into(), edit: Vec::new() }
    }

    fn row(id: &str, what: &str, verdict: &str) -> ChaosRow {
        let text = format!(
            r#"{{"id":"{id}","what":"{what}","done":1,"violations":2,"detail":"d","target":"t",
                "verdict":"{verdict}"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_row_that_fails_has_found_the_bug_and_no_other() {
        let verdict = |rows| judged(&plant(), rows).verdict;
        assert_eq!(verdict(Ok(vec![row("R1", "w", "fail")])), Verdict::Pass);
        assert_eq!(verdict(Ok(vec![row("R1", "w", "pass")])), Verdict::Fail);
        let other = vec![row("R1", "w", "inconclusive"), row("R1-killed", "w", "fail")];
        assert_eq!(verdict(Ok(other)), Verdict::Fail);
        assert_eq!(verdict(Err(anyhow::anyhow!("it is not built"))), Verdict::Fail);
    }

    #[test]
    fn a_row_without_an_end_has_found_only_what_it_says() {
        let rows = || Ok(vec![row("R1", chaos::WITHOUT_END, "fail")]);
        assert_eq!(judged(&plant(), rows()).verdict, Verdict::Fail);
        let says = |text: &str| Plant { says: Some(text.to_owned()), ..plant() };
        assert_eq!(judged(&says(": d"), rows()).verdict, Verdict::Pass);
        assert_eq!(judged(&says("refused"), rows()).verdict, Verdict::Fail);
    }
}
