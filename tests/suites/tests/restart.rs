//! What happens when a plugin traps, spins, hangs or eats memory.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use pintle::{
    BackendState, Effect, Pintle,
    config::{Changes, Put, PutOutcome, Target, Txn, TxnOp, WatchEvent},
    lock::{AcquireOutcome, LeaseStatus, LockRequest},
    registry::{Instance, RegisterOutcome, RegistrationStatus},
};
use pintle_test_suites::{Sandbox, within};

const SETTINGS: &str = r#"
    [backends.main]
    plugin = "memory"
    limits = { call = "500ms", memory = "32MiB" }

    [backends.victim]
    plugin = "memory"
"#;

async fn host() -> Result<(Sandbox, Pintle)> {
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    let pintle = sandbox.start(SETTINGS).await?;
    Ok((sandbox, pintle))
}

/// Waits until the backend has been started again `restarts` times and serves.
async fn serving_again(pintle: &Pintle, restarts: u64) -> Result<()> {
    within("the backend to serve again", async {
        loop {
            let status = pintle.backend("main")?;
            if status.restarts >= restarts && status.state == BackendState::Serving {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_the_incarnation_and_its_message_reaches_the_caller() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let config = pintle.config("main")?;
    let error = config.get("do/panic").await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("plugin-ended", Effect::None));
    let text = error.to_string();
    assert!(text.starts_with("backend main (memory 0.1.0): config.get: "), "{text}");
    assert!(text.contains("told to"), "{text}");
    serving_again(&pintle, 1).await?;
    assert!(config.get("a").await?.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_under_way_when_the_plugin_ended_has_an_unknown_effect() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let error = pintle.config("main")?.put(Put::new("do/panic", "")).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("plugin-ended", Effect::Unknown));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_spins_is_ended_and_its_neighbour_answers_meanwhile() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let spinning = tokio::spawn({
        let config = pintle.config("main")?;
        async move { config.get("do/spin").await }
    });
    let victim = pintle.config("victim")?;
    while !spinning.is_finished() {
        within("the neighbour", victim.put(Put::new("a", "1"))).await??;
    }
    let error = within("the end", spinning).await??.unwrap_err();
    assert_eq!(error.code(), "plugin-ended");
    serving_again(&pintle, 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_computes_all_the_time_is_held_back_and_goes_on() -> Result<()> {
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    let pintle = sandbox
        .start(
            "[backends.free]\nplugin = \"memory\"\n[backends.limited]\nplugin = \"memory\"\n\
             limits = { cpu = \"50ms/s\" }\n",
        )
        .await?;
    let turns = async |name: &str| -> Result<u64> {
        let config = pintle.config(name)?.with_timeout(Duration::from_secs(10));
        let entry = within("the burning", config.get("do/burn")).await??.context("a count")?;
        Ok(std::str::from_utf8(&entry.value)?.parse()?)
    };
    let (free, limited) = futures::try_join!(turns("free"), turns("limited"))?;
    // In two seconds it may use 150 ms of processor time, and the other 2,000, of which a busy machine
    // may give it less.
    assert!(limited * 2 < free, "{limited} turns with the limit, {free} without");
    assert!(limited > 0);
    let config = pintle.config("limited")?;
    within("an answer", config.put(Put::new("a", "1"))).await??;
    assert_eq!(pintle.backend("limited")?.restarts, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_not_ended_for_what_it_cannot_do_while_it_is_held_back() -> Result<()> {
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    let free = sandbox.start("[backends.free]\nplugin = \"memory\"\n").await?;
    let begun = Instant::now();
    within("a free run", free.config("free")?.get("do/run")).await??;
    // So that it takes some four seconds, on whatever machine this is; the grace is one.
    let share = (begun.elapsed().as_millis() / 5).clamp(20, 100);
    let pintle = sandbox
        .start(&format!(
            "[backends.limited]\nplugin = \"memory\"\n\
             limits = {{ cpu = \"{share}ms/s\", call = \"100ms\" }}\n"
        ))
        .await?;
    let config = pintle.config("limited")?;
    let begun = Instant::now();
    let error = within("the end of the run", config.get("do/run")).await?.err();
    assert!(begun.elapsed() > Duration::from_millis(1500), "{:?}", begun.elapsed());
    assert!(error.is_none_or(|error| error.code() == "timeout"));
    let status = pintle.backend("limited")?;
    assert_eq!((status.state, status.restarts), (BackendState::Serving, 0), "{}", status.reason);
    let patient = config.with_timeout(Duration::from_secs(10));
    within("an answer", patient.put(Put::new("a", "1"))).await??;
    assert_eq!(pintle.backend("limited")?.restarts, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_never_returns_is_ended_by_the_plugins_own_deadline() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let error = pintle.config("main")?.get("do/hang").await.unwrap_err();
    assert_eq!(error.code(), "timeout", "{error}");
    assert_eq!(pintle.backend("main")?.restarts, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_cannot_use_more_memory_than_it_is_given() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let error = pintle.config("main")?.get("do/fill-memory").await.unwrap_err();
    assert_eq!(error.code(), "plugin-ended", "{error}");
    serving_again(&pintle, 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_reported_lost_when_the_plugin_ends() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let AcquireOutcome::Held(lease) = pintle.lock("main")?.acquire(LockRequest::new("job")).await?
    else {
        bail!("not held")
    };
    pintle.config("main")?.get("do/panic").await.unwrap_err();
    let reason = within("the notice", lease.lost()).await?;
    assert!(reason.contains("told to"), "{reason}");
    assert!(matches!(lease.status(), LeaseStatus::Lost(_)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_are_there_again_after_the_plugin_ended() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let registry = pintle.registry("main")?;
    let instance = Instance::new("web", "1", "127.0.0.1", 80);
    let RegisterOutcome::Registered(registration) =
        registry.register(instance, Duration::from_secs(5)).await?
    else {
        bail!("not registered")
    };
    pintle.config("main")?.get("do/panic").await.unwrap_err();
    serving_again(&pintle, 1).await?;
    let is_there = |status: &RegistrationStatus| *status == RegistrationStatus::Registered;
    within("the registration", registration.wait_for(is_there)).await?;
    assert_eq!(registry.instances("web", None, 0, None).await?.instances.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_again_and_again_holds_up_nothing_else() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let config = pintle.config("main")?;
    let instance = Instance::new("denied-later", "1", "127.0.0.1", 80);
    let RegisterOutcome::Registered(registration) =
        pintle.registry("main")?.register(instance, Duration::from_secs(5)).await?
    else {
        bail!("not registered")
    };
    let mut watch = config.watch(Target::Prefix("w".into())).await?;
    for _ in 0..2 {
        within("the snapshot", watch.next()).await?.context("the watch ended")??;
    }
    config.get("do/checkpoint").await?;
    config.get("do/panic").await.unwrap_err();
    serving_again(&pintle, 1).await?;
    let is_refused = |status: &RegistrationStatus| match status {
        RegistrationStatus::Lost(why) => why.contains("denied"),
        _ => false,
    };
    within("the refusal", registration.wait_for(is_refused)).await?;
    config.put(Put::new("w/a", "1")).await?;
    let follows = |event: &WatchEvent| matches!(event, WatchEvent::Put { .. });
    while !follows(&within("the change", watch.next()).await?.context("the watch ended")??) {}
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_with_a_resync_and_only_the_differences() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let config = pintle.config("main")?;
    config.put(Put::new("w/lost-with-the-memory", "1")).await?;
    let mut watch = config.watch(Target::Prefix("w".into())).await?;
    for _ in 0..3 {
        within("the snapshot", watch.next()).await?.unwrap()?;
    }
    config.get("do/panic").await.unwrap_err();
    let resync = within("the resync", watch.next()).await?.unwrap()?;
    assert!(
        matches!(&resync, WatchEvent::Resync(reason) if reason.contains("told to")),
        "{resync:?}"
    );
    let removed = within("the difference", watch.next()).await?.unwrap()?;
    assert!(
        matches!(&removed, WatchEvent::Removed { key, .. } if &**key == "w/lost-with-the-memory")
    );
    config.put(Put::new("w/new", "1")).await?;
    let put = within("the change", watch.next()).await?.unwrap()?;
    assert!(matches!(&put, WatchEvent::Put { entry, .. } if &*entry.key == "w/new"));
    Ok(())
}

/// More than the memory of the embedded backend's sandbox: it ends when it is given this.
const TOO_LARGE_BYTES: usize = 64 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_a_version_goes_on_where_it_was_when_the_plugin_is_started_again() -> Result<()>
{
    let sandbox = Sandbox::new(&["plugins/local"])?;
    let data_dir = sandbox.path().join("local").display().to_string();
    let settings = format!(
        "[backends.main]\nplugin = \"local\"\ndata_dir = {data_dir:?}\n\
         limits = {{ memory = \"24MiB\" }}\n"
    );
    let pintle = sandbox.start(&settings).await?;
    let config = pintle.config("main")?;
    let PutOutcome::Stored { version, .. } = config.put(Put::new("w/a", "0")).await? else {
        bail!("not stored")
    };
    let mut changes = config.watch_from(Target::Prefix("w".into()), version).await?;
    let mut expected = Vec::new();
    let mut seen = Vec::new();
    for restarts in 1..=3 {
        for count in 1..=20 {
            // Two changes at one version, so that an end can fall between them.
            let value = format!("{restarts}.{count}");
            let op = |key: &str| TxnOp::Put {
                key: key.into(),
                value: value.clone().into(),
                content_type: None,
            };
            config.txn(Txn { ops: vec![op("w/a"), op("w/b")], ..Txn::default() }).await?;
            expected.extend([format!("w/a={value}"), format!("w/b={value}")]);
        }
        while seen.len() < expected.len() - 5 {
            seen.push(change(&mut changes).await?);
        }
        let error = config.put(Put::new("x", vec![0; TOO_LARGE_BYTES])).await.unwrap_err();
        assert_eq!(error.code(), "plugin-ended", "{error}");
        serving_again(&pintle, restarts).await?;
    }
    while seen.len() < expected.len() {
        seen.push(change(&mut changes).await?);
    }
    assert_eq!(seen, expected);
    Ok(())
}

async fn change(changes: &mut Changes) -> Result<String> {
    match within("a change", changes.next()).await?.context("the watch ended")?? {
        WatchEvent::Put { entry, .. } => {
            Ok(format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value)))
        }
        other => bail!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_gets_the_last_checkpoint() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let config = pintle.config("main")?;
    let told = async || anyhow::Ok(config.get("do/tell-checkpoint").await?.unwrap().value);
    assert!(told().await?.is_empty());
    config.get("do/checkpoint").await?;
    config.get("do/panic").await.unwrap_err();
    serving_again(&pintle, 1).await?;
    assert_eq!(&told().await?[..], b"kept");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_ends_again_and_again_is_quarantined() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let config = pintle.config("main")?.with_timeout(Duration::from_secs(10));
    let watch = config.watch(Target::Prefix("w".into())).await?;
    within("the quarantine", async {
        while pintle.backend("main")?.state != BackendState::Quarantined {
            config.get("do/panic").await.unwrap_err();
        }
        anyhow::Ok(())
    })
    .await??;
    let error = config.get("a").await.unwrap_err();
    assert_eq!(error.code(), "not-running");
    assert!(error.to_string().contains("quarantined: its plugin ended"), "{error}");
    assert!(pintle.config("victim")?.get("a").await?.is_none());
    // Nothing will come any more, and whoever follows something is told.
    for mut watch in [watch, config.watch(Target::Prefix("w".into())).await?] {
        let error = within("the end of the watch", async {
            loop {
                match watch.next().await {
                    Some(Err(error)) => break Some(error),
                    Some(Ok(_)) => {}
                    None => break None,
                }
            }
        })
        .await?
        .context("an error")?;
        assert_eq!(error.code(), "not-running", "{error}");
        assert!(error.to_string().contains("quarantined"), "{error}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_is_asked_for_during_a_pause_comes_at_once_and_once() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let config = pintle.config("main")?.with_timeout(Duration::from_secs(10));
    // After the seventh end the pause is more than a second and a half.
    for restarts in 1..=7 {
        config.get("do/panic").await.unwrap_err();
        within("the end to be noticed", async {
            while pintle.backend("main")?.restarts < restarts {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            anyhow::Ok(())
        })
        .await??;
    }
    let begun = Instant::now();
    pintle.restart_backend("main")?;
    serving_again(&pintle, 7).await?;
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    let AcquireOutcome::Held(lease) = pintle.lock("main")?.acquire(LockRequest::new("job")).await?
    else {
        bail!("not held")
    };
    // Another restart would have begun before the first of these.
    for _ in 0..20 {
        config.get("a").await?;
    }
    assert_eq!(lease.status(), LeaseStatus::Held);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_a_place_are_refused_as_busy_and_what_frees_one_gets_through() -> Result<()> {
    let sandbox = Sandbox::new(&["plugins/local"])?;
    let data_dir = sandbox.path().join("local").display().to_string();
    let settings = format!(
        "[backends.main]\nplugin = \"local\"\ndata_dir = {data_dir:?}\n\
         limits = {{ call = \"300ms\", more = {{ calls_running_max = 1, call_grace = \"10ms\" }} }}\n"
    );
    let pintle = sandbox.start(&settings).await?;
    let lock = pintle.lock("main")?;
    let AcquireOutcome::Held(lease) = lock.acquire(LockRequest::new("job")).await? else {
        bail!("not held")
    };
    let mut waiting = Box::pin({
        let lock = lock.clone();
        async move { lock.acquire(LockRequest::new("job").wait(Duration::from_secs(20))).await }
    });
    // It takes the only place, and the only one of those who wait, before anybody else comes.
    assert!(futures::future::poll_immediate(&mut waiting).await.is_none());
    let waiting = tokio::spawn(waiting);
    let further = LockRequest::new("other").wait(Duration::from_secs(1));
    let refused = within("the refusal", lock.acquire(further)).await?.unwrap_err();
    assert_eq!(refused.code(), "exhausted", "{refused}");
    assert!(refused.to_string().contains("calls_running_max"), "{refused}");
    let busy = pintle.config("main")?.get("a").await.unwrap_err();
    assert_eq!((busy.code(), busy.effect()), ("busy", Effect::None), "{busy}");
    assert!(within("the release", lease.release()).await??);
    let granted = within("the grant", waiting).await???;
    assert!(matches!(granted, AcquireOutcome::Held(_)));
    assert!(pintle.config("main")?.get("a").await?.is_none());
    assert_eq!(pintle.backend("main")?.restarts, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_waits_for_its_data_while_another_process_has_it() -> Result<()> {
    let sandbox = Sandbox::new(&["plugins/local"])?;
    let data_dir = sandbox.path().join("local").display().to_string();
    let settings = format!("[backends.main]\nplugin = \"local\"\ndata_dir = {data_dir:?}\n");
    let first = sandbox.start(&settings).await?;
    first.config("main")?.put(Put::new("a", "1")).await?;
    let second = sandbox.start(&settings).await?;
    let status = second.backend("main")?;
    assert_eq!((status.state, status.restarts), (BackendState::Restarting, 0));
    let holder = format!("in use by process {}", std::process::id());
    assert!(status.reason.contains(&holder), "{}", status.reason);
    let error = second.config("main")?.with_timeout(Duration::from_millis(10)).get("a").await;
    assert!(error.unwrap_err().to_string().contains(&holder));
    first.shutdown().await;
    serving_again(&second, 0).await?;
    assert!(second.config("main")?.get("a").await?.is_some());
    Ok(())
}
