//! What would change, in the form of `diff -u`.

use std::io::IsTerminal;

use similar::TextDiff;

/// Colours, where somebody looks.
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const PLAIN: &str = "\x1b[0m";

/// One value before and afterwards; none where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) key: String,
    pub(super) before: Option<Vec<u8>>,
    pub(super) after: Option<Vec<u8>>,
}

impl Difference {
    /// As text, line by line.
    pub(super) fn text(&self) -> String {
        let side = |value: &Option<Vec<u8>>, name: &str| match value {
            Some(_) => format!("{name}/{}", self.key),
            None => "/dev/null".into(),
        };
        let (old, new) = (side(&self.before, "a"), side(&self.after, "b"));
        let texts = [&self.before, &self.after]
            .map(|value| std::str::from_utf8(value.as_deref().unwrap_or_default()).ok());
        let [Some(before), Some(after)] = texts else {
            let bytes = |value: &Option<Vec<u8>>| {
                value
                    .as_ref()
                    .map_or_else(|| "none".into(), |value| format!("{} bytes", value.len()))
            };
            return format!(
                "--- {old}\n+++ {new}\nbinary: {} -> {}\n",
                bytes(&self.before),
                bytes(&self.after)
            );
        };
        if before == after {
            // One of them is no value, and the other an empty one.
            return format!("--- {old}\n+++ {new}\n");
        }
        TextDiff::from_lines(before, after).unified_diff().header(&old, &new).to_string()
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
        let own = |value: Option<&[u8]>| value.map(<[u8]>::to_vec);
        Difference { key: "k".into(), before: own(before), after: own(after) }.text()
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
    fn bytes_that_are_no_text_are_only_counted() {
        assert!(difference(Some(b"\xff"), Some(b"abc")).contains("binary: 1 bytes -> 3 bytes"));
    }
}
