//! `cargo xtask chaos zookeeper`: what the ZooKeeper plugin promises while connections, servers and
//! holders fail. With `--smoke` the loads are small.

mod nodes;
mod zookeeper;

use std::process::ExitCode;

use anyhow::Result;
use pintle_test_bench::Report;
use pintle_test_suites::chaos::{Size, killed, row, rows_of};

use crate::zookeeper::OnZooKeeper;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let size = Size::from_arguments();
    if let Some(ended) = killed::hold_if_told::<OnZooKeeper>().await? {
        return Ok(ended);
    }
    let mut report = Report::default();
    report.extend(rows_of::<OnZooKeeper>(size).await);
    report.extend(row("R3-zookeeper", nodes::final_states(size)).await);
    pintle_test_suites::finish(&report)
}
