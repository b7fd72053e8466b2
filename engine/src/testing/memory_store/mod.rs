//! The store in memory: the contract of [`Store`] without a database, with faults on demand. What it keeps outlives an engine, as a
//! database does; each engine works through a session of its own, which can be cut off like a lost connection.

mod books;
mod cold;
mod flush;
mod place;
mod tables;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::checkpoint::{OrderImage, RequestImage};
use crate::clock::Timestamp;
use crate::command::Command;
use crate::ids::{Lsn, OrderNo, RequestId, ServerId, ShardId, SkuId, WarehouseId};
use crate::outcome::OrderView;
use crate::store::{
    Anomaly, ColdOutcome, Expired, FlushBatch, Flushed, Moving, OrderFilter, Owner, Repaired, StockBooks,
    StockRow, Store, StoreError, StoredHome, StoredJournal, StoredOrder, Taken,
};
use crate::sync::unpoisoned;
use tables::{Me, Tables};

/// What is kept, and a session on it, of server 1 with one shard where nothing else is said. Clones are the same session.
#[derive(Clone)]
pub struct MemoryStore {
    tables: Arc<Mutex<Tables>>,
    faults: Arc<Faults>,
    me: Me,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { tables: Arc::default(), faults: Arc::default(), me: Me { server: ServerId(1), shards: 1 } }
    }
}

/// The faults of a session.
#[derive(Debug)]
struct Faults {
    cut: AtomicBool,
    /// Calls that take effect and whose answer is lost.
    unknown: AtomicU32,
    held: watch::Sender<bool>,
    flushes_held: watch::Sender<bool>,
    /// Calls that wait to be let go.
    waiting: AtomicU32,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            cut: AtomicBool::new(false),
            unknown: AtomicU32::new(0),
            held: watch::Sender::new(false),
            flushes_held: watch::Sender::new(false),
            waiting: AtomicU32::new(0),
        }
    }
}

impl MemoryStore {
    /// Another session of the same server on the same tables, without the faults of this one.
    #[must_use]
    pub fn session(&self) -> Self {
        self.session_of(self.me.server, self.me.shards)
    }

    /// A session of a server with so many shards.
    #[must_use]
    pub fn session_of(&self, server: ServerId, shards: u16) -> Self {
        Self { tables: Arc::clone(&self.tables), faults: Arc::default(), me: Me { server, shards } }
    }

    /// From now on every call is [`StoreError::Unavailable`].
    pub fn cut(&self) {
        self.faults.cut.store(true, Ordering::SeqCst);
    }

    /// Calls work again.
    pub fn mend(&self) {
        self.faults.cut.store(false, Ordering::SeqCst);
    }

    /// The next `calls` that write take effect, and their answer is [`StoreError::OutcomeUnknown`].
    pub fn lose_answers(&self, calls: u32) {
        self.faults.unknown.store(calls, Ordering::SeqCst);
    }

    /// Holds calls back from now on.
    pub fn hold(&self) {
        self.faults.held.send_replace(true);
    }

    /// Lets calls go on.
    pub fn let_go(&self) {
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

    /// Gives SKUs another owner behind the back of the one that they have, as a careless operator would.
    pub fn steal(&self, sku_id: &SkuId, owner: Option<Owner>) {
        self.tables().set_owner(sku_id, owner);
    }

    /// Writes another number into the rows of a SKU, as a careless operator would.
    pub fn spoil(&self, sku_id: &SkuId, available: u64) {
        self.tables().set_available(sku_id, available);
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
        let result = write(&mut self.tables());
        let one_less = |calls: u32| calls.checked_sub(1);
        let lost = self.faults.unknown.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok();
        if lost {
            return Err(StoreError::OutcomeUnknown("a fault on demand".into()));
        }
        result
    }
}

impl MemoryStore {
    /// As the contract says of commands: tried again once when the outcome is unknown.
    async fn write_twice<T>(
        &self,
        write: impl Fn(&mut Tables) -> Result<T, StoreError> + Send + Sync,
    ) -> Result<T, StoreError> {
        match self.write(&write).await {
            Err(StoreError::OutcomeUnknown(_)) => self.write(&write).await,
            answer => answer,
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn submit(&self, command: &Command, now: Timestamp) -> Result<ColdOutcome, StoreError> {
        self.write_twice(|tables| tables.submit(self.me, command, now)).await
    }

    async fn submit_all(&self, commands: &[Command], now: Timestamp) -> Result<Vec<ColdOutcome>, StoreError> {
        let all = |tables: &mut Tables| {
            commands.iter().map(|command| tables.submit(self.me, command, now)).collect()
        };
        self.write_twice(all).await
    }

    async fn expire(&self, now: Timestamp, max: usize, ask_first: bool) -> Result<Expired, StoreError> {
        self.write(|tables| tables.expire(self.me, now, max, ask_first)).await
    }

    async fn leave_to_home(&self, branches: &[OrderNo]) -> Result<(), StoreError> {
        self.write(|tables| {
            tables.leave_to_home(branches);
            Ok(())
        })
        .await
    }

    async fn home(&self, order_no: &OrderNo) -> Result<Option<StoredHome>, StoreError> {
        self.read(|tables| tables.home(order_no)).await
    }

    async fn list(
        &self,
        filter: &OrderFilter,
        after: Option<&OrderNo>,
        limit: usize,
    ) -> Result<Vec<OrderView>, StoreError> {
        self.read(|tables| tables.list(filter, after, limit)).await
    }

    async fn stock(
        &self,
        sku_id: &SkuId,
        warehouse_id: Option<WarehouseId>,
    ) -> Result<Vec<StockRow>, StoreError> {
        self.read(|tables| tables.stock(sku_id, warehouse_id)).await
    }

    async fn stock_page(
        &self,
        after: Option<&SkuId>,
        limit: usize,
    ) -> Result<Vec<Vec<StockRow>>, StoreError> {
        self.read(|tables| tables.stock_page(after, limit)).await
    }

    async fn order(&self, order_no: &OrderNo) -> Result<Option<StoredOrder>, StoreError> {
        self.read(|tables| tables.order(order_no)).await
    }

    async fn take(&self, skus: &[SkuId], server: ServerId, shard: ShardId) -> Result<Vec<Taken>, StoreError> {
        self.write(|tables| Ok(tables.take(self.me, skus, server, shard))).await
    }

    async fn orders_of(
        &self,
        moving: &Moving,
        after: Option<&OrderNo>,
        max: usize,
    ) -> Result<Vec<OrderImage>, StoreError> {
        self.read(|tables| tables.orders_of(moving, after, max)).await
    }

    async fn requests_of(
        &self,
        moving: &Moving,
        after: Option<&RequestId>,
        max: usize,
    ) -> Result<Vec<RequestImage>, StoreError> {
        self.read(|tables| tables.requests_of(moving, after, max)).await
    }

    async fn owned(
        &self,
        server: ServerId,
        after: Option<&SkuId>,
        max: usize,
    ) -> Result<Vec<(SkuId, Owner)>, StoreError> {
        self.read(|tables| tables.owned(server, after, max)).await
    }

    async fn watermark(&self, server: ServerId, shard: ShardId) -> Result<Lsn, StoreError> {
        self.read(|tables| tables.watermark(server, shard)).await
    }

    async fn flush(&self, batch: FlushBatch<'_>) -> Result<Flushed, StoreError> {
        self.pass(&self.faults.flushes_held).await;
        self.write(|tables| tables.flush(self.me, batch)).await
    }

    async fn stock_journal(
        &self,
        sku_id: &SkuId,
        after: &[(WarehouseId, u64)],
        limit: usize,
    ) -> Result<StoredJournal, StoreError> {
        self.read(|tables| tables.stock_journal(sku_id, after, limit)).await
    }

    async fn books(&self, after: Option<&SkuId>, limit: usize) -> Result<Vec<StockBooks>, StoreError> {
        self.read(|tables| tables.books(after, limit)).await
    }

    async fn repair(
        &self,
        sku_id: &SkuId,
        warehouse_id: WarehouseId,
        now: Timestamp,
    ) -> Result<Option<Repaired>, StoreError> {
        self.write(|tables| Ok(tables.repair(sku_id, warehouse_id, now))).await
    }

    async fn anomalies(&self, max: usize) -> Result<(u64, Vec<Anomaly>), StoreError> {
        self.read(|tables| tables.anomalies(max)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.enter().await
    }

    async fn close(&self) {
        self.cut();
    }
}
