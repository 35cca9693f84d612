//! How cargo is called, so that it does the same here as when called by hand.

use std::path::Path;
use std::process::Command;

/// The cargo that runs this program.
///
/// `cargo run` gives its child variables that describe this package. Build scripts that watch
/// such a variable would run again at each switch between `cargo xtask` and plain `cargo`, and
/// everything above them would be compiled again: they are taken out.
pub(crate) fn command() -> Command {
    command_at(Path::new(&std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())))
}

/// The same with another cargo.
pub(crate) fn command_at(cargo: &Path) -> Command {
    let mut command = Command::new(cargo);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(describes_this_package) {
            command.env_remove(name);
        }
    }
    command
}

fn describes_this_package(name: &str) -> bool {
    name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_MANIFEST_")
        || matches!(name, "CARGO_BIN_NAME" | "CARGO_CRATE_NAME" | "CARGO_PRIMARY_PACKAGE")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_variables_about_this_package_are_taken_out() {
        assert!(describes_this_package("CARGO_MANIFEST_DIR"));
        assert!(describes_this_package("CARGO_PKG_VERSION"));
        assert!(!describes_this_package("CARGO_HOME"));
        assert!(!describes_this_package("CARGO_TARGET_DIR"));
    }
}
