//! The SQL store, the system of record: [`Store`] on SQLite and on MySQL/MariaDB.
//!
//! Read in this order:
//!
//! - `migrations/`: the tables, once for each database. [`schema`]: how they get there.
//! - [`dialect`]: arguments, rows, transactions, and the words in which the databases differ. [`sqlite`], [`mysql`]:
//!   the databases. [`session`]: connections with bounded waits. [`error`]: what can go wrong.
//! - [`statements`]: over many rows or keys. [`rows`]: stocks, orders, requests and journal entries as rows and back.
//! - [`owner`]: who may write. [`guards`]: whether the tables are of one moment. [`flush`]: events come in. [`load`]:
//!   what is to be decided on goes out.
//! - [`reads`]: lists and pages. [`prune`]: what is old goes. [`audit`]: counting and repair. [`strays`]: rows that
//!   others tell of and that are not there. [`vouch`]: guards that somebody deleted are made again.
//! - `SqlStore` (here): connects when it is first needed, runs a piece of work in a transaction, again when others
//!   were in the way.
//!
//! No statement says `SELECT DISTINCT`: MariaDB 10.11 answers wrong rows when such a prepared statement is executed
//! again (rows that its condition excludes). `GROUP BY` does the same and is right.
//!
//! A transaction locks in one order: the row of the server, the watermark, order rows, then stock rows by key. So
//! deadlocks are rare; where one comes, the transaction starts again.

mod audit;
mod dialect;
mod error;
mod flush;
mod guards;
mod load;
mod mysql;
mod open;
mod owner;
mod prune;
mod reads;
mod rows;
mod schema;
mod session;
mod sqlite;
mod statements;
mod store;
mod strays;
mod vouch;

use std::fmt;
use std::future::Future;
use std::sync::{Mutex as StdMutex, OnceLock};
use std::time::{Duration, Instant};

use hotstock_engine::clock::Timestamp;
use hotstock_engine::store::StoreError;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::limits::{
    DEFAULT_CONNECTIONS, DEFAULT_SQL_TIMEOUT, FIRST_BACKOFF, MAX_BACKOFF, MAX_TRIES, RECONNECT_PAUSE,
};
use dialect::{Access, Backend, Existing, Table, Tx};
use error::{SqlError, broken};

/// How the store is reached.
#[derive(Clone)]
pub struct SqlOptions {
    /// `sqlite:PATH` or `mysql://user:password@host:port/database`.
    pub url: String,
    /// Connections at the most (SQLite: readers; there is one writer); at least 1.
    pub connections: usize,
    /// How long a caller waits for a connection, and for the database to take a new one.
    pub acquire_timeout: Duration,
    /// How long a caller waits for the answer to one statement; at least a second.
    pub statement_timeout: Duration,
}

impl SqlOptions {
    /// The usual ones for an address.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            connections: DEFAULT_CONNECTIONS,
            acquire_timeout: DEFAULT_SQL_TIMEOUT,
            statement_timeout: DEFAULT_SQL_TIMEOUT,
        }
    }
}

/// Without the address, which may hold a password.
impl fmt::Debug for SqlOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlOptions").field("connections", &self.connections).finish_non_exhaustive()
    }
}

/// Asked once with the id of the store, before anything else is done with it: whether this store is the one that
/// belongs here.
pub type IdentityCheck = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// The SQL store.
pub struct SqlStore {
    backend: Box<dyn Backend>,
    check: Option<IdentityCheck>,
    /// The id of the store, once it was reached and its tables are right.
    store_id: OnceLock<String>,
    first: Mutex<FirstTry>,
    /// How long a caller waits for others who connect or migrate.
    acquire_timeout: Duration,
    /// How long a transaction that others are in the way of is tried again.
    patience: Duration,
    /// Where the pruning of the stock journal goes on.
    prune_from: StdMutex<Option<rows::StockKey>>,
}

/// What became of the last try to reach the store for the first time.
#[derive(Default)]
struct FirstTry {
    failed: Option<(Instant, StoreError)>,
}

impl fmt::Debug for SqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStore").field("store_id", &self.store_id.get()).finish_non_exhaustive()
    }
}

/// Something to be done in one transaction. It may be run several times; only the last run counts.
trait Work: Sync {
    /// What comes of it.
    type Done: Send;

    /// What it needs.
    const ACCESS: Access;

    /// Does it. What it says is answered only after the commit.
    fn run(&self, tx: &mut dyn Tx) -> impl Future<Output = Result<Self::Done, SqlError>> + Send;
}

impl SqlStore {
    /// A store at an address: `sqlite:PATH`, `sqlite::memory:` (for tests: it goes with this value) or
    /// `mysql://user:password@host:port/database`. Nothing is reached yet: a database that is down makes calls fail
    /// until it is there.
    ///
    /// # Errors
    /// [`StoreError::Inconsistent`] when the address can't be one.
    pub fn open(options: &SqlOptions) -> Result<Self, StoreError> {
        let backend: Box<dyn Backend> = match options.url.split_once(':').map(|(scheme, _)| scheme) {
            Some("sqlite") => Box::new(sqlite::Sqlite::new(options)?),
            Some("mysql" | "mariadb") => Box::new(mysql::MySql::new(options)?),
            _ => return Err(broken("the url of a store begins with sqlite: or mysql:")),
        };
        let (store_id, first) = (OnceLock::new(), Mutex::default());
        let (acquire_timeout, patience) = (options.acquire_timeout, options.statement_timeout);
        let prune_from = StdMutex::default();
        Ok(Self { backend, check: None, store_id, first, acquire_timeout, patience, prune_from })
    }

    /// Has the id of the store checked before anything else is done with it.
    #[must_use]
    pub fn checked_by(mut self, check: IdentityCheck) -> Self {
        self.check = Some(check);
        self
    }

    /// Creates or changes the tables, unless they are right, and gives the id of the store. Done before the first use
    /// anyway.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it can't be reached; [`StoreError::Foreign`] when its tables are of another
    /// version or another program, or it is not the store that belongs here.
    pub async fn migrate(&self) -> Result<&str, StoreError> {
        if let Some(store_id) = self.store_id.get() {
            return Ok(store_id);
        }
        let waiting = || StoreError::Unavailable("another caller still tries to reach it".to_owned());
        let mut first = timeout(self.acquire_timeout, self.first.lock()).await.map_err(|_| waiting())?;
        if let Some(store_id) = self.store_id.get() {
            return Ok(store_id);
        }
        if let Some((at, error)) = &first.failed
            && at.elapsed() < RECONNECT_PAUSE
        {
            return Err(error.clone());
        }
        match self.reach().await {
            Ok(store_id) => Ok(self.store_id.get_or_init(|| store_id)),
            Err(error) => {
                first.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Makes guards that somebody deleted again, and tells of which tables; none were missing: of none. Only at the
    /// word of an operator that nothing else of these tables is gone, and only where no other table says otherwise. It
    /// reads all tables.
    ///
    /// # Errors
    /// [`StoreError::Torn`] when a table is of another moment, or contradicts another one: nothing was written.
    pub async fn make_guards(&self, at: Timestamp) -> Result<Vec<&'static str>, StoreError> {
        self.run(&vouch::Vouched { at }).await
    }

    /// The id of the store, made with its tables; `None` when it was not reached yet.
    #[must_use]
    pub fn store_id(&self) -> Option<&str> {
        self.store_id.get().map(String::as_str)
    }

    async fn close_all(&self) {
        self.backend.close().await;
    }

    async fn reach(&self) -> Result<String, StoreError> {
        self.backend.migrate().await?;
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| broken(format!("no random id: {error}")))?;
        let fresh = format!("{:032x}", u128::from_be_bytes(id));
        let store_id = self.in_transaction(&Identify { fresh }).await?;
        if let Some(check) = &self.check {
            check(&store_id).map_err(StoreError::Foreign)?;
        }
        Ok(store_id)
    }

    /// Runs work in a transaction, again when others were in the way, within a bound.
    async fn run<W: Work>(&self, work: &W) -> Result<W::Done, StoreError> {
        self.migrate().await?;
        self.in_transaction(work).await
    }

    async fn in_transaction<W: Work>(&self, work: &W) -> Result<W::Done, StoreError> {
        let (mut tries, since) = (0, Instant::now());
        loop {
            let error = match self.once(work).await {
                Ok(done) => return Ok(done),
                Err(SqlError::Store(error)) => return Err(error),
                // The statements are smaller now, and soon a row that is too large by itself is known as such.
                Err(SqlError::TooLarge(_)) if since.elapsed() < self.patience => continue,
                Err(error @ SqlError::Refused(_)) => return Err(error.used_up()),
                Err(error) => error,
            };
            tries += 1;
            if tries == MAX_TRIES || since.elapsed() >= self.patience {
                return Err(error.used_up());
            }
            sleep(backoff(tries)).await;
        }
    }

    async fn once<W: Work>(&self, work: &W) -> Result<W::Done, SqlError> {
        let mut tx = self.backend.begin(W::ACCESS).await?;
        match work.run(&mut *tx).await {
            Ok(done) => tx.commit().await.map(|()| done),
            Err(error) => {
                tx.rollback().await;
                Err(error)
            }
        }
    }
}

/// The pause after so many tries.
fn backoff(tries: u32) -> Duration {
    let longest = FIRST_BACKOFF.saturating_mul(1 << tries.min(16)).min(MAX_BACKOFF);
    longest.mul_f64(fastrand::f64())
}

/// Gives the store its id, unless it has one.
/// What the store says of itself.
const META: Table = Table { name: "meta", columns: &["name", "value"], keys: 1 };

struct Identify {
    fresh: String,
}

impl Work for Identify {
    type Done = String;

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<String, SqlError> {
        let read = "SELECT value FROM meta WHERE name = ?";
        let known = tx.rows(read, &["store_id".into()]).await?;
        if known.is_empty() {
            let row = vec!["store_id".into(), self.fresh.as_str().into()];
            statements::insert(tx, &META, Existing::Kept, vec![row]).await?;
        }
        let known = tx.rows(read, &["store_id".into()]).await?;
        let row = known.first().ok_or_else(|| broken("it has no id"))?;
        Ok(row.fields().text()?.to_owned())
    }
}
