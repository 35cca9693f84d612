//! The command line `pintle`.

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
mod guard;
mod leader;
mod lock;
mod output;
mod plugin;
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
            eprintln!("pintle: cannot start: {error}");
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
    if !matches!(noun, Noun::Serve(_)) {
        global.log_to_stderr();
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
    // A reader that has had enough (`pintle config list | head -1`) is no failure.
    let broken_pipe = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe);
    if broken_pipe {
        return Exit::OK;
    }
    let (red, plain) =
        if std::io::stderr().is_terminal() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    eprintln!("{red}error:{plain} {}", exit::describe(error));
    for line in exit::advice(error) {
        eprintln!("  {line}");
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
            assert_eq!(parsed.global.backend, "zk");
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
    fn a_put_expects_one_thing_at_most() {
        let line = "pintle config put a b --if-absent --if-version 3";
        assert!(Arguments::try_parse_from(line.split(' ')).is_err());
    }
}
