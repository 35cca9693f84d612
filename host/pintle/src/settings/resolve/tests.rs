use super::*;
use crate::settings::load::assemble;

const SCHEMA: &str = r#"{
    "type": "object",
    "additionalProperties": false,
    "properties": {
        "root": { "type": "string" },
        "user": { "type": "string" },
        "password": { "type": "string", "writeOnly": true },
        "tokens": { "type": "array", "items": { "type": "string" } }
    }
}"#;

fn settings(backend: &str) -> Settings {
    let text = format!("[backends.main]\nplugin = \"etcd\"\n{backend}");
    assemble(Some(("/etc/pintle.toml".into(), text)), []).unwrap()
}

fn variable(name: &str) -> Option<OsString> {
    match name {
        "PASSWORD" => Some("hunter2".into()),
        "SHORT" => Some("abc".into()),
        "EMPTY" => Some("".into()),
        _ => None,
    }
}

fn prepare(settings: &Settings) -> Result<PreparedSettings, SettingsError> {
    settings.prepare_with("main", SCHEMA, &variable)
}

fn exposed(secrets: &[Secret]) -> Vec<&str> {
    secrets.iter().map(Secret::expose).collect()
}

#[test]
fn secrets_are_filled_in_and_listed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "from file\r\n").unwrap();
    let settings = settings(&format!(
        "proxy = {{ url = \"http://proxy:1\", user = \"ann@x\", password = {{ env = \"PASSWORD\" }} }}\n\
         [backends.main.settings]\n\
         root = \"/a/\"\n\
         password = {{ env = \"PASSWORD\" }}\n\
         tokens = [\"plain\", {{ file = {file:?} }}]",
    ));
    let prepared = prepare(&settings).unwrap();
    let json: Value = serde_json::from_str(prepared.json.expose()).unwrap();
    assert_eq!(
        json,
        serde_json::json!({ "root": "/a/", "password": "hunter2", "tokens": ["plain", "from file"] })
    );
    assert_eq!(exposed(&prepared.secrets), ["hunter2", "from file", "hunter2"]);
    let proxy_url = prepared.proxy_url.as_ref().map(Secret::expose);
    assert_eq!(proxy_url, Some("http://ann%40x:hunter2@proxy:1"));
    assert_eq!(prepared.warnings, []);
    assert!(!format!("{prepared:?}").contains("hunter2"));
}

#[test]
fn secrets_that_cannot_be_found_are_named_all_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("bytes"), [0xff]).unwrap();
    std::fs::write(path("empty"), "\n").unwrap();
    std::fs::write(path("large"), vec![b'a'; (64 << 10) + 1]).unwrap();
    let settings = settings(&format!(
        "[backends.main.settings]\n\
         password = {{ env = \"MISSING\" }}\n\
         user = {{ env = \"EMPTY\" }}\n\
         tokens = [{{ file = {:?} }}, {{ file = {:?} }}, {{ file = {:?} }}, {{ file = {:?} }}]",
        path("missing"),
        path("bytes"),
        path("empty"),
        path("large"),
    ));
    let refused = prepare(&settings).unwrap_err().to_string();
    let refused = refused.replace(folder.path().to_str().unwrap(), "DIR");
    assert_eq!(
        refused,
        "/etc/pintle.toml:4: backends.main.settings.password: the environment variable MISSING is \
         not set\n\
         /etc/pintle.toml:6: backends.main.settings.tokens[0]: the file DIR/missing cannot be \
         read: No such file or directory (os error 2)\n\
         /etc/pintle.toml:6: backends.main.settings.tokens[1]: the file DIR/bytes is no valid \
         UTF-8\n\
         /etc/pintle.toml:6: backends.main.settings.tokens[2]: the file DIR/empty is empty\n\
         /etc/pintle.toml:6: backends.main.settings.tokens[3]: the file DIR/large has more than 64 \
         KiB\n\
         /etc/pintle.toml:5: backends.main.settings.user: the environment variable EMPTY is empty"
    );
}

#[test]
fn a_plain_secret_works_is_warned_of_and_counts_as_secret() {
    let settings = settings("settings.password = \"hunter2\"");
    let prepared = prepare(&settings).unwrap();
    assert_eq!(exposed(&prepared.secrets), ["hunter2"]);
    let warnings: Vec<_> = prepared.warnings.iter().map(Problem::to_string).collect();
    assert_eq!(
        warnings,
        ["/etc/pintle.toml:3: backends.main.settings.password: a secret in plain sight; write { \
          env = \"NAME\" } or { file = \"path\" }"]
    );
}

#[test]
fn a_secret_too_short_to_be_hidden_is_warned_of() {
    let settings = settings("settings.password = { env = \"SHORT\" }");
    let warnings = prepare(&settings).unwrap().warnings;
    assert_eq!(
        warnings[0].to_string(),
        "/etc/pintle.toml:3: backends.main.settings.password: this secret has less than 4 bytes: in \
         logs it is hidden only as a whole word"
    );
}

#[test]
fn what_the_schema_does_not_allow_is_refused_with_its_line() {
    let settings = settings(
        "[backends.main.settings]\nroot = 5\npasword = { env = \"PASSWORD\" }\ntokens = [\n\"a\",\n7]",
    );
    assert_eq!(
        prepare(&settings).unwrap_err().to_string(),
        "/etc/pintle.toml:5: backends.main.settings.pasword: unknown key; did you mean \
         \"password\"?\n\
         /etc/pintle.toml:4: backends.main.settings.root: expected a text; found a whole number\n\
         /etc/pintle.toml:8: backends.main.settings.tokens[1]: expected a text; found a whole number"
    );
}

#[test]
fn a_number_in_a_variable_that_should_be_a_text_needs_quotes() {
    let variables = [
        ("PINTLE_BACKENDS__MAIN__PLUGIN".into(), "etcd".into()),
        ("PINTLE_BACKENDS__MAIN__SETTINGS__USER".into(), "17".into()),
    ];
    let settings = assemble(None, variables).unwrap();
    assert_eq!(
        prepare(&settings).unwrap_err().to_string(),
        "PINTLE_BACKENDS__MAIN__SETTINGS__USER: backends.main.settings.user: expected a text; found \
         a whole number; put quotes into the value of the variable"
    );
}

#[test]
fn a_schema_that_cannot_be_used_is_the_plugins_fault() {
    let error = settings("").prepare_with("main", "{", &variable).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/etc/pintle.toml:2: backends.main.plugin: the plugin's settings schema cannot be used: it \
         is no JSON: EOF while parsing an object at line 1 column 1"
    );
}

#[test]
fn a_backend_that_does_not_exist_is_named() {
    let error = settings("").prepare("mian", SCHEMA).unwrap_err();
    assert!(
        error.to_string().ends_with("no backend is named \"mian\"; did you mean \"main\"?"),
        "{error}"
    );
}
