//! Events into rows: what a batch of events does to the tables, from the events alone, one row for each key however
//! many events are about it. Pure; nothing is read.
//!
//! Events carry what is true after them, so the last one of a key counts. An order that the batch makes becomes a
//! whole row; of one that was made before, only what changed is known. A stock row also tells what its first event
//! found, so that a row that somebody changed by hand is noticed and not overwritten.

use std::collections::{BTreeMap, HashMap};

use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Mode, StockStatus};
use hotstock_engine::event::{
    Change, ConfirmedLine, Event, HeldLine, HoldMovedLine, OrderAfter, ReservedLine,
};
use hotstock_engine::ids::{AttemptId, BuyerId, Lsn, OrderNo, RequestId, ShardId, SkuId, WarehouseId};
use hotstock_engine::image::{
    HoldImage, HoldLineImage, LineImage, LineSerials, OrderImage, RequestImage, Span,
};
use hotstock_engine::moves::StockMove;
use hotstock_engine::order::{LineCounts, OrderRequest, Phase};
use hotstock_engine::store::JournalRow;
use hotstock_engine::units::{Levels, Serials};

use super::super::rows::StockKey;

/// What a batch does to the tables. Lists are sorted by the keys of their tables.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// Orders that are new.
    pub made: Vec<OrderImage>,
    /// Orders that are made once more, though the batch has them already: at some time the store had lost what had
    /// been flushed. The first stays, and what happens to the second is not written.
    pub again: BTreeMap<OrderNo, (Lsn, Timestamp)>,
    /// Orders that were there.
    pub changed: Vec<ChangedOrder>,
    /// Holds for orders of other shards that are new; those that sold nothing and are over already are left out.
    pub held: BTreeMap<(OrderNo, AttemptId), HoldImage>,
    /// Holds that were there.
    pub changed_holds: BTreeMap<(OrderNo, AttemptId), ChangedHold>,
    /// Stocks.
    pub stocks: BTreeMap<StockKey, ChangedStock>,
    /// SKUs that are hot from here on, or no longer.
    pub pins: BTreeMap<SkuId, (bool, Lsn)>,
    /// Stock requests.
    pub requests: BTreeMap<(SkuId, RequestId), RequestImage>,
    /// The stock journal.
    pub journal: Vec<JournalRow>,
}

/// What changed of an order that was made before the batch.
#[derive(Debug, PartialEq)]
pub(super) struct ChangedOrder {
    pub order_no: OrderNo,
    pub lsn: Lsn,
    /// `None`: as it was, for callers see no change.
    pub changed_at: Option<Timestamp>,
    /// `None`: as it was.
    pub after: Option<OrderAfter>,
    /// `None`: as it was.
    pub expires_at: Option<Timestamp>,
    pub lines: BTreeMap<u16, LineCounts>,
    /// With their places among the order's requests.
    pub requests: Vec<(usize, OrderRequest)>,
    /// Likewise.
    pub serials: Vec<(usize, LineSerials)>,
}

/// What changed of a hold that was made before the batch.
#[derive(Debug, PartialEq)]
pub(super) struct ChangedHold {
    pub seq: u32,
    pub lsn: Lsn,
    /// Those that changed.
    pub lines: BTreeMap<StockKey, HoldLineImage>,
    /// Nothing is left of it but what it sold.
    pub is_over: bool,
}

/// A stock after the batch.
#[derive(Debug, PartialEq)]
pub(super) struct ChangedStock {
    /// As the first event found it; `None`: the batch creates it.
    pub before: Option<Levels>,
    pub after: Levels,
    /// `None`: as it was.
    pub status: Option<StockStatus>,
    /// What it was created with, and whether its units get serial numbers, if the batch creates it.
    pub created: Option<(u64, bool)>,
    /// Serial numbers that the batch gives.
    pub numbered: u64,
    pub lsn: Lsn,
    pub changed_at: Timestamp,
}

/// Rows in the making.
pub(super) struct Fold<'a> {
    shard: ShardId,
    rows: Rows,
    /// The places of orders in the lists.
    made: HashMap<&'a OrderNo, usize>,
    changed: HashMap<&'a OrderNo, usize>,
}

/// What an event says of an order that exists.
struct OrderChange<'a> {
    /// `None`: callers see no change.
    at: Option<Timestamp>,
    after: Option<OrderAfter>,
    expires_at: Option<Timestamp>,
    request: Option<&'a OrderRequest>,
    lines: Vec<(u16, LineCounts)>,
    /// In the order in which they were given.
    serials: Vec<LineSerials>,
}

impl<'a> Fold<'a> {
    pub fn new(shard: ShardId) -> Self {
        Self { shard, rows: Rows::default(), made: HashMap::new(), changed: HashMap::new() }
    }

    /// Adds the next events.
    ///
    /// # Errors
    /// What does not fit together, in words.
    pub fn events(&mut self, events: &'a [(Lsn, Event)]) -> Result<(), String> {
        events.iter().try_for_each(|(lsn, event)| {
            self.event(*lsn, event).map_err(|problem| format!("event {lsn}: {problem}"))
        })
    }

    pub fn finish(self) -> Rows {
        let mut rows = self.rows;
        rows.made.sort_unstable_by(|one, other| one.order_no.cmp(&other.order_no));
        rows.changed.sort_unstable_by(|one, other| one.order_no.cmp(&other.order_no));
        rows.journal.sort_unstable_by(|one, other| journal_key(one).cmp(&journal_key(other)));
        rows
    }

    fn event(&mut self, lsn: Lsn, event: &'a Event) -> Result<(), String> {
        let at = event.at;
        match &event.change {
            Change::StockCreated { .. } | Change::StockChanged { .. } | Change::StatusChanged { .. } => {}
            Change::Reserved { order_no, buyer_id, mode, ttl_seconds, asked, attempt, lines } => {
                let expires_at = at.plus_seconds(u64::from(*ttl_seconds));
                let order = new_order(order_no, lsn, at, expires_at, buyer_id.as_ref(), *mode);
                let requests = asked.map(|fingerprint| OrderRequest { request_id: None, fingerprint });
                let (lines, requests) =
                    (lines.iter().map(line_image).collect(), requests.into_iter().collect());
                let span = attempt.map(|attempt| Box::new(Span::new(attempt)));
                self.make(order_no, OrderImage { lines, requests, span, ..order });
            }
            Change::Cancelled { order_no, .. } => {
                let order = new_order(order_no, lsn, at, at, None, Mode::AllOrNothing);
                self.make(order_no, OrderImage { phase: Phase::Cancelled, ..order });
            }
            Change::Confirmed { order_no, request, lines, after, .. } => {
                let given =
                    |line: &ConfirmedLine| Some(LineSerials { line: line.line, serials: line.serials()? });
                let serials = lines.iter().filter_map(given).collect();
                let lines = lines.iter().map(|line| (line.line, line.counts)).collect();
                let change =
                    OrderChange { serials, ..OrderChange::moved(at, after, request.as_ref(), lines) };
                self.change(order_no, lsn, change)?;
            }
            Change::Released { order_no, request, lines, after, .. } => {
                let lines = lines.iter().map(|line| (line.line, line.counts)).collect();
                self.change(order_no, lsn, OrderChange::moved(at, after, request.as_ref(), lines))?;
            }
            Change::Expired { order_no, lines, after } => {
                let lines = lines.iter().map(|line| (line.line, line.counts)).collect();
                self.change(order_no, lsn, OrderChange::moved(at, after, None, lines))?;
            }
            Change::Returned { order_no, request, lines, after, .. } => {
                let lines = lines.iter().map(|line| (line.line, line.counts)).collect();
                self.change(order_no, lsn, OrderChange::moved(at, after, Some(request), lines))?;
            }
            Change::Extended { order_no, ttl_seconds } => {
                let expires_at = Some(at.plus_seconds(u64::from(*ttl_seconds)));
                let (lines, serials) = (Vec::new(), Vec::new());
                let at = Some(at);
                let change = OrderChange { at, after: None, expires_at, request: None, lines, serials };
                self.change(order_no, lsn, change)?;
            }
            Change::Pinned { skus, hot } => {
                self.rows.pins.extend(skus.iter().map(|sku_id| (sku_id.clone(), (*hot, lsn))));
            }
            Change::Acknowledged { orders } => {
                for order in orders {
                    let (lines, serials) = (Vec::new(), order.serials.clone());
                    let after = Some(order.after.clone());
                    let change =
                        OrderChange { at: None, after, expires_at: None, request: None, lines, serials };
                    self.change(&order.order_no, lsn, change)?;
                }
            }
            Change::Held { order_no, attempt, coordinator, purpose, lines } => {
                let (order_no, attempt) = (order_no.clone(), *attempt);
                let lines = lines.iter().map(held_line).collect();
                let (coordinator, purpose) = (*coordinator, *purpose);
                let hold = HoldImage { order_no, attempt, coordinator, purpose, seq: 0, lsn, lines };
                self.rows.held.insert((hold.order_no.clone(), attempt), hold);
            }
            Change::HoldChanged { order_no, attempt, seq, lines, is_over, .. } => {
                self.change_hold((order_no.clone(), *attempt), *seq, lsn, lines, *is_over)?;
            }
            // What is in memory is no matter of the store.
            Change::Forgotten { .. }
            | Change::Loaded { .. }
            | Change::OrdersLoaded { .. }
            | Change::Evicted { .. }
            | Change::Started { .. } => {}
        }
        if let Some(request) = event.stock_request(lsn) {
            self.rows.requests.insert((request.sku_id.clone(), request.request_id.clone()), request);
        }
        for change in event.stock_moves() {
            self.stock(lsn, event, &change)?;
            let source = (self.shard, lsn);
            self.rows.journal.push(JournalRow { change, at, trace: event.trace, source });
        }
        Ok(())
    }

    fn stock(&mut self, lsn: Lsn, event: &Event, change: &StockMove) -> Result<(), String> {
        let status = match &event.change {
            Change::StatusChanged { status, .. } => Some(*status),
            _ => None,
        };
        let created = match &event.change {
            Change::StockCreated { quantity, serialized, .. } => Some((*quantity, *serialized)),
            _ => None,
        };
        let numbered = change.serials.map_or(0, Serials::count);
        let key = (change.sku_id.clone(), change.warehouse_id);
        let after = change.after;
        if let Some(stock) = self.rows.stocks.get_mut(&key) {
            if created.is_some() || stock.after.version.checked_add(1) != Some(after.version) {
                let (sku_id, warehouse_id) = key;
                return Err(format!(
                    "SKU {sku_id}, warehouse {warehouse_id}: version {} again",
                    after.version
                ));
            }
            (stock.after, stock.lsn, stock.changed_at) = (after, lsn, event.at);
            stock.status = status.or(stock.status);
            stock.numbered += numbered;
            return Ok(());
        }
        let before = match created {
            Some(_) => None,
            None => Some(before(change).ok_or("it starts below nothing")?),
        };
        let stock = ChangedStock { before, after, status, created, numbered, lsn, changed_at: event.at };
        self.rows.stocks.insert(key, stock);
        Ok(())
    }

    fn make(&mut self, order_no: &'a OrderNo, image: OrderImage) {
        if self.changed.contains_key(order_no) || self.made.contains_key(order_no) {
            self.rows.again.entry(order_no.clone()).or_insert((image.lsn, image.created_at));
            return;
        }
        self.made.insert(order_no, self.rows.made.len());
        self.rows.made.push(image);
    }

    fn change_hold(
        &mut self,
        key: (OrderNo, AttemptId),
        seq: u32,
        lsn: Lsn,
        lines: &[HoldMovedLine],
        is_over: bool,
    ) -> Result<(), String> {
        if let Some(hold) = self.rows.held.get_mut(&key) {
            (hold.seq, hold.lsn) = (seq, lsn);
            for moved in lines {
                let is_it = |line: &&mut HoldLineImage| {
                    line.sku_id == moved.sku_id && line.warehouse_id == moved.warehouse_id
                };
                let line = hold.lines.iter_mut().find(is_it).ok_or("a line that the hold has not")?;
                *line = moved_line(moved);
            }
            hold.lines.retain(|line| !is_over || line.sold != 0);
            if hold.lines.is_empty() {
                self.rows.held.remove(&key);
            }
            return Ok(());
        }
        let new = || ChangedHold { seq, lsn, lines: BTreeMap::new(), is_over };
        let hold = self.rows.changed_holds.entry(key).or_insert_with(new);
        (hold.seq, hold.lsn, hold.is_over) = (seq, lsn, is_over);
        let of_line = |line: &HoldMovedLine| ((line.sku_id.clone(), line.warehouse_id), moved_line(line));
        hold.lines.extend(lines.iter().map(of_line));
        Ok(())
    }

    fn change(&mut self, order_no: &'a OrderNo, lsn: Lsn, change: OrderChange<'_>) -> Result<(), String> {
        let OrderChange { at, after, expires_at, request, lines, serials } = change;
        if self.rows.again.contains_key(order_no) {
            return Ok(());
        }
        if let Some(place) = self.made.get(order_no) {
            let order = &mut self.rows.made[*place];
            (order.lsn, order.changed_at) = (lsn, at.unwrap_or(order.changed_at));
            order.expires_at = expires_at.unwrap_or(order.expires_at);
            if let Some(after) = after {
                (order.phase, order.span) = (after.phase, after.span);
            }
            order.requests.extend(request.cloned());
            order.serials.extend(serials);
            for (line, counts) in lines {
                let line = order.lines.get_mut(usize::from(line)).ok_or("a line that the order has not")?;
                (line.held, line.confirmed, line.released) = (counts.held, counts.confirmed, counts.released);
                (line.returned, line.lapsed) = (counts.returned, counts.lapsed);
            }
            return Ok(());
        }
        let place = *self.changed.entry(order_no).or_insert_with(|| {
            self.rows.changed.push(ChangedOrder {
                order_no: order_no.clone(),
                lsn,
                changed_at: None,
                after: None,
                expires_at: None,
                lines: BTreeMap::new(),
                requests: Vec::new(),
                serials: Vec::new(),
            });
            self.rows.changed.len() - 1
        });
        let order = &mut self.rows.changed[place];
        (order.lsn, order.changed_at) = (lsn, at.or(order.changed_at));
        order.expires_at = expires_at.or(order.expires_at);
        order.lines.extend(lines);
        if let Some(after) = after {
            // The event tells how many there are with its own.
            let place = |count: u32, own: usize| {
                (count as usize).checked_sub(own).ok_or("it has more than there are")
            };
            if let Some(request) = request {
                order.requests.push((place(after.requests, 1)?, request.clone()));
            }
            let first = place(after.serials, serials.len())?;
            order.serials.extend((first..).zip(serials));
            order.after = Some(after);
        }
        Ok(())
    }
}

impl<'a> OrderChange<'a> {
    fn moved(
        at: Timestamp,
        after: &OrderAfter,
        request: Option<&'a OrderRequest>,
        lines: Vec<(u16, LineCounts)>,
    ) -> Self {
        let (at, after) = (Some(at), Some(after.clone()));
        Self { at, after, expires_at: None, request, lines, serials: Vec::new() }
    }
}

fn new_order(
    order_no: &OrderNo,
    lsn: Lsn,
    at: Timestamp,
    expires_at: Timestamp,
    buyer_id: Option<&BuyerId>,
    mode: Mode,
) -> OrderImage {
    OrderImage {
        order_no: order_no.clone(),
        buyer_id: buyer_id.cloned(),
        mode,
        phase: Phase::Open,
        created_at: at,
        expires_at,
        changed_at: at,
        lsn,
        lines: Vec::new(),
        requests: Vec::new(),
        serials: Vec::new(),
        span: None,
    }
}

fn held_line(line: &HeldLine) -> HoldLineImage {
    let HeldLine { sku_id, warehouse_id, units, .. } = line;
    let (sku_id, warehouse_id) = (sku_id.clone(), *warehouse_id);
    HoldLineImage { sku_id, warehouse_id, units: *units, sold: 0, serials: Vec::new() }
}

fn moved_line(line: &HoldMovedLine) -> HoldLineImage {
    let HoldMovedLine { sku_id, warehouse_id, left, sold, unheard, .. } = line;
    let (sku_id, warehouse_id) = (sku_id.clone(), *warehouse_id);
    HoldLineImage { sku_id, warehouse_id, units: *left, sold: *sold, serials: unheard.clone() }
}

fn line_image(line: &ReservedLine) -> LineImage {
    LineImage {
        sku_id: line.sku_id.clone(),
        warehouse_id: line.warehouse_id,
        quantity: line.quantity,
        held: line.held,
        confirmed: 0,
        released: 0,
        returned: 0,
        lapsed: 0,
    }
}

fn journal_key(row: &JournalRow) -> (&SkuId, WarehouseId, u64) {
    (&row.change.sku_id, row.change.warehouse_id, row.change.after.version)
}

/// The levels that a change found.
fn before(change: &StockMove) -> Option<Levels> {
    let StockMove { delta, after, .. } = change;
    let back = |level: u64, delta: i64| level.checked_add_signed(delta.checked_neg()?);
    Some(Levels {
        available: back(after.available, delta.available)?,
        reserved: back(after.reserved, delta.reserved)?,
        sold: back(after.sold, delta.sold)?,
        version: after.version.checked_sub(1)?,
    })
}
