//! Guards that somebody deleted are made again, at the word of an operator. (What guards are for: `guards.rs`.)
//!
//! A table without guards may have been emptied, restored by itself, or filled up to its middle: no program can tell
//! that from one that lost nothing else. So a server never makes them again. An operator may say that nothing else is
//! gone, and even then it is done only where all other guards are of the moment of the watermarks, and where no two
//! tables contradict each other: a table of another moment does, unless it is one of which no other tells.

use hotstock_engine::clock::Timestamp;
use hotstock_engine::ids::OrderNo;
use hotstock_engine::store::{Anomaly, StoreError};

use super::Work;
use super::dialect::{Access, Arg, Existing, Row, Tx};
use super::error::{SqlError, problem_of};
use super::guards::{BEFORE_GUARDS, make_guards, missing_guards};
use super::owner::shard_count;
use super::reads::page_of_numbers;
use super::rows::{ANOMALIES, HOLDS, anomaly_row, find_orders, hold_image, hold_words, select};
use super::statements::{insert, rows_in};
use super::strays::pruned_before;
use crate::limits::MAX_KEYS_PER_STATEMENT;

/// See [`SqlStore::make_guards`](super::SqlStore::make_guards).
pub(super) struct Vouched {
    pub at: Timestamp,
}

impl Work for Vouched {
    type Done = Vec<&'static str>;

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        // No flush comes between.
        let lock = tx.dialect().for_update();
        tx.rows(&format!("SELECT shard FROM watermarks{lock}"), &[]).await?;
        let missing = missing_guards(tx).await?;
        let mut tables: Vec<_> = missing.iter().map(|guard| guard.table()).collect();
        tables.dedup();
        if tables.is_empty() {
            return Ok(tables);
        }
        contradictions(tx).await?;
        all_can_be_read(tx).await?;
        make_guards(tx, &missing).await?;
        let anomaly = Anomaly {
            at: self.at,
            kind: "guards_made".to_owned(),
            source: None,
            order_no: None,
            sku_id: None,
            detail: format!("an operator had the guards made again of: {}", tables.join(", ")),
        };
        insert(tx, &ANOMALIES, Existing::Refused, vec![anomaly_row(&anomaly)]).await?;
        Ok(tables)
    }
}

fn refused(problem: impl std::fmt::Display) -> SqlError {
    StoreError::Torn(format!(
        "no guards are made: {problem}. Rows of a table are missing, or of another moment: restore all its tables from one backup"
    ))
    .into()
}

/// The rows of a stock, but for one that is parked, whose row is known to be behind.
const STOCKS: &str =
    "FROM stock s WHERE s.sku_id < X'FF' AND NOT EXISTS (SELECT 1 FROM parked p WHERE p.sku_id = s.sku_id)";

/// What follows from each other in two tables: each statement finds the name of a row that has not what it should
/// have.
async fn contradictions(tx: &mut dyn Tx) -> Result<(), SqlError> {
    let pruned: Arg = pruned_before(tx).await?.into();
    let of_order = "j.sku_id < X'FF' AND j.order_no IS NOT NULL AND j.at >= ?";
    // Of several shards, see `named_in_vain`.
    let kinds = if shard_count(tx).await? > 1 { "AND j.kind IN ('confirmed', 'returned')" } else { "" };
    let is_own = "(o.span IS NULL OR o.shard = s.shard)";
    let of_lines = |sum: &str| {
        format!(
            "(SELECT COALESCE(SUM({sum}), 0) FROM order_lines l JOIN orders o ON o.order_no = l.order_no \
             WHERE l.sku_id = s.sku_id AND l.warehouse_id = s.warehouse_id AND {is_own})"
        )
    };
    let of_holds = |sum: &str| {
        format!(
            "(SELECT COALESCE(SUM({sum}), 0) FROM holds h WHERE h.sku_id = s.sku_id AND h.warehouse_id = s.warehouse_id)"
        )
    };
    let (held, held_for_others) =
        (of_lines("l.held"), of_holds("CASE WHEN h.purpose = 'units' THEN h.units ELSE 0 END"));
    let (sold, sold_for_others) = (of_lines("l.confirmed - l.returned"), of_holds("h.sold"));
    let looks: [(String, Vec<Arg>, &str); 13] = [
        (
            format!(
                "s.sku_id {STOCKS} AND NOT EXISTS (SELECT 1 FROM stock_journal j WHERE j.sku_id = s.sku_id \
                 AND j.warehouse_id = s.warehouse_id AND j.version = s.version AND j.available = s.available \
                 AND j.reserved = s.reserved AND j.sold = s.sold)"
            ),
            vec![],
            "SKU {} has not in `stock` what the newest row of its journal says",
        ),
        (
            format!(
                "s.sku_id {STOCKS} AND s.version - s.pruned_version <> (SELECT COUNT(*) FROM stock_journal j \
                 WHERE j.sku_id = s.sku_id AND j.warehouse_id = s.warehouse_id)"
            ),
            vec![],
            "SKU {} has not a row of `stock_journal` for each of its versions",
        ),
        (
            "j.sku_id FROM stock_journal j LEFT JOIN stock s ON s.sku_id = j.sku_id AND s.warehouse_id = j.warehouse_id \
             WHERE j.sku_id < X'FF' AND s.sku_id IS NULL"
                .to_owned(),
            vec![],
            "SKU {} has a journal and no row of its stock",
        ),
        (
            format!("s.sku_id {STOCKS} AND s.reserved <> {held} + {held_for_others}"),
            vec![],
            "of SKU {} another number of units is reserved than its orders hold",
        ),
        (
            format!("s.sku_id {STOCKS} AND s.sold - s.pruned_sold <> {sold} + {sold_for_others}"),
            vec![],
            "of SKU {} another number of units is sold than its orders bought",
        ),
        (
            "l.order_no FROM order_lines l LEFT JOIN orders o ON o.order_no = l.order_no \
             WHERE l.order_no < X'FF' AND o.order_no IS NULL"
                .to_owned(),
            vec![],
            "order {} has lines and no row",
        ),
        (
            "h.order_no FROM holds h LEFT JOIN orders o ON o.order_no = h.order_no \
             WHERE h.order_no < X'FF' AND h.sold <> 0 AND o.order_no IS NULL"
                .to_owned(),
            vec![],
            "order {} has units in `holds` that were sold for it, and no row",
        ),
        (
            format!(
                "j.order_no FROM stock_journal j LEFT JOIN orders o ON o.order_no = j.order_no WHERE {of_order} {kinds} \
                 AND o.order_no IS NULL AND NOT EXISTS (SELECT 1 FROM holds h WHERE h.order_no = j.order_no)"
            ),
            vec![pruned.clone()],
            "order {} stands in `stock_journal` and has no row",
        ),
        (
            "j.order_no FROM stock_journal j JOIN orders o ON o.order_no = j.order_no \
             WHERE j.sku_id < X'FF' AND j.shard = o.shard AND j.lsn > o.lsn"
                .to_owned(),
            vec![],
            "order {} has in `orders` what it was before its newest row of `stock_journal`",
        ),
        (
            "j.request_id FROM stock_journal j LEFT JOIN stock_requests r ON r.sku_id = j.sku_id \
             AND r.request_id = j.request_id WHERE j.sku_id < X'FF' AND j.order_no IS NULL AND j.request_id IS NOT NULL \
             AND j.at >= ? AND r.sku_id IS NULL"
                .to_owned(),
            vec![pruned],
            "request {} stands in `stock_journal` and has no row",
        ),
        (
            "r.request_id FROM stock_requests r JOIN stock s ON s.sku_id = r.sku_id AND s.warehouse_id = r.warehouse_id \
             LEFT JOIN stock_journal j ON j.sku_id = r.sku_id AND j.warehouse_id = r.warehouse_id AND j.version = r.version \
             WHERE r.sku_id < X'FF' AND r.version > s.pruned_version AND (j.request_id IS NULL OR j.request_id <> r.request_id)"
                .to_owned(),
            vec![],
            "request {} has a row, and `stock_journal` does not have it",
        ),
        (
            "s.sku_id FROM stock s JOIN watermarks w ON w.shard = s.shard WHERE s.sku_id < X'FF' AND s.lsn > w.lsn".to_owned(),
            vec![],
            "SKU {} has an event in `stock` that is behind its watermark",
        ),
        (
            "o.order_no FROM orders o JOIN watermarks w ON w.shard = o.shard WHERE o.order_no < X'FF' AND o.lsn > w.lsn".to_owned(),
            vec![],
            "order {} has an event in `orders` that is behind its watermark",
        ),
    ];
    for (look, args, problem) in looks {
        if let Some(row) = tx.rows(&format!("SELECT {look} LIMIT 1"), &args).await?.first() {
            let name = row.fields().text().map_or_else(|_| "?".to_owned(), str::to_owned);
            return Err(refused(problem.replace("{}", &name)));
        }
    }
    Ok(())
}

/// Every order is what its lines, requests and serial numbers say, and what is held for others can be read.
async fn all_can_be_read(tx: &mut dyn Tx) -> Result<(), SqlError> {
    for table in ["orders", "holds"] {
        let sql = format!(
            "SELECT order_no FROM {table} WHERE order_no > ? AND order_no {BEFORE_GUARDS} GROUP BY order_no ORDER BY order_no"
        );
        let mut after = Arg::from("");
        loop {
            let page = page_of_numbers(tx, &sql, &[after], MAX_KEYS_PER_STATEMENT, order_no).await?;
            let Some(last) = page.last() else { break };
            after = last.into();
            if table == "holds" {
                for row in rows_in(tx, &select(&HOLDS), "order_no", &page, "").await? {
                    hold_image(&row).map_err(|error| {
                        refused(format!("the row in `holds` of {}: {}", hold_words(&row), problem_of(error)))
                    })?;
                }
            } else if let Some((order_no, problem)) =
                find_orders(tx, &page, "").await?.unreadable.first_key_value()
            {
                return Err(refused(format!("order {order_no} does not fit: {problem}")));
            }
        }
    }
    Ok(())
}

fn order_no(row: &Row) -> Result<OrderNo, StoreError> {
    row.fields().order_no()
}
