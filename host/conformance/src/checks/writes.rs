//! Writing: values, durability, guards, transactions.

use futures::future::try_join_all;
use pintle::direct::{
    Failure,
    config::{
        Condition, Entry, Event, Expectation, PutOutcome, PutRequest, TxnOp, TxnOutcome, TxnPut,
        TxnRequest, TxnResult,
    },
    types::Effect,
};

use super::{
    config::{ABSENT, fill},
    watch::live,
};
use crate::{
    check::{Check, Need, Outcome, Stop, check, ensure},
    owner::{Owner, call, write},
    trial::Trial,
};

pub(super) const CHECKS: &[Check] = &[
    check!("config.put-value", values, "values come back byte for byte: empty, binary, large"),
    check!(
        "config.put-value/largest",
        largest,
        "a value is stored whole, or refused as too large and nothing happened"
    ),
    check!(
        "config.put-value/previous",
        previous,
        "a put that asks for it answers what it replaced, and one that does not answers nothing"
    ),
    check!("config.put-durable", durable, "an acknowledged put is there after the plugin crashed",
        needs Need::Keeps),
    check!("config.txn", txn, "a transaction happens as a whole, and its gets see the state before",
        needs Need::Feature("config.txn")),
    check!("config.txn/race", txn_race, "of eight racing transactions on one version one happens",
        needs Need::Feature("config.txn"), Need::Feature("config.cas")),
    check!("config.txn/isolated", isolated, "nobody sees half of a transaction",
        needs Need::Feature("config.txn")),
    check!("config.delete-prefix-atomic", delete_prefix_atomic, "nobody sees half of a prefix deleted",
        needs Need::Feature("config.delete-prefix-atomic")),
];

async fn values(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let every_byte: Vec<u8> = (0..=255).collect();
    let values = [
        ("empty", Vec::new()),
        ("zero", vec![0]),
        ("zeros-at-the-end", vec![b'x', 0, 0, 0]),
        ("every-byte", every_byte.clone()),
        ("no-utf-8", vec![0xff, 0xfe, 0xc0, 0x80]),
        ("line-ends", b"a\r\nb\n\n".to_vec()),
        ("json", br#"{"a": [1, 2.0, null]}"#.to_vec()),
        ("64-kib", every_byte.repeat(256)),
        ("512-kib", every_byte.repeat(2_048)),
    ];
    for (name, value) in &values {
        owner.put(&trial.key(name), value.clone()).await?;
    }
    for (name, value) in &values {
        let found = owner.get_present(&trial.key(name)).await?.value;
        ensure!(
            found == *value,
            "the value `{name}` of {} bytes comes back as {} bytes, equal up to byte {}",
            value.len(),
            found.len(),
            found.iter().zip(value).take_while(|(one, other)| one == other).count()
        );
    }
    // The same by the other two ways in which values come.
    let listed = owner.list(&trial.prefix(), 1_000).await?;
    let id = owner.watch_below(&trial.prefix()).await?;
    live(&owner, id).await?;
    let watched: Vec<Entry> = owner
        .config
        .of(id)
        .into_iter()
        .filter_map(|event| match event {
            Event::Put(put) => Some(put.entry),
            _ => None,
        })
        .collect();
    for (way, entries) in [("a listing", &listed), ("a watch", &watched)] {
        for (name, value) in &values {
            let key = trial.key(name);
            let found = entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
            ensure!(
                found == Some(value),
                "the value `{name}` of {} bytes comes from {way} as {:?} bytes, or not the same",
                value.len(),
                found.map(Vec::len)
            );
        }
    }
    Ok(())
}

async fn previous(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let key = trial.key("previous");
    let mut before: Option<String> = None;
    for value in ["1", "2", ""] {
        for asks in [true, false] {
            let value = format!("{value}{asks}");
            let request = PutRequest { previous: asks, ..write(&key, value.as_str()) };
            let outcome = owner.raw.config_put(call(), request).await?;
            let PutOutcome::Stored(stored) = &outcome else {
                return Err(Stop::Broken(format!("a put of {key} has to succeed: {outcome:?}")));
            };
            let told = stored.previous.as_ref();
            let told = told.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
            let expected = before.filter(|_| asks);
            ensure!(
                told == expected,
                "a put {} what was there; that was {expected:?}, and it answers {told:?}",
                if asks { "asks for" } else { "does not ask for" }
            );
            before = Some(value);
        }
    }
    Ok(())
}

async fn largest(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let key = trial.key("largest");
    let mut stored = b"small".to_vec();
    owner.put(&key, stored.clone()).await?;
    for mib in [1, 2, 4] {
        let value = b"0123456789abcdef".repeat(mib << 16);
        match owner.raw.config_put(call(), write(&key, value.clone())).await {
            Ok(PutOutcome::Stored(_)) => {
                let found = owner.get_present(&key).await?.value;
                let (len, back) = (value.len(), found.len());
                ensure!(found == value, "stored were {len} bytes, and {back} come back");
                stored = value;
            }
            Err(Failure::Error(error)) => {
                ensure!(
                    error.code == "too-large" && error.effect == Effect::None,
                    "a value of {mib} MiB is too large for the server; expected is `too-large` with \
                     effect none, and it answers {}",
                    Failure::Error(error.clone())
                );
                let found = owner.get_present(&key).await?.value;
                ensure!(
                    found == stored,
                    "a put was refused as too large, and what was there, of {} bytes, is now \
                     something else of {} bytes",
                    stored.len(),
                    found.len()
                );
                return Ok(());
            }
            other => return Err(Stop::Broken(format!("a put of {mib} MiB answers {other:?}"))),
        }
    }
    Ok(())
}

async fn durable(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let keys: Vec<String> = (0..20).map(|number| trial.key(&format!("durable/{number}"))).collect();
    fill(&owner, keys.clone()).await?;
    owner.kill().await;
    let later = trial.owner("later").await?;
    let found = later.keys(&trial.key("durable")).await?;
    for key in &keys {
        ensure!(
            found.contains(key),
            "{key} was acknowledged, the plugin crashed, and the next incarnation has {} of {} keys",
            found.len(),
            keys.len()
        );
    }
    Ok(())
}

async fn txn(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let [a, b, c] = ["a", "b", "c"].map(|tail| trial.key(tail));
    let version = owner.put(&a, "before").await?;
    owner.put(&b, "before").await?;
    let (read, absent) = (trial.key("read"), trial.key("absent"));
    owner.put(&read, "as it is").await?;
    let ops = |value: &str| {
        vec![
            TxnOp::Get(c.clone()),
            TxnOp::Get(read.clone()),
            TxnOp::Delete(absent.clone()),
            put_op(&a, value),
            TxnOp::Delete(b.clone()),
            TxnOp::Put(TxnPut { key: format!("{c}/d"), value: value.into(), content_type: None }),
        ]
    };
    let request = TxnRequest {
        conditions: vec![
            Condition { key: a.clone(), expect: Expectation::Version(version.clone()) },
            Condition { key: c.clone(), expect: Expectation::Absent },
            Condition { key: b.clone(), expect: Expectation::Exists },
        ],
        held: Vec::new(),
        ops: ops("after"),
    };
    let outcome = owner.raw.config_txn(call(), request.clone()).await?;
    let TxnOutcome::Committed(results) = &outcome else {
        return Err(Stop::Broken(format!("all conditions hold, and a txn answers {outcome:?}")));
    };
    let now = owner.get_present(&a).await?.version;
    ensure!(
        matches!(
            results.as_slice(),
            [
                TxnResult::Got(None),
                TxnResult::Got(Some(found)),
                TxnResult::Deleted(false),
                TxnResult::Stored(stored),
                TxnResult::Deleted(true),
                TxnResult::Stored(_),
            ] if found.value == b"as it is" && *stored == now
        ),
        "two gets, one of nothing, a delete of nothing, a put, a delete and a put answer {results:?}"
    );
    expect_value(&owner, &a, "after").await?;
    ensure!(owner.get(&b).await?.is_none(), "{b} was deleted in a transaction, and is there");
    // The same again: the version and the last condition do not hold any more.
    let stale = owner.raw.config_txn(call(), TxnRequest { ops: ops("late"), ..request }).await?;
    let TxnOutcome::Stale(mismatches) = &stale else {
        return Err(Stop::Broken(format!("two conditions fail, and a txn answers {stale:?}")));
    };
    let mut failed: Vec<u32> = mismatches.iter().map(|mismatch| mismatch.index).collect();
    failed.sort_unstable();
    ensure!(
        !failed.is_empty() && failed.iter().all(|index| [0, 2].contains(index)),
        "the conditions 0 and 2 fail, and a txn names {failed:?}"
    );
    expect_value(&owner, &a, "after").await?;
    expect_value(&owner, &format!("{c}/d"), "after").await
}

async fn txn_race(trial: &mut Trial) -> Outcome {
    let owners = trial.contenders::<8>().await?;
    let [owner, ..] = &owners;
    let (counter, log) = (trial.key("counter"), trial.key("log"));
    let mut version = owner.put(&counter, "0").await?;
    for round in 1..=10 {
        let attempts = owners.iter().enumerate().map(|(number, owner)| {
            let value = format!("{round} by {number}");
            let expect = Expectation::Version(version.clone());
            let request = TxnRequest {
                conditions: vec![Condition { key: counter.clone(), expect }],
                held: Vec::new(),
                ops: vec![put_op(&counter, &value), put_op(&format!("{log}/{round}"), &value)],
            };
            async move {
                let outcome = owner.raw.config_txn(call(), request).await?;
                Outcome::Ok(matches!(outcome, TxnOutcome::Committed(_)).then_some(value))
            }
        });
        let winners: Vec<String> = try_join_all(attempts).await?.into_iter().flatten().collect();
        let [winner] = winners.as_slice() else {
            return Err(Stop::Broken(format!(
                "eight transactions expected version {version}; these happened: {winners:?}"
            )));
        };
        expect_value(owner, &format!("{log}/{round}"), winner).await?;
        expect_value(owner, &counter, winner).await?;
        version = owner.get_present(&counter).await?.version;
    }
    Ok(())
}

async fn isolated(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let reader = trial.other(&owner).await?;
    let keys: Vec<String> = (0..8).map(|number| trial.key(&format!("set/{number}"))).collect();
    let plain = |ops| TxnRequest { conditions: Vec::new(), held: Vec::new(), ops };
    let set = |value: String| plain(keys.iter().map(|key| put_op(key, &value)).collect());
    owner.raw.config_txn(call(), set("0".into())).await?;
    let writing = async {
        for round in 1..=30 {
            owner.raw.config_txn(call(), set(format!("{round}"))).await?;
        }
        Ok::<(), Stop>(())
    };
    let reading = async {
        for _ in 0..30 {
            let gets = keys.iter().cloned().map(TxnOp::Get).collect();
            let outcome = reader.raw.config_txn(call(), plain(gets)).await?;
            let TxnOutcome::Committed(results) = outcome else {
                return Err(Stop::Broken(format!("a txn without conditions answers {outcome:?}")));
            };
            let values: Vec<_> = results
                .into_iter()
                .map(|result| match result {
                    TxnResult::Got(Some(entry)) => String::from_utf8_lossy(&entry.value).into(),
                    other => format!("{other:?}"),
                })
                .collect();
            let first = values.first();
            ensure!(
                values.iter().all(|value| Some(value) == first),
                "all keys get one value in each transaction, and one that reads them sees {values:?}"
            );
        }
        Ok(())
    };
    futures::future::try_join(writing, reading).await?;
    Ok(())
}

async fn delete_prefix_atomic(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let reader = trial.other(&owner).await?;
    let (prefix, count) = (trial.key("all"), 40);
    for round in 0..5 {
        let keys = (0..count).map(|number| trial.key(&format!("all/{number:02}")));
        fill(&owner, keys).await?;
        let deleting = async {
            owner.raw.config_delete_prefix(call(), prefix.clone(), None).await?;
            Ok::<(), Stop>(())
        };
        let reading = async {
            loop {
                let seen = reader.keys(&prefix).await?.len();
                ensure!(
                    seen == 0 || seen == count,
                    "{count} keys are deleted at once, and a listing meanwhile shows {seen} \
                     (round {round})"
                );
                if seen == 0 {
                    return Ok(());
                }
            }
        };
        futures::future::try_join(deleting, reading).await?;
    }
    Ok(())
}

pub(super) async fn expect_value(owner: &Owner, key: &str, value: &str) -> Outcome {
    let found = owner.get_present(key).await?.value;
    let found = String::from_utf8_lossy(&found);
    ensure!(found == value, "{key} has to hold `{value}`, and holds `{found}`");
    Ok(())
}

pub(super) fn put_op(key: &str, value: &str) -> TxnOp {
    TxnOp::Put(TxnPut { key: key.to_owned(), value: value.into(), content_type: None })
}

/// Puts of `count` values under one expectation at the same time; answers who was stored.
pub(super) async fn race(
    owners: &[std::sync::Arc<Owner>],
    key: &str,
    expect: &Expectation,
) -> Outcome<Vec<String>> {
    let puts = owners.iter().enumerate().map(|(number, owner)| async move {
        let value = format!("by {number}");
        let outcome = owner.put_if(key, value.clone(), expect.clone()).await?;
        Ok::<_, Stop>(match outcome {
            PutOutcome::Stored(_) => Some(value),
            PutOutcome::Stale(_) => None,
            PutOutcome::Fenced => {
                return Err(Stop::Broken("a put without a lease answers `fenced`".into()));
            }
        })
    });
    Ok(try_join_all(puts).await?.into_iter().flatten().collect())
}

/// Creates a key that must not be there.
pub(super) async fn create(owner: &Owner, key: &str) -> Outcome<PutOutcome> {
    owner.put_if(key, "created", ABSENT).await
}
