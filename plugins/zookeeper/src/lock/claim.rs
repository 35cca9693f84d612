//! How claims are called: `_c_<unique id>-<kind><number>`, as Apache Curator does.
//!
//! The unique id finds a claim again whose creation was not answered; the number, which the server
//! adds, is its place in the queue; the kind says what is claimed.

use crate::settings::ExclusiveClaims;
use pintle_plugin_sdk::lock::Mode;
use pintle_plugin_sdk::queue::holders;
use pintle_plugin_sdk::random::random_u64;

/// Digits of the server's number.
const DIGITS: usize = 10;
const MUTEX: &str = "lock-";
const WRITE: &str = "__WRIT__";
const READ: &str = "__READ__";
const PERMIT: &str = "permit-";

/// A claim, as its name tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClaimName {
    pub(super) name: String,
    /// Its place in the queue.
    pub(super) sequence: u64,
    pub(super) mode: Mode,
}

/// What a claim's name begins with: unique, so that it is found again.
pub(super) fn unique() -> String {
    let (high, low) = (random_u64(), random_u64());
    let (a, b, c) = (high >> 32, (high >> 16) & 0xffff, high & 0xffff);
    let (d, e) = (low >> 48, low & 0xffff_ffff_ffff);
    format!("_c_{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}-")
}

/// What stands behind that, before the number.
pub(super) fn kind(mode: Mode, exclusive: ExclusiveClaims) -> String {
    match (mode, exclusive) {
        (Mode::Exclusive, ExclusiveClaims::Mutex) => MUTEX.to_owned(),
        (Mode::Exclusive, ExclusiveClaims::ReadWrite) => WRITE.to_owned(),
        (Mode::Shared, _) => READ.to_owned(),
        (Mode::Permit(permits), _) => format!("{PERMIT}{permits}-"),
    }
}

impl ClaimName {
    /// Reads a name; none if it is no claim's.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (kind, digits) = name.split_at_checked(name.len().checked_sub(DIGITS)?)?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let mode = if kind.ends_with(MUTEX) || kind.ends_with(WRITE) {
            Mode::Exclusive
        } else if kind.ends_with(READ) {
            Mode::Shared
        } else {
            let (_, permits) = kind.strip_suffix('-')?.rsplit_once(PERMIT)?;
            Mode::Permit(permits.parse().ok()?)
        };
        Some(Self { name: name.to_owned(), sequence: digits.parse().ok()?, mode })
    }
}

/// The claims on a lock, in the order of the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Queue {
    pub(super) claims: Vec<ClaimName>,
}

/// How a claim stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It holds.
    Holding,
    /// It waits for this claim to go.
    Behind(String),
    /// It waits for any of several claims to go.
    BehindMany,
    /// It is not there any more.
    Gone,
}

impl Queue {
    /// Of the children of a lock's node. Others than claims are none of it.
    pub(super) fn new(children: &[String]) -> Self {
        let claims = children.iter().filter_map(|name| ClaimName::parse(name));
        let mut claims: Vec<_> = claims.collect();
        claims.sort_by(|one, other| (one.sequence, &one.name).cmp(&(other.sequence, &other.name)));
        Self { claims }
    }

    /// Those that hold, and those that wait.
    pub(super) fn split(&self) -> (&[ClaimName], &[ClaimName]) {
        let modes: Vec<_> = self.claims.iter().map(|claim| claim.mode).collect();
        self.claims.split_at_checked(holders(&modes)).unwrap_or((&self.claims, &[]))
    }

    /// How a claim stands.
    pub(super) fn place(&self, name: &str) -> Place {
        let Some(position) = self.claims.iter().position(|claim| claim.name == name) else {
            return Place::Gone;
        };
        if position < self.split().0.len() {
            return Place::Holding;
        }
        let before = self.claims.get(..position).unwrap_or_default();
        let own = self.claims.get(position).map(|claim| claim.mode);
        let blocking = match own {
            Some(Mode::Shared) => before.iter().rev().find(|claim| claim.mode != Mode::Shared),
            Some(Mode::Permit(_)) => {
                before.iter().rev().find(|claim| !matches!(claim.mode, Mode::Permit(_)))
            }
            Some(Mode::Exclusive) | None => before.last(),
        };
        blocking.map_or(Place::BehindMany, |claim| Place::Behind(claim.name.clone()))
    }

    /// The claim whose name begins so.
    pub(super) fn find(&self, unique: &str) -> Option<&ClaimName> {
        self.claims.iter().find(|claim| claim.name.starts_with(unique))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(names: &[&str]) -> Queue {
        Queue::new(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn names_are_those_of_curator() {
        let own =
            format!("{}{}0000000012", unique(), kind(Mode::Exclusive, ExclusiveClaims::Mutex));
        let expected = "_c_00000000-0000-0000-0000-000000000000-lock-0000000012";
        assert_eq!(own.len(), expected.len(), "{own}");
        assert!(own.starts_with("_c_") && own.ends_with("-lock-0000000012"), "{own}");
        for (name, mode) in [
            ("_c_79a6bd10-d9b0-4b29-8b96-8d5e4fe9d2f2-lock-0000000003", Mode::Exclusive),
            ("lock-0000000003", Mode::Exclusive),
            ("_c_79a6bd10-d9b0-4b29-8b96-8d5e4fe9d2f2-__WRIT__0000000003", Mode::Exclusive),
            ("_c_79a6bd10-d9b0-4b29-8b96-8d5e4fe9d2f2-__READ__0000000003", Mode::Shared),
            ("_c_x-permit-7-0000000003", Mode::Permit(7)),
        ] {
            let claim = ClaimName::parse(name).unwrap();
            assert_eq!((claim.sequence, claim.mode), (3, mode), "{name}");
        }
        for name in
            ["", "lock-", "other", "leases", "x-0000000001", "lock-00000000x1", "ü000000001"]
        {
            assert_eq!(ClaimName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn the_number_decides_and_not_the_name() {
        let queue = queue(&["_c_b-lock-0000000001", "_c_a-lock-0000000002", "unrelated"]);
        assert_eq!(queue.place("_c_b-lock-0000000001"), Place::Holding);
        let behind = Place::Behind("_c_b-lock-0000000001".to_owned());
        assert_eq!(queue.place("_c_a-lock-0000000002"), behind);
        assert_eq!(queue.place("_c_z-lock-0000000009"), Place::Gone);
        assert_eq!(queue.find("_c_a-").unwrap().sequence, 2);
    }

    #[test]
    fn only_what_has_to_go_first_is_waited_for() {
        let shared = queue(&[
            "a__READ__0000000001",
            "b-lock-0000000002",
            "c__READ__0000000003",
            "d__READ__0000000004",
        ]);
        assert_eq!(shared.place("a__READ__0000000001"), Place::Holding);
        assert_eq!(
            shared.place("d__READ__0000000004"),
            Place::Behind("b-lock-0000000002".to_owned())
        );
        let permits =
            queue(&["a-permit-2-0000000001", "b-permit-2-0000000002", "c-permit-2-0000000003"]);
        assert_eq!(permits.split().0.len(), 2);
        assert_eq!(permits.place("c-permit-2-0000000003"), Place::BehindMany);
    }
}
