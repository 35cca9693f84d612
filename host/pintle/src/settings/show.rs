//! The settings that count, each with where it was written, fit to be seen by anyone.

use serde_json::Value;

use super::backend::SecretReference;
use super::error::Origin;
use super::path::{Bare, KeyPath, Segment};
use super::{Settings, SettingsSchema};

/// What stands for a text that looks like a secret.
const HIDDEN: &str = "[secret]";

/// Parts of keys whose texts are hidden even when no schema calls them secret.
const SECRET_WORDS: [&str; 9] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "apikey",
    "accesskey",
    "privatekey",
];

/// One setting, as `pintle settings show` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownSetting {
    /// Key with its path, like `backends.main.limits.memory`.
    pub key: String,
    /// The value as TOML. Secrets by reference show the reference; others are hidden.
    pub value: String,
    /// Where it was written.
    pub origin: Origin,
}

impl Settings {
    /// Every setting that counts, defaults included, in the order of the keys.
    ///
    /// Secrets are not resolved. A text written in plain is hidden when its key sounds secret; with
    /// the plugin's schema also when that says so: `schema_of` gets the name of a plugin.
    pub fn show(&self, schema_of: impl Fn(&str) -> Option<SettingsSchema>) -> Vec<ShownSetting> {
        let mut document = serde_json::to_value(self).unwrap_or_default();
        self.fill_in_places(&mut document);
        for (name, backend) in &self.backends {
            let place = KeyPath::of(&["backends", name]);
            shorten(place.find_mut(&mut document));
            let Some(settings) = place.key("settings").find_mut(&mut document) else {
                continue;
            };
            let schema = schema_of(&backend.plugin);
            let secret = schema.map(|schema| schema.secret_texts(settings)).unwrap_or_default();
            for path in secret {
                let by_reference = path.parent().is_some_and(|parent| {
                    parent.find(settings).and_then(SecretReference::from_value).is_some()
                });
                if let Some(text) = path.find_mut(settings).filter(|_| !by_reference) {
                    *text = Value::String(HIDDEN.to_owned());
                }
            }
        }
        let mut shown = vec![];
        self.flatten(&KeyPath::default(), &document, &mut shown);
        shown
    }

    /// Puts in what is chosen at run time.
    fn fill_in_places(&self, document: &mut Value) {
        let text = |path: std::path::PathBuf| Value::String(path.display().to_string());
        let chosen = [
            (KeyPath::of(&["node"]), Some(Value::String(self.node_name()))),
            (KeyPath::of(&["data_dir"]), self.data_root().ok().map(text)),
            (KeyPath::of(&["plugins", "dir"]), Some(text(self.plugins_folder()))),
            (KeyPath::of(&["plugins", "cache_dir"]), self.cache_folder().ok().map(text)),
        ];
        for (path, value) in chosen {
            if let (Some(place), Some(value)) = (path.find_mut(document), value) {
                *place = value;
            }
        }
    }

    fn flatten(&self, path: &KeyPath, value: &Value, shown: &mut Vec<ShownSetting>) {
        match value {
            Value::Null => {}
            Value::Object(table) if SecretReference::from_value(value).is_none() => {
                table.iter().for_each(|(key, value)| self.flatten(&path.key(key), value, shown));
            }
            value => shown.push(ShownSetting {
                key: path.to_string(),
                value: toml_text(value, sounds_secret(path)),
                origin: self.origins.exact(path),
            }),
        }
    }
}

/// Writes TLS and proxy of a backend in the short form where nothing else is set.
fn shorten(backend: Option<&mut Value>) {
    let Some(backend) = backend else { return };
    if let Some(tls) = backend.get_mut("tls") {
        let unset = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        if tls.is_null() {
            *tls = Value::Bool(false);
        } else if tls.as_object().is_some_and(|table| table.values().all(unset)) {
            *tls = Value::Bool(true);
        }
    }
    if let Some(proxy) = backend.get_mut("proxy")
        && proxy.get("user").is_some_and(Value::is_null)
        && let Some(url) = proxy.get_mut("url").map(Value::take)
    {
        *proxy = url;
    }
}

/// Whether a text at `path` should not be seen: only what plugins are told can be a plain secret.
fn sounds_secret(path: &KeyPath) -> bool {
    let [Segment::Key(section), _, Segment::Key(part), below @ ..] = path.segments() else {
        return false;
    };
    let secret = |segment: &Segment| match segment {
        Segment::Key(key) => sounds_like_a_secret(key),
        Segment::Index(_) => false,
    };
    section == "backends" && part == "settings" && below.iter().any(secret)
}

fn sounds_like_a_secret(key: &str) -> bool {
    let plain = key.to_lowercase().replace(['-', '_', '.', ' '], "");
    SECRET_WORDS.iter().any(|word| plain.contains(word))
}

/// `value` as TOML on one line.
fn toml_text(value: &Value, hidden: bool) -> String {
    match value {
        Value::Object(table) if SecretReference::from_value(value).is_some() || !hidden => {
            inline_table(table, false)
        }
        Value::Object(table) => inline_table(table, true),
        Value::Array(list) => {
            let items: Vec<_> = list.iter().map(|item| toml_text(item, hidden)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::String(_) if hidden => HIDDEN.to_owned(),
        Value::String(text) if text == HIDDEN => HIDDEN.to_owned(),
        Value::String(text) => toml::Value::String(text.clone()).to_string(),
        other => other.to_string(),
    }
}

fn inline_table(table: &serde_json::Map<String, Value>, hidden: bool) -> String {
    let entry = |(key, value): (&String, &Value)| {
        let hidden = hidden || sounds_like_a_secret(key);
        format!("{} = {}", Bare(key), toml_text(value, hidden))
    };
    let entries: Vec<_> = table.iter().map(entry).collect();
    format!("{{ {} }}", entries.join(", "))
}

#[cfg(test)]
mod tests;
