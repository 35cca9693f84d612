//! A process that tests start is gone when they are.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step is a failed test")]

use std::process::{Command, Stdio};
use std::time::Duration;

use pintle_test_services::{Process, until};

const LIMIT: Duration = Duration::from_secs(20);
const FOLDER: &str = "PINTLE_TEST_PARENT_FOLDER";

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("600");
    command
}

/// Whether the process exists and is not only waiting to be reaped.
fn is_alive(id: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/stat", id.trim()));
    status.is_ok_and(|text| !text.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

#[test]
#[ignore = "no test by itself: the parent that another test starts and kills"]
fn parent() {
    let folder = std::path::PathBuf::from(std::env::var_os(FOLDER).unwrap());
    let process = Process::start("sleeper", &sleeper(), &folder.join("log")).unwrap();
    std::fs::write(folder.join("partial"), process.id().to_string()).unwrap();
    std::fs::rename(folder.join("partial"), folder.join("id")).unwrap();
    loop {
        std::thread::park();
    }
}

#[tokio::test]
async fn a_server_dies_with_a_parent_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut parent = Command::new(std::env::current_exe().unwrap());
    parent
        .args(["--exact", "parent", "--ignored"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::null());
    let mut parent = parent.spawn().unwrap();
    let file = folder.path().join("id");
    let id = until(LIMIT, || std::future::ready(std::fs::read_to_string(&file).ok())).await;
    let id = id.expect("the parent started its server");
    assert!(is_alive(&id));

    parent.kill().unwrap();
    parent.wait().unwrap();
    let gone = until(LIMIT, || std::future::ready((!is_alive(&id)).then_some(()))).await;
    assert!(gone.is_some(), "process {id} outlived its parent");
}

#[tokio::test]
async fn a_server_outlives_the_thread_that_started_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let started = std::thread::spawn(move || Process::start("sleeper", &sleeper(), &log));
    let mut process = started.join().unwrap().unwrap();
    // The system would kill it at once if it were tied to that thread.
    let ended = until(Duration::from_millis(300), || std::future::ready(process.ended())).await;
    assert_eq!(ended, None);
}

#[tokio::test]
async fn a_stopped_server_ends_and_a_second_stop_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut process = Process::start("sleeper", &sleeper(), &log).unwrap();
    process.pause().unwrap();
    process.resume().unwrap();
    process.stop().await.unwrap();
    assert!(process.ended().is_some());
    assert!(process.pause().unwrap_err().to_string().contains("has ended"));
}

#[tokio::test]
async fn a_server_that_cannot_start_leaves_its_reason_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let command = Command::new("/nonexistent/server");
    let mut process = Process::start("missing", &command, &log).unwrap();
    let ended = until(LIMIT, || std::future::ready(process.ended())).await;
    assert!(!ended.expect("it ends at once").success());
    assert!(process.log_tail().contains("/nonexistent/server"), "{}", process.log_tail());
}
