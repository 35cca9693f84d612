//! Programs built from Go modules, pinned with everything that they depend on.
//!
//! Most are tools of others; [`TRACING`] are our own, built here because here is the way to a Go.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::{self, Apt};
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
    /// Files of the module itself, by path.
    sources: &'static [(&'static str, &'static str)],
}

/// etcd of the line that Debian does not have.
pub(crate) const ETCD_3_6: GoModule = GoModule {
    module: include_str!("go/etcd.mod"),
    checksums: include_str!("go/etcd.sum"),
    programs: &[("etcd", "go.etcd.io/etcd/server/v3"), ("etcdctl", "go.etcd.io/etcd/etcdctl/v3")],
    sources: &[],
};

/// Jaeger with everything in one program; from 2.0 on no version can be built from its modules alone.
pub(crate) const JAEGER_1: GoModule = GoModule {
    module: include_str!("go/jaeger.mod"),
    checksums: include_str!("go/jaeger.sum"),
    programs: &[("jaeger", "github.com/jaegertracing/jaeger/cmd/all-in-one")],
    sources: &[],
};

/// The OpenTelemetry Collector, with a part or two of each kind.
pub(crate) const COLLECTOR: GoModule = GoModule {
    module: include_str!("go/collector.mod"),
    checksums: include_str!("go/collector.sum"),
    programs: &[("otelcol", ".")],
    sources: &[("main.go", include_str!("go/collector.go"))],
};

/// Programs of the tracing suite: one with OpenTelemetry's SDK, one written for OpenTracing.
pub(crate) const TRACING: GoModule = GoModule {
    module: include_str!("go/tracing.mod"),
    checksums: include_str!("go/tracing.sum"),
    programs: &[("opentelemetry", "./opentelemetry"), ("opentracing", "./opentracing")],
    sources: &[
        (
            "opentelemetry/main.go",
            include_str!("../../suites/tests/tracing/programs/go/opentelemetry.go"),
        ),
        (
            "opentracing/main.go",
            include_str!("../../suites/tests/tracing/programs/go/opentracing.go"),
        ),
    ],
};

/// A Go of Debian's: its packages are `golang-LINE-go` and `golang-LINE-src`.
struct DebianGo {
    suite: &'static str,
    line: &'static str,
}

/// Where Go comes from on a machine that has none, or an old one. The first that is still offered
/// is taken: unstable suites move on to other lines.
const DEBIAN: &[DebianGo] =
    &[DebianGo { suite: "sid", line: "1.26" }, DebianGo { suite: "trixie", line: "1.24" }];

/// From 1.21 on Go fetches the version that a module asks for.
const MINOR_MIN: u32 = 21;
const REMEDY: &str = "install Go 1.21 or newer (https://go.dev/dl)";

impl GoModule {
    /// What is pinned, as a text that changes with it.
    pub(crate) fn pins(&self) -> String {
        let sources: String = self.sources.iter().map(|(_, text)| *text).collect();
        format!("{}{}{sources}", self.module, self.checksums)
    }

    /// Builds the programs into `folder/bin`, which takes a minute or two.
    ///
    /// # Errors
    /// When there is no Go and none can be fetched; [`Error::Command`] when a module cannot be
    /// fetched or has another checksum.
    pub(crate) fn build(&self, folder: &Path) -> Result<()> {
        let go = if is_new_enough(Path::new("go")) { "go".into() } else { debian_go()? };
        let work = folder.join("work");
        let pins = [("go.mod", self.module), ("go.sum", self.checksums)];
        for (name, text) in pins.iter().chain(self.sources) {
            let path = work.join(name);
            let parent = path.parent().unwrap_or(&work);
            fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
            fs::write(&path, text).map_err(Error::file("write", &path))?;
        }
        for (name, package) in self.programs {
            let mut build = Command::new(&go);
            // Static, so that it runs wherever the cache is copied to; without paths of this
            // machine in it.
            build
                .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false"])
                .args(["-ldflags=-s -w", "-o"])
                .arg(folder.join("bin").join(name))
                .arg(package)
                .env("CGO_ENABLED", "0")
                .env("GOTOOLCHAIN", "auto")
                // A workspace or flags of the machine's owner must not change what is built.
                .env("GOWORK", "off")
                .env("GOFLAGS", "")
                .env_remove("GOROOT")
                .current_dir(&work);
            cache::run(&mut build, REMEDY)?;
        }
        fs::remove_dir_all(&work).map_err(Error::file("remove", &work))
    }
}

fn is_new_enough(go: &Path) -> bool {
    let version = cache::run(Command::new(go).args(["env", "GOVERSION"]), REMEDY);
    version.is_ok_and(|text| minor(&text).is_some_and(|minor| minor >= MINOR_MIN))
}

/// The second number of `go1.26.8`.
fn minor(version: &str) -> Option<u32> {
    let rest = version.trim().strip_prefix("go1.")?;
    rest.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

/// The program of a Go from Debian's packages, unpacked into the cache.
fn debian_go() -> Result<PathBuf> {
    let mut refused = None;
    for go in DEBIAN {
        let entry = format!("tools/go-{}", go.line);
        match cache::provide(&entry, |folder| go.unpack(folder)) {
            Ok(folder) => return Ok(folder.join(format!("usr/lib/go-{}/bin/go", go.line))),
            Err(error @ Error::NotOffered { .. }) => {
                cache::progress(&error.to_string());
                refused = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(refused.unwrap_or_else(|| Error::Program {
        program: "go".into(),
        source: std::io::ErrorKind::NotFound.into(),
        remedy: REMEDY,
    }))
}

impl DebianGo {
    fn unpack(&self, folder: &Path) -> Result<()> {
        cache::progress(&format!("fetching Go {}", self.line));
        let work = folder.join("work");
        let apt = Apt::new(&work, self.suite)?;
        for (part, place) in [("go", "lib"), ("src", "share")] {
            let package = format!("golang-{}-{part}", self.line);
            let file = apt.download(&package, self.line, &work)?;
            debian::unpack(&file, &format!("./usr/{place}/go-{}", self.line), folder)?;
        }
        fs::remove_dir_all(&work).map_err(Error::file("remove", &work))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go_are_read() {
        for (text, wanted) in [
            ("go1.26.8\n", Some(26)),
            ("go1.21rc2", Some(21)),
            ("go1.19", Some(19)),
            ("devel +abc", None),
            ("", None),
        ] {
            assert_eq!(minor(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn the_pinned_module_names_each_program_as_a_tool() {
        for module in [ETCD_3_6, JAEGER_1] {
            for (_, package) in module.programs {
                assert!(module.module.contains(&format!("{package}\n")), "{package}");
            }
        }
        assert!(ETCD_3_6.pins().contains("go.etcd.io/etcd/server/v3 v3.6."));
    }
}
