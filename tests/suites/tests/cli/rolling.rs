//! An upgrade of a cluster: one host after the other is restarted while programs use both.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use etcd_client::{EventType, GetOptions, WatchOptions, WatchStream};
use pintle_client::{Client, config::Put};
use pintle_test_services::{Etcd, EtcdOptions, Port};
use pintle_test_suites::{eventually, within};

use crate::shell::{Running, Shell};

const ROOT: &str = "/rolling/";

/// A host with a folder of its own, always on the same port.
struct Host {
    name: &'static str,
    shell: Shell,
    port: Port,
    server: Running,
}

impl Host {
    async fn start(name: &'static str, etcd: &Etcd) -> Result<Self> {
        let shell = Shell::with_plugins(&["plugins/etcd"])?;
        let settings = format!(
            "node = {name:?}\n[shutdown]\nregistrations = \"keep\"\n[backends.main]\n\
             plugin = \"etcd\"\nendpoints = [{:?}]\nsettings = {{ root = {ROOT:?} }}\n",
            etcd.endpoint()
        );
        std::fs::write(shell.path("pintle.toml"), settings)?;
        let port = Port::free()?;
        let server = Self::serve(&shell, &port).await?;
        Ok(Self { name, shell, port, server })
    }

    async fn serve(shell: &Shell, port: &Port) -> Result<Running> {
        let settings = shell.path("pintle.toml");
        let listen = port.address().to_string();
        let mut command = shell.command(&["serve", "--listen", &listen, "-o", "json"]);
        command.env("PINTLE_SETTINGS", settings);
        let mut server = shell.running(command)?;
        server.line_with("url").await?;
        Ok(server)
    }

    fn run(&self, arguments: &[&str]) -> Result<Running> {
        self.shell.start(arguments)
    }

    /// As an upgrade does it.
    async fn restart(&mut self) -> Result<()> {
        self.server.signal("TERM")?;
        let status = self.server.ended().await?;
        ensure!(status.success(), "{} ended with {status}", self.name);
        self.server = Self::serve(&self.shell, &self.port).await?;
        Ok(())
    }
}

/// Puts one key after the other through whichever host takes it, and answers how many there are.
async fn write_all_the_time(clients: [Client; 2], over: Arc<AtomicBool>) -> Result<u32> {
    let mut written = 0;
    while !over.load(Ordering::Relaxed) {
        let key = format!("load/{written}");
        let mut failures = Vec::new();
        for client in &clients {
            match client.config("main").put(Put::new(&key, "value")).await {
                Ok(_) => break,
                Err(error) => failures.push(error.to_string()),
            }
        }
        if failures.len() == clients.len() {
            bail!("no host took {key}: {failures:?}");
        }
        written += 1;
    }
    Ok(written)
}

/// Fails when an instance is taken off the list.
async fn nothing_is_removed(mut watch: WatchStream) -> Result<()> {
    while let Some(message) = watch.message().await? {
        for event in message.events() {
            let key = event.kv().map(|kv| kv.key_str().map(str::to_owned)).transpose()?;
            let key = key.unwrap_or_default();
            ensure!(
                event.event_type() != EventType::Delete || !key.contains("/web/"),
                "{key} was removed"
            );
        }
    }
    bail!("the watch ended")
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_restarted_one_after_the_other_and_nobody_misses_anything() -> Result<()> {
    let etcd = Etcd::start(EtcdOptions::default()).await?;
    let mut hosts = [Host::start("one", &etcd).await?, Host::start("two", &etcd).await?];
    let mut native = etcd_client::Client::connect([etcd.endpoint()], None).await?;

    let mut instances = Vec::new();
    for host in &hosts {
        let register = ["registry", "run", "web", "--id", host.name, "--ttl", "5s"];
        instances.push(host.run(
            &[&register[..], &["--address", "127.0.0.1:80", "--", "sleep", "600"]].concat(),
        )?);
    }
    let all = GetOptions::new().with_prefix();
    eventually("both instances", async || {
        let found = native.clone().get(ROOT, Some(all.clone())).await?;
        let keys = found.kvs().iter().filter_map(|kv| kv.key_str().ok());
        Ok((keys.filter(|key| key.contains("/web/")).count() == 2).then_some(()))
    })
    .await?;
    let watch = native.watch(ROOT, Some(WatchOptions::new().with_prefix())).await?;
    let mut listed = tokio::spawn(nothing_is_removed(watch));

    // Each command under the lock writes down when it begins and when it has ended.
    let log = hosts[0].shell.path("job.log");
    let script = format!(
        "trap 'echo end $PINTLE_TOKEN >>{log:?}; exit 0' TERM; echo begin $PINTLE_TOKEN >>{log:?}; \
         while :; do sleep 0.05; done"
    );
    let job = ["lock", "run", "job", "--ttl", "5s", "--", "sh", "-c", &script];
    let lines = || -> Result<Vec<String>> {
        Ok(std::fs::read_to_string(&log).unwrap_or_default().lines().map(str::to_owned).collect())
    };
    let mut first = hosts[0].run(&job)?;
    eventually("the first command", async || Ok((lines()?.len() == 1).then_some(()))).await?;
    let mut second = hosts[1].run(&job)?;

    let over = Arc::new(AtomicBool::new(false));
    let clients =
        hosts.each_ref().map(|host| Client::http(&format!("http://{}", host.port.address())));
    let [one, two] = clients;
    let load = tokio::spawn(write_all_the_time([one?, two?], Arc::clone(&over)));

    hosts[0].restart().await?;
    let status = first.ended().await?;
    ensure!(status.code() == Some(7), "the lost lease is told with {status}");
    eventually("the second command", async || Ok((lines()?.len() == 3).then_some(()))).await?;
    hosts[1].restart().await?;
    let status = second.ended().await?;
    ensure!(status.code() == Some(7), "the lost lease is told with {status}");

    over.store(true, Ordering::Relaxed);
    let written = within("the load", load).await???;
    let count = GetOptions::new().with_prefix().with_count_only();
    let stored = native.get(format!("{ROOT}load/"), Some(count)).await?.count();
    ensure!(written > 0 && stored == i64::from(written), "{written} written, {stored} stored");

    let log: Vec<(String, u64)> = lines()?
        .iter()
        .map(|line| {
            let (word, token) = line.split_once(' ').context("a token")?;
            Ok((word.to_owned(), token.parse()?))
        })
        .collect::<Result<_>>()?;
    let words: Vec<&str> = log.iter().map(|(word, _)| word.as_str()).collect();
    assert_eq!(words, ["begin", "end", "begin", "end"], "one at a time");
    ensure!(log[1].1 == log[0].1 && log[2].1 > log[0].1, "{log:?}");

    // Longer than the instances' time to live: they are kept by the hosts that were restarted.
    for instance in &mut instances {
        ensure!(instance.child.try_wait()?.is_none(), "an instance ended");
    }
    match tokio::time::timeout(Duration::from_secs(7), &mut listed).await {
        Err(_) => {}
        Ok(ended) => ended??,
    }
    for instance in &mut instances {
        instance.signal("TERM")?;
        instance.ended().await?;
    }
    Ok(())
}
