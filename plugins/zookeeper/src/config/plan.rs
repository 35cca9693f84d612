//! From what is there and what shall be done to the operations of one `multi`.

use super::transact::key_of;
use super::version_of;
use crate::path::parent;
use crate::wire::{Acl, Create, CreateMode, Delete, Op, OpResult, SetData, Stat};
use pintle_plugin_sdk::config::{Entry, Expectation, TxnOp, TxnResult};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What is at a path.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// A node; a directory where it has no data.
    There { data: Option<Vec<u8>>, stat: Stat },
    /// No node, and these are missing above it, from the top.
    Missing { above: Vec<String> },
}

impl State {
    /// The entry, if it is a key.
    pub(super) fn entry(&self, key: &str) -> Option<Entry> {
        match self {
            Self::There { data, stat } => super::entry(key.to_owned(), data.clone(), stat),
            Self::Missing { .. } => None,
        }
    }
}

/// What was found, by key: path and state.
pub(super) type Looked = BTreeMap<String, (String, State)>;

/// Whether an expectation holds of what is there.
pub(super) fn holds(expect: &Expectation, current: Option<&Entry>) -> bool {
    match expect {
        Expectation::Anything => true,
        Expectation::Absent => current.is_none(),
        Expectation::Exists => current.is_some(),
        Expectation::Version(version) => current.is_some_and(|entry| entry.version == *version),
    }
}

/// One operation, with its own text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Check {
        path: String,
        version: i32,
    },
    /// Nothing is there: created and deleted again.
    Absent {
        path: String,
    },
    Delete {
        path: String,
        version: i32,
    },
    Set {
        path: String,
        data: Option<Vec<u8>>,
        version: i32,
    },
    Create {
        path: String,
        data: Option<Vec<u8>>,
    },
}

/// The operations of a transaction, in an order in which they can be done.
pub(super) struct Plan {
    steps: Vec<Step>,
    /// Where the answer to each put stands in the answers to the steps, by key.
    puts: HashMap<String, usize>,
}

impl Plan {
    /// Everything that was looked at has to be as it was when this is done.
    pub(super) fn new(looked: &Looked, ops: &[TxnOp]) -> Self {
        let by_key: HashMap<&str, &TxnOp> = ops.iter().map(|op| (key_of(op), op)).collect();
        let put_paths: Vec<&str> = ops
            .iter()
            .filter(|op| matches!(op, TxnOp::Put(_)))
            .filter_map(|op| looked.get(key_of(op)).map(|(path, _)| path.as_str()))
            .collect();
        let (mut absent, mut checks) = (BTreeSet::new(), Vec::new());
        let (mut deletes, mut sets) = (Vec::new(), Vec::new());
        let (mut creates, mut directories) = (Vec::new(), BTreeSet::new());
        for (key, (path, state)) in looked {
            match (state, by_key.get(key.as_str())) {
                (State::There { stat, .. }, Some(TxnOp::Put(put))) => {
                    sets.push((key, path, Some(put.value.clone()), stat.version));
                }
                (State::There { data: Some(_), stat }, Some(TxnOp::Delete(_))) => {
                    deletes.push((path, stat));
                }
                (State::There { stat, .. }, _) => {
                    checks.push(Step::Check { path: path.clone(), version: stat.version });
                }
                (State::Missing { above }, Some(TxnOp::Put(put))) => {
                    directories.extend(above.iter().cloned());
                    creates.push((key, path, put.value.clone()));
                }
                (State::Missing { above }, _) => {
                    absent.insert(above.first().unwrap_or(path).clone());
                }
            }
        }
        let mut plan = Self { steps: Vec::new(), puts: HashMap::new() };
        plan.steps.extend(absent.into_iter().map(|path| Step::Absent { path }));
        plan.steps.extend(checks);
        plan.delete(deletes, &put_paths);
        for (key, path, data, version) in sets {
            plan.put(key, Step::Set { path: path.clone(), data, version });
        }
        plan.create(creates, directories);
        plan
    }

    /// Children before their parents; a node that keeps children becomes a directory.
    fn delete(&mut self, mut deletes: Vec<(&String, &Stat)>, put_paths: &[&str]) {
        deletes.sort_by_key(|(path, _)| std::cmp::Reverse(path.matches('/').count()));
        let mut gone: HashMap<String, i32> = HashMap::new();
        for (path, stat) in deletes {
            let below =
                |put: &&str| put.strip_prefix(path.as_str()).is_some_and(|r| r.starts_with('/'));
            let left = stat.num_children - gone.get(path).copied().unwrap_or(0);
            let (path, version) = (path.clone(), stat.version);
            if left == 0 && !put_paths.iter().any(below) {
                *gone.entry(parent(&path).to_owned()).or_default() += 1;
                self.steps.push(Step::Delete { path, version });
            } else {
                self.steps.push(Step::Set { path, data: None, version });
            }
        }
    }

    /// Parents before their children; a key that is created is no directory that is missing.
    fn create(
        &mut self,
        creates: Vec<(&String, &String, Vec<u8>)>,
        mut directories: BTreeSet<String>,
    ) {
        let mut values: BTreeMap<&str, (&String, Vec<u8>)> = BTreeMap::new();
        for (key, path, value) in creates {
            directories.insert(path.clone());
            values.insert(path, (key, value));
        }
        // In the order of their bytes a parent comes before what is below it.
        for path in directories {
            match values.remove(path.as_str()) {
                Some((key, value)) => {
                    self.put(key, Step::Create { path, data: Some(value) });
                }
                None => self.steps.push(Step::Create { path, data: None }),
            }
        }
    }

    fn put(&mut self, key: &str, step: Step) {
        let answers = self.steps.iter().map(Step::answers).sum();
        self.puts.insert(key.to_owned(), answers);
        self.steps.push(step);
    }

    /// The operations, for the server.
    pub(super) fn ops<'a>(&'a self, acl: &'a [Acl]) -> Vec<Op<'a>> {
        let mode = CreateMode::Persistent;
        let op = |step: &'a Step| match step {
            Step::Check { path, version } => vec![Op::Check { path, version: *version }],
            Step::Absent { path } => {
                vec![Op::directory(path, acl), Op::Delete(Delete { path, version: -1 })]
            }
            Step::Delete { path, version } => {
                vec![Op::Delete(Delete { path, version: *version })]
            }
            Step::Set { path, data, version } => {
                vec![Op::SetData(SetData { path, data: data.as_deref(), version: *version })]
            }
            Step::Create { path, data } => {
                vec![Op::Create(Create { path, data: data.as_deref(), acl, mode })]
            }
        };
        self.steps.iter().flat_map(op).collect()
    }

    /// What each operation gave.
    pub(super) fn results(
        &self,
        ops: &[TxnOp],
        looked: &Looked,
        done: &[OpResult],
    ) -> Vec<TxnResult> {
        let result = |op: &TxnOp| {
            let key = key_of(op);
            let before = || looked.get(key).and_then(|(_, state)| state.entry(key));
            match op {
                TxnOp::Get(_) => TxnResult::Got(before()),
                TxnOp::Delete(_) => TxnResult::Deleted(before().is_some()),
                TxnOp::Put(_) => {
                    let answer = self.puts.get(key).and_then(|position| done.get(*position));
                    TxnResult::Stored(match answer {
                        Some(OpResult::Set(stat) | OpResult::Created(_, Some(stat))) => {
                            version_of(stat)
                        }
                        // Not of these: an answer has a result for each operation.
                        _ => String::new(),
                    })
                }
            }
        };
        ops.iter().map(result).collect()
    }
}

impl Step {
    /// How many operations it is for the server.
    fn answers(&self) -> usize {
        if matches!(self, Self::Absent { .. }) { 2 } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_plugin_sdk::config::TxnPut;

    fn there(data: Option<&str>, version: i32, num_children: i32) -> State {
        let data = data.map(|data| data.as_bytes().to_vec());
        State::There { data, stat: Stat { version, num_children, ..Stat::default() } }
    }

    fn missing(above: &[&str]) -> State {
        State::Missing { above: above.iter().map(|path| (*path).to_owned()).collect() }
    }

    fn put(key: &str) -> TxnOp {
        let (key, value) = (key.to_owned(), b"v".to_vec());
        TxnOp::Put(TxnPut { key, value, content_type: None })
    }

    fn delete(key: &str) -> TxnOp {
        TxnOp::Delete(key.to_owned())
    }

    fn planned(looked: &[(&str, State)], ops: &[TxnOp]) -> Vec<String> {
        let looked = looked
            .iter()
            .map(|(key, state)| ((*key).to_owned(), (format!("/{key}"), state.clone())))
            .collect();
        let short = |step: &Step| match step {
            Step::Check { path, version } => format!("check {path}@{version}"),
            Step::Absent { path } => format!("absent {path}"),
            Step::Delete { path, version } => format!("delete {path}@{version}"),
            Step::Set { path, data: Some(_), version } => format!("set {path}@{version}"),
            Step::Set { path, data: None, version } => format!("empty {path}@{version}"),
            Step::Create { path, data: Some(_) } => format!("create {path}"),
            Step::Create { path, data: None } => format!("directory {path}"),
        };
        Plan::new(&looked, ops).steps.iter().map(short).collect()
    }

    #[test]
    fn what_was_only_read_has_to_be_as_it_was() {
        let looked =
            [("a", there(Some("1"), 4, 0)), ("b", there(None, 0, 1)), ("c/d", missing(&["/c"]))];
        let reads = ["a", "b", "c/d"].map(|key| TxnOp::Get(key.to_owned()));
        assert_eq!(planned(&looked, &reads), ["absent /c", "check /a@4", "check /b@0"]);
    }

    #[test]
    fn parents_come_before_their_children_and_each_once() {
        let looked = [
            ("x/y/a", missing(&["/x", "/x/y"])),
            ("x/y/b", missing(&["/x", "/x/y"])),
            ("x", missing(&[])),
        ];
        let ops = [put("x/y/a"), put("x/y/b"), put("x")];
        assert_eq!(
            planned(&looked, &ops),
            ["create /x", "directory /x/y", "create /x/y/a", "create /x/y/b"]
        );
    }

    #[test]
    fn a_node_that_keeps_children_becomes_a_directory() {
        let looked = [("a", there(Some("1"), 1, 2)), ("a/b", there(Some("1"), 2, 0))];
        let ops = [delete("a"), delete("a/b")];
        assert_eq!(planned(&looked, &ops), ["delete /a/b@2", "empty /a@1"]);
    }

    #[test]
    fn children_are_deleted_before_their_parents() {
        let looked = [("a", there(Some("1"), 1, 1)), ("a/b", there(Some("1"), 2, 0))];
        let ops = [delete("a"), delete("a/b")];
        assert_eq!(planned(&looked, &ops), ["delete /a/b@2", "delete /a@1"]);
    }

    #[test]
    fn a_deleted_node_below_which_something_is_put_stays_as_a_directory() {
        let looked = [("a", there(Some("1"), 1, 0)), ("a/b", missing(&[]))];
        let ops = [delete("a"), put("a/b")];
        assert_eq!(planned(&looked, &ops), ["empty /a@1", "create /a/b"]);
    }

    #[test]
    fn a_directory_is_no_key_to_delete() {
        let looked = [("a", there(None, 3, 1))];
        assert_eq!(planned(&looked, &[delete("a")]), ["check /a@3"]);
    }
}
