//! The simulated outside of a server: a store that takes its time and sees nothing any more of a process that has
//! ended, and a clock that goes by simulated time, whose wall clock is set now and then.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hotstock_engine::clock::{Clock, ClockStatus, SteadyClock, Timestamp};
use hotstock_engine::ids::{AttemptId, Epoch, OrderNo, RequestId, ShardId, SkuId, WarehouseId};
use hotstock_engine::outcome::{OrderView, StockView};
use hotstock_engine::store::{
    Anomaly, Books, FlushBatch, Flushed, JournalRow, Loaded, OrderFilter, Ownership, Parked, Prune, Pruned,
    Repair, Repaired, RequestsWithoutRow, Snapshot, Store, StoreError, StoredHold, StoredOrder, Sums,
    SumsCursor, Take, Wanted,
};
use hotstock_engine::testing::MemoryStore;

/// When all begins.
const BEGIN: u64 = 1_600_000_000_000;

/// Whether a process lives. One that has ended does nothing any more, although its tasks are still there for a moment.
#[derive(Debug, Clone)]
pub struct Life(Arc<AtomicBool>);

impl Default for Life {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Life {
    pub fn end(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    pub fn is_over(&self) -> bool {
        !self.0.load(Ordering::SeqCst)
    }
}

/// The store as one process reaches it.
pub struct SlowStore {
    pub session: MemoryStore,
    pub life: Life,
    /// The longest that a call takes, in milliseconds.
    pub millis: Arc<AtomicU64>,
    pub random: Mutex<fastrand::Rng>,
}

impl SlowStore {
    async fn pause(&self) {
        let longest = self.millis.load(Ordering::SeqCst).saturating_mul(1_000);
        let micros = {
            let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
            if longest == 0 { random.u64(..300) } else { random.u64(..longest) }
        };
        tokio::time::sleep(Duration::from_micros(micros)).await;
        if self.life.is_over() {
            std::future::pending().await
        }
    }

    /// A call takes time before it does anything, and before its answer is there.
    async fn call<T>(&self, call: impl Future<Output = T>) -> T {
        self.pause().await;
        let result = call.await;
        self.pause().await;
        result
    }
}

#[async_trait]
impl Store for SlowStore {
    async fn ownership(&self) -> Result<Ownership, StoreError> {
        self.call(self.session.ownership()).await
    }

    async fn take(&self, take: &Take) -> Result<(), StoreError> {
        self.call(self.session.take(take)).await
    }

    async fn renew(&self, epoch: Epoch, lease_seconds: u32) -> Result<Timestamp, StoreError> {
        self.call(self.session.renew(epoch, lease_seconds)).await
    }

    async fn let_go(&self, epoch: Epoch) -> Result<(), StoreError> {
        self.call(self.session.let_go(epoch)).await
    }

    async fn flush(&self, batch: FlushBatch<'_>) -> Result<Flushed, StoreError> {
        self.call(self.session.flush(batch)).await
    }

    async fn load(&self, wanted: &Wanted) -> Result<Loaded, StoreError> {
        self.call(self.session.load(wanted)).await
    }

    async fn stock(
        &self,
        sku_id: &SkuId,
        warehouse_id: Option<WarehouseId>,
    ) -> Result<Snapshot<Vec<StockView>>, StoreError> {
        self.call(self.session.stock(sku_id, warehouse_id)).await
    }

    async fn stock_page(
        &self,
        after: Option<&SkuId>,
        limit: usize,
    ) -> Result<Snapshot<Vec<Vec<StockView>>>, StoreError> {
        self.call(self.session.stock_page(after, limit)).await
    }

    async fn list(
        &self,
        filter: &OrderFilter,
        after: Option<&OrderNo>,
        limit: usize,
    ) -> Result<Snapshot<Vec<OrderView>>, StoreError> {
        self.call(self.session.list(filter, after, limit)).await
    }

    async fn holds(
        &self,
        after: Option<&(OrderNo, AttemptId, ShardId)>,
        max: usize,
    ) -> Result<Vec<StoredHold>, StoreError> {
        self.call(self.session.holds(after, max)).await
    }

    async fn stock_journal(
        &self,
        sku_id: &SkuId,
        after: &[(WarehouseId, u64)],
        limit: usize,
    ) -> Result<Snapshot<Vec<JournalRow>>, StoreError> {
        self.call(self.session.stock_journal(sku_id, after, limit)).await
    }

    async fn order_numbers(
        &self,
        after: Option<&OrderNo>,
        max: usize,
    ) -> Result<Vec<(OrderNo, Timestamp)>, StoreError> {
        self.call(self.session.order_numbers(after, max)).await
    }

    async fn request_ids(
        &self,
        after: Option<&(SkuId, RequestId)>,
        max: usize,
    ) -> Result<Vec<(SkuId, RequestId, Timestamp)>, StoreError> {
        self.call(self.session.request_ids(after, max)).await
    }

    async fn requests_without_row(
        &self,
        after: Option<&(SkuId, WarehouseId)>,
        stocks: usize,
    ) -> Result<RequestsWithoutRow, StoreError> {
        self.call(self.session.requests_without_row(after, stocks)).await
    }

    async fn open_orders(
        &self,
        after: Option<&OrderNo>,
        max: usize,
    ) -> Result<(Vec<StoredOrder>, Option<OrderNo>), StoreError> {
        self.call(self.session.open_orders(after, max)).await
    }

    async fn reserved_skus(
        &self,
        after: Option<&SkuId>,
        max: usize,
    ) -> Result<(Vec<SkuId>, Option<SkuId>), StoreError> {
        self.call(self.session.reserved_skus(after, max)).await
    }

    async fn hot_skus(&self, after: Option<&SkuId>, max: usize) -> Result<Vec<SkuId>, StoreError> {
        self.call(self.session.hot_skus(after, max)).await
    }

    async fn prune(&self, prune: &Prune<'_>) -> Result<Pruned, StoreError> {
        self.call(self.session.prune(prune)).await
    }

    async fn books(&self, after: Option<&SkuId>, limit: usize) -> Result<Snapshot<Books>, StoreError> {
        self.call(self.session.books(after, limit)).await
    }

    async fn sums(
        &self,
        sku_id: &SkuId,
        warehouse_id: WarehouseId,
        cursor: &SumsCursor,
        lines: usize,
        journal: usize,
    ) -> Result<Snapshot<Sums>, StoreError> {
        self.call(self.session.sums(sku_id, warehouse_id, cursor, lines, journal)).await
    }

    async fn repair(&self, repair: &Repair) -> Result<Vec<Repaired>, StoreError> {
        self.call(self.session.repair(repair)).await
    }

    async fn parked(&self, max: usize) -> Result<(u64, Vec<Parked>), StoreError> {
        self.call(self.session.parked(max)).await
    }

    async fn anomalies(&self, max: usize) -> Result<(u64, Vec<Anomaly>), StoreError> {
        self.call(self.session.anomalies(max)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.call(self.session.ping()).await
    }

    async fn close(&self) {
        self.session.close().await;
    }
}

/// The server's clock: the shipped one, over a monotonic clock that stands still while callers are served, so that
/// the model knows when everything happened, and a wall clock that is set by hand.
#[derive(Clone)]
pub struct SimClock(Arc<Time>);

struct Time {
    steady: Mutex<SteadyClock>,
    /// Milliseconds from the begin.
    monotonic: AtomicU64,
    off: AtomicI64,
}

impl SimClock {
    /// At the begin.
    pub fn new() -> Self {
        let steady = Mutex::new(SteadyClock::new(Timestamp(BEGIN), Duration::ZERO));
        Self(Arc::new(Time { steady, monotonic: AtomicU64::new(0), off: AtomicI64::new(0) }))
    }

    /// What the time is, if no jump of the wall clock is followed.
    pub fn expected(&self) -> Timestamp {
        Timestamp(BEGIN + self.0.monotonic.load(Ordering::SeqCst))
    }

    pub fn millis(&self) -> u64 {
        self.0.monotonic.load(Ordering::SeqCst)
    }

    /// Goes on to so many milliseconds from the begin, and looks at the wall clock.
    pub fn go_on(&self, monotonic: u64) {
        self.0.monotonic.fetch_max(monotonic, Ordering::SeqCst);
        let wall = self.expected().0.saturating_add_signed(self.0.off.load(Ordering::SeqCst));
        self.steady(|steady, now| steady.look(Timestamp(wall), now));
    }

    /// Sets the wall clock.
    pub fn jump(&self, millis: i64) {
        self.0.off.store(millis, Ordering::SeqCst);
    }

    /// A process that starts believes the wall clock, which somebody has set right by then.
    pub fn start_anew(&self) {
        self.0.off.store(0, Ordering::SeqCst);
        let mut steady = self.0.steady.lock().unwrap_or_else(PoisonError::into_inner);
        *steady = SteadyClock::new(self.expected(), Duration::from_millis(self.millis()));
    }

    fn steady<T>(&self, ask: impl FnOnce(&SteadyClock, Duration) -> T) -> T {
        let steady = self.0.steady.lock().unwrap_or_else(PoisonError::into_inner);
        ask(&steady, Duration::from_millis(self.millis()))
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.steady(SteadyClock::at)
    }

    fn status(&self) -> ClockStatus {
        ClockStatus::default()
    }
}

/// The store's own clock, which never stands still: simulated time from the begin.
pub struct StoreClock {
    pub before: Arc<AtomicU64>,
    pub start: Mutex<Option<tokio::time::Instant>>,
}

impl StoreClock {
    /// Milliseconds from the begin.
    pub fn millis(&self) -> u64 {
        let start = *self.start.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = start.map_or(0, |start| u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX));
        self.before.load(Ordering::SeqCst) + gone
    }
}

impl Clock for StoreClock {
    fn now(&self) -> Timestamp {
        Timestamp(BEGIN + self.millis())
    }
}
