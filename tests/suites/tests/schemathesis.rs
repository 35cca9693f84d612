//! Schemathesis asks the API for everything that its description allows, and for much that it does
//! not: no answer is a failure of the server, and each is what the description says.

use std::{
    path::PathBuf,
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use pintle_server::{Api, LogControl};
use pintle_test_services::cache;
use pintle_test_suites::Sandbox;
use tokio::{net::TcpListener, sync::oneshot};

const VERSION: &str = "4.32.5";
/// Requests for each operation and phase, at most.
const EXAMPLES_MAX: &str = "60";
const TIME_MAX: Duration = Duration::from_secs(600);
const REMEDY: &str = "install Python 3 with its module `venv` (on Debian: python3-venv)";
/// Streams go on for ever, and a lock may be waited for.
const ENDLESS: &str = "\\.watch$";
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_schema_conformance";

/// A log that is set and does not log.
#[derive(Default)]
struct Log(Mutex<String>);

impl LogControl for Log {
    fn filter(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_filter(&self, filter: &str) -> Result<(), String> {
        filter.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}

/// The interpreter of an environment of its own, with schemathesis in it.
fn interpreter() -> Result<PathBuf> {
    let name = format!("python/schemathesis-{VERSION}");
    let folder = cache::provide(&name, |folder| -> Result<()> {
        cache::progress(&format!("getting schemathesis {VERSION} with pip"));
        cache::run(Command::new("python3").args(["-m", "venv"]).arg(folder), REMEDY)?;
        let package = format!("schemathesis=={VERSION}");
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", &package]);
        cache::run(&mut pip, REMEDY)?;
        Ok(())
    })?;
    Ok(folder.join("bin/python"))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_asked_the_answer_is_what_the_description_says() -> Result<()> {
    let python = tokio::task::spawn_blocking(interpreter).await??;
    let sandbox = Sandbox::new(&["plugins/local"])?;
    let store = sandbox.path().join("store").display().to_string();
    let settings = format!("[backends.local]\nplugin = \"local\"\ndata_dir = {store:?}\n");
    let pintle = sandbox.start(&settings).await?;
    let api = Api::open(pintle.clone(), Some(Box::new(Log::default())))?;
    // It makes tokens, too, and goes on without the first one that it makes.
    let secret = api.issue_owner_secret();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/v1/openapi.json", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        api.serve(listener, async {
            // Either way it is time to stop.
            let _ = stopped.await;
        })
        .await
    });
    let mut run = tokio::process::Command::new(python);
    run.args(["-m", "schemathesis.cli", "run", &url])
        .args(["--header", &format!("Authorization: Bearer {secret}")])
        .args(["--exclude-operation-id-regex", ENDLESS])
        .args(["--checks", CHECKS, "--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", EXAMPLES_MAX, "--seed", "1", "--request-timeout", "20"])
        .args(["--warnings", "off", "--suppress-health-check", "all", "--continue-on-failure"])
        .current_dir(sandbox.path())
        .env("NO_COLOR", "1")
        .kill_on_drop(true);
    let output =
        tokio::time::timeout(TIME_MAX, run.output()).await.context("it takes too long")??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{text}\n{}",
        cache::last_lines(&String::from_utf8_lossy(&output.stderr), 30)
    );
    // That something was asked at all.
    ensure!(text.contains("test cases") || text.contains("passed"), "{text}");
    // The server may have ended by itself.
    let _ = stop.send(());
    serving.await??;
    pintle.shutdown().await;
    Ok(())
}
