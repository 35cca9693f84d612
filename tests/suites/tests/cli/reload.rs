//! `pintle plugin accept` and `diff`, `pintle backend restart`, and what a server says that could
//! not release everything.

use anyhow::Result;
use pintle_test_suites::{
    built,
    hostile::bytes::{hostile, variant},
    within,
};

use crate::shell::Shell;

#[tokio::test]
async fn two_files_of_a_plugin_are_compared_before_one_takes_over() -> Result<()> {
    let shell = Shell::new()?;
    let (old, new) = (shell.path("old.wasm"), shell.path("new.wasm"));
    let local = std::fs::read(built("plugins").join("local.wasm"))?;
    std::fs::write(&old, &local)?;
    std::fs::write(&new, variant(&local, "newer"))?;
    let (old, new) = (old.display().to_string(), new.display().to_string());
    let same = shell.run(&["plugin", "diff", &old, &new]).await?.text()?;
    assert!(same.contains("it may take over by itself"), "{same}");
    std::fs::write(&new, hostile()?)?;
    let other = shell.run(&["plugin", "diff", &old, &new]).await?;
    assert_eq!(other.code, Some(1), "{other:?}");
    let text = String::from_utf8(other.stdout)?;
    assert!(text.contains("it has to be accepted: it imports also"), "{text}");
    assert!(text.contains("features: - config.linearizable"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_running_server_accepts_a_file_and_restarts_a_backend() -> Result<()> {
    let shell = Shell::new()?;
    let (_server, _) = shell.serve().await?;
    shell.run(&["config", "put", "a", "kept"]).await?.text()?;
    let wrong = shell.run(&["plugin", "accept", "local", "--sha256", &"0".repeat(64)]).await?;
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    let local = std::fs::read(built("plugins").join("local.wasm"))?;
    let unfinished = shell.path("unfinished");
    std::fs::write(&unfinished, variant(&local, "accepted"))?;
    std::fs::rename(unfinished, shell.plugins_dir().join("local.wasm"))?;
    let accepted = shell.run(&["plugin", "accept", "local"]).await?.text()?;
    assert!(accepted.contains("is accepted, sha256"), "{accepted}");
    assert_eq!(shell.run(&["config", "get", "a"]).await?.text()?, "kept");
    shell.run(&["backend", "restart", "local"]).await?.text()?;
    assert_eq!(shell.run(&["config", "get", "a"]).await?.text()?, "kept");
    let unknown = shell.run(&["backend", "restart", "etcd"]).await?;
    assert_eq!(unknown.code, Some(3), "{unknown:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_could_not_release_everything_says_so_with_its_exit_code() -> Result<()> {
    let shell = Shell::new()?;
    std::fs::write(shell.plugins_dir().join("hostile.wasm"), hostile()?)?;
    let file = shell.path("pintle.toml");
    let data_dir = shell.path("hostile").display().to_string();
    let text = format!(
        "[backends.stubborn]\nplugin = \"hostile\"\ndata_dir = {data_dir:?}\n\
         limits = {{ more = {{ stop_timeout = \"200ms\", call_grace = \"100ms\" }} }}\n\
         settings = {{ behaviour = \"never-in\", export = \"lifecycle.stop\" }}\n"
    );
    std::fs::write(&file, text)?;
    let file = file.display().to_string();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "-o", "json", "--settings", &file];
    let mut command = shell.command(&arguments);
    let mut server = command.stderr(std::process::Stdio::piped()).spawn()?;
    let stdout = server.stdout.take().expect("standard output");
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(stdout));
    within("the service", lines.next_line()).await??;
    let pid = server.id().expect("it runs").to_string();
    std::process::Command::new("kill").args(["-s", "TERM", &pid]).status()?;
    let output = within("the end", server.wait_with_output()).await??;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the plugins of stubborn still held"), "{said}");
    Ok(())
}
