//! The table of routes, and the way of every request: head checked, body read, handler run in time, answer counted.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::Request;
use axum::http::Response;
use axum::routing::{MethodFilter, MethodRouter, on};

use crate::app::{App, Call, Reply};
use crate::codes::Code;
use crate::problem::Problem;
use crate::{admin, auth, batch, health, orders, stock, trace};

/// A route, by its place in [`ROUTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "`ROUTES` says what each one is")]
pub enum Route {
    Reserve,
    ListOrders,
    GetOrder,
    Confirm,
    Release,
    Extend,
    Return,
    Batch,
    CreateStock,
    ListStock,
    GetStock,
    StockJournal,
    Restock,
    Deduct,
    Adjust,
    Suspend,
    Resume,
    PromoteSku,
    DemoteSku,
    PromoteSkus,
    DemoteSkus,
    HotSkus,
    SetHotSkus,
    Shards,
    Checkpoint,
    Reconcile,
    Parked,
    Anomalies,
    Livez,
    Readyz,
    Metrics,
    OpenApi,
    NotFound,
    MethodNotAllowed,
}

/// The methods that routes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Method {
    Get,
    Post,
    Put,
    /// Of requests that have no route.
    Any,
}

/// What a route reads of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// It is not read.
    Nothing,
    /// As large as that of one request.
    Body,
    /// As large as a batch.
    Batch,
}

/// What is known about a route.
#[derive(Debug)]
pub struct RouteInfo {
    /// Which.
    pub route: Route,
    /// Its method.
    pub method: Method,
    /// Its path, with `{names}` of parameters. Also the label of its metrics.
    pub path: &'static str,
    /// What it reads.
    pub takes: Takes,
    /// Whether it has parameters after a `?`.
    pub query: bool,
    /// Whether it is the operators' alone.
    pub admin: bool,
    /// The codes that it may answer with, apart from those that [`RouteInfo::codes`] adds.
    own_codes: &'static [Code],
    /// Whether it asks the engine's shards, whose codes then are added.
    submits: bool,
}

/// A route that sends a body to the engine.
const fn post(route: Route, path: &'static str, own_codes: &'static [Code]) -> RouteInfo {
    RouteInfo {
        route,
        method: Method::Post,
        path,
        takes: Takes::Body,
        query: false,
        admin: false,
        own_codes,
        submits: true,
    }
}

/// A route of the operators; its path begins with [`auth::ADMIN_PREFIX`].
const fn operators(info: RouteInfo) -> RouteInfo {
    RouteInfo { admin: true, ..info }
}

/// A route that only reads.
const fn get(route: Route, path: &'static str, own_codes: &'static [Code]) -> RouteInfo {
    RouteInfo {
        route,
        method: Method::Get,
        path,
        takes: Takes::Nothing,
        query: false,
        admin: false,
        own_codes,
        submits: false,
    }
}

/// What a request without a route goes as.
const fn stray(route: Route, label: &'static str, own_codes: &'static [Code]) -> RouteInfo {
    RouteInfo { method: Method::Any, ..get(route, label, own_codes) }
}

/// The codes of what may have to read the SQL store.
const READS_STORE: &[Code] = &[Code::InvalidField, Code::Overloaded, Code::StoreUnavailable, Code::Timeout];

/// The codes of what reads one SKU there.
const READS_SKU: &[Code] = &[
    Code::InvalidField,
    Code::UnknownSku,
    Code::StockInconsistent,
    Code::Overloaded,
    Code::StoreUnavailable,
    Code::Timeout,
];

/// The codes of promoting or demoting one SKU. Those of a list are in its results.
const PINS: &[Code] = &[Code::InvalidField, Code::UnknownSku, Code::StockInconsistent];

/// Every route, in the order of [`Route`].
pub const ROUTES: &[RouteInfo] = &[
    post(
        Route::Reserve,
        "/v1/reservations",
        &[
            Code::OrderMismatch,
            Code::JournalFull,
            Code::UnknownSku,
            Code::InsufficientStock,
            Code::OrderCancelled,
            Code::SkuSuspended,
            Code::StockInconsistent,
            Code::OrderInconsistent,
        ],
    ),
    // What is not flushed yet is asked of the shards.
    RouteInfo { query: true, submits: true, ..get(Route::ListOrders, "/v1/reservations", READS_STORE) },
    RouteInfo {
        submits: true,
        ..get(
            Route::GetOrder,
            "/v1/reservations/{order_no}",
            &[Code::InvalidField, Code::UnknownOrder, Code::StockInconsistent, Code::OrderInconsistent],
        )
    },
    post(
        Route::Confirm,
        "/v1/reservations/{order_no}/confirm",
        &[
            Code::RequestMismatch,
            Code::UnknownOrder,
            Code::OrderCancelled,
            Code::ExceedsHold,
            Code::LatePaymentNoStock,
            Code::OrderTooOld,
            Code::TooManyRequestsForOrder,
            Code::StockInconsistent,
            Code::OrderInconsistent,
        ],
    ),
    post(
        Route::Release,
        "/v1/reservations/{order_no}/release",
        &[
            Code::RequestMismatch,
            Code::UnknownOrder,
            Code::AlreadyConfirmed,
            Code::ExceedsHold,
            Code::TooManyRequestsForOrder,
            Code::StockInconsistent,
            Code::OrderInconsistent,
        ],
    ),
    post(
        Route::Extend,
        "/v1/reservations/{order_no}/extend",
        &[
            Code::UnknownOrder,
            Code::OrderCancelled,
            Code::OrderEnded,
            Code::StockInconsistent,
            Code::OrderInconsistent,
        ],
    ),
    post(
        Route::Return,
        "/v1/reservations/{order_no}/return",
        &[
            Code::RequestMismatch,
            Code::UnknownOrder,
            Code::OrderCancelled,
            Code::NothingToReturn,
            Code::OrderTooOld,
            Code::TooManyRequestsForOrder,
            Code::StockInconsistent,
            Code::OrderInconsistent,
        ],
    ),
    RouteInfo { takes: Takes::Batch, ..post(Route::Batch, "/v1/batch", &[]) },
    post(
        Route::CreateStock,
        "/v1/stock",
        &[Code::StockExists, Code::StockInconsistent, Code::Unauthorized, Code::Forbidden],
    ),
    RouteInfo { query: true, ..get(Route::ListStock, "/v1/stock", READS_STORE) },
    RouteInfo { query: true, ..get(Route::GetStock, "/v1/stock/{sku_id}", READS_SKU) },
    RouteInfo { query: true, ..get(Route::StockJournal, "/v1/stock/{sku_id}/journal", READS_SKU) },
    post(
        Route::Restock,
        "/v1/stock/{sku_id}/restock",
        &[Code::RequestMismatch, Code::UnknownSku, Code::StockInconsistent],
    ),
    post(
        Route::Deduct,
        "/v1/stock/{sku_id}/deduct",
        &[Code::RequestMismatch, Code::UnknownSku, Code::InsufficientStock, Code::StockInconsistent],
    ),
    post(
        Route::Adjust,
        "/v1/stock/{sku_id}/adjust",
        &[Code::RequestMismatch, Code::UnknownSku, Code::InsufficientStock, Code::StockInconsistent],
    ),
    post(Route::Suspend, "/v1/stock/{sku_id}/suspend", &[Code::UnknownSku, Code::StockInconsistent]),
    post(Route::Resume, "/v1/stock/{sku_id}/resume", &[Code::UnknownSku, Code::StockInconsistent]),
    RouteInfo {
        takes: Takes::Nothing,
        ..operators(post(Route::PromoteSku, "/v1/admin/skus/{sku_id}/promote", PINS))
    },
    RouteInfo {
        takes: Takes::Nothing,
        ..operators(post(Route::DemoteSku, "/v1/admin/skus/{sku_id}/demote", PINS))
    },
    operators(post(Route::PromoteSkus, "/v1/admin/skus/promote", &[])),
    operators(post(Route::DemoteSkus, "/v1/admin/skus/demote", &[])),
    RouteInfo { query: true, ..operators(get(Route::HotSkus, "/v1/admin/skus/hot", &[Code::InvalidField])) },
    RouteInfo { method: Method::Put, ..operators(post(Route::SetHotSkus, "/v1/admin/skus/hot", &[])) },
    operators(get(Route::Shards, "/v1/admin/shards", &[])),
    RouteInfo {
        takes: Takes::Nothing,
        submits: false,
        ..operators(post(Route::Checkpoint, "/v1/admin/checkpoint", &[]))
    },
    operators(post(Route::Reconcile, "/v1/admin/reconcile", &[])),
    RouteInfo { query: true, ..operators(get(Route::Parked, "/v1/admin/parked", READS_STORE)) },
    RouteInfo { query: true, ..operators(get(Route::Anomalies, "/v1/admin/anomalies", READS_STORE)) },
    get(Route::Livez, "/livez", &[]),
    get(Route::Readyz, "/readyz", &[Code::NotReady]),
    get(Route::Metrics, "/metrics", &[]),
    get(Route::OpenApi, "/openapi.json", &[]),
    stray(Route::NotFound, "not_found", &[Code::NotFound]),
    stray(Route::MethodNotAllowed, "method_not_allowed", &[Code::MethodNotAllowed]),
];

/// `ROUTES[route]` is the row of `route`, for every route.
const _: () = {
    let mut i = 0;
    while i < ROUTES.len() {
        assert!(ROUTES[i].route as usize == i, "ROUTES is in the order of Route");
        i += 1;
    }
    assert!(Route::MethodNotAllowed as usize + 1 == ROUTES.len(), "ROUTES has every route");
};

impl Route {
    /// What is known about it.
    #[must_use]
    pub fn info(self) -> &'static RouteInfo {
        &ROUTES[self as usize]
    }
}

impl Method {
    /// As the label of metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Any => "*",
        }
    }
}

impl RouteInfo {
    /// Every code that the route may answer with.
    pub fn codes(&self) -> impl Iterator<Item = Code> {
        let any: &[Code] = &[Code::MalformedRequest, Code::HeadersTooLarge];
        let body: &[Code] =
            &[Code::InvalidField, Code::RequestIncomplete, Code::RequestTooLarge, Code::Overloaded];
        let engine: &[Code] = &[
            Code::Overloaded,
            Code::StoreUnavailable,
            Code::Fenced,
            Code::JournalUnavailable,
            Code::ShardRestarted,
            Code::Timeout,
        ];
        let guarded: &[Code] = if self.admin { &[Code::Unauthorized, Code::Forbidden] } else { &[] };
        let body = if self.takes == Takes::Nothing { &[] } else { body };
        let engine = if self.submits { engine } else { &[] };
        let mut all = [self.own_codes, any, body, engine, guarded].concat();
        all.sort_unstable_by_key(|code| *code as u8);
        all.dedup();
        all.into_iter()
    }
}

/// The router over the table.
pub fn router(app: &Arc<App>) -> Router {
    let with_route = |router: Router, info: &'static RouteInfo| match handler(app, info) {
        Some(handler) => router.route(info.path, handler),
        None => router,
    };
    let (not_found, not_allowed) = (Arc::clone(app), Arc::clone(app));
    ROUTES
        .iter()
        .fold(Router::new(), with_route)
        .fallback(move |request: Request| std::future::ready(no_route(&not_found, &request, Route::NotFound)))
        .method_not_allowed_fallback(move |request: Request| {
            std::future::ready(no_route(&not_allowed, &request, Route::MethodNotAllowed))
        })
}

fn handler(app: &Arc<App>, info: &'static RouteInfo) -> Option<MethodRouter> {
    Some(match info.route {
        Route::Reserve => endpoint(app, info, orders::reserve),
        Route::ListOrders => endpoint(app, info, orders::list),
        Route::GetOrder => endpoint(app, info, orders::get),
        Route::Confirm => endpoint(app, info, orders::confirm),
        Route::Release => endpoint(app, info, orders::release),
        Route::Extend => endpoint(app, info, orders::extend),
        Route::Return => endpoint(app, info, orders::return_units),
        Route::Batch => endpoint(app, info, batch::batch),
        Route::CreateStock => endpoint(app, info, stock::create),
        Route::ListStock => endpoint(app, info, stock::list),
        Route::GetStock => endpoint(app, info, stock::get),
        Route::StockJournal => endpoint(app, info, stock::journal),
        Route::Restock => endpoint(app, info, stock::restock),
        Route::Deduct => endpoint(app, info, stock::deduct),
        Route::Adjust => endpoint(app, info, stock::adjust),
        Route::Suspend => endpoint(app, info, stock::suspend),
        Route::Resume => endpoint(app, info, stock::resume),
        Route::PromoteSku => endpoint(app, info, admin::promote),
        Route::DemoteSku => endpoint(app, info, admin::demote),
        Route::PromoteSkus => endpoint(app, info, admin::promote_all),
        Route::DemoteSkus => endpoint(app, info, admin::demote_all),
        Route::HotSkus => endpoint(app, info, admin::hot),
        Route::SetHotSkus => endpoint(app, info, admin::set_hot),
        Route::Shards => endpoint(app, info, admin::shards),
        Route::Checkpoint => endpoint(app, info, admin::checkpoint),
        Route::Reconcile => endpoint(app, info, admin::reconcile),
        Route::Parked => endpoint(app, info, admin::parked),
        Route::Anomalies => endpoint(app, info, admin::anomalies),
        Route::Livez => endpoint(app, info, health::livez),
        Route::Readyz => endpoint(app, info, health::readyz),
        Route::Metrics => endpoint(app, info, health::metrics),
        Route::OpenApi => endpoint(app, info, health::openapi),
        Route::NotFound | Route::MethodNotAllowed => return None,
    })
}

/// The way of every request. Written as one function around the handler instead of layers, each of which would box
/// another future.
fn endpoint<H, F>(app: &Arc<App>, info: &'static RouteInfo, handler: H) -> MethodRouter<(), Infallible>
where
    H: Fn(Call) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Problem>> + Send + 'static,
{
    let filter = match info.method {
        Method::Get | Method::Any => MethodFilter::GET,
        Method::Post => MethodFilter::POST,
        Method::Put => MethodFilter::PUT,
    };
    let app = Arc::clone(app);
    on(filter, move |request: Request| {
        let (app, handler) = (Arc::clone(&app), handler.clone());
        async move {
            let started = Instant::now();
            let trace = trace::of_headers(request.headers());
            let answer = match allowed(&app, &request, info) {
                Ok(()) => match Call::read(Arc::clone(&app), request, trace, info).await {
                    Ok(call) => in_time(&app, handler(call)).await,
                    Err(problem) => Err(problem),
                },
                Err(problem) => Err(problem),
            };
            app.finish(info, trace, started, answer)
        }
    })
}

/// Before anything of the request is read.
fn allowed(app: &App, request: &Request, info: &RouteInfo) -> Result<(), Problem> {
    if !info.admin {
        return Ok(());
    }
    let peer = request.extensions().get::<auth::Peer>().copied();
    auth::check(&app.options, request.headers(), peer)
}

async fn in_time(app: &App, answer: impl Future<Output = Result<Reply, Problem>>) -> Result<Reply, Problem> {
    let limit = app.options.request_timeout;
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
        let detail =
            format!("no answer within {} s: whether this took effect is unknown", limit.as_secs_f32());
        Err(Problem::new(Code::Timeout, detail))
    })
}

fn no_route(app: &App, request: &Request, route: Route) -> Response<axum::body::Body> {
    let problem = match route {
        Route::MethodNotAllowed => {
            Problem::new(Code::MethodNotAllowed, "this path does not take this method")
        }
        _ => Problem::new(Code::NotFound, "no route has this path"),
    };
    app.finish(route.info(), trace::of_headers(request.headers()), Instant::now(), Err(problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who forgets the guard of a path, or guards one whose caller's address is not looked up, finds out here.
    #[test]
    fn exactly_the_operators_paths_are_guarded() {
        for info in ROUTES {
            assert_eq!(info.admin, info.path.starts_with(auth::ADMIN_PREFIX), "{}", info.path);
        }
        assert!(ROUTES.iter().any(|info| info.admin));
    }
}
