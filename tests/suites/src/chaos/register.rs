//! R1: each key is a linearizable register, whatever breaks.

use std::time::Duration;

use anyhow::{Context, Result};
use pintle_test_bench::ChaosRow;
use pintle_test_history::{Answer, Call, Expect, History, Report, check_linearizable};
use pintle_test_proxy::{Action, Cut, Fault, Proxy, Rule};
use tokio::task::JoinHandle;

use super::{
    Size,
    backend::{Backend, Control},
    stage::{self, Host},
};
use crate::load::Load;

const CLIENTS: u32 = 8;
const BACKENDS: usize = 4;
/// Operations of the native client without which the row says nothing.
const CONTROLLED_MIN: u64 = 100;
/// Operations between two faults, where there are few.
const SMOKE_PACE: usize = 200;
/// What requests take at most to be on their way.
const ON_THEIR_WAY: Duration = Duration::from_millis(20);
/// Kinds of faults; no divisor of the number of proxies, so that each comes to every one of them.
const KINDS: usize = 8;
/// Each kind comes twice, however small the load.
const FAULTS_MIN: usize = 2 * KINDS;

/// R1: eight clients on three servers.
///
/// # Errors
///
/// Fails when it does not come to its end.
pub async fn linearizable<B: Backend>(size: Size) -> Result<ChaosRow> {
    let wanted = size.of(100_000, 3_000);
    let mut cluster = B::start_cluster().await?;
    let (mut proxies, mut members) = (Vec::new(), Vec::new());
    for member in B::members(&mut cluster) {
        proxies.push(stage::proxy::<B>(B::address(member)).await?);
        members.push(B::address(member).to_string());
    }
    let endpoints: Vec<String> = proxies.iter().map(|proxy| proxy.addr().to_string()).collect();
    // Each begins with another member.
    let of_backend = |number: usize| {
        let mut endpoints = endpoints.clone();
        let first = number % endpoints.len().max(1);
        endpoints.rotate_left(first);
        endpoints
    };
    let of_backends: Vec<_> = (0..BACKENDS).map(of_backend).collect();
    let host = Host::with::<B>(proxies, &of_backends).await?;
    let mut configs = Vec::new();
    for number in 0..BACKENDS {
        let config = host.pintle.config(&Host::name(number))?;
        configs.push(config.with_timeout(Duration::from_secs(2)));
    }
    let load = Load::start(&configs, CLIENTS);
    let (control, controlled) = control(B::Control::connect(&members).await?);
    let mut faults = 0;
    let pace = size.of(B::PACE, SMOKE_PACE);
    while load.count() < wanted || faults < FAULTS_MIN {
        break_something::<B>(&mut cluster, &host.proxies, &load, faults, pace / 4).await?;
        faults += 1;
        load.more(pace).await?;
    }
    let (done, report) = (load.count() as u64, load.end().await?);
    control.abort();
    let control = check_linearizable(&controlled.operations());
    Ok(judge(&B::id("R1"), wanted as u64, done, faults, &report, &control))
}

fn judge(
    id: &str,
    wanted: u64,
    done: u64,
    faults: usize,
    report: &Report,
    control: &Report,
) -> ChaosRow {
    let first = report.violations.first().map(ToString::to_string).unwrap_or_default();
    let detail = format!(
        "{faults} faults; control: {} operations, {} violations; undecided: {}; {first}",
        control.checked,
        control.violations.len(),
        report.undecided.len()
    );
    // A server that is not linearizable is not ours to answer for, but proves nothing either; nor
    // does one that was not looked at.
    let is_proof = control.is_clean() && control.checked >= CONTROLLED_MIN && faults > 0;
    let wanted = if is_proof { wanted } else { u64::MAX };
    let what = "linearizable registers over cuts, blackholes, and members that are killed, stopped, \
                cut off";
    let violations = report.violations.len() + report.undecided.len();
    ChaosRow::new(id, what, "0 violations", wanted, done)
        .violations(violations as u64)
        .detail(detail)
}

async fn break_something<B: Backend>(
    cluster: &mut B::Cluster,
    proxies: &[Proxy],
    load: &Load,
    number: usize,
    pause: usize,
) -> Result<()> {
    let reply = || Rule::reply_to(|message| message.contains(b"reg/"));
    let Some(proxy) = proxies.get(number % proxies.len().max(1)) else { return Ok(()) };
    match number % KINDS {
        0 => drop(proxy.arm(reply(), Action::CutBefore(Cut::Reset))),
        1 => drop(proxy.arm(reply(), Action::CutAfter(Cut::Close))),
        2 => drop(proxy.cut_all(Cut::Reset).await?),
        3 => {
            proxy.set(Fault::Blackhole);
            load.more(pause).await?;
            proxy.heal().await?;
        }
        4 => {
            let killed = leader::<B>(cluster).await?;
            B::kill(killed)?;
            load.more(pause).await?;
            B::restart(killed).await?;
        }
        5 => pause_awhile::<B>(leader::<B>(cluster).await?, load, pause).await?,
        // What it was asked meanwhile it answers, perhaps, before it knows what the others agreed on.
        6 => pause_awhile::<B>(follower::<B>(cluster).await?, load, pause).await?,
        // It goes on answering, and does not know what the others agree on.
        _ => {
            B::cut_off(cluster).await?;
            load.more(pause).await?;
            load.look().await?;
            B::heal(cluster).await?;
        }
    }
    Ok(())
}

/// Stops a member while the others go on, and has all looked at before it goes on itself.
async fn pause_awhile<B: Backend>(member: &mut B::Server, load: &Load, pause: usize) -> Result<()> {
    B::pause(member)?;
    load.more(pause).await?;
    let looking = load.look();
    tokio::time::sleep(ON_THEIR_WAY).await;
    B::resume(member)?;
    looking.await
}

async fn leader<B: Backend>(cluster: &mut B::Cluster) -> Result<&mut B::Server> {
    let leader = B::leader(cluster).await?;
    let mut members = B::members(cluster).iter_mut();
    members.find(|member| B::address(member) == leader).context("the leader is no member")
}

async fn follower<B: Backend>(cluster: &mut B::Cluster) -> Result<&mut B::Server> {
    let leader = B::leader(cluster).await?;
    let mut members = B::members(cluster).iter_mut();
    members.find(|member| B::address(member) != leader).context("there is no follower")
}

/// A native client that does the same to a register of its own, and what it saw.
fn control<C: Control>(client: C) -> (JoinHandle<()>, History) {
    let history = History::new();
    let recorded = history.clone();
    let task = tokio::spawn(async move {
        for turn in 0_u64.. {
            operate(&client, &recorded, turn).await;
        }
    });
    (task, history)
}

async fn operate(client: &impl Control, history: &History, turn: u64) {
    const LIMIT: Duration = Duration::from_secs(2);
    const KEY: &str = "control";
    if turn.is_multiple_of(2) {
        let pending = history.begin(0, KEY, Call::Get);
        match tokio::time::timeout(LIMIT, client.get(KEY)).await {
            Ok(Ok(entry)) => pending.ok(Answer::Got(entry)),
            _ => pending.failed(),
        }
        return;
    }
    let value = turn.to_string();
    let call = Call::Put { value: value.clone(), expect: Expect::Anything };
    let pending = history.begin(0, KEY, call);
    match tokio::time::timeout(LIMIT, client.put(KEY, &value)).await {
        Ok(Ok(version)) => pending.ok(Answer::Stored(version)),
        _ => pending.unknown(),
    }
}
