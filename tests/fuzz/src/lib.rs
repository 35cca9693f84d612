//! What every decoder of the project does with bytes from anywhere.
//!
//! A [`Target`] reads its input in each way that the project does, and panics when a promise is
//! broken: no decoder panics, none takes more memory than its input allows, and what was read can be
//! written so that the same is read again. `bin/` has a program of libFuzzer for each, which
//! `cargo xtask fuzz` runs. It begins with what is in `seeds/`, where also goes what it found; the tests
//! here read that too.
//!
//! What a target allows its decoder for each byte of the input is no measure of how good that is, but of
//! what cannot be otherwise: how much larger than its bytes a value is in memory. What grows faster than
//! the input is found by it, however small the part is that grows.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a target panics when a promise is broken"
)]

mod etcd;
mod local;
mod memory;
mod otlp;
mod records;
#[cfg(test)]
mod shared;
mod skywalking;
mod zipkin;
mod zookeeper;

pub use memory::{SPARE_BYTES, in_proportion};

/// Something to be fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of its program, behind `fuzz-`.
    pub name: &'static str,
    read: fn(&[u8]),
}

/// Inputs up to this length are read once more, repeated up to the other: whatever a list is made of, a
/// long list of it takes the most memory for its bytes, and few inputs are one by chance.
const PART_BYTES_MAX: usize = 48;
const REPEATED_BYTES: usize = 4 << 10;

impl Target {
    /// Reads the input, and panics when a promise is broken.
    pub fn read(&self, input: &[u8]) {
        (self.read)(input);
        if (1..=PART_BYTES_MAX).contains(&input.len()) {
            (self.read)(&input.repeat(REPEATED_BYTES / input.len()));
        }
    }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "etcd", read: etcd::read },
    Target { name: "local", read: local::read },
    Target { name: "otlp", read: otlp::read },
    Target { name: "otlp-json", read: otlp::read_json },
    Target { name: "records", read: records::read },
    Target { name: "skywalking", read: skywalking::read },
    Target { name: "zipkin", read: zipkin::read },
    Target { name: "zookeeper", read: zookeeper::read },
];

/// The target with this name.
///
/// # Panics
///
/// When there is none.
pub fn target(name: &str) -> Target {
    let found = TARGETS.iter().find(|target| target.name == name);
    *found.unwrap_or_else(|| panic!("no target `{name}`"))
}

/// A bug behind a few steps, each of which is seen by who counts what an input reaches; by chance alone
/// it would take billions of inputs. A fuzzer has to find it.
///
/// # Panics
///
/// At its end.
pub fn planted(input: &[u8]) {
    let steps = input.iter().zip(b"\xffPin").take_while(|(one, wanted)| one == wanted).count();
    assert!(steps < 4, "the planted bug");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_target_reads_every_seed() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/seeds");
        let seeds: Vec<_> = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
        assert!(!seeds.is_empty());
        for seed in seeds {
            let input = fs::read(&seed).unwrap();
            TARGETS.iter().for_each(|target| target.read(&input));
        }
    }

    #[test]
    fn every_target_has_a_program() {
        let manifest = include_str!("../Cargo.toml");
        for Target { name, .. } in TARGETS {
            assert!(manifest.contains(&format!("name = \"fuzz-{name}\"")), "{name}");
            let program = format!("{}/bin/{name}.rs", env!("CARGO_MANIFEST_DIR"));
            let program = fs::read_to_string(program).unwrap();
            assert!(program.contains(&format!("target(\"{name}\")")), "{name}");
        }
    }

    #[test]
    #[should_panic(expected = "the planted bug")]
    fn the_planted_bug_is_one() {
        planted(b"\xffPintle");
    }
}
