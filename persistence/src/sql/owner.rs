//! Who may write: the epoch in the one row of `server`, its lease, and the lock that dies with the process that has it.

use hotstock_engine::clock::Timestamp;
use hotstock_engine::ids::{Epoch, ServerId, TakeId};
use hotstock_engine::store::{Ownership, StoreError, Take};

use super::dialect::{Access, Arg, Fields, Tx};
use super::error::{SqlError, broken, problem_of};
use super::guards::read_watermarks;
use super::{SqlStore, Work};

/// What the row of `server` says.
struct Server {
    id: Option<ServerId>,
    take: Option<TakeId>,
    shards: u16,
    epoch: Epoch,
    lease_until: Option<Timestamp>,
    now: Timestamp,
}

async fn read_server(tx: &mut dyn Tx, lock: &str) -> Result<Server, SqlError> {
    let now = tx.dialect().now();
    let sql =
        format!("SELECT server_id, take, shards, epoch, lease_until, {now} FROM server WHERE id = 1{lock}");
    let rows = tx.rows(&sql, &[]).await?;
    let row = rows.first().ok_or_else(|| broken("the row of its table `server` is missing"))?;
    let read = |f: &mut Fields<'_>| {
        let (id, take, shards, epoch) = (f.server_or_null()?, f.take_or_null()?, f.small()?, f.epoch()?);
        let lease_until = f.count_or_null()?.map(Timestamp);
        Ok(Server { id, take, shards, epoch, lease_until, now: f.time()? })
    };
    read(&mut row.fields()).map_err(|error: StoreError| {
        broken(format!(
            "the row of its table `server` (server_id, take, shards, epoch, lease_until): {}",
            problem_of(error)
        ))
        .into()
    })
}

/// The number of shards of the data directory; 1 when none took the store.
pub(super) async fn shard_count(tx: &mut dyn Tx) -> Result<u16, SqlError> {
    let rows = tx.rows("SELECT shards FROM server WHERE id = 1", &[]).await?;
    Ok(rows.first().map_or(Ok(1), |row| row.fields().small())?)
}

/// Checks that no newer epoch was taken, and keeps it so until the end of the transaction. Any number may do so at
/// once.
pub(super) async fn check_epoch(tx: &mut dyn Tx, ours: Epoch) -> Result<(), SqlError> {
    let lock = tx.dialect().for_share();
    let sql = format!("SELECT epoch, take FROM server WHERE id = 1{lock}");
    let rows = tx.rows(&sql, &[]).await?;
    let f = &mut rows.first().ok_or_else(|| broken("the row of its table `server` is missing"))?.fields();
    let newest = f.epoch()?;
    if newest == ours {
        return Ok(());
    }
    Err(StoreError::Fenced { ours, newest, take: f.take_or_null().unwrap_or_default() }.into())
}

/// See [`Store::ownership`](hotstock_engine::store::Store::ownership).
pub(super) struct Owner;

impl Work for Owner {
    type Done = Ownership;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Ownership, SqlError> {
        let Server { id: server, take, shards, epoch, lease_until, now } = read_server(tx, "").await?;
        let watermarks = read_watermarks(tx).await?;
        Ok(Ownership { epoch, server, take, shards, lease_until, now, watermarks })
    }
}

/// See [`Store::take`](hotstock_engine::store::Store::take).
pub(super) async fn take(store: &SqlStore, take: &Take) -> Result<(), StoreError> {
    store.migrate().await?;
    // Before the epoch is looked at: whoever has the lock and the newest epoch is the only one.
    if !store.backend.hold().await? && !take.over {
        // One that has an old epoch is told that first.
        let Ownership { epoch, take: newest_take, .. } = store.run(&Owner).await?;
        let is_old = epoch != take.after && epoch != take.epoch;
        return Err(if is_old {
            StoreError::Fenced { ours: take.epoch, newest: epoch, take: newest_take }
        } else {
            StoreError::OwnerAlive
        });
    }
    let mut taken = store.run(take).await;
    if matches!(taken, Err(StoreError::OutcomeUnknown(_))) {
        taken = store.run(take).await;
    }
    if matches!(taken, Err(StoreError::Fenced { .. } | StoreError::Busy(_))) {
        store.backend.let_go().await;
    }
    taken
}

impl Work for Take {
    type Done = ();

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<(), SqlError> {
        let lock = tx.dialect().for_update();
        let server = read_server(tx, lock).await?;
        let is_again = server.epoch == self.epoch && server.take == Some(self.id);
        if server.epoch != self.after && !is_again {
            return Err(server.fenced(self.epoch).into());
        }
        if !is_again {
            // Behind the lock of the row: a flush that was quicker is seen, and none comes after it.
            self.is_still_judged(&read_watermarks(tx).await?)?;
        }
        if self.epoch <= self.after {
            return Err(broken(format!("epoch {} is not above {}", self.epoch, self.after)).into());
        }
        let sql = "UPDATE server SET server_id = ?, take = ?, shards = ?, epoch = ?, lease_until = ?, taken_at = ? WHERE id = 1";
        let lease_until = lease_until(server.now, self.lease_seconds);
        let args = [
            self.server.into(),
            self.id.into(),
            self.shards.into(),
            self.epoch.into(),
            lease_until,
            server.now.into(),
        ];
        tx.execute(sql, &args).await?;
        Ok(())
    }
}

fn lease_until(now: Timestamp, lease_seconds: u32) -> Arg {
    (lease_seconds > 0).then(|| now.plus_seconds(u64::from(lease_seconds))).into()
}

/// See [`Store::renew`](hotstock_engine::store::Store::renew).
pub(super) async fn renew(
    store: &SqlStore,
    epoch: Epoch,
    lease_seconds: u32,
) -> Result<Timestamp, StoreError> {
    let now = match lease_seconds {
        0 => store.run(&Heartbeat { epoch }).await?,
        _ => store.run(&Renew { epoch, lease_seconds }).await?,
    };
    // Another may have it who is on his way out, after a take-over: it is asked for again at the next renewal.
    store.backend.hold().await?;
    Ok(now)
}

struct Heartbeat {
    epoch: Epoch,
}

impl Work for Heartbeat {
    type Done = Timestamp;

    const ACCESS: Access = Access::One;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Timestamp, SqlError> {
        let server = read_server(tx, "").await?;
        server.check(self.epoch)?;
        Ok(server.now)
    }
}

struct Renew {
    epoch: Epoch,
    lease_seconds: u32,
}

impl Work for Renew {
    type Done = Timestamp;

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Timestamp, SqlError> {
        let lock = tx.dialect().for_update();
        let server = read_server(tx, lock).await?;
        server.check(self.epoch)?;
        let until = lease_until(server.now, self.lease_seconds);
        tx.execute("UPDATE server SET lease_until = ? WHERE id = 1", &[until]).await?;
        Ok(server.now)
    }
}

impl Server {
    fn check(&self, ours: Epoch) -> Result<(), StoreError> {
        if self.epoch == ours { Ok(()) } else { Err(self.fenced(ours)) }
    }

    fn fenced(&self, ours: Epoch) -> StoreError {
        StoreError::Fenced { ours, newest: self.epoch, take: self.take }
    }
}

/// See [`Store::let_go`](hotstock_engine::store::Store::let_go).
pub(super) async fn let_go(store: &SqlStore, epoch: Epoch) -> Result<(), StoreError> {
    store.run(&EndLease { epoch }).await?;
    store.backend.let_go().await;
    Ok(())
}

struct EndLease {
    epoch: Epoch,
}

impl Work for EndLease {
    type Done = ();

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<(), SqlError> {
        tx.execute("UPDATE server SET lease_until = NULL WHERE id = 1 AND epoch = ?", &[self.epoch.into()])
            .await?;
        Ok(())
    }
}
