//! Packages from the Python package index, in a folder of their own.

use std::path::Path;
use std::process::Command;

use crate::{Result, cache};

/// OpenTelemetry's SDK and its exporter over HTTP.
pub(crate) const OPENTELEMETRY: &[&str] =
    &["opentelemetry-sdk==1.45.2", "opentelemetry-exporter-otlp-proto-http==1.45.2"];

/// Installs packages and what they need into `folder`, for use with `PYTHONPATH`.
///
/// # Errors
/// [`crate::Error::Program`] without pip, [`crate::Error::Command`] when a package cannot be fetched.
pub(crate) fn install(folder: &Path, packages: &[&str]) -> Result<()> {
    let mut pip = Command::new("pip3");
    pip.args(["install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-compile"]);
    pip.arg("--target").arg(folder).args(packages);
    cache::run(&mut pip, "install pip (Debian: `python3-pip`)").map(drop)
}
