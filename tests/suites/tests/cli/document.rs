//! Moving configuration: export, diff, apply; and going back.

use anyhow::Result;
use pintle_client::api::config::{EntriesPage, Entry, HistoryPage};
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
async fn media_types_are_compared_kept_and_copied() -> Result<()> {
    let shell = Shell::new()?;
    let typed = ["config", "put", "app/a", "{}", "--content-type", "application/json"];
    shell.run(&typed).await?.text()?;
    put(&shell, "app/b", "1").await?;
    let document = shell.run(&["config", "export", "app"]).await?.stdout;
    let copied = shell.run_with(&["config", "apply", "-", "--prefix", "copy"], &document).await?;
    assert!(copied.text()?.starts_with("2 written"));
    let content_type = async |key: &str| -> Result<Option<String>> {
        let entry: Entry = shell.run(&["config", "get", key, "-o", "json"]).await?.json()?;
        Ok(entry.content_type)
    };
    assert_eq!(content_type("copy/a").await?.as_deref(), Some("application/json"));

    let plain =
        br#"{"pintle": "config/v1", "prefix": "app", "entries": [{"key": "a", "value": "[]"},
        {"key": "b", "value": "1", "content_type": "text/plain"}]}"#;
    let diff = shell.run_with(&["config", "diff", "-"], plain).await?;
    let text = String::from_utf8(diff.stdout)?;
    assert!(text.contains("media type: none -> text/plain"), "{text}");
    let applied = shell.run_with(&["config", "apply", "-"], plain).await?.text()?;
    assert!(applied.starts_with("2 written"), "{applied}");
    assert_eq!(content_type("app/a").await?.as_deref(), Some("application/json"));
    assert_eq!(content_type("app/b").await?.as_deref(), Some("text/plain"));
    Ok(())
}

#[tokio::test]
async fn nothing_is_deleted_because_of_a_source_that_is_probably_wrong() -> Result<()> {
    let shell = Shell::new()?;
    put(&shell, "a", "1").await?;
    let empty = br#"{"pintle": "config/v1", "prefix": "", "entries": []}"#;
    let plain = shell.path("plain");
    std::fs::create_dir(&plain)?;
    std::fs::write(plain.join("b"), "2")?;
    let plain = plain.display().to_string();
    for source in ["-", &plain] {
        let refused = shell.run_with(&["config", "apply", source, "--prune"], empty).await?;
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains("--yes"), "{refused:?}");
    }
    let all = shell.run(&["config", "delete", "", "--prefix"]).await?;
    assert_eq!(all.code, Some(2), "{all:?}");
    assert_eq!(keys(&shell, "").await?, ["a"]);

    let pruned = shell.run(&["config", "apply", &plain, "--prune", "--yes"]).await?;
    // What was deleted is shown.
    assert!(pruned.stderr.contains("--- a/a") && pruned.stderr.contains("-1"), "{pruned:?}");
    assert_eq!(keys(&shell, "").await?, ["b"]);
    shell.run(&["config", "delete", "", "--prefix", "--yes"]).await?.text()?;
    let nothing = shell.run(&["config", "export", "app"]).await?;
    assert!(nothing.stderr.contains("no keys below \"app\""), "{nothing:?}");
    Ok(())
}

#[tokio::test]
async fn a_key_that_cannot_be_is_told_before_anything_is_written() -> Result<()> {
    let shell = Shell::new()?;
    let document = br#"{"pintle": "config/v1", "prefix": "app", "entries": [
        {"key": "a", "value": "1"}, {"key": "b//c", "value": "2"}, {"key": "50%", "value": "3"}]}"#;
    let refused = shell.run_with(&["config", "apply", "-"], document).await?;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    for key in ["app/b//c", "app/50%"] {
        assert!(refused.stderr.contains(key), "{key}: {refused:?}");
    }
    assert_eq!(keys(&shell, "").await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn programs_hear_also_of_what_did_not_change_or_would() -> Result<()> {
    let shell = Shell::new()?;
    put(&shell, "a", "1").await?;
    put(&shell, "a", "2").await?;
    let facts = async |arguments: &[&str]| -> Result<Value> {
        let mut command = shell.command(&[arguments, &["-o", "json"]].concat());
        let output = command.env("EDITOR", "true").output().await?;
        anyhow::ensure!(output.status.success(), "{output:?}");
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let dry = facts(&["config", "rollback", "a", "--dry-run"]).await?;
    assert_eq!((&dry["changed"], &dry["dry_run"]), (&true.into(), &true.into()), "{dry}");
    let back = facts(&["config", "rollback", "a"]).await?;
    assert_eq!(back["changed"], true, "{back}");
    let version = back["version"].as_str().unwrap_or_default();
    let again = facts(&["config", "rollback", "a", "--to", version]).await?;
    assert_eq!((&again["changed"], &again["version"]), (&false.into(), &version.into()), "{again}");
    assert_eq!(facts(&["config", "edit", "a"]).await?["changed"], false);
    let to = shell.path("out.json").display().to_string();
    let exported = facts(&["config", "export", "--to", &to]).await?;
    assert_eq!((&exported["keys"], &exported["to"]), (&1.into(), &to.into()), "{exported}");
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
    let same = edit("echo >> $1").await?;
    assert!(String::from_utf8_lossy(&same.stdout).contains("as it was"), "{same:?}");
    // Ctrl-C is the editor's; and it ends the last line, which was not ended.
    assert!(edit("kill -INT $PPID; sed -i s/1/2/ $1; echo >> $1").await?.status.success());
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
