//! `pintle lock`.

use std::time::Duration;

use anyhow::Result;
use pintle_client::{Client, api::lock::LockState};
use pintle_test_suites::within;

use crate::shell::Shell;

#[tokio::test]
async fn a_command_runs_under_the_lock_and_hands_its_exit_code_on() -> Result<()> {
    let shell = Shell::new()?;
    let script = "echo $PINTLE_LOCK $PINTLE_TOKEN; exit 42";
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let output = shell.run(&["lock", "run", "jobs/x", "--", "sh", "-c", script]).await?;
        assert_eq!(output.code, Some(42), "{output:?}");
        let text = String::from_utf8(output.stdout)?;
        let (name, token) = text.trim().split_once(' ').expect("two words");
        assert_eq!(name, "jobs/x");
        tokens.push(token.parse::<u64>()?);
    }
    assert!(tokens[0] < tokens[1], "{tokens:?}");
    let missing = shell.run(&["lock", "run", "x", "--", "/no/such/command"]).await?;
    assert_eq!(missing.code, Some(127), "{missing:?}");
    Ok(())
}

#[tokio::test]
async fn only_one_command_runs_at_a_time() -> Result<()> {
    let shell = Shell::new()?;
    let (_server, _) = shell.serve().await?;
    let script = "echo running; read line";
    let mut first = shell.start(&[
        "lock",
        "run",
        "l",
        "--owner",
        "me",
        "--",
        "sh",
        "-c",
        "echo running; exec sleep 60",
    ])?;
    first.line_with("running").await?;
    let busy = shell.run(&["lock", "run", "l", "--wait", "0s", "--", "sh", "-c", script]).await?;
    assert_eq!(busy.code, Some(4), "{busy:?}");
    assert!(busy.stdout.is_empty() && busy.stderr.contains("me (token"), "{busy:?}");
    let table = shell.run(&["lock", "show", "l"]).await?.text()?;
    assert!(table.contains("holds") && table.contains("me"), "{table}");
    assert!(shell.run(&["lock", "list"]).await?.text()?.contains('l'));

    let mut second = shell.start(&["lock", "run", "l", "--", "echo", "second"])?;
    // Passed on to the command, whose end ends the first one.
    first.signal("TERM")?;
    assert_eq!(first.ended().await?.code(), Some(128 + 15));
    second.line_with("second").await?;
    assert!(second.ended().await?.success());
    let state: LockState = shell.run(&["lock", "show", "l", "-o", "json"]).await?.json()?;
    assert!(state.holders.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_holder_that_was_killed_is_followed_by_one_with_a_higher_token() -> Result<()> {
    let shell = Shell::new()?;
    let (_server, _) = shell.serve().await?;
    let script = "echo $PINTLE_TOKEN; exec sleep 60";
    let first = ["lock", "run", "l", "--ttl", "2s", "--", "sh", "-c", script];
    let mut first = shell.start(&first)?;
    let before: u64 = first.line().await?.parse()?;
    first.signal("KILL")?;
    first.ended().await?;
    // What it ran under the lock does not outlive it.
    assert_eq!(first.rest().await?, "");
    let second = shell.run(&["lock", "run", "l", "--", "sh", "-c", "echo $PINTLE_TOKEN"]).await?;
    let after: u64 = second.text()?.trim().parse()?;
    assert!(after > before, "{after} after {before}");
    Ok(())
}

#[tokio::test]
async fn a_command_is_ended_with_all_that_it_started_when_the_lock_is_lost() -> Result<()> {
    let shell = Shell::new()?;
    let (_server, url) = shell.serve().await?;
    let script = "trap '' TERM; echo running; sleep 60 & wait; sleep 60";
    let run = ["lock", "run", "l", "--ttl", "60s", "--grace", "100ms", "--", "sh", "-c", script];
    let mut running = shell.start(&run)?;
    running.line_with("running").await?;
    let lock = Client::http(&url)?.lock("default");
    let claim = lock.inspect("l").await?.holders.remove(0).claim_id;
    assert!(lock.force_release("l", &claim).await?.released);
    assert_eq!(running.ended().await?.code(), Some(7));
    // Its output is closed only when all that wrote to it is gone.
    within("the end of all", running.rest()).await??;
    Ok(())
}

#[tokio::test]
async fn giving_up_while_waiting_leaves_no_waiter() -> Result<()> {
    let shell = Shell::new()?;
    let (_server, url) = shell.serve().await?;
    let mut holder = shell.start(&["lock", "run", "l", "--", "sh", "-c", "echo go; sleep 60"])?;
    holder.line_with("go").await?;
    let mut waiter = shell.start(&["lock", "run", "l", "--", "true"])?;
    let lock = Client::http(&url)?.lock("default");
    within("the waiter", async {
        while lock.inspect("l").await?.waiters.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::Ok(())
    })
    .await??;
    waiter.signal("INT")?;
    assert_eq!(waiter.ended().await?.code(), Some(128 + 2));
    assert!(lock.inspect("l").await?.waiters.is_empty());
    Ok(())
}
