//! Commands on their way through a shard, from the mailbox until their answers are handed over.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::ids::{OrderNo, ShardId, SkuId};
use crate::contract::event::Event;
use crate::machine::message::Message;
use crate::services::shared::{Envelope, Permits, Reply, ShardShared, give_back_claims};
use crate::shard::parts::ShardParts;
use crate::shard::waiting::{Held, Lessons, Waiting};

/// Commands on their way through the shard. When the shard panics its drop tells their callers: replies are
/// dropped (outcome unknown), claims and permits come back.
pub(in crate::shard) struct Work {
    pub(super) parts: ShardParts,
    pub(super) shared: Arc<ShardShared>,
    /// Taken from the mailbox, in order.
    pub(in crate::shard) pending: VecDeque<Envelope>,
    /// Those that waited and wait for nothing more, before what is pending.
    pub(in crate::shard) ready: VecDeque<Held>,
    /// Those that wait for something from the store.
    pub(in crate::shard) waiting: Waiting,
    /// Commands of the first envelope (of those ready, or else of those pending) that are decided.
    pub(super) front_decided: usize,
    /// Memory for the next take.
    pub(super) spare: Vec<Envelope>,
    /// Applied in this turn, not handed over yet.
    pub(super) events: Vec<Event>,
    pub(super) replies: Vec<Reply>,
    /// Some of them rest on what other shards have logged.
    pub(super) rests_on_others: bool,
    /// Messages to other shards; they rest on the events.
    pub(super) sends: Vec<(ShardId, Message)>,
    /// Permits of `replies`.
    pub(super) decided: u64,
    /// Orders that left memory with these events.
    pub(super) departed: Vec<OrderNo>,
    /// SKUs that are kept in memory with these events, or no longer.
    pub(super) pinned: Vec<(SkuId, bool)>,
}

impl Work {
    /// None yet.
    pub(super) fn new(parts: &ShardParts, shared: &Arc<ShardShared>) -> Self {
        Self {
            parts: parts.clone(),
            shared: Arc::clone(shared),
            pending: VecDeque::new(),
            ready: VecDeque::new(),
            waiting: Waiting::default(),
            front_decided: 0,
            spare: Vec::new(),
            events: Vec::new(),
            replies: Vec::new(),
            rests_on_others: false,
            sends: Vec::new(),
            decided: 0,
            departed: Vec::new(),
            pinned: Vec::new(),
        }
    }

    /// The envelope that is next, with what it learned if it waited.
    pub(super) fn front(&self) -> Option<(&Envelope, Option<&Lessons>)> {
        match self.ready.front() {
            Some(held) => Some((&held.envelope, Some(&held.lessons))),
            None => self.pending.front().map(|envelope| (envelope, None)),
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // The decided ones of the first envelope gave theirs back, or made an order, whose event is below.
        let mut skip = self.front_decided;
        let held = self.waiting.take_all();
        let here = self.ready.iter().map(|held| &held.envelope).chain(&self.pending);
        let mut permits = self.decided;
        for envelope in here {
            let claiming = envelope.commands().get(std::mem::take(&mut skip)..).unwrap_or_default();
            give_back_claims(claiming, &self.parts.directory);
            permits += envelope.permits();
        }
        for envelope in &held {
            give_back_claims(envelope.commands(), &self.parts.directory);
            permits += envelope.permits();
        }
        for event in &self.events {
            if let Some(order_no) = event.made_order() {
                self.parts.directory.forget(order_no);
            }
        }
        drop(Permits::new(Arc::clone(&self.shared), permits));
    }
}
