//! SQLite: one writer, a few readers, WAL, a sync at every commit.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use sqlx::error::DatabaseError;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous,
};
use sqlx::{Arguments as _, AssertSqlSafe, ConnectOptions as _, Connection as _};
use tokio::time::{sleep, timeout};

use hotstock_engine::store::StoreError;

use super::SqlOptions;
use super::dialect::{Access, Arg, Backend, Dialect, Row, Tx};
use super::error::{Fault, SqlError, broken};
use super::schema;
use super::session::{Driver, Pool};
use crate::limits::{
    MAX_BACKOFF, MAX_KEYS_PER_STATEMENT, MAX_WAITING_PER_CONNECTION, MAX_WAITING_WRITERS, MIGRATE_TIMEOUT,
    SQLITE_CACHE_KIB, SQLITE_CHECKPOINT_PAGES, SQLITE_LARGEST_STATEMENT, STATEMENTS_PER_CONNECTION,
};

/// A SQLite file, or (for tests) a database in memory.
pub(super) struct Sqlite {
    writer: Arc<Pool<Connect>>,
    readers: Arc<Pool<Connect>>,
    /// Beside the file: who has it locked owns the store. `None` in memory.
    owner_file: Option<PathBuf>,
    owner: Mutex<Option<File>>,
    /// The file, and which one it was (device and inode) when it was opened first.
    file: PathBuf,
    opened: OnceLock<(u64, u64)>,
    /// What is in memory lives as long as a connection to it.
    anchor: tokio::sync::Mutex<Option<SqliteConnection>>,
}

struct Connect(SqliteConnectOptions);

impl Sqlite {
    pub fn new(options: &SqlOptions) -> Result<Self, StoreError> {
        let connect = SqliteConnectOptions::from_str(&options.url).map_err(broken)?;
        let in_memory = options.url.contains(":memory:") || options.url.contains("mode=memory");
        let file = connect.get_filename().to_owned();
        if file.as_os_str().is_empty() {
            return Err(broken("the url of a SQLite store names its file: sqlite:PATH"));
        }
        let connect = connect
            .create_if_missing(true)
            // Other processes may write the file too. Shorter than our own wait, so that it is they who are told of.
            .busy_timeout(options.statement_timeout / 2)
            .statement_cache_capacity(STATEMENTS_PER_CONNECTION)
            .row_buffer_size(MAX_KEYS_PER_STATEMENT)
            .disable_statement_logging();
        let (acquire, statement) = (options.acquire_timeout, options.statement_timeout);
        let connections = options.connections.max(1);
        let waiting = connections * MAX_WAITING_PER_CONNECTION;
        let (anchor, owner, opened) = (tokio::sync::Mutex::default(), Mutex::default(), OnceLock::new());
        if in_memory {
            // One connection for all: those that share what is in memory lock whole tables against each other.
            let writer = Pool::new(Connect(connect), 1, MAX_WAITING_WRITERS, acquire, statement);
            let readers = Arc::clone(&writer);
            return Ok(Self { readers, writer, owner_file: None, owner, file, opened, anchor });
        }
        let connect = connect
            .journal_mode(SqliteJournalMode::Wal)
            // What is flushed survives power loss; in WAL mode NORMAL would not do.
            .synchronous(SqliteSynchronous::Full);
        // The pages of one flush, and many of the next one, stay in memory; the WAL is brought into the file once for
        // several flushes.
        let write = connect
            .clone()
            .pragma("cache_size", format!("-{SQLITE_CACHE_KIB}"))
            .pragma("wal_autocheckpoint", SQLITE_CHECKPOINT_PAGES.to_string());
        let mut owner_file = file.clone().into_os_string();
        owner_file.push(".owner");
        Ok(Self {
            writer: Pool::new(Connect(write), 1, MAX_WAITING_WRITERS, acquire, statement),
            readers: Pool::new(Connect(connect), connections, waiting, acquire, statement),
            owner_file: Some(owner_file.into()),
            owner,
            file,
            opened,
            anchor,
        })
    }
}

impl Sqlite {
    /// Which file is there now.
    fn file_now(&self) -> Option<(u64, u64)> {
        std::fs::metadata(&self.file).ok().map(|file| (file.dev(), file.ino()))
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
        // The first connection makes the file one with a WAL. SQLite does not wait for another process that does the
        // same at this moment, whatever `busy_timeout` says.
        let connected = async {
            loop {
                match self.writer.connect().await {
                    Err(Fault::Conflict(_)) => sleep(MAX_BACKOFF).await,
                    connected => return connected.map_err(unavailable),
                }
            }
        };
        let connected = timeout(MIGRATE_TIMEOUT, connected).await;
        let mut conn = connected.unwrap_or_else(|_| Err(schema::too_long()))?;
        let work = async {
            // sqlx locks nothing in SQLite: the write lock around all of it keeps a second server out.
            let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(schema::failed)?;
            let tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name";
            let tables: Vec<String> =
                sqlx::query_scalar(tables).fetch_all(&mut *tx).await.map_err(schema::failed)?;
            schema::check(&tables)?;
            let migrator = schema::migrator(include_str!("migrations/sqlite/0001_first.sql"));
            migrator.run_direct(None, &mut *tx, false).await.map_err(schema::not_migrated)?;
            tx.commit().await.map_err(schema::failed)
        };
        let done = timeout(MIGRATE_TIMEOUT, work).await;
        done.unwrap_or_else(|_| Err(schema::too_long()))?;
        if self.owner_file.is_some() {
            if let Some(file) = self.file_now() {
                self.opened.get_or_init(|| file);
            }
            let _ = conn.close().await;
        } else {
            *self.anchor.lock().await = Some(conn);
        }
        Ok(())
    }

    async fn hold(&self) -> Result<bool, StoreError> {
        let Some(path) = &self.owner_file else { return Ok(true) };
        if self.opened.get().is_some_and(|opened| self.file_now() != Some(*opened)) {
            return Err(StoreError::Foreign(format!(
                "{}: it was renamed, replaced or deleted while it was in use. What was flushed since then is in the file that was \
                 there before: put that one back, or a copy of it, and start again",
                self.file.display()
            )));
        }
        let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        if owner.is_some() {
            return Ok(true);
        }
        let unavailable =
            |error: &std::io::Error| StoreError::Unavailable(format!("{}: {error}", path.display()));
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = opened.map_err(|error| unavailable(&error))?;
        match file.try_lock() {
            Ok(()) => *owner = Some(file),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(unavailable(&error)),
        }
        Ok(true)
    }

    async fn let_go(&self) {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    async fn close(&self) {
        // The writer last: the last connection brings what is in the WAL into the file.
        self.readers.close().await;
        self.writer.close().await;
        self.anchor.lock().await.take();
        self.let_go().await;
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

    async fn rows(conn: &mut SqliteConnection, sql: &str, args: &[Arg]) -> Result<Vec<Row>, sqlx::Error> {
        let query = sqlx::query_with(AssertSqlSafe(sql.to_owned()), arguments(args)?);
        Ok(query.fetch_all(conn).await?.into_iter().map(Row::Sqlite).collect())
    }

    async fn execute(conn: &mut SqliteConnection, sql: &str, args: &[Arg]) -> Result<u64, sqlx::Error> {
        let query = sqlx::query_with(AssertSqlSafe(sql.to_owned()), arguments(args)?);
        Ok(query.execute(conn).await?.rows_affected())
    }

    fn largest_statement(&self) -> usize {
        SQLITE_LARGEST_STATEMENT
    }

    fn fault(error: &dyn DatabaseError) -> Fault {
        let text = error.to_string();
        let code: i32 = error.code().and_then(|code| code.parse().ok()).unwrap_or(0);
        // The lower byte is the kind: https://www.sqlite.org/rescode.html
        match code & 0xff {
            // SQLITE_BUSY, SQLITE_LOCKED
            5 | 6 => Fault::Conflict(text),
            // TOOBIG, MISMATCH
            18 | 20 => Fault::Refused(text),
            // READONLY, IOERR, FULL, CANTOPEN, PROTOCOL, NOMEM, PERM, AUTH
            8 | 10 | 13 | 14 | 15 | 7 | 3 | 23 => Fault::Unable(text),
            _ if error.is_unique_violation() => Fault::Duplicate(text),
            // CONSTRAINT, but for keys
            19 => Fault::Refused(text),
            _ => Fault::Wrong(text),
        }
    }

    async fn close(conn: SqliteConnection) {
        let _ = conn.close().await;
    }
}

fn arguments(args: &[Arg]) -> Result<SqliteArguments, sqlx::Error> {
    let mut arguments = SqliteArguments::default();
    arguments.reserve(args.len(), 0);
    for arg in args {
        let added = match arg {
            Arg::Null => arguments.add(None::<i64>),
            Arg::Int(value) => arguments.add(*value),
            Arg::Text(text) => arguments.add(Arc::<str>::from(text.as_str())),
            Arg::Bytes(bytes) => arguments.add(bytes.as_slice()),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}
