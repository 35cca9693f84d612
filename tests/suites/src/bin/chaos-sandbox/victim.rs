//! P11: how long a victim's calls take while a neighbour attacks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use pintle::{BackendState, BackendStatus, Config, Pintle, config::Put};
use pintle_fixture_hostile::{Behaviour, PROVOKE};
use pintle_test_bench::{ChaosRow, Comparison, Target, Verdict};
use pintle_test_suites::{
    hostile::{Options, Stage},
    within,
};
use tokio::sync::Mutex;

use pintle_test_suites::chaos::{Size, p99};

/// What a victim's p99 may become.
const RATIO_MAX: f64 = 1.2;

/// A victim's calls in a round, and those before that do not count.
const CALLS: usize = 1_500;
const WARM_UP: usize = 300;
/// Attacks in a round, where they come and go.
const ATTACKS_MIN: u64 = 2;

/// What the neighbour does: loop, flood, bomb.
const ATTACKS: &[Behaviour] = &[
    Behaviour::YieldInBackground,
    Behaviour::LoopInBackground,
    Behaviour::PollStorm,
    Behaviour::LogFlood,
    Behaviour::HandleFlood,
    Behaviour::MemoryBomb,
];

/// Measurements of a round: beside the attack once, beside a quiet neighbour twice.
const MEASUREMENTS: usize = 3;

/// Makes a row of `rounds`, each on a host of its own: how fast one turns out to be differs by more than
/// what is looked for.
pub(crate) async fn undisturbed(size: Size) -> Result<ChaosRow> {
    let (mut done, mut violations, mut texts) = (0, 0, Vec::new());
    for behaviour in ATTACKS {
        let comparison = Comparison::new("P11", behaviour.name()).rounds(size.of(80, 2));
        let place = Mutex::new(None);
        let beside = || p99_beside(&place, *behaviour, true);
        let alone = || p99_beside(&place, *behaviour, false);
        let row = comparison.run_values("µs", Target::AtMost(RATIO_MAX), beside, alone).await?;
        done += u64::from(row.verdict != Verdict::Inconclusive);
        violations += u64::from(row.verdict == Verdict::Fail);
        texts.push(format!(
            "{} ×{:.2} ({:.2} to {:.2}, A/A {:.2}, {:.0} µs)",
            behaviour.name(),
            row.ratio.unwrap_or(f64::NAN),
            row.low,
            row.high,
            row.aa.unwrap_or(f64::NAN),
            row.ours
        ));
    }
    let what = "a victim's p99 beside an attack";
    let target = "at most 1.2 of what it is beside a quiet neighbour";
    Ok(ChaosRow::new("P11", what, target, ATTACKS.len() as u64, done)
        .violations(violations)
        .detail(texts.join(", ")))
}

/// A host, and how often it was measured.
type Scene = (Stage, usize);

/// The p99 of the victim's calls in µs, on the host of this round; with an attack beside it or not, the
/// neighbour has just been started.
async fn p99_beside(
    place: &Mutex<Option<Scene>>,
    behaviour: Behaviour,
    attacked: bool,
) -> Result<f64, anyhow::Error> {
    let mut place = place.lock().await;
    let (stage, measured) = match place.take() {
        Some(scene) => scene,
        None => (Stage::with(behaviour, Options::default()).await?, 0),
    };
    let victim = stage.pintle.config("victim")?;
    restart(&stage.pintle).await?;
    let (attacks, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let attacking = attacked.then(|| {
        let (pintle, attacks) = (stage.pintle.clone(), Arc::clone(&attacks));
        tokio::spawn(attack(pintle, attacks, Arc::clone(&stop)))
    });
    times(&victim, WARM_UP).await?;
    let before = attacks.load(Ordering::Relaxed);
    let mut taken = times(&victim, CALLS).await?;
    if let Some(attacking) = attacking {
        // Slow ones come and go only so often; the measurement takes as long as it needs.
        while attacks.load(Ordering::Relaxed) < before + ATTACKS_MIN && !is_lasting(behaviour) {
            taken.extend(times(&victim, CALLS / 10).await?);
        }
        ensure!(!attacking.is_finished(), "the attack had ended");
        stop.store(true, Ordering::Relaxed);
        within("the end of the attack", attacking).await???;
    }
    let p99 = p99(taken);
    if measured + 1 < MEASUREMENTS {
        *place = Some((stage, measured + 1));
    } else {
        stage.is_unharmed().await?;
    }
    Ok(p99.as_secs_f64() * 1e6)
}

/// Whether it goes on in the background without anybody's help.
fn is_lasting(behaviour: Behaviour) -> bool {
    matches!(behaviour, Behaviour::YieldInBackground | Behaviour::PollStorm)
}

/// Attacks again and again until it is to stop: a culprit that was ended is started again at once.
async fn attack(pintle: Pintle, attacks: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Result<()> {
    let config = pintle.config("culprit")?;
    while !stop.load(Ordering::Relaxed) {
        let provoked = config.get(PROVOKE).await;
        attacks.fetch_add(1, Ordering::Relaxed);
        if provoked.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        restart(&pintle).await?;
    }
    Ok(())
}

/// Starts the culprit again, and waits until it serves.
async fn restart(pintle: &Pintle) -> Result<()> {
    let before = pintle.backend("culprit")?.since;
    pintle.restart_backend("culprit")?;
    loop {
        let BackendStatus { state, since, .. } = pintle.backend("culprit")?;
        if since != before && state == BackendState::Serving {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
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
