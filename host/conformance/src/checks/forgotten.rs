//! When the server has forgotten what a plugin asks for: a gap that is nobody's fault, and has to be
//! told.
//!
//! The suite knows no server. It makes one forget by the operator's command where there is one, and
//! else by more changes than a short memory holds; whether that was enough it sees by the plugin's
//! own answers. A backend that still knows everything is not measured.

use std::collections::BTreeMap;

use futures::future::try_join_all;
use pintle::direct::{
    Failure, Weather,
    config::{Change, HistoryRequest, ReadOptions, Target, WatchRequest},
};

use super::{
    config::fill,
    watch::{changes_of, live, settled_by, view},
};
use crate::{
    check::{Check, Need, Outcome, Stop, check, ensure},
    owner::{Owner, call},
    trial::Trial,
    view::{Step, View, entry_text},
};

pub(super) const CHECKS: &[Check] = &[
    check!(
        "watch.from-version/forgotten",
        from_version,
        "a watch from a version that is forgotten says `resync`, and begins with a snapshot",
        needs Need::Feature("watch.from-version");
        slow forgets
    ),
    check!(
        "watch.gap-marked/forgotten",
        cut_off,
        "what the server forgot while a watch was cut off is covered by `resync` and a snapshot",
        needs Need::Network, Need::Shares;
        slow forgets
    ),
    check!(
        "config.read-at/forgotten",
        read_at,
        "a read as of a version that is forgotten answers `compacted`, and nothing else",
        needs Need::Feature("config.read-at");
        slow forgets
    ),
    check!(
        "config.history/forgotten",
        history,
        "a history whose older revisions are forgotten says that it is not complete",
        needs Need::Feature("config.history");
        slow forgets
    ),
];

/// Changes that a short memory does not hold.
const MANY: usize = 2_000;

/// Makes the server forget, as far as the suite can, what was before the newest change.
async fn forget(trial: &Trial, owner: &Owner) -> Outcome {
    let newest = owner.put(&trial.key("newest"), "x").await?;
    if let Some(hook) = &trial.hooks.forget {
        trial.note(format!("the operator's command makes the server forget up to {newest}"));
        let forgotten = hook.run(vec![("PINTLE_VERSION", newest)]).await;
        return forgotten.map_err(|reason| {
            Stop::Unclear(format!("the command that makes the server forget: {reason}"))
        });
    }
    trial.note(format!("{MANY} changes of other keys follow"));
    let writers = (0..20).map(|writer| async move {
        for number in 0..MANY / 20 {
            owner.put(&trial.key(&format!("many/{writer}")), number.to_string()).await?;
        }
        Outcome::Ok(())
    });
    try_join_all(writers).await?;
    Ok(())
}

/// How a check ends whose server still knows everything.
fn still_known(trial: &Trial) -> Stop {
    match &trial.hooks.forget {
        Some(_) => Stop::Unclear("the operator's command ran, and nothing is forgotten".into()),
        None => Stop::Skipped(format!(
            "its server knows everything after {MANY} changes; nobody lends a command that makes it \
             forget"
        )),
    }
}

fn watching(prefix: &str, from_version: String) -> WatchRequest {
    WatchRequest {
        target: Target::Prefix(prefix.to_owned()),
        from_version: Some(from_version),
        previous: false,
        selectors: Vec::new(),
    }
}

async fn from_version(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let prefix = trial.key("kept");
    let key = |tail: &str| format!("{prefix}/{tail}");
    let version = owner.put(&key("before"), "1").await?;
    let known: BTreeMap<String, String> =
        [(key("before"), entry_text(&owner.get_present(&key("before")).await?))].into();
    fill(&owner, [key("passing"), key("stays")]).await?;
    owner.delete(&key("passing")).await?;
    owner.delete(&key("before")).await?;
    forget(trial, &owner).await?;
    let id = owner.watch_as(watching(&prefix, version.clone())).await?;
    owner.put(&key("after"), "2").await?;
    let view = settled_by(&owner, &owner, id, &prefix, |owner, id| {
        View::on(known.clone(), owner.config.of(id).iter().map(Step::from))
    })
    .await?;
    if view.resyncs > 0 {
        return Ok(());
    }
    let mut told = changes_of(&owner, id);
    // The two were written at once.
    told.get_mut(..2).unwrap_or_default().sort_unstable();
    let expected = [
        format!("{}=x", key("passing")),
        format!("{}=x", key("stays")),
        format!("-{}", key("passing")),
        format!("-{}", key("before")),
        format!("{}=2", key("after")),
    ];
    ensure!(
        told == expected,
        "after {version} came {expected:?}; delivered are {told:?}, and no `resync` says that some \
         are missing"
    );
    Err(still_known(trial))
}

async fn cut_off(trial: &mut Trial) -> Outcome {
    let has_proof = trial.has("watch.from-version");
    if !has_proof && trial.hooks.forget.is_none() {
        let reason = "without watches from a version nothing shows whether its server forgets";
        return Err(Stop::Skipped(reason.to_owned()));
    }
    let owner = trial.owner("a").await?;
    let other = trial.owner("b").await?;
    let prefix = trial.key("cut-off");
    let key = |tail: &str| format!("{prefix}/{tail}");
    fill(&other, ["changes", "goes"].map(key)).await?;
    let id = owner.watch_below(&prefix).await?;
    live(&owner, id).await?;
    let mut forgotten = !has_proof;
    for weather in [Weather::Cut, Weather::Blackhole] {
        let (resyncs, told) = (view(&owner, id).resyncs, changes_of(&owner, id).len());
        trial.note(format!("the network of a: {weather:?}"));
        owner.faults.set(weather);
        let version = other.put(&key("changes"), format!("{weather:?}")).await?;
        other.put(&key("passing"), "x").await?;
        other.delete(&key("passing")).await?;
        other.delete(&key("goes")).await?;
        forget(trial, &other).await?;
        // Where it was, nobody can go on any more: what another is told who tries.
        if has_proof {
            let probe = other.watch_as(watching(&prefix, version)).await?;
            let what = "a watch from a version from before tells something";
            forgotten |= other
                .config
                .wait(probe, crate::check::SOON, what, |events| {
                    View::on(BTreeMap::new(), events.iter().map(|it| Step::from(&it.event)))
                        .first_told()
                })
                .await?;
            other.raw.config_close(probe)?;
        }
        other.put(&key("goes"), "is back").await?;
        trial.note("it is whole again");
        owner.faults.set(Weather::Clear);
        let known = settled_by(&owner, &other, id, &prefix, view).await?;
        if owner.has("watch.every-change") && known.resyncs == resyncs {
            let told = changes_of(&owner, id).split_off(told);
            let expected = [
                format!("{}={weather:?}", key("changes")),
                format!("{}=x", key("passing")),
                format!("-{}", key("passing")),
                format!("-{}", key("goes")),
                format!("{}=is back", key("goes")),
            ];
            ensure!(
                told == expected,
                "while it was cut off {expected:?} happened, and the server forgot; delivered are \
                 {told:?}, and no `resync` says that some are missing"
            );
        }
    }
    if forgotten { Ok(()) } else { Err(still_known(trial)) }
}

async fn read_at(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let key = trial.key("at");
    let version = owner.put(&key, "before").await?;
    owner.put(&key, "now").await?;
    forget(trial, &owner).await?;
    let options = ReadOptions { at: Some(version.clone()), ..owner.fresh() };
    match owner.raw.config_get(call(), key.clone(), options).await {
        Err(Failure::Error(error)) if error.code == "compacted" => Ok(()),
        Ok(Some(entry)) if entry.value == b"before" => Err(still_known(trial)),
        Ok(found) => Err(Stop::Broken(format!(
            "at {version} {key} held `before`, and a read as of it answers {found:?}"
        ))),
        Err(Failure::Error(error)) => Err(Stop::Broken(format!(
            "{version} is no longer kept, and a read as of it answers `{}` and not `compacted`: {}",
            error.code, error.message
        ))),
        Err(failure) => Err(failure.into()),
    }
}

async fn history(trial: &mut Trial) -> Outcome {
    // More than a backend might keep of each key whatever it forgets.
    const REVISIONS: usize = 40;
    let owner = trial.owner("a").await?;
    let key = trial.key("history");
    for number in 0..REVISIONS {
        owner.put(&key, number.to_string()).await?;
    }
    forget(trial, &owner).await?;
    let (mut shown, mut complete, mut page) = (Vec::new(), true, None);
    loop {
        let request = HistoryRequest { key: key.clone(), limit: 7, page };
        let found = owner.raw.config_history(call(), request).await?;
        shown.extend(found.revisions.into_iter().map(|revision| match revision.change {
            Change::Put(entry) => String::from_utf8_lossy(&entry.value).into_owned(),
            Change::Removed(_) => "removed".to_owned(),
        }));
        complete &= found.complete;
        page = found.next;
        if page.is_none() || shown.len() > REVISIONS {
            break;
        }
    }
    let written: Vec<String> = (0..REVISIONS).rev().map(|number| number.to_string()).collect();
    ensure!(
        !shown.is_empty() && written.starts_with(&shown),
        "{REVISIONS} revisions were written, and newest first the history shows {shown:?}"
    );
    if shown.len() == REVISIONS {
        return Err(still_known(trial));
    }
    ensure!(
        !complete,
        "{REVISIONS} revisions were written; the history shows {} of them, and calls itself complete",
        shown.len()
    );
    Ok(())
}
