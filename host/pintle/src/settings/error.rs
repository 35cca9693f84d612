//! What is wrong with the settings, said so that the operator can put it right.

use std::fmt;
use std::path::PathBuf;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In a settings file.
    File {
        /// Path of the file, as it was given.
        path: PathBuf,
        /// Line, counted from 1; 0 when the whole file is meant.
        line: usize,
    },
    /// In an environment variable.
    Variable(String),
    /// Nowhere: it is the default.
    Default,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where the value was written, where one was.
    pub origin: Option<Origin>,
    /// Key with its path, like `backends.main.endpoints`; empty when the whole file is meant.
    pub key: String,
    /// What is wrong, and what to do about it. Never a value that might be secret.
    pub text: String,
}

/// Settings that are refused, with everything that is wrong in them, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl Problem {
    /// A problem that was found nowhere in particular.
    pub fn new(key: impl Into<String>, text: impl Into<String>) -> Self {
        Self { origin: None, key: key.into(), text: text.into() }
    }

    /// The same problem, found at `origin`.
    #[must_use]
    pub fn at(mut self, origin: Origin) -> Self {
        self.origin = Some(origin);
        self
    }
}

impl From<Problem> for SettingsError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: 0 } => write!(out, "{}", path.display()),
            Self::File { path, line } => write!(out, "{}:{line}", path.display()),
            Self::Variable(name) => out.write_str(name),
            Self::Default => out.write_str("default"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(out, "{origin}: ")?;
        }
        if !self.key.is_empty() {
            write!(out, "{}: ", self.key)?;
        }
        out.write_str(&self.text)
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                out.write_str("\n")?;
            }
            problem.fmt(out)?;
        }
        Ok(())
    }
}
