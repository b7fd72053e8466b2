//! The bodies of batches. One operation has the fields of all of them, so that a batch is read in one pass, without
//! the copies that serde makes for tagged enums; then the fields that its `op` does not have must be absent.

use hotstock_engine::command::{Action, ChangeKind, InvalidField};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answers::AnyBody;
use super::orders::{
    ConfirmBody, Defaults, ExtendBody, LineBodies, LineBody, ModeName, ReleaseBody, ReserveBody, ReturnBody,
    WarehousesName, order_no,
};
use super::stock::{ChangeBody, sku_id};
use super::values::{Number, SkuText, Text};

/// `POST /v1/batch`. `O` is [`Operation`], or its text when operations are to be read one by one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchBody<O> {
    /// 1 to 10,000 of them.
    #[serde(default = "Vec::new")]
    pub operations: Vec<O>,
}

/// `POST /v1/batch`. (For the docs.)
#[derive(ToSchema)]
#[schema(as = BatchBody)]
#[allow(dead_code, reason = "only its schema is used")]
pub struct BatchSchema<'a> {
    /// What to do, in this order for what concerns the same order or SKU.
    #[schema(min_items = 1, max_items = 10_000)]
    operations: Vec<Operation<'a>>,
}

/// One operation of a batch: `op` and the fields of the request of that name. Requests about an order have its
/// `order_no` here, those about stock their `sku_id`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Operation<'a> {
    /// What to do.
    #[serde(borrow, default)]
    #[schema(value_type = OpName, required = true)]
    op: Text<'a>,
    /// Of reserve, confirm, release, extend, return.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, max_length = 64, example = "ORD-1")]
    order_no: Option<Text<'a>>,
    /// Of reserve; optional of confirm, release, return.
    #[serde(borrow)]
    #[schema(value_type = Option<Vec<LineBody>>, min_items = 1, max_items = 1_000)]
    lines: Option<LineBodies<'a>>,
    /// Of reserve and extend.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 604_800)]
    ttl_seconds: Option<Number>,
    /// Of reserve.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, max_length = 64)]
    buyer_id: Option<Text<'a>>,
    /// Of reserve.
    #[serde(borrow)]
    #[schema(value_type = Option<ModeName>)]
    mode: Option<Text<'a>>,
    /// Of reserve.
    #[serde(borrow)]
    #[schema(value_type = Option<WarehousesName>)]
    warehouses: Option<Text<'a>>,
    /// Of reserve.
    #[schema(value_type = Option<Vec<u32>>, max_items = 1_000)]
    prefer: Option<Vec<Number>>,
    /// Of confirm, release, return, restock, deduct, adjust.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, max_length = 64)]
    request_id: Option<Text<'a>>,
    /// Of release, restock, deduct, adjust.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, max_length = 256)]
    reason: Option<Text<'a>>,
    /// Of restock, deduct, adjust.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, max_length = 64)]
    sku_id: Option<SkuText<'a>>,
    /// Of restock, deduct, adjust.
    #[schema(value_type = Option<u32>)]
    warehouse_id: Option<Number>,
    /// Of restock, deduct, adjust.
    #[schema(value_type = Option<i64>)]
    quantity: Option<Number>,
}

/// The operations that a batch takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is the request of that name")]
pub enum OpName {
    Reserve,
    Confirm,
    Release,
    Extend,
    Return,
    Restock,
    Deduct,
    Adjust,
}

/// Why an operation is not carried out.
#[derive(Debug, PartialEq)]
pub enum OperationError {
    /// A field is out of bounds.
    InvalidField(InvalidField),
    /// A field that this operation does not have.
    UnknownField {
        /// The operation.
        op: String,
        /// The field.
        field: &'static str,
    },
}

impl From<InvalidField> for OperationError {
    fn from(error: InvalidField) -> Self {
        Self::InvalidField(error)
    }
}

/// A set of fields of [`Operation`]: one bit for each.
type Fields = u16;

const ORDER_NO: Fields = 1;
const LINES: Fields = 1 << 1;
const TTL_SECONDS: Fields = 1 << 2;
const BUYER_ID: Fields = 1 << 3;
const MODE: Fields = 1 << 4;
const REQUEST_ID: Fields = 1 << 5;
const REASON: Fields = 1 << 6;
const SKU_ID: Fields = 1 << 7;
const WAREHOUSE_ID: Fields = 1 << 8;
const QUANTITY: Fields = 1 << 9;
const WAREHOUSES: Fields = 1 << 10;
const PREFER: Fields = 1 << 11;

impl OpName {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "reserve" => Self::Reserve,
            "confirm" => Self::Confirm,
            "release" => Self::Release,
            "extend" => Self::Extend,
            "return" => Self::Return,
            "restock" => Self::Restock,
            "deduct" => Self::Deduct,
            "adjust" => Self::Adjust,
            _ => return None,
        })
    }

    fn fields(self) -> Fields {
        match self {
            Self::Reserve => ORDER_NO | LINES | TTL_SECONDS | BUYER_ID | MODE | WAREHOUSES | PREFER,
            Self::Confirm | Self::Return => ORDER_NO | LINES | REQUEST_ID,
            Self::Release => ORDER_NO | LINES | REQUEST_ID | REASON,
            Self::Extend => ORDER_NO | TTL_SECONDS,
            Self::Restock | Self::Deduct | Self::Adjust => {
                SKU_ID | WAREHOUSE_ID | QUANTITY | REQUEST_ID | REASON
            }
        }
    }
}

impl Operation<'_> {
    /// The engine's action.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn action(self, defaults: &Defaults) -> Result<Action, OperationError> {
        let op = OpName::parse(&self.op.0).ok_or_else(|| {
            let problem = "must be reserve, confirm, release, extend, return, restock, deduct or adjust";
            InvalidField::new("op", problem)
        })?;
        if let Some(field) = self.first_beyond(op.fields()) {
            return Err(OperationError::UnknownField { op: self.op.0.into_owned(), field });
        }
        let order_no = |text: Option<Text<'_>>| order_no(&text.unwrap_or_default());
        Ok(match op {
            OpName::Reserve => ReserveBody {
                order_no: self.order_no.unwrap_or_default(),
                lines: self.lines.unwrap_or_default(),
                ttl_seconds: self.ttl_seconds,
                buyer_id: self.buyer_id,
                mode: self.mode,
                warehouses: self.warehouses,
                prefer: self.prefer,
            }
            .action(defaults),
            OpName::Confirm => ConfirmBody { lines: self.lines, request_id: self.request_id }
                .action(order_no(self.order_no)?, defaults),
            OpName::Release => {
                ReleaseBody { lines: self.lines, request_id: self.request_id, reason: self.reason }
                    .action(order_no(self.order_no)?, defaults)
            }
            OpName::Extend => ExtendBody { ttl_seconds: self.ttl_seconds.unwrap_or_default() }
                .action(order_no(self.order_no)?),
            OpName::Return => ReturnBody { request_id: self.request_id, lines: self.lines }.action(
                order_no(self.order_no)?,
                None,
                defaults,
            ),
            OpName::Restock => self.change(ChangeKind::Restock, defaults),
            OpName::Deduct => self.change(ChangeKind::Deduct, defaults),
            OpName::Adjust => self.change(ChangeKind::Adjust, defaults),
        }?)
    }

    fn change(self, kind: ChangeKind, defaults: &Defaults) -> Result<Action, InvalidField> {
        let sku_id = sku_id(&self.sku_id.unwrap_or_default().0)?;
        let body = ChangeBody {
            request_id: self.request_id,
            warehouse_id: self.warehouse_id,
            quantity: self.quantity.unwrap_or_default(),
            reason: self.reason,
        };
        body.action(sku_id, kind, None, defaults)
    }

    /// The first field that is there and not in `allowed`.
    fn first_beyond(&self, allowed: Fields) -> Option<&'static str> {
        let fields = [
            (ORDER_NO, "order_no", self.order_no.is_some()),
            (LINES, "lines", self.lines.is_some()),
            (TTL_SECONDS, "ttl_seconds", self.ttl_seconds.is_some()),
            (BUYER_ID, "buyer_id", self.buyer_id.is_some()),
            (MODE, "mode", self.mode.is_some()),
            (REQUEST_ID, "request_id", self.request_id.is_some()),
            (REASON, "reason", self.reason.is_some()),
            (SKU_ID, "sku_id", self.sku_id.is_some()),
            (WAREHOUSE_ID, "warehouse_id", self.warehouse_id.is_some()),
            (QUANTITY, "quantity", self.quantity.is_some()),
            (WAREHOUSES, "warehouses", self.warehouses.is_some()),
            (PREFER, "prefer", self.prefer.is_some()),
        ];
        fields.into_iter().find_map(|(bit, name, given)| (given && allowed & bit == 0).then_some(name))
    }
}

/// The answer to a batch. (For the docs; answers are written one by one.)
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its schema is used")]
pub struct ResultsBody<'a> {
    /// One per operation, in their order.
    results: Vec<ResultBody<'a>>,
}

/// The answer to one operation: what the request of its own would be answered.
#[derive(Serialize, ToSchema)]
pub struct ResultBody<'a> {
    /// The HTTP status that the request of its own would have.
    #[schema(example = 201)]
    pub status: u16,
    /// The body that the request of its own would have.
    pub body: AnyBody<'a>,
}

#[cfg(test)]
mod tests {
    use hotstock_engine::ids::WarehouseId;

    use super::*;

    const DEFAULTS: Defaults =
        Defaults { warehouse_id: WarehouseId(7), ttl_seconds: 1_800, prefer: Vec::new() };

    fn action(json: &str) -> Result<Action, OperationError> {
        serde_json::from_str::<Operation<'_>>(json).unwrap().action(&DEFAULTS)
    }

    /// An operation with every field that its `op` takes is what the request of that name would be.
    #[test]
    fn operations_are_the_requests_of_their_names() {
        let line = r#""lines":[{"sku_id":"a","quantity":1}]"#;
        let change = r#""sku_id":"a","warehouse_id":2,"quantity":3,"request_id":"r","reason":"why""#;
        let cases = [
            (
                "reserve",
                format!(
                    r#""order_no":"O",{line},"ttl_seconds":5,"buyer_id":"b","mode":"best_effort","warehouses":"any","prefer":[2]"#
                ),
                "Reserve",
            ),
            ("confirm", format!(r#""order_no":"O",{line},"request_id":"r""#), "Confirm"),
            ("release", format!(r#""order_no":"O",{line},"request_id":"r","reason":"why""#), "Release"),
            ("extend", r#""order_no":"O","ttl_seconds":5"#.to_owned(), "Extend"),
            ("return", format!(r#""order_no":"O",{line},"request_id":"r""#), "Return"),
            ("restock", change.to_owned(), "ChangeStock"),
            ("deduct", change.to_owned(), "ChangeStock"),
            ("adjust", change.to_owned(), "ChangeStock"),
        ];
        for (op, fields, variant) in cases {
            let action = action(&format!(r#"{{"op":"{op}",{fields}}}"#)).unwrap();
            assert!(format!("{action:?}").starts_with(variant), "{op}: {action:?}");
        }
    }

    #[test]
    fn a_field_of_another_operation_is_unknown() {
        let unknown = |op: &str, field| Err(OperationError::UnknownField { op: op.to_owned(), field });
        assert_eq!(
            action(r#"{"op":"extend","order_no":"O","ttl_seconds":5,"mode":"best_effort"}"#),
            unknown("extend", "mode")
        );
        assert_eq!(action(r#"{"op":"confirm","order_no":"O","reason":"x"}"#), unknown("confirm", "reason"));
        assert_eq!(action(r#"{"op":"confirm","order_no":"O","prefer":[1]}"#), unknown("confirm", "prefer"));
        assert_eq!(
            action(r#"{"op":"release","order_no":"O","warehouses":"any"}"#),
            unknown("release", "warehouses")
        );
        assert_eq!(
            action(r#"{"op":"reserve","order_no":"O","sku_id":"a","quantity":1}"#),
            unknown("reserve", "sku_id")
        );
        assert_eq!(action(r#"{"op":"restock","order_no":"O"}"#), unknown("restock", "order_no"));
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let field = |json| match action(json) {
            Err(OperationError::InvalidField(error)) => error.field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(r#"{"order_no":"O"}"#), "op");
        assert_eq!(field(r#"{"op":"buy","order_no":"O"}"#), "op");
        assert_eq!(field(r#"{"op":"confirm"}"#), "order_no");
        assert_eq!(field(r#"{"op":"extend","order_no":"O"}"#), "ttl_seconds");
        assert_eq!(field(r#"{"op":"return","order_no":"O"}"#), "request_id");
        assert_eq!(field(r#"{"op":"restock","quantity":1,"request_id":"r"}"#), "sku_id");
    }
}
