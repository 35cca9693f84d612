//! Options that every verb has.

use std::{io::IsTerminal, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, ValueEnum};
use pintle::settings::{Settings, SettingsError};
use tracing_subscriber::{EnvFilter, fmt};

/// Options that every verb has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Backend to use; the default one of the capability if none is named
    #[arg(short, long, global = true, value_name = "NAME", default_value = "default")]
    #[arg(hide_default_value = true)]
    pub(crate) backend: String,
    /// Server to ask, like http://127.0.0.1:7468, instead of looking for one
    #[arg(long, global = true, value_name = "URL", env = "PINTLE_SERVER")]
    pub(crate) server: Option<String>,
    /// Settings file
    #[arg(long, global = true, value_name = "FILE", env = "PINTLE_SETTINGS")]
    pub(crate) settings: Option<PathBuf>,
    /// Form of what is printed
    #[arg(short, long, global = true, value_enum, default_value_t = Form::Text)]
    output: Form,
    /// Time for one call, like 5s or 500ms
    #[arg(long, global = true, value_name = "TIME", default_value = "30s")]
    #[arg(value_parser = pintle::settings::parse_duration)]
    pub(crate) timeout: Duration,
    /// Say more on standard error, up to -vvv; PINTLE_LOG takes a filter like pintle=debug
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// Form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people
    Text,
    /// For programs; watches print one line for each event
    Json,
}

impl Global {
    pub(crate) fn is_json(&self) -> bool {
        self.output == Form::Json
    }

    /// Reads the settings file, if one is named, and the environment.
    pub(crate) fn load_settings(&self) -> Result<Settings, SettingsError> {
        Settings::load(self.settings.as_deref())
    }

    /// What is logged unless `PINTLE_LOG` says something else.
    pub(crate) fn log_filter(&self, quiet: &str) -> EnvFilter {
        let level = match self.verbose {
            0 => quiet,
            1 => "warn,pintle=info,pintle_client=info,pintle_server=info",
            2 => "info,pintle=debug,pintle_client=debug,pintle_server=debug",
            _ => "debug,pintle=trace,pintle_client=trace,pintle_server=trace",
        };
        std::env::var("PINTLE_LOG")
            .ok()
            .and_then(|text| EnvFilter::try_new(text).ok())
            .unwrap_or_else(|| EnvFilter::new(level))
    }

    /// Logs of a command that is over soon.
    pub(crate) fn log_to_stderr(&self) {
        fmt()
            .with_env_filter(self.log_filter("off"))
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .init();
    }
}
