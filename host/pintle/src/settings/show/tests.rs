use super::*;
use crate::settings::load::assemble;

const TEXT: &str = r#"
data_dir = "/data"
[plugins]
dir = "plugins"
[defaults]
tracing = "main"
[backends.main]
plugin = "etcd"
endpoints = ["etcd1:2379"]
tls = true
proxy = "http://proxy:3128"
[backends.main.settings]
root = "/a \"b\"/"
password = { env = "ETCD_PASSWORD" }
api_key = "hunter2"
list = [{ token = "hunter2", name = "n" }, 7]
[backends.main.settings.inner]
secrets = { one = "hunter2", two = { file = "two" } }
pin = "hunter2"
[backends.other]
plugin = "x"
"#;

fn show(schema: Option<&str>) -> Vec<ShownSetting> {
    let variables = [
        ("PINTLE_NODE".into(), "n1".into()),
        ("PINTLE_BACKENDS__MAIN__LIMITS__CALL".into(), "90s".into()),
    ];
    let file = Some(("/etc/pintle.toml".into(), TEXT.to_owned()));
    let settings = assemble(file, variables).unwrap();
    settings.show(|plugin| {
        let schema = schema.filter(|_| plugin == "etcd")?;
        Some(SettingsSchema::parse(schema).unwrap())
    })
}

fn lines(shown: &[ShownSetting], prefix: &str) -> Vec<String> {
    let wanted = shown.iter().filter(|setting| setting.key.starts_with(prefix));
    wanted.map(|one| format!("{} = {}  # {}", one.key, one.value, one.origin)).collect()
}

#[test]
fn each_setting_is_shown_with_where_it_was_written() {
    let shown = show(None);
    assert_eq!(
        lines(&shown, "backends.main"),
        [
            "backends.main.allow = []  # default",
            "backends.main.endpoints = [\"etcd1:2379\"]  # /etc/pintle.toml:9",
            "backends.main.http.h2c = false  # default",
            "backends.main.limits.call = \"90s\"  # PINTLE_BACKENDS__MAIN__LIMITS__CALL",
            "backends.main.limits.connections = 8  # default",
            "backends.main.limits.cpu = \"1s/s\"  # default",
            "backends.main.limits.memory = \"64MiB\"  # default",
            "backends.main.plugin = \"etcd\"  # /etc/pintle.toml:8",
            "backends.main.proxy = \"http://proxy:3128\"  # /etc/pintle.toml:11",
            "backends.main.required = false  # default",
            "backends.main.settings.api_key = [secret]  # /etc/pintle.toml:15",
            "backends.main.settings.inner.pin = \"hunter2\"  # /etc/pintle.toml:19",
            "backends.main.settings.inner.secrets.one = [secret]  # /etc/pintle.toml:18",
            "backends.main.settings.inner.secrets.two = { file = \"/etc/two\" }  # \
             /etc/pintle.toml:18",
            "backends.main.settings.list = [{ name = \"n\", token = [secret] }, 7]  # \
             /etc/pintle.toml:16",
            "backends.main.settings.password = { env = \"ETCD_PASSWORD\" }  # /etc/pintle.toml:14",
            "backends.main.settings.root = '/a \"b\"/'  # /etc/pintle.toml:13",
            "backends.main.tls = true  # /etc/pintle.toml:10",
        ]
    );
    assert_eq!(
        lines(&shown, "d"),
        [
            "data_dir = \"/data\"  # /etc/pintle.toml:2",
            "defaults.tracing = [\"main\"]  # /etc/pintle.toml:6"
        ]
    );
    assert_eq!(lines(&shown, "node"), ["node = \"n1\"  # PINTLE_NODE"]);
    assert_eq!(lines(&shown, "backends.other.tls"), ["backends.other.tls = false  # default"]);
    assert_eq!(
        lines(&shown, "plugins"),
        [
            "plugins.cache_dir = \"/data/cache\"  # default",
            "plugins.dir = \"/etc/plugins\"  # /etc/pintle.toml:4",
            "plugins.drain = \"30s\"  # default",
            "plugins.reload = \"auto\"  # default",
        ]
    );
}

#[test]
fn what_the_schema_calls_secret_is_hidden() {
    let schema = r#"{ "properties": {
        "password": { "writeOnly": true },
        "inner": { "properties": { "pin": { "writeOnly": true } } }
    } }"#;
    let shown = show(Some(schema));
    assert!(shown.iter().all(|setting| !setting.value.contains("hunter2")), "{shown:?}");
    assert_eq!(
        lines(&shown, "backends.main.settings.password"),
        ["backends.main.settings.password = { env = \"ETCD_PASSWORD\" }  # /etc/pintle.toml:14"]
    );
}

#[test]
fn the_debug_form_of_settings_shows_no_plugin_setting() {
    let settings: Settings = TEXT.parse().unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));
}
