//! Sessions for what is kept by them: one for each TTL that is asked for, within a bound.

use super::{Common, Session, SessionKey, Standing};
use pintle_plugin_sdk::time::sleep;
use pintle_plugin_sdk::{Error, spawn};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

/// Most sessions for TTLs as they were asked for, beside the shortest; others take the next shorter.
/// Each has a connection, and a host grants eight when nothing is said: one for the main session,
/// three for each of two pools, and one for what is left of predecessors.
const EXACT_MAX: usize = 2;
/// The session that fits every TTL.
const SHORTEST: Duration = Duration::from_secs(2);
/// A session that nobody has used for so long leaves its place to other TTLs.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// How long closing a session may take that nobody uses.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Sessions by their timeout.
pub(crate) struct Pool {
    common: Common,
    purpose: &'static str,
    places: RefCell<BTreeMap<Duration, Rc<Place>>>,
    keep: Rc<dyn Fn()>,
}

/// A session, and who uses it.
struct Place {
    session: Rc<Session>,
    users: Cell<usize>,
    /// Whether somebody has used it since that was looked at last.
    used: Cell<bool>,
    /// It takes no more users. It has its place, and its connection, until it is closed.
    closing: Cell<bool>,
}

/// A session of a pool, which lives as long as anybody has one of these.
pub(crate) struct PooledSession(Rc<Place>);

impl PooledSession {
    fn new(place: &Rc<Place>) -> Self {
        place.users.set(place.users.get() + 1);
        place.used.set(true);
        Self(Rc::clone(place))
    }
}

impl Clone for PooledSession {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for PooledSession {
    fn drop(&mut self) {
        self.0.users.set(self.0.users.get() - 1);
        self.0.used.set(true);
    }
}

impl Deref for PooledSession {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0.session
    }
}

impl Pool {
    /// `keep` is called when a key has changed.
    pub(crate) fn new(common: Common, purpose: &'static str, keep: Rc<dyn Fn()>) -> Self {
        Self { common, purpose, places: RefCell::default(), keep }
    }

    /// The session for leases of a TTL: the server keeps it no longer than that.
    ///
    /// # Errors
    ///
    /// As [`Session::start`].
    pub(crate) fn session(self: &Rc<Self>, ttl: Duration) -> Result<PooledSession, Error> {
        let timeout = self.timeout_for(ttl);
        let there = self.places.borrow().get(&timeout).map(PooledSession::new);
        there.map_or_else(|| self.start(timeout, None), Ok)
    }

    /// Takes up what a predecessor had.
    ///
    /// # Errors
    ///
    /// As [`Session::start`].
    pub(crate) fn resume(self: &Rc<Self>, key: SessionKey) -> Result<PooledSession, Error> {
        self.start(key.timeout, Some(key))
    }

    /// The session that the server knows by this number, unless it is being closed.
    pub(crate) fn with_id(&self, id: i64) -> Option<PooledSession> {
        let places = self.places.borrow();
        let mut open = places.values().filter(|place| !place.closing.get());
        let found = open.find(|place| place.session.key().is_some_and(|key| key.id == id));
        found.map(PooledSession::new)
    }

    fn start(
        self: &Rc<Self>,
        timeout: Duration,
        resume: Option<SessionKey>,
    ) -> Result<PooledSession, Error> {
        let keep = Rc::clone(&self.keep);
        let session =
            Session::start(self.common.clone(), self.purpose, timeout, resume, move || keep())?;
        let place = Rc::new(Place {
            session: Rc::new(session),
            users: Cell::new(0),
            used: Cell::new(false),
            closing: Cell::new(false),
        });
        self.places.borrow_mut().insert(timeout, Rc::clone(&place));
        let pooled = PooledSession::new(&place);
        if timeout != SHORTEST {
            spawn(Rc::clone(self).close_when_idle(place)).detach();
        }
        Ok(pooled)
    }

    /// Gives up a session that was refused for being longer than the TTL, unless it serves others, or
    /// may serve all.
    pub(crate) fn discard(self: &Rc<Self>, refused: &PooledSession) {
        let PooledSession(place) = refused;
        let shortest = self.places.borrow().get(&SHORTEST).cloned();
        let is_shortest = shortest.is_some_and(|shortest| Rc::ptr_eq(&shortest, place));
        if is_shortest || place.users.get() > 1 || place.closing.get() {
            return;
        }
        let (pool, place) = (Rc::clone(self), Rc::clone(place));
        place.closing.set(true);
        spawn(async move { pool.close(&place).await }).detach();
    }

    async fn close_when_idle(self: Rc<Self>, place: Rc<Place>) {
        while place.used.replace(false) || place.users.get() > 0 {
            sleep(IDLE_MAX).await;
        }
        if !place.closing.replace(true) {
            self.close(&place).await;
        }
    }

    async fn close(&self, place: &Rc<Place>) {
        if let Err(error) = place.session.close(CLOSE_TIMEOUT).await {
            tracing::debug!(%error, "a session that keeps nothing ends by itself");
        }
        self.places.borrow_mut().retain(|_, other| !Rc::ptr_eq(other, place));
        (self.keep)();
    }

    fn timeout_for(&self, ttl: Duration) -> Duration {
        let places = self.places.borrow();
        let exact = places.keys().filter(|timeout| **timeout != SHORTEST).count();
        let is_free = exact < EXACT_MAX && !places.contains_key(&ttl);
        let fitting = places.range(..=ttl).rev().find(|(_, place)| !place.closing.get());
        match fitting {
            _ if is_free => ttl,
            Some((timeout, _)) => *timeout,
            None => SHORTEST,
        }
    }

    /// What takes its sessions up again.
    pub(crate) fn keys(&self) -> Vec<SessionKey> {
        self.all().iter().filter_map(|session| session.key()).collect()
    }

    /// All sessions.
    pub(crate) fn all(&self) -> Vec<Rc<Session>> {
        self.places.borrow().values().map(|place| Rc::clone(&place.session)).collect()
    }

    /// How they are.
    pub(crate) fn standings(&self) -> Standings {
        let mut standings = Standings::default();
        for session in self.all() {
            let count = match session.standing() {
                Standing::Connected(_) => &mut standings.connected,
                Standing::Suspended(_) => &mut standings.suspended,
                Standing::Expired(_) => &mut standings.expired,
                Standing::Absent(_) => &mut standings.connecting,
            };
            *count += 1;
        }
        standings
    }
}

/// How many sessions are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standings {
    connected: usize,
    suspended: usize,
    expired: usize,
    connecting: usize,
}

impl Standings {
    /// How many have no connection.
    pub(crate) fn down(self) -> usize {
        self.suspended + self.expired + self.connecting
    }
}

impl fmt::Display for Standings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connected, suspended, expired, connecting } = self;
        write!(f, "{connected} connected, {suspended} suspended, {expired} expired")?;
        if *connecting > 0 {
            write!(f, ", {connecting} connecting")?;
        }
        Ok(())
    }
}

/// Refuses a TTL that the server would not keep to: it grants no session shorter than its least.
///
/// # Errors
///
/// `invalid`, with what would do.
pub(crate) fn check_granted(granted: Duration, ttl: Duration) -> Result<(), Error> {
    if granted <= ttl {
        return Ok(());
    }
    let (granted, ttl) = (granted.as_millis(), ttl.as_millis());
    Err(Error::invalid(format!(
        "a TTL of {ttl} ms: the servers keep every session at least {granted} ms; ask for that, or \
         lower their `minSessionTimeout` (2 ticks)"
    ))
    .detail("limit", "minSessionTimeout")
    .detail("min", granted.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Budget;
    use pintle_plugin_sdk::Endpoint;
    use pintle_plugin_sdk::testing::run;

    /// Of servers that never answer.
    fn pool() -> Rc<Pool> {
        let endpoint = Endpoint { host: "zk".to_owned(), port: 1, tls: false };
        let common = Common {
            endpoints: vec![endpoint],
            dial: Rc::new(|_| Box::pin(std::future::pending())),
            digest: None,
            request_bytes_max: 1_000,
            answer_bytes_max: 1_000,
            newest_zxid: Rc::default(),
            traffic: Default::default(),
            tally: Rc::default(),
            expirations: Rc::default(),
            watched: Budget::new(1_000),
            reads_nodes_alone: Rc::default(),
        };
        Rc::new(Pool::new(common, "test", Rc::new(|| {})))
    }

    fn timeouts(pool: &Pool) -> Vec<u64> {
        pool.places.borrow().keys().map(Duration::as_secs).collect()
    }

    #[test]
    fn many_different_ttls_share_sessions_that_end_no_later() {
        run(async {
            let pool = pool();
            let mut in_use = Vec::new();
            for seconds in [10, 20, 30, 40, 50, 60, 45, 2, 3, 9, 11] {
                let ttl = Duration::from_secs(seconds);
                assert!(pool.timeout_for(ttl) <= ttl);
                in_use.push(pool.session(ttl).unwrap());
            }
            assert_eq!(timeouts(&pool), [2, 10, 20]);
        });
    }

    #[test]
    fn a_session_that_keeps_nothing_any_more_leaves_its_place_to_another_ttl() {
        run(async {
            let pool = pool();
            let [ten, twenty, thirty] = [10, 20, 30].map(Duration::from_secs);
            let _kept = pool.session(ten).unwrap();
            drop(pool.session(twenty).unwrap());
            assert_eq!(pool.timeout_for(thirty), twenty, "it may be used again soon");
            sleep(IDLE_MAX / 2).await;
            drop(pool.session(twenty).unwrap());
            sleep(IDLE_MAX).await;
            assert_eq!(pool.timeout_for(thirty), twenty, "it was");
            sleep(IDLE_MAX * 2).await;
            assert_eq!(timeouts(&pool), [10]);
            assert_eq!(pool.timeout_for(thirty), thirty);
        });
    }

    #[test]
    fn a_session_has_its_place_until_it_is_closed_and_takes_nobody_meanwhile() {
        run(async {
            let pool = pool();
            let [ten, twenty, thirty] = [10, 20, 30].map(Duration::from_secs);
            let (_kept, refused) = (pool.session(ten).unwrap(), pool.session(twenty).unwrap());
            let user = refused.clone();
            pool.discard(&refused);
            assert_eq!(pool.timeout_for(twenty), twenty, "others use it");
            drop(user);
            pool.discard(&refused);
            assert_eq!([twenty, thirty].map(|ttl| pool.timeout_for(ttl)), [ten, ten]);
            sleep(CLOSE_TIMEOUT * 2).await;
            assert_eq!(pool.timeout_for(thirty), thirty);
        });
    }

    #[test]
    fn a_ttl_that_the_servers_do_not_keep_is_refused_with_what_would_do() {
        let seconds = Duration::from_secs;
        assert!(check_granted(seconds(4), seconds(4)).is_ok());
        let error = check_granted(seconds(4), seconds(2)).unwrap_err();
        assert!(error.message().contains("at least 4000 ms"), "{error}");
    }
}
