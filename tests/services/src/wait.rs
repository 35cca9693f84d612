//! Waiting for a condition with a deadline, instead of sleeping.

use std::future::Future;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(20);

/// Calls `probe` until it gives a value, for at most `limit`; `None` when it never did.
///
/// # Cancellation
/// Dropping the future drops the probe that is under way.
pub async fn until<T, F, P>(limit: Duration, mut probe: F) -> Option<T>
where
    F: FnMut() -> P,
    P: Future<Output = Option<T>>,
{
    let attempts = async {
        loop {
            if let Some(value) = probe().await {
                return value;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    tokio::time::timeout(limit, attempts).await.ok()
}
