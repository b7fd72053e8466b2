//! What is counted. Every metric's name and help text stands in this file, once.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use hotstock_engine::check::CheckStats;
use hotstock_engine::engine::JournalFull;
use hotstock_engine::engine::{Engine, ShardStats, CrossShardStats, StoreStats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::codes::{Code, TABLE};
use crate::limits::MirrorLink;
use crate::routes::{ROUTES, Route};

/// Statuses that this server answers with; each route has one counter for each.
const STATUSES: [u16; 16] = [200, 201, 400, 401, 403, 404, 405, 408, 409, 413, 422, 431, 500, 503, 504, 0];

/// Upper bounds of the latency histogram, in seconds: from what a commit takes to the request timeout.
const LATENCY_BUCKETS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: &'static str,
}

/// The counters of the HTTP server, and the engine's.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    /// By the place of the route in [`ROUTES`]: found by index, so that a request takes no lock of a family.
    routes: Vec<RouteMetrics>,
    /// By the place of the code in [`TABLE`].
    problems: Vec<Counter>,
    connections: Gauge,
}

struct RouteMetrics {
    /// By the place of the status in [`STATUSES`]; made when the first request ends with it, so that `/metrics` lists
    /// what happened and not every combination.
    requests: [OnceLock<Counter>; STATUSES.len()],
    latency: Histogram,
}

impl Metrics {
    /// The metrics of a server over `engine`, and of the mirror beside it.
    #[must_use]
    pub fn new(engine: Engine, mirror: Option<MirrorLink>) -> Self {
        let mut registry = Registry::with_prefix("hotstock");
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("http_requests", "Requests by route, method and status", requests.clone());
        let latency =
            Family::<RouteLabels, Histogram>::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS));
        registry.register_with_unit(
            "http_request_duration",
            "From the end of a request's head to its answer, by route and method",
            Unit::Seconds,
            latency.clone(),
        );
        let problems = Family::<CodeLabels, Counter>::default();
        registry.register(
            "problems",
            "Problems answered by code, also those within batches",
            problems.clone(),
        );
        let connections = Gauge::default();
        registry.register("http_connections", "Open connections", connections.clone());
        registry.register_collector(Box::new(EngineMetrics(engine)));
        if let Some(mirror) = mirror {
            registry.register_collector(Box::new(MirrorMetrics(mirror)));
        }
        let of_route = |info: &crate::routes::RouteInfo| RouteMetrics {
            requests: [const { OnceLock::new() }; STATUSES.len()],
            latency: latency
                .get_or_create(&RouteLabels { route: info.path, method: info.method.name() })
                .clone(),
        };
        let of_code =
            |info: &crate::codes::CodeInfo| problems.get_or_create(&CodeLabels { code: info.name }).clone();
        Self {
            registry,
            requests,
            routes: ROUTES.iter().map(of_route).collect(),
            problems: TABLE.iter().map(of_code).collect(),
            connections,
        }
    }

    /// Counts a request that was answered.
    pub fn request(&self, route: Route, status: u16, took: Duration) {
        let metrics = &self.routes[route as usize];
        // The last place takes what the table does not know.
        let place = STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len() - 1);
        let counter = metrics.requests[place].get_or_init(|| {
            let info = route.info();
            let labels =
                RequestLabels { route: info.path, method: info.method.name(), status: STATUSES[place] };
            self.requests.get_or_create(&labels).clone()
        });
        counter.inc();
        metrics.latency.observe(took.as_secs_f64());
    }

    /// Counts a problem.
    pub fn problem(&self, code: Code) {
        self.problems[code as usize].inc();
    }

    /// Counts a connection as open until the guard is dropped.
    #[must_use]
    pub fn connection(&self) -> ConnectionGuard {
        self.connections.inc();
        ConnectionGuard(self.connections.clone())
    }

    /// All of it, in the text format of [`CONTENT_TYPE`].
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("writing to a String does not fail");
        text
    }
}

/// What [`Metrics::text`] is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// See [`Metrics::connection`].
pub struct ConnectionGuard(Gauge);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A metric that the engine keeps for every shard.
struct ShardMetric {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: fn(&ShardStats) -> u64,
}

const fn counter(name: &'static str, help: &'static str, value: fn(&ShardStats) -> u64) -> ShardMetric {
    ShardMetric { name, help, kind: MetricType::Counter, value }
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&ShardStats) -> u64) -> ShardMetric {
    ShardMetric { name, help, kind: MetricType::Gauge, value }
}

const SHARD_METRICS: [ShardMetric; 30] = [
    gauge("shard_in_flight", "Commands under way", |s| s.in_flight),
    gauge("shard_applied_lsn", "The last event applied", |s| s.applied.0),
    gauge("shard_durable_lsn", "The last durable event", |s| s.durable.0),
    gauge("shard_checkpoint_lsn", "The last checkpoint", |s| s.checkpoint.0),
    gauge("shard_open_orders", "Orders with units held", |s| s.open_orders),
    gauge("shard_orders", "Orders in memory", |s| s.orders),
    gauge("shard_stocks", "Stocks in memory", |s| s.stocks),
    gauge("shard_resident_skus", "SKUs in memory", |s| s.resident),
    gauge("shard_hot_skus", "Of them, those that are kept there until they are demoted", |s| s.hot),
    gauge("shard_memory_bytes", "Estimated bytes of SKUs, orders and request ids in memory", |s| s.bytes),
    counter("shard_evicted_skus", "SKUs that left memory because there were too many", |s| s.evicted),
    counter("shard_loaded_skus", "SKUs that came from the store", |s| s.loaded_skus),
    counter("shard_loaded_orders", "Orders that came back from the store", |s| s.loaded_orders),
    counter("shard_loaded_requests", "Stock requests that came back from the store", |s| s.loaded_requests),
    counter("shard_absent_hits", "Commands about SKUs that were known not to be there", |s| s.absent_hits),
    gauge("shard_waiting", "Commands that wait for something from the store", |s| s.waiting),
    counter("shard_waits", "Messages that waited for the store", |s| s.waits),
    gauge("shard_flushed_lsn", "The last event in the store", |s| s.flushed.0),
    gauge("shard_flush_lag_events", "Durable events that are not in the store yet", |s| s.lag_events),
    gauge("shard_flush_failing", "1 when the last flush failed", |s| u64::from(s.flush_error.is_some())),
    counter("shard_commands", "Commands decided", |s| s.commands),
    counter("shard_turns", "Turns of the actor", |s| s.turns),
    counter("shard_refusals", "Refusals of all kinds", |s| s.refusals),
    counter("shard_overloaded", "Commands turned away at the gate", |s| s.overloaded),
    counter("shard_expired", "Orders that expired", |s| s.expired),
    counter("shard_forgotten", "Ended orders and request ids that left memory by age or number", |s| {
        s.forgotten
    }),
    counter(
        "shard_forgotten_early",
        "Of those, the ones that left before their time because there were too many",
        |s| s.forgotten_early,
    ),
    gauge("shard_unsynced_bytes", "Estimated bytes of events that wait for their sync", |s| s.unsynced_bytes),
    counter("shard_checkpoint_failures", "Checkpoints that could not be written", |s| s.checkpoint_failures),
    counter("shard_rebuilds", "Times that the shard was rebuilt after a panic", |s| s.rebuilds),
];

/// A metric that the engine keeps of the SQL store.
struct StoreMetric {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: fn(&StoreStats) -> u64,
}

const fn store_counter(name: &'static str, help: &'static str, value: fn(&StoreStats) -> u64) -> StoreMetric {
    StoreMetric { name, help, kind: MetricType::Counter, value }
}

const fn store_gauge(name: &'static str, help: &'static str, value: fn(&StoreStats) -> u64) -> StoreMetric {
    StoreMetric { name, help, kind: MetricType::Gauge, value }
}

const STORE_METRICS: [StoreMetric; 22] = [
    store_gauge("store_up", "1 when the store could do what it was last asked", |s| {
        u64::from(s.problem.is_none())
    }),
    store_gauge("store_epoch", "The epoch of this server; 0 until it has taken the store", |s| s.epoch),
    store_gauge(
        "fenced",
        "1 when this server takes no orders, because it may not be the one that decides",
        |s| u64::from(s.fenced.is_some()),
    ),
    store_gauge(
        "journal_full",
        "1 while new reservations are refused: the journal is at its cap on the disk",
        |s| u64::from(s.journal_full.is_some()),
    ),
    store_gauge(
        "journal_full_by_checkpoint",
        "Of these, 1 while checkpoints alone are waited for: the store has what is logged",
        |s| u64::from(matches!(s.journal_full, Some(JournalFull::Checkpoint(_)))),
    ),
    store_gauge("parked_skus", "SKUs whose rows in the store are left alone", |s| s.parked),
    store_counter("loads", "Calls of the store that read what commands waited for", |s| s.loads),
    store_gauge("loads_waiting", "Things that are wanted and that no such call looks for yet", |s| {
        s.loads_waiting
    }),
    store_counter(
        "loads_not_found",
        "Orders and requests that were taken for known ones and were not there",
        |s| s.not_found,
    ),
    store_counter("store_errors", "Calls of the store that failed", |s| s.store_errors),
    store_counter(
        "store_went_back",
        "Times that a shard found the store further back than it was flushed",
        |s| s.went_back,
    ),
    store_counter("anomalies", "Conflicts that flushes found and recorded", |s| s.anomalies),
    store_counter("flushes", "Flush transactions", |s| s.flushes),
    store_counter("flushed_events", "Events in them", |s| s.flushed_events),
    store_counter("flushed_rows", "Rows that they wrote", |s| s.flushed_rows),
    store_counter("pruned_orders", "Ended orders that were pruned from the store", |s| s.pruned_orders),
    store_counter("pruned_requests", "Stock requests that were pruned", |s| s.pruned_requests),
    store_counter("pruned_journal_rows", "Rows of the stock journal that were pruned", |s| s.pruned_journal),
    store_gauge(
        "known_ready",
        "1 when the filter of known numbers has all; until then new ones are looked up",
        |s| u64::from(s.known.is_ready),
    ),
    store_gauge("known_full", "1 when it has no more room: new numbers are ever more often looked up", |s| {
        u64::from(s.known.is_full)
    }),
    store_gauge("known_numbers", "Numbers in it", |s| s.known.numbers),
    store_gauge("known_bytes", "Bytes that it takes", |s| s.known.bytes),
];

/// A count of orders over several places.
struct CrossShardMetric {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: fn(&CrossShardStats) -> u64,
}

const fn cross_counter(
    name: &'static str,
    help: &'static str,
    value: fn(&CrossShardStats) -> u64,
) -> CrossShardMetric {
    CrossShardMetric { name, help, kind: MetricType::Counter, value }
}

const fn cross_gauge(
    name: &'static str,
    help: &'static str,
    value: fn(&CrossShardStats) -> u64,
) -> CrossShardMetric {
    CrossShardMetric { name, help, kind: MetricType::Gauge, value }
}

/// Orders over several shards.
const CROSS_SHARD_METRICS: [CrossShardMetric; 11] = [
    cross_counter("cross_shard_made", "Orders over several shards that were made", |s| s.made),
    cross_counter("cross_shard_refused", "Commands that needed units of other shards and were refused", |s| {
        s.refused
    }),
    cross_counter(
        "cross_shard_overloaded",
        "Of such commands, those turned away because too many were under way",
        |s| s.overloaded,
    ),
    cross_gauge("cross_shard_under_way", "Orders over several shards with something under way", |s| s.under_way),
    cross_counter("cross_shard_attempts", "Attempts to hold units in other shards", |s| s.attempts),
    cross_counter("cross_shard_abandoned", "Of those, the ones given up after something was held", |s| {
        s.abandoned
    }),
    cross_counter("cross_shard_instructions", "Decisions that participants were told", |s| s.instructions),
    cross_counter("cross_shard_repeated", "Orders whose participants had to be told again", |s| s.repeated),
    cross_counter("cross_shard_asked", "Holds whose coordinators were asked, after a start or a rebuild", |s| {
        s.asked
    }),
    cross_counter("cross_shard_released", "Of those, the ones that no order knew and that were released", |s| {
        s.released
    }),
    cross_counter("cross_shard_misfits", "Decisions that a participant could not carry out", |s| s.misfits),
];

/// The engine's counts, read when they are asked for.
struct EngineMetrics(Engine);

impl fmt::Debug for EngineMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineMetrics")
    }
}

impl Collector for EngineMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stats = self.0.stats();
        for metric in &SHARD_METRICS {
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, metric.kind)?;
            for (shard, stats) in stats.shards.iter().enumerate() {
                let labels = [("shard", shard)];
                encode_number(family.encode_family(&labels)?, metric.kind, (metric.value)(stats))?;
            }
        }
        let numbers = [
            ("journal_commits", "Group commits", MetricType::Counter, stats.commits),
            ("journal_events", "Events made durable", MetricType::Counter, stats.committed_events),
            (
                "journal_disk_bytes",
                "Bytes of the journal on disk",
                MetricType::Gauge,
                stats.journal_disk_bytes,
            ),
            (
                "directory_orders",
                "Orders that the directory knows",
                MetricType::Gauge,
                stats.directory_orders,
            ),
        ];
        for (name, help, kind, value) in numbers {
            encode_number(encoder.encode_descriptor(name, help, None, kind)?, kind, value)?;
        }
        let help =
            "1 while the wall clock was set far away from this server's clock, which does not follow it";
        let jumped = encoder.encode_descriptor("clock_jumped", help, None, MetricType::Gauge)?;
        encode_number(jumped, MetricType::Gauge, u64::from(stats.clock.jumped))?;
        for metric in &CROSS_SHARD_METRICS {
            let encoder = encoder.encode_descriptor(metric.name, metric.help, None, metric.kind)?;
            encode_number(encoder, metric.kind, (metric.value)(&stats.cross_shard))?;
        }
        if let Some(checks) = &stats.checks {
            check_metrics(&mut encoder, checks)?;
        }
        store_metrics(&mut encoder, &stats.store, &stats.shards)?;
        let mut histogram = encoder.encode_descriptor(
            "journal_commit_duration",
            "Write and sync of a group commit",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        let buckets = commit_buckets(&stats.commit_histogram, stats.commits);
        histogram.encode_histogram::<NoLabelSet>(seconds(stats.commit_micros), stats.commits, &buckets, None)
    }
}

/// The mirror's counts, read when they are asked for.
#[derive(Debug)]
struct MirrorMetrics(MirrorLink);

impl Collector for MirrorMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts = (self.0.counts)();
        let numbers = [
            ("mirror_up", "1 while Redis answers", MetricType::Gauge, u64::from(counts.connected)),
            ("mirror_lag", "Stocks that changed and are not in Redis yet", MetricType::Gauge, counts.lag),
            (
                "mirror_resyncing",
                "1 while all stocks are mirrored again",
                MetricType::Gauge,
                u64::from(counts.resyncing),
            ),
            ("mirror_resyncs", "Times that all stocks were mirrored", MetricType::Counter, counts.resyncs),
            ("mirror_written", "Stocks sent to Redis", MetricType::Counter, counts.written),
            ("mirror_batches", "Round trips with stocks", MetricType::Counter, counts.batches),
            ("mirror_errors", "Connections and reads that failed", MetricType::Counter, counts.errors),
        ];
        for (name, help, kind, value) in numbers {
            encode_number(encoder.encode_descriptor(name, help, None, kind)?, kind, value)?;
        }
        Ok(())
    }
}

fn check_metrics(encoder: &mut DescriptorEncoder<'_>, stats: &CheckStats) -> fmt::Result {
    let numbers = [
        (
            "order_checks_waiting",
            "Orders whose time is over and that wait for an answer of the order service, or for what follows from it",
            MetricType::Gauge,
            stats.waiting,
        ),
        ("order_checks", "Questions to the order service", MetricType::Counter, stats.asked),
        ("order_check_failures", "Of those, the ones without an answer", MetricType::Counter, stats.failed),
    ];
    for (name, help, kind, value) in numbers {
        encode_number(encoder.encode_descriptor(name, help, None, kind)?, kind, value)?;
    }
    let help = "Orders by what the order service said (paid, unpaid, cancelled), what became of those of which it said nothing in time \
        (released, kept), and paid ones that could not be confirmed any more (refused)";
    let mut family = encoder.encode_descriptor("order_check_outcomes", help, None, MetricType::Counter)?;
    let outcomes = [
        ("paid", stats.paid),
        ("unpaid", stats.unpaid),
        ("cancelled", stats.cancelled),
        ("released", stats.released),
        ("kept", stats.kept),
        ("refused", stats.refused),
    ];
    for (outcome, count) in outcomes {
        encode_number(family.encode_family(&[("outcome", outcome)])?, MetricType::Counter, count)?;
    }
    Ok(())
}

fn store_metrics(
    encoder: &mut DescriptorEncoder<'_>,
    stats: &StoreStats,
    shards: &[ShardStats],
) -> fmt::Result {
    for metric in &STORE_METRICS {
        let value = (metric.value)(stats);
        encode_number(
            encoder.encode_descriptor(metric.name, metric.help, None, metric.kind)?,
            metric.kind,
            value,
        )?;
    }
    let times = [
        ("flush_duration", "Time spent in flush transactions", stats.flush_micros),
        ("load_duration", "Time spent in calls that read what commands waited for", stats.load_micros),
    ];
    for (name, help, micros) in times {
        let mut took = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Counter)?;
        took.encode_counter::<NoLabelSet, _, u64>(&seconds(micros), None)?;
    }
    let help = "The store's clock less this server's, when it was last asked";
    let offset =
        encoder.encode_descriptor("store_clock_offset", help, Some(&Unit::Seconds), MetricType::Gauge)?;
    #[allow(clippy::cast_precision_loss, reason = "metrics are floats; milliseconds are exact for ages")]
    ConstGauge::new(stats.clock_offset_millis as f64 / 1_000.0).encode(offset)?;
    let of_shard: [OfShard; 2] = [
        (
            "shard_flush_lag",
            "Age of the oldest durable event that is not in the store yet",
            MetricType::Gauge,
            |shard| seconds(shard.lag_millis.saturating_mul(1_000)),
        ),
        ("shard_wait_duration", "Time that messages waited for the store", MetricType::Counter, |shard| {
            seconds(shard.wait_micros)
        }),
    ];
    for (name, help, kind, value) in of_shard {
        let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), kind)?;
        for (number, shard) in shards.iter().enumerate() {
            let labels = [("shard", number)];
            let encoder = family.encode_family(&labels)?;
            match kind {
                MetricType::Counter => ConstCounter::new(value(shard)).encode(encoder)?,
                _ => ConstGauge::new(value(shard)).encode(encoder)?,
            }
        }
    }
    Ok(())
}

fn encode_number(encoder: MetricEncoder<'_>, kind: MetricType, value: u64) -> fmt::Result {
    match kind {
        MetricType::Counter => ConstCounter::new(value).encode(encoder),
        // A gauge is signed here; an LSN stays below 2^63 for longer than any server runs.
        _ => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(encoder),
    }
}

/// From cumulative counts by microseconds to what the encoder sums up: the count of each bucket alone, by seconds.
fn commit_buckets(cumulative: &[(u64, u64)], all: u64) -> Vec<(f64, u64)> {
    let mut below = 0;
    let mut buckets: Vec<(f64, u64)> = Vec::with_capacity(cumulative.len() + 1);
    for (micros, count) in cumulative {
        buckets.push((seconds(*micros), count.saturating_sub(below)));
        below = below.max(*count);
    }
    buckets.push((f64::INFINITY, all.saturating_sub(below)));
    buckets
}

#[allow(clippy::cast_precision_loss, reason = "metrics are floats; microseconds are exact for 285 years")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1_000_000.0
}

/// A value of a shard: name, help, type, and how it is read.
type OfShard = (&'static str, &'static str, MetricType, fn(&ShardStats) -> f64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_of_the_table_has_its_own_counter() {
        for info in TABLE {
            assert!(STATUSES.contains(&info.status), "{}", info.name);
        }
    }

    #[test]
    fn cumulative_counts_become_counts_of_their_own() {
        let buckets = commit_buckets(&[(500, 2), (1_000, 2), (2_000, 7)], 9);
        assert_eq!(buckets, [(0.0005, 2), (0.001, 0), (0.002, 5), (f64::INFINITY, 2)]);
    }
}
