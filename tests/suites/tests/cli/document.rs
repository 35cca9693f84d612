//! Moving configuration: export, diff, apply; and going back.

use anyhow::Result;
use pintle_client::api::config::{EntriesPage, HistoryPage};
use serde_json::Value;

use crate::shell::Shell;

async fn put(shell: &Shell, key: &str, value: &str) -> Result<()> {
    shell.run(&["config", "put", key, value]).await?.text().map(drop)
}

async fn keys(shell: &Shell, prefix: &str) -> Result<Vec<String>> {
    let page: EntriesPage = shell.run(&["config", "list", prefix, "-o", "json"]).await?.json()?;
    Ok(page.entries.into_iter().map(|entry| entry.key).collect())
}

#[tokio::test]
async fn configuration_is_copied_through_a_pipe_under_another_prefix() -> Result<()> {
    let shell = Shell::new()?;
    shell.run_with(&["config", "put", "app/blob", "-"], b"\xff\x00").await?.text()?;
    put(&shell, "app/db/url", "postgres://").await?;
    for form in ["json", "yaml"] {
        let document = shell.run(&["config", "export", "app", "-o", form]).await?.stdout;
        let apply = ["config", "apply", "-", "--prefix", form];
        let applied = shell.run_with(&apply, &document).await?.text()?;
        assert!(applied.starts_with("2 written, 0 deleted"), "{applied}");
        let blob = shell.run(&["config", "get", &format!("{form}/blob")]).await?;
        assert_eq!(blob.stdout, b"\xff\x00");
        let again = shell.run_with(&apply, &document).await?.text()?;
        assert!(again.starts_with("0 written, 0 deleted, 2 unchanged"), "{again}");
    }
    Ok(())
}

#[tokio::test]
async fn a_folder_is_compared_and_applied_and_only_pruning_deletes() -> Result<()> {
    let shell = Shell::new()?;
    put(&shell, "app/a", "1\n").await?;
    put(&shell, "app/old", "x").await?;
    let folder = shell.path("app").display().to_string();
    shell.run(&["config", "export", "app", "--to", &format!("{folder}/")]).await?.text()?;
    let same = shell.run(&["config", "diff", &folder]).await?;
    assert_eq!((same.code, same.stdout.len()), (Some(0), 1), "{same:?}");

    std::fs::remove_file(shell.path("app/old"))?;
    std::fs::write(shell.path("app/a"), "2\n")?;
    std::fs::create_dir(shell.path("app/new"))?;
    std::fs::write(shell.path("app/new/key"), "y")?;
    let diff = shell.run(&["config", "diff", &folder]).await?;
    assert_eq!(diff.code, Some(1), "{diff:?}");
    let text = String::from_utf8(diff.stdout)?;
    for line in ["-1", "+2", "+++ b/app/new/key", "--- a/app/old"] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    let dry =
        shell.run(&["config", "apply", &folder, "--prune", "--dry-run", "-o", "json"]).await?;
    let summary: Value = dry.json()?;
    assert_eq!(summary["changes"].as_array().map(Vec::len), Some(3), "{summary}");
    assert_eq!(keys(&shell, "app").await?, ["app/a", "app/old"]);

    shell.run(&["config", "apply", &folder]).await?.text()?;
    assert_eq!(keys(&shell, "app").await?, ["app/a", "app/new/key", "app/old"]);
    let pruned = shell.run(&["config", "apply", &folder, "--prune"]).await?.text()?;
    assert!(pruned.starts_with("0 written, 1 deleted"), "{pruned}");
    assert_eq!(keys(&shell, "app").await?, ["app/a", "app/new/key"]);
    Ok(())
}

#[tokio::test]
async fn nothing_is_written_when_one_value_is_not_what_it_says() -> Result<()> {
    let shell = Shell::new()?;
    let folder = shell.path("app");
    std::fs::create_dir(&folder)?;
    for (name, text) in [
        ("a", "fine"),
        ("b.json", "{\"x\":"),
        ("c.yaml", "x: [1"),
        ("d.toml", "x ="),
        ("e.json", "{}"),
    ] {
        std::fs::write(folder.join(name), text)?;
    }
    let folder = folder.display().to_string();
    let apply = ["config", "apply", &folder, "--prefix", "app"];
    let refused = shell.run(&apply).await?;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    for key in ["app/b.json", "app/c.yaml", "app/d.toml"] {
        assert!(refused.stderr.contains(key), "{key}: {refused:?}");
    }
    assert!(!refused.stderr.contains("e.json"), "{refused:?}");
    assert!(keys(&shell, "app").await?.is_empty());
    shell.run(&[&apply[..], &["--unchecked"]].concat()).await?.text()?;
    assert_eq!(keys(&shell, "app").await?.len(), 5);
    let typed = ["config", "put", "x", "{", "--content-type", "application/json"];
    assert_eq!(shell.run(&typed).await?.code, Some(2));
    Ok(())
}

#[tokio::test]
async fn more_changes_than_one_transaction_takes_are_made_one_by_one() -> Result<()> {
    let shell = Shell::new()?;
    let entries: Vec<Value> = (0..300)
        .map(|number| serde_json::json!({ "key": format!("k/{number:03}"), "value": "v" }))
        .collect();
    let document =
        serde_json::json!({ "pintle": "config/v1", "prefix": "many", "entries": entries });
    let text = document.to_string();
    let applied = shell.run_with(&["config", "apply", "-"], text.as_bytes()).await?.text()?;
    assert!(applied.starts_with("300 written"), "{applied}");
    assert_eq!(keys(&shell, "many").await?.len(), 300);
    Ok(())
}

#[tokio::test]
async fn an_earlier_value_comes_back_and_the_past_is_kept() -> Result<()> {
    let shell = Shell::new()?;
    for value in ["one", "two", "three"] {
        put(&shell, "a", value).await?;
    }
    let history: HistoryPage =
        shell.run(&["config", "history", "a", "-o", "json"]).await?.json()?;
    assert_eq!(history.revisions.len(), 3);
    let first = &history.revisions[2].version;
    let dry = shell.run(&["config", "rollback", "a", "--to", first, "--dry-run"]).await?;
    assert!(dry.stderr.contains("-three") && dry.stderr.contains("+one"), "{dry:?}");
    shell.run(&["config", "rollback", "a", "--to", first]).await?.text()?;
    assert_eq!(shell.run(&["config", "get", "a"]).await?.text()?, "one");
    shell.run(&["config", "rollback", "a"]).await?.text()?;
    assert_eq!(shell.run(&["config", "get", "a"]).await?.text()?, "three");
    let unknown = shell.run(&["config", "rollback", "a", "--to", "nope"]).await?;
    assert_eq!(unknown.code, Some(3), "{unknown:?}");
    Ok(())
}

#[tokio::test]
async fn an_editor_changes_a_value_and_nothing_that_was_written_is_lost() -> Result<()> {
    let shell = Shell::new()?;
    put(&shell, "a.json", "{\"x\": 1}").await?;
    let edit = async |script: &str| -> Result<std::process::Output> {
        let editor = shell.path("editor");
        std::fs::write(&editor, format!("#!/bin/sh\n{script}\n"))?;
        std::fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let mut command = shell.command(&["config", "edit", "a.json"]);
        Ok(command.env("EDITOR", &editor).env("TMPDIR", shell.path("")).output().await?)
    };
    let same = edit("true").await?;
    assert!(String::from_utf8_lossy(&same.stdout).contains("as it was"), "{same:?}");
    assert!(edit("sed -i s/1/2/ $1").await?.status.success());
    assert_eq!(shell.run(&["config", "get", "a.json"]).await?.text()?, "{\"x\": 2}");
    let broken = edit("echo '{' > $1").await?;
    assert_eq!(broken.status.code(), Some(2), "{broken:?}");
    let text = String::from_utf8_lossy(&broken.stderr).into_owned();
    let kept = text.lines().find_map(|line| line.strip_prefix("what you wrote is in "));
    let kept = kept.unwrap_or_default();
    assert_eq!(std::fs::read_to_string(kept)?, "{\n", "{text}");
    assert_eq!(shell.run(&["config", "get", "a.json"]).await?.text()?, "{\"x\": 2}");
    Ok(())
}

#[tokio::test]
async fn a_transaction_happens_as_a_whole_or_says_what_stood_in_its_way() -> Result<()> {
    let shell = Shell::new()?;
    let txn = br#"{"conditions":[{"key":"a","expect":"absent"}],
        "ops":[{"op":"put","key":"a","value":"1"},{"op":"put","key":"b","value":"2"}]}"#;
    let done = shell.run_with(&["config", "txn", "-"], txn).await?.text()?;
    assert!(done.contains("put") && done.contains('b'), "{done}");
    let again = shell.run_with(&["config", "txn", "-"], txn).await?;
    assert_eq!(again.code, Some(4), "{again:?}");
    assert!(again.stderr.contains("a: version"), "{again:?}");
    let wrong = shell.run_with(&["config", "txn", "-"], b"{").await?;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    let tree = shell.run(&["config", "tree"]).await?.text()?;
    assert_eq!(tree, "/\n├── a  1\n└── b  2\n");
    Ok(())
}
