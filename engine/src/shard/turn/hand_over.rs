//! The end of a turn: what was decided goes to the journal writer, messages to other shards.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shard;
use crate::base::ids::{Lsn, ShardId};
use crate::contract::event::Event;
use crate::contract::journal::Group;
use crate::machine::message::Message;
use crate::services::shared::{Envelope, Permits, Reply};
use crate::services::views::ViewUpdate;
use crate::services::writer::{HandOver, WriterMessage};

impl Shard {
    /// Gives everything that was decided to the journal writer; answers at once what rests on nothing new. Messages to
    /// other shards leave behind that: what they cause is handed over later, and so is durable later or not at all.
    pub(super) fn hand_over(&mut self, first: Lsn) {
        self.give_to_writer(first);
        for (to, envelopes) in by_shard(self.shared.id, &mut self.work.sends) {
            self.parts.shards[to.index()].deliver(envelopes);
        }
    }

    fn give_to_writer(&mut self, first: Lsn) {
        let last = self.state.applied();
        self.shared.counters.applied.store(last.0, Ordering::Relaxed);
        self.publish_sizes();
        let permits = Permits::new(Arc::clone(&self.shared), std::mem::take(&mut self.work.decided));
        let replies = std::mem::take(&mut self.work.replies);
        let events = std::mem::take(&mut self.work.events);
        let rests_on_others = std::mem::take(&mut self.work.rests_on_others);
        let is_durable = || !rests_on_others && self.shared.durable_lsn() >= last;
        if events.is_empty() && planted!("refusal-before-sync", true, is_durable()) {
            drop(permits);
            replies.into_iter().for_each(Reply::send);
            return;
        }
        if events.is_empty() && replies.is_empty() {
            return;
        }
        let bytes = events.iter().map(Event::weight).sum();
        self.logged_bytes += bytes;
        let left = self.state.take_left();
        for stock in &left {
            // Its number may be another stock's by now, which is new to the views.
            if let Some(cell) = self.cells.get_mut(stock.number as usize) {
                *cell = (Arc::default(), false);
            }
        }
        let views = self.view_updates();
        let departed = std::mem::take(&mut self.work.departed);
        let pinned = std::mem::take(&mut self.work.pinned);
        let group = (!events.is_empty()).then_some(Group { shard: self.shared.id, first, events });
        let replies = planted!("answer-before-sync", self.answer_at_once(replies), replies);
        let shared = Arc::clone(&self.shared);
        shared.backlog.add(bytes);
        let hand_over = HandOver {
            shared,
            group,
            last,
            rests_on_others,
            left,
            views,
            departed,
            pinned,
            replies,
            permits,
            bytes,
        };
        if let Err(refused) = self.parts.inbox.put(WriterMessage::HandOver(hand_over)) {
            // The writer is gone, which happens only behind a panic of its own: nothing more can be made durable.
            refused.fail();
        }
    }

    fn view_updates(&mut self) -> Vec<ViewUpdate> {
        let touched = self.state.take_touched();
        let mut updates = Vec::with_capacity(touched.len());
        for number in touched {
            let index = number as usize;
            if self.cells.len() <= index {
                self.cells.resize_with(index + 1, || (Arc::default(), false));
            }
            let (cell, known) = &mut self.cells[index];
            let stock = self.state.stock_view(number);
            updates.push(ViewUpdate { cell: Arc::clone(cell), stock, new: !*known });
            *known = true;
        }
        updates
    }

    #[cfg(feature = "planted")]
    fn answer_at_once(&self, replies: Vec<Reply>) -> Vec<Reply> {
        replies.into_iter().for_each(Reply::send);
        Vec::new()
    }
}

/// Messages as they travel: those for one shard together, in their order.
fn by_shard(from: ShardId, messages: &mut Vec<(ShardId, Message)>) -> Vec<(ShardId, Vec<Envelope>)> {
    let mut by_shard: Vec<(ShardId, Vec<Envelope>)> = Vec::new();
    for (to, message) in messages.drain(..) {
        let envelope = Envelope::Message(from, message);
        match by_shard.iter_mut().find(|(known, _)| *known == to) {
            Some((_, envelopes)) => envelopes.push(envelope),
            None => by_shard.push((to, vec![envelope])),
        }
    }
    by_shard
}
