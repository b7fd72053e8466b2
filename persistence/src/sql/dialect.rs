//! What both databases are asked and how they answer: arguments, rows, transactions, and the few words in which they
//! differ.

use async_trait::async_trait;
use smol_str::SmolStr;
use sqlx::mysql::MySqlRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, ValueRef as _};

use hotstock_engine::clock::Timestamp;
use hotstock_engine::ids::{
    AttemptId, BuyerId, Epoch, InvalidId, Lsn, OrderNo, Reason, RequestId, ServerId, ShardId, SkuId, TakeId,
    TraceId, WarehouseId,
};
use hotstock_engine::store::StoreError;

use super::error::{Fault, SqlError, broken};

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// One statement that reads.
    One,
    /// Several that read the same moment.
    Read,
    /// It changes something.
    Write,
}

/// A value for a mark of a statement.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Arg {
    Null,
    Int(i64),
    Text(SmolStr),
    Bytes(Vec<u8>),
}

macro_rules! arg_of_text {
    ($($id:ty),+) => {$(
        impl From<&$id> for Arg {
            fn from(id: &$id) -> Self {
                Self::Text(SmolStr::new(id.as_str()))
            }
        }
    )+};
}

impl From<Vec<u8>> for Arg {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

arg_of_text!(SkuId, OrderNo, RequestId, BuyerId, Reason);

impl From<&str> for Arg {
    fn from(text: &str) -> Self {
        Self::Text(SmolStr::new(text))
    }
}

/// Counts are far below 2^63: units by `MAX_STOCK_UNITS`, versions and LSNs because nobody counts that far.
impl From<u64> for Arg {
    fn from(count: u64) -> Self {
        Self::Int(i64::try_from(count).unwrap_or(i64::MAX))
    }
}

macro_rules! arg_of_number {
    ($($of:ty => |$value:ident| $number:expr),+ $(,)?) => {$(
        impl From<$of> for Arg {
            fn from($value: $of) -> Self {
                Self::Int($number)
            }
        }
    )+};
}

arg_of_number! {
    i64 => |number| number,
    u32 => |number| i64::from(number),
    u16 => |number| i64::from(number),
    bool => |yes| i64::from(yes),
    WarehouseId => |id| i64::from(id.0),
    ShardId => |id| i64::from(id.0),
}

impl From<usize> for Arg {
    fn from(count: usize) -> Self {
        Self::from(count as u64)
    }
}

impl From<Timestamp> for Arg {
    fn from(at: Timestamp) -> Self {
        Self::from(at.0)
    }
}

impl From<Lsn> for Arg {
    fn from(lsn: Lsn) -> Self {
        Self::from(lsn.0)
    }
}

impl From<Epoch> for Arg {
    fn from(epoch: Epoch) -> Self {
        Self::from(epoch.0)
    }
}

impl From<ServerId> for Arg {
    fn from(id: ServerId) -> Self {
        Self::Text(id.to_string().into())
    }
}

/// In digits whose order as text is that of the numbers.
impl From<AttemptId> for Arg {
    fn from(id: AttemptId) -> Self {
        Self::Text(format!("{:016x}", id.0).into())
    }
}

impl From<TraceId> for Arg {
    fn from(id: TraceId) -> Self {
        Self::Text(id.to_string().into())
    }
}

impl From<TakeId> for Arg {
    fn from(id: TakeId) -> Self {
        Self::Text(id.to_string().into())
    }
}

impl Arg {
    /// Its bytes on the way to the database, give or take a few.
    pub fn weight(&self) -> usize {
        match self {
            Self::Null => 1,
            Self::Int(_) => 8,
            Self::Text(text) => 4 + text.len(),
            Self::Bytes(bytes) => 8 + bytes.len(),
        }
    }
}

impl<T: Into<Arg>> From<Option<T>> for Arg {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A row that a database answered.
pub(super) enum Row {
    Sqlite(SqliteRow),
    MySql(MySqlRow),
}

impl Row {
    /// Reads the columns from the first on.
    pub fn fields(&self) -> Fields<'_> {
        Fields { row: self, next: 0 }
    }
}

/// Reads a row column by column. What does not fit is [`StoreError::Inconsistent`], never a panic.
#[derive(Clone)]
pub(super) struct Fields<'a> {
    row: &'a Row,
    next: usize,
}

impl Fields<'_> {
    fn step(&mut self) -> usize {
        self.next += 1;
        self.next - 1
    }

    /// Whether the next column is NULL; it is still to be read.
    pub fn is_null(&self) -> Result<bool, StoreError> {
        let raw = match self.row {
            Row::Sqlite(row) => row.try_get_raw(self.next).map(|value| value.is_null()),
            Row::MySql(row) => row.try_get_raw(self.next).map(|value| value.is_null()),
        };
        raw.map_err(broken)
    }

    /// Leaves out columns.
    pub fn skip(&mut self, columns: usize) {
        self.next += columns;
    }

    pub fn int_or_null(&mut self) -> Result<Option<i64>, StoreError> {
        let column = self.step();
        let value = match self.row {
            Row::Sqlite(row) => row.try_get(column),
            Row::MySql(row) => row.try_get(column),
        };
        value.map_err(broken)
    }

    pub fn int(&mut self) -> Result<i64, StoreError> {
        self.int_or_null()?.ok_or_else(|| broken(format!("column {} is NULL", self.next)))
    }

    /// A number that is not negative.
    pub fn count(&mut self) -> Result<u64, StoreError> {
        let value = self.int()?;
        u64::try_from(value).map_err(|_| broken(format!("column {} is {value}", self.next)))
    }

    pub fn count_or_null(&mut self) -> Result<Option<u64>, StoreError> {
        let value = self.int_or_null()?;
        value.map(u64::try_from).transpose().map_err(|_| broken(format!("column {} is below 0", self.next)))
    }

    /// A number of a smaller type.
    pub fn small<T: TryFrom<i64>>(&mut self) -> Result<T, StoreError> {
        let value = self.int()?;
        T::try_from(value).map_err(|_| broken(format!("column {} is {value}", self.next)))
    }

    pub fn flag(&mut self) -> Result<bool, StoreError> {
        Ok(self.int()? != 0)
    }

    pub fn text_or_null(&mut self) -> Result<Option<&str>, StoreError> {
        let column = self.step();
        match self.row {
            Row::Sqlite(row) => row.try_get(column).map_err(broken),
            Row::MySql(row) => {
                let bytes: Option<&[u8]> = row.try_get(column).map_err(broken)?;
                bytes.map(std::str::from_utf8).transpose().map_err(broken)
            }
        }
    }

    pub fn text(&mut self) -> Result<&str, StoreError> {
        let place = self.next + 1;
        self.text_or_null()?.ok_or_else(|| broken(format!("column {place} is NULL")))
    }

    pub fn bytes_or_null(&mut self) -> Result<Option<&[u8]>, StoreError> {
        let column = self.step();
        match self.row {
            Row::Sqlite(row) => row.try_get(column).map_err(broken),
            Row::MySql(row) => row.try_get(column).map_err(broken),
        }
    }

    pub fn order_no(&mut self) -> Result<OrderNo, StoreError> {
        self.id(OrderNo::new)
    }

    /// A text id; `new` checks its bounds.
    pub fn id<T>(&mut self, new: fn(&str) -> Result<T, InvalidId>) -> Result<T, StoreError> {
        new(self.text()?).map_err(broken)
    }

    pub fn id_or_null<T>(&mut self, new: fn(&str) -> Result<T, InvalidId>) -> Result<Option<T>, StoreError> {
        self.text_or_null()?.map(new).transpose().map_err(broken)
    }

    pub fn warehouse(&mut self) -> Result<WarehouseId, StoreError> {
        self.small().map(WarehouseId)
    }

    pub fn time(&mut self) -> Result<Timestamp, StoreError> {
        self.count().map(Timestamp)
    }

    pub fn lsn(&mut self) -> Result<Lsn, StoreError> {
        self.count().map(Lsn)
    }

    pub fn server_or_null(&mut self) -> Result<Option<ServerId>, StoreError> {
        let id = self.text_or_null()?.map(|text| u128::from_str_radix(text, 16).map(ServerId));
        id.transpose().map_err(broken)
    }

    pub fn take_or_null(&mut self) -> Result<Option<TakeId>, StoreError> {
        let id = self.text_or_null()?.map(|text| u128::from_str_radix(text, 16).map(TakeId));
        id.transpose().map_err(broken)
    }

    pub fn attempt(&mut self) -> Result<AttemptId, StoreError> {
        u64::from_str_radix(self.text()?, 16).map(AttemptId).map_err(broken)
    }

    pub fn epoch(&mut self) -> Result<Epoch, StoreError> {
        self.count().map(Epoch)
    }

    pub fn shard(&mut self) -> Result<ShardId, StoreError> {
        self.small().map(ShardId)
    }

    pub fn shard_or_null(&mut self) -> Result<Option<ShardId>, StoreError> {
        let shard = self.int_or_null()?.map(|value| u16::try_from(value).map(ShardId));
        shard.transpose().map_err(broken)
    }

    pub fn trace_or_null(&mut self) -> Result<Option<TraceId>, StoreError> {
        let id = self.text_or_null()?.map(|text| u128::from_str_radix(text, 16));
        Ok(id.transpose().map_err(broken)?.map(|id| TraceId(id.to_be_bytes())))
    }
}

/// A connection with a transaction on it. Dropped before its end it takes the connection with it, and the database
/// rolls back.
#[async_trait]
pub(super) trait Tx: Send {
    /// Which database.
    fn dialect(&self) -> Dialect;

    /// The largest statement that the database takes, in bytes.
    fn largest_statement(&self) -> usize;

    /// Asks for rows.
    async fn rows(&mut self, sql: &str, args: &[Arg]) -> Result<Vec<Row>, SqlError>;

    /// Changes rows and tells how many fitted the condition.
    async fn execute(&mut self, sql: &str, args: &[Arg]) -> Result<u64, SqlError>;

    /// Makes it last.
    async fn commit(self: Box<Self>) -> Result<(), SqlError>;

    /// Takes it back.
    async fn rollback(self: Box<Self>);
}

/// A database.
#[async_trait]
pub(super) trait Backend: Send + Sync + 'static {
    /// Begins a transaction.
    async fn begin(&self, access: Access) -> Result<Box<dyn Tx>, SqlError>;

    /// Creates or changes the tables, unless they are right. Any number of servers may do so at once.
    async fn migrate(&self) -> Result<(), StoreError>;

    /// Gets the lock that only the owner of the store has and that dies with its process or connection, unless it has
    /// it. Whether it has it.
    async fn hold(&self) -> Result<bool, StoreError>;

    /// Lets go of that lock.
    async fn let_go(&self);

    /// Closes all connections; none is opened any more.
    async fn close(&self);
}

/// The words in which the databases differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    MySql,
}

impl Dialect {
    /// At the end of a `SELECT` whose rows nobody else may change before the end of the transaction. In SQLite a
    /// transaction that writes is alone anyway.
    pub fn for_update(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::MySql => " FOR UPDATE",
        }
    }

    /// Likewise, but others may do the same at the same time.
    pub fn for_share(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::MySql => " LOCK IN SHARE MODE",
        }
    }

    /// The words before, between and after the values of an update of many rows, and the words around the values of
    /// one row.
    pub fn update(self, update: &Update) -> UpdateWords {
        let Update { table, keys, sets, values, bytes } = *update;
        let on = |key: &&str| format!("{table}.{key} = v.n_{key}");
        let fits = keys.iter().map(on).collect::<Vec<_>>().join(" AND ");
        let sets = sets.join(", ");
        let names = || values.iter().map(|value| format!("n_{value}"));
        // MySQL 8.0 takes a value in a list of columns for text, and refuses bytes that are none.
        let cast = |value: &&str| if bytes.contains(value) { "CAST(? AS BINARY)" } else { "?" };
        let casts = || values.iter().map(cast);
        match self {
            Self::Sqlite => UpdateWords {
                head: format!("WITH v({}) AS (VALUES ", names().collect::<Vec<_>>().join(", ")),
                first: format!("({})", vec!["?"; values.len()].join(", ")),
                row: format!(", ({})", vec!["?"; values.len()].join(", ")),
                tail: format!(") UPDATE {table} SET {sets} FROM v WHERE {fits}"),
            },
            Self::MySql => UpdateWords {
                head: format!("UPDATE {table} JOIN ("),
                first: format!(
                    "SELECT {}",
                    casts()
                        .zip(names())
                        .map(|(cast, name)| format!("{cast} AS {name}"))
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
                row: format!(" UNION ALL SELECT {}", casts().collect::<Vec<_>>().join(", ")),
                tail: format!(") v ON {fits} SET {sets}"),
            },
        }
    }

    /// The time by the database's clock, in milliseconds, as an expression.
    pub fn now(self) -> &'static str {
        match self {
            Self::Sqlite => "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)",
            Self::MySql => "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)",
        }
    }

    /// The words before and after the values of an insert: `INSERT INTO t (…) VALUES` … what becomes of a row that
    /// exists.
    pub fn insert(self, table: &Table, existing: Existing) -> (String, String) {
        let (name, columns) = (table.name, table.columns.join(", "));
        let assign = |column: &&str| match self {
            Self::Sqlite => format!("{column} = excluded.{column}"),
            Self::MySql => format!("{column} = VALUES({column})"),
        };
        let assignments = || table.columns[table.keys..].iter().map(assign).collect::<Vec<_>>().join(", ");
        let keys = || table.columns[..table.keys].join(", ");
        let (verb, tail) = match (existing, self) {
            (Existing::Refused, _) => ("INSERT", String::new()),
            (Existing::Kept, Self::Sqlite) => ("INSERT", format!(" ON CONFLICT ({}) DO NOTHING", keys())),
            // A key set to itself: unlike INSERT IGNORE it hides no other error.
            (Existing::Kept, Self::MySql) => {
                let key = table.columns[0];
                ("INSERT", format!(" ON DUPLICATE KEY UPDATE {key} = {name}.{key}"))
            }
            (Existing::Replaced, Self::Sqlite) => {
                ("INSERT", format!(" ON CONFLICT ({}) DO UPDATE SET {}", keys(), assignments()))
            }
            (Existing::Replaced, Self::MySql) => {
                ("INSERT", format!(" ON DUPLICATE KEY UPDATE {}", assignments()))
            }
        };
        (format!("{verb} INTO {name} ({columns}) VALUES "), tail)
    }
}

/// A table, or those of its columns that are written.
#[derive(Debug)]
pub(super) struct Table {
    pub name: &'static str,
    /// First those of the primary key.
    pub columns: &'static [&'static str],
    /// How many of them are the primary key.
    pub keys: usize,
}

/// Changes many rows, each by values of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Update {
    pub table: &'static str,
    /// Columns that a row is found by; all of them must be as its values say.
    pub keys: &'static [&'static str],
    /// Assignments; the values of a row are columns of `v`, named `n_` and the name in `values`.
    pub sets: &'static [&'static str],
    /// The names of the values, in their order.
    pub values: &'static [&'static str],
    /// Those of them that are bytes.
    pub bytes: &'static [&'static str],
}

/// See [`Dialect::update`].
pub(super) struct UpdateWords {
    pub head: String,
    /// Of the first row.
    pub first: String,
    /// Of each other row.
    pub row: String,
    pub tail: String,
}

/// What becomes of a row that exists when it is inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    /// The insert fails with [`SqlError::Duplicate`].
    Refused,
    /// It stays as it is.
    Kept,
    /// Its other columns are written.
    Replaced,
}

/// A fault in words, with the statement's first ones.
pub(super) fn in_statement(fault: Fault, sql: &str) -> Fault {
    match fault {
        Fault::Wrong(text) => {
            let head: String = sql.chars().take(80).collect();
            Fault::Wrong(format!("{text}, in: {head}"))
        }
        other => other,
    }
}
