//! `pintle completion`: for shells.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{exit::Exit, output};

/// For which shell.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The shell; for bash: source <(pintle completion bash)
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    let mut command = crate::Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "pintle", &mut script);
    output::bytes(&script)?;
    Ok(Exit::OK)
}
