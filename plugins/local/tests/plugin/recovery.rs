//! A disk that fails under a running plugin.

#[allow(dead_code, reason = "shared with the tests of the store, which cut the power too")]
#[path = "../store/disk.rs"]
mod disk;

use crate::{below, exclusive, held, put, read, short};
use disk::Disk;
use pintle_plugin_local::{Local, set_native_storage};
use pintle_plugin_sdk::lock::Event;
use pintle_plugin_sdk::testing::types::Effect;
use pintle_plugin_sdk::testing::{Host, StartOptions, State, run};
use pintle_plugin_sdk::time::sleep;
use std::io::ErrorKind;
use std::time::Duration;

fn on_disk(test: impl AsyncFnOnce(Host<Local>, Disk)) {
    let disk = Disk::default();
    let plate = disk.clone();
    set_native_storage(move || Box::new(plate.clone()));
    run(async move { test(Host::start(StartOptions::default()).await.unwrap(), disk).await });
}

#[test]
fn a_full_disk_is_told_with_an_unknown_effect_and_the_store_goes_on_by_itself() {
    on_disk(async |host, disk| {
        let config = host.config();
        config.put(put("a", "1")).await.unwrap();
        disk.fail_after(0, ErrorKind::StorageFull);
        let error = config.put(put("a", "2")).await.unwrap_err();
        assert_eq!((error.code(), error.effect()), ("exhausted", Effect::Unknown));
        // Nothing is even tried while the store is closed.
        let error = config.put(put("a", "3")).await.unwrap_err();
        assert_eq!(error.effect(), Effect::None);
        assert_eq!(host.health().await.unwrap().state, State::Unavailable);
        disk.heal();
        sleep(Duration::from_secs(1)).await;
        let entry = config.get("a".into(), read()).await.unwrap().unwrap();
        assert_eq!(entry.value, b"1");
        config.put(put("a", "4")).await.unwrap();
        let report = host.health().await.unwrap();
        assert_eq!(report.state, State::Serving);
        assert!(report.counters.contains(&("recoveries".into(), 1)));
    });
}

#[test]
fn watches_and_locks_outlive_a_failure_of_the_disk() {
    on_disk(async |host, disk| {
        let (config, lock) = (host.config(), host.lock());
        config.watch(1, below("")).await.unwrap();
        config.events().await.unwrap();
        held(lock.acquire(1, exclusive("l", 0)).await.unwrap());
        disk.fail_after(0, ErrorKind::Other);
        assert!(config.put(put("a", "1")).await.is_err());
        sleep(Duration::from_secs(60)).await;
        disk.heal();
        sleep(Duration::from_secs(2)).await;
        config.put(put("a", "2")).await.unwrap();
        let events = short(&config.events().await.unwrap());
        assert_eq!(events.last().unwrap(), "put a=2", "{events:?}");
        let events = lock.events().await.unwrap();
        assert!(events.iter().all(|(_, event)| matches!(event, Event::Renewed(_))), "{events:?}");
        assert!(lock.release(1).await.unwrap());
    });
}

#[test]
fn a_waiter_gets_its_lock_though_the_disk_failed_meanwhile() {
    on_disk(async |host, disk| {
        let lock = host.lock();
        held(lock.acquire(1, exclusive("l", 0)).await.unwrap());
        let waiting = lock.acquire(2, exclusive("l", 4_000));
        let failing = async {
            sleep(Duration::from_secs(1)).await;
            disk.fail_after(0, ErrorKind::Other);
            lock.release(1).await.unwrap_err();
            disk.heal();
            sleep(Duration::from_secs(1)).await;
            lock.release(1).await.unwrap();
        };
        let (outcome, ()) = futures::join!(waiting, failing);
        held(outcome.unwrap());
    });
}

#[test]
fn a_stopped_store_stays_closed() {
    on_disk(async |host, disk| {
        host.config().watch(1, below("")).await.unwrap();
        held(host.lock().acquire(1, exclusive("l", 0)).await.unwrap());
        host.stop().await.unwrap();
        let operations = disk.operations();
        sleep(Duration::from_secs(3_600)).await;
        assert_eq!(disk.operations(), operations, "somebody opened the store again");
    });
}
