//! Sessions for what is kept by them: one for each TTL that is asked for, within a bound.

use super::{Common, Session, SessionKey, Standing};
use pintle_plugin_sdk::{Error, spawn};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// Most sessions for TTLs as they were asked for; later ones take the next shorter.
const EXACT_MAX: usize = 5;
/// The session that fits every TTL.
const SHORTEST: Duration = Duration::from_secs(2);

/// How long closing a session may take that nobody uses.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Sessions by their timeout.
pub(crate) struct Pool {
    common: Common,
    purpose: &'static str,
    sessions: RefCell<BTreeMap<Duration, Rc<Session>>>,
    keep: Rc<dyn Fn()>,
}

impl Pool {
    /// `keep` is called when a key has changed.
    pub(crate) fn new(common: Common, purpose: &'static str, keep: Rc<dyn Fn()>) -> Self {
        Self { common, purpose, sessions: RefCell::default(), keep }
    }

    /// The session for leases of a TTL: the server keeps it no longer than that.
    ///
    /// # Errors
    ///
    /// As [`Session::start`].
    pub(crate) fn session(&self, ttl: Duration) -> Result<Rc<Session>, Error> {
        let timeout = self.timeout_for(ttl);
        if let Some(session) = self.sessions.borrow().get(&timeout) {
            return Ok(Rc::clone(session));
        }
        self.start(timeout, None)
    }

    /// Takes up what a predecessor had.
    ///
    /// # Errors
    ///
    /// As [`Session::start`].
    pub(crate) fn resume(&self, key: SessionKey) -> Result<Rc<Session>, Error> {
        self.start(key.timeout, Some(key))
    }

    fn start(&self, timeout: Duration, resume: Option<SessionKey>) -> Result<Rc<Session>, Error> {
        let keep = Rc::clone(&self.keep);
        let session =
            Session::start(self.common.clone(), self.purpose, timeout, resume, move || keep())?;
        let session = Rc::new(session);
        self.sessions.borrow_mut().insert(timeout, Rc::clone(&session));
        Ok(session)
    }

    /// Gives up a session that was refused for being longer than the TTL, unless it serves others.
    pub(crate) fn discard(&self, refused: &Rc<Session>) {
        // The pool has one, and who was refused.
        if Rc::strong_count(refused) > 2 {
            return;
        }
        self.sessions.borrow_mut().retain(|_, session| !Rc::ptr_eq(session, refused));
        let session = Rc::clone(refused);
        spawn(async move {
            if let Err(error) = session.close(CLOSE_TIMEOUT).await {
                tracing::debug!(%error, "a session that keeps nothing ends by itself");
            }
        })
        .detach();
    }

    fn timeout_for(&self, ttl: Duration) -> Duration {
        let sessions = self.sessions.borrow();
        if sessions.contains_key(&ttl) || sessions.len() < EXACT_MAX {
            return ttl;
        }
        sessions.range(..=ttl).next_back().map_or(SHORTEST, |(timeout, _)| *timeout)
    }

    /// What takes its sessions up again.
    pub(crate) fn keys(&self) -> Vec<SessionKey> {
        self.all().iter().filter_map(|session| session.key()).collect()
    }

    /// All sessions.
    pub(crate) fn all(&self) -> Vec<Rc<Session>> {
        self.sessions.borrow().values().cloned().collect()
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
    use pintle_plugin_sdk::Endpoint;
    use pintle_plugin_sdk::testing::run;

    #[test]
    fn many_different_ttls_share_sessions_that_end_no_later() {
        run(async {
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
            };
            let pool = Pool::new(common, "test", Rc::new(|| {}));
            for seconds in [10, 20, 30, 40, 50, 60, 45, 2, 3, 9] {
                let ttl = Duration::from_secs(seconds);
                assert!(pool.timeout_for(ttl) <= ttl);
                pool.session(ttl).unwrap();
            }
            let timeouts: Vec<_> = pool.sessions.borrow().keys().map(Duration::as_secs).collect();
            assert_eq!(timeouts, [2, 10, 20, 30, 40, 50]);
            let refused = pool.session(Duration::from_secs(2)).unwrap();
            let user = Rc::clone(&refused);
            pool.discard(&refused);
            assert_eq!(pool.all().len(), 6, "others use it");
            drop(user);
            pool.discard(&refused);
            assert_eq!(pool.all().len(), 5);
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
