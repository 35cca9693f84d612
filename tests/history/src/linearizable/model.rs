//! The register: which answer fits which state.

use std::collections::HashMap;

use crate::{Answer, Call, Entry, Expect, Operation, Outcome};

/// A value or version, by its number in the history of one key.
type Name = u32;

/// What a key holds. A version is `None` after a write whose version nobody was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum State {
    Absent,
    Present { value: Name, version: Option<Name> },
}

/// An operation as the search sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// Position in the list that the model was made from.
    pub(crate) index: usize,
    pub(crate) invoked: u64,
    pub(crate) returned: u64,
    pub(crate) action: Action,
    /// `None`: it may take effect at any time after its invocation, or never.
    pub(crate) result: Option<Result>,
}

impl Step {
    /// Whether its answer says that it changed nothing.
    pub(crate) fn only_looks(&self) -> bool {
        !matches!(self.result, None | Some(Result::Done { .. }))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Get,
    Put(Name, Guard),
    Delete(Guard),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Guard {
    Anything,
    Absent,
    Exists,
    Version(Name),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Result {
    /// A get or a stale answer: this is the state.
    Shows(State),
    Done {
        version: Option<Name>,
    },
    NothingToDelete,
    Refused,
}

/// The operations of one key, with values and versions numbered.
pub(crate) struct Model {
    steps: Vec<Step>,
    /// The values that were seen under a version.
    values_of: HashMap<Name, Vec<Name>>,
    values_len: usize,
}

impl Model {
    pub(crate) fn new(operations: &[&Operation]) -> Model {
        let mut names = Names::default();
        let mut steps: Vec<Step> = Vec::with_capacity(operations.len());
        for (index, operation) in operations.iter().enumerate() {
            steps.extend(step(index, operation, &mut names));
        }
        let values_len = names.values.len();
        let mut model = Model { steps, values_of: HashMap::new(), values_len };
        model.learn();
        model
    }

    fn learn(&mut self) {
        for step in &self.steps {
            let (value, version) = match (step.action, step.result) {
                (_, Some(Result::Shows(State::Present { value, version }))) => (value, version),
                (Action::Put(value, _), Some(Result::Done { version })) => (value, version),
                _ => continue,
            };
            if let Some(version) = version {
                let values = self.values_of.entry(version).or_default();
                if !values.contains(&value) {
                    values.push(value);
                }
            }
        }
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.steps.clone()
    }

    pub(crate) fn values_len(&self) -> usize {
        self.values_len
    }

    /// One state of each kind that these steps can tell from others.
    pub(crate) fn states_that_matter(&self, steps: &[Step]) -> Vec<State> {
        const ANY_OTHER: Name = Name::MAX;
        let mut values: Vec<Name> =
            steps.iter().flat_map(|step| self.needed_values(step)).chain([ANY_OTHER]).collect();
        values.sort_unstable();
        values.dedup();
        let present = values.into_iter().map(|value| State::Present { value, version: None });
        present.chain([State::Absent]).collect()
    }

    /// The values of which one has to be there for this step.
    pub(crate) fn needed_values<'a>(&'a self, step: &Step) -> impl Iterator<Item = Name> + use<'a> {
        let shown = match step.result {
            Some(Result::Shows(State::Present { value, .. })) => Some(value),
            _ => None,
        };
        let guarded = match (step.action, step.result) {
            (
                Action::Put(_, Guard::Version(version)) | Action::Delete(Guard::Version(version)),
                None | Some(Result::Done { .. }),
            ) => self.values_of_version(version),
            _ => None,
        };
        shown.into_iter().chain(guarded.into_iter().flatten().copied())
    }

    /// The values that were seen under this version, if it was seen at all.
    pub(crate) fn values_of_version(&self, version: Name) -> Option<&[Name]> {
        self.values_of.get(&version).map(Vec::as_slice)
    }

    /// The state after this step, if it fits.
    pub(crate) fn apply(&self, state: State, step: &Step) -> Option<State> {
        let (guard, after) = match step.action {
            Action::Get => (Guard::Anything, state),
            Action::Put(value, guard) => {
                let version = match step.result {
                    Some(Result::Done { version }) => version,
                    _ => None,
                };
                (guard, State::Present { value, version })
            }
            Action::Delete(guard) => (guard, State::Absent),
        };
        let deletes = matches!(step.action, Action::Delete(_));
        match step.result {
            None | Some(Result::Done { .. }) => {
                let nothing_to_do = deletes && state == State::Absent;
                (!nothing_to_do && self.may_hold(guard, state)).then_some(after)
            }
            Some(Result::NothingToDelete) => (state == State::Absent).then_some(state),
            Some(Result::Refused) => (!self.must_hold(guard, state)).then_some(state),
            Some(Result::Shows(shown)) => {
                let merged = merge(state, shown)?;
                let fits = step.action == Action::Get || !self.must_hold(guard, merged);
                fits.then_some(merged)
            }
        }
    }

    fn may_hold(&self, guard: Guard, state: State) -> bool {
        match (guard, state) {
            (Guard::Version(expected), State::Present { value, version: None }) => {
                self.values_of.get(&expected).is_none_or(|values| values.contains(&value))
            }
            _ => self.must_hold(guard, state),
        }
    }

    fn must_hold(&self, guard: Guard, state: State) -> bool {
        match (guard, state) {
            (Guard::Anything, _)
            | (Guard::Absent, State::Absent)
            | (Guard::Exists, State::Present { .. }) => true,
            (Guard::Version(expected), State::Present { version, .. }) => version == Some(expected),
            _ => false,
        }
    }
}

/// The state with what an answer adds to it, if the two agree.
fn merge(state: State, shown: State) -> Option<State> {
    match (state, shown) {
        (State::Absent, State::Absent) => Some(State::Absent),
        (
            State::Present { value, version },
            State::Present { value: shown_value, version: shown_version },
        ) => {
            let agree = version.is_none() || shown_version.is_none() || version == shown_version;
            let version = version.or(shown_version);
            (value == shown_value && agree).then_some(State::Present { value, version })
        }
        _ => None,
    }
}

/// The operation in numbers; `None` when it says nothing about the register.
fn step(index: usize, operation: &Operation, names: &mut Names) -> Option<Step> {
    let mut guard = |expect: &Expect| match expect {
        Expect::Anything => Guard::Anything,
        Expect::Absent => Guard::Absent,
        Expect::Exists => Guard::Exists,
        Expect::Version(version) => Guard::Version(names.version(version)),
    };
    let action = match &operation.call {
        Call::Get => Action::Get,
        Call::Delete { expect } => Action::Delete(guard(expect)),
        Call::Put { value, expect } => {
            let guard = guard(expect);
            Action::Put(names.value(value), guard)
        }
    };
    let result = match &operation.outcome {
        Outcome::Failed => return None,
        Outcome::Unknown if action == Action::Get => return None,
        Outcome::Unknown => None,
        Outcome::Ok(answer) => Some(match answer {
            Answer::Got(entry) | Answer::Stale(entry) => Result::Shows(names.state(entry)),
            Answer::Stored(version) => {
                Result::Done { version: version.as_ref().map(|version| names.version(version)) }
            }
            Answer::Deleted => Result::Done { version: None },
            Answer::Absent => Result::NothingToDelete,
            Answer::Refused => Result::Refused,
        }),
    };
    let (invoked, returned) = (operation.invoked, operation.returned);
    Some(Step { index, invoked, returned, action, result })
}

#[derive(Default)]
struct Names {
    values: HashMap<String, Name>,
    versions: HashMap<String, Name>,
}

impl Names {
    fn value(&mut self, value: &str) -> Name {
        number(&mut self.values, value)
    }

    fn version(&mut self, version: &str) -> Name {
        number(&mut self.versions, version)
    }

    fn state(&mut self, entry: &Option<Entry>) -> State {
        match entry {
            None => State::Absent,
            Some(Entry { value, version }) => State::Present {
                value: self.value(value),
                version: version.as_ref().map(|version| self.version(version)),
            },
        }
    }
}

fn number(names: &mut HashMap<String, Name>, name: &str) -> Name {
    if let Some(known) = names.get(name) {
        return *known;
    }
    let next = names.len() as Name;
    names.insert(name.to_owned(), next);
    next
}
