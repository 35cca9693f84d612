//! `cargo xtask chaos etcd`: what the etcd plugin promises while connections, members and holders
//! fail. With `--smoke` the loads are small.

mod etcd;

use std::process::ExitCode;

use anyhow::Result;
use pintle_test_bench::Report;
use pintle_test_suites::chaos::{Size, killed, rows_of};

use crate::etcd::OnEtcd;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let size = Size::from_arguments();
    if let Some(ended) = killed::hold_if_told::<OnEtcd>().await? {
        return Ok(ended);
    }
    let mut report = Report::default();
    report.extend(rows_of::<OnEtcd>(size).await);
    pintle_test_suites::finish(&report)
}
