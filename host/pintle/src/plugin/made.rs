//! Asks each incarnation once for what users keep open.

use std::sync::Arc;

use super::{
    actor::Operation,
    backend::{Backend, Serving},
};
use crate::error::Error;

/// On which incarnation something was made last.
///
/// The first request of a user and the repetition after a restart may meet: whoever comes second
/// finds that it is made.
#[derive(Default)]
pub(crate) struct Made(tokio::sync::Mutex<Option<u64>>);

impl Made {
    /// Makes it by `request` on the incarnation that serves, unless it is made there already; then
    /// the answer is nothing.
    ///
    /// # Errors
    ///
    /// Those of the request, and `not-running`.
    pub(crate) async fn ensure<T>(
        &self,
        backend: &Backend,
        operation: Operation,
        request: impl AsyncFnOnce(Arc<Serving>) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let mut made = self.0.lock().await;
        let serving = backend.serving(operation, backend.limits.call_timeout).await?;
        if *made == Some(serving.number) {
            return Ok(None);
        }
        let number = serving.number;
        let answer = request(serving).await?;
        *made = Some(number);
        Ok(Some(answer))
    }

    /// Waits for a request that is under way.
    pub(crate) async fn settled(&self) {
        drop(self.0.lock().await);
    }

    /// It has to be made again, on whatever incarnation.
    pub(crate) async fn forget(&self) {
        *self.0.lock().await = None;
    }
}
