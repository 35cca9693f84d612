//! Which server to try next.

use crate::connection::Connection;
use crate::random::shuffle;
use crate::{Endpoint, Error};
use std::time::Duration;

/// The servers of a backend in a random order that changes after every round, so that the clients of
/// a failed server spread over the others.
#[derive(Clone, Debug)]
pub struct Endpoints {
    order: Vec<Endpoint>,
    position: usize,
    last: Endpoint,
}

impl Endpoints {
    /// # Errors
    ///
    /// `invalid` when there is none.
    pub fn new(endpoints: Vec<Endpoint>) -> Result<Self, Error> {
        let mut order = endpoints;
        shuffle(&mut order);
        let Some(last) = order.last().cloned() else {
            let message = "this backend has no `endpoints`: name at least one server";
            return Err(Error::invalid(message).detail("setting", "endpoints"));
        };
        Ok(Self { order, position: 0, last })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.order.len()
    }

    /// The next to try; not the same twice in a row where there are others.
    pub fn next_endpoint(&mut self) -> Endpoint {
        if self.position >= self.order.len() {
            self.begin_round();
        }
        if let Some(next) = self.order.get(self.position) {
            self.last = next.clone();
        }
        self.position += 1;
        self.last.clone()
    }

    fn begin_round(&mut self) {
        shuffle(&mut self.order);
        if self.order.first() == Some(&self.last) {
            self.order.rotate_left(1);
        }
        self.position = 0;
    }

    /// Connects to the next that can be reached, trying each once at most.
    ///
    /// # Errors
    ///
    /// When none can be reached; the message says why for each.
    pub async fn connect(&mut self, limit_each: Duration) -> Result<Connection, Error> {
        let mut failures = Vec::new();
        for _ in 0..self.count() {
            let endpoint = self.next_endpoint();
            match Connection::open(&endpoint, limit_each).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failures.push(Error::from(error)),
            }
        }
        Err(none_reached(failures))
    }
}

/// One error for a round in which every server failed.
pub(crate) fn none_reached(mut failures: Vec<Error>) -> Error {
    let Some(last) = failures.pop() else { return Error::unavailable("no server was tried") };
    if failures.is_empty() {
        return last;
    }
    let tried = failures.iter().chain([&last]).map(Error::message).collect::<Vec<_>>();
    let message = format!("no server can be reached: {}", tried.join("; "));
    // What all say will not change by trying again.
    let all_say = |code| failures.iter().chain([&last]).all(|error| error.code() == code);
    let all = match last.code() {
        "denied" if all_say("denied") => Error::denied(message),
        "unauthenticated" if all_say("unauthenticated") => Error::unauthenticated(message),
        _ => Error::unavailable(message),
    };
    last.details().iter().cloned().fold(all, |all, (name, value)| all.detail(name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::run_in_real_time;
    use std::collections::BTreeSet;

    fn three() -> Endpoints {
        let endpoint = |port| Endpoint { host: "etcd".to_owned(), port, tls: false };
        Endpoints::new((1..=3).map(endpoint).collect()).unwrap()
    }

    #[test]
    fn every_round_tries_each_once_and_none_twice_in_a_row() {
        let mut endpoints = three();
        let mut last = 0;
        let mut orders = BTreeSet::new();
        for _ in 0..50 {
            let round: Vec<_> = (0..3).map(|_| endpoints.next_endpoint().port).collect();
            assert_eq!(round.iter().collect::<BTreeSet<_>>().len(), 3);
            assert_ne!(round[0], last);
            last = round[2];
            orders.insert(round);
        }
        assert!(orders.len() > 3, "the order changes: {orders:?}");
    }

    #[test]
    fn without_endpoints_the_setting_is_named() {
        let error = Endpoints::new(Vec::new()).unwrap_err();
        assert_eq!(error.details(), [("setting".to_owned(), "endpoints".to_owned())]);
    }

    #[test]
    fn credentials_that_all_servers_refuse_are_told_as_such() {
        let refused = || Error::unauthenticated("who are you");
        let both = none_reached(vec![refused(), refused()]);
        assert_eq!(both.code(), "unauthenticated");
        let one = none_reached(vec![Error::unavailable("reset"), refused()]);
        assert_eq!(one.code(), "unavailable");
    }

    #[test]
    fn a_server_that_refuses_is_passed_over() {
        let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let dead_port = dead.local_addr().unwrap().port();
        drop(dead);
        let live = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let live_port = live.local_addr().unwrap().port();
        let endpoint = |port| Endpoint { host: "127.0.0.1".to_owned(), port, tls: false };
        run_in_real_time(async {
            let mut endpoints =
                Endpoints::new(vec![endpoint(dead_port), endpoint(live_port)]).unwrap();
            for _ in 0..4 {
                let connection = endpoints.connect(Duration::from_secs(10)).await.unwrap();
                assert_eq!(connection.peer(), format!("127.0.0.1:{live_port}"));
            }
            let mut endpoints =
                Endpoints::new(vec![endpoint(dead_port), endpoint(dead_port)]).unwrap();
            let error = endpoints.connect(Duration::from_secs(10)).await.unwrap_err();
            assert_eq!(error.message().matches("connection refused").count(), 2, "{error}");
        });
    }
}
