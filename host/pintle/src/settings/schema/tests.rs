use serde_json::json;

use super::*;

#[track_caller]
fn problems(schema: Value, settings: Value) -> Vec<String> {
    let schema =
        SettingsSchema::parse(&schema.to_string()).unwrap_or_else(|error| panic!("{error}"));
    let said = |problem: SchemaProblem| format!("{}: {}", problem.key, problem.text);
    schema.problems(&settings).into_iter().map(said).collect()
}

#[track_caller]
fn refusal(schema: &Value) -> String {
    let error = SettingsSchema::parse(&schema.to_string()).expect_err("this schema is accepted");
    let text = error.to_string();
    text.strip_prefix("the plugin's settings schema cannot be used: ").unwrap().to_owned()
}

#[test]
fn settings_that_are_allowed_pass() {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.com/etcd",
        "type": "object",
        "properties": { "root": { "$ref": "#/$defs/Root" } },
        "$defs": { "Root": { "type": "string", "pattern": "^/" } }
    });
    assert_eq!(problems(schema, json!({ "root": "/a" })), [""; 0]);
    assert_eq!(problems(json!(true), json!({ "any": 1 })), [""; 0]);
}

#[test]
fn each_thing_that_is_wrong_is_said_in_words() {
    let schema = json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["root", "user"],
        "properties": {
            "root": { "type": "string" },
            "user": {},
            "text": { "type": "string", "minLength": 1 },
            "short": { "minLength": 3 }, "long": { "maxLength": 2 },
            "low": { "minimum": 2 }, "high": { "maximum": 2 },
            "above": { "exclusiveMinimum": 2 }, "below": { "exclusiveMaximum": 2 },
            "step": { "multipleOf": 5 },
            "mode": { "enum": ["fast", "slow"] }, "level": { "enum": ["a", 1] },
            "fixed": { "const": "x" }, "shape": { "pattern": "^[a-z]+$" },
            "few": { "minItems": 2 }, "many": { "maxItems": 1 }, "same": { "uniqueItems": true },
            "type": { "type": ["integer", "null", "boolean"] },
            "never": false,
            "not": { "not": { "type": "string" } },
            "table": { "minProperties": 1 }, "full": { "maxProperties": 1 },
            "names": { "propertyNames": { "maxLength": 1 } },
            "list": { "type": "array", "items": { "type": "object", "properties": { "port": { "type": "integer" } } } }
        }
    });
    let settings = json!({
        "rooot": 1, "zzzzzzzz": 1, "user": 1,
        "text": "", "short": "a", "long": "abc", "low": 1, "high": 3, "above": 2, "below": 2,
        "step": 3, "mode": "fats", "level": 2, "fixed": "y", "shape": "A", "few": [], "many": [1, 2],
        "same": [1, 1], "type": 1.5, "never": 1, "not": "a", "table": {}, "full": {"a": 1, "b": 2},
        "names": {"ab": 1}, "list": [{}, { "port": "x" }]
    });
    let found = problems(schema, settings);
    let unknown = found.iter().position(|line| line.starts_with("zzzzzzzz")).unwrap();
    assert!(found[unknown].starts_with("zzzzzzzz: unknown key; keys here are above, below, few, "));
    let rest: Vec<_> = found.iter().filter(|line| !line.starts_with("zzzzzzzz")).collect();
    assert_eq!(
        rest,
        [
            "above: expected more than 2",
            "below: expected less than 2",
            "few: expected at least 2 elements",
            "fixed: expected \"x\"",
            "full: expected at most 1 keys",
            "high: expected at most 2",
            "level: expected one of \"a\", 1",
            "list[1].port: expected a whole number; found a text",
            "long: expected at most 2 characters",
            "low: expected at least 2",
            "many: expected at most 1 elements",
            "mode: expected one of \"fast\", \"slow\"; did you mean \"fast\"?",
            "names: a key here has a name that is not allowed",
            "never: not allowed here",
            "not: is not what `not` in the plugin's schema asks for",
            "rooot: unknown key; did you mean \"root\"?",
            "root: missing",
            "same: expected no element twice",
            "shape: does not match the pattern ^[a-z]+$",
            "short: expected at least 3 characters",
            "step: expected a multiple of 5",
            "table: expected at least 1 keys",
            "text: is empty",
            "type: expected true or false or a whole number; found a number with a fraction",
        ]
    );
}

#[test]
fn of_several_forms_the_one_that_was_meant_is_explained() {
    let schema = json!({
        "properties": {
            "auth": { "oneOf": [
                { "type": "object", "required": ["type"], "properties": { "type": { "const": "none" } } },
                { "type": "object", "required": ["type", "user"],
                  "properties": { "type": { "const": "password" }, "user": { "type": "string" } } }
            ] },
            "size": { "anyOf": [{ "type": "integer" }, { "type": "string" }, { "type": "null" }] },
            "maybe": { "anyOf": [
                { "type": "object", "properties": { "port": { "type": "integer" } } }, { "type": "null" }
            ] }
        }
    });
    let settings = json!({
        "auth": { "type": "password" }, "size": true, "maybe": { "port": "x" }
    });
    assert_eq!(
        problems(schema.clone(), settings),
        [
            "auth.user: missing",
            "maybe.port: expected a whole number; found a text",
            "size: expected a whole number or a text; found true or false",
        ]
    );
    assert_eq!(
        problems(schema, json!({ "auth": { "type": "kerberos" } })),
        ["auth.type: expected one of \"none\", \"password\""]
    );
    let level = json!({ "oneOf": [{ "const": "low", "description": "a" }, { "const": "high" }] });
    assert_eq!(
        problems(json!({ "properties": { "level": level } }), json!({ "level": "mid" })),
        ["level: expected one of \"high\", \"low\""]
    );
}

#[test]
fn unknown_keys_are_found_behind_references() {
    let schema = json!({
        "properties": { "session": { "$ref": "#/$defs/Session" } },
        "$defs": { "Session": {
            "additionalProperties": false, "properties": { "timeout_ms": { "type": "integer" } }
        } }
    });
    assert_eq!(
        problems(schema, json!({ "session": { "timeout-ms": 5, "timeout": 5 } })),
        [
            "session.timeout: unknown key; keys here are timeout_ms",
            "session.timeout-ms: unknown key; did you mean \"timeout_ms\"?",
        ]
    );
}

#[test]
fn no_value_is_quoted_in_a_problem() {
    let every = json!({
        "type": "integer", "minLength": 90, "maxLength": 1, "pattern": "^x$", "enum": ["a"], "const": 1,
        "not": {}, "anyOf": [{ "const": 3 }, { "type": "boolean" }], "oneOf": [{}, {}]
    });
    let schema = json!({ "additionalProperties": every });
    for problem in problems(schema, json!({ "password": "hunter2" })) {
        assert!(!problem.contains("hunter2"), "{problem}");
    }
}

#[test]
fn write_only_texts_are_found_wherever_the_schema_puts_them() {
    let schema = json!({
        "properties": {
            "password": { "type": ["string", "null"], "writeOnly": true },
            "wrapped": { "$ref": "#/$defs/Secret" },
            "either": { "anyOf": [{ "$ref": "#/$defs/Secret" }, { "type": "null" }] },
            "list": { "items": { "$ref": "#/$defs/Secret" } },
            "first": { "prefixItems": [{}, { "writeOnly": true }] },
            "map": { "additionalProperties": { "writeOnly": true } },
            "named": { "patternProperties": { "^x": { "writeOnly": true } } },
            "user": { "type": "string" }
        },
        "$defs": { "Secret": { "type": "string", "writeOnly": true } }
    });
    let settings = json!({
        "password": "a", "wrapped": "b", "either": "c", "list": ["d", "e"], "first": ["f", "g"],
        "map": { "k": { "inner": "h" } }, "named": { "x": "i" }, "user": "ann"
    });
    let schema = SettingsSchema::parse(&schema.to_string()).unwrap();
    let found: Vec<_> = schema.secret_texts(&settings).iter().map(KeyPath::to_string).collect();
    assert_eq!(
        found,
        [
            "either",
            "first[1]",
            "list[0]",
            "list[1]",
            "map.k.inner",
            "named.x",
            "password",
            "wrapped"
        ]
    );
}

#[test]
fn schemas_that_reach_out_are_refused() {
    assert_eq!(
        refusal(&json!({ "$ref": "https://example.com/schema.json" })),
        "\"https://example.com/schema.json\" refers to elsewhere; only \"#/…\" is allowed"
    );
    assert_eq!(
        refusal(&json!({ "$ref": "file:///etc/passwd" })),
        "\"file:///etc/passwd\" refers to elsewhere; only \"#/…\" is allowed"
    );
    assert_eq!(
        refusal(&json!({ "properties": { "a": { "$id": "https://example.com/" } } })),
        "$id is allowed at its root only"
    );
    assert_eq!(
        refusal(&json!({ "$schema": "https://example.com/meta" })),
        "its $schema is not \"https://json-schema.org/draft/2020-12/schema\""
    );
    assert_eq!(refusal(&json!({ "$dynamicRef": "#a" })), "$dynamicRef is not supported; use $ref");
    assert_eq!(refusal(&json!({ "$ref": "#/$defs/a" })), "\"#/$defs/a\" refers to nothing");
    assert_eq!(refusal(&json!([])), "it is no JSON object");
}

#[test]
fn schemas_that_refer_to_themselves_are_refused() {
    assert_eq!(refusal(&json!({ "$ref": "#" })), "\"#\" refers to itself");
    let direct =
        json!({ "$ref": "#/$defs/a", "$defs": { "a": { "allOf": [{ "$ref": "#/$defs/a" }] } } });
    assert_eq!(refusal(&direct), "\"#/$defs/a\" refers to itself");
    let ring = json!({ "$defs": {
        "a": { "properties": { "b": { "$ref": "#/$defs/b" } } },
        "b": { "properties": { "a": { "$ref": "#/$defs/a" } } }
    } });
    assert!(refusal(&ring).ends_with("refers to itself"));
    let above = json!({ "$defs": { "a": { "b": { "$ref": "#/$defs" } } } });
    assert_eq!(refusal(&above), "\"#/$defs\" refers to itself");
}

#[test]
fn schemas_that_unfold_without_end_are_refused() {
    let mut definitions = serde_json::Map::new();
    definitions.insert("0".into(), json!({ "type": "string" }));
    for level in 1..=40 {
        let below = json!({ "$ref": format!("#/$defs/{}", level - 1) });
        definitions.insert(level.to_string(), json!({ "allOf": [below.clone(), below] }));
    }
    let bomb = json!({ "$defs": definitions });
    assert_eq!(refusal(&bomb), "it has more than 65536 parts when references are followed");
}

#[test]
fn schemas_that_are_too_deep_are_refused() {
    let deep = (0..40).fold(json!({}), |inner, _| json!({ "properties": { "a": inner } }));
    assert_eq!(refusal(&deep), "it has more than 64 levels");
    let mut definitions = serde_json::Map::new();
    for level in 0..1000 {
        let next = json!({ "$ref": format!("#/$defs/{}", level + 1) });
        definitions.insert(level.to_string(), next);
    }
    definitions.insert("1000".into(), json!({}));
    let chain = json!({ "$ref": "#/$defs/0", "$defs": definitions });
    assert_eq!(refusal(&chain), "it has more than 128 levels when references are followed");
}

#[test]
fn schemas_that_are_too_large_are_refused() {
    let error =
        SettingsSchema::parse(&format!("\"{}\"", "a".repeat(SCHEMA_BYTES_MAX))).unwrap_err();
    assert!(error.to_string().ends_with("it has more than 256 KiB"), "{error}");
}

#[test]
fn patterns_cost_neither_much_memory_nor_time() {
    let pattern = |pattern: &str| json!({ "properties": { "a": { "pattern": pattern } } });
    let refused = refusal(&pattern("^(((a{0,900}){0,900}){0,900}){0,900}$"));
    assert!(refused.starts_with("at /properties/a/pattern: "), "{refused}");
    assert_eq!(refusal(&pattern(&"a".repeat(1025))), "it has a pattern of more than 1024 bytes");
    let look_behind = refusal(&pattern("(?<=a)b"));
    assert!(look_behind.starts_with("at /properties/a/pattern: "), "{look_behind}");

    let many =
        (0..65).map(|index| (format!("^{index}$"), json!({}))).collect::<serde_json::Map<_, _>>();
    assert_eq!(refusal(&json!({ "patternProperties": many })), "it has more than 64 patterns");

    // A backtracking engine would need longer than the universe is old.
    let text = "a".repeat(5_000) + "!";
    assert_eq!(
        problems(pattern("^(a+)+$"), json!({ "a": text })),
        ["a: does not match the pattern ^(a+)+$"]
    );
}

#[test]
fn what_comes_from_a_plugin_is_shown_on_one_line_and_not_at_length() {
    let reference = format!("x\u{1b}[31m\n{}", "y".repeat(500));
    let refused = refusal(&json!({ "$ref": reference }));
    assert!(!refused.contains(char::is_control), "{refused:?}");
    assert!(refused.chars().count() < 300, "{refused}");
}

#[test]
fn a_schema_that_is_none_is_refused() {
    assert!(refusal(&json!({ "type": "strnig" })).starts_with("at /type: "));
    assert!(SettingsSchema::parse("").is_err());
}
