//! What the engine asks of the SQL store, the system of record: it decides for cold SKUs, takes in what the shards logged,
//! and hands SKUs over to shards and back. `hotstock-persistence` implements it on SQLite and on MySQL; all implementations
//! pass one suite.
//!
//! ```text
//!             commands on cold SKUs ──▶ submit ──┐
//!   expiry of cold orders ──▶ expire ──┤   stock, orders, stock journal
//!   events of the shards ──▶ flush ──┘   (one transaction each)
//!             promotion ──▶ take, orders_of, requests_of ──▶ a shard
//! ```
//!
//! The contract:
//!
//! - **One owner.** A stock without owner is changed by `submit` and `expire` only; a stock with an owner by `flush` of that owner, in
//!   that epoch, only. `take` gives an owner, a flushed [`Change::Withdrawn`](crate::event::Change::Withdrawn) clears it.
//! - **The same outcomes.** `submit` answers what a shard would answer: both run [`State::decide`](crate::state::State::decide).
//! - **Durable.** What is answered survives power loss of the store.
//! - **Exactly once.** `flush` moves the watermark of its shard in the transaction that writes the rows. Repeating it, whatever died
//!   when, has no second effect.
//! - **Gapless.** Every version of every stock has one row in the stock journal, hot or cold.
//! - **Several servers** may use one store; none of them relies on memory of its own for what SQL decides.
//! - **Orders over several places** ([`home`](crate::home)) lie here as their home wrote them last, beside their branches, which are orders of
//!   one SKU under numbers of their own. The store decides about branches as about any order, but they fall due for asking and never
//!   expire; about the order itself its home alone decides. Either an order lies here plain or at a home, never both.
//! - **Coming apart.** A plain order whose SKUs come to lie in several places becomes one over several, in the transaction that needs it
//!   to: an open one when one of its SKUs is taken, an ended one when a command would change it. No unit moves, no version changes, and
//!   callers see the same order.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use crate::checkpoint::{OrderImage, RequestImage, StockImage};
use crate::clock::Timestamp;
use crate::command::Command;
use crate::event::{Event, StockMove};
use crate::home::HomeImage;
use crate::ids::{Lsn, OrderNo, RequestId, ServerId, ShardId, SkuId, WarehouseId};
use crate::limits::{MAX_RECONCILE_JOURNAL_ROWS, MAX_STOCK_UNITS, RECONCILE_JOURNAL_PAGE};
use crate::outcome::{Levels, OrderStatus, OrderView, Outcome, StockView};

/// The SQL store. Methods may be called from many tasks at once; a dropped future leaves nothing half done.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Carries out a command on cold SKUs or on an order that SQL decides, in one transaction. An order that is there is decided
    /// where its own lines are; one over several places is [`ColdOutcome::Home`] to every command, also to a read. Of an order whose SKUs have come
    /// apart, what changes nothing is answered; a refusal that rests on the stock of a hot SKU, whose rows are old, is not. Conflicts with others (deadlock, lock
    /// timeout, a row that changed) are retried within a bound. A commit whose outcome is unknown is tried again once, which
    /// is harmless because every command can be repeated.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] and [`StoreError::Busy`]: nothing happened. [`StoreError::OutcomeUnknown`].
    async fn submit(&self, command: &Command, now: Timestamp) -> Result<ColdOutcome, StoreError>;

    /// Carries out commands one after the other, each as [`Store::submit`] does, in one transaction where it can: those of branches of
    /// one order. Answers in the same order.
    ///
    /// # Errors
    /// As [`Store::submit`]; after an unknown outcome all can be repeated.
    async fn submit_all(&self, commands: &[Command], now: Timestamp) -> Result<Vec<ColdOutcome>, StoreError> {
        let mut outcomes = Vec::with_capacity(commands.len());
        for command in commands {
            outcomes.push(self.submit(command, now).await?);
        }
        Ok(outcomes)
    }

    /// Looks at up to `max` orders that are due, of this server or of none. Cold orders are expired, or with `ask_first` put off and
    /// named in [`Expired::due`]. Branches and homes are put off and named: branches of reserves that this server sent, or that left its
    /// shards, when their time to ask has come and until they are [left to their home](Store::leave_to_home); homes that are to be on this
    /// server and that their shard has not taken in, when the order's time is over. What was put off comes again some seconds later,
    /// unless it ended. Any number of servers may do so.
    ///
    /// # Errors
    /// [`StoreError`]; what was expired stays so.
    async fn expire(&self, now: Timestamp, max: usize, ask_first: bool) -> Result<Expired, StoreError>;

    /// Cold branches whose home knows them: from now on they are its concern and not due any more, until they have been in a shard and
    /// left it again. Numbers that are not known are passed over.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn leave_to_home(&self, branches: &[OrderNo]) -> Result<(), StoreError>;

    /// An order over several places as it was last written, and its home; `None` for one that lies in one place.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn home(&self, order_no: &OrderNo) -> Result<Option<StoredHome>, StoreError>;

    /// Up to `limit` orders by number (as bytes) after `after`, as they were last written, hot and cold, of all servers. Branches are
    /// not listed; an order over several places is.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list(&self, filter: &OrderFilter, after: Option<&OrderNo>, limit: usize) -> Result<Vec<OrderView>, StoreError>;

    /// The stocks of a SKU, by warehouse. Of a hot SKU: as they were flushed.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn stock(&self, sku_id: &SkuId, warehouse_id: Option<WarehouseId>) -> Result<Vec<StockRow>, StoreError>;

    /// Up to `limit` SKUs after `after`, by name (as bytes), each with all its stocks by warehouse.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn stock_page(&self, after: Option<&SkuId>, limit: usize) -> Result<Vec<Vec<StockRow>>, StoreError>;

    /// An order in one place, or a branch, as it was last written, hot or cold, and the owners of its stocks (each once; `None` for
    /// cold). Of an order over several places [`Store::home`] tells.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn order(&self, order_no: &OrderNo) -> Result<Option<StoredOrder>, StoreError>;

    /// Gives SKUs an owner: all or, where one can't be taken, those that can (see [`Taken`]). A SKU that the shard owns already is
    /// given again as it is. Open orders that also hold a SKU which stays come apart: their home is on `server`, in the shard that
    /// [`shard_of_order`](crate::ids::shard_of_order) says for its shards; that one takes them in when they are needed there.
    ///
    /// # Errors
    /// [`StoreError`]; after an unknown outcome it can be repeated.
    async fn take(&self, skus: &[SkuId], server: ServerId, shard: ShardId) -> Result<Vec<Taken>, StoreError>;

    /// Up to `max` orders that move with a SKU which the shard owns: the open ones, and those that changed since `since` and whose SKUs
    /// are all owned by the shard. By order_no, after `after`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn orders_of(&self, moving: &Moving, after: Option<&OrderNo>, max: usize) -> Result<Vec<OrderImage>, StoreError>;

    /// Up to `max` stock requests of a SKU since `since`, by request_id, after `after`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn requests_of(&self, moving: &Moving, after: Option<&RequestId>, max: usize) -> Result<Vec<RequestImage>, StoreError>;

    /// The SKUs that a server owns, by name, up to `max` after `after`, with their shard and epoch.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn owned(&self, server: ServerId, after: Option<&SkuId>, max: usize) -> Result<Vec<(SkuId, Owner)>, StoreError>;

    /// How far a shard is flushed; [`Lsn::ZERO`] for one that never was.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn watermark(&self, server: ServerId, shard: ShardId) -> Result<Lsn, StoreError>;

    /// Takes in events of a shard, in one transaction with its watermark. When the watermark is not `batch.after`, nothing is written
    /// and the answer tells where it is. Homes that the events are about are at home in this shard from then on, and not due here any
    /// more; branches that leave with a SKU are of this server, and due.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when a SKU that the events are about has another owner or epoch; the others as usual.
    async fn flush(&self, batch: FlushBatch<'_>) -> Result<Flushed, StoreError>;

    /// The stock journal of a SKU: for each warehouse the rows with a version above the one in `after` (0 where it is not named), up to
    /// `limit` each, with the watermarks of the same moment.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn stock_journal(
        &self,
        sku_id: &SkuId,
        after: &[(WarehouseId, u64)],
        limit: usize,
    ) -> Result<StoredJournal, StoreError>;

    /// What the store knows of up to `limit` SKUs after `after`, counted in several ways, to be compared.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn books(&self, after: Option<&SkuId>, limit: usize) -> Result<Vec<StockBooks>, StoreError>;

    /// Up to `max` orders whose line for a stock is not what the journal of the stock says of them, by order_no. An order and its
    /// branches are counted as one, under the number that its caller knows.
    ///
    /// This default goes by the journal row by row and finds no line without a row in the journal; a store that can join does
    /// better.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn suspects(&self, sku_id: &SkuId, warehouse_id: WarehouseId, max: usize) -> Result<Vec<Suspect>, StoreError> {
        suspects_by_journal(self, sku_id, warehouse_id, max).await
    }

    /// Puts the row of a stock right: levels and what was supplied as its journal sums them up, version as its last row says. For
    /// a cold stock it adds a journal row of the kind `repaired` that tells of it. The versions of a hot stock are its shard's:
    /// there the row alone is written, and an anomaly of the kind `repaired` tells of it. Nothing when the row is right already.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn repair(&self, sku_id: &SkuId, warehouse_id: WarehouseId, now: Timestamp) -> Result<Option<Repaired>, StoreError>;

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

/// What the store says to a command.
#[derive(Debug, Clone, PartialEq)]
pub enum ColdOutcome {
    /// It was decided here. `changed` are the stocks that it changed, as they are now.
    Done {
        /// What the caller is told.
        outcome: Outcome,
        /// For the mirror.
        changed: Vec<StockView>,
    },
    /// A stock that it is about has this owner: all of them, so that it decides; or, of a new order, some, so that nobody decides alone.
    /// Nothing was done.
    Elsewhere(Owner),
    /// It is about an order over several places, whose home decides. Nothing was done; but an order that had ended in one place, and
    /// whose SKUs have come apart since, may just have become one over several: at home on the server that has the others of its SKUs.
    /// (Where two servers have some, no server can change it: it is [`ColdOutcome::Elsewhere`].)
    Home(Box<StoredHome>),
}

/// An order over several places, as the store has it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredHome {
    /// The server of its home.
    pub server: ServerId,
    /// The shard there.
    pub shard: ShardId,
    /// The order.
    pub image: HomeImage,
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
        is_status && self.sku_id.as_ref().is_none_or(|sku_id| order.lines.iter().any(|line| line.sku_id == *sku_id))
    }
}

/// Who decides for a hot SKU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The server, by the id of its data directory.
    pub server: ServerId,
    /// Its shard.
    pub shard: ShardId,
    /// Counts the promotions of the SKU.
    pub epoch: u64,
}

/// See [`Store::expire`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Expired {
    /// Orders that were due and looked at; fewer than `max`: no more are due.
    pub seen: usize,
    /// Of those, the ones that were expired.
    pub expired: usize,
    /// The stocks that changed.
    pub changed: Vec<StockView>,
    /// Cold orders whose order service is to be asked first.
    pub due: Vec<OrderNo>,
    /// Cold branches of this server that are to ask their home.
    pub branches: Vec<OrderNo>,
    /// Orders over several places whose home is on this server, as the store has them: to be taken in there.
    pub homes: Vec<OrderNo>,
}

/// A stock in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct StockRow {
    /// Its levels.
    pub view: StockView,
    /// Who decides for it; `None`: SQL.
    pub owner: Option<Owner>,
}

/// An order in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredOrder {
    /// The order.
    pub image: OrderImage,
    /// The owners of its stocks, each once.
    pub owners: Vec<Option<Owner>>,
}

/// What became of a SKU in [`Store::take`].
#[derive(Debug, Clone, PartialEq)]
pub enum Taken {
    /// The shard owns it from here on.
    Owned {
        /// The epoch of this ownership.
        epoch: u64,
        /// Its stocks.
        stocks: Vec<StockImage>,
    },
    /// There is no stock of it.
    Unknown,
    /// Another server or shard owns it.
    OwnedBy(Owner),
    /// An open branch of this order lies on it, whose home is on another server: that one could not tell it anything any more.
    OrdersSpan(OrderNo),
}

/// A SKU on its way to a shard.
#[derive(Debug, Clone, PartialEq)]
pub struct Moving {
    /// Which.
    pub sku_id: SkuId,
    /// Who took it.
    pub server: ServerId,
    /// The shard that it goes to.
    pub shard: ShardId,
    /// What ended before this stays in SQL.
    pub since: Timestamp,
}

/// Events of a shard on their way to the store.
#[derive(Debug, Clone, Copy)]
pub struct FlushBatch<'a> {
    /// Whose.
    pub server: ServerId,
    /// Of which shard.
    pub shard: ShardId,
    /// Where the watermark is believed to be.
    pub after: Lsn,
    /// The events after it, without gap; at least one.
    pub events: &'a [(Lsn, Event)],
}

/// See [`Store::flush`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Flushed {
    /// Where the watermark is now.
    pub watermark: Lsn,
    /// Rows written, of all tables.
    pub rows: u64,
    /// Conflicts found and recorded.
    pub anomalies: u64,
}

/// A change of one stock, as the stock journal keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalRow {
    /// What moved; `change.after.version` numbers the rows of a stock.
    pub change: StockMove,
    /// The logged time.
    pub at: Timestamp,
    /// Trace of the caller.
    pub trace: Option<crate::ids::TraceId>,
    /// Where it was decided; `None`: by SQL.
    pub source: Option<(ServerId, ShardId, Lsn)>,
}

/// See [`Store::stock_journal`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StoredJournal {
    /// By warehouse, then version.
    pub rows: Vec<JournalRow>,
    /// The owner of the SKU, if it has one.
    pub owner: Option<Owner>,
    /// How far the owner's shard is flushed.
    pub watermark: Lsn,
}

/// A stock of the store, counted in several ways.
#[derive(Debug, Clone, PartialEq)]
pub struct StockBooks {
    /// The row.
    pub row: StockRow,
    /// The row's count of what was supplied.
    pub supplied: u64,
    /// The sum of the deltas in the stock journal: available, reserved, sold.
    pub journal: [i64; 3],
    /// Rows of the stock journal, and the highest version in it.
    pub journal_rows: u64,
    /// See `journal_rows`.
    pub journal_version: u64,
    /// The levels of the row with the highest version.
    pub journal_after: Option<Levels>,
    /// Units held by the lines of all orders.
    pub held_by_orders: u64,
    /// Units confirmed and not returned, by the lines of all orders.
    pub sold_by_orders: u64,
}

/// See [`Store::suspects`]. Each pair: units of the line, units that the journal says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// Which order.
    pub order_no: OrderNo,
    /// Units held.
    pub held: (u64, i64),
    /// Units confirmed and not returned.
    pub sold: (u64, i64),
}

/// See [`Store::repair`].
#[derive(Debug, Clone, PartialEq)]
pub struct Repaired {
    /// As it was.
    pub before: Levels,
    /// As it is.
    pub after: Levels,
}

/// A conflict between the journal of a shard and the store, recorded when it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Anomaly {
    /// When it was found.
    pub at: Timestamp,
    /// What kind: `order_exists`, `fenced`, …
    pub kind: String,
    /// The event.
    pub source: Option<(ServerId, ShardId, Lsn)>,
    /// The order, if it is about one.
    pub order_no: Option<OrderNo>,
    /// The SKU, if it is about one.
    pub sku_id: Option<SkuId>,
    /// In words.
    pub detail: String,
}

impl Anomaly {
    /// With the order's number as its caller knows it.
    pub(crate) fn tell_caller(&mut self) {
        self.order_no = self.order_no.as_ref().map(OrderNo::of_caller);
    }
}

/// The store could not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It can't be reached, or it is closed. Nothing happened.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// It was lost while it committed: whether this took effect is unknown.
    #[error("the store was lost while it committed: {0}")]
    OutcomeUnknown(String),
    /// Too much contention: the retries are used up. Nothing happened.
    #[error("the store is busy: {0}")]
    Busy(String),
    /// A SKU has another owner or epoch than the one who writes it.
    #[error("SKU {sku_id} does not belong to this shard any more")]
    Fenced {
        /// Which.
        sku_id: SkuId,
    },
    /// What is in the store does not fit; nothing was written.
    #[error("the store does not fit: {0}")]
    Inconsistent(String),
}

async fn suspects_by_journal<S: Store + ?Sized>(
    store: &S,
    sku_id: &SkuId,
    warehouse_id: WarehouseId,
    max: usize,
) -> Result<Vec<Suspect>, StoreError> {
    let siblings = store.stock(sku_id, None).await?;
    let mut sums: BTreeMap<OrderNo, ([i64; 2], BTreeSet<OrderNo>)> = BTreeMap::new();
    let (mut after, mut read) = (0, 0);
    loop {
        // No stock has so many versions: the other warehouses have nothing after that.
        let place = |row: &StockRow| match row.view.warehouse_id {
            this if this == warehouse_id => (this, after),
            other => (other, MAX_STOCK_UNITS),
        };
        let places: Vec<_> = siblings.iter().map(place).collect();
        let page = store.stock_journal(sku_id, &places, RECONCILE_JOURNAL_PAGE).await?;
        let rows: Vec<_> = page.rows.iter().filter(|row| row.change.warehouse_id == warehouse_id).collect();
        let Some(last) = rows.last() else { break };
        after = last.change.after.version;
        for StockMove { order_no, delta, .. } in rows.iter().map(|row| &row.change) {
            let Some(order_no) = order_no else { continue };
            // What was logged of an order before it came to lie in several places, and of its branches since, is one.
            let ([held, sold], stored) = sums.entry(order_no.of_caller()).or_default();
            (*held, *sold) = (*held + delta.reserved, *sold + delta.sold);
            stored.insert(order_no.clone());
        }
        read += rows.len();
        if read > MAX_RECONCILE_JOURNAL_ROWS {
            return Ok(Vec::new());
        }
    }
    let mut suspects = Vec::new();
    for (order_no, ([held, sold], mut stored)) in sums {
        stored.insert(order_no.clone());
        stored.extend(store.home(&order_no).await?.iter().flat_map(|home| home.image.branches_of(sku_id)));
        let (mut line_held, mut line_sold) = (0_u64, 0_u64);
        for number in stored {
            let order = store.order(&number).await?;
            let lines = order.iter().flat_map(|order| &order.image.lines);
            for line in lines.filter(|line| line.sku_id == *sku_id && line.warehouse_id == warehouse_id) {
                line_held += u64::from(line.held);
                line_sold += u64::from(line.confirmed.saturating_sub(line.returned));
            }
        }
        if i64::try_from(line_held) != Ok(held) || i64::try_from(line_sold) != Ok(sold) {
            suspects.push(Suspect { order_no, held: (line_held, held), sold: (line_sold, sold) });
        }
        if suspects.len() >= max {
            break;
        }
    }
    Ok(suspects)
}
