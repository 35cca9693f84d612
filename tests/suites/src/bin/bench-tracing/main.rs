//! `cargo xtask bench tracing`: spans to a receiver of OTLP, through Pintle and through what others
//! have for it.
//!
//! All speak gRPC without compression. The receiver is a process of its own, so that what it takes is
//! nobody's CPU time here, and counts, so that no span is lost unseen.

mod application;
mod export;
mod receiver;
mod relay;
mod spans;

use std::process::ExitCode;

use anyhow::Result;
use pintle_test_bench::Report;
use pintle_test_suites::{
    arguments::{self, part},
    is_chosen,
};

#[tokio::main]
async fn main() -> Result<ExitCode> {
    arguments::bench();
    if part()[..] == [receiver::PART] {
        return receiver::run().await.map(|()| ExitCode::SUCCESS);
    }
    let mut report = Report::default();
    if is_chosen("P7") {
        report.push(export::exported().await?);
    }
    if is_chosen("P7-thread") {
        report.push(application::ended().await?);
    }
    if is_chosen("P7-relay") {
        report.push(relay::passed_on().await?);
    }
    pintle_test_suites::finish(&report)
}
