//! Takes secrets out of texts, in the forms in which they usually escape.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::Secret;

/// What stands in a text where a secret was.
pub const SCRUBBED: &str = "[secret]";

/// Secrets with fewer bytes are taken out only where they stand as a whole word: they would match
/// everywhere, and the gaps would give them away.
const SHORT_BYTES: usize = 4;

/// Lines of a secret with several (a key, for instance) are secrets too, from this length on.
const LINE_BYTES_MIN: usize = 8;

/// A text is percent-decoded so many times: an address inside an address is encoded twice.
const DECODINGS: u32 = 2;
/// Bytes that stand for one byte where it is percent-encoded.
const ENCODED: usize = 3;
/// By so many bytes a place in base64 is widened.
const WIDENED: usize = 4;

/// Takes secrets out of every text that leaves a sandbox.
///
/// Found are: the secret itself; its base64 in both alphabets, also when it is only a part of what
/// was encoded; any percent-encoding, once or twice, with `+` for a space; and the escaping of JSON
/// and of Rust's debug format. Not found is what a plugin conceals on purpose, by reversing a text
/// for instance: for that it has no need of the host's log.
///
/// Secrets with fewer than 4 bytes are taken out as whole words only, and in no other form.
///
/// Clones share their tables.
#[derive(Clone, Default)]
pub struct Scrubber(Option<Arc<Tables>>);

struct Tables {
    needles: AhoCorasick,
    kinds: Vec<Kind>,
    /// Most bytes of a text that one secret can take, however it is spelled.
    reach: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Plain,
    Short,
    Base64,
}

impl Scrubber {
    /// Takes out each of `secrets`; empty ones do not count.
    ///
    /// # Errors
    /// The secrets are too large for a table: more than about a gibibyte.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Result<Self, ScrubberError> {
        let mut needles = BTreeSet::new();
        for secret in secrets {
            add_needles(secret.expose(), &mut needles);
        }
        if needles.is_empty() {
            return Ok(Self(None));
        }
        let (patterns, kinds): (Vec<_>, Vec<_>) = needles.into_iter().unzip();
        let longest = patterns.iter().map(Vec::len).max().unwrap_or_default();
        let reach = (longest + WIDENED).saturating_mul(ENCODED.pow(DECODINGS));
        let needles = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .build(&patterns)
            .map_err(|_| ScrubberError)?;
        Ok(Self(Some(Arc::new(Tables { needles, kinds, reach }))))
    }

    /// `text` with `[secret]` in place of each secret.
    pub fn scrub<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let Some(tables) = &self.0 else { return Cow::Borrowed(text) };
        replace(text, tables.find(text))
    }

    /// The first `len_max` bytes of `text` with `[secret]` in place of each secret that begins there,
    /// and `…` for the rest, if there is one.
    ///
    /// This takes as long as a text of `len_max` bytes takes, however long the rest is. And no part of
    /// a secret is shown that lies across the cut, as there would be if the text were cut before.
    pub fn scrub_head<'t>(&self, text: &'t str, len_max: usize) -> Cow<'t, str> {
        let cut = text.floor_char_boundary(len_max);
        if cut == text.len() {
            return self.scrub(text);
        }
        let mut found = Vec::new();
        if let Some(tables) = &self.0 {
            let seen = text.floor_char_boundary(len_max.saturating_add(tables.reach));
            found = tables.find(text.get(..seen).unwrap_or_default());
            found.retain(|range| range.start < cut);
        }
        let end = found.iter().map(|range| range.end).fold(cut, usize::max);
        let mut head = replace(text.get(..end).unwrap_or_default(), found).into_owned();
        head.push('…');
        Cow::Owned(head)
    }
}

impl std::fmt::Debug for Scrubber {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Scrubber")
    }
}

/// The secrets are too large to be searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secrets are too large to be searched for in texts")]
pub struct ScrubberError;

impl Tables {
    /// The places of `text` that hold a secret.
    fn find(&self, text: &str) -> Vec<Range<usize>> {
        #[cfg(test)]
        tests::SEARCHED.set(tests::SEARCHED.get() + text.len());
        let mut found = vec![];
        let mut views = View::of(text).with_variant();
        for _ in 0..DECODINGS {
            views.iter().for_each(|view| self.search(view, text, &mut found));
            views = views
                .iter()
                .filter_map(View::percent_decoded)
                .flat_map(View::with_variant)
                .collect();
        }
        views.iter().for_each(|view| self.search(view, text, &mut found));
        found
    }

    /// Adds the places of `text` that hold a secret, as seen through `view`.
    fn search(&self, view: &View<'_>, text: &str, found: &mut Vec<Range<usize>>) {
        for hit in self.needles.find_overlapping_iter(view.bytes.as_ref()) {
            let range = hit.range();
            match self.kinds.get(hit.pattern().as_usize()) {
                Some(Kind::Short) if !view.is_word(&range) => {}
                Some(Kind::Base64) => found.push(view.origin(&view.widen_base64(range), text)),
                _ => found.push(view.origin(&range, text)),
            }
        }
    }
}

fn add_needles(secret: &str, needles: &mut BTreeSet<(Vec<u8>, Kind)>) {
    if secret.len() < SHORT_BYTES {
        if !secret.is_empty() {
            needles.insert((secret.into(), Kind::Short));
        }
        return;
    }
    let lines = secret.lines().map(str::trim).filter(|line| line.len() >= LINE_BYTES_MIN);
    for text in std::iter::once(secret).chain(lines) {
        needles.insert((text.into(), Kind::Plain));
        let debug = format!("{text:?}");
        let json = serde_json::to_string(text).unwrap_or_default();
        for escaped in [debug, json] {
            let inner = escaped.trim_start_matches('"');
            let inner = inner.strip_suffix('"').unwrap_or(inner);
            if inner.len() >= SHORT_BYTES {
                needles.insert((inner.into(), Kind::Plain));
            }
        }
        for encoded in base64_cores(text.as_bytes()) {
            needles.insert((encoded.into_bytes(), Kind::Base64));
        }
    }
}

/// The characters of base64 that depend on `bytes` alone, for each of the three places at which
/// they can begin inside a longer text, in both alphabets.
fn base64_cores(bytes: &[u8]) -> impl Iterator<Item = String> {
    let encode = |before: usize| {
        let padded: Vec<u8> = std::iter::repeat_n(0, before).chain(bytes.iter().copied()).collect();
        let first = (before * 8).div_ceil(6);
        let end = padded.len() * 8 / 6;
        [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)]
            .map(|text| text.get(first..end).unwrap_or_default().to_owned())
    };
    (0..3).flat_map(encode).filter(|core| core.len() >= SHORT_BYTES).collect::<Vec<_>>().into_iter()
}

/// A text, or what it decodes to, with the place that each byte came from.
struct View<'t> {
    bytes: Cow<'t, [u8]>,
    /// Offset of each byte in the text, and one for the end; none where nothing was decoded.
    offsets: Option<Vec<usize>>,
}

impl<'t> View<'t> {
    fn of(text: &'t str) -> Self {
        Self { bytes: Cow::Borrowed(text.as_bytes()), offsets: None }
    }

    fn offset(&self, index: usize) -> usize {
        match &self.offsets {
            Some(offsets) => offsets.get(index).or(offsets.last()).copied().unwrap_or(index),
            None => index,
        }
    }

    /// The place in `text` that a part of this view came from, in whole characters.
    fn origin(&self, range: &Range<usize>, text: &str) -> Range<usize> {
        let start = text.floor_char_boundary(self.offset(range.start));
        start..text.ceil_char_boundary(self.offset(range.end))
    }

    /// With `%41` made `A`; none when there is nothing of the kind.
    fn percent_decoded(&self) -> Option<View<'static>> {
        if !self.bytes.contains(&b'%') {
            return None;
        }
        let mut bytes = Vec::with_capacity(self.bytes.len());
        let mut offsets = Vec::with_capacity(self.bytes.len() + 1);
        let mut rest = self.bytes.as_ref();
        while let [byte, tail @ ..] = rest {
            offsets.push(self.offset(self.bytes.len() - rest.len()));
            match rest {
                [b'%', high, low, tail @ ..] if hex(*high).is_some() && hex(*low).is_some() => {
                    let digits = hex(*high).zip(hex(*low));
                    bytes.push(digits.map_or(0, |(high, low)| high << 4 | low));
                    rest = tail;
                }
                _ => {
                    bytes.push(*byte);
                    rest = tail;
                }
            }
        }
        offsets.push(self.offset(self.bytes.len()));
        let decoded = bytes.len() < self.bytes.len();
        decoded.then_some(View { bytes: Cow::Owned(bytes), offsets: Some(offsets) })
    }

    /// The view, and where it has a `+` also the one in which that is a space.
    fn with_variant(self) -> Vec<Self> {
        if !self.bytes.contains(&b'+') {
            return vec![self];
        }
        let space = |byte: &u8| if *byte == b'+' { b' ' } else { *byte };
        let bytes = self.bytes.iter().map(space).collect();
        let spaced = View { bytes, offsets: self.offsets.clone() };
        vec![self, spaced]
    }

    /// Nothing that belongs to a word stands before or after.
    fn is_word(&self, range: &Range<usize>) -> bool {
        let part_of_word = |byte: Option<&u8>| byte.is_some_and(|byte| is_word_byte(*byte));
        let before = range.start.checked_sub(1).and_then(|index| self.bytes.get(index));
        !part_of_word(before) && !part_of_word(self.bytes.get(range.end))
    }

    /// With the characters on both sides that hold some bits of the secret, and the padding.
    fn widen_base64(&self, range: Range<usize>) -> Range<usize> {
        let belongs = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(*byte);
        let before = range.start.checked_sub(1).and_then(|index| self.bytes.get(index));
        let start = range.start - usize::from(before.as_ref().is_some_and(belongs));
        let after = self.bytes.get(range.end..).unwrap_or_default();
        let last = usize::from(after.first().as_ref().is_some_and(belongs));
        let padding = after.iter().skip(last).take(2).take_while(|byte| **byte == b'=').count();
        start..range.end + last + padding
    }
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn replace(text: &str, mut found: Vec<Range<usize>>) -> Cow<'_, str> {
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    found.sort_by_key(|range| (range.start, range.end));
    let mut scrubbed = String::with_capacity(text.len());
    let mut copied = 0;
    let mut hidden: Option<Range<usize>> = None;
    for range in found {
        match &mut hidden {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => {
                if let Some(last) = hidden.replace(range) {
                    hide(text, &mut scrubbed, &mut copied, &last);
                }
            }
        }
    }
    if let Some(last) = hidden {
        hide(text, &mut scrubbed, &mut copied, &last);
    }
    scrubbed.push_str(text.get(copied..).unwrap_or_default());
    Cow::Owned(scrubbed)
}

fn hide(text: &str, scrubbed: &mut String, copied: &mut usize, range: &Range<usize>) {
    scrubbed.push_str(text.get(*copied..range.start).unwrap_or_default());
    scrubbed.push_str(SCRUBBED);
    *copied = range.end;
}

#[cfg(test)]
mod tests;
