//! What goes wrong, as callers see it (RFC 9457), and the one mapping of the engine's refusals to codes.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Response, StatusCode};
use hotstock_engine::command::InvalidField;
use hotstock_engine::ids::{SkuId, TraceId, WarehouseId};
use hotstock_engine::outcome::{Refusal, ShortLine, StockView};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::codes::Code;
use crate::limits::MAX_DETAIL_BYTES;
use crate::wire::stock::WarehouseBody;

/// A request that was not carried out, or whose outcome is not known.
#[derive(Debug)]
pub struct Problem {
    /// Which.
    pub code: Code,
    /// What happened this time, in plain English.
    pub detail: Cow<'static, str>,
    /// What the code names.
    pub about: About,
}

/// The fields that a code names.
#[derive(Debug)]
pub enum About {
    /// None.
    Nothing,
    /// A field of the request.
    Field(String),
    /// Lines that could not be served in full.
    Lines(Vec<ShortLine>),
    /// A stock.
    Sku(SkuId, Option<WarehouseId>),
    /// A stock that exists: what it began with, and as it is.
    Exists(u64, Box<StockView>),
}

impl Problem {
    /// A problem about nothing in particular.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), about: About::Nothing }
    }

    /// A request that can't be read. `detail` may quote it, so it is cut; `field` names the place, where one is known.
    #[must_use]
    pub fn malformed(mut detail: String, field: Option<String>) -> Self {
        if detail.len() > MAX_DETAIL_BYTES {
            detail.truncate(detail.floor_char_boundary(MAX_DETAIL_BYTES));
            detail.push('…');
        }
        Self {
            code: Code::MalformedRequest,
            detail: detail.into(),
            about: field.map_or(About::Nothing, About::Field),
        }
    }

    /// The problem as it travels.
    #[must_use]
    pub fn body(&self, trace: TraceId) -> ProblemBody<'_> {
        let info = self.code.info();
        let mut body = ProblemBody {
            r#type: info.link,
            title: info.title,
            status: info.status,
            detail: &self.detail,
            code: self.code,
            trace_id: trace,
            field: None,
            lines: None,
            sku_id: None,
            warehouse_id: None,
            initial: None,
            stock: None,
        };
        match &self.about {
            About::Nothing => {}
            About::Field(field) => body.field = Some(field),
            About::Lines(lines) => body.lines = Some(lines),
            About::Sku(sku_id, warehouse_id) => {
                body.sku_id = Some(sku_id.as_str());
                body.warehouse_id = warehouse_id.map(|id| id.0);
            }
            About::Exists(initial, stock) => {
                body.sku_id = Some(stock.sku_id.as_str());
                body.warehouse_id = Some(stock.warehouse_id.0);
                body.initial = Some(*initial);
                body.stock = Some(WarehouseBody::from(&**stock));
            }
        }
        body
    }

    /// The problem as an answer.
    #[must_use]
    pub fn response(&self, trace: TraceId) -> Response<Body> {
        let info = self.code.info();
        let json = serde_json::to_vec(&self.body(trace)).expect("text and numbers can always be written");
        let mut response = Response::new(Body::from(json));
        *response.status_mut() = StatusCode::from_u16(info.status).expect("the table has valid statuses");
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.code == Code::Unauthorized {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = info.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<InvalidField> for Problem {
    fn from(error: InvalidField) -> Self {
        let detail = Cow::Owned(error.to_string());
        Self { code: Code::InvalidField, detail, about: About::Field(error.field) }
    }
}

/// The one place where the engine's refusals become codes.
impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (code, detail) = (code_of(&refusal), refusal.to_string());
        let about = match refusal {
            Refusal::InvalidField(error) => About::Field(error.field),
            Refusal::InsufficientStock { lines }
            | Refusal::ExceedsHold { lines }
            | Refusal::LatePaymentNoStock { lines }
            | Refusal::NothingToReturn { lines } => About::Lines(lines),
            Refusal::StockInconsistent { sku_id, .. } => About::Sku(sku_id, None),
            Refusal::UnknownSku { sku_id, warehouse_id } => About::Sku(sku_id, warehouse_id),
            Refusal::SkuSuspended { sku_id, warehouse_id } => About::Sku(sku_id, Some(warehouse_id)),
            Refusal::StockExists { initial, stock } => About::Exists(initial, Box::new(stock)),
            Refusal::OrderMismatch { .. }
            | Refusal::RequestMismatch
            | Refusal::UnknownOrder { .. }
            | Refusal::OrderCancelled { .. }
            | Refusal::AlreadyConfirmed { .. }
            | Refusal::OrderEnded { .. }
            | Refusal::OrderTooOld { .. }
            | Refusal::TooManyRequests { .. }
            | Refusal::Overloaded
            | Refusal::JournalFull
            | Refusal::StoreUnavailable
            | Refusal::OrderInconsistent { .. }
            | Refusal::Fenced { .. }
            | Refusal::JournalUnavailable
            | Refusal::ShardRestarted => About::Nothing,
        };
        Self { code, detail: detail.into(), about }
    }
}

fn code_of(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::InvalidField(_) => Code::InvalidField,
        Refusal::OrderMismatch { .. } => Code::OrderMismatch,
        Refusal::RequestMismatch => Code::RequestMismatch,
        Refusal::UnknownSku { .. } => Code::UnknownSku,
        Refusal::UnknownOrder { .. } => Code::UnknownOrder,
        Refusal::InsufficientStock { .. } => Code::InsufficientStock,
        Refusal::OrderCancelled { .. } => Code::OrderCancelled,
        Refusal::AlreadyConfirmed { .. } => Code::AlreadyConfirmed,
        Refusal::OrderEnded { .. } => Code::OrderEnded,
        Refusal::ExceedsHold { .. } => Code::ExceedsHold,
        Refusal::LatePaymentNoStock { .. } => Code::LatePaymentNoStock,
        Refusal::NothingToReturn { .. } => Code::NothingToReturn,
        Refusal::SkuSuspended { .. } => Code::SkuSuspended,
        Refusal::StockExists { .. } => Code::StockExists,
        Refusal::OrderTooOld { .. } => Code::OrderTooOld,
        Refusal::TooManyRequests { .. } => Code::TooManyRequestsForOrder,
        // The second never leaves the engine; if it did, nothing would have happened, which is what `overloaded` says.
        Refusal::Overloaded => Code::Overloaded,
        Refusal::JournalFull => Code::JournalFull,
        Refusal::StoreUnavailable => Code::StoreUnavailable,
        Refusal::StockInconsistent { .. } => Code::StockInconsistent,
        Refusal::OrderInconsistent { .. } => Code::OrderInconsistent,
        Refusal::Fenced { .. } => Code::Fenced,
        Refusal::JournalUnavailable => Code::JournalUnavailable,
        Refusal::ShardRestarted => Code::ShardRestarted,
    }
}

/// A problem as it travels: RFC 9457 and the fields that the code names.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemBody<'a> {
    /// A link into the docs.
    #[schema(example = "/docs#insufficient_stock")]
    r#type: &'static str,
    /// What the code means, in short.
    #[schema(example = "Not enough stock")]
    title: &'static str,
    /// The HTTP status.
    #[schema(example = 409)]
    status: u16,
    /// What happened this time.
    #[schema(example = "not enough stock")]
    detail: &'a str,
    /// What callers decide by: it never changes its meaning.
    code: Code,
    /// The caller's trace, or a random one.
    #[serde(serialize_with = "as_hex")]
    #[schema(value_type = String, example = "4bf92f3577b34da6a3ce929d0e0e4736")]
    trace_id: TraceId,
    /// The field of the request that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    /// Lines that could not be served in full.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "each_short_line")]
    #[schema(value_type = Option<Vec<ShortLineBody>>)]
    lines: Option<&'a [ShortLine]>,
    /// The SKU that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    sku_id: Option<&'a str>,
    /// The warehouse that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    warehouse_id: Option<u32>,
    /// Of stock_exists: what the stock was created with.
    #[serde(skip_serializing_if = "Option::is_none")]
    initial: Option<u64>,
    /// Of stock_exists: the levels now.
    #[serde(skip_serializing_if = "Option::is_none")]
    stock: Option<WarehouseBody>,
}

/// A line that could not be served in full.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShortLineBody<'a> {
    /// What.
    #[schema(example = "1001")]
    sku_id: &'a str,
    /// Where; missing where any warehouse would have done: then there is not enough in all of them together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 1)]
    warehouse_id: Option<u32>,
    /// Units asked for.
    #[schema(example = 2)]
    requested: u64,
    /// Units there were: available, held or returnable, as the code says.
    #[schema(example = 0)]
    available: u64,
}

/// By hand: sixteen times through the formatter would cost as much as the rest of a refusal, and in a flash sale most
/// answers are refusals.
fn as_hex<S: Serializer>(trace: &TraceId, serializer: S) -> Result<S::Ok, S::Error> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(trace.0) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    serializer.serialize_str(std::str::from_utf8(&digits).expect("hex digits are ASCII"))
}

#[allow(clippy::ref_option, reason = "the signature is serde's")]
fn each_short_line<S: Serializer>(lines: &Option<&[ShortLine]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(lines.unwrap_or_default().iter().map(|line| ShortLineBody {
        sku_id: line.sku_id.as_str(),
        warehouse_id: (line.warehouse_id != WarehouseId::ANY).then_some(line.warehouse_id.0),
        requested: line.requested,
        available: line.available,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes::TABLE;

    #[test]
    fn a_problem_has_the_fields_that_its_code_names() {
        let short = ShortLine {
            sku_id: SkuId::new("1001").unwrap(),
            warehouse_id: WarehouseId(1),
            requested: 2,
            available: 1,
        };
        let problem = Problem::from(Refusal::InsufficientStock { lines: vec![short] });
        assert_eq!(
            serde_json::to_string(&problem.body(TraceId([0xab; 16]))).unwrap(),
            concat!(
                r##"{"type":"/docs#insufficient_stock","title":"Not enough stock","status":409,"detail":"not enough stock","##,
                r#""code":"insufficient_stock","trace_id":"abababababababababababababababab","#,
                r#""lines":[{"sku_id":"1001","warehouse_id":1,"requested":2,"available":1}]}"#
            )
        );
        let anywhere = ShortLine {
            sku_id: SkuId::new("1001").unwrap(),
            warehouse_id: WarehouseId::ANY,
            requested: 2,
            available: 1,
        };
        let problem = Problem::from(Refusal::InsufficientStock { lines: vec![anywhere] });
        let json = serde_json::to_value(problem.body(TraceId([1; 16]))).unwrap();
        assert_eq!(json["lines"], serde_json::json!([{"sku_id": "1001", "requested": 2, "available": 1}]));
        let field = Problem::from(InvalidField::new("ttl_seconds", "must be 1 to 604800"));
        let json = serde_json::to_value(field.body(TraceId([1; 16]))).unwrap();
        assert_eq!((json["field"].as_str(), json["status"].as_u64()), (Some("ttl_seconds"), Some(422)));
        assert!(json.get("lines").is_none());
    }

    #[test]
    fn answers_say_when_to_come_again() {
        for row in TABLE {
            let response = Problem::new(row.code, "").response(TraceId([1; 16]));
            assert_eq!(response.status().as_u16(), row.status, "{}", row.name);
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            assert_eq!(response.headers().contains_key(RETRY_AFTER), row.status == 503, "{}", row.name);
            assert_eq!(response.headers().contains_key(WWW_AUTHENTICATE), row.status == 401, "{}", row.name);
        }
    }
}
