//! Words for what a schema does not allow. No text here quotes a value of the settings.

use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use jsonschema::{JsonType, ValidationError};
use serde_json::Value;

use crate::settings::explain::{closest, quoted};
use crate::settings::path::KeyPath;

/// Longest text that is taken over from a plugin, in characters.
const TAKEN_OVER_MAX: usize = 200;

/// What keeps a value from one of several forms.
type Form = Vec<ValidationError<'static>>;

pub(super) struct Words<'a> {
    pub(super) schema: &'a Value,
    pub(super) settings: &'a Value,
}

impl Words<'_> {
    /// What `error` means, each thing with its place.
    pub(super) fn of(&self, error: &ValidationError<'_>) -> Vec<(KeyPath, String)> {
        let keys: Vec<_> = error.instance_path().iter().map(|key| key.to_string()).collect();
        let path = KeyPath::within(self.settings, &keys);
        match error.kind() {
            Kind::AdditionalProperties { unexpected }
            | Kind::UnevaluatedProperties { unexpected } => {
                let known = self.known_keys(error);
                let problem = |key: &String| (path.key(key), unknown_key(key, &known));
                unexpected.iter().map(problem).collect()
            }
            Kind::Required { property } => {
                vec![(path.key(property.as_str().unwrap_or_default()), "missing".to_owned())]
            }
            Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
                self.forms(path, error.instance_path().as_str(), context)
            }
            Kind::PropertyNames { .. } => {
                vec![(path, "a key here has a name that is not allowed".to_owned())]
            }
            kind => vec![(path, sentence(kind, error.instance()))],
        }
    }

    /// Keys that the schema knows where a key was unexpected, or anywhere if it does not say.
    fn known_keys(&self, error: &ValidationError<'_>) -> Vec<String> {
        let pointer = error.schema_path().to_string();
        let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
        let here = self.schema.pointer(parent).and_then(|schema| schema.get("properties"));
        let mut keys = vec![];
        match here.and_then(Value::as_object) {
            Some(properties) => keys.extend(properties.keys().map(|key| printable(key))),
            None => collect_keys(self.schema, &mut keys),
        }
        keys
    }

    /// A value that matches none of several forms: what keeps it from the one that was meant.
    fn forms(&self, path: KeyPath, pointer: &str, forms: &[Form]) -> Vec<(KeyPath, String)> {
        let is_type = |form: &&Form| type_asked(form, pointer).is_some();
        let is_null = |form: &&Form| type_asked(form, pointer).as_deref() == Some("nothing");
        // TOML has no null.
        let forms: Vec<_> = forms.iter().filter(|form| !is_null(form)).collect();
        if forms.iter().all(is_type) {
            let types: Vec<_> = forms.iter().filter_map(|form| type_asked(form, pointer)).collect();
            let found = forms.iter().flat_map(|form| form.first()).next();
            let found = found.map_or("nothing", |error| type_found(error.instance()));
            return vec![(path, format!("expected {}; found {found}", types.join(" or ")))];
        }
        let chosen = forms
            .iter()
            .filter(|form| forms.len() == 1 || !form.iter().any(is_choice) && !is_type(form))
            .min_by_key(|form| form.len());
        if let Some(form) = chosen {
            return form.iter().flat_map(|error| self.of(error)).collect();
        }
        let errors = forms.iter().flat_map(|form| form.iter()).filter(|error| is_choice(error));
        let mut choices: Vec<_> = errors.flat_map(|error| self.choice(error)).collect();
        choices.sort();
        choices.dedup();
        match choices.first() {
            Some((place, _)) => {
                let same = choices.iter().filter(|(other, _)| other == place);
                let values: Vec<_> = same.map(|(_, value)| value.as_str()).collect();
                vec![(place.clone(), format!("expected one of {}", values.join(", ")))]
            }
            None => {
                vec![(path, format!("matches none of the {} forms that are allowed", forms.len()))]
            }
        }
    }

    /// What a form asks for where it tells itself from the others.
    fn choice(&self, error: &ValidationError<'_>) -> Vec<(KeyPath, String)> {
        let keys: Vec<_> = error.instance_path().iter().map(|key| key.to_string()).collect();
        let path = KeyPath::within(self.settings, &keys);
        let values = match error.kind() {
            Kind::Constant { expected_value } => vec![expected_value.to_string()],
            Kind::Enum { options } => {
                options.as_array().into_iter().flatten().map(Value::to_string).collect()
            }
            _ => vec![],
        };
        values.into_iter().map(|value| (path.clone(), printable(&value))).collect()
    }
}

/// The type that a form asks for at `pointer`, if the value fails it for no other reason.
fn type_asked(form: &Form, pointer: &str) -> Option<String> {
    let [error] = form.as_slice() else { return None };
    match error.kind() {
        Kind::Type { kind } if error.instance_path().as_str() == pointer => Some(type_words(kind)),
        _ => None,
    }
}

/// Whether this says no more than that another form was meant: its tag is another one.
fn is_choice(error: &ValidationError<'_>) -> bool {
    match error.kind() {
        Kind::Constant { .. } => true,
        Kind::Enum { options } => options.as_array().is_some_and(|options| options.len() == 1),
        _ => false,
    }
}

/// A text of the plugin's as it may be shown: on one line, and not too long.
pub(super) fn printable(text: &str) -> String {
    let clean = |character: char| if character.is_control() { ' ' } else { character };
    let mut shown: String = text.chars().take(TAKEN_OVER_MAX).map(clean).collect();
    if text.chars().nth(TAKEN_OVER_MAX).is_some() {
        shown.push('…');
    }
    shown
}

fn sentence(kind: &Kind, instance: &Value) -> String {
    match kind {
        Kind::Type { kind } => {
            format!("expected {}; found {}", type_words(kind), type_found(instance))
        }
        Kind::Enum { options } => one_of(options, instance),
        Kind::Constant { expected_value } => {
            format!("expected {}", printable(&expected_value.to_string()))
        }
        Kind::Minimum { limit } => format!("expected at least {limit}"),
        Kind::Maximum { limit } => format!("expected at most {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("expected more than {limit}"),
        Kind::ExclusiveMaximum { limit } => format!("expected less than {limit}"),
        Kind::MultipleOf { multiple_of } => format!("expected a multiple of {multiple_of}"),
        Kind::MinLength { limit: 1 } => "is empty".to_owned(),
        Kind::MinLength { limit } => format!("expected at least {limit} characters"),
        Kind::MaxLength { limit } => format!("expected at most {limit} characters"),
        Kind::Pattern { pattern } => format!("does not match the pattern {}", printable(pattern)),
        Kind::MinItems { limit } => format!("expected at least {limit} elements"),
        Kind::MaxItems { limit } => format!("expected at most {limit} elements"),
        Kind::UniqueItems => "expected no element twice".to_owned(),
        Kind::MinProperties { limit } => format!("expected at least {limit} keys"),
        Kind::MaxProperties { limit } => format!("expected at most {limit} keys"),
        Kind::FalseSchema => "not allowed here".to_owned(),
        Kind::OneOfMultipleValid { .. } => {
            "matches several forms that exclude each other".to_owned()
        }
        other => format!("is not what `{}` in the plugin's schema asks for", other.keyword()),
    }
}

fn unknown_key(key: &str, known: &[String]) -> String {
    match closest(key, known.iter().map(String::as_str)) {
        Some(candidate) => format!("unknown key; did you mean {candidate:?}?"),
        None if known.is_empty() => "unknown key; there are none here".to_owned(),
        None => format!("unknown key; keys here are {}", known.join(", ")),
    }
}

fn one_of(options: &Value, instance: &Value) -> String {
    let options = options.as_array().map(Vec::as_slice).unwrap_or_default();
    let texts: Vec<_> = options.iter().filter_map(Value::as_str).map(printable).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    if texts.len() < options.len() {
        let shown: Vec<_> = options.iter().map(|value| printable(&value.to_string())).collect();
        return format!("expected one of {}", shown.join(", "));
    }
    let meant = instance.as_str().and_then(|text| closest(text, texts.iter().copied()));
    let hint = meant.map(|text| format!("; did you mean {text:?}?")).unwrap_or_default();
    format!("expected one of {}{hint}", quoted(&texts))
}

fn type_words(kind: &TypeKind) -> String {
    let types: Vec<_> = match kind {
        TypeKind::Single(JsonType::Null) => vec!["nothing"],
        TypeKind::Single(single) => vec![type_word(*single)],
        TypeKind::Multiple(several) => {
            several.iter().filter(|one| *one != JsonType::Null).map(type_word).collect()
        }
    };
    types.join(" or ")
}

fn type_word(json: JsonType) -> &'static str {
    match json {
        JsonType::Null => "nothing",
        JsonType::Boolean => "true or false",
        JsonType::Integer => "a whole number",
        JsonType::Number => "a number",
        JsonType::String => "a text",
        JsonType::Array => "a list",
        JsonType::Object => "a table",
    }
}

fn type_found(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(_) => "a whole number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

fn collect_keys(schema: &Value, keys: &mut Vec<String>) {
    match schema {
        Value::Object(table) => {
            let properties = table.get("properties").and_then(Value::as_object);
            keys.extend(properties.into_iter().flatten().map(|(key, _)| printable(key)));
            table.values().for_each(|value| collect_keys(value, keys));
        }
        Value::Array(list) => list.iter().for_each(|value| collect_keys(value, keys)),
        _ => {}
    }
}
