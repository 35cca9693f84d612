//! A subscription as a stream that knows its place.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures::{Stream, stream::BoxStream};

use super::{Item, Subscription, Weight};
use crate::{config::EventId, error::Error};

/// What subscribers of a capability read: its own events `E`.
pub(crate) struct Following<E> {
    events: BoxStream<'static, Result<E, Error>>,
    last: Arc<Mutex<Option<EventId>>>,
}

impl<E: 'static> Following<E> {
    /// Turns items into events, and keeps `kept` as long as it is read.
    pub(crate) fn new<V, K>(
        subscription: Subscription<V>,
        kept: K,
        event: fn(Item<'_, V>) -> E,
    ) -> Self
    where
        V: PartialEq + Weight + Send + Sync + 'static,
        K: Send + 'static,
    {
        let last = Arc::new(Mutex::new(None));
        let start = (subscription, kept, Arc::clone(&last));
        let events =
            futures::stream::unfold(start, move |(mut subscription, kept, last)| async move {
                let next = subscription.next(event).await?.map(|(id, event)| {
                    if id.sequence > 0 {
                        *Mutex::lock(&last).unwrap_or_else(PoisonError::into_inner) = Some(id);
                    }
                    event
                });
                Some((next, (subscription, kept, last)))
            });
        Self { events: Box::pin(events), last }
    }

    /// Place of the last event that was delivered and from which a watch can resume.
    pub(crate) fn last_event_id(&self) -> Option<EventId> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E> Stream for Following<E> {
    type Item = Result<E, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.as_mut().poll_next(context)
    }
}
