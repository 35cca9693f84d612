//! The examples in other languages, and the tour of the README, as they are written.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pintle_test_suites::within;
use tokio::process::Command;

use crate::shell::Shell;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[tokio::test]
async fn a_python_program_needs_nothing_but_its_standard_library() -> Result<()> {
    let shell = Shell::new()?;
    let secret = shell.run(&["token", "create", "python", "--role", "operator"]).await?.text()?;
    let (_server, url) = shell.serve().await?;
    let mut program = Command::new("python3");
    program
        // Isolated: nothing that is installed besides.
        .args(["-I", "-B"])
        .arg(root().join("examples/http-python/example.py"))
        .arg(&url)
        .env("PINTLE_ACCESS_TOKEN", secret.trim())
        .kill_on_drop(true);
    let output = within("the example", program.output()).await??;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for line in [
        "get: hello",
        "refused: stale",
        "watch: snapshot-end ",
        "watch: put changed",
        "lock: released",
        "registered: ['127.0.0.1:8080']",
        "deregistered: True",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert!(text.contains("lock: held, token "), "{text}");
    Ok(())
}

/// The commands of the README's tour, each with the output that stands below it.
fn tour() -> Result<Vec<(String, Vec<String>)>> {
    let text = std::fs::read_to_string(root().join("README.md"))?;
    let block = text.split("```console\n").nth(1).context("a tour")?;
    let block = block.split("```").next().context("its end")?;
    let mut steps: Vec<(String, Vec<String>)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push((command.to_owned(), Vec::new())),
            (None, Some((_, output))) => output.push(line.to_owned()),
            (None, None) => {}
        }
    }
    Ok(steps)
}

/// Whether a line is the one that is shown; `…` stands for anything.
fn fits(shown: &str, line: &str) -> bool {
    let Some((first, mut others)) = shown.split_once('…') else { return shown == line };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    while let Some((part, more)) = others.split_once('…') {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        others = more;
    }
    rest.ends_with(others)
}

#[tokio::test]
async fn the_tour_of_the_readme_goes_as_it_is_written() -> Result<()> {
    let steps = tour()?;
    assert!((5..=10).contains(&steps.len()), "{} commands", steps.len());
    let shell = Shell::new()?;
    let (_server, url) = shell.serve().await?;
    // The tour's names for the program and for the server.
    let bin = shell.path("bin");
    std::fs::create_dir(&bin)?;
    std::os::unix::fs::symlink(shell.program(), bin.join("pintle"))?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    for (command, shown) in steps {
        let line = command.replace("http://127.0.0.1:7468", &url);
        let mut run = Command::new("sh");
        run.args(["-c", &line]).envs(shell.environment()).env("PATH", &path).kill_on_drop(true);
        let output = within(&command, run.output()).await??;
        let text = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        let same = lines.len() == shown.len()
            && shown.iter().zip(&lines).all(|(shown, line)| fits(shown.trim_end(), line));
        assert!(same, "$ {command}\nshown:\n{}\nprinted:\n{text}", shown.join("\n"));
    }
    Ok(())
}

#[test]
fn dots_stand_for_anything_and_nothing_else_does() {
    assert!(fits("a … c", "a bbb c") && fits("…", "") && fits("a…", "ab") && fits("ab", "ab"));
    assert!(!fits("a", "ab") && !fits("b…", "ab") && !fits("a…c", "ab"));
}
