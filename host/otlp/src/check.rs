//! Whether bytes are the message that they are taken for, without building it.

use crate::parts::Malformed;
use crate::wire::{Raw, next_raw};

/// As deep as messages may stand in each other; decoders of others stop at 100.
pub(crate) const DEPTH_MAX: u32 = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    ResourceSpans,
    Resource,
    ScopeSpans,
    Scope,
    Span,
    Event,
    Link,
    Status,
    KeyValue,
    AnyValue,
    Array,
    KeyValues,
}

enum Expected {
    Message(Shape),
    Text,
    Bytes,
    Varint,
    Fixed64,
    Fixed32,
    /// Not known here: anything goes.
    Anything,
}

/// # Errors
/// [`Malformed`] when the bytes are no `Span`.
pub(crate) fn check_span(bytes: &[u8]) -> Result<(), Malformed> {
    check(bytes, Shape::Span, DEPTH_MAX)
}

/// # Errors
/// [`Malformed`] when the bytes are no `ResourceSpans`.
pub(crate) fn check_resource_spans(bytes: &[u8]) -> Result<(), Malformed> {
    check(bytes, Shape::ResourceSpans, DEPTH_MAX)
}

/// # Errors
/// [`Malformed`] when the bytes are no `ScopeSpans`.
pub(crate) fn check_scope_spans(bytes: &[u8]) -> Result<(), Malformed> {
    check(bytes, Shape::ScopeSpans, DEPTH_MAX)
}

fn check(bytes: &[u8], shape: Shape, depth: u32) -> Result<(), Malformed> {
    let Some(below) = depth.checked_sub(1) else {
        return Err(Malformed::too_deep());
    };
    let mut rest = bytes;
    while !rest.is_empty() {
        let (number, value) = next_raw(&mut rest)?;
        match (expected(shape, number), value) {
            (Expected::Message(inner), Raw::Bytes(content)) => check(content, inner, below)?,
            (Expected::Text, Raw::Bytes(content)) => {
                std::str::from_utf8(content).map_err(|_| Malformed::new("a text is not UTF-8"))?;
            }
            (Expected::Bytes, Raw::Bytes(_))
            | (Expected::Varint, Raw::Varint(_))
            | (Expected::Fixed64, Raw::Fixed64(_))
            | (Expected::Fixed32, Raw::Fixed32(_))
            | (Expected::Anything, _) => {}
            _ => return Err(Malformed::new("a field has the wrong kind")),
        }
    }
    Ok(())
}

fn expected(shape: Shape, number: u32) -> Expected {
    use Expected::{Anything, Bytes, Fixed32, Fixed64, Message, Text, Varint};
    match (shape, number) {
        (Shape::ResourceSpans, 1) => Message(Shape::Resource),
        (Shape::ResourceSpans, 2) => Message(Shape::ScopeSpans),
        (Shape::ScopeSpans, 1) => Message(Shape::Scope),
        (Shape::ScopeSpans, 2) => Message(Shape::Span),
        (Shape::ResourceSpans | Shape::ScopeSpans, 3) => Text,
        (Shape::Resource, 1) | (Shape::Scope, 3) | (Shape::Span, 9) => Message(Shape::KeyValue),
        (Shape::Event, 3) | (Shape::Link, 4) | (Shape::KeyValues, 1) => Message(Shape::KeyValue),
        (Shape::Resource, 2) | (Shape::Scope, 4) | (Shape::Event, 4) | (Shape::Link, 5) => Varint,
        (Shape::Scope, 1 | 2) => Text,
        (Shape::Span, 1 | 2 | 4) | (Shape::Link, 1 | 2) => Bytes,
        (Shape::Span, 3 | 5) | (Shape::Event, 2) | (Shape::Link, 3) | (Shape::Status, 2) => Text,
        (Shape::Span, 6 | 10 | 12 | 14) | (Shape::Status, 3) => Varint,
        (Shape::Span, 7 | 8) | (Shape::Event, 1) => Fixed64,
        (Shape::Span, 11) => Message(Shape::Event),
        (Shape::Span, 13) => Message(Shape::Link),
        (Shape::Span, 15) => Message(Shape::Status),
        (Shape::Span, 16) | (Shape::Link, 6) => Fixed32,
        (Shape::KeyValue, 1) | (Shape::AnyValue, 1) => Text,
        (Shape::KeyValue, 2) | (Shape::Array, 1) => Message(Shape::AnyValue),
        (Shape::AnyValue, 2 | 3) => Varint,
        (Shape::AnyValue, 4) => Fixed64,
        (Shape::AnyValue, 5) => Message(Shape::Array),
        (Shape::AnyValue, 6) => Message(Shape::KeyValues),
        (Shape::AnyValue, 7) => Bytes,
        _ => Anything,
    }
}
