//! Reads the rows of a source, SKU by SKU, in bounded memory.

use std::str::FromStr as _;

use futures_util::TryStreamExt as _;
use sqlx::mysql::{MySqlConnectOptions, MySqlRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, MySqlConnection, Row as _};
use tokio::sync::mpsc;

use super::Item;
use crate::limits::{IMPORT_CONNECT_TIMEOUT, IMPORT_NET_WRITE_TIMEOUT_SECONDS, IMPORT_ROWS_AHEAD};

use super::check::{Checker, RawRow};
use super::source::{Deleted, Source, Units, Warehouse};

/// How to read.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// `mysql://user:password@host:port/database`.
    pub url: String,
    /// Which table.
    pub source: Source,
    /// Units that the old system holds for orders are imported as available ones.
    pub include_reserved: bool,
}

/// The source can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// The URL is none. Its password is not repeated.
    #[error("the source must be mysql://user:password@host:port/database")]
    BadUrl,
    /// The database can't be reached, refuses, or was lost; rows given before are right.
    #[error("the source can't be read: {0}")]
    Unreadable(String),
}

/// The rows of a source, one by one. Dropped, it stops reading.
#[derive(Debug)]
pub struct Reader {
    rows: mpsc::Receiver<Result<RawRow, ImportError>>,
    checker: Checker,
    /// Rows of the table when it was opened, for progress.
    expected: u64,
    /// Nothing comes after this.
    ended: bool,
}

impl Reader {
    /// Connects and begins to read. To be called on a tokio runtime.
    ///
    /// # Errors
    /// [`ImportError`].
    pub async fn open(options: ReadOptions) -> Result<Self, ImportError> {
        let ReadOptions { url, mut source, include_reserved } = options;
        if !url.starts_with("mysql://") && !url.starts_with("mariadb://") {
            return Err(ImportError::BadUrl);
        }
        let connect = MySqlConnectOptions::from_str(&url).map_err(|_| ImportError::BadUrl)?;
        let mut connection =
            tokio::time::timeout(IMPORT_CONNECT_TIMEOUT, connect.disable_statement_logging().connect())
                .await
                .map_err(|_| ImportError::Unreadable("it does not answer".to_owned()))?
                .map_err(unreadable)?;
        let patience = format!("SET SESSION net_write_timeout = {IMPORT_NET_WRITE_TIMEOUT_SECONDS}");
        sqlx::query(AssertSqlSafe(patience)).execute(&mut connection).await.map_err(unreadable)?;
        if let Deleted::IfThere(name) = source.deleted {
            let there = "SELECT COUNT(*) FROM information_schema.columns \
                 WHERE table_schema = COALESCE(?, DATABASE()) AND table_name = ? AND column_name = ?";
            let table = &source.table;
            let database = table.database.as_ref().map(|name| name.as_str().to_owned());
            let there = sqlx::query_scalar(there).bind(database).bind(table.name.as_str().to_owned());
            let columns: i64 =
                there.bind(name.as_str().to_owned()).fetch_one(&mut connection).await.map_err(unreadable)?;
            source.deleted = if columns > 0 { Deleted::Column(name) } else { Deleted::Never };
        }
        let count = AssertSqlSafe(format!("SELECT COUNT(*) FROM {}", source.table));
        let count: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await.map_err(unreadable)?;
        let (sender, rows) = mpsc::channel(IMPORT_ROWS_AHEAD);
        // Ends with the last row, with an error, or with the reader, whose end the sender sees.
        tokio::spawn(send_rows(connection, select(&source), sender));
        let checker = Checker::new(source, include_reserved);
        Ok(Self { rows, checker, expected: count.unsigned_abs(), ended: false })
    }

    /// How many rows the table had when it was opened.
    #[must_use]
    pub fn expected(&self) -> u64 {
        self.expected
    }

    /// The next row, `None` after the last.
    ///
    /// # Errors
    /// [`ImportError`], once; nothing comes after it.
    pub async fn next(&mut self) -> Option<Result<Item, ImportError>> {
        loop {
            if let Some(item) = self.checker.pop() {
                return Some(Ok(item));
            }
            if self.ended {
                return None;
            }
            match self.rows.recv().await {
                Some(Ok(row)) => self.checker.push(&row),
                Some(Err(error)) => {
                    // What is held back may be half of a SKU, so it is not given.
                    self.ended = true;
                    return Some(Err(error));
                }
                None => {
                    self.ended = true;
                    self.checker.finish();
                }
            }
        }
    }
}

async fn send_rows(
    mut connection: MySqlConnection,
    select: String,
    sender: mpsc::Sender<Result<RawRow, ImportError>>,
) {
    let mut rows = sqlx::query(AssertSqlSafe(select)).fetch(&mut connection);
    loop {
        let row = tokio::select! {
            row = rows.try_next() => row,
            () = sender.closed() => return,
        };
        let row = match row {
            Ok(None) => return,
            Ok(Some(row)) => raw_row(&row),
            Err(error) => Err(unreadable(error)),
        };
        let failed = row.is_err();
        if sender.send(row).await.is_err() || failed {
            return;
        }
    }
}

/// One statement, so one moment of the source. Everything comes as bytes, whatever types the columns have; ordered by
/// bytes, rows of one SKU stand together even where the column's collation takes two SKUs for one.
fn select(source: &Source) -> String {
    let bytes = |column: String| format!("CAST(CONVERT({column} USING utf8mb4) AS BINARY)");
    let optional = |column: Option<String>| column.map_or_else(|| "NULL".to_owned(), bytes);
    let sku = bytes(source.sku.to_string());
    let warehouse = match &source.warehouse {
        Warehouse::Column(name) => Some(name.to_string()),
        Warehouse::Always(_) => None,
    };
    let units = match &source.units {
        Units::Available(name) | Units::OnHand(name) => name.to_string(),
    };
    // A BIT column has no text.
    let deleted = match &source.deleted {
        Deleted::Column(name) => Some(format!("({name} + 0)")),
        Deleted::Never | Deleted::IfThere(_) => None,
    };
    let columns = [
        sku.clone(),
        optional(warehouse),
        bytes(units),
        optional(source.reserved.as_ref().map(ToString::to_string)),
        optional(source.sold.as_ref().map(ToString::to_string)),
        optional(source.total.as_ref().map(ToString::to_string)),
        optional(deleted),
    ];
    format!("SELECT {} FROM {} ORDER BY {sku}", columns.join(", "), source.table)
}

fn raw_row(row: &MySqlRow) -> Result<RawRow, ImportError> {
    let get = |place: usize| row.try_get::<Option<Vec<u8>>, _>(place).map_err(unreadable);
    Ok(RawRow {
        sku: get(0)?,
        warehouse: get(1)?,
        units: get(2)?,
        reserved: get(3)?,
        sold: get(4)?,
        total: get(5)?,
        deleted: get(6)?,
    })
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err hands it over")]
fn unreadable(error: sqlx::Error) -> ImportError {
    ImportError::Unreadable(error.to_string())
}
