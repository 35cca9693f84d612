//! `pintle registry`.

use anyhow::Result;

use crate::shell::Shell;

#[tokio::test]
async fn an_instance_is_registered_while_its_command_runs() -> Result<()> {
    let shell = Shell::new()?;
    let (_server, _) = shell.serve().await?;
    let mut watch = shell.start(&["registry", "watch", "web"])?;
    watch.line_with("snapshot-end").await?;
    let script = "echo $PINTLE_SERVICE $PINTLE_INSTANCE; exec sleep 60";
    let run = ["registry", "run", "web", "--address", "127.0.0.1:8080", "--label", "tier=front"];
    let run = [&run[..], &["--", "sh", "-c", script]].concat();
    let mut instance = shell.start(&run)?;
    assert_eq!(instance.line().await?, "web 127.0.0.1:8080");
    watch.line_with("put").await?;
    let table = shell.run(&["registry", "list", "web"]).await?.text()?;
    assert!(table.contains("127.0.0.1:8080") && table.contains("enabled"), "{table}");
    assert!(shell.run(&["registry", "services"]).await?.text()?.contains("web"));
    let twice = shell.run(&run).await?;
    assert_eq!(twice.code, Some(4), "{twice:?}");

    instance.signal("TERM")?;
    assert_eq!(instance.ended().await?.code(), Some(128 + 15));
    watch.line_with("removed").await?;
    Ok(())
}
