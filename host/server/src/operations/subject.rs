//! What a request is about, by the names in its path.

use percent_encoding::percent_decode_str;
use pintle_api::leader::lock_name;

use super::Operation;

/// The backend and the thing that a request names, before anybody has looked whether they are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) backend: Option<String>,
    /// A key, a lock, `service/instance`, a token, a plugin.
    pub(crate) key: Option<String>,
}

impl Operation {
    /// What a request for this path is about.
    pub(crate) fn subject(&self, path: &str) -> Subject {
        let mut subject = Subject::default();
        let mut rest = path;
        let mut before = "";
        for place in self.path.split('/') {
            let (segment, after) = rest.split_once('/').unwrap_or((rest, ""));
            let name = place.strip_prefix('{').and_then(|place| place.strip_suffix('}'));
            match name.map(|name| (name, name.strip_prefix('*'))) {
                // It stands for all that is left.
                Some((_, Some(name))) => subject.note(name, before, rest),
                Some((name, None)) => subject.note(name, before, segment),
                None => {}
            }
            before = name.unwrap_or(before);
            rest = after;
        }
        subject
    }
}

impl Subject {
    fn note(&mut self, name: &str, before: &str, segment: &str) {
        let Ok(text) = percent_decode_str(segment).decode_utf8() else { return };
        match (name, before) {
            ("backend", _) => self.backend = Some(text.into()),
            ("election", _) => self.key = Some(lock_name(&text)),
            ("id", "service") => {
                if let Some(service) = &mut self.key {
                    service.push('/');
                    service.push_str(&text);
                }
            }
            ("key" | "name" | "service" | "token" | "plugin", _) => self.key = Some(text.into()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::operations::all;

    #[test]
    fn a_path_tells_which_backend_and_which_thing() {
        let of = |id: &str, path: &str| {
            let subject = all().find(|operation| operation.id == id).unwrap().subject(path);
            (subject.backend.unwrap_or_default(), subject.key.unwrap_or_default())
        };
        let told = |backend: &str, key: &str| (backend.to_owned(), key.to_owned());
        let backend = "/v1/backends/a%62";
        for (id, path, expected) in [
            ("config.put", "/config/keys/app/x%20y", told("ab", "app/x y")),
            ("config.txn", "/config/txn", told("ab", "")),
            ("registry.register", "/registry/services/web/instances/i%2F1", told("ab", "web/i/1")),
            ("registry.override", "/registry/services/w/instances/1/override", told("ab", "w/1")),
            ("lock.release", "/locks/jobs%2Fa/leases/one", told("ab", "jobs/a")),
            ("lock.force-release", "/locks/l/claims/7", told("ab", "l")),
            ("leader.resign", "/leaders/e/leases/t", told("ab", "leader/e")),
            ("backend.restart", "/restart", told("ab", "")),
            // What is no text names nothing.
            ("config.put", "/config/keys/%FF", told("ab", "")),
        ] {
            assert_eq!(of(id, &format!("{backend}{path}")), expected, "{id}");
        }
        assert_eq!(of("token.revoke", "/v1/tokens/ci"), told("", "ci"));
        assert_eq!(of("plugin.accept", "/v1/plugins/etcd/accept"), told("", "etcd"));
        assert_eq!(of("token.create", "/v1/tokens"), told("", ""));
    }
}
