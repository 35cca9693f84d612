//! How the registry lists: names, pages, and how fresh.

use pintle::{
    Capability,
    direct::{Failure, types::Consistency},
};

use crate::{
    check::{Check, Need, Outcome, Stop, check, ensure},
    owner::{Owner, call, instance},
    trial::Trial,
};

pub(super) const CHECKS: &[Check] = &[
    check!(
        "registry.visible/names",
        names,
        "every name that a service or an instance can have comes back as itself"
    ),
    check!(
        "registry.visible/pages",
        pages,
        "services and instances come in pages, in order, each once"
    ),
    check!(
        "plugin.consistency/registry",
        consistency,
        "a sequential listing of instances sees the plugin's own registrations",
        needs Need::Capability(Capability::Registry)
    ),
];

/// Long enough to outlive a check.
const TTL_MS: u32 = 15_000;

async fn names(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let longest = format!("{}x", "ü".repeat(127));
    let mut ids = [
        "plain",
        "with space",
        "a/b",
        "/",
        "..",
        ".",
        "%2F",
        "%",
        "UPPER",
        "upper",
        "a:b;c=d&e?f#g",
        "quote'\"back\\slash",
        "*",
        "{brace}",
        "ünïcödé-鍵-🔑",
        " lead",
        "trail ",
        "~",
        "0",
        &longest,
    ];
    let service = trial.service("names");
    for id in ids {
        owner.register(instance(&service, id), TTL_MS).await?;
    }
    let mut listed: Vec<String> =
        other.instances(&service).await?.into_iter().map(|state| state.instance.id).collect();
    listed.sort_unstable();
    ids.sort_unstable();
    ensure!(listed == ids, "these are registered: {ids:?}; listed are {listed:?}");
    let mut services: Vec<String> =
        ids.iter().take(12).map(|tail| trial.service(&format!("of-{tail}"))).collect();
    let first = trial.service("of-");
    services.push(format!("{first}{}", "x".repeat(255 - first.len())));
    for service in &services {
        owner.register(instance(service, "x"), TTL_MS).await?;
        let listed = other.instances(service).await?;
        let found: Vec<&str> = listed.iter().map(|it| it.instance.service.as_str()).collect();
        ensure!(
            found == [service],
            "one instance of {service:?} is there, and listed are {found:?}"
        );
    }
    let known: Vec<String> = other.services().await?.into_iter().map(|it| it.name).collect();
    let missing: Vec<&String> = services.iter().filter(|name| !known.contains(name)).collect();
    ensure!(missing.is_empty(), "these services have an instance, and are not listed: {missing:?}");
    Ok(())
}

/// Follows pages of `limit` to their end: every name, and that no page is too long.
async fn follow<T, F>(limit: usize, mut ask: impl FnMut(Option<String>) -> F) -> Outcome<Vec<T>>
where
    F: Future<Output = Outcome<(Vec<T>, Option<String>)>>,
{
    let (mut all, mut page) = (Vec::new(), None);
    for _ in 0..1_000 {
        let (found, next) = ask(page).await?;
        ensure!(found.len() <= limit, "a page of at most {limit} has {}", found.len());
        all.extend(found);
        page = next;
        if page.is_none() {
            return Ok(all);
        }
    }
    Err(Stop::Broken("a listing did not end within 1,000 pages".into()))
}

async fn pages(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let service = trial.service("pages-0");
    let mut expected = Vec::new();
    for number in 0..7 {
        let id = format!("{number}");
        owner.register(instance(&service, &id), TTL_MS).await?;
        expected.push(id);
    }
    let others: Vec<String> =
        (1..5).map(|number| trial.service(&format!("pages-{number}"))).collect();
    for service in &others {
        owner.register(instance(service, "x"), TTL_MS).await?;
    }
    let (owner, service) = (&owner, &service);
    let ids: Vec<String> = follow(3, |page| async move {
        let freshest = owner.freshest();
        let listing = owner.raw.registry_instances(call(), service.clone(), page, 3, freshest);
        let found = listing.await?;
        Ok((found.instances.into_iter().map(|it| it.instance.id).collect(), found.next))
    })
    .await?;
    ensure!(ids == expected, "by pages of 3, {expected:?} are listed as {ids:?}");
    let names: Vec<String> = follow(2, |page| async move {
        let found = owner.raw.registry_services(call(), page, 2).await?;
        Ok((found.services.into_iter().map(|it| it.name).collect(), found.next))
    })
    .await?;
    ensure!(names.is_sorted(), "services come in the order of their bytes: {names:?}");
    for name in others.iter().chain([service]) {
        let times = names.iter().filter(|it| *it == name).count();
        ensure!(times == 1, "{name} has an instance, and by pages of 2 it comes {times} times");
    }
    Ok(())
}

/// The ids of a service, read in one way.
async fn ids(
    owner: &Owner,
    service: &str,
    consistency: Consistency,
) -> Result<Vec<String>, Failure> {
    let name = service.to_owned();
    let page = owner.raw.registry_instances(call(), name, None, 100, consistency).await?;
    Ok(page.instances.into_iter().map(|state| state.instance.id).collect())
}

async fn consistency(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let service = trial.service("fresh");
    let mut expected = Vec::new();
    for number in 0..9 {
        let id = number.to_string();
        owner.register(instance(&service, &id), TTL_MS).await?;
        expected.push(id);
        let seen = ids(&owner, &service, Consistency::Sequential).await?;
        ensure!(
            seen == expected,
            "the plugin itself registered {expected:?}, and its sequential listing shows {seen:?}"
        );
        match ids(&other, &service, Consistency::Linearizable).await {
            Ok(seen) => ensure!(
                seen == expected,
                "{expected:?} were registered before, and a linearizable listing shows {seen:?}"
            ),
            Err(Failure::Error(error)) if error.code == "unsupported" => {}
            Err(failure) => return Err(failure.into()),
        }
    }
    ids(&other, &service, Consistency::Any).await?;
    Ok(())
}
