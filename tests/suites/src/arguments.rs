//! The command line of the programs that measure and inject faults.

use std::{path::PathBuf, sync::OnceLock};

use clap::{Args, Parser};

static ARGUMENTS: OnceLock<Common> = OnceLock::new();

/// What all of them understand.
#[derive(Debug, Default, Args)]
pub struct Common {
    /// Only this row, or all that begin so, up to a dash: R4-etcd, R6; more than once for more
    #[arg(long, value_name = "ROW")]
    only: Vec<String>,
    /// Write the rows to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Plays a part for another of these programs, which starts it
    #[arg(long, num_args = 1.., hide = true)]
    part: Vec<String>,
}

/// Measures against native peers and prints one table of ratios.
///
/// `cargo xtask bench` builds what this needs, and runs it.
#[derive(Parser)]
struct Bench {
    #[command(flatten)]
    common: Common,
}

/// Injects faults and prints one table of violations.
///
/// `cargo xtask chaos` builds what this needs, and runs it.
#[derive(Parser)]
struct Chaos {
    /// Small loads, as the tests run them: at most five minutes
    #[arg(long)]
    smoke: bool,
    #[command(flatten)]
    common: Common,
}

/// Reads the command line of a program that measures.
///
/// # Exits
///
/// With a message where it is not understood, and where it asks for help.
pub fn bench() -> &'static Common {
    ARGUMENTS.get_or_init(|| Bench::parse().common)
}

/// The same of a program that injects faults; whether loads are to be small.
///
/// # Exits
///
/// As [`bench`].
pub(crate) fn chaos() -> bool {
    let Chaos { smoke, common } = Chaos::parse();
    ARGUMENTS.get_or_init(|| common);
    smoke
}

/// What was read; nothing in a test.
pub(crate) fn read() -> Option<&'static Common> {
    ARGUMENTS.get()
}

/// The part that this program has to play, and what else it was told; nothing where it is the one that
/// measures.
#[must_use]
pub fn part() -> Vec<&'static str> {
    read().map(|read| read.part.iter().map(String::as_str).collect()).unwrap_or_default()
}

/// The argument before [`part`].
pub const PART: &str = "--part";

impl Common {
    /// Whether this row is wanted. Percentiles have ids of their own and are measured together.
    pub(crate) fn chooses(&self, id: &str) -> bool {
        let is_this = |chosen: &String| {
            let chosen = ["-p50", "-p99"]
                .iter()
                .find_map(|percentile| chosen.strip_suffix(percentile))
                .unwrap_or(chosen);
            id.strip_prefix(chosen).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        self.only.is_empty() || self.only.iter().any(is_this)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chaos(line: &str) -> Result<Chaos, clap::Error> {
        Chaos::try_parse_from(line.split(' '))
    }

    #[test]
    fn rows_are_chosen_by_their_ids_or_the_beginnings_of_these() {
        let chooses = |line: &str, id: &str| chaos(line).unwrap().common.chooses(id);
        assert!(chooses("chaos-etcd --smoke", "R1-etcd"));
        assert!(chooses("chaos-etcd --only R1-etcd", "R1-etcd"));
        assert!(chooses("chaos-etcd --only R2 --only R6-etcd", "R6-etcd-put"));
        assert!(!chooses("chaos-etcd --only R1 --only R2", "R13-etcd"));
        assert!(!chooses("chaos-etcd --only R13-etcd-killed", "R13-etcd"));
        assert!(chooses("chaos-etcd --only P1-etcd-p50", "P1-etcd"));
    }

    #[test]
    fn what_nobody_understands_is_refused() {
        assert!(chaos("chaos-etcd --smoke --onyl R1").is_err());
        assert!(Bench::try_parse_from(["bench-etcd", "--smoke"]).is_err());
    }

    #[test]
    fn a_part_takes_all_that_follows() {
        let read = chaos("chaos-etcd --part hold 127.0.0.1:1 5").unwrap().common;
        assert_eq!(read.part, ["hold", "127.0.0.1:1", "5"]);
    }
}
