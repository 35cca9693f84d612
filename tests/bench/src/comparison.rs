//! Ours against a peer, round after round.

use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};

use crate::process::cpu_seconds;
use crate::statistics::{bootstrap, mean_ratio, midmean};
use crate::{Measure, Round, Row, Target};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Pintle.
    Ours,
    /// What it is measured against.
    Peer,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Ours => "ours",
            Side::Peer => "the peer",
        })
    }
}

/// An operation failed, so that there is nothing to compare.
#[derive(Debug, thiserror::Error)]
#[error("bench {id}: {side} failed in round {round}")]
pub struct BenchError {
    /// Of the comparison.
    pub id: String,
    /// Who failed.
    pub side: Side,
    /// Which round, 0 for warming up.
    pub round: usize,
    /// What the operation said.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A measurement to be made.
#[derive(Debug, Clone)]
#[must_use]
pub struct Comparison {
    id: String,
    what: String,
    targets: Vec<(Measure, Target)>,
    rounds: usize,
    operations: usize,
    outstanding: usize,
    seed: u64,
}

impl Comparison {
    /// Thirty rounds of 200 operations each, one at a time.
    pub fn new(id: &str, what: &str) -> Comparison {
        let (id, what) = (id.to_owned(), what.to_owned());
        let targets = Vec::new();
        Comparison { id, what, targets, rounds: 30, operations: 200, outstanding: 1, seed: 1 }
    }

    /// Makes a row of this measure. Percentiles add `-p50` or `-p99` to the id.
    pub fn target(mut self, measure: Measure, target: Target) -> Comparison {
        self.targets.push((measure, target));
        self
    }

    /// How many rounds. One more goes before them and is not counted.
    pub fn rounds(mut self, rounds: usize) -> Comparison {
        self.rounds = rounds.max(1);
        self
    }

    /// How many operations each side does in a round, and the peer once again.
    pub fn operations(mut self, operations: usize) -> Comparison {
        self.operations = operations.max(1);
        self
    }

    /// How many operations are under way at any time, all in the calling task.
    pub fn outstanding(mut self, outstanding: usize) -> Comparison {
        self.outstanding = outstanding.max(1);
        self
    }

    /// Seed of the resampling.
    pub fn seed(mut self, seed: u64) -> Comparison {
        self.seed = seed;
        self
    }

    /// Measures single operations; each closure does one.
    ///
    /// # Errors
    /// The first operation that fails.
    pub async fn run<A, B, FA, FB, EA, EB>(
        &self,
        mut ours: A,
        mut peer: B,
    ) -> Result<Vec<Row>, BenchError>
    where
        A: FnMut() -> FA,
        B: FnMut() -> FB,
        FA: Future<Output = Result<(), EA>>,
        FB: Future<Output = Result<(), EB>>,
        EA: Into<Box<dyn std::error::Error + Send + Sync>>,
        EB: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.run_timed(move || clocked(ours()), move || clocked(peer())).await
    }

    /// As [`Comparison::run`], for operations that say themselves how long what counts took.
    ///
    /// # Errors
    /// The first operation that fails.
    pub async fn run_timed<A, B, FA, FB, EA, EB>(
        &self,
        mut ours: A,
        mut peer: B,
    ) -> Result<Vec<Row>, BenchError>
    where
        A: FnMut() -> FA,
        B: FnMut() -> FB,
        FA: Future<Output = Result<Duration, EA>>,
        FB: Future<Output = Result<Duration, EB>>,
        EA: Into<Box<dyn std::error::Error + Send + Sync>>,
        EB: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut rounds = Vec::with_capacity(self.rounds);
        for number in 0..=self.rounds {
            let mut round = Triple::default();
            for slot in order(number) {
                let measured = match slot {
                    Slot::Ours => self.round(&mut ours).await.map_err(|e| (Side::Ours, e)),
                    _ => self.round(&mut peer).await.map_err(|e| (Side::Peer, e)),
                };
                let measured =
                    measured.map_err(|(side, source)| self.error(side, number, source))?;
                *round.slot(slot) = measured;
            }
            if number > 0 {
                rounds.push(round);
            }
        }
        let row = |(measure, target): &(Measure, Target)| self.row(*measure, *target, &rounds);
        Ok(self.targets.iter().map(row).collect())
    }

    /// Measures anything else: each closure does a whole round and answers its figure. Makes one
    /// row.
    ///
    /// # Errors
    /// The first round that fails.
    pub async fn run_values<A, B, FA, FB, EA, EB>(
        &self,
        unit: &str,
        target: Target,
        mut ours: A,
        mut peer: B,
    ) -> Result<Row, BenchError>
    where
        A: FnMut() -> FA,
        B: FnMut() -> FB,
        FA: Future<Output = Result<f64, EA>>,
        FB: Future<Output = Result<f64, EB>>,
        EA: Into<Box<dyn std::error::Error + Send + Sync>>,
        EB: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut rounds = Vec::with_capacity(self.rounds);
        for number in 0..=self.rounds {
            let mut round = Triple::default();
            for slot in order(number) {
                let measured = match slot {
                    Slot::Ours => ours().await.map_err(|e| (Side::Ours, e.into())),
                    _ => peer().await.map_err(|e| (Side::Peer, e.into())),
                };
                let measured =
                    measured.map_err(|(side, source)| self.error(side, number, source))?;
                *round.slot(slot) = measured;
            }
            if number > 0 {
                rounds.push(round);
            }
        }
        Ok(self.row_of(&self.id, unit, target, &rounds))
    }

    async fn round<F, E>(
        &self,
        operation: &mut impl FnMut() -> F,
    ) -> Result<Round, Box<dyn std::error::Error + Send + Sync>>
    where
        F: Future<Output = Result<Duration, E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut latencies = Vec::with_capacity(self.operations);
        let (start, cpu_start) = (Instant::now(), cpu_seconds());
        if self.outstanding == 1 {
            for _ in 0..self.operations {
                latencies.push(operation().await.map_err(Into::into)?);
            }
        } else {
            let mut running = FuturesUnordered::new();
            let mut begun = 0;
            while latencies.len() < self.operations {
                while running.len() < self.outstanding && begun < self.operations {
                    running.push(operation());
                    begun += 1;
                }
                if let Some(latency) = running.next().await {
                    latencies.push(latency.map_err(Into::into)?);
                }
            }
        }
        let (cpu, wall) = (cpu_seconds() - cpu_start, start.elapsed().as_secs_f64());
        Ok(Round::new(&latencies, wall, cpu))
    }

    fn error(
        &self,
        side: Side,
        round: usize,
        source: Box<dyn std::error::Error + Send + Sync>,
    ) -> BenchError {
        BenchError { id: self.id.clone(), side, round, source }
    }

    fn row(&self, measure: Measure, target: Target, rounds: &[Triple<Round>]) -> Row {
        let figures: Vec<Triple<f64>> = rounds
            .iter()
            .map(|round| Triple {
                ours: measure.of(&round.ours),
                first: measure.of(&round.first),
                second: measure.of(&round.second),
            })
            .collect();
        self.row_of(&format!("{}{}", self.id, measure.suffix()), measure.unit(), target, &figures)
    }

    fn row_of(&self, id: &str, unit: &str, target: Target, rounds: &[Triple<f64>]) -> Row {
        let each = |figure: fn(&Triple<f64>) -> f64| rounds.iter().map(figure).collect::<Vec<_>>();
        let ratios = each(|round| round.ours / round.peer());
        let ratio = bootstrap(&ratios, self.seed, mean_ratio);
        let aa = mean_ratio(&each(|round| round.second / round.first));
        let ours = midmean(&each(|round| round.ours));
        let peer = midmean(&each(Triple::peer));
        Row::relative((id, &self.what, unit), (ours, peer), ratio, aa, target)
    }
}

async fn clocked<E>(operation: impl Future<Output = Result<(), E>>) -> Result<Duration, E> {
    let start = Instant::now();
    operation.await?;
    Ok(start.elapsed())
}

/// Ours, and the peer twice.
#[derive(Debug, Clone, Copy, Default)]
struct Triple<T> {
    ours: T,
    first: T,
    second: T,
}

impl<T> Triple<T> {
    fn slot(&mut self, slot: Slot) -> &mut T {
        match slot {
            Slot::Ours => &mut self.ours,
            Slot::First => &mut self.first,
            Slot::Second => &mut self.second,
        }
    }
}

impl Triple<f64> {
    /// The geometric mean of the two.
    fn peer(&self) -> f64 {
        (self.first * self.second).sqrt()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Slot {
    Ours,
    First,
    Second,
}

/// Each of the six orders in turn, so that no side gains by its place, nor by what it comes behind: over six
/// rounds each slot follows each other one three times, and never itself.
fn order(round: usize) -> [Slot; 3] {
    use Slot::{First, Ours, Second};
    match round % 6 {
        0 => [Ours, First, Second],
        1 => [First, Second, Ours],
        2 => [Second, Ours, First],
        3 => [Ours, Second, First],
        4 => [Second, First, Ours],
        _ => [First, Ours, Second],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn each_slot_has_each_place_and_follows_each_other_one_equally_often() {
        let rounds = || (0..6).map(order);
        for place in 0..3 {
            for slot in [Slot::Ours, Slot::First, Slot::Second] {
                assert_eq!(rounds().filter(|order| order[place] == slot).count(), 2);
            }
        }
        let slots: Vec<Slot> = rounds().flatten().collect();
        let mut follows: HashMap<(Slot, Slot), usize> = HashMap::new();
        for (one, next) in slots.iter().zip(slots.iter().cycle().skip(1)) {
            *follows.entry((*one, *next)).or_default() += 1;
        }
        assert_eq!(follows.len(), 6);
        assert!(follows.iter().all(|((one, next), count)| one != next && *count == 3));
    }
}
