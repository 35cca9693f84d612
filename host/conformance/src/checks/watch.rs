//! Watches on configuration.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::try_join_all;
use pintle::direct::{
    Weather,
    config::{Event, ListRequest, Target, WatchRequest},
};

use super::config::fill;
use crate::{
    check::{Check, Need, Outcome, SOON, Stop, check, ensure},
    owner::{Owner, anything, call},
    trial::{Trial, eventually},
    view::{Step, View, entry_text},
};

pub(super) const CHECKS: &[Check] = &[
    check!("watch.snapshot", snapshot, "a watch begins with every key of its target, each once"),
    check!("watch.snapshot/key", one_key, "a watch of one key shows that key and no other"),
    check!("watch.boundary", boundary, "nothing outside the target is delivered"),
    check!("watch.final-state", final_state, "after 1,000 racing writes the final state is known"),
    check!("watch.no-going-back", no_going_back, "the versions of a key never go back"),
    check!("watch.order", order, "changes come in the order in which they were made"),
    check!("watch.every-change", every_change, "each write is delivered once, with its value",
        needs Need::Feature("watch.every-change")),
    check!("watch.previous", previous, "an event carries what was there just before",
        needs Need::Feature("watch.previous")),
    check!(
        "watch.from-version",
        from_version,
        "a watch from a version delivers every change after it, and no snapshot",
        needs Need::Feature("watch.from-version")
    ),
    check!("watch.close", close, "no event follows after a watch was closed"),
    check!(
        "watch.gap-marked",
        slow_reader,
        "a reader that falls behind is told `resync`, and gets a whole new snapshot"
    ),
    check!(
        "watch.gap-marked/cut",
        cut,
        "changes made while the network was cut arrive, or the gap is marked",
        needs Need::Network, Need::Shares
    ),
];

/// What is known of watch `id`.
pub(super) fn view(owner: &Owner, id: u64) -> View {
    View::after(owner.config.of(id).iter().map(Step::from))
}

/// Waits for the first snapshot to end.
pub(super) async fn live(owner: &Owner, id: u64) -> Outcome<View> {
    let ended = |event: &Event| matches!(event, Event::SnapshotEnd(_));
    owner
        .config
        .wait(id, SOON, "the first snapshot of a watch ends", |events| {
            events.iter().any(|arrived| ended(&arrived.event)).then_some(())
        })
        .await?;
    Ok(view(owner, id))
}

/// Waits until the view equals what a listing shows, and no rule was broken.
pub(super) async fn settled(owner: &Arc<Owner>, id: u64, prefix: &str) -> Outcome<View> {
    settled_by(owner, owner, id, prefix, view).await
}

/// As [`settled`], against the listing of another: the watcher itself may just be reconnecting.
pub(super) async fn settled_by(
    owner: &Arc<Owner>,
    other: &Arc<Owner>,
    id: u64,
    prefix: &str,
    view: impl Fn(&Owner, u64) -> View,
) -> Outcome<View> {
    let entries = other.list(prefix, 1_000).await?;
    let expected: BTreeMap<String, String> =
        entries.iter().map(|entry| (entry.key.clone(), entry_text(entry))).collect();
    let what =
        format!("the view of a watch becomes what a listing shows ({} keys)", expected.len());
    let reached = eventually(&what, SOON, || async {
        let view = view(owner, id);
        let wrong = view.wrong.first();
        ensure!(wrong.is_none(), "{}", wrong.cloned().unwrap_or_default());
        Ok((view.live && view.state == expected).then_some(view))
    });
    reached.await.map_err(|stop| with_difference(stop, &view(owner, id), &expected))
}

fn with_difference(stop: Stop, view: &View, expected: &BTreeMap<String, String>) -> Stop {
    let differs = |key: &&String| view.state.get(*key) != expected.get(*key);
    let key = expected.keys().chain(view.state.keys()).find(differs);
    let Some(key) = key else { return stop };
    let (listed, watched) = (expected.get(key), view.state.get(key));
    stop.and(format!("of {key} a listing shows {listed:?}, and the watch {watched:?}"))
}

async fn snapshot(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let mut keys: Vec<String> =
        (0..30).map(|number| trial.key(&format!("in/{number:02}"))).collect();
    fill(&owner, keys.clone()).await?;
    fill(&owner, [trial.key("in"), trial.key("into/x"), trial.key("out/x")]).await?;
    let id = owner.watch_below(&trial.key("in")).await?;
    let view = live(&owner, id).await?;
    ensure!(view.wrong.is_empty(), "{}", view.wrong.join("; "));
    let shown: Vec<String> = view.state.into_keys().collect();
    keys.sort_unstable();
    ensure!(shown == keys, "the target holds {keys:?}, and the snapshot shows {shown:?}");
    let empty = owner.watch_below(&trial.key("nothing")).await?;
    let view = live(&owner, empty).await?;
    ensure!(
        view.wrong.is_empty() && view.state.is_empty(),
        "the target is empty, and the snapshot shows {:?} ({})",
        view.state,
        view.wrong.join("; ")
    );
    Ok(())
}

async fn one_key(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let (key, absent) = (trial.key("one"), trial.key("absent"));
    fill(&owner, [key.clone(), trial.key("one/below"), trial.key("oneself")]).await?;
    let on_key = owner.watch(Target::Key(key.clone())).await?;
    let on_absent = owner.watch(Target::Key(absent.clone())).await?;
    let shown: Vec<String> = live(&owner, on_key).await?.state.into_keys().collect();
    ensure!(shown == [key.clone()], "a watch of {key} shows {shown:?}");
    let shown = live(&owner, on_absent).await?.state;
    ensure!(shown.is_empty(), "a watch of {absent}, which is not there, shows {shown:?}");
    fill(&owner, [trial.key("one/below"), trial.key("oneself")]).await?;
    owner.delete(&key).await?;
    owner.put(&absent, "x").await?;
    let seen = |id: u64, expected: Vec<String>| {
        let owner = &owner;
        async move {
            eventually("a change of one key is delivered", SOON, || async {
                let shown: Vec<String> = view(owner, id).state.into_keys().collect();
                Ok((shown == expected).then_some(()))
            })
            .await
        }
    };
    seen(on_key, Vec::new()).await?;
    seen(on_absent, vec![absent]).await
}

async fn boundary(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let prefix = trial.key("a/b");
    let id = owner.watch_below(&prefix).await?;
    live(&owner, id).await?;
    for tail in ["a/b", "a/bc", "a/bc/d", "a/b-c/d", "a/c", "x"] {
        let key = trial.key(tail);
        other.put(&key, "outside").await?;
        other.delete(&key).await?;
    }
    let last = trial.key("a/b/last");
    other.put(&last, "inside").await?;
    settled(&owner, id, &prefix).await?;
    for event in owner.config.of(id) {
        let key = match &event {
            Event::Put(put) => &put.entry.key,
            Event::Removed(removed) => &removed.key,
            _ => continue,
        };
        ensure!(
            key.starts_with(&format!("{prefix}/")),
            "the target is what lies below {prefix}, and {key} is delivered"
        );
    }
    Ok(())
}

async fn final_state(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let prefix = trial.key("race");
    let id = owner.watch_below(&prefix).await?;
    let keys: Vec<String> = (0..20).map(|number| trial.key(&format!("race/{number}"))).collect();
    let writers = (0..10).map(|writer: usize| {
        let by = if writer.is_multiple_of(2) { &owner } else { &other };
        // Each writer takes the keys in another order.
        let mine = keys.iter().cycle().skip(writer * 7).step_by(3).take(100).enumerate();
        async move {
            for (number, key) in mine {
                if number % 10 == 3 {
                    by.raw.config_delete(call(), anything(key)).await?;
                } else {
                    by.put(key, format!("{writer}.{number}")).await?;
                }
            }
            Outcome::Ok(())
        }
    });
    try_join_all(writers).await?;
    settled(&owner, id, &prefix).await?;
    Ok(())
}

async fn no_going_back(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let prefix = trial.key("back");
    let id = owner.watch_below(&prefix).await?;
    let keys: Vec<String> = (0..4).map(|number| trial.key(&format!("back/{number}"))).collect();
    // One writer for each key: the order in which it got its versions is the order of the key.
    let written = try_join_all(keys.iter().map(|key| {
        let other = &other;
        async move {
            let mut versions = Vec::new();
            for number in 0..60 {
                versions.push(other.put(key, number.to_string()).await?);
            }
            Outcome::Ok(versions)
        }
    }))
    .await?;
    settled(&owner, id, &prefix).await?;
    for (key, versions) in keys.iter().zip(&written) {
        let mut newest = None;
        for event in owner.config.of(id) {
            let Event::Put(put) = event else { continue };
            if put.entry.key != *key {
                continue;
            }
            let version = put.entry.version;
            let place = versions.iter().position(|known| *known == version);
            ensure!(place.is_some(), "of {key} {version} was delivered, which no write answered");
            ensure!(
                place >= newest,
                "of {key} write number {newest:?} was delivered, and then {place:?} before it"
            );
            newest = place;
        }
    }
    Ok(())
}

/// Does `attempt` again when a `resync` came between, which excuses much: a plugin that always says it
/// delivers nothing.
macro_rules! without_resync {
    ($trial:ident, $attempt:path) => {{
        for round in 0..ATTEMPTS {
            if $attempt($trial, round).await? {
                return Ok(());
            }
        }
        Err(Stop::Broken(format!(
            "nobody read slowly and no network was cut, and each of {ATTEMPTS} watches told `resync`"
        )))
    }};
}

/// Watches of which one has to get along without a `resync`.
const ATTEMPTS: u32 = 3;

async fn order(trial: &mut Trial) -> Outcome {
    without_resync!(trial, in_order)
}

async fn in_order(trial: &mut Trial, round: u32) -> Outcome<bool> {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let prefix = trial.key(&format!("order-{round}"));
    let id = owner.watch_below(&prefix).await?;
    live(&owner, id).await?;
    // So that many events wait for one poll.
    owner.stop_fetching();
    let every_change = owner.has("watch.every-change");
    for number in (0..60).rev() {
        // Where writes may be coalesced, each key is written once: then nothing can be. The keys come
        // in another order than that of their names, which says nothing of when they were written.
        let key = if every_change { number % 3 } else { number };
        other.put(&format!("{prefix}/{key:02}"), format!("{number:02}")).await?;
    }
    owner.go_on_fetching();
    if settled(&owner, id, &prefix).await?.resyncs > 0 {
        return Ok(false);
    }
    let values: Vec<String> = owner.config.of(id).into_iter().filter_map(value).collect();
    ensure!(
        values.is_sorted_by(|earlier, later| earlier >= later),
        "59, 58 … 00 were written one after the other, and the values come as {values:?}"
    );
    Ok(true)
}

fn value(event: Event) -> Option<String> {
    match event {
        Event::Put(put) => Some(String::from_utf8_lossy(&put.entry.value).into_owned()),
        _ => None,
    }
}

async fn every_change(trial: &mut Trial) -> Outcome {
    without_resync!(trial, each_change)
}

async fn each_change(trial: &mut Trial, round: u32) -> Outcome<bool> {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let prefix = trial.key(&format!("every-{round}"));
    let id = owner.watch_below(&prefix).await?;
    live(&owner, id).await?;
    let mut expected = Vec::new();
    for number in 0..90 {
        let key = format!("{prefix}/{}", number % 4);
        if number % 15 == 14 {
            let outcome = other.raw.config_delete(call(), anything(&key)).await?;
            if matches!(outcome, pintle::direct::config::DeleteOutcome::Deleted(_)) {
                expected.push(format!("-{key}"));
            }
        } else {
            other.put(&key, number.to_string()).await?;
            expected.push(format!("{key}={number}"));
        }
    }
    if settled(&owner, id, &prefix).await?.resyncs > 0 {
        return Ok(false);
    }
    let told = changes_of(&owner, id);
    let differs = expected.iter().zip(&told).position(|(one, other)| one != other);
    let at = differs.unwrap_or(expected.len().min(told.len()));
    ensure!(
        told == expected,
        "{} changes were made, and {} delivered; number {at} was {:?} and came as {:?}",
        expected.len(),
        told.len(),
        expected.get(at),
        told.get(at)
    );
    Ok(true)
}

/// The puts and removals that were delivered, in short.
pub(super) fn changes_of(owner: &Owner, id: u64) -> Vec<String> {
    let is_change = |event: &Event| matches!(event, Event::Put(_) | Event::Removed(_));
    owner.config.of(id).iter().filter(|event| is_change(event)).filter_map(change).collect()
}

async fn previous(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let prefix = trial.key("previous");
    let key = trial.key("previous/x");
    let id = owner
        .watch_as(WatchRequest {
            target: Target::Prefix(prefix.clone()),
            from_version: None,
            previous: true,
            selectors: Vec::new(),
        })
        .await?;
    live(&owner, id).await?;
    // One change after the other, so that nothing is coalesced.
    let mut told = 0;
    let before = [None, Some("1"), Some("2"), None, Some("4")];
    for (number, before) in before.iter().enumerate() {
        if number == 2 || number == 4 {
            owner.delete(&key).await?;
        } else {
            owner.put(&key, (number + 1).to_string()).await?;
        }
        let found = owner
            .config
            .wait(id, SOON, "a change is delivered", |events| {
                let changes = events.iter().filter_map(|arrived| match &arrived.event {
                    Event::Put(put) => Some(put.previous.clone()),
                    Event::Removed(removed) => Some(removed.previous.clone()),
                    _ => None,
                });
                changes.skip(told).last()
            })
            .await?;
        told = owner
            .config
            .of(id)
            .iter()
            .filter(|event| matches!(event, Event::Put(_) | Event::Removed(_)))
            .count();
        let found = found.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
        ensure!(
            found.as_deref() == *before,
            "before change number {number} {key} held {before:?}, and its event says {found:?}"
        );
    }
    Ok(())
}

async fn from_version(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let prefix = trial.key("from");
    let key = |tail: &str| trial.key(&format!("from/{tail}"));
    owner.put(&key("before"), "x").await?;
    let version = owner.put(&key("at"), "x").await?;
    other.put(&key("after"), "1").await?;
    other.put(&key("after"), "2").await?;
    other.delete(&key("before")).await?;
    let id = owner
        .watch_as(WatchRequest {
            target: Target::Prefix(prefix.clone()),
            from_version: Some(version.clone()),
            previous: false,
            selectors: Vec::new(),
        })
        .await?;
    other.put(&key("live"), "3").await?;
    let told = owner
        .config
        .wait(id, SOON, "the changes after a version are delivered", |events| {
            let texts: Vec<String> = events.iter().filter_map(|it| change(&it.event)).collect();
            let live = texts.iter().any(|text| text.ends_with("live=3"));
            live.then_some(texts)
        })
        .await?;
    let expected = [
        format!("{}=1", key("after")),
        format!("{}=2", key("after")),
        format!("-{}", key("before")),
        format!("{}=3", key("live")),
    ];
    ensure!(told == expected, "after {version} came {expected:?}, and delivered are {told:?}");
    // A listing names a version that a watch may open from.
    let request = ListRequest {
        prefix: prefix.clone(),
        page: None,
        limit: 10,
        keys_only: true,
        options: owner.fresh(),
    };
    let version = owner.raw.config_list(call(), request).await?.version;
    ensure!(version.is_some(), "watches open from versions, and a listing names none");
    let id = owner
        .watch_as(WatchRequest {
            target: Target::Prefix(prefix),
            from_version: version,
            previous: false,
            selectors: Vec::new(),
        })
        .await?;
    other.put(&key("live"), "4").await?;
    owner
        .config
        .wait(id, SOON, "the first change after a listing is delivered", |events| {
            events.iter().find_map(|arrived| change(&arrived.event))
        })
        .await
        .and_then(|first| {
            let expected = format!("{}=4", key("live"));
            ensure!(first == expected, "after the listing came {expected}, and first is {first}");
            Ok(())
        })
}

/// A change in short; a snapshot's parts show as what they are.
pub(super) fn change(event: &Event) -> Option<String> {
    match event {
        Event::Put(put) => {
            Some(format!("{}={}", put.entry.key, String::from_utf8_lossy(&put.entry.value)))
        }
        Event::Removed(removed) => Some(format!("-{}", removed.key)),
        Event::SnapshotBegin => Some("snapshot-begin".to_owned()),
        Event::Resync(_) => Some("resync".to_owned()),
        Event::SnapshotEnd(_) | Event::Progress(_) => None,
        Event::Ended(error) => Some(format!("ended: {}", error.message)),
    }
}

async fn close(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let prefix = trial.key("close");
    let closed = owner.watch_below(&prefix).await?;
    let open = owner.watch_below(&prefix).await?;
    live(&owner, closed).await?;
    live(&owner, open).await?;
    owner.raw.config_close(closed)?;
    // Calls are taken in order, so this one is answered after the watch was closed; and a poll that
    // was pending by then ends with the next event.
    owner.put(&trial.key("close/first"), "x").await?;
    settled(&owner, open, &prefix).await?;
    let before = owner.config.count(closed);
    for number in 0..20 {
        owner.put(&trial.key(&format!("close/{number}")), "x").await?;
    }
    settled(&owner, open, &prefix).await?;
    let after = owner.config.count(closed);
    ensure!(
        after == before,
        "the watch was closed, and {} events of it came in polls that began later",
        after - before
    );
    owner.raw.config_close(closed)?;
    Ok(())
}

async fn slow_reader(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let prefix = trial.key("slow");
    let id = owner.watch_below(&prefix).await?;
    live(&owner, id).await?;
    owner.stop_fetching();
    let writers = (0..10).map(|writer: usize| {
        let other = &other;
        let keys: Vec<String> =
            (0..20).map(|key| trial.key(&format!("slow/{writer}-{key}"))).collect();
        async move {
            for round in 0..10 {
                for key in &keys {
                    other.put(key, round.to_string()).await?;
                }
            }
            Outcome::Ok(())
        }
    });
    try_join_all(writers).await?;
    owner.go_on_fetching();
    let view = settled(&owner, id, &prefix).await?;
    if owner.has("watch.every-change") && view.resyncs == 0 {
        let told = owner.config.of(id).into_iter().filter_map(value).count();
        ensure!(
            told == 2_000,
            "2,000 writes were made while the reader was away; {told} are delivered, and no \
             `resync` says that some are missing"
        );
    }
    Ok(())
}

async fn cut(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.owner("b").await?;
    let prefix = trial.key("cut");
    fill(&other, (0..10).map(|number| trial.key(&format!("cut/{number}")))).await?;
    let id = owner.watch_below(&prefix).await?;
    live(&owner, id).await?;
    for round in 0..3 {
        let (resyncs, told) = (view(&owner, id).resyncs, changes_of(&owner, id).len());
        let mut made = Vec::new();
        trial.note(format!("round {round}: the network of a is cut"));
        owner.faults.set(Weather::Cut);
        for number in 0..10 {
            // Come and gone while nobody could see it; what stays is told behind it.
            let passing = trial.key(&format!("cut/passing-{number}"));
            other.put(&passing, "x").await?;
            other.delete(&passing).await?;
            made.extend([format!("{passing}=x"), format!("-{passing}")]);
            let key = trial.key(&format!("cut/{number}"));
            if number % 3 == round {
                other.delete(&key).await?;
                made.push(format!("-{key}"));
            } else {
                let value = format!("{round}.{number}");
                other.put(&key, value.as_str()).await?;
                made.push(format!("{key}={value}"));
            }
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        trial.note("it is whole again");
        owner.faults.set(Weather::Clear);
        let known = settled_by(&owner, &other, id, &prefix, view).await?;
        if owner.has("watch.every-change") && known.resyncs == resyncs {
            let told = changes_of(&owner, id).split_off(told);
            ensure!(
                told == made,
                "while it was cut off these changes were made: {made:?}; delivered are {told:?}, \
                 and no `resync` says that some are missing"
            );
        }
    }
    Ok(())
}
