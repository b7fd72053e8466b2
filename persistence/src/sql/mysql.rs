//! MySQL 8 and MariaDB 10.11.

use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::error::DatabaseError;
use sqlx::mysql::{MySqlArguments, MySqlConnectOptions, MySqlConnection, MySqlDatabaseError};
use sqlx::{Arguments as _, AssertSqlSafe, ConnectOptions as _, Connection as _};
use tokio::sync::Mutex;
use tokio::time::timeout;

use hotstock_engine::store::StoreError;

use super::SqlOptions;
use super::dialect::{Access, Arg, Backend, Dialect, Row, Tx};
use super::error::{Fault, SqlError, broken};
use super::schema;
use super::session::{Driver, Pool};
use crate::limits::{
    MAX_BYTES_PER_STATEMENT, MAX_WAITING_PER_CONNECTION, MIGRATE_TIMEOUT, SILENT_SESSION,
    STATEMENTS_PER_CONNECTION,
};

/// A MySQL or MariaDB server.
pub(super) struct MySql {
    pool: Arc<Pool<Connect>>,
    /// The connection that has the owner's lock. It does nothing else, and the lock dies with it.
    owner: Mutex<Option<MySqlConnection>>,
    statement_timeout: Duration,
}

struct Connect {
    options: MySqlConnectOptions,
    /// What every connection is told first.
    setup: String,
    /// The largest statement that the server takes, as it said or as it turned out.
    largest: AtomicUsize,
}

impl MySql {
    pub fn new(options: &SqlOptions) -> Result<Self, StoreError> {
        let connect = MySqlConnectOptions::from_str(&options.url).map_err(broken)?;
        if connect.get_database().is_none_or(str::is_empty) {
            return Err(broken("the url of a MySQL store names its database: mysql://user@host/database"));
        }
        let connect = connect
            .pipes_as_concat(false)
            .no_engine_substitution(false)
            .timezone(None)
            .statement_cache_capacity(STATEMENTS_PER_CONNECTION)
            .disable_statement_logging();
        // Shorter than our own wait: a lock that takes too long is then an answer and the connection stays. Read
        // committed locks no gaps, so that rows which are not there block nobody.
        let lock_wait = (options.statement_timeout / 2).as_secs().max(1);
        let silent = SILENT_SESSION.as_secs();
        let setup = format!(
            "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', \
             SESSION innodb_lock_wait_timeout = {lock_wait}, SESSION autocommit = 1, SESSION wait_timeout = {silent}, \
             SESSION net_read_timeout = {silent}, SESSION net_write_timeout = {silent}"
        );
        let connections = options.connections.max(1);
        let waiting = connections * MAX_WAITING_PER_CONNECTION;
        let connect = Connect { options: connect, setup, largest: AtomicUsize::new(MAX_BYTES_PER_STATEMENT) };
        let pool =
            Pool::new(connect, connections, waiting, options.acquire_timeout, options.statement_timeout);
        Ok(Self { pool, owner: Mutex::default(), statement_timeout: options.statement_timeout })
    }
}

#[async_trait]
impl Backend for MySql {
    async fn begin(&self, access: Access) -> Result<Box<dyn Tx>, SqlError> {
        self.pool.begin(access).await
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let unavailable = |fault: Fault| StoreError::Unavailable(fault.text());
        let mut conn = self.pool.connect().await.map_err(unavailable)?;
        let done = timeout(MIGRATE_TIMEOUT, migrate(&mut conn)).await;
        done.unwrap_or_else(|_| Err(schema::too_long()))?;
        let _ = conn.close().await;
        Ok(())
    }

    async fn hold(&self) -> Result<bool, StoreError> {
        let mut owner = self.owner.lock().await;
        if let Some(conn) = owner.as_mut() {
            let ours = format!("SELECT IS_USED_LOCK({OWNER_LOCK}) = CONNECTION_ID()");
            let held: Option<i64> = self.one_number(conn, &ours).await.ok().flatten();
            if held == Some(1) {
                return Ok(true);
            }
            *owner = None;
        }
        let mut conn = self.pool.connect().await.map_err(|fault| StoreError::Unavailable(fault.text()))?;
        // It locks no rows, and a server that stands still for a while is still the owner.
        let lasting = "SET SESSION wait_timeout = @@GLOBAL.wait_timeout";
        let set = timeout(self.statement_timeout, sqlx::raw_sql(lasting).execute(&mut conn)).await;
        if !matches!(set, Ok(Ok(_))) {
            return Err(StoreError::Unavailable("its owner's connection could not be set up".to_owned()));
        }
        let got = self.one_number(&mut conn, &format!("SELECT GET_LOCK({OWNER_LOCK}, 0)")).await?;
        if got == Some(1) {
            *owner = Some(conn);
        }
        Ok(got == Some(1))
    }

    async fn let_go(&self) {
        if let Some(mut conn) = self.owner.lock().await.take() {
            // Said, so that the next one finds it free: the database may notice the end of a connection later.
            let _ = self.one_number(&mut conn, &format!("SELECT RELEASE_LOCK({OWNER_LOCK})")).await;
            let _ = timeout(self.statement_timeout, conn.close()).await;
        }
    }

    async fn close(&self) {
        self.let_go().await;
        self.pool.close().await;
    }
}

impl MySql {
    async fn one_number(&self, conn: &mut MySqlConnection, sql: &str) -> Result<Option<i64>, StoreError> {
        let asked = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(conn);
        match timeout(self.statement_timeout, asked).await {
            Ok(answer) => answer.map_err(|error| StoreError::Unavailable(error.to_string())),
            Err(_) => Err(StoreError::Unavailable(format!("no answer within {:?}", self.statement_timeout))),
        }
    }
}

/// The name of the lock that the owner of a store holds, as an expression: locks are the server's, not the database's,
/// and their names are short. (`MD5` is gone since MySQL 9.6.)
const OWNER_LOCK: &str = "CONCAT('hotstock-owner/', LEFT(SHA2(DATABASE(), 256), 40))";

/// Likewise of the lock under which tables are made.
const MIGRATE_LOCK: &str = "CONCAT('hotstock/', LEFT(SHA2(DATABASE(), 256), 40))";

/// Under a lock of our own: sqlx waits for its lock without end, which MariaDB refuses and then nobody waits. The
/// lock goes with the connection.
async fn migrate(conn: &mut MySqlConnection) -> Result<(), StoreError> {
    let wait = MIGRATE_TIMEOUT.as_secs().cast_signed();
    let lock = sqlx::query_scalar(AssertSqlSafe(format!("SELECT GET_LOCK({MIGRATE_LOCK}, ?)"))).bind(wait);
    let got: Option<i64> = lock.fetch_one(&mut *conn).await.map_err(schema::failed)?;
    if got != Some(1) {
        return Err(schema::too_long());
    }
    let tables = "SELECT CAST(table_name AS CHAR) FROM information_schema.tables \
                  WHERE table_schema = DATABASE() ORDER BY table_name";
    let tables: Vec<String> =
        sqlx::query_scalar(tables).fetch_all(&mut *conn).await.map_err(schema::failed)?;
    if schema::check(&tables)? {
        // A server that died while it migrated. Every statement of a migration can be repeated.
        let forget = sqlx::query("DELETE FROM _sqlx_migrations WHERE success = FALSE");
        forget.execute(&mut *conn).await.map_err(schema::failed)?;
    }
    let migrator = schema::migrator(include_str!("migrations/mysql/0001_first.sql"));
    migrator.run_direct(None, conn, false).await.map_err(schema::not_migrated)
}

impl Driver for Connect {
    type Conn = MySqlConnection;

    const DIALECT: Dialect = Dialect::MySql;

    fn begin(access: Access) -> &'static [&'static str] {
        match access {
            Access::One => &[],
            // In one round trip.
            Access::Read => &["SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; \
                 START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"],
            Access::Write => &["START TRANSACTION"],
        }
    }

    async fn connect(&self) -> Result<MySqlConnection, sqlx::Error> {
        let mut conn = self.options.connect().await?;
        sqlx::raw_sql(AssertSqlSafe(self.setup.clone())).execute(&mut conn).await?;
        // Not a variable of one name in both.
        sqlx::raw_sql("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").execute(&mut conn).await?;
        let packet: u64 = sqlx::query_scalar("SELECT @@max_allowed_packet").fetch_one(&mut conn).await?;
        self.largest.store(usize::try_from(packet / 2).unwrap_or(usize::MAX), Ordering::Relaxed);
        Ok(conn)
    }

    async fn command(conn: &mut MySqlConnection, sql: &'static str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(sql).execute(conn).await.map(drop)
    }

    async fn rows(conn: &mut MySqlConnection, sql: &str, args: &[Arg]) -> Result<Vec<Row>, sqlx::Error> {
        let query = sqlx::query_with(AssertSqlSafe(sql.to_owned()), arguments(args)?);
        Ok(query.fetch_all(conn).await?.into_iter().map(Row::MySql).collect())
    }

    async fn execute(conn: &mut MySqlConnection, sql: &str, args: &[Arg]) -> Result<u64, sqlx::Error> {
        let query = sqlx::query_with(AssertSqlSafe(sql.to_owned()), arguments(args)?);
        Ok(query.execute(conn).await?.rows_affected())
    }

    fn largest_statement(&self) -> usize {
        self.largest.load(Ordering::Relaxed)
    }

    fn refused_size(&self) {
        let half = self.largest_statement().min(MAX_BYTES_PER_STATEMENT) / 2;
        self.largest.store(half, Ordering::Relaxed);
    }

    fn fault(error: &dyn DatabaseError) -> Fault {
        let text = error.to_string();
        let number = error.try_downcast_ref::<MySqlDatabaseError>().map_or(0, MySqlDatabaseError::number);
        match number {
            // Lock wait timeout, deadlock, and MariaDB's record that changed since it was read.
            // So is a table that was replaced since the transaction began.
            1205 | 1213 | 1020 | 1412 => Fault::Conflict(text),
            _ if error.is_unique_violation() => Fault::Duplicate(text),
            // A packet larger than the server takes: it hangs up.
            1153 => Fault::TooLarge(text),
            // Too many marks; too long or out of range, of the wrong kind, NULL where none may be; a CHECK (MariaDB,
            // MySQL).
            1390 | 1118 | 1406 | 1264 | 1292 | 1366 | 1048 | 4025 | 3819 => Fault::Refused(text),
            // The server shuts down or the connection was killed: what follows on it fails too.
            1053 | 1077 | 1152 | 1158..=1161 | 1317 | 1927 | 4031 => Fault::Lost(text),
            // No connections, memory or disk left; read only; no right; no table, as in the middle of a restore.
            1146 | 1037 | 1038 | 1040 | 1041 | 1021 | 1114 | 1203 | 1226 | 1290 | 1792 | 1836 | 3032 => {
                Fault::Unable(text)
            }
            _ => Fault::Wrong(text),
        }
    }

    async fn close(conn: MySqlConnection) {
        let _ = conn.close().await;
    }
}

/// Text goes as bytes, as the columns have it.
fn arguments(args: &[Arg]) -> Result<MySqlArguments, sqlx::Error> {
    let mut arguments = MySqlArguments::default();
    arguments.reserve(args.len(), args.iter().map(Arg::weight).sum());
    for arg in args {
        let added = match arg {
            Arg::Null => arguments.add(None::<i64>),
            Arg::Int(value) => arguments.add(*value),
            Arg::Text(text) => arguments.add(text.as_bytes()),
            Arg::Bytes(bytes) => arguments.add(bytes.as_slice()),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}
