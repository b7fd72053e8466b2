//! Every bound of the durable storage that is not one of a file format, in one place, each with its reason.

/// Waits between tries to reach the mirror, or to read what it lacks: doubled from the first to the last, each with some
/// jitter, so that servers that lost one Redis together don't come back together.
pub const MIRROR_FIRST_PAUSE_MILLIS: u64 = 50;

/// See [`MIRROR_FIRST_PAUSE_MILLIS`]: a Redis that comes back is mirrored to again within seconds.
pub const MIRROR_LAST_PAUSE_MILLIS: u64 = 5_000;

/// How often the mirror looks whether Redis was emptied.
pub const MIRROR_CHECK_MILLIS: u64 = 1_000;

/// After this many seconds without a look the mark by which that is seen goes by itself: nothing stays of servers that are no more.
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

const _: () = assert!(MIRROR_FIRST_PAUSE_MILLIS < MIRROR_LAST_PAUSE_MILLIS);
const _: () = assert!(MIRROR_CHECK_MILLIS + MAX_MIRROR_MILLIS < MIRROR_MARK_SECONDS * 1_000);
