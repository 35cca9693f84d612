//! `pintle config`.

use anyhow::{Context, Result};
use pintle_client::api::config::{EntriesPage, Entry};

use crate::shell::Shell;

#[tokio::test]
async fn what_one_command_writes_the_next_one_reads() -> Result<()> {
    let shell = Shell::new()?;
    let put = shell.run(&["config", "put", "app/greeting", "hello"]).await?;
    assert!(put.text()?.contains("app/greeting is at version"));
    assert_eq!(shell.run(&["config", "get", "app/greeting"]).await?.text()?, "hello");
    let entry: Entry = shell.run(&["config", "get", "app/greeting", "-o", "json"]).await?.json()?;
    assert_eq!(entry.value.value.as_deref(), Some("hello"));

    let table = shell.run(&["config", "list"]).await?.text()?;
    assert!(table.starts_with("KEY"), "{table}");
    assert!(table.contains("app/greeting") && table.contains("hello"), "{table}");

    assert_eq!(shell.run(&["config", "delete", "app/greeting"]).await?.code, Some(0));
    for gone in [["config", "delete", "app/greeting"], ["config", "get", "app/greeting"]] {
        let output = shell.run(&gone).await?;
        assert_eq!(output.code, Some(3), "{output:?}");
        assert!(output.stdout.is_empty() && output.stderr.contains("app/greeting"), "{output:?}");
    }
    Ok(())
}

#[tokio::test]
async fn values_come_from_standard_input_or_a_file_byte_for_byte() -> Result<()> {
    let shell = Shell::new()?;
    let bytes = b"\x00\xff\nno newline at the end";
    assert_eq!(shell.run_with(&["config", "put", "a", "-"], bytes).await?.code, Some(0));
    assert_eq!(shell.run(&["config", "get", "a"]).await?.stdout, bytes);
    let file = shell.path("value");
    std::fs::write(&file, bytes)?;
    let argument = format!("@{}", file.display());
    assert_eq!(shell.run(&["config", "put", "b", &argument]).await?.code, Some(0));
    assert_eq!(shell.run(&["config", "get", "b"]).await?.stdout, bytes);
    assert_eq!(shell.run(&["config", "put", "c", "@", "--literal"]).await?.code, Some(0));
    assert_eq!(shell.run(&["config", "get", "c"]).await?.stdout, b"@");
    let missing = shell.run(&["config", "put", "d", "@/no/such/file"]).await?;
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.contains("/no/such/file"), "{missing:?}");
    Ok(())
}

#[tokio::test]
async fn a_lost_race_has_its_own_exit_code_and_says_what_is_there() -> Result<()> {
    let shell = Shell::new()?;
    let create = ["config", "put", "a", "first", "--if-absent"];
    assert_eq!(shell.run(&create).await?.code, Some(0));
    let again = shell.run(&create).await?;
    assert_eq!(again.code, Some(4));
    assert!(again.stderr.contains("first"), "{again:?}");
    let entry: Entry = shell.run(&["config", "get", "a", "-o", "json"]).await?.json()?;
    let update = ["config", "put", "a", "second", "--if-version", &entry.version];
    assert_eq!(shell.run(&update).await?.code, Some(0));
    assert_eq!(shell.run(&update).await?.code, Some(4));
    Ok(())
}

#[tokio::test]
async fn json_is_exact_where_a_table_is_short() -> Result<()> {
    let shell = Shell::new()?;
    let (mut server, _) = shell.serve().await?;
    let long = "x".repeat(500);
    for key in ["p/a", "p/b", "q"] {
        shell.run(&["config", "put", key, &long]).await?.text()?;
    }
    let page: EntriesPage = shell.run(&["config", "list", "p", "-o", "json"]).await?.json()?;
    let keys: Vec<_> = page.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["p/a", "p/b"]);
    assert_eq!(page.entries[0].value.value.as_deref(), Some(long.as_str()));
    assert!(!shell.run(&["config", "list"]).await?.text()?.contains(&long));
    let deleted = shell.run(&["config", "delete", "p", "--prefix"]).await?.text()?;
    assert!(deleted.starts_with("2 keys"), "{deleted}");
    server.signal("TERM")?;
    assert!(server.ended().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_watch_prints_a_line_for_each_event() -> Result<()> {
    let shell = Shell::new()?;
    let (_server, _) = shell.serve().await?;
    shell.run(&["config", "put", "app/a", "one"]).await?.text()?;
    let mut text = shell.start(&["config", "watch", "--prefix", "app"])?;
    let mut json = shell.start(&["config", "watch", "app/a", "-o", "json"])?;
    text.line_with("snapshot-end").await?;
    json.line_with("snapshot-end").await?;
    shell.run(&["config", "put", "app/a", "two\nlines"]).await?.text()?;
    let line = text.line().await?;
    assert!(line.starts_with("put") && line.contains("two\\nlines"), "{line}");
    let event: serde_json::Value = serde_json::from_str(&json.line().await?)?;
    assert_eq!((&event["event"], &event["entry"]["value"]), (&"put".into(), &"two\nlines".into()));
    text.signal("INT")?;
    assert!(text.ended().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_watch_from_a_version_prints_what_changed_since() -> Result<()> {
    let shell = Shell::new()?;
    let (_server, _) = shell.serve().await?;
    shell.run(&["config", "put", "app/a", "one"]).await?.text()?;
    let page: EntriesPage = shell.run(&["config", "list", "-o", "json"]).await?.json()?;
    let version = page.version.context("a version")?;
    shell.run(&["config", "put", "app/a", "two"]).await?.text()?;
    shell.run(&["config", "delete", "app/a"]).await?.text()?;
    let mut watch =
        shell.start(&["config", "watch", "--prefix", "app", "--from-version", &version])?;
    let line = watch.line().await?;
    assert!(line.starts_with("put") && line.contains("two"), "{line}");
    let line = watch.line().await?;
    assert!(line.starts_with("removed") && line.contains("app/a"), "{line}");
    Ok(())
}
