//! What can go wrong while a server is fetched or started.

use std::path::PathBuf;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a server could not be fetched, started or controlled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be used.
    #[error("{action} {path}: {source}")]
    File {
        /// What was tried, for example `create`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A program is not installed, or could not be started.
    #[error("cannot run `{program}`: {source}; {remedy}")]
    Program {
        /// The program's name.
        program: String,
        /// The operating system's answer.
        source: std::io::Error,
        /// How to get it.
        remedy: &'static str,
    },
    /// A helper program ran and failed.
    #[error("`{command}` failed ({status}):\n{output}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// The end of what it printed.
        output: String,
    },
    /// This machine's package sources do not name a Debian mirror.
    #[error(
        "no Debian mirror in the package sources of this machine ({looked_at}); \
         this needs Debian, or another machine's cache folder copied here"
    )]
    NoMirror {
        /// Where a mirror was looked for.
        looked_at: String,
    },
    /// The suite does not offer any version of the line that is wanted.
    #[error(
        "{package} {line}* is not offered by Debian {suite} (offered: {offered}); \
         name an offered line in the source file that names this one"
    )]
    NotOffered {
        /// The package.
        package: String,
        /// What its version number must start with.
        line: String,
        /// The Debian suite.
        suite: String,
        /// What is offered instead.
        offered: String,
    },
    /// A name that is none of the known artifacts.
    #[error("unknown artifact `{name}`; known: {known}")]
    UnknownArtifact {
        /// The name given.
        name: String,
        /// All names.
        known: String,
    },
    /// A server ended, or did not become ready in time.
    #[error("{name} {problem}\n--- end of {log} ---\n{tail}")]
    Server {
        /// The server's name in this test.
        name: String,
        /// What happened.
        problem: String,
        /// Its log file.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// A call on a server that is not running, or a cluster that has no leader in time.
    #[error("{name}: {problem}")]
    State {
        /// The server's name in this test.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A request to a server failed on the way.
    #[error("request to {address}: {source}")]
    Request {
        /// Where to.
        address: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// No port is free in the range that tests use.
    #[error("no free port between {first} and {last}")]
    NoPort {
        /// First port of the range.
        first: u16,
        /// Last port of the range.
        last: u16,
    },
    /// A certificate could not be made.
    #[cfg(feature = "servers")]
    #[error("certificate for {subject}: {source}")]
    Certificate {
        /// The subject's common name.
        subject: String,
        /// What `rcgen` says.
        source: rcgen::Error,
    },
}

impl Error {
    /// Makes the closure that turns an I/O error about `path` into an [`Error`].
    pub fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
