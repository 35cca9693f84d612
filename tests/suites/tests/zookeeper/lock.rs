//! Locks, shared with others that follow the same recipe.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt as _;
use pintle::config::{Put, PutOutcome};
use pintle::lock::{AcquireOutcome, Lease, LeaseStatus, LockRequest, Mode};
use pintle_test_proxy::{Action, Cut, Fault, Rule};
use pintle_test_suites::within;
use zookeeper_client::{Acls, Client, CreateMode};

use crate::support::{Host, create, eventually, other_client, reply_to_done};

const TTL: Duration = Duration::from_secs(2);

fn request(name: &str) -> LockRequest {
    LockRequest::new(name).ttl(TTL)
}

fn waiting(name: &str) -> LockRequest {
    request(name).wait(Duration::from_secs(15))
}

async fn is_busy(host: &Host, name: &str) -> Result<bool> {
    let outcome = host.pintle.lock("main")?.acquire(request(name)).await?;
    Ok(matches!(outcome, AcquireOutcome::Busy(_)))
}

async fn claims(other: &Client, root: &str, name: &str) -> Result<Vec<String>> {
    let path = format!("{root}/.pintle/v1/locks/{name}");
    match other.list_children(&path).await {
        Ok(claims) => Ok(claims),
        Err(zookeeper_client::Error::NoNode) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_excludes_other_hosts_and_its_tokens_rise() -> Result<()> {
    let (one, two) = (Host::at("/lock-two").await?, Host::at("/lock-two").await?);
    let mut last: Option<u64> = None;
    for round in 0..6 {
        let (holder, other) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let lease = holder.acquire(request("job/nightly").owner("holder")).await?;
        let token = lease.token().context("no token")?;
        assert!(last.is_none_or(|last| last < token.value), "{last:?} before {token:?}");
        last = Some(token.value);
        let outcome = other.pintle.lock("main")?.acquire(request("job/nightly")).await?;
        let AcquireOutcome::Busy(holders) = outcome else { bail!("two hold it") };
        assert_eq!(holders[0].owner, "holder");
        assert_eq!(holders[0].token.as_ref(), Some(token));
        assert!(lease.release().await?);
    }
    assert!(claims(&other_client().await?, "/lock-two", "job%2Fnightly").await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_get_it_in_the_order_in_which_they_came() -> Result<()> {
    let host = Host::at("/lock-queue").await?;
    let lock = host.pintle.lock("main")?;
    let first = host.acquire(request("q")).await?;
    let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
    let mut tasks = Vec::new();
    for number in 0..5 {
        let (waiter, sender) = (lock.clone(), sender.clone());
        tasks.push(tokio::spawn(async move {
            let outcome = waiter.acquire(waiting("q").owner(number.to_string())).await?;
            let AcquireOutcome::Held(lease) = outcome else { bail!("{number} did not get it") };
            sender.send(number)?;
            lease.release().await?;
            Ok(())
        }));
        eventually("it to wait", async || Ok(lock.inspect("q").await?.waiters.len() == number + 1))
            .await?;
    }
    let state = lock.inspect("q").await?;
    assert_eq!(state.holders.len(), 1);
    let waiters: Vec<_> = state.waiters.iter().map(|claim| claim.owner.as_str()).collect();
    assert_eq!(waiters, ["0", "1", "2", "3", "4"]);
    first.release().await?;
    for expected in 0..5 {
        assert_eq!(within("the next", order.recv()).await?, Some(expected));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_claims_go_together_and_permits_up_to_their_number() -> Result<()> {
    let (host, other) = (Host::at("/lock-modes").await?, Host::at("/lock-modes").await?);
    let shared = || request("s").mode(Mode::Shared);
    let readers = [host.acquire(shared()).await?, other.acquire(shared()).await?];
    assert!(readers.iter().all(|lease| lease.token().is_none()));
    assert!(is_busy(&host, "s").await?);
    let writer = tokio::spawn({
        let lock = other.pintle.lock("main")?;
        async move { lock.acquire(waiting("s")).await }
    });
    for lease in readers {
        lease.release().await?;
    }
    let AcquireOutcome::Held(writer) = within("the writer", writer).await??? else {
        bail!("the writer did not get it")
    };
    let outcome = host.pintle.lock("main")?.acquire(shared()).await?;
    assert!(matches!(outcome, AcquireOutcome::Busy(_)));
    drop(writer);

    let permit = || request("p").mode(Mode::Permit(2));
    let _first = host.acquire(permit()).await?;
    let second = other.acquire(permit()).await?;
    let third = tokio::spawn({
        let lock = host.pintle.lock("main")?;
        async move { lock.acquire(waiting("p").mode(Mode::Permit(2))).await }
    });
    eventually("the third to wait", async || {
        Ok(host.pintle.lock("main")?.inspect("p").await?.waiters.len() == 1)
    })
    .await?;
    second.release().await?;
    assert!(matches!(within("the third", third).await???, AcquireOutcome::Held(_)));
    Ok(())
}

/// Claims as Apache Curator's `InterProcessMutex` makes them.
#[tokio::test(flavor = "multi_thread")]
async fn others_that_follow_curators_recipe_exclude_and_are_excluded() -> Result<()> {
    let (host, other) = (Host::at("/lock-curator").await?, other_client().await?);
    let directory = "/lock-curator/.pintle/v1/locks/job";
    create(&other, directory, b"").await?;
    let ephemeral = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let prefix = format!("{directory}/_c_79a6bd10-d9b0-4b29-8b96-8d5e4fe9d2f2-lock-");
    let (stat, sequence) = other.create(&prefix, b"10.0.0.9", &ephemeral).await?;
    let outcome = host.pintle.lock("main")?.acquire(request("job")).await?;
    let AcquireOutcome::Busy(holders) = outcome else { bail!("two hold it") };
    assert_eq!(holders[0].owner, "10.0.0.9");
    let waiter = tokio::spawn({
        let lock = host.pintle.lock("main")?;
        async move { lock.acquire(waiting("job")).await }
    });
    eventually("it to wait", async || Ok(claims(&other, "/lock-curator", "job").await?.len() == 2))
        .await?;
    other.delete(&format!("{prefix}{sequence}"), None).await?;
    let AcquireOutcome::Held(lease) = within("the waiter", waiter).await??? else {
        bail!("it did not get it")
    };
    assert!(lease.token().context("no token")?.value > u64::try_from(stat.czxid)?);
    let own = claims(&other, "/lock-curator", "job").await?;
    let [own] = &own[..] else { bail!("{own:?}") };
    assert!(own.starts_with("_c_") && own.contains("-lock-"), "{own}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_to_a_claim_leaves_one_claim() -> Result<()> {
    let ((host, proxy), other) = (Host::proxied("/lock-reply").await?, other_client().await?);
    host.acquire(request("warm")).await?.release().await?;
    let lost = proxy.arm(
        Rule::reply_to(|message| message.contains(b"locks/job/_c_")).nth(1),
        Action::CutBefore(Cut::Reset),
    );
    // The first attempt finds no directory; its reply is lost, and so is the claim's own.
    let again = proxy.arm(reply_to_done(b"locks/job/_c_"), Action::CutBefore(Cut::Reset));
    let lease = host.acquire(waiting("job")).await?;
    lost.fired().await?;
    again.fired().await?;
    assert_eq!(claims(&other, "/lock-reply", "job").await?.len(), 1);
    assert!(lease.release().await?);
    assert!(claims(&other, "/lock-reply", "job").await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_to_a_release_releases_all_the_same() -> Result<()> {
    let ((host, proxy), other) = (Host::proxied("/lock-release").await?, other_client().await?);
    let lease = host.acquire(request("job")).await?;
    let claim = claims(&other, "/lock-release", "job").await?.remove(0);
    // Opcode 2 deletes.
    let lost = proxy.arm(
        Rule::reply_to(move |message| {
            message.payload().get(4..8) == Some(&[0, 0, 0, 2]) && message.contains(claim.as_bytes())
        }),
        Action::CutBefore(Cut::Reset),
    );
    assert!(lease.release().await?);
    lost.fired().await?;
    assert!(claims(&other, "/lock-release", "job").await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_that_is_dropped_leaves_no_claim() -> Result<()> {
    let (host, other) = (Host::at("/lock-dropped").await?, other_client().await?);
    let lease = host.acquire(request("job")).await?;
    let waiter = tokio::spawn({
        let lock = host.pintle.lock("main")?;
        async move { lock.acquire(waiting("job")).await }
    });
    eventually("it to wait", async || Ok(claims(&other, "/lock-dropped", "job").await?.len() == 2))
        .await?;
    waiter.abort();
    eventually("its claim to go", async || {
        Ok(claims(&other, "/lock-dropped", "job").await?.len() == 1)
    })
    .await?;
    assert!(lease.is_held());
    Ok(())
}

async fn lost(lease: &Lease) -> Result<String> {
    Ok(within("the loss", lease.lost()).await?.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_cut_off_learns_it_before_anybody_else_can_hold() -> Result<()> {
    let ((host, proxy), free) = (Host::proxied("/lock-hole").await?, Host::at("/lock-hole").await?);
    let lease = host.acquire(request("job")).await?;
    proxy.set(Fault::Blackhole);
    let waiter = tokio::spawn({
        let lock = free.pintle.lock("main")?;
        async move { lock.acquire(waiting("job")).await }
    });
    let next = async {
        let AcquireOutcome::Held(next) = waiter.await?? else { bail!("it did not get it") };
        anyhow::Ok((next, std::time::Instant::now()))
    };
    let ended = async { (lost(&lease).await, std::time::Instant::now()) };
    let (next, (reason, lost_at)) = within("both", async { tokio::join!(next, ended) }).await?;
    let (next, held_at) = next?;
    reason?;
    assert!(lost_at < held_at, "two believed to hold it");
    assert!(next.token().unwrap().value > lease.token().unwrap().value);
    assert!(matches!(lease.status(), LeaseStatus::Lost(_)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_makes_a_lease_suspect_and_the_next_one_good_again() -> Result<()> {
    let (host, proxy) = Host::proxied("/lock-suspect").await?;
    let lease = host.acquire(request("job").ttl(Duration::from_secs(8))).await?;
    let suspect = async { while !matches!(lease.changed().await, LeaseStatus::Suspect(_)) {} };
    let cut = async { proxy.cut_all(Cut::Reset).await };
    let (told, cut) = tokio::join!(within("the doubt", suspect), cut);
    told?;
    cut?;
    eventually("it to be good again", async || Ok(lease.status() == LeaseStatus::Held)).await?;
    assert!(lease.release().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_takes_a_lock_away_and_its_holder_learns_it() -> Result<()> {
    let host = Host::at("/lock-force").await?;
    let lock = host.pintle.lock("main")?;
    let lease = host.acquire(request("job").ttl(Duration::from_secs(8))).await?;
    let claim = lock.inspect("job").await?.holders.remove(0).claim_id;
    assert!(lock.force_release("job", &claim).await?);
    assert!(!lock.force_release("job", &claim).await?);
    assert!(lost(&lease).await?.contains("taken away"));
    let error = lock.force_release("job", "../identity").await.unwrap_err();
    assert_eq!(error.code(), "invalid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_a_holder_that_lost_the_lock_is_fenced_by_the_server() -> Result<()> {
    let (host, other) = (Host::at("/lock-fence").await?, other_client().await?);
    let config = host.config()?;
    let lease = host.acquire(request("job").ttl(Duration::from_secs(8))).await?;
    let put = |value: &'static str| Put::new("guarded/k", value).held(lease.reference());
    assert!(matches!(config.put(put("1")).await?, PutOutcome::Stored { .. }));
    assert!(matches!(config.put(put("2").previous()).await?, PutOutcome::Stored { .. }));
    let claim = claims(&other, "/lock-fence", "job").await?.remove(0);
    other.delete(&format!("/lock-fence/.pintle/v1/locks/job/{claim}"), None).await?;
    // At once, whether the plugin has heard of it or not.
    assert_eq!(config.put(put("3")).await?, PutOutcome::Fenced);
    assert_eq!(config.put(put("4").previous()).await?, PutOutcome::Fenced);
    let (data, _) = other.get_data("/lock-fence/guarded/k").await?;
    assert_eq!(data, b"2");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_listed_and_watched() -> Result<()> {
    let host = Host::at("/lock-list").await?;
    let lock = host.pintle.lock("main")?;
    let mut states = Box::pin(lock.watch("jobs/a").await?);
    let mut holders = async || {
        let state = within("a state", states.next()).await?.context("ended")??;
        anyhow::Ok(state.holders.len())
    };
    assert_eq!(holders().await?, 0);
    let first = host.acquire(request("jobs/a")).await?;
    assert_eq!(holders().await?, 1);
    let _second = host.acquire(request("jobs/b")).await?;
    let _other = host.acquire(request("jobsite")).await?;
    let page = lock.list("jobs", None, 1).await?;
    assert_eq!(page.names, ["jobs/a"]);
    let page = lock.list("jobs", page.next, 1).await?;
    assert_eq!((page.names, page.next), (vec!["jobs/b".to_owned()], None));
    first.release().await?;
    assert_eq!(holders().await?, 0);
    assert_eq!(lock.list("jobs", None, 0).await?.names, ["jobs/b"]);
    Ok(())
}
