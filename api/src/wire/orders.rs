//! What is asked about orders.

use hotstock_engine::command::{
    Action, Choice, Confirm, Extend, InvalidField, Line, Lines, Mode, Part, Release, Reserve, Return,
};
use hotstock_engine::ids::{BuyerId, OrderNo, Reason, RequestId, SkuId, WarehouseId};
use hotstock_engine::limits::{MAX_LINE_QUANTITY, MAX_TTL_SECONDS};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use utoipa::ToSchema;

use super::values::{Number, Object, SkuText, Text, id};

/// What a request leaves out.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// The warehouse of a line or stock that names none.
    pub warehouse_id: WarehouseId,
    /// How long a reservation holds, in seconds.
    pub ttl_seconds: u32,
    /// The warehouses that come first where any may serve, the best first.
    pub prefer: Vec<WarehouseId>,
}

// In the bodies below a required field that is missing takes the value of an empty one, which is out of bounds: so both
// are the same error, `invalid_field`, by the same check.

/// One line of an order.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LineBody<'a> {
    /// What: 1 to 64 bytes, no control characters. An integer is taken as its decimal text.
    #[serde(borrow, default)]
    #[schema(value_type = String, required = true, max_length = 64, example = "1001")]
    pub sku_id: SkuText<'a>,
    /// Where it lies; the configured default where missing, unless the order says `"warehouses":"any"`.
    #[schema(value_type = Option<u32>, example = 1)]
    pub warehouse_id: Option<Number>,
    /// Units.
    #[serde(default)]
    #[schema(value_type = u32, required = true, minimum = 1, maximum = 1_000_000_000, example = 2)]
    pub quantity: Number,
}

/// The lines of an order; the usual one has one.
pub type LineBodies<'a> = SmallVec<[Object<LineBody<'a>>; 1]>;

/// `POST /v1/reservations`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReserveBody<'a> {
    /// The caller's own number for the order: the idempotency key of everything done for it.
    #[serde(borrow, default)]
    #[schema(value_type = String, required = true, max_length = 64, example = "ORD-1")]
    pub order_no: Text<'a>,
    /// What to hold. Lines of the same SKU and warehouse are summed.
    #[serde(borrow, default)]
    #[schema(value_type = Vec<LineBody>, required = true, min_items = 1, max_items = 1_000)]
    pub lines: LineBodies<'a>,
    /// How long the hold lasts; 1,800 where missing.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 604_800, example = 900)]
    pub ttl_seconds: Option<Number>,
    /// Who buys; kept with the order.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, max_length = 64)]
    pub buyer_id: Option<Text<'a>>,
    /// `all_or_nothing` (the default) or `best_effort`, which holds what it can of each line.
    #[serde(borrow)]
    #[schema(value_type = Option<ModeName>)]
    pub mode: Option<Text<'a>>,
    /// `any`: a line without warehouse_id may lie in any warehouse, also in pieces. One that can serve the whole order
    /// comes first, else as few as can be; the answer's lines say which. Enough stock in all is never refused.
    #[serde(borrow)]
    #[schema(value_type = Option<WarehousesName>)]
    pub warehouses: Option<Text<'a>>,
    /// With `"warehouses":"any"`: which come before others that would do as well, the best first. Of no account in a
    /// repeat.
    #[schema(value_type = Option<Vec<u32>>, max_items = 1_000, example = json!([2, 1]))]
    pub prefer: Option<Vec<Number>>,
}

/// Where lines that name no warehouse lie. (For the docs.)
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code, reason = "only its schema is used")]
pub enum WarehousesName {
    /// Wherever there is enough.
    Any,
}

/// What a reservation does when it can't hold everything. (For the docs: bodies read it as text, so that another word
/// is an `invalid_field`.)
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code, reason = "only its schema is used")]
pub enum ModeName {
    /// Holds every line in full or is refused.
    AllOrNothing,
    /// Holds what it can of each line; refused only when it can hold nothing.
    BestEffort,
}

/// `POST /v1/reservations/{order_no}/confirm`; may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfirmBody<'a> {
    /// A part; everything that the order holds where missing.
    #[serde(borrow)]
    #[schema(value_type = Option<Vec<LineBody>>, min_items = 1, max_items = 1_000)]
    pub lines: Option<LineBodies<'a>>,
    /// Tells two equal parts from a repeat; without it the same lines again are a repeat. Of no effect without lines.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, max_length = 64)]
    pub request_id: Option<Text<'a>>,
}

/// `POST /v1/reservations/{order_no}/release`; may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseBody<'a> {
    /// A part; everything that the order holds where missing.
    #[serde(borrow)]
    #[schema(value_type = Option<Vec<LineBody>>, min_items = 1, max_items = 1_000)]
    pub lines: Option<LineBodies<'a>>,
    /// Tells two equal parts from a repeat; without it the same lines again are a repeat. Of no effect without lines.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, max_length = 64)]
    pub request_id: Option<Text<'a>>,
    /// Why, for the journal.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, max_length = 256, example = "user_cancelled")]
    pub reason: Option<Text<'a>>,
}

/// `POST /v1/reservations/{order_no}/extend`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtendBody {
    /// How long the hold lasts, counted from now.
    #[serde(default)]
    #[schema(value_type = u32, required = true, minimum = 1, maximum = 604_800, example = 600)]
    pub ttl_seconds: Number,
}

/// `POST /v1/reservations/{order_no}/return`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReturnBody<'a> {
    /// The id of this return, unique within the order. Required, here or as the header Idempotency-Key.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, max_length = 64, example = "R-1")]
    pub request_id: Option<Text<'a>>,
    /// A part; everything that was confirmed and not returned where missing.
    #[serde(borrow)]
    #[schema(value_type = Option<Vec<LineBody>>, min_items = 1, max_items = 1_000)]
    pub lines: Option<LineBodies<'a>>,
}

impl ReserveBody<'_> {
    /// The engine's action.
    ///
    /// # Errors
    /// [`InvalidField`], as of the methods below.
    pub fn action(&self, defaults: &Defaults) -> Result<Action, InvalidField> {
        let ttl_seconds = self.ttl_seconds.map_or(Ok(defaults.ttl_seconds), ttl_seconds)?;
        let mode = match self.mode.as_ref().map(|mode| &*mode.0) {
            None | Some("all_or_nothing") => Mode::AllOrNothing,
            Some("best_effort") => Mode::BestEffort,
            Some(_) => return Err(InvalidField::new("mode", "must be all_or_nothing or best_effort")),
        };
        let order_no = order_no(&self.order_no)?;
        let (lines, choice) = match self.warehouses.as_ref().map(|warehouses| &*warehouses.0) {
            None if self.prefer.is_some() => {
                return Err(InvalidField::new("prefer", "is of use only with \"warehouses\":\"any\""));
            }
            None => (lines(&self.lines, defaults)?, None),
            Some("any") => {
                let (lines, open) = open_lines(&self.lines, defaults)?;
                let prefer = self.prefer(defaults)?;
                // Every line may name its warehouse all the same.
                (lines, (!open.is_empty()).then(|| Box::new(Choice { open, prefer })))
            }
            Some(_) => return Err(InvalidField::new("warehouses", "must be any, or missing")),
        };
        Ok(Action::Reserve(Reserve {
            order_no,
            lines,
            ttl_seconds,
            buyer_id: self.buyer_id.as_ref().map(|text| id("buyer_id", &text.0, BuyerId::new)).transpose()?,
            mode,
            choice,
        }))
    }

    fn prefer(&self, defaults: &Defaults) -> Result<Vec<WarehouseId>, InvalidField> {
        let Some(numbers) = &self.prefer else { return Ok(defaults.prefer.clone()) };
        let one = |(index, number): (usize, &Number)| {
            Number::warehouse(Some(*number), defaults.warehouse_id, format_args!("prefer[{index}]"))
        };
        numbers.iter().enumerate().map(one).collect()
    }
}

impl ConfirmBody<'_> {
    /// The engine's action for an order.
    ///
    /// # Errors
    /// [`InvalidField`].
    pub fn action(&self, order_no: OrderNo, defaults: &Defaults) -> Result<Action, InvalidField> {
        let part = part(self.lines.as_ref(), self.request_id.as_ref(), defaults)?;
        Ok(Action::Confirm(Confirm { order_no, part }))
    }
}

impl ReleaseBody<'_> {
    /// The engine's action for an order.
    ///
    /// # Errors
    /// [`InvalidField`].
    pub fn action(&self, order_no: OrderNo, defaults: &Defaults) -> Result<Action, InvalidField> {
        let part = part(self.lines.as_ref(), self.request_id.as_ref(), defaults)?;
        Ok(Action::Release(Release { order_no, part, reason: reason(self.reason.as_ref())? }))
    }
}

impl ExtendBody {
    /// The engine's action for an order.
    ///
    /// # Errors
    /// [`InvalidField`].
    pub fn action(&self, order_no: OrderNo) -> Result<Action, InvalidField> {
        Ok(Action::Extend(Extend { order_no, ttl_seconds: ttl_seconds(self.ttl_seconds)? }))
    }
}

impl ReturnBody<'_> {
    /// The engine's action for an order. `key` is the header Idempotency-Key.
    ///
    /// # Errors
    /// [`InvalidField`].
    pub fn action(
        &self,
        order_no: OrderNo,
        key: Option<&str>,
        defaults: &Defaults,
    ) -> Result<Action, InvalidField> {
        let lines = self.lines.as_ref().map(|bodies| lines(bodies, defaults)).transpose()?;
        let request_id = required_request_id(self.request_id.as_ref(), key)?;
        Ok(Action::Return(Return { order_no, request_id, lines }))
    }
}

/// The order's number.
///
/// # Errors
/// [`InvalidField`].
pub fn order_no(text: &Text<'_>) -> Result<OrderNo, InvalidField> {
    id("order_no", &text.0, OrderNo::new)
}

/// Why a change is made.
///
/// # Errors
/// [`InvalidField`].
pub fn reason(text: Option<&Text<'_>>) -> Result<Option<Reason>, InvalidField> {
    text.map(|text| id("reason", &text.0, Reason::new)).transpose()
}

/// The request_id of a change that must have one: in the body, as the header Idempotency-Key, or both alike.
///
/// # Errors
/// [`InvalidField`] when there is none, or two.
pub fn required_request_id(body: Option<&Text<'_>>, key: Option<&str>) -> Result<RequestId, InvalidField> {
    let text = match (body.map(|text| &*text.0), key) {
        (Some(body), Some(key)) if body != key => {
            return Err(InvalidField::new("request_id", "differs from the header Idempotency-Key"));
        }
        (Some(text), _) | (None, Some(text)) => text,
        (None, None) => {
            return Err(InvalidField::new(
                "request_id",
                "is required, here or as the header Idempotency-Key",
            ));
        }
    };
    id("request_id", text, RequestId::new)
}

fn ttl_seconds(number: Number) -> Result<u32, InvalidField> {
    number.within("ttl_seconds", 1..=i64::from(MAX_TTL_SECONDS))
}

fn part(
    bodies: Option<&LineBodies<'_>>,
    request_id: Option<&Text<'_>>,
    defaults: &Defaults,
) -> Result<Option<Part>, InvalidField> {
    let request_id = request_id.map(|text| id("request_id", &text.0, RequestId::new)).transpose()?;
    let lines = bodies.map(|bodies| lines(bodies, defaults)).transpose()?;
    Ok(lines.map(|lines| Part { lines, request_id }))
}

fn lines(bodies: &LineBodies<'_>, defaults: &Defaults) -> Result<Lines, InvalidField> {
    let mut bad = None;
    // Handed on one by one, so that the usual single line is built in place.
    let lines = Lines::new(bodies.iter().enumerate().map_while(|(index, Object(body))| {
        line(index, body, defaults).map_err(|error| bad = Some(error)).ok()
    }));
    bad.map_or(lines, Err)
}

/// The lines of an order that may lie in any warehouse, and which of them name none.
fn open_lines(bodies: &LineBodies<'_>, defaults: &Defaults) -> Result<(Lines, Vec<u16>), InvalidField> {
    let mut bad = None;
    let lines = Lines::with_open(bodies.iter().enumerate().map_while(|(index, Object(body))| {
        let line = line(index, body, defaults).map_err(|error| bad = Some(error)).ok()?;
        Some((line.sku_id, body.warehouse_id.map(|_| line.warehouse_id), line.quantity))
    }));
    bad.map_or(lines, Err)
}

fn line(index: usize, body: &LineBody<'_>, defaults: &Defaults) -> Result<Line, InvalidField> {
    let sku_id = id(format_args!("lines[{index}].sku_id"), &body.sku_id.0, SkuId::new)?;
    let field = format_args!("lines[{index}].warehouse_id");
    let warehouse_id = Number::warehouse(body.warehouse_id, defaults.warehouse_id, field)?;
    let field = format_args!("lines[{index}].quantity");
    let quantity = body.quantity.within(field, 1..=i64::from(MAX_LINE_QUANTITY))?;
    Ok(Line { sku_id, warehouse_id, quantity })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Defaults =
        Defaults { warehouse_id: WarehouseId(7), ttl_seconds: 1_800, prefer: Vec::new() };

    fn reserve(json: &str) -> Result<Reserve, InvalidField> {
        let body: ReserveBody<'_> = serde_json::from_str(json).unwrap();
        match body.action(&DEFAULTS)? {
            Action::Reserve(reserve) => Ok(reserve),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_reservation_has_defaults() {
        let got = reserve(r#"{"order_no":"O","lines":[{"sku_id":1001,"quantity":2}]}"#).unwrap();
        let line = Line { sku_id: SkuId::new("1001").unwrap(), warehouse_id: WarehouseId(7), quantity: 2 };
        let expected = Reserve {
            order_no: OrderNo::new("O").unwrap(),
            lines: Lines::new([line]).unwrap(),
            ttl_seconds: 1_800,
            buyer_id: None,
            mode: Mode::AllOrNothing,
            choice: None,
        };
        assert_eq!(got, expected);
        let got = reserve(
            r#"{"order_no":"O","lines":[{"sku_id":"1001","warehouse_id":3,"quantity":2}],
                "ttl_seconds":9,"buyer_id":"u7","mode":"best_effort"}"#,
        )
        .unwrap();
        assert_eq!(got.lines.first().warehouse_id, WarehouseId(3));
        assert_eq!((got.ttl_seconds, got.mode), (9, Mode::BestEffort));
        assert_eq!(got.buyer_id, Some(BuyerId::new("u7").unwrap()));
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let cases = [
            (r#"{}"#, "order_no"),
            (r#"{"order_no":"O"}"#, "lines"),
            (r#"{"order_no":"O","lines":[]}"#, "lines"),
            (r#"{"order_no":"O\u0007","lines":[{"sku_id":"a","quantity":1}]}"#, "order_no"),
            (r#"{"order_no":"O","lines":[{"quantity":1}]}"#, "lines[0].sku_id"),
            (r#"{"order_no":"O","lines":[{"sku_id":"a"}]}"#, "lines[0].quantity"),
            (
                r#"{"order_no":"O","lines":[{"sku_id":"a","quantity":1},{"sku_id":"b","quantity":0}]}"#,
                "lines[1].quantity",
            ),
            (r#"{"order_no":"O","lines":[{"sku_id":"a","quantity":-1}]}"#, "lines[0].quantity"),
            (r#"{"order_no":"O","lines":[{"sku_id":"a","quantity":1000000001}]}"#, "lines[0].quantity"),
            (r#"{"order_no":"O","lines":[{"sku_id":"a","quantity":1e30}]}"#, "lines[0].quantity"),
            (
                r#"{"order_no":"O","lines":[{"sku_id":"a","warehouse_id":-1,"quantity":1}]}"#,
                "lines[0].warehouse_id",
            ),
            (
                r#"{"order_no":"O","lines":[{"sku_id":"a","warehouse_id":4294967296,"quantity":1}]}"#,
                "lines[0].warehouse_id",
            ),
            (r#"{"order_no":"O","lines":[{"sku_id":"a","quantity":1}],"ttl_seconds":0}"#, "ttl_seconds"),
            (r#"{"order_no":"O","lines":[{"sku_id":"a","quantity":1}],"ttl_seconds":604801}"#, "ttl_seconds"),
            (r#"{"order_no":"O","lines":[{"sku_id":"a","quantity":1}],"buyer_id":""}"#, "buyer_id"),
            (r#"{"order_no":"O","lines":[{"sku_id":"a","quantity":1}],"mode":"most"}"#, "mode"),
            (r#"{"order_no":"O","lines":[{"sku_id":"a","quantity":1}],"warehouses":"all"}"#, "warehouses"),
            (r#"{"order_no":"O","lines":[{"sku_id":"a","quantity":1}],"prefer":[1]}"#, "prefer"),
            (
                r#"{"order_no":"O","lines":[{"sku_id":"a","quantity":1}],"warehouses":"any","prefer":[1,-1]}"#,
                "prefer[1]",
            ),
            (r#"{"order_no":"O","lines":[],"warehouses":"any"}"#, "lines"),
            (
                r#"{"order_no":"O","lines":[{"sku_id":"a","quantity":1},{"sku_id":"a"}],"warehouses":"any"}"#,
                "lines[1].quantity",
            ),
        ];
        for (json, field) in cases {
            assert_eq!(reserve(json).unwrap_err().field, field, "{json}");
        }
    }

    #[test]
    fn lines_without_warehouse_are_open_if_the_order_says_so() {
        let lines = r#""order_no":"O","lines":[{"sku_id":"a","quantity":1},{"sku_id":"a","warehouse_id":7,"quantity":2},
            {"sku_id":"b","warehouse_id":null,"quantity":3}]"#;
        let named = reserve(&format!("{{{lines}}}")).unwrap();
        assert_eq!((named.lines.as_slice().len(), named.choice), (2, None), "both lines of a are in 7");
        let any = reserve(&format!(r#"{{{lines},"warehouses":"any","prefer":[2,1]}}"#)).unwrap();
        let got: Vec<_> = any.lines.as_slice().iter().map(|l| (l.warehouse_id, l.quantity)).collect();
        assert_eq!(got, [(WarehouseId::ANY, 1), (WarehouseId(7), 2), (WarehouseId::ANY, 3)]);
        let choice = any.choice.unwrap();
        assert_eq!((choice.open, choice.prefer), (vec![0, 2], vec![WarehouseId(2), WarehouseId(1)]));
        let all_named =
            r#"{"order_no":"O","lines":[{"sku_id":"a","warehouse_id":1,"quantity":1}],"warehouses":"any"}"#;
        assert_eq!(reserve(all_named).unwrap().choice, None);
        // Who prefers nothing has what is configured.
        let body: ReserveBody<'_> = serde_json::from_str(
            r#"{"order_no":"O","lines":[{"sku_id":"a","quantity":1}],"warehouses":"any"}"#,
        )
        .unwrap();
        let action = body.action(&Defaults { prefer: vec![WarehouseId(4)], ..DEFAULTS }).unwrap();
        let Action::Reserve(Reserve { choice, .. }) = action else { panic!("{action:?}") };
        assert_eq!(choice.unwrap().prefer, [WarehouseId(4)]);
    }

    #[test]
    fn parts_are_all_or_some_lines() {
        let order_no = OrderNo::new("O").unwrap();
        let confirm = |json: &str| {
            let body: ConfirmBody<'_> = serde_json::from_str(json).unwrap();
            body.action(order_no.clone(), &DEFAULTS)
        };
        let part_of = |action| match action {
            Action::Confirm(Confirm { part, .. }) => part,
            other => panic!("{other:?}"),
        };
        assert_eq!(part_of(confirm("{}").unwrap()), None);
        assert_eq!(part_of(confirm(r#"{"lines":null}"#).unwrap()), None);
        assert_eq!(confirm(r#"{"lines":[]}"#).unwrap_err().field, "lines", "no lines are not all lines");
        let part = part_of(confirm(r#"{"lines":[{"sku_id":"a","quantity":1}],"request_id":"r"}"#).unwrap());
        assert_eq!(part.unwrap().request_id, Some(RequestId::new("r").unwrap()));
    }

    #[test]
    fn a_request_id_comes_from_the_body_or_the_header() {
        let text = |text: &'static str| Text(text.into());
        let field = |body: Option<&Text<'_>>, key| {
            required_request_id(body, key).map(|id| id.to_string()).map_err(|error| error.field)
        };
        assert_eq!(field(Some(&text("a")), None), Ok("a".into()));
        assert_eq!(field(None, Some("b")), Ok("b".into()));
        assert_eq!(field(Some(&text("a")), Some("a")), Ok("a".into()));
        assert_eq!(field(Some(&text("a")), Some("b")), Err("request_id".into()));
        assert_eq!(field(None, None), Err("request_id".into()));
        assert_eq!(field(Some(&text("")), None), Err("request_id".into()));
    }
}
