//! Configuration through the plugin.

use crate::{Node, TTL_MS, below, exclusive, held, put, read, short, version};
use futures::future::join_all;
use pintle_plugin_sdk::config::{
    Change, Condition, Expectation, HistoryRequest, ListRequest, PutOutcome, ReadOptions, TxnOp,
    TxnOutcome, TxnPut, TxnResult,
};
use pintle_plugin_sdk::testing::{HealthReport, PutRequest, TxnRequest};
use pintle_plugin_sdk::time::sleep;
use std::time::Duration;

fn counter(report: &HealthReport, name: &str) -> u64 {
    report.counters.iter().find(|(found, _)| found == name).unwrap().1
}

#[test]
fn what_was_put_is_there_for_the_next_incarnation() {
    let node = Node::new();
    node.fresh(async |host| {
        let request = PutRequest { content_type: Some("text/plain".into()), ..put("a", "1") };
        host.config().put(request).await.unwrap();
    });
    node.fresh(async |host| {
        let entry = host.config().get("a".into(), read()).await.unwrap().unwrap();
        assert_eq!(entry.value, b"1");
        assert_eq!(entry.content_type.as_deref(), Some("text/plain"));
        assert!(entry.modified_ms.is_some());
    });
}

#[test]
fn puts_that_come_together_become_durable_together() {
    Node::new().fresh(async |host| {
        let config = host.config();
        let before = host.health().await.unwrap();
        let puts = (0..64).map(|index| config.put(put(&format!("k/{index}"), "v")));
        let mut versions: Vec<_> =
            join_all(puts).await.into_iter().map(|outcome| version(outcome.unwrap())).collect();
        versions.sort();
        versions.dedup();
        assert_eq!(versions.len(), 64, "each put has a version of its own");
        let after = host.health().await.unwrap();
        let turns = counter(&after, "turns") - counter(&before, "turns");
        assert!(turns <= 2, "64 puts took {turns} turns");
    });
}

#[test]
fn of_two_puts_in_one_turn_that_expect_the_same_version_one_is_stored() {
    Node::new().fresh(async |host| {
        let config = host.config();
        let first = version(config.put(put("a", "0")).await.unwrap());
        let expecting = |value: &str| PutRequest {
            expect: Expectation::Version(first.clone()),
            ..put("a", value)
        };
        let outcomes = join_all([config.put(expecting("1")), config.put(expecting("2"))]).await;
        assert!(matches!(outcomes[0], Ok(PutOutcome::Stored(_))));
        assert!(matches!(&outcomes[1], Ok(PutOutcome::Stale(Some(entry))) if entry.value == b"1"));
    });
}

#[test]
fn a_text_that_is_no_version_is_refused() {
    Node::new().fresh(async |host| {
        for text in ["", "x", "01", "+1", "-1", "99999999999999999999"] {
            let expect = Expectation::Version(text.to_owned());
            let refused = host.config().put(PutRequest { expect, ..put("a", "1") }).await;
            assert_eq!(refused.unwrap_err().code(), "invalid", "{text}");
        }
    });
}

#[test]
fn the_previous_entry_is_returned_only_when_it_is_asked_for() {
    Node::new().fresh(async |host| {
        let config = host.config();
        config.put(put("a", "1")).await.unwrap();
        let PutOutcome::Stored(stored) = config.put(put("a", "2")).await.unwrap() else { panic!() };
        assert_eq!(stored.previous, None);
        let request = PutRequest { previous: true, ..put("a", "3") };
        let PutOutcome::Stored(stored) = config.put(request).await.unwrap() else { panic!() };
        assert_eq!(stored.previous.unwrap().value, b"2");
    });
}

#[test]
fn pages_show_the_version_of_the_first_one() {
    Node::new().fresh(async |host| {
        let config = host.config();
        for index in 0..5 {
            config.put(put(&format!("k/{index}"), "old")).await.unwrap();
        }
        let mut request = ListRequest {
            prefix: "k".into(),
            page: None,
            limit: 2,
            keys_only: false,
            options: read(),
        };
        let mut seen = Vec::new();
        loop {
            let page = config.list_keys(request.clone()).await.unwrap();
            assert_eq!(page.version.as_deref(), Some("5"));
            seen.extend(page.entries);
            config.put(put("k/4", "new")).await.unwrap();
            config.put(put("k/5", "new")).await.unwrap();
            request.page = page.next;
            if request.page.is_none() {
                break;
            }
        }
        let keys: Vec<_> = seen.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, ["k/0", "k/1", "k/2", "k/3", "k/4"]);
        assert!(seen.iter().all(|entry| entry.value == b"old"));
    });
}

#[test]
fn earlier_versions_are_read_listed_and_told_apart() {
    Node::new().fresh(async |host| {
        let config = host.config();
        let first = version(config.put(put("a", "1")).await.unwrap());
        config.put(put("a", "2")).await.unwrap();
        let options = ReadOptions { at: Some(first.clone()), ..read() };
        assert_eq!(config.get("a".into(), options).await.unwrap().unwrap().value, b"1");
        let request = HistoryRequest { key: "a".into(), limit: 1, page: None };
        let page = config.history(request.clone()).await.unwrap();
        assert!(matches!(&page.revisions[0].change, Change::Put(entry) if entry.value == b"2"));
        let page = config.history(HistoryRequest { page: page.next, ..request }).await.unwrap();
        assert!(matches!(&page.revisions[0].change, Change::Put(entry) if entry.version == first));
        assert!(page.complete && page.next.is_none());
        let options = ReadOptions { at: Some("99".into()), ..read() };
        assert_eq!(config.get("a".into(), options).await.unwrap_err().code(), "invalid");
    });
}

#[test]
fn a_transaction_is_done_whole_or_not_at_all() {
    Node::new().fresh(async |host| {
        let config = host.config();
        let ops = || {
            vec![
                TxnOp::Get("a".into()),
                TxnOp::Put(TxnPut { key: "b".into(), value: b"2".into(), content_type: None }),
            ]
        };
        let absent = |key: &str| Condition { key: key.into(), expect: Expectation::Absent };
        let request = TxnRequest { conditions: vec![absent("b")], held: vec![], ops: ops() };
        let TxnOutcome::Committed(results) = config.txn(request.clone()).await.unwrap() else {
            panic!()
        };
        assert_eq!(results, [TxnResult::Got(None), TxnResult::Stored("1".into())]);
        let TxnOutcome::Stale(mismatches) = config.txn(request).await.unwrap() else { panic!() };
        assert_eq!(mismatches[0].index, 0);
        assert_eq!(mismatches[0].current.as_ref().unwrap().value, b"2");
    });
}

#[test]
fn a_guarded_put_is_fenced_once_the_lease_is_lost() {
    Node::new().fresh(async |host| {
        let (config, lock) = (host.config(), host.lock());
        held(lock.acquire(7, exclusive("l", 0)).await.unwrap());
        let guarded = || PutRequest { held: Some(7), ..put("a", "1") };
        version(config.put(guarded()).await.unwrap());
        let claim = lock.inspect("l".into()).await.unwrap().holders.remove(0);
        // Sent in the same moment: the removal comes first, and the put must see it.
        let (removed, outcome) =
            futures::join!(lock.force_release("l".into(), claim.claim_id), config.put(guarded()),);
        assert!(removed.unwrap());
        assert_eq!(outcome.unwrap(), PutOutcome::Fenced);
        assert_eq!(config.put(guarded()).await.unwrap(), PutOutcome::Fenced);
    });
}

#[test]
fn a_watch_delivers_a_snapshot_and_then_each_write() {
    Node::new().fresh(async |host| {
        let config = host.config();
        config.put(put("a/1", "x")).await.unwrap();
        config.put(put("b", "x")).await.unwrap();
        config.watch(1, below("a")).await.unwrap();
        let events = config.events().await.unwrap();
        assert_eq!(short(&events), ["begin", "put a/1=x", "end 2"]);
        for value in ["1", "2", "3"] {
            config.put(put("a/2", value)).await.unwrap();
        }
        config.put(put("b", "y")).await.unwrap();
        config.delete_prefix("a".into(), None).await.unwrap();
        let events = config.events().await.unwrap();
        assert_eq!(
            short(&events),
            ["put a/2=1", "put a/2=2", "put a/2=3", "removed a/1", "removed a/2"]
        );
    });
}

#[test]
fn a_watch_from_a_version_begins_with_what_came_after_it() {
    let node = Node::new();
    let seen = node.fresh(async |host| {
        let seen = version(host.config().put(put("a/1", "x")).await.unwrap());
        host.config().put(put("a/1", "y")).await.unwrap();
        seen
    });
    node.fresh(async |host| {
        let config = host.config();
        let mut request = below("a");
        request.from_version = Some(seen);
        config.watch(1, request.clone()).await.unwrap();
        assert_eq!(short(&config.events().await.unwrap()), ["put a/1=y"]);
        request.from_version = Some("77".into());
        config.watch(2, request).await.unwrap();
        let events = config.events().await.unwrap();
        assert_eq!(short(&events), ["resync", "begin", "put a/1=y", "end 2"]);
    });
}

#[test]
fn a_reader_far_behind_is_given_every_change_at_its_own_pace() {
    Node::new().fresh(async |host| {
        let config = host.config();
        let seen = version(config.put(put("a/1", "0")).await.unwrap());
        let mut expected = Vec::new();
        for count in 1..=3_000 {
            config.put(put("a/1", &count.to_string())).await.unwrap();
            expected.push(format!("put a/1={count}"));
        }
        let mut request = below("a");
        request.from_version = Some(seen);
        config.watch(1, request).await.unwrap();
        let mut changes = Vec::new();
        while changes.len() < expected.len() {
            // Long enough for the watch to run ahead as far as it may.
            sleep(Duration::from_secs(1)).await;
            changes.extend(short(&config.events().await.unwrap()));
        }
        assert_eq!(changes, expected);
    });
}

#[test]
fn a_quiet_watch_tells_that_nothing_is_missing() {
    Node::new().fresh(async |host| {
        let config = host.config();
        config.put(put("a/1", "x")).await.unwrap();
        config.watch(1, below("a")).await.unwrap();
        config.events().await.unwrap();
        config.put(put("elsewhere", "x")).await.unwrap();
        sleep(Duration::from_secs(25)).await;
        assert_eq!(short(&config.events().await.unwrap()), ["progress 2"]);
    });
}

#[test]
fn a_closed_watch_is_silent() {
    Node::new().fresh(async |host| {
        let config = host.config();
        config.watch(1, below("")).await.unwrap();
        config.events().await.unwrap();
        config.put(put("a", "x")).await.unwrap();
        config.close(1);
        assert!(config.events().await.unwrap().is_empty());
        config.put(put("a", "y")).await.unwrap();
        assert!(config.events().await.unwrap().is_empty());
    });
}

#[test]
fn a_reader_that_sleeps_through_many_writes_still_gets_the_final_state() {
    Node::new().fresh(async |host| {
        let config = host.config();
        config.watch(1, below("k")).await.unwrap();
        config.events().await.unwrap();
        for round in 0..30 {
            let puts =
                (0..64).map(|index| config.put(put(&format!("k/{index:02}"), &round.to_string())));
            join_all(puts).await;
        }
        let events = short(&config.events().await.unwrap());
        let resyncs = events.iter().filter(|event| *event == "resync").count();
        assert!(resyncs <= 1, "{resyncs} gaps");
        let last: Vec<_> = events.iter().filter(|event| event.starts_with("put k/63=")).collect();
        assert_eq!(last.last().unwrap().as_str(), "put k/63=29");
        sleep(Duration::from_millis(u64::from(TTL_MS))).await;
        config.put(put("k/00", "end")).await.unwrap();
        assert_eq!(short(&config.events().await.unwrap()).last().unwrap(), "put k/00=end");
    });
}
