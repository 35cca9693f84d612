//! Following changes from a version on.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{Stream, stream::BoxStream};

use super::types::{ChangePosition, WatchEvent};
use crate::{error::Error, plugin::TailUser};

/// Every change after a version: a stream of [`WatchEvent`]s that ends after an error.
pub struct Changes {
    events: BoxStream<'static, Result<WatchEvent, Error>>,
    user: Arc<TailUser>,
}

impl Changes {
    pub(super) fn new(user: TailUser) -> Self {
        let user = Arc::new(user);
        let events = futures::stream::unfold(Arc::clone(&user), |user| async move {
            let next = user.next().await?;
            Some((next, user))
        });
        Self { events: Box::pin(events), user }
    }

    /// Where to open a watch that continues after what was delivered.
    #[must_use]
    pub fn position(&self) -> ChangePosition {
        self.user.position()
    }
}

impl Stream for Changes {
    type Item = Result<WatchEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.as_mut().poll_next(context)
    }
}
