//! The project's own tasks: `cargo xtask --help`.

mod bench;
mod build;
mod capabilities;
mod cargo;
mod chaos;
mod dist;
mod doctor;
mod example;
mod fuzz;
mod install;
mod plants;
mod process;
mod report;
mod rows;
mod serve;
mod suites;
mod target;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Builds, runs, tests and measures Pintle.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the host and every plugin, then start `pintle serve`
    Serve(serve::Arguments),
    /// Check and test everything, or one suite or step
    Test(test::Arguments),
    /// Build the host and every plugin
    Build(build::Arguments),
    /// Measure against peers and print one table of ratios
    Bench(bench::Arguments),
    /// Build what an example needs and run it
    Example(example::Arguments),
    /// Inject faults and print one table of violations
    Chaos(chaos::Arguments),
    /// Look for inputs that break a decoder
    Fuzz(fuzz::Arguments),
    /// Plant bugs in plugins and look whether `chaos` finds them
    Plants(plants::Arguments),
    /// Measure what every plugin keeps, and write docs/capabilities.md
    Capabilities(capabilities::Arguments),
    /// Say what this machine lacks and how to get it
    Doctor(doctor::Arguments),
    /// Put together one folder to install: binary, plugins, systemd unit, sample settings
    Dist(dist::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::load()?;
    match task {
        Task::Serve(arguments) => serve::run(&workspace, &arguments),
        Task::Test(arguments) => test::run(&workspace, &arguments),
        Task::Build(arguments) => build::run(&workspace, &arguments),
        Task::Bench(arguments) => bench::run(&workspace, &arguments),
        Task::Chaos(arguments) => chaos::run(&workspace, &arguments),
        Task::Fuzz(arguments) => fuzz::run(&workspace, &arguments),
        Task::Plants(arguments) => plants::run(&workspace, &arguments),
        Task::Capabilities(arguments) => capabilities::run(&workspace, &arguments),
        Task::Doctor(arguments) => doctor::run(&workspace, &arguments),
        Task::Example(arguments) => example::run(&workspace, &arguments),
        Task::Dist(arguments) => dist::run(&workspace, &arguments),
    }
}
