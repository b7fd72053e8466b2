//! What the engine asks of a place for checkpoints. `hotstock-persistence` implements it with files.
//!
//! A checkpoint is *fuzzy*: the shard writes it in slices between its batches, so its entries are of different moments
//! between `begin` and `end`. Every entry carries the LSN of its last change; replay starts after `begin` and applies
//! an event to an entry only when the event is newer. After `end` the state is exact.
//!
//! The contract: a checkpoint can be found again only after [`CheckpointWriter::finish`] returned, and then survives
//! power loss; the engine calls it when the journal is durable through `end`, never before. Damage is an error, never a
//! shorter checkpoint. The one before the newest is kept until the newest is complete.

use xxhash_rust::xxh3::xxh3_64;

use crate::clock::Timestamp;
use crate::command::{Mode, StockStatus};
use crate::event::{HoldMove, HoldPurpose, OrderRequest};
use crate::ids::{
    AttemptId, BuyerId, Epoch, Lsn, OrderNo, Reason, RequestId, ServerId, ShardId, SkuId, TakeId, WarehouseId,
};
use crate::outcome::{Levels, LineView, OrderStatus, OrderView, Serials};

/// Where checkpoints are kept.
pub trait CheckpointStore: Send + Sync + 'static {
    /// Begins a checkpoint of a shard; an earlier one that was not finished is thrown away.
    ///
    /// # Errors
    /// [`CheckpointError`].
    fn create(&self, shard: ShardId, begin: Lsn) -> Result<Box<dyn CheckpointWriter>, CheckpointError>;

    /// The newest complete checkpoint of a shard.
    ///
    /// # Errors
    /// [`CheckpointError`], when there is one that can't be read.
    fn newest(&self, shard: ShardId) -> Result<Option<Box<dyn CheckpointReader>>, CheckpointError>;
}

/// Where the filter of known numbers is kept ([`crate::known`]): a file for each of its generations. A file is written
/// once and never changed; which ones count, the checkpoints say.
pub trait FilterStore: Send + Sync + 'static {
    /// Writes a file, durably, and as a whole or not at all.
    ///
    /// # Errors
    /// What went wrong, in words; the other files stay as they are.
    fn save(&self, number: u64, bytes: &[u8]) -> Result<(), String>;

    /// Reads a file; `None` when there is none of this number.
    ///
    /// # Errors
    /// What is damaged, in words: the filter is then filled again from the store.
    fn load(&self, number: u64) -> Result<Option<Vec<u8>>, String>;

    /// Removes all files but these.
    ///
    /// # Errors
    /// What went wrong, in words; what is left over is removed by the next call.
    fn keep_only(&self, numbers: &[u64]) -> Result<(), String>;
}

/// What a checkpoint says of the filter of known numbers: it was saved just before the checkpoint was finished, and
/// has everything that had left memory by then. Of several manifests the one with the highest number counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterManifest {
    /// Above those of all that were finished before.
    pub number: u64,
    /// Its files, at most [`MAX_GENERATIONS`](crate::limits::MAX_GENERATIONS). `None`: the filter was not complete and
    /// is filled from the store.
    pub files: Option<Vec<FilterFile>>,
}

/// A file of a [`FilterManifest`], and what tells it from an older one, or another directory's, in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterFile {
    /// Its number.
    pub number: u64,
    /// Its length.
    pub bytes: u64,
    /// XXH3-64 of its content.
    pub hash: u64,
}

impl FilterFile {
    /// Of this content.
    #[must_use]
    pub fn of(number: u64, content: &[u8]) -> Self {
        Self { number, bytes: content.len() as u64, hash: xxh3_64(content) }
    }
}

/// Who a server is: its data directory. Kept durably.
pub trait Identity: Send + Sync + 'static {
    /// The directory.
    fn server(&self) -> ServerId;

    /// The last epoch that it took; [`Epoch::ZERO`] for a new one.
    fn epoch(&self) -> Epoch;

    /// Takes of the store that this directory did, meant to do, or did after: the newest
    /// [`MAX_TAKES_KNOWN`](crate::limits::MAX_TAKES_KNOWN), oldest first. A store whose take is none of them was taken
    /// by somebody else.
    fn takes(&self) -> Vec<TakeId>;

    /// Makes an id for a take of a store whose present one is `after`, and writes both to the directory: before the
    /// store is asked, so that whatever becomes of that is known for this directory's.
    ///
    /// # Errors
    /// What went wrong, in words; the store must not be taken.
    fn intend(&self, after: Option<TakeId>) -> Result<TakeId, String>;

    /// Writes the epoch that was taken to the directory, before the server serves.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn record(&self, epoch: Epoch) -> Result<(), String>;

    /// Whether this is evidently the same directory on the same machine as when the last epoch was recorded (not a
    /// copy, a clone, a restored snapshot).
    ///
    /// # Errors
    /// What is otherwise, in words.
    fn is_same_place(&self) -> Result<(), String>;
}

/// A checkpoint that is being written. Dropped without `finish`, it leaves nothing behind.
pub trait CheckpointWriter: Send {
    /// Adds a slice.
    ///
    /// # Errors
    /// [`CheckpointError`]; the checkpoint is then of no use.
    fn write(&mut self, slice: &[Image]) -> Result<(), CheckpointError>;

    /// Completes it: durable and found by [`CheckpointStore::newest`] from now on; older ones of the shard go. `known`:
    /// what is kept of the filter of known numbers.
    ///
    /// # Errors
    /// [`CheckpointError`]; the one before it still stands.
    fn finish(self: Box<Self>, end: CheckpointEnd, known: &FilterManifest) -> Result<(), CheckpointError>;
}

/// A complete checkpoint.
pub trait CheckpointReader: Send {
    /// Replay starts after this.
    fn begin(&self) -> Lsn;

    /// What was known when it was finished.
    fn end(&self) -> CheckpointEnd;

    /// What was kept of the filter of known numbers then.
    fn known(&self) -> &FilterManifest;

    /// The next slice, `None` after the last.
    ///
    /// # Errors
    /// [`CheckpointError`] when it can't be read or fails its check sum.
    fn next_slice(&mut self) -> Result<Option<Vec<Image>>, CheckpointError>;
}

/// What stands at the end of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointEnd {
    /// The last event that any entry may know of. Exact from here on.
    pub end: Lsn,
    /// The logged time at that event.
    pub time: Timestamp,
    /// The last change of anything that had left memory by then; what the store says of what is not here counts only
    /// from there on.
    pub departed: Lsn,
}

/// One entry of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub enum Image {
    /// A stock.
    Stock(StockImage),
    /// An order.
    Order(OrderImage),
    /// A remembered stock request.
    Request(RequestImage),
    /// What a participant holds for an order that another shard decides.
    Hold(HoldImage),
}

/// A stock in a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct StockImage {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// How much.
    pub levels: Levels,
    /// Whether new reservations are taken.
    pub status: StockStatus,
    /// The quantity that it was created with.
    pub initial: u64,
    /// Everything that came less everything that left other than by orders.
    pub supplied: u64,
    /// Units sold (and not returned) by orders that are forgotten.
    pub forgotten_sold: u64,
    /// Its last change.
    pub lsn: Lsn,
    /// Kept in memory until it is demoted. The same for all stocks of a SKU.
    pub hot: bool,
    /// Serial numbers given so far here; `None`: its units get none. The next one is one above the sum over all
    /// warehouses of the SKU.
    pub numbered: Option<u64>,
}

/// An order in a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderImage {
    /// The caller's number.
    pub order_no: OrderNo,
    /// Who buys.
    pub buyer_id: Option<BuyerId>,
    /// As it was asked.
    pub mode: Mode,
    /// How it ended, or that it did not.
    pub phase: Phase,
    /// When it was reserved or cancelled.
    pub created_at: Timestamp,
    /// When what it holds expires.
    pub expires_at: Timestamp,
    /// When it last changed.
    pub changed_at: Timestamp,
    /// Its last change.
    pub lsn: Lsn,
    /// Its lines; none for a cancelled one.
    pub lines: Vec<LineImage>,
    /// The partial requests that it answered.
    pub requests: Vec<OrderRequest>,
    /// The serial numbers that its lines got, as they came.
    pub serials: Vec<LineSerials>,
    /// Of an order over several shards: what its coordinator keeps of it beside the counts.
    pub span: Option<Box<Span>>,
}

/// What the coordinator of an order over several shards keeps of it beside its counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The attempt whose holds have the units that it holds in other shards.
    pub attempt: AttemptId,
    /// Decisions so far.
    pub decisions: u32,
    /// Those of them that some participants may not have carried out, oldest first.
    pub pending: Vec<Decision>,
}

/// A decision that some participants may not have carried out yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Counts the decisions of the order, from 1.
    pub seq: u32,
    /// The attempt whose holds it is about.
    pub attempt: AttemptId,
    /// What happens to the units.
    pub kind: HoldMove,
    /// Why, in the caller's words.
    pub reason: Option<Reason>,
    /// Units, by the index of the line; lines of participants only.
    pub lines: Vec<(u16, u32)>,
    /// Participants that have not acknowledged it.
    pub waiting: Vec<ShardId>,
}

impl Span {
    /// Of an order that is made with the holds of an attempt.
    #[must_use]
    pub fn new(attempt: AttemptId) -> Self {
        Self { attempt, decisions: 0, pending: Vec::new() }
    }

    /// Whether the order has something to do with the holds of an attempt.
    #[must_use]
    pub fn knows(&self, attempt: AttemptId) -> bool {
        self.attempt == attempt || self.pending.iter().any(|decision| decision.attempt == attempt)
    }

    /// A rough size, in lines of an event.
    pub(crate) fn weight(&self) -> usize {
        1 + self.pending.iter().map(|decision| 1 + decision.lines.len()).sum::<usize>()
    }
}

/// What a participant holds for an order that another shard decides. It has no end of its own: the coordinator says
/// when it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldImage {
    /// The order.
    pub order_no: OrderNo,
    /// The attempt that made it.
    pub attempt: AttemptId,
    /// The shard that decides.
    pub coordinator: ShardId,
    /// For what.
    pub purpose: HoldPurpose,
    /// The last decision that was carried out; 0: none.
    pub seq: u32,
    /// Its last change.
    pub lsn: Lsn,
    /// The stocks; a line whose units are all gone stays while the hold does.
    pub lines: Vec<HoldLineImage>,
}

/// A line of a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldLineImage {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// Units held; of a return, units that are to come back.
    pub units: u32,
    /// Units that were sold of it, less those that came back by it.
    pub sold: i64,
    /// Serial numbers that its units got and that the coordinator may not have logged.
    pub serials: Vec<Serials>,
}

impl HoldImage {
    /// Whether there is no more to it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.lines.iter().all(|line| line.units == 0 && line.serials.is_empty())
    }
}

/// Serial numbers of one line of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineSerials {
    /// The index of the line.
    pub line: u16,
    /// The numbers.
    pub serials: Serials,
}

impl OrderImage {
    /// Whether it holds units.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.lines.iter().any(|line| line.held > 0)
    }

    /// Whether nothing happens any more unless a caller asks for it: it holds nothing, and its participants know.
    #[must_use]
    pub fn is_done(&self) -> bool {
        !self.is_open() && self.span.as_ref().is_none_or(|span| span.pending.is_empty())
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> OrderStatus {
        let sum = |of: fn(&LineImage) -> u32| self.lines.iter().map(|line| u64::from(of(line))).sum();
        let sums = [
            sum(|line| line.held),
            sum(|line| line.confirmed),
            sum(|line| line.released),
            sum(|line| line.returned),
        ];
        OrderStatus::of(self.phase, sums)
    }

    /// As callers see it.
    #[must_use]
    pub fn view(&self) -> OrderView {
        let line_view = |(index, line): (u16, &LineImage)| {
            let given = self.serials.iter().filter(|given| given.line == index).map(|given| given.serials);
            let serials: Vec<Serials> = given.collect();
            LineView {
                sku_id: line.sku_id.clone(),
                warehouse_id: line.warehouse_id,
                quantity: line.quantity,
                held: line.held,
                confirmed: line.confirmed,
                released: line.released,
                returned: line.returned,
                serials: (!serials.is_empty()).then(|| serials.into_boxed_slice()),
            }
        };
        OrderView {
            order_no: self.order_no.clone(),
            status: self.status(),
            created_at: self.created_at,
            expires_at: self.is_open().then_some(self.expires_at),
            lines: (0..).zip(&self.lines).map(line_view).collect(),
        }
    }

    /// A rough size, in lines of an event.
    pub(crate) fn weight(&self) -> usize {
        let span = self.span.as_ref().map_or(0, |span| span.weight());
        4 + 2 * self.lines.len() + self.requests.len() + self.serials.len() + span
    }
}

/// How the units that an order did not confirm went back last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// They did not.
    Open,
    /// The caller gave them back.
    Released,
    /// Their time was over.
    Expired,
    /// There never were any: released before it was reserved.
    Cancelled,
}

/// A line of an order in a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct LineImage {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// Units asked for.
    pub quantity: u32,
    /// Units held.
    pub held: u32,
    /// Units confirmed so far.
    pub confirmed: u32,
    /// Units given back without being sold.
    pub released: u32,
    /// Units sold and returned.
    pub returned: u32,
    /// Those of `released` that went back by the end of the whole order, which a late payment takes again.
    pub lapsed: u32,
}

/// A remembered stock request in a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestImage {
    /// Its scope.
    pub sku_id: SkuId,
    /// Its id.
    pub request_id: RequestId,
    /// Where it changed the stock.
    pub warehouse_id: WarehouseId,
    /// Its content.
    pub fingerprint: u64,
    /// What it was answered.
    pub after: Levels,
    /// When.
    pub at: Timestamp,
    /// The event that it caused.
    pub lsn: Lsn,
}

/// A checkpoint that can't be written or read.
#[derive(Debug, thiserror::Error)]
#[error("checkpoint of shard {shard}: {problem}")]
pub struct CheckpointError {
    /// Whose.
    pub shard: ShardId,
    /// What happened, with the file.
    pub problem: String,
}
