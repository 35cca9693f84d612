//! R10: every attack, and each export that is attacked.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pintle_fixture_hostile::{Behaviour, Export};
use pintle_test_bench::{ChaosRow, resident_bytes};
use pintle_test_suites::hostile::{
    Attack, CALL,
    exports::{self, is_possible},
};

use pintle_test_suites::chaos::Size;

/// How much later than its limit an attack may be ended.
const LATE_MAX: Duration = Duration::from_millis(100);
/// How much more memory the host may have after all of them, however often: what allocators keep.
const GROWTH_MAX: u64 = 96 << 20;
/// How much more it may have after all of them once more: what each leaves behind shows each time.
const AGAIN_GROWTH_MAX: u64 = 32 << 20;
/// How often it is done again. What an allocator gives back late shows in one of them.
const ROUNDS_MORE: usize = 2;
/// How long a loop in an export may go on.
const LOOP: Duration = Duration::from_millis(100);

/// What was done, and what went wrong.
#[derive(Default)]
struct Tally {
    done: u64,
    violations: u64,
    latest: Duration,
    trouble: Vec<String>,
}

impl Tally {
    fn count(&mut self, name: &str, late: Result<Duration>, late_max: Duration) {
        self.done += 1;
        let in_time = |late: Duration| {
            ensure!(late <= late_max, "{} ms after its limit", late.as_millis());
            Ok(late)
        };
        match late.and_then(in_time) {
            Ok(late) => self.latest = self.latest.max(late),
            Err(error) => self.complain(format!("{name}: {error:#}")),
        }
    }

    fn complain(&mut self, trouble: String) {
        self.violations += 1;
        self.trouble.push(trouble);
    }

    async fn attack_by_all(&mut self, size: Size, late_max: Duration) -> Result<()> {
        for behaviour in Behaviour::ALL.iter().step_by(size.of(1, 5)) {
            let Some(attack) = Attack::of(*behaviour)? else { continue };
            self.count(behaviour.name(), attack.is_contained().await, late_max);
        }
        Ok(())
    }

    async fn attack_in_exports(&mut self, size: Size, late_max: Duration) {
        for (behaviour, limit) in [
            (Behaviour::LoopIn, LOOP),
            (Behaviour::TrapIn, Duration::ZERO),
            (Behaviour::NeverIn, CALL),
        ] {
            for export in Export::ALL.iter().step_by(size.of(1, 12)) {
                if !is_possible(behaviour, *export) {
                    continue;
                }
                let took = exports::attack(behaviour, *export).await;
                let late = took.map(|took| took.unwrap_or_default().saturating_sub(limit));
                let name = format!("{} {}", behaviour.name(), export.name());
                self.count(&name, late, late_max);
            }
        }
    }
}

pub(crate) async fn contained(size: Size) -> Result<ChaosRow> {
    let late_max = size.time(LATE_MAX);
    let mut tally = Tally::default();
    // What is loaded once is not what an attack leaves behind.
    let first = Attack::of(Behaviour::Bind)?.context("no such attack")?;
    first.is_contained().await?;
    let memory = || resident_bytes(None).context("the memory of this process");
    let before = memory()?;
    tally.attack_in_exports(size, late_max).await;
    tally.attack_by_all(size, late_max).await?;
    let mut held = vec![memory()?];
    for _ in 0..if size.is_smoke { 0 } else { ROUNDS_MORE } {
        tally.attack_by_all(size, late_max).await?;
        held.push(memory()?);
    }
    let growth = held.iter().max().map_or(0, |most| most.saturating_sub(before));
    if growth > GROWTH_MAX {
        tally.complain(format!("{} MiB more memory than before", growth >> 20));
    }
    let steps = held.array_windows().map(|[before, after]| after.saturating_sub(*before));
    let again = steps.min().unwrap_or(0);
    if again > AGAIN_GROWTH_MAX {
        tally.complain(format!("{} MiB more memory each time it is done again", again >> 20));
    }
    let what = "attacks beside a victim";
    let target = format!(
        "all met as they should be, ended <= {} ms after their limit, 0 forbidden connections",
        late_max.as_millis()
    );
    let wanted = size.of(200, 20);
    Ok(ChaosRow::new("R10", what, &target, wanted, tally.done).violations(tally.violations).detail(
        format!(
            "at most {} ms late, {} MiB more memory, {} of it each time{}{}",
            tally.latest.as_millis(),
            growth >> 20,
            again >> 20,
            if tally.trouble.is_empty() { "" } else { "; " },
            tally.trouble.join("; ")
        ),
    ))
}
