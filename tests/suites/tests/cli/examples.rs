//! The examples in other languages, and the tour of the README, as they are written.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use pintle_test_services::{EtcdCluster, EtcdOptions, ZooKeeper, ZooKeeperOptions};
use pintle_test_suites::within;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

use crate::shell::{Running, Shell};

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

/// Where the tour is taken: a program called `pintle`, a server, and perhaps its settings.
struct Place {
    shell: Shell,
    /// The server and its URL. It ends when this is dropped.
    server: (Running, String),
    settings: Option<PathBuf>,
}

impl Place {
    /// With the settings that these lines are, or without any.
    async fn new(plugin: &str, settings: Option<&str>) -> Result<Self> {
        let shell = Shell::with_plugins(&[plugin])?;
        let bin = shell.path("bin");
        std::fs::create_dir(&bin)?;
        std::os::unix::fs::symlink(shell.program(), bin.join("pintle"))?;
        let file = settings.map(|text| {
            let file = shell.path("pintle.toml");
            std::fs::write(&file, text).map(|()| file)
        });
        let settings = file.transpose()?;
        let server = shell.serve_with(settings.as_deref()).await?;
        Ok(Self { shell, server, settings })
    }

    /// A command of the tour. `http://127.0.0.1:7468` stands for the server.
    fn command(&self, line: &str) -> Result<Command> {
        let path = format!("{}:{}", self.shell.path("bin").display(), std::env::var("PATH")?);
        let mut command = Command::new("sh");
        command
            .args(["-c", &line.replace("http://127.0.0.1:7468", &self.server.1)])
            .envs(self.shell.environment())
            .envs(self.settings.as_ref().map(|file| ("PINTLE_SETTINGS", file)))
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Ok(command)
    }

    /// Runs a command, and compares what it prints with what is shown.
    async fn step(&self, line: &str, shown: &[String]) -> Result<()> {
        let output = within(line, self.command(line)?.stdin(Stdio::null()).output()).await??;
        let text = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        let same = lines.len() == shown.len()
            && shown.iter().zip(&lines).all(|(shown, line)| fits(shown.trim_end(), line));
        ensure!(same, "$ {line}\nshown:\n{}\nprinted:\n{text}", shown.join("\n"));
        Ok(())
    }
}

#[tokio::test]
async fn the_tour_of_the_readme_goes_as_it_is_written() -> Result<()> {
    let steps = tour()?;
    assert!((5..=10).contains(&steps.len()), "{} commands", steps.len());
    let place = Place::new("plugins/local", None).await?;
    for (command, shown) in steps {
        place.step(&command, &shown).await?;
    }
    Ok(())
}

/// The tour where the backend has a name of its own.
fn tour_on_main() -> Result<Vec<(String, Vec<String>)>> {
    let mut steps = tour()?;
    let shown = steps.iter_mut().flat_map(|(_, shown)| shown);
    shown.filter(|line| line.starts_with("local ")).for_each(|line| *line = "main …".to_owned());
    Ok(steps)
}

/// Settings with one backend on this line.
fn settings(backend: &str) -> String {
    let defaults = "config = \"main\"\nregistry = \"main\"\nlock = \"main\"";
    format!("[defaults]\n{defaults}\n\n[backends]\n{backend}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_changed_line_moves_the_tour_to_etcd_and_its_lock_outlives_the_leader() -> Result<()> {
    let mut cluster = EtcdCluster::start(EtcdOptions::default()).await?;
    let data = tempfile::tempdir()?;
    let on_local =
        settings(&format!("main = {{ plugin = \"local\", data_dir = {:?} }}", data.path()));
    let endpoints = cluster.endpoints();
    let on_etcd = settings(&format!("main = {{ plugin = \"etcd\", endpoints = {endpoints:?} }}"));
    let changed = on_local.lines().zip(on_etcd.lines()).filter(|(before, after)| before != after);
    assert_eq!((changed.count(), on_local.lines().count()), (1, on_etcd.lines().count()));

    for (plugin, text) in [("local", &on_local), ("etcd", &on_etcd)] {
        let place = Place::new(&format!("plugins/{plugin}"), Some(text)).await?;
        let mut locks = 0;
        for (command, shown) in tour_on_main()? {
            if plugin == "etcd" && command.starts_with("pintle lock run ") {
                locks += 1;
                killing_the_leader(&place, &mut cluster, &command, &shown).await?;
            } else {
                place.step(&command, &shown).await.with_context(|| format!("on {plugin}"))?;
            }
        }
        assert_eq!(locks, usize::from(plugin == "etcd"), "the tour takes a lock");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_line_moves_the_tour_to_zookeeper() -> Result<()> {
    let zookeeper = ZooKeeper::start(ZooKeeperOptions::default()).await?;
    let endpoint = zookeeper.endpoint();
    let line = format!("main = {{ plugin = \"zookeeper\", endpoints = [{endpoint:?}] }}");
    let place = Place::new("plugins/zookeeper", Some(&settings(&line))).await?;
    for (command, shown) in tour_on_main()? {
        place.step(&command, &shown).await?;
    }
    Ok(())
}

/// Runs the tour's command under a lock, kills the leader while it runs, and lets it go on.
async fn killing_the_leader(
    place: &Place,
    cluster: &mut EtcdCluster,
    command: &str,
    shown: &[String],
) -> Result<()> {
    // The same, but it does not end before it is told to.
    let (held, quote) = command.split_at(command.len() - 1);
    ensure!(quote == "'" && shown == ["token …"], "the tour has changed: {command}");
    let mut child = place.command(&format!("{held}; read line'"))?.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("standard output")?).lines();
    let mut line = async || within("a line", lines.next_line()).await?.map_err(anyhow::Error::from);
    let token = |line: String| -> Result<u64> {
        Ok(line.strip_prefix("token ").context("a token")?.parse()?)
    };
    let first = token(line().await?.context("it printed nothing")?)?;
    cluster.leader().await?.kill()?;
    // There is another: what is asked from here on is answered by it.
    cluster.leader().await?;
    let tried = place.command("pintle lock run nightly --wait 0s -- true")?.output();
    let tried = within("a second holder", tried).await??;
    assert!(!tried.status.success(), "two holders: {tried:?}");
    let mut input = child.stdin.take().context("standard input")?;
    input.write_all(b"go on\n").await?;
    assert_eq!(line().await?, None);
    let output = within("its end", child.wait_with_output()).await??;
    assert!(output.status.success(), "{output:?}");

    let mut next = place.command(command)?.spawn()?;
    let mut lines = BufReader::new(next.stdout.take().context("standard output")?).lines();
    let after = within("a line", lines.next_line()).await??.context("it printed nothing")?;
    assert!(token(after)? > first);
    assert!(within("its end", next.wait()).await??.success());
    Ok(())
}

#[test]
fn dots_stand_for_anything_and_nothing_else_does() {
    assert!(fits("a … c", "a bbb c") && fits("…", "") && fits("a…", "ab") && fits("ab", "ab"));
    assert!(!fits("a", "ab") && !fits("b…", "ab") && !fits("a…c", "ab"));
}
