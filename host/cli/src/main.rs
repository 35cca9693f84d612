//! The command line `pintle`.

// Both panic when nobody reads: see `output::line` and `output::note`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;

mod audit;
mod backend;
mod child;
mod compile;
mod completion;
mod config;
mod doctor;
mod exit;
mod global;
mod group;
mod guard;
mod leader;
mod lock;
mod output;
mod plugin;
mod progress;
mod question;
mod registry;
mod runtime_file;
mod serve;
mod server;
mod session;
mod settings;
mod signals;
mod terminal;
mod token;
mod trace;

use exit::Exit;
use global::Global;

/// Gives back what is free: threads of plugins come and go, and the system's allocator keeps what was
/// freed on each of them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Governance for clusters: configuration, registry and locks over any backend that has a plugin.
#[derive(Debug, Parser)]
#[command(name = "pintle", version, after_help = exit::HELP, max_term_width = 100)]
#[command(arg_required_else_help = true)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, clap::Subcommand)]
enum Noun {
    /// Start the host with its HTTP API
    Serve(serve::Arguments),
    /// Read, write and watch configuration
    #[command(subcommand)]
    Config(config::Verb),
    /// See services and their instances; keep an instance registered while a command runs
    #[command(subcommand)]
    Registry(registry::Verb),
    /// Run a command under a lock; see who holds which lock
    #[command(subcommand)]
    Lock(lock::Verb),
    /// Run a command as the leader; see who leads
    #[command(subcommand)]
    Leader(leader::Verb),
    /// See and check the backends
    #[command(subcommand)]
    Backend(backend::Verb),
    /// See the plugins in the plugins' directory, and measure one
    #[command(subcommand)]
    Plugin(plugin::Verb),
    /// See what became of spans; read and write headers of traces
    #[command(subcommand)]
    Trace(trace::Verb),
    /// Check and show the settings
    #[command(subcommand)]
    Settings(settings::Verb),
    /// Make, list and revoke access tokens
    #[command(subcommand)]
    Token(token::Verb),
    /// Show who changed what, newest first
    Audit(audit::Arguments),
    /// See and set how a running server works
    #[command(subcommand)]
    Server(server::Verb),
    /// Look for what is wrong: settings, folders, the server, the backends
    Doctor,
    /// Print what makes a shell complete this command line
    Completion(completion::Arguments),
    /// End this group of processes when standard input ends
    #[command(hide = true)]
    Guard(guard::Arguments),
    /// Compile a plugin from standard input to standard output
    #[command(hide = true)]
    Compile,
}

impl Noun {
    /// What to do instead of naming a backend by an option, where that would change nothing.
    fn without_backend(&self) -> Option<&'static str> {
        match self {
            Self::Serve(_) | Self::Settings(_) => Some("the settings say which backends there are"),
            Self::Backend(_) => Some("name the backend after the verb"),
            Self::Plugin(plugin::Verb::Test(_)) => None,
            Self::Plugin(_) => Some("a plugin is named after the verb"),
            Self::Trace(_) => Some("spans go to the backends under `tracing` in [defaults]"),
            Self::Token(_) => Some("a token is limited by --for NAME"),
            Self::Server(_) | Self::Doctor => Some("it is about all backends"),
            Self::Completion(_) | Self::Guard(_) | Self::Compile => Some("it is about none"),
            Self::Config(_)
            | Self::Registry(_)
            | Self::Lock(_)
            | Self::Leader(_)
            | Self::Audit(_) => None,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Noun::Guard(arguments) = &arguments.noun {
        // Without threads: it blocks signals.
        return guard::run(arguments).map_or_else(|error| report(&error), |()| Exit::OK).into();
    }
    if let Noun::Compile = &arguments.noun {
        return compile::run().into();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(format_args!("pintle: cannot start: {error}"));
            return Exit::FAILED.into();
        }
    };
    let exit = match runtime.block_on(run(arguments)) {
        Ok(exit) => exit,
        Err(error) => report(&error),
    };
    // Not waited for: a thread may sit in a read of standard input.
    runtime.shutdown_background();
    exit.into()
}

async fn run(Arguments { global, noun }: Arguments) -> anyhow::Result<Exit> {
    if let Some(remedy) = noun.without_backend() {
        global.refuse_backend(remedy)?;
    }
    if !matches!(noun, Noun::Serve(_)) {
        global.log_to_stderr()?;
    }
    match noun {
        Noun::Serve(arguments) => serve::run(&global, arguments).await,
        Noun::Config(verb) => config::run(&global, verb).await,
        Noun::Registry(verb) => registry::run(&global, verb).await,
        Noun::Lock(verb) => lock::run(&global, verb).await,
        Noun::Backend(verb) => backend::run(&global, verb).await,
        Noun::Plugin(verb) => plugin::run(&global, verb).await,
        Noun::Trace(verb) => trace::run(&global, verb).await,
        Noun::Settings(verb) => settings::run(&global, verb).await,
        Noun::Leader(verb) => leader::run(&global, verb).await,
        Noun::Token(verb) => token::run(&global, verb).await,
        Noun::Audit(arguments) => audit::run(&global, arguments).await,
        Noun::Server(verb) => server::run(&global, verb).await,
        Noun::Doctor => doctor::run(&global).await,
        Noun::Completion(arguments) => completion::run(&arguments),
        Noun::Guard(arguments) => guard::run(&arguments).map(|()| Exit::OK),
        Noun::Compile => Ok(compile::run()),
    }
}

/// Prints an error and says what the process exits with.
fn report(error: &anyhow::Error) -> Exit {
    if error.is::<output::ReaderGone>() {
        return Exit::OK;
    }
    let (red, plain) =
        if std::io::stderr().is_terminal() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    output::note(format_args!("{red}error:{plain} {}", exit::describe(error)));
    for line in exit::advice(error) {
        output::note(format_args!("  {line}"));
    }
    exit::of(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn global_options_are_taken_before_and_after_the_verb() {
        for line in ["pintle -b zk -o json config get a", "pintle config get a -b zk -o json"] {
            let parsed = Arguments::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(parsed.global.backend(), "zk");
            assert!(parsed.global.is_for_machines());
        }
    }

    #[test]
    fn what_stands_after_two_dashes_belongs_to_the_command() {
        let line = "pintle lock run jobs/x --ttl 5s -- make -o json --ttl 9s";
        let parsed = Arguments::try_parse_from(line.split(' ')).unwrap();
        assert!(!parsed.global.is_for_machines());
        let Noun::Lock(lock::Verb::Run(run)) = parsed.noun else { panic!("{line}") };
        assert_eq!(run.ttl, std::time::Duration::from_secs(5));
        assert_eq!(run.command, ["make", "-o", "json", "--ttl", "9s"]);
    }

    #[test]
    fn a_command_to_run_is_required() {
        for line in ["pintle lock run x", "pintle lock run x --", "pintle registry run x -- ls"] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn only_a_reader_that_has_had_enough_is_no_failure() {
        let gone = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(report(&anyhow::Error::from(gone()).context("to the server")), Exit::FAILED);
        assert_eq!(report(&anyhow::Error::from(output::ReaderGone)), Exit::OK);
    }

    #[test]
    fn a_backend_is_refused_where_it_would_change_nothing() {
        for (line, refused) in [
            ("pintle token create ci -b main", true),
            ("pintle backend list -b main", true),
            ("pintle plugin test a.wasm -b main", false),
            ("pintle audit -b main", false),
            ("pintle token list", false),
        ] {
            let parsed = Arguments::try_parse_from(line.split(' ')).unwrap();
            let remedy = parsed.noun.without_backend();
            let outcome = remedy.map_or(Ok(()), |remedy| parsed.global.refuse_backend(remedy));
            assert_eq!(outcome.is_err(), refused, "{line}");
        }
    }

    #[test]
    fn a_put_expects_one_thing_at_most() {
        let line = "pintle config put a b --if-absent --if-version 3";
        assert!(Arguments::try_parse_from(line.split(' ')).is_err());
    }
}
