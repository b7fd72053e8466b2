//! Events of shards on their way into the rows: one event after the other, each with the values that it carries.

use std::collections::{BTreeMap, BTreeSet};

use super::tables::{Place, StockRow, Tables};
use crate::base::clock::Timestamp;
use crate::base::ids::{Lsn, OrderNo, ShardId, SkuId};
use crate::contract::command::{Mode, StockStatus};
use crate::contract::event::{Change, Event, MovedLine, OrderAfter};
use crate::contract::image::{
    HoldImage, HoldLineImage, LineImage, LineSerials, OrderImage, Span, StockImage,
};
use crate::contract::moves::StockMove;
use crate::contract::order::{LineCounts, OrderRequest, Phase};
use crate::contract::store::{
    Anomaly, FlushBatch, FlushPart, Flushed, JournalRow, Parked, PrunedSums, StoreError, StoredHold,
    StoredOrder, Watermark,
};
use crate::contract::units::{Delta, Levels};

/// An event and where it was logged.
#[derive(Clone, Copy)]
struct Source<'a> {
    shard: ShardId,
    lsn: Lsn,
    event: &'a Event,
}

impl Tables {
    pub fn flush(&mut self, batch: &FlushBatch<'_>) -> Result<Flushed, StoreError> {
        self.check_epoch(batch.epoch)?;
        batch.check()?;
        let unused = |shard| Watermark { shard, ..Watermark::default() };
        let of = |shard: ShardId| self.watermarks.get(&shard).copied().unwrap_or(unused(shard));
        let watermarks: Vec<Watermark> = batch.parts.iter().map(|part| of(part.shard)).collect();
        if batch.parts.iter().zip(&watermarks).any(|(part, mark)| part.after != mark.lsn) {
            return Ok(Flushed { watermarks, ..Flushed::default() });
        }
        let known = self.anomalies.len();
        let mut flushed = Flushed { watermarks, ..Flushed::default() };
        for (part, mark) in batch.parts.iter().zip(&mut flushed.watermarks) {
            let FlushPart { shard, after, hash, events } = *part;
            if events.is_empty() {
                continue;
            }
            flushed.parked.extend(self.park_misfits(shard, events));
            for (lsn, event) in events {
                flushed.rows += self.take_in(Source { shard, lsn: *lsn, event });
            }
            *mark = Watermark { shard, lsn: after.plus(events.len() as u64), hash, epoch: batch.epoch };
            self.watermarks.insert(shard, *mark);
        }
        flushed.anomalies = (self.anomalies.len() - known) as u64;
        Ok(flushed)
    }

    /// Parks the SKUs whose rows are not what the first event finds.
    fn park_misfits(&mut self, shard: ShardId, events: &[(Lsn, Event)]) -> Vec<SkuId> {
        let mut first: BTreeMap<Place, (Lsn, Timestamp, StockMove)> = BTreeMap::new();
        for (lsn, event) in events {
            for change in event.stock_moves() {
                let place = (change.sku_id.clone(), change.warehouse_id);
                first.entry(place).or_insert((*lsn, event.at, change));
            }
        }
        let mut parked = BTreeSet::new();
        for (place, (lsn, at, change)) in first {
            let row = self.stocks.get(&place).map(|row| row.image.levels);
            let expected = before(&change);
            if row == expected || self.parked.contains_key(&place.0) {
                continue;
            }
            let (sku_id, warehouse_id) = place;
            let reason = format!(
                "warehouse {warehouse_id}: {row:?} where event {lsn} of shard {shard} found {expected:?}"
            );
            self.note(at, "stock_changed", Some((shard, lsn)), None, Some(&sku_id), reason.clone());
            self.parked.insert(sku_id.clone(), Parked { sku_id: sku_id.clone(), at, reason });
            parked.insert(sku_id);
        }
        parked.into_iter().collect()
    }

    /// Takes in one event; how many rows it wrote.
    fn take_in(&mut self, source: Source<'_>) -> u64 {
        let Source { shard, lsn, event } = source;
        let at = event.at;
        let moves = event.stock_moves();
        let mut rows = 2 * moves.len() as u64;
        for change in moves {
            self.write_stock(lsn, event, &change);
            let place = (change.sku_id.clone(), change.warehouse_id);
            let row = JournalRow { at, trace: event.trace, source: (shard, lsn), change };
            self.journal.entry(place).or_default().insert(row.change.after.version, row);
        }
        rows += 1;
        match &event.change {
            Change::StockChanged { .. } => {
                if let Some(image) = event.stock_request(lsn) {
                    self.requests.insert((image.sku_id.clone(), image.request_id.clone()), image);
                }
            }
            Change::Reserved { order_no, buyer_id, mode, ttl_seconds, asked, attempt, lines } => {
                let asked = asked.map(|fingerprint| OrderRequest { request_id: None, fingerprint });
                let line = |line: &crate::contract::event::ReservedLine| LineImage {
                    sku_id: line.sku_id.clone(),
                    warehouse_id: line.warehouse_id,
                    quantity: line.quantity,
                    held: line.held,
                    confirmed: 0,
                    released: 0,
                    returned: 0,
                    lapsed: 0,
                };
                let image = OrderImage {
                    buyer_id: buyer_id.clone(),
                    mode: *mode,
                    expires_at: at.plus_seconds(u64::from(*ttl_seconds)),
                    lines: lines.iter().map(line).collect(),
                    requests: asked.into_iter().collect(),
                    span: attempt.map(|attempt| Box::new(Span::new(attempt))),
                    ..new_order(order_no, at, lsn)
                };
                self.make_order(source, image);
            }
            Change::Cancelled { order_no, .. } => {
                let image = OrderImage { phase: Phase::Cancelled, ..new_order(order_no, at, lsn) };
                self.make_order(source, image);
            }
            Change::Confirmed { order_no, request, lines, after, .. } => {
                let counts = lines.iter().map(|line| (line.line, line.counts)).collect();
                let serials = lines
                    .iter()
                    .filter_map(|line| Some(LineSerials { line: line.line, serials: line.serials()? }));
                self.count_order(source, order_no, counts, request.as_ref(), serials.collect(), Some(after));
            }
            Change::Released { order_no, request, lines, after, .. } => {
                self.count_order(source, order_no, moved(lines), request.as_ref(), Vec::new(), Some(after));
            }
            Change::Expired { order_no, lines, after } => {
                self.count_order(source, order_no, moved(lines), None, Vec::new(), Some(after));
            }
            Change::Returned { order_no, request, lines, after, .. } => {
                self.count_order(source, order_no, moved(lines), Some(request), Vec::new(), Some(after));
            }
            Change::Extended { order_no, ttl_seconds } => {
                let expires_at = at.plus_seconds(u64::from(*ttl_seconds));
                self.change_order(source, order_no, true, |image| image.expires_at = expires_at);
            }
            Change::Pinned { skus, hot } => {
                for row in self.stocks.values_mut().filter(|row| skus.contains(&row.image.sku_id)) {
                    row.image.hot = *hot;
                }
            }
            Change::Acknowledged { orders } => {
                for order in orders {
                    let (serials, after) = (order.serials.clone(), &order.after);
                    self.change_order(source, &order.order_no, false, |image| {
                        image.serials.extend(serials);
                        image.span.clone_from(&after.span);
                    });
                }
            }
            Change::Held { order_no, attempt, coordinator, purpose, lines } => {
                let line = |line: &crate::contract::event::HeldLine| HoldLineImage {
                    sku_id: line.sku_id.clone(),
                    warehouse_id: line.warehouse_id,
                    units: line.units,
                    sold: 0,
                    serials: Vec::new(),
                };
                let image = HoldImage {
                    order_no: order_no.clone(),
                    attempt: *attempt,
                    coordinator: *coordinator,
                    purpose: *purpose,
                    seq: 0,
                    lsn,
                    lines: lines.iter().map(line).collect(),
                };
                self.holds.insert((order_no.clone(), *attempt, shard), StoredHold { shard, image });
            }
            Change::HoldChanged { order_no, attempt, seq, lines, is_over, .. } => {
                let key = (order_no.clone(), *attempt, shard);
                if let Some(StoredHold { image, .. }) = self.holds.get_mut(&key) {
                    (image.seq, image.lsn) = (*seq, lsn);
                    for moved in lines {
                        let is_it = |line: &&mut HoldLineImage| {
                            line.sku_id == moved.sku_id && line.warehouse_id == moved.warehouse_id
                        };
                        if let Some(line) = image.lines.iter_mut().find(is_it) {
                            (line.units, line.sold) = (moved.left, moved.sold);
                            line.serials.clone_from(&moved.unheard);
                        }
                    }
                    // What was sold counts until its order goes.
                    image.lines.retain(|line| !is_over || line.sold != 0);
                    if image.lines.is_empty() {
                        self.holds.remove(&key);
                    }
                }
            }
            Change::StockCreated { .. }
            | Change::StatusChanged { .. }
            | Change::Forgotten { .. }
            | Change::Loaded { .. }
            | Change::OrdersLoaded { .. }
            | Change::Evicted { .. }
            | Change::Started { .. } => rows -= 1,
        }
        rows
    }

    fn write_stock(&mut self, lsn: Lsn, event: &Event, change: &StockMove) {
        if self.parked.contains_key(&change.sku_id) {
            return;
        }
        let place = (change.sku_id.clone(), change.warehouse_id);
        if let Change::StockCreated { quantity, serialized, .. } = &event.change {
            let image = StockImage {
                sku_id: change.sku_id.clone(),
                warehouse_id: change.warehouse_id,
                levels: change.after,
                status: StockStatus::OnSale,
                initial: *quantity,
                supplied: *quantity,
                forgotten_sold: 0,
                lsn,
                hot: self.is_hot(&change.sku_id),
                numbered: serialized.then_some(0),
            };
            self.stocks.insert(place, StockRow { image, pruned: PrunedSums::default() });
            return;
        }
        // It fits: the first event of the batch was compared, and events of one stock follow each other.
        let Some(StockRow { image, .. }) = self.stocks.get_mut(&place) else { return };
        image.levels = change.after;
        image.supplied = change.after.quantity();
        image.forgotten_sold = change.after.sold;
        image.lsn = lsn;
        if let Change::StatusChanged { status, .. } = &event.change {
            image.status = *status;
        }
        if let Some(serials) = change.serials {
            image.numbered = Some(image.numbered.unwrap_or(0) + serials.count());
        }
    }

    fn make_order(&mut self, source: Source<'_>, image: OrderImage) {
        let order_no = image.order_no.clone();
        let order = StoredOrder { shard: source.shard, image };
        if self.orders.insert(order_no.clone(), order).is_some() {
            let detail = "the store had an order with this number".to_owned();
            self.note_order(source, "order_exists", &order_no, detail);
        }
    }

    fn count_order(
        &mut self,
        source: Source<'_>,
        order_no: &OrderNo,
        counts: Vec<(u16, LineCounts)>,
        request: Option<&OrderRequest>,
        serials: Vec<LineSerials>,
        after: Option<&OrderAfter>,
    ) {
        self.change_order(source, order_no, true, |image| {
            for (line, counts) in counts {
                let Some(line) = image.lines.get_mut(usize::from(line)) else { continue };
                let LineCounts { held, confirmed, released, returned, lapsed } = counts;
                (line.held, line.confirmed, line.released) = (held, confirmed, released);
                (line.returned, line.lapsed) = (returned, lapsed);
            }
            image.requests.extend(request.cloned());
            image.serials.extend(serials);
            if let Some(after) = after {
                image.phase = after.phase;
                image.span.clone_from(&after.span);
            }
        });
    }

    /// `is_seen`: callers see it changed.
    fn change_order(
        &mut self,
        source: Source<'_>,
        order_no: &OrderNo,
        is_seen: bool,
        change: impl FnOnce(&mut OrderImage),
    ) {
        let Some(StoredOrder { image, .. }) = self.orders.get_mut(order_no) else {
            let detail = "the store does not have this order".to_owned();
            return self.note_order(source, "order_missing", order_no, detail);
        };
        image.lsn = source.lsn;
        if is_seen {
            image.changed_at = source.event.at;
        }
        change(image);
    }

    fn note_order(&mut self, source: Source<'_>, kind: &str, order_no: &OrderNo, detail: String) {
        let Source { shard, lsn, event } = source;
        self.note(event.at, kind, Some((shard, lsn)), Some(order_no), None, detail);
    }

    pub fn note(
        &mut self,
        at: Timestamp,
        kind: &str,
        source: Option<(ShardId, Lsn)>,
        order_no: Option<&OrderNo>,
        sku_id: Option<&SkuId>,
        detail: String,
    ) {
        let (order_no, sku_id) = (order_no.cloned(), sku_id.cloned());
        self.anomalies.push(Anomaly { at, kind: kind.to_owned(), source, order_no, sku_id, detail });
    }
}

fn new_order(order_no: &OrderNo, at: Timestamp, lsn: Lsn) -> OrderImage {
    OrderImage {
        order_no: order_no.clone(),
        buyer_id: None,
        mode: Mode::AllOrNothing,
        phase: Phase::Open,
        created_at: at,
        expires_at: at,
        changed_at: at,
        lsn,
        lines: Vec::new(),
        requests: Vec::new(),
        serials: Vec::new(),
        span: None,
    }
}

fn moved(lines: &[MovedLine]) -> Vec<(u16, LineCounts)> {
    lines.iter().map(|line| (line.line, line.counts)).collect()
}

/// The levels that a change found; `None`: there was no row.
fn before(change: &StockMove) -> Option<Levels> {
    let Levels { available, reserved, sold, version } = change.after;
    let Delta { available: a, reserved: r, sold: s, .. } = change.delta;
    let less = |after: u64, delta: i64| after.wrapping_add_signed(delta.wrapping_neg());
    let before = Levels {
        available: less(available, a),
        reserved: less(reserved, r),
        sold: less(sold, s),
        version: version - 1,
    };
    (before.version > 0).then_some(before)
}
