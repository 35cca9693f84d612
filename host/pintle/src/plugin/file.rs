//! What a plugin file is found to be.

use std::{collections::BTreeSet, fmt, path::PathBuf, str::FromStr, time::Duration};

use crate::settings::duration_text;

/// A capability that a plugin may offer, one WIT package each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// `pintle:config`
    Config,
    /// `pintle:registry`
    Registry,
    /// `pintle:lock`
    Lock,
    /// `pintle:tracing`
    Tracing,
}

impl Capability {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Config, Self::Registry, Self::Lock, Self::Tracing];

    /// Its name in settings, commands and texts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Registry => "registry",
            Self::Lock => "lock",
            Self::Tracing => "tracing",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Capability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|capability| capability.as_str() == text)
            .ok_or_else(|| format!("\"{text}\" is no capability: config, registry, lock, tracing"))
    }
}

/// A plugin file that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginInfo {
    /// The file's stem: what `plugin = "…"` names.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Digest of the file, in hexadecimal digits.
    pub sha256: String,
    /// Size of the file, bytes.
    pub size: u64,
    /// Version that the plugin gives itself.
    pub version: String,
    /// One line about it.
    pub summary: String,
    /// What it exports.
    pub capabilities: Vec<Capability>,
    /// What it promises beyond the core of its capabilities.
    pub features: BTreeSet<String>,
    /// JSON Schema of its settings.
    pub settings_schema: String,
    /// Whether two incarnations on the same data must never run at once.
    pub single_writer: bool,
    /// Whether it asks for a directory.
    pub data_directory: bool,
    /// Interfaces that it imports.
    pub imports: Vec<String>,
}

/// Why a plugin file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PluginFileError {
    /// No such file.
    #[error(
        "no plugin \"{name}\": there is no {name}.wasm in {}; {}",
        dir.display(), listing(found)
    )]
    Missing {
        /// Name asked for.
        name: String,
        /// The plugins' directory.
        dir: PathBuf,
        /// Plugins that are there.
        found: Vec<String>,
    },
    /// The plugins' directory cannot be read.
    #[error("the plugins' directory {} cannot be read: {problem}; set `dir` in [plugins]", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        problem: String,
    },
    /// The file cannot be read.
    #[error("{}: cannot be read: {problem}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        problem: String,
    },
    /// The file is larger than the limit.
    #[error("{}: {size} bytes; the limit is {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A link that leads out of the plugins' directory.
    #[error(
        "{}: is a link to {}, outside the plugins' directory; put the file itself there, or set \
         `dir` in [plugins] to where it is", path.display(), target.display()
    )]
    Link {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// Anybody may write it.
    #[error("{}: everybody may write it; take that away with chmod o-w", path.display())]
    Exposed {
        /// The file or directory.
        path: PathBuf,
    },
    /// Its code is more than the compiler may be asked to do.
    #[error("{}: {what}; the limit is {limit}, see [plugins.limits]", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// What there is too much of.
        what: String,
        /// The limit by its name, with its value.
        limit: String,
    },
    /// Compiling it takes too long.
    #[error(
        "{}: compiling it takes longer than compile_timeout = \"{}\"; raise that in \
         [plugins.limits], or try again when the machine has less to do",
        path.display(), duration_text(*timeout)
    )]
    Slow {
        /// The file.
        path: PathBuf,
        /// The limit.
        timeout: Duration,
    },
    /// Its digest is not the one that the settings pin.
    #[error("{}: its sha256 is {found}, but the settings pin {pinned}", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What it should be.
        pinned: String,
    },
    /// It is no component that the engine takes.
    #[error("{}: not a component that this host can run: {problem}", path.display())]
    NotComponent {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It exports a version of an interface that this host does not serve.
    #[error(
        "{}: exports {interface} in version {found}; this host serves {served}. \
         Use a newer host, or build the plugin against {served}", path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The interface.
        interface: String,
        /// The version that it has.
        found: String,
        /// The versions that would do.
        served: String,
    },
    /// It lacks an export that every plugin has.
    #[error("{}: is a component, but no plugin: it does not export pintle:plugin/lifecycle", path.display())]
    NotPlugin {
        /// The file.
        path: PathBuf,
    },
    /// It offers nothing.
    #[error("{}: offers no capability: none of config, registry, lock, tracing is exported", path.display())]
    NoCapability {
        /// The file.
        path: PathBuf,
    },
    /// It imports what the host does not offer, or exports what does not fit the interface.
    #[error("{}: does not fit this host: {problem}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Which import or export.
        problem: String,
    },
    /// `describe` failed.
    #[error("{}: cannot describe itself: {problem}", path.display())]
    Describe {
        /// The file.
        path: PathBuf,
        /// What happened.
        problem: String,
    },
}

fn listing(found: &[String]) -> String {
    if found.is_empty() {
        "it holds no plugins".into()
    } else {
        format!("it holds {}", found.join(", "))
    }
}

/// A file of the plugins' directory.
#[derive(Debug, Clone)]
pub struct PluginEntry {
    /// The file's stem.
    pub name: String,
    /// What it is, or why it cannot be used.
    pub plugin: Result<PluginInfo, PluginFileError>,
}
