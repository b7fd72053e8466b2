//! What holds units: orders and SKUs that a new data directory begins with.
//!
//! No column alone says which: somebody may have changed it. An order is open by its own row or by any of its lines; a
//! SKU that has units reserved is looked at, whichever orders there are. So whole tables are gone through, in pieces:
//! an index would cost every flush.

use std::collections::BTreeSet;

use hotstock_engine::ids::{OrderNo, SkuId};
use hotstock_engine::store::{StoreError, StoredOrder};

use super::Work;
use super::dialect::{Access, Arg, Row, Tx};
use super::error::{SqlError, broken};
use super::guards::{BEFORE_GUARDS, read_watermarks};
use super::reads::{after_text, number, read};
use super::rows::find_orders;
use crate::limits::ROWS_OF_A_PIECE;

/// The last key of the piece of a table after `after`; `None`: it is the last piece.
async fn end_of_piece<T: Send>(
    tx: &mut dyn Tx,
    (table, key): (&str, &str),
    after: &Arg,
    of: fn(&Row) -> Result<T, StoreError>,
) -> Result<Option<T>, SqlError> {
    let sql = format!(
        "SELECT {key} FROM {table} WHERE {key} > ? AND {key} {BEFORE_GUARDS} ORDER BY {key} LIMIT 1 OFFSET ?"
    );
    let rows = tx.rows(&sql, &[after.clone(), (ROWS_OF_A_PIECE - 1).into()]).await?;
    // A key that is none is nobody's: the piece is longer then.
    Ok(rows.first().and_then(|row| of(row).ok()))
}

/// The keys of rows of a piece that fit `condition`, up to `max`, each once.
async fn in_piece<T: Send>(
    tx: &mut dyn Tx,
    (table, key, condition): (&str, &str, &str),
    (after, end): (&Arg, Option<Arg>),
    max: usize,
    of: fn(&Row) -> Result<T, StoreError>,
) -> Result<Vec<T>, SqlError> {
    let up_to = if end.is_some() { "<= ?".to_owned() } else { BEFORE_GUARDS.to_owned() };
    let sql = format!(
        "SELECT DISTINCT {key} FROM {table} WHERE {condition} AND {key} > ? AND {key} {up_to} ORDER BY {key} LIMIT ?"
    );
    let args: Vec<Arg> = [after.clone()].into_iter().chain(end).chain([max.into()]).collect();
    read(tx, &sql, &args, of).await
}

/// The first `max` of what was found in a piece, and where to go on.
fn page<T: Clone + Ord>(found: BTreeSet<T>, max: usize, end: Option<T>) -> (Vec<T>, Option<T>) {
    let has_more = found.len() > max;
    let page: Vec<T> = found.into_iter().take(max).collect();
    let last = if has_more { page.last().cloned() } else { end };
    (page, last)
}

/// See [`Store::open_orders`](hotstock_engine::store::Store::open_orders).
pub(super) struct OpenOrders<'a> {
    pub after: Option<&'a OrderNo>,
    pub max: usize,
}

impl Work for OpenOrders<'_> {
    type Done = (Vec<StoredOrder>, Option<OrderNo>);

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        read_watermarks(tx).await?;
        let after = after_text(self.after, OrderNo::as_str);
        let end = end_of_piece(tx, ("orders", "order_no"), &after, number).await?;
        let mut open = BTreeSet::new();
        for (table, condition) in [("orders", "open <> 0"), ("order_lines", "held <> 0")] {
            let piece = (&after, end.as_ref().map(Arg::from));
            open.extend(in_piece(tx, (table, "order_no", condition), piece, self.max + 1, number).await?);
        }
        let (order_nos, last) = page(open, self.max, end);
        let found = find_orders(tx, &order_nos, "").await?;
        // What it holds can't be told: a directory without it would sell these units.
        if let Some((order_no, problem)) = found.unreadable.first_key_value() {
            return Err(broken(format!("order {order_no} can't be read: {problem}")).into());
        }
        let is_there =
            |order_no: &OrderNo| found.orders.iter().any(|order| order.image.order_no == *order_no);
        if let Some(order_no) = order_nos.iter().find(|order_no| !is_there(order_no)) {
            let problem = "order_lines has lines of it that hold units, and orders has no row of it";
            return Err(broken(format!("order {order_no} can't be read: {problem}")).into());
        }
        Ok((found.orders, last))
    }
}

/// See [`Store::reserved_skus`](hotstock_engine::store::Store::reserved_skus).
pub(super) struct ReservedSkus<'a> {
    pub after: Option<&'a SkuId>,
    pub max: usize,
}

impl Work for ReservedSkus<'_> {
    type Done = (Vec<SkuId>, Option<SkuId>);

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        read_watermarks(tx).await?;
        let name = |row: &Row| row.fields().id(SkuId::new);
        let after = after_text(self.after, SkuId::as_str);
        let end = end_of_piece(tx, ("stock", "sku_id"), &after, name).await?;
        let piece = (&after, end.as_ref().map(Arg::from));
        let found = in_piece(tx, ("stock", "sku_id", "reserved <> 0"), piece, self.max + 1, name).await?;
        Ok(page(found.into_iter().collect(), self.max, end))
    }
}
