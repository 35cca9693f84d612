//! Locks: who holds, who waits, and what tokens say.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::{try_join, try_join_all};
use pintle::direct::{
    Failure,
    lock::{AcquireRequest, Event, Mode},
};

use crate::{
    check::{Check, Need, Outcome, SOON, Stop, check, ensure},
    owner::{Grant, Owner, asking, call},
    trial::{Trial, eventually},
};

pub(super) const CHECKS: &[Check] = &[
    check!("lock.exclusive", exclusive, "of eight contenders never two hold the lock at once"),
    check!(
        "lock.exclusive/renewed",
        renewed,
        "a lease is held beyond its TTL while its holder lives";
        slow
    ),
    check!("lock.token", token, "a later holder has a higher token"),
    check!("lock.token/restart", token_restart, "tokens rise over a crash of the plugin",
        needs Need::Keeps),
    check!("lock.wait", wait, "a waiter gets the lock when it becomes free"),
    check!(
        "lock.wait/timed",
        wait_timed,
        "who waits in vain is told who holds it, when its time is up"
    ),
    check!("lock.release", release, "a release lets the next one in, and a second answers false"),
    check!("lock.release-own", release_own, "a late release takes nothing from the next holder"),
    check!("lock.inspect", inspect, "a lock's holder is named, with mode, token and owner"),
    check!(
        "lock.inspect/list",
        list,
        "every lock below a prefix that somebody holds is listed, in pages, under its own name"
    ),
    check!("lock.waiters", waiters, "those who wait are listed in their order",
        needs Need::Feature("lock.waiters")),
    check!("lock.shared", shared, "shared leases exclude exclusive ones, and nothing else",
        needs Need::Feature("lock.shared")),
    check!("lock.permits", permits, "there are never more holders than permits",
        needs Need::Feature("lock.permits")),
];

/// The shortest TTL that there is.
const TTL_MS: u32 = 2_000;

async fn exclusive(trial: &mut Trial) -> Outcome {
    let owners = trial.contenders::<8>().await?;
    let name = trial.key("exclusive");
    let holding = AtomicU32::new(0);
    let contend = owners.iter().enumerate().map(|(number, owner)| {
        let (name, holding) = (name.clone(), &holding);
        async move {
            for _ in 0..4 {
                let request =
                    AcquireRequest { wait_ms: 20_000, owner: number.to_string(), ..asking(&name) };
                let grant = owner.acquire(request).await?.map_err(|claims| {
                    // Whether it comes to who waits is another promise.
                    Stop::Unclear(format!(
                        "contender {number} waited 20 s for others to hold the lock in turn: {claims:?}"
                    ))
                })?;
                let others = holding.fetch_add(1, Ordering::SeqCst);
                ensure!(
                    others == 0,
                    "contender {number} was granted the lock while {others} held it"
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
                holding.fetch_sub(1, Ordering::SeqCst);
                ensure!(
                    owner.release(&grant).await?,
                    "a lease that is held is released as not held"
                );
            }
            Outcome::Ok(())
        }
    });
    try_join_all(contend).await?;
    Ok(())
}

async fn renewed(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let name = trial.key("renewed");
    let grant = owner.hold(AcquireRequest { ttl_ms: TTL_MS, ..asking(&name) }).await?;
    let until = Instant::now() + owner.patience(Duration::from_millis(4_500), TTL_MS);
    while Instant::now() < until {
        if let Ok(second) = other.acquire(asking(&name)).await? {
            return Err(Stop::Broken(format!(
                "the holder lives and has not released; another was granted {:?}",
                second.lease
            )));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let events = owner.lock.of(grant.id);
    let lost = events.iter().find(|event| matches!(event, Event::Lost(_)));
    ensure!(lost.is_none(), "the holder lives, and its lease is reported {lost:?}");
    ensure!(
        events.iter().any(|event| matches!(event, Event::Renewed(_))),
        "a lease was held for more than twice its TTL, and no renewal was reported"
    );
    Ok(())
}

/// Epoch and value of the token of an exclusive lease.
pub(super) fn value_of(grant: &Grant) -> Outcome<(String, u64)> {
    let token = grant.lease.token.clone();
    let token = token.ok_or_else(|| Stop::Broken("an exclusive lease has no token".into()))?;
    Ok((token.epoch, token.value))
}

async fn token(trial: &mut Trial) -> Outcome {
    let owners = trial.contenders::<3>().await?;
    let name = trial.key("token");
    let mut before: Option<(String, u64)> = None;
    for round in 0..12 {
        let Some(owner) = owners.get(round % owners.len()) else { break };
        let grant = owner.hold(AcquireRequest { wait_ms: 5_000, ..asking(&name) }).await?;
        let now = value_of(&grant)?;
        if let Some(before) = &before {
            ensure!(
                now.0 == before.0 && now.1 > before.1,
                "the holder before had {before:?}, and a later one has {now:?}"
            );
        }
        before = Some(now);
        owner.release(&grant).await?;
    }
    Ok(())
}

async fn token_restart(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let name = trial.key("token");
    let grant = owner.hold(AcquireRequest { ttl_ms: TTL_MS, ..asking(&name) }).await?;
    let before = value_of(&grant)?;
    owner.kill().await;
    let later = trial.successor("later", &owner).await?;
    let wait_ms = later.wait_ms(8_000, TTL_MS);
    let grant = later.hold(AcquireRequest { wait_ms, ..asking(&name) }).await?;
    let now = value_of(&grant)?;
    ensure!(
        now.0 == before.0 && now.1 > before.1,
        "before the crash the token was {before:?}, and after it {now:?}"
    );
    Ok(())
}

async fn wait(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let name = trial.key("wait");
    let grant = owner.hold(asking(&name)).await?;
    let waiting = async {
        let request = AcquireRequest { wait_ms: 10_000, ..asking(&name) };
        let second = other.hold(request).await?;
        Outcome::Ok((Instant::now(), second))
    };
    let releasing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        owner.release(&grant).await?;
        Outcome::Ok(Instant::now())
    };
    let ((granted, second), released) = try_join(waiting, releasing).await?;
    let late = granted.saturating_duration_since(released);
    ensure!(
        late < Duration::from_secs(2),
        "the lock became free, and the waiter got it {} ms later",
        late.as_millis()
    );
    other.release(&second).await?;
    Ok(())
}

async fn wait_timed(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let name = trial.key("timed");
    let grant = owner.hold(AcquireRequest { owner: "holder".into(), ..asking(&name) }).await?;
    for wait_ms in [0, 700] {
        let asked = Instant::now();
        let outcome = other.acquire(AcquireRequest { wait_ms, ..asking(&name) }).await?;
        let took = asked.elapsed();
        let Err(claims) = outcome else {
            return Err(Stop::Broken(format!(
                "the lock is held, and an acquire answers {outcome:?}"
            )));
        };
        ensure!(
            claims.iter().any(|claim| claim.owner == "holder"),
            "`holder` holds the lock, and who waited in vain is told {claims:?}"
        );
        let wait = Duration::from_millis(wait_ms.into());
        ensure!(
            took + Duration::from_millis(50) >= wait && took < wait + Duration::from_millis(1_500),
            "asked to wait {wait_ms} ms, it answers busy after {} ms",
            took.as_millis()
        );
    }
    let state = owner.inspect(&name).await?;
    ensure!(
        state.waiters.is_empty() && state.holders.len() == 1,
        "nobody waits any more, and the lock shows {state:?}"
    );
    owner.release(&grant).await?;
    Ok(())
}

async fn release(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let name = trial.key("release");
    let grant = owner.hold(asking(&name)).await?;
    let busy = other.acquire(asking(&name)).await?;
    ensure!(busy.is_err(), "the lock is held, and another is granted {busy:?}");
    ensure!(owner.release(&grant).await?, "the lease is held, and its release answers false");
    let second = other.hold(asking(&name)).await?;
    let again = owner.release(&grant).await?;
    ensure!(!again, "the lease was released before, and a second release answers true");
    let never = owner.raw.lock_release(call(), u64::MAX).await;
    let harmless = match &never {
        Ok(released) => !released,
        Err(Failure::Error(error)) => error.code == "invalid",
        Err(_) => false,
    };
    ensure!(harmless, "a lease of this number never was, and its release answers {never:?}");
    other.release(&second).await?;
    Ok(())
}

async fn release_own(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let name = trial.key("own");
    let grant = owner.hold(asking(&name)).await?;
    owner.release(&grant).await?;
    let second = other.hold(AcquireRequest { owner: "next".into(), ..asking(&name) }).await?;
    let late = owner.release(&grant).await?;
    ensure!(!late, "the lease was released long ago, and a late release answers true");
    owner.raw.lock_close(grant.id)?;
    // Answered after the close, which is taken in order.
    let third = owner.acquire(asking(&name)).await?;
    ensure!(third.is_err(), "a late release let {third:?} in beside the next holder");
    let state = other.inspect(&name).await?;
    ensure!(
        state.holders.iter().any(|claim| claim.owner == "next"),
        "`next` holds the lock, and after a late release of another's lease it shows {state:?}"
    );
    ensure!(other.release(&second).await?, "the next holder's lease is gone");
    Ok(())
}

async fn inspect(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let name = trial.key("inspect/x");
    let free = other.inspect(&name).await?;
    ensure!(free.holders.is_empty(), "nobody holds the lock, and it shows {free:?}");
    let grant = owner.hold(AcquireRequest { owner: "me".into(), ..asking(&name) }).await?;
    let state = other.inspect(&name).await?;
    let [claim] = state.holders.as_slice() else {
        return Err(Stop::Broken(format!("one holds the lock, and it shows {state:?}")));
    };
    let told = (claim.owner.as_str(), &claim.mode, &claim.token);
    ensure!(
        claim.owner == "me"
            && matches!(claim.mode, Mode::Exclusive)
            && same_token(&claim.token, &grant.lease.token),
        "`me` holds it exclusively with {:?}; told is {told:?}",
        grant.lease.token
    );
    let page = other.raw.lock_list(call(), trial.key("inspect"), None, 10).await?;
    ensure!(page.names == [name.clone()], "one lock is held, and listed are {:?}", page.names);
    owner.release(&grant).await?;
    eventually("a free lock is not listed any more", SOON, || async {
        let page = other.raw.lock_list(call(), trial.key("inspect"), None, 10).await?;
        Ok(page.names.is_empty().then_some(()))
    })
    .await
}

async fn list(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let prefix = trial.key("list");
    let rest = 1_024 - prefix.len();
    // In segments that every server takes.
    let longest: String = (1..rest).map(|at| if at % 100 == 0 { '/' } else { 'x' }).collect();
    let tails = ["a", "b/c", "b", "ünï-鍵", "%2E%2E", "100%25", "UPPER", "upper", "z z", &longest];
    let mut inside: Vec<String> =
        tails.iter().map(|tail| format!("{prefix}/{}", tail.trim_end_matches('/'))).collect();
    let outside = [prefix.clone(), trial.key("listing/x"), trial.key("lis")];
    let mut grants = Vec::new();
    for name in inside.iter().chain(&outside) {
        grants.push(owner.hold(asking(name)).await?);
    }
    let (mut listed, mut page) = (Vec::new(), None);
    for _ in 0..100 {
        let found = other.raw.lock_list(call(), prefix.clone(), page, 3).await?;
        ensure!(found.names.len() <= 3, "a page of at most 3 locks has {:?}", found.names);
        listed.extend(found.names);
        page = found.next;
        if page.is_none() {
            break;
        }
    }
    listed.sort_unstable();
    inside.sort_unstable();
    ensure!(
        listed == inside,
        "below {prefix} these are held: {inside:?}; by pages of 3 are listed {listed:?}"
    );
    for grant in &grants {
        ensure!(owner.release(grant).await?, "a lease is held, and its release answers false");
    }
    Ok(())
}

fn same_token(
    one: &Option<pintle::direct::lock::Token>,
    other: &Option<pintle::direct::lock::Token>,
) -> bool {
    let plain = |token: &Option<pintle::direct::lock::Token>| {
        token.as_ref().map(|token| (token.epoch.clone(), token.value))
    };
    plain(one) == plain(other)
}

async fn waiters(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let name = trial.key("waiters");
    let grant = owner.hold(asking(&name)).await?;
    let wait = |who: &str| {
        let request = AcquireRequest { wait_ms: 8_000, owner: who.to_owned(), ..asking(&name) };
        let other = &other;
        async move {
            let grant = other.hold(request).await?;
            other.release(&grant).await?;
            Outcome::Ok(())
        }
    };
    let listed = |expected: &'static [&'static str]| {
        let (owner, name) = (&owner, &name);
        async move {
            eventually("those who wait are listed", Duration::from_secs(5), || async {
                let waiters = owner.inspect(name).await?.waiters;
                let names: Vec<&str> = waiters.iter().map(|claim| claim.owner.as_str()).collect();
                Ok((names == expected).then_some(()))
            })
            .await
        }
    };
    let second = async {
        listed(&["first"]).await?;
        wait("second").await
    };
    let releasing = async {
        listed(&["first", "second"]).await?;
        owner.release(&grant).await?;
        Outcome::Ok(())
    };
    futures::future::try_join3(wait("first"), second, releasing).await?;
    Ok(())
}

async fn shared(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let name = trial.key("shared");
    let as_shared = || AcquireRequest { mode: Mode::Shared, ..asking(&name) };
    let first = owner.hold(as_shared()).await?;
    let second = other.hold(as_shared()).await?;
    let third = owner.hold(as_shared()).await?;
    let busy = other.acquire(asking(&name)).await?;
    ensure!(busy.is_err(), "three share the lock, and an exclusive lease is granted: {busy:?}");
    for (owner, grant) in [(&owner, &first), (&other, &second), (&owner, &third)] {
        ensure!(
            owner.release(grant).await?,
            "a shared lease is held, and its release answers false"
        );
    }
    let alone = other.hold(AcquireRequest { wait_ms: 2_000, ..asking(&name) }).await?;
    let busy = owner.acquire(as_shared()).await?;
    ensure!(busy.is_err(), "the lock is held exclusively, and a shared lease is granted: {busy:?}");
    other.release(&alone).await?;
    Ok(())
}

async fn permits(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let name = trial.key("permits");
    let one = || AcquireRequest { mode: Mode::Permit(3), ..asking(&name) };
    let attempts = (0..8).map(|number| {
        let owner = if number % 2 == 0 { &owner } else { &other };
        let request = one();
        async move { owner.acquire(request).await.map(|outcome| (owner, outcome)) }
    });
    let outcomes = try_join_all(attempts).await?;
    let held: Vec<(&Arc<Owner>, Grant)> = outcomes
        .into_iter()
        .filter_map(|(owner, outcome)| outcome.ok().map(|grant| (owner, grant)))
        .collect();
    ensure!(
        held.len() == 3,
        "of eight who asked at once for one of 3 permits {} hold one",
        held.len()
    );
    let fourth = owner.acquire(one()).await?;
    ensure!(fourth.is_err(), "3 of 3 permits are held, and another is granted: {fourth:?}");
    if let Some((owner, grant)) = held.first() {
        owner.release(grant).await?;
    }
    let fourth = other.hold(AcquireRequest { wait_ms: 2_000, ..one() }).await?;
    for (owner, grant) in held.iter().skip(1) {
        owner.release(grant).await?;
    }
    other.release(&fourth).await?;
    Ok(())
}
