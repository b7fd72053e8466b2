//! Whether the operations of one part of a history fit into an order in which a sequential model takes them.
//!
//! The algorithm is that of Wing and Gong (*Testing and verifying concurrent objects*, 1993) with the caching of Lowe
//! (*Testing for linearizability*, 2017), as Porcupine has it (A. Athalye, github.com/anishathalye/porcupine): a depth
//! first search over the operations that may come next, which are those that were invoked before the first answer that
//! is still to be explained; a set of operations with a state that was met before is not looked at again.
//!
//! Added to it here, because clients are cut off all the time:
//! - **Operations whose outcome is unknown** may take effect at any time from their invocation until it is known that
//!   they can't any more (the process that they were sent to is dead), or never. They are tried last.
//! - **Observers**: an operation that is explained and leaves the state as it is needs no alternatives: if it can come
//!   now and the rest works out with it later, the rest works out with it now.
//! - **Alike operations**: of those that do the same and that nothing else refers to, the one with the earliest end is
//!   tried for all: whatever works out with another works out with the two exchanged.
//! - **`after` and `not_after`**: what is known of the order of two operations beside their times.
//!
//! stateright's `LinearizabilityTester`, the one kept crate for this, was not taken: it has no cache, descends one
//! level of the call stack per operation, and a thread whose last operation has no answer can't begin another.

use std::collections::HashSet;
use std::hash::Hash;

/// A sequential model, told operations by their index.
pub trait Model {
    /// What it remembers.
    type State: Clone + Eq + Hash;

    /// Before the first operation.
    fn first(&self) -> Self::State;

    /// The state after an operation; `None` when it can't come here, or would have been answered otherwise.
    fn step(&self, state: &Self::State, operation: usize) -> Option<Self::State>;

    /// Whether an operation that must still come can't come any more, in this state and all that follow it. Not needed,
    /// and saves the search from finding out later.
    fn is_too_late(&self, _state: &Self::State, _operation: usize) -> bool {
        false
    }

    /// Operations of one kind do the same in every state. `None`: it is like no other.
    fn kind(&self, _operation: usize) -> Option<u64> {
        None
    }
}

/// When an operation took effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Not before this.
    pub from: u64,
    /// How it ended.
    pub end: End,
    /// Operations that came before it.
    pub after: Vec<usize>,
    /// Operations that did not come before it.
    pub not_after: Vec<usize>,
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It took effect, at this time at the latest.
    Answered(u64),
    /// If it took effect, then at this time at the latest, where there is a latest.
    Open(Option<u64>),
}

impl Span {
    /// One of which nothing else is known.
    pub fn new(from: u64, end: End) -> Self {
        Self { from, end, after: Vec::new(), not_after: Vec::new() }
    }
}

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// The operations in the order in which the model took them; those that never took effect are not in it.
    pub order: Vec<usize>,
    /// How many steps of the model it took.
    pub steps: u64,
}

/// There is no such order, or it was not found in time.
#[derive(Debug)]
pub struct Stuck {
    /// The longest beginning that the model took.
    pub longest: Vec<usize>,
    /// The first answer that could not be explained there. Later operations play no part in it.
    pub unexplained: usize,
    /// The search was given up: it proves nothing.
    pub gave_up: bool,
}

const NONE: usize = usize::MAX;

/// The begins and ends of all operations by time, as a list from which operations are taken out and put back.
struct Timeline {
    next: Vec<usize>,
    previous: Vec<usize>,
    /// The operation of a node and whether it is its end.
    nodes: Vec<(usize, bool)>,
    /// The nodes of an operation: begin, end (or [`NONE`]).
    of: Vec<[usize; 2]>,
}

impl Timeline {
    fn new(spans: &[Span]) -> Self {
        let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(spans.len() * 2);
        for (operation, span) in spans.iter().enumerate() {
            events.push((span.from, false, operation));
            if let End::Answered(at) | End::Open(Some(at)) = span.end {
                events.push((at.max(span.from), true, operation));
            }
        }
        // At the same time begins come before ends: what can't be told apart counts as concurrent.
        events.sort_unstable();
        // Node 0 is before the first.
        let (mut nodes, mut of) = (vec![(NONE, false)], vec![[NONE; 2]; spans.len()]);
        for (_, is_end, operation) in events {
            of[operation][usize::from(is_end)] = nodes.len();
            nodes.push((operation, is_end));
        }
        let last = nodes.len();
        let next = (1..=last).map(|node| if node == last { NONE } else { node }).collect();
        let previous = (0..last).map(|node| node.wrapping_sub(1)).collect();
        Self { next, previous, nodes, of }
    }

    fn take_out(&mut self, operation: usize) {
        for node in self.of[operation].into_iter().filter(|node| *node != NONE) {
            let (before, behind) = (self.previous[node], self.next[node]);
            self.next[before] = behind;
            if behind != NONE {
                self.previous[behind] = before;
            }
        }
    }

    fn put_back(&mut self, operation: usize) {
        for node in self.of[operation].into_iter().rev().filter(|node| *node != NONE) {
            let (before, behind) = (self.previous[node], self.next[node]);
            self.next[before] = node;
            if behind != NONE {
                self.previous[behind] = node;
            }
        }
    }
}

/// What was done with an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Waiting,
    Taken,
    /// It never took effect.
    Dropped,
}

struct Frame<S> {
    state: S,
    hash: u128,
    /// What may come next: an operation, or that it never came.
    choices: Vec<(usize, Fate)>,
    tried: usize,
    /// Kinds that were tried, each with whether it must come.
    kinds: Vec<(u64, bool)>,
    /// What led here.
    by: Option<(usize, Fate)>,
}

/// Looks for an order of the operations that the model takes, in at most `budget` steps.
///
/// # Errors
/// [`Stuck`].
pub fn check<M: Model>(model: &M, spans: &[Span], budget: u64) -> Result<Found, Stuck> {
    let mut timeline = Timeline::new(spans);
    let mut fates = vec![Fate::Waiting; spans.len()];
    let mut left = spans.iter().filter(|span| matches!(span.end, End::Answered(_))).count();
    let mut seen: HashSet<(u128, M::State)> = HashSet::new();
    // Up to the latest of the answers at which a search ended.
    let mut longest: (u64, usize, Vec<usize>, usize) = (0, 0, Vec::new(), NONE);
    let mut steps = 0_u64;
    let first = model.first();
    let kinds = kinds_of(model, spans);
    let mut path = vec![frame(model, first, 0, None, &timeline, spans)];
    while left > 0 {
        let Some(top) = path.last_mut() else {
            let (_, _, order, unexplained) = longest;
            return Err(Stuck { longest: order, unexplained, gave_up: false });
        };
        let Some(&(operation, fate)) = top.choices.get(top.tried) else {
            // Nothing of it leads on.
            let by = top.by;
            let unexplained = blocked_by(&timeline, spans);
            if let Some(End::Answered(at)) = spans.get(unexplained).map(|span| span.end) {
                let taken = path.iter().filter(|frame| matches!(frame.by, Some((_, Fate::Taken)))).count();
                if (at, taken) >= (longest.0, longest.1) {
                    longest = (at, taken, taken_of(&path), unexplained);
                }
            }
            path.pop();
            if let Some((operation, _)) = by {
                timeline.put_back(operation);
                fates[operation] = Fate::Waiting;
                left += usize::from(matches!(spans[operation].end, End::Answered(_)));
            }
            continue;
        };
        top.tried += 1;
        let span = &spans[operation];
        let is_must = matches!(span.end, End::Answered(_));
        let state = if fate == Fate::Dropped {
            top.state.clone()
        } else {
            let taken = |other: &usize| fates[*other] == Fate::Taken;
            if !span.after.iter().all(taken) || span.not_after.iter().any(taken) {
                continue;
            }
            if let Some(kind) = kinds[operation] {
                if top.kinds.contains(&(kind, is_must)) {
                    continue;
                }
                top.kinds.push((kind, is_must));
            }
            steps += 1;
            if steps > budget {
                let unexplained = blocked_by(&timeline, spans);
                return Err(Stuck { longest: taken_of(&path), unexplained, gave_up: true });
            }
            let Some(state) = model.step(&top.state, operation) else { continue };
            state
        };
        if is_must && state == top.state {
            top.choices.truncate(top.tried);
        }
        let hash = top.hash ^ number_of(operation, fate);
        if !seen.insert((hash, state.clone())) {
            continue;
        }
        timeline.take_out(operation);
        fates[operation] = fate;
        left -= usize::from(is_must);
        path.push(frame(model, state, hash, Some((operation, fate)), &timeline, spans));
    }
    Ok(Found { order: taken_of(&path), steps })
}

/// The kinds of operations that nothing else refers to.
fn kinds_of<M: Model>(model: &M, spans: &[Span]) -> Vec<Option<u64>> {
    let mut kinds: Vec<Option<u64>> = (0..spans.len()).map(|operation| model.kind(operation)).collect();
    for other in spans.iter().flat_map(|span| span.after.iter().chain(&span.not_after)) {
        kinds[*other] = None;
    }
    kinds
}

/// The operations that may come next: those that must come in the order of their answers; then that one never came that
/// might have; then those that may come. So what need not have happened is left out where that is possible.
fn frame<M: Model>(
    model: &M,
    state: M::State,
    hash: u128,
    by: Option<(usize, Fate)>,
    timeline: &Timeline,
    spans: &[Span],
) -> Frame<M::State> {
    let (mut must, mut may, mut never) = (Vec::new(), Vec::new(), None);
    let mut node = timeline.next[0];
    while node != NONE {
        let (operation, is_end) = timeline.nodes[node];
        match (is_end, spans[operation].end) {
            (false, End::Answered(at)) => must.push((at, operation)),
            (false, End::Open(until)) => may.push((until.unwrap_or(u64::MAX), operation)),
            (true, End::Answered(_)) => break,
            (true, End::Open(_)) => {
                never = Some((operation, Fate::Dropped));
                break;
            }
        }
        node = timeline.next[node];
    }
    if must.iter().any(|(_, operation)| model.is_too_late(&state, *operation)) {
        (must, may, never) = (Vec::new(), Vec::new(), None);
    }
    must.sort_unstable();
    may.sort_unstable();
    let taken = |(_, operation)| (operation, Fate::Taken);
    let choices = must.into_iter().map(taken).chain(never).chain(may.into_iter().map(taken)).collect();
    Frame { state, hash, choices, tried: 0, kinds: Vec::new(), by }
}

/// The first answer that is not explained yet.
fn blocked_by(timeline: &Timeline, spans: &[Span]) -> usize {
    let mut node = timeline.next[0];
    while node != NONE {
        let (operation, is_end) = timeline.nodes[node];
        if is_end && matches!(spans[operation].end, End::Answered(_)) {
            return operation;
        }
        node = timeline.next[node];
    }
    NONE
}

fn taken_of<S>(path: &[Frame<S>]) -> Vec<usize> {
    let by = path.iter().filter_map(|frame| frame.by);
    by.filter(|(_, fate)| *fate == Fate::Taken).map(|(operation, _)| operation).collect()
}

/// A number for an operation and its fate. The exclusive or of many stands for their set: 128 bits, so that two sets
/// with the same number don't come up.
fn number_of(operation: usize, fate: Fate) -> u128 {
    let seed = (operation as u64) << 1 | u64::from(fate == Fate::Dropped);
    u128::from(mix(seed)) << 64 | u128::from(mix(!seed))
}

/// Splitmix64.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
