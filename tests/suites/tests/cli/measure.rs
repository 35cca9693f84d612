//! Measuring a plugin: `pintle plugin test`.

use anyhow::Result;
use serde_json::Value;

use crate::shell::Shell;

#[tokio::test]
async fn a_measurement_comes_as_text_json_and_markdown() -> Result<()> {
    let shell = Shell::with_plugins(&["fixtures/memory"])?;
    let file = shell.plugins_dir().join("memory.wasm").display().to_string();
    let saved = shell.path("report.json").display().to_string();
    let test = ["plugin", "test", &file, "--only", "config.get", "--only", "config.cas/stale"];
    let output = shell.run(&[&test[..], &["--json", &saved]].concat()).await?;
    let text = output.text()?;
    assert!(text.contains("✓ config.cas") && text.contains("3 checks in"), "{text}");
    assert!(output.stderr.contains("3/3 ") && output.stderr.contains("config.get/many"));
    let report: Value = serde_json::from_slice(&std::fs::read(&saved)?)?;
    let printed: Value = shell.run(&[&test[..], &["-o", "json"]].concat()).await?.json()?;
    for report in [report, printed] {
        assert_eq!(report["plugin"], "memory");
        let checks = report["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert_eq!(checks.len(), 3, "{report}");
        assert!(checks.iter().all(|check| check["verdict"] == "pass"), "{report}");
    }
    let table = shell.run(&[&test[..], &["--markdown"]].concat()).await?.text()?;
    assert!(table.contains("| `config.cas`: compare and set | ✓ |"), "{table}");
    Ok(())
}

#[tokio::test]
async fn a_promise_that_is_not_kept_shows_with_its_evidence_and_in_the_exit() -> Result<()> {
    let shell = Shell::with_plugins(&["fixtures/faulty"])?;
    let file = shell.plugins_dir().join("faulty.wasm").display().to_string();
    // It cannot work without a server.
    let output = shell.run(&["plugin", "test", &file, "--only", "config.get/many"]).await?;
    assert_eq!(output.code, Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    for part in ["fail         config.get/many", "it needs an endpoint", "a: lifecycle.start("] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let none = shell.run(&["plugin", "test", &file, "--only", "config.nothing"]).await?;
    assert_eq!(none.code, Some(2), "{none:?}");
    Ok(())
}
