//! The stock journal of a SKU, page by page.

use std::collections::BTreeMap;

use hotstock_engine::ids::{Lsn, SkuId, WarehouseId};
use hotstock_engine::store::{StoreError, StoredJournal};

use super::dialect::{Access, Arg, Tx};
use super::error::SqlError;
use super::flush::read_watermark;
use super::rows::{Lock, STOCK_JOURNAL, journal_entry, load_sku};
use super::{SqlStore, Work};
use crate::limits::MAX_WAREHOUSES_PER_STATEMENT;

/// See [`Store::stock_journal`](hotstock_engine::store::Store::stock_journal).
pub(super) async fn stock_journal(
    store: &SqlStore,
    sku_id: &SkuId,
    after: &[(WarehouseId, u64)],
    limit: usize,
) -> Result<StoredJournal, StoreError> {
    store.run(&JournalOf { sku_id, after: after.iter().copied().collect(), limit }).await
}

struct JournalOf<'a> {
    sku_id: &'a SkuId,
    after: BTreeMap<WarehouseId, u64>,
    limit: usize,
}

impl Work for JournalOf<'_> {
    type Done = StoredJournal;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<StoredJournal, SqlError> {
        let stocks = load_sku(tx, self.sku_id, Lock::No).await?;
        let owner = stocks.iter().find_map(|stock| stock.owner);
        let watermark = match owner {
            Some(owner) => read_watermark(tx, owner.server, owner.shard, "").await?.unwrap_or(Lsn::ZERO),
            None => Lsn::ZERO,
        };
        // Each warehouse is a range of the primary key, read from its place on; together they are few statements.
        let columns = STOCK_JOURNAL.columns.join(", ");
        let of_one = |place: usize| {
            format!(
                "SELECT * FROM (SELECT {columns} FROM stock_journal WHERE sku_id = ? AND warehouse_id = ? AND version > ? \
                 ORDER BY version LIMIT ?) w{place}"
            )
        };
        let mut rows = Vec::new();
        for some in stocks.chunks(MAX_WAREHOUSES_PER_STATEMENT) {
            let sql = (0..some.len()).map(of_one).collect::<Vec<_>>().join(" UNION ALL ");
            let args = some.iter().flat_map(|stock| {
                let warehouse_id = stock.image.warehouse_id;
                let after = self.after.get(&warehouse_id).copied().unwrap_or(0);
                [Arg::from(self.sku_id), warehouse_id.into(), after.into(), self.limit.into()]
            });
            for row in tx.rows(&sql, args.collect()).await? {
                rows.push(journal_entry(&row)?);
            }
        }
        // A union promises no order.
        rows.sort_by_key(|row| (row.change.warehouse_id, row.change.after.version));
        Ok(StoredJournal { rows, owner, watermark })
    }
}
