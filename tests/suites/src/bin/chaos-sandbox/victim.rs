//! P11: how long a victim's calls take while a neighbour attacks.

use std::time::{Duration, Instant};

use anyhow::Result;
use pintle::{Config, config::Put};
use pintle_fixture_hostile::Behaviour;
use pintle_test_bench::ChaosRow;
use pintle_test_suites::{
    hostile::{Options, Stage},
    within,
};

use pintle_test_suites::chaos::{Size, p99};

/// What a victim's p99 may become.
const RATIO_MAX: f64 = 1.2;

pub(crate) async fn undisturbed(size: Size) -> Result<ChaosRow> {
    let (calls, rounds) = (size.of(2_000, 200), size.of(5, 1));
    let mut ratios = Vec::new();
    for (behaviour, provoked) in [
        (Behaviour::YieldInBackground, false),
        (Behaviour::PollStorm, false),
        (Behaviour::LogFlood, true),
        (Behaviour::MemoryBomb, true),
    ] {
        let quiet = Stage::with(Behaviour::Bind, Options::default()).await?;
        let loud = Stage::with(behaviour, Options::default()).await?;
        let provoking = provoked.then(|| {
            let config = loud.pintle.config("culprit");
            tokio::spawn(async move {
                let Ok(config) = config else { return };
                loop {
                    // It fails, as it should.
                    let _ = config.get(pintle_fixture_hostile::PROVOKE).await;
                }
            })
        });
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            alone.extend(times(&quiet.pintle.config("victim")?, calls).await?);
            beside.extend(times(&loud.pintle.config("victim")?, calls).await?);
        }
        if let Some(task) = provoking {
            task.abort();
        }
        let ratio = p99(beside).as_secs_f64() / p99(alone).as_secs_f64().max(1e-9);
        ratios.push((behaviour.name(), ratio));
    }
    let violations = ratios.iter().filter(|(_, ratio)| *ratio > RATIO_MAX).count();
    let texts: Vec<_> = ratios.iter().map(|(name, ratio)| format!("{name} x{ratio:.2}")).collect();
    let done = ratios.len() as u64;
    Ok(ChaosRow::new(
        "P11",
        "a victim's p99 beside an attack",
        "<= 1.2 of what it is alone",
        4,
        done,
    )
    .violations(violations as u64)
    .detail(texts.join(", ")))
}

async fn times(config: &Config, calls: usize) -> Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let begun = Instant::now();
        within("the victim", config.put(Put::new("measured", "v"))).await??;
        times.push(begun.elapsed());
    }
    Ok(times)
}
