//! The suites: which there are, and what each needs.
//!
//! Every test target of the package `pintle-test-suites` is one. What a suite needs stands in its
//! package's manifest, where another package can also declare a suite of its own:
//!
//! ```toml
//! [package.metadata.suites.NAME]       # NAME: the test target
//! servers = ["etcd-3.5"]               # names of `pintle_test_services::Artifact`
//! ignored = true                       # runs the tests that are marked `#[ignore]`
//! threads = 6                          # tests at once, where they wait more than they work
//! ```

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use pintle_test_services::Artifact;
use serde::Deserialize;

use crate::install::{self, Program};
use crate::workspace::{Package, Workspace};

/// The package whose test targets are the suites, and whose binaries measure.
pub(crate) const PACKAGE: &str = "pintle-test-suites";

/// One suite.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Suite {
    /// The name of its test target.
    pub(crate) name: String,
    pub(crate) package: String,
    pub(crate) servers: Vec<Artifact>,
    /// Whether its tests are those marked `#[ignore]`.
    pub(crate) ignored: bool,
    /// Tests at once; without it one for each processor.
    pub(crate) threads: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Needs {
    #[serde(default)]
    servers: Vec<String>,
    #[serde(default)]
    ignored: bool,
    threads: Option<u32>,
}

impl Suite {
    /// Whether it runs the host with its plugins; the suites of other packages test a kit alone.
    pub(crate) fn needs_host(&self) -> bool {
        self.package == PACKAGE
    }

    /// Fetches the servers that it needs, and what those need.
    pub(crate) fn prepare(&self) -> Result<()> {
        for server in &self.servers {
            let programs: Vec<Program> = server
                .programs()
                .iter()
                .map(|&(name, package)| Program { name, package })
                .collect();
            install::programs(&programs)?;
            server.fetch().with_context(|| format!("cannot get {}", server.name()))?;
        }
        Ok(())
    }
}

/// All suites, by name.
pub(crate) fn all(workspace: &Workspace) -> Result<Vec<Suite>> {
    let mut suites = Vec::new();
    for package in &workspace.packages {
        suites.extend(of_package(package)?);
    }
    suites.sort_by(|one: &Suite, other| one.name.cmp(&other.name));
    Ok(suites)
}

fn of_package(package: &Package) -> Result<Vec<Suite>> {
    let place = package.manifest_path.display();
    let declared = package.metadata.get("suites").cloned().unwrap_or_else(|| serde_json::json!({}));
    let mut declared: BTreeMap<String, Needs> = serde_json::from_value(declared)
        .with_context(|| format!("[package.metadata.suites] in {place}"))?;
    let mut suites = Vec::new();
    for target in package.target_names("test") {
        let needs = declared.remove(target);
        if needs.is_none() && package.name != PACKAGE {
            continue;
        }
        let Needs { servers, ignored, threads } = needs.unwrap_or_default();
        let servers = servers.iter().map(|name| Artifact::from_name(name));
        suites.push(Suite {
            name: target.to_owned(),
            package: package.name.clone(),
            servers: servers.collect::<Result<_, _>>().with_context(|| format!("in {place}"))?,
            ignored,
            threads,
        });
    }
    if let Some(name) = declared.keys().next() {
        bail!("[package.metadata.suites.{name}] in {place}: there is no test target `{name}`");
    }
    Ok(suites)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::workspace::Target;

    fn package(name: &str, targets: &[&str], metadata: serde_json::Value) -> Package {
        let target = |name: &&str| Target {
            name: (*name).into(),
            kind: vec!["test".into()],
            crate_types: vec!["bin".into()],
        };
        Package {
            name: name.into(),
            manifest_path: "/r/tests/x/Cargo.toml".into(),
            targets: targets.iter().map(target).collect(),
            metadata,
        }
    }

    #[test]
    fn each_test_target_of_the_suites_package_is_a_suite() {
        let metadata = json!({"suites": {"etcd": {"servers": ["etcd-3.5"], "threads": 6}}});
        let suites = of_package(&package(PACKAGE, &["host", "etcd"], metadata)).unwrap();
        assert_eq!((suites[0].name.as_str(), suites[0].threads), ("host", None));
        assert_eq!(suites[1].servers, [Artifact::Etcd35]);
        assert_eq!(suites[1].threads, Some(6));
    }

    #[test]
    fn other_packages_have_only_the_suites_that_they_declare() {
        let metadata = json!({"suites": {"services": {"ignored": true}}});
        let suites = of_package(&package("kit", &["quick", "services"], metadata)).unwrap();
        assert_eq!(suites.len(), 1);
        assert!(suites[0].ignored);
    }

    #[test]
    fn a_declared_suite_without_a_target_and_an_unknown_server_are_refused() {
        let metadata = json!({"suites": {"gone": {}}});
        let message = of_package(&package("kit", &[], metadata)).unwrap_err().to_string();
        assert!(message.contains("no test target `gone`"), "{message}");
        let metadata = json!({"suites": {"a": {"servers": ["etcd"]}}});
        let error = of_package(&package("kit", &["a"], metadata)).unwrap_err();
        assert!(format!("{error:#}").contains("unknown artifact `etcd`"), "{error:#}");
    }
}
