//! What changes when one file of a plugin takes the place of another.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::file::PluginInfo;

/// Names that one file has and the other has not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Only the new one has them.
    pub added: Vec<String>,
    /// Only the old one has them.
    pub removed: Vec<String>,
}

/// A value in the old file and in the new one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pair<T> {
    /// In the old one.
    pub old: T,
    /// In the new one.
    pub new: T,
}

/// What is different between two files of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginDiff {
    /// Digests of the files.
    pub sha256: Pair<String>,
    /// Versions that the plugins give themselves.
    pub version: Pair<String>,
    /// Sizes, bytes.
    pub size: Pair<u64>,
    /// What they export.
    pub capabilities: Names,
    /// Interfaces that they import, with versions.
    pub imports: Names,
    /// What they promise.
    pub features: Names,
    /// Keys of their settings.
    pub settings: Names,
    /// Keys of their settings whose meaning or type is another.
    pub settings_changed: Vec<String>,
    /// Whether two must never run at once.
    pub single_writer: Pair<bool>,
    /// Whether they ask for a directory.
    pub data_directory: Pair<bool>,
    /// Interfaces that are new, whatever their version.
    wider: Vec<String>,
}

impl PluginDiff {
    /// Compares two files.
    #[must_use]
    pub fn between(old: &PluginInfo, new: &PluginInfo) -> Self {
        let capabilities = |info: &PluginInfo| -> BTreeSet<String> {
            info.capabilities.iter().map(ToString::to_string).collect()
        };
        let imports = |info: &PluginInfo| info.imports.iter().cloned().collect::<BTreeSet<_>>();
        let interfaces = |info: &PluginInfo| -> BTreeSet<String> {
            let name = |import: &String| import.split('@').next().unwrap_or(import).to_owned();
            info.imports.iter().map(name).collect()
        };
        let (old_settings, new_settings) = (properties(old), properties(new));
        let keys = |settings: &BTreeMap<String, Value>| settings.keys().cloned().collect();
        let changed = old_settings
            .iter()
            .filter(|(key, value)| new_settings.get(*key).is_some_and(|other| other != *value));
        Self {
            sha256: Pair { old: old.sha256.clone(), new: new.sha256.clone() },
            version: Pair { old: old.version.clone(), new: new.version.clone() },
            size: Pair { old: old.size, new: new.size },
            capabilities: names(&capabilities(old), &capabilities(new)),
            imports: names(&imports(old), &imports(new)),
            features: names(&old.features, &new.features),
            settings: names(&keys(&old_settings), &keys(&new_settings)),
            settings_changed: changed.map(|(key, _)| key.clone()).collect(),
            single_writer: Pair { old: old.single_writer, new: new.single_writer },
            data_directory: Pair { old: old.data_directory, new: new.data_directory },
            wider: names(&interfaces(old), &interfaces(new)).added,
        }
    }

    /// Why the new file may not take over before somebody has looked at it: it asks for more, or
    /// offers less.
    #[must_use]
    pub fn needs_acceptance(&self) -> Option<String> {
        let mut reasons = Vec::new();
        let mut listed = |what: &str, names: &[String]| {
            if !names.is_empty() {
                reasons.push(format!("{what} {}", names.join(", ")));
            }
        };
        listed("it imports also", &self.wider);
        listed("it does not offer any more", &self.capabilities.removed);
        listed("it does not promise any more", &self.features.removed);
        if self.data_directory == (Pair { old: false, new: true }) {
            reasons.push("it asks for a directory".to_owned());
        }
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

fn names(old: &BTreeSet<String>, new: &BTreeSet<String>) -> Names {
    Names {
        added: new.difference(old).cloned().collect(),
        removed: old.difference(new).cloned().collect(),
    }
}

/// The properties of a plugin's settings.
fn properties(info: &PluginInfo) -> BTreeMap<String, Value> {
    let schema: Value = serde_json::from_str(&info.settings_schema).unwrap_or_default();
    let Some(Value::Object(properties)) = schema.get("properties") else { return BTreeMap::new() };
    properties.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Capability;

    fn info(imports: &[&str], features: &[&str], schema: &str) -> PluginInfo {
        PluginInfo {
            name: "x".into(),
            path: "/x.wasm".into(),
            sha256: "aa".into(),
            size: 1,
            version: "1.0.0".into(),
            summary: String::new(),
            capabilities: vec![Capability::Config, Capability::Lock],
            features: features.iter().map(ToString::to_string).collect(),
            settings_schema: schema.into(),
            single_writer: false,
            data_directory: false,
            imports: imports.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_file_that_asks_for_more_or_offers_less_has_to_be_accepted() {
        let old = info(&["wasi:io/poll@0.2.3"], &["config.cas"], "{}");
        let needs = |new: &PluginInfo| PluginDiff::between(&old, new).needs_acceptance();
        assert_eq!(needs(&old), None);
        assert_eq!(needs(&info(&["wasi:io/poll@0.2.6"], &["config.cas", "new"], "{}")), None);
        let wider = info(&["wasi:io/poll@0.2.3", "wasi:http/client@0.3.0"], &["config.cas"], "{}");
        assert_eq!(needs(&wider).unwrap(), "it imports also wasi:http/client");
        let poorer = info(&["wasi:io/poll@0.2.3"], &[], "{}");
        assert_eq!(needs(&poorer).unwrap(), "it does not promise any more config.cas");
        let lockless = PluginInfo { capabilities: vec![Capability::Config], ..old.clone() };
        assert_eq!(needs(&lockless).unwrap(), "it does not offer any more lock");
        let keeper = PluginInfo { data_directory: true, ..old.clone() };
        assert_eq!(needs(&keeper).unwrap(), "it asks for a directory");
    }

    #[test]
    fn settings_are_compared_by_key() {
        let old = info(&[], &[], r#"{"properties":{"a":{"type":"string"},"b":{}}}"#);
        let new = info(&[], &[], r#"{"properties":{"a":{"type":"number"},"c":{}}}"#);
        let diff = PluginDiff::between(&old, &new);
        assert_eq!(
            (diff.settings.added, diff.settings.removed),
            (vec!["c".into()], vec!["b".into()])
        );
        assert_eq!(diff.settings_changed, ["a"]);
    }
}
