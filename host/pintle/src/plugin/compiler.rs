//! Where components are compiled: in this process, or in one of their own.
//!
//! A process of its own has a bound on its memory, can be ended when it takes too long, and gives
//! everything back when it is done: compiling a plugin takes a hundred megabytes, serving it a few.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{io::AsyncWriteExt, process::Command, runtime::Handle};
use wasmtime::Engine;

use super::{engine, guest::printable};
use crate::settings::ByteSize;

/// A program that compiles plugins for a host: it calls [`compile_plugin`] with its standard input
/// and output, and is built from the same version of this library.
#[derive(Debug, Clone)]
pub struct CompilerProgram {
    /// The program.
    pub program: PathBuf,
    /// What it is called with.
    pub arguments: Vec<OsString>,
    /// All of its environment. An allocator that takes writable memory in advance has to be told here
    /// not to: that would count against `compile_memory`, and what is then used of it would not.
    pub environment: Vec<(OsString, OsString)>,
}

/// How much of what a compiler says of a failure is told.
const PROBLEM_BYTES_MAX: usize = 4096;

/// Where components are compiled.
pub(crate) enum Compiler {
    /// In this process.
    Here,
    /// In processes of their own.
    Apart(Processes),
}

/// Processes that compile.
pub(crate) struct Processes {
    pub(crate) program: CompilerProgram,
    /// Where they are waited for.
    pub(crate) runtime: Handle,
    /// Most memory of one, in bytes.
    pub(crate) memory_bytes: u64,
    /// Longest time that one may take.
    pub(crate) timeout: Duration,
}

impl Compiler {
    /// Compiles a component for `engine`. Called where blocking is allowed.
    ///
    /// # Errors
    ///
    /// Fails when it is none, or a limit ended the compiler.
    pub(super) fn compile(&self, engine: &Engine, component: &[u8]) -> wasmtime::Result<Vec<u8>> {
        let Self::Apart(processes) = self else { return engine.precompile_component(component) };
        match processes.compile(component) {
            Ok(compiled) => Ok(compiled),
            Err(Failure::Compiler(problem)) => Err(wasmtime::Error::msg(problem)),
            Err(Failure::Late) => Err(wasmtime::Error::new(Late)),
            Err(Failure::Program(error)) => {
                let program = processes.program.program.display();
                tracing::warn!(%program, %error, "it cannot compile; compiling in this process");
                engine.precompile_component(component)
            }
        }
    }
}

impl Processes {
    fn compile(&self, component: &[u8]) -> Result<Vec<u8>, Failure> {
        self.runtime.block_on(async {
            let compiled = tokio::time::timeout(self.timeout, self.run(component)).await;
            compiled.unwrap_or(Err(Failure::Late))
        })
    }

    async fn run(&self, component: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut command = Command::new(&self.program.program);
        // No secret of this process is any of its business.
        command.args(&self.program.arguments).kill_on_drop(true);
        command.env_clear().envs(self.program.environment.iter().cloned());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut input = child.stdin.take().ok_or_else(|| io::Error::other("no standard input"))?;
        let memory = self.memory_bytes.to_be_bytes();
        let feeding = async {
            // A compiler that has ended says why itself.
            let _ = input.write_all(&memory).await;
            let _ = input.write_all(component).await;
            drop(input);
        };
        let ((), output) = tokio::join!(feeding, child.wait_with_output());
        let output = output?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = printable(said.trim(), PROBLEM_BYTES_MAX);
        Err(Failure::Compiler(self.explain(output.status, &said)))
    }

    fn explain(&self, status: ExitStatus, said: &str) -> String {
        if status.code().is_some_and(|code| code != PANICKED) {
            return said.to_owned();
        }
        let perhaps = too_little(self.memory_bytes);
        format!("the compiler ended with {status}, perhaps because {perhaps}; {said}")
    }
}

/// What a program in Rust ends with that panics: a compiler does when its memory is used up just where a
/// thread is to be had.
const PANICKED: i32 = 101;

fn too_little(memory_bytes: u64) -> String {
    let memory = ByteSize::from_bytes(memory_bytes);
    format!("compile_memory = \"{memory}\" is too little for it; raise that in [plugins.limits]")
}

/// A compiler was ended because it took longer than `compile_timeout`.
#[derive(Debug, thiserror::Error)]
#[error("it took longer than it may")]
pub(super) struct Late;

/// Why a program did not compile.
enum Failure {
    /// It says so.
    Compiler(String),
    /// It was ended.
    Late,
    /// There is no such program, or it cannot be talked to.
    Program(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Program(error)
    }
}

/// What a [`CompilerProgram`] does: reads from `input` the most memory it may take (eight bytes, most
/// significant first) and a component, and writes the compiled form to `output`.
///
/// # Errors
///
/// Says what is wrong with the component, or why it cannot be read or written. The program prints
/// that to standard error and ends with a code other than 0.
pub fn compile_plugin(mut input: impl Read, mut output: impl Write) -> io::Result<()> {
    let mut memory = [0; 8];
    input.read_exact(&mut memory)?;
    let memory = u64::from_be_bytes(memory);
    bound_memory(memory)?;
    let mut component = Vec::new();
    input.read_to_end(&mut component).map_err(|error| match error.kind() {
        io::ErrorKind::OutOfMemory => io::Error::other(too_little(memory)),
        _ => error,
    })?;
    let failed = |error: wasmtime::Error| io::Error::other(format!("{error:#}"));
    let engine = Engine::new(&engine::code_config()).map_err(failed)?;
    let compiled = engine.precompile_component(&component).map_err(failed)?;
    output.write_all(&compiled)?;
    output.flush()
}

/// Bounds the writable memory of this process: what the engine only reserves is no use of it. A bound
/// that is lower already stays, since only the superuser could raise it.
fn bound_memory(most: u64) -> io::Result<()> {
    let most = Some(getrlimit(Resource::Data).maximum.map_or(most, |set| set.min(most)));
    Ok(setrlimit(Resource::Data, Rlimit { current: most, maximum: most })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    /// What becomes of a component whose compiler is this shell script.
    async fn compile_by(program: &str, script: &str) -> wasmtime::Result<Vec<u8>> {
        let compiler = Compiler::Apart(Processes {
            program: CompilerProgram {
                program: program.into(),
                arguments: vec!["-c".into(), script.into()],
                environment: vec![("WANTED".into(), "yes".into())],
            },
            runtime: Handle::current(),
            memory_bytes: 7,
            timeout: Duration::from_millis(300),
        });
        let compiling = move || compiler.compile(&Engine::default(), EMPTY_COMPONENT);
        tokio::task::spawn_blocking(compiling).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_compiler_is_told_its_memory_and_the_component_and_nothing_else() {
        let output = compile_by("/bin/sh", "/usr/bin/od -An -tx1; /usr/bin/env").await.unwrap();
        let text = String::from_utf8(output).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        let told = words.iter().take(16).copied().collect::<String>();
        assert_eq!(told, "00000000000000070061736d0d000100");
        assert!(words.contains(&"WANTED=yes"), "{text}");
        // The shell sets the others itself.
        let mine = ["WANTED=", "PWD=", "OLDPWD=", "SHLVL=", "_="];
        let others =
            words.iter().skip(16).filter(|it| !mine.iter().any(|name| it.starts_with(name)));
        assert_eq!(others.count(), 0, "{text}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_compiler_says_is_the_error() {
        let error = compile_by("/bin/sh", "echo no component >&2; exit 1").await.unwrap_err();
        assert_eq!(error.to_string(), "no component");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_compiler_that_is_killed_names_the_limit() {
        let error = compile_by("/bin/sh", "kill -9 $$").await.unwrap_err().to_string();
        assert!(
            error.contains("signal: 9") && error.contains("compile_memory = \"7B\""),
            "{error}"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_compiler_that_panics_names_the_limit_and_says_why() {
        let script = "echo no thread is to be had >&2; exit 101";
        let error = compile_by("/bin/sh", script).await.unwrap_err().to_string();
        let names = error.contains("no thread is to be had");
        assert!(names && error.contains("compile_memory = \"7B\""), "{error}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_compiler_that_does_not_end_is_ended() {
        let error = compile_by("/bin/sh", "exec sleep 1000").await.unwrap_err();
        assert!(error.is::<Late>(), "{error}");
    }

    #[tokio::test]
    async fn code_that_was_compiled_apart_runs_in_the_hosts_engine() {
        let host = engine::Engine::start().unwrap();
        let apart = Engine::new(&engine::code_config()).unwrap();
        let hash = |engine: &Engine| {
            let mut hasher = std::hash::DefaultHasher::new();
            std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut hasher);
            std::hash::Hasher::finish(&hasher)
        };
        assert_eq!(hash(&apart), hash(&host.wasmtime));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_a_compiler_this_process_compiles() {
        assert!(!compile_by("/nowhere/compiler", "").await.unwrap().is_empty());
    }
}
