//! Compiles plugins for the host, in a process of its own.

use std::io;

use pintle::CompilerProgram;

use crate::{exit::Exit, output};

/// This very program, whatever has happened to its file since it was started. Its allocator makes a
/// gigabyte writable before anything asks for it, unless it is told not to.
pub(crate) fn program() -> CompilerProgram {
    CompilerProgram {
        program: "/proc/self/exe".into(),
        arguments: vec!["compile".into()],
        environment: vec![("MIMALLOC_ARENA_EAGER_COMMIT".into(), "0".into())],
    }
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
