//! Options that every verb has.

use std::{io::IsTerminal, path::PathBuf, time::Duration};

use anyhow::Context;

use clap::{ArgAction, Args, ValueEnum};
use pintle::settings::{Settings, SettingsError};
use pintle_client::Client;
use serde::Serialize;
use tracing_subscriber::{EnvFilter, fmt};

use crate::{
    exit::{Exit, Failure},
    output,
};

/// Options that every verb has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Backend to use; the default one of the capability if none is named
    #[arg(short, long, global = true, value_name = "NAME")]
    backend: Option<String>,
    /// Server to ask, like http://127.0.0.1:7468, instead of looking for one
    #[arg(long, global = true, value_name = "URL", env = "PINTLE_SERVER")]
    pub(crate) server: Option<String>,
    /// File with the access token to show; PINTLE_ACCESS_TOKEN may hold the token itself
    #[arg(long, global = true, value_name = "FILE", env = "PINTLE_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// File with the authorities (PEM) to trust for https, instead of the system's
    #[arg(long, global = true, value_name = "FILE", env = "PINTLE_CA")]
    pub(crate) ca: Option<PathBuf>,
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
    /// For people, always with columns
    Table,
    /// For programs; watches print one line for each event
    Json,
    /// For programs; watches print one document for each event
    Yaml,
}

impl Global {
    /// Name of the backend to use.
    pub(crate) fn backend(&self) -> &str {
        self.backend.as_deref().unwrap_or(pintle::DEFAULT)
    }

    /// Fails if a backend was named: for commands on which that has no bearing.
    pub(crate) fn refuse_backend(&self, remedy: &str) -> anyhow::Result<()> {
        match &self.backend {
            None => Ok(()),
            Some(_) => {
                let text = format!("--backend has no meaning here: {remedy}");
                Err(Failure::error(Exit::USAGE, text))
            }
        }
    }

    /// Whether a program reads what is printed.
    pub(crate) fn is_for_machines(&self) -> bool {
        matches!(self.output, Form::Json | Form::Yaml)
    }

    pub(crate) fn is_yaml(&self) -> bool {
        self.output == Form::Yaml
    }

    /// Prints a document for programs; false if people are to read it.
    pub(crate) fn print(&self, document: &impl Serialize) -> anyhow::Result<bool> {
        match self.output {
            Form::Text | Form::Table => return Ok(false),
            Form::Json => output::json(document)?,
            Form::Yaml => output::line(output::yaml(document)?.trim_end())?,
        }
        Ok(true)
    }

    /// As [`Global::print`], and as a table of its fields if columns are asked for.
    pub(crate) fn print_facts(&self, document: &impl Serialize) -> anyhow::Result<bool> {
        if self.output == Form::Table {
            output::fields(document)?;
            return Ok(true);
        }
        self.print(document)
    }

    /// Prints one of many events for programs; false if people are to read it.
    pub(crate) fn print_event(&self, event: &impl Serialize) -> anyhow::Result<bool> {
        match self.output {
            Form::Text | Form::Table => return Ok(false),
            Form::Json => output::json_line(event)?,
            Form::Yaml => output::line(&format!("---\n{}", output::yaml(event)?.trim_end()))?,
        }
        Ok(true)
    }

    /// The access token that was given.
    pub(crate) fn token(&self) -> anyhow::Result<Option<String>> {
        if let Some(path) = &self.token_file {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("the access token in {}", path.display()))?;
            return Ok(Some(text.trim().to_owned()));
        }
        let token = std::env::var("PINTLE_ACCESS_TOKEN").unwrap_or_default();
        Ok(Some(token.trim().to_owned()).filter(|token| !token.is_empty()))
    }

    /// A client of the server at `url`, with what was given of authorities.
    pub(crate) fn client(&self, url: &str) -> anyhow::Result<Client> {
        let read = |path: &PathBuf| {
            std::fs::read(path).with_context(|| format!("the authorities in {}", path.display()))
        };
        let ca = self.ca.as_ref().map(read).transpose()?;
        Ok(Client::connect(url, ca.as_deref())?)
    }

    /// Reads the settings file, if one is named, and the environment.
    pub(crate) fn load_settings(&self) -> Result<Settings, SettingsError> {
        Settings::load(self.settings.as_deref())
    }

    /// What is logged: what `PINTLE_LOG` says, or else `quiet` and what is asked for besides.
    pub(crate) fn log_filter(&self, quiet: &str) -> anyhow::Result<EnvFilter> {
        let chosen = std::env::var_os("PINTLE_LOG").unwrap_or_default();
        if !chosen.is_empty() {
            return parse_filter(&chosen.to_string_lossy())
                .map_err(|fault| Failure::error(Exit::USAGE, format!("PINTLE_LOG: {fault}")));
        }
        let level = match self.verbose {
            0 => quiet,
            1 => "warn,pintle=info,pintle_client=info,pintle_server=info",
            2 => "info,pintle=debug,pintle_client=debug,pintle_server=debug",
            _ => "debug,pintle=trace,pintle_client=trace,pintle_server=trace",
        };
        Ok(EnvFilter::new(level))
    }

    /// Logs of a command that is over soon.
    pub(crate) fn log_to_stderr(&self) -> anyhow::Result<()> {
        fmt()
            .with_env_filter(self.log_filter("off")?)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            // It would panic where standard error cannot be written.
            .log_internal_errors(false)
            .init();
        Ok(())
    }
}

/// Reads what is to be logged, like `warn,pintle=debug`.
///
/// # Errors
/// What is wrong with it. The syntax itself takes any word for the name of a module.
pub(crate) fn parse_filter(text: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let level_of =
        |part: &str| part.rsplit_once('=').map_or(part, |(_, level)| level).trim().to_lowercase();
    if let Some(part) = text.split(',').find(|part| !LEVELS.contains(&level_of(part).as_str())) {
        return Err(format!("{part:?} does not end with a level: {}", LEVELS.join(", ")));
    }
    EnvFilter::try_new(text).map_err(|error| error.to_string())
}
