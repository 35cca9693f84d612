//! How much one caller may have under way.

use std::{
    collections::HashMap,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use axum::{body::Body, response::Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pintle::settings::CallerLimits;
use pintle_api::problem::code;

use crate::failure::{Answer, Failure};

/// What callers are told to wait.
const RETRY_AFTER_MS: u64 = 1_000;

/// What counts as one caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum CallerKey {
    /// Who may read the data folder.
    Owner,
    /// The holder of a token, by its id.
    Token(Arc<str>),
    /// Whoever asks from an address.
    Address(IpAddr),
}

/// The calls that are under way.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    counts: Arc<Mutex<HashMap<CallerKey, Count>>>,
    limits: CallerLimits,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    calls: u32,
    streams: u32,
}

/// The place of one call, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    calls: Calls,
    key: CallerKey,
    waits: bool,
}

impl Calls {
    pub(crate) fn new(limits: CallerLimits) -> Self {
        Self { counts: Arc::default(), limits }
    }

    /// Takes a place for a call, or for one that waits.
    pub(crate) fn enter(&self, key: CallerKey, waits: bool) -> Answer<Place> {
        let mut counts = self.counts();
        let count = counts.entry(key.clone()).or_default();
        let (present, limit, what) = if waits {
            (&mut count.streams, self.limits.streams, "watches and waiting calls")
        } else {
            (&mut count.calls, self.limits.calls, "calls")
        };
        if *present >= limit {
            let detail = format!("{limit} {what} of this caller are under way, and no more may be");
            return Err(Failure::of(code::TOO_MANY_CALLS, detail)
                .with(|problem| problem.retry_after_ms = Some(RETRY_AFTER_MS)));
        }
        *present += 1;
        drop(counts);
        Ok(Place { calls: self.clone(), key, waits })
    }

    /// Watches and waiting calls of all callers.
    pub(crate) fn streams(&self) -> u64 {
        self.counts().values().map(|count| u64::from(count.streams)).sum()
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<CallerKey, Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.calls.counts();
        let Some(count) = counts.get_mut(&self.key) else { return };
        let present = if self.waits { &mut count.streams } else { &mut count.calls };
        *present = present.saturating_sub(1);
        if count.calls == 0 && count.streams == 0 {
            counts.remove(&self.key);
        }
    }
}

/// The same answer, which keeps a place until its body has ended.
pub(crate) fn hold(response: Response, place: Place) -> Response {
    response.map(|body| Body::new(Held { body, _place: place }))
}

struct Held {
    body: Body,
    _place: Place,
}

impl HttpBody for Held {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_has_places_of_its_own_and_gives_them_back() {
        let calls = Calls::new(CallerLimits { calls: 2, streams: 1 });
        let one = calls.enter(CallerKey::Owner, false).unwrap();
        let _two = calls.enter(CallerKey::Owner, false).unwrap();
        let refused = calls.enter(CallerKey::Owner, false).unwrap_err();
        assert_eq!((refused.problem().status, refused.problem().code()), (429, "too-many-calls"));
        assert!(refused.problem().retry_after_ms.is_some());
        let stream = calls.enter(CallerKey::Owner, true).unwrap();
        assert!(calls.enter(CallerKey::Owner, true).is_err());
        assert!(calls.enter(CallerKey::Token("x".into()), true).is_ok());
        drop((one, stream));
        assert!(calls.enter(CallerKey::Owner, false).is_ok());
        assert_eq!(calls.streams(), 0);
    }

    #[test]
    fn a_caller_who_has_nothing_under_way_is_forgotten() {
        let calls = Calls::new(CallerLimits::default());
        drop(calls.enter(CallerKey::Owner, true));
        drop(calls.enter(CallerKey::Owner, false));
        assert!(calls.counts().is_empty());
    }

    #[tokio::test]
    async fn a_stream_has_its_place_until_its_end() {
        let calls = Calls::new(CallerLimits::default());
        let place = calls.enter(CallerKey::Owner, true).unwrap();
        let response = hold(Response::new(Body::from("x")), place);
        assert_eq!(calls.streams(), 1);
        let body = axum::body::to_bytes(response.into_body(), 10).await.unwrap();
        assert_eq!((&body[..], calls.streams()), (&b"x"[..], 0));
    }
}
