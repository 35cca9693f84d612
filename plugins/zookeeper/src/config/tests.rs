//! Configuration on servers in memory, on a virtual clock.

use crate::ensemble::{EXISTS, Ensemble, Fate, GET_DATA, MULTI};
use crate::wire::ErrorCode;
use pintle_plugin_sdk::Effect;
use pintle_plugin_sdk::config::{
    Consistency, Event, ReadOptions, Target, TxnOp, TxnOutcome, TxnPut, WatchRequest,
};
use pintle_plugin_sdk::testing::{TxnRequest, run};
use pintle_plugin_sdk::time::sleep;
use serde_json::json;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const MIB: usize = 1 << 20;

fn read() -> ReadOptions {
    ReadOptions { consistency: Consistency::Linearizable, at: None, selectors: Vec::new() }
}

fn txn(ops: Vec<TxnOp>) -> TxnRequest {
    TxnRequest { conditions: Vec::new(), held: Vec::new(), ops }
}

/// Keys with values of so many bytes.
fn keys(ensemble: &Ensemble, count: usize, bytes: usize) -> Vec<String> {
    let keys: Vec<_> = (0..count).map(|n| format!("k{n:03}")).collect();
    keys.iter().for_each(|key| ensemble.create(&format!("/{key}"), &vec![1; bytes], 0));
    keys
}

/// Counts requests of one kind.
fn counted(ensemble: &Ensemble, opcode: i32) -> Rc<Cell<usize>> {
    let count = Rc::new(Cell::new(0));
    let counting = Rc::clone(&count);
    ensemble.obey(move |asked| {
        counting.set(counting.get() + usize::from(asked.opcode == opcode && asked.path != "/"));
        Fate::Serve
    });
    count
}

#[test]
fn deleting_everything_leaves_no_key_behind_however_many_there_are() {
    run(async {
        let ensemble = Ensemble::start();
        // As much as is looked at together, and a rest of which all lies right below the root.
        (0..200).for_each(|n| ensemble.create(&format!("/k{n:03}"), b"", 0));
        (128..8_192).for_each(|n| ensemble.create(&format!("/k199/{n}"), b"", 0));
        let host = ensemble.plugin(&[], &[]).await;
        assert_eq!(host.config().delete_prefix(String::new(), None).await.unwrap(), 8_264);
        assert!(ensemble.below("/k").is_empty());
    });
}

#[test]
fn values_that_do_not_fit_into_one_answer_are_refused_before_all_of_them_are_read() {
    run(async {
        let ensemble = Ensemble::start();
        let keys = keys(&ensemble, 128, MIB / 2);
        let host = ensemble.plugin(&[], &[]).await;
        let fitting = keys[..16].to_vec();
        assert_eq!(host.config().get_many(fitting, read()).await.unwrap().len(), 16);
        let reads = counted(&ensemble, GET_DATA);
        let error = host.config().get_many(keys, read()).await.unwrap_err();
        assert_eq!((error.code(), error.effect()), ("too-large", Effect::None));
        assert!(error.message().contains("more than 8388608 bytes together"), "{error}");
        assert!(error.message().contains("fewer keys at a time"), "{error}");
        sleep(Duration::from_secs(1)).await;
        assert!(reads.get() <= 17 + 16, "{} were under way", reads.get());
    });
}

#[test]
fn one_value_is_read_however_large_a_server_may_answer() {
    run(async {
        let ensemble = Ensemble::start();
        let keys = keys(&ensemble, 1, 9 * MIB);
        let settings = json!({ "answer_bytes_max": 10 * MIB });
        let host = ensemble.plugin_with(settings, None).await;
        let entries = host.config().get_many(keys, read()).await.unwrap();
        assert_eq!(entries[0].as_ref().unwrap().value.len(), 9 * MIB);
    });
}

#[test]
fn a_transaction_that_reads_more_than_fits_into_one_answer_writes_nothing() {
    run(async {
        let ensemble = Ensemble::start();
        let mut ops: Vec<_> = keys(&ensemble, 17, MIB / 2).into_iter().map(TxnOp::Get).collect();
        let put = TxnPut { key: "new".to_owned(), value: vec![1], content_type: None };
        ops.push(TxnOp::Put(put));
        let host = ensemble.plugin(&[], &[]).await;
        let writes = counted(&ensemble, MULTI);
        let error = host.config().txn(txn(ops.clone())).await.unwrap_err();
        assert_eq!((error.code(), error.effect()), ("too-large", Effect::None));
        assert_eq!((writes.get(), ensemble.node("/new")), (0, None));
        ops.remove(0);
        let outcome = host.config().txn(txn(ops)).await.unwrap();
        assert!(matches!(outcome, TxnOutcome::Committed(_)), "{outcome:?}");
    });
}

#[test]
fn values_that_a_transaction_does_not_show_may_have_any_size_together() {
    run(async {
        let ensemble = Ensemble::start();
        let keys = keys(&ensemble, 17, MIB / 2);
        let host = ensemble.plugin(&[], &[]).await;
        let ops = keys.into_iter().map(TxnOp::Delete).collect();
        let outcome = host.config().txn(txn(ops)).await.unwrap();
        assert!(matches!(outcome, TxnOutcome::Committed(_)), "{outcome:?}");
        assert!(ensemble.below("/k").is_empty());
    });
}

#[test]
fn on_servers_without_lasting_watches_a_refused_one_is_set_again() {
    run(async {
        let ensemble = Ensemble::start();
        ensemble.is_old.set(true);
        let host = ensemble.plugin(&[], &[]).await;
        let is_done = Cell::new(false);
        ensemble.obey(move |asked| match asked.opcode == EXISTS && !is_done.replace(true) {
            true => Fate::Refuse(ErrorCode::THROTTLED),
            false => Fate::Serve,
        });
        let target = Target::Key("k".to_owned());
        let request =
            WatchRequest { target, from_version: None, previous: false, selectors: Vec::new() };
        host.config().watch(1, request).await.unwrap();
        host.config().events().await.unwrap();
        ensemble.create("/k", b"v", 0);
        let events = host.config().events().await.unwrap();
        assert!(matches!(events.first(), Some((1, Event::Put(_)))), "{events:?}");
    });
}
