//! Programs built from Go modules, pinned with everything that they depend on.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{Error, Result, cache};

/// A module that names programs as its tools, with the checksums of all that it needs.
#[derive(Debug)]
pub(crate) struct GoModule {
    /// Its `go.mod`.
    module: &'static str,
    /// Its `go.sum`: the tool refuses anything else.
    checksums: &'static str,
    /// The programs, and the package of each.
    programs: &'static [(&'static str, &'static str)],
}

/// etcd of the line that Debian does not have.
pub(crate) const ETCD_3_6: GoModule = GoModule {
    module: include_str!("go/etcd.mod"),
    checksums: include_str!("go/etcd.sum"),
    programs: &[
        ("etcd", "go.etcd.io/etcd/server/v3"),
        ("etcdctl", "go.etcd.io/etcd/etcdctl/v3"),
    ],
};

const REMEDY: &str = "install Go 1.26, or 1.21 and newer that may fetch it (https://go.dev/dl)";

impl GoModule {
    /// What is pinned, as a text that changes with it.
    pub(crate) fn pins(&self) -> String {
        format!("{}{}", self.module, self.checksums)
    }

    /// Builds the programs into `folder/bin`, which takes a minute or two.
    ///
    /// # Errors
    /// [`Error::Program`] without Go, [`Error::Command`] when a module cannot be fetched or has
    /// another checksum.
    pub(crate) fn build(&self, folder: &Path) -> Result<()> {
        let work = folder.join("work");
        fs::create_dir_all(&work).map_err(Error::file("create", &work))?;
        for (name, text) in [("go.mod", self.module), ("go.sum", self.checksums)] {
            let path = work.join(name);
            fs::write(&path, text).map_err(Error::file("write", &path))?;
        }
        for (name, package) in self.programs {
            let mut go = Command::new("go");
            // Static, so that it runs wherever the cache is copied to; without paths of this
            // machine in it.
            go.args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false"])
                .args(["-ldflags=-s -w", "-o"])
                .arg(folder.join("bin").join(name))
                .arg(package)
                .env("CGO_ENABLED", "0")
                // An older Go may fetch the one that the module asks for.
                .env("GOTOOLCHAIN", "auto")
                // A workspace or flags of the machine's owner must not change what is built.
                .env("GOWORK", "off")
                .env("GOFLAGS", "")
                .current_dir(&work);
            cache::run(&mut go, REMEDY)?;
        }
        fs::remove_dir_all(&work).map_err(Error::file("remove", &work))
    }
}
