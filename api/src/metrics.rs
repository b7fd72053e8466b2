//! `/metrics`: what HTTP counts, and what the engine and the mirror count, whose names and help texts stand in
//! `engine/src/contract/counters.rs`.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use hotstock_engine::counters::{
    CheckStats, CrossShardStats, Metric, MetricKind, MirrorStats, Read, ShardStats, Stats, StoreStats,
};
use hotstock_engine::engine::Engine;
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
        encode_shards(&mut encoder, &stats.shards)?;
        encode(&mut encoder, Stats::METRICS, &stats)?;
        encode(&mut encoder, CrossShardStats::METRICS, &stats.cross_shard)?;
        if let Some(checks) = &stats.checks {
            encode(&mut encoder, CheckStats::METRICS, checks)?;
        }
        encode(&mut encoder, StoreStats::METRICS, &stats.store)?;
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
        encode(&mut encoder, MirrorStats::METRICS, &(self.0.stats)())
    }
}

/// The metrics of one thing. Those with a label that follow each other under one name are one family.
fn encode<S>(encoder: &mut DescriptorEncoder<'_>, metrics: &[Metric<S>], stats: &S) -> fmt::Result {
    for family in metrics.chunk_by(|one, next| one.name == next.name) {
        let mut family_encoder = descriptor(encoder, &family[0])?;
        if let [metric @ Metric { label: None, .. }] = family {
            encode_value(family_encoder, metric, stats)?;
            continue;
        }
        for metric in family {
            encode_value(family_encoder.encode_family(&Vec::from_iter(metric.label))?, metric, stats)?;
        }
    }
    Ok(())
}

/// The metrics of the shards, each with the number of its shard.
fn encode_shards(encoder: &mut DescriptorEncoder<'_>, shards: &[ShardStats]) -> fmt::Result {
    for metric in ShardStats::METRICS {
        let mut family = descriptor(encoder, metric)?;
        for (shard, stats) in shards.iter().enumerate() {
            encode_value(family.encode_family(&[("shard", shard)])?, metric, stats)?;
        }
    }
    Ok(())
}

fn descriptor<'a, S>(
    encoder: &'a mut DescriptorEncoder<'_>,
    metric: &Metric<S>,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    let unit = match metric.read {
        Read::Number(_) => None,
        Read::Seconds(_) => Some(&Unit::Seconds),
    };
    encoder.encode_descriptor(metric.name, metric.help, unit, type_of(metric.kind))
}

fn type_of(kind: MetricKind) -> MetricType {
    match kind {
        MetricKind::Counter => MetricType::Counter,
        MetricKind::Gauge => MetricType::Gauge,
    }
}

fn encode_value<S>(encoder: MetricEncoder<'_>, metric: &Metric<S>, stats: &S) -> fmt::Result {
    match (metric.kind, &metric.read) {
        (MetricKind::Counter, Read::Number(read)) => ConstCounter::new(read(stats)).encode(encoder),
        (MetricKind::Counter, Read::Seconds(read)) => ConstCounter::new(read(stats)).encode(encoder),
        // A gauge is signed here; an LSN stays below 2^63 for longer than any server runs.
        (MetricKind::Gauge, Read::Number(read)) => {
            ConstGauge::new(i64::try_from(read(stats)).unwrap_or(i64::MAX)).encode(encoder)
        }
        (MetricKind::Gauge, Read::Seconds(read)) => ConstGauge::new(read(stats)).encode(encoder),
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
