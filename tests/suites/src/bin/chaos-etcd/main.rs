//! `cargo xtask chaos etcd`: what the etcd plugin promises while connections, members and holders
//! fail. With `--smoke` the loads are small.

mod etcd;

use std::process::ExitCode;

use anyhow::Result;
use pintle_test_bench::Report;
use pintle_test_suites::chaos::{
    Size, backend::Kind, killed, lives, locks, register, replies, row, watches,
};

use crate::etcd::OnEtcd;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    if let Some(ended) = killed::hold_if_told::<OnEtcd>().await? {
        return Ok(ended);
    }
    let size = Size::from_arguments();
    let mut report = Report::default();
    report.extend(row("R1-etcd", register::linearizable::<OnEtcd>(size)).await);
    report.extend(row("R2-etcd", watches::complete::<OnEtcd>(size)).await);
    report.extend(row("R4-etcd", locks::fenced::<OnEtcd>(size)).await);
    report.extend(row("R5-etcd", locks::told_in_time::<OnEtcd>(size)).await);
    for (kind, id) in [
        (Kind::Register, "R6-etcd-register"),
        (Kind::Acquire, "R6-etcd-acquire"),
        (Kind::Put, "R6-etcd-put"),
    ] {
        report.extend(row(id, replies::lost::<OnEtcd>(kind, size)).await);
    }
    report.extend(row("R7-etcd", lives::restarts::<OnEtcd>(size)).await);
    report.extend(row("R8-etcd", watches::converges::<OnEtcd>(size)).await);
    report.extend(row("R13-etcd", lives::shutdown::<OnEtcd>(size)).await);
    report.extend(row("R13-etcd-killed", killed::by_ttl::<OnEtcd>(size)).await);
    pintle_test_suites::finish(&report)
}
