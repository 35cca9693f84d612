//! Overwriting the values of attributes, wherever in a message they stand.

use crate::parts::{Malformed, Origin};
use crate::wire::{self, put_bytes};
use prost::bytes::{BufMut, Bytes, BytesMut};

/// What stands in place of a value.
pub const REDACTED: &str = "[redacted]";

/// As deep as values are followed; what stands deeper is overwritten as a whole.
const DEPTH_MAX: u32 = 48;

/// Names of attributes whose values do not leave the host.
///
/// A pattern is a name, or has `*` at its beginning, its end, or both; case does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redaction {
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Is(String),
    Begins(String),
    Ends(String),
    Holds(String),
}

impl Redaction {
    /// The patterns; empty ones are left out.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Self {
        let pattern = |text: &str| {
            let text = text.to_lowercase();
            let (begin, end) = (text.strip_prefix('*'), text.strip_suffix('*'));
            match (begin, end) {
                (Some(_), Some(_)) => Pattern::Holds(text.trim_matches('*').to_owned()),
                (Some(rest), None) => Pattern::Ends(rest.to_owned()),
                (None, Some(rest)) => Pattern::Begins(rest.to_owned()),
                (None, None) => Pattern::Is(text),
            }
        };
        let patterns = patterns.into_iter().filter(|text| !text.is_empty()).map(pattern);
        Self { patterns: patterns.collect() }
    }

    /// Whether nothing is to be redacted.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether the value of this attribute is to be redacted.
    pub fn hits(&self, key: &str) -> bool {
        let key = key.to_lowercase();
        self.patterns.iter().any(|pattern| match pattern {
            Pattern::Is(text) => key == *text,
            Pattern::Begins(text) => key.starts_with(text),
            Pattern::Ends(text) => key.ends_with(text),
            Pattern::Holds(text) => key.contains(text),
        })
    }

    /// A `Span` with its attributes and those of its events and links redacted.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes are no message.
    pub fn span(&self, span: Bytes) -> Result<Bytes, Malformed> {
        self.rewrite(
            span,
            &[(9, Inside::Attribute), (11, Inside::Event), (13, Inside::Link)],
            DEPTH_MAX,
        )
    }

    /// An origin with the attributes of resource and scope redacted.
    ///
    /// # Errors
    /// As [`span`](Self::span).
    pub fn origin(&self, origin: &Origin) -> Result<Origin, Malformed> {
        Ok(Origin {
            resource: self.rewrite(origin.resource.clone(), &[(1, Inside::Resource)], DEPTH_MAX)?,
            scope: self.rewrite(origin.scope.clone(), &[(1, Inside::Scope)], DEPTH_MAX)?,
        })
    }

    /// Rewrites the fields that are named, and leaves the others as they are.
    fn rewrite(
        &self,
        message: Bytes,
        inside: &[(u64, Inside)],
        depth: u32,
    ) -> Result<Bytes, Malformed> {
        let mut out = BytesMut::with_capacity(message.len());
        let mut changed = false;
        for field in wire::fields(message.clone()) {
            let field = field?;
            let known = inside.iter().find(|(number, _)| *number == field.number);
            let (Some((number, kind)), Some(content)) = (known, field.content) else {
                out.put_slice(&field.whole);
                continue;
            };
            let rewritten = self.inside(*kind, content.clone(), depth)?;
            changed |= rewritten != content;
            put_bytes(&mut out, u32::try_from(*number).unwrap_or_default(), &rewritten);
        }
        Ok(if changed { out.freeze() } else { message })
    }

    fn inside(&self, kind: Inside, content: Bytes, depth: u32) -> Result<Bytes, Malformed> {
        let Some(depth) = depth.checked_sub(1) else { return Ok(redacted_value()) };
        match kind {
            Inside::Resource => self.rewrite(content, &[(1, Inside::Attribute)], depth),
            Inside::Scope | Inside::Event => {
                self.rewrite(content, &[(3, Inside::Attribute)], depth)
            }
            Inside::Link => self.rewrite(content, &[(4, Inside::Attribute)], depth),
            Inside::Attribute => self.attribute(content, depth),
            Inside::Value => {
                self.rewrite(content, &[(5, Inside::Array), (6, Inside::KeyValues)], depth)
            }
            Inside::Array => self.rewrite(content, &[(1, Inside::Value)], depth),
            Inside::KeyValues => self.rewrite(content, &[(1, Inside::Attribute)], depth),
        }
    }

    fn attribute(&self, attribute: Bytes, depth: u32) -> Result<Bytes, Malformed> {
        // The last key counts, as for every decoder.
        let mut key = Bytes::new();
        for field in wire::fields(attribute.clone()) {
            let field = field?;
            if let (1, Some(content)) = (field.number, field.content) {
                key = content;
            }
        }
        if self.hits(&String::from_utf8_lossy(&key)) {
            let mut out = BytesMut::new();
            put_bytes(&mut out, 1, &key);
            put_bytes(&mut out, 2, &redacted_value());
            return Ok(out.freeze());
        }
        self.rewrite(attribute, &[(2, Inside::Value)], depth)
    }
}

#[derive(Clone, Copy)]
enum Inside {
    Resource,
    Scope,
    Event,
    Link,
    Attribute,
    Value,
    Array,
    KeyValues,
}

/// An `AnyValue` that says that there was one.
fn redacted_value() -> Bytes {
    let mut out = BytesMut::new();
    put_bytes(&mut out, 1, REDACTED.as_bytes());
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{AnyValue, ArrayValue, Event, KeyValue, KeyValueList, Link, Span, Value};
    use proptest::prelude::*;
    use prost::Message;

    fn wrapped(value: Value) -> AnyValue {
        AnyValue { value: Some(value) }
    }

    #[test]
    fn a_pattern_names_a_whole_key_or_an_end_of_it() {
        let redaction = Redaction::new(["password", "http.*", "*.token", "*secret*", ""]);
        for hit in ["password", "PASSWORD", "http.url", "user.token", "my_Secret_key"] {
            assert!(redaction.hits(hit), "{hit}");
        }
        for passes in ["passwords", "xhttp.url", "token", "user.tokens", "sec.ret"] {
            assert!(!redaction.hits(passes), "{passes}");
        }
    }

    #[test]
    fn values_are_overwritten_in_spans_events_links_and_within_values() {
        let secret = || KeyValue::text("password", "hunter2");
        let list = KeyValueList { values: vec![secret(), KeyValue::text("user", "ann")] };
        let array = ArrayValue { values: vec![wrapped(Value::KeyValues(list))] };
        let span = Span {
            attributes: vec![secret(), KeyValue::new("nested", Value::Array(array))],
            events: vec![Event { attributes: vec![secret()], ..Event::default() }],
            links: vec![Link { attributes: vec![secret()], ..Link::default() }],
            name: "login".into(),
            ..Span::default()
        };
        let out = Redaction::new(["password"]).span(span.encode_to_vec().into()).unwrap();
        assert!(!out.windows(7).any(|window| window == b"hunter2"));
        let read = Span::decode(out).unwrap();
        assert_eq!(read.attributes[0].as_text(), Some(REDACTED));
        assert_eq!(read.events[0].attributes[0].as_text(), Some(REDACTED));
        assert_eq!(read.links[0].attributes[0].as_text(), Some(REDACTED));
        assert!(format!("{read:?}").contains("ann"));
    }

    #[test]
    fn a_key_that_is_hidden_behind_another_is_found() {
        // Two keys in one attribute: decoders take the last.
        let mut attribute = BytesMut::new();
        put_bytes(&mut attribute, 1, b"harmless");
        put_bytes(&mut attribute, 2, &wrapped(Value::String("hunter2".into())).encode_to_vec());
        put_bytes(&mut attribute, 1, b"password");
        let mut span = BytesMut::new();
        put_bytes(&mut span, 9, &attribute);
        let out = Redaction::new(["password"]).span(span.freeze()).unwrap();
        assert_eq!(Span::decode(out).unwrap().attributes, [KeyValue::text("password", REDACTED)]);
    }

    proptest! {
        #[test]
        fn without_a_hit_every_byte_stays(
            keys in prop::collection::vec("[a-o.]{1,12}", 0..6),
            unknown in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let attributes = keys.iter().map(|key| KeyValue::text(key, "v")).collect();
            let span = Span { attributes, ..Span::default() };
            let mut bytes = BytesMut::from(&span.encode_to_vec()[..]);
            put_bytes(&mut bytes, 77, &unknown);
            let bytes = bytes.freeze();
            prop_assert_eq!(Redaction::new(["zzz"]).span(bytes.clone()).unwrap(), bytes);
        }

        #[test]
        fn no_bytes_make_it_panic(input in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Redaction::new(["*"]).span(input.into());
        }
    }
}
