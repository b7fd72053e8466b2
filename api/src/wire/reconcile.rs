//! The bodies of reconcile.

use hotstock_engine::reconcile::{Difference, Reconciled, Repair, Side, Value};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::values::Number;

/// `POST /v1/admin/reconcile`; may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReconcileBody {
    /// Put right what is derived. Look at what is found without it first.
    #[serde(default)]
    pub fix: bool,
    /// The next_cursor of the page before.
    pub cursor: Option<String>,
    /// SKUs of the page, 1 to 1,000; 100 where missing.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1_000)]
    pub limit: Option<Number>,
}

/// What was found.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReconciledBody<'a> {
    /// SKUs looked at.
    skus: u64,
    /// By SKU, then warehouse.
    differences: Vec<DifferenceBody<'a>>,
    /// What was put right.
    repaired: Vec<RepairBody<'a>>,
    /// Hot SKUs whose last changes the store has not got within the time that reconcile waits: not compared.
    unsettled: Vec<&'a str>,
    /// Why the mirror was not looked at; missing when it was, or when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    mirror_error: Option<&'a str>,
    /// Give it as `cursor` to go on; null at the end.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

/// Two sides that should agree on a stock and don't.
#[derive(Debug, Serialize, ToSchema)]
pub struct DifferenceBody<'a> {
    /// Which.
    #[schema(example = "1001")]
    sku_id: &'a str,
    /// Where.
    #[schema(example = 1)]
    warehouse_id: u32,
    /// journal_gap, journal_sum, row, supplied, held, sold, shard, mirror.
    #[schema(example = "row")]
    check: &'static str,
    /// The side that counts, and what it has.
    expected: SideBody,
    /// The side that differs, and what it has.
    found: SideBody,
    /// What is behind it, as far as it can be told: the order, the event, the anomaly.
    causes: Vec<String>,
    /// Who can put it right: row_from_journal and mirror_from_stock (with `fix`), by_hand.
    #[schema(example = "row_from_journal")]
    remedy: &'static str,
}

/// A side and what it has.
#[derive(Debug, Serialize, ToSchema)]
pub struct SideBody {
    /// shard, row, journal, orders, mirror.
    #[schema(example = "journal")]
    side: &'static str,
    /// In words.
    #[schema(example = "available 98, reserved 2, sold 0, version 17")]
    value: String,
}

/// A stock that was put right.
#[derive(Debug, Serialize, ToSchema)]
pub struct RepairBody<'a> {
    /// Which.
    #[schema(example = "1001")]
    sku_id: &'a str,
    /// Where.
    #[schema(example = 1)]
    warehouse_id: u32,
    /// The side that was written: row, mirror.
    #[schema(example = "row")]
    side: &'static str,
    /// As it was.
    before: String,
    /// As it is.
    after: String,
}

impl<'a> ReconciledBody<'a> {
    /// As JSON.
    #[must_use]
    pub fn new(found: &'a Reconciled, next_cursor: Option<String>) -> Self {
        Self {
            skus: found.skus,
            differences: found.differences.iter().map(DifferenceBody::from).collect(),
            repaired: found.repaired.iter().map(RepairBody::from).collect(),
            unsettled: found.unsettled.iter().map(|sku_id| sku_id.as_str()).collect(),
            mirror_error: found.mirror_error.as_deref(),
            next_cursor,
        }
    }
}

impl<'a> From<&'a Difference> for DifferenceBody<'a> {
    fn from(difference: &'a Difference) -> Self {
        let side = |(side, value): &(Side, Value)| SideBody { side: side.name(), value: value.to_string() };
        Self {
            sku_id: difference.sku_id.as_str(),
            warehouse_id: difference.warehouse_id.0,
            check: difference.check.name(),
            expected: side(&difference.expected),
            found: side(&difference.found),
            causes: difference.causes.iter().map(ToString::to_string).collect(),
            remedy: difference.remedy.name(),
        }
    }
}

impl<'a> From<&'a Repair> for RepairBody<'a> {
    fn from(repair: &'a Repair) -> Self {
        Self {
            sku_id: repair.sku_id.as_str(),
            warehouse_id: repair.warehouse_id.0,
            side: repair.side.name(),
            before: repair.before.to_string(),
            after: repair.after.to_string(),
        }
    }
}
