//! `pintle lock`.

use std::process::Stdio;

use anyhow::{Context, Result};
use pintle_client::{Client, api::lock::LockState, lock::Lock};
use pintle_test_suites::{eventually, within};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::Command,
};

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

/// Until somebody waits for the lock `l`.
async fn somebody_waits(lock: &Lock) -> Result<()> {
    eventually(
        "a waiter",
        async || Ok((!lock.inspect("l").await?.waiters.is_empty()).then_some(())),
    )
    .await
}

#[tokio::test]
async fn giving_up_while_waiting_leaves_no_waiter() -> Result<()> {
    let shell = Shell::new()?;
    let (_server, url) = shell.serve().await?;
    let mut holder = shell.start(&["lock", "run", "l", "--", "sh", "-c", "echo go; sleep 60"])?;
    holder.line_with("go").await?;
    let mut waiter = shell.start(&["lock", "run", "l", "--", "true"])?;
    let lock = Client::http(&url)?.lock("default");
    somebody_waits(&lock).await?;
    waiter.signal("TERM")?;
    assert_eq!(waiter.ended().await?.code(), Some(128 + 15));
    assert!(lock.inspect("l").await?.waiters.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_command_is_ended_with_its_lock_also_when_nobody_can_be_told() -> Result<()> {
    let shell = Shell::new()?;
    let (_server, url) = shell.serve().await?;
    let run = ["lock", "run", "l", "--grace", "100ms", "--", "sh", "-c", "echo go; exec sleep 60"];
    let mut holder = shell.command(&run).spawn()?;
    // Whoever read what it says has died.
    drop(holder.stderr.take());
    let mut stdout = BufReader::new(holder.stdout.take().context("standard output")?);
    let mut line = String::new();
    within("the command", stdout.read_line(&mut line)).await??;
    let lock = Client::http(&url)?.lock("default");
    let claim = lock.inspect("l").await?.holders.remove(0).claim_id;
    assert!(lock.force_release("l", &claim).await?.released);
    assert_eq!(within("its end", holder.wait()).await??.code(), Some(7));
    let mut rest = String::new();
    within("the end of the command", stdout.read_to_string(&mut rest)).await??;
    Ok(())
}

#[tokio::test]
async fn who_waits_for_a_lock_waits_on_while_the_server_is_started_again() -> Result<()> {
    let shell = Shell::new()?;
    let (mut server, url) = shell.serve().await?;
    let mut holder = shell.start(&["lock", "run", "l", "--", "sh", "-c", "echo go; sleep 60"])?;
    holder.line_with("go").await?;
    let mut waiter = shell.command(&["lock", "run", "l", "--", "echo", "mine"]).spawn()?;
    let lock = Client::http(&url)?.lock("default");
    somebody_waits(&lock).await?;
    server.signal("TERM")?;
    let mut told = BufReader::new(waiter.stderr.take().context("standard error")?).lines();
    let line = within("a word", told.next_line()).await??.context("a line")?;
    assert!(line.contains("still waiting"), "{line}");
    assert!(server.ended().await?.success());
    assert_eq!(holder.ended().await?.code(), Some(7));
    // With another address, and with another secret for its owner.
    let (_server, _) = shell.serve().await?;
    let output = within("the waiter", waiter.wait_with_output()).await??;
    assert_eq!((output.status.code(), output.stdout), (Some(0), b"mine\n".to_vec()));
    Ok(())
}

#[tokio::test]
async fn a_wait_with_an_end_ends_without_a_server() -> Result<()> {
    let shell = Shell::new()?;
    let run = ["--server", "http://127.0.0.1:9", "lock", "run", "l", "--wait", "300ms"];
    let output = shell.run(&[&run[..], &["--", "true"]].concat()).await?;
    assert_eq!(output.code, Some(5), "{output:?}");
    assert_eq!(output.stderr.matches("still waiting").count(), 1, "{output:?}");
    Ok(())
}

#[tokio::test]
async fn signals_that_were_to_be_ignored_stay_ignored() -> Result<()> {
    let shell = Shell::new()?;
    // As `nohup` does.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(shell.program());
    command.args(["lock", "run", "l", "--", "sh", "-c", "echo go; exec sleep 60"]);
    command.envs(shell.environment()).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = shell.running(command)?;
    running.line_with("go").await?;
    running.signal("HUP")?;
    running.signal("TERM")?;
    assert_eq!(running.ended().await?.code(), Some(128 + 15));
    Ok(())
}

#[tokio::test]
async fn a_lock_without_a_token_does_not_show_that_of_another() -> Result<()> {
    let shell = Shell::new()?;
    let script = "echo $PINTLE_LOCK[$PINTLE_TOKEN$PINTLE_TOKEN_EPOCH]";
    for how in [&["--shared"][..], &["--permits", "2"]] {
        let run = [&["lock", "run", "l"][..], how, &["--", "sh", "-c", script]].concat();
        let mut command = shell.command(&run);
        command.env("PINTLE_TOKEN", "7").env("PINTLE_TOKEN_EPOCH", "x");
        let output = within("its end", command.output()).await??;
        assert_eq!(String::from_utf8_lossy(&output.stdout), "l[]\n", "{output:?}");
    }
    Ok(())
}
