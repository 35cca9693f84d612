//! The command line, as a shell runs it, on the embedded `local` plugin.

mod backend;
mod config;
mod crash;
mod lock;
mod registry;
mod reload;
mod serve;
mod shell;
mod trace;
