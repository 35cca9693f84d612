//! Waiting for a lock, also while the server is started again.

use std::time::{Duration, Instant};

use pintle_client::{
    Backoff, ClientError,
    api::lock::{Acquire, Mode},
    lease::HeldLease,
    lock::AcquireOutcome,
};

use super::{RunArguments, holder};
use crate::{
    exit::{self, Exit, Failure},
    global::Global,
    output,
    session::Session,
};

/// Asked for at a time.
const WAIT_MAX: Duration = Duration::from_secs(3_600);

/// Acquires the lock, waiting as long as `--wait` says. What passes by itself does not end the
/// waiting: a server that is started again, a backend that is away.
pub(super) async fn acquire(
    session: &mut Session,
    global: &Global,
    arguments: &RunArguments,
) -> anyhow::Result<HeldLease> {
    let deadline = arguments.wait.and_then(|wait| Instant::now().checked_add(wait));
    let left = || deadline.map(|end| end.saturating_duration_since(Instant::now()));
    let (mut backoff, mut told) = (Backoff::default(), false);
    loop {
        let wait = left().map_or(WAIT_MAX, |left| left.min(WAIT_MAX));
        let acquire = acquire_for(arguments, wait);
        let lock = session.client.lock(global.backend());
        match lock.acquire(&arguments.name, acquire).await {
            Ok(AcquireOutcome::Held(lease)) => return Ok(lease),
            Ok(AcquireOutcome::Busy(_)) if left().is_none_or(|left| !left.is_zero()) => {
                (backoff, told) = (Backoff::default(), false);
            }
            Ok(AcquireOutcome::Busy(holders)) => {
                let names: Vec<String> = holders.iter().map(holder).collect();
                let text = format!("lock {} is held by {}", arguments.name, names.join(", "));
                return Err(Failure::error(Exit::LOST, text));
            }
            Err(error) => {
                let pause = pause(&error, &mut backoff);
                if !error.is_transient() || left().is_some_and(|left| left <= pause) {
                    return Err(error.into());
                }
                let error = error.into();
                if !std::mem::replace(&mut told, true) {
                    let reason = exit::describe(&error);
                    output::note(format_args!("pintle: {reason}; still waiting for the lock"));
                }
                tokio::time::sleep(pause).await;
                // It may be found elsewhere now, and know its owner by another secret.
                let again = session.find_again(global);
                let found = match left() {
                    Some(left) => tokio::time::timeout(left, again).await.unwrap_or(Ok(())),
                    None => again.await,
                };
                if let Err(error) = found {
                    tracing::info!(error = %exit::describe(&error), "no server found");
                }
            }
        }
    }
}

fn pause(error: &ClientError, backoff: &mut Backoff) -> Duration {
    let asked_for = error.problem().and_then(|problem| problem.retry_after_ms);
    backoff.next().max(Duration::from_millis(asked_for.unwrap_or_default()))
}

fn acquire_for(arguments: &RunArguments, wait: Duration) -> Acquire {
    let mode = match arguments.permits {
        Some(permits) => Mode::Permit(permits),
        None if arguments.shared => Mode::Shared,
        None => Mode::Exclusive,
    };
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Acquire {
        mode,
        ttl_ms: milliseconds(arguments.ttl),
        wait_ms: milliseconds(wait),
        owner: arguments.owner.clone().unwrap_or_else(this_process),
    }
}

fn this_process() -> String {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "localhost".into());
    format!("{host}/{}", std::process::id())
}
