//! What the workspace contains, read from its folders and manifests: nothing is listed by hand.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::cargo;

/// The repository and its packages.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
    pub(crate) packages: Vec<Package>,
}

/// One package of the workspace, as `cargo metadata` describes it.
#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) manifest_path: PathBuf,
    pub(crate) targets: Vec<Target>,
    /// The manifest's `[package.metadata]`.
    #[serde(default)]
    pub(crate) metadata: serde_json::Value,
}

/// One thing that a package builds.
#[derive(Deserialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) kind: Vec<String>,
    pub(crate) crate_types: Vec<String>,
}

/// A package that becomes a component: a plugin or a test's fixture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guest {
    /// The folder's name, which is the component's name.
    pub(crate) folder: String,
    pub(crate) package: String,
    /// The file that cargo writes.
    pub(crate) artifact: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

impl Workspace {
    /// Asks cargo about the workspace in which this program was compiled.
    pub(crate) fn load() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
        let output = cargo::command()
            .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"])
            .arg(&manifest)
            .output()
            .context("cannot run cargo")?;
        if !output.status.success() {
            bail!("cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        let metadata: Metadata = serde_json::from_slice(&output.stdout)
            .context("cannot read what cargo metadata printed")?;
        Ok(Self {
            root: metadata.workspace_root,
            target: metadata.target_directory,
            packages: metadata.packages,
        })
    }

    /// The plugins: packages in `plugins/*` whose library is a `cdylib`.
    pub(crate) fn plugins(&self) -> Result<Vec<Guest>> {
        self.guests("plugins")
    }

    /// The tests' fixtures: packages in `tests/fixtures/*` whose library is a `cdylib`.
    pub(crate) fn fixtures(&self) -> Result<Vec<Guest>> {
        self.guests("tests/fixtures")
    }

    /// The package of this name.
    pub(crate) fn package(&self, name: &str) -> Result<&Package> {
        self.packages
            .iter()
            .find(|package| package.name == name)
            .with_context(|| format!("no package {name} in the workspace"))
    }

    fn guests(&self, parent: &str) -> Result<Vec<Guest>> {
        let parent = self.root.join(parent);
        self.refuse_strangers(&parent)?;
        let mut guests: Vec<Guest> =
            self.packages.iter().filter_map(|package| package.guest_in(&parent)).collect();
        guests.sort_by(|one, other| one.folder.cmp(&other.folder));
        Ok(guests)
    }

    /// A folder with a manifest that is no member would be left out without a word.
    fn refuse_strangers(&self, parent: &Path) -> Result<()> {
        let Ok(entries) = parent.read_dir() else { return Ok(()) };
        for entry in entries.flatten() {
            let manifest = entry.path().join("Cargo.toml");
            let known = self.packages.iter().any(|package| package.manifest_path == manifest);
            if manifest.is_file() && !known {
                bail!(
                    "{} is not a member of the workspace: add its folder to `members` in {}",
                    manifest.display(),
                    self.root.join("Cargo.toml").display()
                );
            }
        }
        Ok(())
    }
}

impl Package {
    /// The package's folder.
    pub(crate) fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("."))
    }

    /// Names of the targets of one kind, such as `test` or `bin`.
    pub(crate) fn target_names<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a str> {
        self.targets
            .iter()
            .filter(move |target| target.kind.iter().any(|found| found == kind))
            .map(|target| target.name.as_str())
    }

    fn guest_in(&self, parent: &Path) -> Option<Guest> {
        if self.folder().parent() != Some(parent) {
            return None;
        }
        let library = self
            .targets
            .iter()
            .find(|target| target.crate_types.iter().any(|kind| kind == "cdylib"))?;
        Some(Guest {
            folder: self.folder().file_name()?.to_str()?.to_owned(),
            package: self.name.clone(),
            artifact: format!("{}.wasm", library.name.replace('-', "_")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(manifest: &str, crate_type: &str) -> Package {
        Package {
            name: "pintle-plugin-x".into(),
            manifest_path: manifest.into(),
            targets: vec![Target {
                name: "pintle-plugin-x".into(),
                kind: vec![crate_type.into()],
                crate_types: vec![crate_type.into()],
            }],
            metadata: serde_json::Value::Null,
        }
    }

    #[test]
    fn a_cdylib_below_the_folder_is_a_guest_named_after_its_own_folder() {
        let guest = package("/r/plugins/x/Cargo.toml", "cdylib").guest_in(Path::new("/r/plugins"));
        let guest = guest.unwrap();
        assert_eq!(guest.folder, "x");
        assert_eq!(guest.artifact, "pintle_plugin_x.wasm");
    }

    #[test]
    fn plain_libraries_and_other_folders_are_no_guests() {
        let plugins = Path::new("/r/plugins");
        assert_eq!(package("/r/plugins/sdk/Cargo.toml", "lib").guest_in(plugins), None);
        assert_eq!(package("/r/tests/x/Cargo.toml", "cdylib").guest_in(plugins), None);
    }

    #[test]
    fn a_manifest_that_is_no_member_is_refused_with_its_path() {
        let root = tempfile::tempdir().unwrap();
        let stranger = root.path().join("plugins/lost");
        std::fs::create_dir_all(&stranger).unwrap();
        std::fs::write(stranger.join("Cargo.toml"), "").unwrap();
        let workspace =
            Workspace { root: root.path().into(), target: root.path().into(), packages: vec![] };
        let message = workspace.plugins().unwrap_err().to_string();
        assert!(message.contains("plugins/lost/Cargo.toml"), "{message}");
    }
}
