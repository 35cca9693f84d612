//! R10: every attack that a plugin makes by its settings.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pintle::BackendState;
use pintle_fixture_hostile::{ALIVE, Behaviour};
use pintle_test_bench::{ChaosRow, resident_bytes};
use pintle_test_suites::{
    eventually,
    hostile::{Options, Server, Stage, impatient},
    within,
};

use pintle_test_suites::chaos::Size;

/// How much later than its limit an attack may be ended.
const LATE_MAX: Duration = Duration::from_millis(100);
/// How much more memory the host may have afterwards: what allocators keep.
const GROWTH_MAX: u64 = 96 << 20;

/// How long a call of an attack may go on: the limits of [`impatient`].
const CALL: Duration = Duration::from_millis(600);

/// Attacks by a call, each with the time within which it has to be over, where there is one.
fn by_call(behaviour: Behaviour) -> Option<(Options, Option<Duration>)> {
    let with = |line: &str| Options { backend: line.to_owned(), ..Options::default() };
    Some(match behaviour {
        Behaviour::YieldForever | Behaviour::EndlessBody => (impatient(), Some(CALL)),
        Behaviour::EndlessResponse => {
            (Options { server: Server::Source, ..impatient() }, Some(CALL))
        }
        Behaviour::ForbiddenRedirect => {
            (Options { server: Server::Redirect, ..Options::default() }, None)
        }
        Behaviour::NameRebinding => (with("allow = [\"*.localhost:*\"]"), None),
        Behaviour::LookupFlood => (with("allow = [\"*.flood.example:1\"]"), None),
        Behaviour::DataFlood => {
            (with("limits = { call = \"20s\", more = { data_bytes = \"4MiB\" } }"), None)
        }
        Behaviour::ConnectionChurn => {
            (with("limits = { call = \"20s\", more = { connects_per_second = 10 } }"), None)
        }
        Behaviour::HugeCheckpoint => (with("limits = { memory = \"256MiB\" }"), None),
        Behaviour::MemoryBomb
        | Behaviour::StackBomb
        | Behaviour::HandleFlood
        | Behaviour::StreamFlood
        | Behaviour::RandomFlood
        | Behaviour::LogFlood
        | Behaviour::EmptyLogFlood
        | Behaviour::LogForgery
        | Behaviour::OutputFlood
        | Behaviour::SecretInLog
        | Behaviour::SecretInError
        | Behaviour::SecretInPanic
        | Behaviour::HugeError
        | Behaviour::OversizedRecord
        | Behaviour::EventFlood
        | Behaviour::PollStorm
        | Behaviour::UnknownIds
        | Behaviour::TrapWhileOthersWait
        | Behaviour::LargeCheckpoint
        | Behaviour::ForbiddenAddress
        | Behaviour::ForbiddenHttp
        | Behaviour::ForeignSynthetic
        | Behaviour::Bind
        | Behaviour::Listen
        | Behaviour::Udp
        | Behaviour::OldSockets
        | Behaviour::ConnectionFlood
        | Behaviour::ReadFiles
        | Behaviour::ParentEscape
        | Behaviour::SymlinkEscape
        | Behaviour::Environment
        | Behaviour::LoopInBackground
        | Behaviour::YieldInBackground => (Options::default(), None),
        _ => return None,
    })
}

pub(crate) async fn contained(size: Size) -> Result<ChaosRow> {
    let (mut done, mut violations, mut visitors) = (0, 0_u64, 0);
    let mut latest = Duration::ZERO;
    let mut trouble = Vec::new();
    // What is loaded once is not what an attack leaves behind.
    let late_max = size.time(LATE_MAX);
    attack(Behaviour::Bind, Options::default(), None, late_max).await?;
    let before = resident_bytes(None).context("the memory of this process")?;
    for behaviour in Behaviour::ALL.iter().copied().take(size.of(usize::MAX, 25)) {
        let Some((options, limit)) = by_call(behaviour) else { continue };
        done += 1;
        match attack(behaviour, options, limit, late_max).await {
            Ok(late) => latest = latest.max(late),
            Err(error) => {
                violations += 1;
                if error.to_string().contains("forbidden") {
                    visitors += 1;
                }
                trouble.push(format!("{}: {error:#}", behaviour.name()));
            }
        }
    }
    let after = resident_bytes(None).context("the memory of this process")?;
    let growth = after.saturating_sub(before);
    if growth > GROWTH_MAX {
        violations += 1;
        trouble.push(format!("{} MiB more memory than before", growth >> 20));
    }
    let what = "attacks beside a victim";
    let late = late_max.as_millis();
    let target =
        format!("all contained, ended <= {late} ms after their limit, 0 forbidden connections");
    Ok(ChaosRow::new("R10", what, &target, size.of(40, 5) as u64, done)
        .violations(violations)
        .detail(format!(
            "at most {} ms late, {visitors} forbidden connections, {} MiB more memory{}{}",
            latest.as_millis(),
            growth >> 20,
            if trouble.is_empty() { "" } else { "; " },
            trouble.join("; ")
        )))
}

/// One attack; answers how much later than its limit it was over.
async fn attack(
    behaviour: Behaviour,
    options: Options,
    limit: Option<Duration>,
    late_max: Duration,
) -> Result<Duration> {
    let stage = Stage::with(behaviour, options).await?;
    let begun = Instant::now();
    // Whether it was ended or answered is what the suite looks at; here counts that it is over.
    let _ = within("the attack", stage.provoke()).await?;
    let late = limit.map_or(Duration::ZERO, |limit| begun.elapsed().saturating_sub(limit));
    anyhow::ensure!(late <= late_max, "{} ms after its limit", late.as_millis());
    let config = stage.pintle.config("victim")?;
    within("the victim", config.get(ALIVE)).await??;
    eventually("the culprit to settle", async || {
        let state = stage.pintle.backend("culprit")?.state;
        let settled = !matches!(state, BackendState::Starting);
        Ok(settled.then_some(()))
    })
    .await?;
    stage.is_unharmed().await?;
    Ok(late)
}
