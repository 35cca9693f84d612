//! Overwriting the values of attributes, wherever in a message they stand.

use crate::check::DEPTH_MAX;
use crate::parts::Malformed;
use crate::wire::{self, put_bytes};
use prost::bytes::{BufMut, Bytes, BytesMut};

/// What stands in place of a value.
pub const REDACTED: &str = "[redacted]";

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
    /// [`Malformed`] when the bytes are no message, or values stand in each other deeper than
    /// [`take_apart`](crate::parts::take_apart) lets pass.
    pub fn span(&self, span: Bytes) -> Result<Bytes, Malformed> {
        let inside = [(9, Inside::Attribute), (11, Inside::Event), (13, Inside::Link)];
        Ok(self.rewrite(&span, &inside, DEPTH_MAX)?.unwrap_or(span))
    }

    /// The [`resource`](crate::Origin::resource) of an origin with its attributes redacted.
    ///
    /// # Errors
    /// As [`span`](Self::span).
    pub fn resource(&self, resource: Bytes) -> Result<Bytes, Malformed> {
        Ok(self.rewrite(&resource, &[(1, Inside::Resource)], DEPTH_MAX)?.unwrap_or(resource))
    }

    /// The [`scope`](crate::Origin::scope) of an origin with its attributes redacted.
    ///
    /// # Errors
    /// As [`span`](Self::span).
    pub fn scope(&self, scope: Bytes) -> Result<Bytes, Malformed> {
        Ok(self.rewrite(&scope, &[(1, Inside::Scope)], DEPTH_MAX)?.unwrap_or(scope))
    }

    /// Rewrites the fields that are named, and leaves the others as they are; none when nothing changes.
    /// Memory is taken only then: values may stand deep in each other, and each level may be large.
    fn rewrite(
        &self,
        message: &Bytes,
        inside: &[(u32, Inside)],
        depth: u32,
    ) -> Result<Option<Bytes>, Malformed> {
        let mut out: Option<BytesMut> = None;
        let mut end = 0;
        for field in wire::fields(message.clone()) {
            let field = field?;
            let begin = end;
            end += field.whole.len();
            let known = inside.iter().find(|(number, _)| *number == field.number);
            let rewritten = match (known, &field.content) {
                (Some((_, kind)), Some(content)) => self.inside(*kind, content, depth)?,
                _ => None,
            };
            match (rewritten, &mut out) {
                (Some(rewritten), out) => {
                    let out = out.get_or_insert_with(|| {
                        let mut out = BytesMut::with_capacity(message.len());
                        out.put_slice(&message.slice(..begin));
                        out
                    });
                    put_bytes(out, field.number, &rewritten);
                }
                (None, Some(out)) => out.put_slice(&field.whole),
                (None, None) => {}
            }
        }
        Ok(out.map(BytesMut::freeze))
    }

    fn inside(
        &self,
        kind: Inside,
        content: &Bytes,
        depth: u32,
    ) -> Result<Option<Bytes>, Malformed> {
        let depth = depth.checked_sub(1).ok_or_else(Malformed::too_deep)?;
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

    fn attribute(&self, attribute: &Bytes, depth: u32) -> Result<Option<Bytes>, Malformed> {
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
            return Ok(Some(out.freeze()));
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

    /// A value that stands in `depth` lists or maps, by turns or as `maps` says.
    fn nested(depth: usize, maps: &[bool]) -> Value {
        let secret = KeyValue::text("password", "hunter2");
        let innermost = Value::KeyValues(KeyValueList { values: vec![secret] });
        (0..depth).zip(maps.iter().cycle()).fold(innermost, |inner, (_, map)| {
            if *map {
                Value::KeyValues(KeyValueList { values: vec![KeyValue::new("k", inner)] })
            } else {
                Value::Array(ArrayValue { values: vec![wrapped(inner)] })
            }
        })
    }

    proptest! {
        /// However deep a value stands: a span that is let in is still one when it is redacted, and
        /// holds the secret no more.
        #[test]
        fn what_is_let_in_is_still_a_span_when_it_is_redacted(
            depth in 0..70_usize,
            maps in prop::collection::vec(any::<bool>(), 1..5),
        ) {
            let span = Span { attributes: vec![KeyValue::new("v", nested(depth, &maps))], ..Span::default() };
            let bytes = Bytes::from(span.encode_to_vec());
            if crate::check::check_span(&bytes).is_ok() {
                let redacted = Redaction::new(["password"]).span(bytes).unwrap();
                prop_assert!(!redacted.windows(7).any(|window| window == b"hunter2"));
                let text = format!("{:?}", Span::decode(redacted).unwrap());
                prop_assert!(text.contains(REDACTED));
            }
        }

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
