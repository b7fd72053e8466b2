//! Every bound of the engine, in one place, each with its reason.

/// Lines in one order. From the HTTP contract; the largest real invoice that we have seen has 675.
pub const MAX_ORDER_LINES: usize = 1_000;

/// Units in one line, and of all lines of one order for the same stock. Far above any real order, and four counts of
/// it fit the 32-bit counts that keep an open order small.
pub const MAX_LINE_QUANTITY: u32 = 1_000_000_000;

/// Units of one stock (available + reserved + sold). JSON numbers are exact below 2^53.
pub const MAX_STOCK_UNITS: u64 = 1_000_000_000_000_000;

/// The longest time that a reservation may be held, in seconds. From the HTTP contract: a week.
pub const MAX_TTL_SECONDS: u32 = 604_800;

/// Partial confirms, releases and returns that are remembered for one order, so that each can be repeated safely.
pub const MAX_REQUESTS_PER_ORDER: usize = 1_000;

/// Returns of everything that is left, beyond [`MAX_REQUESTS_PER_ORDER`]: units that were sold must always be able to
/// come back. Each leaves nothing to return, and an order can come to have something again only by a confirm of all
/// that it holds or of all that lapsed, once each.
pub const MAX_WHOLE_RETURNS: usize = 4;

/// Warehouses of one SKU. They are searched one by one; a thousand is more than any retailer has.
pub const MAX_WAREHOUSES_PER_SKU: usize = 1_000;

/// Commands that wait in or run through one shard (its gate). 16,384 in flight must pass with room to spare; at about
/// 400 bytes each a full gate holds some 25 MB.
pub const DEFAULT_GATE_PERMITS: u32 = 65_536;

/// Commands of one batch request that travel as one message. Larger batches are cut, so that one caller's batch
/// delays the others by less than a millisecond.
pub const MAX_COMMANDS_PER_ENVELOPE: usize = 512;

/// Commands that a shard decides in one turn before it hands over and lets other tasks run.
pub const MAX_COMMANDS_PER_TURN: usize = 2_048;

/// Orders that one turn expires: some milliseconds of work. A million that fall due at once go through in about a
/// thousand turns, between which commands are served.
pub const MAX_EXPIRIES_PER_TURN: usize = 512;

/// Ended orders and request ids that one `Forgotten` event lets go of; bounds the size of the event.
pub const MAX_FORGOTTEN_PER_EVENT: usize = 256;

/// Stocks that one `Forgotten` event names before it stops, give or take the lines of one order: 256 orders of 1,000
/// lines would make an event of megabytes.
pub const MAX_FORGOTTEN_STOCKS: usize = 1_000;

/// `Forgotten` events of one turn.
pub const MAX_FORGOTTEN_EVENTS_PER_TURN: usize = 4;

/// Estimated bytes of the events of one turn, and of the commands that travel as one message: orders of many lines are
/// few per turn.
pub const MAX_TURN_BYTES: u64 = 1 << 20;

/// Estimated bytes of events that a shard hands over to the journal writer ahead of their sync: some 70,000 small
/// orders. The shard pauses there; more would only make memory grow while the disk is slow.
pub const MAX_UNSYNCED_BYTES: u64 = 8 << 20;

/// Units of work (orders, rows, requests) that one turn writes to a running checkpoint: under a millisecond.
pub const CHECKPOINT_ENTRIES_PER_TURN: usize = 2_048;

/// Checkpoint slices that wait for the checkpoint thread; when it is slower, the shards skip turns.
pub const MAX_WAITING_SLICES: usize = 8;

/// How often a shard that is idle looks at its deadlines. An expiry is at most this late when nothing else happens,
/// well inside the promised second.
pub const TICK_MILLIS: u64 = 200;

/// Rebuilds of one shard within [`SHARD_REBUILD_WINDOW_SECONDS`] before it is given up: a shard that panics on every
/// start would otherwise read its journal for ever.
pub const MAX_SHARD_REBUILDS: usize = 10;

/// See [`MAX_SHARD_REBUILDS`].
pub const SHARD_REBUILD_WINDOW_SECONDS: u64 = 60;

/// How long ended orders and request ids stay in memory, in seconds: longer than most callers retry. Later they come
/// back from the store.
pub const DEFAULT_REMEMBER_SECONDS: u64 = 600;

/// Ended orders and request ids that stay in the memory of one shard at the most; the oldest go first. About 200
/// bytes each.
pub const DEFAULT_REMEMBER_MAX: usize = 1_000_000;

/// SKUs in memory: what one warehouse system has, some hundred bytes each.
pub const DEFAULT_MAX_RESIDENT_SKUS: usize = 1_000_000;

/// What SKUs and orders may take in memory, by the estimate of the state: 4 GiB.
pub const DEFAULT_MAX_RESIDENT_BYTES: u64 = 4 << 30;

/// A checkpoint of a shard begins after this many of its events: some 60 MB of journal, a second of replay.
pub const DEFAULT_CHECKPOINT_EVENTS: u64 = 1_000_000;

/// Orders (and as many requests) of one `OrdersLoaded` event: some 60 KB of small orders.
pub const MAX_LOADED_PER_EVENT: usize = 256;

/// SKUs, orders, and stock requests that are read from the store by one query: large enough for a query to pay, short
/// enough that nobody waits long for others.
pub const MAX_LOADED_AT_ONCE: usize = 256;

/// Lines of ended orders, and stock requests, on a SKU that is evicted: they leave with it, in one event. A SKU with
/// more of them stays until they are forgotten.
pub const MAX_EVICTED_ENTRIES: usize = 1_000;

/// SKUs that are looked at to find one that can be evicted, before the shard goes on with its work: some 20
/// microseconds.
pub const MAX_EVICTION_LOOKS: usize = 256;

/// Rounds over all SKUs without one that can be evicted, after which none is looked at before the store has taken in
/// more: every use lets a SKU stay for a round, up to a few.
pub const EVICTION_ROUNDS: usize = 4;

/// Calls of the store that read what commands wait for, at the same time: beside them flushes and reads go on.
pub const MAX_LOADS_IN_FLIGHT: usize = 4;

/// Times that such a call is tried when the store fails that answered before.
pub const MAX_LOAD_TRIES: u32 = 3;

/// The pause before something is asked again of a store that has not taken in yet what left memory, in milliseconds.
pub const LOAD_AGAIN_MILLIS: u64 = 20;

/// How long a command waits for what it needs from the store: far longer than a healthy store takes, shorter than
/// callers wait.
pub const DEFAULT_LOAD_WAIT_MILLIS: u64 = 5_000;

/// Things that the commands of one shard wait for, some 100 bytes each. A full gate of orders with one line waits for
/// half of it.
pub const MAX_WAITING_NEEDS: usize = 262_144;

/// SKUs that one shard remembers for a moment as not being in the store, some 100 bytes each.
pub const MAX_ABSENT_SKUS: usize = 65_536;

/// For how long, in milliseconds: a SKU that somebody puts into the store by hand is found soon.
pub const ABSENT_MILLIS: u64 = 2_000;

/// SKUs that one turn evicts: with what lies on them some milliseconds of work.
pub const MAX_EVICTIONS_PER_TURN: usize = 64;

/// Times that a command is sent on to where its order is. Twice is enough unless orders come and go at that moment.
pub const MAX_ELSEWHERE_TRIES: u32 = 16;

/// Times that a stored SKU is read which leaves memory at that moment.
pub const MAX_READ_TRIES: u32 = 3;

/// How long a page of stocks waits, in milliseconds, for the store to have what left memory: after a start some
/// milliseconds, longer only while a store that went back in time is made good.
pub const MAX_READ_WAIT_MILLIS: u64 = 2_000;

/// Numbers of the first generation of the filter of known numbers: 115 KB of bits for a small shop.
pub const KNOWN_FIRST_CAPACITY: u64 = 65_536;

/// Numbers of later generations, which grow up to this: 30 MB of bits each.
pub const KNOWN_MAX_CAPACITY: u64 = 16 << 20;

/// Of new numbers, those that one full generation takes for known ones. Each costs a look into the store.
pub const KNOWN_FALSE_POSITIVES: f64 = 0.001;

/// Generations of the filter of known numbers: together some 460 million numbers, in 850 MB. What is pruned makes room.
pub const MAX_GENERATIONS: usize = 32;

/// Numbers in one page of the scan that fills the filter.
pub const KNOWN_PAGE: usize = 10_000;

/// Stocks whose journals one call looks through for requests that have no row: usually few rows each, at the most some
/// thousand, which is a fraction of a second.
pub const KNOWN_STOCKS: usize = 256;

/// SKUs that are pinned by one message to a shard: some milliseconds of work, and two calls of the store.
pub const MAX_PINNED_PER_ENVELOPE: usize = 500;

/// How long the store keeps ended orders and stock requests, in days: a quarter, longer than returns are taken.
pub const DEFAULT_KEEP_DAYS: u64 = 90;

/// How long the store keeps the stock journal, in days: a year, for the books.
pub const DEFAULT_KEEP_JOURNAL_DAYS: u64 = 365;

/// How long the journal on the disk keeps what was flushed, in minutes: more than a store loses that is restored from
/// its newest log.
pub const DEFAULT_KEEP_FLUSHED_MINUTES: u64 = 15;

/// SKUs of one `Pinned` event: at most 64 KB of names.
pub const MAX_PINNED_PER_EVENT: usize = 1_000;

/// Lines on a SKU with whose serial numbers those of an order that comes from the store are compared: a millisecond
/// of work. A range that somebody wrote into the store by hand is told by `verify` and not kept out, where more lie
/// on the SKU.
pub const MAX_SERIALS_COMPARED: usize = 10_000;

/// The largest version of a stock, and the largest sum of serial numbers of a SKU, that is taken from the store: far
/// above what any stock reaches, exact in JSON, and far below where counting on would overflow.
pub const MAX_STORED_COUNT: u64 = 1 << 53;

/// SKUs that are promoted or demoted by one request, and on the hot list. From the HTTP contract: the preheat of a
/// sale.
pub const MAX_HOT_LIST: usize = 10_000;

/// How often the shards are flushed to the store, together: what a lost data directory would lose.
pub const DEFAULT_FLUSH_INTERVAL_MILLIS: u64 = 1_000;

/// Events of one flush transaction: large enough for multi-row statements to pay, short enough that its locks hinder
/// nobody.
pub const DEFAULT_FLUSH_EVENTS: usize = 20_000;

/// The backlog of the journal on disk before new reservations are refused: hours of a store that is down.
pub const DEFAULT_JOURNAL_CAP_BYTES: u64 = 16 << 30;

/// A checkpoint is due, whatever the number of events, when its shard has logged its part of one in so many of that
/// cap: what checkpoints alone keep on the disk then stays below a quarter of it, also while one is being written, and
/// the rest is for the store's backlog.
pub const CHECKPOINT_SHARE_OF_CAP: u64 = 8;

/// While the journal is full, how often shards are asked for the checkpoint that keeps it from being trimmed: one that
/// failed is tried again, and a large state is not written all the time.
pub const FULL_CHECKPOINT_MILLIS: u64 = 2_000;

/// The longest pause between two looks for a SKU or order that is on its way.
pub const MAX_LOOK_PAUSE_MILLIS: u64 = 20;

/// Chains of one batch that are settled at the same time: as many as the store has connections, give or take.
pub const MAX_BATCH_CHAINS: usize = 16;

/// The first pause before something is tried again in the background.
pub const MIN_RETRY_MILLIS: u64 = 20;

/// The longest: the store is found again this soon after it came back.
pub const MAX_RETRY_MILLIS: u64 = 2_000;

/// Estimated bytes of events of one flush transaction, beside their number: orders of many lines. One commit, or the
/// piece of it that the journal writes at once, is flushed as a whole, however large.
pub const MAX_FLUSH_BYTES: u64 = 16 << 20;

/// SKUs whose stock rows are left alone that are known in memory. More have been changed by hand than anybody
/// reconciles one by one.
pub const MAX_PARKED_KNOWN: usize = 10_000;

/// Samples of what was flushed when, within the time for which the journal keeps what was flushed: it is trimmed this
/// many times in it.
pub const TRIM_STEPS: u32 = 16;

/// How often a server tells the store that it is there, and finds out whether the store is still its own.
pub const HEARTBEAT_MILLIS: u64 = 1_000;

/// How long a heartbeat may take before the store counts as away.
pub const HEARTBEAT_TIMEOUT_MILLIS: u64 = 5_000;

/// How long a take-over waits for a store that does not let itself be taken: the session of a server that was frozen or
/// cut off may lock it, until the database ends that session (the SQL store has it do so after 10 s).
pub const TAKE_OVER_WAIT_MILLIS: u64 = 20_000;

/// Takes of the store that a data directory remembers, so that it knows its store again after that went back in time.
/// As many starts are further back than any journal reaches; 33 bytes each in a file that each start writes.
pub const MAX_TAKES_KNOWN: usize = 256;

/// How long a start waits for a store that does not answer: a restart of it in passing, not an outage.
pub const START_STORE_WAIT_MILLIS: u64 = 5_000;

/// A wall clock that differs by more from its own course was set: time services move it by less at once.
pub const MAX_CLOCK_OFF_MILLIS: u64 = 1_000;

/// A wall clock is followed by a part in so many of the time that goes by: a hold of 15 minutes ends at most 9
/// seconds sooner or later.
pub const CLOCK_FOLLOWS_ONE_IN: u64 = 100;

/// How long after a start something old enough is looked for the first time: the start has other things to do, and a
/// server that is started often has to come to it.
pub const FIRST_PRUNE_MILLIS: u64 = 5_000;

/// How often the store is looked through for what is older than it is kept.
pub const RETENTION_INTERVAL_MILLIS: u64 = 60_000;

/// Orders, requests and journal rows that one transaction prunes at the most, of each: some milliseconds of locks.
pub const PRUNE_BATCH: usize = 500;

/// The pause between two of them, so that flushes and loads come through.
pub const PRUNE_PAUSE_MILLIS: u64 = 100;

/// Rows of orders go this long after the time for which they are kept, in seconds: a clock that is set back by less
/// than this between two runs lets no order change whose rows went.
pub const PRUNE_MARGIN_SECONDS: u64 = 3_600;

/// How long the last flush may take before the engine stops without it; the journal has everything.
pub const FINAL_FLUSH_MILLIS: u64 = 5_000;

/// Events that are durable and not flushed through which the journal of a SKU is completed. Behind by more, the store
/// has to catch up first.
pub const MAX_UNFLUSHED_SCAN: u64 = 1_000_000;

/// Tries to read the journal of a SKU while the seam between store and journal moves.
pub const MAX_HISTORY_TRIES: usize = 5;

/// Changed stocks that are kept for the mirror while it is behind, some 25 MB. More would only make memory grow while
/// Redis is away: above it all stocks are mirrored again when it is back.
pub const MAX_DIRTY_STOCKS: usize = 250_000;

/// Time of one request of reconcile, in milliseconds; then it tells where to go on. What it does last (one piece, a
/// repair, the mirror) comes on top, so that it answers well within the time of a request.
pub const RECONCILE_MILLIS: u64 = 2_000;

/// Lines of orders, and rows of the journal, that reconcile reads at once: some ten milliseconds, some megabytes.
pub const RECONCILE_LINES: usize = 10_000;

/// See [`RECONCILE_LINES`].
pub const RECONCILE_JOURNAL_ROWS: usize = 10_000;

/// Pieces in which reconcile looks for the orders behind a difference; all of them are in memory then. In a longer
/// history none is named.
pub const MAX_RECONCILE_PIECES: usize = 40;

/// Events that are durable and not flushed which reconcile takes back, some tenths of a second. Behind by more, a SKU
/// that changed meanwhile is not compared.
pub const MAX_RECONCILE_UNFLUSHED: u64 = 300_000;

/// Walks that requests of reconcile could not finish, kept for those that go on with them; and for how long. A walk
/// that is not kept begins anew.
pub const MAX_RECONCILE_KEPT: usize = 16;

/// See [`MAX_RECONCILE_KEPT`].
pub const RECONCILE_KEEP_SECONDS: u64 = 300;

/// How often a repair is tried while the store goes on between what was read and what is written.
pub const RECONCILE_TRIES: u32 = 20;

/// Orders, and anomalies, that are named as the causes of one difference.
pub const MAX_RECONCILE_CAUSES: usize = 10;

/// The newest anomalies, among which reconcile looks for causes.
pub const RECONCILE_ANOMALIES: usize = 1_000;

/// How often reconcile looks at the mirror, which is some milliseconds behind.
pub const RECONCILE_MIRROR_LOOKS: u32 = 10;

/// The wait between those looks, in milliseconds.
pub const RECONCILE_PAUSE_MILLIS: u64 = 50;

/// Orders of one shard whose units are being held in other shards: each asks up to a thousand lines of them. More are
/// `overloaded`.
pub const MAX_ATTEMPTS: usize = 4_096;

/// How long the caller of a refused order waits until the participants that held let go, so that who asks next finds
/// their units, in milliseconds. Who does not answer by then is told when it does.
pub const ABANDON_WAIT_MILLIS: u64 = 1_000;

/// How long the caller of a decision waits until the participants have carried it out, in milliseconds. The decision
/// is logged by then and the answer stands; only the levels of a shard that does not answer are behind.
pub const PROPAGATE_WAIT_MILLIS: u64 = 3_000;

/// When a participant that was not heard of is told again, in milliseconds: nothing is lost between shards that run,
/// so this is for one that is being rebuilt. The pauses grow up to [`MAX_RETRY_MILLIS`].
pub const PROPAGATE_AGAIN_MILLIS: u64 = 1_000;

/// Orders of one [`Acknowledged`](crate::contract::event::Change::Acknowledged): some 50 KiB.
pub const MAX_ACKNOWLEDGED_PER_EVENT: usize = 512;

/// Holds that are asked after in one turn after a start, and orders whose participants are told again.
pub const MAX_ASKS_PER_TURN: usize = 256;

/// The wait until a coordinator that did not answer is asked again, in milliseconds.
pub const ASK_AGAIN_MILLIS: u64 = 1_000;

/// Orders whose time is over and that the order service is being asked about. Others stay due until there is room;
/// some 300 bytes each.
pub const MAX_WAITING_CHECKS: usize = 16_384;

/// Questions to the order service under way at the same time: a service that takes 50 ms is asked some 300 times a
/// second.
pub const DEFAULT_CHECK_CONCURRENCY: usize = 16;

/// How long the order service may take to say something of an order, in seconds: a restart of it. Its units are held
/// for so long more.
pub const DEFAULT_CHECK_GRACE_SECONDS: u32 = 60;

/// Orders of which the service has spoken and that are confirmed or expired at the same time: as many as fill a
/// commit, and few beside those of callers.
pub const MAX_CHECKS_CARRIED_AT_ONCE: usize = 64;

/// Orders of one page of the list of orders that are asked of their shards, because the store does not have their
/// last change yet: some milliseconds of their time. What comes after them is the next page's.
pub const MAX_LIST_LOOKS: usize = 2_048;

/// SKUs, or orders, in one page of a list.
pub const MAX_PAGE_ROWS: usize = 1_000;

/// Stocks in one page, give or take the warehouses of its last SKU: new stocks can't be published while a page is read,
/// and this takes under a millisecond.
pub const MAX_PAGE_STOCKS: usize = 5_000;

/// Shards of one data directory: an upper bound for sanity, far above the cores of any machine.
pub const MAX_SHARDS: u16 = 1_024;

const _: () = assert!(MAX_COMMANDS_PER_ENVELOPE <= MAX_COMMANDS_PER_TURN);
const _: () = assert!(MAX_PINNED_PER_ENVELOPE <= MAX_PINNED_PER_EVENT);
const _: () = assert!(MAX_HOT_LIST <= MAX_WAITING_NEEDS);
const _: () = assert!((DEFAULT_GATE_PERMITS as usize) >= 10_000, "a batch of 10,000 must fit an idle gate");
const _: () = assert!(TICK_MILLIS < 1_000, "an expiry is at most a second late");
const _: () = assert!((MAX_LINE_QUANTITY as u64) * 4 <= u32::MAX as u64);
const _: () = assert!(MAX_STOCK_UNITS < 1 << 53);
