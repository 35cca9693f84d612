//! The server binaries that tests need, by name, and how each is fetched.

use std::fs;
use std::path::{Path, PathBuf};

use crate::debian::{self, Apt};
use crate::{Error, Result, cache, go, maven, npm, python};

/// A server's files in the cache. The names are those of `[package.metadata.suites]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Artifact {
    /// `etcd-3.4`: the last line without `/readyz`, from Debian bookworm.
    Etcd34,
    /// `etcd-3.5`: from Debian sid, or from trixie once sid has moved on.
    Etcd35,
    /// `etcd-3.6`: built from its Go modules, for no Debian suite has it.
    Etcd36,
    /// `zookeeper-3.5`: the last line without lasting watches. Jars from Maven's central repository.
    ZooKeeper35,
    /// `zookeeper-3.8`: the line of Debian bookworm, likewise.
    ZooKeeper38,
    /// `zookeeper-3.9`: likewise.
    ZooKeeper39,
    /// `skywalking-10.1`: its server, as jars from Maven's central repository.
    SkyWalking101,
    /// `zipkin-3.6`: likewise, one file.
    Zipkin36,
    /// `jaeger-1.62`: built from its Go modules.
    Jaeger162,
    /// `collector-0.165`: the OpenTelemetry Collector, likewise.
    Collector165,
    /// `opentracing-java`: a tracer for programs written for OpenTracing, as jars.
    OpenTracingJava,
    /// `curator-5.7`: Apache Curator's recipes for ZooKeeper, as jars.
    Curator57,
    /// `opentelemetry-java`: the SDK, as jars.
    OpenTelemetryJava,
    /// `opentelemetry-node`: the SDK, from the npm registry.
    OpenTelemetryNode,
    /// `opentelemetry-python`: the SDK, from the Python package index.
    OpenTelemetryPython,
    /// `tracing-go`: programs with the SDK and with a tracer for OpenTracing, built.
    TracingGo,
}

/// A Debian suite, and the start of the version number that is wanted from it.
struct Pin {
    suite: &'static str,
    line: &'static str,
}

impl Artifact {
    /// All artifacts.
    pub const ALL: [Self; 16] = [
        Self::Etcd34,
        Self::Etcd35,
        Self::Etcd36,
        Self::ZooKeeper35,
        Self::ZooKeeper38,
        Self::ZooKeeper39,
        Self::SkyWalking101,
        Self::Zipkin36,
        Self::Jaeger162,
        Self::Collector165,
        Self::OpenTracingJava,
        Self::Curator57,
        Self::OpenTelemetryJava,
        Self::OpenTelemetryNode,
        Self::OpenTelemetryPython,
        Self::TracingGo,
    ];

    /// The artifact's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd34 => "etcd-3.4",
            Self::Etcd35 => "etcd-3.5",
            Self::Etcd36 => "etcd-3.6",
            Self::ZooKeeper35 => "zookeeper-3.5",
            Self::ZooKeeper38 => "zookeeper-3.8",
            Self::ZooKeeper39 => "zookeeper-3.9",
            Self::SkyWalking101 => "skywalking-10.1",
            Self::Zipkin36 => "zipkin-3.6",
            Self::Jaeger162 => "jaeger-1.62",
            Self::Collector165 => "collector-0.165",
            Self::OpenTracingJava => "opentracing-java",
            Self::Curator57 => "curator-5.7",
            Self::OpenTelemetryJava => "opentelemetry-java",
            Self::OpenTelemetryNode => "opentelemetry-node",
            Self::OpenTelemetryPython => "opentelemetry-python",
            Self::TracingGo => "tracing-go",
        }
    }

    /// The artifact with this name.
    ///
    /// # Errors
    /// [`Error::UnknownArtifact`] lists the known names.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|artifact| artifact.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.into_iter().map(Self::name).collect();
            Error::UnknownArtifact { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// Programs that must be installed to fetch or to run it, with the Debian package of each.
    pub fn programs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // The Go that builds one of them is fetched too, where it is missing.
            Self::Etcd34
            | Self::Etcd35
            | Self::Etcd36
            | Self::Jaeger162
            | Self::Collector165
            | Self::TracingGo => &[],
            Self::ZooKeeper35
            | Self::ZooKeeper38
            | Self::ZooKeeper39
            | Self::SkyWalking101
            | Self::Zipkin36
            | Self::OpenTracingJava
            | Self::Curator57
            | Self::OpenTelemetryJava => &[("java", "default-jdk-headless"), ("mvn", "maven")],
            Self::OpenTelemetryNode => &[("node", "nodejs"), ("npm", "npm")],
            Self::OpenTelemetryPython => &[("python3", "python3"), ("pip3", "python3-pip")],
        }
    }

    /// Whether [`fetch`](Self::fetch) has nothing left to do.
    pub fn is_fetched(self) -> bool {
        cache::find(&self.entry()).is_some()
    }

    /// The folder with the artifact's files: `bin/` for what is a program, `lib/` for jars and
    /// packages, `node_modules/` for those of Node.js. Fetches them unless they are in the cache, which blocks for seconds, or for a minute or two where they
    /// are built.
    ///
    /// # Errors
    /// When a package source cannot be reached, or does not offer the line.
    pub fn fetch(self) -> Result<PathBuf> {
        cache::provide(&self.entry(), |folder| {
            cache::progress(&format!("fetching {}", self.name()));
            match self {
                Self::Etcd34 => fetch_etcd(folder, ETCD_3_4),
                Self::Etcd35 => fetch_etcd(folder, ETCD_3_5),
                Self::Etcd36 => {
                    cache::progress("building it, which takes a minute or two");
                    go::ETCD_3_6.build(folder)
                }
                Self::ZooKeeper35 => maven::copy_jars(&folder.join("lib"), maven::ZOOKEEPER_3_5),
                Self::ZooKeeper38 => maven::copy_jars(&folder.join("lib"), maven::ZOOKEEPER_3_8),
                Self::ZooKeeper39 => maven::copy_jars(&folder.join("lib"), maven::ZOOKEEPER_3_9),
                Self::SkyWalking101 => maven::SKYWALKING.copy(&folder.join("lib")),
                Self::Zipkin36 => maven::copy_file(&folder.join("lib"), maven::ZIPKIN),
                Self::OpenTracingJava => maven::copy_jars(&folder.join("lib"), maven::OPENTRACING),
                Self::Curator57 => maven::copy_jars(&folder.join("lib"), maven::CURATOR),
                Self::OpenTelemetryJava => {
                    maven::copy_jars(&folder.join("lib"), maven::OPENTELEMETRY)
                }
                Self::OpenTelemetryNode => npm::OPENTELEMETRY.install(folder),
                Self::OpenTelemetryPython => {
                    python::install(&folder.join("lib"), python::OPENTELEMETRY)
                }
                Self::Jaeger162 => {
                    cache::progress("building it, which takes some minutes");
                    go::JAEGER_1.build(folder)
                }
                Self::Collector165 => {
                    cache::progress("building it, which takes some minutes");
                    go::COLLECTOR.build(folder)
                }
                Self::TracingGo => go::TRACING.build(folder),
            }
        })
    }

    /// The same without holding up an async runtime.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    #[cfg(feature = "servers")]
    pub async fn fetch_in_background(self) -> Result<PathBuf> {
        // It ends with an error only when it panics, or the runtime is shut down under it.
        tokio::task::spawn_blocking(move || self.fetch()).await.map_err(|error| Error::State {
            name: self.name().to_owned(),
            problem: error.to_string(),
        })?
    }

    /// The cache entry; it changes with the pins, so that a new pin is never served the old files.
    fn entry(self) -> String {
        let pins = match self {
            Self::Etcd34 => describe(ETCD_3_4),
            Self::Etcd35 => describe(ETCD_3_5),
            Self::Etcd36 => go::ETCD_3_6.pins(),
            Self::ZooKeeper35 => describe_jars(maven::ZOOKEEPER_3_5),
            Self::ZooKeeper38 => describe_jars(maven::ZOOKEEPER_3_8),
            Self::ZooKeeper39 => describe_jars(maven::ZOOKEEPER_3_9),
            Self::SkyWalking101 => maven::SKYWALKING.pins(),
            Self::Zipkin36 => maven::ZIPKIN.to_owned(),
            Self::Jaeger162 => go::JAEGER_1.pins(),
            Self::Collector165 => go::COLLECTOR.pins(),
            Self::OpenTracingJava => describe_jars(maven::OPENTRACING),
            Self::Curator57 => describe_jars(maven::CURATOR),
            Self::OpenTelemetryJava => describe_jars(maven::OPENTELEMETRY),
            Self::OpenTelemetryNode => npm::OPENTELEMETRY.pins(),
            Self::OpenTelemetryPython => python::OPENTELEMETRY.join(";"),
            Self::TracingGo => go::TRACING.pins(),
        };
        let digest = cache::digest_of_text(&pins);
        format!("servers/{}-{}", self.name(), digest.get(..12).unwrap_or(&digest))
    }
}

const ETCD_3_4: &[Pin] = &[Pin { suite: "bookworm", line: "3.4." }];
const ETCD_3_5: &[Pin] =
    &[Pin { suite: "sid", line: "3.5." }, Pin { suite: "trixie", line: "3.5." }];

fn describe(pins: &[Pin]) -> String {
    pins.iter().map(|pin| format!("{}={};", pin.suite, pin.line)).collect()
}

fn describe_jars(jars: &[maven::Jar]) -> String {
    jars.iter().map(ToString::to_string).collect()
}

/// Takes the first pin that its suite still offers: unstable suites move on to other lines.
fn fetch_etcd(folder: &Path, pins: &[Pin]) -> Result<()> {
    let mut refused = None;
    for pin in pins {
        match fetch_etcd_pin(folder, pin) {
            Err(error @ Error::NotOffered { .. }) => {
                cache::progress(&error.to_string());
                refused = Some(error);
            }
            done => return done,
        }
    }
    refused.map_or(Ok(()), Err)
}

fn fetch_etcd_pin(folder: &Path, pin: &Pin) -> Result<()> {
    let work = folder.join("work");
    let apt = Apt::new(&work, pin.suite)?;
    for package in ["etcd-server", "etcd-client"] {
        let file = apt.download(package, pin.line, &work)?;
        debian::unpack(&file, "./usr/bin", &work)?;
    }
    let bin = folder.join("bin");
    fs::rename(work.join("usr/bin"), &bin).map_err(Error::file("rename to", &bin))?;
    fs::remove_dir_all(&work).map_err(Error::file("remove", &work))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_artifact_is_found_by_its_name() {
        for artifact in Artifact::ALL {
            assert_eq!(Artifact::from_name(artifact.name()).unwrap(), artifact);
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let message = Artifact::from_name("etcd").unwrap_err().to_string();
        assert!(message.contains("etcd-3.5") && message.contains("zookeeper-3.9"), "{message}");
    }
}
