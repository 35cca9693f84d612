//! R4 and R5: fenced resources take no stale write, and holders learn in time that they lost.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use futures::future::{join_all, try_join_all};
use pintle::lock::{AcquireOutcome, Lease, Lock, LockRequest};
use pintle_test_bench::ChaosRow;
use pintle_test_history::{LockHistory, LockMode, Resource, Token, check_locks, check_writes};
use pintle_test_proxy::{Fault, Proxy};
use pintle_test_suites::{eventually, within};

use crate::{
    Size,
    stage::{Host, Stage, leased_keys},
};

const CONTENDERS: usize = 16;
const NAME: &str = "contended";
const TTL: Duration = Duration::from_secs(2);
const WAIT: Duration = Duration::from_secs(300);

/// One run of R4.
struct Contest<'a> {
    stage: &'a Stage,
    resource: &'a Resource,
    history: &'a LockHistory,
    acquired: &'a AtomicUsize,
    wanted: usize,
    /// One in so many acquisitions is followed by a pause.
    pause_every: usize,
}

pub(crate) async fn fenced(size: Size) -> Result<ChaosRow> {
    let wanted = size.of(10_000, 400);
    let pause_every = size.of(100, 80);
    let (checking, unchecked) = (Resource::checking(), Resource::unchecked());
    let (acquired, mut locks) = run(&checking, wanted, pause_every).await?;
    // The same without the check, to show what it is good for. The locks exclude all the same.
    let (_, locks_unchecked) = run(&unchecked, pause_every * 3, pause_every).await?;
    locks.absorb(locks_unchecked);
    let writes = check_writes(&checking.accepted());
    let stale_unchecked = check_writes(&unchecked.accepted()).violations.len();
    let first = writes.violations.iter().chain(&locks.violations).next();
    let detail = format!(
        "{} late writes refused; without the check {stale_unchecked} were taken; {}",
        checking.refused(),
        first.map(ToString::to_string).unwrap_or_default()
    );
    let what = "16 contenders who pause for longer than the TTL, and a resource that checks tokens";
    let done = if stale_unchecked > 0 && checking.refused() > 0 { acquired as u64 } else { 0 };
    Ok(ChaosRow::new("R4-etcd", what, "0 stale writes taken", wanted as u64, done)
        .violations((writes.violations.len() + locks.violations.len()) as u64)
        .detail(detail))
}

async fn run(
    resource: &Resource,
    wanted: usize,
    pause_every: usize,
) -> Result<(usize, pintle_test_history::Report)> {
    let stage = Stage::start(CONTENDERS).await?;
    let (history, acquired) = (LockHistory::new(), AtomicUsize::new(0));
    let contest = Contest {
        stage: &stage,
        resource,
        history: &history,
        acquired: &acquired,
        wanted,
        pause_every,
    };
    try_join_all((0..CONTENDERS).map(|number| contest.contend(number))).await?;
    Ok((acquired.load(Ordering::Relaxed), check_locks(&history.holdings())))
}

impl Contest<'_> {
    async fn contend(&self, number: usize) -> Result<()> {
        let lock = self.stage.host.pintle.lock(&Host::name(number))?;
        let proxy = self.stage.host.proxy(number)?;
        let holder = format!("contender {number}");
        while self.acquired.load(Ordering::Relaxed) < self.wanted {
            let asked = self.history.now();
            let request = LockRequest::new(NAME).owner(holder.clone()).ttl(TTL).wait(WAIT);
            let lease = match lock.acquire(request).await {
                Ok(AcquireOutcome::Held(lease)) => lease,
                Ok(AcquireOutcome::Busy(_)) => bail!("{holder} waited in vain"),
                // Its own connection is still being made again after its pause.
                Err(error) if error.is_transient() || error.code() == "conflict" => continue,
                Err(error) => return Err(error.into()),
            };
            let turn = self.acquired.fetch_add(1, Ordering::Relaxed);
            self.hold(lease, asked, &holder, proxy, turn).await?;
        }
        Ok(())
    }

    async fn hold(
        &self,
        lease: Lease,
        asked: u64,
        holder: &str,
        proxy: &Proxy,
        turn: usize,
    ) -> Result<()> {
        let token = lease.token().context("a token")?;
        let token = Token { epoch: token.epoch.to_string(), value: token.value };
        let since_asked = Duration::from_nanos(self.history.now().saturating_sub(asked));
        let valid_for = since_asked + lease.remaining();
        let mode = LockMode::Exclusive;
        let holding =
            self.history.acquired(NAME, holder, mode, Some(token.clone()), asked, valid_for);
        if self.resource.write(NAME, holder, token.clone()).is_err() && lease.is_held() {
            bail!("{holder} holds the lock and was refused");
        }
        if turn % self.pause_every != self.pause_every / 2 {
            self.history.ended(holding);
            lease.release().await?;
            return Ok(());
        }
        proxy.set(Fault::Blackhole);
        lease.lost().await;
        self.history.ended(holding);
        // It writes when another has written, as if it had slept all the while.
        let value = token.value;
        let overtaken = eventually("another writer", async || {
            let last = self.resource.accepted().pop();
            Ok(last.filter(|last| last.token.value > value).map(drop))
        });
        let overtaken = overtaken.await;
        // A refusal is what the resource is for; the report counts what it took.
        if overtaken.is_ok() {
            let _ = self.resource.write(NAME, holder, token);
        }
        proxy.heal().await?;
        Ok(())
    }
}

pub(crate) async fn told_in_time(size: Size) -> Result<ChaosRow> {
    let (leases, rounds) = (size.of(100, 20), size.of(10, 2));
    let stage = Stage::start(leases).await?;
    let mut client = stage.client().await?;
    let (mut done, mut late) = (0_u64, 0_u64);
    for round in 0..rounds {
        let mut held = Vec::new();
        for number in 0..leases {
            let lock = stage.host.pintle.lock(&Host::name(number))?;
            held.push(hold(&lock, &format!("told/{round}/{number}")).await?);
        }
        let keys = leased_keys(&mut client).await?;
        for proxy in &stage.host.proxies {
            proxy.set(Fault::Blackhole);
        }
        let notices = held.iter().enumerate().map(|(number, lease)| {
            let mut client = client.clone();
            let part = format!("/told%2F{round}%2F{number}/");
            let has_part = |key: &&str| key.contains(&part);
            let names = keys.iter().filter_map(|pair| pair.key_str().ok());
            let key = names.into_iter().find(has_part).map(str::to_owned);
            async move {
                let key = key.context("the key of a claim")?;
                within("the notice", lease.lost()).await?;
                anyhow::Ok(client.get(key, None).await?.count() == 1)
            }
        });
        for in_time in join_all(notices).await {
            done += 1;
            late += u64::from(!in_time?);
        }
        for proxy in &stage.host.proxies {
            proxy.heal().await?;
        }
    }
    let what = "holders who are cut off, each on its own connections";
    let target = "all told before the server lets go";
    Ok(ChaosRow::new("R5-etcd", what, target, size.of(1_000, 40), done)
        .violations(late)
        .detail(format!("{leases} at once")))
}

/// Takes a lock that is free, as soon as there is a connection.
async fn hold(lock: &Lock, name: &str) -> Result<Lease> {
    eventually("a lease", async || {
        let request = LockRequest::new(name).ttl(Duration::from_secs(4));
        match lock.acquire(request).await {
            Ok(AcquireOutcome::Held(lease)) => Ok(Some(lease)),
            Ok(AcquireOutcome::Busy(holders)) => bail!("{name} is held by {holders:?}"),
            Err(error) if error.is_transient() => Ok(None),
            Err(error) => Err(error.into()),
        }
    })
    .await
}
