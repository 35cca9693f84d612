//! `pintle serve`, and how commands find it.

use anyhow::{Context, Result};
use pintle_test_suites::within;
use tokio::io::AsyncBufReadExt;

use crate::shell::{Running, Shell, signal};

#[tokio::test]
async fn a_running_server_is_found_and_a_stopped_one_leaves_nothing() -> Result<()> {
    let shell = Shell::new()?;
    let file = shell.data_dir().join("run/server.json");
    let (mut server, url) = shell.serve().await?;
    assert!(std::fs::read_to_string(&file)?.contains(&url));
    shell.run(&["config", "put", "a", "through the server"]).await?.text()?;
    let named = shell.run(&["--server", &url, "config", "get", "a"]).await?;
    assert_eq!(named.text()?, "through the server");
    server.signal("TERM")?;
    assert!(server.ended().await?.success());
    assert!(!file.exists());
    assert_eq!(shell.run(&["config", "get", "a"]).await?.text()?, "through the server");
    let gone = shell.run(&["--server", &url, "config", "get", "a"]).await?;
    assert_eq!(gone.code, Some(5), "{gone:?}");
    assert!(gone.stderr.contains("pintle serve"), "{gone:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_whose_greeting_nobody_reads_serves_and_stops_as_any_other() -> Result<()> {
    let shell = Shell::new()?;
    let file = shell.data_dir().join("run/server.json");
    let Running { child: mut server, lines } =
        shell.start(&["serve", "--listen", "127.0.0.1:0"])?;
    // As `pintle serve | head -0`.
    drop(lines);
    within("the server", async {
        while !std::fs::read_to_string(&file).is_ok_and(|text| text.contains("serving")) {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    shell.run(&["config", "put", "a", "1"]).await?.text()?;
    assert!(server.try_wait()?.is_none() && file.exists());
    signal(&server, "TERM")?;
    assert!(within("its end", server.wait()).await??.success());
    assert!(!file.exists());
    Ok(())
}

#[tokio::test]
async fn a_log_filter_that_is_none_is_refused_and_not_passed_over() -> Result<()> {
    let shell = Shell::new()?;
    for verb in [&["serve", "--listen", "127.0.0.1:0"][..], &["config", "list"]] {
        let mut command = shell.command(verb);
        let output = within("its refusal", command.env("PINTLE_LOG", "loud").output()).await??;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("PINTLE_LOG") && stderr.contains("debug"), "{stderr}");
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_server_loses_nothing_and_its_traces_mislead_nobody() -> Result<()> {
    let shell = Shell::new()?;
    let (mut server, _) = shell.serve().await?;
    for count in 0..20 {
        shell.run(&["config", "put", &format!("k/{count}"), "v"]).await?.text()?;
    }
    server.signal("KILL")?;
    server.ended().await?;
    assert!(shell.data_dir().join("run/server.json").exists());
    let list = shell.run(&["config", "list", "k"]).await?.text()?;
    assert_eq!(list.lines().count(), 21, "{list}");
    let (_again, _) = shell.serve().await?;
    assert_eq!(shell.run(&["config", "get", "k/7"]).await?.text()?, "v");
    Ok(())
}

#[tokio::test]
async fn a_command_waits_for_a_server_that_is_starting() -> Result<()> {
    let shell = Shell::new()?;
    let start = |arguments: &[&str]| {
        let mut command = shell.command(arguments);
        // With nothing compiled it takes a while.
        command.env("PINTLE_PLUGINS__CACHE_DIR", shell.path("cache")).spawn()
    };
    let mut server = start(&["serve", "--listen", "127.0.0.1:0"])?;
    let file = shell.data_dir().join("run/server.json");
    within("the server's file", async {
        while !std::fs::read_to_string(&file).is_ok_and(|text| text.contains("starting")) {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    let put = start(&["config", "put", "a", "patient"])?;
    let output = within("the command", put.wait_with_output()).await??;
    assert!(output.status.success(), "{output:?}");
    assert!(std::fs::read_to_string(&file)?.contains("serving"));
    assert!(server.try_wait()?.is_none());
    assert_eq!(shell.run(&["config", "get", "a"]).await?.text()?, "patient");
    Ok(())
}

/// What the compiler's allocator takes in advance does not count.
#[tokio::test]
async fn the_least_memory_to_compile_with_is_enough_for_a_small_plugin() -> Result<()> {
    let shell = Shell::with_plugins(&["fixtures/memory"])?;
    let mut put = shell.command(&["config", "put", "a", "1"]);
    put.env("PINTLE_PLUGINS__CACHE_DIR", shell.path("cache"))
        .env("PINTLE_PLUGINS__LIMITS__COMPILE_MEMORY", "256MiB")
        .env("PINTLE_BACKENDS__MAIN__PLUGIN", "memory");
    let output = within("the command", put.output()).await??;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
    Ok(())
}

#[tokio::test]
async fn a_second_server_on_the_same_data_is_told_of_the_first() -> Result<()> {
    let shell = Shell::new()?;
    let (_server, url) = shell.serve().await?;
    let second = shell.run(&["serve", "--listen", "127.0.0.1:0"]).await?;
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains(&url) && second.stderr.contains("data_dir"), "{second:?}");
    shell.run(&["config", "put", "a", "still found"]).await?.text()?;
    Ok(())
}

#[tokio::test]
async fn an_address_that_cannot_be_used_is_named_with_the_remedy() -> Result<()> {
    let shell = Shell::new()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let output = shell.run(&["serve", "--listen", &address]).await?;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains(&address) && output.stderr.contains("--listen"), "{output:?}");
    let open = shell.run(&["serve", "--listen", "0.0.0.0:0"]).await?;
    assert_eq!(open.code, Some(2), "{open:?}");
    assert!(open.stderr.contains("[server.tls]"), "{open:?}");
    Ok(())
}

#[tokio::test]
async fn a_second_signal_stops_a_server_that_waits_for_holders() -> Result<()> {
    let shell = Shell::new()?;
    let (mut server, url) = shell.serve().await?;
    // A holder that never hears of anything.
    let lease = pintle_client::lock::LeaseName { lock: "l".into(), id: "deaf".into() };
    let acquire = pintle_client::api::lock::Acquire::default();
    pintle_client::Client::http(&url)?.lock("default").put(&lease, &acquire).await?;
    server.signal("TERM")?;
    // It is stopping: new leases are refused.
    let other = pintle_client::lock::LeaseName { lock: "m".into(), id: "late".into() };
    let client = pintle_client::Client::http(&url)?;
    while client.lock("default").put(&other, &acquire).await.is_ok() {}
    // And it answers: whoever lost a lease may have last words to write.
    shell.run(&["config", "put", "state", "aborted"]).await?.text()?;
    server.signal("TERM")?;
    assert_eq!(server.ended().await?.code(), Some(128 + 15));
    Ok(())
}

/// The lock and the file that a server has while it runs, without one.
fn pretend(shell: &Shell, state: &str, url: &str) -> Result<std::fs::File> {
    let folder = shell.data_dir().join("run");
    std::fs::create_dir_all(&folder)?;
    let lock = std::fs::File::create(folder.join("server.lock"))?;
    let record = serde_json::json!({
        // A living process, as a number that was given away again may be.
        "url": url, "pid": std::process::id(), "started_ms": 0, "state": state,
    });
    std::fs::write(folder.join("server.json"), record.to_string())?;
    Ok(lock)
}

#[tokio::test]
async fn what_a_killed_server_left_behind_holds_up_no_command() -> Result<()> {
    let shell = Shell::new()?;
    for state in ["starting", "serving", "stopping"] {
        pretend(&shell, state, "http://127.0.0.1:9")?;
        let put = shell.run(&["config", "put", "a", state]).await?;
        assert_eq!((put.code, put.stderr.as_str()), (Some(0), ""), "{state}");
    }
    Ok(())
}

#[tokio::test]
async fn a_command_waits_without_knocking_and_goes_on_when_the_server_is_gone() -> Result<()> {
    for state in ["starting", "stopping"] {
        let shell = Shell::new()?;
        let door = std::net::TcpListener::bind("127.0.0.1:0")?;
        door.set_nonblocking(true)?;
        let lock = pretend(&shell, state, &format!("http://{}", door.local_addr()?))?;
        lock.lock()?;
        let mut put = shell.command(&["config", "put", "a", "1"]).spawn()?;
        let mut told = tokio::io::BufReader::new(put.stderr.take().context("stderr")?);
        let mut line = String::new();
        within("a word", told.read_line(&mut line)).await??;
        assert!(line.contains(&format!("is {state}; waiting for it")), "{line}");
        assert!(door.accept().is_err(), "a server that is {state} was connected to");
        lock.unlock()?;
        assert!(within("the command", put.wait()).await??.success());
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_begins_to_stop_is_waited_for() -> Result<()> {
    let shell = Shell::new()?;
    // Says that it serves, and refuses.
    let lock = pretend(&shell, "serving", "http://127.0.0.1:9")?;
    lock.lock()?;
    let mut put = shell.command(&["config", "put", "a", "1"]).spawn()?;
    let mut told = tokio::io::BufReader::new(put.stderr.take().context("stderr")?);
    let mut line = String::new();
    within("a word", told.read_line(&mut line)).await??;
    assert!(line.contains("not answering; waiting for it"), "{line}");
    lock.unlock()?;
    assert!(within("the command", put.wait()).await??.success());
    Ok(())
}
