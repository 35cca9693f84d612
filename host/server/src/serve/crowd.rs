//! Places for connections, of which no address takes all.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::access::network;

/// Connections at a time, where the system lets the process have as many.
const CONNECTIONS_MAX: usize = 32_768;
/// One of so many may be of one address.
const SHARE: usize = 8;
/// Open files that are left for everything else: backends, plugins, data.
const FILES_FOR_OTHERS: usize = 256;

/// How many connections each address has. Those from this machine are not counted: they all come
/// from one address, and who is here can do worse.
#[derive(Debug, Clone)]
pub(super) struct Crowd {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    each_max: usize,
}

/// The place of one connection among those of its address, until it is dropped.
#[derive(Debug)]
pub(super) struct Member {
    crowd: Crowd,
    /// None for one that is not counted.
    network: Option<IpAddr>,
}

impl Crowd {
    /// For so many connections in all.
    pub(super) fn new(connections_max: usize) -> Self {
        Self { counts: Arc::default(), each_max: (connections_max / SHARE).max(1) }
    }

    /// Counts a connection; none if its address has too many.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Member> {
        if address.is_loopback() {
            return Some(Member { crowd: self.clone(), network: None });
        }
        let network = network(address);
        let mut counts = self.counts();
        let count = counts.entry(network).or_default();
        if *count >= self.each_max {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Member { crowd: self.clone(), network: Some(network) })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let Some(network) = self.network else { return };
        let mut counts = self.crowd.counts();
        if let Some(count) = counts.get_mut(&network) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&network);
            }
        }
    }
}

/// How many connections fit, with as many open files as the system lets this process have.
pub(super) fn connections_max() -> usize {
    fitting(raise_files_max())
}

fn fitting(files_max: u64) -> usize {
    let files = usize::try_from(files_max).unwrap_or(usize::MAX);
    // With few at all, half of them.
    let left = files.saturating_sub(FILES_FOR_OTHERS).max(files / 2);
    left.clamp(1, CONNECTIONS_MAX)
}

/// Asks the system for as many open files as this process may ask for, and answers how many it got.
/// Many systems begin with 1,024, for the sake of programs that use `select`.
fn raise_files_max() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let present = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: present.maximum, maximum: present.maximum };
    let granted = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => wanted.current,
        Err(error) => {
            tracing::debug!(%error, "the limit of open files stays as it is");
            present.current
        }
    };
    // Without a number there is no limit.
    granted.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share_and_leaves_the_others_theirs() {
        let crowd = Crowd::new(2 * SHARE);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let one = crowd.enter(address("192.0.2.7")).unwrap();
        let _two = crowd.enter(address("192.0.2.7")).unwrap();
        assert!(crowd.enter(address("192.0.2.7")).is_none());
        let _other = crowd.enter(address("192.0.2.8")).unwrap();
        drop(one);
        assert!(crowd.enter(address("192.0.2.7")).is_some());

        let _six = [crowd.enter(address("2001:db8::1")), crowd.enter(address("2001:db8::2"))];
        assert!(crowd.enter(address("2001:db8::3")).is_none(), "one network");
        let here: Vec<_> = (0..100).map(|_| crowd.enter(address("127.0.0.1"))).collect();
        assert!(here.iter().all(Option::is_some));
    }

    #[test]
    fn who_has_gone_is_forgotten() {
        let crowd = Crowd::new(64);
        drop(crowd.enter("192.0.2.7".parse().unwrap()));
        assert!(crowd.counts().is_empty());
    }

    #[test]
    fn there_are_no_more_connections_than_files() {
        assert_eq!(fitting(1_024), 768);
        assert_eq!(fitting(64), 32);
        assert_eq!(fitting(0), 1);
        assert_eq!(fitting(u64::MAX), CONNECTIONS_MAX);
    }
}
