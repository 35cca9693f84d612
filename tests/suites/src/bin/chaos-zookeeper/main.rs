//! `cargo xtask chaos zookeeper`: what the ZooKeeper plugin promises while connections, servers and
//! holders fail. With `--smoke` the loads are small.

mod nodes;
mod zookeeper;

use std::process::ExitCode;

use anyhow::Result;
use pintle_test_bench::Report;
use pintle_test_suites::chaos::{
    Size, backend::Kind, killed, lives, locks, register, replies, row, watches,
};

use crate::zookeeper::OnZooKeeper;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    if let Some(ended) = killed::hold_if_told::<OnZooKeeper>().await? {
        return Ok(ended);
    }
    let size = Size::from_arguments();
    let mut report = Report::default();
    report.extend(row("R1-zookeeper", register::linearizable::<OnZooKeeper>(size)).await);
    report.extend(row("R2-zookeeper", watches::complete::<OnZooKeeper>(size)).await);
    report.extend(row("R3-zookeeper", nodes::final_states(size)).await);
    report.extend(row("R4-zookeeper", locks::fenced::<OnZooKeeper>(size)).await);
    report.extend(row("R5-zookeeper", locks::told_in_time::<OnZooKeeper>(size)).await);
    for (kind, id) in [
        (Kind::Register, "R6-zookeeper-register"),
        (Kind::Acquire, "R6-zookeeper-acquire"),
        (Kind::Put, "R6-zookeeper-put"),
    ] {
        report.extend(row(id, replies::lost::<OnZooKeeper>(kind, size)).await);
    }
    report.extend(row("R7-zookeeper", lives::restarts::<OnZooKeeper>(size)).await);
    report.extend(row("R8-zookeeper", watches::converges::<OnZooKeeper>(size)).await);
    report.extend(row("R13-zookeeper", lives::shutdown::<OnZooKeeper>(size)).await);
    report.extend(row("R13-zookeeper-killed", killed::by_ttl::<OnZooKeeper>(size)).await);
    pintle_test_suites::finish(&report)
}
