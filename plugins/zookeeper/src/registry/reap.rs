//! What predecessors left: adopted as the host repeats it, and removed where it does not.

use super::read::TOGETHER;
use crate::session::{Client, Failure, PooledSession};
use crate::wire::{Delete, Ephemerals, ErrorCode, Exists, Stat};
use crate::zookeeper::ZooKeeper;
use futures::future::join_all;
use pintle_plugin_sdk::time::{Instant, sleep, sleep_until};
use pintle_plugin_sdk::{Context, Error};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

/// The host repeats registrations after a restart; what it has not when it could for so long, and has
/// repeated none meanwhile, belongs to nobody.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it waits for a connection before it asks again.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3_600);
/// Wait after a failure that is not the connection's.
const PAUSE: Duration = Duration::from_secs(10);

/// How far what predecessors left has been adopted.
#[derive(Default)]
pub(super) struct Inheritance {
    /// Sessions of predecessors of which something may be left that nobody has repeated.
    sessions: Cell<usize>,
    adopted_at: Cell<Option<Instant>>,
    /// Names that were asked for in vain, and when: the host asks again.
    let_go: RefCell<HashMap<String, Instant>>,
}

/// One session of a predecessor, until nothing is left of it that nobody wants.
struct Reaping(Rc<Inheritance>);

impl Drop for Reaping {
    fn drop(&mut self) {
        self.0.sessions.set(self.0.sessions.get() - 1);
        if !self.0.is_open() {
            self.0.let_go.take();
        }
    }
}

impl Inheritance {
    /// Whether a node may be a predecessor's.
    pub(super) fn is_open(&self) -> bool {
        self.sessions.get() > 0
    }

    /// The host has repeated one.
    pub(super) fn adopted(&self) {
        self.adopted_at.set(Some(Instant::now()));
    }

    /// A name is not claimed any more.
    pub(super) fn let_go(&self, path: &str) {
        if self.is_open() {
            self.let_go.borrow_mut().insert(path.to_owned(), Instant::now());
        }
    }

    /// Whether the host may still ask for a name that it was not given.
    fn may_come_again(&self, path: &str) -> bool {
        let mut let_go = self.let_go.borrow_mut();
        let_go.retain(|_, at| at.elapsed() < PATIENCE);
        let_go.contains_key(path)
    }

    /// Waits until the host has had time to repeat everything, beginning now.
    async fn settled(&self) {
        let mut until = Instant::now().after(PATIENCE);
        loop {
            sleep_until(until).await;
            match self.adopted_at.get().map(|at| at.after(PATIENCE)) {
                Some(later) if later > until => until = later,
                _ => return,
            }
        }
    }
}

impl ZooKeeper {
    /// The session for a registration: a predecessor's that has the node, where it ends no later than
    /// the TTL. Which one a TTL gets depends on which others there are, and that may have changed.
    pub(super) async fn session_for(
        &self,
        cx: &Context,
        path: &str,
        ttl: Duration,
    ) -> Result<PooledSession, Error> {
        if let Some(session) = self.inherited_from(cx, path).await?
            && session.client(cx).await?.identity().timeout <= ttl
        {
            return Ok(session);
        }
        self.registry_sessions.session(ttl)
    }

    async fn inherited_from(
        &self,
        cx: &Context,
        path: &str,
    ) -> Result<Option<PooledSession>, Error> {
        if !self.kept.inheritance.is_open() {
            return Ok(None);
        }
        let doing = format!("looking whose `{path}` is");
        let look = self.read(cx, &doing, async |client| {
            match client.call(&Exists { path, watch: false }).await {
                Ok(stat) => Ok(Some(stat)),
                Err(failure) if failure.is(ErrorCode::NO_NODE) => Ok(None),
                Err(failure) => Err(failure),
            }
        });
        Ok(look.await?.and_then(|stat| self.registry_sessions.with_id(stat.ephemeral_owner)))
    }

    /// Whether a node that nobody keeps by now is a predecessor's: a session of ours has it.
    pub(super) fn is_inherited(&self, stat: &Stat) -> bool {
        self.kept.inheritance.is_open()
            && self.registry_sessions.with_id(stat.ephemeral_owner).is_some()
    }

    /// Removes what a predecessor left and the host has not repeated.
    ///
    /// The host can repeat it while there is a connection, so the time begins anew with each.
    pub(crate) fn reap_unclaimed(
        self: Rc<Self>,
        session: PooledSession,
    ) -> impl Future<Output = ()> {
        let inheritance = Rc::clone(&self.kept.inheritance);
        inheritance.sessions.set(inheritance.sessions.get() + 1);
        let reaping = Reaping(inheritance);
        async move {
            self.reap(session).await;
            drop(reaping);
        }
    }

    async fn reap(&self, session: PooledSession) {
        let Some(adopted) = session.key() else { return };
        // Older servers do not list what a session keeps, and of others the list may be too long.
        let (mut is_listed, mut is_settled) = (true, false);
        loop {
            let cx = Context::background("removing what nobody repeated", CONNECT_PATIENCE);
            let Ok(client) = session.client_patiently(&cx).await else {
                sleep(PAUSE).await;
                continue;
            };
            if client.identity().id != adopted.id {
                return;
            }
            if !std::mem::take(&mut is_settled) {
                self.kept.inheritance.settled().await;
            }
            match self.reap_once(&client, is_listed).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(failure) if failure.is(ErrorCode::UNIMPLEMENTED) && is_listed => {
                    (is_listed, is_settled) = (false, true);
                    // The server hangs up behind such an answer.
                    session.settle(&client);
                }
                Err(Failure::AnswerTooLarge { .. }) if is_listed => {
                    (is_listed, is_settled) = (false, true);
                }
                // The host could not repeat it over this connection.
                Err(failure) if failure.is_passing() => session.settle(&client),
                Err(failure) => {
                    tracing::debug!(?failure, "could not remove what nobody repeated");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Answers whether nothing is left that the host may still ask for.
    async fn reap_once(&self, client: &Client, is_listed: bool) -> Result<bool, Failure> {
        let directory = self.paths.instances();
        let kept_there = match is_listed {
            true => client.call(&Ephemerals { prefix: &directory }).await?,
            false => self.instances_of(client).await?,
        };
        let mut is_done = true;
        for path in kept_there {
            let stat = match client.call(&Exists { path: &path, watch: false }).await {
                Ok(stat) if stat.ephemeral_owner == client.identity().id => stat,
                // Another has the name by now.
                Ok(_) => continue,
                Err(failure) if failure.is(ErrorCode::NO_NODE) => continue,
                Err(failure) => return Err(failure),
            };
            match self.kept.state_of(&path) {
                Some(name) if name.is_kept.get() => continue,
                None if !self.kept.inheritance.may_come_again(&path) => {}
                _ => {
                    is_done = false;
                    continue;
                }
            }
            tracing::info!(path, "removing an instance that nobody registers any more");
            match client.call(&Delete { path: &path, version: stat.version }).await {
                Ok(()) => {}
                Err(failure) if failure.is(ErrorCode::NO_NODE) => {}
                Err(failure) if failure.is(ErrorCode::BAD_VERSION) => is_done = false,
                Err(failure) => return Err(failure),
            }
        }
        Ok(is_done)
    }

    /// The nodes of instances that the session of this connection keeps.
    async fn instances_of(&self, client: &Client) -> Result<Vec<String>, Failure> {
        let directory = self.paths.instances();
        let mut own = Vec::new();
        for (service, _) in self.names(client, &directory).await? {
            let ids = self.names(client, &self.paths.service(&directory, &service)).await?;
            let path = |(id, _): &(String, String)| self.paths.instance(&directory, &service, id);
            let paths: Vec<_> = ids.iter().map(path).collect();
            for paths in paths.chunks(TOGETHER) {
                let looks = paths.iter().map(|path| client.call(&Exists { path, watch: false }));
                for (path, look) in paths.iter().zip(join_all(looks).await) {
                    match look {
                        Ok(stat) if stat.ephemeral_owner == client.identity().id => {
                            own.push(path.clone());
                        }
                        Ok(_) => {}
                        Err(failure) if failure.is(ErrorCode::NO_NODE) => {}
                        Err(failure) => return Err(failure),
                    }
                }
            }
        }
        Ok(own)
    }
}
