//! Configuration outside of a backend: a document, or a folder of files. Both are described in
//! `docs/config-format.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use pintle::config::check_key;
use pintle_client::api::bytes::Value;
use serde::{Deserialize, Serialize};

use crate::output;

/// Names the form and its version.
const FORM: &str = "config/v1";
/// The file of a folder that is no value.
const MANIFEST: &str = "pintle-config.json";
/// File of a value whose key is a folder, too.
const SELF: &str = "%self";
/// What a file is not called.
const UNSAFE: &AsciiSet = &CONTROLS.add(b'%').add(b'\\').add(b':');
const NAME_BYTES_MAX: usize = 255;

/// A value with its media type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) value: Vec<u8>,
    pub(super) content_type: Option<String>,
}

/// Everything below a prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Document {
    /// Where it was taken from, and where it goes unless something else is said; the root where that
    /// is not known.
    pub(super) prefix: Option<String>,
    /// By the rest of the key.
    pub(super) items: BTreeMap<String, Item>,
}

/// The form of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    Json,
    Yaml,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    pintle: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    entries: Vec<WrittenEntry>,
}

#[derive(Serialize, Deserialize)]
struct WrittenEntry {
    key: String,
    #[serde(flatten)]
    value: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    pintle: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    content_types: BTreeMap<String, String>,
}

impl Document {
    /// Where it goes.
    pub(super) fn prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or_default()
    }

    /// The whole key of an item.
    pub(super) fn key(&self, rest: &str) -> String {
        join(self.prefix(), rest)
    }

    /// What is wrong with keys, where they go.
    pub(super) fn faults_of_keys(&self) -> Vec<String> {
        let faults = self.items.keys().filter_map(|rest| check_key(&self.key(rest)).err());
        faults.map(|fault| fault.to_string()).collect()
    }

    /// Reads a document, JSON or YAML.
    pub(super) fn parse(text: &[u8]) -> anyhow::Result<Self> {
        let is_json = text.trim_ascii_start().first() == Some(&b'{');
        let written: Written = if is_json {
            serde_json::from_slice(text).context("no document of configuration")?
        } else {
            let text = std::str::from_utf8(text).context("no document of configuration")?;
            serde_saphyr::from_str(text).context("no document of configuration")?
        };
        check_form(&written.pintle)?;
        let mut items = BTreeMap::new();
        for entry in written.entries {
            let value = entry.value.bytes().map_err(anyhow::Error::msg);
            let value = value
                .with_context(|| format!("entry {:?}", entry.key))?
                .with_context(|| format!("entry {:?} has no value", entry.key))?;
            let item = Item { value, content_type: entry.content_type };
            let twice = items.insert(entry.key.clone(), item);
            ensure!(twice.is_none(), "entry {:?} is there twice", entry.key);
        }
        Ok(Self { prefix: written.prefix, items })
    }

    /// As text.
    pub(super) fn text(&self, form: Text) -> anyhow::Result<String> {
        let entries = self.items.iter().map(|(key, item)| WrittenEntry {
            key: key.clone(),
            value: Value::of(&item.value),
            content_type: item.content_type.clone(),
        });
        let written = Written {
            pintle: FORM.into(),
            prefix: self.prefix.clone(),
            entries: entries.collect(),
        };
        Ok(match form {
            Text::Json => serde_json::to_string_pretty(&written)? + "\n",
            Text::Yaml => output::yaml(&written)?,
        })
    }

    /// Reads a folder of files.
    pub(super) fn read_folder(folder: &Path) -> anyhow::Result<Self> {
        let place = folder.join(MANIFEST);
        let manifest = match fs::read(&place) {
            Ok(text) => {
                let manifest: Manifest =
                    serde_json::from_slice(&text).with_context(|| place.display().to_string())?;
                check_form(&manifest.pintle)?;
                Some(manifest)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| place.display().to_string()),
        };
        let mut document = Self::default();
        document.read_files(folder, "")?;
        if let Some(manifest) = manifest {
            document.prefix = manifest.prefix;
            for (key, content_type) in manifest.content_types {
                if let Some(item) = document.items.get_mut(&key) {
                    item.content_type = Some(content_type);
                }
            }
        }
        Ok(document)
    }

    fn read_files(&mut self, folder: &Path, key: &str) -> anyhow::Result<()> {
        let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            let name = entry.file_name();
            let name = name
                .to_str()
                .with_context(|| format!("{}: its name is no UTF-8", path.display()))?;
            // Folders of version control and the like; a key's own dot is escaped.
            if name.starts_with('.') || (key.is_empty() && name == MANIFEST) {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.read_files(&path, &join(key, &unescape(name)?))?;
                continue;
            }
            ensure!(kind.is_file(), "{} is neither a file nor a folder", path.display());
            let key = if name == SELF { key.to_owned() } else { join(key, &unescape(name)?) };
            let value = fs::read(&path).with_context(|| path.display().to_string())?;
            self.items.insert(key, Item { value, content_type: None });
        }
        Ok(())
    }

    /// Writes a folder of files, which must not hold anything yet.
    pub(super) fn write_folder(&self, folder: &Path) -> anyhow::Result<()> {
        let context = || folder.display().to_string();
        fs::create_dir_all(folder).with_context(context)?;
        if fs::read_dir(folder).with_context(context)?.next().is_some() {
            bail!("{} is not empty: name a new folder", folder.display());
        }
        let folders = self.folders();
        for (key, item) in &self.items {
            let mut path = self.path(folder, key)?;
            if folders.contains(key.as_str()) {
                path.push(SELF);
            }
            let above = path.parent().unwrap_or(folder);
            fs::create_dir_all(above).with_context(|| above.display().to_string())?;
            fs::write(&path, &item.value).with_context(|| path.display().to_string())?;
        }
        let of_item =
            |(key, item): (&String, &Item)| Some((key.clone(), item.content_type.clone()?));
        let manifest = Manifest {
            pintle: FORM.into(),
            prefix: self.prefix.clone(),
            content_types: self.items.iter().filter_map(of_item).collect(),
        };
        let text = serde_json::to_string_pretty(&manifest)? + "\n";
        fs::write(folder.join(MANIFEST), text).with_context(context)
    }

    /// The keys below which there are others.
    fn folders(&self) -> BTreeSet<&str> {
        let mut folders = BTreeSet::new();
        for key in self.items.keys() {
            folders.extend(key.match_indices('/').filter_map(|(end, _)| key.get(..end)));
        }
        folders
    }

    fn path(&self, folder: &Path, key: &str) -> anyhow::Result<PathBuf> {
        let mut path = folder.to_owned();
        for (depth, segment) in key.split('/').enumerate() {
            let mut name = utf8_percent_encode(segment, UNSAFE).to_string();
            if let Some(rest) = name.strip_prefix('.') {
                name = format!("%2E{rest}");
            }
            if depth == 0 && name == MANIFEST {
                name = name.replacen('p', "%70", 1);
            }
            ensure!(
                name.len() <= NAME_BYTES_MAX,
                "{key:?} is too long for a file's name: export a document instead"
            );
            path.push(name);
        }
        Ok(path)
    }
}

fn check_form(form: &str) -> anyhow::Result<()> {
    ensure!(form == FORM, "the form {form:?} is not known; this version reads {FORM:?}");
    Ok(())
}

fn unescape(name: &str) -> anyhow::Result<String> {
    let is_escape = |part: &str| part.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    ensure!(
        name.split('%').skip(1).all(is_escape),
        "file {name:?}: a \"%\" begins an escape in a file's name; for the character itself in a key \
         write \"%2525\""
    );
    let decoded = percent_decode_str(name).decode_utf8();
    Ok(decoded.with_context(|| format!("file {name:?}: its escapes are no UTF-8"))?.into_owned())
}

/// A key below another.
fn join(prefix: &str, key: &str) -> String {
    let prefix = prefix.trim_end_matches('/');
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}/{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Document {
        let item = |value: &[u8], content_type: Option<&str>| Item {
            value: value.into(),
            content_type: content_type.map(str::to_owned),
        };
        let items = [
            ("a", item(b"1\n", None)),
            ("a/b", item(b"\xff\x00", None)),
            ("a/b/c", item(b"", Some("text/plain"))),
            (".hidden/%self", item(b"x", None)),
            ("pintle-config.json", item(b"{}", Some("application/json"))),
            ("ü ?/100%", item("y: 'ü'".as_bytes(), Some("text/yaml"))),
        ];
        Document {
            prefix: Some("app".into()),
            items: items.into_iter().map(|(key, item)| (key.to_owned(), item)).collect(),
        }
    }

    #[test]
    fn a_document_is_read_as_it_was_written() {
        for form in [Text::Json, Text::Yaml] {
            let text = document().text(form).unwrap();
            assert_eq!(Document::parse(text.as_bytes()).unwrap(), document(), "{text}");
        }
    }

    #[test]
    fn a_folder_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("new");
        document().write_folder(&place).unwrap();
        fs::create_dir(place.join(".git")).unwrap();
        fs::write(place.join(".git/config"), "not ours").unwrap();
        assert_eq!(Document::read_folder(&place).unwrap(), document());
        assert_eq!(fs::read(place.join("a/%self")).unwrap(), b"1\n");
        assert!(document().write_folder(&place).unwrap_err().to_string().contains("not empty"));
    }

    #[test]
    fn plain_files_are_a_folder_too() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("db")).unwrap();
        fs::write(folder.path().join("db/url"), "x").unwrap();
        let document = Document::read_folder(folder.path()).unwrap();
        assert_eq!(
            (&document.prefix, document.items["db/url"].value.as_slice()),
            (&None, &b"x"[..])
        );
    }

    #[test]
    fn what_can_be_no_key_is_told_with_the_remedy() {
        let item = Item { value: Vec::new(), content_type: None };
        let keys = ["fine", "50%.txt", "a//b"].map(|key| (key.to_owned(), item.clone()));
        let document = Document { prefix: Some("app".into()), items: keys.into() };
        let faults = document.faults_of_keys();
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("app/50%.txt") && faults[0].contains("%25"), "{faults:?}");

        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("50%.txt"), "x").unwrap();
        let refusal = Document::read_folder(folder.path()).unwrap_err().to_string();
        assert!(refusal.contains("50%.txt") && refusal.contains("%2525"), "{refusal}");
        fs::rename(folder.path().join("50%.txt"), folder.path().join("50%2525.txt")).unwrap();
        let document = Document::read_folder(folder.path()).unwrap();
        assert_eq!((document.faults_of_keys().len(), document.items.len()), (0, 1));
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for text in [
            "",
            "{}",
            r#"{"pintle":"config/v2","entries":[]}"#,
            r#"{"pintle":"config/v1","entries":[{"key":"a"}]}"#,
            r#"{"pintle":"config/v1","entries":[{"key":"a","value":"1"},{"key":"a","value":"2"}]}"#,
            r#"{"pintle":"config/v1","entry":[]}"#,
        ] {
            assert!(Document::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
