//! The requests about orders. Each reads its body, makes the engine's action of it and writes the answer.

use axum::http::StatusCode;
use hotstock_engine::command::Action;
use hotstock_engine::ids::OrderNo;
use hotstock_engine::limits::MAX_PAGE_ROWS;
use hotstock_engine::outcome::Answer;

use crate::app::{Call, Reply};
use crate::body::{parse, parse_optional};
use crate::limits::DEFAULT_PAGE_ROWS;
use crate::problem::Problem;
use crate::wire::answers::{AnyBody, created};
use crate::wire::list::{OrdersBody, OrdersQuery};
use crate::wire::order::{OrderBody, StatusName};
use crate::wire::orders::{ConfirmBody, ExtendBody, ReleaseBody, ReserveBody, ReturnBody};
use crate::wire::values::{cursor_of, id, of_cursor};

/// Holds stock for an order. The same request again gets the same answer.
#[utoipa::path(
    post, path = "/v1/reservations", tag = "orders", request_body = ReserveBody,
    responses((status = 201, description = "The reservation was made", body = OrderBody),
        (status = 200, description = "It had been made by the same request before", body = OrderBody))
)]
pub async fn reserve(call: Call) -> Result<Reply, Problem> {
    let action = parse::<ReserveBody<'_>>(call.body()?)?.action(&call.app.defaults)?;
    let answer = call.submit(action).await?;
    let status = if created(&answer) { StatusCode::CREATED } else { StatusCode::OK };
    Ok(Reply::json(status, &AnyBody::of(&answer)))
}

/// Reads an order.
#[utoipa::path(
    get, path = "/v1/reservations/{order_no}", tag = "orders", params(("order_no" = String, Path)),
    responses((status = 200, description = "The order", body = OrderBody))
)]
pub async fn get(call: Call) -> Result<Reply, Problem> {
    let answer = call.submit(Action::GetOrder(order_no(&call)?)).await?;
    Ok(match &answer {
        // A read repeats nothing.
        Answer::Order { order, .. } => Reply::json(StatusCode::OK, &OrderBody::new(order, false)),
        other => Reply::ok(other),
    })
}

/// Reads orders, page by page. What is durable is in it, flushed to the SQL store or not.
#[utoipa::path(
    get, path = "/v1/reservations", tag = "orders",
    params(("status" = Option<Vec<StatusName>>, Query, explode = false,
            description = "In one of these states; several with commas, or the parameter several times. Any where missing"),
        ("sku_id" = Option<String>, Query, description = "With a line of this SKU"),
        ("limit" = Option<u32>, Query, description = "Orders of the page, 1 to 1,000; 100 where missing"),
        ("cursor" = Option<String>, Query, description = "The next_cursor of the page before")),
    responses((status = 200, description = "One page", body = OrdersBody))
)]
pub async fn list(call: Call) -> Result<Reply, Problem> {
    let query: OrdersQuery = call.query()?;
    let max = i64::try_from(MAX_PAGE_ROWS).unwrap_or(i64::MAX);
    let limit = query.limit.map_or(Ok(DEFAULT_PAGE_ROWS), |limit| limit.within("limit", 1..=max))?;
    let after = query.cursor.as_ref().map(|cursor| of_cursor(cursor, OrderNo::new)).transpose()?;
    let page = call.app.engine.list_orders(&query.filter()?, after.as_ref(), limit).await?;
    // A read repeats nothing.
    let items = page.orders.iter().map(|order| OrderBody::new(order, false)).collect();
    let next_cursor = page.next.map(|last| cursor_of(last.as_str()));
    Ok(Reply::json(StatusCode::OK, &OrdersBody { items, next_cursor }))
}

/// Turns what an order holds, or a part of it, into a sale. After expiry or release: takes the stock again, if it is
/// there, and sells it in one step.
#[utoipa::path(
    post, path = "/v1/reservations/{order_no}/confirm", tag = "orders", params(("order_no" = String, Path)),
    request_body = Option<ConfirmBody>,
    responses((status = 200, description = "The order", body = OrderBody))
)]
pub async fn confirm(call: Call) -> Result<Reply, Problem> {
    let body: ConfirmBody<'_> = parse_optional(call.body()?)?;
    let action = body.action(order_no(&call)?, &call.app.defaults)?;
    Ok(Reply::ok(&call.submit(action).await?))
}

/// Gives back what an order holds, or a part of it. An order that was never seen is cancelled: a later reserve of it is
/// refused.
#[utoipa::path(
    post, path = "/v1/reservations/{order_no}/release", tag = "orders", params(("order_no" = String, Path)),
    request_body = Option<ReleaseBody>,
    responses((status = 200, description = "The order", body = OrderBody))
)]
pub async fn release(call: Call) -> Result<Reply, Problem> {
    let body: ReleaseBody<'_> = parse_optional(call.body()?)?;
    let action = body.action(order_no(&call)?, &call.app.defaults)?;
    Ok(Reply::ok(&call.submit(action).await?))
}

/// Moves the expiry, counted from now.
#[utoipa::path(
    post, path = "/v1/reservations/{order_no}/extend", tag = "orders", params(("order_no" = String, Path)),
    request_body = ExtendBody,
    responses((status = 200, description = "The order", body = OrderBody))
)]
pub async fn extend(call: Call) -> Result<Reply, Problem> {
    let action = parse::<ExtendBody>(call.body()?)?.action(order_no(&call)?)?;
    Ok(Reply::ok(&call.submit(action).await?))
}

/// Brings sold units back to available.
#[utoipa::path(
    post, path = "/v1/reservations/{order_no}/return", tag = "orders",
    params(("order_no" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "The request_id, where the body has none")),
    request_body = ReturnBody,
    responses((status = 200, description = "The order", body = OrderBody))
)]
pub async fn return_units(call: Call) -> Result<Reply, Problem> {
    let body: ReturnBody<'_> = parse(call.body()?)?;
    let action = body.action(order_no(&call)?, call.idempotency_key()?, &call.app.defaults)?;
    Ok(Reply::ok(&call.submit(action).await?))
}

fn order_no(call: &Call) -> Result<OrderNo, Problem> {
    Ok(id("order_no", call.path_id(), OrderNo::new)?)
}
