//! Who may write.

use super::{Subject, TestShard, W1, create, sku, taking};
use crate::base::ids::{Epoch, Lsn, ServerId};
use crate::contract::store::{Prune, Repair, StoreError, Take};

fn is_fenced<T>(result: &Result<T, StoreError>, ours: u64, newest: u64) -> bool {
    let epochs = (Epoch(ours), Epoch(newest));
    matches!(result, Err(StoreError::Fenced { ours, newest, .. }) if (*ours, *newest) == epochs)
}

/// Whoever has an older epoch, or one that was never taken, is refused, and nothing is written.
pub async fn only_the_newest_epoch_writes(subject: &dyn Subject) {
    let store = subject.open();
    let unused = store.ownership().await.expect("it answers");
    assert_eq!((unused.epoch, unused.server, unused.watermarks.len()), (Epoch::ZERO, None, 0));
    store.take(&taking(1, 0)).await.expect("it is new");
    let mut shard = TestShard::new(1);
    shard.must(create("a", W1, 10));
    shard.flush_all(&*store).await;
    let other = subject.open();
    // Who takes it over has compared its journal with watermarks that its owner moves at this very moment.
    let judged = || Some(unused.watermarks.clone());
    let taken = other.take(&Take { over: true, judged: judged(), ..taking(2, 1) }).await;
    assert!(matches!(taken, Err(StoreError::Busy(_))), "{taken:?}");
    store.renew(Epoch(1), 0).await.expect("it is still the owner");
    let judged = Some(other.ownership().await.expect("it answers").watermarks);
    other.take(&Take { over: true, shards: 3, judged, ..taking(2, 1) }).await.expect("it is taken over");
    let now = other.ownership().await.expect("it answers");
    assert_eq!((now.epoch, now.server, now.shards), (Epoch(2), Some(ServerId(2)), 3));
    assert_eq!(now.take, Some(taking(2, 1).id));
    assert_eq!(now.watermarks.len(), 1);
    assert_eq!((now.watermarks[0].lsn, now.watermarks[0].epoch), (Lsn(1), Epoch(1)));
    assert_eq!(now.watermarks[0].hash, super::hash_at(Lsn(1)));

    shard.must(create("b", W1, 10));
    assert!(is_fenced(&store.flush(shard.batch(10)).await, 1, 2));
    assert!(is_fenced(&store.renew(Epoch(1), 0).await, 1, 2));
    assert!(is_fenced(&store.renew(Epoch(1), 60).await, 1, 2));
    let prune = Prune {
        epoch: Epoch(1),
        orders_before: Some(shard.now),
        journal_before: Some(shard.now),
        max: 10,
        ..Prune::default()
    };
    assert!(is_fenced(&store.prune(&prune).await, 1, 2));
    let repair = Repair { epoch: Epoch(1), sku_id: sku("a"), stocks: None, at: shard.now };
    assert!(is_fenced(&store.repair(&repair).await, 1, 2));
    shard.epoch = Epoch(3);
    assert!(is_fenced(&store.flush(shard.batch(10)).await, 3, 2), "one that nobody took");
    assert!(store.stock(&sku("b"), None).await.expect("it reads").rows.is_empty());

    shard.epoch = Epoch(2);
    shard.flush_all(&*other).await;
    let now = other.ownership().await.expect("it answers");
    assert_eq!((now.watermarks[0].lsn, now.watermarks[0].epoch), (Lsn(2), Epoch(2)));
}

/// Compare and set; by the same server again it is no second one.
pub async fn an_epoch_is_taken_once(subject: &dyn Subject) {
    let store = subject.open();
    assert!(is_fenced(&store.take(&taking(1, 4)).await, 5, 0));
    for _ in 0..2 {
        store.take(&taking(1, 0)).await.expect("it is new, or ours");
    }
    let take = Take { epoch: Epoch(7), ..taking(1, 1) };
    store.take(&take).await.expect("epochs may be left out");
    assert!(is_fenced(&store.take(&taking(1, 1)).await, 2, 7));
    assert!(is_fenced(&store.take(&Take { over: true, ..taking(2, 6) }).await, 7, 7), "of another server");
    assert_eq!(store.ownership().await.expect("it answers").epoch, Epoch(7));
}

/// A lock that dies with its holder.
pub async fn a_live_owner_keeps_others_out(subject: &dyn Subject) {
    let (one, other) = (subject.open(), subject.open());
    one.take(&taking(1, 0)).await.expect("it is new");
    assert_eq!(other.take(&taking(2, 1)).await, Err(StoreError::OwnerAlive));
    assert_eq!(other.take(&taking(1, 1)).await, Err(StoreError::OwnerAlive), "also a copy of itself");
    one.renew(Epoch(1), 0).await.expect("it is still the owner");
    one.close().await;
    other.take(&taking(2, 1)).await.expect("it was let go");
    other.renew(Epoch(2), 0).await.expect("it is the owner");
}

/// It runs by the store's clock.
pub async fn a_lease_ends_when_it_is_let_go(subject: &dyn Subject) {
    let store = subject.open();
    store.take(&Take { lease_seconds: 60, ..taking(1, 0) }).await.expect("it is new");
    let first = store.ownership().await.expect("it answers");
    let until = first.lease_until.expect("it has a lease");
    assert!(until > first.now.plus_seconds(50) && until <= first.now.plus_seconds(60), "{first:?}");
    let now = store.renew(Epoch(1), 600).await.expect("it is the owner");
    assert!(now >= first.now);
    let later = store.ownership().await.expect("it answers").lease_until;
    assert!(later > Some(until));
    store.let_go(Epoch(9)).await.expect("that is nobody's");
    assert_eq!(store.ownership().await.expect("it answers").lease_until, later);
    store.let_go(Epoch(1)).await.expect("it answers");
    assert_eq!(store.ownership().await.expect("it answers").lease_until, None);
    let other = subject.open();
    other.take(&taking(2, 1)).await.expect("the lock is gone too");
}
