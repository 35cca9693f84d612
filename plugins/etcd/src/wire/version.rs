//! Versions: a revision of the store as text.

/// The text of a revision.
pub fn to_text(revision: i64) -> String {
    revision.to_string()
}

/// The revision that a text names. It has one spelling, so that two texts are the same version only
/// when they are equal.
pub fn from_text(text: &str) -> Option<i64> {
    text.parse().ok().filter(|revision: &i64| *revision > 0 && revision.to_string() == text)
}

/// Whether a server of this version answers a progress request only after all events up to the
/// revision that it names: since 3.4.25 and 3.5.8 (etcd issue 15220).
pub fn has_reliable_progress(server: &str) -> bool {
    let mut parts = server.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    let version = (parts.next(), parts.next(), parts.next());
    let (Some(major), Some(minor), Some(patch)) = version else { return false };
    match (major, minor) {
        (3, 4) => patch >= 25,
        (3, 5) => patch >= 8,
        other => other > (3, 5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_one_spelling() {
        assert_eq!(from_text("17"), Some(17));
        for text in ["", "0", "-1", "+1", "017", "1.0", "1 ", "99999999999999999999"] {
            assert_eq!(from_text(text), None, "{text:?}");
        }
        assert_eq!(from_text(&to_text(i64::MAX)), Some(i64::MAX));
    }

    #[test]
    fn progress_of_old_servers_is_not_relied_on() {
        for old in ["3.4.23", "3.4.24", "3.5.0", "3.5.7", "3.3.99", "2.0.0", "", "x.y.z", "3.5"] {
            assert!(!has_reliable_progress(old), "{old:?}");
        }
        for good in ["3.4.25", "3.5.8", "3.5.30", "3.6.0", "3.6.0-rc.1", "4.0.0", "3.5.16+git"] {
            assert!(has_reliable_progress(good), "{good:?}");
        }
    }
}
