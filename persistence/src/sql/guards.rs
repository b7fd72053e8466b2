//! Guards: whether the tables are of one moment. A dump that is loaded into the database replaces one table after the
//! other, and somebody may empty or replace a single one: then an order is missing that the watermark promises, and
//! its number seems to be free.
//!
//! So every table that something is decided on says by itself how far it goes: a row for each shard, behind all others
//! by the primary key (no text begins with the byte FF), so that a table that is loaded half has none yet. Each flush
//! moves them all with the watermark. Whoever reads to decide, and whoever writes, looks at them first in the same
//! transaction: tables that disagree are a store that is torn, and not available. When all are of one moment again,
//! and be it an older one, the watermark tells.

use std::collections::BTreeMap;

use hotstock_engine::ids::{Lsn, ShardId};
use hotstock_engine::store::{StoreError, Watermark};

use super::dialect::{Arg, Dialect, Fields, Row, Tx};
use super::error::SqlError;
use super::rows::watermark;

/// The guard rows of one table.
struct Guard {
    table: &'static str,
    /// Reads shard and LSN of all its guards.
    read: &'static str,
    /// Finds the guard of a shard, which [`Guard::key`] names.
    is: &'static str,
    /// The column with the LSN.
    lsn: &'static str,
    /// Makes the guard of a shard, from its key, the shard (again, where `insert` names it) and the LSN.
    insert: &'static str,
    key: Key,
}

/// What names the guard of a shard in its table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    /// The number of the shard in a column of its own.
    Number,
    /// The same as text.
    Text,
    /// As text behind the byte FF.
    Behind,
}

static GUARDS: [Guard; 8] = [
    Guard {
        table: "stock",
        read: "SELECT warehouse_id, lsn FROM stock WHERE sku_id = X'FF'",
        is: "sku_id = X'FF' AND warehouse_id = ?",
        lsn: "lsn",
        insert: "INSERT INTO stock (sku_id, warehouse_id, available, reserved, sold, version, status, initial, supplied, hot, \
                 shard, changed_at, lsn) VALUES (X'FF', ?, 0, 0, 0, 0, 'guard', 0, 0, 0, ?, 0, ?)",
        key: Key::Number,
    },
    Guard {
        table: "orders",
        read: "SELECT shard, lsn FROM orders WHERE order_no >= X'FF'",
        is: "order_no = ?",
        lsn: "lsn",
        // Neither open nor ended.
        insert: "INSERT INTO orders (order_no, mode, phase, status, open, created_at, expires_at, changed_at, shard, lsn) \
                 VALUES (?, 'guard', 'guard', 'guard', 2, 0, 0, 0, ?, ?)",
        key: Key::Behind,
    },
    Guard {
        table: "order_lines",
        read: "SELECT line, quantity FROM order_lines WHERE order_no = X'FF'",
        is: "order_no = X'FF' AND line = ?",
        lsn: "quantity",
        insert: "INSERT INTO order_lines (order_no, line, sku_id, warehouse_id, held, confirmed, released, returned, lapsed, quantity) \
                 VALUES (X'FF', ?, X'FF', ?, 0, 0, 0, 0, 0, ?)",
        key: Key::Number,
    },
    Guard {
        table: "holds",
        read: "SELECT shard, lsn FROM holds WHERE order_no = X'FF'",
        is: "order_no = X'FF' AND attempt = ?",
        lsn: "lsn",
        insert: "INSERT INTO holds (order_no, sku_id, warehouse_id, coordinator, purpose, seq, units, sold, attempt, shard, lsn) \
                 VALUES (X'FF', X'FF', 0, 0, 'guard', 0, 0, 0, ?, ?, ?)",
        key: Key::Text,
    },
    Guard {
        table: "order_requests",
        read: "SELECT seq, fingerprint FROM order_requests WHERE order_no = X'FF'",
        is: "order_no = X'FF' AND seq = ?",
        lsn: "fingerprint",
        insert: "INSERT INTO order_requests (order_no, seq, request_id, fingerprint) VALUES (X'FF', ?, ?, ?)",
        key: Key::Number,
    },
    Guard {
        table: "order_serials",
        read: "SELECT seq, serial_from FROM order_serials WHERE order_no = X'FF'",
        is: "order_no = X'FF' AND seq = ?",
        lsn: "serial_from",
        insert: "INSERT INTO order_serials (order_no, seq, line, serial_to, serial_from) VALUES (X'FF', ?, ?, 0, ?)",
        key: Key::Number,
    },
    Guard {
        table: "stock_requests",
        read: "SELECT warehouse_id, lsn FROM stock_requests WHERE sku_id = X'FF'",
        is: "sku_id = X'FF' AND request_id = ?",
        lsn: "lsn",
        // It is never old.
        insert: "INSERT INTO stock_requests (sku_id, request_id, fingerprint, available, reserved, sold, version, at, warehouse_id, lsn) \
                 VALUES (X'FF', ?, 0, 0, 0, 0, 0, 9223372036854775807, ?, ?)",
        key: Key::Text,
    },
    Guard {
        table: "stock_journal",
        read: "SELECT warehouse_id, lsn FROM stock_journal WHERE sku_id = X'FF'",
        is: "sku_id = X'FF' AND warehouse_id = ? AND version = 0",
        lsn: "lsn",
        insert: "INSERT INTO stock_journal (sku_id, warehouse_id, version, at, kind, d_available, d_reserved, d_sold, available, \
                 reserved, sold, shard, lsn) VALUES (X'FF', ?, 0, 0, 'guard', 0, 0, 0, 0, 0, 0, ?, ?)",
        key: Key::Number,
    },
];

/// Keeps the rows of [`GUARDS`] out of what is read in the order of a first key: `sku_id < …`.
pub(super) const BEFORE_GUARDS: &str = "< X'FF'";

/// Reads the watermarks, and the guards of the tables of which `is_read` is true: four numbers a row, the first is 0
/// for a watermark, or the number of the guard. To be joined to one statement: in MySQL it keeps all these tables from
/// being replaced until the end of its transaction.
fn selects(is_read: fn(&str) -> bool) -> impl Iterator<Item = (String, &'static str)> {
    let guards = (1..).zip(&GUARDS).filter(move |(_, guard)| is_read(guard.table)).map(|(n, guard)| {
        let (columns, from) =
            guard.read.trim_start_matches("SELECT ").split_once(" FROM ").unwrap_or_default();
        (format!("{n}, {columns}, 0, 0"), from)
    });
    std::iter::once(("0, shard, lsn, hash, epoch".to_owned(), "watermarks")).chain(guards)
}

/// The watermarks, by shard, if all tables are of that moment.
pub(super) async fn read_watermarks(tx: &mut dyn Tx) -> Result<Vec<Watermark>, SqlError> {
    read_marks(tx).await?.agreed(|_| true)
}

async fn read_marks(tx: &mut dyn Tx) -> Result<Marks, SqlError> {
    let selects = selects(|_| true).map(|(columns, from)| format!("SELECT {columns} FROM {from}"));
    let sql = selects.collect::<Vec<_>>().join(" UNION ALL ");
    let mut marks = Marks::default();
    for row in tx.rows(&sql, &[]).await? {
        marks.add(&mut row.fields())?;
    }
    Ok(marks)
}

/// The tables of stocks and their journals.
const STOCKS: fn(&str) -> bool = |table| matches!(table, "stock" | "stock_journal");

/// A read of rows of stocks and their journals, `SELECT` `columns` (`count` of them) `rest`, and of the marks of these
/// tables beside it, in one statement, which needs no transaction around it. [`StockRows`] takes its rows.
pub(super) fn select_with_marks(columns: &str, count: usize, rest: &str) -> String {
    let nulls = ", NULL".repeat(count);
    let mut sql = format!("SELECT -1, 0, 0, 0, 0, {columns} {rest}");
    for (columns, from) in selects(STOCKS) {
        sql.push_str(&format!(" UNION ALL SELECT {columns}{nulls} FROM {from}"));
    }
    sql
}

/// What [`select_with_marks`] found.
#[derive(Default)]
pub(super) struct StockRows(Marks);

impl StockRows {
    /// Takes a row. Its fields come back when it is one of those that were asked for.
    pub fn add<'a>(&mut self, row: &'a Row) -> Result<Option<Fields<'a>>, SqlError> {
        let mut f = row.fields();
        if f.clone().int()? < 0 {
            f.skip(5);
            return Ok(Some(f));
        }
        self.0.add(&mut f)?;
        Ok(None)
    }

    /// The watermarks, by shard, if the tables are of that moment.
    pub fn watermarks(self) -> Result<Vec<Watermark>, SqlError> {
        self.0.agreed(STOCKS)
    }
}

/// Watermarks and guards as they are read.
#[derive(Default)]
struct Marks {
    watermarks: BTreeMap<ShardId, Watermark>,
    guards: [BTreeMap<ShardId, Lsn>; GUARDS.len()],
}

impl Marks {
    fn add(&mut self, f: &mut Fields<'_>) -> Result<(), SqlError> {
        match usize::try_from(f.int()?).unwrap_or(usize::MAX).checked_sub(1) {
            None => {
                let mark = watermark(f)?;
                self.watermarks.insert(mark.shard, mark);
            }
            Some(table) => {
                let (shard, lsn) = (f.shard()?, f.lsn()?);
                if let Some(guards) = self.guards.get_mut(table) {
                    guards.insert(shard, lsn);
                }
            }
        }
        Ok(())
    }

    /// The event that each watermark stands at.
    fn flushed(&self) -> BTreeMap<ShardId, Lsn> {
        self.watermarks.iter().map(|(shard, mark)| (*shard, mark.lsn)).collect()
    }

    fn agreed(self, is_read: fn(&str) -> bool) -> Result<Vec<Watermark>, SqlError> {
        let flushed = self.flushed();
        for (guard, found) in GUARDS.iter().zip(&self.guards).filter(|(guard, _)| is_read(guard.table)) {
            agree(guard.table, found, &flushed).map_err(StoreError::Torn)?;
        }
        Ok(self.watermarks.into_values().collect())
    }
}

/// Whether a table goes as far as the watermarks.
fn agree(
    table: &str,
    found: &BTreeMap<ShardId, Lsn>,
    flushed: &BTreeMap<ShardId, Lsn>,
) -> Result<(), String> {
    let differs = |shard: &&ShardId| found.get(shard) != flushed.get(shard);
    let Some(shard) = flushed.keys().chain(found.keys()).find(differs) else { return Ok(()) };
    let ends =
        |lsn: Option<&Lsn>, none: &str| lsn.map_or(none.to_owned(), |lsn| format!("ends at event {lsn}"));
    // A guard that is not there may be all that is not there; one of another moment never is all.
    let are_missing = flushed.iter().all(|(shard, lsn)| found.get(shard).is_none_or(|found| found == lsn))
        && found.keys().all(|shard| flushed.contains_key(shard));
    let way_out = if are_missing {
        "; if nothing but its guards (rows whose key begins with the byte FF) was deleted, `hotstock migrate --make-guards`"
    } else {
        ""
    };
    Err(format!(
        "`{table}` {} of shard {shard}, `watermarks` {}. It is being restored, or was restored or emptied in part: restore all its \
         tables from one backup{way_out}",
        ends(found.get(shard), "has no guard"),
        ends(flushed.get(shard), "has nothing")
    ))
}

/// A guard that is not there, of a shard that has a watermark.
pub(super) struct Missing {
    guard: &'static Guard,
    shard: ShardId,
    /// What it has to be.
    lsn: Lsn,
}

impl Missing {
    pub fn table(&self) -> &'static str {
        self.guard.table
    }
}

/// The guards that are missing, table by table, if those that are there are of the moment of the watermarks.
pub(super) async fn missing_guards(tx: &mut dyn Tx) -> Result<Vec<Missing>, SqlError> {
    let marks = read_marks(tx).await?;
    let flushed = marks.flushed();
    let mut missing = Vec::new();
    for (guard, found) in GUARDS.iter().zip(&marks.guards) {
        let mut whole = found.clone();
        for (shard, lsn) in &flushed {
            if !found.contains_key(shard) {
                whole.insert(*shard, *lsn);
                missing.push(Missing { guard, shard: *shard, lsn: *lsn });
            }
        }
        agree(guard.table, &whole, &flushed).map_err(StoreError::Torn)?;
    }
    Ok(missing)
}

/// Makes guards.
pub(super) async fn make_guards(tx: &mut dyn Tx, missing: &[Missing]) -> Result<(), SqlError> {
    for Missing { guard, shard, lsn } in missing {
        tx.execute(guard.insert, &[guard.key.of(*shard), (*shard).into(), (*lsn).into()]).await?;
    }
    Ok(())
}

/// Moves the guards of a shard from `before` ([`Lsn::ZERO`]: there are none) to `after`.
pub(super) async fn move_guards(
    tx: &mut dyn Tx,
    shard: ShardId,
    before: Lsn,
    after: Lsn,
) -> Result<(), SqlError> {
    if before == Lsn::ZERO {
        let missing: Vec<_> = GUARDS.iter().map(|guard| Missing { guard, shard, lsn: after }).collect();
        return make_guards(tx, &missing).await;
    }
    let moved = match tx.dialect() {
        Dialect::Sqlite => {
            let mut all = true;
            for Guard { table, is, lsn, key, .. } in &GUARDS {
                let sql = format!("UPDATE {table} SET {lsn} = ? WHERE {is} AND {lsn} = ?");
                all &= tx.execute(&sql, &[after.into(), key.of(shard), before.into()]).await? == 1;
            }
            all
        }
        Dialect::MySql => {
            let names: Vec<_> = GUARDS.iter().map(|guard| guard.table).collect();
            let sets: Vec<_> =
                GUARDS.iter().map(|guard| format!("{}.{} = ?", guard.table, guard.lsn)).collect();
            let qualified = |guard: &Guard| {
                let conditions = guard.is.split(" AND ").map(|is| format!("{}.{is}", guard.table));
                let lsn = format!("{}.{} = ?", guard.table, guard.lsn);
                conditions.chain([lsn]).collect::<Vec<_>>().join(" AND ")
            };
            let fits: Vec<_> = GUARDS.iter().map(qualified).collect();
            let sql =
                format!("UPDATE {} SET {} WHERE {}", names.join(", "), sets.join(", "), fits.join(" AND "));
            let keys = GUARDS.iter().flat_map(|guard| [guard.key.of(shard), before.into()]);
            let args: Vec<Arg> = GUARDS.iter().map(|_| after.into()).chain(keys).collect();
            tx.execute(&sql, &args).await? > 0
        }
    };
    // Read a moment ago in this transaction: somebody emptied a table meanwhile.
    if moved { Ok(()) } else { Err(SqlError::Retry("a table was replaced meanwhile".to_owned())) }
}

impl Key {
    fn of(self, shard: ShardId) -> Arg {
        let number = shard.0.to_string();
        match self {
            Self::Number => shard.into(),
            Self::Text => Arg::Text(number.into()),
            Self::Behind => Arg::Bytes([&[0xFF], number.as_bytes()].concat()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_goes_less_or_more_far_is_named() {
        let marks = |marks: &[(u16, u64)]| -> BTreeMap<ShardId, Lsn> {
            marks.iter().map(|(shard, lsn)| (ShardId(*shard), Lsn(*lsn))).collect()
        };
        let flushed = marks(&[(0, 7), (3, 9)]);
        agree("orders", &flushed, &flushed).unwrap();
        agree("orders", &marks(&[]), &marks(&[])).unwrap();
        for (found, word) in [
            (marks(&[(0, 7), (3, 8)]), "`orders` ends at event 8 of shard 3, `watermarks` ends at event 9"),
            (marks(&[(0, 7)]), "`orders` has no guard of shard 3"),
            (marks(&[(0, 7), (3, 9), (4, 1)]), "ends at event 1 of shard 4, `watermarks` has nothing"),
            (marks(&[]), "`orders` has no guard of shard 0"),
            (marks(&[(3, 8)]), "`orders` has no guard of shard 0"),
        ] {
            let told = agree("orders", &found, &flushed).unwrap_err();
            assert!(told.contains(word), "{told}");
            let are_missing = found.iter().all(|(shard, lsn)| flushed.get(shard) == Some(lsn));
            assert_eq!(told.contains("--make-guards"), are_missing, "{told}");
        }
    }
}
