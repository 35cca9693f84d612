//! The spans that wait for one sink.

use std::{
    collections::VecDeque,
    ops::{Add, Sub},
    sync::Arc,
};

use bytes::{BufMut, Bytes, BytesMut};
use pintle_otlp::{Origin, parts::Piece};
use tokio::time::Instant;

use super::to_u64;

/// What a span takes beside its bytes, roughly: its place in a queue.
const SPAN_OVERHEAD_BYTES: usize = 96;

/// A number of spans and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) spans: usize,
    pub(super) bytes: usize,
}

impl Room {
    pub(super) fn of(pieces: &[Piece]) -> Self {
        Self { spans: pieces.len(), bytes: weights(pieces, None).sum() }
    }

    pub(super) fn holds(self, other: Self) -> bool {
        self.spans >= other.spans && self.bytes >= other.bytes
    }
}

impl Add for Room {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { spans: self.spans + other.spans, bytes: self.bytes + other.bytes }
    }
}

impl Sub for Room {
    type Output = Self;

    /// Nothing is left where there is too little.
    fn sub(self, other: Self) -> Self {
        Self {
            spans: self.spans.saturating_sub(other.spans),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Queued {
    pub(super) origin: Arc<Origin>,
    pub(super) bytes: Bytes,
    /// With its origin, where the span before it has another.
    pub(super) weight: usize,
    since: Instant,
}

impl Queued {
    pub(super) fn part(&self) -> (&Origin, &[u8]) {
        (&self.origin, &self.bytes)
    }
}

/// Spans that go together, and the number of the first.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) first_number: u64,
    pub(super) spans: Vec<Queued>,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    spans: VecDeque<Queued>,
    bytes: usize,
    /// Number of the next span that comes, counted from the first.
    next_number: u64,
    /// Spans below this number do not wait for a batch to fill.
    hurried: u64,
}

/// Whether a batch can go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ready {
    Now,
    At(Instant),
    Empty,
}

impl Queue {
    /// Takes as many as there is room for, from the front; answers how many.
    pub(super) fn push(&mut self, pieces: &[Piece], room: Room) -> usize {
        let mut left = room.bytes;
        let last = self.spans.back().map(|last| Arc::clone(&last.origin));
        let weights: Vec<_> = weights(pieces, last.as_deref())
            .take(room.spans)
            .map_while(|weight| {
                left = left.checked_sub(weight)?;
                Some(weight)
            })
            .collect();
        let admitted = weights.len();
        let since = Instant::now();
        // A few of many would keep the bytes of all alive.
        let copy = admitted * 2 < pieces.len();
        for (Piece { origin, bytes, .. }, weight) in pieces.iter().zip(weights) {
            let bytes = if copy { Bytes::copy_from_slice(bytes) } else { bytes.clone() };
            self.spans.push_back(Queued { origin: Arc::clone(origin), bytes, weight, since });
            self.bytes += weight;
        }
        self.next_number += to_u64(admitted);
        admitted
    }

    /// Lets everything that waits go at once; answers the number of the next span that comes.
    pub(super) fn hurry(&mut self) -> u64 {
        self.hurried = self.next_number;
        self.next_number
    }

    pub(super) fn ready(&self, batch: Room, delay: std::time::Duration) -> Ready {
        let Some(first) = self.spans.front() else { return Ready::Empty };
        let full = self.spans.len() >= batch.spans || self.bytes >= batch.bytes;
        let hurried = self.first_number().is_some_and(|first| first < self.hurried);
        let due = first.since + delay;
        if full || hurried || due <= Instant::now() { Ready::Now } else { Ready::At(due) }
    }

    /// The spans of the next batch: at least one, where there is one.
    pub(super) fn take(&mut self, room: Room) -> Batch {
        let mut batch =
            Batch { first_number: self.first_number().unwrap_or_default(), spans: Vec::new() };
        let mut bytes = 0;
        while let Some(next) = self.spans.front() {
            let full = batch.spans.len() >= room.spans || bytes + next.weight > room.bytes;
            if full && !batch.spans.is_empty() {
                break;
            }
            bytes += next.weight;
            batch.spans.extend(self.spans.pop_front());
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        // What goes later needs its origin again.
        if let (Some(last), Some(next)) = (batch.spans.last(), self.spans.front_mut()) {
            let again = next.origin.len_after(None) - next.origin.len_after(Some(&last.origin));
            next.weight += again;
            self.bytes += again;
        }
        batch
    }

    /// Drops everything; answers how many spans that were.
    pub(super) fn clear(&mut self) -> usize {
        self.bytes = 0;
        std::mem::take(&mut self.spans).len()
    }

    pub(super) fn room(&self) -> Room {
        Room { spans: self.spans.len(), bytes: self.bytes }
    }

    /// Number of the span that waits longest.
    pub(super) fn first_number(&self) -> Option<u64> {
        let waiting = to_u64(self.spans.len());
        (waiting > 0).then(|| self.next_number.saturating_sub(waiting))
    }
}

pub(super) fn room_of(spans: &[Queued]) -> Room {
    Room { spans: spans.len(), bytes: spans.iter().map(|span| span.weight).sum() }
}

/// Copies spans out of the request that they came in, where most of it is not needed any more.
pub(super) fn release_unused(pieces: &mut [Piece], request_len: usize) {
    let needed: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
    if needed * 2 >= request_len {
        return;
    }
    let mut copy = BytesMut::with_capacity(needed);
    pieces.iter().for_each(|piece| copy.put_slice(&piece.bytes));
    let mut copy = copy.freeze();
    for piece in pieces {
        piece.bytes = copy.split_to(piece.bytes.len());
    }
}

/// What spans take that come behind one of `origin`. What they have in common is counted once, as it
/// is kept and sent once.
fn weights<'a>(
    pieces: &'a [Piece],
    origin: Option<&'a Origin>,
) -> impl Iterator<Item = usize> + 'a {
    let mut before = origin;
    pieces.iter().map(move |piece| {
        let before = before.replace(&piece.origin);
        // Mostly it is the same one.
        let is_same = before.is_some_and(|before| std::ptr::eq(before, &*piece.origin));
        let origin = if is_same { 0 } else { piece.origin.len_after(before) };
        piece.bytes.len() + SPAN_OVERHEAD_BYTES + origin
    })
}
