//! Serial numbers: kept with the stock, the order and the journal, cold and flushed.

use std::collections::BTreeSet;
use std::sync::Arc;

use hotstock_engine::command::{Action, Command, CreateStock, Line, Lines, Place};
use hotstock_engine::ids::{ServerId, ShardId, WarehouseId};
use hotstock_engine::store::{Moving, Store, Taken};
use hotstock_engine::testing::flush_suite::Hot;

use crate::support::{
    Base, NOW, balance, close, confirm, done, give_back, must, order, release, reserve, reserve_as, sku,
};

fn numbered(name: &str, warehouse: u32) -> Command {
    let (sku_id, warehouse_id) = (sku(name), WarehouseId(warehouse));
    Action::CreateStock(CreateStock { sku_id, warehouse_id, quantity: 1_000, serialized: true }).into()
}

/// An order of two units in one of two warehouses.
fn two_units(number: &str, warehouse: u32) -> Command {
    let mut command = reserve_as(order(number), &[("a", 2)], 3_600);
    if let Action::Reserve(reserve) = &mut command.action {
        let line = Line { sku_id: sku("a"), warehouse_id: WarehouseId(warehouse), quantity: 2 };
        reserve.lines = Lines::new([line]).unwrap();
    }
    command
}

/// Each number once, from 1 without a gap, in orders and journal alike; gives how many there are.
async fn check(store: &dyn Store, numbers: &[String]) -> u64 {
    let mut given = BTreeSet::new();
    for number in numbers {
        let image = store.order(&order(number)).await.unwrap().unwrap().image;
        for serials in &image.serials {
            let line = &image.lines[usize::from(serials.line)];
            assert_eq!(line.sku_id, sku("a"));
            for one in serials.serials.from..=serials.serials.to {
                assert!(given.insert(one), "{one} is given twice");
            }
        }
        let count = |line: u16| {
            let of_line = image.serials.iter().filter(|serials| serials.line == line);
            of_line.map(|serials| serials.serials.to - serials.serials.from + 1).sum::<u64>()
        };
        for (place, line) in (0..).zip(&image.lines).filter(|(_, line)| line.sku_id == sku("a")) {
            assert_eq!(count(place), u64::from(line.confirmed), "{image:?}");
        }
    }
    let last = given.len() as u64;
    assert_eq!(given.last().copied().unwrap_or(0), last, "without a gap");
    let rows = store.stock_journal(&sku("a"), &[], 100_000).await.unwrap().rows;
    let in_journal: BTreeSet<u64> = rows
        .iter()
        .filter_map(|row| row.change.serials)
        .flat_map(|serials| serials.from..=serials.to)
        .collect();
    assert_eq!(in_journal, given);
    assert!(store.stock(&sku("a"), None).await.unwrap().iter().all(|row| row.view.serialized));
    last
}

/// Two warehouses, many callers, then a shard, then SQL again.
pub async fn serial_numbers_are_given_once(base: &Base) {
    let store = Arc::new(base.open(1, 1));
    for warehouse in [1, 2] {
        done(&*store, &numbered("a", warehouse)).await;
    }
    done(&*store, &crate::support::create("plain", 1_000)).await;
    let callers = (0..6).map(|caller| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut numbers = Vec::new();
            for n in 0..15 {
                let number = format!("o-{caller}-{n}");
                done(&*store, &two_units(&number, 1 + (caller + n) % 2)).await;
                match n % 5 {
                    0 => done(&*store, &release(order(&number))).await,
                    1 => {}
                    _ => done(&*store, &confirm(order(&number))).await,
                }
                numbers.push(number);
            }
            numbers
        })
    });
    let mut numbers = Vec::new();
    for caller in callers.collect::<Vec<_>>() {
        numbers.extend(caller.await.unwrap());
    }
    assert_eq!(check(&*store, &numbers).await, 6 * 9 * 2);
    // One that came back is not given again, a late payment gets new ones, and a line of another SKU none.
    done(&*store, &give_back(order("o-1-3"), "r", &[("a", 1)])).await;
    done(&*store, &confirm(order("o-1-0"))).await;
    done(&*store, &reserve("mixed", &[("plain", 3), ("a", 5)])).await;
    done(&*store, &confirm(order("mixed"))).await;
    numbers.push("mixed".to_owned());
    let cold = check(&*store, &numbers).await;
    assert_eq!(cold, 6 * 9 * 2 + 2 + 5);

    // They go with the SKU and come back with it.
    let skus = [sku("a"), sku("plain")];
    let taken = store.take(&skus, ServerId(1), ShardId(0)).await.unwrap();
    let mut hot = Hot::new(1);
    for (taken, sku_id) in taken.into_iter().zip(&skus) {
        let Taken::Owned { epoch, stocks } = taken else { panic!("{taken:?}") };
        let begin = Place::Begin { sku_id: sku_id.clone(), epoch, stocks };
        hot.must(Action::Place(Box::new(begin)));
    }
    for sku_id in &skus {
        let moving = Moving { sku_id: sku_id.clone(), server: ServerId(1), shard: ShardId(0), since: NOW };
        let orders = store.orders_of(&moving, None, 1_000).await.unwrap();
        let adopt = Place::Orders { sku_id: Some(sku_id.clone()), orders, requests: Vec::new() };
        hot.must(Action::Place(Box::new(adopt)));
    }
    for sku_id in &skus {
        hot.must(Action::Place(Box::new(Place::Finish { sku_id: sku_id.clone() })));
    }
    hot.now = NOW;
    must(&mut hot, confirm(order("o-2-1")));
    must(&mut hot, two_units("hot", 2));
    must(&mut hot, confirm(order("hot")));
    numbers.push("hot".to_owned());
    assert_eq!(hot.flush_all(&*store).await.anomalies, 0);
    assert_eq!(check(&*store, &numbers).await, cold + 4);
    close(&mut hot, &["a", "plain"]);
    hot.flush_all(&*store).await;
    done(&*store, &confirm(order("o-3-1"))).await;
    assert_eq!(check(&*store, &numbers).await, cold + 6);
    balance(&*store).await;
}
