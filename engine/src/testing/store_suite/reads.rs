//! What is read and loaded.

use std::collections::{BTreeMap, BTreeSet};

use super::flushes::one_of_everything;
use super::{
    Shards, Subject, TestShard, W1, W2, confirm, create, give_back, load, order, release, reserve, restock,
    sku, taken, taken_by,
};
use crate::base::clock::Timestamp;
use crate::base::ids::{Epoch, Lsn, OrderNo, RequestId, SkuId};
use crate::contract::order::OrderStatus;
use crate::contract::store::{OrderFilter, Prune, Store, StoreError, StoredOrder, StoredSku, Wanted};

/// SKUs with all their warehouses, orders with the SKUs of their lines, requests; what is not there is left out.
pub async fn what_is_wanted_is_loaded(subject: &dyn Subject) {
    let store = taken(subject).await;
    let mut shard = TestShard::new(1);
    one_of_everything(&mut shard);
    shard.flush_all(&*store).await;
    let request = |id: &str| RequestId::new(id).expect("a short id");
    let wanted = Wanted {
        skus: vec![sku("n"), sku("none")],
        orders: vec![order("o-1"), order("o-9"), order("none")],
        requests: vec![(sku("a"), request("r-1")), (sku("a"), request("none"))],
    };
    let loaded = store.load(&wanted).await.expect("it loads");
    assert_eq!(loaded.watermarks.iter().map(|mark| mark.lsn).collect::<Vec<_>>(), [shard.flushed]);
    let skus: Vec<_> = loaded.skus.keys().map(SkuId::as_str).collect();
    assert_eq!(skus, ["a", "b", "n"], "a and b are of order o-1");
    let StoredSku::Sound(stocks) = &loaded.skus[&sku("a")] else { panic!("it is sound") };
    assert_eq!(stocks.iter().map(|image| image.warehouse_id.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(stocks.iter().all(|image| image.hot), "a warehouse that was added later too");
    let numbers: Vec<_> = loaded.orders.iter().map(|order| order.image.order_no.as_str()).collect();
    assert_eq!(numbers, ["o-1", "o-9"]);
    assert_eq!(loaded.requests.len(), 1);
    let empty = store.load(&Wanted::default()).await.expect("it loads");
    assert_eq!((empty.skus.len(), empty.orders.len(), empty.watermarks.len()), (0, 0, 1));

    // Many at once.
    for n in 0..200 {
        shard.must(create(&format!("many-{n}"), W1, n));
    }
    shard.flush_all(&*store).await;
    let skus: Vec<_> = (0..200).map(|n| sku(&format!("many-{n}"))).collect();
    assert_eq!(store.load(&Wanted { skus, ..Wanted::default() }).await.expect("it loads").skus.len(), 200);
}

/// A row that is not what its journal says is not decided on; the others are.
pub async fn what_is_unsound_is_named(subject: &dyn Subject) {
    let store = taken(subject).await;
    let mut shard = TestShard::new(1);
    shard.must(create("a", W1, 100));
    shard.must(create("b", W1, 100));
    shard.must(create("b", W2, 100));
    shard.flush_all(&*store).await;
    subject.spoil(&sku("b"), 99).await;
    let loaded = load(&*store, &[sku("a"), sku("b")], &[]).await;
    assert!(matches!(loaded.skus[&sku("a")], StoredSku::Sound(_)));
    assert!(matches!(loaded.skus[&sku("b")], StoredSku::Unsound(_)), "it was changed");
    subject.spoil(&sku("b"), 100).await;
    let loaded = load(&*store, &[sku("b")], &[]).await;
    assert!(matches!(loaded.skus[&sku("b")], StoredSku::Sound(_)), "it was put right");
}

/// SKUs by name, warehouses by number.
pub async fn stocks_are_read_page_by_page(subject: &dyn Subject) {
    let store = taken(subject).await;
    let mut shard = TestShard::new(1);
    for name in ["b", "a", "Ä", "a b", "B"] {
        shard.must(create(name, W2, 2));
        shard.must(create(name, W1, 1));
    }
    shard.flush_all(&*store).await;
    let one = store.stock(&sku("a"), Some(W2)).await.expect("it reads");
    assert_eq!((one.rows.len(), one.rows[0].levels.available, one.flushed(shard.shard)), (1, 2, Lsn(10)));
    assert!(store.stock(&sku("A"), None).await.expect("it reads").rows.is_empty(), "bytes are compared");
    let (mut after, mut names) = (None, Vec::new());
    loop {
        let page = store.stock_page(after.as_ref(), 2).await.expect("it reads").rows;
        let Some(last) = page.last() else { break };
        after = Some(last[0].sku_id.clone());
        for stocks in page {
            assert_eq!(stocks.iter().map(|stock| stock.warehouse_id).collect::<Vec<_>>(), [W1, W2]);
            names.push(stocks[0].sku_id.as_str().to_owned());
        }
    }
    assert_eq!(names, ["B", "a", "a b", "b", "Ä"]);
}

/// Orders in one shard and over two, of which the second has `b`.
async fn some_orders(store: &dyn Store) -> (Shards, [String; 2]) {
    let mut shards = Shards::new(2);
    let names = shards.names("sku", 1).concat();
    let [a, b] = [names[0].as_str(), names[1].as_str()];
    shards.all[0].must(create(a, W1, 1_000));
    shards.all[1].must(create(b, W1, 1_000));
    for n in 0..20 {
        let shard = &mut shards.all[n % 2];
        shard.must(reserve(&format!("o-{n:02}"), &[([a, b][n % 2], 1)]));
        if n % 5 == 0 {
            shard.must(confirm(&format!("o-{n:02}"), None));
        }
    }
    for n in 0..4_u64 {
        let number = format!("s-{n}");
        shards.reserve(store, 0, &number, &[(a, 2), (b, 1)]).await.expect("there is plenty");
        if n > 1 {
            shards.act(store, 0, confirm(&number, None)).await.expect("it is held");
        }
        if n > 2 {
            shards.tell(0, &number, 1);
        }
    }
    shards.all[0].must(release("t", None));
    shards.flush_all(store).await;
    (shards, names.try_into().expect("two"))
}

/// By number, by state, by SKU.
pub async fn orders_are_listed_page_by_page(subject: &dyn Subject) {
    let store = taken_by(subject, 2).await;
    let (shards, [a, b]) = some_orders(&*store).await;
    let mut filters = vec![OrderFilter::default()];
    for status in [vec![OrderStatus::Reserved], vec![OrderStatus::Confirmed, OrderStatus::Cancelled]] {
        filters.push(OrderFilter { status: status.clone(), sku_id: None });
        filters.push(OrderFilter { status, sku_id: Some(sku(&b)) });
    }
    filters.push(OrderFilter { status: Vec::new(), sku_id: Some(sku(&a)) });
    let orders = shards.all.iter().flat_map(|shard| shard.made.orders.values());
    let mut all: Vec<_> = orders.map(|image| image.view()).collect();
    all.sort_by(|one, other| one.order_no.cmp(&other.order_no));
    for filter in filters {
        let expected: Vec<_> = all.iter().filter(|view| filter.takes(view)).cloned().collect();
        assert!(!expected.is_empty(), "{filter:?}");
        for limit in [1, 3, 100] {
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let page = store.list(&filter, after.as_ref(), limit).await.expect("it reads").rows;
                assert!(page.len() <= limit);
                let Some(last) = page.last() else { break };
                after = Some(last.order_no.clone());
                listed.extend(page);
            }
            assert_eq!(listed, expected, "{filter:?}");
        }
    }
}

/// All that a filter of known numbers is made from.
pub async fn numbers_are_told_page_by_page(subject: &dyn Subject) {
    let store = taken_by(subject, 2).await;
    let (mut shards, names) = some_orders(&*store).await;
    for n in 0..10 {
        shards.all[n % 2].must(restock(&names[n % 2], 1, &format!("r-{n}")));
    }
    shards.flush_all(&*store).await;
    let made = || shards.all.iter().map(|shard| &shard.made);
    let changed: BTreeMap<OrderNo, Timestamp> = made()
        .flat_map(|made| made.orders.iter().map(|(order_no, image)| (order_no.clone(), image.changed_at)))
        .collect();
    let (mut numbers, mut after) = (BTreeSet::new(), None);
    loop {
        let page = store.order_numbers(after.as_ref(), 7).await.expect("it reads");
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        for (order_no, at) in page {
            assert_eq!(Some(&at), changed.get(&order_no), "{order_no}");
            assert!(numbers.insert(order_no));
        }
    }
    assert_eq!(numbers, changed.keys().cloned().collect());
    let (mut ids, mut after) = (Vec::new(), None);
    loop {
        let page = store.request_ids(after.as_ref(), 3).await.expect("it reads");
        let Some((sku_id, request_id, _)) = page.last() else { break };
        after = Some((sku_id.clone(), request_id.clone()));
        ids.extend(page.into_iter().map(|(sku_id, request_id, at)| ((sku_id, request_id), at)));
    }
    let requests = made().flat_map(|made| &made.requests);
    let mut expected: Vec<_> = requests.map(|(key, request)| (key.clone(), request.at)).collect();
    expected.sort();
    assert_eq!(ids, expected);
}

/// A request whose own row somebody deleted is not one that never was, for a load and for a filter that is made anew;
/// one that was pruned is.
pub async fn requests_that_were_deleted_are_told_page_by_page(subject: &dyn Subject) {
    let store = taken_by(subject, 2).await;
    let (mut shards, names) = some_orders(&*store).await;
    // An order's request is none of the SKU.
    let [a, b] = names.each_ref().map(String::as_str);
    shards.all[0].must(give_back("o-00", &[(a, 1)], "r-7"));
    for n in 0..10 {
        if n == 4 {
            shards.all.iter_mut().for_each(|shard| shard.now = shard.now.plus_seconds(60));
        }
        shards.all[n % 2].must(restock(&names[n % 2], 1, &format!("r-{n}")));
    }
    shards.all[1].must(create(b, W2, 5));
    shards.flush_all(&*store).await;
    let key = |name: &str, id: &str| (sku(name), RequestId::new(id).expect("it is an id"));
    let deleted = [key(a, "r-0"), key(a, "r-8"), key(b, "r-5")];
    for (sku_id, request_id) in &deleted {
        subject.delete_request(sku_id, request_id).await;
    }
    let at = |key: &(SkuId, RequestId)| {
        shards.all.iter().find_map(|shard| shard.made.requests.get(key)).map(|r| r.at)
    };
    let told = async |keys: &[(SkuId, RequestId)]| {
        let expected: BTreeSet<_> =
            keys.iter().map(|key| (key.0.clone(), key.1.clone(), at(key).expect("it was made"))).collect();
        for stocks in 1..5 {
            let (mut ids, mut after) = (BTreeSet::new(), None);
            loop {
                let page = store.requests_without_row(after.as_ref(), stocks).await.expect("it reads");
                assert!(page.last.is_some() || page.ids.is_empty());
                ids.extend(page.ids);
                let Some(last) = page.last else { break };
                assert!(after.is_none_or(|after| after < last));
                after = Some(last);
            }
            assert_eq!(ids, expected, "{stocks} stocks at once");
        }
        let requests = [&deleted[..], &[key(a, "r-7"), key(b, "new"), key("none", "r-0")]].concat();
        let loaded = store.load(&Wanted { requests, ..Wanted::default() }).await.expect("it loads");
        let unreadable = loaded.unreadable_requests.iter();
        let unreadable: BTreeSet<_> =
            unreadable.map(|(sku_id, id, _)| (sku_id.clone(), id.clone())).collect();
        assert_eq!(unreadable, keys.iter().cloned().collect());
        assert_eq!(loaded.requests, []);
    };
    told(&deleted).await;
    let before = at(&deleted[1]).min(at(&deleted[2])).expect("they were made");
    let prune = Prune { epoch: Epoch(1), orders_before: Some(before), max: 100, ..Prune::default() };
    assert!(store.prune(&prune).await.expect("it prunes").requests > 0);
    told(&deleted[1..]).await;
}

/// What holds units or has something pending, and what is kept in memory.
pub async fn a_new_directory_finds_what_is_open_and_hot(subject: &dyn Subject) {
    let store = taken_by(subject, 2).await;
    let (mut shards, [_, b]) = some_orders(&*store).await;
    shards.all[1].pin(&[&b], true);
    shards.all[1].must(create(&b, W2, 1));
    shards.flush_all(&*store).await;
    assert_eq!(store.hot_skus(None, 10).await.expect("it reads"), [sku(&b)]);
    assert!(store.hot_skus(Some(&sku(&b)), 10).await.expect("it reads").is_empty());
    let orders =
        shards.all.iter().flat_map(|shard| shard.made.orders.values().map(move |image| (shard.shard, image)));
    let mut expected: BTreeMap<OrderNo, StoredOrder> = orders
        .filter(|(_, image)| !image.is_done())
        .map(|(shard, image)| (image.order_no.clone(), StoredOrder { shard, image: image.clone() }))
        .collect();
    assert!(expected.contains_key(&order("s-2")), "it is confirmed, and the other shard does not know");
    assert!(!expected.contains_key(&order("s-3")), "it knows");
    let mut after = None;
    loop {
        let (page, last) = store.open_orders(after.as_ref(), 4).await.expect("it reads");
        assert!(page.len() <= 4);
        for stored in page {
            let order_no = stored.image.order_no.clone();
            assert_eq!(Some(stored), expected.remove(&order_no), "{order_no}");
        }
        after = last;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(expected, BTreeMap::new());
    let (mut reserved, mut after) = (Vec::new(), None);
    loop {
        let (page, last) = store.reserved_skus(after.as_ref(), 1).await.expect("it reads");
        reserved.extend(page);
        after = last;
        if after.is_none() {
            break;
        }
    }
    let books = store.books(None, 1_000).await.expect("it reads").rows.stocks;
    let books = books.into_iter().filter(|stock| stock.row.levels.reserved > 0);
    let expected: BTreeSet<_> = books.map(|stock| stock.row.sku_id).collect();
    assert!(!expected.is_empty());
    assert_eq!(reserved, Vec::from_iter(expected));
}

/// From any version of each warehouse.
pub async fn the_journal_comes_in_pages(subject: &dyn Subject) {
    let store = taken(subject).await;
    let mut shard = TestShard::new(1);
    for warehouse_id in [W1, W2] {
        shard.must(create("a", warehouse_id, 100));
    }
    for n in 0..10 {
        shard.must(reserve(&format!("o-{n}"), &[("a", 1)]));
    }
    shard.flush_all(&*store).await;
    let page = store.stock_journal(&sku("a"), &[(W1, 4), (W2, 1)], 3).await.expect("it reads");
    let versions: Vec<_> =
        page.rows.iter().map(|row| (row.change.warehouse_id, row.change.after.version)).collect();
    assert_eq!(versions, [(W1, 5), (W1, 6), (W1, 7)]);
    assert_eq!(page.flushed(shard.shard), Lsn(12));
    let page = store.stock_journal(&sku("a"), &[], 2).await.expect("it reads");
    let versions: Vec<_> =
        page.rows.iter().map(|row| (row.change.warehouse_id, row.change.after.version)).collect();
    assert_eq!(versions, [(W1, 1), (W1, 2), (W2, 1)]);
    assert!(store.stock_journal(&sku("none"), &[], 2).await.expect("it reads").rows.is_empty());
}

/// Every later call.
pub async fn a_closed_store_says_so(subject: &dyn Subject) {
    let store = taken(subject).await;
    store.ping().await.expect("it answers");
    store.close().await;
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.ownership().await, Err(StoreError::Unavailable(_))));
}
