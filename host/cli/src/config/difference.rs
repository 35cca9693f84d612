//! What would change, in the form of `diff -u`.

use std::io::IsTerminal;

use similar::TextDiff;

use super::document::Item;

/// Colours, where somebody looks.
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const PLAIN: &str = "\x1b[0m";

/// One value before and afterwards; none where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) key: String,
    pub(super) before: Option<Item>,
    pub(super) after: Option<Item>,
}

impl Difference {
    /// As text, line by line.
    pub(super) fn text(&self) -> String {
        let side = |item: &Option<Item>, name: &str| match item {
            Some(_) => format!("{name}/{}", self.key),
            None => "/dev/null".into(),
        };
        let head = format!("--- {}\n+++ {}\n", side(&self.before, "a"), side(&self.after, "b"));
        format!("{head}{}{}", self.media_types(), self.lines())
    }

    /// Of a value that stays.
    fn media_types(&self) -> String {
        let (Some(before), Some(after)) = (&self.before, &self.after) else {
            return String::new();
        };
        let text = |item: &Item| item.content_type.clone().unwrap_or_else(|| "none".into());
        if before.content_type == after.content_type {
            return String::new();
        }
        format!("media type: {} -> {}\n", text(before), text(after))
    }

    fn lines(&self) -> String {
        let sides = [&self.before, &self.after].map(|item| item.as_ref().map(|item| &item.value));
        let texts = sides.map(|value| std::str::from_utf8(value.map_or(&[], Vec::as_slice)).ok());
        match texts {
            // Also where one of them is no value, and the other an empty one.
            [Some(before), Some(after)] if before == after => String::new(),
            [Some(before), Some(after)] => {
                TextDiff::from_lines(before, after).unified_diff().to_string()
            }
            _ if sides[0] == sides[1] => String::new(),
            _ => {
                let [before, after] = sides.map(|value| {
                    value.map_or_else(|| "none".into(), |value| format!("{} bytes", value.len()))
                });
                format!("binary: {before} -> {after}\n")
            }
        }
    }
}

/// The same text in colours, if standard output or error (`to_stderr`) is a terminal.
pub(super) fn coloured(text: &str, to_stderr: bool) -> String {
    let is_terminal =
        if to_stderr { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
    if !is_terminal || std::env::var_os("NO_COLOR").is_some() {
        return text.to_owned();
    }
    let coloured = text.lines().map(|line| match line.as_bytes().first() {
        Some(b'+') => format!("{GREEN}{line}{PLAIN}\n"),
        Some(b'-') => format!("{RED}{line}{PLAIN}\n"),
        _ => format!("{line}\n"),
    });
    coloured.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(before: Option<&[u8]>, after: Option<&[u8]>) -> String {
        let item = |value: &[u8]| Item { value: value.to_vec(), content_type: None };
        Difference { key: "k".into(), before: before.map(item), after: after.map(item) }.text()
    }

    #[test]
    fn lines_that_stay_are_told_from_those_that_go_and_come() {
        let text = difference(Some(b"one\ntwo\n"), Some(b"one\n2\n"));
        assert_eq!(text, "--- a/k\n+++ b/k\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n");
    }

    #[test]
    fn what_is_made_or_deleted_has_nothing_on_the_other_side() {
        assert!(difference(None, Some(b"x\n")).starts_with("--- /dev/null\n+++ b/k\n"));
        assert!(difference(Some(b"x\n"), None).starts_with("--- a/k\n+++ /dev/null\n"));
        assert_eq!(difference(None, Some(b"")), "--- /dev/null\n+++ b/k\n");
    }

    #[test]
    fn another_media_type_is_shown() {
        let item = |content_type: Option<&str>| {
            Some(Item { value: b"{}".to_vec(), content_type: content_type.map(str::to_owned) })
        };
        let (before, after) = (item(None), item(Some("application/json")));
        let text = Difference { key: "k".into(), before, after }.text();
        assert_eq!(text, "--- a/k\n+++ b/k\nmedia type: none -> application/json\n");
    }

    #[test]
    fn bytes_that_are_no_text_are_only_counted() {
        assert!(difference(Some(b"\xff"), Some(b"abc")).contains("binary: 1 bytes -> 3 bytes"));
    }
}
