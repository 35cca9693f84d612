//! The plugins of this project, each with the server that it is measured on.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use pintle::direct::Bench;
use pintle_conformance::{
    CheckReport, Hook, Hooks, Options, Progress, Report, Subject, Verdict, markdown, measure,
    overview,
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
    let settings = Server::settings_for(plugin);
    let text = format!(
        "[backends.main]\nplugin = {plugin:?}\nendpoints = [{endpoint}]\nsettings = {settings}\n"
    );
    let bench = Bench::open(sandbox.settings(&text)?)?;
    let subject = Subject::open(&bench, "main").await.map_err(|report| anyhow!(report.text()))?;
    let options = Options { hooks: server.hooks(), ..options.clone() };
    Ok(measure(subject, &options, progress).await)
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

    /// So small a memory that the suite's own changes go beyond it, where the plugin has one.
    fn settings_for(plugin: &str) -> &'static str {
        if plugin == "local" { "{ history_revisions_max = 1000 }" } else { "{}" }
    }

    /// What an operator of such a server lends the suite.
    fn hooks(&self) -> Hooks {
        let Self::Etcd(etcd) = self else { return Hooks::default() };
        let ctl = format!("'{}' --endpoints={}", etcd.ctl_path().display(), etcd.url());
        let write = format!(
            "if [ -n \"$PINTLE_VALUE\" ]; then {ctl} put -- \"$PINTLE_KEY\" \"$PINTLE_VALUE\"; \
             else {ctl} del -- \"$PINTLE_KEY\"; fi"
        );
        Hooks {
            forget: Some(Hook::command(format!("{ctl} compact \"$PINTLE_VERSION\""))),
            write: Some(Hook::command(write)),
        }
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
    let docs = root().join("docs");
    (docs.join("capabilities.md"), docs.join("capabilities.json"))
}

/// The page that shows what is short of the table.
#[must_use]
pub fn readme() -> PathBuf {
    root().join("README.md")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The measurements that are written down.
///
/// # Errors
///
/// They cannot be read.
pub fn checked_in() -> Result<Vec<Report>> {
    let (_, data) = files();
    Ok(serde_json::from_str(&std::fs::read_to_string(data)?)?)
}

/// Around what is made in the README.
const MADE: [&str; 2] = ["<!-- made by `cargo xtask capabilities` -->\n", "<!-- until here -->\n"];

/// The README with the overview of these reports in its place.
///
/// # Errors
///
/// It has no such place.
pub fn readme_with(readme: &str, reports: &[Report]) -> Result<String> {
    let place = readme.split_once(MADE[0]).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(MADE[1])?;
        Some((before, after))
    });
    let (before, after) = place.context("the README has no place for the overview")?;
    let [begin, end] = MADE;
    Ok(format!("{before}{begin}\n{}\n{end}{after}", overview(reports)))
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

/// Writes page and data, and the overview in the README.
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
        .with_context(|| format!("cannot write {}", page_file.display()))?;
    let readme_file = readme();
    let shown = readme_with(&std::fs::read_to_string(&readme_file)?, &steady)?;
    std::fs::write(&readme_file, shown)
        .with_context(|| format!("cannot write {}", readme_file.display()))
}

/// Everything that is no pass, with its evidence, `but` what is expected.
#[must_use]
pub fn shortcomings(report: &Report, but: impl Fn(&CheckReport) -> bool) -> String {
    let bad = report.checks.iter().filter(|check| check.verdict != Verdict::Pass && !but(check));
    bad.map(|check| format!("{}\n{}\n", check.line(), check.evidence.join("\n"))).collect()
}
