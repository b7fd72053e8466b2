//! SQLite: one writer, a few readers, WAL, a sync at every commit.

use std::str::FromStr as _;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::error::DatabaseError;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous,
};
use sqlx::{Arguments as _, AssertSqlSafe, ConnectOptions as _, Connection as _};
use tokio::time::timeout;

use hotstock_engine::store::StoreError;

use super::SqlOptions;
use super::dialect::{Access, Arg, Backend, Dialect, Row, Tx};
use super::error::{Fault, SqlError, broken};
use super::schema;
use super::session::{Driver, Pool};
use crate::limits::{
    MAX_WAITING_PER_CONNECTION, MAX_WAITING_WRITERS, MIGRATE_TIMEOUT, STATEMENTS_PER_CONNECTION,
};

/// A SQLite file.
pub(super) struct Sqlite {
    writer: Arc<Pool<Connect>>,
    readers: Arc<Pool<Connect>>,
}

struct Connect(SqliteConnectOptions);

impl Sqlite {
    pub fn new(options: &SqlOptions) -> Result<Self, StoreError> {
        let connect = SqliteConnectOptions::from_str(&options.url).map_err(broken)?;
        let file = options.url.trim_start_matches("sqlite:").trim_start_matches("//");
        if file.is_empty() || file == ":memory:" || options.url.contains("mode=memory") {
            return Err(broken(
                "a SQLite store needs a file: what is in memory would not survive the process",
            ));
        }
        let connect = connect
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // What is answered survives power loss; in WAL mode NORMAL would not do.
            .synchronous(SqliteSynchronous::Full)
            // Other processes may write the file too. Shorter than our own wait, so that it is they who are told of.
            .busy_timeout(options.statement_timeout / 2)
            .statement_cache_capacity(STATEMENTS_PER_CONNECTION)
            .disable_statement_logging();
        let (acquire, statement) = (options.acquire_timeout, options.statement_timeout);
        let connections = options.connections.max(1);
        let waiting = connections * MAX_WAITING_PER_CONNECTION;
        Ok(Self {
            writer: Pool::new(Connect(connect.clone()), 1, MAX_WAITING_WRITERS, acquire, statement),
            readers: Pool::new(Connect(connect), connections, waiting, acquire, statement),
        })
    }
}

#[async_trait]
impl Backend for Sqlite {
    async fn begin(&self, access: Access) -> Result<Box<dyn Tx>, SqlError> {
        match access {
            Access::Write => self.writer.begin(access).await,
            Access::One | Access::Read => self.readers.begin(access).await,
        }
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let unavailable = |fault: Fault| StoreError::Unavailable(fault.text());
        let mut conn = self.writer.connect().await.map_err(unavailable)?;
        let work = async {
            // sqlx locks nothing in SQLite: the write lock around all of it keeps a second server out.
            let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(schema::failed)?;
            let migrator = schema::migrator([
                include_str!("migrations/sqlite/0001_first.sql"),
                include_str!("migrations/sqlite/0002_several_places.sql"),
            ]);
            migrator.run_direct(None, &mut *tx, false).await.map_err(schema::not_migrated)?;
            tx.commit().await.map_err(schema::failed)
        };
        let done = timeout(MIGRATE_TIMEOUT, work).await;
        done.unwrap_or_else(|_| Err(schema::too_long()))?;
        let _ = conn.close().await;
        Ok(())
    }

    async fn close(&self) {
        // The writer last: the last connection brings what is in the WAL into the file.
        self.readers.close().await;
        self.writer.close().await;
    }
}

impl Driver for Connect {
    type Conn = SqliteConnection;

    const DIALECT: Dialect = Dialect::Sqlite;

    fn begin(access: Access) -> &'static [&'static str] {
        match access {
            Access::One => &[],
            Access::Read => &["BEGIN"],
            // With the write lock from the start: one that reads first and then wants to write could only be refused.
            Access::Write => &["BEGIN IMMEDIATE"],
        }
    }

    async fn connect(&self) -> Result<SqliteConnection, sqlx::Error> {
        self.0.connect().await
    }

    async fn command(conn: &mut SqliteConnection, sql: &'static str) -> Result<(), sqlx::Error> {
        sqlx::query(sql).execute(conn).await.map(drop)
    }

    async fn rows(conn: &mut SqliteConnection, sql: &str, args: Vec<Arg>) -> Result<Vec<Row>, sqlx::Error> {
        let query = sqlx::query_with(AssertSqlSafe(sql.to_owned()), arguments(args)?);
        Ok(query.fetch_all(conn).await?.into_iter().map(Row::Sqlite).collect())
    }

    async fn execute(conn: &mut SqliteConnection, sql: &str, args: Vec<Arg>) -> Result<u64, sqlx::Error> {
        let query = sqlx::query_with(AssertSqlSafe(sql.to_owned()), arguments(args)?);
        Ok(query.execute(conn).await?.rows_affected())
    }

    fn fault(error: &dyn DatabaseError) -> Fault {
        let text = error.to_string();
        let code: i32 = error.code().and_then(|code| code.parse().ok()).unwrap_or(0);
        // The lower byte is the kind: https://www.sqlite.org/rescode.html
        match code & 0xff {
            // SQLITE_BUSY, SQLITE_LOCKED
            5 | 6 => Fault::Conflict(text),
            // READONLY, IOERR, FULL, CANTOPEN, PROTOCOL, NOMEM, PERM, AUTH
            8 | 10 | 13 | 14 | 15 | 7 | 3 | 23 => Fault::Unable(text),
            _ if error.is_unique_violation() => Fault::Duplicate(text),
            _ => Fault::Wrong(text),
        }
    }

    async fn close(conn: SqliteConnection) {
        let _ = conn.close().await;
    }
}

fn arguments(args: Vec<Arg>) -> Result<SqliteArguments, sqlx::Error> {
    let mut arguments = SqliteArguments::default();
    for arg in args {
        let added = match arg {
            Arg::Null => arguments.add(None::<i64>),
            Arg::Int(value) => arguments.add(value),
            Arg::Text(text) => arguments.add(text),
            Arg::Bytes(bytes) => arguments.add(bytes),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}
