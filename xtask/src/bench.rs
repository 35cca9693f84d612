//! `cargo xtask bench`: ratios against peers.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::build::Profile;
use crate::rows::{self, Family, Row, Verdict, number};
use crate::workspace::Workspace;

#[derive(Args)]
pub(crate) struct Arguments {
    /// One benchmark; without it all of them, and an unknown name lists what there is
    name: Option<String>,
    /// Only this row of the benchmark, or all that begin so, where it offers the choice, as etcd does:
    /// P1-etcd, P12; more than once for more
    #[arg(long, value_name = "ROW", requires = "name")]
    only: Vec<String>,
    /// Write all rows to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One measured ratio.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BenchRow {
    id: String,
    what: String,
    ours: Option<f64>,
    /// What the peer took; none where the target is absolute.
    peer: Option<f64>,
    unit: String,
    ratio: Option<f64>,
    /// The 95 % bounds of the ratio.
    low: Option<f64>,
    high: Option<f64>,
    /// The ratio of the peer to itself.
    aa: Option<f64>,
    target: String,
    verdict: Verdict,
    /// Sizes and costs that an exponent was fitted to.
    #[serde(skip_serializing_if = "Option::is_none")]
    curve: Option<serde_json::Value>,
}

const FAMILY: Family = Family { prefix: "bench-" };

pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let names = FAMILY.choose(workspace, arguments.name.as_deref())?;
    let flags: Vec<&str> = arguments.only.iter().flat_map(|row| ["--only", row]).collect();
    let rows: Vec<BenchRow> = FAMILY.run(workspace, &names, Profile::Release, &flags)?;
    rows::publish(&rows, arguments.json.as_ref())
}

impl Row for BenchRow {
    const HEADINGS: &'static [&'static str] =
        &["id", "what", "ours", "peer", "unit", "ratio", "low", "high", "A/A", "target", "verdict"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.what.clone(),
            number(self.ours),
            number(self.peer),
            self.unit.clone(),
            number(self.ratio),
            number(self.low),
            number(self.high),
            number(self.aa),
            self.target.clone(),
            self.verdict.word().to_owned(),
        ]
    }

    fn verdict(&self) -> Verdict {
        self.verdict
    }
}
