//! Keeps `docs/settings.md` true.

use std::collections::BTreeSet;
use std::str::FromStr;

use serde_json::Value;

use super::Settings;

const DOCUMENT: &str = include_str!("../../../../docs/settings.md");

/// A file in which every key is set.
const EVERY_KEY: &str = r#"
node = "n"
data_dir = "/d"
[server]
listen = "127.0.0.1:1"
tls = { cert = "a", key = "b" }
[plugins]
dir = "/p"
cache_dir = "/c"
[defaults]
config = "NAME"
registry = "NAME"
lock = "NAME"
tracing = "NAME"
[tracing.receive]
otlp_grpc = "127.0.0.1:2"
[backends.NAME]
plugin = "p"
tls = { ca = "a", cert = "b", key = "c", server_name = "d", alpn = ["h2"] }
proxy = { url = "http://p:1", user = "u", password = { env = "P" } }
"#;

/// Keys whose values are written as one, and not key by key.
const WHOLE: [&str; 4] = [
    "backends.NAME.settings",
    "backends.NAME.proxy.password",
    "backends.NAME.limits.more",
    "plugins.limits",
];

fn collect(value: &Value, path: &str, keys: &mut BTreeSet<String>) {
    match value {
        Value::Object(table) if !WHOLE.contains(&path) => {
            let dot = if path.is_empty() { "" } else { "." };
            table
                .iter()
                .for_each(|(key, value)| collect(value, &format!("{path}{dot}{key}"), keys));
        }
        _ => {
            keys.insert(path.to_owned());
        }
    }
}

#[test]
fn every_key_is_documented_and_every_documented_key_exists() {
    let text = EVERY_KEY.replace("NAME", "name");
    let settings = Settings::from_str(&text).unwrap();
    let text = serde_json::to_string(&settings).unwrap().replace("\"name\"", "\"NAME\"");
    let mut keys = BTreeSet::new();
    collect(&serde_json::from_str(&text).unwrap(), "", &mut keys);

    let rows = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let mut documented: BTreeSet<_> = rows.map(|(key, _)| key.to_owned()).collect();
    // Both have a short form, which is documented besides the keys of the long one.
    assert!(documented.remove("backends.NAME.tls") && documented.remove("backends.NAME.proxy"));
    assert_eq!(documented, keys);
}

#[test]
fn the_examples_of_the_documentation_are_accepted() {
    let blocks: Vec<_> = DOCUMENT.split("```toml\n").skip(1).collect();
    assert!(blocks.len() >= 3);
    for block in blocks {
        let text = block.split("```").next().unwrap();
        Settings::from_str(text).unwrap_or_else(|error| panic!("{text}\n{error}"));
    }
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let settings = Settings::from_str("[backends.a]\nplugin = \"p\"").unwrap();
    let value = serde_json::to_value(settings).unwrap();
    for line in DOCUMENT.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let (key, default) = (cells[1].trim_matches('`'), cells[cells.len() - 2]);
        let Some(written) = default.strip_prefix('`').and_then(|rest| rest.split('`').next())
        else {
            continue;
        };
        let pointer = format!("/{}", key.replace("NAME", "a").replace('.', "/"));
        let found = value.pointer(&pointer).cloned().unwrap_or_default();
        let found = if key.ends_with(".tls") { Value::Bool(!found.is_null()) } else { found };
        if let Ok(written) = serde_json::from_str::<Value>(written) {
            assert_eq!(found, written, "{key}");
        }
    }
}
