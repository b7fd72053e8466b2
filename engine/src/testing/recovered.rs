//! A data directory in memory from a store alone, as `hotstock recover --from-store` makes one.

use super::{MemoryCheckpoints, MemoryIdentity, MemoryJournal, MemoryStore};
use crate::base::clock::Timestamp;
use crate::base::ids::ServerId;
use crate::contract::checkpoint::{CheckpointStore as _, FilterManifest};
use crate::front::restore::restore;
use crate::front::seize::{hand_over, seize};

/// Takes the store from whoever has it.
///
/// # Panics
/// When it has no sound beginning.
pub async fn recovered(
    store: &MemoryStore,
    server: u128,
    now: Timestamp,
) -> (MemoryJournal, MemoryCheckpoints, MemoryIdentity) {
    let store = store.session();
    let seized = seize(&store, ServerId(server + 1_000), 0, true).await.expect("it can be taken");
    let restored = restore(&store, seized.epoch, &seized.owned, now).await.expect("it is sound");
    let bases = restored.shards.iter().map(|shard| (shard.mark.shard, shard.mark.lsn, shard.mark.hash));
    let journal = MemoryJournal::behind(&bases.collect::<Vec<_>>());
    let (checkpoints, identity) = (MemoryCheckpoints::default(), MemoryIdentity::new(server));
    for shard in restored.shards {
        let writer = checkpoints.create(shard.mark.shard, shard.mark.lsn);
        let mut writer = writer.expect("it is in memory");
        writer.write(&shard.images).expect("it is in memory");
        writer.finish(shard.end, &FilterManifest::default()).expect("it is in memory");
    }
    hand_over(&store, &seized, &identity).await.expect("it was taken");
    store.die();
    (journal, checkpoints, identity)
}
