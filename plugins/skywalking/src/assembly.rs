//! Spans become segments: one for each process and each request that came in to it.
//!
//! A span belongs to the segment of its parent where that is in the same process, unless it takes a
//! request in (`SERVER`, `CONSUMER`). The first span of a segment refers to where in another segment
//! it was caused, so that segment has to be known: spans wait until it is, or until somebody flushes
//! their trace because they have waited long enough. What was sent is remembered for a while, so that
//! late spans still find their place: they begin a segment of their own that refers to it.

use crate::wire::messages::{RefType, SegmentObject, SegmentReference, SpanType};
use crate::wire::span::{Process, cut, span_object};
use pintle_otlp::text::hex;
use pintle_otlp::{Span, SpanKind};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

/// The id of a trace.
pub type TraceId = [u8; 16];
/// The id of a span in its trace.
pub type SpanId = [u8; 8];

/// One span, and what it needs of its resource and scope.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// On whose behalf; answers are given by ticket.
    pub ticket: u64,
    /// Where it comes from.
    pub process: Rc<Process>,
    /// Name of its scope.
    pub scope: Rc<str>,
    /// The span itself.
    pub span: Span,
}

/// What became of a span that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It will be part of a segment.
    Held,
    /// It was delivered before.
    Delivered,
    /// It is being delivered already: its ticket is told with the one that brought it.
    UnderWay,
    /// It cannot be reported.
    Refused(&'static str),
}

/// A segment to send.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The segment.
    pub object: SegmentObject,
    /// What is to be told of it once it was sent.
    pub receipt: Receipt,
}

/// Whose spans a segment holds.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// For each of its spans, in order: its id and its ticket.
    pub members: Vec<(SpanId, u64)>,
    trace_id: TraceId,
}

/// Spans that wait for their segments, and where earlier spans are.
#[derive(Debug)]
pub struct Assembly {
    traces: HashMap<TraceId, Trace>,
    known: Known,
    /// Tickets whose spans came again while they were being delivered for another.
    joined: HashMap<(TraceId, SpanId), Vec<u64>>,
}

#[derive(Debug, Default)]
struct Trace {
    held: BTreeMap<SpanId, Held>,
}

#[derive(Debug)]
struct Held {
    arrived: Arrived,
    parent: Option<SpanId>,
}

impl Held {
    fn kind(&self) -> SpanKind {
        self.arrived.span.kind()
    }

    /// Whether it takes a request in.
    fn is_entry(&self) -> bool {
        matches!(self.kind(), SpanKind::Server | SpanKind::Consumer)
    }
}

/// Where a span is that was put into a segment.
#[derive(Clone, Debug)]
struct Place {
    segment_id: Rc<str>,
    index: i32,
    process: Rc<Process>,
    /// What the segment's first span is called.
    endpoint: Rc<str>,
    /// The address that was called; empty unless it leaves the process.
    peer: Rc<str>,
    is_exit: bool,
    is_delivered: bool,
}

/// How a span hangs on others.
enum Parent {
    /// It is the first of its trace.
    None,
    /// In the same segment.
    Local(SpanId),
    /// In another segment, which is known.
    Placed(Place),
    /// In another segment, which is not formed yet.
    Waiting(SpanId),
    /// It has not arrived.
    Missing,
}

impl Assembly {
    /// Remembers the places of so many spans.
    pub fn new(known_max: usize) -> Self {
        Self { traces: HashMap::new(), known: Known::new(known_max), joined: HashMap::new() }
    }

    /// Takes a span.
    pub fn add(&mut self, arrived: Arrived) -> Arrival {
        let span = &arrived.span;
        let Ok(trace_id) = TraceId::try_from(span.trace_id.as_slice()) else {
            return Arrival::Refused("the trace id is not 16 bytes");
        };
        let Ok(span_id) = SpanId::try_from(span.span_id.as_slice()) else {
            return Arrival::Refused("the span id is not 8 bytes");
        };
        let parent = match SpanId::try_from(span.parent_span_id.as_slice()) {
            Ok(parent) => Some(parent).filter(|parent| *parent != [0; 8]),
            Err(_) if span.parent_span_id.is_empty() => None,
            Err(_) => return Arrival::Refused("the parent's id is not 8 bytes"),
        };
        if trace_id == [0; 16] || span_id == [0; 8] {
            return Arrival::Refused("the id of the trace or of the span is zero");
        }
        match self.known.get(trace_id, span_id) {
            Some(place) if place.is_delivered => return Arrival::Delivered,
            Some(_) => {
                self.joined.entry((trace_id, span_id)).or_default().push(arrived.ticket);
                return Arrival::UnderWay;
            }
            None => {}
        }
        let trace = self.traces.entry(trace_id).or_default();
        if trace.held.contains_key(&span_id) {
            return Arrival::Refused("another span of the trace has the same id");
        }
        trace.held.insert(span_id, Held { arrived, parent });
        Arrival::Held
    }

    /// Traces with spans of a ticket that wait.
    pub fn traces_of(&self, ticket: u64) -> Vec<TraceId> {
        let has = |trace: &Trace| trace.held.values().any(|held| held.arrived.ticket == ticket);
        let traces = self.traces.iter().filter(|(_, trace)| has(trace));
        let mut ids: Vec<_> = traces.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// The tickets of spans that wait.
    pub fn waiting(&self) -> BTreeSet<u64> {
        let held = self.traces.values().flat_map(|trace| trace.held.values());
        held.map(|held| held.arrived.ticket).collect()
    }

    /// How many spans wait.
    pub fn held_count(&self) -> usize {
        self.traces.values().map(|trace| trace.held.len()).sum()
    }

    /// Forgets the spans of a ticket that wait.
    pub fn withdraw(&mut self, ticket: u64) {
        for trace in self.traces.values_mut() {
            trace.held.retain(|_, held| held.arrived.ticket != ticket);
        }
        self.traces.retain(|_, trace| !trace.held.is_empty());
    }

    /// The segments of a trace that are whole as far as can be told.
    pub fn ready(&mut self, trace_id: TraceId) -> Vec<Segment> {
        self.form(trace_id, false)
    }

    /// All that waits of a trace, as it is.
    pub fn flush(&mut self, trace_id: TraceId) -> Vec<Segment> {
        self.form(trace_id, true)
    }

    /// A segment was delivered.
    pub fn delivered(&mut self, segment: &Receipt) {
        for (span_id, _) in &segment.members {
            self.known.mark_delivered(segment.trace_id, *span_id);
        }
    }

    /// A segment was not delivered: what it held may come again.
    pub fn failed(&mut self, segment: &Receipt) {
        for (span_id, _) in &segment.members {
            self.known.forget(segment.trace_id, *span_id);
        }
    }

    /// Who is to be told what became of a segment, once for each span: those who brought them, and those
    /// who brought them again meanwhile.
    pub fn take_tickets(&mut self, segment: &Receipt) -> Vec<u64> {
        let mut tickets = Vec::with_capacity(segment.members.len());
        for (span_id, ticket) in &segment.members {
            tickets.push(*ticket);
            tickets.extend(self.joined.remove(&(segment.trace_id, *span_id)).unwrap_or_default());
        }
        tickets
    }

    fn form(&mut self, trace_id: TraceId, all: bool) -> Vec<Segment> {
        let Some(trace) = self.traces.get_mut(&trace_id) else { return Vec::new() };
        let mut forming = Forming {
            trace_id,
            groups: trace.groups(trace_id, &self.known),
            trace,
            known: &mut self.known,
            waiting: HashMap::new(),
            orphans: Vec::new(),
            segments: Vec::new(),
        };
        forming.form_all(forming.groups.keys().copied().collect());
        while all && forming.force() {}
        let segments = forming.segments;
        if trace.held.is_empty() {
            self.traces.remove(&trace_id);
        }
        segments
    }
}

/// Segments of one trace, being formed. Each root is looked at when it may have become ready, not
/// with every other: traces may have thousands.
struct Forming<'a> {
    trace_id: TraceId,
    trace: &'a mut Trace,
    known: &'a mut Known,
    /// Spans by the first of their segment, those that are not formed yet.
    groups: BTreeMap<SpanId, BTreeSet<SpanId>>,
    /// First spans by the span that they wait for.
    waiting: HashMap<SpanId, Vec<SpanId>>,
    /// First spans whose cause has not come.
    orphans: Vec<SpanId>,
    segments: Vec<Segment>,
}

impl Forming<'_> {
    /// Forms the segments of these roots that can be, and those that waited for them.
    fn form_all(&mut self, roots: VecDeque<SpanId>) {
        let mut next = roots;
        while let Some(root) = next.pop_front() {
            match self.trace.parent(self.trace_id, root, self.known) {
                Parent::None => next.extend(self.form_one(root, None)),
                Parent::Placed(place) => next.extend(self.form_one(root, Some(place))),
                Parent::Local(parent) | Parent::Waiting(parent) => {
                    self.waiting.entry(parent).or_default().push(root);
                }
                Parent::Missing => self.orphans.push(root),
            }
        }
    }

    /// Forms what cannot wait any longer: everything whose cause has not come or, in a circle, any.
    /// Others may hang on them. Answers whether there was anything.
    fn force(&mut self) -> bool {
        let mut forced = std::mem::take(&mut self.orphans);
        if forced.is_empty() {
            forced.extend(self.groups.keys().next());
        }
        let is_any = !forced.is_empty();
        for root in forced {
            let next = self.form_one(root, None);
            self.form_all(next);
        }
        is_any
    }

    /// Forms one segment; answers the roots that waited for its spans.
    fn form_one(&mut self, root: SpanId, cause: Option<Place>) -> VecDeque<SpanId> {
        let Some(members) = self.groups.remove(&root) else { return VecDeque::new() };
        let segment = self.trace.segment(self.trace_id, root, &members, cause, self.known);
        self.segments.push(segment);
        members.iter().filter_map(|member| self.waiting.remove(member)).flatten().collect()
    }
}

impl Trace {
    fn parent(&self, trace_id: TraceId, span_id: SpanId, known: &Known) -> Parent {
        #[cfg(test)]
        tests::LOOKS.set(tests::LOOKS.get() + 1);
        let Some(held) = self.held.get(&span_id) else { return Parent::Missing };
        let Some(parent_id) = held.parent else { return Parent::None };
        match self.held.get(&parent_id) {
            Some(parent) if !held.is_entry() && parent.arrived.process == held.arrived.process => {
                Parent::Local(parent_id)
            }
            Some(_) => Parent::Waiting(parent_id),
            None => match known.get(trace_id, parent_id) {
                Some(place) => Parent::Placed(place.clone()),
                None => Parent::Missing,
            },
        }
    }

    /// For each span that begins a segment all spans of it.
    fn groups(&self, trace_id: TraceId, known: &Known) -> BTreeMap<SpanId, BTreeSet<SpanId>> {
        // None while the way from a span to its root is being walked.
        let mut roots: HashMap<SpanId, Option<SpanId>> = HashMap::new();
        for span_id in self.held.keys() {
            let mut path = Vec::new();
            let mut at = *span_id;
            let root = loop {
                match roots.get(&at) {
                    Some(Some(root)) => break *root,
                    // A circle of parents is cut where it is entered.
                    Some(None) => break at,
                    None => {}
                }
                path.push(at);
                roots.insert(at, None);
                match self.parent(trace_id, at, known) {
                    Parent::Local(parent) => at = parent,
                    _ => break at,
                }
            };
            roots.extend(path.into_iter().map(|span_id| (span_id, Some(root))));
        }
        let mut groups: BTreeMap<SpanId, BTreeSet<SpanId>> = BTreeMap::new();
        for (span_id, root) in roots {
            groups.entry(root.unwrap_or(span_id)).or_default().insert(span_id);
        }
        groups
    }

    /// Takes spans out and puts them into a segment.
    fn segment(
        &mut self,
        trace_id: TraceId,
        root: SpanId,
        members: &BTreeSet<SpanId>,
        cause: Option<Place>,
        known: &mut Known,
    ) -> Segment {
        let trace_text = hex(&trace_id);
        let segment_id: Rc<str> = format!("{trace_text}.{}", hex(&root)).into();
        let order = self.order(root, members);
        let first = self.held.get(&root);
        let process = first.map_or_else(
            || Rc::new(Process { service: String::new(), instance: String::new() }),
            |held| Rc::clone(&held.arrived.process),
        );
        let endpoint: Rc<str> =
            first.map_or_else(|| "".into(), |it| cut(&it.arrived.span.name).into());
        let mut object = SegmentObject {
            trace_id: trace_text.clone(),
            trace_segment_id: segment_id.to_string(),
            service: process.service.clone(),
            service_instance: process.instance.clone(),
            ..SegmentObject::default()
        };
        let mut done = Vec::with_capacity(order.len());
        for (index, (span_id, parent_index)) in order.into_iter().enumerate() {
            let Some(held) = self.held.remove(&span_id) else { continue };
            let index = i32::try_from(index).unwrap_or(i32::MAX);
            let mut span = span_object(&held.arrived.span, &held.arrived.scope);
            span.span_id = index;
            span.parent_span_id = parent_index;
            if let Some(cause) = cause.as_ref().filter(|_| parent_index < 0) {
                span.refs.push(reference(&trace_text, cause, &process));
            }
            let place = Place {
                segment_id: Rc::clone(&segment_id),
                index,
                process: Rc::clone(&process),
                endpoint: Rc::clone(&endpoint),
                peer: span.peer.as_str().into(),
                is_exit: span.span_type() == SpanType::Exit,
                is_delivered: false,
            };
            known.insert(trace_id, span_id, place);
            object.spans.push(span);
            done.push((span_id, held.arrived.ticket));
        }
        Segment { object, receipt: Receipt { members: done, trace_id } }
    }

    /// Parents before children, and those by their beginning; with each the number of its parent.
    fn order(&self, root: SpanId, members: &BTreeSet<SpanId>) -> Vec<(SpanId, i32)> {
        let mut children: HashMap<SpanId, Vec<(u64, SpanId)>> = HashMap::new();
        for span_id in members.iter().filter(|span_id| **span_id != root) {
            let Some(held) = self.held.get(span_id) else { continue };
            let begin = held.arrived.span.start_time_unix_nano;
            children.entry(held.parent.unwrap_or(root)).or_default().push((begin, *span_id));
        }
        let mut order = Vec::with_capacity(members.len());
        let mut next = vec![(root, -1)];
        while let Some((span_id, parent_index)) = next.pop() {
            let index = i32::try_from(order.len()).unwrap_or(i32::MAX);
            order.push((span_id, parent_index));
            let mut below = children.remove(&span_id).unwrap_or_default();
            below.sort_unstable();
            next.extend(below.into_iter().rev().map(|(_, child)| (child, index)));
        }
        order
    }
}

fn reference(trace_id: &str, cause: &Place, process: &Rc<Process>) -> SegmentReference {
    let crosses = cause.is_exit || cause.process != *process;
    let ref_type = if crosses { RefType::CrossProcess } else { RefType::CrossThread };
    SegmentReference {
        ref_type: ref_type.into(),
        trace_id: trace_id.to_owned(),
        parent_trace_segment_id: cause.segment_id.to_string(),
        parent_span_id: cause.index,
        parent_service: cause.process.service.clone(),
        parent_service_instance: cause.process.instance.clone(),
        parent_endpoint: cause.endpoint.to_string(),
        network_address_used_at_peer: cause.peer.to_string(),
    }
}

/// Places of the newest spans; the oldest are forgotten first.
#[derive(Debug)]
struct Known {
    /// With the number under which each stands in the order.
    places: HashMap<(TraceId, SpanId), (u64, Place)>,
    order: VecDeque<(u64, (TraceId, SpanId))>,
    next: u64,
    max: usize,
}

impl Known {
    fn new(max: usize) -> Self {
        Self { places: HashMap::new(), order: VecDeque::new(), next: 0, max }
    }

    fn get(&self, trace_id: TraceId, span_id: SpanId) -> Option<&Place> {
        self.places.get(&(trace_id, span_id)).map(|(_, place)| place)
    }

    fn insert(&mut self, trace_id: TraceId, span_id: SpanId, place: Place) {
        let key = (trace_id, span_id);
        self.next += 1;
        self.places.insert(key, (self.next, place));
        self.order.push_back((self.next, key));
        while self.order.len() > self.max.max(1) {
            let Some((number, oldest)) = self.order.pop_front() else { break };
            // It may have been forgotten, and have come again since.
            if self.places.get(&oldest).is_some_and(|(current, _)| *current == number) {
                self.places.remove(&oldest);
            }
        }
    }

    fn mark_delivered(&mut self, trace_id: TraceId, span_id: SpanId) {
        if let Some((_, place)) = self.places.get_mut(&(trace_id, span_id)) {
            place.is_delivered = true;
        }
    }

    /// Its turn to be forgotten stays, and then finds nothing.
    fn forget(&mut self, trace_id: TraceId, span_id: SpanId) {
        self.places.remove(&(trace_id, span_id));
    }
}

#[cfg(test)]
mod tests;
