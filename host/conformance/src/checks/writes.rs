//! Writing: values, durability, guards, transactions.

use futures::future::try_join_all;
use pintle::Capability;
use pintle::direct::{
    Failure,
    config::{
        Condition, Expectation, PutOutcome, PutRequest, TxnOp, TxnOutcome, TxnPut, TxnRequest,
        TxnResult,
    },
    types::Effect,
};

use super::config::{ABSENT, fill};
use crate::{
    check::{Check, Need, Outcome, Stop, check, ensure},
    owner::{Owner, asking, call, write},
    trial::Trial,
};

pub(super) const CHECKS: &[Check] = &[
    check!("config.put-value", values, "values come back byte for byte: empty, binary, large"),
    check!(
        "config.put-value/largest",
        largest,
        "a value is stored whole, or refused as too large and nothing happened"
    ),
    check!("config.put-durable", durable, "an acknowledged put is there after the plugin crashed",
        needs Need::Keeps),
    check!("config.held", held, "a guarded put is stored while its lease is held, and not after",
        needs Need::Capability(Capability::Lock), Need::Feature("config.held")),
    check!(
        "config.held/forced",
        held_forced,
        "a guarded put is not stored when an operator has taken the lock away",
        needs Need::Capability(Capability::Lock), Need::Feature("config.held"),
            Need::Feature("lock.force-release")
    ),
    check!("config.txn", txn, "a transaction happens as a whole, and its gets see the state before",
        needs Need::Feature("config.txn")),
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
    Ok(())
}

async fn largest(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let key = trial.key("largest");
    owner.put(&key, "small").await?;
    for mib in [1, 2, 4] {
        let value = b"0123456789abcdef".repeat(mib << 16);
        match owner.raw.config_put(call(), write(&key, value.clone())).await {
            Ok(PutOutcome::Stored(_)) => {
                let found = owner.get_present(&key).await?.value;
                let (len, back) = (value.len(), found.len());
                ensure!(found == value, "stored were {len} bytes, and {back} come back");
            }
            Err(Failure::Error(error)) => {
                ensure!(
                    error.code == "too-large" && error.effect == Effect::None,
                    "a value of {mib} MiB is too large for the server; expected is `too-large` with \
                     effect none, and it answers {}",
                    Failure::Error(error.clone())
                );
                let found = owner.get_present(&key).await?.value.len();
                ensure!(
                    found < value.len(),
                    "a put was refused as too large, and all the same {found} bytes are there"
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

async fn held(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let (lock, key) = (trial.key("lock"), trial.key("guarded"));
    let grant = owner.hold(asking(&lock)).await?;
    let guarded = |value: &str| PutRequest { held: Some(grant.id), ..write(&key, value) };
    owner.put_as(guarded("by the holder")).await?;
    ensure!(owner.release(&grant).await?, "the lease was held, and a release answers false");
    let outcome = owner.raw.config_put(call(), guarded("too late")).await?;
    ensure!(
        matches!(outcome, PutOutcome::Fenced),
        "the lease was released, and a put guarded by it answers {outcome:?} instead of `fenced`"
    );
    expect_value(&owner, &key, "by the holder").await
}

async fn held_forced(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let operator = trial.other(&owner).await?;
    let (lock, key) = (trial.key("lock"), trial.key("guarded"));
    let grant = owner.hold(asking(&lock)).await?;
    let guarded = |value: &str| PutRequest { held: Some(grant.id), ..write(&key, value) };
    owner.put_as(guarded("by the holder")).await?;
    let holders = operator.inspect(&lock).await?.holders;
    let claim = holders.first().map(|claim| claim.claim_id.clone());
    let claim = claim.ok_or_else(|| Stop::Broken(format!("{lock} is held; inspect: no holder")))?;
    let taken = operator.raw.lock_force_release(call(), lock.clone(), claim).await?;
    ensure!(taken, "the claim was there, and a force-release answers false");
    // The holder may not know yet: the backend itself has to refuse.
    let outcome = owner.raw.config_put(call(), guarded("too late")).await?;
    ensure!(
        matches!(outcome, PutOutcome::Fenced),
        "the lock was taken away, and a put guarded by it answers {outcome:?} instead of `fenced`"
    );
    expect_value(&operator, &key, "by the holder").await
}

async fn txn(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let [a, b, c] = ["a", "b", "c"].map(|tail| trial.key(tail));
    let version = owner.put(&a, "before").await?;
    owner.put(&b, "before").await?;
    let ops = |value: &str| {
        vec![
            TxnOp::Get(c.clone()),
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
    ensure!(
        matches!(
            results.as_slice(),
            [
                TxnResult::Got(None),
                TxnResult::Stored(_),
                TxnResult::Deleted(true),
                TxnResult::Stored(_),
            ]
        ),
        "a get of nothing, a put, a delete and a put answer {results:?}"
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

async fn expect_value(owner: &Owner, key: &str, value: &str) -> Outcome {
    let found = owner.get_present(key).await?.value;
    let found = String::from_utf8_lossy(&found);
    ensure!(found == value, "{key} has to hold `{value}`, and holds `{found}`");
    Ok(())
}

fn put_op(key: &str, value: &str) -> TxnOp {
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
