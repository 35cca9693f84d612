//! How cost grows with size.

use std::fmt::Write as _;
use std::future::Future;

use serde::Serialize;

use crate::statistics::{bootstrap, fitted_exponent, midmean};
use crate::{BenchError, Row, Side, Target};

/// A measurement of cost at several sizes.
#[derive(Debug, Clone)]
#[must_use]
pub struct Growth {
    id: String,
    what: String,
    sizes: Vec<u64>,
    rounds: usize,
    target: Target,
    seed: u64,
}

/// One kind of cost: what is added to the row's id for it (`-time`), and its unit (`ms`).
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Added to the id of the row.
    pub suffix: &'static str,
    /// The unit of the figures.
    pub unit: &'static str,
}

/// What an exponent was fitted to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// Of the costs.
    pub unit: String,
    /// Size and typical cost.
    pub points: Vec<(f64, f64)>,
}

impl Growth {
    /// The cost of handling `sizes` things, fitted to an exponent of at most 1.1.
    pub fn new(id: &str, what: &str, sizes: &[u64]) -> Growth {
        Growth {
            id: id.to_owned(),
            what: what.to_owned(),
            sizes: sizes.to_vec(),
            rounds: 10,
            target: Target::AtMost(1.1),
            seed: 1,
        }
    }

    /// What is demanded of the exponent.
    pub fn target(mut self, target: Target) -> Growth {
        self.target = target;
        self
    }

    /// How often each size is measured; at least 2.
    pub fn rounds(mut self, rounds: usize) -> Growth {
        self.rounds = rounds.max(2);
        self
    }

    /// Measures all sizes in turn, round after round, and makes a row of each kind of cost. The
    /// closure answers the whole costs of a size, not those of each thing.
    ///
    /// # Errors
    /// The first measurement that fails.
    pub async fn run<const K: usize, F, E>(
        &self,
        kinds: [Cost; K],
        mut costs: impl FnMut(u64) -> F,
    ) -> Result<Vec<Row>, BenchError>
    where
        F: Future<Output = Result<[f64; K], E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut rounds: Vec<Vec<(f64, [f64; K])>> = Vec::with_capacity(self.rounds);
        for number in 0..=self.rounds {
            let mut round = Vec::with_capacity(self.sizes.len());
            for size in &self.sizes {
                let costs = costs(*size).await.map_err(|source| BenchError {
                    id: self.id.clone(),
                    side: Side::Ours,
                    round: number,
                    source: source.into(),
                })?;
                round.push((*size as f64, costs));
            }
            if number > 0 {
                rounds.push(round);
            }
        }
        let row = |(index, kind): (usize, &Cost)| {
            let one = |(size, costs): &(f64, [f64; K])| Some((*size, *costs.get(index)?));
            let of_kind: Vec<Vec<(f64, f64)>> =
                rounds.iter().map(|round| round.iter().filter_map(one).collect()).collect();
            self.row(*kind, &of_kind)
        };
        Ok(kinds.iter().enumerate().map(row).collect())
    }

    fn row(&self, kind: Cost, rounds: &[Vec<(f64, f64)>]) -> Row {
        let exponent = |rounds: &[Vec<(f64, f64)>]| fitted_exponent(&typical(rounds));
        let bounds = bootstrap(rounds, self.seed, exponent);
        let half = |parity: usize| {
            let of_parity = rounds.iter().enumerate().filter(|(n, _)| n % 2 == parity);
            exponent(&of_parity.map(|(_, round)| round.clone()).collect::<Vec<_>>())
        };
        let aa = half(1) / half(0);
        let id = format!("{}{}", self.id, kind.suffix);
        let head = (id.as_str(), self.what.as_str(), "exponent");
        let curve = Curve { unit: kind.unit.to_owned(), points: typical(rounds) };
        Row { curve: Some(curve), ..Row::absolute(head, bounds, Some(aa), self.target) }
    }
}

/// The midmean of each size's cost.
fn typical(rounds: &[Vec<(f64, f64)>]) -> Vec<(f64, f64)> {
    let sizes = rounds.first().map_or(0, Vec::len);
    let point = |at: usize| {
        let column: Vec<(f64, f64)> =
            rounds.iter().filter_map(|round| round.get(at)).copied().collect();
        let costs: Vec<f64> = column.iter().map(|(_, cost)| *cost).collect();
        column.first().map(|(size, _)| (*size, midmean(&costs)))
    };
    (0..sizes).filter_map(point).collect()
}

/// Columns of the plot for a tenfold.
const TENFOLD: f64 = 10.0;

impl Curve {
    /// One bar for each size, on a logarithmic axis: what grows in proportion to the size gets ten
    /// columns longer with each tenfold of it.
    pub fn plot(&self, title: &str) -> String {
        let least = self.points.iter().map(|(_, cost)| *cost).fold(f64::INFINITY, f64::min);
        let width = |size: &f64| format!("{size}").len();
        let sizes = self.points.iter().map(|(size, _)| width(size)).max().unwrap_or(0);
        let mut text = format!("{title}, {}; ten columns are a tenfold\n", self.unit);
        for (size, cost) in &self.points {
            let columns = 1.0 + (TENFOLD * (cost / least).log10()).round();
            let bar = "█".repeat(columns as usize);
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{size:>sizes$} │{bar} {}", crate::report::short(*cost));
        }
        text
    }
}
