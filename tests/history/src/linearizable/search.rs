//! The search for an order.
#![allow(clippy::indexing_slicing, reason = "all indices are made here, from the same lists")]

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::model::{Action, Guard, Model, Result, State, Step};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Linearizable,
    Violated,
    GaveUp,
}

/// How a search ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) verdict: Verdict,
    /// How many steps were tried.
    pub(crate) trials: usize,
    /// The return that no order got past, of those that got furthest.
    pub(crate) stuck_at: u64,
}

/// Looks for an order of these steps, from this state on, that the model allows.
pub(crate) fn run(model: &Model, steps: &[Step], before: State, trials_max: usize) -> Found {
    let mut search = Search::new(model, steps);
    let verdict = search.run(before, trials_max);
    Found { verdict, trials: search.trials, stuck_at: search.stuck_at }
}

/// How many unknown operations may have to come one after the other before an answered one fits.
const CHAIN_LEN_MAX: usize = 4;

struct Search<'a> {
    model: &'a Model,
    steps: &'a [Step],
    events: Events,
    unknown: Rc<Unknown>,
    used: Vec<bool>,
    /// Of each value, how many steps are still to come that see it or need its version.
    wanted: Vec<u32>,
    /// Done answered steps and state, with the unknown steps that were used on the way there.
    visited: HashMap<(u128, State), Vec<Used>>,
    trials: usize,
    stuck_at: u64,
}

/// One way to go on: unknown steps that make it possible, then an answered one.
struct Move {
    chain: Vec<usize>,
    step: usize,
    after: State,
}

/// A configuration on the way, with the moves not tried yet and the one that led here.
struct Frame {
    state: State,
    moves: Vec<Move>,
    /// Whether `moves` were those that unknown steps make possible: looked for last.
    enabled_too: bool,
    arrived_by: Option<Move>,
    /// Name of the set of answered steps that are done.
    done: u128,
    /// The unknown steps that were used.
    used: Used,
}

impl<'a> Search<'a> {
    fn new(model: &'a Model, steps: &'a [Step]) -> Search<'a> {
        Search {
            model,
            steps,
            events: Events::new(steps),
            unknown: Rc::new(Unknown::new(model, steps)),
            used: vec![false; steps.len()],
            wanted: wanted(model, steps),
            visited: HashMap::new(),
            trials: 0,
            stuck_at: 0,
        }
    }

    fn run(&mut self, before: State, trials_max: usize) -> Verdict {
        let mut path = vec![self.frame(before, None, 0, Rc::default())];
        while let Some(frame) = path.last_mut() {
            if self.events.is_empty() {
                return Verdict::Linearizable;
            }
            let Some(next) = frame.moves.pop() else {
                if !frame.enabled_too {
                    frame.enabled_too = true;
                    frame.moves = self.enabled_moves(frame.state);
                } else if let Some(Frame { arrived_by: Some(last), .. }) = path.pop() {
                    self.undo(&last);
                }
                continue;
            };
            let done = frame.done ^ mark(next.step);
            let used = with(&frame.used, &next.chain);
            self.trials += 1;
            // What is wanted of whom depends on what is done, this move included.
            self.apply(&next);
            if !self.is_new(done, next.after, &used) {
                self.undo(&next);
                continue;
            }
            if self.trials > trials_max {
                return Verdict::GaveUp;
            }
            let frame = self.frame(next.after, Some(next), done, used);
            path.push(frame);
        }
        Verdict::Violated
    }

    fn frame(&self, state: State, arrived_by: Option<Move>, done: u128, used: Used) -> Frame {
        let moves = self.direct_moves(state);
        Frame { state, moves, enabled_too: false, arrived_by, done, used }
    }

    fn apply(&mut self, next: &Move) {
        self.events.take_out(next.step);
        for value in self.model.needed_values(&self.steps[next.step]) {
            self.wanted[value as usize] -= 1;
        }
        for step in &next.chain {
            self.used[*step] = true;
        }
    }

    fn undo(&mut self, last: &Move) {
        self.events.put_back(last.step);
        for value in self.model.needed_values(&self.steps[last.step]) {
            self.wanted[value as usize] += 1;
        }
        for step in &last.chain {
            self.used[*step] = false;
        }
    }

    /// Moves that need nothing unknown, the most promising last.
    fn direct_moves(&self, state: State) -> Vec<Move> {
        let (candidates, _) = self.events.front();
        let mut moves = Vec::new();
        for step in candidates.into_iter().rev() {
            let Some(after) = self.model.apply(state, &self.steps[step]) else { continue };
            let next = Move { chain: Vec::new(), step, after };
            if after == state && self.steps[step].only_looks() {
                return vec![next];
            }
            moves.push(next);
        }
        moves
    }

    /// Moves that unknown steps make possible, the most promising last.
    fn enabled_moves(&mut self, state: State) -> Vec<Move> {
        let (candidates, bound) = self.events.front();
        // Only asked for where nothing else goes on.
        self.stuck_at = self.stuck_at.max(bound);
        let mut moves = Vec::new();
        for step in candidates {
            match self.model.apply(state, &self.steps[step]) {
                Some(after) if after == state && self.steps[step].only_looks() => {
                    return Vec::new();
                }
                Some(_) => {}
                None => moves.extend(self.enable(state, step, bound)),
            }
        }
        moves.reverse();
        moves
    }

    fn enable(&mut self, state: State, step: usize, bound: u64) -> Vec<Move> {
        let chains = self.chains(state, step, bound, 1);
        let finish = |(chain, before)| {
            let after = self.model.apply(before, &self.steps[step])?;
            Some(Move { chain, step, after })
        };
        chains.into_iter().filter_map(finish).collect()
    }

    /// Unknown steps, and the state after them, that make a step possible that does not fit now.
    fn chains(
        &mut self,
        state: State,
        step: usize,
        bound: u64,
        depth: usize,
    ) -> Vec<(Vec<usize>, State)> {
        let mut found = Vec::new();
        let mut tried = HashSet::new();
        let unknown = self.unknown.clone();
        let need = Need::of(&self.steps[step]);
        for helper in unknown.helpers(self.model, need) {
            self.trials += 1;
            let started = self.steps[helper].invoked <= bound;
            if self.used[helper] || !started {
                continue;
            }
            if need == Need::Presence && self.is_wanted(helper) && !found.is_empty() {
                // Any value will do, and this one is wanted elsewhere.
                continue;
            }
            if !tried.insert(self.class(helper)) {
                continue;
            }
            if let Some(after) = self.model.apply(state, &self.steps[helper]) {
                if self.model.apply(after, &self.steps[step]).is_some() {
                    found.push((vec![helper], after));
                }
            } else if need.may_take_several() && depth < CHAIN_LEN_MAX {
                self.used[helper] = true;
                for (mut chain, before) in self.chains(state, helper, bound, depth + 1) {
                    let after = self.model.apply(before, &self.steps[helper]);
                    let fits =
                        |after: &State| self.model.apply(*after, &self.steps[step]).is_some();
                    if let Some(after) = after.filter(fits) {
                        chain.push(helper);
                        found.push((chain, after));
                    }
                }
                self.used[helper] = false;
            }
        }
        found
    }

    fn is_wanted(&self, helper: usize) -> bool {
        match self.steps[helper].action {
            Action::Put(value, _) => self.wanted[value as usize] > 0,
            Action::Get | Action::Delete(_) => false,
        }
    }

    /// Steps of one class can stand for each other: same effect, and nobody sees which it was.
    fn class(&self, helper: usize) -> Action {
        const UNWANTED: u32 = u32::MAX;
        match self.steps[helper].action {
            Action::Put(_, guard) if !self.is_wanted(helper) => Action::Put(UNWANTED, guard),
            action => action,
        }
    }

    /// Whether it is worth going there. From where fewer unknown steps are used everything can be
    /// reached that can be reached from where more are, so the latter need not be visited as well.
    fn is_new(&mut self, done: u128, state: State, used: &Used) -> bool {
        let mut known = self.visited.remove(&(done, state)).unwrap_or_default();
        let is_new = !known.iter().any(|known| self.uses_no_more(known, used));
        if is_new {
            known.push(used.clone());
        }
        self.visited.insert((done, state), known);
        is_new
    }

    /// Whether of each class no more are used in `some` than in `others`.
    fn uses_no_more(&self, some: &Used, others: &Used) -> bool {
        let mut surplus: HashMap<Action, i64> = HashMap::new();
        let word = |set: &Used, at: usize| set.get(at).copied().unwrap_or(0);
        for at in 0..some.len().max(others.len()) {
            let (here, there) = (word(some, at), word(others, at));
            for (bits, count) in [(here & !there, 1), (there & !here, -1)] {
                for bit in (0..64).filter(|bit| bits & (1 << bit) != 0) {
                    *surplus.entry(self.class(at * 64 + bit)).or_default() += count;
                }
            }
        }
        surplus.values().all(|count| *count <= 0)
    }
}

/// Of each value, how many steps see it or need its version.
fn wanted(model: &Model, steps: &[Step]) -> Vec<u32> {
    let mut wanted = vec![0; model.values_len()];
    for step in steps {
        for value in model.needed_values(step) {
            wanted[value as usize] += 1;
        }
    }
    wanted
}

/// A set of steps, one bit each.
type Used = Rc<[u64]>;

fn with(used: &Used, chain: &[usize]) -> Used {
    let Some(highest) = chain.iter().max() else { return used.clone() };
    let mut bits = used.to_vec();
    bits.resize(bits.len().max(highest / 64 + 1), 0);
    for step in chain {
        bits[step / 64] |= 1 << (step % 64);
    }
    bits.into()
}

/// The steps of unknown outcome, by what they can do; within a class in the order of invocation.
struct Unknown {
    puts: Vec<usize>,
    puts_of: HashMap<u32, Vec<usize>>,
    deletes: Vec<usize>,
}

impl Unknown {
    fn new(model: &Model, steps: &[Step]) -> Unknown {
        let mut unknown =
            Unknown { puts: Vec::new(), puts_of: HashMap::new(), deletes: Vec::new() };
        let mut order: Vec<(usize, &Step)> =
            steps.iter().enumerate().filter(|(_, step)| step.result.is_none()).collect();
        order.sort_by_key(|(_, step)| step.invoked);
        for (index, step) in order {
            match step.action {
                Action::Get => {}
                Action::Delete(_) => unknown.deletes.push(index),
                Action::Put(value, _) => {
                    unknown.puts_of.entry(value).or_default().push(index);
                    unknown.puts.push(index);
                }
            }
        }
        // Where any value will do, the ones that nobody wants go first.
        let wanted = wanted(model, steps);
        unknown.puts.sort_by_key(|index| match steps[*index].action {
            Action::Put(value, _) => wanted[value as usize] > 0,
            _ => false,
        });
        unknown
    }

    /// Unknown steps that may serve this need.
    fn helpers<'u>(&'u self, model: &'u Model, need: Need) -> Box<dyn Iterator<Item = usize> + 'u> {
        let writers_of = |value: u32| self.puts_of.get(&value).into_iter().flatten().copied();
        match need {
            Need::Value(value) => Box::new(writers_of(value)),
            Need::Absence => Box::new(self.deletes.iter().copied()),
            Need::Presence => Box::new(self.puts.iter().copied()),
            Need::Change => Box::new(self.puts.iter().chain(&self.deletes).copied()),
            Need::Version(version) => match model.values_of_version(version) {
                None => Box::new(self.puts.iter().copied()),
                Some(values) => Box::new(values.iter().copied().flat_map(writers_of)),
            },
        }
    }
}

/// What has to become true for a step that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Value(u32),
    Version(u32),
    Absence,
    /// Any value: the step replaces or removes it.
    Presence,
    /// Any other state than the present one.
    Change,
}

impl Need {
    fn of(step: &Step) -> Need {
        let guard = match step.action {
            Action::Get => Guard::Anything,
            Action::Put(_, guard) | Action::Delete(guard) => guard,
        };
        match (step.result, guard) {
            (Some(Result::Shows(State::Present { value, .. })), _) => Need::Value(value),
            (Some(Result::Shows(State::Absent) | Result::NothingToDelete), _)
            | (None | Some(Result::Done { .. }), Guard::Absent)
            | (Some(Result::Refused), Guard::Exists) => Need::Absence,
            (None | Some(Result::Done { .. }), Guard::Version(version)) => Need::Version(version),
            (None | Some(Result::Done { .. }), _) => Need::Presence,
            (Some(Result::Refused), _) => Need::Change,
        }
    }

    /// Whether it may take more than one unknown step: the first that fits brings presence and
    /// change already.
    fn may_take_several(self) -> bool {
        !matches!(self, Need::Presence | Need::Change)
    }
}

/// Calls and returns of answered steps in the order of time, as a list from which steps can be
/// taken out and put back in reverse.
struct Events {
    events: Vec<Event>,
    /// Of each step: where its call and its return are.
    places: Vec<(usize, usize)>,
    next: Vec<usize>,
    previous: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    stamp: u64,
    /// After calls of the same stamp: these count as concurrent.
    is_return: bool,
    step: usize,
}

/// The list begins behind this place, and ends before it.
const ANCHOR: usize = 0;

impl Events {
    fn new(steps: &[Step]) -> Events {
        let mut events = vec![Event { stamp: 0, is_return: false, step: usize::MAX }];
        for (step, Step { invoked, returned, .. }) in
            steps.iter().enumerate().filter(|(_, step)| step.result.is_some())
        {
            events.push(Event { stamp: *invoked, is_return: false, step });
            events.push(Event { stamp: *returned, is_return: true, step });
        }
        events[1..].sort_unstable();
        let mut places = vec![(ANCHOR, ANCHOR); steps.len()];
        for (place, event) in events.iter().enumerate().skip(1) {
            let (call, back) = &mut places[event.step];
            *(if event.is_return { back } else { call }) = place;
        }
        let len = events.len();
        let next = (1..=len).map(|place| place % len).collect();
        let previous = (0..len).map(|place| (place + len - 1) % len).collect();
        Events { events, places, next, previous }
    }

    fn is_empty(&self) -> bool {
        self.next[ANCHOR] == ANCHOR
    }

    /// The steps of which any may come next, and the stamp before which unknown ones have to have
    /// begun to come next.
    fn front(&self) -> (Vec<usize>, u64) {
        let mut steps = Vec::new();
        let mut place = self.next[ANCHOR];
        while place != ANCHOR {
            let event = self.events[place];
            if event.is_return {
                return (steps, event.stamp);
            }
            steps.push(event.step);
            place = self.next[place];
        }
        (steps, u64::MAX)
    }

    fn take_out(&mut self, step: usize) {
        let (call, back) = self.places[step];
        for place in [call, back] {
            self.next[self.previous[place]] = self.next[place];
            self.previous[self.next[place]] = self.previous[place];
        }
    }

    fn put_back(&mut self, step: usize) {
        let (call, back) = self.places[step];
        for place in [back, call] {
            self.next[self.previous[place]] = place;
            self.previous[self.next[place]] = place;
        }
    }
}

/// A step's share in the name of a set of steps: random bits, so that two sets of the same name
/// among n need luck of n² in 2¹²⁸.
fn mark(step: usize) -> u128 {
    let half = |seed: u64| {
        let mut bits = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678_9abc_def1);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u128::from(bits ^ (bits >> 31))
    };
    let seed = step as u64 * 2;
    half(seed) << 64 | half(seed + 1)
}
