//! The requests about stock.

use axum::http::StatusCode;
use hotstock_engine::command::{ChangeKind, StockStatus};
use hotstock_engine::ids::SkuId;
use hotstock_engine::limits::MAX_PAGE_ROWS;
use hotstock_engine::outcome::{Answer, Refusal};

use crate::admin::{Pin, pin_one};
use crate::app::{Call, Reply};
use crate::body::{parse, parse_optional};
use crate::limits::{DEFAULT_JOURNAL_ROWS, DEFAULT_PAGE_ROWS, MAX_JOURNAL_ROWS};
use crate::problem::Problem;
use crate::wire::answers::{AnyBody, created};
use crate::wire::history::{JournalBody, JournalQuery, Seen};
use crate::wire::stock::{
    ChangeBody, CreateBody, PageBody, PageQuery, SkuBody, SkuQuery, StatusBody, StockBody, one_warehouse,
    sku_id,
};
use crate::wire::values::{cursor_of, of_cursor};

/// Creates the stock of a SKU in a warehouse; with `hot`, promotes the SKU as well, which needs the operators' right.
#[utoipa::path(
    post, path = "/v1/stock", tag = "stock", request_body = CreateBody,
    responses((status = 201, description = "The stock was created", body = StockBody),
        (status = 200, description = "It had been created with the same quantity before", body = StockBody))
)]
pub async fn create(call: Call) -> Result<Reply, Problem> {
    let body = parse::<CreateBody<'_>>(call.body()?)?;
    let (action, hot) = (body.action(&call.app.defaults)?, body.hot);
    if hot {
        call.check_operator()?;
    }
    let answer = call.submit(action).await?;
    let status = if created(&answer) { StatusCode::CREATED } else { StatusCode::OK };
    let mut body = AnyBody::of(&answer);
    if let (true, Answer::Stock { stock, .. }) = (hot, &answer) {
        // The stock stays when this fails; the same request again goes on from there.
        pin_one(&call, stock.sku_id.clone(), Pin::Promote).await?;
        if let AnyBody::Stock(stock) = body {
            body = AnyBody::Stock(stock.hot());
        }
    }
    Ok(Reply::json(status, &body))
}

/// Reads a SKU, in one warehouse or all.
#[utoipa::path(
    get, path = "/v1/stock/{sku_id}", tag = "stock",
    params(("sku_id" = String, Path), ("warehouse_id" = Option<u32>, Query, description = "One warehouse")),
    responses((status = 200, description = "The durable levels", body = SkuBody))
)]
pub async fn get(call: Call) -> Result<Reply, Problem> {
    let query: SkuQuery = call.query()?;
    let (sku_id, warehouse_id) = (sku_id(call.path_id())?, one_warehouse(query.warehouse_id)?);
    let stocks = call.app.engine.stock(&sku_id, warehouse_id).await?;
    if stocks.is_empty() {
        return Err(Refusal::UnknownSku { sku_id, warehouse_id }.into());
    }
    Ok(Reply::json(StatusCode::OK, &SkuBody::new(&stocks, None)))
}

/// Reads all SKUs, page by page.
#[utoipa::path(
    get, path = "/v1/stock", tag = "stock",
    params(("limit" = Option<u32>, Query, description = "SKUs of the page, 1 to 1,000; 100 where missing"),
        ("cursor" = Option<String>, Query, description = "The next_cursor of the page before")),
    responses((status = 200, description = "One page", body = PageBody))
)]
pub async fn list(call: Call) -> Result<Reply, Problem> {
    let query: PageQuery = call.query()?;
    let max = i64::try_from(MAX_PAGE_ROWS).unwrap_or(i64::MAX);
    let limit = query.limit.map_or(Ok(DEFAULT_PAGE_ROWS), |limit| limit.within("limit", 1..=max))?;
    let after = query.cursor.map(|cursor| of_cursor(&cursor, SkuId::new)).transpose()?;
    let engine = &call.app.engine;
    let page = engine.stock_page(after.as_ref(), limit).await?;
    // A page may be shorter than its limit and still not be the last, so the one after it is asked for.
    let last = page.last().and_then(|stocks| stocks.first()).map(|stock| &stock.sku_id);
    let more = match last {
        Some(last) => (!engine.stock_page(Some(last), 1).await?.is_empty()).then_some(last),
        None => None,
    };
    let items = page.iter().map(|stocks| SkuBody::new(stocks, None)).collect();
    let next_cursor = more.map(|last| cursor_of(last.as_str()));
    Ok(Reply::json(StatusCode::OK, &PageBody { items, next_cursor }))
}

/// The journal of a SKU: every change of its stocks, with what caused it. What is durable is in it, flushed to the SQL
/// store or not.
#[utoipa::path(
    get, path = "/v1/stock/{sku_id}/journal", tag = "stock",
    params(("sku_id" = String, Path),
        ("limit" = Option<u32>, Query, description = "Rows of the page, 1 to 1,000; 100 where missing"),
        ("after" = Option<String>, Query, description = "The next_after of the page before")),
    responses((status = 200, description = "One page", body = JournalBody))
)]
pub async fn journal(call: Call) -> Result<Reply, Problem> {
    let query: JournalQuery = call.query()?;
    let sku_id = sku_id(call.path_id())?;
    let max = i64::try_from(MAX_JOURNAL_ROWS).unwrap_or(i64::MAX);
    let limit = query.limit.map_or(Ok(DEFAULT_JOURNAL_ROWS), |limit| limit.within("limit", 1..=max))?;
    let mut seen = query.after.map_or(Ok(Seen::default()), |after| Seen::of_cursor(&after))?;
    let items = call.app.engine.stock_journal(&sku_id, &seen.0, limit).await?;
    // The newest row of a stock is never pruned, so only a SKU that is not there has none.
    if items.is_empty() && seen.0.is_empty() {
        return Err(Refusal::UnknownSku { sku_id, warehouse_id: None }.into());
    }
    seen.note(&items);
    Ok(Reply::json(StatusCode::OK, &JournalBody { items: &items, next_after: seen.cursor() }))
}

/// Units came in.
#[utoipa::path(
    post, path = "/v1/stock/{sku_id}/restock", tag = "stock",
    params(("sku_id" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "The request_id, where the body has none")),
    request_body = ChangeBody,
    responses((status = 200, description = "The levels after it", body = StockBody))
)]
pub async fn restock(call: Call) -> Result<Reply, Problem> {
    change(call, ChangeKind::Restock).await
}

/// Units left other than by an order.
#[utoipa::path(
    post, path = "/v1/stock/{sku_id}/deduct", tag = "stock",
    params(("sku_id" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "The request_id, where the body has none")),
    request_body = ChangeBody,
    responses((status = 200, description = "The levels after it", body = StockBody))
)]
pub async fn deduct(call: Call) -> Result<Reply, Problem> {
    change(call, ChangeKind::Deduct).await
}

/// A correction, up or down.
#[utoipa::path(
    post, path = "/v1/stock/{sku_id}/adjust", tag = "stock",
    params(("sku_id" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "The request_id, where the body has none")),
    request_body = ChangeBody,
    responses((status = 200, description = "The levels after it", body = StockBody))
)]
pub async fn adjust(call: Call) -> Result<Reply, Problem> {
    change(call, ChangeKind::Adjust).await
}

/// Takes no new reservations; what is held can be confirmed and released.
#[utoipa::path(
    post, path = "/v1/stock/{sku_id}/suspend", tag = "stock", params(("sku_id" = String, Path)),
    request_body = Option<StatusBody>,
    responses((status = 200, description = "The SKU in the warehouses that it is about", body = SkuBody))
)]
pub async fn suspend(call: Call) -> Result<Reply, Problem> {
    set_status(call, StockStatus::Suspended).await
}

/// Takes new reservations again.
#[utoipa::path(
    post, path = "/v1/stock/{sku_id}/resume", tag = "stock", params(("sku_id" = String, Path)),
    request_body = Option<StatusBody>,
    responses((status = 200, description = "The SKU in the warehouses that it is about", body = SkuBody))
)]
pub async fn resume(call: Call) -> Result<Reply, Problem> {
    set_status(call, StockStatus::OnSale).await
}

async fn change(call: Call, kind: ChangeKind) -> Result<Reply, Problem> {
    let body: ChangeBody<'_> = parse(call.body()?)?;
    let sku_id = sku_id(call.path_id())?;
    let action = body.action(sku_id, kind, call.idempotency_key()?, &call.app.defaults)?;
    Ok(Reply::ok(&call.submit(action).await?))
}

async fn set_status(call: Call, status: StockStatus) -> Result<Reply, Problem> {
    let body: StatusBody = parse_optional(call.body()?)?;
    let action = body.action(sku_id(call.path_id())?, status)?;
    Ok(Reply::ok(&call.submit(action).await?))
}
