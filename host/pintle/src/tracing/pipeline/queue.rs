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

/// What a span takes beside its bytes, roughly: its place in a queue, its share of its origin.
const SPAN_OVERHEAD_BYTES: usize = 96;

/// A number of spans and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) spans: usize,
    pub(super) bytes: usize,
}

impl Room {
    pub(super) fn of(pieces: &[Piece]) -> Self {
        let bytes = pieces.iter().map(|piece| weight(&piece.bytes)).sum();
        Self { spans: pieces.len(), bytes }
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
    since: Instant,
}

impl Queued {
    pub(super) fn weight(&self) -> usize {
        weight(&self.bytes)
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    spans: VecDeque<Queued>,
    bytes: usize,
    /// Number of the next span that comes, counted from the first.
    next_number: u64,
    /// Spans up to this number do not wait for a batch to fill.
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
        let (mut admitted, mut bytes) = (0, 0);
        for piece in pieces.iter().take(room.spans) {
            if bytes + weight(&piece.bytes) > room.bytes {
                break;
            }
            bytes += weight(&piece.bytes);
            admitted += 1;
        }
        let since = Instant::now();
        // A few of many would keep the bytes of all alive.
        let copy = admitted * 2 < pieces.len();
        for Piece { origin, bytes, .. } in pieces.iter().take(admitted) {
            let bytes = if copy { Bytes::copy_from_slice(bytes) } else { bytes.clone() };
            self.spans.push_back(Queued { origin: Arc::clone(origin), bytes, since });
        }
        self.bytes += bytes;
        self.next_number += to_u64(admitted);
        admitted
    }

    /// Lets everything that waits go at once; answers the number of the last of it.
    pub(super) fn hurry(&mut self) -> u64 {
        self.hurried = self.next_number;
        self.next_number.saturating_sub(1)
    }

    pub(super) fn ready(&self, batch: Room, delay: std::time::Duration) -> Ready {
        let Some(first) = self.spans.front() else { return Ready::Empty };
        let full = self.spans.len() >= batch.spans || self.bytes >= batch.bytes;
        let hurried = self.first_number().is_some_and(|first| first < self.hurried);
        let due = first.since + delay;
        if full || hurried || due <= Instant::now() { Ready::Now } else { Ready::At(due) }
    }

    /// The spans of the next batch: at least one, where there is one.
    pub(super) fn take(&mut self, batch: Room) -> Vec<Queued> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.spans.front() {
            let full = taken.len() >= batch.spans || bytes + next.weight() > batch.bytes;
            if full && !taken.is_empty() {
                break;
            }
            bytes += next.weight();
            taken.extend(self.spans.pop_front());
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        taken
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

fn weight(span: &Bytes) -> usize {
    span.len() + SPAN_OVERHEAD_BYTES
}
