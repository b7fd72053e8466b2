//! A shard of the simulation: the real state machine, its journal of which a part is durable, answers that wait for the rest, a
//! checkpoint now and then.

use hotstock_engine::checkpoint::{CheckpointEnd, Image};
use hotstock_engine::event::Event;
use hotstock_engine::ids::{Lsn, OrderNo, ShardId};
use hotstock_engine::state::{Capture, Departed, State};

use crate::messages::{Reply, Slot};
use crate::naive::Place;
use crate::naive::order::Order;
use crate::stored::Rows;

/// See the module.
pub struct Shard {
    pub id: ShardId,
    shards: u16,
    pub state: State,
    /// The event with LSN `n` is at `n - 1`.
    pub journal: Vec<Event>,
    /// Events on the disk.
    pub durable: usize,
    /// What the store has taken in of it.
    pub rows: Rows,
    /// Answers that rest on events which are not durable yet: on all up to this many.
    pub waiting: Vec<(usize, Slot, Reply)>,
    /// What the model was before events: (LSN, what to put back).
    pub undo: Vec<(usize, Undo)>,
    running: Option<Running>,
    newest: Option<Saved>,
}

/// One entry of the model before an event.
pub enum Undo {
    Order(OrderNo, Option<Order>),
    Supply(Place, i64),
}

struct Running {
    at: Capture,
    begin: Lsn,
    slices: Vec<Vec<Image>>,
}

#[derive(Clone)]
struct Saved {
    begin: Lsn,
    end: CheckpointEnd,
    slices: Vec<Vec<Image>>,
}

impl Shard {
    pub fn new(id: u16, shards: u16) -> Self {
        let id = ShardId(id);
        Self {
            id,
            shards,
            state: State::with_few(id, shards),
            journal: Vec::new(),
            durable: 0,
            rows: Rows::default(),
            waiting: Vec::new(),
            undo: Vec::new(),
            running: None,
            newest: None,
        }
    }

    /// Applies an event to the state and logs it. Gives what left memory.
    pub fn log(&mut self, event: Event) -> Vec<Departed> {
        let lsn = self.state.applied().next();
        self.state.apply(lsn, &event).unwrap_or_else(|wrong| panic!("{event:?} was decided: {wrong}"));
        self.journal.push(event);
        self.state.take_left();
        self.state.take_touched();
        self.state.take_departed()
    }

    /// Whether an order that callers know lies here.
    pub fn knows(&self, order_no: &OrderNo) -> bool {
        self.state.image_of_order(order_no).is_some() || self.state.image_of_home(order_no).is_some()
    }

    /// Up to `events` more are on the disk; gives the answers that may leave now.
    pub fn sync(&mut self, events: usize) -> Vec<(Slot, Reply)> {
        self.durable = self.journal.len().min(self.durable.saturating_add(events));
        let durable = self.durable;
        self.undo.retain(|(lsn, _)| *lsn > durable);
        let (ready, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(lsn, ..)| *lsn <= durable);
        self.waiting = waiting;
        let ready: Vec<(usize, Slot, Reply)> = ready;
        ready.into_iter().map(|(_, slot, reply)| (slot, reply)).collect()
    }

    /// The store takes in up to so many more durable events.
    pub fn flush(&mut self, events: usize) {
        let flushed = self.flushed();
        let to = self.durable.min(flushed.saturating_add(events));
        for event in &self.journal[flushed..to] {
            self.rows.flush(self.rows.flushed.next(), event);
        }
    }

    pub fn flushed(&self) -> usize {
        usize::try_from(self.rows.flushed.0).expect("few events")
    }

    /// A checkpoint begins, goes on by a slice, or is complete; whether one was finished.
    pub fn checkpoint(&mut self, places: usize) -> bool {
        let begin = self.state.applied();
        let running =
            self.running.get_or_insert_with(|| Running { at: Capture::default(), begin, slices: Vec::new() });
        if let Some(slice) = self.state.capture(&mut running.at, places) {
            running.slices.push(slice);
            return false;
        }
        let (end, time, departed) = (self.state.applied(), self.state.time(), self.state.departed());
        let end = CheckpointEnd { end, time, departed };
        // It is found only when the journal is durable through its end; here it is dropped otherwise.
        let done = self.running.take().filter(|_| self.durable as u64 >= end.end.0);
        let is_done = done.is_some();
        if let Some(done) = done {
            self.newest = Some(Saved { begin: done.begin, end, slices: done.slices });
        }
        is_done
    }

    /// Whether a start would find a checkpoint that some events have come after.
    pub fn has_checkpoint(&self) -> bool {
        self.newest.as_ref().is_some_and(|saved| saved.begin.0 < self.durable as u64)
    }

    /// Everything in memory is gone, and what was not durable but for `kept` of it. Gives the answers that nobody will
    /// give any more, what the model takes back, newest first, and what left memory in the replay.
    pub fn crash(&mut self, kept: usize) -> (Vec<Slot>, Vec<Undo>, Vec<Departed>) {
        let keep = self.journal.len().min(self.durable + kept);
        self.journal.truncate(keep);
        self.durable = keep;
        self.running = None;
        let mut back = Vec::new();
        while let Some((_, undo)) = self.undo.pop_if(|(lsn, _)| *lsn > keep) {
            back.push(undo);
        }
        self.undo.clear();
        self.state = self.recovered();
        self.state.take_left();
        let departed = self.state.take_departed();
        let unanswered = std::mem::take(&mut self.waiting).into_iter().map(|(_, slot, _)| slot);
        (unanswered.collect(), back, departed)
    }

    /// The state as a start finds it.
    fn recovered(&self) -> State {
        let Some(saved) = &self.newest else { return self.replayed() };
        let mut state = State::restoring(self.id, self.shards, saved.begin, saved.end);
        for slice in &saved.slices {
            state.restore(slice.clone()).expect("a checkpoint can be restored");
        }
        let begin = usize::try_from(saved.begin.0).expect("few events");
        for event in &self.journal[begin..] {
            state.apply(state.applied().next(), event).expect("what was applied can be replayed");
        }
        state.check_exact().expect("the journal reaches beyond the end of the checkpoint");
        state
    }

    /// The state from the whole journal.
    pub fn replayed(&self) -> State {
        let mut state = State::with_few(self.id, self.shards);
        for event in &self.journal {
            state.apply(state.applied().next(), event).expect("what was applied can be replayed");
        }
        state
    }

    /// Everything in the state, in an order that does not depend on how it came there; and that the machine itself finds nothing
    /// wrong with it.
    pub fn contents(state: &State) -> Vec<String> {
        assert_eq!(state.audit().violations, [], "shard {}", state.shard());
        let (mut at, mut all) = (Capture::default(), Vec::new());
        while let Some(slice) = state.capture(&mut at, usize::MAX) {
            all.extend(slice.iter().map(|image| format!("{image:?}")));
        }
        all.sort_unstable();
        all
    }
}
