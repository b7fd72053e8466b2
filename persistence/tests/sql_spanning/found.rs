//! The list.

use std::collections::BTreeMap;

use hotstock_engine::ids::{OrderNo, ServerId, ShardId};
use hotstock_engine::outcome::{OrderStatus, OrderView};
use hotstock_engine::state::State;
use hotstock_engine::store::{OrderFilter, Store};
use hotstock_engine::testing::flush_suite::Hot;

use crate::support::{
    Base, NOW, branch, confirm, create, done, give_back, hold, made, must, order, release, reserve,
    reserve_as, sku,
};

const STATUSES: [OrderStatus; 8] = [
    OrderStatus::Reserved,
    OrderStatus::PartiallyConfirmed,
    OrderStatus::Confirmed,
    OrderStatus::Released,
    OrderStatus::Expired,
    OrderStatus::Cancelled,
    OrderStatus::PartiallyReturned,
    OrderStatus::Returned,
];

/// Every page of every filter is what a look at all orders says, hot and cold, in one place and over several.
pub async fn orders_are_listed_by_number_state_and_sku(base: &Base) {
    let store = base.open(1, 1);
    let mut hot = Hot::new(1);
    for name in ["a", "b"] {
        done(&store, &create(name, 1_000)).await;
        must(&mut hot, create(&format!("hot-{name}"), 1_000));
    }
    let mut numbers = Vec::new();
    for n in 0..60_u32 {
        // Not in the order in which they are made, and bytes count, not words.
        let number = format!("{}{}", ["Z", "a", "ä", "z-"][(n % 4) as usize], (n * 37) % 60);
        let of: &[(&str, u32)] = [&[("a", 2)][..], &[("b", 2)], &[("a", 2), ("b", 2)]][(n % 3) as usize];
        let name = of[0].0;
        numbers.push(number.clone());
        if n % 5 == 4 {
            // Over a hot SKU and a cold one.
            let of = [("hot-a", 2), ("b", 2)];
            must(&mut hot, hold(&number, 9, "hot-a", 2));
            done(&store, &hold(&number, 9, "b", 2)).await;
            hot.must(made(&number, 9, &of));
            if n % 2 == 0 {
                must(&mut hot, confirm(order(&number)));
                must(&mut hot, confirm(branch(&number, "hot-a", 9)));
            }
            continue;
        }
        if n % 8 == 5 {
            done(&store, &release(order(&number))).await;
            continue;
        }
        done(&store, &if n % 8 == 4 { reserve_as(order(&number), of, 1) } else { reserve(&number, of) })
            .await;
        if matches!(n % 8, 1..=3) {
            done(&store, &confirm(order(&number))).await;
        }
        match n % 8 {
            2 => done(&store, &give_back(order(&number), "r", &[(name, 1)])).await,
            3 => done(&store, &give_back(order(&number), "r", of)).await,
            6 => {
                let part = hotstock_engine::testing::flush_suite::part(&[(name, 1)], "c");
                done(&store, &hotstock_engine::testing::flush_suite::confirm(&number, part).into()).await;
            }
            7 => done(&store, &release(order(&number))).await,
            _ => {}
        }
    }
    hot.flush_all(&store).await;
    store.expire(NOW.plus_seconds(2), 100, false).await.unwrap();
    let mut all: BTreeMap<OrderNo, OrderView> = BTreeMap::new();
    for number in &numbers {
        let image = match store.order(&order(number)).await.unwrap() {
            Some(stored) => stored.image,
            None => store.home(&order(number)).await.unwrap().unwrap().image.order,
        };
        all.insert(order(number), State::view_of(image).unwrap());
    }
    assert_eq!(all.len(), 60);
    let seen = |status| all.values().any(|view| view.status == status);
    assert!(STATUSES.into_iter().all(seen), "every state is among them");

    let mut filters = vec![OrderFilter::default()];
    for sku_id in [None, Some(sku("a")), Some(sku("b")), Some(sku("hot-a")), Some(sku("none"))] {
        filters.extend(STATUSES.map(|status| OrderFilter { status: vec![status], sku_id: sku_id.clone() }));
        let some = vec![OrderStatus::Reserved, OrderStatus::Returned, OrderStatus::Cancelled];
        filters.extend([vec![], some].map(|status| OrderFilter { status, sku_id: sku_id.clone() }));
    }
    for filter in filters {
        let fits = |view: &&OrderView| {
            (filter.status.is_empty() || filter.status.contains(&view.status))
                && filter.sku_id.as_ref().is_none_or(|id| view.lines.iter().any(|line| line.sku_id == *id))
        };
        let wanted: Vec<_> = all.values().filter(fits).cloned().collect();
        for limit in [1, 7, 1_000] {
            let (mut found, mut after): (Vec<OrderView>, Option<OrderNo>) = (Vec::new(), None);
            loop {
                let page = store.list(&filter, after.as_ref(), limit).await.unwrap();
                assert!(page.len() <= limit);
                let full = page.len() == limit;
                found.extend(page);
                after = found.last().map(|view| view.order_no.clone());
                if !full {
                    break;
                }
            }
            assert_eq!(found, wanted, "{filter:?} by {limit}");
        }
    }
    // A SKU that moves takes its branches along; the list stays.
    let before = store.list(&OrderFilter::default(), None, 1_000).await.unwrap();
    store.take(&[sku("b")], ServerId(1), ShardId(0)).await.unwrap();
    assert_eq!(store.list(&OrderFilter::default(), None, 1_000).await.unwrap(), before);
    let filter = OrderFilter { sku_id: Some(sku("b")), ..OrderFilter::default() };
    let of_b = before.iter().filter(|view| view.lines.iter().any(|line| line.sku_id == sku("b")));
    assert_eq!(store.list(&filter, None, 1_000).await.unwrap(), of_b.cloned().collect::<Vec<_>>());
}
