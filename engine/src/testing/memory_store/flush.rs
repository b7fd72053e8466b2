//! Events of shards on their way into the tables.

use std::collections::{BTreeSet, HashSet};

use super::tables::{Me, Tables, Touched, is_open, moves_of};
use crate::checkpoint::{OrderImage, Phase};
use crate::clock::Timestamp;
use crate::event::{Change, Event};
use crate::home::HomeChange;
use crate::ids::{Lsn, OrderNo, RequestId, ServerId, ShardId, SkuId};
use crate::store::{Anomaly, FlushBatch, Flushed, Owner, StoreError};

/// An order that the store has already, and whether both say the same of it.
type Conflict = Option<(OrderNo, bool)>;

impl Tables {
    pub fn flush(&mut self, me: Me, batch: FlushBatch<'_>) -> Result<Flushed, StoreError> {
        let FlushBatch { server, shard, after, events } = batch;
        let follows = |(at, (lsn, _)): (u64, &(Lsn, Event))| *lsn == after.plus(at + 1);
        if events.is_empty() || !(0..).zip(events).all(follows) {
            return Err(StoreError::Inconsistent("a batch with gaps".into()));
        }
        let watermark = self.watermark(server, shard);
        if watermark != after {
            return Ok(Flushed { watermark, ..Flushed::default() });
        }
        if let Some(sku_id) = self.fenced(server, shard, events) {
            let known =
                |anomaly: &Anomaly| anomaly.kind == "fenced" && anomaly.sku_id.as_ref() == Some(&sku_id);
            if !self.anomalies.iter().any(known) {
                let detail = "it has another owner".into();
                let source = Some((server, shard, after.next()));
                let (kind, at) = ("fenced".into(), events[0].1.at);
                let sku_id = Some(sku_id.clone());
                self.anomalies.push(Anomaly { at, kind, source, order_no: None, sku_id, detail });
            }
            return Err(StoreError::Fenced { sku_id });
        }
        let (mut flushed, mut done) = (Flushed::default(), 0);
        while done < events.len() {
            // A part ends before an order whose number the store has: what is logged of it from there on is another order's.
            let (part, conflict) = self.part(server, shard, &events[done..]);
            flushed.rows += self.flush_part(me, server, shard, after.plus(done as u64), part)?;
            done += part.len();
            if let Some((order_no, same)) = conflict {
                let (lsn, event) = &events[done];
                self.strangers.insert((server, shard, order_no.clone()));
                if !same {
                    flushed.anomalies += 1;
                    self.anomalies.push(Anomaly {
                        at: event.at,
                        kind: "order_exists".into(),
                        source: Some((server, shard, *lsn)),
                        order_no: Some(order_no),
                        sku_id: None,
                        detail: "the store has this order with other content".into(),
                    });
                }
            }
        }
        flushed.watermark = after.plus(events.len() as u64);
        self.watermarks.insert((server, shard), flushed.watermark);
        Ok(flushed)
    }

    /// A SKU of the events that is not this shard's.
    fn fenced(&self, server: ServerId, shard: ShardId, events: &[(Lsn, Event)]) -> Option<SkuId> {
        let mut touched = Touched::default();
        events.iter().for_each(|(_, event)| touched.add(event));
        let left = events.iter().filter_map(|(_, event)| match &event.change {
            Change::Withdrawn { sku_id, .. } => Some(sku_id),
            _ => None,
        });
        let skus = touched.stocks.iter().map(|(sku_id, _)| sku_id).chain(left);
        let is_ours = |owner: Owner| (owner.server, owner.shard) == (server, shard);
        let not_ours = |sku_id: &&SkuId| self.of_sku(sku_id).any(|kept| !kept.owner.is_some_and(is_ours));
        skus.into_iter().find(not_ours).cloned()
    }

    /// The events up to the first that makes an order which the store, or this part, has already; that order, and whether the
    /// two say the same.
    fn part<'a>(
        &self,
        server: ServerId,
        shard: ShardId,
        events: &'a [(Lsn, Event)],
    ) -> (&'a [(Lsn, Event)], Conflict) {
        let mut made: HashSet<&OrderNo> = HashSet::new();
        let mut requests: HashSet<(&SkuId, &RequestId)> = HashSet::new();
        for (at, (_, event)) in events.iter().enumerate() {
            if let Change::StockChanged { sku_id, request_id, .. } = &event.change
                && !requests.insert((sku_id, request_id))
            {
                // Forgotten and made again: the newer one counts.
                return (&events[..at], None);
            }
            let order_no = match &event.change {
                Change::Reserved { order_no, .. } | Change::Cancelled { order_no, .. } => order_no,
                Change::Home(change) => match &**change {
                    HomeChange::Reserved { order_no, .. } => order_no,
                    _ => continue,
                },
                _ => continue,
            };
            let known = self.orders.get(order_no);
            let is_new = made.insert(order_no) && known.is_none() && !self.homes.contains_key(order_no);
            if !is_new && !self.strangers.contains(&(server, shard, order_no.clone())) {
                let is_cancelled = matches!(event.change, Change::Cancelled { .. });
                let same = is_cancelled && known.is_some_and(|known| known.image.phase == Phase::Cancelled);
                return (&events[..at], Some((order_no.clone(), same)));
            }
        }
        (events, None)
    }

    fn flush_part(
        &mut self,
        me: Me,
        server: ServerId,
        shard: ShardId,
        after: Lsn,
        events: &[(Lsn, Event)],
    ) -> Result<u64, StoreError> {
        let mut touched = Touched::default();
        events.iter().for_each(|(_, event)| touched.add(event));
        self.add_numbered(&mut touched);
        let stranger = |order_no: &&OrderNo| self.strangers.contains(&(server, shard, (*order_no).clone()));
        let orders = touched.orders.iter().chain(&touched.homes);
        let strangers: BTreeSet<OrderNo> = orders.filter(stranger).cloned().collect();
        // A request that is there was forgotten by the shard and made again.
        let requests = std::mem::take(&mut touched.requests);
        let (mut state, _) = self.state_of(after, &touched, &strangers, Timestamp::default())?;
        touched.requests = requests;
        let mut moves = Vec::new();
        for (lsn, event) in events {
            if is_step(event) {
                state.pass_over(*lsn, event)?;
            } else {
                moves.push((moves_of(&state, event), *lsn, event));
                state.apply(*lsn, event)?;
            }
        }
        for (_, event) in events {
            if let Change::Split { orders } = &event.change {
                let homes = orders.iter().filter_map(|order_no| state.image_of_home(order_no));
                homes.for_each(|home| touched.orders.extend(home.branches()));
            }
        }
        let mut rows = 0;
        for (moves, lsn, event) in moves {
            rows += moves.len() as u64;
            self.write_moves(moves, event, Some((server, shard, lsn)));
        }
        let at = events.last().map_or(Timestamp::default(), |(_, event)| event.at);
        rows += self.write_back(me, &state, &touched, &strangers, Some((server, shard)), at).len() as u64;
        events.iter().for_each(|(_, event)| self.place(event, server));
        Ok(rows)
    }

    /// What a step of a move means for the store.
    fn place(&mut self, event: &Event, server: ServerId) {
        match &event.change {
            Change::OrdersAdopted { orders, .. } => {
                orders.iter().for_each(|order| self.set_due(&order.order_no, None));
            }
            Change::Withdrawn { sku_id, epoch } => {
                let ends = |owner: &Owner| owner.server == server && owner.epoch == *epoch;
                if self.owner_of(sku_id).as_ref().is_some_and(ends) {
                    self.set_owner(sku_id, None);
                    let of_sku = |image: &OrderImage| image.lines.iter().any(|line| line.sku_id == *sku_id);
                    let due = self.orders.values().filter(|kept| is_open(&kept.image) && of_sku(&kept.image));
                    let due = due.map(|kept| (kept.image.order_no.clone(), kept.image.expires_at));
                    let due: Vec<(OrderNo, Timestamp)> = due.collect();
                    due.iter().for_each(|(order_no, at)| self.set_due(order_no, Some(*at)));
                }
            }
            _ => {}
        }
    }
}

impl Touched {
    /// Adds what an event is about.
    pub(super) fn add(&mut self, event: &Event) {
        let place = |sku_id: &SkuId, warehouse_id| (sku_id.clone(), warehouse_id);
        match &event.change {
            Change::StockCreated { sku_id, warehouse_id, .. } => {
                self.stocks.insert(place(sku_id, *warehouse_id));
            }
            Change::StockChanged { sku_id, warehouse_id, request_id, .. } => {
                self.stocks.insert(place(sku_id, *warehouse_id));
                self.requests.insert((sku_id.clone(), request_id.clone()));
            }
            Change::StatusChanged { sku_id, warehouses, .. } => {
                self.stocks.extend(warehouses.iter().map(|(warehouse_id, _)| place(sku_id, *warehouse_id)));
            }
            Change::Reserved { order_no, lines, .. } => {
                self.orders.insert(order_no.clone());
                self.stocks.extend(lines.iter().map(|line| place(&line.sku_id, line.warehouse_id)));
            }
            Change::Confirmed { order_no, lines, .. } => {
                self.orders.insert(order_no.clone());
                self.stocks.extend(lines.iter().map(|line| place(&line.sku_id, line.warehouse_id)));
            }
            Change::Released { order_no, lines, .. }
            | Change::Expired { order_no, lines }
            | Change::Returned { order_no, lines, .. } => {
                self.orders.insert(order_no.clone());
                self.stocks.extend(lines.iter().map(|line| place(&line.sku_id, line.warehouse_id)));
            }
            Change::Cancelled { order_no, .. } | Change::Extended { order_no, .. } => {
                self.orders.insert(order_no.clone());
            }
            Change::Forgotten { .. }
            | Change::AdoptionBegun { .. }
            | Change::OrdersAdopted { .. }
            | Change::Adopted { .. }
            | Change::Closed { .. }
            | Change::Shed { .. }
            | Change::Withdrawn { .. } => {}
            Change::Split { orders } => {
                self.orders.extend(orders.iter().cloned());
                self.homes.extend(orders.iter().cloned());
            }
            Change::Home(change) => drop(self.homes.insert(change.order_no().clone())),
        }
    }
}

/// Whether an event only moves entries into a shard or out of it.
fn is_step(event: &Event) -> bool {
    if let Change::Home(change) = &event.change {
        return matches!(**change, HomeChange::Adopted(_));
    }
    matches!(
        event.change,
        Change::AdoptionBegun { .. }
            | Change::OrdersAdopted { .. }
            | Change::Adopted { .. }
            | Change::Closed { .. }
            | Change::Shed { .. }
            | Change::Withdrawn { .. }
            | Change::Forgotten { .. }
    )
}
