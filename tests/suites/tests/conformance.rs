//! The conformance suite: it knows every promise, correct plugins pass it, and each of its checks
//! fails where its promise is broken.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{FutureExt, StreamExt, TryStreamExt};
use pintle::direct::Bench;
use pintle_conformance::{
    CheckReport, FEATURES, Facts, Hook, Hooks, Options, Report, Subject, Verdict, measure,
};
use pintle_fixture_faulty::{
    FAULTS, Fault, UNCLEAR,
    faults::{MARK_BYTES, MARK_START},
    server::Server,
};
use pintle_test_suites::{Sandbox, capabilities::shortcomings};

const PASSWORD: &str = "open sesame";

/// Faults that are looked for at the same time: most of a check is waiting.
const PARALLEL: usize = 6;

fn all_faults() -> impl Iterator<Item = &'static Fault> {
    FAULTS.into_iter().flatten()
}

/// Text of all WIT packages.
fn wit() -> Result<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    let mut text = String::new();
    for package in std::fs::read_dir(folder)? {
        for file in std::fs::read_dir(package?.path())? {
            text += &std::fs::read_to_string(file?.path())?;
        }
    }
    Ok(text)
}

/// What stands in braces in the comments: `{config.get}`.
fn promises(wit: &str) -> BTreeSet<&str> {
    let comments = wit.lines().filter_map(|line| line.trim_start().strip_prefix("///"));
    let braces = comments.flat_map(|line| line.split('{').skip(1));
    braces.map(|rest| rest.split_once('}').map_or(rest, |(id, _)| id)).collect()
}

/// Names in the tables of features: a line that is `/// | `config.cas` | … |`.
fn features(wit: &str) -> BTreeSet<&str> {
    let names = wit.split("/// | `").skip(1);
    names.map(|rest| rest.split_once('`').map_or(rest, |(name, _)| name)).collect()
}

fn is_id(text: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty() && word.chars().all(|it| it.is_ascii_lowercase() || it == '-')
    };
    text.split_once('.').is_some_and(|(one, other)| word(one) && word(other))
}

#[test]
fn every_promise_and_every_feature_has_a_check() -> Result<()> {
    let wit = wit()?;
    let (promises, features) = (promises(&wit), features(&wit));
    ensure!(promises.len() > 50 && features.len() > 20, "the WIT packages were not read right");
    let strange: Vec<_> = promises.union(&features).filter(|id| !is_id(id)).collect();
    assert!(strange.is_empty(), "no ids, where a promise or a feature has one: {strange:?}");
    let listed: BTreeSet<&str> = FEATURES.iter().map(|feature| feature.name).collect();
    assert_eq!(listed, features, "the suite's list of features is that of the WIT packages");
    let checked: BTreeSet<&str> =
        pintle_conformance::checks().iter().map(|check| check.promise()).collect();
    let stated: BTreeSet<&str> = promises.union(&features).copied().collect();
    let unchecked: Vec<_> = stated.difference(&checked).collect();
    let unknown: Vec<_> = checked.difference(&stated).collect();
    assert!(unchecked.is_empty(), "promises without a check: {unchecked:?}");
    assert!(unknown.is_empty(), "checks of what nobody promises: {unknown:?}");
    Ok(())
}

#[test]
fn every_check_has_a_fault_that_it_must_notice() {
    let known: BTreeSet<&str> = pintle_conformance::checks().iter().map(|it| it.id).collect();
    assert_eq!(known.len(), pintle_conformance::checks().len(), "an id is used twice");
    let proven: BTreeSet<&str> = all_faults().flat_map(|it| it.proofs).map(|it| it.check).collect();
    let unproven: Vec<_> = known.difference(&proven).collect();
    let gone: Vec<_> = proven.difference(&known).collect();
    assert!(unproven.is_empty(), "checks that were never seen to fail: {unproven:?}");
    assert!(gone.is_empty(), "faults for checks that do not exist: {gone:?}");
}

/// Measures a plugin that needs no server.
async fn measure_alone(plugin: &str, options: &Options) -> Result<Report> {
    let sandbox = Sandbox::new(&[plugin])?;
    let name = plugin.rsplit('/').next().unwrap_or(plugin);
    let text = format!("[backends.main]\nplugin = \"{name}\"\n");
    let bench = Bench::open(sandbox.settings(&text)?)?;
    let subject = Subject::open(&bench, "main").await.map_err(|it| anyhow::anyhow!(it.text()))?;
    Ok(measure(subject, options, |_| {}).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quick_look_at_local_takes_half_a_minute_at_most() -> Result<()> {
    let began = Instant::now();
    let options = Options { smoke: true, ..Options::default() };
    let report = measure_alone("plugins/local", &options).await?;
    let took = began.elapsed();
    ensure!(report.passed() && report.checks.len() > 60, "{}", report.text());
    ensure!(took < Duration::from_secs(30), "it took {} s", took.as_secs());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_smallest_plugin_keeps_all_that_it_promises() -> Result<()> {
    let report = measure_alone("fixtures/memory", &Options::default()).await?;
    let skipped = |check: &CheckReport| check.verdict == Verdict::Skipped;
    ensure!(report.passed(), "{}", shortcomings(&report, skipped));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_no_reply_is_not_said_to_survive_lost_ones() -> Result<()> {
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    // It has an endpoint, and talks to nobody.
    let text = "[backends.main]\nplugin = \"memory\"\nendpoints = [\"127.0.0.1:1\"]\n";
    let bench = Bench::open(sandbox.settings(text)?)?;
    let subject = Subject::open(&bench, "main").await.map_err(|it| anyhow::anyhow!(it.text()))?;
    let only = ["plugin.error-effect", "lock.lost-reply", "registry.lost-reply"];
    let only = only.map(str::to_owned).to_vec();
    let report = measure(subject, &Options { only, ..Options::default() }, |_| {}).await;
    ensure!(report.checks.len() == 3, "{}", report.text());
    for check in &report.checks {
        let told = check.verdict == Verdict::Inconclusive;
        ensure!(told && check.reason.contains("no reply was lost"), "{}", check.line());
    }
    Ok(())
}

/// A bench with one backend for each of `breaks`, and a server of its own for each.
fn faulty_bench(
    sandbox: &Sandbox,
    breaks: &[(String, String, String)],
) -> Result<(Bench, HashMap<String, Arc<Server>>)> {
    let mut text = String::new();
    let mut servers = HashMap::new();
    for (backend, plugin, broken) in breaks {
        let server = Server::start(PASSWORD)?;
        let address = server.address();
        text += &format!(
            "[backends.{backend}]\nplugin = \"{plugin}\"\nendpoints = [\"{address}\"]\n\
             limits = {{ connections = 512 }}\n\
             settings = {{ breaks = \"{broken}\", password = \"{PASSWORD}\" }}\n"
        );
        servers.insert(backend.clone(), Arc::new(server));
    }
    Ok((Bench::open(sandbox.settings(&text)?)?, servers))
}

/// What the operator of such a server lends the suite.
fn hooks(server: &Arc<Server>) -> Hooks {
    let (forgetting, writing) = (Arc::clone(server), Arc::clone(server));
    let forget = move |_| {
        forgetting.compact();
        async { Ok(()) }.boxed()
    };
    let write = move |facts: Facts| {
        let fact = |wanted: &str| facts.iter().find(|(name, _)| *name == wanted);
        if let Some((_, key)) = fact("PINTLE_KEY") {
            // That is how this server's names are spelled.
            let key = key.replace('%', "%25");
            writing.write(&key, fact("PINTLE_VALUE").map(|(_, value)| value.as_str()));
        }
        async { Ok(()) }.boxed()
    };
    Hooks { forget: Some(Hook::new(forget)), write: Some(Hook::new(write)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_keeps_every_promise_passes_every_check() -> Result<()> {
    let sandbox = Sandbox::new(&["fixtures/faulty"])?;
    let backend = ("whole".to_owned(), "faulty".to_owned(), String::new());
    let (bench, servers) = faulty_bench(&sandbox, &[backend])?;
    let subject = Subject::open(&bench, "whole").await.map_err(|it| anyhow::anyhow!(it.text()))?;
    let server = servers.get("whole").context("its server")?;
    let options = Options { hooks: hooks(server), ..Options::default() };
    let report = measure(subject, &options, |_| {}).await;
    let wrong = shortcomings(&report, |_| false);
    ensure!(wrong.is_empty(), "{wrong}");
    ensure!(report.checks.len() == pintle_conformance::checks().len(), "checks were left out");
    ensure!(left_on(server).is_empty(), "left on the server: {:?}", left_on(server));
    Ok(())
}

/// What a server keeps for good; spans cannot be taken back.
fn left_on(server: &Server) -> Vec<String> {
    server.lasting().into_iter().filter(|key| !key.starts_with("t/")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_fails_leaves_nothing_on_the_server() -> Result<()> {
    let sandbox = Sandbox::new(&["fixtures/faulty"])?;
    let faults = ["config.list", "registry.override", "registry.persistent"];
    let backends = faults.map(|fault| (fault.replace('.', "-"), "faulty".into(), fault.into()));
    let (bench, servers) = faulty_bench(&sandbox, &backends)?;
    for (backend, _, fault) in backends {
        let subject =
            Subject::open(&bench, &backend).await.map_err(|it| anyhow::anyhow!(it.text()))?;
        let options = Options { only: vec![fault.clone()], ..Options::default() };
        let report = measure(subject, &options, |_| {}).await;
        ensure!(report.count(Verdict::Fail) > 0, "{fault} is not noticed");
        let left = servers.get(&backend).map(|server| left_on(server));
        ensure!(left.as_ref().is_some_and(Vec::is_empty), "{fault}: left are {left:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_keeps_no_short_lease_is_measured_with_its_least() -> Result<()> {
    let sandbox = Sandbox::new(&["fixtures/faulty"])?;
    let server = Server::start(PASSWORD)?;
    let text = format!(
        "[backends.main]\nplugin = \"faulty\"\nendpoints = [\"{}\"]\n\
         settings = {{ password = \"{PASSWORD}\", ttl_ms_min = 5000 }}\n",
        server.address()
    );
    let bench = Bench::open(sandbox.settings(&text)?)?;
    let subject = Subject::open(&bench, "main").await.map_err(|it| anyhow::anyhow!(it.text()))?;
    let only = [
        "config.held/lost",
        "lock.exclusive/renewed",
        "lock.lost",
        "lock.no-reacquire",
        "lock.token/restart",
        "registry.gone",
        "registry.no-takeover",
        "registry.override-survives",
        "registry.restored",
        "registry.status",
    ];
    let only: Vec<String> = only.map(str::to_owned).to_vec();
    let report = measure(subject, &Options { only, ..Options::default() }, |_| {}).await;
    let wrong = shortcomings(&report, |_| false);
    ensure!(wrong.is_empty() && report.checks.len() > 10, "{wrong}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_server_that_forgets_never_passes_on_one_that_does_not() -> Result<()> {
    let sandbox = Sandbox::new(&["fixtures/faulty"])?;
    let backend = ("whole".to_owned(), "faulty".to_owned(), String::new());
    let (bench, _servers) = faulty_bench(&sandbox, &[backend])?;
    let checks = pintle_conformance::checks();
    let only: Vec<String> =
        checks.iter().filter(|check| check.forgets).map(|check| check.id.to_owned()).collect();
    ensure!(only.len() == 4, "{only:?}");
    let fails = Hook::new(|_| async { Err("no such command".to_owned()) }.boxed());
    for (forget, reason) in [
        (Hook::new(|_| async { Ok(()) }.boxed()), "nothing is forgotten"),
        (fails, "no such command"),
    ] {
        let hooks = Hooks { forget: Some(forget), write: None };
        let options = Options { only: only.clone(), hooks, ..Options::default() };
        let subject =
            Subject::open(&bench, "whole").await.map_err(|it| anyhow::anyhow!(it.text()))?;
        let report = measure(subject, &options, |_| {}).await;
        ensure!(report.checks.len() == only.len(), "{}", report.text());
        for check in &report.checks {
            let told = check.verdict == Verdict::Inconclusive && check.reason.contains(reason);
            ensure!(told, "{}", check.line());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_makes_its_checks_fail_for_what_is_wrong() -> Result<()> {
    let missed = missed(all_faults(), Verdict::Fail).await?;
    ensure!(missed.is_empty(), "faults that nobody noticed:\n{}", missed.join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_check_cannot_see_is_no_pass() -> Result<()> {
    let missed = missed(UNCLEAR.iter(), Verdict::Inconclusive).await?;
    ensure!(missed.is_empty(), "what could not be seen is judged:\n{}", missed.join("\n"));
    Ok(())
}

/// The checks that do not end with `verdict` where one of `faults` is there, or for another reason.
async fn missed(
    faults: impl Iterator<Item = &'static Fault>,
    verdict: Verdict,
) -> Result<Vec<String>> {
    let sandbox = Sandbox::new(&["fixtures/faulty"])?;
    // Wanted by name when one of them is looked into: PINTLE_FAULT=config.cas
    let chosen = std::env::var("PINTLE_FAULT").ok();
    let faults: BTreeMap<String, &Fault> = faults
        .filter(|fault| chosen.as_ref().is_none_or(|name| fault.name == name))
        .map(|fault| (fault.name.replace(['.', '/'], "-"), fault))
        .collect();
    let mut backends = Vec::new();
    for (backend, fault) in &faults {
        let plugin = if fault.in_file { mark(&sandbox, backend, fault)? } else { "faulty".into() };
        let broken = if fault.in_file { "" } else { fault.name };
        backends.push((backend.clone(), plugin, broken.to_owned()));
    }
    let (bench, servers) = faulty_bench(&sandbox, &backends)?;
    let bench = Arc::new(bench);
    let missed = futures::stream::iter(faults)
        .map(|(backend, fault)| {
            let bench = Arc::clone(&bench);
            let hooks = servers.get(&backend).map(hooks).unwrap_or_default();
            async move { missed_with(&bench, &backend, fault, verdict, hooks).await }
        })
        .buffer_unordered(PARALLEL)
        .try_collect::<Vec<_>>();
    Ok(missed.await?.concat())
}

/// Those of one fault, with what they say.
async fn missed_with(
    bench: &Bench,
    backend: &str,
    fault: &Fault,
    verdict: Verdict,
    hooks: Hooks,
) -> Result<Vec<String>> {
    let only = fault.proofs.iter().map(|proof| proof.check.to_owned()).collect();
    let options = Options { only, parallel: 2, hooks, ..Options::default() };
    let report = match Subject::open(bench, backend).await {
        Ok(subject) => measure(subject, &options, |_| {}).await,
        Err(report) => *report,
    };
    let mut missed = Vec::new();
    for proof in fault.proofs {
        let check = report.checks.iter().find(|check| check.id == proof.check);
        let check =
            check.with_context(|| format!("{}: {} was not run", fault.name, proof.check))?;
        if check.verdict != verdict || !check.reason.contains(proof.says) {
            missed.push(format!("{}: no `{}` in: {}", fault.name, proof.says, check.line()));
        }
    }
    Ok(missed)
}

/// Writes a copy of the plugin whose file names the fault, and answers its name.
fn mark(sandbox: &Sandbox, name: &str, fault: &Fault) -> Result<String> {
    let folder = sandbox.plugins_dir();
    let mut bytes = std::fs::read(folder.join("faulty.wasm"))?;
    let places: Vec<usize> = bytes
        .windows(MARK_BYTES)
        .enumerate()
        .filter(|(_, part)| part.starts_with(MARK_START.as_bytes()) && part.ends_with(b"  "))
        .map(|(place, _)| place)
        .collect();
    let [place] = places.as_slice() else {
        anyhow::bail!("the mark stands {} times in the component", places.len());
    };
    let text = format!("{MARK_START}{:width$}", fault.name, width = MARK_BYTES - MARK_START.len());
    bytes.splice(*place..*place + MARK_BYTES, text.into_bytes());
    std::fs::write(folder.join(format!("{name}.wasm")), bytes)?;
    Ok(name.to_owned())
}
