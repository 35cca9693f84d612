//! R1: each key is a linearizable register, whatever breaks.

use std::time::Duration;

use anyhow::Result;
use etcd_client::Client;
use pintle_test_bench::ChaosRow;
use pintle_test_history::{Answer, Call, Entry, Expect, History, Report, check_linearizable};
use pintle_test_proxy::{Action, Cut, Fault, Proxy, Rule};
use pintle_test_services::{EtcdCluster, EtcdOptions};
use pintle_test_suites::load::Load;
use tokio::task::JoinHandle;

use crate::{
    Size,
    stage::{self, Host, ROOT},
};

const CLIENTS: u32 = 8;
const BACKENDS: usize = 4;
/// Operations between two faults.
const PACE: usize = 200;

pub(crate) async fn linearizable(size: Size) -> Result<ChaosRow> {
    let wanted = size.of(100_000, 3_000);
    let mut cluster = EtcdCluster::start(EtcdOptions::default()).await?;
    let mut proxies = Vec::new();
    for member in cluster.members() {
        proxies.push(stage::proxy(member.address()).await?);
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
    let host = Host::with(proxies, &of_backends).await?;
    let mut configs = Vec::new();
    for number in 0..BACKENDS {
        let config = host.pintle.config(&Host::name(number))?;
        configs.push(config.with_timeout(Duration::from_secs(2)));
    }
    let load = Load::start(&configs, CLIENTS);
    let (control, controlled) = Control::start(&cluster.endpoints()).await?;
    let mut faults = 0;
    while load.count() < wanted {
        break_something(&mut cluster, &host.proxies, &load, faults).await?;
        faults += 1;
        load.more(PACE).await?;
    }
    let (done, report) = (load.count() as u64, load.end().await?);
    control.abort();
    let control = check_linearizable(&controlled.operations());
    Ok(judge(wanted as u64, done, faults, &report, &control))
}

fn judge(wanted: u64, done: u64, faults: usize, report: &Report, control: &Report) -> ChaosRow {
    let first = report.violations.first().map(ToString::to_string).unwrap_or_default();
    let detail = format!(
        "{faults} faults; control: {} operations, {} violations; undecided: {}; {first}",
        control.checked,
        control.violations.len(),
        report.undecided.len()
    );
    // A server that is not linearizable is not ours to answer for, but proves nothing either.
    let wanted = if control.is_clean() { wanted } else { u64::MAX };
    let what = "linearizable registers over cuts, blackholes, killed and stopped leaders";
    let violations = report.violations.len() + report.undecided.len();
    ChaosRow::new("R1-etcd", what, "0 violations", wanted, done)
        .violations(violations as u64)
        .detail(detail)
}

async fn break_something(
    cluster: &mut EtcdCluster,
    proxies: &[Proxy],
    load: &Load,
    number: usize,
) -> Result<()> {
    let reply = || Rule::reply_to(|message| message.contains(b"reg/"));
    let Some(proxy) = proxies.get(number % proxies.len().max(1)) else { return Ok(()) };
    match number / proxies.len().max(1) % 6 {
        0 => drop(proxy.arm(reply(), Action::CutBefore(Cut::Reset))),
        1 => drop(proxy.arm(reply(), Action::CutAfter(Cut::Close))),
        2 => drop(proxy.cut_all(Cut::Reset).await?),
        3 => {
            proxy.set(Fault::Blackhole);
            load.more(PACE / 4).await?;
            proxy.heal().await?;
        }
        4 => {
            let leader = cluster.leader().await?;
            leader.kill()?;
            let killed = leader.endpoint();
            load.more(PACE / 4).await?;
            for member in cluster.members().iter_mut().filter(|one| one.endpoint() == killed) {
                member.restart().await?;
            }
        }
        _ => {
            let leader = cluster.leader().await?;
            leader.pause()?;
            let paused = leader.endpoint();
            load.more(PACE / 4).await?;
            for member in cluster.members().iter_mut().filter(|one| one.endpoint() == paused) {
                member.resume()?;
            }
        }
    }
    Ok(())
}

/// A native client that does the same to a register of its own.
struct Control;

impl Control {
    async fn start(endpoints: &[String]) -> Result<(JoinHandle<()>, History)> {
        let mut client = stage::connect(endpoints).await?;
        let history = History::new();
        let recorded = history.clone();
        let task = tokio::spawn(async move {
            for turn in 0_u64.. {
                Self::operate(&mut client, &recorded, turn).await;
            }
        });
        Ok((task, history))
    }

    async fn operate(client: &mut Client, history: &History, turn: u64) {
        const LIMIT: Duration = Duration::from_secs(2);
        let key = format!("{ROOT}control");
        if turn.is_multiple_of(2) {
            let pending = history.begin(0, &key, Call::Get);
            match tokio::time::timeout(LIMIT, client.get(key.as_str(), None)).await {
                Ok(Ok(answer)) => {
                    let entry = answer.kvs().first().map(|pair| Entry {
                        value: String::from_utf8_lossy(pair.value()).into_owned(),
                        version: Some(pair.mod_revision().to_string()),
                    });
                    pending.ok(Answer::Got(entry));
                }
                _ => pending.failed(),
            }
            return;
        }
        let value = turn.to_string();
        let call = Call::Put { value: value.clone(), expect: Expect::Anything };
        let pending = history.begin(0, &key, call);
        match tokio::time::timeout(LIMIT, client.put(key.as_str(), value, None)).await {
            Ok(Ok(answer)) => {
                let revision = answer.header().map(|header| header.revision().to_string());
                pending.ok(Answer::Stored(revision));
            }
            _ => pending.unknown(),
        }
    }
}
