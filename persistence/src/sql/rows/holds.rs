//! What shards hold for orders that other shards decide: one row for each stock of a hold.

use std::collections::BTreeMap;

use hotstock_engine::ids::{AttemptId, OrderNo, ShardId, SkuId};
use hotstock_engine::image::{HoldImage, HoldLineImage};
use hotstock_engine::store::{StoreError, StoredHold};
use hotstock_engine::units::Serials;

use super::{HOLDS, purpose, purpose_name, select};
use crate::codec::{decode_serials, encode_serials};
use crate::sql::dialect::{Arg, Row, Tx};
use crate::sql::error::{SqlError, broken, problem_of};
use crate::sql::statements::rows_of_any;

/// A hold: what the rows of one have in common.
pub(in crate::sql) type HoldKey = (OrderNo, AttemptId, ShardId);

/// These holds, by key, whole.
pub(in crate::sql) async fn stored_holds(
    tx: &mut dyn Tx,
    keys: &[HoldKey],
) -> Result<Vec<StoredHold>, SqlError> {
    let args = keys
        .iter()
        .map(|(order_no, attempt, shard)| vec![order_no.into(), (*attempt).into(), (*shard).into()]);
    let one = "(order_no = ? AND attempt = ? AND shard = ?)";
    let rows = rows_of_any(tx, &select(&HOLDS), one, args.collect(), "").await?;
    let mut holds: BTreeMap<HoldKey, HoldImage> = BTreeMap::new();
    for row in &rows {
        let (shard, image) = hold_image(row).map_err(|error| {
            broken(format!("the row in `holds` of {}: {}", hold_words(row), problem_of(error)))
        })?;
        let hold = holds
            .entry((image.order_no.clone(), image.attempt, shard))
            .or_insert_with(|| HoldImage { lines: Vec::new(), ..image.clone() });
        (hold.seq, hold.lsn) = (hold.seq.max(image.seq), hold.lsn.max(image.lsn));
        hold.lines.extend(image.lines);
    }
    let stored = |((_, _, shard), mut image): (HoldKey, HoldImage)| {
        image
            .lines
            .sort_by(|one, other| (&one.sku_id, one.warehouse_id).cmp(&(&other.sku_id, other.warehouse_id)));
        StoredHold { shard, image }
    };
    Ok(holds.into_iter().map(stored).collect())
}

/// Reads a row with the columns of [`HOLDS`], as a hold of one line; the column that can't be read is named.
pub(in crate::sql) fn hold_image(row: &Row) -> Result<(ShardId, HoldImage), StoreError> {
    let f = &mut row.fields();
    let order_no = named("order_no", f.order_no())?;
    let attempt = named("attempt", f.attempt())?;
    let sku_id = named("sku_id", f.id(SkuId::new))?;
    let warehouse_id = named("warehouse_id", f.warehouse())?;
    let shard = named("shard", f.shard())?;
    let coordinator = named("coordinator", f.shard())?;
    let purpose = named("purpose", f.text().and_then(purpose))?;
    let seq = named("seq", f.small())?;
    let units = named("units", f.small())?;
    let sold = named("sold", f.int())?;
    let serials = f.bytes_or_null().and_then(|bytes| bytes.map(decode_serials).transpose().map_err(broken));
    let serials = named("serials", serials)?.unwrap_or_default();
    let lsn = named("lsn", f.lsn())?;
    let lines = vec![HoldLineImage { sku_id, warehouse_id, units, sold, serials }];
    Ok((shard, HoldImage { order_no, attempt, coordinator, purpose, seq, lsn, lines }))
}

/// A value of a row of `holds`; when it can't be read, the column is named.
pub(in crate::sql) fn named<T>(column: &str, value: Result<T, StoreError>) -> Result<T, StoreError> {
    value.map_err(|error| broken(format!("`{column}`: {}", problem_of(error))))
}

/// What names a row with the columns of [`HOLDS`], in words, as far as it can be read.
pub(in crate::sql) fn hold_words(row: &Row) -> String {
    let f = &mut row.fields();
    let [order_no, attempt, sku_id] =
        std::array::from_fn(|_| f.text().map_or_else(|_| "?".to_owned(), str::to_owned));
    let warehouse_id = f.int().map_or_else(|_| "?".to_owned(), |id| id.to_string());
    format!("order {order_no}, attempt {attempt}, SKU {sku_id}, warehouse {warehouse_id}")
}

/// The rows of a hold for [`HOLDS`].
pub(in crate::sql) fn hold_rows(image: &HoldImage, shard: ShardId) -> impl Iterator<Item = Vec<Arg>> + '_ {
    image.lines.iter().map(move |line| {
        vec![
            (&image.order_no).into(),
            image.attempt.into(),
            (&line.sku_id).into(),
            line.warehouse_id.into(),
            shard.into(),
            image.coordinator.into(),
            purpose_name(image.purpose).into(),
            image.seq.into(),
            line.units.into(),
            line.sold.into(),
            serials_arg(&line.serials),
            image.lsn.into(),
        ]
    })
}

/// Serial numbers as a column has them: NULL when there are none.
pub(in crate::sql) fn serials_arg(serials: &[Serials]) -> Arg {
    if serials.is_empty() { Arg::Null } else { encode_serials(serials).into() }
}
