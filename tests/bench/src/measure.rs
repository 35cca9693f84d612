//! What is measured in a round.

use std::time::Duration;

use crate::statistics::percentile;

/// A quantity of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Median latency of an operation.
    P50,
    /// 99th percentile of the latency.
    P99,
    /// Operations per second.
    Throughput,
    /// CPU time of this process for each operation: background threads of both sides count, so that
    /// what one side leaves running shows on both.
    CpuPerOperation,
    /// Operations per CPU second.
    PerCpuSecond,
}

impl Measure {
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Measure::P50 | Measure::P99 | Measure::CpuPerOperation => "µs",
            Measure::Throughput => "op/s",
            Measure::PerCpuSecond => "op/CPU s",
        }
    }

    /// What is added to the row's id.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Measure::P50 => "-p50",
            Measure::P99 => "-p99",
            Measure::Throughput | Measure::CpuPerOperation | Measure::PerCpuSecond => "",
        }
    }

    pub(crate) fn of(self, round: &Round) -> f64 {
        match self {
            Measure::P50 => round.latency_us(0.5),
            Measure::P99 => round.latency_us(0.99),
            Measure::Throughput => round.operations() / round.wall_seconds,
            Measure::CpuPerOperation => round.cpu_seconds / round.operations() * 1e6,
            Measure::PerCpuSecond => round.operations() / round.cpu_seconds,
        }
    }
}

/// What one side did in one round.
#[derive(Debug, Clone, Default)]
pub struct Round {
    latencies_us: Vec<f64>,
    /// Time from the first call to the last answer.
    pub wall_seconds: f64,
    /// CPU time of this process in that time.
    pub cpu_seconds: f64,
}

impl Round {
    pub(crate) fn new(latencies: &[Duration], wall_seconds: f64, cpu_seconds: f64) -> Round {
        let mut latencies_us: Vec<f64> =
            latencies.iter().map(|latency| latency.as_secs_f64() * 1e6).collect();
        latencies_us.sort_by(f64::total_cmp);
        Round { latencies_us, wall_seconds, cpu_seconds }
    }

    /// How many operations were done.
    pub fn operations(&self) -> f64 {
        self.latencies_us.len() as f64
    }

    /// The latency below which this share of the operations stayed.
    pub fn latency_us(&self, share: f64) -> f64 {
        percentile(&self.latencies_us, share)
    }
}
