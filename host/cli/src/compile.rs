//! Compiles plugins for the host, in a process of its own.

use std::io;

use pintle::CompilerProgram;

use crate::{exit::Exit, output};

/// This very program, whatever has happened to its file since it was started.
pub(crate) fn program() -> CompilerProgram {
    CompilerProgram { program: "/proc/self/exe".into(), arguments: vec!["compile".into()] }
}

pub(crate) fn run() -> Exit {
    match pintle::compile_plugin(io::stdin().lock(), io::stdout().lock()) {
        Ok(()) => Exit::OK,
        Err(error) => {
            output::note(&error);
            Exit::FAILED
        }
    }
}
