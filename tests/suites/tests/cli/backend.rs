//! `pintle backend`, `plugin` and `settings`.

use anyhow::Result;
use pintle_client::api::{backend::Backends, plugin::Plugin};

use crate::shell::Shell;

#[tokio::test]
async fn without_settings_there_is_the_backend_local() -> Result<()> {
    let shell = Shell::new()?;
    let backends: Backends = shell.run(&["backend", "list", "-o", "json"]).await?.json()?;
    assert_eq!(backends.backends.len(), 1);
    assert_eq!(backends.backends[0].default_for, ["config", "registry", "lock", "tracing"]);
    let check = shell.run(&["backend", "check"]).await?.text()?;
    assert!(check.contains("local") && check.contains("serving"), "{check}");
    let plugin: Plugin = shell.run(&["plugin", "inspect", "local", "-o", "json"]).await?.json()?;
    assert!(plugin.single_writer && plugin.data_directory);
    assert!(shell.run(&["plugin", "list"]).await?.text()?.contains("local"));
    let unknown = shell.run(&["config", "get", "a", "-b", "etcd"]).await?;
    assert_eq!(unknown.code, Some(3), "{unknown:?}");
    assert!(unknown.stderr.contains("local"), "{unknown:?}");
    Ok(())
}

#[tokio::test]
async fn wrong_settings_are_refused_with_file_line_and_what_was_meant() -> Result<()> {
    let shell = Shell::new()?;
    let file = shell.path("wrong.toml");
    std::fs::write(&file, "[server]\nlisten = \"127.0.0.1:1\"\n[backend.main]\n")?;
    let path = file.display().to_string();
    for verb in [&["settings", "check"][..], &["config", "list"], &["serve"]] {
        let output = shell.run(&[verb, &["--settings", &path]].concat()).await?;
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(output.stderr.contains("wrong.toml:3"), "{output:?}");
        assert!(output.stderr.contains("backends"), "{output:?}");
    }
    std::fs::write(&file, "node = \"n1\"\n")?;
    assert_eq!(shell.run(&["settings", "check", "--settings", &path]).await?.code, Some(0));
    let shown = shell.run(&["settings", "show", "--settings", &path]).await?.text()?;
    assert!(shown.contains("\"n1\"") && shown.contains("wrong.toml:1"), "{shown}");
    assert!(shown.contains("PINTLE_DATA_DIR"), "{shown}");
    Ok(())
}

#[tokio::test]
async fn what_is_set_for_a_plugin_is_checked_against_what_it_takes() -> Result<()> {
    let shell = Shell::new()?;
    let file = shell.path("pintle.toml");
    let path = file.display().to_string();
    let check = async |text: &str| {
        std::fs::write(&file, text)?;
        shell.run(&["settings", "check", "--settings", &path]).await
    };
    let with = |settings: &str| {
        format!("[backends.main]\nplugin = \"local\"\ndata_dir = \"data\"\n{settings}\n")
    };
    let right = check(&with("[backends.main.settings]\nhistory_versions_per_key = 3")).await?;
    assert!(right.text()?.contains("main"), "{right:?}");
    let wrong = check(&with("[backends.main.settings]\n\nspans_max = 0\nspan_max = 1")).await?;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    for part in [
        "pintle.toml:6: backends.main.settings.spans_max: ",
        "pintle.toml:7: backends.main.settings.span_max: ",
    ] {
        assert!(wrong.stderr.contains(part), "{wrong:?}");
    }
    let line_of = |part| wrong.stderr.find(part);
    assert!(line_of(":6: ") < line_of(":7: "), "{wrong:?}");
    let no_folder = check("[backends.main]\nplugin = \"local\"\n").await?;
    assert_eq!(no_folder.code, Some(2), "{no_folder:?}");
    assert!(no_folder.stderr.contains("pintle.toml:1: backends.main: "), "{no_folder:?}");
    let no_file = check("[backends.main]\nplugin = \"etcd\"\n").await?;
    assert_eq!(no_file.code, Some(0), "{no_file:?}");
    for part in ["warning: ", "pintle.toml:2: backends.main.plugin: ", "etcd.wasm", "local"] {
        assert!(no_file.stderr.contains(part), "{no_file:?}");
    }
    let required = check("[backends.main]\nplugin = \"etcd\"\nrequired = true\n").await?;
    assert_eq!(required.code, Some(2), "{required:?}");
    assert!(required.stderr.contains("pintle.toml:2: backends.main.plugin: "), "{required:?}");
    // Without any backend the host uses one of its own, which is checked as well.
    assert!(check("").await?.text()?.contains("backends: local"));
    std::fs::write(shell.plugins_dir().join("local.wasm"), "no component")?;
    let broken = check("").await?;
    assert_eq!(broken.code, Some(2), "{broken:?}");
    assert!(broken.stderr.contains("local.wasm"), "{broken:?}");
    assert!(!shell.data_dir().exists(), "a check leaves nothing behind");
    Ok(())
}
