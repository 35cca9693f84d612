//! Jars by name and version, copied by Maven with strict checksums.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{Error, Result, cache};

/// A jar's coordinates.
#[derive(Debug)]
pub(crate) struct Jar {
    group: &'static str,
    artifact: &'static str,
    version: &'static str,
    /// `group:artifact` that its description asks for and nothing here uses.
    without: Option<(&'static str, &'static str)>,
}

/// The server, and what it needs beside its declared dependencies: without `metrics-core` it does
/// not start, and without `snappy-java` it answers `ruok` but never serves.
pub(crate) const ZOOKEEPER_3_9: &[Jar] = &zookeeper("3.9.5");
pub(crate) const ZOOKEEPER_3_8: &[Jar] = &zookeeper("3.8.4");
pub(crate) const ZOOKEEPER_3_5: &[Jar] = &zookeeper("3.5.10");

const fn zookeeper(version: &'static str) -> [Jar; 5] {
    [
        Jar {
            group: "org.apache.zookeeper",
            artifact: "zookeeper",
            version,
            without: Some(("io.netty", "netty-tcnative-boringssl-static")),
        },
        jar("org.slf4j", "slf4j-simple", "2.0.13"),
        jar("io.dropwizard.metrics", "metrics-core", "4.1.12.1"),
        jar("org.xerial.snappy", "snappy-java", "1.1.10.5"),
        jar("commons-cli", "commons-cli", "1.5.0"),
    ]
}

const REMEDY: &str = "install a JDK and Maven (Debian: `default-jdk-headless maven`)";
const PLUGIN: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies";

const fn jar(group: &'static str, artifact: &'static str, version: &'static str) -> Jar {
    Jar { group, artifact, version, without: None }
}

impl fmt::Display for Jar {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{};", self.group, self.artifact, self.version)
    }
}

impl Jar {
    fn dependency(&self) -> String {
        let exclusion = self.without.map(|(group, artifact)| {
            format!(
                "<exclusions><exclusion><groupId>{group}</groupId>\
                 <artifactId>{artifact}</artifactId></exclusion></exclusions>"
            )
        });
        format!(
            "<dependency><groupId>{}</groupId><artifactId>{}</artifactId>\
             <version>{}</version>{}</dependency>\n",
            self.group,
            self.artifact,
            self.version,
            exclusion.unwrap_or_default()
        )
    }
}

/// SkyWalking's server: the newest version whose parts are all published as jars, and of them those
/// that the tests need.
pub(crate) const SKYWALKING: &SkyWalkingJars = &SkyWalkingJars {
    version: "10.1.0",
    parts: &[
        "server-core",
        "oal-rt",
        "storage-jdbc-hikaricp-plugin",
        "cluster-standalone-plugin",
        "telemetry-api",
        "configuration-api",
        "agent-analyzer",
        "log-analyzer",
        "skywalking-sharing-server-plugin",
        "skywalking-management-receiver-plugin",
        "skywalking-trace-receiver-plugin",
        "skywalking-meter-receiver-plugin",
        "skywalking-log-receiver-plugin",
        "configuration-discovery-receiver-plugin",
        "query-graphql-plugin",
        "server-health-checker",
        "ai-pipeline",
    ],
};

/// A tracer for programs written for OpenTracing, and its way to Zipkin's API.
pub(crate) const OPENTRACING: &[Jar] = &[
    jar("io.opentracing.brave", "brave-opentracing", "1.0.1"),
    jar("io.zipkin.reporter2", "zipkin-reporter-brave", "3.4.3"),
    jar("io.zipkin.reporter2", "zipkin-sender-urlconnection", "3.4.3"),
];

/// Apache Curator's recipes, the locks that other programs take in ZooKeeper.
pub(crate) const CURATOR: &[Jar] = &[
    Jar {
        group: "org.apache.curator",
        artifact: "curator-recipes",
        version: "5.7.1",
        without: Some(("io.netty", "netty-tcnative-boringssl-static")),
    },
    jar("org.slf4j", "slf4j-simple", "2.0.13"),
];

/// OpenTelemetry's SDK, set up by the standard environment variables, and its exporter of OTLP.
pub(crate) const OPENTELEMETRY: &[Jar] = &[
    jar("io.opentelemetry", "opentelemetry-sdk-extension-autoconfigure", "1.58.0"),
    jar("io.opentelemetry", "opentelemetry-exporter-otlp", "1.58.0"),
];

/// One file with everything in it.
pub(crate) const ZIPKIN: &str = "io.zipkin:zipkin-server:3.6.1:jar:slim";

const COPY_PLUGIN: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy";

/// Parts of SkyWalking's server, with the versions of their dependencies that its own list names.
#[derive(Debug)]
pub(crate) struct SkyWalkingJars {
    version: &'static str,
    parts: &'static [&'static str],
}

impl SkyWalkingJars {
    pub(crate) fn pins(&self) -> String {
        format!("{};{}", self.version, self.parts.join(","))
    }

    fn dependencies(&self) -> String {
        let version = self.version;
        let dependency = |part: &str, inner: &str| {
            format!(
                "<dependency><groupId>org.apache.skywalking</groupId><artifactId>{part}</artifactId>\
                 <version>{version}</version>{inner}</dependency>\n"
            )
        };
        // Alone it would bring every part that there is.
        let starter = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId>\
                       </exclusion></exclusions>";
        let parts: String = self.parts.iter().map(|part| dependency(part, "")).collect();
        format!(
            "<dependencyManagement><dependencies>{}</dependencies></dependencyManagement>\n\
             <dependencies>\n{}{parts}</dependencies>",
            dependency("oap-server-bom", "<type>pom</type><scope>import</scope>"),
            dependency("server-starter", starter),
        )
    }

    /// Copies the parts and their dependencies into `folder`.
    ///
    /// # Errors
    /// As [`copy_jars`].
    pub(crate) fn copy(&self, folder: &Path) -> Result<()> {
        copy_dependencies(folder, &self.dependencies())
    }
}

/// Copies one file, named `group:artifact:version:type:classifier`, into `folder`.
///
/// # Errors
/// As [`copy_jars`].
pub(crate) fn copy_file(folder: &Path, coordinates: &str) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    let mut maven = Command::new("mvn");
    maven
        .args(["--batch-mode", "--no-transfer-progress", "--strict-checksums", COPY_PLUGIN])
        .arg(format!("-Dartifact={coordinates}"))
        .arg(format!("-DoutputDirectory={}", folder.display()))
        .current_dir(folder);
    cache::run(&mut maven, REMEDY).map(drop)
}

/// Copies the jars and their dependencies into `folder`.
///
/// # Errors
/// [`Error::Program`] without Maven, [`Error::Command`] when a jar cannot be fetched.
pub(crate) fn copy_jars(folder: &Path, jars: &[Jar]) -> Result<()> {
    let dependencies: String = jars.iter().map(Jar::dependency).collect();
    copy_dependencies(folder, &format!("<dependencies>\n{dependencies}</dependencies>"))
}

fn copy_dependencies(folder: &Path, dependencies: &str) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    let description = folder.join("pom.xml");
    let text = format!(
        "<project><modelVersion>4.0.0</modelVersion><groupId>pintle</groupId>\
         <artifactId>servers</artifactId><version>1</version><packaging>pom</packaging>\n\
         {dependencies}</project>\n"
    );
    fs::write(&description, text).map_err(Error::file("write", &description))?;
    let mut maven = Command::new("mvn");
    maven
        .args(["--batch-mode", "--no-transfer-progress", "--strict-checksums", PLUGIN])
        .arg("-DincludeScope=runtime")
        .arg(format!("-DoutputDirectory={}", folder.display()))
        .current_dir(folder);
    cache::run(&mut maven, REMEDY)?;
    fs::remove_file(&description).map_err(Error::file("remove", &description))
}
