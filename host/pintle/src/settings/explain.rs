//! Words for what serde finds wrong. No text here quotes a value that may be secret.

use figment::error::{Actual, Kind};

use super::path::{KeyPath, Segment};

/// What is wrong at `path`, and what would be right.
pub(crate) fn kind(kind: &Kind, path: &KeyPath) -> String {
    match kind {
        Kind::Message(text) => text.clone(),
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            format!("expected {}; found {}", expectation(expected), type_of(found))
        }
        Kind::UnknownField(key, known) => unknown_key(key, known, path),
        Kind::UnknownVariant(found, known) => {
            format!("{found:?} is not one of {}{}", quoted(known.iter()), hint(found, known.iter()))
        }
        Kind::MissingField(field) => missing(field),
        other => other.to_string(),
    }
}

/// A key that has to be there, and is not.
pub(crate) fn missing(field: &str) -> String {
    match field {
        "plugin" => "missing; name the plugin's file, without \".wasm\"".to_owned(),
        _ => "missing".to_owned(),
    }
}

/// The one of `known` that was probably meant by `word`.
pub(crate) fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let word = plain(word);
    let distance_max = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &plain(candidate)), candidate))
        .filter(|(distance, _)| *distance <= distance_max)
        .min()
        .map(|(_, candidate)| candidate)
}

/// A name that no backend has.
pub(crate) fn no_backend<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let help = match closest(name, known.clone()) {
        Some(candidate) => format!("did you mean {candidate:?}?"),
        None => format!("there are {}", known.collect::<Vec<_>>().join(", ")),
    };
    format!("no backend is named {name:?}; {help}")
}

/// `; did you mean "…"?`, or nothing.
pub(crate) fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a &'a str>) -> String {
    match closest(word, known.into_iter().copied()) {
        Some(candidate) => format!("; did you mean {candidate:?}?"),
        None => String::new(),
    }
}

/// Names in quotes, with commas.
pub(crate) fn quoted<'a>(names: impl IntoIterator<Item = &'a &'a str>) -> String {
    let names: Vec<_> = names.into_iter().map(|name| format!("{name:?}")).collect();
    names.join(", ")
}

fn unknown_key(key: &str, known: &[&str], path: &KeyPath) -> String {
    if let Some(candidate) = closest(key, known.iter().copied()) {
        return format!("unknown key; did you mean {candidate:?}?");
    }
    match path.segments() {
        [Segment::Key(section), Segment::Key(backend), Segment::Key(_)]
            if section == "backends" =>
        {
            format!(
                "unknown key; what the plugin itself is told belongs in backends.{backend}.settings"
            )
        }
        _ => format!("unknown key; keys here are {}", known.join(", ")),
    }
}

fn expectation(expected: &str) -> String {
    match expected {
        "a string" => "a text in quotes",
        "a boolean" => "true or false",
        "path string" => "a path in quotes",
        "a sequence" => "a list",
        "a map" => "a table",
        "u32" => "a whole number from 0 to 4294967295",
        other if other.starts_with("struct ") => "a table",
        other => other,
    }
    .to_owned()
}

fn type_of(found: &Actual) -> &'static str {
    match found {
        Actual::Bool(_) => "true or false",
        Actual::Unsigned(_) => "a whole number",
        Actual::Signed(number) if *number < 0 => "a negative number",
        Actual::Signed(_) => "a whole number",
        Actual::Float(_) => "a number with a fraction",
        Actual::Str(_) | Actual::Char(_) => "a text",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        _ => "something else",
    }
}
