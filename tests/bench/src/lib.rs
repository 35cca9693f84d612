//! Measurements that mean something on a shared machine: ours against a peer, in one process,
//! alternating, with bounds.
//!
//! ```no_run
//! # use pintle_test_bench::{BenchError, Comparison, Measure, Report, Target};
//! # async fn ours() -> Result<(), std::io::Error> { Ok(()) }
//! # async fn peer() -> Result<(), std::io::Error> { Ok(()) }
//! # async fn example() -> Result<std::process::ExitCode, BenchError> {
//! let mut report = Report::default();
//! let comparison = Comparison::new("P1-etcd", "config get, one caller")
//!     .target(Measure::P50, Target::AtMost(0.95))
//!     .target(Measure::P99, Target::AtMost(1.05))
//!     .operations(2_000);
//! report.extend(comparison.run(ours, peer).await?);
//! report.print();
//! # Ok(report.exit_code())
//! # }
//! ```
//!
//! Each round measures the peer twice and ours once, in an order that changes from round to round.
//! The ratio of a round is ours to the mean of its two peers; the two peers against each other (A/A)
//! show what the machine adds. A row passes when the bound of the 95 % bootstrap interval that is
//! nearer to failure meets the target, and is inconclusive when A/A strays from 1 by more than 3 %.

mod comparison;
mod growth;
mod measure;
mod process;
mod report;
mod row;
mod statistics;

pub use comparison::{BenchError, Comparison, Side};
pub use growth::{Cost, Curve, Growth};
pub use measure::{Measure, Round};
pub use process::{cpu_seconds, cpu_seconds_of, resident_bytes, thread_cpu_seconds};
pub use report::{Cells, Report};
pub use row::{ChaosRow, Row, Target, Verdict};
pub use statistics::{Bounds, bootstrap, fitted_exponent, midmean, percentile};
