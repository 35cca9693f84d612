//! How cost grows with size.

use std::fmt::Write as _;
use std::future::Future;

use crate::statistics::{bootstrap, fitted_exponent, fitted_line, midmean};
use crate::{BenchError, Row, Side, Target};

/// A measurement of cost at several sizes.
#[derive(Debug, Clone)]
#[must_use]
pub struct Growth {
    id: String,
    what: String,
    unit: String,
    sizes: Vec<u64>,
    rounds: usize,
    target: Target,
    seed: u64,
}

/// The row and what it was made from.
#[derive(Debug, Clone)]
pub struct GrowthResult {
    /// The fitted exponent as a row.
    pub row: Row,
    /// Size and typical cost.
    pub points: Vec<(f64, f64)>,
    unit: String,
}

impl Growth {
    /// The cost of handling `sizes` things, fitted to an exponent of at most 1.1.
    pub fn new(id: &str, what: &str, unit: &str, sizes: &[u64]) -> Growth {
        Growth {
            id: id.to_owned(),
            what: what.to_owned(),
            unit: unit.to_owned(),
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

    /// Measures all sizes in turn, round after round. The closure answers the whole cost of a size,
    /// not the cost of each thing.
    ///
    /// # Errors
    /// The first measurement that fails.
    pub async fn run<F, E>(
        &self,
        mut cost: impl FnMut(u64) -> F,
    ) -> Result<GrowthResult, BenchError>
    where
        F: Future<Output = Result<f64, E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut rounds: Vec<Vec<(f64, f64)>> = Vec::with_capacity(self.rounds);
        for number in 0..=self.rounds {
            let mut round = Vec::with_capacity(self.sizes.len());
            for size in &self.sizes {
                let cost = cost(*size).await.map_err(|source| BenchError {
                    id: self.id.clone(),
                    side: Side::Ours,
                    round: number,
                    source: source.into(),
                })?;
                round.push((*size as f64, cost));
            }
            if number > 0 {
                rounds.push(round);
            }
        }
        Ok(self.result(&rounds))
    }

    fn result(&self, rounds: &[Vec<(f64, f64)>]) -> GrowthResult {
        let exponent = |rounds: &[Vec<(f64, f64)>]| fitted_exponent(&typical(rounds));
        let bounds = bootstrap(rounds, self.seed, exponent);
        let half = |parity: usize| {
            let of_parity = rounds.iter().enumerate().filter(|(n, _)| n % 2 == parity);
            exponent(&of_parity.map(|(_, round)| round.clone()).collect::<Vec<_>>())
        };
        let aa = half(1) / half(0);
        let head = (self.id.as_str(), self.what.as_str(), "exponent");
        let row = Row::absolute(head, bounds, Some(aa), self.target);
        GrowthResult { row, points: typical(rounds), unit: self.unit.clone() }
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

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 420.0;
const MARGIN: f64 = 60.0;

impl GrowthResult {
    /// The points and the fitted line on logarithmic axes.
    pub fn svg(&self) -> String {
        let (slope, intercept) = fitted_line(&self.points);
        let fit = |size: f64| (slope * size.ln() + intercept).exp();
        let sizes = Axis::over(self.points.iter().map(|(size, _)| *size));
        let costs = Axis::over(self.points.iter().flat_map(|(size, cost)| [*cost, fit(*size)]));
        let x = |size: f64| MARGIN + sizes.place(size) * (WIDTH - 2.0 * MARGIN);
        let y = |cost: f64| HEIGHT - MARGIN - costs.place(cost) * (HEIGHT - 2.0 * MARGIN);
        let mut body = String::new();
        // Writing to a string cannot fail.
        for size in sizes.decades() {
            let (at, bottom, top) = (x(size), HEIGHT - MARGIN, MARGIN);
            let _ = writeln!(body, r##"<path d="M{at:.1} {top}V{bottom}" stroke="#ddd"/>"##);
            let below = bottom + 18.0;
            let _ = writeln!(
                body,
                r#"<text x="{at:.1}" y="{below}" text-anchor="middle">{size}</text>"#
            );
        }
        for cost in costs.decades() {
            let (at, right) = (y(cost), WIDTH - MARGIN);
            let _ = writeln!(body, r##"<path d="M{MARGIN} {at:.1}H{right}" stroke="#ddd"/>"##);
            let left = MARGIN - 6.0;
            let _ =
                writeln!(body, r#"<text x="{left}" y="{at:.1}" text-anchor="end">{cost}</text>"#);
        }
        let (low, high) = (sizes.low, sizes.high);
        let (x1, y1, x2, y2) = (x(low), y(fit(low)), x(high), y(fit(high)));
        let line = format!("M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}");
        let _ = writeln!(body, r##"<path d="{line}" stroke="#36c" stroke-width="2"/>"##);
        for (size, cost) in &self.points {
            let (cx, cy) = (x(*size), y(*cost));
            let _ = writeln!(body, r##"<circle cx="{cx:.1}" cy="{cy:.1}" r="4" fill="#c33"/>"##);
        }
        let Row { id, what, ours, low, high, .. } = &self.row;
        let title = escaped(&format!("{id}: {what}"));
        let unit = escaped(&self.unit);
        let _ = writeln!(body, r#"<text x="{MARGIN}" y="24">{title}</text>"#);
        let legend = format!("cost in {unit}, exponent {ours:.3} ({low:.3} … {high:.3})");
        let _ = writeln!(body, r#"<text x="{MARGIN}" y="42">{legend}</text>"#);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
        )
    }
}

/// A logarithmic axis.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>) -> Axis {
        let (low, high) = values
            .fold((f64::INFINITY, 0.0f64), |(low, high), value| (low.min(value), high.max(value)));
        Axis { low, high: high.max(low * 1.001) }
    }

    /// 0 at the low end, 1 at the high end.
    fn place(&self, value: f64) -> f64 {
        (value / self.low).ln() / (self.high / self.low).ln()
    }

    /// The powers of ten on it.
    fn decades(&self) -> impl Iterator<Item = f64> {
        let first = self.low.log10().ceil() as i32;
        let last = self.high.log10().floor() as i32;
        (first..=last).map(|power| 10f64.powi(power))
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
