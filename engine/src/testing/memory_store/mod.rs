//! The store in memory: the contract of [`Store`] without a database, with faults on demand. What it keeps outlives
//! an engine, as a database does; each server works through a session of its own, which can be cut off like a lost
//! connection.
//!
//! [`tables`] has the rows and reads them, [`flush`] brings events into them, [`upkeep`] prunes, counts and repairs.

mod flush;
mod tables;
mod upkeep;

use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use tokio::sync::watch;

use super::ManualClock;
use crate::base::clock::{Clock, Timestamp};
use crate::base::ids::{AttemptId, Epoch, OrderNo, RequestId, ShardId, SkuId, WarehouseId};
use crate::base::sync::unpoisoned;
use crate::contract::image::{OrderImage, StockImage};
use crate::contract::outcome::{OrderView, StockView};
use crate::contract::store::{
    Anomaly, Books, FlushBatch, Flushed, JournalRow, Loaded, OrderFilter, Ownership, Parked, Prune, Pruned,
    Repair, Repaired, RequestsWithoutRow, Snapshot, Store, StoreError, StoredHold, StoredOrder, Sums,
    SumsCursor, Take, Wanted, Watermark,
};
use tables::Tables;

/// What is kept, and a session on it. Clones are the same session.
#[derive(Clone)]
pub struct MemoryStore {
    tables: Arc<Mutex<Tables>>,
    clock: Arc<dyn Clock>,
    faults: Arc<Faults>,
}

/// Everything that a store had at a moment. See [`MemoryStore::snapshot`].
#[derive(Clone)]
pub struct MemorySnapshot(Tables);

/// The faults of a session, which has a number.
#[derive(Debug)]
struct Faults {
    session: u64,
    cut: AtomicBool,
    /// Calls that are turned away as busy.
    busy: AtomicU32,
    /// Writing calls that take effect and whose answer is lost.
    unknown: AtomicU32,
    /// Writing calls that take no effect and whose answer is lost.
    lost: AtomicU32,
    held: watch::Sender<bool>,
    flushes_held: watch::Sender<bool>,
    /// Calls that wait to be let go.
    waiting: AtomicU32,
    /// Calls of [`Store::load`], and SKUs, orders and requests that they asked for.
    loads: AtomicU64,
    wanted: AtomicU64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_clock(Arc::new(ManualClock::default()))
    }
}

impl MemoryStore {
    /// An empty store whose own time is that of a clock.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { tables: Arc::default(), clock, faults: Arc::new(Faults::new(0)) }
    }

    /// Another session on the same tables, without the faults of this one: that of another process.
    #[must_use]
    pub fn session(&self) -> Self {
        let mut tables = self.tables();
        tables.sessions += 1;
        let faults = Arc::new(Faults::new(tables.sessions));
        drop(tables);
        Self { tables: Arc::clone(&self.tables), clock: Arc::clone(&self.clock), faults }
    }

    /// The process of this session is gone: it no longer holds the store.
    pub fn die(&self) {
        self.cut();
        let mut tables = self.tables();
        if tables.holder == Some(self.faults.session) {
            tables.holder = None;
        }
    }

    /// From now on every call of this session is [`StoreError::Unavailable`].
    pub fn cut(&self) {
        self.faults.cut.store(true, Ordering::SeqCst);
    }

    /// Calls work again.
    pub fn mend(&self) {
        self.faults.cut.store(false, Ordering::SeqCst);
    }

    /// The next `calls` are [`StoreError::Busy`].
    pub fn be_busy(&self, calls: u32) {
        self.faults.busy.store(calls, Ordering::SeqCst);
    }

    /// The next `calls` that write take effect, and their answer is [`StoreError::OutcomeUnknown`].
    pub fn lose_answers(&self, calls: u32) {
        self.faults.unknown.store(calls, Ordering::SeqCst);
    }

    /// The next `calls` that write take no effect, and their answer is [`StoreError::OutcomeUnknown`].
    pub fn lose_writes(&self, calls: u32) {
        self.faults.lost.store(calls, Ordering::SeqCst);
    }

    /// Holds calls back from now on.
    pub fn hold(&self) {
        self.faults.held.send_replace(true);
    }

    /// Lets calls go on.
    pub fn let_calls_go(&self) {
        self.faults.held.send_replace(false);
    }

    /// Holds flushes back from now on; nothing else.
    pub fn hold_flushes(&self) {
        self.faults.flushes_held.send_replace(true);
    }

    /// Lets flushes go on.
    pub fn let_flushes_go(&self) {
        self.faults.flushes_held.send_replace(false);
    }

    /// Calls that are held back now.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.faults.waiting.load(Ordering::SeqCst)
    }

    /// Calls of [`Store::load`] in this session, and how many SKUs, orders and requests they asked for in all.
    #[must_use]
    pub fn loads(&self) -> (u64, u64) {
        (self.faults.loads.load(Ordering::SeqCst), self.faults.wanted.load(Ordering::SeqCst))
    }

    /// All that it has now.
    #[must_use]
    pub fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot(self.tables().clone())
    }

    /// Goes back in time, under the hands of those who use it.
    pub fn restore(&self, snapshot: &MemorySnapshot) {
        let mut tables = self.tables();
        let (holder, sessions) = (tables.holder, tables.sessions);
        *tables = Tables { holder, sessions, ..snapshot.0.clone() };
    }

    /// Writes another number into the rows of a SKU, as a careless operator would.
    pub fn spoil(&self, sku_id: &SkuId, available: u64) {
        let mut tables = self.tables();
        let rows = tables.stocks.values_mut().filter(|row| row.image.sku_id == *sku_id);
        rows.for_each(|row| row.image.levels.available = available);
    }

    /// Writes nonsense into the row of an order, so that it can't be loaded.
    pub fn spoil_order(&self, order_no: &OrderNo) {
        self.tables().unreadable.insert(order_no.clone());
    }

    /// Changes a stock row by hand.
    ///
    /// # Panics
    /// There is no such row.
    pub fn edit_stock(&self, sku_id: &SkuId, warehouse_id: WarehouseId, edit: impl FnOnce(&mut StockImage)) {
        let mut tables = self.tables();
        edit(&mut tables.stocks.get_mut(&(sku_id.clone(), warehouse_id)).expect("a row to be edited").image);
    }

    /// Whether the row of the server can't be read from now on.
    pub fn spoil_server(&self, spoiled: bool) {
        self.tables().server_unreadable = spoiled;
    }

    /// Deletes a stock row by hand.
    pub fn delete_stock(&self, sku_id: &SkuId, warehouse_id: WarehouseId) {
        self.tables().stocks.remove(&(sku_id.clone(), warehouse_id));
    }

    /// Changes an order by hand.
    ///
    /// # Panics
    /// There is no such order.
    pub fn edit_order(&self, order_no: &OrderNo, edit: impl FnOnce(&mut OrderImage)) {
        let mut tables = self.tables();
        edit(&mut tables.orders.get_mut(order_no).expect("an order to be edited").image);
    }

    /// Deletes an order by hand.
    pub fn delete_order(&self, order_no: &OrderNo) {
        self.tables().orders.remove(order_no);
    }

    /// Deletes the row of a stock request by hand.
    pub fn delete_request(&self, sku_id: &SkuId, request_id: &RequestId) {
        self.tables().requests.remove(&(sku_id.clone(), request_id.clone()));
    }

    /// Changes by hand how much each row of what is held for an order holds; `None`: deletes those rows.
    pub fn edit_holds(&self, order_no: &OrderNo, units: Option<u32>) {
        let holds = &mut self.tables().holds;
        let Some(units) = units else { return holds.retain(|(of, ..), _| of != order_no) };
        let of_order = holds.iter_mut().filter(|((of, ..), _)| of == order_no);
        of_order.flat_map(|(_, hold)| &mut hold.image.lines).for_each(|line| line.units = units);
    }

    /// Sets the epoch in the row of the server by hand.
    pub fn set_epoch(&self, epoch: Epoch) {
        self.tables().epoch = epoch;
    }

    /// The watermark of a shard.
    #[must_use]
    pub fn watermark(&self, shard: ShardId) -> Watermark {
        self.tables().watermarks.get(&shard).copied().unwrap_or_default()
    }

    /// Sets a watermark by hand.
    pub fn set_watermark(&self, mark: Watermark) {
        self.tables().watermarks.insert(mark.shard, mark);
    }

    /// Everything, as it would be written out: two stores with the same are alike.
    #[must_use]
    pub fn dump(&self) -> String {
        let tables = self.tables();
        let Tables { stocks, journal, orders, requests, watermarks, parked, .. } = &*tables;
        format!("{stocks:#?}{journal:#?}{orders:#?}{requests:#?}{watermarks:#?}{parked:#?}")
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        unpoisoned(self.tables.lock())
    }

    /// What every call meets first.
    async fn enter(&self) -> Result<(), StoreError> {
        self.pass(&self.faults.held).await;
        // A database is never as quick as this, and callers must not rely on it.
        tokio::task::yield_now().await;
        if self.faults.cut.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("a fault on demand".into()));
        }
        if take_one(&self.faults.busy) {
            return Err(StoreError::Busy("a fault on demand".into()));
        }
        Ok(())
    }

    async fn pass(&self, held: &watch::Sender<bool>) {
        if *held.borrow() {
            self.faults.waiting.fetch_add(1, Ordering::SeqCst);
            drop(held.subscribe().wait_for(|held| !held).await);
            self.faults.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    async fn read<T>(&self, read: impl FnOnce(&Tables) -> T + Send) -> Result<T, StoreError> {
        self.enter().await?;
        Ok(read(&self.tables()))
    }

    async fn write<T>(
        &self,
        write: impl FnOnce(&mut Tables) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError> {
        self.enter().await?;
        if take_one(&self.faults.lost) {
            return Err(StoreError::OutcomeUnknown("a fault on demand".into()));
        }
        let result = write(&mut self.tables());
        if take_one(&self.faults.unknown) {
            return Err(StoreError::OutcomeUnknown("a fault on demand".into()));
        }
        result
    }
}

fn take_one(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Faults {
    fn new(session: u64) -> Self {
        Self {
            session,
            cut: AtomicBool::new(false),
            busy: AtomicU32::new(0),
            unknown: AtomicU32::new(0),
            lost: AtomicU32::new(0),
            held: watch::Sender::new(false),
            flushes_held: watch::Sender::new(false),
            waiting: AtomicU32::new(0),
            loads: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn ownership(&self) -> Result<Ownership, StoreError> {
        let now = self.clock.now();
        self.read(|tables| tables.ownership(now)).await?
    }

    async fn take(&self, take: &Take) -> Result<(), StoreError> {
        let (session, now) = (self.faults.session, self.clock.now());
        self.write(|tables| tables.take(session, take, now)).await
    }

    async fn renew(&self, epoch: Epoch, lease_seconds: u32) -> Result<Timestamp, StoreError> {
        let (session, now) = (self.faults.session, self.clock.now());
        self.write(|tables| tables.renew(session, epoch, lease_seconds, now)).await
    }

    async fn let_go(&self, epoch: Epoch) -> Result<(), StoreError> {
        self.write(|tables| {
            tables.let_go(epoch);
            Ok(())
        })
        .await
    }

    async fn flush(&self, batch: FlushBatch<'_>) -> Result<Flushed, StoreError> {
        self.pass(&self.faults.flushes_held).await;
        self.write(|tables| tables.flush(&batch)).await
    }

    async fn load(&self, wanted: &Wanted) -> Result<Loaded, StoreError> {
        let count = wanted.skus.len() + wanted.orders.len() + wanted.requests.len();
        self.faults.loads.fetch_add(1, Ordering::SeqCst);
        self.faults.wanted.fetch_add(count as u64, Ordering::SeqCst);
        self.read(|tables| tables.load(wanted)).await
    }

    async fn stock(
        &self,
        sku_id: &SkuId,
        warehouse_id: Option<WarehouseId>,
    ) -> Result<Snapshot<Vec<StockView>>, StoreError> {
        self.read(|tables| tables.snapshot(tables.stock(sku_id, warehouse_id))).await
    }

    async fn stock_page(
        &self,
        after: Option<&SkuId>,
        limit: usize,
    ) -> Result<Snapshot<Vec<Vec<StockView>>>, StoreError> {
        self.read(|tables| {
            let skus = tables.skus_after(after, limit);
            tables.snapshot(skus.iter().map(|sku_id| tables.stock(sku_id, None)).collect())
        })
        .await
    }

    async fn list(
        &self,
        filter: &OrderFilter,
        after: Option<&OrderNo>,
        limit: usize,
    ) -> Result<Snapshot<Vec<OrderView>>, StoreError> {
        self.read(|tables| tables.snapshot(tables.list(filter, after, limit))).await
    }

    async fn stock_journal(
        &self,
        sku_id: &SkuId,
        after: &[(WarehouseId, u64)],
        limit: usize,
    ) -> Result<Snapshot<Vec<JournalRow>>, StoreError> {
        self.read(|tables| tables.snapshot(tables.stock_journal(sku_id, after, limit))).await
    }

    async fn order_numbers(
        &self,
        after: Option<&OrderNo>,
        max: usize,
    ) -> Result<Vec<(OrderNo, Timestamp)>, StoreError> {
        self.read(|tables| {
            let orders = tables.orders_after(after).take(max);
            orders.map(|(order_no, order)| (order_no.clone(), order.image.changed_at)).collect()
        })
        .await
    }

    async fn request_ids(
        &self,
        after: Option<&(SkuId, RequestId)>,
        max: usize,
    ) -> Result<Vec<(SkuId, RequestId, Timestamp)>, StoreError> {
        self.read(|tables| {
            let rest = tables.requests.iter().filter(|(key, _)| after.is_none_or(|after| *key > after));
            rest.take(max).map(|((sku_id, id), image)| (sku_id.clone(), id.clone(), image.at)).collect()
        })
        .await
    }

    async fn requests_without_row(
        &self,
        after: Option<&(SkuId, WarehouseId)>,
        stocks: usize,
    ) -> Result<RequestsWithoutRow, StoreError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.read(|tables| {
            let mut found = RequestsWithoutRow::default();
            for (place, _) in tables.stocks.range((from, Bound::Unbounded)).take(stocks) {
                found
                    .ids
                    .extend(tables.deleted_requests(place).map(|(id, row)| (place.0.clone(), id, row.at)));
                found.last = Some(place.clone());
            }
            found
        })
        .await
    }

    async fn open_orders(
        &self,
        after: Option<&OrderNo>,
        max: usize,
    ) -> Result<(Vec<StoredOrder>, Option<OrderNo>), StoreError> {
        self.read(|tables| {
            let open = tables.orders_after(after).filter(|(_, order)| !order.image.is_done());
            let open: Vec<StoredOrder> = open.take(max).map(|(_, order)| order.clone()).collect();
            let last = open.last().map(|order| order.image.order_no.clone());
            (open, last)
        })
        .await
    }

    async fn reserved_skus(
        &self,
        after: Option<&SkuId>,
        max: usize,
    ) -> Result<(Vec<SkuId>, Option<SkuId>), StoreError> {
        self.read(|tables| {
            let skus = tables.skus_after(after, usize::MAX).into_iter();
            let skus: Vec<SkuId> = skus.filter(|sku_id| tables.is_reserved(sku_id)).take(max).collect();
            let last = skus.last().cloned();
            (skus, last)
        })
        .await
    }

    async fn holds(
        &self,
        after: Option<&(OrderNo, AttemptId, ShardId)>,
        max: usize,
    ) -> Result<Vec<StoredHold>, StoreError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.read(|tables| {
            let holds = tables.holds.range((from, Bound::Unbounded)).map(|(_, hold)| hold);
            holds.filter(|hold| !hold.image.is_over()).take(max).cloned().collect()
        })
        .await
    }

    async fn hot_skus(&self, after: Option<&SkuId>, max: usize) -> Result<Vec<SkuId>, StoreError> {
        self.read(|tables| {
            let skus = tables.skus_after(after, usize::MAX);
            skus.into_iter().filter(|sku_id| tables.is_hot(sku_id)).take(max).collect()
        })
        .await
    }

    async fn prune(&self, prune: &Prune<'_>) -> Result<Pruned, StoreError> {
        self.write(|tables| tables.prune(prune)).await
    }

    async fn books(&self, after: Option<&SkuId>, limit: usize) -> Result<Snapshot<Books>, StoreError> {
        self.read(|tables| tables.snapshot(tables.books(after, limit))).await
    }

    async fn sums(
        &self,
        sku_id: &SkuId,
        warehouse_id: WarehouseId,
        cursor: &SumsCursor,
        lines: usize,
        journal: usize,
    ) -> Result<Snapshot<Sums>, StoreError> {
        self.read(|tables| tables.snapshot(tables.sums(sku_id, warehouse_id, cursor, lines, journal))).await
    }

    async fn repair(&self, repair: &Repair) -> Result<Vec<Repaired>, StoreError> {
        self.write(|tables| tables.repair(repair)).await
    }

    async fn parked(&self, max: usize) -> Result<(u64, Vec<Parked>), StoreError> {
        self.read(|tables| {
            let parked = tables.parked.values().take(max).cloned().collect();
            (tables.parked.len() as u64, parked)
        })
        .await
    }

    async fn anomalies(&self, max: usize) -> Result<(u64, Vec<Anomaly>), StoreError> {
        self.read(|tables| {
            let newest = tables.anomalies.iter().rev().take(max).cloned().collect();
            (tables.anomalies.len() as u64, newest)
        })
        .await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.read(|_| ()).await
    }

    async fn close(&self) {
        self.die();
    }
}
