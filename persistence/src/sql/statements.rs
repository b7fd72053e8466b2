//! Statements over many rows or keys. They are bounded in rows and bytes, and halved when the server refuses one; a
//! row that it refuses by itself is left out and named. Lists are cut to powers of two, so that a connection prepares
//! few texts.

use super::dialect::{Arg, Existing, Row, Table, Tx, Update};
use super::error::SqlError;
use crate::limits::{MAX_BYTES_PER_STATEMENT, MAX_KEYS_PER_STATEMENT, MAX_ROWS_PER_STATEMENT, MAX_UNION};

/// What became of rows.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Rows that were inserted, or that fitted the condition of an update. (Of an insert that replaces, MySQL counts
    /// otherwise.)
    pub count: u64,
    /// The places of rows that did not fit, and why.
    pub refused: Vec<(usize, String)>,
}

/// Inserts rows, whose values stand in the order of the table's columns.
pub(super) async fn insert(
    tx: &mut dyn Tx,
    table: &Table,
    existing: Existing,
    rows: Vec<Vec<Arg>>,
) -> Result<Written, SqlError> {
    let (head, tail) = tx.dialect().insert(table, existing);
    let row = format!("({})", marks(table.columns.len()));
    let next = format!(", {row}");
    in_parts(tx, rows, &|size| format!("{head}{row}{}{tail}", next.repeat(size - 1))).await
}

/// Changes rows, each by values of its own.
pub(super) async fn update(
    tx: &mut dyn Tx,
    update: &Update,
    rows: Vec<Vec<Arg>>,
) -> Result<Written, SqlError> {
    let words = tx.dialect().update(update);
    let text = |size| format!("{}{}{}{}", words.head, words.first, words.row.repeat(size - 1), words.tail);
    in_parts(tx, rows, &text).await
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
    let keys = keys.iter().map(|key| vec![Arg::from(key)]).collect();
    rows_of(tx, head, &|count| format!("{column} IN ({})", marks(count)), keys, tail).await
}

/// Rows that fit one of `keys`, each with values for `one`, a condition: `{head} ({one} OR …) {tail}`.
pub(super) async fn rows_of_any(
    tx: &mut dyn Tx,
    head: &str,
    one: &str,
    keys: Vec<Vec<Arg>>,
    tail: &str,
) -> Result<Vec<Row>, SqlError> {
    rows_of(tx, head, &|count| format!("({})", vec![one; count].join(" OR ")), keys, tail).await
}

async fn rows_of(
    tx: &mut dyn Tx,
    head: &str,
    condition: &(dyn Fn(usize) -> String + Sync),
    keys: Vec<Vec<Arg>>,
    tail: &str,
) -> Result<Vec<Row>, SqlError> {
    let mut all = Vec::new();
    let mut keys = keys.into_iter().peekable();
    while keys.peek().is_some() {
        let some = padded(keys.by_ref().take(MAX_KEYS_PER_STATEMENT).collect());
        let sql = format!("{head} {}{tail}", condition(some.len()));
        let args: Vec<Arg> = some.into_iter().flatten().collect();
        all.extend(tx.rows(&sql, &args).await?);
    }
    Ok(all)
}

/// The first row that each of many small queries finds (`SELECT {body}`, with its own arguments), and which query that
/// was. In front of its columns a row has one more.
pub(super) async fn firsts(
    tx: &mut dyn Tx,
    body: &str,
    queries: Vec<Vec<Arg>>,
) -> Result<Vec<(usize, Row)>, SqlError> {
    each(tx, &format!("{body} LIMIT 1"), queries).await
}

/// Likewise all rows that each of them finds.
pub(super) async fn each(
    tx: &mut dyn Tx,
    body: &str,
    queries: Vec<Vec<Arg>>,
) -> Result<Vec<(usize, Row)>, SqlError> {
    let part = |n: usize| format!("SELECT * FROM (SELECT {n} AS place, {body}) p{n}");
    let mut found = Vec::new();
    for (chunk, some) in queries.chunks(MAX_UNION).enumerate() {
        let args = padded(some.to_vec());
        let sql = (0..args.len()).map(part).collect::<Vec<_>>().join(" UNION ALL ");
        let args: Vec<Arg> = args.into_iter().flatten().collect();
        for row in tx.rows(&sql, &args).await? {
            let place: usize = row.fields().small()?;
            if place < some.len() {
                found.push((chunk * MAX_UNION + place, row));
            }
        }
    }
    Ok(found)
}

/// Changes or deletes rows whose `column` is one of `keys`, and tells how many: `{head} {column} IN (…)`. Done again
/// to a row it must do no harm.
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
        let args: Vec<Arg> = args.into_iter().flatten().collect();
        count += tx.execute(&sql, &args).await?;
    }
    Ok(count)
}

/// Changes or deletes rows that fit one of `keys`, each with values for `one`, a condition, and tells how many:
/// `{head} ({one} OR …)`. Done again to a row it must do no harm.
pub(super) async fn execute_any(
    tx: &mut dyn Tx,
    head: &str,
    one: &str,
    keys: Vec<Vec<Arg>>,
) -> Result<u64, SqlError> {
    let mut count = 0;
    for keys in keys.chunks(MAX_KEYS_PER_STATEMENT) {
        let args = padded(keys.to_vec());
        let sql = format!("{head} ({})", vec![one; args.len()].join(" OR "));
        let args: Vec<Arg> = args.into_iter().flatten().collect();
        count += tx.execute(&sql, &args).await?;
    }
    Ok(count)
}

/// Gives rows to statements whose text is made for a number of rows.
async fn in_parts(
    tx: &mut dyn Tx,
    rows: Vec<Vec<Arg>>,
    text: &(dyn Fn(usize) -> String + Sync),
) -> Result<Written, SqlError> {
    let Some(width) = rows.first().map(Vec::len) else { return Ok(Written::default()) };
    let weights: Vec<usize> = rows
        .iter()
        .map(|row| row.iter().map(Arg::weight).sum::<usize>() + WEIGHT_OF_MARK * row.len())
        .collect();
    let count = rows.len();
    let args: Vec<Arg> = rows.into_iter().flatten().collect();
    let mut written = Written::default();
    let (mut from, mut most) = (0, MAX_ROWS_PER_STATEMENT);
    while from < count {
        let largest = tx.largest_statement();
        let size = part(&weights[from..], most, largest.min(MAX_BYTES_PER_STATEMENT));
        if size == 1 && weights[from] > largest {
            written.refused.push((from, format!("{} bytes in one row", weights[from])));
            (from, most) = (from + 1, MAX_ROWS_PER_STATEMENT);
            continue;
        }
        match tx.execute(&text(size), &args[from * width..(from + size) * width]).await {
            Ok(done) => {
                written.count += done;
                (from, most) = (from + size, MAX_ROWS_PER_STATEMENT);
            }
            Err(SqlError::Refused(problem)) if size == 1 => {
                written.refused.push((from, problem));
                (from, most) = (from + 1, MAX_ROWS_PER_STATEMENT);
            }
            Err(SqlError::Refused(_)) => most = size / 2,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

/// A mark in the text of a statement: `?, `.
const WEIGHT_OF_MARK: usize = 3;

/// `?, ?, ?`
pub(super) fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// The largest power of two that is neither above `most` nor above the number of rows, and whose first rows are not
/// above `bytes`; at least one row is always taken.
fn part(weights: &[usize], most: usize, bytes: usize) -> usize {
    let left = weights.len();
    let power = if left.is_power_of_two() { left } else { left.next_power_of_two() / 2 };
    let mut size = power.min(most).max(1);
    while size > 1 && weights[..size].iter().sum::<usize>() > bytes {
        size /= 2;
    }
    size
}

/// The last one again and again, up to a power of two.
pub(super) fn padded(mut keys: Vec<Vec<Arg>>) -> Vec<Vec<Arg>> {
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
        let cut = |weights: &[usize], bytes| {
            let (mut parts, mut from) = (Vec::new(), 0);
            while from < weights.len() {
                parts.push(part(&weights[from..], 128, bytes));
                from += parts[parts.len() - 1];
            }
            parts
        };
        assert_eq!(cut(&[1], 10), [1]);
        assert_eq!(cut(&[1; 7], 100), [4, 2, 1]);
        assert_eq!(cut(&[1; 300], 1_000), [128, 128, 32, 8, 4]);
        assert_eq!(cut(&[1, 1, 1, 9, 1, 1], 5), [2, 1, 1, 2]);
        let keys = padded((0..5_u32).map(|n| vec![Arg::from(n)]).collect());
        assert_eq!(keys.len(), 8);
        assert_eq!(keys[7], [Arg::Int(4)]);
        assert!(padded(Vec::new()).is_empty());
    }
}
