//! An order as it is answered.

use hotstock_engine::ids::WarehouseId;
use hotstock_engine::order::OrderStatus;
use hotstock_engine::outcome::{LineView, OrderView};
use hotstock_engine::units::Serials;
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use super::values::{SerialsBody, Time, each_range};

/// An order, as every call about one answers it.
#[derive(Debug, Serialize, ToSchema)]
pub struct OrderBody<'a> {
    /// The caller's number.
    #[schema(example = "ORD-1")]
    order_no: &'a str,
    /// Where it stands.
    status: StatusName,
    /// Whether this request had been carried out before and changed nothing now.
    replayed: bool,
    /// When it was reserved, or cancelled before it was.
    #[schema(value_type = String, format = DateTime, example = "2026-03-08T09:00:00.000Z")]
    created_at: Time,
    /// When what it holds expires; null when it holds nothing.
    #[schema(value_type = Option<String>, format = DateTime, example = "2026-03-08T09:15:00.000Z", required = true)]
    expires_at: Option<Time>,
    /// What it asked for and what became of it; empty for a cancelled order.
    #[serde(serialize_with = "each_line")]
    #[schema(value_type = Vec<OrderLine>)]
    lines: &'a [LineView],
}

/// Where an order stands.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the engine's OrderStatus says what each one means")]
pub enum StatusName {
    Reserved,
    PartiallyConfirmed,
    Confirmed,
    Released,
    Expired,
    Cancelled,
    PartiallyReturned,
    Returned,
}

/// One line of an order. held + confirmed + released is what it got when it was reserved.
#[derive(Debug, Serialize, ToSchema)]
pub struct OrderLine<'a> {
    /// What.
    #[schema(example = "1001")]
    sku_id: &'a str,
    /// Where; missing where none was chosen because there was nothing anywhere (best effort).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 1)]
    warehouse_id: Option<u32>,
    /// Units asked for.
    #[schema(example = 2)]
    quantity: u32,
    /// Units held now.
    #[schema(example = 2)]
    held: u32,
    /// Units confirmed so far, including those returned since.
    #[schema(example = 0)]
    confirmed: u32,
    /// Units given back without being sold.
    #[schema(example = 0)]
    released: u32,
    /// Units sold and returned.
    #[schema(example = 0)]
    returned: u32,
    /// Of a SKU that was created with `"serialized": true`: the numbers of its confirmed units, one range for each
    /// confirm, in the order in which they were given. Each is given once and never again, also when its unit is
    /// returned.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "each_range")]
    #[schema(value_type = Option<Vec<SerialsBody>>)]
    serials: Option<&'a [Serials]>,
}

impl<'a> OrderBody<'a> {
    /// The order as JSON.
    #[must_use]
    pub fn new(order: &'a OrderView, replayed: bool) -> Self {
        Self {
            order_no: order.order_no.as_str(),
            status: StatusName::from(order.status),
            replayed,
            created_at: Time(order.created_at),
            expires_at: order.expires_at.map(Time),
            lines: &order.lines,
        }
    }
}

fn each_line<S: Serializer>(lines: &[LineView], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(lines.iter().map(|line| OrderLine {
        sku_id: line.sku_id.as_str(),
        warehouse_id: (line.warehouse_id != WarehouseId::ANY).then_some(line.warehouse_id.0),
        quantity: line.quantity,
        held: line.held,
        confirmed: line.confirmed,
        released: line.released,
        returned: line.returned,
        serials: line.serials.as_deref(),
    }))
}

impl From<OrderStatus> for StatusName {
    fn from(status: OrderStatus) -> Self {
        match status {
            OrderStatus::Reserved => Self::Reserved,
            OrderStatus::PartiallyConfirmed => Self::PartiallyConfirmed,
            OrderStatus::Confirmed => Self::Confirmed,
            OrderStatus::Released => Self::Released,
            OrderStatus::Expired => Self::Expired,
            OrderStatus::Cancelled => Self::Cancelled,
            OrderStatus::PartiallyReturned => Self::PartiallyReturned,
            OrderStatus::Returned => Self::Returned,
        }
    }
}

impl From<StatusName> for OrderStatus {
    fn from(status: StatusName) -> Self {
        match status {
            StatusName::Reserved => Self::Reserved,
            StatusName::PartiallyConfirmed => Self::PartiallyConfirmed,
            StatusName::Confirmed => Self::Confirmed,
            StatusName::Released => Self::Released,
            StatusName::Expired => Self::Expired,
            StatusName::Cancelled => Self::Cancelled,
            StatusName::PartiallyReturned => Self::PartiallyReturned,
            StatusName::Returned => Self::Returned,
        }
    }
}

#[cfg(test)]
mod tests {
    use hotstock_engine::clock::Timestamp;
    use hotstock_engine::ids::{OrderNo, SkuId};
    use smallvec::SmallVec;

    use super::*;

    #[test]
    fn an_order_is_written_as_the_contract_says() {
        let line = LineView {
            sku_id: SkuId::new("1001").unwrap(),
            warehouse_id: WarehouseId(1),
            quantity: 2,
            held: 2,
            confirmed: 0,
            released: 0,
            returned: 0,
            serials: None,
        };
        let mut order = OrderView {
            order_no: OrderNo::new("ORD-\"1\"").unwrap(),
            status: OrderStatus::PartiallyConfirmed,
            created_at: Timestamp(0),
            expires_at: Some(Timestamp(1_500)),
            lines: SmallVec::from_elem(line, 1),
        };
        let json = |order: &OrderView| serde_json::to_string(&OrderBody::new(order, true)).unwrap();
        assert_eq!(
            json(&order),
            concat!(
                r#"{"order_no":"ORD-\"1\"","status":"partially_confirmed","replayed":true,"#,
                r#""created_at":"1970-01-01T00:00:00.000Z","expires_at":"1970-01-01T00:00:01.500Z","#,
                r#""lines":[{"sku_id":"1001","warehouse_id":1,"quantity":2,"held":2,"confirmed":0,"released":0,"returned":0}]}"#
            )
        );
        let ranges = [Serials { from: 1, to: 3 }, Serials { from: 7, to: 7 }];
        order.lines[0].serials = Some(ranges.into());
        assert!(json(&order).ends_with(r#""returned":0,"serials":[{"from":1,"to":3},{"from":7,"to":7}]}]}"#));
        order.expires_at = None;
        order.lines.clear();
        assert!(json(&order).ends_with(r#""expires_at":null,"lines":[]}"#));
    }
}
