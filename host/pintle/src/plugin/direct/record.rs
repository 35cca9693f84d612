//! Telling a recorder what was asked and answered, in short.

use std::{
    fmt::{self, Debug, Write},
    sync::Arc,
    time::{Duration, Instant},
};

/// Hears of every call when it has been answered.
pub type Recorder = Arc<dyn Fn(Spoken) + Send + Sync>;

/// One call and its answer.
#[derive(Debug, Clone)]
pub struct Spoken {
    /// When it was asked.
    pub at: Instant,
    /// How long the answer took.
    pub took: Duration,
    /// Function and arguments, cut where they are long.
    pub asked: String,
    /// The answer, cut where it is long.
    pub answered: String,
}

/// Longest text of a call or of an answer.
const TEXT_BYTES_MAX: usize = 400;

/// The debug form of `value`, cut at [`TEXT_BYTES_MAX`] without writing the rest of it.
pub(super) fn brief(value: &impl Debug) -> String {
    let mut text = Cut { text: String::new() };
    // Fails when it is full, and that is meant.
    let _ = write!(text, "{value:?}");
    text.text
}

struct Cut {
    text: String,
}

impl Write for Cut {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let left = TEXT_BYTES_MAX.saturating_sub(self.text.len());
        if part.len() <= left {
            self.text.push_str(part);
            return Ok(());
        }
        let mut characters = part.char_indices().map(|(start, it)| (start + it.len_utf8(), it));
        while let Some((end, character)) = characters.next()
            && end <= left
        {
            self.text.push(character);
        }
        self.text.push('…');
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_cut_between_characters() {
        assert_eq!(brief(&"a"), "\"a\"");
        let text = brief(&"ü".repeat(10_000));
        assert!(text.len() <= TEXT_BYTES_MAX + '…'.len_utf8(), "{}", text.len());
        assert!(text.ends_with("ü…"), "{text}");
    }
}
