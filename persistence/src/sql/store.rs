//! The trait, method by method, each where it is carried out.

use async_trait::async_trait;

use hotstock_engine::checkpoint::{OrderImage, RequestImage};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::Command;
use hotstock_engine::ids::{Lsn, OrderNo, RequestId, ServerId, ShardId, SkuId, WarehouseId};
use hotstock_engine::outcome::OrderView;
use hotstock_engine::store::{
    Anomaly, ColdOutcome, Expired, FlushBatch, Flushed, Moving, Owner, Repaired, StockBooks, StockRow, Store,
    StoreError, StoredJournal, StoredOrder, Suspect, Taken,
};
use hotstock_engine::store::{OrderFilter, StoredHome};

use super::{SqlStore, books, cold, flush, history, list, pages, place, sweep};

#[async_trait]
impl Store for SqlStore {
    async fn submit(&self, command: &Command, now: Timestamp) -> Result<ColdOutcome, StoreError> {
        cold::submit(self, command, now).await
    }

    async fn submit_all(&self, commands: &[Command], now: Timestamp) -> Result<Vec<ColdOutcome>, StoreError> {
        cold::submit_all(self, commands, now).await
    }

    async fn expire(&self, now: Timestamp, max: usize, ask_first: bool) -> Result<Expired, StoreError> {
        self.run(&sweep::Sweep { now, max, ask_first, server: self.server }).await
    }

    async fn leave_to_home(&self, branches: &[OrderNo]) -> Result<(), StoreError> {
        self.run(&sweep::LeaveToHome { branches }).await
    }

    async fn home(&self, order_no: &OrderNo) -> Result<Option<StoredHome>, StoreError> {
        self.run(&list::Home { order_no }).await
    }

    async fn list(
        &self,
        filter: &OrderFilter,
        after: Option<&OrderNo>,
        limit: usize,
    ) -> Result<Vec<OrderView>, StoreError> {
        self.run(&list::List { filter, after, limit }).await
    }

    async fn stock(
        &self,
        sku_id: &SkuId,
        warehouse_id: Option<WarehouseId>,
    ) -> Result<Vec<StockRow>, StoreError> {
        self.run(&pages::Stock { sku_id, warehouse_id }).await
    }

    async fn stock_page(
        &self,
        after: Option<&SkuId>,
        limit: usize,
    ) -> Result<Vec<Vec<StockRow>>, StoreError> {
        self.run(&pages::StockPage { after, limit }).await
    }

    async fn order(&self, order_no: &OrderNo) -> Result<Option<StoredOrder>, StoreError> {
        self.run(&pages::Order { order_no }).await
    }

    async fn take(&self, skus: &[SkuId], server: ServerId, shard: ShardId) -> Result<Vec<Taken>, StoreError> {
        place::take(self, skus, server, shard).await
    }

    async fn orders_of(
        &self,
        moving: &Moving,
        after: Option<&OrderNo>,
        max: usize,
    ) -> Result<Vec<OrderImage>, StoreError> {
        self.run(&place::OrdersOf { moving, after, max }).await
    }

    async fn requests_of(
        &self,
        moving: &Moving,
        after: Option<&RequestId>,
        max: usize,
    ) -> Result<Vec<RequestImage>, StoreError> {
        self.run(&place::RequestsOf { moving, after, max }).await
    }

    async fn owned(
        &self,
        server: ServerId,
        after: Option<&SkuId>,
        max: usize,
    ) -> Result<Vec<(SkuId, Owner)>, StoreError> {
        self.run(&place::Owned { server, after, max }).await
    }

    async fn watermark(&self, server: ServerId, shard: ShardId) -> Result<Lsn, StoreError> {
        flush::watermark(self, server, shard).await
    }

    async fn flush(&self, batch: FlushBatch<'_>) -> Result<Flushed, StoreError> {
        flush::flush(self, batch).await
    }

    async fn stock_journal(
        &self,
        sku_id: &SkuId,
        after: &[(WarehouseId, u64)],
        limit: usize,
    ) -> Result<StoredJournal, StoreError> {
        history::stock_journal(self, sku_id, after, limit).await
    }

    async fn books(&self, after: Option<&SkuId>, limit: usize) -> Result<Vec<StockBooks>, StoreError> {
        books::books(self, after, limit).await
    }

    async fn suspects(
        &self,
        sku_id: &SkuId,
        warehouse_id: WarehouseId,
        max: usize,
    ) -> Result<Vec<Suspect>, StoreError> {
        books::suspects(self, sku_id, warehouse_id, max).await
    }

    async fn repair(
        &self,
        sku_id: &SkuId,
        warehouse_id: WarehouseId,
        now: Timestamp,
    ) -> Result<Option<Repaired>, StoreError> {
        books::repair(self, sku_id, warehouse_id, now).await
    }

    async fn anomalies(&self, max: usize) -> Result<(u64, Vec<Anomaly>), StoreError> {
        books::anomalies(self, max).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.run(&pages::Ping).await
    }

    async fn close(&self) {
        self.close_all().await;
    }
}
