//! Packages of any Debian suite, unpacked into a private folder.
//!
//! The system's package sources and database stay untouched: a private configuration with
//! private lists is used, on the mirror and the keyring that this machine's own sources name, so
//! that `apt` checks signatures and digests as always. Nothing is installed, no script runs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Error, Result, cache};

const REMEDY: &str = "it is part of Debian (packages `apt` and `dpkg`)";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const RELEASES: [&str; 9] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "sid",
    "stable",
    "testing",
    "unstable",
    "oldstable",
];

/// A private `apt` for one suite.
#[derive(Debug)]
pub struct Apt {
    suite: String,
    config: PathBuf,
}

impl Apt {
    /// Prepares a private `apt` inside `folder` and reads the package lists of `suite`.
    ///
    /// # Errors
    /// [`Error::NoMirror`] off Debian, [`Error::Command`] when the lists cannot be read.
    pub fn new(folder: &Path, suite: &str) -> Result<Self> {
        let mirror = Mirror::of_this_machine()?;
        let private = folder.join("apt");
        for part in ["lists/partial", "archives/partial", "parts", "preferences"] {
            let path = private.join(part);
            fs::create_dir_all(&path).map_err(Error::file("create", &path))?;
        }
        let stanza = mirror.stanza(suite);
        write(&private.join("parts/suite.sources"), &stanza)?;
        let config = private.join("apt.conf");
        write(&config, &configuration(&private))?;
        let apt = Self { suite: suite.to_owned(), config };
        apt.run(Command::new("apt-get").args([
            "--quiet",
            "update",
            "-o",
            "APT::Update::Error-Mode=any",
        ]))?;
        Ok(apt)
    }

    /// Downloads the newest version of a package whose number starts with `line`, such as `3.5.`,
    /// into `folder` and gives the file's path. Suites that move on keep no old version, so a
    /// whole version number would end with the next upload; `apt` checks what it fetches against
    /// the suite's signed index.
    ///
    /// # Errors
    /// [`Error::NotOffered`] when the suite has other lines only.
    pub fn download(&self, package: &str, line: &str, folder: &Path) -> Result<PathBuf> {
        let offered = self.offered(package)?;
        let Some(version) = offered.iter().find(|version| version.starts_with(line)) else {
            return Err(Error::NotOffered {
                package: package.to_owned(),
                line: line.to_owned(),
                suite: self.suite.clone(),
                offered: if offered.is_empty() { "none".to_owned() } else { offered.join(", ") },
            });
        };
        fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        let wanted = format!("{package}={version}");
        self.run(
            Command::new("apt-get").args(["--quiet", "download", &wanted]).current_dir(folder),
        )?;
        downloaded(folder, package)
    }

    /// The offered versions, the newest first.
    fn offered(&self, package: &str) -> Result<Vec<String>> {
        let table = self.run(Command::new("apt-cache").args(["madison", package]))?;
        let versions = table.lines().filter_map(|line| line.split('|').nth(1));
        Ok(versions.map(|version| version.trim().to_owned()).collect())
    }

    fn run(&self, command: &mut Command) -> Result<String> {
        cache::run(command.env("APT_CONFIG", &self.config).env("LC_ALL", "C"), REMEDY)
    }
}

/// Unpacks a package's files below `prefix` (such as `./usr/bin`) into `folder`.
///
/// # Errors
/// [`Error::Program`] and [`Error::Command`].
pub fn unpack(package: &Path, prefix: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    // A file between the two programs: a pipe would hide the first one's failure.
    let archive = folder.join("unpacking.tar");
    let file = File::create(&archive).map_err(Error::file("create", &archive))?;
    let status = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::from(file))
        .status()
        .map_err(|source| Error::Program { program: "dpkg-deb".into(), source, remedy: REMEDY })?;
    if !status.success() {
        let command = format!("dpkg-deb --fsys-tarfile {}", package.display());
        return Err(Error::Command { command, status, output: String::new() });
    }
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(&archive).arg("--directory").arg(folder).arg(prefix);
    cache::run(&mut tar, "install the package `tar`")?;
    fs::remove_file(&archive).map_err(Error::file("remove", &archive))
}

/// Where this machine gets Debian's packages from, as its own sources say.
#[derive(Debug, PartialEq, Eq)]
struct Mirror {
    uri: String,
    signed_by: Option<String>,
}

impl Mirror {
    fn of_this_machine() -> Result<Self> {
        let folder = Path::new("/etc/apt/sources.list.d");
        let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
        if let Ok(entries) = fs::read_dir(folder) {
            let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            found.sort();
            files.extend(found);
        }
        files
            .iter()
            .filter_map(|file| {
                let text = fs::read_to_string(file).ok()?;
                match file.extension()?.to_str()? {
                    "sources" => Self::from_stanzas(&text),
                    "list" => Self::from_lines(&text),
                    _ => None,
                }
            })
            .next()
            .ok_or_else(|| Error::NoMirror {
                looked_at: "/etc/apt/sources.list and /etc/apt/sources.list.d".to_owned(),
            })
    }

    /// Reads the format of `.sources` files: stanzas of `Field: value` lines.
    fn from_stanzas(text: &str) -> Option<Self> {
        text.split("\n\n").find_map(|stanza| {
            let field = |name: &str| {
                stanza
                    .lines()
                    .filter_map(|line| line.split_once(':'))
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.trim().to_owned())
            };
            if field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no")) {
                return None;
            }
            if !field("Types")?.split_whitespace().any(|kind| kind == "deb")
                || !field("Suites")?.split_whitespace().any(is_release)
            {
                return None;
            }
            let signed_by = field("Signed-By").filter(|value| value.starts_with('/'));
            Some(Self { uri: field("URIs")?.split_whitespace().next()?.to_owned(), signed_by })
        })
    }

    /// Reads the format of `.list` files: `deb [options] uri suite component…`.
    fn from_lines(text: &str) -> Option<Self> {
        text.lines().find_map(|line| {
            let rest = line.trim().strip_prefix("deb")?;
            let rest = rest.starts_with([' ', '\t', '[']).then(|| rest.trim_start())?;
            let (options, rest) = match rest.strip_prefix('[') {
                Some(rest) => rest.split_once(']')?,
                None => ("", rest),
            };
            let mut words = rest.split_whitespace();
            let uri = words.next()?.to_owned();
            let signed_by = options
                .split_whitespace()
                .find_map(|option| option.strip_prefix("signed-by="))
                .map(str::to_owned);
            is_release(words.next()?).then_some(Self { uri, signed_by })
        })
    }

    fn stanza(&self, suite: &str) -> String {
        let keyring = self
            .signed_by
            .clone()
            .or_else(|| Path::new(KEYRING).is_file().then(|| KEYRING.to_owned()));
        let signed_by = keyring.map(|path| format!("Signed-By: {path}\n")).unwrap_or_default();
        format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n{signed_by}", self.uri)
    }
}

/// Whether this names a Debian release itself, not its security or update suites.
fn is_release(suite: &str) -> bool {
    RELEASES.contains(&suite)
}

fn configuration(private: &Path) -> String {
    let at = |part: &str| private.join(part).display().to_string();
    format!(
        "Dir::State \"{state}\";\nDir::State::Lists \"{lists}\";\n\
         Dir::State::status \"/var/lib/dpkg/status\";\nDir::Cache \"{state}\";\n\
         Dir::Etc::sourcelist \"/dev/null\";\nDir::Etc::sourceparts \"{parts}\";\n\
         Dir::Etc::preferencesparts \"{preferences}\";\nAcquire::Languages \"none\";\n\
         Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         APT::Sandbox::User \"root\";\n",
        state = private.display(),
        lists = at("lists"),
        parts = at("parts"),
        preferences = at("preferences"),
    )
}

fn downloaded(folder: &Path, package: &str) -> Result<PathBuf> {
    let start = format!("{package}_");
    let entries = fs::read_dir(folder).map_err(Error::file("list", folder))?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&start) && name.ends_with(".deb")
        })
        .ok_or_else(|| {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            Error::file("find the downloaded package in", folder)(missing)
        })
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::file("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_read_from_stanzas_and_security_suites_are_skipped() {
        let text = "Types: deb\nURIs: http://mirror.invalid/debian-security\n\
                    Suites: bookworm-security\nComponents: main\n\n\
                    Types: deb\n# a comment\nURIs: http://mirror.invalid/debian\n\
                    Suites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n";
        let mirror = Mirror::from_stanzas(text).unwrap();
        assert_eq!(mirror.uri, "http://mirror.invalid/debian");
        assert_eq!(mirror.signed_by.as_deref(), Some("/k.gpg"));
    }

    #[test]
    fn disabled_and_foreign_stanzas_are_not_taken() {
        let foreign =
            "Types: deb\nURIs: http://other.invalid\nSuites: nodistro\nComponents: main\n";
        let disabled = "Enabled: no\nTypes: deb\nURIs: http://m.invalid\nSuites: sid\n";
        assert_eq!(Mirror::from_stanzas(foreign), None);
        assert_eq!(Mirror::from_stanzas(disabled), None);
    }

    #[test]
    fn the_mirror_is_read_from_lines_with_and_without_options() {
        let plain = "# x\ndeb-src http://s.invalid sid main\ndeb http://m.invalid/d sid main\n";
        assert_eq!(Mirror::from_lines(plain).unwrap().uri, "http://m.invalid/d");
        let options = "deb [arch=amd64 signed-by=/k.gpg] http://m.invalid/d trixie main contrib";
        let mirror = Mirror::from_lines(options).unwrap();
        assert_eq!(mirror.uri, "http://m.invalid/d");
        assert_eq!(mirror.signed_by.as_deref(), Some("/k.gpg"));
    }
}
