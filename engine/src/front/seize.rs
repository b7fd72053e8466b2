//! Takes the store for a data directory that is to be made from it, and gives it to that.

use std::time::Duration;

use crate::base::ids::{Epoch, ServerId, TakeId};
use crate::contract::checkpoint::Identity;
use crate::contract::store::{Ownership, Store, StoreError, Take};
use crate::services::ownership::{NotOurs, exhausted};

/// A store that was taken to be read. See [`seize`].
#[derive(Debug, Clone, PartialEq)]
pub struct Seized {
    /// The epoch that it was taken with.
    pub epoch: Epoch,
    /// What it says now: how far each shard is flushed, for good.
    pub owned: Ownership,
    /// Who owned it before.
    pub before: Option<ServerId>,
}

/// Takes a store for a data directory that is to be made from it: whoever owned it is fenced, and its lease waited
/// out. What is read from then on does not change any more. `server` is any id that no server has; [`hand_over`]
/// gives the store to the new directory. With `over` also from a server that evidently lives.
///
/// # Errors
/// [`NotOurs`].
pub async fn seize(
    store: &dyn Store,
    server: ServerId,
    lease_seconds: u32,
    over: bool,
) -> Result<Seized, NotOurs> {
    let owned = store.ownership().await.map_err(unavailable)?;
    if owned.epoch == Epoch::ZERO {
        return Err(NotOurs::fenced(
            "the store was never used".into(),
            "Start `hotstock serve` with a new directory",
        ));
    }
    let (shards, after) = (owned.shards, owned.epoch);
    let Some(epoch) = after.next() else { return Err(exhausted(&owned, Epoch::ZERO)) };
    // No directory has it: what is taken from the store for a directory is given to that in a take of its own.
    let id = TakeId(server.0);
    let take = Take { id, server, shards, after, epoch, lease_seconds, over, judged: None };
    store.take(&take).await.map_err(unavailable)?;
    let runs = owned.lease_until.map_or(0, |until| until.0.saturating_sub(owned.now.0));
    tokio::time::sleep(Duration::from_millis(runs)).await;
    let before = owned.server;
    Ok(Seized { epoch, owned: store.ownership().await.map_err(unavailable)?, before })
}

/// Gives a store that was seized to the directory that was made from it.
///
/// # Errors
/// [`NotOurs`].
pub async fn hand_over(store: &dyn Store, seized: &Seized, to: &dyn Identity) -> Result<Epoch, NotOurs> {
    let (server, shards, after) = (to.server(), seized.owned.shards, seized.epoch);
    let Some(epoch) = after.next() else { return Err(exhausted(&seized.owned, Epoch::ZERO)) };
    let id = to.intend(seized.owned.take).map_err(NotOurs::Unavailable)?;
    let take = Take { id, server, shards, after, epoch, lease_seconds: 0, over: true, judged: None };
    store.take(&take).await.map_err(unavailable)?;
    to.record(epoch).map_err(NotOurs::Unavailable)?;
    Ok(epoch)
}

fn unavailable(error: StoreError) -> NotOurs {
    match error {
        StoreError::OwnerAlive => NotOurs::OwnerAlive,
        error => NotOurs::Unavailable(error.to_string()),
    }
}
