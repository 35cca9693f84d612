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

/// Copies the jars and their dependencies into `folder`.
///
/// # Errors
/// [`Error::Program`] without Maven, [`Error::Command`] when a jar cannot be fetched.
pub(crate) fn copy_jars(folder: &Path, jars: &[Jar]) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    let description = folder.join("pom.xml");
    let dependencies: String = jars.iter().map(Jar::dependency).collect();
    let text = format!(
        "<project><modelVersion>4.0.0</modelVersion><groupId>pintle</groupId>\
         <artifactId>servers</artifactId><version>1</version><packaging>pom</packaging>\n\
         <dependencies>\n{dependencies}</dependencies></project>\n"
    );
    fs::write(&description, text).map_err(Error::file("write", &description))?;
    let mut maven = Command::new("mvn");
    maven
        .args(["--batch-mode", "--no-transfer-progress", "--strict-checksums", PLUGIN])
        .arg("-DincludeScope=runtime")
        .arg(format!("-DoutputDirectory={}", folder.display()))
        .current_dir(folder);
    cache::run(&mut maven, "install a JDK and Maven (Debian: `default-jdk-headless maven`)")?;
    fs::remove_file(&description).map_err(Error::file("remove", &description))
}
