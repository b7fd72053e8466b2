//! Takes in the events of a shard.

use hotstock_engine::ids::{Lsn, ServerId, ShardId};
use hotstock_engine::store::{FlushBatch, Flushed, StoreError};

use super::SqlStore;
use super::error::broken;

pub(super) async fn watermark(_: &SqlStore, _: ServerId, _: ShardId) -> Result<Lsn, StoreError> {
    Err(broken("comes with the next commit"))
}

pub(super) async fn flush(_: &SqlStore, _: FlushBatch<'_>) -> Result<Flushed, StoreError> {
    Err(broken("comes with the next commit"))
}
