//! `kill -9` under load: what was acknowledged is there again, and tokens go on rising.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result};
use pintle_client::{Client, api::lock::LockState, config::Put};
use pintle_test_suites::within;

use crate::shell::Shell;

const WRITERS: usize = 8;
const ROUNDS: u64 = 3;
/// Writes acknowledged in a round before the kill comes.
const WRITES_BEFORE_KILL: u64 = 200;

/// Per writer: the highest number that was acknowledged, and the highest that was sent.
#[derive(Default)]
struct Progress {
    acknowledged: AtomicU64,
    sent: AtomicU64,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_under_load_loses_no_acknowledged_write() -> Result<()> {
    let shell = Shell::new()?;
    let progress: Vec<Arc<Progress>> = (0..WRITERS).map(|_| Arc::default()).collect();
    for round in 1..=ROUNDS {
        let (mut server, url) = shell.serve().await?;
        let client = Client::http(&url)?;
        verify(&client, &progress).await?;
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                tokio::spawn(write(client.clone(), number, Arc::clone(&progress[number])))
            })
            .collect();
        let total =
            || progress.iter().map(|one| one.acknowledged.load(Ordering::SeqCst)).sum::<u64>();
        within("the load", async {
            while total() < round * WRITES_BEFORE_KILL {
                tokio::task::yield_now().await;
            }
        })
        .await?;
        server.signal("KILL")?;
        server.ended().await?;
        for writer in writers {
            within("the end of a writer", writer).await??;
        }
    }
    let (_server, url) = shell.serve().await?;
    verify(&Client::http(&url)?, &progress).await
}

#[tokio::test]
async fn after_a_kill_the_next_holder_has_a_higher_token() -> Result<()> {
    let shell = Shell::new()?;
    let (mut server, _) = shell.serve().await?;
    let ttl = ["lock", "run", "job", "--ttl", "2s", "--", "sleep", "60"];
    let mut holder = shell.start(&ttl)?;
    let token = within("the holder", holding(&shell)).await??;
    server.signal("KILL")?;
    server.ended().await?;
    // The holder notices by itself that it cannot renew.
    within("the end of the holder", holder.child.wait()).await??;
    let (_server, _) = shell.serve().await?;
    let next =
        shell.run(&["lock", "run", "job", "--wait", "15s", "--", "sh", "-c", "echo $PINTLE_TOKEN"]);
    let next: u64 = within("the next holder", next).await??.text()?.trim().parse()?;
    assert!(next > token, "{next} after {token}");
    Ok(())
}

/// Writes 1, 2, 3 … under one key until the server is gone.
async fn write(client: Client, number: usize, progress: Arc<Progress>) {
    let (config, key) = (client.config("default"), format!("w/{number}"));
    loop {
        let next = progress.sent.load(Ordering::SeqCst) + 1;
        progress.sent.store(next, Ordering::SeqCst);
        if config.put(Put::new(&key, next.to_string())).await.is_err() {
            return;
        }
        progress.acknowledged.store(next, Ordering::SeqCst);
    }
}

/// Each key holds a value between what was acknowledged and what was sent.
async fn verify(client: &Client, progress: &[Arc<Progress>]) -> Result<()> {
    for (number, one) in progress.iter().enumerate() {
        let acknowledged = one.acknowledged.load(Ordering::SeqCst);
        let sent = one.sent.load(Ordering::SeqCst);
        let entry = client.config("default").get(&format!("w/{number}")).await?;
        let found: u64 = match entry {
            Some(entry) => entry.value.value.context("a text")?.parse()?,
            None => 0,
        };
        assert!(
            (acknowledged..=sent).contains(&found),
            "w/{number}: {found} of {acknowledged}..={sent}"
        );
    }
    Ok(())
}

/// The token of who holds the lock, once somebody does.
async fn holding(shell: &Shell) -> Result<u64> {
    loop {
        let state: LockState = shell.run(&["lock", "show", "job", "-o", "json"]).await?.json()?;
        if let Some(holder) = state.holders.first() {
            return Ok(holder.token.as_ref().context("a token")?.value);
        }
    }
}
