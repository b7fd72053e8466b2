//! Owners of SKUs, and what goes with a SKU.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::{
    HOUR, NOW, Subject, W1, confirm, create, done, levels, order_no, release, request_id, reserve, restock,
    sku,
};
use crate::checkpoint::StockImage;
use crate::clock::Timestamp;
use crate::command::{Action, Command, Line, Lines, Mode, Reserve, SetStatus, StockStatus};
use crate::ids::{Lsn, OrderNo, ServerId, ShardId, SkuId, WarehouseId};
use crate::store::{ColdOutcome, Moving, Owner, Store, Taken};

const SERVER: ServerId = ServerId(7);
const OTHER: ServerId = ServerId(u128::MAX);
const SHARD: ShardId = ShardId(0);

async fn take(store: &dyn Store, names: &[&str], server: ServerId, shard: ShardId) -> Vec<Taken> {
    let skus: Vec<SkuId> = names.iter().map(|name| sku(name)).collect();
    store.take(&skus, server, shard).await.expect("the store is there")
}

/// Takes SKUs that nothing holds back.
async fn taken(store: &dyn Store, names: &[&str]) -> Vec<StockImage> {
    let mut all = Vec::new();
    for taken in take(store, names, SERVER, SHARD).await {
        let Taken::Owned { stocks, .. } = taken else { panic!("{taken:?}") };
        all.extend(stocks);
    }
    all
}

/// Who decides a command, where it is not SQL.
async fn elsewhere(store: &dyn Store, command: &Command) -> Owner {
    match store.submit(command, NOW).await.expect("the store is there") {
        ColdOutcome::Elsewhere(owner) => owner,
        done @ (ColdOutcome::Done { .. } | ColdOutcome::Home(_)) => panic!("{command:?}: {done:?}"),
    }
}

/// Every command on a SKU or order of a shard goes there and does nothing here.
pub async fn what_has_an_owner_is_decided_elsewhere(subject: &dyn Subject) {
    let store = subject.open();
    done(&*store, &create("a", W1, 10), NOW).await;
    done(&*store, &create("a", WarehouseId(2), 10), NOW).await;
    done(&*store, &create("b", W1, 10), NOW).await;
    done(&*store, &reserve("o", &["a"], HOUR), NOW).await;
    let stocks = taken(&*store, &["a"]).await;
    let seen: Vec<_> = stocks.iter().map(|s| (s.warehouse_id, s.levels.reserved, s.epoch, s.lsn)).collect();
    assert_eq!(seen, [(W1, 1, 1, Lsn::ZERO), (WarehouseId(2), 0, 1, Lsn::ZERO)]);
    assert_eq!((stocks[0].initial, stocks[0].supplied, stocks[0].forgotten_sold), (10, 10, 0));

    let owner = Owner { server: SERVER, shard: SHARD, epoch: 1 };
    let status =
        Action::SetStatus(SetStatus { sku_id: sku("a"), warehouse_id: None, status: StockStatus::Suspended });
    let commands = [
        create("a", W1, 10),
        create("a", WarehouseId(3), 10),
        restock("a", 1, "r"),
        status.into(),
        reserve("new", &["a"], HOUR),
        reserve("o", &["a"], HOUR),
        reserve("o", &["b"], HOUR),
        confirm("o"),
        release("o"),
        Action::GetOrder(order_no("o")).into(),
    ];
    for command in &commands {
        assert_eq!(elsewhere(&*store, command).await, owner, "{command:?}");
    }
    let rows = store.stock(&sku("a"), None).await.expect("the store is there");
    assert_eq!(
        rows.iter().map(|row| (row.view.levels.version, row.owner)).collect::<Vec<_>>(),
        [(2, Some(owner)), (1, Some(owner))]
    );
    let stored = store.order(&order_no("o")).await.expect("the store is there").expect("the order is there");
    assert_eq!(stored.owners, [Some(owner)]);
    // A warehouse that it does not have.
    let mut line = reserve("new", &["a"], HOUR);
    if let Action::Reserve(reserve) = &mut line.action {
        let other = Line { sku_id: sku("a"), warehouse_id: WarehouseId(9), quantity: 1 };
        reserve.lines = Lines::new([other]).expect("a small line");
    }
    assert_eq!(elsewhere(&*store, &line).await, owner);

    // Taken again: the same. By another: refused. What is not there: unknown.
    assert_eq!(taken(&*store, &["a"]).await, stocks);
    assert_eq!(take(&*store, &["a"], OTHER, SHARD).await, [Taken::OwnedBy(owner)]);
    assert_eq!(
        take(&*store, &["x", "a", "b"], SERVER, ShardId(1)).await[..2],
        [Taken::Unknown, Taken::OwnedBy(owner)]
    );
    let rows = store.stock(&sku("b"), None).await.expect("the store is there");
    assert_eq!(rows[0].owner, Some(Owner { shard: ShardId(1), ..owner }));
}

/// Warehouses are added while the SKU is taken: afterwards all have one owner, or were refused.
pub async fn a_warehouse_that_is_added_meanwhile_goes_along(subject: &dyn Subject) {
    let stores = [subject.open(), subject.open()];
    for round in 0..5 {
        let name = format!("sku {round}");
        done(&*stores[0], &create(&name, WarehouseId(50), 1), NOW).await;
        let mut tasks = JoinSet::new();
        for warehouse in [10, 20, 30, 40, 60, 70, 80, 90] {
            let (store, command) = (Arc::clone(&stores[1]), create(&name, WarehouseId(warehouse), 1));
            tasks.spawn(async move {
                let got = store.submit(&command, NOW).await.expect("the store is there");
                usize::from(matches!(got, ColdOutcome::Done { outcome: Ok(_), .. }))
            });
        }
        let along = taken(&*stores[0], &[&name]).await.len();
        let made: usize = tasks.join_all().await.into_iter().sum();
        assert_eq!(along, made + 1, "what was made went along, and what did not was refused");
        let rows = stores[0].stock(&sku(&name), None).await.expect("the store is there");
        assert_eq!(rows.len(), along);
        assert!(rows.iter().all(|row| row.owner.is_some_and(|owner| owner.epoch == 1)));
    }
}

/// Orders go on while a SKU is taken: what the taker is given is what stays.
pub async fn after_a_sku_is_taken_nothing_changes_it(subject: &dyn Subject) {
    let stores = [subject.open(), subject.open()];
    done(&*stores[0], &create("a", W1, 1_000), NOW).await;
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let store = Arc::clone(&stores[1]);
        tasks.spawn(async move {
            let mut held = 0;
            for order in 0..1_000 {
                let command = reserve(&format!("{task} {order}"), &["a"], HOUR);
                match store.submit(&command, NOW).await.expect("the store is there") {
                    ColdOutcome::Done { outcome: Ok(_), .. } => held += 1,
                    ColdOutcome::Elsewhere(_) => return held,
                    other @ (ColdOutcome::Done { .. } | ColdOutcome::Home(_)) => panic!("{other:?}"),
                }
            }
            held
        });
    }
    // In the middle of it.
    while levels(&*stores[0], "a").await.reserved < 20 {
        tokio::task::yield_now().await;
    }
    let stocks = taken(&*stores[0], &["a"]).await;
    let held: u64 = tasks.join_all().await.into_iter().sum();
    assert_eq!(stocks[0].levels.reserved, held);
    assert_eq!(levels(&*stores[0], "a").await, stocks[0].levels);
    let orders = all_orders(&*stores[0], "a", NOW, 100).await;
    assert_eq!(orders.len() as u64, held);
}

async fn all_orders(store: &dyn Store, name: &str, since: Timestamp, max: usize) -> Vec<OrderNo> {
    let moving = Moving { sku_id: sku(name), server: SERVER, shard: SHARD, since };
    let mut all: Vec<OrderNo> = Vec::new();
    loop {
        let page = store.orders_of(&moving, all.last(), max).await.expect("the store is there");
        assert!(page.len() <= max);
        assert!(page.iter().all(|order| order.lsn == Lsn::ZERO && !order.lines.is_empty()));
        let full = page.len() == max;
        all.extend(page.into_iter().map(|order| order.order_no));
        if !full {
            return all;
        }
    }
}

/// Open orders, those that ended lately and lie whole in the shard, and requests; each once, whatever the size of the page.
pub async fn orders_and_requests_go_along_page_by_page(subject: &dyn Subject) {
    let store = subject.open();
    for name in ["a", "b", "cold"] {
        done(&*store, &create(name, W1, 1_000), NOW).await;
        done(&*store, &create(name, WarehouseId(2), 1_000), NOW).await;
    }
    let later = NOW.plus_seconds(100);
    let mut expected = Vec::new();
    for n in 0..40 {
        let order = format!("{n}");
        let lines: &[&str] = match n % 4 {
            0 => &["a", "b"],
            1 => &["a", "cold"],
            _ => &["a"],
        };
        let at = if n < 20 { NOW } else { later };
        done(&*store, &reserve(&order, lines, HOUR), at).await;
        if n % 7 == 0 {
            // A second line of the same SKU: still one order.
            let lines = [W1, WarehouseId(2)].map(|w| Line { sku_id: sku("a"), warehouse_id: w, quantity: 1 });
            let (ttl_seconds, mode) = (HOUR, Mode::AllOrNothing);
            let (number, lines) = (order_no(&format!("{n}+")), Lines::new(lines).expect("two small lines"));
            let twice =
                Reserve { order_no: number.clone(), lines, ttl_seconds, buyer_id: None, mode, choice: None };
            done(&*store, &Action::Reserve(twice).into(), at).await;
            if n % 2 == 0 {
                done(&*store, &confirm(number.as_str()), at).await;
            }
            if n % 2 > 0 || n >= 20 {
                expected.push(number);
            }
        }
        // Open ones must not hold "cold".
        let open = n % 3 == 0 && n % 4 != 1;
        if !open {
            done(&*store, &if n % 2 == 0 { confirm(&order) } else { release(&order) }, at).await;
        }
        if open || (n % 4 != 1 && n >= 20) {
            expected.push(order_no(&order));
        }
        done(&*store, &restock("a", 1, &format!("r{n}")), at).await;
    }
    taken(&*store, &["a", "b"]).await;
    expected.sort();
    for max in [1, 3, 7, 1_000] {
        let mut got = all_orders(&*store, "a", later, max).await;
        got.sort();
        assert_eq!(got, expected, "in pages of {max}");
        let moving = Moving { sku_id: sku("a"), server: SERVER, shard: SHARD, since: later };
        let mut requests: Vec<crate::checkpoint::RequestImage> = Vec::new();
        loop {
            let after = requests.last().map(|request| &request.request_id);
            let page = store.requests_of(&moving, after, max).await.expect("the store is there");
            let full = page.len() == max;
            requests.extend(page);
            if !full {
                break;
            }
        }
        let mut ids: Vec<_> = requests.iter().map(|request| request.request_id.clone()).collect();
        ids.sort();
        let mut wanted: Vec<_> = (20..40).map(|n| request_id(&format!("r{n}"))).collect();
        wanted.sort();
        assert_eq!(ids, wanted, "in pages of {max}");
        assert!(requests.iter().all(|request| request.at == later && request.after.version > 1));
    }
}

/// Orders that a shard has are not expired by SQL, and do not keep others from it.
pub async fn the_sweeper_leaves_orders_of_shards_alone(subject: &dyn Subject) {
    let store = subject.open();
    for name in ["a", "b"] {
        done(&*store, &create(name, W1, 10), NOW).await;
    }
    for n in 0..5 {
        done(&*store, &reserve(&format!("a{n}"), &["a"], 1), NOW).await;
    }
    done(&*store, &reserve("b", &["b"], 2), NOW).await;
    taken(&*store, &["a"]).await;
    let now = NOW.plus_seconds(3);
    let mut expired = 0;
    loop {
        let swept = store.expire(now, 2, false).await.expect("the store is there");
        expired += swept.expired;
        assert!(swept.changed.iter().all(|stock| stock.sku_id == sku("b")));
        if swept.seen < 2 {
            break;
        }
    }
    assert_eq!(expired, 1);
    assert_eq!([levels(&*store, "a").await.reserved, levels(&*store, "b").await.reserved], [5, 0]);
}

/// The SKUs of a server, page by page, with their shard.
pub async fn servers_are_told_what_they_own(subject: &dyn Subject) {
    let store = subject.open();
    let mut expected = Vec::new();
    for n in 0..25_u16 {
        let name = format!("{n:02}");
        done(&*store, &create(&name, W1, 1), NOW).await;
        done(&*store, &create(&name, WarehouseId(2), 1), NOW).await;
        let shard = ShardId(n % 3);
        let server = if n % 5 == 0 { OTHER } else { SERVER };
        if n % 4 > 0 {
            assert!(matches!(take(&*store, &[&name], server, shard).await[..], [Taken::Owned { .. }]));
        }
        if n % 4 > 0 && n % 5 > 0 {
            expected.push((sku(&name), Owner { server, shard, epoch: 1 }));
        }
    }
    let mut seen: Vec<(SkuId, Owner)> = Vec::new();
    loop {
        let after = seen.last().map(|(sku_id, _)| sku_id.clone());
        let page = store.owned(SERVER, after.as_ref(), 4).await.expect("the store is there");
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    assert_eq!(seen, expected);
}
