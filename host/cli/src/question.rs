//! Questions, for people only.

use std::io::{self, BufRead, BufReader, IsTerminal};

use crate::{
    exit::{Exit, Failure},
    output, terminal,
};

/// Whether somebody is there to answer: at standard input, or at the terminal where that is a pipe.
pub(crate) fn can_be_asked() -> bool {
    io::stderr().is_terminal() && (io::stdin().is_terminal() || terminal::ours().is_some())
}

/// Asks, and fails unless the answer is yes.
pub(crate) fn ask(question: &str) -> anyhow::Result<()> {
    output::note_part(format_args!("{question} [y/N] "));
    let mut answer = String::new();
    match terminal::ours() {
        Some(terminal) => BufReader::new(terminal).read_line(&mut answer)?,
        None => io::stdin().lock().read_line(&mut answer)?,
    };
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::error(Exit::FAILED, "not done")),
    }
}
