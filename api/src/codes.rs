//! The closed table of error codes: what a caller may rely on. Answers, the OpenAPI document and the metrics are all
//! made from it.

use utoipa::ToSchema;

/// A stable error code. The names below, in snake_case, are what callers see; a code never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
#[allow(missing_docs, reason = "`TABLE` says what each one means, once")]
pub enum Code {
    MalformedRequest,
    InvalidField,
    OrderMismatch,
    RequestMismatch,
    UnknownSku,
    UnknownOrder,
    InsufficientStock,
    OrderCancelled,
    AlreadyConfirmed,
    OrderEnded,
    ExceedsHold,
    LatePaymentNoStock,
    NothingToReturn,
    OrderTooOld,
    TooManyRequestsForOrder,
    SkuSuspended,
    StockExists,
    StockInconsistent,
    OrderInconsistent,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    RequestIncomplete,
    RequestTooLarge,
    HeadersTooLarge,
    Overloaded,
    JournalFull,
    StoreUnavailable,
    Fenced,
    JournalUnavailable,
    ShardRestarted,
    NotReady,
    Timeout,
}

/// What is known about a code.
#[derive(Debug, Clone, Copy)]
pub struct CodeInfo {
    /// The code.
    pub code: Code,
    /// The code as callers see it.
    pub name: &'static str,
    /// The `type` of the problem: a link into the docs.
    pub link: &'static str,
    /// HTTP status.
    pub status: u16,
    /// The `title` of the problem.
    pub title: &'static str,
    /// What it means and what to do, for the docs.
    pub meaning: &'static str,
    /// Seconds after which it is worth asking again (`Retry-After`).
    pub retry_after: Option<u32>,
    /// Whether the request may have taken effect all the same. Where not, nothing happened.
    pub outcome_unknown: bool,
}

/// One row; what only few codes have is added by the methods below.
macro_rules! row {
    ($code:ident, $name:literal, $status:literal, $title:literal, $meaning:literal) => {
        CodeInfo {
            code: Code::$code,
            name: $name,
            link: concat!("/docs#", $name),
            status: $status,
            title: $title,
            meaning: $meaning,
            retry_after: None,
            outcome_unknown: false,
        }
    };
}

impl CodeInfo {
    const fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    const fn outcome_unknown(self) -> Self {
        Self { outcome_unknown: true, ..self }
    }
}

/// Every code, in the order of [`Code`].
pub const TABLE: &[CodeInfo] = &[
    row!(
        MalformedRequest,
        "malformed_request",
        400,
        "The request can't be read",
        "Not JSON, a wrong type, an unknown field or parameter, a path that is not UTF-8. `field` names the place where it is known."
    ),
    row!(
        InvalidField,
        "invalid_field",
        422,
        "A field is out of bounds",
        "`field` names it; `detail` says its bounds. A required field that is missing counts as out of bounds."
    ),
    row!(
        OrderMismatch,
        "order_mismatch",
        422,
        "The order exists with other content",
        "The order_no was used before with other lines, mode or buyer."
    ),
    row!(
        RequestMismatch,
        "request_mismatch",
        422,
        "The request exists with other content",
        "The request_id was used before with other content."
    ),
    row!(
        UnknownSku,
        "unknown_sku",
        404,
        "There is no such stock",
        "No stock of this SKU was created (in this warehouse). `sku_id` and `warehouse_id` name it."
    ),
    row!(
        UnknownOrder,
        "unknown_order",
        404,
        "There is no such order",
        "The order was never seen, or it ended longer ago than orders are kept (`store.keep_days`)."
    ),
    row!(
        InsufficientStock,
        "insufficient_stock",
        409,
        "Not enough stock",
        "`lines` has each short line with `requested` and `available`."
    ),
    row!(
        OrderCancelled,
        "order_cancelled",
        409,
        "The order was cancelled",
        "It was released before it was reserved, so it can't be reserved any more."
    ),
    row!(
        AlreadyConfirmed,
        "already_confirmed",
        409,
        "The order is confirmed",
        "Units that are sold can't be released: use return."
    ),
    row!(
        OrderEnded,
        "order_ended",
        409,
        "The order holds nothing any more",
        "It was confirmed, released or has expired: there is nothing to extend."
    ),
    row!(
        ExceedsHold,
        "exceeds_hold",
        409,
        "The order does not hold that much",
        "A part to confirm or release is larger than what is held. `lines` has each such line; `available` is what is held."
    ),
    row!(
        LatePaymentNoStock,
        "late_payment_no_stock",
        409,
        "The payment came too late",
        "A confirm after expiry or release, and the stock is gone: refund. `lines` has each short line."
    ),
    row!(
        NothingToReturn,
        "nothing_to_return",
        409,
        "More is returned than was confirmed",
        "`lines` has each such line; `available` is what can still be returned."
    ),
    row!(
        OrderTooOld,
        "order_too_old",
        409,
        "The order ended too long ago",
        "It last changed longer ago than orders are kept (`store.keep_days`). It can be read until its rows go, within some hours, and its \
         number is free then; it can't be changed any more."
    ),
    row!(
        TooManyRequestsForOrder,
        "too_many_requests_for_order",
        409,
        "The order had too many partial requests",
        "Each partial confirm, release and return of an order is remembered; this order has had as many as fit (1,000). \
         What is left can always be confirmed, released or returned as a whole: ask without `lines`."
    ),
    row!(
        SkuSuspended,
        "sku_suspended",
        409,
        "The SKU is suspended",
        "No new reservations are taken; what is held can be confirmed and released. `sku_id` and `warehouse_id` name it."
    ),
    row!(
        StockExists,
        "stock_exists",
        409,
        "The stock exists",
        "It was created with another quantity: `initial`. `stock` has its levels now. Use restock, deduct or adjust."
    ),
    row!(
        StockInconsistent,
        "stock_inconsistent",
        409,
        "The stored rows of the SKU are not sound",
        "They are not what the stock journal says: somebody changed them by hand. Nothing is decided on them until an operator \
         has them repaired (reconcile). `sku_id` names it."
    ),
    row!(
        OrderInconsistent,
        "order_inconsistent",
        409,
        "The stored rows of the order can't be read",
        "Somebody changed them by hand. Nothing is decided on them until an operator puts them right; `detail` says what is wrong."
    ),
    row!(
        Unauthorized,
        "unauthorized",
        401,
        "A token is needed",
        "Send `Authorization: Bearer …` with the token of the operators."
    ),
    row!(Forbidden, "forbidden", 403, "Not allowed from here", "Without a token set, operators' requests are taken from this machine only."),
    row!(NotFound, "not_found", 404, "There is nothing here", "No route has this path."),
    row!(
        MethodNotAllowed,
        "method_not_allowed",
        405,
        "The path does not take this method",
        "The header Allow has the methods that it takes."
    ),
    row!(
        RequestIncomplete,
        "request_incomplete",
        408,
        "The body did not arrive in time",
        "The request was not carried out."
    ),
    row!(
        RequestTooLarge,
        "request_too_large",
        413,
        "The body is too large",
        "`detail` says how large it may be."
    ),
    row!(
        HeadersTooLarge,
        "headers_too_large",
        431,
        "The headers are too large",
        "`detail` says how large they may be."
    ),
    row!(Overloaded, "overloaded", 503, "Too many requests are under way", "Nothing happened; come again.")
        .retry_after(1),
    row!(
        JournalFull,
        "journal_full",
        503,
        "No new reservations until the journal has room",
        "Nothing happened. The journal is at its cap on the disk, mostly because the store is far behind; operators see why in /readyz. \
         Confirms and releases go on; come again."
    )
    .retry_after(10),
    row!(
        StoreUnavailable,
        "store_unavailable",
        503,
        "The SQL store is not available",
        "Nothing happened. What this is about is not in memory, and the store, which may have it, does not answer; come again. \
         SKUs in memory go on."
    )
    .retry_after(5),
    row!(
        Fenced,
        "fenced",
        503,
        "This server may not decide any more",
        "Nothing happened. Another server took the store over, or this one's data directory is an older copy: it takes no order, and \
         `detail` says why. Send the request to the other server."
    )
    .retry_after(5),
    row!(
        JournalUnavailable,
        "journal_unavailable",
        503,
        "The journal can't be written",
        "Outcome unknown: repeat the same request. Reads go on; an operator must restart the server."
    )
    .retry_after(5)
    .outcome_unknown(),
    row!(
        ShardRestarted,
        "shard_restarted",
        503,
        "A shard was restarted",
        "Outcome unknown: repeat the same request."
    )
    .retry_after(1)
    .outcome_unknown(),
    row!(
        NotReady,
        "not_ready",
        503,
        "The server does not take orders now",
        "Answer of /readyz only; `detail` says why."
    )
    .retry_after(1),
    row!(Timeout, "timeout", 504, "The request took too long", "Outcome unknown: repeat the same request.")
        .outcome_unknown(),
];

/// `TABLE[code]` is the row of `code`, for every code.
const _: () = {
    let mut i = 0;
    while i < TABLE.len() {
        assert!(TABLE[i].code as usize == i, "TABLE is in the order of Code");
        assert!((TABLE[i].status != 503) || TABLE[i].retry_after.is_some(), "a 503 says when to come again");
        i += 1;
    }
    assert!(Code::Timeout as usize + 1 == TABLE.len(), "TABLE has every code");
};

impl Code {
    /// What is known about it.
    #[must_use]
    pub fn info(self) -> &'static CodeInfo {
        &TABLE[self as usize]
    }
}
