//! The trait, method by method, each where it is carried out.

use async_trait::async_trait;

use hotstock_engine::clock::Timestamp;
use hotstock_engine::ids::{AttemptId, Epoch, OrderNo, RequestId, ShardId, SkuId, WarehouseId};
use hotstock_engine::outcome::{OrderView, StockView};
use hotstock_engine::store::{
    Anomaly, Books, FlushBatch, Flushed, JournalRow, Loaded, OrderFilter, Ownership, Parked, Prune, Pruned,
    Repair, Repaired, RequestsWithoutRow, Snapshot, Store, StoreError, StoredHold, StoredOrder, Sums,
    SumsCursor, Take, Wanted,
};

use super::{SqlStore, audit, flush, load, open, owner, prune, reads, strays};

#[async_trait]
impl Store for SqlStore {
    async fn ownership(&self) -> Result<Ownership, StoreError> {
        self.run(&owner::Owner).await
    }

    async fn take(&self, take: &Take) -> Result<(), StoreError> {
        owner::take(self, take).await
    }

    async fn renew(&self, epoch: Epoch, lease_seconds: u32) -> Result<Timestamp, StoreError> {
        owner::renew(self, epoch, lease_seconds).await
    }

    async fn let_go(&self, epoch: Epoch) -> Result<(), StoreError> {
        owner::let_go(self, epoch).await
    }

    async fn flush(&self, batch: FlushBatch<'_>) -> Result<Flushed, StoreError> {
        flush::flush(self, batch).await
    }

    async fn load(&self, wanted: &Wanted) -> Result<Loaded, StoreError> {
        load::load(self, wanted).await
    }

    async fn stock(
        &self,
        sku_id: &SkuId,
        warehouse_id: Option<WarehouseId>,
    ) -> Result<Snapshot<Vec<StockView>>, StoreError> {
        self.run(&reads::Stock { sku_id, warehouse_id }).await
    }

    async fn stock_page(
        &self,
        after: Option<&SkuId>,
        limit: usize,
    ) -> Result<Snapshot<Vec<Vec<StockView>>>, StoreError> {
        self.run(&reads::StockPage { after, limit }).await
    }

    async fn list(
        &self,
        filter: &OrderFilter,
        after: Option<&OrderNo>,
        limit: usize,
    ) -> Result<Snapshot<Vec<OrderView>>, StoreError> {
        self.run(&reads::List { filter, after, limit }).await
    }

    async fn stock_journal(
        &self,
        sku_id: &SkuId,
        after: &[(WarehouseId, u64)],
        limit: usize,
    ) -> Result<Snapshot<Vec<JournalRow>>, StoreError> {
        self.run(&reads::StockJournal { sku_id, after, limit }).await
    }

    async fn order_numbers(
        &self,
        after: Option<&OrderNo>,
        max: usize,
    ) -> Result<Vec<(OrderNo, Timestamp)>, StoreError> {
        self.run(&reads::OrderNumbers { after, max }).await
    }

    async fn request_ids(
        &self,
        after: Option<&(SkuId, RequestId)>,
        max: usize,
    ) -> Result<Vec<(SkuId, RequestId, Timestamp)>, StoreError> {
        self.run(&reads::RequestIds { after, max }).await
    }

    async fn requests_without_row(
        &self,
        after: Option<&(SkuId, WarehouseId)>,
        stocks: usize,
    ) -> Result<RequestsWithoutRow, StoreError> {
        self.run(&strays::DeletedRequests { after, stocks }).await
    }

    async fn open_orders(
        &self,
        after: Option<&OrderNo>,
        max: usize,
    ) -> Result<(Vec<StoredOrder>, Option<OrderNo>), StoreError> {
        self.run(&open::OpenOrders { after, max }).await
    }

    async fn reserved_skus(
        &self,
        after: Option<&SkuId>,
        max: usize,
    ) -> Result<(Vec<SkuId>, Option<SkuId>), StoreError> {
        self.run(&open::ReservedSkus { after, max }).await
    }

    async fn holds(
        &self,
        after: Option<&(OrderNo, AttemptId, ShardId)>,
        max: usize,
    ) -> Result<Vec<StoredHold>, StoreError> {
        self.run(&reads::Holds { after, max }).await
    }

    async fn hot_skus(&self, after: Option<&SkuId>, max: usize) -> Result<Vec<SkuId>, StoreError> {
        self.run(&reads::HotSkus { after, max }).await
    }

    async fn prune(&self, prune: &Prune<'_>) -> Result<Pruned, StoreError> {
        prune::prune(self, prune).await
    }

    async fn books(&self, after: Option<&SkuId>, limit: usize) -> Result<Snapshot<Books>, StoreError> {
        self.run(&audit::BooksOf { after, limit }).await
    }

    async fn sums(
        &self,
        sku_id: &SkuId,
        warehouse_id: WarehouseId,
        cursor: &SumsCursor,
        lines: usize,
        journal: usize,
    ) -> Result<Snapshot<Sums>, StoreError> {
        self.run(&audit::SumsOf { sku_id, warehouse_id, cursor, lines, journal }).await
    }

    async fn repair(&self, repair: &Repair) -> Result<Vec<Repaired>, StoreError> {
        self.run(repair).await
    }

    async fn parked(&self, max: usize) -> Result<(u64, Vec<Parked>), StoreError> {
        self.run(&audit::ParkedSkus { max }).await
    }

    async fn anomalies(&self, max: usize) -> Result<(u64, Vec<Anomaly>), StoreError> {
        self.run(&audit::Anomalies { max }).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.run(&reads::Ping).await
    }

    async fn close(&self) {
        self.close_all().await;
    }
}
