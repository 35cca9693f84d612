//! What the programs that inject faults share.

pub mod backend;
pub mod killed;
pub mod lives;
pub mod locks;
pub mod register;
pub mod replies;
pub mod stage;
pub mod watches;

use std::{future::Future, time::Duration};

use anyhow::Result;
use pintle_test_bench::ChaosRow;

use backend::{Backend, Kind};

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Small loads, on a machine that also runs the tests.
    pub is_smoke: bool,
}

impl Size {
    /// As the command line says: `--smoke` for the small loads.
    #[must_use]
    pub fn from_arguments() -> Self {
        Self { is_smoke: crate::arguments::chaos() }
    }

    /// The load of the goals, or the small one.
    pub fn of<T>(self, full: T, smoke: T) -> T {
        if self.is_smoke { smoke } else { full }
    }

    /// The time of the goals, or ten times as much where a busy machine runs it among its tests.
    #[must_use]
    pub fn time(self, goal: Duration) -> Duration {
        self.of(goal, goal * 10)
    }
}

/// A row, or one that says why there is none: the others are wanted all the same. None when the
/// command line [chooses](crate::is_chosen) others.
pub async fn row(id: &str, run: impl Future<Output = Result<ChaosRow>>) -> Option<ChaosRow> {
    if !crate::is_chosen(id) {
        return None;
    }
    eprintln!("    {id}");
    Some(match run.await {
        Ok(row) => row,
        // `cargo xtask plants` knows these words.
        Err(error) => ChaosRow::new(id, "it did not come to its end", "", 1, 0)
            .violations(1)
            .detail(format!("{error:#}")),
    })
}

/// The rows that every backend of configuration, registry and locks has, by their ids.
pub async fn rows_of<B: Backend>(size: Size) -> Vec<ChaosRow> {
    let id = |name: &str| B::id(name);
    let mut rows = Vec::new();
    rows.extend(row(&id("R1"), register::linearizable::<B>(size)).await);
    rows.extend(row(&id("R2"), watches::complete::<B>(size)).await);
    rows.extend(row(&id("R4"), locks::fenced::<B>(size)).await);
    rows.extend(row(&id("R5"), locks::told_in_time::<B>(size)).await);
    for (kind, what) in
        [(Kind::Register, "register"), (Kind::Acquire, "acquire"), (Kind::Put, "put")]
    {
        let id = format!("{}-{what}", id("R6"));
        rows.extend(row(&id, replies::lost::<B>(kind, size)).await);
    }
    rows.extend(row(&id("R7"), lives::restarts::<B>(size)).await);
    rows.extend(row(&id("R8"), watches::converges::<B>(size)).await);
    rows.extend(row(&id("R13"), lives::shutdown::<B>(size)).await);
    let killed_id = format!("{}-killed", id("R13"));
    rows.extend(row(&killed_id, killed::by_ttl::<B>(size)).await);
    rows
}

/// The duration below which 99 of 100 lie; for ever without any.
#[must_use]
pub fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    times.get((times.len() * 99 / 100).min(last)).copied().unwrap_or(Duration::MAX)
}
