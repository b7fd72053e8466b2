//! What operators ask: which SKUs are hot, how far the shards are, what does not fit. `auth` says who may.

use std::sync::Arc;

use axum::http::StatusCode;
use hotstock_engine::ids::SkuId;
use hotstock_engine::limits::MAX_PAGE_ROWS;
use hotstock_engine::outcome::Refusal;
use hotstock_engine::pins::Pinned;
use hotstock_engine::reconcile::Reconcile;

use crate::app::{Call, Reply};
use crate::body::{parse, parse_optional};
use crate::codes::Code;
use crate::limits::{DEFAULT_PAGE_ROWS, MAX_ANOMALIES};
use crate::problem::Problem;
use crate::trace;
use crate::wire::admin::{
    AnomaliesBody, AnomalyBody, HotBody, HotSkuBody, NewestQuery, ParkedBody, ParkedSkuBody, PinnedAllBody,
    PinnedBody, PinnedOneBody, PinnedOrProblem, ShardBody, ShardsBody, SkusBody,
};
use crate::wire::reconcile::{ReconcileBody, ReconciledBody};
use crate::wire::stock::{PageQuery, sku_id};
use crate::wire::values::{Number, cursor_of, of_cursor};

/// What becomes of each SKU, by its id.
type Ends = Vec<(SkuId, Result<Pinned, Refusal>)>;

/// What is asked for SKUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// Load them and keep them in memory.
    Promote,
    /// Keep them no longer.
    Demote,
}

/// Loads a SKU and keeps it in memory until it is demoted, also across restarts. Can be repeated.
#[utoipa::path(
    post, path = "/v1/admin/skus/{sku_id}/promote", tag = "operators", params(("sku_id" = String, Path)),
    responses((status = 200, description = "It is hot", body = PinnedBody))
)]
pub async fn promote(call: Call) -> Result<Reply, Problem> {
    one(call, Pin::Promote).await
}

/// Lets a SKU go: it stays in memory as long as it is used, like any other. Can be repeated; open orders are no
/// hindrance.
#[utoipa::path(
    post, path = "/v1/admin/skus/{sku_id}/demote", tag = "operators", params(("sku_id" = String, Path)),
    responses((status = 200, description = "It is not hot any more", body = PinnedBody))
)]
pub async fn demote(call: Call) -> Result<Reply, Problem> {
    one(call, Pin::Demote).await
}

/// Makes up to 10,000 SKUs hot: the preheat of a sale. Can be repeated.
#[utoipa::path(
    post, path = "/v1/admin/skus/promote", tag = "operators", request_body = SkusBody,
    responses((status = 200, description = "What became of each", body = PinnedAllBody))
)]
pub async fn promote_all(call: Call) -> Result<Reply, Problem> {
    all(call, Pin::Promote).await
}

/// Lets up to 10,000 SKUs go. Can be repeated.
#[utoipa::path(
    post, path = "/v1/admin/skus/demote", tag = "operators", request_body = SkusBody,
    responses((status = 200, description = "What became of each", body = PinnedAllBody))
)]
pub async fn demote_all(call: Call) -> Result<Reply, Problem> {
    all(call, Pin::Demote).await
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
    let limit = rows(query.limit, MAX_PAGE_ROWS)?;
    let after = query.cursor.map(|cursor| of_cursor(&cursor, SkuId::new)).transpose()?;
    let engine = &call.app.engine;
    let page = engine.hot(after.as_ref(), limit);
    let last = page.last().map(|sku| &sku.sku_id);
    let next_cursor =
        last.filter(|last| !engine.hot(Some(last), 1).is_empty()).map(|last| cursor_of(last.as_str()));
    let items = page.iter().map(HotSkuBody::from).collect();
    Ok(Reply::json(StatusCode::OK, &HotBody { items, next_cursor }))
}

/// Makes a list of up to 10,000 SKUs the hot list: those on it are promoted, all others demoted. Can be repeated. An
/// empty list demotes all.
#[utoipa::path(
    put, path = "/v1/admin/skus/hot", tag = "operators", request_body = SkusBody,
    responses((status = 200, description = "What became of each SKU that is or was on the list", body = PinnedAllBody))
)]
pub async fn set_hot(call: Call) -> Result<Reply, Problem> {
    let skus = parse::<SkusBody<'_>>(call.body()?)?.list()?;
    let wanted: std::collections::HashSet<SkuId> = skus.iter().cloned().collect();
    let engine = call.app.engine.clone();
    let ends = unbroken(async move { engine.set_hot(skus).await }).await??;
    Ok(results(&call, ends, |sku_id| wanted.contains(sku_id)))
}

/// The shards, how far each is, and how far the SQL store has taken it in.
#[utoipa::path(
    get, path = "/v1/admin/shards", tag = "operators",
    responses((status = 200, description = "As it is now", body = ShardsBody))
)]
pub async fn shards(call: Call) -> Result<Reply, Problem> {
    Ok(Reply::json(StatusCode::OK, &shards_now(&call)))
}

/// Asks every shard for a checkpoint. It is written in the background; `checkpoint` of the shards shows when it is
/// done.
#[utoipa::path(
    post, path = "/v1/admin/checkpoint", tag = "operators",
    responses((status = 202, description = "It was asked for; the shards as they are now", body = ShardsBody))
)]
pub async fn checkpoint(call: Call) -> Result<Reply, Problem> {
    call.app.engine.checkpoint_now();
    Ok(Reply::json(StatusCode::ACCEPTED, &shards_now(&call)))
}

/// SKUs whose rows in the SQL store are left alone, because they are not what a flush had to find: somebody changed
/// them by hand. The shards decide on what they have in memory; `POST /v1/admin/reconcile` with `fix` ends it.
#[utoipa::path(
    get, path = "/v1/admin/parked", tag = "operators",
    params(("limit" = Option<u32>, Query, description = "How many are shown, 1 to 1,000; 100 where missing")),
    responses((status = 200, description = "As many as fit", body = ParkedBody))
)]
pub async fn parked(call: Call) -> Result<Reply, Problem> {
    let query: NewestQuery = call.query()?;
    let (count, parked) = call.app.engine.parked(rows(query.limit, MAX_ANOMALIES)?).await?;
    let items = parked.iter().map(ParkedSkuBody::from).collect();
    Ok(Reply::json(StatusCode::OK, &ParkedBody { count, items }))
}

/// Conflicts between what shards logged and what the SQL store had: recorded, never overwritten.
#[utoipa::path(
    get, path = "/v1/admin/anomalies", tag = "operators",
    params(("limit" = Option<u32>, Query, description = "How many are shown, 1 to 1,000; 100 where missing")),
    responses((status = 200, description = "The newest", body = AnomaliesBody))
)]
pub async fn anomalies(call: Call) -> Result<Reply, Problem> {
    let query: NewestQuery = call.query()?;
    let (count, anomalies) = call.app.engine.anomalies(rows(query.limit, MAX_ANOMALIES)?).await?;
    let items = anomalies.iter().map(AnomalyBody::from).collect();
    Ok(Reply::json(StatusCode::OK, &AnomaliesBody { count, items }))
}

/// Compares what shards, SQL store and mirror have of a page of SKUs. With `fix` it puts right what is derived: rows of
/// the store from their shard or their journal, the mirror from the stock; without it nothing is changed, and the
/// answer is otherwise the same. Orders go on meanwhile, and what changes meanwhile is no difference.
#[utoipa::path(
    post, path = "/v1/admin/reconcile", tag = "operators", request_body = Option<ReconcileBody>,
    responses((status = 200, description = "One page", body = ReconciledBody))
)]
pub async fn reconcile(call: Call) -> Result<Reply, Problem> {
    let body: ReconcileBody = parse_optional(call.body()?)?;
    let limit = rows(body.limit, MAX_PAGE_ROWS)?;
    let after = body.after()?;
    let mirror = call.app.options.mirror.as_ref().map(|link| Arc::clone(&link.mirror));
    let found = call.app.engine.reconcile(Reconcile { after, limit, fix: body.fix, mirror }).await?;
    Ok(Reply::json(StatusCode::OK, &ReconciledBody::new(&found)))
}

fn shards_now(call: &Call) -> ShardsBody {
    let stats = call.app.engine.stats();
    let shards = stats.shards.iter().enumerate().map(|(shard, stats)| ShardBody::new(shard, stats)).collect();
    let mirror = call.app.options.mirror.as_ref().map(|mirror| (mirror.stats)().into());
    ShardsBody { shards, store: stats.store.into(), mirror }
}

/// How many rows are asked for.
fn rows(limit: Option<Number>, max: usize) -> Result<usize, Problem> {
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    Ok(limit.map_or(Ok(DEFAULT_PAGE_ROWS), |limit| limit.within("limit", 1..=max))?)
}

async fn one(call: Call, pin: Pin) -> Result<Reply, Problem> {
    let sku_id = sku_id(call.path_id())?;
    let pinned = pin_one(&call, sku_id.clone(), pin).await?;
    Ok(Reply::json(StatusCode::OK, &PinnedBody::new(&sku_id, pin == Pin::Promote, &pinned)))
}

async fn all(call: Call, pin: Pin) -> Result<Reply, Problem> {
    let skus = parse::<SkusBody<'_>>(call.body()?)?.skus()?;
    let ends = pin_all(&call, skus, pin).await?;
    Ok(results(&call, ends, |_| pin == Pin::Promote))
}

/// A result for each SKU; `is_hot` says what it is when it went well.
fn results(call: &Call, ends: Ends, is_hot: impl Fn(&SkuId) -> bool) -> Reply {
    // One trace for all problems, as in a batch.
    let trace = call.trace.unwrap_or_else(trace::fresh);
    let ends: Vec<_> = ends.into_iter().map(|(sku_id, end)| (sku_id, end.map_err(Problem::from))).collect();
    let results = ends.iter().map(|(sku_id, end)| {
        let (status, body) = match end {
            Ok(pinned) => {
                let body = PinnedBody::new(sku_id, is_hot(sku_id), pinned);
                (StatusCode::OK.as_u16(), PinnedOrProblem::Pinned(body))
            }
            Err(problem) => {
                call.app.metrics.problem(problem.code);
                (problem.code.info().status, PinnedOrProblem::Problem(problem.body(trace)))
            }
        };
        PinnedOneBody { sku_id: sku_id.as_str(), status, body }
    });
    Reply::json(StatusCode::OK, &PinnedAllBody { results: results.collect() })
}

/// Promotes or demotes one SKU.
///
/// # Errors
/// The engine's refusal.
pub async fn pin_one(call: &Call, sku_id: SkuId, pin: Pin) -> Result<Pinned, Problem> {
    match pin_all(call, vec![sku_id], pin).await?.pop() {
        Some((_, end)) => end.map_err(Problem::from),
        None => Err(Problem::new(Code::Timeout, "this was not answered")),
    }
}

async fn pin_all(call: &Call, skus: Vec<SkuId>, pin: Pin) -> Result<Ends, Problem> {
    let engine = call.app.engine.clone();
    let pinned = async move {
        match pin {
            Pin::Promote => engine.promote(&skus).await,
            Pin::Demote => engine.demote(&skus).await,
        }
    };
    unbroken(pinned).await
}

/// In a task of its own: a caller that goes away, or a request that takes too long, does not stop a list halfway.
async fn unbroken<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, Problem> {
    let done = tokio::spawn(work).await;
    done.map_err(|error| Problem::new(Code::Timeout, format!("this broke off: {error}")))
}
