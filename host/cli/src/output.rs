//! Text for people and JSON for programs.

use std::{
    fmt::Display,
    io::{self, Write},
    time::{Duration, SystemTime},
};

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;

/// Longest value in a table or in a line about an event.
const VALUE_CHARS_MAX: usize = 60;

/// Prints a whole document as JSON.
pub(crate) fn json(document: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(document)?)
}

/// A document as YAML.
pub(crate) fn yaml(document: &impl Serialize) -> anyhow::Result<String> {
    // By way of JSON, so that both say the same.
    Ok(serde_saphyr::to_string(&serde_json::to_value(document)?)?)
}

/// Prints one event as one line of JSON.
pub(crate) fn json_line(document: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string(document)?)
}

/// Nobody reads standard output any more, which is no failure: `pintle config list | head -1`.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard output any more")]
pub(crate) struct ReaderGone;

/// Prints a line.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    bytes(format!("{text}\n").as_bytes())
}

/// Prints bytes as they are.
///
/// # Errors
/// [`ReaderGone`], or whatever else is wrong with standard output.
pub(crate) fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        written => written.context("cannot write to standard output"),
    }
}

/// Tells people something on standard error, as a line. That it cannot be told stops nothing.
pub(crate) fn note(text: impl Display) {
    note_part(format_args!("{text}\n"));
}

/// As [`note`], without an end of the line.
pub(crate) fn note_part(text: impl Display) {
    // In one piece: lines of several processes may meet there.
    let _ = io::stderr().lock().write_all(text.to_string().as_bytes());
}

/// Rows under headings, each column as wide as its widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self { rows: vec![headings.map(str::to_owned).into()] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        // Several problems in one text are one line each; a row is one line.
        self.rows.push(cells.map(|cell| cell.replace('\n', "; ")).into());
    }

    /// Prints the table; `empty` instead if it has no rows.
    pub(crate) fn print(&self, empty: &str) -> anyhow::Result<()> {
        if self.rows.len() < 2 {
            note(empty);
            return Ok(());
        }
        line(&self.render())
    }

    fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
            })
            .collect();
        let lines: Vec<String> = self
            .rows
            .iter()
            .map(|row| {
                let cells = row.iter().zip(&widths);
                let padded: Vec<String> =
                    cells.map(|(cell, width)| format!("{cell:width$}")).collect();
                padded.join("  ").trim_end().to_owned()
            })
            .collect();
        lines.join("\n")
    }
}

/// Prints the fields of a document as a table, each with its path.
pub(crate) fn fields(document: &impl Serialize) -> anyhow::Result<()> {
    fn collect(value: &Value, path: &str, table: &mut Table) {
        let below = |name: &str| {
            if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
        };
        match value {
            Value::Object(map) if !map.is_empty() => {
                map.iter().for_each(|(name, value)| collect(value, &below(name), table));
            }
            Value::Array(list) if !list.is_empty() => {
                let indexed = list.iter().enumerate();
                indexed
                    .for_each(|(index, value)| collect(value, &below(&index.to_string()), table));
            }
            Value::String(text) => table.row([path.to_owned(), preview(text.as_bytes())]),
            Value::Null => table.row([path.to_owned(), "-".into()]),
            other => table.row([path.to_owned(), other.to_string()]),
        }
    }
    let mut table = Table::new(["FIELD", "VALUE"]);
    collect(&serde_json::to_value(document)?, "", &mut table);
    table.print("nothing")
}

/// Names and facts about one thing, below each other.
pub(crate) fn facts(pairs: &[(&str, String)]) -> anyhow::Result<()> {
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    for (name, value) in pairs {
        if !value.is_empty() {
            line(&format!("{name:width$}  {value}"))?;
        }
    }
    Ok(())
}

/// A value on one line: control characters escaped, cut where it is long.
pub(crate) fn preview(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return format!("({} bytes)", bytes.len());
    };
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count >= VALUE_CHARS_MAX {
            shown.push('…');
            break;
        }
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// A moment, in milliseconds of the Unix epoch, in UTC.
pub(crate) fn moment(epoch_ms: Option<u64>) -> String {
    epoch_ms.map_or_else(
        || "-".into(),
        |ms| {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
            humantime::format_rfc3339_seconds(time).to_string()
        },
    )
}

/// `1 key`, `2 keys`.
pub(crate) fn counted(count: usize, thing: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{ending}")
}

/// A text, or a dash for an empty one.
pub(crate) fn or_dash(text: impl Into<String>) -> String {
    let text = text.into();
    if text.is_empty() { "-".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_blanks() {
        let mut table = Table::new(["KEY", "VALUE"]);
        table.row(["a".into(), "ü".into()]);
        table.row(["long/key".into(), String::new()]);
        assert_eq!(table.render(), "KEY       VALUE\na         ü\nlong/key");
    }

    #[test]
    fn a_value_stays_on_one_line() {
        assert_eq!(preview(b"a\nb\tc"), "a\\nb\\tc");
        assert_eq!(preview(b"\xff\xfe"), "(2 bytes)");
        let long = preview("x".repeat(100).as_bytes());
        assert_eq!(long.chars().count(), VALUE_CHARS_MAX + 1);
        assert!(preview(b"\x1b[31mred").starts_with("\\u{1b}"));
    }

    #[test]
    fn texts_that_look_like_something_else_stay_texts_in_yaml() {
        let document = serde_json::json!({
            "texts": ["yes", "no", "1", "1.0", "null", "~", "", " a", "a: b", "#", "- x", "a\nb\n",
                "2020-01-01", "0x1F", "'", "\"", "\t", "é", "\u{1}", "{", "%", "@", "!x", "&a", "*a"],
            "others": [1, 1.5, true, null, {}, []],
        });
        let text = yaml(&document).unwrap();
        let again: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(again, document, "{text}");
    }

    #[test]
    fn one_thing_is_counted_as_one() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "key")), ["0 keys", "1 key", "2 keys"]);
    }

    #[test]
    fn moments_are_in_utc() {
        assert_eq!(moment(Some(0)), "1970-01-01T00:00:00Z");
        assert_eq!(moment(None), "-");
    }
}
