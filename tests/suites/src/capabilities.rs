//! The plugins of this project, each with the server that it is measured on.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use pintle::direct::Bench;
use pintle_conformance::{
    CheckReport, Options, Progress, Report, Subject, Verdict, markdown, measure,
};
use pintle_test_services::{
    Etcd, EtcdOptions, Jaeger, SkyWalking, SkyWalkingOptions, Zipkin, ZooKeeper, ZooKeeperOptions,
};

use crate::Sandbox;

/// The plugins that are measured, in the order of the table's columns.
pub const PLUGINS: [&str; 6] = ["local", "etcd", "zookeeper", "otlp", "zipkin", "skywalking"];

/// Measures one of [`PLUGINS`] on a server that is started for it.
///
/// # Errors
///
/// The plugin is not built, or its server does not start.
pub async fn report(
    plugin: &str,
    options: &Options,
    progress: impl FnMut(Progress<'_>),
) -> Result<Report> {
    let sandbox = Sandbox::new(&[&format!("plugins/{plugin}")])?;
    // Held until the measurement is over.
    let server = Server::start(plugin).await?;
    let endpoint = server.endpoint().map(|endpoint| format!("{endpoint:?}")).unwrap_or_default();
    let text = format!("[backends.main]\nplugin = {plugin:?}\nendpoints = [{endpoint}]\n");
    let bench = Bench::open(sandbox.settings(&text)?)?;
    let subject = Subject::open(&bench, "main").await.map_err(|report| anyhow!(report.text()))?;
    Ok(measure(subject, options, progress).await)
}

/// What a plugin needs to be measured.
enum Server {
    Nothing,
    Etcd(Etcd),
    ZooKeeper(ZooKeeper),
    Zipkin(Zipkin),
    Jaeger(Jaeger),
    SkyWalking(SkyWalking),
}

impl Server {
    async fn start(plugin: &str) -> Result<Self> {
        Ok(match plugin {
            "etcd" => Self::Etcd(Etcd::start(EtcdOptions::default()).await?),
            "zookeeper" => Self::ZooKeeper(ZooKeeper::start(ZooKeeperOptions::default()).await?),
            "zipkin" => Self::Zipkin(Zipkin::start().await?),
            "otlp" => Self::Jaeger(Jaeger::start().await?),
            "skywalking" => {
                Self::SkyWalking(SkyWalking::start(&SkyWalkingOptions::default()).await?)
            }
            _ => Self::Nothing,
        })
    }

    fn endpoint(&self) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Etcd(server) => Some(server.endpoint()),
            Self::ZooKeeper(server) => Some(server.endpoint()),
            Self::Zipkin(server) => Some(server.address().to_string()),
            Self::Jaeger(server) => Some(server.otlp_grpc().to_string()),
            Self::SkyWalking(server) => Some(server.grpc().to_string()),
        }
    }
}

/// Where the table stands, and the data that it is made from.
#[must_use]
pub fn files() -> (PathBuf, PathBuf) {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    (docs.join("capabilities.md"), docs.join("capabilities.json"))
}

/// The page with the table.
#[must_use]
pub fn page(reports: &[Report]) -> String {
    let table = markdown(reports);
    format!(
        "# What the plugins were measured to keep\n\n\
         Made by `cargo xtask capabilities`, which runs the [conformance suite](conformance.md) on \
         real\nservers. Do not edit it.\n\n\
         ✓ kept · ✗ broken · – not offered, and refused · `·` not applicable (nothing that could be \
         broken\nor outlive) · ? could not be told · empty: the plugin does not have the \
         capability\n\n{table}"
    )
}

/// Writes page and data.
///
/// # Errors
///
/// The files cannot be written.
pub fn write(reports: &[Report]) -> Result<()> {
    let (page_file, data_file) = files();
    let steady: Vec<Report> = reports.iter().map(Report::without_times).collect();
    let data = serde_json::to_string_pretty(&steady)? + "\n";
    std::fs::write(&data_file, data)
        .with_context(|| format!("cannot write {}", data_file.display()))?;
    std::fs::write(&page_file, page(&steady))
        .with_context(|| format!("cannot write {}", page_file.display()))
}

/// Everything that is no pass, with its evidence, `but` what is expected.
#[must_use]
pub fn shortcomings(report: &Report, but: impl Fn(&CheckReport) -> bool) -> String {
    let bad = report.checks.iter().filter(|check| check.verdict != Verdict::Pass && !but(check));
    bad.map(|check| format!("{}\n{}\n", check.line(), check.evidence.join("\n"))).collect()
}
