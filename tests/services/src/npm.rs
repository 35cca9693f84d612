//! Packages for Node.js, pinned with everything that they depend on.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{Error, Result, cache};

/// A list of packages, with the checksums of all that they need.
#[derive(Debug)]
pub(crate) struct NodeModules {
    /// Its `package.json`.
    manifest: &'static str,
    /// Its `package-lock.json`: the tool installs nothing else.
    lock: &'static str,
}

/// OpenTelemetry's SDK with all its exporters.
pub(crate) const OPENTELEMETRY: NodeModules = NodeModules {
    manifest: include_str!("npm/opentelemetry.json"),
    lock: include_str!("npm/opentelemetry-lock.json"),
};

impl NodeModules {
    /// What is pinned, as a text that changes with it.
    pub(crate) fn pins(&self) -> String {
        format!("{}{}", self.manifest, self.lock)
    }

    /// Installs the packages into `folder/node_modules`, for use with `NODE_PATH`.
    ///
    /// # Errors
    /// [`Error::Program`] without npm, [`Error::Command`] when a package cannot be fetched or has
    /// another checksum.
    pub(crate) fn install(&self, folder: &Path) -> Result<()> {
        for (name, text) in [("package.json", self.manifest), ("package-lock.json", self.lock)] {
            let path = folder.join(name);
            fs::write(&path, text).map_err(Error::file("write", &path))?;
        }
        let mut npm = Command::new("npm");
        // What packages would run while they are installed is not needed here.
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
        npm.current_dir(folder);
        cache::run(&mut npm, "install Node.js and npm (Debian: `nodejs npm`)").map(drop)
    }
}
