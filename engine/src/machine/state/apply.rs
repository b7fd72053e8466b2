//! Lets events change the state: live right after `decide`, in recovery from the journal. An event that does not fit is
//! refused; nothing is guessed.

use std::collections::BTreeMap;

use super::corruption::Corruption;
use super::order::{Order, OrderLine};
use super::remembered::{Departed, Item, RequestKey, StockRequest};
use super::shard_state::State;
use super::stock::Stock;
use crate::base::clock::Timestamp;
use crate::base::ids::{Lsn, OrderNo, ShardId, SkuId, WarehouseId};
use crate::contract::command::{ChangeKind, change_fingerprint};
use crate::contract::event::{
    Acknowledged, Change, ConfirmedLine, Event, ForgottenSold, MovedLine, OrderAfter, ReservedLine,
};
use crate::contract::hold::HoldMove;
use crate::contract::image::{LineSerials, Span};
use crate::contract::order::{LineCounts, OrderRequest, Phase};
use crate::contract::units::{Delta, Levels};

impl State {
    /// Applies the event at the next LSN.
    ///
    /// # Errors
    /// [`Corruption`] when it is not the next, or does not fit the state; the state is of no use then.
    pub fn apply(&mut self, lsn: Lsn, event: &Event) -> Result<(), Corruption> {
        if lsn != self.applied.next() {
            return Err(Corruption::new(lsn, format!("it comes after {}", self.applied)));
        }
        if event.at < self.time {
            return Err(Corruption::new(lsn, "its time is before that of the event before it"));
        }
        self.apply_change(lsn, event)?;
        self.applied = lsn;
        self.time = event.at;
        Ok(())
    }

    fn apply_change(&mut self, lsn: Lsn, event: &Event) -> Result<(), Corruption> {
        match &event.change {
            Change::StockCreated { sku_id, warehouse_id, quantity, serialized } => {
                self.create_stock(lsn, sku_id, *warehouse_id, *quantity, *serialized)
            }
            Change::StockChanged { sku_id, warehouse_id, kind, delta, request_id, after, .. } => {
                self.move_units(lsn, sku_id, *warehouse_id, Delta::supply(*delta), *after)?;
                let quantity = if *kind == ChangeKind::Deduct { -delta } else { *delta };
                let key = RequestKey { sku_id: sku_id.clone(), request_id: request_id.clone() };
                let fingerprint = change_fingerprint(*kind, *warehouse_id, quantity);
                let (warehouse_id, after, at) = (*warehouse_id, *after, event.at);
                self.remember(StockRequest { key, warehouse_id, fingerprint, after, at, lsn, stock: (0, 0) })
            }
            Change::StatusChanged { sku_id, warehouses, status } => {
                for (warehouse_id, after) in warehouses {
                    let number = self.stocks.number_or_placeholder(sku_id, *warehouse_id);
                    self.change_stock(number, lsn, *after, |stock| {
                        stock.status = *status;
                        stock.levels.after(Delta::default())
                    })?;
                }
                Ok(())
            }
            Change::Reserved { order_no, buyer_id, mode, ttl_seconds, asked, attempt, lines } => {
                let mut order = Order::new(order_no.clone(), event.at, lsn);
                order.buyer_id.clone_from(buyer_id);
                order.mode = *mode;
                order.expires_at = event.at.plus_seconds(u64::from(*ttl_seconds));
                let asked = asked.map(|fingerprint| OrderRequest { request_id: None, fingerprint });
                note_request(&mut order, asked.as_ref());
                if attempt.is_some() != lines.iter().any(|line| line.after.is_none()) {
                    return Err(Corruption::new(
                        lsn,
                        "what it holds in other shards has no attempt, or nothing has",
                    ));
                }
                if let Some(attempt) = attempt {
                    order.extras_mut().span = Some(Box::new(Span::new(*attempt)));
                }
                for line in lines {
                    let stock = self.hold_line(lsn, line)?;
                    let (quantity, held) = (line.quantity, line.held);
                    let (confirmed, released, returned, lapsed) = (0, 0, 0, 0);
                    order.lines.push(OrderLine {
                        stock,
                        quantity,
                        held,
                        confirmed,
                        released,
                        returned,
                        lapsed,
                        index: 0,
                    });
                }
                self.insert_order(order)
            }
            Change::Cancelled { order_no, .. } => {
                let mut order = Order::new(order_no.clone(), event.at, lsn);
                order.phase = Phase::Cancelled;
                self.insert_order(order)
            }
            Change::Confirmed { order_no, request, attempt, lines, after } => {
                lines.iter().try_for_each(|line| self.sell_units(lsn, line))?;
                let counts = lines.iter().map(|l| (l.line, l.counts));
                let elsewhere = lines.iter().filter(|l| l.after.is_none());
                let elsewhere = elsewhere.map(|l| (l.line, l.held + l.late, self.stocks.shard_of(&l.sku_id)));
                let elsewhere: Vec<_> = elsewhere.collect();
                self.count_order(lsn, event, order_no, counts, after, |order| {
                    order.counts_mut().sell(lines.iter().map(|l| (l.line, l.held, l.late)))?;
                    order.decide_elsewhere(*attempt, HoldMove::Sold, None, elsewhere)?;
                    for line in lines {
                        if let Some(serials) = line.serials() {
                            order.extras_mut().serials.push(LineSerials { line: line.line, serials });
                        }
                    }
                    note_request(order, request.as_ref());
                    Some(())
                })
            }
            Change::Released { order_no, request, reason, lines, after } => {
                self.move_all(lsn, lines, Delta::unhold)?;
                let slots = lines.iter().map(|l| (l.line, l.quantity));
                let elsewhere = self.moved_elsewhere(lines);
                self.count_order(lsn, event, order_no, counts_of(lines), after, |order| {
                    order.counts_mut().release(slots, request.is_none())?;
                    order.decide_elsewhere(None, HoldMove::Released, reason.as_ref(), elsewhere)?;
                    note_request(order, request.as_ref());
                    Some(())
                })
            }
            Change::Expired { order_no, lines, after } => {
                self.move_all(lsn, lines, Delta::unhold)?;
                let slots = lines.iter().map(|l| (l.line, l.quantity));
                let elsewhere = self.moved_elsewhere(lines);
                self.count_order(lsn, event, order_no, counts_of(lines), after, |order| {
                    order.counts_mut().expire(slots)?;
                    order.decide_elsewhere(None, HoldMove::Expired, None, elsewhere)
                })
            }
            Change::Extended { order_no, ttl_seconds } => {
                let expires_at = event.at.plus_seconds(u64::from(*ttl_seconds));
                self.change_order(lsn, event, order_no, |order| {
                    order.expires_at = expires_at;
                    Some(())
                })
            }
            Change::Returned { order_no, request, attempt, lines, after } => {
                self.move_all(lsn, lines, Delta::give_back)?;
                let elsewhere = self.moved_elsewhere(lines);
                self.count_order(lsn, event, order_no, counts_of(lines), after, |order| {
                    order.counts_mut().take_back(lines.iter().map(|l| (l.line, l.quantity)))?;
                    order.decide_elsewhere(*attempt, HoldMove::Returned, None, elsewhere)?;
                    note_request(order, Some(request));
                    Some(())
                })
            }
            Change::Forgotten { through, sold } => self.forget(lsn, *through, sold),
            Change::Loaded { sku_id, stocks } => self.apply_loaded(lsn, sku_id, stocks),
            Change::OrdersLoaded { orders, requests } => self.apply_orders_loaded(lsn, orders, requests),
            Change::Evicted { sku_id, through, orders, sold } => {
                self.apply_evicted(lsn, sku_id, *through, orders, sold)
            }
            Change::Pinned { skus, hot } => self.apply_pinned(lsn, skus, *hot),
            Change::Started { .. } => Ok(()),
            Change::Acknowledged { orders } => {
                orders.iter().try_for_each(|order| self.apply_acknowledged(lsn, order))
            }
            Change::Held { order_no, attempt, coordinator, purpose, lines } => {
                self.apply_held(lsn, (order_no, *attempt), *coordinator, *purpose, lines)
            }
            Change::HoldChanged { order_no, attempt, seq, kind, lines, is_over, .. } => {
                self.apply_hold_changed(lsn, (order_no, *attempt), *seq, *kind, lines, *is_over)
            }
        }
    }

    /// A line of a new order takes its units; gives the number of its stock, which is foreign if another shard has it.
    fn hold_line(&mut self, lsn: Lsn, line: &ReservedLine) -> Result<u32, Corruption> {
        let (sku_id, warehouse_id) = (&line.sku_id, line.warehouse_id);
        let number = match line.after.filter(|_| line.held > 0) {
            Some(after) => self.move_units(lsn, sku_id, warehouse_id, Delta::hold(line.held), after)?,
            None => self.stocks.number_or_placeholder(sku_id, warehouse_id),
        };
        if self.stocks.get(number).foreign == line.after.is_none() {
            return Ok(number);
        }
        Err(Corruption::new(lsn, format!("SKU {sku_id} lies in another shard than it says")))
    }

    /// Units that moved in other shards, with the shard of each.
    fn moved_elsewhere(&self, lines: &[MovedLine]) -> Vec<(u16, u32, ShardId)> {
        let elsewhere = lines.iter().filter(|line| line.after.is_none() && line.quantity > 0);
        elsewhere.map(|line| (line.line, line.quantity, self.stocks.shard_of(&line.sku_id))).collect()
    }

    /// The event does not say which participants acknowledged what, but what is left to wait for.
    fn apply_acknowledged(&mut self, lsn: Lsn, acknowledged: &Acknowledged) -> Result<(), Corruption> {
        let Acknowledged { order_no, serials, after } = acknowledged;
        self.change_order_at(lsn, None, order_no, |order| {
            let lines = order.lines.len();
            let extras = order.extras.as_deref_mut()?;
            let (known, left) = (extras.span.as_deref_mut()?, after.span.as_deref()?);
            (known.attempt == left.attempt && known.decisions == left.decisions).then_some(())?;
            // Nothing new is decided by it.
            let mut rest = known.pending.iter();
            let fewer = left.pending.iter().all(|decision| {
                rest.any(|known| {
                    known.seq == decision.seq && decision.waiting.iter().all(|s| known.waiting.contains(s))
                })
            });
            fewer.then_some(())?;
            known.pending.clone_from(&left.pending);
            serials.iter().all(|given| usize::from(given.line) < lines).then_some(())?;
            extras.serials.extend(serials);
            (order.after() == *after).then_some(())
        })
    }

    fn create_stock(
        &mut self,
        lsn: Lsn,
        sku_id: &SkuId,
        warehouse_id: WarehouseId,
        quantity: u64,
        serialized: bool,
    ) -> Result<(), Corruption> {
        let exact = lsn > self.exact_from;
        let other = self.stocks.of_sku(sku_id).next();
        if exact && other.is_some_and(|other| other.numbered.is_some() != serialized) {
            return Err(Corruption::new(lsn, format!("other stocks of SKU {sku_id} are numbered otherwise")));
        }
        let hot = self.stocks.hot_skus().contains(sku_id);
        let number = self.stocks.number_or_placeholder(sku_id, warehouse_id);
        let known = self.stocks.get(number);
        if !known.placeholder && known.lsn < lsn {
            return Err(Corruption::new(
                lsn,
                format!("it creates SKU {sku_id} in warehouse {warehouse_id} again"),
            ));
        }
        let after = Levels { available: quantity, reserved: 0, sold: 0, version: 1 };
        self.stocks.change(number, lsn, after, |stock| {
            stock.initial = quantity;
            stock.supplied = quantity;
            stock.numbered = serialized.then_some(0);
            Levels::default().after(Delta::supply(i64::try_from(quantity).ok()?))
        })?;
        if self.stocks.get(number).lsn == lsn {
            self.stocks.set_hot(number, hot);
        }
        Ok(())
    }

    /// Moves units of one stock and gives its number.
    pub(super) fn move_units(
        &mut self,
        lsn: Lsn,
        sku_id: &SkuId,
        warehouse_id: WarehouseId,
        delta: Delta,
        after: Levels,
    ) -> Result<u32, Corruption> {
        let number = self.stocks.number_or_placeholder(sku_id, warehouse_id);
        self.change_stock(number, lsn, after, |stock| stock.moved(delta))?;
        Ok(number)
    }

    /// Sells units of one stock, and gives them their serial numbers.
    fn sell_units(&mut self, lsn: Lsn, line: &ConfirmedLine) -> Result<(), Corruption> {
        // What lies elsewhere is sold there.
        let Some(after) = line.after else { return Ok(()) };
        let ConfirmedLine { sku_id, warehouse_id, .. } = line;
        let number = self.stocks.number_or_placeholder(sku_id, *warehouse_id);
        self.check_serial(lsn, number, line.serial, true)?;
        self.change_stock(number, lsn, after, |stock| {
            stock.give(line.serials())?;
            stock.moved(Delta::sell(line.held, line.late))
        })
    }

    /// Lets an event change a stock that is there. One that is not left before the checkpoint came to it, or comes
    /// back before its end: the events that tell so are still to be replayed.
    pub(super) fn change_stock(
        &mut self,
        number: u32,
        lsn: Lsn,
        after: Levels,
        change: impl FnOnce(&mut Stock) -> Option<Levels>,
    ) -> Result<(), Corruption> {
        let stock = self.stocks.get(number);
        if !stock.placeholder {
            return self.stocks.change(number, lsn, after, change);
        }
        if lsn <= self.exact_from {
            return Ok(());
        }
        let (sku_id, warehouse_id) = (&stock.sku_id, stock.warehouse_id);
        Err(Corruption::new(lsn, format!("there is no stock of SKU {sku_id} in warehouse {warehouse_id}")))
    }

    /// Units of lines move in the stocks that are here; lines that move nothing are only counted otherwise.
    fn move_all(&mut self, lsn: Lsn, lines: &[MovedLine], delta: fn(u32) -> Delta) -> Result<(), Corruption> {
        for line in lines.iter().filter(|line| line.quantity > 0) {
            if let Some(after) = line.after {
                self.move_units(lsn, &line.sku_id, line.warehouse_id, delta(line.quantity), after)?;
            }
        }
        Ok(())
    }

    pub(super) fn insert_order(&mut self, order: Order) -> Result<(), Corruption> {
        let lsn = order.lsn;
        if let Some((_, known)) = self.orders.find(&order.order_no) {
            // From a checkpoint that was taken later, with everything that came after.
            if known.lsn >= lsn {
                return Ok(());
            }
            return Err(Corruption::new(lsn, format!("it makes order {} again", order.order_no)));
        }
        self.last_order = self.put_order(order);
        Ok(())
    }

    /// Lets an event change an order that does not know of it yet. `change` gives `None` when it does not fit.
    fn change_order(
        &mut self,
        lsn: Lsn,
        event: &Event,
        order_no: &OrderNo,
        change: impl FnOnce(&mut Order) -> Option<()>,
    ) -> Result<(), Corruption> {
        self.change_order_at(lsn, Some(event.at), order_no, change)
    }

    /// As [`State::change_order`]; without a time callers see no change.
    fn change_order_at(
        &mut self,
        lsn: Lsn,
        at: Option<Timestamp>,
        order_no: &OrderNo,
        change: impl FnOnce(&mut Order) -> Option<()>,
    ) -> Result<(), Corruption> {
        let Some((slot, order)) = self.orders.find(order_no) else {
            // The checkpoint was written after the order had been forgotten.
            if lsn <= self.exact_from {
                return Ok(());
            }
            return Err(Corruption::new(lsn, format!("there is no order {order_no}")));
        };
        if order.lsn >= lsn {
            return Ok(());
        }
        let was = order.lsn;
        self.last_order = slot;
        let changed = self.orders.change(slot, |order| {
            order.lsn = lsn;
            order.changed_at = at.unwrap_or(order.changed_at);
            change(order).map(|()| (order.is_open(), order.is_done()))
        });
        let changed = changed.flatten();
        let (open, done) =
            changed.ok_or_else(|| Corruption::new(lsn, format!("it does not fit order {order_no}")))?;
        self.remembered.remove(&(was, Item::Order(slot)));
        if done {
            self.remembered.insert((lsn, Item::Order(slot)));
        }
        if open {
            self.orders.arm(slot);
        }
        Ok(())
    }

    /// As [`State::change_order`], for an event that says what the order and its lines are after it.
    fn count_order(
        &mut self,
        lsn: Lsn,
        event: &Event,
        order_no: &OrderNo,
        mut counts: impl Iterator<Item = (u16, LineCounts)>,
        after: &OrderAfter,
        change: impl FnOnce(&mut Order) -> Option<()>,
    ) -> Result<(), Corruption> {
        self.change_order(lsn, event, order_no, |order| {
            change(order)?;
            let counts_so = |(line, counts): (u16, LineCounts)| {
                order.lines.get(usize::from(line)).is_some_and(|line| line.counts() == counts)
            };
            (counts.all(counts_so) && order.after() == *after).then_some(())
        })
    }

    pub(super) fn remember(&mut self, request: StockRequest) -> Result<(), Corruption> {
        let lsn = request.lsn;
        if let Some(known) = self.requests.by_key(&request.key) {
            if known.lsn >= lsn {
                return Ok(());
            }
            return Err(Corruption::new(lsn, format!("it repeats request {}", request.key.request_id)));
        }
        self.put_request(request);
        Ok(())
    }

    fn forget(&mut self, lsn: Lsn, through: Lsn, sold: &[ForgottenSold]) -> Result<(), Corruption> {
        let mut net = BTreeMap::new();
        while let Some((_, item)) = self.remembered.first().copied().filter(|(at, _)| *at <= through) {
            match item {
                Item::Order(slot) => self.let_go(slot, &mut net),
                Item::Request(slot) => self.let_go_request(slot),
            }
        }
        self.note_forgotten_sold(lsn, sold, net)?;
        self.departed = self.departed.max(through);
        Ok(())
    }

    /// An order is known no longer; its sold units are added to `net`, by stock.
    pub(super) fn let_go(&mut self, slot: u32, net: &mut BTreeMap<u32, u64>) {
        self.add_net_sold(slot, net);
        let order = self.take_order(slot).expect("what is forgotten is still there");
        self.gone.push(Departed::Order(order.order_no));
    }

    /// Likewise a stock request.
    pub(super) fn let_go_request(&mut self, slot: u32) {
        if let Some(request) = self.take_request(slot) {
            self.gone.push(Departed::Request(request.key.sku_id, request.key.request_id));
        }
    }

    /// Takes over the totals of an event that lets go of orders, which sold `net`.
    pub(super) fn note_forgotten_sold(
        &mut self,
        lsn: Lsn,
        sold: &[ForgottenSold],
        mut net: BTreeMap<u32, u64>,
    ) -> Result<(), Corruption> {
        let exact = lsn > self.exact_from;
        for entry in sold {
            let number = self.stocks.number_or_placeholder(&entry.sku_id, entry.warehouse_id);
            let Stock { levels, forgotten_sold: before, .. } = *self.stocks.get(number);
            let expected = before.checked_add(net.remove(&number).unwrap_or(0));
            if exact && expected != Some(entry.total) {
                let problem = format!(
                    "SKU {}: {expected:?} units sold by forgotten orders, not {}",
                    entry.sku_id, entry.total
                );
                return Err(Corruption::new(lsn, problem));
            }
            self.change_stock(number, lsn, levels, |stock| {
                stock.forgotten_sold = entry.total;
                Some(levels)
            })?;
        }
        if exact && !net.is_empty() {
            return Err(Corruption::new(lsn, "it forgets sold units that it does not name"));
        }
        Ok(())
    }
}

fn counts_of(lines: &[MovedLine]) -> impl Iterator<Item = (u16, LineCounts)> {
    lines.iter().map(|line| (line.line, line.counts))
}

fn note_request(order: &mut Order, request: Option<&OrderRequest>) {
    if let Some(request) = request {
        order.extras_mut().requests.push(request.clone());
    }
}
