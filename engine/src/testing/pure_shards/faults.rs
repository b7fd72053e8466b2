//! What happens to the shards: failures and starts, checkpoints, what leaves memory; and what must be true of them.

use super::super::pure_store::PureStore;
use super::{Content, Fate, Letter, OneShard, PureShards, WAIT_MILLIS, replay};
use crate::base::clock::Timestamp;
use crate::base::ids::{OrderNo, ShardId, SkuId, shard_of};
use crate::contract::checkpoint::CheckpointEnd;
use crate::contract::outcome::Refusal;
use crate::machine::coordinator::{Coordinator, Moment};
use crate::machine::state::{Capture, State};
use crate::shard::recovery::{HoldsReport, check_holds};

impl<S: PureStore> PureShards<S> {
    /// A shard fails while it works on these letters, and is rebuilt from what it logged. The others are told.
    pub fn rebuild(&mut self, shard: ShardId, mut lost: Vec<usize>) {
        self.tell(|| format!("{shard} is rebuilt"));
        lost.sort_unstable();
        for index in lost.into_iter().rev() {
            if self.mail.get(index).is_some_and(|letter| letter.to == shard) {
                self.tell(|| format!("lost: {}", self.mail[index].describe()));
                self.lose(index);
            }
        }
        // What it handed over before is in the hands of the writer.
        self.sync(shard);
        self.begin(shard);
        for other in self.ids().filter(|other| *other != shard) {
            self.mail.push(Letter { to: other, from: Some(shard), content: Content::Rebuilt(shard) });
        }
    }

    fn lose(&mut self, index: usize) {
        if let Content::Command(ticket, _) = self.mail.remove(index).content {
            self.end(ticket, Fate::Lost);
        }
    }

    /// The process ends and starts again: messages are lost, and what was not durable.
    pub fn restart(&mut self) {
        self.tell(|| "all begin anew".to_owned());
        while !self.mail.is_empty() {
            self.lose(0);
        }
        let lost = std::mem::take(&mut self.journal);
        lost.into_iter().flat_map(|lost| lost.answers).for_each(|(ticket, _)| self.end(ticket, Fate::Lost));
        for shard in self.ids() {
            let one = &mut self.shards[shard.index()];
            one.log.truncate(one.durable);
            let answers = std::mem::take(&mut one.answers);
            answers.into_iter().for_each(|(ticket, _)| self.end(ticket, Fate::Lost));
            self.begin(shard);
        }
    }

    /// A shard begins with what is durable; those that waited for what it had under way don't hear of it.
    fn begin(&mut self, shard: ShardId) {
        let mut coordinator = Coordinator::new(shard, WAIT_MILLIS);
        std::mem::swap(&mut coordinator, &mut self.shards[shard.index()].coordinator);
        coordinator.fail_all(&Refusal::ShardRestarted, &Refusal::ShardRestarted);
        for (ticket, _) in std::mem::take(&mut coordinator.out.answers) {
            self.end(ticket, Fate::Lost);
        }
        let state = self.recovered(shard);
        let one = &mut self.shards[shard.index()];
        one.asking = state.hold_keys().map(|(key, shard)| (key.clone(), shard)).collect();
        one.again = Moment::default();
        one.pending = state.pending_orders();
        one.state = state;
        one.writing = None;
        one.views.clear();
        // Whatever was recovered is durable.
        (one.durable, one.handed) = (one.log.len(), one.log.len());
        drop(one.state.take_left());
        for number in one.state.take_touched() {
            let view = one.state.stock_view(number);
            one.views.entry(view.sku_id.clone()).or_default().push(view);
        }
        one.views.values_mut().for_each(|views| views.sort_by_key(|view| view.warehouse_id));
        let departed = one.state.take_departed();
        self.store.departed(shard, departed);
    }

    /// The state that recovery finds: from the checkpoint, if there is one that counts, and what was logged since.
    #[must_use]
    pub fn recovered(&self, shard: ShardId) -> State {
        let one = &self.shards[shard.index()];
        let mut state = State::with_few(shard, self.count());
        if let Some((begin, end, images)) =
            one.checkpoint.as_ref().filter(|(_, end, _)| end.end.0 <= one.durable as u64)
        {
            state = State::restoring(shard, self.count(), *begin, *end);
            state
                .restore(images.clone())
                .unwrap_or_else(|wrong| panic!("the checkpoint of {shard}: {wrong}"));
        }
        let after = usize::try_from(state.applied().0).unwrap_or(usize::MAX);
        one.log[after..one.durable].iter().for_each(|event| replay(&mut state, event));
        state.check_exact().unwrap_or_else(|wrong| panic!("the checkpoint of {shard}: {wrong}"));
        state
    }

    /// Writes some entries of a checkpoint of a shard, which begins with the first. `true`: it is complete.
    pub fn checkpoint(&mut self, shard: ShardId, entries: usize) -> bool {
        let OneShard { state, writing, checkpoint, .. } = &mut self.shards[shard.index()];
        let begin = state.applied();
        let (at, begun, images) = writing.get_or_insert_with(|| (Capture::default(), begin, Vec::new()));
        if let Some(slice) = state.capture(at, entries) {
            images.extend(slice);
            return false;
        }
        let end = CheckpointEnd { end: state.applied(), time: state.time(), departed: state.departed() };
        *checkpoint = Some((*begun, end, std::mem::take(images)));
        *writing = None;
        true
    }

    /// Ended orders and requests leave memory, which the store has then.
    pub fn forget(&mut self, before: Timestamp, max: usize) {
        for shard in self.ids() {
            loop {
                self.sync(shard);
                let flushed = self.state(shard).applied();
                let OneShard { state, coordinator, .. } = &mut self.shards[shard.index()];
                let is_busy = |order_no: &OrderNo| coordinator.is_busy(order_no);
                let Some(forget) = state.next_forgotten(before, max, self.time, flushed, is_busy) else {
                    break;
                };
                self.log_change(shard, forget.event.change);
            }
            self.end_turn(shard);
        }
    }

    /// A SKU leaves memory if it can; the store has it then.
    pub fn evict(&mut self, sku_id: &SkuId) -> bool {
        let shard = shard_of(sku_id, self.count());
        self.sync(shard);
        let OneShard { state, coordinator, .. } = &mut self.shards[shard.index()];
        let flushed = state.applied();
        let may_leave = |known: &SkuId| known == sku_id && !coordinator.is_pinned(sku_id);
        let is_busy = |order_no: &OrderNo| coordinator.is_busy(order_no);
        let event = state.next_eviction(flushed, may_leave, is_busy, self.time);
        let left = event.is_some();
        if let Some(event) = event {
            self.log_change(shard, event.change);
        }
        self.end_turn(shard);
        left
    }

    /// Nothing is on its way, and nobody waits for anything.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let quiet = |shard: &OneShard| {
            let waits = !shard.asking.is_empty() || !shard.pending.is_empty() || !shard.answers.is_empty();
            shard.coordinator.under_way() == 0 && !waits
        };
        self.mail.is_empty() && self.journal.is_empty() && self.shards.iter().all(quiet)
    }

    /// Delivers everything and lets time go by for what is under way, until all is quiet.
    ///
    /// # Panics
    /// When it does not come to that.
    pub fn settle(&mut self) {
        for _ in 0..100 {
            self.ids().for_each(|shard| self.sync(shard));
            self.deliver_all();
            if self.is_quiet() {
                return;
            }
            self.linger(1_000);
        }
        panic!("it does not come to rest");
    }

    /// Every invariant of each shard.
    ///
    /// # Panics
    /// When one does not hold.
    pub fn audit(&self) {
        for shard in self.ids() {
            assert_eq!(self.state(shard).audit().violations, [], "{shard}");
        }
    }

    /// What participants hold, compared with what orders say.
    #[must_use]
    pub fn holds(&self) -> HoldsReport {
        let states: Vec<_> = self.shards.iter().map(|shard| shard.state.clone()).collect();
        check_holds(&states)
    }

    /// When all is quiet: every invariant, also of all shards together; and a start finds the same.
    ///
    /// # Panics
    /// When one does not hold.
    pub fn check(&self) {
        self.audit();
        let HoldsReport { asking, violations, .. } = self.holds();
        assert_eq!((asking, violations), (Vec::new(), Vec::new()));
        for shard in self.ids().filter(|shard| self.shards[shard.index()].durable == self.log(*shard).len()) {
            self.check_recovered(shard);
        }
    }

    /// A start finds what is there.
    ///
    /// # Panics
    /// When it does not.
    pub fn check_recovered(&self, shard: ShardId) {
        let (found, is) = (self.recovered(shard), self.state(shard));
        assert_eq!(found.audit(), is.audit());
        assert_eq!((found.sizes(), found.departed()), (is.sizes(), is.departed()));
        let orders = |state: &State| {
            let mut orders: Vec<_> = state.orders().collect();
            orders.sort_by(|a, b| a.order_no.cmp(&b.order_no));
            orders
        };
        assert_eq!(orders(&found), orders(is));
        assert!(found.holds().eq(is.holds()), "{shard}: other holds");
    }
}
