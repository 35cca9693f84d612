//! The registry: who is there, whose name it is, and what operators say.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use pintle::direct::{
    Failure, Weather,
    registry::{AddOutcome, Event, Health, InstanceState, OperatorOverride, RemoveOutcome},
};

use crate::{
    check::{Check, Need, Outcome, SOON, Stop, check, ensure},
    owner::{OVERRULED, Owner, call, instance},
    trial::{Trial, eventually},
    view::{Step, View, instance_text},
};

pub(super) const CHECKS: &[Check] = &[
    check!(
        "registry.exclusive",
        exclusive,
        "of eight owners of one name exactly one is registered"
    ),
    check!("registry.no-takeover", no_takeover, "a name is never taken from a live owner"; slow),
    check!(
        "registry.visible",
        visible,
        "a registered instance is listed at once, as it describes itself"
    ),
    check!("registry.visible/update", update, "an update is seen, and a name cannot change"),
    check!("registry.deregister", deregister, "after deregistering an instance is not listed"),
    check!("registry.gone", gone, "an instance whose owner died is gone within its TTL",
        needs Need::Keeps),
    check!("registry.persistent", persistent, "an instance without a session stays until removed",
        needs Need::Feature("registry.persistent")),
    check!("registry.override", operator, "what an operator says stands beside what the instance says",
        needs Need::Feature("registry.override")),
    check!("registry.override-survives", survives, "an override outlives its instance until cleared",
        needs Need::Feature("registry.override")),
    check!("registry.health", health, "the backend says how an instance is",
        needs Need::Feature("registry.health")),
    check!(
        "registry.watch-snapshot",
        watch_snapshot,
        "a watch begins with every instance, each once"
    ),
    check!(
        "registry.watch-final-state",
        watch_final,
        "after much coming and going the final state is known"
    ),
    check!(
        "registry.watch-gap-marked",
        slow_reader,
        "a reader of instances that falls behind misses nothing without being told"
    ),
    check!(
        "registry.watch-gap-marked/cut",
        cut,
        "what came and went while the network was cut is known, or the gap is marked",
        needs Need::Network, Need::Shares
    ),
];

/// Long enough to outlive a check.
const TTL_MS: u32 = 15_000;
/// The shortest TTL that there is.
const SHORT_TTL_MS: u32 = 2_000;

async fn exclusive(trial: &mut Trial) -> Outcome {
    let owners = trial.contenders::<8>().await?;
    let [owner, ..] = &owners;
    let service = trial.service("exclusive");
    for round in 0..5 {
        let id = round.to_string();
        let attempts = owners.iter().enumerate().map(|(number, owner)| {
            let mut mine = instance(&service, &id);
            mine.host = format!("host-{number}");
            async move { owner.try_register(mine, TTL_MS).await.map(|it| (number, it)) }
        });
        let outcomes = try_join_all(attempts).await?;
        let winners: Vec<usize> = outcomes
            .iter()
            .filter_map(|(number, outcome)| outcome.is_ok().then_some(*number))
            .collect();
        let [winner] = winners.as_slice() else {
            return Err(Stop::Broken(format!(
                "eight registered {service}/{id} at once; registered are numbers {winners:?}"
            )));
        };
        let listed = owner.find(&service, &id).await?.map(|state| state.instance.host);
        ensure!(
            listed.as_deref() == Some(&format!("host-{winner}")),
            "number {winner} is registered, and listed is {listed:?}"
        );
    }
    Ok(())
}

async fn no_takeover(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let service = trial.service("takeover");
    let id = owner.register(instance(&service, "x"), SHORT_TTL_MS).await?;
    // Longer than the TTL: only renewing keeps the name.
    let until = Instant::now() + owner.patience(Duration::from_millis(3_200), SHORT_TTL_MS);
    while Instant::now() < until {
        let outcome = other.try_register(instance(&service, "x"), SHORT_TTL_MS).await?;
        let Err(state) = outcome else {
            return Err(Stop::Broken("the owner lives, and another got its name".into()));
        };
        ensure!(
            state.instance.id == "x" && state.ephemeral,
            "taken names the owner's instance; it names {state:?}"
        );
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    let events = owner.registry.of(id);
    let bad = events.iter().find(|it| matches!(it, Event::Lost(_) | Event::Taken(_)));
    ensure!(bad.is_none(), "the owner lives, and is told {bad:?}");
    Ok(())
}

async fn visible(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    for number in 0..10 {
        let service = trial.service(&format!("visible-{}", number % 2));
        let mut mine = instance(&service, &format!("id {number} ü"));
        mine.labels.push(("tier".into(), "front é".into()));
        mine.enabled = number % 3 != 0;
        mine.weight = number * 7;
        mine.zone = (number % 2 == 0).then(|| "eu".to_owned());
        owner.register(mine.clone(), TTL_MS).await?;
        let found = other.find(&service, &mine.id).await?;
        let found = found.ok_or_else(|| {
            Stop::Broken(format!("{service}/{} is registered, and not listed", mine.id))
        })?;
        let (mut told, mut meant) = (found.instance.clone(), mine);
        told.labels.sort();
        meant.labels.sort();
        ensure!(
            format!("{told:?}") == format!("{meant:?}"),
            "it registered as {meant:?}, and is listed as {told:?}"
        );
        ensure!(found.ephemeral, "a registered instance is ephemeral, and listed as not");
    }
    let services = other.services().await?;
    ensure!(
        services.is_sorted_by(|one, next| one.name < next.name),
        "services come in the order of their bytes, once each; these do not: {services:?}"
    );
    for number in 0..2 {
        let name = trial.service(&format!("visible-{number}"));
        let count = services.iter().find(|it| it.name == name).map(|it| it.instances);
        ensure!(count == Some(5), "{name} has 5 instances, and the services say {count:?}");
    }
    Ok(())
}

async fn update(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let service = trial.service("update");
    let mut mine = instance(&service, "x");
    let id = owner.register(mine.clone(), TTL_MS).await?;
    mine.enabled = false;
    mine.weight = 7;
    owner.raw.registry_update(call(), id, mine.clone()).await?;
    let found = other.find(&service, "x").await?;
    let told = found.map(|state| (state.instance.enabled, state.instance.weight));
    ensure!(told == Some((false, 7)), "updated to disabled and 7, and listed as {told:?}");
    mine.id = "y".into();
    let renamed = owner.raw.registry_update(call(), id, mine).await;
    ensure!(
        matches!(&renamed, Err(Failure::Error(error)) if error.code == "invalid"),
        "a name cannot change, and an update that changes it answers {renamed:?}"
    );
    Ok(())
}

async fn deregister(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let service = trial.service("deregister");
    let id = owner.register(instance(&service, "x"), TTL_MS).await?;
    owner.raw.registry_deregister(call(), id).await?;
    let found = other.find(&service, "x").await?;
    ensure!(found.is_none(), "it was deregistered, and is listed as {found:?}");
    let again = owner.raw.registry_deregister(call(), id).await;
    ensure!(again.is_ok(), "deregistering is idempotent, and a second time answers {again:?}");
    other.register(instance(&service, "x"), TTL_MS).await?;
    // `close` does the same without waiting.
    let closed = owner.register(instance(&service, "y"), TTL_MS).await?;
    owner.raw.registry_close(closed)?;
    eventually("a closed registration is not listed any more", SOON, || async {
        Ok(other.find(&service, "y").await?.is_none().then_some(()))
    })
    .await
}

async fn gone(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let service = trial.service("gone");
    owner.register(instance(&service, "x"), SHORT_TTL_MS).await?;
    owner.kill().await;
    // Another host, which knows nothing of the one that died.
    let other = trial.owner("b").await?;
    let what = format!(
        "an instance of a TTL of {} ms is gone after its owner died",
        other.ttl_ms(SHORT_TTL_MS)
    );
    eventually(&what, other.patience(Duration::from_secs(5), SHORT_TTL_MS), || async {
        Ok(other.find(&service, "x").await?.is_none().then_some(()))
    })
    .await?;
    other.register(instance(&service, "x"), SHORT_TTL_MS).await?;
    Ok(())
}

async fn persistent(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let service = trial.service("persistent");
    let add = |owner: Arc<Owner>, weight: u32, replace: bool| {
        let mut it = instance(&service, "x");
        it.weight = weight;
        async move { Outcome::Ok(owner.raw.registry_add(call(), it, replace).await?) }
    };
    let weight = |state: Option<InstanceState>| state.map(|state| state.instance.weight);
    let first = add(Arc::clone(&owner), 1, false).await?;
    ensure!(matches!(first, AddOutcome::Stored), "the name is free, and an add answers {first:?}");
    let second = add(Arc::clone(&owner), 2, false).await?;
    let now = weight(owner.find(&service, "x").await?);
    ensure!(
        matches!(second, AddOutcome::Taken(_)) && now == Some(1),
        "it exists and is not to be replaced; an add answers {second:?}, and its weight is {now:?}"
    );
    let third = add(Arc::clone(&owner), 3, true).await?;
    let found = owner.find(&service, "x").await?;
    let ephemeral = found.as_ref().map(|state| state.ephemeral);
    ensure!(
        matches!(third, AddOutcome::Stored) && weight(found) == Some(3) && ephemeral == Some(false),
        "it is to be replaced; an add answers {third:?}, and it is listed as ephemeral {ephemeral:?}"
    );
    let owner = if trial.subject.keeps() {
        owner.kill().await;
        trial.owner("later").await?
    } else {
        owner
    };
    let now = weight(owner.find(&service, "x").await?);
    ensure!(now == Some(3), "no session keeps it, and after its maker died its weight is {now:?}");
    let remove = |id: &str| owner.raw.registry_remove(call(), service.clone(), id.to_owned());
    let removed = remove("x").await?;
    ensure!(removed == RemoveOutcome::Removed, "it is there, and a remove answers {removed:?}");
    let absent = remove("x").await?;
    ensure!(absent == RemoveOutcome::Absent, "it is removed, and a remove answers {absent:?}");
    owner.register(instance(&service, "live"), TTL_MS).await?;
    let live = remove("live").await?;
    ensure!(
        live == RemoveOutcome::Ephemeral && owner.find(&service, "live").await?.is_some(),
        "a live owner keeps it, and a remove answers {live:?}"
    );
    Ok(())
}

fn saying(enabled: Option<bool>, weight: Option<u32>) -> OperatorOverride {
    OperatorOverride { enabled, weight, note: "the suite".to_owned() }
}

async fn operator(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let service = trial.service("operator");
    let mine = instance(&service, OVERRULED);
    owner.register(mine.clone(), TTL_MS).await?;
    let set = |operator| {
        other.raw.registry_set_override(call(), service.clone(), OVERRULED.into(), operator)
    };
    set(Some(saying(Some(false), Some(5)))).await?;
    let found = owner.find(&service, OVERRULED).await?;
    let found = found.ok_or_else(|| Stop::Broken("with an override it is not listed".into()))?;
    let said = found.operator.map(|it| (it.enabled, it.weight, it.note));
    ensure!(
        said == Some((Some(false), Some(5), "the suite".into())),
        "an operator said disabled and 5, and listed is {said:?}"
    );
    let own = (found.instance.enabled, found.instance.weight);
    ensure!(
        own == (mine.enabled, mine.weight),
        "the instance says {:?} of itself, and with an override it is listed as saying {own:?}",
        (mine.enabled, mine.weight)
    );
    set(None).await?;
    let said = owner.find(&service, OVERRULED).await?.and_then(|state| state.operator);
    ensure!(said.is_none(), "the override was cleared, and listed is {said:?}");
    Ok(())
}

async fn survives(trial: &mut Trial) -> Outcome {
    let mut owner = trial.owner("a").await?;
    let service = trial.service("survives");
    // Before there is any such instance.
    let operator = Some(saying(Some(false), None));
    owner.raw.registry_set_override(call(), service.clone(), OVERRULED.into(), operator).await?;
    for round in 0..3 {
        let id = owner.register(instance(&service, OVERRULED), SHORT_TTL_MS).await?;
        let found = owner.find(&service, OVERRULED).await?.and_then(|state| state.operator);
        let said = found.map(|operator| operator.enabled);
        ensure!(
            said == Some(Some(false)),
            "an operator disabled it before; in its life number {round} it is listed with {said:?}"
        );
        owner.raw.registry_deregister(call(), id).await?;
        if round == 1 && trial.subject.keeps() {
            owner.kill().await;
            owner = trial.owner("later").await?;
        }
    }
    owner.raw.registry_set_override(call(), service.clone(), OVERRULED.into(), None).await?;
    owner.register(instance(&service, OVERRULED), TTL_MS).await?;
    let found = owner.find(&service, OVERRULED).await?.and_then(|state| state.operator);
    ensure!(found.is_none(), "the override was cleared, and listed is {found:?}");
    Ok(())
}

async fn health(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let service = trial.service("health");
    owner.register(instance(&service, "x"), TTL_MS).await?;
    eventually("the backend's probes say how an instance is", SOON, || async {
        let found = owner.find(&service, "x").await?.map(|state| state.health);
        Ok(found.filter(|health| *health != Health::Unknown).map(drop))
    })
    .await
}

fn view(owner: &Owner, id: u64) -> View {
    View::after(owner.registry.of(id).iter().map(Step::from))
}

pub(super) async fn open(owner: &Owner, service: Option<String>) -> Outcome<u64> {
    let id = owner.id();
    owner.raw.registry_watch(call(), id, service).await?;
    owner
        .registry
        .wait(id, SOON, "the first snapshot of instances ends", |events| {
            events.iter().any(|it| matches!(it.event, Event::SnapshotEnd)).then_some(())
        })
        .await?;
    Ok(id)
}

/// Waits until the view of a watch equals what `lister` sees, and no rule was broken.
pub(super) async fn settled(
    owner: &Owner,
    id: u64,
    lister: &Owner,
    service: &str,
) -> Outcome<View> {
    let states = lister.instances(service).await?;
    let expected: BTreeMap<String, String> = states
        .into_iter()
        .map(|state| (format!("{service}/{}", state.instance.id), instance_text(&state)))
        .collect();
    let what = format!("a watch knows the {} instances that are listed", expected.len());
    eventually(&what, SOON, || async {
        let view = view(owner, id);
        let wrong = view.wrong.first();
        ensure!(wrong.is_none(), "{}", wrong.cloned().unwrap_or_default());
        Ok((view.live && view.state == expected).then_some(view))
    })
    .await
}

async fn watch_snapshot(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let (service, other) = (trial.service("watched"), trial.service("watched-not"));
    for number in 0..6 {
        owner.register(instance(&service, &number.to_string()), TTL_MS).await?;
    }
    owner.register(instance(&other, "x"), TTL_MS).await?;
    let one = open(&owner, Some(service.clone())).await?;
    settled(&owner, one, &owner, &service).await?;
    let all = open(&owner, None).await?;
    let known = view(&owner, all);
    ensure!(known.wrong.is_empty(), "{}", known.wrong.join("; "));
    for key in [format!("{service}/0"), format!("{service}/5"), format!("{other}/x")] {
        ensure!(
            known.state.contains_key(&key),
            "{key} is registered, and the snapshot of all services does not show it"
        );
    }
    let nothing = open(&owner, Some(trial.service("nothing"))).await?;
    let known = view(&owner, nothing).state;
    ensure!(known.is_empty(), "a service without instances has a snapshot of {known:?}");
    Ok(())
}

async fn watch_final(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let service = trial.service("final");
    let id = open(&owner, Some(service.clone())).await?;
    let coming_and_going = (0..6).map(|number: u32| {
        let (other, service) = (&other, &service);
        async move {
            for round in 0..5 {
                let mut it = instance(service, &number.to_string());
                let registration = other.register(it.clone(), TTL_MS).await?;
                it.weight = round;
                other.raw.registry_update(call(), registration, it).await?;
                if round < 4 || number.is_multiple_of(2) {
                    other.raw.registry_deregister(call(), registration).await?;
                }
            }
            Outcome::Ok(())
        }
    });
    try_join_all(coming_and_going).await?;
    settled(&owner, id, &other, &service).await?;
    Ok(())
}

async fn slow_reader(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let service = trial.service("slow");
    let id = open(&owner, Some(service.clone())).await?;
    trial.note("a does not fetch events for a while");
    owner.stop_fetching();
    // More changes than plugins keep for one reader.
    let changing = (0..10).map(|number: u32| {
        let (other, mut it) = (&other, instance(&service, &number.to_string()));
        async move {
            let registration = other.register(it.clone(), TTL_MS).await?;
            for weight in 0..120 {
                it.weight = weight;
                other.raw.registry_update(call(), registration, it.clone()).await?;
            }
            Outcome::Ok(())
        }
    });
    try_join_all(changing).await?;
    owner.go_on_fetching();
    settled(&owner, id, &other, &service).await?;
    Ok(())
}

async fn cut(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.owner("b").await?;
    let service = trial.service("cut");
    let gone = other.register(instance(&service, "gone"), TTL_MS).await?;
    let mut stays = instance(&service, "stays");
    let registration = other.register(stays.clone(), TTL_MS).await?;
    let id = open(&owner, Some(service.clone())).await?;
    for weight in 1..=2 {
        trial.note("the network of a is cut");
        owner.faults.set(Weather::Cut);
        stays.weight = weight;
        other.raw.registry_update(call(), registration, stays.clone()).await?;
        other.raw.registry_deregister(call(), gone).await?;
        other.register(instance(&service, &format!("new-{weight}")), TTL_MS).await?;
        tokio::time::sleep(Duration::from_millis(400)).await;
        trial.note("it is whole again");
        owner.faults.set(Weather::Clear);
        settled(&owner, id, &other, &service).await?;
    }
    Ok(())
}
