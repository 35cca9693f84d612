//! How events reach the host: in polls, as proof that nothing is missing, with what was before.

use std::time::{Duration, Instant};

use futures::future::try_join;
use pintle::{
    Capability,
    direct::{Call, config, registry},
};

use super::{calls::MARGIN, config::fill, registry as instances, watch::live};
use crate::{
    check::{Check, Need, Outcome, SOON, check, ensure},
    owner::{Owner, instance},
    trial::Trial,
};

pub(super) const CHECKS: &[Check] = &[
    check!("watch.poll", poll, "a poll brings as many events as it may, at once, or none in time"),
    check!(
        "watch.progress",
        progress,
        "a watch that is quiet is told within 30 seconds that nothing is missing";
        slow
    ),
    check!(
        "watch.progress/registry",
        progress_of_instances,
        "so is a quiet watch on instances",
        needs Need::Capability(Capability::Registry);
        slow
    ),
    check!(
        "watch.previous/registry",
        previous_instance,
        "an event about an instance carries what was there just before",
        needs Need::Capability(Capability::Registry), Need::Feature("watch.previous")
    ),
];

/// The events of one poll that are about watch `id`, and how long it took.
async fn poll_once(
    owner: &Owner,
    id: u64,
    within: Duration,
    events_max: u32,
) -> Outcome<(Vec<config::Event>, Duration)> {
    let asked = Instant::now();
    let events = owner.raw.config_poll(Call::within(within), events_max).await?;
    let took = asked.elapsed();
    ensure!(
        u32::try_from(events.len()).is_ok_and(|len| len <= events_max),
        "a poll for at most {events_max} events brings {}",
        events.len()
    );
    ensure!(
        took < within + MARGIN,
        "a poll of {} ms took {} ms",
        within.as_millis(),
        took.as_millis()
    );
    Ok((events.into_iter().filter(|(of, _)| *of == id).map(|(_, event)| event).collect(), took))
}

async fn poll(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let key = |number: u32| trial.key(&format!("poll/{number:02}"));
    let id = owner.watch_below(&trial.key("poll")).await?;
    live(&owner, id).await?;
    // There is one poll at a time.
    owner.without_polls().await;
    fill(&owner, (1..=10).map(key)).await?;
    let mut puts = 0;
    let until = Instant::now() + SOON;
    while puts < 10 {
        let (events, _) = poll_once(&owner, id, Duration::from_secs(2), 3).await?;
        puts += events.iter().filter(|event| matches!(event, config::Event::Put(_))).count();
        ensure!(Instant::now() < until, "10 changes were made, and polls brought {puts} of them");
    }
    // What is not asked for any more must not come again.
    let (events, _) = poll_once(&owner, id, Duration::from_millis(600), 3).await?;
    let quiet = events.iter().all(|event| matches!(event, config::Event::Progress(_)));
    ensure!(quiet, "nothing was changed, and a poll brings {events:?}");
    let waiting = async {
        let began = Instant::now();
        loop {
            let (events, _) = poll_once(&owner, id, Duration::from_secs(8), 3).await?;
            if events.iter().any(|event| matches!(event, config::Event::Put(_))) {
                return Outcome::Ok(Instant::now());
            }
            ensure!(began.elapsed() < SOON, "a change was made, and polls do not bring it");
        }
    };
    let changing = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        fill(&owner, [key(11)]).await?;
        Outcome::Ok(Instant::now())
    };
    let (came, made) = try_join(waiting, changing).await?;
    let late = came.saturating_duration_since(made);
    ensure!(
        late < Duration::from_secs(2),
        "a poll was pending, and brought a change {} ms after it was made",
        late.as_millis()
    );
    Ok(())
}

/// How often a quiet watch is told, and what it takes to bring that.
const TOLD_WITHIN: Duration = Duration::from_secs(31);

async fn progress(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    fill(&owner, [trial.key("progress/x")]).await?;
    let id = owner.watch_below(&trial.key("progress")).await?;
    live(&owner, id).await?;
    let before = owner.config.count(id);
    owner
        .config
        .wait(id, TOLD_WITHIN, "a quiet watch is told that nothing is missing", |events| {
            let told = |event: &config::Event| matches!(event, config::Event::Progress(_));
            events.iter().skip(before).any(|arrived| told(&arrived.event)).then_some(())
        })
        .await
}

async fn progress_of_instances(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let id = instances::open(&owner, Some(trial.service("progress"))).await?;
    let before = owner.registry.count(id);
    owner
        .registry
        .wait(id, TOLD_WITHIN, "a quiet watch is told that nothing is missing", |events| {
            let told = |event: &registry::Event| matches!(event, registry::Event::Progress);
            events.iter().skip(before).any(|arrived| told(&arrived.event)).then_some(())
        })
        .await
}

async fn previous_instance(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let service = trial.service("previous");
    let id = instances::open(&owner, Some(service.clone())).await?;
    // The weight that each event says was there before; 0 where nothing was.
    let told = |count: usize| {
        let owner = &owner;
        async move {
            owner
                .registry
                .wait(id, SOON, "a change of an instance is delivered", |events| {
                    let weight = |it: &Option<registry::InstanceState>| {
                        it.as_ref().map_or(0, |state| state.instance.weight)
                    };
                    let changes = events.iter().filter_map(|arrived| match &arrived.event {
                        registry::Event::Put(put) => Some(weight(&put.previous)),
                        registry::Event::Removed(removed) => Some(weight(&removed.previous)),
                        _ => None,
                    });
                    let told: Vec<u32> = changes.collect();
                    (told.len() >= count).then_some(told)
                })
                .await
        }
    };
    let mut mine = instance(&service, "x");
    mine.weight = 1;
    let registration = owner.register(mine.clone(), 15_000).await?;
    told(1).await?;
    mine.weight = 2;
    owner.raw.registry_update(crate::owner::call(), registration, mine).await?;
    told(2).await?;
    owner.raw.registry_deregister(crate::owner::call(), registration).await?;
    let weights = told(3).await?;
    ensure!(
        weights == [0, 1, 2],
        "an instance came with weight 1, changed to 2, and went; before the three changes the \
         events have to say 0, 1 and 2, and say {weights:?}"
    );
    Ok(())
}
