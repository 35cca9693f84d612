//! `cargo xtask chaos`: violations under injected faults.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::build::Profile;
use crate::rows::{self, Family, Row, Verdict};
use crate::workspace::Workspace;

#[derive(Args)]
pub(crate) struct Arguments {
    /// One program; without it all of them, and an unknown name lists what there is
    name: Option<String>,
    /// Small loads, as the tests run them: at most five minutes
    #[arg(long)]
    smoke: bool,
    /// Only this row of the program, or all that begin so: R4-etcd, R6; more than once for more
    #[arg(long, value_name = "ROW", requires = "name")]
    only: Vec<String>,
    /// Write all rows to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One promise under faults.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ChaosRow {
    id: String,
    what: String,
    /// Operations or faults done.
    done: u64,
    violations: u64,
    detail: String,
    target: String,
    verdict: Verdict,
}

/// The programs.
pub(crate) const FAMILY: Family = Family { prefix: "chaos-" };

pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let names = FAMILY.choose(workspace, arguments.name.as_deref())?;
    let (profile, mut flags) = if arguments.smoke {
        (Profile::Development, vec!["--smoke"])
    } else {
        (Profile::Release, Vec::new())
    };
    flags.extend(arguments.only.iter().flat_map(|row| ["--only", row]));
    let rows: Vec<ChaosRow> = FAMILY.run(workspace, &names, profile, &flags)?;
    rows::publish(&rows, arguments.json.as_ref())
}

/// The names of all programs.
pub(crate) fn names(workspace: &Workspace) -> Result<Vec<String>> {
    FAMILY.names(workspace)
}

/// Runs these programs with small loads; an error when some row does not pass.
pub(crate) fn smoke(workspace: &Workspace, names: &[String]) -> Result<String> {
    let rows: Vec<ChaosRow> = FAMILY.run(workspace, names, Profile::Development, &["--smoke"])?;
    rows::publish(&rows, None)?;
    if !rows::passes(&rows) {
        bail!("a row does not pass");
    }
    Ok(format!("{} rows", rows.len()))
}

/// What stands for what a row is about when it ended with an error; the programs write it.
pub(crate) const WITHOUT_END: &str = "it did not come to its end";

impl ChaosRow {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Whether it did what it is about, however that went.
    pub(crate) fn has_ended(&self) -> bool {
        self.what != WITHOUT_END
    }

    /// What came of it, in a line.
    pub(crate) fn summary(&self) -> String {
        let Self { what, done, violations, detail, .. } = self;
        format!("{violations} violations in {done}: {what}: {detail}")
    }
}

impl Row for ChaosRow {
    const HEADINGS: &'static [&'static str] =
        &["id", "what", "done", "violations", "detail", "target", "verdict"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.what.clone(),
            self.done.to_string(),
            self.violations.to_string(),
            self.detail.clone(),
            self.target.clone(),
            self.verdict.word().to_owned(),
        ]
    }

    fn verdict(&self) -> Verdict {
        self.verdict
    }
}
