//! After a data directory was lost: which servers own SKUs, and how one takes over those of another.

use std::collections::BTreeMap;

use hotstock_engine::clock::Timestamp;
use hotstock_engine::ids::{Lsn, ServerId, ShardId};
use hotstock_engine::store::StoreError;

use super::dialect::{Access, Tx};
use super::error::{SqlError, broken};
use super::{SqlStore, Work};

/// What a server owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Which.
    pub server: ServerId,
    /// Its shards.
    pub shards: u16,
    /// When it last opened the store.
    pub seen_at: Timestamp,
    /// SKUs that it owns.
    pub skus: u64,
    /// Orders that hold units of them.
    pub open_orders: u64,
    /// Orders over several places that have their homes there and are not over.
    pub homes: u64,
    /// How far its shards are flushed, and the logged time there. A shard that never flushed is missing.
    pub watermarks: Vec<(ShardId, Lsn, Timestamp)>,
}

impl Holding {
    fn none(server: ServerId) -> Self {
        let (seen_at, watermarks) = (Timestamp(0), Vec::new());
        Self { server, shards: 1, seen_at, skus: 0, open_orders: 0, homes: 0, watermarks }
    }
}

impl SqlStore {
    /// The servers that own SKUs, or have the homes of orders over several places that are not over.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn holdings(&self) -> Result<Vec<Holding>, StoreError> {
        self.run(&Holdings).await
    }

    /// Makes `to` the owner of all SKUs of `from`, in the same shards, each in a new epoch: whatever `from` still wants to write of
    /// them is fenced. Its orders over several places go along: those that are not over are due to be taken in by their homes at once, and
    /// cold branches ask again. How many stocks that were; a repeat finds none.
    ///
    /// # Errors
    /// [`StoreError`]; after an unknown outcome it can be repeated.
    pub async fn take_over(&self, from: ServerId, to: ServerId) -> Result<u64, StoreError> {
        self.run(&TakeOver { from, to }).await
    }
}

struct Holdings;

impl Work for Holdings {
    type Done = Vec<Holding>;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Vec<Holding>, SqlError> {
        let mut of: BTreeMap<ServerId, Holding> = BTreeMap::new();
        let owners = "SELECT owner_server, COUNT(DISTINCT sku_id), MAX(owner_shard) FROM stock \
                      WHERE owner_server IS NOT NULL GROUP BY owner_server";
        for row in tx.rows(owners, Vec::new()).await? {
            let f = &mut row.fields();
            let server = f.server_or_null()?.ok_or_else(|| broken("an owner without a name"))?;
            let (skus, last_shard) = (f.count()?, f.shard_or_null()?);
            let last_shard = last_shard.ok_or_else(|| broken(format!("server {server}: half an owner")))?;
            // A server that is not in the list of servers has at least the shards that own something.
            let shards = last_shard.0.saturating_add(1);
            of.insert(server, Holding { shards, skus, ..Holding::none(server) });
        }
        let homes = "SELECT home_server, COUNT(*), MAX(home_shard) FROM orders \
                     WHERE kind = 1 AND open = 1 GROUP BY home_server";
        for row in tx.rows(homes, Vec::new()).await? {
            let f = &mut row.fields();
            let server = f.server_or_null()?.ok_or_else(|| broken("a home without a server"))?;
            let (homes, last_shard) = (f.count()?, f.shard_or_null()?);
            let last_shard = last_shard.ok_or_else(|| broken(format!("server {server}: half a home")))?;
            let holding = of.entry(server).or_insert_with(|| Holding::none(server));
            holding.homes = homes;
            holding.shards = holding.shards.max(last_shard.0.saturating_add(1));
        }
        let open = "SELECT COUNT(DISTINCT l.order_no) FROM order_lines l \
                    JOIN stock s ON s.sku_id = l.sku_id AND s.warehouse_id = l.warehouse_id \
                    WHERE s.owner_server = ? AND l.open = 1";
        for holding in of.values_mut() {
            let rows = tx.rows(open, vec![holding.server.into()]).await?;
            holding.open_orders = rows.first().map_or(Ok(0), |row| row.fields().count())?;
        }
        for row in tx.rows("SELECT server_id, shards, seen_at FROM servers", Vec::new()).await? {
            let f = &mut row.fields();
            if let Some(holding) = f.server_or_null()?.and_then(|server| of.get_mut(&server)) {
                holding.shards = holding.shards.max(f.small()?);
                holding.seen_at = f.time()?;
            }
        }
        let watermarks = "SELECT server_id, shard, lsn, time FROM watermarks ORDER BY server_id, shard";
        for row in tx.rows(watermarks, Vec::new()).await? {
            let f = &mut row.fields();
            if let Some(holding) = f.server_or_null()?.and_then(|server| of.get_mut(&server)) {
                let shard = f.shard_or_null()?.ok_or_else(|| broken("a watermark without a shard"))?;
                holding.watermarks.push((shard, f.lsn()?, f.time()?));
            }
        }
        Ok(of.into_values().collect())
    }
}

struct TakeOver {
    from: ServerId,
    to: ServerId,
}

impl Work for TakeOver {
    type Done = u64;

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<u64, SqlError> {
        let sql = "UPDATE stock SET owner_server = ?, epoch = epoch + 1, lsn = 0 WHERE owner_server = ?";
        let stocks = tx.execute(sql, vec![self.to.into(), self.from.into()]).await?;
        // At once, so that what they have to carry goes on.
        let homes = "UPDATE orders SET due_at = changed_at WHERE kind = 1 AND home_server = ? AND open = 1";
        tx.execute(homes, vec![self.from.into()]).await?;
        // What their homes did last may be lost.
        let cold = "UPDATE orders SET due_at = expires_at WHERE kind = 2 AND home_server = ? AND open = 1 AND order_no IN ( \
             SELECT l.order_no FROM order_lines l JOIN stock s ON s.sku_id = l.sku_id AND s.warehouse_id = l.warehouse_id \
             WHERE l.open = 1 AND l.linked = 2 AND s.owner_server IS NULL)";
        tx.execute(cold, vec![self.from.into()]).await?;
        let all = "UPDATE orders SET home_server = ? WHERE home_server = ?";
        tx.execute(all, vec![self.to.into(), self.from.into()]).await?;
        Ok(stocks)
    }
}
