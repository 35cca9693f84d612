mod variables;

use std::time::Duration;

use proptest::prelude::*;

use super::super::{ByteSize, Reload, SecretReference};
use super::*;

fn load(text: &str, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
    assemble(Some(("/etc/pintle/pintle.toml".into(), text.to_owned())), variables)
}

#[track_caller]
fn good(text: &str) -> Settings {
    load(text, &[]).unwrap_or_else(|error| panic!("refused:\n{error}"))
}

/// What is wrong with `text`, without the folder of the file.
#[track_caller]
fn refusal(text: &str) -> String {
    refusal_with(text, &[])
}

#[track_caller]
fn refusal_with(text: &str, variables: &[(&str, &str)]) -> String {
    let error = load(text, variables).expect_err("these settings are accepted");
    error.to_string().replace("/etc/pintle/pintle.toml", "pintle.toml")
}

const DESIGN_EXAMPLE: &str = r#"
[server]
listen = "127.0.0.1:7468"

[plugins]
dir = "/usr/lib/pintle/plugins"
reload = "pinned"

[defaults]
config = "main"
registry = "zk"
lock = "main"
tracing = ["sw", "main"]

[backends.main]
plugin = "etcd"
sha256 = "9f2c0000000000000000000000000000000000000000000000000000000000ff"
required = true
endpoints = ["etcd1:2379", "etcd2:2379"]
tls = { ca = "ca.pem", cert = "client.pem", key = "/keys/client.key" }
limits = { memory = "128MiB", cpu = "500ms/s", call = "2s", connections = 16 }
settings = { root = "/prod/", user = "pintle", password = { env = "ETCD_PASSWORD" } }

[backends.zk]
plugin = "zookeeper"
sha256 = "9f2c0000000000000000000000000000000000000000000000000000000000ff"

[backends.sw]
plugin = "skywalking"
sha256 = "9f2c0000000000000000000000000000000000000000000000000000000000ff"
endpoints = ["oap:11800"]
tls = true
"#;

#[test]
fn reads_everything_that_the_design_shows() {
    let settings = good(DESIGN_EXAMPLE);
    assert_eq!(settings.plugins.reload, Reload::Pinned);
    assert_eq!(settings.defaults.tracing, ["sw", "main"]);
    let main = &settings.backends["main"];
    assert!(main.required);
    assert_eq!(main.endpoints[1].to_string(), "etcd2:2379");
    assert_eq!(main.limits.memory, ByteSize::from_mib(128));
    assert_eq!(main.limits.cpu.per_second(), Duration::from_millis(500));
    assert_eq!(main.limits.call, Duration::from_secs(2));
    assert_eq!(main.limits.connections, 16);
    assert_eq!(main.settings["root"], "/prod/");
    assert!(settings.backends["sw"].tls.is_some());
    assert!(settings.backends["zk"].tls.is_none());
}

#[test]
fn relative_paths_start_from_the_folder_of_the_file() {
    let settings = good(
        r#"
        data_dir = "data"
        [backends.main]
        plugin = "etcd"
        tls = { ca = "ca.pem", cert = "../client.pem", key = "/keys/client.key" }
        settings = { password = { file = "password" }, list = [{ file = "other" }] }
        "#,
    );
    assert_eq!(settings.data_dir, Some("/etc/pintle/data".into()));
    let main = &settings.backends["main"];
    let tls = main.tls.clone().unwrap();
    assert_eq!(tls.ca, Some("/etc/pintle/ca.pem".into()));
    assert_eq!(tls.cert, Some("/etc/pintle/../client.pem".into()));
    assert_eq!(tls.key, Some("/keys/client.key".into()));
    assert_eq!(main.settings["password"]["file"], "/etc/pintle/password");
    assert_eq!(main.settings["list"][0]["file"], "/etc/pintle/other");
}

#[test]
fn paths_in_variables_start_from_the_current_folder() {
    let settings = load("", &[("PINTLE_DATA_DIR", "data")]).unwrap();
    assert_eq!(settings.data_dir, Some(std::env::current_dir().unwrap().join("data")));
}

#[test]
fn an_empty_path_is_refused_wherever_it_stands() {
    let text = "data_dir = \"\"\nplugins.dir = \"\"\n\
                [backends.a]\nplugin = \"local\"\ndata_dir = \"\"\ntls.ca = \"\"\n\
                [backends.b]\nplugin = \"local\"\ndata_dir = \"/d\"\nsettings.key = { file = \"\" }";
    assert_eq!(
        refusal(text),
        "pintle.toml:1: data_dir: is empty; name a folder\n\
         pintle.toml:2: plugins.dir: is empty; name a folder\n\
         pintle.toml:5: backends.a.data_dir: is empty; name a folder\n\
         pintle.toml:6: backends.a.tls.ca: is empty; name a file\n\
         pintle.toml:10: backends.b.settings.key.file: is empty; name a file"
    );
    let variable = refusal_with("", &[("PINTLE_DATA_DIR", "")]);
    assert!(
        variable.contains("PINTLE_DATA_DIR") && variable.contains("name a folder"),
        "{variable}"
    );
}

#[test]
fn without_a_backend_there_is_local_on_a_folder_of_the_data_root() {
    let settings = good("data_dir = \"/data\"\n[server]\nlisten = \"127.0.0.1:0\"");
    assert_eq!(settings.backends.keys().collect::<Vec<_>>(), ["local"]);
    let local = &settings.backends["local"];
    assert_eq!(local.plugin, "local");
    assert_eq!(local.data_dir, Some("/data/backends/local".into()));
    assert_eq!(settings.server.listen.port(), 0);

    let none = assemble(None, [("PINTLE_DATA_DIR".into(), "/data".into())]).unwrap();
    assert_eq!(none.backends, settings.backends);
}

#[test]
fn defaults_may_name_the_implicit_backend() {
    let settings =
        good("data_dir = \"/data\"\n[defaults]\nconfig = \"local\"\ntracing = \"local\"");
    assert_eq!(settings.defaults.config.as_deref(), Some("local"));
    assert_eq!(settings.defaults.tracing, ["local"]);
}

#[test]
fn a_named_backend_takes_the_place_of_the_implicit_one() {
    let settings = good("[backends.main]\nplugin = \"etcd\"");
    assert_eq!(settings.backends.keys().collect::<Vec<_>>(), ["main"]);
    assert_eq!(settings.backends["main"].data_dir, None);
}

#[test]
fn a_text_alone_is_read_by_parse() {
    let error = "[backends.main]\nplugn = \"etcd\"".parse::<Settings>().unwrap_err();
    assert!(error.to_string().starts_with("settings:2: backends.main.plugn: "), "{error}");
}

#[test]
fn unknown_keys_are_refused_with_the_key_that_was_probably_meant() {
    assert_eq!(
        refusal("\n[backends.main]\nplugin = \"etcd\"\nendponts = []\n"),
        "pintle.toml:4: backends.main.endponts: unknown key; did you mean \"endpoints\"?"
    );
    assert_eq!(
        refusal("[backend.main]\nplugin = \"etcd\""),
        "pintle.toml:1: backend: unknown key; did you mean \"backends\"?"
    );
    assert_eq!(
        refusal(
            "[backends.main]\nplugin = \"etcd\"\ntls = { cafile = \"x\", server-name = \"y\" }"
        ),
        "pintle.toml:3: backends.main.tls.cafile: unknown key; keys here are ca, cert, key, \
         server_name, alpn\n\
         pintle.toml:3: backends.main.tls.server-name: unknown key; did you mean \"server_name\"?"
    );
    assert_eq!(
        refusal("[backends.main]\nplugin = \"etcd\"\npassword = \"x\""),
        "pintle.toml:3: backends.main.password: unknown key; what the plugin itself is told \
         belongs in backends.main.settings"
    );
}

#[test]
fn wrong_types_are_refused() {
    let refused = refusal(
        r#"node = 5
data_dir = ["x"]
server = "here"
[plugins]
reload = "pined"
[defaults]
tracing = 1
[backends.main]
plugin = true
required = "yes"
endpoints = "a:1"
tls = "on"
settings = []
[backends.main.limits]
memory = 64
cpu = "half"
call = "5 seconds"
connections = -1
[backends.other]
plugin = "p"
http = { h2c = 1.5 }
proxy = 3
data_dir = {}
"#,
    );
    assert_eq!(
        refused,
        "pintle.toml:1: node: expected a text in quotes; found a whole number\n\
         pintle.toml:2: data_dir: expected a path in quotes; found a list\n\
         pintle.toml:3: server: expected a table; found a text\n\
         pintle.toml:5: plugins.reload: \"pined\" is not one of \"auto\", \"pinned\", \"off\"; did \
         you mean \"pinned\"?\n\
         pintle.toml:7: defaults.tracing: expected a name or a list of names; found a whole \
         number\n\
         pintle.toml:9: backends.main.plugin: expected a text in quotes; found true or false\n\
         pintle.toml:10: backends.main.required: expected true or false; found a text\n\
         pintle.toml:11: backends.main.endpoints: expected a list; found a text\n\
         pintle.toml:12: backends.main.tls: expected true, false or a table like { ca = \
         \"ca.pem\" }; found a text\n\
         pintle.toml:13: backends.main.settings: expected a table; found a list\n\
         pintle.toml:15: backends.main.limits.memory: expected a size with a unit, like \
         \"64MiB\"; found a whole number\n\
         pintle.toml:16: backends.main.limits.cpu: expected processor time per second, like \
         \"250ms/s\"\n\
         pintle.toml:17: backends.main.limits.call: \"seconds\" is no unit of a duration; units \
         are us, ms, s, min, h\n\
         pintle.toml:18: backends.main.limits.connections: expected a whole number from 0 to \
         4294967295; found a negative number\n\
         pintle.toml:21: backends.other.http.h2c: expected true or false; found a number with a \
         fraction\n\
         pintle.toml:22: backends.other.proxy: expected a URL like \"http://proxy:3128\" or a \
         table with one as \"url\"; found a whole number\n\
         pintle.toml:23: backends.other.data_dir: expected a path in quotes; found a table"
    );
}

#[test]
fn every_bad_endpoint_of_a_list_is_named_by_its_place() {
    let refused = refusal(
        r#"[backends.main]
plugin = "etcd"
endpoints = [
  "etcd1",
  "etcd2:2379",
  "http://etcd3:2379",
  "etcd4:",
  "etcd5:x",
  "etcd6:0",
  "::1",
  "[::1]",
  "[::1:2379",
  "[x]:1",
  "1.2.3:4",
  "a b:4",
  7,
]
allow = ["etcd2:2379", "ETCD2:2379", "*.etcd:2379-2390", "10.0.0.0/8:*", "etcd", "10.0.0.0/64:1"]
"#,
    );
    assert_eq!(
        refused,
        "pintle.toml:4: backends.main.endpoints[0]: the endpoint \"etcd1\" has no port; write \
         \"host:port\"\n\
         pintle.toml:6: backends.main.endpoints[2]: \"http://etcd3:2379\" is not an endpoint; \
         write \"host:port\" without a scheme or path\n\
         pintle.toml:7: backends.main.endpoints[3]: the endpoint \"etcd4:\" has no port; write \
         \"host:port\"\n\
         pintle.toml:8: backends.main.endpoints[4]: the port \"x\" is not a number between 1 and \
         65535\n\
         pintle.toml:9: backends.main.endpoints[5]: the port \"0\" is not a number between 1 and \
         65535\n\
         pintle.toml:10: backends.main.endpoints[6]: an IPv6 address needs brackets and a port: \
         \"[::1]:PORT\"\n\
         pintle.toml:11: backends.main.endpoints[7]: the endpoint \"[::1]\" has no port; write \
         \"host:port\"\n\
         pintle.toml:12: backends.main.endpoints[8]: the endpoint \"[::1:2379\" has a \"[\" \
         without \"]\"\n\
         pintle.toml:13: backends.main.endpoints[9]: \"x\" is not an IPv6 address\n\
         pintle.toml:14: backends.main.endpoints[10]: \"1.2.3\" is neither a host name nor an \
         address\n\
         pintle.toml:15: backends.main.endpoints[11]: \"a b\" is neither a host name nor an \
         address\n\
         pintle.toml:16: backends.main.endpoints[12]: expected an endpoint, like \"etcd1:2379\"; \
         found a whole number\n\
         pintle.toml:18: backends.main.allow[1]: \"ETCD2:2379\" stands in the list twice\n\
         pintle.toml:18: backends.main.allow[4]: \"etcd\" has no port; write host:port, or host:* \
         for all\n\
         pintle.toml:18: backends.main.allow[5]: \"10.0.0.0/64:1\" has a host that is neither a \
         name, *.suffix, an address, nor network/bits"
    );
}

#[test]
fn half_set_pairs_are_refused() {
    let refused = refusal(
        r#"[backends.one]
plugin = "p"
[backends.one.tls]
cert = "c"
[backends.two]
plugin = "p"
tls = { key = "k" }
proxy = { url = "http://proxy:1", user = "ann" }
[backends.three]
plugin = "p"
proxy = { url = "http://proxy:1", password = { env = "P" } }
"#,
    );
    assert_eq!(
        refused,
        "pintle.toml:4: backends.one.tls.cert: has no key; add the file of its private key as \
         \"key\"\n\
         pintle.toml:7: backends.two.tls.key: has no certificate; add its file as \"cert\"\n\
         pintle.toml:8: backends.two.proxy.user: has no password; add \"password\"\n\
         pintle.toml:11: backends.three.proxy.password: has no user; add \"user\""
    );
}

#[test]
fn what_only_follows_from_another_problem_is_not_reported() {
    assert_eq!(
        refusal("[backends.one]\nplugin = \"p\"\n[backends.one.tls]\ncert = \"c\"\nkey = 5"),
        "pintle.toml:5: backends.one.tls.key: expected a path in quotes; found a whole number"
    );
    assert_eq!(
        refusal("[defaults]\nlock = \"one\"\n[backends]\none = 5"),
        "pintle.toml:4: backends.one: expected a table; found a whole number"
    );
}

#[test]
fn names_that_do_not_exist_are_refused() {
    let refused = refusal(
        r#"[defaults]
config = "mian"
lock = "zookeeper"
tracing = ["main", "main", "otel"]
[backends.main]
plugin = "etcd"
"#,
    );
    assert_eq!(
        refused,
        "pintle.toml:2: defaults.config: no backend is named \"mian\"; did you mean \"main\"?\n\
         pintle.toml:3: defaults.lock: no backend is named \"zookeeper\"; there are main\n\
         pintle.toml:4: defaults.tracing[1]: \"main\" stands in the list twice\n\
         pintle.toml:4: defaults.tracing[2]: no backend is named \"otel\"; there are main"
    );
}

#[test]
fn names_that_cannot_be_used_are_refused() {
    let refused = refusal(
        r#"[backends.Main]
plugin = ""
[backends.default]
plugin = "etcd.wasm"
[backends.two]
plugin = "../etcd"
[backends.three]
sha256 = "9f2c"
["backends"."a b"]
plugin = "p"
"#,
    );
    let name = "a backend is named with small letters, digits and single \"-\" or \"_\" between \
                them, at most 63";
    assert_eq!(
        refused,
        format!(
            "pintle.toml:1: backends.Main: {name}\n\
             pintle.toml:2: backends.Main.plugin: is empty; name a plugin, like \"local\"\n\
             pintle.toml:3: backends.default: \"default\" stands for the backend in [defaults]; \
             choose another name\n\
             pintle.toml:4: backends.default.plugin: expected the name without \".wasm\": \
             \"etcd\"\n\
             pintle.toml:6: backends.two.plugin: \"../etcd\" is no plugin's name; expected \
             letters, digits, \"-\", \"_\" and \".\"\n\
             pintle.toml:7: backends.three.plugin: missing; name the plugin's file, without \
             \".wasm\"\n\
             pintle.toml:8: backends.three.sha256: expected the 64 hexadecimal digits of a \
             SHA-256\n\
             pintle.toml:9: backends.\"a b\": {name}"
        )
    );
}

#[test]
fn values_out_of_bounds_are_refused() {
    let refused = refusal(
        r#"node = " a"
[backends.main]
plugin = "p"
limits = { memory = "1KiB", cpu = "2s/s", call = "1h", connections = 0 }
proxy = "socks5://proxy:1"
[backends.main.tls]
server_name = "etcd:2379"
alpn = ["h2", ""]
[backends.other]
plugin = "p"
proxy = "http://ann:secret@proxy:1"
tls = true
http.h2c = true
"#,
    );
    assert_eq!(
        refused,
        "pintle.toml:1: node: expected 1 to 255 characters without spaces around them\n\
         pintle.toml:4: backends.main.limits.call: expected \"10ms\" to \"10min\"\n\
         pintle.toml:4: backends.main.limits.connections: expected 1 to 1024\n\
         pintle.toml:4: backends.main.limits.cpu: expected a share between \"20ms/s\" and \"1s/s\"\n\
         pintle.toml:4: backends.main.limits.memory: expected \"1MiB\" to \"4GiB\"\n\
         pintle.toml:5: backends.main.proxy: expected a URL like \"http://proxy:3128\", with a \
         port\n\
         pintle.toml:7: backends.main.tls.server_name: expected a host name without a port\n\
         pintle.toml:8: backends.main.tls.alpn[1]: expected 1 to 255 bytes, like \"h2\"\n\
         pintle.toml:11: backends.other.proxy: holds credentials; write { url, user, password = { \
         env = \"NAME\" } }\n\
         pintle.toml:13: backends.other.http.h2c: h2c is HTTP/2 without TLS; with TLS both \
         sides agree on it by themselves"
    );
}

#[test]
fn pinned_reload_needs_a_hash_for_each_backend() {
    assert_eq!(
        refusal("[plugins]\nreload = \"pinned\"\n[backends.main]\nplugin = \"etcd\""),
        "pintle.toml:3: backends.main.sha256: missing; plugins.reload = \"pinned\" needs it for \
         each backend"
    );
    assert!(refusal("data_dir = \"/d\"\nplugins.reload = \"pinned\"").contains("backends.local"));
}

#[test]
fn two_backends_never_share_a_folder() {
    let text = "[backends.a]\nplugin = \"local\"\ndata_dir = \"/d/x\"\n\
                [backends.b]\nplugin = \"local\"\ndata_dir = \"/d\"";
    assert_eq!(
        refusal(text),
        "pintle.toml:6: backends.b.data_dir: shares files with backends.a.data_dir"
    );
}

#[test]
fn what_is_no_toml_is_refused_with_each_line() {
    assert_eq!(
        refusal("node = \"a\"\nnode = \"b\"\n[server\nlisten = 1\n"),
        "pintle.toml:2: no valid TOML: duplicate key\n\
         pintle.toml:3: no valid TOML: unclosed table, expected `]`"
    );
    assert_eq!(
        refusal("[backends.a]\nplugin = \"p\"\nsettings = { a = nan, b = 99999999999999999999 }"),
        "pintle.toml:3: backends.a.settings.a: expected a finite number\n\
         pintle.toml:3: backends.a.settings.b: this number does not fit into 64 bits"
    );
}

#[test]
fn a_plain_password_of_a_proxy_is_refused_without_being_shown() {
    let refused = refusal(
        "[backends.a]\nplugin = \"p\"\n\
         proxy = { url = \"http://proxy:1\", user = \"ann\", password = \"hunter2\" }",
    );
    assert_eq!(
        refused,
        "pintle.toml:3: backends.a.proxy.password: expected a secret by reference: { env = \
         \"NAME\" } or { file = \"path\" }"
    );
}

#[test]
fn problems_beyond_a_screenful_are_not_listed() {
    let keys: String = (0..500).map(|index| format!("unknown{index} = 1\n")).collect();
    assert_eq!(load(&keys, &[]).unwrap_err().problems.len(), PROBLEMS_MAX);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Settings::from_file("/nowhere/pintle.toml").unwrap_err();
    assert_eq!(
        error.to_string(),
        "/nowhere/pintle.toml: cannot read the settings: No such file or directory (os error 2)"
    );
}

#[test]
fn a_file_that_is_far_too_large_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(FILE_BYTES_MAX + 1).unwrap();
    let error = Settings::from_file(file.path()).unwrap_err();
    assert!(error.to_string().ends_with("the file has more than 4 MiB"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_file_is_refused_with_lines_that_exist(
        start in 0..DESIGN_EXAMPLE.len(),
        length in 0..40_usize,
        damage in "[a-z0-9\"'={}\\[\\].,# \n-]{0,12}",
    ) {
        let end = (start + length).min(DESIGN_EXAMPLE.len());
        let mut text = DESIGN_EXAMPLE.to_owned();
        text.replace_range(start..end, &damage);
        if let Err(error) = load(&text, &[]) {
            prop_assert!(!error.problems.is_empty());
            for problem in error.problems {
                let lines = 1..=text.matches('\n').count() + 1;
                let known = matches!(&problem.origin, Some(Origin::File { line, .. })
                    if lines.contains(line));
                prop_assert!(known, "{problem}");
            }
        }
    }
}
