//! How idle SKUs leave memory, which are kept there, and what is told of everything that left.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;

use super::corruption::Corruption;
use super::remembered::Departed;
use super::shard_state::State;
use crate::base::clock::Timestamp;
use crate::base::ids::{Epoch, Lsn, OrderNo, SkuId};
use crate::base::limits::{
    EVICTION_ROUNDS, MAX_EVICTED_ENTRIES, MAX_EVICTION_LOOKS, MAX_FORGOTTEN_STOCKS, MAX_PINNED_PER_EVENT,
};
use crate::contract::event::{Change, Event, ForgottenSold};
use crate::contract::outcome::Refusal;
use crate::machine::inner::InnerCommand;

impl State {
    /// An event that the shard makes by itself, at this time or that of its last event.
    #[must_use]
    pub fn event(&self, change: Change, now: Timestamp) -> Event {
        Event { at: now.max(self.time), trace: None, change }
    }

    /// A server that took this epoch begins to serve.
    #[must_use]
    pub fn decide_started(&self, epoch: Epoch) -> Change {
        Change::Started { epoch }
    }

    /// SKUs (at most [`MAX_PINNED_PER_EVENT`]) are kept in memory from here on, or no longer. Those of which that is
    /// so already are left out; `None`: nothing is left.
    ///
    /// # Errors
    /// [`Refusal::UnknownSku`] when one is not in memory.
    pub fn decide_pinned(&self, skus: &[SkuId], hot: bool) -> Result<Option<Change>, Refusal> {
        if skus.len() > MAX_PINNED_PER_EVENT {
            return Err(super::load::invalid("skus", format!("must be at most {MAX_PINNED_PER_EVENT}")));
        }
        if let Some(sku_id) = skus.iter().find(|sku_id| !self.stocks.is_resident(sku_id)) {
            return Err(Refusal::UnknownSku { sku_id: sku_id.clone(), warehouse_id: None });
        }
        let others = skus.iter().filter(|sku_id| self.stocks.hot_skus().contains(sku_id) != hot);
        let skus: BTreeSet<SkuId> = others.cloned().collect();
        let skus: Vec<SkuId> = skus.into_iter().collect();
        Ok((!skus.is_empty()).then_some(Change::Pinned { skus, hot }))
    }

    /// The event with which a SKU leaves that was not used of late: not hot, nothing of it newer than `flushed`, no
    /// open or busy order on it, and `may_leave`. `None`: none was found among those that were looked at now; the next
    /// call looks at others. The caller applies it before it asks again.
    ///
    /// Which one: a clock hand goes round all SKUs; each use since it last passed lets a SKU stay for a round, up to
    /// a few.
    pub fn next_eviction(
        &mut self,
        flushed: Lsn,
        may_leave: impl Fn(&SkuId) -> bool,
        is_busy: impl Fn(&OrderNo) -> bool,
        now: Timestamp,
    ) -> Option<Event> {
        let looks = MAX_EVICTION_LOOKS.min(self.eviction_round().saturating_mul(EVICTION_ROUNDS));
        for _ in 0..looks {
            let Some((sku_id, used)) = self.stocks.pass_hand() else { continue };
            if used || self.stocks.hot_skus().contains(&sku_id) || !may_leave(&sku_id) {
                continue;
            }
            if let Some(change) = self.eviction_of(&sku_id, flushed, &is_busy) {
                return Some(self.event(change, now));
            }
        }
        None
    }

    /// Looks with which [`State::next_eviction`] comes to every SKU once.
    #[must_use]
    pub fn eviction_round(&self) -> usize {
        self.stocks.hand_round()
    }

    /// The event with which a SKU leaves, if nothing keeps it here. One on which very much lies waits until that is
    /// forgotten.
    fn eviction_of(
        &self,
        sku_id: &SkuId,
        flushed: Lsn,
        is_busy: impl Fn(&OrderNo) -> bool,
    ) -> Option<Change> {
        let numbers = self.stocks.numbers(sku_id);
        let mut through = Lsn::ZERO;
        let mut entries = 0;
        for number in &numbers {
            let stock = self.stocks.get(*number);
            entries += stock.lines.len() + stock.requests.len();
            if stock.levels.reserved > 0
                || stock.holds > 0
                || stock.placeholder
                || stock.lsn > flushed
                || entries > MAX_EVICTED_ENTRIES
            {
                return None;
            }
            through = through.max(stock.lsn);
        }
        let mut slots = BTreeSet::new();
        let mut orders = Vec::new();
        let mut sold = BTreeMap::new();
        for number in &numbers {
            let stock = self.stocks.get(*number);
            for line in stock.lines.iter() {
                let order = self.orders.get(line.order)?;
                if !order.is_done() || order.lsn > flushed || is_busy(&order.order_no) {
                    return None;
                }
                if slots.insert(line.order) {
                    through = through.max(order.lsn);
                    orders.push(order.order_no.clone());
                    self.add_net_sold(line.order, &mut sold);
                }
            }
            for slot in stock.requests.iter() {
                let request = self.requests.get(*slot)?;
                if request.lsn > flushed {
                    return None;
                }
                through = through.max(request.lsn);
            }
        }
        sold.retain(|number, _| !numbers.contains(number));
        if sold.len() > MAX_FORGOTTEN_STOCKS {
            return None;
        }
        Some(Change::Evicted { sku_id: sku_id.clone(), through, orders, sold: self.forgotten_totals(sold) })
    }

    pub(super) fn apply_evicted(
        &mut self,
        lsn: Lsn,
        sku_id: &SkuId,
        through: Lsn,
        orders: &[OrderNo],
        sold: &[ForgottenSold],
    ) -> Result<(), Corruption> {
        let exact = lsn > self.exact_from;
        let wrong = |problem: String| Corruption::new(lsn, problem);
        let numbers = self.stocks.numbers(sku_id);
        if exact && (numbers.is_empty() || self.stocks.hot_skus().contains(sku_id)) {
            return Err(wrong(format!("SKU {sku_id} is not here, or is kept here")));
        }
        let mut net = BTreeMap::new();
        for order_no in orders {
            match self.orders.find(order_no) {
                Some((_, order)) if exact && (!order.is_done() || order.lsn > through) => {
                    return Err(wrong(format!("order {order_no} can't leave yet")));
                }
                Some((slot, order)) if order.lsn < lsn => self.let_go(slot, &mut net),
                // It came back before the checkpoint was at its end.
                Some(_) => {}
                None if exact => return Err(wrong(format!("there is no order {order_no}"))),
                None => {}
            }
        }
        net.retain(|number, _| !numbers.contains(number));
        self.note_forgotten_sold(lsn, sold, net)?;
        for number in numbers {
            let requests: SmallVec<[u32; 8]> = self.stocks.get(number).requests.iter().copied().collect();
            for slot in requests {
                if self.requests.get(slot).is_some_and(|request| request.lsn < lsn) {
                    self.let_go_request(slot);
                }
            }
            let stock = self.stocks.get(number);
            let bare = stock.lines.is_empty() && stock.requests.is_empty() && stock.holds == 0;
            if exact && (!bare || stock.lsn > through || stock.levels.reserved > 0 || stock.placeholder) {
                return Err(wrong(format!("SKU {sku_id} can't leave yet: {stock:?}")));
            }
            if !stock.placeholder && stock.lsn >= lsn {
                // Likewise.
                continue;
            }
            if bare { self.stocks.remove(number) } else { self.stocks.make_placeholder(number) }
        }
        self.departed = self.departed.max(through);
        Ok(())
    }

    pub(super) fn apply_pinned(&mut self, lsn: Lsn, skus: &[SkuId], hot: bool) -> Result<(), Corruption> {
        for sku_id in skus {
            let numbers = self.stocks.numbers(sku_id);
            if lsn > self.exact_from && numbers.is_empty() {
                return Err(Corruption::new(lsn, format!("there is no SKU {sku_id}")));
            }
            for number in numbers {
                let stock = self.stocks.get(number);
                if !stock.placeholder && stock.lsn < lsn {
                    let levels = stock.levels;
                    self.change_stock(number, lsn, levels, |_| Some(levels))?;
                    self.stocks.set_hot(number, hot);
                }
            }
        }
        Ok(())
    }

    /// A command was answered without an event: the SKUs that it names are in use all the same, and shall not leave
    /// while they are asked for. An order that is asked for in vain is no use of its SKUs.
    pub fn note_use(&mut self, command: &InnerCommand) {
        self.note_uses(command.subject().skus());
    }

    /// Likewise of SKUs by themselves.
    pub(crate) fn note_uses<'a>(&mut self, skus: impl Iterator<Item = &'a SkuId>) {
        for sku_id in skus {
            for number in self.stocks.numbers(sku_id) {
                self.stocks.note_use(number);
            }
        }
    }

    /// What left memory since the last call. Its numbers belong into the filter of known numbers before anybody takes
    /// them for free.
    pub fn take_departed(&mut self) -> Vec<Departed> {
        std::mem::take(&mut self.gone)
    }

    /// The last change of anything that left memory so far: what the store says of what is not here counts only from
    /// there on.
    #[must_use]
    pub fn departed(&self) -> Lsn {
        self.departed
    }

    /// Whether a SKU is in memory, with all its warehouses.
    #[must_use]
    pub fn is_resident(&self, sku_id: &SkuId) -> bool {
        self.stocks.is_resident(sku_id)
    }

    /// SKUs that are kept in memory, by name.
    #[must_use]
    pub fn hot_skus(&self) -> &BTreeSet<SkuId> {
        self.stocks.hot_skus()
    }
}
