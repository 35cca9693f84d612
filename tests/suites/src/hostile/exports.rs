//! Attacks in one of the functions that a plugin exports.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use pintle::{
    BackendState, Pintle,
    config::{
        Delete, Expect, HistoryRequest, ListRequest, Put, ReadOptions, Target, Txn, TxnOp, Version,
    },
    lock::{AcquireOutcome, LockRequest},
    registry::{Instance, Override, RegisterOutcome},
};
use pintle_fixture_hostile::{Behaviour, Export};

use super::{Options, SECRET, Stage, impatient};
use crate::{eventually, within};

/// What is called to get the plugin into its export.
async fn enter(pintle: Arc<Pintle>, export: Export) -> Result<(), pintle::Error> {
    let (config, registry) = (pintle.config("culprit")?, pintle.registry("culprit")?);
    let (lock, tracing) = (pintle.lock("culprit")?, pintle.tracing("culprit")?);
    let instance = || Instance::new("web", "1", "127.0.0.1", 80);
    let ttl = Duration::from_secs(5);
    match export {
        Export::Start | Export::Stop => Ok(()),
        Export::Health => pintle.check_backend("culprit").await?.health.map(drop),
        Export::Cancel => {
            let waits = config.get(pintle_fixture_hostile::WAIT);
            let _ = tokio::time::timeout(Duration::from_millis(20), waits).await;
            Ok(())
        }
        Export::ConfigGet => config.get("k").await.map(drop),
        Export::ConfigGetMany => {
            config.get_many(&["k".to_owned()], ReadOptions::default()).await.map(drop)
        }
        Export::ConfigList => config.list(ListRequest::default()).await.map(drop),
        Export::ConfigPut => config.put(Put::new("k", "v")).await.map(drop),
        Export::ConfigDelete => config.delete(Delete::new("k")).await.map(drop),
        Export::ConfigDeletePrefix => config.delete_prefix("k", None).await.map(drop),
        Export::ConfigTxn => {
            let txn = Txn {
                conditions: vec![("k".to_owned(), Expect::Anything)],
                held: Vec::new(),
                ops: vec![TxnOp::Get("k".to_owned())],
            };
            config.txn(txn).await.map(drop)
        }
        Export::ConfigHistory => {
            let request = HistoryRequest { key: "k".into(), limit: 1, page: None };
            config.history(request).await.map(drop)
        }
        // The host closes what nobody waited for.
        Export::ConfigClose => {
            let watching = config.watch_from(Target::Prefix("w".into()), Version::from("1"));
            watching.await.map(drop)
        }
        Export::RegistryClose => {
            // Given up while it waits; the plugin may be quick enough to answer.
            while futures::poll!(std::pin::pin!(registry.register(instance(), ttl))).is_ready() {}
            Ok(())
        }
        Export::LockClose => {
            let acquire = || lock.acquire(LockRequest::new("job"));
            while futures::poll!(std::pin::pin!(acquire())).is_ready() {}
            Ok(())
        }
        Export::ConfigWatch | Export::ConfigPoll => {
            let watching = config.watch(Target::Prefix("w".into())).await?;
            drop(watching);
            Ok(())
        }
        Export::RegistryRegister | Export::RegistryUpdate | Export::RegistryDeregister => {
            let registered = registry.register(instance(), ttl).await?;
            let RegisterOutcome::Registered(registration) = registered else { return Ok(()) };
            match export {
                Export::RegistryUpdate => registration.update(instance()).await,
                Export::RegistryDeregister => registration.deregister().await.map(drop),
                _ => {
                    drop(registration);
                    Ok(())
                }
            }
        }
        Export::RegistryAdd => registry.add(instance(), true).await.map(drop),
        Export::RegistryRemove => registry.remove("web", "1").await.map(drop),
        Export::RegistryOverride => registry
            .set_override(
                "web",
                "1",
                Some(Override { enabled: Some(true), weight: None, note: String::new() }),
            )
            .await
            .map(drop),
        Export::RegistryServices => registry.services(None, 0).await.map(drop),
        Export::RegistryInstances => registry.instances("web", None, 0, None).await.map(drop),
        Export::RegistryWatch | Export::RegistryPoll => {
            registry.watch(Some("web".to_owned())).await.map(drop)
        }
        Export::LockAcquire | Export::LockRelease => {
            match lock.acquire(LockRequest::new("job")).await? {
                AcquireOutcome::Held(lease) => lease.release().await.map(drop),
                AcquireOutcome::Busy(_) => Ok(()),
            }
        }
        Export::LockInspect => lock.inspect("job").await.map(drop),
        Export::LockList => lock.list("", None, 0).await.map(drop),
        Export::LockForceRelease => lock.force_release("job", "1").await.map(drop),
        Export::LockWatch | Export::LockPoll => {
            let mut watch = Box::pin(lock.watch("job").await?);
            let _ = tokio::time::timeout(Duration::from_millis(50), watch.next()).await;
            Ok(())
        }
        Export::TracingExport => tracing.export(Vec::new().into()).await.map(drop),
        Export::TracingQuery => {
            tracing.query(pintle::tracing::TraceQuery::default()).await.map(drop)
        }
    }
}

/// Whether users can get a plugin into this export at will. The others follow by themselves, or
/// after a while.
fn is_called_at_will(export: Export) -> bool {
    !matches!(
        export,
        Export::Start
            | Export::Stop
            | Export::Cancel
            | Export::ConfigClose
            | Export::RegistryClose
            | Export::LockClose
            | Export::RegistryPoll
            | Export::ConfigPoll
            | Export::LockPoll
    )
}

/// Lets the culprit attack in one of its exports, and expects that it ends for it. Answers after how
/// long, where somebody called it.
///
/// # Errors
///
/// Fails when it is otherwise.
pub async fn attack(behaviour: Behaviour, export: Export) -> Result<Option<Duration>> {
    let settings = format!("export = \"{}\"", export.name());
    let stage = Stage::with(behaviour, Options { settings, ..impatient() }).await?;
    let pintle = Arc::new(stage.pintle.clone());
    match export {
        // It never serves, and is tried again.
        Export::Start => {
            eventually("another try", async || {
                let status = stage.pintle.backend("culprit")?;
                ensure!(status.state != BackendState::Serving, "it serves");
                Ok((status.restarts > 1).then_some(()))
            })
            .await?;
            stage.is_unharmed().await?;
            return Ok(None);
        }
        // The host does not wait for ever.
        Export::Stop => {
            stage.is_unharmed().await?;
            return Ok(None);
        }
        _ => {}
    }
    let begun = Instant::now();
    let ending = async {
        let ended = eventually("the end of the culprit", async || {
            // A call that nobody waits for is given up in time, and then repeated.
            let status = stage.pintle.backend("culprit")?;
            Ok((status.restarts > 0 || status.state == BackendState::Quarantined).then_some(()))
        });
        ended.await.map(|()| begun.elapsed()).with_context(|| export.name())
    };
    let entering = async {
        let entered = within("the culprit", enter(Arc::clone(&pintle), export)).await;
        (entered, begun.elapsed())
    };
    let (ended, (entered, answered)) = tokio::join!(ending, entering);
    let entered = entered?;
    if is_called_at_will(export) && !matches!(export, Export::ConfigWatch | Export::RegistryWatch) {
        if let Err(error) = &entered {
            ensure!(
                ["plugin-ended", "not-running"].contains(&error.code()),
                "{}: {error}",
                export.name()
            );
            ensure!(!error.to_string().contains(SECRET), "{error}");
        } else if export != Export::LockWatch {
            bail!("{} answered", export.name());
        }
    }
    // Whoever gives something back waits for the successor too, which is asked again.
    let took = ended?.min(answered);
    stage.is_unharmed().await?;
    Ok(is_called_at_will(export).then_some(took))
}

/// Whether an attack of this kind can be made there: what cannot wait always answers.
#[must_use]
pub fn is_possible(behaviour: Behaviour, export: Export) -> bool {
    let cannot_wait =
        [Export::Cancel, Export::ConfigClose, Export::RegistryClose, Export::LockClose];
    behaviour != Behaviour::NeverIn || !cannot_wait.contains(&export)
}
