//! Connections: a small pool of our own, and transactions on them with bounded waits. sqlx's pool asks a connection
//! whether it lives before and after each use, which costs as much as a statement; here a connection that fails is
//! dropped, and one that was lost while it lay idle is replaced before anything was done on it.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use hotstock_engine::store::StoreError;

use super::dialect::{Access, Arg, Dialect, Row, Tx, in_statement};
use super::error::{Fault, SqlError};

/// One kind of database, as the pool needs it.
pub(super) trait Driver: Send + Sync + 'static {
    type Conn: Send + 'static;

    const DIALECT: Dialect;

    /// What to say at the beginning of a transaction.
    fn begin(access: Access) -> &'static [&'static str];

    fn connect(&self) -> impl Future<Output = Result<Self::Conn, sqlx::Error>> + Send;

    /// A statement without arguments and rows.
    fn command(
        conn: &mut Self::Conn,
        sql: &'static str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    fn rows(
        conn: &mut Self::Conn,
        sql: &str,
        args: &[Arg],
    ) -> impl Future<Output = Result<Vec<Row>, sqlx::Error>> + Send;

    fn execute(
        conn: &mut Self::Conn,
        sql: &str,
        args: &[Arg],
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;

    /// The largest statement that the database takes, in bytes.
    fn largest_statement(&self) -> usize;

    /// The database did not take a statement that was within that.
    fn refused_size(&self) {}

    /// What an error that the database itself answered means.
    fn fault(error: &dyn sqlx::error::DatabaseError) -> Fault;

    fn close(conn: Self::Conn) -> impl Future<Output = ()> + Send;
}

/// Connections of one kind, at most as many as there are permits.
pub(super) struct Pool<D: Driver> {
    driver: D,
    idle: Mutex<Vec<D::Conn>>,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    max_waiting: usize,
    acquire_timeout: Duration,
    statement_timeout: Duration,
}

impl<D: Driver> Pool<D> {
    pub fn new(
        driver: D,
        connections: usize,
        max_waiting: usize,
        acquire_timeout: Duration,
        statement_timeout: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            driver,
            idle: Mutex::new(Vec::new()),
            permits: Arc::new(Semaphore::new(connections)),
            waiting: AtomicUsize::new(0),
            max_waiting,
            acquire_timeout,
            statement_timeout,
        })
    }

    /// A connection with a transaction begun.
    pub async fn begin(self: &Arc<Self>, access: Access) -> Result<Box<dyn Tx>, SqlError> {
        let permit = self.permit().await?;
        let mut lease = Lease { pool: Arc::clone(self), conn: None, fresh: false, access, _permit: permit };
        lease.conn = self.idle().pop();
        if lease.conn.is_some() {
            match lease.commands(D::begin(access)).await {
                Ok(()) => return Ok(Box::new(lease)),
                Err(Fault::Lost(_)) => {}
                Err(fault) => return Err(fault.into()),
            }
        }
        lease.connect().await?;
        lease.commands(D::begin(access)).await?;
        Ok(Box::new(lease))
    }

    /// A connection of one's own, for what is no transaction. It does not come back into the pool.
    pub async fn connect(&self) -> Result<D::Conn, Fault> {
        match timeout(self.acquire_timeout, self.driver.connect()).await {
            Ok(connected) => connected.map_err(|error| match fault_of::<D>(&error) {
                // Whatever it says to a newcomer (too many connections, no such user, no such database): it can't be
                // used.
                Fault::Wrong(text) | Fault::Refused(text) => Fault::Unable(text),
                other => other,
            }),
            Err(_) => Err(Fault::TimedOut(format!("no connection within {:?}", self.acquire_timeout))),
        }
    }

    pub async fn close(&self) {
        self.permits.close();
        let idle = std::mem::take(&mut *self.idle());
        for conn in idle {
            // One that does not answer is dropped, which closes it too.
            let _ = timeout(self.statement_timeout, D::close(conn)).await;
        }
    }

    /// A place, after a bounded wait in a bounded queue.
    async fn permit(&self) -> Result<OwnedSemaphorePermit, SqlError> {
        let closed = |_| SqlError::Store(StoreError::Unavailable("the store is closed".to_owned()));
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let _place = Waiting::new(&self.waiting, self.max_waiting)?;
        match timeout(self.acquire_timeout, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(permit) => permit.map_err(closed),
            Err(_) => Err(busy(format!("no connection was free within {:?}", self.acquire_timeout))),
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<D::Conn>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn busy(problem: String) -> SqlError {
    SqlError::Store(StoreError::Busy(problem))
}

/// A place in the queue for a connection.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a AtomicUsize, max: usize) -> Result<Self, SqlError> {
        // Counted before it is looked at, so that no more than `max` ever pass.
        let place = Self(waiting);
        if waiting.fetch_add(1, Ordering::Relaxed) < max {
            return Ok(place);
        }
        Err(busy("too many wait for a connection".to_owned()))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection in use. Only a transaction that came to its end gives it back; dropped earlier, the connection is
/// closed.
struct Lease<D: Driver> {
    pool: Arc<Pool<D>>,
    conn: Option<D::Conn>,
    /// Made for this transaction.
    fresh: bool,
    access: Access,
    _permit: OwnedSemaphorePermit,
}

impl<D: Driver> Lease<D> {
    /// Another connection in place of one that was lost while it lay idle; the others have lain no better.
    async fn connect(&mut self) -> Result<(), Fault> {
        self.conn = None;
        self.pool.idle().clear();
        self.conn = Some(self.pool.connect().await?);
        self.fresh = true;
        Ok(())
    }

    async fn commands(&mut self, commands: &[&'static str]) -> Result<(), Fault> {
        for sql in commands {
            let (limit, conn) = (self.pool.statement_timeout, self.conn()?);
            let done = timeout(limit, D::command(conn, sql)).await;
            self.checked(sql, done)?;
        }
        Ok(())
    }

    fn conn(&mut self) -> Result<&mut D::Conn, Fault> {
        self.conn.as_mut().ok_or_else(|| Fault::Lost("the connection was lost before".to_owned()))
    }

    /// Drops a connection that can't be used any more.
    fn checked<T>(
        &mut self,
        sql: &str,
        done: Result<Result<T, sqlx::Error>, tokio::time::error::Elapsed>,
    ) -> Result<T, Fault> {
        let fault = match done {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => in_statement(fault_of::<D>(&error), sql),
            Err(_) => Fault::TimedOut(format!("no answer within {:?}", self.pool.statement_timeout)),
        };
        if matches!(fault, Fault::TooLarge(_)) {
            self.pool.driver.refused_size();
        }
        if fault.breaks() {
            self.conn = None;
        }
        Err(fault)
    }

    /// Whether a lost connection may be replaced: nothing was done on it.
    fn may_replace(&self, fault: &Fault) -> bool {
        self.access == Access::One && !self.fresh && matches!(fault, Fault::Lost(_))
    }

    fn give_back(mut self) {
        if let Some(conn) = self.conn.take().filter(|_| !self.pool.permits.is_closed()) {
            self.pool.idle().push(conn);
        }
    }
}

#[async_trait]
impl<D: Driver> Tx for Lease<D> {
    fn dialect(&self) -> Dialect {
        D::DIALECT
    }

    fn largest_statement(&self) -> usize {
        self.pool.driver.largest_statement()
    }

    async fn rows(&mut self, sql: &str, args: &[Arg]) -> Result<Vec<Row>, SqlError> {
        let limit = self.pool.statement_timeout;
        let done = timeout(limit, D::rows(self.conn()?, sql, args)).await;
        match self.checked(sql, done) {
            Err(fault) if self.may_replace(&fault) => {
                self.connect().await?;
                let done = timeout(limit, D::rows(self.conn()?, sql, args)).await;
                Ok(self.checked(sql, done)?)
            }
            done => Ok(done?),
        }
    }

    async fn execute(&mut self, sql: &str, args: &[Arg]) -> Result<u64, SqlError> {
        let limit = self.pool.statement_timeout;
        let done = timeout(limit, D::execute(self.conn()?, sql, args)).await;
        Ok(self.checked(sql, done)?)
    }

    async fn commit(mut self: Box<Self>) -> Result<(), SqlError> {
        match self.access {
            Access::One => {
                self.give_back();
                return Ok(());
            }
            // What was read is known, and nothing rests on the end of it: whoever asked does not wait for one more
            // round trip. The connection keeps its permit until then.
            Access::Read => {
                tokio::spawn(async move {
                    if self.commands(&["COMMIT"]).await.is_ok() {
                        self.give_back();
                    }
                });
                return Ok(());
            }
            Access::Write => {}
        }
        match self.commands(&["COMMIT"]).await {
            Ok(()) => {
                self.give_back();
                Ok(())
            }
            Err(Fault::Conflict(text)) => {
                self.rollback().await;
                Err(SqlError::Retry(text))
            }
            Err(fault) => Err(SqlError::Store(StoreError::OutcomeUnknown(fault.text()))),
        }
    }

    async fn rollback(mut self: Box<Self>) {
        if self.access == Access::One || (self.conn.is_some() && self.commands(&["ROLLBACK"]).await.is_ok()) {
            self.give_back();
        }
    }
}

/// What an error of sqlx means.
fn fault_of<D: Driver>(error: &sqlx::Error) -> Fault {
    match error {
        sqlx::Error::Database(error) => D::fault(&**error),
        sqlx::Error::Decode(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::Encode(_)
        | sqlx::Error::RowNotFound
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::InvalidArgument(_) => Fault::Wrong(error.to_string()),
        // IO, TLS, protocol, a worker that died: whatever the connection is in, it is not used again.
        _ => Fault::Lost(error.to_string()),
    }
}
