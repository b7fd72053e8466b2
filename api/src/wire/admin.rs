//! The bodies of what operators ask.

use hotstock_engine::command::InvalidField;
use hotstock_engine::counters::{MirrorStats, ShardStats, StoreStats};
use hotstock_engine::hot::HotSku;
use hotstock_engine::ids::SkuId;
use hotstock_engine::outcome::Effect;
use hotstock_engine::pins::Pinned;
use hotstock_engine::store::{Anomaly, Parked};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::values::{Number, SkuText, Time, id};
use crate::limits::MAX_PINNED_SKUS;
use crate::problem::ProblemBody;

/// `POST /v1/admin/skus/promote` and `demote`, `PUT /v1/admin/skus/hot`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SkusBody<'a> {
    /// 1 to 10,000 of them; of `PUT /v1/admin/skus/hot` also none.
    #[serde(borrow, default)]
    #[schema(value_type = Vec<String>, required = true, max_items = 10_000, example = json!(["1001", "1002"]))]
    sku_ids: Option<Vec<SkuText<'a>>>,
}

impl SkusBody<'_> {
    /// The SKUs, in the order given.
    ///
    /// # Errors
    /// [`InvalidField`], also for a SKU that is there twice, and for none.
    pub fn skus(&self) -> Result<Vec<SkuId>, InvalidField> {
        match &self.sku_ids {
            Some(skus) if !skus.is_empty() => self.list(),
            _ => Err(InvalidField::new("sku_ids", format!("must be 1 to {MAX_PINNED_SKUS} SKUs"))),
        }
    }

    /// The SKUs, in the order given; there may be none, but this must be said.
    ///
    /// # Errors
    /// [`InvalidField`], also for a SKU that is there twice.
    pub fn list(&self) -> Result<Vec<SkuId>, InvalidField> {
        let skus = self.sku_ids.as_deref().filter(|skus| skus.len() <= MAX_PINNED_SKUS);
        let skus = skus.ok_or_else(|| {
            InvalidField::new("sku_ids", format!("must be a list of at most {MAX_PINNED_SKUS} SKUs"))
        })?;
        let mut seen = std::collections::HashSet::with_capacity(skus.len());
        let checked = |(place, text): (usize, &SkuText<'_>)| {
            let field = format!("sku_ids[{place}]");
            let sku_id = id(&field, &text.0, SkuId::new)?;
            if seen.insert(sku_id.clone()) {
                Ok(sku_id)
            } else {
                Err(InvalidField::new(field, "is there twice"))
            }
        };
        skus.iter().enumerate().map(checked).collect()
    }
}

/// What became of a promotion or a demotion.
#[derive(Debug, Serialize, ToSchema)]
pub struct PinnedBody<'a> {
    /// Which.
    #[schema(example = "1001")]
    sku_id: &'a str,
    /// Whether it is kept in memory now.
    hot: bool,
    /// The shard that decides for it, hot or not.
    #[schema(example = 0)]
    shard: u16,
    /// Whether it was so already.
    replayed: bool,
}

impl<'a> PinnedBody<'a> {
    /// As JSON.
    #[must_use]
    pub fn new(sku_id: &'a SkuId, hot: bool, pinned: &Pinned) -> Self {
        let replayed = pinned.effect == Effect::Replayed;
        Self { sku_id: sku_id.as_str(), hot, shard: pinned.shard.0, replayed }
    }
}

/// What became of several.
#[derive(Debug, Serialize, ToSchema)]
pub struct PinnedAllBody<'a> {
    /// One for each SKU, in the order of the request; of a hot list also those that were on it before, by name.
    pub results: Vec<PinnedOneBody<'a>>,
}

/// One SKU of several.
#[derive(Debug, Serialize, ToSchema)]
pub struct PinnedOneBody<'a> {
    /// Which.
    #[schema(example = "1001")]
    pub sku_id: &'a str,
    /// The status that it would have been answered alone.
    #[schema(example = 200)]
    pub status: u16,
    /// The body likewise.
    pub body: PinnedOrProblem<'a>,
}

/// See [`PinnedOneBody`].
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[allow(missing_docs, reason = "the names say it")]
pub enum PinnedOrProblem<'a> {
    Pinned(PinnedBody<'a>),
    Problem(ProblemBody<'a>),
}

/// `GET /v1/admin/skus/hot`.
#[derive(Debug, Serialize, ToSchema)]
pub struct HotBody<'a> {
    /// By name.
    pub items: Vec<HotSkuBody<'a>>,
    /// Give it as `cursor` to read on; null at the end.
    #[schema(required = true)]
    pub next_cursor: Option<String>,
}

/// A SKU that is kept in memory.
#[derive(Debug, Serialize, ToSchema)]
pub struct HotSkuBody<'a> {
    /// Which.
    #[schema(example = "1001")]
    sku_id: &'a str,
    /// Who decides for it.
    #[schema(example = 0)]
    shard: u16,
}

impl<'a> From<&'a HotSku> for HotSkuBody<'a> {
    fn from(sku: &'a HotSku) -> Self {
        Self { sku_id: sku.sku_id.as_str(), shard: sku.shard.0 }
    }
}

/// `GET /v1/admin/parked`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ParkedBody<'a> {
    /// How many there are in all.
    pub count: u64,
    /// By name.
    pub items: Vec<ParkedSkuBody<'a>>,
}

/// A SKU whose rows in the store are left alone.
#[derive(Debug, Serialize, ToSchema)]
pub struct ParkedSkuBody<'a> {
    /// Which.
    #[schema(example = "1001")]
    sku_id: &'a str,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    since: Time,
    /// Why, in words.
    reason: &'a str,
}

impl<'a> From<&'a Parked> for ParkedSkuBody<'a> {
    fn from(parked: &'a Parked) -> Self {
        Self { sku_id: parked.sku_id.as_str(), since: Time(parked.at), reason: &parked.reason }
    }
}

/// `GET /v1/admin/shards`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShardsBody {
    /// By number.
    pub shards: Vec<ShardBody>,
    /// What concerns the SQL store.
    pub store: StoreBody,
    /// The Redis mirror; missing where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorBody>,
}

/// A shard and how far it is. Events are numbered from 1.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShardBody {
    /// Which.
    #[schema(example = 0)]
    shard: usize,
    /// The last event that was decided.
    applied: u64,
    /// The last that survives power loss.
    durable: u64,
    /// The last that a checkpoint has.
    checkpoint: u64,
    /// The last that the SQL store has taken in.
    flushed: u64,
    /// Durable events that the store does not have yet.
    lag_events: u64,
    /// The age of the oldest of them in milliseconds.
    lag_ms: u64,
    /// Why the last flush failed; missing when it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    /// SKUs in memory.
    resident: u64,
    /// Of them, those that are kept there until they are demoted.
    hot: u64,
    /// Stocks in memory: one for each SKU and warehouse.
    stocks: u64,
    /// Orders in memory.
    orders: u64,
    /// Of them, those with units held.
    open_orders: u64,
    /// Bytes that all of it takes, estimated.
    memory_bytes: u64,
    /// SKUs that came from the store since the start.
    loads: u64,
    /// SKUs that left memory since the start, because there were too many.
    evictions: u64,
    /// Commands that wait for something from the store.
    waiting: u64,
    /// Commands under way.
    in_flight: u64,
    /// Times that it was rebuilt after a panic.
    rebuilds: u64,
}

/// What concerns the SQL store.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoreBody {
    /// Why it could not do what it was last asked; missing when it could. What is in memory goes on either way.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// The epoch of this server; 0 until it has taken the store.
    #[schema(example = 3)]
    epoch: u64,
    /// Why this server takes no orders, because it may not be the one that decides; missing when it may.
    #[serde(skip_serializing_if = "Option::is_none")]
    fenced: Option<String>,
    /// Why new reservations are refused, because the journal is at its cap on the disk; missing while it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "the store is too far behind")]
    journal_full: Option<String>,
    /// SKUs whose rows are left alone: see `GET /v1/admin/parked`.
    parked: u64,
    /// Conflicts that flushes found since the start: see `GET /v1/admin/anomalies`.
    anomalies: u64,
    /// Flush transactions since the start.
    flushes: u64,
    /// Rows that they wrote.
    flushed_rows: u64,
    /// The store's clock less this server's, in milliseconds.
    clock_offset_ms: i64,
    /// The filter of the numbers that may be in the store.
    known: KnownBody,
}

/// The filter of order numbers and request ids that may be in the store and are not in memory.
#[derive(Debug, Serialize, ToSchema)]
pub struct KnownBody {
    /// Whether it has all; until then, new numbers are looked up in the store.
    ready: bool,
    /// Whether it has no more room: new numbers are ever more often looked up.
    full: bool,
    /// Numbers in it.
    numbers: u64,
    /// Bytes that it takes.
    bytes: u64,
}

impl ShardBody {
    /// As JSON.
    #[must_use]
    pub fn new(shard: usize, stats: &ShardStats) -> Self {
        Self {
            shard,
            applied: stats.applied.0,
            durable: stats.durable.0,
            checkpoint: stats.checkpoint.0,
            flushed: stats.flushed.0,
            lag_events: stats.lag_events,
            lag_ms: stats.lag_millis,
            last_error: stats.flush_error.clone(),
            resident: stats.resident,
            hot: stats.hot,
            stocks: stats.stocks,
            orders: stats.orders,
            open_orders: stats.open_orders,
            memory_bytes: stats.bytes,
            loads: stats.loaded_skus,
            evictions: stats.evicted,
            waiting: stats.waiting,
            in_flight: stats.in_flight,
            rebuilds: stats.rebuilds,
        }
    }
}

/// The Redis mirror.
#[derive(Debug, Serialize, ToSchema)]
pub struct MirrorBody {
    /// Whether Redis answers.
    connected: bool,
    /// Stocks that changed and are not there yet.
    lag: u64,
    /// Whether all stocks are being mirrored again.
    resyncing: bool,
    /// Why the last connection was lost or not to be had; missing when none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

impl From<MirrorStats> for MirrorBody {
    fn from(stats: MirrorStats) -> Self {
        let MirrorStats { connected, lag, resyncing, last_error, .. } = stats;
        Self { connected, lag, resyncing, last_error }
    }
}

impl From<StoreStats> for StoreBody {
    fn from(stats: StoreStats) -> Self {
        Self {
            problem: stats.problem,
            epoch: stats.epoch,
            fenced: stats.fenced,
            journal_full: stats.journal_full.map(|why| why.to_string()),
            parked: stats.parked,
            anomalies: stats.anomalies,
            flushes: stats.flushes,
            flushed_rows: stats.flushed_rows,
            clock_offset_ms: stats.clock_offset_millis,
            known: KnownBody {
                ready: stats.known.is_ready,
                full: stats.known.is_full,
                numbers: stats.known.numbers,
                bytes: stats.known.bytes,
            },
        }
    }
}

/// `GET /v1/admin/anomalies`.
#[derive(Debug, Serialize, ToSchema)]
pub struct AnomaliesBody<'a> {
    /// How many there are in all.
    pub count: u64,
    /// The newest first.
    pub items: Vec<AnomalyBody<'a>>,
}

/// A conflict between what a shard logged and what the store had.
#[derive(Debug, Serialize, ToSchema)]
pub struct AnomalyBody<'a> {
    /// When it was found.
    #[schema(value_type = String, format = DateTime)]
    time: Time,
    /// stock_changed, order_exists, repaired, …
    #[schema(example = "stock_changed")]
    kind: &'a str,
    /// The shard and the event that were to be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<u16>,
    /// See `shard`.
    #[serde(skip_serializing_if = "Option::is_none")]
    lsn: Option<u64>,
    /// The order, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    order_no: Option<&'a str>,
    /// The SKU, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    sku_id: Option<&'a str>,
    /// In words.
    detail: &'a str,
}

impl<'a> From<&'a Anomaly> for AnomalyBody<'a> {
    fn from(anomaly: &'a Anomaly) -> Self {
        Self {
            time: Time(anomaly.at),
            kind: &anomaly.kind,
            shard: anomaly.source.map(|(shard, _)| shard.0),
            lsn: anomaly.source.map(|(_, lsn)| lsn.0),
            order_no: anomaly.order_no.as_ref().map(|id| id.as_str()),
            sku_id: anomaly.sku_id.as_ref().map(|id| id.as_str()),
            detail: &anomaly.detail,
        }
    }
}

/// The parameters of `GET /v1/admin/anomalies` and `GET /v1/admin/parked`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewestQuery {
    /// How many are shown.
    pub limit: Option<Number>,
}
