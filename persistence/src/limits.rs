//! Every bound of this crate's SQL store, imports and mirror, in one place, each with its reason. (Those of the
//! journal stand beside their code.)

use std::time::Duration;

use hotstock_engine::limits::TAKE_OVER_WAIT_MILLIS;

/// Connections to MySQL, and readers of SQLite, unless the configuration says otherwise: two transactions per core of
/// a usual database server saturate it; more only wait for each other's rows.
pub const DEFAULT_CONNECTIONS: usize = 16;

/// How long a caller waits for a connection, and a statement for its answer, unless the configuration says otherwise.
/// A database that is stopped makes every caller wait this long at most twice.
pub const DEFAULT_SQL_TIMEOUT: Duration = Duration::from_secs(5);

/// Callers that wait for a connection, per connection. More would wait longer than [`DEFAULT_SQL_TIMEOUT`] at a few
/// hundred transactions a second, so they are told at once that the store is busy.
pub const MAX_WAITING_PER_CONNECTION: usize = 64;

/// Callers that wait for the one writing connection of SQLite: with a sync of a millisecond or two per transaction
/// the last of them waits for about a second.
pub const MAX_WAITING_WRITERS: usize = 1_024;

/// Tries of one transaction that others are in the way of. Rows are locked in one order, so a deadlock is rare and a
/// second one of the same transaction rarer.
pub const MAX_TRIES: u32 = 10;

/// The longest pause before the second try; it doubles with every further one, and each is a random part of it.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(4);

/// The longest pause between two tries.
pub const MAX_BACKOFF: Duration = Duration::from_millis(250);

/// After a failed first connection callers are refused at once for this long, so that a database which is down costs
/// each of them nothing and the database no storm when it comes back.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(250);

/// A session of ours that says nothing for this long is ended by MySQL, and what it began is rolled back. A server
/// that is frozen or cut off in the middle of a transaction keeps its rows locked for no longer; one that lives says
/// the next thing within milliseconds, and an idle session is replaced when it is needed.
pub const SILENT_SESSION: Duration = Duration::from_secs(10);

/// How long the migrations may take, and a second server waits for the first one's.
pub const MIGRATE_TIMEOUT: Duration = Duration::from_secs(60);

/// Rows of one multi-row statement. The widest row has 18 columns, so that this makes 2,304 marks: SQLite takes 32,766,
/// MySQL 65,535.
pub const MAX_ROWS_PER_STATEMENT: usize = 128;

/// Bytes of one multi-row statement: what a database takes in a few milliseconds, and far below what one is set up to
/// refuse.
pub const MAX_BYTES_PER_STATEMENT: usize = 1 << 20;

/// A statement for SQLite may be this large. It takes values of up to a gigabyte; a record comes nowhere near.
pub const SQLITE_LARGEST_STATEMENT: usize = 256 << 20;

/// Memory for pages of the connection that writes to SQLite: those of a large flush, so that none is written twice in
/// one.
pub const SQLITE_CACHE_KIB: u32 = 64 << 10;

/// Pages in the WAL of SQLite before they are brought into the file (of 4 KiB each): some flushes, whose pages are
/// often the same.
pub const SQLITE_CHECKPOINT_PAGES: u32 = 8_192;

/// Keys that one statement looks for.
pub const MAX_KEYS_PER_STATEMENT: usize = 256;

/// Rows of a table, of which only some are wanted, that one statement goes through: some ten milliseconds.
pub const ROWS_OF_A_PIECE: usize = 10_000;

/// Warehouses whose journals one statement reads. SQLite takes 500 parts of a union; few SKUs have more than these.
pub const MAX_WAREHOUSES_PER_STATEMENT: usize = 32;

/// Small queries that one statement puts together, each for the first row that it finds. SQLite takes 500.
pub const MAX_UNION: usize = 64;

/// Orders and stock requests without a row that one piece of a history names: an operator reads no more of them.
pub const MAX_MISFITS: usize = 100;

/// The newest rows of a stock's journal among which a stock request is looked for that should have a row and has none:
/// a millisecond. It is looked for when the filter takes a new id for a known one, so once in a thousand, and for all
/// stocks when the filter is made anew.
pub const MAX_VERSIONS_LOOKED_AT: usize = 2_000;

/// Bytes of the words of an anomaly; the column takes 1,024.
pub const MAX_DETAIL_BYTES: usize = 1_000;

/// Events that a flush turns into rows before it lets others on its thread go on: less than a millisecond.
pub const EVENTS_WITHOUT_PAUSE: usize = 500;

/// Rows that one flush may leave out because they do not fit. More are a sign that the tables are not those of this
/// program.
pub const MAX_REFUSED_ROWS: usize = 100;

/// Prepared statements that a connection keeps. Lists are cut to powers of two, so there are few texts.
pub const STATEMENTS_PER_CONNECTION: usize = 256;

/// Rows of an import that wait between the source and the one who creates stocks of them; some 100 KB.
pub const IMPORT_ROWS_AHEAD: usize = 1_024;

/// A source of an import that does not take a connection within this is not there.
pub const IMPORT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the source of an import keeps rows that are not taken yet, in seconds: creating stocks may be slow.
pub const IMPORT_NET_WRITE_TIMEOUT_SECONDS: u32 = 3_600;

/// Refused rows and conflicts that the report of an import keeps as examples, for each reason: enough to see what is
/// wrong.
pub const MAX_IMPORT_EXAMPLES: usize = 20;

/// Waits between tries to reach the mirror, or to read what it lacks: doubled from the first to the last, each with
/// some jitter, so that servers that lost one Redis together don't come back together.
pub const MIRROR_FIRST_PAUSE_MILLIS: u64 = 50;

/// See [`MIRROR_FIRST_PAUSE_MILLIS`]: a Redis that comes back is mirrored to again within seconds.
pub const MIRROR_LAST_PAUSE_MILLIS: u64 = 5_000;

/// How often the mirror looks whether Redis was emptied.
pub const MIRROR_CHECK_MILLIS: u64 = 1_000;

/// After this many seconds without a look the mark by which that is seen goes by itself: nothing stays of servers
/// that are no more.
pub const MIRROR_MARK_SECONDS: u64 = 3_600;

/// A page for the mirror that takes longer is asked for again: the store may be stuck.
pub const MIRROR_PAGE_TIMEOUT_MILLIS: u64 = 10_000;

/// SKUs in one page that the mirror reads: the work of some milliseconds.
pub const MIRROR_PAGE_SKUS: usize = 500;

/// Stocks in one round trip to the mirror, at the most: Redis serves nobody else meanwhile, about 10 microseconds each.
pub const MAX_MIRROR_BATCH: usize = 10_000;

/// The longest that changes may be gathered before they are mirrored, and that Redis may take to answer.
pub const MAX_MIRROR_MILLIS: u64 = 60_000;

/// The longest prefix of the mirror's keys, in bytes; it is part of every key.
pub const MAX_MIRROR_PREFIX_BYTES: usize = 64;

const _: () = assert!(MAX_ROWS_PER_STATEMENT.is_power_of_two() && MAX_KEYS_PER_STATEMENT.is_power_of_two());
const _: () = assert!(MAX_ROWS_PER_STATEMENT * 18 < 32_766);
const _: () = assert!(SILENT_SESSION.as_millis() + 5_000 <= TAKE_OVER_WAIT_MILLIS as u128);
const _: () = assert!(MIRROR_FIRST_PAUSE_MILLIS < MIRROR_LAST_PAUSE_MILLIS);
const _: () = assert!(MIRROR_CHECK_MILLIS + MAX_MIRROR_MILLIS < MIRROR_MARK_SECONDS * 1_000);
