//! Statements over many rows or keys. Lists are cut to powers of two, so that a connection prepares few texts.

use hotstock_engine::ids::{SkuId, WarehouseId};

use super::dialect::{Arg, Existing, Row, Table, Tx};
use super::error::SqlError;
use crate::limits::{MAX_KEYS_PER_STATEMENT, MAX_ROWS_PER_STATEMENT};

/// Inserts rows, whose values stand in the order of the table's columns, and tells how many there were.
pub(super) async fn write(
    tx: &mut dyn Tx,
    table: &Table,
    existing: Existing,
    rows: Vec<Vec<Arg>>,
) -> Result<u64, SqlError> {
    let (head, tail) = tx.dialect().insert(table, existing);
    let count = rows.len();
    let mut rows = rows.into_iter();
    let mut left = count;
    while left > 0 {
        let size = part(left, MAX_ROWS_PER_STATEMENT);
        let values = vec![format!("({})", marks(table.columns.len())); size].join(", ");
        let args = rows.by_ref().take(size).flatten().collect();
        tx.execute(&format!("{head}{values}{tail}"), args).await?;
        left -= size;
    }
    Ok(count as u64)
}

/// Rows whose `column` is one of `keys`, which are best sorted and without repeats: `{head} {column} IN (…) {tail}`.
pub(super) async fn rows_in<K>(
    tx: &mut dyn Tx,
    head: &str,
    column: &str,
    keys: &[K],
    tail: &str,
) -> Result<Vec<Row>, SqlError>
where
    for<'a> Arg: From<&'a K>,
    K: Sync,
{
    let mut all = Vec::new();
    for keys in keys.chunks(MAX_KEYS_PER_STATEMENT) {
        let args = padded(keys.iter().map(|key| vec![Arg::from(key)]).collect());
        let sql = format!("{head} {column} IN ({}){tail}", marks(args.len()));
        all.extend(tx.rows(&sql, args.into_iter().flatten().collect()).await?);
    }
    Ok(all)
}

/// Changes the rows whose `column` is one of `keys`, and tells how many: `{head} {column} IN (…)`. The condition of `head` must hold no
/// longer for a row that was changed, or changing it again must do no harm.
pub(super) async fn execute_in<K>(
    tx: &mut dyn Tx,
    head: &str,
    column: &str,
    keys: &[K],
) -> Result<u64, SqlError>
where
    for<'a> Arg: From<&'a K>,
    K: Sync,
{
    let mut count = 0;
    for keys in keys.chunks(MAX_KEYS_PER_STATEMENT) {
        let args = padded(keys.iter().map(|key| vec![Arg::from(key)]).collect());
        let sql = format!("{head} {column} IN ({})", marks(args.len()));
        count += tx.execute(&sql, args.into_iter().flatten().collect()).await?;
    }
    Ok(count)
}

/// Rows of stocks, which are best sorted by key and without repeats: `{head} (sku_id = ? AND warehouse_id = ? OR …) {tail}`.
pub(super) async fn rows_of_stocks(
    tx: &mut dyn Tx,
    head: &str,
    keys: &[(SkuId, WarehouseId)],
    tail: &str,
) -> Result<Vec<Row>, SqlError> {
    let mut all = Vec::new();
    for keys in keys.chunks(MAX_KEYS_PER_STATEMENT) {
        let args = padded(keys.iter().map(|(sku_id, w)| vec![Arg::from(sku_id), Arg::from(*w)]).collect());
        let any = vec!["sku_id = ? AND warehouse_id = ?"; args.len()].join(" OR ");
        let sql = format!("{head} ({any}){tail}");
        all.extend(tx.rows(&sql, args.into_iter().flatten().collect()).await?);
    }
    Ok(all)
}

/// `?, ?, ?`
pub(super) fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// The largest power of two that is neither above `left` nor above `max`.
fn part(left: usize, max: usize) -> usize {
    let power = if left.is_power_of_two() { left } else { left.next_power_of_two() / 2 };
    power.min(max)
}

/// The last one again and again, up to a power of two.
fn padded(mut keys: Vec<Vec<Arg>>) -> Vec<Vec<Arg>> {
    if let Some(last) = keys.last().cloned() {
        keys.resize(keys.len().next_power_of_two(), last);
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_cut_to_powers_of_two() {
        let cut = |mut left: usize| {
            let mut parts = Vec::new();
            while left > 0 {
                parts.push(part(left, 128));
                left -= parts[parts.len() - 1];
            }
            parts
        };
        assert_eq!(cut(1), [1]);
        assert_eq!(cut(7), [4, 2, 1]);
        assert_eq!(cut(300), [128, 128, 32, 8, 4]);
        let keys = padded((0..5_u32).map(|n| vec![Arg::from(n)]).collect());
        assert_eq!(keys.len(), 8);
        assert_eq!(keys[7], [Arg::Int(4)]);
        assert!(padded(Vec::new()).is_empty());
    }
}
