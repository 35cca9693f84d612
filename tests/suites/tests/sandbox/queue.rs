//! More callers than a backend has places for.

use std::{pin::Pin, time::Duration};

use anyhow::{Result, bail, ensure};
use pintle::{
    Config,
    config::Entry,
    error::Effect,
    lock::{AcquireOutcome, LockRequest},
};
use pintle_test_suites::{Sandbox, within};

/// A call that was begun.
type Call = Pin<Box<dyn Future<Output = Result<Option<Entry>, pintle::Error>> + Send>>;

/// Begins a call, and hands it over if it waits.
async fn waiting(config: &Config) -> Result<Call, pintle::Error> {
    let config = config.clone();
    let mut call: Call = Box::pin(async move { config.get("a").await });
    match futures::future::poll_immediate(&mut call).await {
        None => Ok(call),
        Some(Ok(entry)) => Ok(Box::pin(std::future::ready(Ok(entry)))),
        Some(Err(error)) => Err(error),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_beyond_the_queue_are_refused_at_once_and_those_before_go_on() -> Result<()> {
    for queued_max in [1, 5] {
        let sandbox = Sandbox::new(&["plugins/local"])?;
        let data_dir = sandbox.path().join("local").display().to_string();
        let more = format!("calls_running_max = 1, calls_queued_max = {queued_max}");
        let pintle = within(
            "the start",
            sandbox.start(&format!(
                "[backends.main]\nplugin = \"local\"\ndata_dir = {data_dir:?}\n\
                 limits = {{ call = \"20s\", more = {{ {more} }} }}\n"
            )),
        )
        .await??;
        let (lock, config) = (pintle.lock("main")?, pintle.config("main")?);
        let held = within("the lock", lock.acquire(LockRequest::new("job"))).await??;
        let AcquireOutcome::Held(lease) = held else { bail!("not held") };
        // Whoever waits for the lock has the only place inside.
        let wanting = LockRequest::new("job").wait(Duration::from_secs(20));
        let mut inside = Box::pin(lock.acquire(wanting));
        ensure!(futures::future::poll_immediate(&mut inside).await.is_none(), "nobody waits");
        let mut queue = Vec::new();
        for _ in 0..queued_max {
            queue.push(waiting(&config).await?);
        }
        // The first of many more that finds no place: no time passes for it.
        let Err(refused) = waiting(&config).await else { bail!("{} wait", queued_max + 1) };
        ensure!((refused.code(), refused.effect()) == ("busy", Effect::None), "{refused}");
        let limit = format!("calls_queued_max = {queued_max} may");
        ensure!(refused.to_string().contains(&limit), "{refused}");
        ensure!(within("the release", lease.release()).await??);
        let granted = within("the grant", inside).await??;
        ensure!(matches!(granted, AcquireOutcome::Held(_)));
        for call in queue {
            ensure!(within("an answer", call).await??.is_none());
        }
        ensure!(within("another answer", config.get("a")).await??.is_none());
        ensure!(pintle.backend("main")?.restarts == 0);
    }
    Ok(())
}
