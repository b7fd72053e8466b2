//! The bodies of what operators ask.

use hotstock_engine::checkpoint::Stage;
use hotstock_engine::command::InvalidField;
use hotstock_engine::engine::{FollowerStats, HotSku, Moved, ShardStats, StoreStats};
use hotstock_engine::ids::SkuId;
use hotstock_engine::limits::MAX_SKUS_PER_MOVE;
use hotstock_engine::outcome::Effect;
use hotstock_engine::store::Anomaly;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::values::{Number, SkuText, Time, id};
use crate::limits::MirrorCounts;
use crate::problem::ProblemBody;

/// `POST /v1/admin/skus/promote` and `demote`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SkusBody<'a> {
    /// 1 to 1,000 of them. SKUs that one open order holds have to be moved together.
    #[serde(borrow, default)]
    #[schema(value_type = Vec<String>, required = true, min_items = 1, max_items = 1_000, example = json!(["1001", "1002"]))]
    sku_ids: Vec<SkuText<'a>>,
}

impl SkusBody<'_> {
    /// The SKUs, in the order given.
    ///
    /// # Errors
    /// [`InvalidField`], also for a SKU that is there twice.
    pub fn skus(&self) -> Result<Vec<SkuId>, InvalidField> {
        if self.sku_ids.is_empty() || self.sku_ids.len() > MAX_SKUS_PER_MOVE {
            return Err(InvalidField::new("sku_ids", format!("must be 1 to {MAX_SKUS_PER_MOVE} SKUs")));
        }
        let mut seen = std::collections::HashSet::with_capacity(self.sku_ids.len());
        let checked = |(place, text): (usize, &SkuText<'_>)| {
            let field = format!("sku_ids[{place}]");
            let sku_id = id(&field, &text.0, SkuId::new)?;
            if seen.insert(sku_id.clone()) {
                Ok(sku_id)
            } else {
                Err(InvalidField::new(field, "is there twice"))
            }
        };
        self.sku_ids.iter().enumerate().map(checked).collect()
    }
}

/// What became of a promotion or a demotion.
#[derive(Debug, Serialize, ToSchema)]
pub struct MovedBody<'a> {
    /// Which.
    #[schema(example = "1001")]
    sku_id: &'a str,
    /// Whether a shard decides for it now.
    hot: bool,
    /// The shard.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 0)]
    shard: Option<u16>,
    /// Counts the promotions of the SKU.
    #[schema(example = 1)]
    epoch: u64,
    /// Orders that moved with it.
    #[schema(example = 12)]
    orders: u64,
    /// Whether it was there already.
    replayed: bool,
}

impl<'a> MovedBody<'a> {
    /// As JSON.
    #[must_use]
    pub fn new(sku_id: &'a SkuId, moved: &Moved) -> Self {
        Self {
            sku_id: sku_id.as_str(),
            hot: moved.shard.is_some(),
            shard: moved.shard.map(|shard| shard.0),
            epoch: moved.epoch,
            orders: moved.orders,
            replayed: moved.effect == Effect::Replayed,
        }
    }
}

/// What became of several.
#[derive(Debug, Serialize, ToSchema)]
pub struct MovedAllBody<'a> {
    /// One for each SKU, in the order of the request.
    pub results: Vec<MovedOneBody<'a>>,
}

/// One SKU of several.
#[derive(Debug, Serialize, ToSchema)]
pub struct MovedOneBody<'a> {
    /// Which.
    #[schema(example = "1001")]
    pub sku_id: &'a str,
    /// The status that it would have been answered alone.
    #[schema(example = 200)]
    pub status: u16,
    /// The body likewise.
    pub body: MovedOrProblem<'a>,
}

/// See [`MovedOneBody`].
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[allow(missing_docs, reason = "the names say it")]
pub enum MovedOrProblem<'a> {
    Moved(MovedBody<'a>),
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

/// A SKU that a shard has.
#[derive(Debug, Serialize, ToSchema)]
pub struct HotSkuBody<'a> {
    /// Which.
    #[schema(example = "1001")]
    sku_id: &'a str,
    /// Who decides for it.
    #[schema(example = 0)]
    shard: u16,
    /// Counts its promotions.
    #[schema(example = 1)]
    epoch: u64,
    /// Open unless it is on its way.
    stage: StageName,
    /// Whether it became hot by itself.
    auto: bool,
}

/// Where a SKU is on its way into a shard and out again.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageName {
    /// The shard decides for it.
    Open,
    /// It comes.
    Adopting,
    /// It goes.
    Closing,
}

impl<'a> From<&'a HotSku> for HotSkuBody<'a> {
    fn from(sku: &'a HotSku) -> Self {
        let stage = match sku.stage {
            Stage::Open => StageName::Open,
            Stage::Adopting => StageName::Adopting,
            Stage::Closing => StageName::Closing,
        };
        Self { sku_id: sku.sku_id.as_str(), shard: sku.shard.0, epoch: sku.epoch, stage, auto: sku.auto }
    }
}

/// `GET /v1/admin/shards`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShardsBody {
    /// By number.
    pub shards: Vec<ShardBody>,
    /// What concerns the SQL store; missing where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreBody>,
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
    /// The last that the SQL store has taken in; missing, like the three below, where there is no store.
    #[serde(skip_serializing_if = "Option::is_none")]
    flushed: Option<u64>,
    /// Durable events that the store does not have yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_events: Option<u64>,
    /// The age of the oldest of them in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_ms: Option<u64>,
    /// Why the last flush failed; missing when it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    /// Stocks in memory.
    stocks: u64,
    /// Orders in memory.
    orders: u64,
    /// Of them, those with units held.
    open_orders: u64,
    /// Commands under way.
    in_flight: u64,
    /// Times that it was rebuilt after a panic.
    rebuilds: u64,
}

/// What concerns the SQL store.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoreBody {
    /// Why it could not do what it was last asked; missing when it could. Hot SKUs go on either way.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// Whether new reservations of hot SKUs are refused, because the backlog on the disk is at its cap.
    journal_full: bool,
    /// SKUs that a shard decides for.
    hot_skus: u64,
    /// SKUs on the way.
    moving_skus: u64,
    /// Commands under way in the store, or waiting for it.
    cold_in_flight: u64,
    /// SKUs that another server or shard owned when this one wanted to write them.
    fenced: u64,
    /// Conflicts that flushes found since the start.
    anomalies: u64,
}

impl ShardBody {
    /// As JSON.
    #[must_use]
    pub fn new(shard: usize, stats: &ShardStats, follower: Option<FollowerStats>) -> Self {
        let of = |value: fn(&FollowerStats) -> u64| follower.as_ref().map(value);
        Self {
            shard,
            applied: stats.applied.0,
            durable: stats.durable.0,
            checkpoint: stats.checkpoint.0,
            flushed: of(|f| f.flushed.0),
            lag_events: of(|f| f.lag_events),
            lag_ms: of(|f| f.lag_millis),
            last_error: follower.and_then(|f| f.last_error),
            stocks: stats.stocks,
            orders: stats.orders,
            open_orders: stats.open_orders,
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

impl From<MirrorCounts> for MirrorBody {
    fn from(counts: MirrorCounts) -> Self {
        let MirrorCounts { connected, lag, resyncing, last_error, .. } = counts;
        Self { connected, lag, resyncing, last_error }
    }
}

impl From<StoreStats> for StoreBody {
    fn from(stats: StoreStats) -> Self {
        Self {
            problem: stats.problem,
            journal_full: stats.journal_full,
            hot_skus: stats.hot_skus,
            moving_skus: stats.moving_skus,
            cold_in_flight: stats.cold_in_flight,
            fenced: stats.fenced,
            anomalies: stats.anomalies,
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
    /// order_exists, fenced, …
    #[schema(example = "order_exists")]
    kind: &'a str,
    /// The server, the shard and the event that were to be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_id: Option<String>,
    /// See `server_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<u16>,
    /// See `server_id`.
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
            server_id: anomaly.source.map(|(server, ..)| server.to_string()),
            shard: anomaly.source.map(|(_, shard, _)| shard.0),
            lsn: anomaly.source.map(|(.., lsn)| lsn.0),
            order_no: anomaly.order_no.as_ref().map(|id| id.as_str()),
            sku_id: anomaly.sku_id.as_ref().map(|id| id.as_str()),
            detail: &anomaly.detail,
        }
    }
}

/// The parameters of `GET /v1/admin/anomalies`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnomaliesQuery {
    /// How many are shown.
    pub limit: Option<Number>,
}
