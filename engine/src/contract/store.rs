//! What the engine asks of the SQL store, the system of record. `hotstock-persistence` implements it on SQLite and on
//! MySQL; all implementations pass one suite.
//!
//! ```text
//!   shard ── events ──▶ journal ──▶ flusher ── flush ──▶ │ stock, orders, lines, requests, │
//!   shard ◀─ Loaded ── loader ◀── load ───────────────── │ stock journal, watermarks,      │
//!   readers, lists ◀── stock, list, stock_journal ────── │ server (epoch, lease)           │
//! ```
//!
//! The contract:
//!
//! - **It never decides.** Rows follow from events; what is in memory of a shard is newer than its rows, never older.
//! - **Exactly once.** [`Store::flush`] moves the watermarks in the transaction that writes the rows. Repeating it,
//!   whatever died when, has no second effect. Every value that it writes is absolute: nothing is read back.
//! - **One beginning.** What is flushed together is there together or not at all. So a store that is fed in the order
//!   of the one journal always has a beginning of it, over all shards.
//! - **One writer.** Everything that writes names the epoch of its server, and is refused with [`StoreError::Fenced`]
//!   when another one is the newest. The check and the write are one transaction.
//! - **Snapshots.** What is read to be decided on comes with the watermarks of the same moment, so that the engine
//!   can tell a store that went back in time, or that has not taken in yet what it is asked for.
//! - **Of one moment.** A store that is restored or emptied in part (one table of another time than the others) is
//!   [`StoreError::Torn`]: nothing is read of it, and nothing written to it, until its tables agree again.
//! - **Durable.** What was flushed survives power loss of the store.
//! - **Gapless.** Every version of every stock has one row in the stock journal, until it is pruned.
//! - **Sound.** A stock row that is not what the newest row of its journal says, whose sum is not what was supplied,
//!   or that is parked, is never loaded: it is named as unsound.

mod audit;

pub use audit::{
    Anomaly, Books, Misfit, Parked, PrunedSums, Repair, Repaired, StockBooks, Sums, SumsCursor, Units,
};

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use crate::base::clock::Timestamp;
use crate::base::ids::{
    AttemptId, ChainHash, Epoch, Lsn, OrderNo, RequestId, ServerId, ShardId, SkuId, TakeId, TraceId,
    WarehouseId,
};
use crate::contract::event::Event;
use crate::contract::image::{HoldImage, OrderImage, RequestImage, StockImage};
use crate::contract::moves::StockMove;
use crate::contract::order::OrderStatus;
use crate::contract::outcome::{OrderView, StockView};

/// The SQL store. Methods may be called from many tasks at once; a dropped future leaves nothing half done.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Who may write, and how far each shard is flushed. Reads only.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn ownership(&self) -> Result<Ownership, StoreError>;

    /// Takes the store for a server: `take.epoch` is the newest from here on. In one transaction: the epoch must
    /// still be `take.after`, and no other process may hold the store (a lock that dies with its connection or
    /// process) unless `take.over` says that it is taken from it. The same take again is answered the same.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the epoch is another, [`StoreError::OwnerAlive`]; the others as usual.
    async fn take(&self, take: &Take) -> Result<(), StoreError>;

    /// Renews the lease of the server that has this epoch, gets back the lock that dies with its connection when that
    /// was lost, and answers the store's time. Also the heartbeat of a server without a lease.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when a newer epoch was taken; [`StoreError::Foreign`] when what is there now is not what
    /// was opened; the others as usual.
    async fn renew(&self, epoch: Epoch, lease_seconds: u32) -> Result<Timestamp, StoreError>;

    /// Lets go of the store in an orderly stop: its lease ends now.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn let_go(&self, epoch: Epoch) -> Result<(), StoreError>;

    /// Takes in events of shards, in one transaction with their watermarks. Each of `batch.parts` must find its own at
    /// `after`: otherwise nothing is written and the answer tells where they are. A stock row that is not what the
    /// first event finds (somebody changed it by hand, or it is there and should not be) parks its SKU: an anomaly is
    /// recorded, its stock rows are left alone from then on, everything else is written. So is a SKU whose row does not
    /// fit. Statements are bounded in rows and bytes, and halved when the server refuses their size.
    ///
    /// # Errors
    /// [`StoreError::Fenced`]; the others as usual. After an unknown outcome it can be repeated.
    async fn flush(&self, batch: FlushBatch<'_>) -> Result<Flushed, StoreError>;

    /// What is wanted of stored SKUs, orders and requests, in one snapshot. Of an order its SKUs are loaded with it, of
    /// a request its SKU. A SKU that has a journal and no row is unsound.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn load(&self, wanted: &Wanted) -> Result<Loaded, StoreError>;

    /// The stocks of a SKU, by warehouse, as they were flushed.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn stock(
        &self,
        sku_id: &SkuId,
        warehouse_id: Option<WarehouseId>,
    ) -> Result<Snapshot<Vec<StockView>>, StoreError>;

    /// Up to `limit` SKUs after `after`, by name (as bytes), each with all its stocks by warehouse. One that can't be
    /// read is left out.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn stock_page(
        &self,
        after: Option<&SkuId>,
        limit: usize,
    ) -> Result<Snapshot<Vec<Vec<StockView>>>, StoreError>;

    /// Up to `limit` orders by number (as bytes) after `after`, as they were flushed. One that can't be read
    /// is left out.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list(
        &self,
        filter: &OrderFilter,
        after: Option<&OrderNo>,
        limit: usize,
    ) -> Result<Snapshot<Vec<OrderView>>, StoreError>;

    /// The stock journal of a SKU: for each warehouse the rows with a version above the one in `after` (0 where it is
    /// not named), up to `limit` each, with the watermarks of the same moment.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn stock_journal(
        &self,
        sku_id: &SkuId,
        after: &[(WarehouseId, u64)],
        limit: usize,
    ) -> Result<Snapshot<Vec<JournalRow>>, StoreError>;

    /// Numbers of all orders, with their last change, up to `max` after `after`, by number; none only when
    /// there are none. To rebuild what is known. What is no number at all (no caller can give it, so nobody asks for
    /// it) is left out, and told in the log.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn order_numbers(
        &self,
        after: Option<&OrderNo>,
        max: usize,
    ) -> Result<Vec<(OrderNo, Timestamp)>, StoreError>;

    /// Likewise the ids of all stock requests that have a row.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn request_ids(
        &self,
        after: Option<&(SkuId, RequestId)>,
        max: usize,
    ) -> Result<Vec<(SkuId, RequestId, Timestamp)>, StoreError>;

    /// Stock requests whose own rows somebody deleted, as the newest rows of the journals of up to `stocks` stocks
    /// after `after` tell (by SKU and warehouse): those that name one which has no row and was not pruned. With the
    /// last stock that was looked at; `None`: there are no more. Likewise for what is known: no request is carried out
    /// once more.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn requests_without_row(
        &self,
        after: Option<&(SkuId, WarehouseId)>,
        stocks: usize,
    ) -> Result<RequestsWithoutRow, StoreError>;

    /// Orders that hold units or have something pending, after `after`, by number: what a new data directory begins
    /// with. Up to `max` of them, perhaps none, and the number after which to go on; `None`: those are the last. An
    /// order that any row of it makes open and that can't be told whole is an error which names it.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn open_orders(
        &self,
        after: Option<&OrderNo>,
        max: usize,
    ) -> Result<(Vec<StoredOrder>, Option<OrderNo>), StoreError>;

    /// Holds of participants, up to `max` after `after`, by order, attempt and shard: likewise.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn holds(
        &self,
        after: Option<&(OrderNo, AttemptId, ShardId)>,
        max: usize,
    ) -> Result<Vec<StoredHold>, StoreError>;

    /// SKUs with reserved units, after `after`, by name: likewise up to `max`, and after which to go on.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn reserved_skus(
        &self,
        after: Option<&SkuId>,
        max: usize,
    ) -> Result<(Vec<SkuId>, Option<SkuId>), StoreError>;

    /// SKUs that are kept in memory, up to `max` after `after`, by name.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn hot_skus(&self, after: Option<&SkuId>, max: usize) -> Result<Vec<SkuId>, StoreError>;

    /// Deletes a small batch of what is older than it is kept. Units sold by orders that go, and deltas of journal
    /// rows that go, stay as sums in their stock rows, in the same transaction. The newest journal row of a stock
    /// never goes, nor does an order that holds units. Nothing does while the store is behind [`Prune::flushed`].
    ///
    /// # Errors
    /// [`StoreError::Fenced`]; the others as usual.
    async fn prune(&self, prune: &Prune<'_>) -> Result<Pruned, StoreError>;

    /// Up to `limit` SKUs after `after`, by name, that have a row of a stock or a journal: their rows, with everything
    /// that can be compared with them cheaply.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn books(&self, after: Option<&SkuId>, limit: usize) -> Result<Snapshot<Books>, StoreError>;

    /// The lines of a stock's orders (of those that another shard decides, what is held for them), and its journal,
    /// piece by piece: up to `lines` and `journal` rows after the cursor (0: none are read), by number (as bytes) and
    /// by version, so that one can be counted against the other. What of it names something that is not there is told
    /// as well ([`Sums::misfits`]).
    ///
    /// # Errors
    /// [`StoreError`].
    async fn sums(
        &self,
        sku_id: &SkuId,
        warehouse_id: WarehouseId,
        cursor: &SumsCursor,
        lines: usize,
        journal: usize,
    ) -> Result<Snapshot<Sums>, StoreError>;

    /// Writes the stock rows of a SKU, every column, as [`Repair::stocks`] has them, or (`None`) as its journal says:
    /// levels, version and supplied by its newest row, status by the last row that changed it, serial numbers by
    /// their sum, what is not in the journal any more as it is. Ends its parking, and records an anomaly of the kind
    /// `repaired`. What was there and what is, of the rows that were written.
    ///
    /// A stock of `stocks` whose version is not that of its newest journal row: the store has gone on since. Then
    /// nothing is written and the answer is empty; it can be asked again with what is true by then. Rows of other
    /// warehouses are left as they are.
    ///
    /// # Errors
    /// [`StoreError::Fenced`]; the others as usual.
    async fn repair(&self, repair: &Repair) -> Result<Vec<Repaired>, StoreError>;

    /// SKUs whose stock rows are left alone, with the reason, up to `max`, and how many there are.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn parked(&self, max: usize) -> Result<(u64, Vec<Parked>), StoreError>;

    /// The newest anomalies, at most `max`, and how many there are.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn anomalies(&self, max: usize) -> Result<(u64, Vec<Anomaly>), StoreError>;

    /// Whether the store answers.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn ping(&self) -> Result<(), StoreError>;

    /// Closes connections; later calls are [`StoreError::Unavailable`].
    async fn close(&self);
}

/// How far a shard is flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watermark {
    /// Which shard.
    pub shard: ShardId,
    /// Its last event that the store has taken in.
    pub lsn: Lsn,
    /// The chain hash after it.
    pub hash: ChainHash,
    /// The epoch of the server that flushed it.
    pub epoch: Epoch,
}

/// Something read, and how far the shards were flushed at that moment (those that were flushed at all, by shard).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot<T> {
    /// How far.
    pub watermarks: Vec<Watermark>,
    /// What.
    pub rows: T,
}

impl<T> Snapshot<T> {
    /// How far a shard was flushed; [`Lsn::ZERO`] when it never was.
    #[must_use]
    pub fn flushed(&self, shard: ShardId) -> Lsn {
        self.watermarks.iter().find(|mark| mark.shard == shard).map_or(Lsn::ZERO, |mark| mark.lsn)
    }
}

/// See [`Store::ownership`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ownership {
    /// The newest epoch; [`Epoch::ZERO`] for a store that was never used.
    pub epoch: Epoch,
    /// Who took it.
    pub server: Option<ServerId>,
    /// Which take that was.
    pub take: Option<TakeId>,
    /// The number of shards of its data directory.
    pub shards: u16,
    /// Until when its lease runs, by the store's clock; `None`: it has none, or it has ended in order.
    pub lease_until: Option<Timestamp>,
    /// The time by the store's clock.
    pub now: Timestamp,
    /// How far each shard is flushed, by shard.
    pub watermarks: Vec<Watermark>,
}

/// See [`Store::take`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Take {
    /// Which.
    pub id: TakeId,
    /// Who.
    pub server: ServerId,
    /// The shards of its data directory.
    pub shards: u16,
    /// The newest epoch so far.
    pub after: Epoch,
    /// The one that it takes: above `after`.
    pub epoch: Epoch,
    /// For how long without a renewal; 0: no lease.
    pub lease_seconds: u32,
    /// Also from a server that still holds the store.
    pub over: bool,
    /// The watermarks that its journal was compared with: a store that has others by now, because the owner so far
    /// flushed meanwhile, is not taken. `None`: whoever takes it looks at them afterwards.
    pub judged: Option<Vec<Watermark>>,
}

impl Take {
    /// Checks that the owner so far has not flushed since the watermarks were judged. From the take on nobody else
    /// flushes.
    ///
    /// # Errors
    /// [`StoreError::Busy`].
    pub fn is_still_judged(&self, now: &[Watermark]) -> Result<(), StoreError> {
        match &self.judged {
            Some(judged) if judged != now => {
                Err(StoreError::Busy("its owner wrote to it while it was looked at".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

/// Events on their way to the store.
#[derive(Debug, Clone)]
pub struct FlushBatch<'a> {
    /// The epoch of the server.
    pub epoch: Epoch,
    /// By shard, each once; those without an event are compared alone. At least one has events.
    pub parts: Vec<FlushPart<'a>>,
}

/// What is flushed of a shard.
#[derive(Debug, Clone, Copy)]
pub struct FlushPart<'a> {
    /// Of which.
    pub shard: ShardId,
    /// Where the watermark is believed to be.
    pub after: Lsn,
    /// The chain hash after the last event; of no matter where there is none.
    pub hash: ChainHash,
    /// The events after it, without gap.
    pub events: &'a [(Lsn, Event)],
}

impl FlushBatch<'_> {
    /// Checks what every store asks of a batch.
    ///
    /// # Errors
    /// [`StoreError::Inconsistent`].
    pub fn check(&self) -> Result<(), StoreError> {
        let mut shards = BTreeSet::new();
        for FlushPart { shard, after, events, .. } in &self.parts {
            let gapless = events.iter().zip(1..).all(|((lsn, _), n)| *lsn == after.plus(n));
            if !gapless || !shards.insert(*shard) {
                let problem = format!("a batch after {after} of shard {shard} that has a gap or comes twice");
                return Err(StoreError::Inconsistent(problem));
            }
        }
        match self.parts.iter().all(|part| part.events.is_empty()) {
            true => Err(StoreError::Inconsistent("a batch without an event".to_owned())),
            false => Ok(()),
        }
    }
}

/// See [`Store::flush`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Flushed {
    /// Where the watermarks of the batch's shards are now, in its order.
    pub watermarks: Vec<Watermark>,
    /// Rows written, of all tables.
    pub rows: u64,
    /// Anomalies found and recorded.
    pub anomalies: u64,
    /// SKUs that were parked by it.
    pub parked: Vec<SkuId>,
}

impl Flushed {
    /// Where the watermark of a shard is now; [`Lsn::ZERO`] of one that the batch did not name.
    #[must_use]
    pub fn flushed(&self, shard: ShardId) -> Lsn {
        self.watermarks.iter().find(|mark| mark.shard == shard).map_or(Lsn::ZERO, |mark| mark.lsn)
    }
}

/// See [`Store::load`]. Each list at most [`MAX_LOADED_AT_ONCE`](crate::base::limits::MAX_LOADED_AT_ONCE).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wanted {
    /// SKUs, each with all its warehouses.
    pub skus: Vec<SkuId>,
    /// Orders.
    pub orders: Vec<OrderNo>,
    /// Stock requests.
    pub requests: Vec<(SkuId, RequestId)>,
}

/// What was found; what was wanted and is not in it is not in the store.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Loaded {
    /// How far the shards were flushed.
    pub watermarks: Vec<Watermark>,
    /// SKUs, also those of the orders found.
    pub skus: BTreeMap<SkuId, StoredSku>,
    /// Orders.
    pub orders: Vec<StoredOrder>,
    /// Stock requests.
    pub requests: Vec<RequestImage>,
    /// Orders that are there and can't be read, or whose own row somebody deleted while others tell of it, and why.
    /// They are not absent: their numbers are taken.
    pub unreadable_orders: Vec<(OrderNo, String)>,
    /// Likewise stock requests.
    pub unreadable_requests: Vec<(SkuId, RequestId, String)>,
}

/// See [`Store::requests_without_row`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestsWithoutRow {
    /// What the journal says of each, and when it was. One may be named more than once.
    pub ids: Vec<(SkuId, RequestId, Timestamp)>,
    /// The last stock that was looked at.
    pub last: Option<(SkuId, WarehouseId)>,
}

/// A SKU in the store.
#[derive(Debug, Clone, PartialEq)]
pub enum StoredSku {
    /// Its stocks, by warehouse; `forgotten_sold` is `sold`, `lsn` that of its last flush.
    Sound(Vec<StockImage>),
    /// What is wrong with its rows, in words. It can't be loaded.
    Unsound(String),
}

/// An order in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredOrder {
    /// The shard that decides for it.
    pub shard: ShardId,
    /// What it is.
    pub image: OrderImage,
}

/// A hold in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredHold {
    /// The participant.
    pub shard: ShardId,
    /// What it is.
    pub image: HoldImage,
}

/// Which orders are listed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OrderFilter {
    /// In one of these states; empty: in any.
    pub status: Vec<OrderStatus>,
    /// With a line of this SKU.
    pub sku_id: Option<SkuId>,
}

impl OrderFilter {
    /// Whether an order is listed.
    #[must_use]
    pub fn takes(&self, order: &OrderView) -> bool {
        let is_status = self.status.is_empty() || self.status.contains(&order.status);
        is_status
            && self.sku_id.as_ref().is_none_or(|sku_id| order.lines.iter().any(|line| line.sku_id == *sku_id))
    }
}

/// A change of one stock, as the stock journal keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalRow {
    /// What moved; `change.after.version` numbers the rows of a stock.
    pub change: StockMove,
    /// The logged time.
    pub at: Timestamp,
    /// Trace of the caller.
    pub trace: Option<TraceId>,
    /// Where it was logged.
    pub source: (ShardId, Lsn),
}

/// See [`Store::prune`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prune<'a> {
    /// The epoch of the server.
    pub epoch: Epoch,
    /// By shard: while the store has not taken in these events (it went back in time), nothing goes. What it says of an
    /// order may be older than the order.
    pub flushed: &'a [Lsn],
    /// Ended orders, their lines and requests, and stock requests, that last changed before this; `None`: none.
    pub orders_before: Option<Timestamp>,
    /// Rows of the stock journal before this; `None`: none.
    pub journal_before: Option<Timestamp>,
    /// Of each at most so many.
    pub max: usize,
}

impl Prune<'_> {
    /// Whether a store with these watermarks has not taken in what it must have for this.
    #[must_use]
    pub fn is_ahead_of(&self, watermarks: &[Watermark]) -> bool {
        let has =
            |shard: usize| watermarks.iter().find(|mark| mark.shard.index() == shard).map(|mark| mark.lsn);
        self.flushed.iter().enumerate().any(|(shard, lsn)| has(shard).unwrap_or_default() < *lsn)
    }
}

/// See [`Store::prune`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Orders that went.
    pub orders: u64,
    /// Stock requests that went.
    pub requests: u64,
    /// Rows of the stock journal that went.
    pub journal: u64,
}

/// The store could not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It can't be reached, or it is closed. Nothing happened.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// Its tables are not of one moment: it is being restored, or was restored or emptied in part. Nothing happened,
    /// and nothing does until they agree again.
    #[error("the store's tables are not of one moment: {0}")]
    Torn(String),
    /// It was lost while it committed: whether this took effect is unknown.
    #[error("the store was lost while it committed: {0}")]
    OutcomeUnknown(String),
    /// Too much contention: the retries are used up. Nothing happened.
    #[error("the store is busy: {0}")]
    Busy(String),
    /// The store names another epoch as its newest: another server took it, or it went back in time.
    #[error("the store was taken over by another server: its epoch is {newest}, ours {ours}")]
    Fenced {
        /// The epoch of whoever was refused.
        ours: Epoch,
        /// The newest.
        newest: Epoch,
        /// The take that the store says it is of.
        take: Option<TakeId>,
    },
    /// Another process holds the store.
    #[error("another server is using this store")]
    OwnerAlive,
    /// It belongs to another data directory than the one that asks, or is of another format: in words.
    #[error("{0}")]
    Foreign(String),
    /// What is in the store does not fit; nothing was written.
    #[error("the store does not fit: {0}")]
    Inconsistent(String),
}
