//! A store for the tests of the state machine: it takes in events as the contract says, from what they say alone, and
//! hands over images.

use std::collections::{BTreeMap, BTreeSet};

use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::StockStatus;
use hotstock_engine::event::{Change, Event, OrderAfter};
use hotstock_engine::ids::{Lsn, OrderNo, RequestId, SkuId, WarehouseId};
use hotstock_engine::image::{LineImage, LineSerials, OrderImage, RequestImage, Span, StockImage};
use hotstock_engine::moves::MoveKind;
use hotstock_engine::order::{LineCounts, OrderRequest, Phase};
use hotstock_engine::state::{Departed, Need, State, Stored};
use hotstock_engine::units::Levels;

/// The rows, as they were flushed.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    pub flushed: Lsn,
    pub stocks: BTreeMap<SkuId, BTreeMap<WarehouseId, StockImage>>,
    pub orders: BTreeMap<OrderNo, OrderImage>,
    pub requests: BTreeMap<(SkuId, RequestId), RequestImage>,
}

impl Rows {
    /// Takes in the next event.
    pub fn flush(&mut self, lsn: Lsn, event: &Event) {
        assert_eq!(lsn, self.flushed.next(), "events are flushed in their order");
        self.flushed = lsn;
        for moved in event.stock_moves() {
            if moved.kind == MoveKind::Created {
                continue;
            }
            let serials = moved.serials.map_or(0, |serials| serials.count());
            let stock = self.stock(&moved.sku_id, moved.warehouse_id);
            assert_eq!(stock.levels.after(moved.delta), Some(moved.after), "the row is what the event finds");
            stock.levels = moved.after;
            stock.supplied = moved.after.quantity();
            stock.forgotten_sold = moved.after.sold;
            stock.numbered = stock.numbered.map(|numbered| numbered + serials);
            stock.lsn = lsn;
        }
        if let Some(request) = event.stock_request(lsn) {
            self.requests.insert((request.sku_id.clone(), request.request_id.clone()), request);
        }
        match &event.change {
            Change::StockCreated { sku_id, warehouse_id, quantity, serialized } => {
                let image = StockImage {
                    sku_id: sku_id.clone(),
                    warehouse_id: *warehouse_id,
                    levels: Levels { available: *quantity, reserved: 0, sold: 0, version: 1 },
                    status: StockStatus::OnSale,
                    initial: *quantity,
                    supplied: *quantity,
                    forgotten_sold: 0,
                    lsn,
                    hot: false,
                    numbered: serialized.then_some(0),
                };
                let known = self.stocks.entry(sku_id.clone()).or_default().insert(*warehouse_id, image);
                assert_eq!(known, None, "a stock is created once");
            }
            Change::StatusChanged { sku_id, warehouses, status } => {
                for (warehouse_id, _) in warehouses {
                    self.stock(sku_id, *warehouse_id).status = *status;
                }
            }
            Change::Pinned { skus, hot } => {
                for sku_id in skus {
                    let stocks = self.stocks.get_mut(sku_id).expect("its rows are there");
                    stocks.values_mut().for_each(|stock| (stock.hot, stock.lsn) = (*hot, lsn));
                }
            }
            Change::Reserved { order_no, buyer_id, mode, ttl_seconds, asked, attempt, lines } => {
                let line = |line: &hotstock_engine::event::ReservedLine| LineImage {
                    sku_id: line.sku_id.clone(),
                    warehouse_id: line.warehouse_id,
                    quantity: line.quantity,
                    held: line.held,
                    confirmed: 0,
                    released: 0,
                    returned: 0,
                    lapsed: 0,
                };
                let asked = asked.map(|fingerprint| OrderRequest { request_id: None, fingerprint });
                self.insert(OrderImage {
                    buyer_id: buyer_id.clone(),
                    mode: *mode,
                    expires_at: event.at.plus_seconds(u64::from(*ttl_seconds)),
                    lines: lines.iter().map(line).collect(),
                    requests: asked.into_iter().collect(),
                    span: attempt.map(|attempt| Box::new(Span::new(attempt))),
                    ..bare_order(order_no, event.at, lsn)
                });
            }
            Change::Cancelled { order_no, .. } => {
                self.insert(OrderImage { phase: Phase::Cancelled, ..bare_order(order_no, event.at, lsn) });
            }
            Change::Confirmed { order_no, request, lines, after, .. } => {
                let given = |line: &hotstock_engine::event::ConfirmedLine| {
                    Some(LineSerials { line: line.line, serials: line.serials()? })
                };
                let serials: Vec<_> = lines.iter().filter_map(given).collect();
                let counts = lines.iter().map(|line| (line.line, line.counts));
                self.change(order_no, (event.at, lsn), counts, request.as_ref(), &serials, after);
            }
            Change::Released { order_no, request, lines, after, .. } => {
                let counts = lines.iter().map(|line| (line.line, line.counts));
                self.change(order_no, (event.at, lsn), counts, request.as_ref(), &[], after);
            }
            Change::Expired { order_no, lines, after } => {
                let counts = lines.iter().map(|line| (line.line, line.counts));
                self.change(order_no, (event.at, lsn), counts, None, &[], after);
            }
            Change::Returned { order_no, request, lines, after, .. } => {
                let counts = lines.iter().map(|line| (line.line, line.counts));
                self.change(order_no, (event.at, lsn), counts, Some(request), &[], after);
            }
            Change::Extended { order_no, ttl_seconds } => {
                let order = self.orders.get_mut(order_no).expect("its row is there");
                order.expires_at = event.at.plus_seconds(u64::from(*ttl_seconds));
                (order.changed_at, order.lsn) = (event.at, lsn);
            }
            Change::Acknowledged { orders } => {
                for order in orders {
                    let (order_no, serials) = (&order.order_no, &order.serials);
                    let at = self.orders.get(order_no).expect("its row is there").changed_at;
                    self.change(order_no, (at, lsn), std::iter::empty(), None, serials, &order.after);
                }
            }
            // These change what is in memory, or levels alone.
            Change::StockChanged { .. }
            | Change::Forgotten { .. }
            | Change::Loaded { .. }
            | Change::OrdersLoaded { .. }
            | Change::Evicted { .. }
            | Change::Held { .. }
            | Change::HoldChanged { .. }
            | Change::Started { .. } => {}
        }
    }

    fn stock(&mut self, sku_id: &SkuId, warehouse_id: WarehouseId) -> &mut StockImage {
        let stocks = self.stocks.get_mut(sku_id).and_then(|stocks| stocks.get_mut(&warehouse_id));
        stocks.expect("its row is there")
    }

    fn insert(&mut self, image: OrderImage) {
        let known = self.orders.insert(image.order_no.clone(), image);
        assert_eq!(known, None, "an order is made once");
    }

    fn change(
        &mut self,
        order_no: &OrderNo,
        (at, lsn): (Timestamp, Lsn),
        counts: impl Iterator<Item = (u16, LineCounts)>,
        request: Option<&OrderRequest>,
        serials: &[LineSerials],
        after: &OrderAfter,
    ) {
        let order = self.orders.get_mut(order_no).expect("its row is there");
        for (index, counts) in counts {
            let line = &mut order.lines[usize::from(index)];
            (line.held, line.confirmed, line.released) = (counts.held, counts.confirmed, counts.released);
            (line.returned, line.lapsed) = (counts.returned, counts.lapsed);
        }
        order.phase = after.phase;
        order.requests.extend(request.cloned());
        order.serials.extend(serials);
        order.span.clone_from(&after.span);
        (order.changed_at, order.lsn) = (at, lsn);
        let says = (after.status, after.open, after.requests as usize, after.serials as usize);
        let is = (order.status(), !order.is_done(), order.requests.len(), order.serials.len());
        assert_eq!(says, is, "what the event says of order {order_no}");
    }

    /// The rows of a SKU, by warehouse.
    pub fn sku(&self, sku_id: &SkuId) -> Vec<StockImage> {
        self.stocks.get(sku_id).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }
}

fn bare_order(order_no: &OrderNo, at: Timestamp, lsn: Lsn) -> OrderImage {
    OrderImage {
        order_no: order_no.clone(),
        buyer_id: None,
        mode: hotstock_engine::command::Mode::AllOrNothing,
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

/// What is known to have left memory, and what was looked for in vain for the command at hand.
#[derive(Debug, Clone, Default)]
pub struct Known {
    pub orders: BTreeSet<OrderNo>,
    pub requests: BTreeSet<(SkuId, RequestId)>,
    pub missing: Vec<Need>,
}

impl Known {
    pub fn add(&mut self, departed: Vec<Departed>) {
        for departed in departed {
            match departed {
                Departed::Order(order_no) => drop(self.orders.insert(order_no)),
                Departed::Request(sku_id, request_id) => drop(self.requests.insert((sku_id, request_id))),
            }
        }
    }
}

impl Stored for Known {
    fn may_have_order(&self, order_no: &OrderNo) -> bool {
        self.orders.contains(order_no) && !self.missing.contains(&Need::Order(order_no.clone()))
    }

    fn may_have_request(&self, sku_id: &SkuId, request_id: &RequestId) -> bool {
        let missing = self.missing.contains(&Need::Request(sku_id.clone(), request_id.clone()));
        self.requests.contains(&(sku_id.clone(), request_id.clone())) && !missing
    }

    fn lacks_sku(&self, sku_id: &SkuId) -> bool {
        self.missing.contains(&Need::Sku(sku_id.clone()))
    }
}

/// The changes with which what is needed comes into memory, in their order: each to be applied before the next is
/// asked for.
pub fn next_load(state: &State, rows: &Rows, known: &mut Known, needs: &[Need]) -> Option<Change> {
    assert!(rows.flushed >= state.departed(), "the store has everything that left memory");
    let loaded = |sku_id: &SkuId| state.decide_loaded(sku_id, &rows.sku(sku_id)).expect("its rows are sound");
    for need in needs {
        let change = match need {
            Need::Sku(sku_id) if rows.stocks.contains_key(sku_id) => loaded(sku_id),
            Need::Order(order_no) if rows.orders.contains_key(order_no) => {
                let order = &rows.orders[order_no];
                let skus = order.lines.iter().map(|line| &line.sku_id);
                let is_here = |sku_id: &SkuId| state.is_resident(sku_id) || !rows.stocks.contains_key(sku_id);
                let mut skus = skus.filter(|sku_id| !is_here(sku_id));
                match skus.next() {
                    Some(sku_id) => loaded(sku_id),
                    None => state
                        .decide_orders_loaded(std::slice::from_ref(order), &[])
                        .expect("its row is sound"),
                }
            }
            Need::Request(sku_id, request_id)
                if rows.requests.contains_key(&(sku_id.clone(), request_id.clone())) =>
            {
                if !state.is_resident(sku_id) {
                    return loaded(sku_id);
                }
                let request = rows.requests[&(sku_id.clone(), request_id.clone())].clone();
                state.decide_orders_loaded(&[], &[request]).expect("its row is sound")
            }
            missing => {
                known.missing.push(missing.clone());
                None
            }
        };
        if change.is_some() {
            return change;
        }
    }
    None
}
