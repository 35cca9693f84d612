//! Where things are in etcd: which bytes a key, a registration or a claim has.
//!
//! ```text
//! <root><key>                                    configuration
//! <root>.pintle/v1/registry/instances/<service>/<id>   an instance
//! <root>.pintle/v1/registry/overrides/<service>/<id>   what an operator says of an instance
//! <root>.pintle/v1/locks/<lock>/<lease>                a claim on a lock
//! ```
//!
//! Names are one segment each: `%` and `/` in them are percent-escaped. A lease stands in lower-case
//! hexadecimal digits, as etcd's own lock recipe writes it, so that both exclude each other.

use pintle_plugin_sdk::key::{from_path, from_segment, to_path, to_segment};

/// What is reserved below the root.
const OWN: &str = ".pintle/";
const INSTANCES: &str = ".pintle/v1/registry/instances/";
const OVERRIDES: &str = ".pintle/v1/registry/overrides/";
const LOCKS: &str = ".pintle/v1/locks/";

/// What the claim is called that this lease keeps.
pub fn claim_id(lease: i64) -> String {
    format!("{lease:x}")
}

/// A range of etcd keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first key.
    pub start: Vec<u8>,
    /// Where it ends, itself not in it; empty: `start` alone; one zero byte: no end.
    pub end: Vec<u8>,
}

impl Range {
    /// One key.
    pub fn of_key(key: Vec<u8>) -> Self {
        Self { start: key, end: Vec::new() }
    }

    /// Every key that begins with these bytes.
    pub fn of_prefix(prefix: &[u8]) -> Self {
        let start = if prefix.is_empty() { vec![0] } else { prefix.to_vec() };
        Self { start, end: end_of_prefix(prefix) }
    }

    /// The part behind this key; none when nothing is left.
    #[must_use]
    pub fn after(&self, key: &[u8]) -> Option<Self> {
        let mut start = key.to_vec();
        start.push(0);
        let start = start.max(self.start.clone());
        let left = self.end == [0] || start < self.end;
        left.then(|| Self { start, end: self.end.clone() })
    }
}

/// What a range ends with that holds all keys with this prefix.
fn end_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// What an etcd key below the root is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A configuration key.
    Key(String),
    /// Pintle's own.
    Own,
    /// Nothing that a key can name.
    Unmappable,
}

/// The layout below one root.
#[derive(Clone, Debug)]
pub struct Layout {
    root: String,
}

impl Layout {
    /// The layout below `root`, which is empty or ends with `/`.
    pub fn new(root: impl Into<String>) -> Self {
        Self { root: root.into() }
    }

    /// The etcd key of a configuration key; none when that is Pintle's own.
    pub fn config_key(&self, key: &str) -> Option<Vec<u8>> {
        let path = to_path(key);
        let own = path.starts_with(OWN) || OWN.strip_suffix('/') == Some(path.as_str());
        (!own).then(|| self.at(&path))
    }

    /// What an etcd key is.
    pub fn named(&self, bytes: &[u8]) -> Named {
        let path = bytes.strip_prefix(self.root.as_bytes()).map(str::from_utf8);
        let Some(Ok(path)) = path else { return Named::Unmappable };
        if path.starts_with(OWN) {
            return Named::Own;
        }
        match from_path(path) {
            Some(key) if self.config_key(&key).is_some() => Named::Key(key),
            _ => Named::Unmappable,
        }
    }

    /// The ranges that hold the configuration below a prefix, in order; none when that is Pintle's
    /// own.
    pub fn config_below(&self, prefix: &str) -> Option<Vec<Range>> {
        if !prefix.is_empty() {
            let mut start = self.config_key(prefix)?;
            start.push(b'/');
            return Some(vec![Range::of_prefix(&start)]);
        }
        let all = Range::of_prefix(self.root.as_bytes());
        let own = Range::of_prefix(&self.at(OWN));
        let before = Range { start: all.start, end: own.start };
        Some(vec![before, Range { start: own.end, end: all.end }])
    }

    /// One range that holds everything below a configuration prefix, and perhaps Pintle's own.
    pub fn config_around(&self, prefix: &str) -> Option<Range> {
        if prefix.is_empty() {
            return Some(Range::of_prefix(self.root.as_bytes()));
        }
        self.config_below(prefix)?.pop()
    }

    /// The key of an instance.
    pub fn instance(&self, service: &str, id: &str) -> Vec<u8> {
        self.pair(INSTANCES, service, id)
    }

    /// The instances of one service, or of all.
    pub fn instances(&self, service: Option<&str>) -> Range {
        self.registry(INSTANCES, service)
    }

    /// Service and id that an instance's key names.
    pub fn instance_named(&self, key: &[u8]) -> Option<(String, String)> {
        self.pair_named(INSTANCES, key)
    }

    /// The key of what an operator says of an instance.
    pub fn operator(&self, service: &str, id: &str) -> Vec<u8> {
        self.pair(OVERRIDES, service, id)
    }

    /// What operators say of the instances of one service, or of all.
    pub fn operators(&self, service: Option<&str>) -> Range {
        self.registry(OVERRIDES, service)
    }

    /// Service and id that an override's key names.
    pub fn operator_named(&self, key: &[u8]) -> Option<(String, String)> {
        self.pair_named(OVERRIDES, key)
    }

    /// The claims on a lock.
    pub fn claims(&self, lock: &str) -> Range {
        Range::of_prefix(&self.at(&format!("{LOCKS}{}/", to_segment(lock))))
    }

    /// The key of a claim.
    pub fn claim(&self, lock: &str, claim_id: &str) -> Vec<u8> {
        self.at(&format!("{LOCKS}{}/{claim_id}", to_segment(lock)))
    }

    /// The claims on all locks whose names lie below a prefix.
    pub fn claims_below(&self, prefix: &str) -> Range {
        let below = if prefix.is_empty() { String::new() } else { to_segment(prefix) + "%2F" };
        Range::of_prefix(&self.at(&format!("{LOCKS}{below}")))
    }

    /// The lock, and the claim's id.
    pub fn claim_named(&self, key: &[u8]) -> Option<(String, String)> {
        let rest = key.strip_prefix(self.at(LOCKS).as_slice())?;
        let (lock, claim) = str::from_utf8(rest).ok()?.split_once('/')?;
        Some((from_segment(lock)?, claim.to_owned()))
    }

    /// A key that is never written, to ask for the present revision within our permissions.
    pub fn probe(&self) -> Vec<u8> {
        self.at(".pintle/v1/probe")
    }

    fn at(&self, path: &str) -> Vec<u8> {
        [self.root.as_bytes(), path.as_bytes()].concat()
    }

    fn pair(&self, area: &str, service: &str, id: &str) -> Vec<u8> {
        self.at(&format!("{area}{}/{}", to_segment(service), to_segment(id)))
    }

    fn pair_named(&self, area: &str, key: &[u8]) -> Option<(String, String)> {
        let rest = key.strip_prefix(self.at(area).as_slice())?;
        let (service, id) = str::from_utf8(rest).ok()?.split_once('/')?;
        Some((from_segment(service)?, from_segment(id)?))
    }

    fn registry(&self, area: &str, service: Option<&str>) -> Range {
        let below = service.map(|service| to_segment(service) + "/").unwrap_or_default();
        Range::of_prefix(&self.at(&format!("{area}{below}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prod() -> Layout {
        Layout::new("/prod/")
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_layout_of_version_1_never_changes() {
        let layout = prod();
        assert_eq!(text(layout.config_key("app/db/url").unwrap()), "/prod/app/db/url");
        assert_eq!(
            text(layout.instance("shop/eu", "a%1")),
            "/prod/.pintle/v1/registry/instances/shop%2Feu/a%251"
        );
        assert_eq!(
            text(layout.operator("shop", "a")),
            "/prod/.pintle/v1/registry/overrides/shop/a"
        );
        assert_eq!(
            text(layout.claim("jobs/nightly", &claim_id(0x2f_00ab))),
            "/prod/.pintle/v1/locks/jobs%2Fnightly/2f00ab"
        );
    }

    #[test]
    fn what_a_key_names_comes_back() {
        let layout = prod();
        let named = |service, id| layout.instance_named(&layout.instance(service, id));
        assert_eq!(named("shop/eu", "a%1"), Some(("shop/eu".to_owned(), "a%1".to_owned())));
        let claim = layout.claim("jobs/nightly", &claim_id(255));
        assert_eq!(layout.claim_named(&claim), Some(("jobs/nightly".to_owned(), "ff".to_owned())));
        assert_eq!(layout.instance_named(b"/prod/.pintle/v1/registry/instances/shop"), None);
        assert_eq!(layout.operator_named(&layout.instance("shop", "a")), None);
    }

    #[test]
    fn keys_of_others_are_named_or_counted() {
        let layout = prod();
        for (bytes, expected) in [
            (&b"/prod/app/x"[..], Named::Key("app/x".to_owned())),
            (b"/prod/100%", Named::Key("100%25".to_owned())),
            (b"/prod/./x", Named::Key("%2E/x".to_owned())),
            (b"/prod/.pintle/v1/locks/a/1", Named::Own),
            (b"/prod/.pintles", Named::Key(".pintles".to_owned())),
            (b"/prod/.pintle", Named::Unmappable),
            (b"/prod/a//b", Named::Unmappable),
            (b"/prod/a/", Named::Unmappable),
            (b"/prod/\xff", Named::Unmappable),
            (b"/prod/", Named::Unmappable),
            (b"/test/a", Named::Unmappable),
        ] {
            assert_eq!(layout.named(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_prefix_ends_at_a_separator() {
        let layout = prod();
        let ranges = layout.config_below("a/b").unwrap();
        assert_eq!(ranges, [Range { start: b"/prod/a/b/".into(), end: b"/prod/a/b0".into() }]);
    }

    #[test]
    fn everything_is_all_but_pintles_own() {
        for root in ["/prod/", ""] {
            let layout = Layout::new(root);
            let ranges = layout.config_below("").unwrap();
            let within = |key: &[u8]| {
                ranges.iter().any(|range| {
                    key >= range.start.as_slice() && (range.end == [0] || key < &range.end[..])
                })
            };
            assert!(!within(&layout.claim("a", "1")) && !within(&layout.instance("s", "i")));
            for key in ["a", ".pintl", ".pintles", "zz", "/x", ".pintle0"] {
                assert!(within(&[root.as_bytes(), key.as_bytes()].concat()), "{root}{key}");
            }
        }
        assert_eq!(prod().config_below(".pintle/v1"), None);
        assert_eq!(prod().config_key(".pintle"), None);
    }

    #[test]
    fn locks_below_a_prefix_are_those_whose_names_go_on() {
        let layout = prod();
        let range = layout.claims_below("jobs");
        let within = |lock| {
            let key = layout.claim(lock, "1");
            key >= range.start && key < range.end
        };
        assert!(within("jobs/nightly") && within("jobs/a/b"));
        assert!(!within("jobs") && !within("jobsx") && !within("job"));
    }

    #[test]
    fn a_range_goes_on_behind_a_key() {
        let range = Range::of_prefix(b"a/");
        assert_eq!(range.after(b"a/x").unwrap().start, b"a/x\0");
        assert_eq!(range.after(b"A").unwrap().start, b"a/");
        assert_eq!(range.after(b"a0"), None);
        assert!(Range::of_prefix(b"").after(b"zzz").is_some());
        assert_eq!(Range::of_prefix(&[b'a', 0xff]).end, [b'b']);
        assert_eq!(Range::of_prefix(&[0xff]).end, [0]);
    }

    proptest! {
        #[test]
        fn a_key_survives_the_way_through_etcd(key in "[a-z.%/]{1,20}|.{1,20}") {
            let layout = prod();
            if let Named::Key(name) = layout.named(&[b"/prod/", key.as_bytes()].concat()) {
                prop_assert_eq!(layout.config_key(&name).unwrap(), [b"/prod/", key.as_bytes()].concat());
            }
        }
    }
}
