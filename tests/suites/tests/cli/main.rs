//! The command line, as a shell runs it, on the embedded `local` plugin.

mod access;
mod backend;
mod config;
mod crash;
mod document;
mod examples;
mod lock;
mod measure;
mod registry;
mod reload;
mod rolling;
mod serve;
mod shell;
mod trace;
mod verbs;
