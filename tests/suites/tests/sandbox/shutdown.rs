//! What becomes of what is held when the host is told to end.

use std::time::Duration;

use anyhow::{Result, ensure};
use pintle::{
    Pintle,
    lock::{AcquireOutcome, LockRequest},
    registry::{Instance, RegisterOutcome},
};
use pintle_fixture_hostile::{Behaviour, Export};
use pintle_test_suites::{
    Sandbox,
    hostile::{Options, Stage, impatient},
    within,
};

async fn host(sandbox: &Sandbox, registrations: &str) -> Result<Pintle> {
    let data_dir = sandbox.path().join("main").display().to_string();
    let text = format!(
        "[shutdown]\nregistrations = \"{registrations}\"\n\
         [backends.main]\nplugin = \"local\"\ndata_dir = {data_dir:?}\n"
    );
    within("the start", sandbox.start(&text)).await?
}

/// Registers and locks, ends the host, and answers what the next one finds of the registration.
async fn left_by(registrations: &str) -> Result<usize> {
    let sandbox = Sandbox::new(&["plugins/local"])?;
    let pintle = host(&sandbox, registrations).await?;
    let ttl = Duration::from_secs(60);
    let registry = pintle.registry("main")?;
    let registered = registry.register(Instance::new("web", "1", "127.0.0.1", 80), ttl).await?;
    ensure!(matches!(registered, RegisterOutcome::Registered(_)));
    let acquired = pintle.lock("main")?.acquire(LockRequest::new("job").ttl(ttl)).await?;
    ensure!(matches!(acquired, AcquireOutcome::Held(_)));
    let report = within("the shutdown", pintle.shutdown()).await?;
    ensure!(report.is_clean(), "{report:?}");
    drop((registered, acquired, pintle));
    let next = host(&sandbox, registrations).await?;
    let again = next.lock("main")?.acquire(LockRequest::new("job")).await?;
    ensure!(matches!(again, AcquireOutcome::Held(_)), "the lock was not released");
    Ok(next.registry("main")?.instances("web", None, 0, None).await?.instances.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_released_and_registrations_removed_or_kept_as_the_settings_say() -> Result<()> {
    ensure!(left_by("remove").await? == 0);
    ensure!(left_by("keep").await? == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_does_not_stop_is_named_and_holds_nobody_up() -> Result<()> {
    for behaviour in [Behaviour::NeverIn, Behaviour::LoopIn, Behaviour::TrapIn] {
        let settings = format!("export = \"{}\"", Export::Stop.name());
        let stage = Stage::with(behaviour, Options { settings, ..impatient() }).await?;
        let report = within("the shutdown", stage.pintle.shutdown()).await?;
        ensure!(report.unclean == ["culprit"], "{behaviour:?}: {report:?}");
    }
    Ok(())
}
