//! Who holds and who waits, for those who only look.

use super::claim::{ClaimName, Queue};
use crate::path::{child, to_name};
use crate::registry::children_of;
use crate::session::{Client, Failure, Listener, Notice};
use crate::watching::if_readable;
use crate::wire::{Children, ErrorCode, Exists, GetData, WatchMode};
use crate::zookeeper::ZooKeeper;
use futures::future::{join_all, select};
use pintle_plugin_sdk::lock::{Claim, LockState, LocksPage, Mode, WatchSink};
use pintle_plugin_sdk::record::ClaimRecord;
use pintle_plugin_sdk::{Context, Error};
use std::pin::pin;

/// Locks that are looked at together.
const TOGETHER: usize = 128;
/// Most claims on one lock that are shown.
const CLAIMS_MAX: usize = 10_000;

impl ZooKeeper {
    pub(super) async fn lock_state(&self, cx: &Context, name: String) -> Result<LockState, Error> {
        let doing = format!("looking at lock `{name}`");
        self.read(cx, &doing, async |client| {
            client.barrier().await?;
            self.state_now(&client, &name).await
        })
        .await
    }

    async fn state_now(&self, client: &Client, name: &str) -> Result<LockState, Failure> {
        let directory = self.paths.lock(name);
        let queue = self.queue(client, &directory, false).await?;
        let (holding, waiting) = queue.split();
        // After them: whoever holds has given the ensemble its identity before.
        self.recognise(client).await?;
        Ok(LockState {
            name: name.to_owned(),
            holders: self.claims(client, &directory, holding, true).await?,
            waiters: self.claims(client, &directory, waiting, false).await?,
        })
    }

    async fn queue(&self, client: &Client, path: &str, watch: bool) -> Result<Queue, Failure> {
        match client.call(&Children { path, watch }).await {
            Ok((names, _)) => Ok(Queue::new(&names)),
            Err(failure) if failure.is(ErrorCode::NO_NODE) => Ok(Queue::default()),
            Err(failure) => Err(failure),
        }
    }

    /// What claims say of themselves; those that are gone by now are left out.
    pub(super) async fn claims(
        &self,
        client: &Client,
        directory: &str,
        names: &[ClaimName],
        holding: bool,
    ) -> Result<Vec<Claim>, Failure> {
        if names.len() > CLAIMS_MAX {
            let what = "the lock has more claims than are shown";
            return Err(Failure::OverLimit { name: "claims", what, limit: CLAIMS_MAX });
        }
        let reads = names.iter().map(|claim| {
            client.call(&GetData { path: &child(directory, &claim.name), watch: false })
        });
        let mut claims = Vec::with_capacity(names.len());
        for (claim, read) in names.iter().zip(join_all(reads).await) {
            let (data, stat) = match read {
                Ok(node) => node,
                Err(failure) if failure.is(ErrorCode::NO_NODE) => continue,
                Err(failure) => return Err(failure),
            };
            // Curator's claims hold an address.
            let data = data.unwrap_or_default();
            let owner = ClaimRecord::decode(&data).map(|record| record.owner);
            let owner = owner.unwrap_or_else(|_| String::from_utf8_lossy(&data).into_owned());
            let exclusive = claim.mode == Mode::Exclusive;
            let token = (holding && exclusive).then(|| self.identities.token(stat.czxid)).flatten();
            claims.push(Claim {
                owner,
                mode: claim.mode,
                token,
                claim_id: claim.name.clone(),
                since_ms: u64::try_from(stat.ctime_ms).ok(),
            });
        }
        Ok(claims)
    }

    pub(super) async fn locks_page(
        &self,
        cx: &Context,
        prefix: &str,
        after: &str,
        limit: u32,
    ) -> Result<LocksPage, Error> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let locks = self.paths.locks();
        self.read(cx, "listing locks", async |client| {
            client.barrier().await?;
            let names = match client.call(&Children { path: &locks, watch: false }).await {
                Ok((names, _)) => names,
                Err(failure) if failure.is(ErrorCode::NO_NODE) => Vec::new(),
                Err(failure) => return Err(failure),
            };
            let mut named: Vec<_> = names
                .into_iter()
                .filter_map(|node| Some((to_name(&node)?, node)))
                .filter(|(name, _)| name.as_str() > after && is_below(prefix, name))
                .collect();
            named.sort_unstable();
            let mut page = LocksPage { names: Vec::new(), next: None };
            for part in named.chunks(TOGETHER) {
                let looks = part.iter().map(|(_, node)| {
                    client.call(&Exists { path: &child(&locks, node), watch: false })
                });
                for ((name, _), look) in part.iter().zip(join_all(looks).await) {
                    // The server removes empty ones some time later.
                    if children_of(look)? == 0 {
                        continue;
                    }
                    if page.names.len() >= limit {
                        page.next = page.names.last().cloned();
                        return Ok(page);
                    }
                    page.names.push(name.clone());
                }
            }
            Ok(page)
        })
        .await
    }

    pub(super) async fn feed_lock_watch(&self, name: String, sink: WatchSink) -> Result<(), Error> {
        let directory = self.paths.lock(&name);
        let listener = self.main.watches().listen(&directory, WatchMode::Tree, true);
        let mut told = None;
        while !sink.is_closed() {
            let client = self.watching_client().await?;
            match self.follow_lock(&client, &name, &listener, &sink, &mut told).await {
                Ok(()) => {}
                Err(failure) if failure.is_passing() => self.main.settle(&client),
                Err(failure) if failure.is(ErrorCode::THROTTLED) => {
                    self.pause_throttled().await;
                }
                Err(failure) => {
                    return Err(failure.explain_read(&format!("watching lock `{name}`")));
                }
            }
        }
        Ok(())
    }

    async fn follow_lock(
        &self,
        client: &Client,
        name: &str,
        listener: &Listener,
        sink: &WatchSink,
        told: &mut Option<LockState>,
    ) -> Result<(), Failure> {
        let directory = self.paths.lock(name);
        self.arm(client, &directory).await?;
        let once = (!self.main.has_lasting_watches())
            .then(|| self.main.watches().listen(&directory, WatchMode::Node, false));
        self.catch_up(client).await?;
        while !sink.is_closed() {
            listener.clear();
            if once.is_some() {
                let exists = Exists { path: &directory, watch: true };
                if if_readable(client.call(&exists).await)?.is_some() {
                    self.queue(client, &directory, true).await?;
                }
            }
            let state = self.state_now(client, name).await?;
            if told.as_ref() != Some(&state) {
                sink.state(state.clone());
                *told = Some(state);
            }
            let news = async {
                match &once {
                    Some(once) => {
                        select(pin!(once.next()), pin!(listener.next())).await.factor_first().0
                    }
                    None => listener.next().await,
                }
            };
            if let futures::future::Either::Left((Notice::Gap(_), _)) =
                select(pin!(news), pin!(sink.closed())).await
            {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn is_below(prefix: &str, name: &str) -> bool {
    prefix.is_empty() || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
}
