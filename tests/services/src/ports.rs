//! Ports that no other test takes, not even in another process.
//!
//! Asking the system for any free port gives one that the next outgoing connection may get again
//! before a server listens on it, or while that server is restarted. These come from below the
//! range that Linux gives to outgoing connections, and each is held by a locked file.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::{Error, Result};

const FIRST: u16 = 15_000;
const LAST: u16 = 31_999;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port on 127.0.0.1, kept from other tests until this is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Finds a port that nobody listens on.
    ///
    /// # Errors
    /// [`Error::NoPort`] when all are taken.
    pub fn free() -> Result<Self> {
        let folder = folder();
        fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
        let count = LAST - FIRST + 1;
        // Each process begins elsewhere, and goes on from its last port.
        let start = (std::process::id().wrapping_mul(97) % u32::from(count)) as u16;
        for _ in 0..count {
            let offset = u32::from(start) + u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            let number = FIRST + (offset % u32::from(count)) as u16;
            if let Some(port) = Self::try_take(&folder, number)? {
                return Ok(port);
            }
        }
        Err(Error::NoPort { first: FIRST, last: LAST })
    }

    /// The port's number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The port on loopback.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }

    fn try_take(folder: &Path, number: u16) -> Result<Option<Self>> {
        let path = folder.join(number.to_string());
        let lock = File::create(&path).map_err(Error::file("create", &path))?;
        let free = lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok();
        Ok(free.then_some(Self { number, _lock: lock }))
    }
}

fn folder() -> PathBuf {
    let user = rustix::process::getuid().as_raw();
    std::env::temp_dir().join(format!("pintle-test-ports-{user}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ports_differ_and_can_be_listened_on() {
        let (one, other) = (Port::free().unwrap(), Port::free().unwrap());
        assert_ne!(one.number(), other.number());
        TcpListener::bind(one.address()).unwrap();
    }

    #[test]
    fn a_held_port_is_not_given_again_even_while_nobody_listens() {
        let held = Port::free().unwrap();
        assert!(Port::try_take(&folder(), held.number()).unwrap().is_none());
        let number = held.number();
        drop(held);
        assert!(Port::try_take(&folder(), number).unwrap().is_some());
    }
}
