//! Where things are: keys and names as paths of nodes, and back.
//!
//! A node can be called anything but for control characters, private and unassigned characters, and
//! whatever lies beyond the first 65,536 of Unicode: Java's half characters. Those are written
//! percent-escaped; a name that looks like such an escape itself gets a `25` behind its `%`, so that
//! both ways are exact, and every name that others wrote has its key.

use pintle_plugin_sdk::{Error, key};

/// What Pintle stores itself, below the root. Its version is part of the path.
const OWN: &str = ".pintle";
const OWN_VERSIONED: &str = ".pintle/v1";

/// Whether the server refuses a path with this character.
pub(crate) fn is_unholdable(character: char) -> bool {
    matches!(u32::from(character), 0..=0x1f | 0x7f..=0x9f | 0xe000..=0xf8ff | 0xfff0..)
}

/// The paths of one backend.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    /// Without a `/` at its end.
    root: String,
}

impl Paths {
    /// `root`: without a `/` at its end, empty for all.
    pub(crate) fn new(root: String) -> Self {
        Self { root }
    }

    /// The root node.
    pub(crate) fn root(&self) -> &str {
        if self.root.is_empty() { "/" } else { &self.root }
    }

    /// The node of a key.
    ///
    /// # Errors
    ///
    /// `invalid` for keys of what is not the user's.
    pub(crate) fn node(&self, key: &str) -> Result<String, Error> {
        let mut path = self.root.clone();
        for segment in key::to_path(key).split('/') {
            path.push('/');
            path.push_str(&to_node(segment));
        }
        match self.reserved(&path) {
            None => Ok(path),
            Some(whose) => Err(Error::invalid(format!("key `{key}`: {whose}"))),
        }
    }

    /// The node below which the keys of a prefix are.
    ///
    /// # Errors
    ///
    /// As [`node`](Self::node).
    pub(crate) fn directory(&self, prefix: &str) -> Result<String, Error> {
        if prefix.is_empty() { Ok(self.root().to_owned()) } else { self.node(prefix) }
    }

    /// The key of a node below the root; none for what is not the user's, or has no key.
    pub(crate) fn key(&self, path: &str) -> Option<String> {
        let below = path.strip_prefix(&self.root)?.strip_prefix('/')?;
        if self.reserved(path).is_some() {
            return None;
        }
        let raw: Vec<_> = below.split('/').map(from_node).collect();
        key::from_path(&raw.join("/"))
    }

    /// Why a node is not for keys, if so.
    pub(crate) fn reserved(&self, path: &str) -> Option<&'static str> {
        let below = path.strip_prefix(&self.root)?.strip_prefix('/')?;
        match below.split('/').next() {
            Some(OWN) => Some("below `.pintle` is what Pintle stores itself"),
            Some("zookeeper") if self.root.is_empty() => {
                Some("below `zookeeper` is what ZooKeeper stores itself")
            }
            _ => None,
        }
    }

    fn own(&self, rest: &str) -> String {
        format!("{}/{OWN_VERSIONED}/{rest}", self.root)
    }

    /// The node that holds the identity of the ensemble.
    pub(crate) fn identity(&self) -> String {
        self.own("identity")
    }

    /// The node below which locks are.
    pub(crate) fn locks(&self) -> String {
        self.own("locks")
    }

    /// The node below which the claims on a lock are.
    pub(crate) fn lock(&self, name: &str) -> String {
        format!("{}/{}", self.locks(), of_name(name))
    }

    /// The node below which instances are, by service.
    pub(crate) fn instances(&self) -> String {
        self.own("registry/instances")
    }

    /// The node below which what operators say of instances is, by service.
    pub(crate) fn overrides(&self) -> String {
        self.own("registry/overrides")
    }

    /// The node of a service in [`instances`](Self::instances) or [`overrides`](Self::overrides).
    pub(crate) fn service(&self, directory: &str, service: &str) -> String {
        format!("{directory}/{}", of_name(service))
    }

    /// The node of an instance there.
    pub(crate) fn instance(&self, directory: &str, service: &str, id: &str) -> String {
        format!("{}/{}", self.service(directory, service), of_name(id))
    }
}

/// The parent of a node.
pub(crate) fn parent(path: &str) -> &str {
    match path.rfind('/') {
        None | Some(0) => "/",
        Some(end) => path.get(..end).unwrap_or("/"),
    }
}

/// The path of a child.
pub(crate) fn child(path: &str, name: &str) -> String {
    if path == "/" { format!("/{name}") } else { format!("{path}/{name}") }
}

/// All nodes above a node but the root of all, from the top.
pub(crate) fn ancestors(path: &str) -> Vec<&str> {
    let ends = path.match_indices('/').map(|(end, _)| end).filter(|end| *end > 0);
    ends.filter_map(|end| path.get(..end)).collect()
}

/// A name of a lock, a service or an instance as the name of a node.
pub(crate) fn of_name(name: &str) -> String {
    to_node(&key::to_segment(name))
}

/// The name that a node stands for, unless it was not written here.
pub(crate) fn to_name(node: &str) -> Option<String> {
    key::from_segment(&from_node(node))
}

/// A segment of a path as the name of a node.
pub(crate) fn to_node(segment: &str) -> String {
    match segment {
        "." => return "%2E".to_owned(),
        ".." => return "%2E%2E".to_owned(),
        _ if is_escaped_dots(segment) => return segment.replacen('%', "%25", 1),
        _ => {}
    }
    let mut node = String::with_capacity(segment.len());
    for (position, character) in segment.char_indices() {
        if is_unholdable(character) {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                node.push_str(&format!("%{byte:02X}"));
            }
            continue;
        }
        node.push(character);
        let rest = segment.get(position + 1..).unwrap_or_default();
        if character == '%' && escape_in(rest.trim_start_matches("25")).is_some() {
            node.push_str("25");
        }
    }
    node
}

/// The segment of a path that the name of a node stands for.
pub(crate) fn from_node(node: &str) -> String {
    match node {
        "%2E" => return ".".to_owned(),
        "%2E%2E" => return "..".to_owned(),
        _ if is_escaped_dots(node) => return node.replacen("%25", "%", 1),
        _ => {}
    }
    let mut segment = String::with_capacity(node.len());
    let mut rest = node;
    while let Some((before, behind)) = rest.split_once('%') {
        segment.push_str(before);
        let protected = behind.trim_start_matches("25");
        match escape_in(protected) {
            Some((character, length)) if protected.len() == behind.len() => {
                segment.push(character);
                rest = behind.get(length..).unwrap_or_default();
            }
            Some(_) => {
                segment.push('%');
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                segment.push('%');
                rest = behind;
            }
        }
    }
    segment.push_str(rest);
    segment
}

/// Whether this is `%2E` or `%2E%2E`, with any number of `25` behind the first `%`.
fn is_escaped_dots(text: &str) -> bool {
    let dots = text.strip_prefix('%').map(|rest| rest.trim_start_matches("25"));
    matches!(dots, Some("2E" | "2E%2E"))
}

/// The character that an escape stands for which was written here, and the bytes of the escape; the
/// first `%` stands before `text`.
fn escape_in(text: &str) -> Option<(char, usize)> {
    let first = hex_byte(text)?;
    let count = match first {
        0..=0x7f => 1,
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return None,
    };
    let mut bytes = vec![first];
    let mut length = 2;
    while bytes.len() < count {
        let next = text.get(length..)?.strip_prefix('%')?;
        bytes.push(hex_byte(next)?);
        length += 3;
    }
    let character = std::str::from_utf8(&bytes).ok()?.chars().next()?;
    is_unholdable(character).then_some((character, length))
}

fn hex_byte(text: &str) -> Option<u8> {
    let digits = text.get(..2)?;
    let upper = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    digits.bytes().all(upper).then(|| u8::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_paths_below_the_root() {
        let paths = Paths::new("/prod".to_owned());
        assert_eq!(paths.node("app/db").unwrap(), "/prod/app/db");
        assert_eq!(paths.node("50%25").unwrap(), "/prod/50%");
        assert_eq!(paths.directory("").unwrap(), "/prod");
        assert_eq!(paths.key("/prod/app/50%").as_deref(), Some("app/50%25"));
        assert_eq!(paths.key("/production/app"), None);
        assert_eq!(paths.key("/prod"), None);
        let all = Paths::new(String::new());
        assert_eq!(all.directory("").unwrap(), "/");
        assert_eq!(all.node("a").unwrap(), "/a");
    }

    #[test]
    fn what_is_not_the_users_has_no_key() {
        let all = Paths::new(String::new());
        for key in [".pintle", ".pintle/v1/locks", "zookeeper", "zookeeper/quota"] {
            assert_eq!(all.node(key).unwrap_err().code(), "invalid");
            assert_eq!(all.key(&format!("/{key}")), None);
        }
        assert!(Paths::new("/prod".to_owned()).node("zookeeper").is_ok());
        assert!(all.node("a/.pintle").is_ok());
        assert!(all.node(".pintles").is_ok());
    }

    #[test]
    fn what_a_node_cannot_be_called_is_escaped_and_nothing_else_is() {
        for (segment, node) in [
            ("plain", "plain"),
            ("dubbo%3A%2F%2F10.0.0.1%3A20880", "dubbo%3A%2F%2F10.0.0.1%3A20880"),
            ("100%", "100%"),
            ("a\u{1}b", "a%01b"),
            ("🙂", "%F0%9F%99%82"),
            ("%F0%9F%99%82", "%25F0%9F%99%82"),
            ("%2501", "%252501"),
            (".", "%2E"),
            ("..", "%2E%2E"),
            ("%2E", "%252E"),
            ("...", "..."),
            ("ü☃", "ü☃"),
        ] {
            assert_eq!(to_node(segment), node);
            assert_eq!(from_node(node), segment);
        }
    }

    #[test]
    fn names_are_one_segment() {
        assert_eq!(of_name("a/b%"), "a%2Fb%25");
        assert_eq!(to_name("a%2Fb%25").as_deref(), Some("a/b%"));
        assert_eq!(to_name("_c_x-lock-0000000001").as_deref(), Some("_c_x-lock-0000000001"));
        assert_eq!(to_name("100%"), None, "not written here");
    }

    #[test]
    fn ancestors_come_from_the_top() {
        assert_eq!(ancestors("/a/b/c"), ["/a", "/a/b"]);
        assert!(ancestors("/a").is_empty());
        assert_eq!((parent("/a/b"), parent("/a"), child("/", "a").as_str()), ("/a", "/", "/a"));
    }

    proptest! {
        #[test]
        fn every_segment_survives_the_way_through_a_node(segment in "[^/]{1,12}") {
            let node = to_node(&segment);
            prop_assert!(!node.chars().any(is_unholdable), "{:?}", node);
            prop_assert!(node != "." && node != "..");
            prop_assert_eq!(from_node(&node), segment);
        }

        /// Text made of what escapes are made of.
        #[test]
        fn what_looks_like_an_escape_survives_too(
            parts in proptest::collection::vec(
                prop_oneof![
                    Just("%"), Just("25"), Just("2E"), Just("01"), Just("C2"), Just("%80"),
                    Just("F0%9F"), Just("%99%82"), Just("\u{1}"), Just("🙂"), Just("."), Just("x"),
                ],
                1..8,
            ),
        ) {
            let segment = parts.concat();
            prop_assert_eq!(from_node(&to_node(&segment)), segment);
        }

        /// Every name that others gave a node is read as something that leads back to it.
        #[test]
        fn every_node_has_its_segment(node in "[^/]{1,12}") {
            if !node.chars().any(is_unholdable) && node != "." && node != ".." {
                prop_assert_eq!(to_node(&from_node(&node)), node);
            }
        }
    }
}
