//! Synthetic addresses for names.
//!
//! A look-up cannot answer with real addresses: the grants are about names, TLS must verify the name,
//! and a name that moves must be resolved anew at each connect. So each name gets an address of its
//! own from 100::/64, the discard-only prefix of RFC 6666: no machine ever has an address of it, so
//! none is shadowed, and one that leaks leads nowhere. The 64 bits below it hold a tag of the
//! incarnation, so that an address that another one looked up is recognised, and the name's number.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::Ipv6Addr;

/// The first 64 bits of 100::/64.
const PREFIX: u64 = 0x0100_0000_0000_0000;

/// The names that one incarnation looked up.
#[derive(Debug)]
pub(crate) struct Names {
    tag: u32,
    names: Vec<String>,
    numbers: HashMap<String, u32>,
    names_max: usize,
}

impl Names {
    pub(crate) fn new(names_max: usize) -> Self {
        let random = RandomState::new().hash_one("incarnation");
        Self { tag: (random >> 32) as u32, names: Vec::new(), numbers: HashMap::new(), names_max }
    }

    /// The address that stands for `name`, or nothing when there are too many.
    pub(crate) fn address_of(&mut self, name: &str) -> Option<Ipv6Addr> {
        if let Some(number) = self.numbers.get(name) {
            return Some(self.address(*number));
        }
        if self.names.len() >= self.names_max {
            return None;
        }
        let number = u32::try_from(self.names.len()).ok()?;
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        Some(self.address(number))
    }

    /// The name that `address` stands for in this incarnation.
    pub(crate) fn name_of(&self, address: Ipv6Addr) -> Option<&str> {
        let bits = address.to_bits();
        let (prefix, low) = ((bits >> 64) as u64, bits as u64);
        if prefix != PREFIX || (low >> 32) as u32 != self.tag {
            return None;
        }
        self.names.get(low as u32 as usize).map(String::as_str)
    }

    fn address(&self, number: u32) -> Ipv6Addr {
        let low = u64::from(self.tag) << 32 | u64::from(number);
        Ipv6Addr::from_bits(u128::from(PREFIX) << 64 | u128::from(low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_address_and_an_address_its_name() {
        let mut names = Names::new(10);
        let first = names.address_of("etcd1").unwrap();
        let second = names.address_of("etcd2").unwrap();
        assert_eq!(names.address_of("etcd1"), Some(first));
        assert_eq!(names.name_of(first), Some("etcd1"));
        assert_eq!(names.name_of(second), Some("etcd2"));
        assert!(first.to_string().starts_with("100::"), "{first}");
    }

    #[test]
    fn an_address_of_another_incarnation_stands_for_nothing() {
        let mut names = Names::new(10);
        let other = Names { tag: !names.tag, ..Names::new(10) };
        let address = names.address_of("etcd1").unwrap();
        assert_eq!(other.name_of(address), None);
        assert_eq!(names.name_of(Ipv6Addr::from_bits(address.to_bits() + 1)), None);
        assert_eq!(names.name_of(Ipv6Addr::LOCALHOST), None);
    }

    #[test]
    fn the_number_of_names_is_bounded() {
        let mut names = Names::new(1);
        let first = names.address_of("a.example.com");
        assert_eq!(names.address_of("b.example.com"), None);
        assert_eq!(names.address_of("a.example.com"), first);
    }
}
