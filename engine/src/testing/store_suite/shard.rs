//! A shard as the store sees it: a state machine whose events are flushed, in the batches that a test asks for, and
//! what they made of everything, also of what has left memory since.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::clock::Timestamp;
use crate::base::ids::{ChainHash, Epoch, Lsn, OrderNo, RequestId, ShardId, SkuId, WarehouseId};
use crate::contract::command::{
    Action, ChangeKind, ChangeStock, Confirm, CreateStock, Extend, Line, Lines, Mode, Part, Release, Reserve,
    Return, SetStatus, StockStatus,
};
use crate::contract::event::{Change, Event};
use crate::contract::image::{HoldLineImage, OrderImage, RequestImage, StockImage};
use crate::contract::outcome::{Answer, Outcome};
use crate::contract::store::{
    FlushBatch, FlushPart, Flushed, Store, StoreError, StoredHold, StoredSku, Wanted,
};
use crate::machine::inner::InnerCommand;
use crate::machine::state::{Decision, Departed, Need, State, Stored};

/// A shard without journal: its events wait in memory until they are flushed.
pub struct TestShard {
    /// The epoch that it flushes with.
    pub epoch: Epoch,
    /// Its number.
    pub shard: ShardId,
    /// Its truth.
    pub state: State,
    /// The time of the next event.
    pub now: Timestamp,
    /// Where the store's watermark is.
    pub flushed: Lsn,
    /// Events after it.
    pub events: Vec<(Lsn, Event)>,
    /// What its events made of everything.
    pub made: Made,
    /// Counts the events of all shards of a server, which are logged in this order.
    pub(super) logged: Arc<AtomicU64>,
    /// When each of the events was.
    pub(super) order: Vec<u64>,
    departed: BTreeSet<OrderNo>,
    departed_requests: BTreeSet<(SkuId, RequestId)>,
}

/// What the store must have when everything is flushed.
#[derive(Debug, Clone, Default)]
pub struct Made {
    /// Stocks; where they were logged last does not count.
    pub stocks: BTreeMap<(SkuId, WarehouseId), StockImage>,
    /// Orders that it decides.
    pub orders: BTreeMap<OrderNo, OrderImage>,
    /// Stock requests.
    pub requests: BTreeMap<(SkuId, RequestId), RequestImage>,
}

/// A stock without what is not compared: where it was logged last, and which of its units were sold by orders that
/// are not in memory.
#[must_use]
pub fn bare(image: StockImage) -> StockImage {
    StockImage { lsn: Lsn::ZERO, forgotten_sold: 0, ..image }
}

/// A hold with its lines in the order of their stocks.
pub(super) fn sorted(mut hold: StoredHold) -> StoredHold {
    let stock = |line: &HoldLineImage| (line.sku_id.clone(), line.warehouse_id);
    hold.image.lines.sort_by_key(stock);
    hold
}

/// The hash that the suites give to an event.
#[must_use]
pub fn hash_at(lsn: Lsn) -> ChainHash {
    ChainHash(lsn.0.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

struct Known<'a>(&'a TestShard);

impl Stored for Known<'_> {
    fn may_have_order(&self, order_no: &OrderNo) -> bool {
        self.0.departed.contains(order_no)
    }

    fn may_have_request(&self, sku_id: &SkuId, request_id: &RequestId) -> bool {
        self.0.departed_requests.contains(&(sku_id.clone(), request_id.clone()))
    }

    fn lacks_sku(&self, sku_id: &SkuId) -> bool {
        !self.0.made.stocks.keys().any(|(known, _)| known == sku_id)
    }
}

impl TestShard {
    /// One that takes all SKUs and stands under this number in the store, in epoch 1.
    #[must_use]
    pub fn stray(number: u16) -> Self {
        Self { shard: ShardId(number), ..Self::new(1) }
    }

    /// The shard of a server that has one, empty, in an epoch.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self { epoch: Epoch(epoch), ..Self::of(0, 1) }
    }

    /// A shard of a server that has several, empty, in epoch 1.
    #[must_use]
    pub fn of(number: u16, shards: u16) -> Self {
        Self {
            epoch: Epoch(1),
            shard: ShardId(number),
            state: State::new(ShardId(number), shards),
            now: Timestamp(1_800_000_000_000),
            flushed: Lsn::ZERO,
            events: Vec::new(),
            made: Made::default(),
            logged: Arc::default(),
            order: Vec::new(),
            departed: BTreeSet::new(),
            departed_requests: BTreeSet::new(),
        }
    }

    /// Carries out a command and keeps its event. Everything that it is about is in memory.
    ///
    /// # Panics
    /// When the event does not fit its own state, or units of other shards are needed.
    pub fn run(&mut self, command: impl Into<InnerCommand>) -> Outcome {
        self.now = self.now.plus_millis(1);
        match self.state.decide(&command.into(), self.now) {
            Decision::Answer(outcome) => outcome,
            Decision::HoldFirst(first) => panic!("it needs units of other shards: {first:?}"),
            Decision::Log(event) => Ok(self.carry_out(event)),
        }
    }

    /// Applies and keeps the event of a command; its answer.
    pub(super) fn carry_out(&mut self, event: Event) -> Answer {
        let lsn = self.last().next();
        self.state.apply(lsn, &event).expect("its own event fits");
        let answer = self.state.answer(&event);
        self.note(lsn, event);
        answer
    }

    /// Carries out a command that is not refused.
    ///
    /// # Panics
    /// When it is.
    pub fn must(&mut self, command: impl Into<InnerCommand>) {
        let command = command.into();
        let asked = format!("{command:?}");
        self.run(command).unwrap_or_else(|refusal| panic!("{asked}: {refusal}"));
    }

    /// Logs a change that the shard makes by itself.
    ///
    /// # Panics
    /// When it does not fit.
    pub fn log(&mut self, change: Change) {
        let event = self.state.event(change, self.now);
        let lsn = self.last().next();
        self.state.apply(lsn, &event).expect("its own event fits");
        self.note(lsn, event);
    }

    /// Expires what is due after so many seconds.
    pub fn expire_after(&mut self, seconds: u64) {
        self.now = self.now.plus_seconds(seconds);
        while let Some(event) = self.state.next_expiry(self.now) {
            self.log(event.change);
        }
    }

    /// Keeps SKUs in memory, or no longer.
    ///
    /// # Panics
    /// When one is not in memory.
    pub fn pin(&mut self, names: &[&str], hot: bool) {
        let skus: Vec<_> = names.iter().map(|name| sku(name)).collect();
        if let Some(change) = self.state.decide_pinned(&skus, hot).expect("they are in memory") {
            self.log(change);
        }
    }

    /// Idle SKUs leave memory, up to `max`. How many did.
    pub fn evict(&mut self, max: usize) -> usize {
        let mut count = 0;
        // A SKU that was used may stay for some rounds.
        for _ in 0..20 {
            while count < max
                && let Some(event) = self.state.next_eviction(self.flushed, |_| true, |_| false, self.now)
            {
                self.log(event.change);
                count += 1;
            }
        }
        count
    }

    /// Brings into memory what a command is about and the store has.
    ///
    /// # Panics
    /// When what the store has can't be decided on.
    pub async fn load_for(&mut self, store: &dyn Store, command: &InnerCommand) {
        loop {
            let mut needs = Vec::new();
            self.state.needs(command, &Known(self), &mut needs);
            if needs.is_empty() {
                return;
            }
            let mut wanted = Wanted::default();
            for need in needs {
                match need {
                    Need::Sku(sku_id) => wanted.skus.push(sku_id),
                    Need::Order(order_no) => wanted.orders.push(order_no),
                    Need::Request(sku_id, request_id) => {
                        wanted.skus.push(sku_id.clone());
                        wanted.requests.push((sku_id, request_id));
                    }
                }
            }
            let loaded = store.load(&wanted).await.expect("it loads");
            // With an order come those of its SKUs that lie in other shards.
            let mut skus = loaded.skus;
            skus.retain(|sku_id, _| self.state.owns(sku_id));
            for (sku_id, stored) in skus {
                let StoredSku::Sound(stocks) = stored else { panic!("SKU {sku_id}: {stored:?}") };
                if let Some(change) = self.state.decide_loaded(&sku_id, &stocks).expect("it can be loaded") {
                    self.log(change);
                }
            }
            let orders: Vec<_> = loaded.orders.into_iter().map(|order| order.image).collect();
            for order in &orders {
                self.departed.remove(&order.order_no);
            }
            for request in &loaded.requests {
                self.departed_requests.remove(&(request.sku_id.clone(), request.request_id.clone()));
            }
            let change =
                self.state.decide_orders_loaded(&orders, &loaded.requests).expect("they can be loaded");
            if let Some(change) = change {
                self.log(change);
            }
        }
    }

    /// Carries out a command, with what the store has of it.
    pub async fn run_with(&mut self, store: &dyn Store, command: impl Into<InnerCommand>) -> Outcome {
        let command = command.into();
        self.load_for(store, &command).await;
        self.run(command)
    }

    /// What it holds for orders of other shards, as the store must have it when everything is flushed.
    pub fn holds(&self) -> Vec<StoredHold> {
        self.state.holds().map(|image| sorted(StoredHold { shard: self.shard, image })).collect()
    }

    /// Keeps an event, and what it made.
    fn note(&mut self, lsn: Lsn, event: Event) {
        let made = &mut self.made;
        for change in event.stock_moves() {
            let key = (change.sku_id, change.warehouse_id);
            let image = self.state.image_of_stock(&key.0, key.1).expect("it has just changed");
            made.stocks.insert(key, bare(image));
        }
        if let Change::Pinned { skus, hot } = &event.change {
            let of_skus = made.stocks.values_mut().filter(|image| skus.contains(&image.sku_id));
            of_skus.for_each(|image| image.hot = *hot);
        }
        for order_no in orders_of(&event.change) {
            made.orders.extend(self.state.image_of_order(order_no).map(|image| (order_no.clone(), image)));
        }
        if let Some(request) = event.stock_request(lsn) {
            made.requests.insert((request.sku_id.clone(), request.request_id.clone()), request);
        }
        for departed in self.state.take_departed() {
            match departed {
                Departed::Order(order_no) => {
                    self.departed.insert(order_no);
                }
                Departed::Request(sku_id, request_id) => {
                    self.departed_requests.insert((sku_id, request_id));
                }
            }
        }
        self.events.push((lsn, event));
        self.order.push(self.logged.fetch_add(1, Ordering::Relaxed));
    }

    /// The last event.
    #[must_use]
    pub fn last(&self) -> Lsn {
        self.flushed.plus(self.events.len() as u64)
    }

    /// The next `max` events as a batch.
    #[must_use]
    pub fn batch(&self, max: usize) -> FlushBatch<'_> {
        FlushBatch { epoch: self.epoch, parts: vec![self.part(max)] }
    }

    /// The next `max` events as a part of a batch.
    #[must_use]
    pub fn part(&self, max: usize) -> FlushPart<'_> {
        let events = &self.events[..self.events.len().min(max)];
        let hash = hash_at(self.flushed.plus(events.len() as u64));
        FlushPart { shard: self.shard, after: self.flushed, hash, events }
    }

    /// Flushes the next `max` events.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn flush(&mut self, store: &dyn Store, max: usize) -> Result<Flushed, StoreError> {
        let flushed = store.flush(self.batch(max)).await?;
        self.move_to(flushed.flushed(self.shard));
        Ok(flushed)
    }

    /// Flushes everything in one batch; nothing when there is nothing.
    ///
    /// # Panics
    /// When the store does not take it.
    pub async fn flush_all(&mut self, store: &dyn Store) -> Flushed {
        if self.events.is_empty() {
            return Flushed::default();
        }
        let last = self.last();
        let flushed = self.flush(store, usize::MAX).await.expect("it flushes");
        assert_eq!(flushed.flushed(self.shard), last);
        flushed
    }

    /// The watermark is here.
    ///
    /// # Panics
    /// When it went back or beyond the last event.
    pub fn move_to(&mut self, watermark: Lsn) {
        assert!(watermark >= self.flushed && watermark <= self.last(), "{watermark}, after {}", self.flushed);
        let gone = watermark.0 - self.flushed.0;
        let gone = usize::try_from(gone).expect("so many are in memory");
        self.events.drain(..gone);
        self.order.drain(..gone);
        self.flushed = watermark;
    }
}

/// The orders that a change makes or changes.
fn orders_of(change: &Change) -> Vec<&OrderNo> {
    match change {
        Change::Reserved { order_no, .. }
        | Change::Confirmed { order_no, .. }
        | Change::Released { order_no, .. }
        | Change::Cancelled { order_no, .. }
        | Change::Expired { order_no, .. }
        | Change::Extended { order_no, .. }
        | Change::Returned { order_no, .. } => vec![order_no],
        Change::Acknowledged { orders } => orders.iter().map(|order| &order.order_no).collect(),
        Change::StockCreated { .. }
        | Change::StockChanged { .. }
        | Change::StatusChanged { .. }
        | Change::Forgotten { .. }
        | Change::Loaded { .. }
        | Change::OrdersLoaded { .. }
        | Change::Evicted { .. }
        | Change::Pinned { .. }
        | Change::Started { .. }
        | Change::Held { .. }
        | Change::HoldChanged { .. } => Vec::new(),
    }
}

/// A SKU by its name.
#[must_use]
pub fn sku(name: &str) -> SkuId {
    SkuId::new(name).expect("a short name")
}

/// An order by its number.
#[must_use]
pub fn order(number: &str) -> OrderNo {
    OrderNo::new(number).expect("a short number")
}

/// The warehouse of most tests.
pub const W1: WarehouseId = WarehouseId(1);

/// A second one.
pub const W2: WarehouseId = WarehouseId(2);

/// Creates a stock.
#[must_use]
pub fn create(name: &str, warehouse_id: WarehouseId, quantity: u64) -> Action {
    Action::CreateStock(CreateStock { sku_id: sku(name), warehouse_id, quantity, serialized: false })
}

/// Restocks.
#[must_use]
pub fn restock(name: &str, quantity: i64, request_id: &str) -> Action {
    let (kind, request_id) = (ChangeKind::Restock, RequestId::new(request_id).expect("a short id"));
    Action::ChangeStock(ChangeStock {
        sku_id: sku(name),
        warehouse_id: W1,
        kind,
        quantity,
        request_id,
        reason: None,
    })
}

/// Suspends or resumes.
#[must_use]
pub fn set_status(name: &str, status: StockStatus) -> Action {
    Action::SetStatus(SetStatus { sku_id: sku(name), warehouse_id: None, status })
}

/// Units of SKUs in [`W1`].
#[must_use]
pub fn lines(of: &[(&str, u32)]) -> Lines {
    let line =
        |(name, quantity): &(&str, u32)| Line { sku_id: sku(name), warehouse_id: W1, quantity: *quantity };
    Lines::new(of.iter().map(line)).expect("within bounds")
}

/// Reserves for ten minutes.
#[must_use]
pub fn reserve(number: &str, of: &[(&str, u32)]) -> Action {
    let (order_no, lines) = (order(number), lines(of));
    Action::Reserve(Reserve {
        order_no,
        lines,
        ttl_seconds: 600,
        buyer_id: None,
        mode: Mode::BestEffort,
        choice: None,
    })
}

/// A part of an order.
#[must_use]
pub fn part(of: &[(&str, u32)], request_id: &str) -> Option<Part> {
    let request_id = RequestId::new(request_id).ok();
    Some(Part { lines: lines(of), request_id })
}

/// Confirms.
#[must_use]
pub fn confirm(number: &str, part: Option<Part>) -> Action {
    Action::Confirm(Confirm { order_no: order(number), part })
}

/// Releases.
#[must_use]
pub fn release(number: &str, part: Option<Part>) -> Action {
    Action::Release(Release { order_no: order(number), part, reason: None })
}

/// Extends to `ttl_seconds` from now.
#[must_use]
pub fn extend(number: &str, ttl_seconds: u32) -> Action {
    Action::Extend(Extend { order_no: order(number), ttl_seconds })
}

/// Returns.
#[must_use]
pub fn give_back(number: &str, of: &[(&str, u32)], request_id: &str) -> Action {
    let request_id = RequestId::new(request_id).expect("a short id");
    Action::Return(Return { order_no: order(number), request_id, lines: Some(lines(of)) })
}
