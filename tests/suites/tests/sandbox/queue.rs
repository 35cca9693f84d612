//! More callers than a backend has places for.

use std::{
    pin::{Pin, pin},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, future::poll_immediate};
use pintle::{
    Config,
    config::Entry,
    error::Effect,
    lock::{AcquireOutcome, LockRequest},
    registry::{Instance, RegisterOutcome},
};
use pintle_test_suites::{Sandbox, within};

/// A call that was begun.
type Call = Pin<Box<dyn Future<Output = Result<Option<Entry>, pintle::Error>> + Send>>;

/// Begins a call, and hands it over if it waits.
async fn waiting(config: &Config) -> Result<Call, pintle::Error> {
    let config = config.clone();
    let mut call: Call = Box::pin(async move { config.get("a").await });
    match poll_immediate(&mut call).await {
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
        let registry = pintle.registry("main")?;
        let listed = registry.register(Instance::new("web", "a", "h", 80), Duration::from_secs(60));
        let listed = within("the registration", listed).await??;
        let RegisterOutcome::Registered(registration) = listed else { bail!("not registered") };
        let held = within("the lock", lock.acquire(LockRequest::new("job"))).await??;
        let AcquireOutcome::Held(lease) = held else { bail!("not held") };
        // Whoever waits for the lock has the only place inside.
        let wanting = LockRequest::new("job").wait(Duration::from_secs(20));
        let mut inside = Box::pin(lock.acquire(wanting));
        ensure!(poll_immediate(&mut inside).await.is_none(), "nobody waits");
        let mut queue = Vec::new();
        for _ in 0..queued_max {
            queue.push(waiting(&config).await?);
        }
        // The first of many more that finds no place: no time passes for it.
        let Err(refused) = waiting(&config).await else { bail!("{} wait", queued_max + 1) };
        ensure!((refused.code(), refused.effect()) == ("busy", Effect::None), "{refused}");
        let limit = format!("calls_queued_max = {queued_max} may");
        ensure!(refused.to_string().contains(&limit), "{refused}");
        // Who goes away leaves the place to another.
        drop(queue.pop());
        queue.push(waiting(&config).await?);
        ensure!(waiting(&config).await.is_err(), "{} wait", queued_max + 1);
        // What ends something needs no place, and what is to stay open waits for one.
        within("the end of the registration", registration.deregister()).await??;
        let mut opening = Box::pin(lock.watch("job"));
        ensure!(poll_immediate(&mut opening).await.is_none(), "the watch found a place, or failed");
        ensure!(within("the release", lease.release()).await??);
        let granted = within("the grant", inside).await??;
        ensure!(matches!(granted, AcquireOutcome::Held(_)));
        for call in queue {
            ensure!(within("an answer", call).await??.is_none());
        }
        ensure!(within("another answer", config.get("a")).await??.is_none());
        let mut watch = pin!(within("the watch", opening).await??);
        let state = within("the state of the lock", watch.next()).await?.context("no state")??;
        ensure!(state.name == "job", "{state:?}");
        ensure!(pintle.backend("main")?.restarts == 0);
    }
    Ok(())
}
