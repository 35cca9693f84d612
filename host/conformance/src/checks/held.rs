//! Writes that happen only while a lease is held.

use pintle::{
    Capability,
    direct::{
        Failure, Weather,
        config::{DeleteOutcome, DeleteRequest, PutOutcome, PutRequest, TxnOutcome, TxnRequest},
        lock::AcquireRequest,
    },
};

use super::{
    claims::take_away,
    config::fill,
    writes::{expect_value, put_op},
};
use crate::{
    check::{Check, Need, Outcome, SOON, check, ensure},
    owner::{anything, asking, call, write},
    trial::{Trial, eventually},
};

pub(super) const CHECKS: &[Check] = &[
    check!("config.held", held, "a guarded put is stored while its lease is held, and not after",
        needs Need::Capability(Capability::Lock), Need::Feature("config.held")),
    check!(
        "config.held/writes",
        writes,
        "so are a guarded delete, transaction, and deletion of a prefix",
        needs Need::Capability(Capability::Lock), Need::Feature("config.held")
    ),
    check!(
        "config.held/forced",
        held_forced,
        "a guarded put is not stored when an operator has taken the lock away",
        needs Need::Capability(Capability::Lock), Need::Feature("config.held"),
            Need::Feature("lock.force-release")
    ),
    check!(
        "config.held/lost",
        held_lost,
        "a guarded put is not stored when the lease was lost while the network swallowed everything",
        needs Need::Capability(Capability::Lock), Need::Feature("config.held"), Need::Network,
            Need::Shares;
        slow
    ),
];

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
    take_away(&operator, &lock).await?;
    // The holder may not know yet: the backend itself has to refuse.
    let outcome = owner.raw.config_put(call(), guarded("too late")).await?;
    ensure!(
        matches!(outcome, PutOutcome::Fenced),
        "the lock was taken away, and a put guarded by it answers {outcome:?} instead of `fenced`"
    );
    expect_value(&operator, &key, "by the holder").await
}

async fn writes(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let (lock, prefix) = (trial.key("lock"), trial.key("guarded"));
    let key = |tail: &str| format!("{prefix}/{tail}");
    fill(&owner, ["gone", "stays", "late"].map(key)).await?;
    let grant = owner.hold(asking(&lock)).await?;
    let delete = |tail: &str| DeleteRequest { held: Some(grant.id), ..anything(&key(tail)) };
    let txn = |value: &str| TxnRequest {
        conditions: Vec::new(),
        held: vec![grant.id],
        ops: vec![put_op(&key("txn"), value)],
    };
    let deleted = owner.raw.config_delete(call(), delete("gone")).await?;
    ensure!(
        matches!(deleted, DeleteOutcome::Deleted(_)),
        "the lease is held, and a delete guarded by it answers {deleted:?}"
    );
    let changed = owner.raw.config_txn(call(), txn("by the holder")).await;
    let has_txn = owner.has("config.txn");
    ensure!(
        !has_txn || matches!(changed, Ok(TxnOutcome::Committed(_))),
        "the lease is held, and a transaction guarded by it answers {changed:?}"
    );
    let below = key("below");
    fill(&owner, [format!("{below}/x")]).await?;
    let cleared = owner.raw.config_delete_prefix(call(), below.clone(), Some(grant.id)).await?;
    ensure!(
        cleared == 1,
        "the lease is held, one key lies below {below}, and {cleared} are deleted"
    );

    fill(&owner, [format!("{below}/x")]).await?;
    ensure!(owner.release(&grant).await?, "the lease was held, and a release answers false");
    let deleted = owner.raw.config_delete(call(), delete("stays")).await?;
    ensure!(
        matches!(deleted, DeleteOutcome::Fenced),
        "the lease was released, and a delete guarded by it answers {deleted:?} and not `fenced`"
    );
    if has_txn {
        let late = owner.raw.config_txn(call(), txn("too late")).await?;
        ensure!(
            matches!(late, TxnOutcome::Fenced),
            "the lease was released, and a transaction guarded by it answers {late:?}, not `fenced`"
        );
        expect_value(&owner, &key("txn"), "by the holder").await?;
    }
    let late = owner.raw.config_delete_prefix(call(), below.clone(), Some(grant.id)).await;
    ensure!(
        matches!(&late, Err(Failure::Error(_))),
        "the lease was released, and a deletion of a prefix guarded by it answers {late:?}"
    );
    for tail in ["stays", "late", "below/x"] {
        let key = key(tail);
        ensure!(owner.get(&key).await?.is_some(), "the lease was released, and {key} is gone");
    }
    Ok(())
}

/// The shortest TTL that there is.
const TTL_MS: u32 = 2_000;

async fn held_lost(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.owner("b").await?;
    let (lock, key) = (trial.key("lock"), trial.key("guarded"));
    let grant = owner.hold(AcquireRequest { ttl_ms: TTL_MS, ..asking(&lock) }).await?;
    let guarded = |value: &str| PutRequest { held: Some(grant.id), ..write(&key, value) };
    owner.put_as(guarded("by the holder")).await?;
    trial.note("the network of a swallows everything until its lease is lost");
    owner.faults.set(Weather::Blackhole);
    owner.lost(&grant, owner.patience(SOON, TTL_MS)).await?;
    let wait_ms = other.wait_ms(10_000, TTL_MS);
    let next = other.hold(AcquireRequest { wait_ms, ..asking(&lock) }).await?;
    other.put_as(PutRequest { held: Some(next.id), ..write(&key, "by the next") }).await?;
    owner.faults.set(Weather::Clear);
    trial.note("it is whole again");
    let late = eventually("a guarded put is answered again", SOON, || async {
        match owner.raw.config_put(call(), guarded("too late")).await {
            Ok(outcome) => Ok(Some(outcome)),
            // The connection is just coming about.
            Err(Failure::Error(_)) => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    })
    .await?;
    ensure!(
        matches!(late, PutOutcome::Fenced),
        "the lease was lost, and a put guarded by it answers {late:?} instead of `fenced`"
    );
    expect_value(&other, &key, "by the next").await
}
