//! What a reader of a watch knows after its events, and what was wrong with them.

use std::collections::{BTreeMap, BTreeSet};

use pintle::direct::{config, registry};

/// An event of either capability, as the rules of watches see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Begin,
    Put {
        key: String,
        said: String,
    },
    Removed {
        key: String,
    },
    End,
    Resync,
    Progress,
    Ended(String),
    /// Not about a watch.
    Other,
}

/// A reader's knowledge.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// What is there, with its version and all that is said of it.
    pub(crate) state: BTreeMap<String, String>,
    /// Whether the first snapshot has ended, and none is under way or due.
    pub(crate) live: bool,
    pub(crate) resyncs: usize,
    /// The rules that were broken, in words.
    pub(crate) wrong: Vec<String>,
    /// Keys of the snapshot that is under way.
    snapshot: Option<BTreeSet<String>>,
    /// A snapshot has to come next.
    due: bool,
    first_told: Option<bool>,
    begun: bool,
    ended: bool,
}

impl View {
    /// What one knows after these events of a watch from a version, whose reader knew `state`.
    pub(crate) fn on(
        state: BTreeMap<String, String>,
        steps: impl IntoIterator<Item = Step>,
    ) -> Self {
        let mut view = Self { state, live: true, begun: true, ..Self::default() };
        for step in steps {
            view.take(step);
        }
        view
    }

    /// What one knows after these events.
    pub(crate) fn after(steps: impl IntoIterator<Item = Step>) -> Self {
        let mut view = Self { due: true, ..Self::default() };
        for step in steps {
            view.take(step);
        }
        view
    }

    /// Whether the first that was told of a change is that there is a gap; nothing before it is told.
    pub(crate) fn first_told(&self) -> Option<bool> {
        self.first_told
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Resync => self.first_told = self.first_told.or(Some(true)),
            Step::Put { .. } | Step::Removed { .. } | Step::Ended(_) => {
                self.first_told = self.first_told.or(Some(false));
            }
            Step::Begin | Step::End | Step::Progress | Step::Other => {}
        }
        if self.ended {
            self.wrong.push(format!("after `ended` came {step:?}"));
        }
        match step {
            Step::Begin => {
                if !self.due {
                    self.wrong.push("a snapshot began without a `resync` before it".to_owned());
                }
                self.state.clear();
                self.snapshot = Some(BTreeSet::new());
                (self.due, self.begun, self.live) = (false, true, false);
            }
            Step::Put { key, said } => {
                if let Some(seen) = &mut self.snapshot
                    && !seen.insert(key.clone())
                {
                    self.wrong.push(format!("{key} stands twice in one snapshot"));
                }
                self.change(&key);
                self.state.insert(key, said);
            }
            Step::Removed { key } => {
                if self.snapshot.is_some() {
                    self.wrong.push(format!("the removal of {key} came inside a snapshot"));
                }
                self.change(&key);
                self.state.remove(&key);
            }
            Step::End => {
                if self.snapshot.take().is_none() {
                    self.wrong.push("a snapshot ended that had not begun".to_owned());
                }
                self.live = true;
            }
            Step::Resync => {
                self.resyncs += 1;
                self.snapshot = None;
                (self.due, self.live) = (true, false);
            }
            Step::Ended(reason) => {
                self.ended = true;
                self.wrong.push(format!("the watch ended: {reason}"));
            }
            Step::Progress | Step::Other => {}
        }
    }

    fn change(&mut self, key: &str) {
        if self.due {
            let when = if self.begun { "after a `resync`" } else { "before the first snapshot" };
            self.wrong.push(format!("a change of {key} came {when}"));
        }
    }
}

/// All that is said of an entry.
pub(crate) fn entry_text(entry: &config::Entry) -> String {
    let value = String::from_utf8_lossy(&entry.value);
    format!("{} `{value}` {:?}", entry.version, entry.content_type)
}

/// All that is said of an instance.
pub(crate) fn instance_text(state: &registry::InstanceState) -> String {
    let mut instance = state.instance.clone();
    instance.labels.sort();
    format!("{} {instance:?} {:?} {}", state.version, state.operator, state.ephemeral)
}

impl From<&config::Event> for Step {
    fn from(event: &config::Event) -> Self {
        match event {
            config::Event::SnapshotBegin => Self::Begin,
            config::Event::Put(put) => {
                Self::Put { key: put.entry.key.clone(), said: entry_text(&put.entry) }
            }
            config::Event::Removed(removed) => Self::Removed { key: removed.key.clone() },
            config::Event::SnapshotEnd(_) => Self::End,
            config::Event::Resync(_) => Self::Resync,
            config::Event::Progress(_) => Self::Progress,
            config::Event::Ended(error) => Self::Ended(error.message.clone()),
        }
    }
}

impl From<&registry::Event> for Step {
    fn from(event: &registry::Event) -> Self {
        let key = |service: &str, id: &str| format!("{service}/{id}");
        match event {
            registry::Event::SnapshotBegin => Self::Begin,
            registry::Event::Put(put) => Self::Put {
                key: key(&put.state.instance.service, &put.state.instance.id),
                said: instance_text(&put.state),
            },
            registry::Event::Removed(removed) => {
                Self::Removed { key: key(&removed.service, &removed.id) }
            }
            registry::Event::SnapshotEnd => Self::End,
            registry::Event::Resync(_) => Self::Resync,
            registry::Event::Progress => Self::Progress,
            registry::Event::Ended(error) => Self::Ended(error.message.clone()),
            registry::Event::Registered(_)
            | registry::Event::Suspect(_)
            | registry::Event::Lost(_)
            | registry::Event::Taken(_) => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str) -> Step {
        Step::Put { key: key.to_owned(), said: "1".to_owned() }
    }

    #[test]
    fn a_whole_new_snapshot_replaces_what_was_known() {
        let view = View::after([
            Step::Begin,
            put("a"),
            put("b"),
            Step::End,
            put("c"),
            Step::Removed { key: "a".to_owned() },
            Step::Resync,
            Step::Begin,
            put("d"),
            Step::End,
        ]);
        assert_eq!(view.wrong, Vec::<String>::new());
        assert_eq!(view.state.keys().collect::<Vec<_>>(), ["d"]);
        assert!(view.live);
    }

    #[test]
    fn each_broken_rule_is_named() {
        let broken = [
            vec![put("a")],
            vec![Step::Begin, put("a"), put("a"), Step::End],
            vec![Step::Begin, Step::End, Step::Begin],
            vec![Step::Begin, Step::End, Step::Resync, put("a")],
            vec![Step::Begin, Step::Removed { key: "a".to_owned() }],
            vec![Step::End],
            vec![Step::Begin, Step::End, Step::Ended("no".to_owned())],
        ];
        for steps in broken {
            assert_eq!(View::after(steps.clone()).wrong.len(), 1, "{steps:?}");
        }
    }
}
