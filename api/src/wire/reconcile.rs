//! The bodies of reconcile.

use hotstock_engine::command::InvalidField;
use hotstock_engine::ids::SkuId;
use hotstock_engine::reconcile::{Difference, Reconciled, Repair, Side};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::values::{Number, cursor_of, of_cursor};

/// `POST /v1/admin/reconcile`; may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReconcileBody {
    /// Put right what is derived: rows of the store, the mirror. Look at what is found without it first.
    #[serde(default)]
    pub fix: bool,
    /// The next_cursor of the page before.
    pub cursor: Option<String>,
    /// SKUs of the page, 1 to 1,000; 100 where missing.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1_000)]
    pub limit: Option<Number>,
}

impl ReconcileBody {
    /// The SKU after which it goes on. A page that did not get through its first SKU has a cursor without one.
    ///
    /// # Errors
    /// [`InvalidField`].
    pub fn after(&self) -> Result<Option<SkuId>, InvalidField> {
        let new = |text: &str| if text.is_empty() { Ok(None) } else { SkuId::new(text).map(Some) };
        self.cursor.as_ref().map_or(Ok(None), |cursor| of_cursor(cursor, new))
    }
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
    /// SKUs that changed since the store, which is far behind: what their shards have was not compared with it.
    unsettled: Vec<&'a str>,
    /// Why the mirror was not looked at; missing when it was, or when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    mirror_error: Option<&'a str>,
    /// Give it as `cursor` to go on; null at the end. A page may end before `limit`: a request does what fits into two
    /// seconds.
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
    /// row, parked, journal, held, sold, orders, mirror.
    #[schema(example = "row")]
    check: &'static str,
    /// The side that counts, and what it has where they differ.
    expected: SideBody<'a>,
    /// The side that differs, and what it has.
    found: SideBody<'a>,
    /// What is behind it, as far as it can be told: the order, the anomaly; and what to do where `fix` does nothing.
    causes: &'a [String],
    /// Who can put it right: row_from_shard, row_from_journal and mirror_from_stock (with `fix`), by_hand.
    #[schema(example = "row_from_shard")]
    remedy: &'static str,
}

/// A side and what it has.
#[derive(Debug, Serialize, ToSchema)]
pub struct SideBody<'a> {
    /// shard, row, journal, orders, mirror.
    #[schema(example = "shard")]
    side: &'static str,
    /// In words.
    #[schema(example = "available 98, reserved 2, sold 0, version 17")]
    value: &'a str,
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
    /// As it was, where it changed.
    before: &'a str,
    /// As it is.
    after: &'a str,
}

impl<'a> ReconciledBody<'a> {
    /// As JSON.
    #[must_use]
    pub fn new(found: &'a Reconciled) -> Self {
        Self {
            skus: found.skus,
            differences: found.differences.iter().map(DifferenceBody::from).collect(),
            repaired: found.repaired.iter().map(RepairBody::from).collect(),
            unsettled: found.unsettled.iter().map(|sku_id| sku_id.as_str()).collect(),
            mirror_error: found.mirror_error.as_deref(),
            next_cursor: found
                .next
                .as_ref()
                .map(|next| cursor_of(next.after.as_ref().map_or("", SkuId::as_str))),
        }
    }
}

impl<'a> From<&'a Difference> for DifferenceBody<'a> {
    fn from(difference: &'a Difference) -> Self {
        let side = |(side, value): &'a (Side, String)| SideBody { side: side.name(), value };
        Self {
            sku_id: difference.sku_id.as_str(),
            warehouse_id: difference.warehouse_id.0,
            check: difference.check.name(),
            expected: side(&difference.expected),
            found: side(&difference.found),
            causes: &difference.causes,
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
            before: &repair.before,
            after: &repair.after,
        }
    }
}
