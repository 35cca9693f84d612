//! How long something is waited for, and whether the machine kept time meanwhile.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::check::{Outcome, Stop};

/// How often it is seen whether the machine keeps time.
const TICK: Duration = Duration::from_millis(50);

/// Waits for something that was promised.
///
/// # Errors
///
/// Broken when it does not come within `limit`, and unclear on a machine that was too busy meanwhile for
/// that to be anybody's fault; else whatever `waiting` ends with.
pub(crate) async fn within<T>(
    what: &str,
    limit: Duration,
    waiting: impl Future<Output = Outcome<T>>,
) -> Outcome<T> {
    let ticks = AtomicU32::new(0);
    tokio::select! {
        ended = tokio::time::timeout(limit, waiting) => {
            ended.unwrap_or_else(|_| Err(late(what, limit, ticks.load(Ordering::Relaxed))))
        }
        never = count(&ticks) => match never {},
    }
}

async fn count(ticks: &AtomicU32) -> Infallible {
    loop {
        tokio::time::sleep(TICK).await;
        ticks.fetch_add(1, Ordering::Relaxed);
    }
}

/// What it means that something did not come within `limit`, in which so many ticks were counted.
fn late(what: &str, limit: Duration, ticks: u32) -> Stop {
    let limit_ms = limit.as_millis();
    let meant = limit_ms / TICK.as_millis();
    if u128::from(ticks) * 2 < meant {
        return Stop::Unclear(format!(
            "{what}: not within {limit_ms} ms, and the machine was too slow to tell: of {meant} \
             moments in that time it kept {ticks}"
        ));
    }
    Stop::Broken(format!("{what}: not within {limit_ms} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_come_was_promised_and_what_comes_is_passed_on() {
        let never = std::future::pending::<Outcome>();
        let late = within("it comes", TICK, never).await;
        // Whether this machine kept time is another question.
        let (Stop::Broken(text) | Stop::Unclear(text) | Stop::Skipped(text)) = late.unwrap_err();
        assert!(text.starts_with("it comes: not within 50 ms"), "{text}");
        let came = within("it comes", TICK, async { Ok(7) }).await;
        assert!(matches!(came, Ok(7)));
    }

    #[test]
    fn a_machine_that_keeps_no_time_breaks_no_promise() {
        let limit = TICK * 20;
        assert!(matches!(late("it comes", limit, 10), Stop::Broken(_)));
        assert!(matches!(late("it comes", limit, 9), Stop::Unclear(_)));
    }
}
