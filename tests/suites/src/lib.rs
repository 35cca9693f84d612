//! What the suites share: a host in a folder of its own, with the plugins that were built.

pub mod arguments;
pub mod capabilities;
pub mod chaos;
pub mod follow;
pub mod growth;
pub mod hostile;
pub mod load;
pub mod log;
pub mod measured;
pub mod otlp;
pub mod peers;
pub mod process;

use std::{
    future::Future,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use pintle::{Pintle, settings::Settings};
use pintle_test_bench::{Cells, Report};
use tempfile::TempDir;

/// As in the program itself, so that what is measured is what ships.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long anything may take that a test waits for: far more than on a slow and busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Between two questions of [`eventually`].
const PAUSE: Duration = Duration::from_millis(10);

/// Names another folder of plugins than the built ones: with a bug planted in one of them.
const PLANTED: &str = "PINTLE_TEST_PLUGINS";

/// The folder of built plugins (`plugins`) or fixtures (`fixtures`).
#[must_use]
pub fn built(kind: &str) -> PathBuf {
    if let (Some(planted), "plugins") = (std::env::var_os(PLANTED), kind) {
        return planted.into();
    }
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target").join(kind)
}

/// A private folder with a plugins' directory, a data directory, and settings.
pub struct Sandbox {
    dir: TempDir,
}

impl Sandbox {
    /// A folder whose plugins' directory holds `plugins`, each `fixtures/NAME` or `plugins/NAME`.
    ///
    /// # Errors
    ///
    /// Fails when one is not built; `cargo xtask build` does that.
    pub fn new(plugins: &[&str]) -> Result<Self> {
        let sandbox = Self { dir: tempfile::tempdir()? };
        std::fs::create_dir(sandbox.plugins_dir())?;
        for plugin in plugins {
            let (kind, name) = plugin.split_once('/').context("KIND/NAME")?;
            sandbox.add_plugin(kind, name, name)?;
        }
        Ok(sandbox)
    }

    /// Puts a built plugin into the directory under another name.
    ///
    /// # Errors
    ///
    /// Fails when it is not built.
    pub fn add_plugin(&self, kind: &str, name: &str, as_name: &str) -> Result<()> {
        let file = built(kind).join(format!("{name}.wasm"));
        ensure!(
            file.exists(),
            "{} is not built; run `cargo xtask build --fixtures`",
            file.display()
        );
        std::fs::copy(&file, self.plugins_dir().join(format!("{as_name}.wasm")))?;
        Ok(())
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where its plugins are.
    #[must_use]
    pub fn plugins_dir(&self) -> PathBuf {
        self.dir.path().join("plugins")
    }

    /// Settings from `text`, with this folder's places filled in.
    ///
    /// # Errors
    ///
    /// As [`Settings::from_file`].
    pub fn settings(&self, text: &str) -> Result<Settings> {
        let file = self.dir.path().join("pintle.toml");
        std::fs::write(&file, text)?;
        let mut settings = Settings::from_file(&file)?;
        settings.plugins.dir.get_or_insert_with(|| self.plugins_dir());
        settings.plugins.cache_dir.get_or_insert_with(shared_cache);
        settings.data_dir.get_or_insert_with(|| self.dir.path().join("data"));
        Ok(settings)
    }

    /// Starts a host with settings from `text`.
    ///
    /// # Errors
    ///
    /// As [`pintle::Builder::start`].
    pub async fn start(&self, text: &str) -> Result<Pintle> {
        log_if_asked();
        Ok(Pintle::builder().settings(self.settings(text)?).start().await?)
    }
}

/// Prints what hosts and plugins log, if `PINTLE_LOG` says what (`debug`, `pintle=debug`).
fn log_if_asked() {
    if let Ok(filter) = std::env::var("PINTLE_LOG") {
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        // Another test of this process has done it already.
        let _ = log.try_init();
    }
}

/// Compiled plugins are shared by all tests: each is compiled once.
fn shared_cache() -> PathBuf {
    built("test-cache")
}

/// Waits for `future` no longer than [`DEADLINE`].
///
/// # Errors
///
/// Fails when the time is up; `what` says what was waited for.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    let waited = tokio::time::timeout(DEADLINE, future).await;
    waited.with_context(|| format!("{what}: not within {} s", DEADLINE.as_secs()))
}

/// Asks until there is an answer, no longer than [`DEADLINE`].
///
/// # Errors
///
/// Fails when the time is up, `what` says what was waited for, and with the first error of `probe`.
pub async fn eventually<T>(
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    within(what, async {
        loop {
            if let Some(found) = probe().await? {
                return Ok(found);
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await?
}

/// Whether the command line of a measuring program chooses this row: without `--only ROW` it chooses
/// all, with it those that begin so, up to a dash.
#[must_use]
pub fn is_chosen(id: &str) -> bool {
    arguments::read().is_none_or(|read| read.chooses(id))
}

/// Prints the rows of a measuring program, writes them to the file that it was told (`--json FILE`), and
/// answers its exit code: success only when all pass.
///
/// # Errors
///
/// The file cannot be written.
pub fn finish<R: Cells>(report: &Report<R>) -> Result<ExitCode> {
    report.print();
    if let Some(file) = arguments::read().and_then(|read| read.json.as_ref()) {
        report.write_json(file)?;
    }
    Ok(report.exit_code())
}
