//! What operators ask: which SKUs are hot, how far the shards are, what does not fit. `auth` says who may.

use std::sync::Arc;

use axum::http::StatusCode;
use hotstock_engine::engine::Moved;
use hotstock_engine::ids::SkuId;
use hotstock_engine::limits::MAX_PAGE_ROWS;
use hotstock_engine::outcome::Refusal;
use hotstock_engine::reconcile::Reconcile;

use crate::app::{Call, Reply};
use crate::body::{parse, parse_optional};
use crate::codes::Code;
use crate::limits::{DEFAULT_PAGE_ROWS, MAX_ANOMALIES};
use crate::problem::Problem;
use crate::trace;
use crate::wire::admin::{
    AnomaliesBody, AnomaliesQuery, AnomalyBody, HotBody, HotSkuBody, MovedAllBody, MovedBody, MovedOneBody,
    MovedOrProblem, ShardBody, ShardsBody, SkusBody,
};
use crate::wire::reconcile::{ReconcileBody, ReconciledBody};
use crate::wire::stock::{PageQuery, sku_id};
use crate::wire::values::{cursor_of, of_cursor};

/// Which way SKUs are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Into a shard.
    Promote,
    /// Back into the store.
    Demote,
}

/// Makes a SKU hot, with its open orders. Requests for it wait meanwhile. Can be repeated.
#[utoipa::path(
    post, path = "/v1/admin/skus/{sku_id}/promote", tag = "operators", params(("sku_id" = String, Path)),
    responses((status = 200, description = "It is hot", body = MovedBody))
)]
pub async fn promote(call: Call) -> Result<Reply, Problem> {
    one(call, Way::Promote).await
}

/// Makes a SKU cold, with its orders. Requests for it wait meanwhile. Can be repeated.
#[utoipa::path(
    post, path = "/v1/admin/skus/{sku_id}/demote", tag = "operators", params(("sku_id" = String, Path)),
    responses((status = 200, description = "It is cold", body = MovedBody))
)]
pub async fn demote(call: Call) -> Result<Reply, Problem> {
    one(call, Way::Demote).await
}

/// Makes up to 1,000 SKUs hot: the preheat of a sale. Can be repeated.
#[utoipa::path(
    post, path = "/v1/admin/skus/promote", tag = "operators", request_body = SkusBody,
    responses((status = 200, description = "What became of each", body = MovedAllBody))
)]
pub async fn promote_all(call: Call) -> Result<Reply, Problem> {
    all(call, Way::Promote).await
}

/// Makes up to 1,000 SKUs cold. Can be repeated.
#[utoipa::path(
    post, path = "/v1/admin/skus/demote", tag = "operators", request_body = SkusBody,
    responses((status = 200, description = "What became of each", body = MovedAllBody))
)]
pub async fn demote_all(call: Call) -> Result<Reply, Problem> {
    all(call, Way::Demote).await
}

/// The hot SKUs, page by page.
#[utoipa::path(
    get, path = "/v1/admin/skus/hot", tag = "operators",
    params(("limit" = Option<u32>, Query, description = "SKUs of the page, 1 to 1,000; 100 where missing"),
        ("cursor" = Option<String>, Query, description = "The next_cursor of the page before")),
    responses((status = 200, description = "One page", body = HotBody))
)]
pub async fn hot(call: Call) -> Result<Reply, Problem> {
    let query: PageQuery = call.query()?;
    let max = i64::try_from(MAX_PAGE_ROWS).unwrap_or(i64::MAX);
    let limit = query.limit.map_or(Ok(DEFAULT_PAGE_ROWS), |limit| limit.within("limit", 1..=max))?;
    let after = query.cursor.map(|cursor| of_cursor(&cursor, SkuId::new)).transpose()?;
    let engine = &call.app.engine;
    let page = engine.hot(after.as_ref(), limit);
    let last = page.last().map(|sku| &sku.sku_id);
    let next_cursor =
        last.filter(|last| !engine.hot(Some(last), 1).is_empty()).map(|last| cursor_of(last.as_str()));
    let items = page.iter().map(HotSkuBody::from).collect();
    Ok(Reply::json(StatusCode::OK, &HotBody { items, next_cursor }))
}

/// The shards, how far each is, and how far the SQL store has taken it in.
#[utoipa::path(
    get, path = "/v1/admin/shards", tag = "operators",
    responses((status = 200, description = "As it is now", body = ShardsBody))
)]
pub async fn shards(call: Call) -> Result<Reply, Problem> {
    Ok(Reply::json(StatusCode::OK, &shards_now(&call)))
}

/// Asks every shard for a checkpoint. It is written in the background; `checkpoint_lsn` of the shards shows when it is done.
#[utoipa::path(
    post, path = "/v1/admin/checkpoint", tag = "operators",
    responses((status = 202, description = "It was asked for; the shards as they are now", body = ShardsBody))
)]
pub async fn checkpoint(call: Call) -> Result<Reply, Problem> {
    call.app.engine.checkpoint_now();
    Ok(Reply::json(StatusCode::ACCEPTED, &shards_now(&call)))
}

/// Conflicts between what shards logged and what the SQL store had: recorded, never overwritten.
#[utoipa::path(
    get, path = "/v1/admin/anomalies", tag = "operators",
    params(("limit" = Option<u32>, Query, description = "How many are shown, 1 to 1,000; 100 where missing")),
    responses((status = 200, description = "The newest", body = AnomaliesBody))
)]
pub async fn anomalies(call: Call) -> Result<Reply, Problem> {
    let query: AnomaliesQuery = call.query()?;
    let max = i64::try_from(MAX_ANOMALIES).unwrap_or(i64::MAX);
    let limit = query.limit.map_or(Ok(DEFAULT_PAGE_ROWS), |limit| limit.within("limit", 1..=max))?;
    let (count, anomalies) = call.app.engine.anomalies(limit).await?;
    let items = anomalies.iter().map(AnomalyBody::from).collect();
    Ok(Reply::json(StatusCode::OK, &AnomaliesBody { count, items }))
}

/// Compares what shards, SQL store and mirror have of a page of SKUs. With `fix` it puts right what is derived: rows of the store from
/// their shard or their journal, the mirror from the stock; without it nothing is changed, and the answer is otherwise the same. Orders
/// go on meanwhile, and what changes meanwhile is no difference.
#[utoipa::path(
    post, path = "/v1/admin/reconcile", tag = "operators", request_body = Option<ReconcileBody>,
    responses((status = 200, description = "One page", body = ReconciledBody))
)]
pub async fn reconcile(call: Call) -> Result<Reply, Problem> {
    let body: ReconcileBody = parse_optional(call.body()?)?;
    let max = i64::try_from(MAX_PAGE_ROWS).unwrap_or(i64::MAX);
    let limit = body.limit.map_or(Ok(DEFAULT_PAGE_ROWS), |limit| limit.within("limit", 1..=max))?;
    let after = body.after()?;
    let mirror = call.app.options.mirror.as_ref().map(|link| Arc::clone(&link.mirror));
    let found = call.app.engine.reconcile(Reconcile { after, limit, fix: body.fix, mirror }).await?;
    Ok(Reply::json(StatusCode::OK, &ReconciledBody::new(&found)))
}

fn shards_now(call: &Call) -> ShardsBody {
    let stats = call.app.engine.stats();
    let mut followers = call.app.engine.followers();
    let of_shard = |(shard, stats)| {
        let follower = followers.iter().position(|follower| follower.shard.index() == shard);
        ShardBody::new(shard, stats, follower.map(|place| followers.swap_remove(place)))
    };
    let shards = stats.shards.iter().enumerate().map(of_shard).collect();
    let mirror = call.app.options.mirror.as_ref().map(|mirror| (mirror.counts)().into());
    ShardsBody { shards, store: stats.store.map(Into::into), mirror }
}

async fn one(call: Call, way: Way) -> Result<Reply, Problem> {
    let sku_id = sku_id(call.path_id())?;
    let moved = move_one(&call, sku_id.clone(), way).await?;
    Ok(Reply::json(StatusCode::OK, &MovedBody::new(&sku_id, &moved)))
}

async fn all(call: Call, way: Way) -> Result<Reply, Problem> {
    let skus = parse::<SkusBody<'_>>(call.body()?)?.skus()?;
    let moved = move_all(&call, skus, way).await?;
    // One trace for all problems, as in a batch.
    let trace = call.trace.unwrap_or_else(trace::fresh);
    let ended: Vec<_> = moved.into_iter().map(|(sku_id, end)| (sku_id, end.map_err(Problem::from))).collect();
    let results = ended.iter().map(|(sku_id, end)| {
        let (status, body) = match end {
            Ok(moved) => (StatusCode::OK.as_u16(), MovedOrProblem::Moved(MovedBody::new(sku_id, moved))),
            Err(problem) => {
                call.app.metrics.problem(problem.code);
                (problem.code.info().status, MovedOrProblem::Problem(problem.body(trace)))
            }
        };
        MovedOneBody { sku_id: sku_id.as_str(), status, body }
    });
    Ok(Reply::json(StatusCode::OK, &MovedAllBody { results: results.collect() }))
}

/// Moves one SKU.
///
/// # Errors
/// The engine's refusal.
pub async fn move_one(call: &Call, sku_id: SkuId, way: Way) -> Result<Moved, Problem> {
    match move_all(call, vec![sku_id], way).await?.pop() {
        Some((_, end)) => end.map_err(Problem::from),
        None => Err(Problem::new(Code::Timeout, "the move was not answered")),
    }
}

/// In a task of its own: a caller that goes away, or a request that takes too long, does not stop a move halfway.
async fn move_all(
    call: &Call,
    skus: Vec<SkuId>,
    way: Way,
) -> Result<Vec<(SkuId, Result<Moved, Refusal>)>, Problem> {
    let engine = call.app.engine.clone();
    let moved = tokio::spawn(async move {
        match way {
            Way::Promote => engine.promote(&skus).await,
            Way::Demote => engine.demote(&skus).await,
        }
    });
    moved.await.map_err(|error| Problem::new(Code::Timeout, format!("the move broke off: {error}")))
}
