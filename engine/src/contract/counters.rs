//! Everything that the engine and the mirror count, and every other number that they tell of themselves: each written
//! once, here.
//!
//! A declaration of `counters!` gives three things: the counters themselves (atomics, added to where something
//! happens), the copy of them that is told at one moment (`…Stats`, with what is read at that moment beside what was
//! counted), and the list of metrics that `/metrics` prints (`…Stats::METRICS`). Names and help texts are a promise to
//! those who watch a server; `tests/metrics.txt` holds it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::clock::ClockStatus;
use crate::base::ids::{Lsn, ShardId};

/// How a metric goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// It grows, from 0 at the start of the server.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A metric: one number of a `…Stats`.
#[derive(Debug)]
pub struct Metric<S> {
    /// Its name, without the prefix of the program. Several metrics that follow each other may share one: they are told
    /// apart by their label.
    pub name: &'static str,
    /// What it counts, for people.
    pub help: &'static str,
    /// How it goes on.
    pub kind: MetricKind,
    /// Name and value of the label that tells it apart from others of its name.
    pub label: Option<(&'static str, &'static str)>,
    /// How it is read.
    pub read: Read<S>,
}

/// How a metric is read.
#[derive(Debug)]
pub enum Read<S> {
    /// As a whole number.
    Number(fn(&S) -> u64),
    /// As a time in seconds.
    Seconds(fn(&S) -> f64),
}

/// A whole number that a counter can hold and a metric can show.
trait Number {
    fn of(count: u64) -> Self;
    fn number(&self) -> u64;
}

impl Number for u64 {
    fn of(count: u64) -> Self {
        count
    }

    fn number(&self) -> u64 {
        *self
    }
}

impl Number for Lsn {
    fn of(count: u64) -> Self {
        Self(count)
    }

    fn number(&self) -> u64 {
        self.0
    }
}

macro_rules! kind {
    (counter) => {
        MetricKind::Counter
    };
    (gauge) => {
        MetricKind::Gauge
    };
}

/// How a field becomes the value of its metric: as it is, or as seconds.
macro_rules! read {
    ($field:ident) => {
        Read::Number(|stats| stats.$field.number())
    };
    ($field:ident micros) => {
        Read::Seconds(
            #[allow(clippy::cast_precision_loss, reason = "microseconds are exact for 285 years")]
            |stats| stats.$field as f64 / 1_000_000.0,
        )
    };
    ($field:ident millis) => {
        Read::Seconds(
            #[allow(clippy::cast_precision_loss, reason = "milliseconds are exact for ages")]
            |stats| stats.$field as f64 / 1_000.0,
        )
    };
}

/// Declares what is counted of one thing: its counters, its stats and its metrics. The sections, each of which may be
/// missing but the first, and each of which is a list of fields:
///
/// - `counted`: counted, and shown as a metric.
/// - `labelled NAME, HELP, LABEL`: likewise, as one metric; the name of each field is the value of its label.
/// - `kept`: counted, and not shown as a metric of its own.
/// - `read`: read when the stats are made, and shown as a metric.
/// - `told`: read when the stats are made, and not shown as a metric of its own.
/// - `derived`: metrics without a field: how they follow from the stats.
macro_rules! counters {
    (
        $(#[$counters_meta:meta])*
        $counters_vis:vis struct $Counters:ident;
        $(#[$stats_meta:meta])*
        pub struct $Stats:ident;
        counted {
            $($c_kind:ident $(($c_unit:ident))? $c_field:ident: $C:ty, $c_name:literal, $c_help:literal;)*
        }
        $(labelled $l_name:literal, $l_help:literal, $label:literal {
            $($(#[$l_meta:meta])* $l_field:ident;)*
        })?
        $(kept { $($(#[$k_meta:meta])* $k_field:ident;)* })?
        $(read {
            $($r_kind:ident $(($r_unit:ident))? $r_field:ident: $R:ty, $r_name:literal, $r_help:literal;)*
        })?
        $(told { $($(#[$t_meta:meta])* $t_field:ident: $T:ty;)* })?
        $(derived { $($d_kind:ident $d_name:literal, $d_help:literal, $d_value:expr;)* })?
    ) => {
        $(#[$counters_meta])*
        #[derive(Debug, Default)]
        $counters_vis struct $Counters {
            $(#[doc = concat!($c_help, ".")] pub $c_field: AtomicU64,)*
            $($($(#[$l_meta])* pub $l_field: AtomicU64,)*)?
            $($($(#[$k_meta])* pub $k_field: AtomicU64,)*)?
        }

        $(#[$stats_meta])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $Stats {
            $(#[doc = concat!($c_help, ".")] pub $c_field: $C,)*
            $($($(#[$l_meta])* pub $l_field: u64,)*)?
            $($($(#[$k_meta])* pub $k_field: u64,)*)?
            $($(#[doc = concat!($r_help, ".")] pub $r_field: $R,)*)?
            $($($(#[$t_meta])* pub $t_field: $T,)*)?
        }

        impl $Counters {
            /// What was counted so far. What is read beside it is empty, and for the caller to fill in.
            #[must_use]
            pub fn counted(&self) -> $Stats {
                let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                $Stats {
                    $($c_field: Number::of(get(&self.$c_field)),)*
                    $($($l_field: get(&self.$l_field),)*)?
                    $($($k_field: get(&self.$k_field),)*)?
                    ..$Stats::default()
                }
            }
        }

        impl $Stats {
            /// What `/metrics` prints of it.
            pub const METRICS: &'static [Metric<Self>] = &[
                $(Metric {
                    name: $c_name,
                    help: $c_help,
                    kind: kind!($c_kind),
                    label: None,
                    read: read!($c_field $($c_unit)?),
                },)*
                $($(Metric {
                    name: $l_name,
                    help: $l_help,
                    kind: MetricKind::Counter,
                    label: Some(($label, stringify!($l_field))),
                    read: read!($l_field),
                },)*)?
                $($(Metric {
                    name: $r_name,
                    help: $r_help,
                    kind: kind!($r_kind),
                    label: None,
                    read: read!($r_field $($r_unit)?),
                },)*)?
                $($(Metric {
                    name: $d_name,
                    help: $d_help,
                    kind: kind!($d_kind),
                    label: None,
                    read: Read::Number($d_value),
                },)*)?
            ];
        }
    };
}

/// How far the store has taken in what a shard logged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlushStats {
    /// Whose.
    pub shard: ShardId,
    /// The last event in the store.
    pub flushed: Lsn,
    /// The last durable event.
    pub durable: Lsn,
    /// Events between the two.
    pub lag_events: u64,
    /// Age of the oldest of them, in milliseconds; 0 when there is none.
    pub lag_millis: u64,
    /// Why the last flush failed; `None`: it did not.
    pub last_error: Option<String>,
}

/// What keeps a journal at its cap from being trimmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalFull {
    /// The store has not taken in what is logged.
    Store,
    /// The store has it; checkpoints of these shards are being written, or can't be.
    Checkpoint(Vec<ShardId>),
}

impl std::fmt::Display for JournalFull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store => f.write_str("the store is too far behind"),
            Self::Checkpoint(shards) => {
                let shards: Vec<_> = shards.iter().map(ToString::to_string).collect();
                write!(f, "the journal waits for a checkpoint of shard {}", shards.join(", "))
            }
        }
    }
}

/// What the filter says of itself, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KnownStats {
    /// It knows everything that left memory; otherwise it is being filled from the store, and new numbers are looked
    /// up there.
    pub is_ready: bool,
    /// There is no room for another generation: new numbers are ever more often looked up in the store.
    pub is_full: bool,
    /// Numbers in it.
    pub numbers: u64,
    /// Generations.
    pub generations: u64,
    /// Bytes that they take.
    pub bytes: u64,
}

counters! {
    /// Counters of one shard, most of them written by its actor once a turn.
    pub(crate) struct ShardCounters;
    /// One shard at one moment.
    pub struct ShardStats;
    counted {
        gauge applied: Lsn, "shard_applied_lsn", "The last event applied";
        gauge checkpoint: Lsn, "shard_checkpoint_lsn", "The last checkpoint";
        gauge open_orders: u64, "shard_open_orders", "Orders with units held";
        gauge orders: u64, "shard_orders", "Orders in memory";
        gauge stocks: u64, "shard_stocks", "Stocks in memory";
        gauge resident: u64, "shard_resident_skus", "SKUs in memory";
        gauge hot: u64, "shard_hot_skus", "Of them, those that are kept there until they are demoted";
        gauge bytes: u64, "shard_memory_bytes", "Estimated bytes of SKUs, orders and request ids in memory";
        counter evicted: u64, "shard_evicted_skus", "SKUs that left memory because there were too many";
        counter loaded_skus: u64, "shard_loaded_skus", "SKUs that came from the store";
        counter loaded_orders: u64, "shard_loaded_orders", "Orders that came back from the store";
        counter loaded_requests: u64, "shard_loaded_requests", "Stock requests that came back from the store";
        counter absent_hits: u64, "shard_absent_hits", "Commands about SKUs that were known not to be there";
        gauge holds: u64, "shard_holds", "Holds of units for orders that other shards decide";
        gauge waiting: u64, "shard_waiting", "Commands that wait for something from the store";
        counter waits: u64, "shard_waits", "Messages that waited for the store";
        counter(micros) wait_micros: u64, "shard_wait_duration", "Time that messages waited for the store";
        counter commands: u64, "shard_commands", "Commands decided";
        counter turns: u64, "shard_turns", "Turns of the actor";
        counter refusals: u64, "shard_refusals", "Refusals of all kinds";
        counter overloaded: u64, "shard_overloaded", "Commands turned away at the gate";
        counter expired: u64, "shard_expired", "Orders that expired";
        counter forgotten: u64,
            "shard_forgotten", "Ended orders and request ids that left memory by age or number";
        counter forgotten_early: u64,
            "shard_forgotten_early", "Of those, the ones that left before their time because there were too many";
        counter checkpoint_failures: u64,
            "shard_checkpoint_failures", "Checkpoints that could not be written";
        counter rebuilds: u64, "shard_rebuilds", "Times that the shard was rebuilt after a panic";
    }
    kept {
        /// Orders over several shards with something under way.
        cross_shard;
    }
    read {
        gauge in_flight: u64, "shard_in_flight", "Commands under way";
        gauge durable: Lsn, "shard_durable_lsn", "The last durable event";
        gauge flushed: Lsn, "shard_flushed_lsn", "The last event in the store";
        gauge lag_events: u64, "shard_flush_lag_events", "Durable events that are not in the store yet";
        gauge(millis) lag_millis: u64,
            "shard_flush_lag", "Age of the oldest durable event that is not in the store yet";
        gauge unsynced_bytes: u64,
            "shard_unsynced_bytes", "Estimated bytes of events that wait for their sync";
    }
    told {
        /// Why the last flush failed; `None`: it did not.
        flush_error: Option<String>;
    }
    derived {
        gauge "shard_flush_failing", "1 when the last flush failed", |stats| {
            u64::from(stats.flush_error.is_some())
        };
    }
}

counters! {
    /// Counters of orders over several shards, of all coordinators and participants.
    pub(crate) struct CrossShardCounters;
    /// Orders over several shards at one moment.
    #[derive(Copy)]
    pub struct CrossShardStats;
    counted {
        counter made: u64, "cross_shard_made", "Orders over several shards that were made";
        counter refused: u64,
            "cross_shard_refused", "Commands that needed units of other shards and were refused";
        counter overloaded: u64,
            "cross_shard_overloaded", "Of such commands, those turned away because too many were under way";
        counter attempts: u64, "cross_shard_attempts", "Attempts to hold units in other shards";
        counter abandoned: u64,
            "cross_shard_abandoned", "Of those, the ones that were given up after something was held";
        counter instructions: u64, "cross_shard_instructions", "Decisions that participants were told";
        counter repeated: u64,
            "cross_shard_repeated", "Orders whose participants were told again, because they were not heard of";
        counter asked: u64,
            "cross_shard_asked", "Holds whose coordinators were asked, after a start or a rebuild";
        counter released: u64,
            "cross_shard_released", "Of those, the ones that no order knew and that were released";
        counter misfits: u64, "cross_shard_misfits", "Decisions that a participant could not carry out";
    }
    read {
        gauge under_way: u64, "cross_shard_under_way", "Orders over several shards with something under way";
    }
}

counters! {
    /// Counters of the questions to the order service.
    pub(crate) struct CheckCounters;
    /// The questions to the order service at one moment.
    pub struct CheckStats;
    counted {
        counter asked: u64, "order_checks", "Questions to the order service";
        counter failed: u64, "order_check_failures", "Of those, the ones without an answer";
    }
    labelled
        "order_check_outcomes",
        "Orders by what the order service said (paid, unpaid, cancelled), what became of those of which it said nothing in time (released, kept), and paid ones that could not be confirmed any more (refused)",
        "outcome"
    {
        /// Orders that were said to be paid.
        paid;
        /// Orders that were said to be unpaid.
        unpaid;
        /// Orders that were said to be cancelled.
        cancelled;
        /// Orders without an answer in time that expired.
        released;
        /// Orders without an answer in time that were kept.
        kept;
        /// Paid orders that could not be confirmed any more.
        refused;
    }
    read {
        gauge waiting: u64,
            "order_checks_waiting", "Orders whose time is over and that wait for an answer of the order service, or for what follows from it";
    }
}

counters! {
    /// Counters of the calls of the SQL store.
    pub(crate) struct StoreCounters;
    /// The SQL store, and this server's right to it, at one moment.
    pub struct StoreStats;
    counted {
        counter loads: u64, "loads", "Calls of the store that read what commands waited for";
        counter(micros) load_micros: u64,
            "load_duration", "Time spent in calls that read what commands waited for";
        counter not_found: u64,
            "loads_not_found", "Orders and requests that were taken for known ones and were not there";
        counter store_errors: u64, "store_errors", "Calls of the store that failed";
        counter went_back: u64,
            "store_went_back", "Times that the store was found further back than it was flushed";
        counter anomalies: u64, "anomalies", "Conflicts that flushes found and recorded";
        counter flushes: u64, "flushes", "Flush transactions";
        counter(micros) flush_micros: u64, "flush_duration", "Time spent in flush transactions";
        counter flushed_events: u64, "flushed_events", "Events in them";
        counter flushed_rows: u64, "flushed_rows", "Rows that they wrote";
        counter pruned_orders: u64, "pruned_orders", "Ended orders that were pruned from the store";
        counter pruned_requests: u64, "pruned_requests", "Stock requests that were pruned";
        counter pruned_journal: u64, "pruned_journal_rows", "Rows of the stock journal that were pruned";
    }
    read {
        gauge epoch: u64, "store_epoch", "The epoch of this server; 0 until it has taken the store";
        gauge(millis) clock_offset_millis: i64,
            "store_clock_offset", "The store's clock less this server's, when it was last asked";
        gauge parked: u64, "parked_skus", "SKUs whose rows in the store are left alone";
        gauge loads_waiting: u64,
            "loads_waiting", "Things that are wanted and that no such call looks for yet";
    }
    told {
        /// Why the store could not do what it was last asked; `None`: it could. What is in memory goes on either way.
        problem: Option<String>;
        /// Why this server takes no orders, if it is fenced.
        fenced: Option<String>;
        /// Why no new reservations are taken, while the journal is at its cap.
        journal_full: Option<JournalFull>;
        /// The filter of known numbers.
        known: KnownStats;
    }
    derived {
        gauge "store_up", "1 when the store could do what it was last asked", |stats| {
            u64::from(stats.problem.is_none())
        };
        gauge "fenced", "1 when this server takes no orders, because it may not be the one that decides", |stats| {
            u64::from(stats.fenced.is_some())
        };
        gauge "journal_full", "1 while new reservations are refused: the journal is at its cap on the disk", |stats| {
            u64::from(stats.journal_full.is_some())
        };
        gauge
            "journal_full_by_checkpoint",
            "Of these, 1 while checkpoints alone are waited for: the store has what is logged",
            |stats| u64::from(matches!(stats.journal_full, Some(JournalFull::Checkpoint(_))));
        gauge "known_ready", "1 when the filter of known numbers has all; until then new ones are looked up", |stats| {
            u64::from(stats.known.is_ready)
        };
        gauge "known_full", "1 when it has no more room: new numbers are ever more often looked up", |stats| {
            u64::from(stats.known.is_full)
        };
        gauge "known_numbers", "Numbers in it", |stats| stats.known.numbers;
        gauge "known_bytes", "Bytes that it takes", |stats| stats.known.bytes;
    }
}

counters! {
    /// Counters of the journal writer.
    pub(crate) struct JournalCounters;
    /// The engine at one moment: its journal, and all that has stats of its own.
    pub struct Stats;
    counted {
        counter commits: u64, "journal_commits", "Group commits";
        counter committed_events: u64, "journal_events", "Events made durable";
    }
    kept {
        /// Time spent in commits (write and sync), in microseconds.
        commit_micros;
    }
    read {
        gauge journal_disk_bytes: u64, "journal_disk_bytes", "Bytes of the journal on disk";
        gauge directory_orders: u64, "directory_orders", "Orders that the directory knows";
    }
    told {
        /// Commits by duration: `(upper bound in microseconds, commits at or below it)`, cumulative.
        commit_histogram: Vec<(u64, u64)>;
        /// One entry per shard.
        shards: Vec<ShardStats>;
        /// What concerns the store.
        store: StoreStats;
        /// What became of orders that the order service was asked about; `None` without one.
        checks: Option<CheckStats>;
        /// Orders over several shards.
        cross_shard: CrossShardStats;
        /// How the clock stands to the wall clock.
        clock: ClockStatus;
    }
    derived {
        gauge
            "clock_jumped",
            "1 while the wall clock was set far away from this server's clock, which does not follow it",
            |stats| u64::from(stats.clock.jumped);
    }
}

counters! {
    /// Counters of the Redis mirror.
    pub struct MirrorCounters;
    /// The Redis mirror at one moment.
    pub struct MirrorStats;
    counted {
        counter resyncs: u64, "mirror_resyncs", "Times that all stocks were mirrored";
        counter written: u64, "mirror_written", "Stocks sent to Redis";
        counter batches: u64, "mirror_batches", "Round trips with stocks";
    }
    kept {
        /// Connections that failed or were not to be had.
        errors;
        /// Pages of stocks that could not be read.
        source_errors;
    }
    read {
        gauge lag: u64, "mirror_lag", "Stocks that changed and are not in Redis yet";
    }
    told {
        /// Whether Redis answers.
        connected: bool;
        /// Whether all stocks are being mirrored again, or will be.
        resyncing: bool;
        /// How long ago Redis last took something or was found to be as it was left; `None`: never.
        since_success: Option<Duration>;
        /// The last error of a connection.
        last_error: Option<String>;
    }
    derived {
        gauge "mirror_up", "1 while Redis answers", |stats| u64::from(stats.connected);
        gauge "mirror_resyncing", "1 while all stocks are mirrored again", |stats| u64::from(stats.resyncing);
        counter "mirror_errors", "Connections and reads that failed", |stats| {
            stats.errors + stats.source_errors
        };
    }
}
