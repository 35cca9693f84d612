//! Questions, for people only.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::exit::{Exit, Failure};

/// Whether somebody is there to answer.
pub(crate) fn can_be_asked() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks, and fails unless the answer is yes.
pub(crate) fn ask(question: &str) -> anyhow::Result<()> {
    eprint!("{question} [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::error(Exit::FAILED, "not done")),
    }
}
