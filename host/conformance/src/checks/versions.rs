//! Versions: compare and set, and what an equal version means.

use pintle::direct::config::{DeleteOutcome, DeleteRequest, Expectation, PutOutcome};

use super::{
    config::ABSENT,
    writes::{create, race},
};
use crate::{
    check::{Check, Need, Outcome, Stop, check, ensure},
    owner::{anything, call},
    trial::Trial,
};

pub(super) const CHECKS: &[Check] = &[
    check!("config.cas", cas, "of eight racing puts that expect one version exactly one is stored",
        needs Need::Feature("config.cas")),
    check!("config.cas/absent", absent, "of eight racing puts that expect nothing one is stored",
        needs Need::Feature("config.cas")),
    check!("config.cas/stale", stale, "a put that expected something else says what is there",
        needs Need::Feature("config.cas")),
    check!("config.cas/delete", delete, "a delete that expected another version deletes nothing",
        needs Need::Feature("config.cas")),
    check!("config.cas-aba", aba, "a key deleted and created again never matches an old version",
        needs Need::Feature("config.cas"), Need::Feature("config.version-unique")),
    check!(
        "config.version-unique",
        unique,
        "a version is equal until the next write, and different after it",
        needs Need::Feature("config.version-unique")
    ),
];

async fn cas(trial: &mut Trial) -> Outcome {
    let owners = trial.contenders::<8>().await?;
    let [owner, ..] = &owners;
    let key = trial.key("cas");
    let mut version = owner.put(&key, "0").await?;
    for round in 0..15 {
        let winners = race(&owners, &key, &Expectation::Version(version.clone())).await?;
        ensure!(
            winners.len() == 1,
            "eight puts expected version {version}; stored were {} of them ({winners:?}, round \
             {round})",
            winners.len()
        );
        let now = owner.get_present(&key).await?;
        ensure!(
            winners.iter().any(|winner| winner.as_bytes() == now.value),
            "{winners:?} was stored, and {key} holds {:?}",
            String::from_utf8_lossy(&now.value)
        );
        version = now.version;
    }
    Ok(())
}

async fn absent(trial: &mut Trial) -> Outcome {
    let owners = trial.contenders::<8>().await?;
    for round in 0..10 {
        let key = trial.key(&format!("new/{round}"));
        let winners = race(&owners, &key, &ABSENT).await?;
        ensure!(
            winners.len() == 1,
            "eight puts expected {key} to be absent; stored were {winners:?}"
        );
    }
    Ok(())
}

async fn stale(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let key = trial.key("stale");
    let nothing = owner.put_if(&key, "x", Expectation::Exists).await?;
    ensure!(
        matches!(nothing, PutOutcome::Stale(None)),
        "{key} is absent, and a put that expects it to exist answers {nothing:?}"
    );
    let first = owner.put(&key, "first").await?;
    owner.put(&key, "second").await?;
    for expect in [Expectation::Absent, Expectation::Version(first)] {
        let outcome = owner.put_if(&key, "late", expect.clone()).await?;
        let PutOutcome::Stale(Some(current)) = &outcome else {
            return Err(Stop::Broken(format!(
                "{key} holds `second`, and a put that expects {expect:?} answers {outcome:?}"
            )));
        };
        ensure!(
            current.value == b"second",
            "{key} holds `second`, and a stale put says that {current:?} is there"
        );
    }
    let stored = owner.put_if(&key, "third", Expectation::Exists).await?;
    ensure!(
        matches!(stored, PutOutcome::Stored(_)),
        "{key} exists, and a put that expects that answers {stored:?}"
    );
    Ok(())
}

async fn delete(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let key = trial.key("delete");
    let old = owner.put(&key, "first").await?;
    let new = owner.put(&key, "second").await?;
    let expecting =
        |version: String| DeleteRequest { expect: Expectation::Version(version), ..anything(&key) };
    let outcome = owner.raw.config_delete(call(), expecting(old)).await?;
    ensure!(
        matches!(&outcome, DeleteOutcome::Stale(Some(entry)) if entry.value == b"second"),
        "{key} has another version, and a delete that expects the old one answers {outcome:?}"
    );
    ensure!(owner.get(&key).await?.is_some(), "a stale delete has deleted {key}");
    let outcome = owner.raw.config_delete(call(), expecting(new)).await?;
    ensure!(
        matches!(outcome, DeleteOutcome::Deleted(_)),
        "{key} has this version, and a delete that expects it answers {outcome:?}"
    );
    Ok(())
}

async fn aba(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let key = trial.key("aba");
    let mut old = Vec::new();
    for round in 0..10 {
        // Equal values and equal numbers of writes each time: nothing but the past differs.
        create(&owner, &key).await?;
        let version = owner.put(&key, "same").await?;
        for before in &old {
            let outcome =
                owner.put_if(&key, "late", Expectation::Version(String::clone(before))).await?;
            ensure!(
                matches!(outcome, PutOutcome::Stale(_)),
                "{key} was deleted and created again, and a put that expects its old version \
                 {before} answers {outcome:?} (round {round}; the version now is {version})"
            );
            let expect = Expectation::Version(String::clone(before));
            let outcome =
                owner.raw.config_delete(call(), DeleteRequest { expect, ..anything(&key) }).await?;
            ensure!(
                matches!(outcome, DeleteOutcome::Stale(_)),
                "{key} was deleted and created again, and a delete that expects its old version \
                 {before} answers {outcome:?} (round {round}; the version now is {version})"
            );
        }
        owner.delete(&key).await?;
        old.push(version);
    }
    Ok(())
}

async fn unique(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let key = trial.key("unique");
    let mut seen: Vec<String> = Vec::new();
    for _ in 0..5 {
        let version = owner.put(&key, "same value").await?;
        ensure!(
            !seen.contains(&version),
            "a write of the same value gave version {version}, which an earlier write had"
        );
        owner.put(&trial.key("other"), "x").await?;
        let again = owner.get_present(&key).await?.version;
        ensure!(again == version, "nobody wrote {key}, and its version went {version} → {again}");
        seen.push(version);
    }
    Ok(())
}
