//! The bodies of stock.

use hotstock_engine::command::{
    Action, ChangeKind, ChangeStock, CreateStock, InvalidField, SetStatus, StockStatus,
};
use hotstock_engine::ids::{SkuId, WarehouseId};
use hotstock_engine::limits::MAX_STOCK_UNITS;
use hotstock_engine::outcome::StockView;
use hotstock_engine::units::Levels;
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use super::orders::{Defaults, reason, required_request_id};
use super::values::{Number, SkuText, Text, id};

/// [`MAX_STOCK_UNITS`] as a signed number.
const MAX_UNITS: i64 = MAX_STOCK_UNITS.cast_signed();

/// `POST /v1/stock`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateBody<'a> {
    /// What: 1 to 64 bytes, no control characters. An integer is taken as its decimal text.
    #[serde(borrow, default)]
    #[schema(value_type = String, required = true, max_length = 64, example = "1001")]
    pub sku_id: SkuText<'a>,
    /// Where; the configured default where missing.
    #[schema(value_type = Option<u32>, example = 1)]
    pub warehouse_id: Option<Number>,
    /// The first units.
    #[serde(default = "missing")]
    #[schema(value_type = u64, required = true, minimum = 0, maximum = 1_000_000_000_000_000_u64, example = 100)]
    pub quantity: Number,
    /// Give each unit that is confirmed a serial number. The same in all warehouses of the SKU.
    #[serde(default)]
    pub serialized: bool,
    /// Promote the SKU at once: created and hot in one request, which can be repeated. Needs the operators' right, as
    /// everything below /v1/admin does.
    #[serde(default)]
    pub hot: bool,
}

/// 0 is a quantity that one may mean, so a missing one is not taken as it.
fn missing() -> Number {
    Number(i64::MIN)
}

/// `POST /v1/stock/{sku_id}/restock`, `deduct` and `adjust`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeBody<'a> {
    /// The id of this change, unique within the SKU. Required, here or as the header Idempotency-Key.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, max_length = 64, example = "PO-7")]
    pub request_id: Option<Text<'a>>,
    /// Where; the configured default where missing.
    #[schema(value_type = Option<u32>, example = 1)]
    pub warehouse_id: Option<Number>,
    /// Units: 1 or more; of adjust, signed and not 0.
    #[serde(default)]
    #[schema(value_type = i64, required = true, maximum = 1_000_000_000_000_000_i64, example = 50)]
    pub quantity: Number,
    /// Why, for the journal.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, max_length = 256)]
    pub reason: Option<Text<'a>>,
}

/// `POST /v1/stock/{sku_id}/suspend` and `resume`; may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StatusBody {
    /// Where; all warehouses of the SKU where missing.
    #[schema(value_type = Option<u32>, example = 1)]
    pub warehouse_id: Option<Number>,
}

impl CreateBody<'_> {
    /// The engine's action.
    ///
    /// # Errors
    /// [`InvalidField`].
    pub fn action(&self, defaults: &Defaults) -> Result<Action, InvalidField> {
        Ok(Action::CreateStock(CreateStock {
            sku_id: sku_id(&self.sku_id.0)?,
            warehouse_id: warehouse_id(self.warehouse_id, defaults)?,
            quantity: self.quantity.within("quantity", 0..=MAX_UNITS)?,
            serialized: self.serialized,
        }))
    }
}

impl ChangeBody<'_> {
    /// The engine's action. `key` is the header Idempotency-Key.
    ///
    /// # Errors
    /// [`InvalidField`].
    pub fn action(
        &self,
        sku_id: SkuId,
        kind: ChangeKind,
        key: Option<&str>,
        defaults: &Defaults,
    ) -> Result<Action, InvalidField> {
        let quantity = match kind {
            ChangeKind::Restock | ChangeKind::Deduct => self.quantity.within("quantity", 1..=MAX_UNITS)?,
            ChangeKind::Adjust if self.quantity.0 == 0 => {
                return Err(InvalidField::new("quantity", "must not be 0"));
            }
            ChangeKind::Adjust => self.quantity.within("quantity", -MAX_UNITS..=MAX_UNITS)?,
        };
        Ok(Action::ChangeStock(ChangeStock {
            sku_id,
            warehouse_id: warehouse_id(self.warehouse_id, defaults)?,
            kind,
            quantity,
            request_id: required_request_id(self.request_id.as_ref(), key)?,
            reason: reason(self.reason.as_ref())?,
        }))
    }
}

impl StatusBody {
    /// The engine's action.
    ///
    /// # Errors
    /// [`InvalidField`].
    pub fn action(&self, sku_id: SkuId, status: StockStatus) -> Result<Action, InvalidField> {
        Ok(Action::SetStatus(SetStatus { sku_id, warehouse_id: one_warehouse(self.warehouse_id)?, status }))
    }
}

/// A SKU's name.
///
/// # Errors
/// [`InvalidField`].
pub fn sku_id(text: &str) -> Result<SkuId, InvalidField> {
    id("sku_id", text, SkuId::new)
}

/// The warehouse of a number, if there is one.
///
/// # Errors
/// [`InvalidField`] when it is not an unsigned number of 32 bits.
pub fn one_warehouse(number: Option<Number>) -> Result<Option<WarehouseId>, InvalidField> {
    number.map(|number| Number::warehouse(Some(number), WarehouseId(0), "warehouse_id")).transpose()
}

fn warehouse_id(number: Option<Number>, defaults: &Defaults) -> Result<WarehouseId, InvalidField> {
    Number::warehouse(number, defaults.warehouse_id, "warehouse_id")
}

/// Whether new reservations are taken.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StockStatusName {
    /// Yes.
    OnSale,
    /// No; what is held can be confirmed and released.
    Suspended,
}

impl From<StockStatus> for StockStatusName {
    fn from(status: StockStatus) -> Self {
        match status {
            StockStatus::OnSale => Self::OnSale,
            StockStatus::Suspended => Self::Suspended,
        }
    }
}

/// The levels of a SKU in one warehouse.
#[derive(Debug, Serialize, ToSchema)]
pub struct WarehouseBody {
    /// Where.
    #[schema(example = 1)]
    warehouse_id: u32,
    /// Can be reserved now.
    #[schema(example = 98)]
    available: u64,
    /// Held by orders that are not paid.
    #[schema(example = 2)]
    reserved: u64,
    /// Of confirmed orders.
    #[schema(example = 0)]
    sold: u64,
    /// available + reserved.
    #[schema(example = 100)]
    on_hand: u64,
    /// available + reserved + sold.
    #[schema(example = 100)]
    quantity: u64,
    /// Whether new reservations are taken.
    status: StockStatusName,
    /// Counts the changes of this stock.
    #[schema(example = 17)]
    version: u64,
    /// Each unit that is confirmed gets a serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    serialized: Option<bool>,
}

impl From<&StockView> for WarehouseBody {
    fn from(stock: &StockView) -> Self {
        let levels = &stock.levels;
        Self {
            warehouse_id: stock.warehouse_id.0,
            available: levels.available,
            reserved: levels.reserved,
            sold: levels.sold,
            on_hand: levels.on_hand(),
            quantity: levels.quantity(),
            status: stock.status.into(),
            version: levels.version,
            serialized: stock.serialized.then_some(true),
        }
    }
}

/// The levels of one stock after a request.
#[derive(Debug, Serialize, ToSchema)]
pub struct StockBody<'a> {
    /// What.
    #[schema(example = "1001")]
    sku_id: &'a str,
    /// Where, and how much.
    #[serde(flatten)]
    levels: WarehouseBody,
    /// Whether this request had been carried out before and changed nothing now; the levels are those that it was
    /// answered then.
    replayed: bool,
    /// Of a stock that was created with `"hot": true`: it is kept in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    hot: Option<bool>,
}

impl<'a> StockBody<'a> {
    /// The stock as JSON.
    #[must_use]
    pub fn new(stock: &'a StockView, replayed: bool) -> Self {
        Self { sku_id: stock.sku_id.as_str(), levels: WarehouseBody::from(stock), replayed, hot: None }
    }

    /// Says that it is kept in memory.
    #[must_use]
    pub fn hot(self) -> Self {
        Self { hot: Some(true), ..self }
    }
}

/// The levels of a stock alone.
#[derive(Debug, Serialize, ToSchema)]
pub struct LevelsBody {
    /// Can be reserved.
    #[schema(example = 98)]
    available: u64,
    /// Held by orders that are not paid.
    #[schema(example = 2)]
    reserved: u64,
    /// Of confirmed orders.
    #[schema(example = 0)]
    sold: u64,
    /// available + reserved.
    #[schema(example = 100)]
    on_hand: u64,
    /// available + reserved + sold.
    #[schema(example = 100)]
    quantity: u64,
    /// Counts the changes of the stock.
    #[schema(example = 17)]
    version: u64,
}

impl From<&Levels> for LevelsBody {
    fn from(levels: &Levels) -> Self {
        let Levels { available, reserved, sold, version } = *levels;
        Self { available, reserved, sold, on_hand: levels.on_hand(), quantity: levels.quantity(), version }
    }
}

/// A SKU in its warehouses.
#[derive(Debug, Serialize, ToSchema)]
pub struct SkuBody<'a> {
    /// What.
    #[schema(example = "1001")]
    sku_id: &'a str,
    /// The levels in each warehouse, by its number.
    #[serde(serialize_with = "each_warehouse")]
    #[schema(value_type = Vec<WarehouseBody>)]
    warehouses: &'a [StockView],
    /// The sums over these warehouses.
    total: TotalBody,
    /// Of suspend and resume only: whether the request changed nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed: Option<bool>,
}

/// The levels of a SKU over warehouses.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct TotalBody {
    /// Can be reserved now.
    #[schema(example = 98)]
    available: u64,
    /// Held by orders that are not paid.
    #[schema(example = 2)]
    reserved: u64,
    /// Of confirmed orders.
    #[schema(example = 0)]
    sold: u64,
    /// available + reserved.
    #[schema(example = 100)]
    on_hand: u64,
    /// available + reserved + sold.
    #[schema(example = 100)]
    quantity: u64,
}

impl<'a> SkuBody<'a> {
    /// The SKU of these stocks as JSON. There must be one, or it has no name.
    #[must_use]
    pub fn new(stocks: &'a [StockView], replayed: Option<bool>) -> Self {
        // A thousand warehouses of 10^15 units are 10^18: sums stay far below 2^64.
        let total = stocks.iter().fold(TotalBody::default(), |sum, stock| TotalBody {
            available: sum.available + stock.levels.available,
            reserved: sum.reserved + stock.levels.reserved,
            sold: sum.sold + stock.levels.sold,
            on_hand: sum.on_hand + stock.levels.on_hand(),
            quantity: sum.quantity + stock.levels.quantity(),
        });
        let sku_id = stocks.first().map_or("", |stock| stock.sku_id.as_str());
        Self { sku_id, warehouses: stocks, total, replayed }
    }
}

fn each_warehouse<S: Serializer>(stocks: &[StockView], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(stocks.iter().map(WarehouseBody::from))
}

/// One page of the list.
#[derive(Debug, Serialize, ToSchema)]
pub struct PageBody<'a> {
    /// SKUs in the order of their names.
    pub items: Vec<SkuBody<'a>>,
    /// Give it as `cursor` to read on; null at the end.
    #[schema(required = true)]
    pub next_cursor: Option<String>,
}

/// The parameters of `GET /v1/stock/{sku_id}`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkuQuery {
    /// One warehouse; all where missing.
    pub warehouse_id: Option<Number>,
}

/// The parameters of `GET /v1/stock`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// SKUs of the page.
    pub limit: Option<Number>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Defaults =
        Defaults { warehouse_id: WarehouseId(7), ttl_seconds: 1_800, prefer: Vec::new() };

    #[test]
    fn a_stock_may_begin_with_nothing_but_must_say_so() {
        let create = |json: &str| serde_json::from_str::<CreateBody<'_>>(json).unwrap().action(&DEFAULTS);
        let sku_id = SkuId::new("1001").unwrap();
        let expected = CreateStock { sku_id, warehouse_id: WarehouseId(7), quantity: 0, serialized: false };
        assert_eq!(create(r#"{"sku_id":1001,"quantity":0}"#), Ok(Action::CreateStock(expected.clone())));
        let serialized = CreateStock { serialized: true, ..expected };
        let got = create(r#"{"sku_id":1001,"quantity":0,"serialized":true}"#);
        assert_eq!(got, Ok(Action::CreateStock(serialized)));
        assert_eq!(create(r#"{"sku_id":1001}"#).unwrap_err().field, "quantity");
        assert_eq!(create(r#"{"sku_id":"a","quantity":-1}"#).unwrap_err().field, "quantity");
        assert_eq!(create(r#"{"quantity":1}"#).unwrap_err().field, "sku_id");
    }

    #[test]
    fn only_an_adjustment_is_signed() {
        let change = |kind, quantity: i64| {
            let body = ChangeBody {
                request_id: Some(Text("r".into())),
                quantity: Number(quantity),
                ..ChangeBody::default()
            };
            body.action(SkuId::new("a").unwrap(), kind, None, &DEFAULTS).map_err(|error| error.field)
        };
        for kind in [ChangeKind::Restock, ChangeKind::Deduct] {
            assert!(change(kind, 1).is_ok());
            assert!(change(kind, MAX_UNITS).is_ok());
            for bad in [-1, 0, MAX_UNITS + 1] {
                assert_eq!(change(kind, bad), Err("quantity".to_owned()), "{bad}");
            }
        }
        assert!(change(ChangeKind::Adjust, -MAX_UNITS).is_ok());
        for bad in [0, -MAX_UNITS - 1, MAX_UNITS + 1, i64::MIN] {
            assert_eq!(change(ChangeKind::Adjust, bad), Err("quantity".to_owned()), "{bad}");
        }
    }

    #[test]
    fn a_sku_is_written_with_the_sums_over_its_warehouses() {
        let stock = |warehouse, available, status| StockView {
            sku_id: SkuId::new("1001").unwrap(),
            warehouse_id: WarehouseId(warehouse),
            levels: Levels { available, reserved: 2, sold: 1, version: 17 },
            status,
            serialized: false,
        };
        let stocks = [stock(1, 98, StockStatus::OnSale), stock(2, 5, StockStatus::Suspended)];
        assert_eq!(
            serde_json::to_string(&SkuBody::new(&stocks, None)).unwrap(),
            concat!(
                r#"{"sku_id":"1001","warehouses":["#,
                r#"{"warehouse_id":1,"available":98,"reserved":2,"sold":1,"on_hand":100,"quantity":101,"status":"on_sale","version":17},"#,
                r#"{"warehouse_id":2,"available":5,"reserved":2,"sold":1,"on_hand":7,"quantity":8,"status":"suspended","version":17}],"#,
                r#""total":{"available":103,"reserved":4,"sold":2,"on_hand":107,"quantity":109}}"#
            )
        );
        assert_eq!(
            serde_json::to_string(&StockBody::new(&stocks[0], false)).unwrap(),
            concat!(
                r#"{"sku_id":"1001","warehouse_id":1,"available":98,"reserved":2,"sold":1,"on_hand":100,"quantity":101,"#,
                r#""status":"on_sale","version":17,"replayed":false}"#
            )
        );
        let serialized = StockView { serialized: true, ..stocks[1].clone() };
        assert_eq!(
            serde_json::to_string(&StockBody::new(&serialized, false)).unwrap(),
            concat!(
                r#"{"sku_id":"1001","warehouse_id":2,"available":5,"reserved":2,"sold":1,"on_hand":7,"quantity":8,"#,
                r#""status":"suspended","version":17,"serialized":true,"replayed":false}"#
            )
        );
    }
}
