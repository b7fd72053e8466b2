//! What is old goes, what is wrong is put right.

use super::flushes::{balance, check, sums};
use super::{
    Subject, TestShard, W1, confirm, create, give_back, load, order, release, reserve, restock, set_status,
    sku, taken,
};
use crate::base::ids::Epoch;
use crate::contract::command::StockStatus;
use crate::contract::store::{Prune, Pruned, Repair, Store, StoredSku};

pub(super) async fn prune_all(store: &dyn Store, prune: &Prune<'_>) -> Pruned {
    let mut all = Pruned::default();
    loop {
        let pruned = store.prune(prune).await.expect("it prunes");
        if pruned == Pruned::default() {
            return all;
        }
        assert!(pruned.requests <= prune.max as u64 && pruned.journal <= prune.max as u64);
        all.orders += pruned.orders;
        all.requests += pruned.requests;
        all.journal += pruned.journal;
    }
}

/// Ended orders, requests and journal rows before a time; sums, open orders and the newest journal rows stay.
pub async fn what_is_old_goes_and_sums_stay(subject: &dyn Subject) {
    let store = taken(subject).await;
    let store = &*store;
    let mut shard = TestShard::new(1);
    for name in ["a", "b", "idle"] {
        shard.must(create(name, W1, 1_000));
    }
    for n in 0..40 {
        shard.must(reserve(&format!("o-{n:02}"), &[("a", 2), ("b", 1)]));
        match n % 4 {
            0 => shard.must(confirm(&format!("o-{n:02}"), None)),
            1 => shard.must(release(&format!("o-{n:02}"), None)),
            _ => {}
        }
    }
    shard.must(give_back("o-04", &[("a", 1)], "back"));
    shard.must(restock("a", 5, "r-1"));
    shard.flush_all(store).await;
    shard.now = shard.now.plus_seconds(60);
    let old = shard.now;
    shard.must(restock("a", 5, "r-2"));
    shard.must(reserve("young", &[("a", 1)]));
    shard.must(confirm("young", None));
    // An old order that changed of late.
    shard.must(give_back("o-08", &[("a", 1)], "back"));
    shard.flush_all(store).await;
    let all_lines = sums(store, &sku("a"), W1).await.lines.len();
    assert_eq!(all_lines, 41);

    let prune = Prune { epoch: Epoch(1), orders_before: Some(old), max: 3, ..Prune::default() };
    let pruned = prune_all(store, &prune).await;
    // Nine that were confirmed and ten that were released.
    assert_eq!((pruned.orders, pruned.requests, pruned.journal), (19, 1, 0));
    balance(store).await;
    let after = sums(store, &sku("a"), W1).await;
    assert_eq!((after.lines.len(), after.pruned.sold), (22, 17));
    let loaded = load(store, &[], &[order("o-00"), order("o-02"), order("o-08"), order("young")]).await;
    assert_eq!(loaded.orders.len(), 3, "open ones and young ones stay");

    let prune = Prune { epoch: Epoch(1), journal_before: Some(old), max: 7, ..Prune::default() };
    let pruned = prune_all(store, &prune).await;
    let rows: usize = [sums(store, &sku("a"), W1).await, sums(store, &sku("b"), W1).await]
        .iter()
        .map(|sums| sums.journal.len())
        .sum();
    assert_eq!((pruned.orders, pruned.requests), (0, 0));
    assert!(pruned.journal > 80);
    assert_eq!(rows, 5, "four young ones, and the newest of b");
    assert_eq!(sums(store, &sku("idle"), W1).await.journal.len(), 1);
    balance(store).await;

    // And everything goes on from there.
    shard.must(confirm("o-02", None));
    shard.flush_all(store).await;
    balance(store).await;
    assert!(prune_all(store, &prune).await.journal > 0, "what was the newest is not any more");
    balance(store).await;
}

/// A store that went back in time says of an order what it was: it may have changed since.
pub async fn nothing_goes_from_a_store_that_is_behind(subject: &dyn Subject) {
    let store = taken(subject).await;
    let store = &*store;
    let mut shard = TestShard::new(1);
    shard.must(create("a", W1, 10));
    shard.must(reserve("o-1", &[("a", 2)]));
    shard.must(release("o-1", None));
    shard.flush_all(store).await;
    let last = shard.state.applied();
    let before = shard.now.plus_seconds(60);
    let all = Prune {
        epoch: Epoch(1),
        orders_before: Some(before),
        journal_before: Some(before),
        max: 10,
        ..Prune::default()
    };
    let ahead = Prune { flushed: &[last.next()], ..all };
    assert_eq!(store.prune(&ahead).await.expect("it answers"), Pruned::default());
    let there = Prune { flushed: &[last], ..all };
    assert_eq!(prune_all(store, &there).await.orders, 1);
    balance(store).await;
}

/// As it is in memory, or as its journal says.
pub async fn a_parked_sku_is_repaired(subject: &dyn Subject) {
    let store = taken(subject).await;
    let store = &*store;
    let mut shard = TestShard::new(1);
    for name in ["a", "b"] {
        shard.must(create(name, W1, 100));
    }
    shard.must(set_status("b", StockStatus::Suspended));
    shard.flush_all(store).await;
    for name in ["a", "b"] {
        subject.spoil(&sku(name), 7).await;
        shard.must(restock(name, 3, "r-1"));
    }
    assert_eq!(shard.flush_all(store).await.parked, [sku("a"), sku("b")]);
    let truth =
        |shard: &TestShard, name: &str| shard.state.image_of_stock(&sku(name), W1).expect("it is here");
    let stale = truth(&shard, "a");
    shard.must(restock("a", 3, "r-2"));
    shard.flush_all(store).await;
    let repair = |name: &str, stocks| Repair { epoch: Epoch(1), sku_id: sku(name), stocks, at: shard.now };
    let nothing = store.repair(&repair("a", Some(vec![stale]))).await.expect("it answers");
    assert!(nothing.is_empty(), "the store has gone on");
    assert_eq!(store.parked(10).await.expect("it reads").0, 2);

    let repaired = store.repair(&repair("a", Some(vec![truth(&shard, "a")]))).await.expect("it is repaired");
    assert_eq!(repaired.len(), 1);
    assert_eq!((repaired[0].warehouse_id, repaired[0].after), (W1, truth(&shard, "a").levels));
    assert_eq!(repaired[0].before.map(|levels| levels.available), Some(7));
    let repaired = store.repair(&repair("b", None)).await.expect("it is repaired");
    assert_eq!(repaired[0].after, truth(&shard, "b").levels);
    assert_eq!(store.parked(10).await.expect("it reads").0, 0);
    let (_, anomalies) = store.anomalies(10).await.expect("it reads");
    let kinds: Vec<_> = anomalies.iter().map(|anomaly| anomaly.kind.as_str()).collect();
    assert_eq!(kinds, ["repaired", "repaired", "stock_changed", "stock_changed"]);
    let loaded = load(store, &[sku("a"), sku("b")], &[]).await;
    assert!(loaded.skus.values().all(|stored| matches!(stored, StoredSku::Sound(_))), "{loaded:?}");
    check(store, &shard).await;

    // And everything goes on from there.
    shard.must(reserve("o-1", &[("a", 1)]));
    shard.must(set_status("b", StockStatus::OnSale));
    assert_eq!(shard.flush_all(store).await.anomalies, 0);
    check(store, &shard).await;
}
