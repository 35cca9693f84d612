//! Settings from the environment.

use super::*;

#[test]
fn variables_override_the_file() {
    let text = "[server]\nlisten = \"127.0.0.1:1\"\n[backends.main]\nplugin = \"etcd\"\n\
                endpoints = [\"a:1\", \"b:2\"]\nsettings.root = \"/a/\"";
    let variables = [
        ("PINTLE_SERVER__LISTEN", "[::1]:9"),
        ("pintle_backends__Main__Endpoints", "[\"c:3\"]"),
        ("PINTLE_BACKENDS__MAIN__LIMITS__CONNECTIONS", "3"),
        ("PINTLE_BACKENDS__MAIN__REQUIRED", "true"),
        ("PINTLE_BACKENDS__MAIN__SETTINGS__ROOT", "/b/"),
        ("PINTLE_BACKENDS__MAIN__SETTINGS__PASSWORD", "{ env = \"P\" }"),
        ("PINTLE_NODE", "17"),
        ("PINTLE_TOKEN", "not a setting"),
        ("OTHER__LISTEN", "not ours"),
    ];
    let settings = load(text, &variables).unwrap();
    assert_eq!(settings.server.listen.to_string(), "[::1]:9");
    assert_eq!(settings.node.as_deref(), Some("17"));
    let main = &settings.backends["main"];
    assert_eq!(main.endpoints, ["c:3".parse().unwrap()]);
    assert_eq!(main.limits.connections, 3);
    assert!(main.required);
    assert_eq!(main.settings["root"], "/b/");
    let password = SecretReference::from_value(&main.settings["password"]);
    assert_eq!(password, Some(SecretReference::Env("P".into())));
}

#[test]
fn an_underscore_in_a_variable_stands_for_a_hyphen_of_the_file() {
    let text = "[backends.my-etcd]\nplugin = \"etcd\"\nsettings.pageSize = 1";
    let variables = [
        ("PINTLE_BACKENDS__MY_ETCD__PLUGIN", "other"),
        ("PINTLE_BACKENDS__MY_ETCD__SETTINGS__PAGESIZE", "2"),
    ];
    let settings = load(text, &variables).unwrap();
    assert_eq!(settings.backends.len(), 1);
    assert_eq!(settings.backends["my-etcd"].plugin, "other");
    assert_eq!(settings.backends["my-etcd"].settings["pageSize"], 2);
}

#[test]
fn a_backend_can_come_from_variables_alone() {
    let variables = [("PINTLE_BACKENDS__MAIN__PLUGIN".into(), "etcd".into())];
    let settings = assemble(None, variables).unwrap();
    assert_eq!(settings.backends["main"].plugin, "etcd");
}

#[test]
fn what_is_wrong_in_a_variable_is_said_with_its_name() {
    let text = "[backends.main]\nplugin = \"etcd\"";
    let refused = refusal_with(
        text,
        &[
            ("PINTLE_BACKENDS__MAIN__ENDPONTS", "[\"a:1\"]"),
            ("PINTLE_SERVER__LISTEN", "[::1"),
            ("PINTLE_SEVER__LISTEN", "127.0.0.1:1"),
        ],
    );
    assert_eq!(
        refused,
        "PINTLE_BACKENDS__MAIN__ENDPONTS: backends.main.endponts: unknown key; did you mean \
         \"endpoints\"?\n\
         PINTLE_SERVER__LISTEN: server.listen: \"[::1\" is not an address to listen on; expected \
         one like \"127.0.0.1:7468\"\n\
         PINTLE_SEVER__LISTEN: sever: unknown key; did you mean \"server\"?"
    );
}

#[test]
fn a_key_that_two_variables_set_is_refused() {
    let refused = refusal_with("", &[("PINTLE_NODE", "a"), ("pintle_node", "b")]);
    assert_eq!(refused, "pintle_node: node: PINTLE_NODE sets the same key");
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_text_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let value = OsString::from_vec(vec![b'a', 0xff]);
    let error = assemble(None, [("PINTLE_NODE".into(), value)]).unwrap_err();
    assert_eq!(error.to_string(), "PINTLE_NODE: node: the value is no valid UTF-8");
}

#[test]
fn a_list_in_a_variable_that_is_none_is_refused_with_the_reason() {
    let variables = [("PINTLE_BACKENDS__MAIN__ENDPOINTS", "[\"a:1\"")];
    assert_eq!(
        refusal_with("[backends.main]\nplugin = \"etcd\"", &variables),
        "PINTLE_BACKENDS__MAIN__ENDPOINTS: backends.main.endpoints: no valid TOML value: unclosed \
         array, expected `]`"
    );
}
