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

use super::{
    Size,
    backend::{Backend, Control},
    stage::{Host, Stage},
};
use crate::{eventually, within};

const CONTENDERS: usize = 16;
const NAME: &str = "contended";
const TTL: Duration = Duration::from_secs(2);
const WAIT: Duration = Duration::from_secs(300);

/// One run of R4.
struct Contest<'a, B: Backend> {
    stage: &'a Stage<B>,
    resource: &'a Resource,
    history: &'a LockHistory,
    acquired: &'a AtomicUsize,
    wanted: usize,
    /// One in so many acquisitions is followed by a pause.
    pause_every: usize,
}

/// R4: contenders for one lock that guards a resource.
///
/// # Errors
///
/// Fails when it does not come to its end.
pub async fn fenced<B: Backend>(size: Size) -> Result<ChaosRow> {
    let wanted = size.of(10_000, 400);
    let pause_every = size.of(100, 80);
    let (checking, unchecked) = (Resource::checking(), Resource::unchecked());
    let (acquired, mut locks) = run::<B>(&checking, wanted, pause_every).await?;
    // The same without the check, to show what it is good for. The locks exclude all the same.
    let (_, locks_unchecked) = run::<B>(&unchecked, pause_every * 3, pause_every).await?;
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
    Ok(ChaosRow::new(&B::id("R4"), what, "0 stale writes taken", wanted as u64, done)
        .violations((writes.violations.len() + locks.violations.len()) as u64)
        .detail(detail))
}

async fn run<B: Backend>(
    resource: &Resource,
    wanted: usize,
    pause_every: usize,
) -> Result<(usize, pintle_test_history::Report)> {
    let stage = Stage::<B>::start(CONTENDERS).await?;
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

impl<B: Backend> Contest<'_, B> {
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

/// R5: holders of leases that are cut off, all at once.
///
/// # Errors
///
/// Fails when it does not come to its end.
pub async fn told_in_time<B: Backend>(size: Size) -> Result<ChaosRow> {
    let (leases, rounds) = (size.of(100, 20), size.of(10, 2));
    let stage = Stage::<B>::start(leases).await?;
    let control = stage.control().await?;
    let (mut done, mut late) = (0_u64, 0_u64);
    for round in 0..rounds {
        let mut held = Vec::new();
        for number in 0..leases {
            let lock = stage.host.pintle.lock(&Host::name(number))?;
            held.push(hold(&lock, &format!("told/{round}/{number}")).await?);
        }
        let names = control.leased().await?;
        for proxy in &stage.host.proxies {
            proxy.set(Fault::Blackhole);
        }
        let notices = held.iter().enumerate().map(|(number, lease)| {
            let part = format!("/told%2F{round}%2F{number}/");
            let name = names.iter().find(|name| name.contains(&part));
            let control = &control;
            async move {
                let name = name.context("the name of a claim")?;
                // One that never comes is as late as can be.
                let is_told = within("the notice", lease.lost()).await.is_ok();
                Ok::<_, anyhow::Error>(is_told && control.is_there(name).await?)
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
    Ok(ChaosRow::new(&B::id("R5"), what, target, size.of(1_000, 40), done)
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
