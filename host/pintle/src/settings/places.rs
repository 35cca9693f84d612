//! Where things are when the operator does not say: the data directory, the plugins, the node.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Problem, Settings, SettingsError};

/// The user's home of data on this machine, read from the environment once.
#[derive(Clone, Debug, Default)]
struct Surroundings {
    state_directory: Option<OsString>,
    xdg_data_home: Option<OsString>,
    home: Option<OsString>,
    superuser: bool,
}

impl Settings {
    /// Root of what this host keeps on disk.
    ///
    /// `data_dir`, else the first of: `$STATE_DIRECTORY` (systemd sets it),
    /// `$XDG_DATA_HOME/pintle`, `/var/lib/pintle` for the superuser, `$HOME/.local/share/pintle`.
    ///
    /// # Errors
    /// None of them is set to an absolute path.
    pub fn data_root(&self) -> Result<PathBuf, SettingsError> {
        match &self.data_dir {
            Some(folder) => Ok(folder.clone()),
            None => Surroundings::read().data_root().ok_or_else(|| {
                let text = "no place is known for data: set data_dir, or HOME in the environment";
                SettingsError::from(Problem::new("data_dir", text))
            }),
        }
    }

    /// Folder with the plugins' files.
    ///
    /// `plugins.dir`, else the first of these that exists, seen from the folder of the executable:
    /// `plugins`, `../plugins`, `../lib/pintle/plugins`. When none exists it is the first.
    pub fn plugins_folder(&self) -> PathBuf {
        if let Some(folder) = &self.plugins.dir {
            return folder.clone();
        }
        let executable = std::env::current_exe().unwrap_or_default();
        first_plugins_folder(executable.parent().unwrap_or(Path::new(".")))
    }

    /// Folder of the compiled plugins: `plugins.cache_dir`, else `cache` in the data root.
    ///
    /// # Errors
    /// As for [`Settings::data_root`].
    pub fn cache_folder(&self) -> Result<PathBuf, SettingsError> {
        match &self.plugins.cache_dir {
            Some(folder) => Ok(folder.clone()),
            None => Ok(self.data_root()?.join("cache")),
        }
    }

    /// Identity of this host: `node`, else the host's name.
    pub fn node_name(&self) -> String {
        let from_kernel = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let from_environment = || std::env::var("HOSTNAME").ok();
        let named = |name: String| Some(name.trim().to_owned()).filter(|name| !name.is_empty());
        self.node
            .clone()
            .or_else(|| from_kernel().and_then(named))
            .or_else(|| from_environment().and_then(named))
            .unwrap_or_else(|| "localhost".to_owned())
    }
}

impl Surroundings {
    fn read() -> Self {
        Self {
            state_directory: std::env::var_os("STATE_DIRECTORY"),
            xdg_data_home: std::env::var_os("XDG_DATA_HOME"),
            home: std::env::var_os("HOME"),
            superuser: rustix::process::geteuid().is_root(),
        }
    }

    fn data_root(&self) -> Option<PathBuf> {
        let absolute = |value: &Option<OsString>| {
            value.as_deref().map(PathBuf::from).filter(|folder| folder.is_absolute())
        };
        if let Some(folder) = absolute(&self.state_directory) {
            return Some(folder);
        }
        if let Some(folder) = absolute(&self.xdg_data_home) {
            return Some(folder.join("pintle"));
        }
        if self.superuser {
            return Some(PathBuf::from("/var/lib/pintle"));
        }
        Some(absolute(&self.home)?.join(".local/share/pintle"))
    }
}

fn first_plugins_folder(beside: &Path) -> PathBuf {
    let above = beside.parent().unwrap_or(beside);
    let first = beside.join("plugins");
    let others = [above.join("plugins"), above.join("lib/pintle/plugins")];
    std::iter::once(first.clone()).chain(others).find(|folder| folder.is_dir()).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings() -> Surroundings {
        Surroundings { home: Some("/home/ann".into()), ..Surroundings::default() }
    }

    #[test]
    fn data_lives_in_the_users_home_unless_the_environment_says_otherwise() {
        let home = surroundings();
        assert_eq!(home.data_root(), Some("/home/ann/.local/share/pintle".into()));

        let root = Surroundings { superuser: true, ..home.clone() };
        assert_eq!(root.data_root(), Some("/var/lib/pintle".into()));

        let xdg = Surroundings { xdg_data_home: Some("/data".into()), ..root.clone() };
        assert_eq!(xdg.data_root(), Some("/data/pintle".into()));

        let systemd = Surroundings { state_directory: Some("/var/lib/p".into()), ..xdg.clone() };
        assert_eq!(systemd.data_root(), Some("/var/lib/p".into()));
    }

    #[test]
    fn relative_places_in_the_environment_do_not_count() {
        let relative = Surroundings { xdg_data_home: Some("data".into()), ..surroundings() };
        assert_eq!(relative.data_root(), Some("/home/ann/.local/share/pintle".into()));
        assert_eq!(Surroundings::default().data_root(), None);
    }

    #[test]
    fn plugins_are_found_beside_the_executable_or_in_the_library_folder() {
        let root = tempfile::tempdir().unwrap();
        let beside = root.path().join("bin");
        std::fs::create_dir_all(root.path().join("lib/pintle/plugins")).unwrap();
        let found = root.path().join("lib/pintle/plugins");
        assert_eq!(first_plugins_folder(&beside), found);

        std::fs::create_dir_all(beside.join("plugins")).unwrap();
        assert_eq!(first_plugins_folder(&beside), beside.join("plugins"));
    }

    #[test]
    fn a_missing_plugins_folder_is_named_beside_the_executable() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(first_plugins_folder(root.path()), root.path().join("plugins"));
    }
}
