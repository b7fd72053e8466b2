//! SKUs that go to a shard while orders hold them and others; servers beside each other; a server that is lost.

use std::sync::Arc;

use hotstock_engine::checkpoint::OrderImage;
use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::Action;
use hotstock_engine::home::split;
use hotstock_engine::ids::{Lsn, OrderNo, ServerId, ShardId, SkuId, shard_of_order};
use hotstock_engine::limits::BRANCH_ASK_SECONDS;
use hotstock_engine::outcome::{Answer, Effect, OrderStatus};
use hotstock_engine::store::{ColdOutcome, Expired, Moving, Owner, Store, StoredHome, Taken};
use hotstock_engine::testing::flush_suite::Hot;
use hotstock_persistence::limits::MAX_SPLIT_PER_TRANSACTION;
use hotstock_persistence::sql::SqlStore;

use crate::support::{
    Base, HOUR, NOW, balance, branch, confirm, create, done, give_back, hold, levels, made, must, order,
    outcome, release, reserve, sku,
};

const SHARDS: u16 = 4;

async fn take(store: &SqlStore, names: &[&str], server: u128, shard: u16) -> Vec<Taken> {
    let skus: Vec<SkuId> = names.iter().map(|name| sku(name)).collect();
    store.take(&skus, ServerId(server), ShardId(shard)).await.unwrap()
}

/// All orders that move with a SKU, in pages.
async fn orders_of(store: &SqlStore, name: &str, shard: u16, page: usize) -> Vec<OrderImage> {
    let moving =
        Moving { sku_id: sku(name), server: ServerId(1), shard: ShardId(shard), since: Timestamp(0) };
    let (mut all, mut after): (Vec<OrderImage>, Option<OrderNo>) = (Vec::new(), None);
    loop {
        let some = store.orders_of(&moving, after.as_ref(), page).await.unwrap();
        let full = some.len() >= page;
        after = some.last().map(|order| order.order_no.clone());
        all.extend(some);
        if !full {
            return all;
        }
    }
}

fn home_of(outcome: ColdOutcome) -> StoredHome {
    match outcome {
        ColdOutcome::Home(home) => *home,
        other => panic!("{other:?}"),
    }
}

/// Open orders that hold it and others become orders over several places; no unit moves.
pub async fn a_sku_that_goes_leaves_branches_behind(base: &Base) {
    let store = base.open(1, SHARDS);
    for name in ["a", "b", "c"] {
        done(&store, &create(name, 10)).await;
    }
    done(&store, &reserve("alone", &[("a", 1)])).await;
    done(&store, &reserve("others", &[("b", 1), ("c", 1)])).await;
    done(&store, &reserve("both", &[("b", 2), ("a", 3)])).await;
    done(&store, &confirm(order("both"))).await;
    done(&store, &reserve("open", &[("a", 2), ("b", 1), ("c", 1)])).await;
    let part = hotstock_engine::testing::flush_suite::confirm(
        "open",
        hotstock_engine::testing::flush_suite::part(&[("a", 1)], "c-1"),
    );
    done(&store, &part.into()).await;
    let plain = store.order(&order("open")).await.unwrap().unwrap().image;
    let before = [levels(&store, "a").await, levels(&store, "b").await, levels(&store, "c").await];
    let versions = base.number("SELECT SUM(version) FROM stock").await;

    let taken = take(&store, &["a"], 1, 2).await;
    assert!(matches!(&taken[..], [Taken::Owned { epoch: 1, stocks }] if stocks.len() == 1), "{taken:?}");
    assert_eq!([levels(&store, "a").await, levels(&store, "b").await, levels(&store, "c").await], before);
    assert_eq!(base.number("SELECT SUM(version) FROM stock").await, versions);

    // The rows are what the engine's split makes of the order.
    let (image, branches) = split(plain);
    let shard = shard_of_order(&order("open"), SHARDS);
    assert_eq!(
        store.home(&order("open")).await.unwrap(),
        Some(StoredHome { server: ServerId(1), shard, image: image.clone() })
    );
    assert_eq!(branches.len(), 3);
    for branch in &branches {
        let stored = store.order(&branch.order_no).await.unwrap().unwrap();
        assert_eq!(&stored.image, branch);
    }
    assert_eq!(store.order(&order("open")).await.unwrap(), None, "it lies in no place alone");
    assert_eq!(base.number("SELECT COUNT(*) FROM order_requests WHERE order_no = 'open'").await, 0);
    assert_eq!(store.home(&order("others")).await.unwrap(), None);
    balance(&store).await;

    // With the SKU goes its branch, and what held it alone. What ended and has a SKU elsewhere stays.
    for page in [1, 2, 100] {
        let moved: Vec<_> =
            orders_of(&store, "a", 2, page).await.into_iter().map(|order| order.order_no).collect();
        assert_eq!(moved, [order("alone"), branch("open", "a", 0)], "by {page}");
    }
    // Whatever is asked about the order is its home's to answer; taken again, nothing is new.
    for command in [
        confirm(order("open")),
        release(order("open")),
        Action::GetOrder(order("open")).into(),
        Action::Expire(order("open")).into(),
        reserve("open", &[("c", 9)]),
    ] {
        assert_eq!(home_of(store.submit(&command, NOW).await.unwrap()).image, image);
        let all = store.submit_all(&[command.clone(), hold("new", 1, "b", 1)], NOW).await.unwrap();
        assert_eq!(home_of(all[0].clone()).image, image, "{command:?}");
    }
    assert_eq!(take(&store, &["a"], 1, 2).await.len(), 1);
    // A branch left behind is sold like any order.
    done(&store, &confirm(branch("open", "b", 0))).await;
    done(&store, &release(branch("new", "b", 1))).await;
    balance(&store).await;

    // When its time is over it is named to the server of its home, and is not expired.
    let due = NOW.plus_seconds(u64::from(HOUR) + 1);
    let swept = store.expire(due, 100, false).await.unwrap();
    assert_eq!((swept.homes, swept.branches), (vec![order("open")], vec![]));
    assert_eq!(swept.expired, 1, "the one that held b and c");
    balance(&store).await;
}

/// More than one transaction takes.
pub async fn many_orders_come_apart_page_by_page(base: &Base) {
    let store = base.open(1, SHARDS);
    let many = 2 * MAX_SPLIT_PER_TRANSACTION + 50;
    for name in ["a", "b", "c"] {
        done(&store, &create(name, 100_000)).await;
    }
    let numbers: Vec<_> = (0..many).map(|n| format!("o-{n:05}")).collect();
    for numbers in numbers.chunks(200) {
        let of = |number: &String| reserve(number, &[("a", 1), ("b", 2), ("c", 3)]);
        let made = store.submit_all(&numbers.iter().map(of).collect::<Vec<_>>(), NOW).await.unwrap();
        assert!(made.iter().all(|made| matches!(made, ColdOutcome::Done { outcome: Ok(_), .. })));
    }
    // Two of the three go together.
    let taken = take(&store, &["c", "a"], 1, 2).await;
    assert!(taken.iter().all(|taken| matches!(taken, Taken::Owned { .. })), "{taken:?}");
    let count = async |what: &str| {
        usize::try_from(base.number(&format!("SELECT COUNT(*) FROM {what}")).await).unwrap()
    };
    assert_eq!(count("orders WHERE kind = 1 AND open = 1 AND due_at = expires_at").await, many);
    assert_eq!(count("orders WHERE kind = 2 AND open = 1 AND due_at IS NULL").await, 3 * many);
    assert_eq!(count("orders WHERE kind = 0").await, 0);
    assert_eq!((count("order_lines").await, count("home_lines").await), (3 * many, 3 * many));
    for name in ["a", "c"] {
        let mut moved: Vec<_> =
            orders_of(&store, name, 2, 100).await.into_iter().map(|o| o.order_no).collect();
        moved.sort();
        assert_eq!(moved, numbers.iter().map(|number| branch(number, name, 0)).collect::<Vec<_>>());
    }
    balance(&store).await;
}

/// Callers confirm, release and make orders over both SKUs all the while; a promotion takes the one from the other.
pub async fn orders_that_come_apart_while_others_change_them_stay_whole(base: &Base) {
    let store = Arc::new(base.open(1, SHARDS));
    for name in ["a", "b"] {
        done(&*store, &create(name, 1_000_000)).await;
    }
    for n in 0..40 {
        done(&*store, &reserve(&format!("old-{n}"), &[("a", 1), ("b", 1)])).await;
    }
    let callers = (0..6).map(|caller| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut answered = 0_u64;
            for n in 0..10_000 {
                let number = format!("new-{caller}-{n}");
                let mut commands = vec![reserve(&number, &[("b", 1), ("a", 1)])];
                if n < 40 {
                    let old = order(&format!("old-{n}"));
                    commands.push(if caller % 2 == 0 { confirm(old) } else { release(old) });
                }
                for command in commands {
                    match store.submit(&command, NOW).await.unwrap() {
                        ColdOutcome::Done { .. } => answered += 1,
                        ColdOutcome::Home(_) => {}
                        // It is gone: nothing new is for SQL.
                        ColdOutcome::Elsewhere(_) => return answered,
                    }
                }
            }
            answered
        })
    });
    let callers: Vec<_> = callers.collect();
    while base.number("SELECT COUNT(*) FROM orders").await < 100 {}
    let taken = take(&store, &["a"], 1, 3).await;
    assert!(matches!(taken[..], [Taken::Owned { .. }]), "{taken:?}");
    let mut answered = 0;
    for caller in callers {
        answered += caller.await.unwrap();
    }
    assert!(answered > 60, "{answered}");
    // No order that holds units lies in both places, and each unit is still held or sold by one.
    let torn = "SELECT COUNT(*) FROM order_lines l JOIN order_lines o ON o.order_no = l.order_no AND o.sku_id <> l.sku_id WHERE l.open = 1";
    assert_eq!(base.number(torn).await, 0);
    let homes = base.number("SELECT COUNT(*) FROM orders WHERE kind = 1").await;
    assert!(homes > 0, "some were open");
    assert_eq!(base.number("SELECT COUNT(*) FROM orders WHERE kind = 2").await, 2 * homes);
    balance(&*store).await;
}

/// A return, a late payment: the order becomes one over several places. What changes nothing is answered here.
pub async fn an_ended_order_comes_apart_when_it_is_changed(base: &Base) {
    let store = base.open(1, SHARDS);
    for name in ["a", "b"] {
        done(&store, &create(name, 10)).await;
    }
    for number in ["paid", "paid too"] {
        done(&store, &reserve(number, &[("a", 2), ("b", 1)])).await;
        done(&store, &confirm(order(number))).await;
    }
    done(&store, &reserve("lapsed", &[("a", 2), ("b", 1)])).await;
    done(&store, &release(order("lapsed"))).await;
    take(&store, &["a"], 1, 2).await;
    assert_eq!(store.home(&order("paid")).await.unwrap(), None, "nobody changes it");
    for command in [
        confirm(order("paid")),
        reserve("paid", &[("b", 1), ("a", 2)]),
        Action::GetOrder(order("paid")).into(),
    ] {
        let answer = outcome(&store, &command, NOW).await;
        assert!(matches!(answer, Ok(Answer::Order { effect: Effect::Replayed, .. })), "{answer:?}");
    }
    let before = store.order(&order("paid")).await.unwrap().unwrap().image;
    let home = home_of(store.submit(&give_back(order("paid"), "r", &[("b", 1)]), NOW).await.unwrap());
    assert_eq!((home.server, home.shard), (ServerId(1), shard_of_order(&order("paid"), SHARDS)));
    assert_eq!(home.image, split(before).0);
    let home = home_of(store.submit(&confirm(order("lapsed")), NOW).await.unwrap());
    assert_eq!(home.image.order.lines.iter().map(|line| line.lapsed).sum::<u32>(), 3);
    // Nothing was changed by that; what has ended is due nowhere.
    assert_eq!((levels(&store, "a").await, levels(&store, "b").await), ([6, 0, 4], [8, 0, 2]));
    assert_eq!(base.number("SELECT COUNT(*) FROM orders WHERE due_at IS NOT NULL").await, 0);
    balance(&store).await;

    // The others of its SKUs are on another server: its home is there, and it is that server's to answer.
    take(&store, &["b"], 9, 1).await;
    let none = store.submit(&give_back(order("paid too"), "r", &[("b", 1)]), NOW).await.unwrap();
    assert!(matches!(none, ColdOutcome::Elsewhere(Owner { .. })), "no server has both: {none:?}");
    let other = base.open(9, 3);
    done(&other, &create("c", 10)).await;
    done(&other, &create("d", 10)).await;
    done(&other, &reserve("theirs", &[("c", 1), ("d", 1)])).await;
    done(&other, &confirm(order("theirs"))).await;
    take(&other, &["c"], 9, 0).await;
    let home = home_of(store.submit(&give_back(order("theirs"), "r", &[("d", 1)]), NOW).await.unwrap());
    assert_eq!((home.server, home.shard), (ServerId(9), shard_of_order(&order("theirs"), 3)));
    balance(&store).await;
}

/// Two servers on one store: neither is named, is given or may write what is the other's.
pub async fn servers_leave_each_others_branches_and_homes_alone(base: &Base) {
    let (one, other) = (base.open(1, SHARDS), base.open(2, 2));
    for name in ["a", "b", "c"] {
        done(&one, &create(name, 10)).await;
    }
    // A branch of each server on the same SKU, an order in one place, and an order that server 1 split.
    done(&one, &hold("mine", 5, "c", 1)).await;
    done(&other, &hold("theirs", 6, "c", 1)).await;
    done(&one, &reserve("plain", &[("c", 1)])).await;
    done(&one, &reserve("split", &[("a", 1), ("b", 1)])).await;
    take(&one, &["a"], 1, 0).await;

    let due = NOW.plus_seconds(u64::from(HOUR) + 1);
    let swept = other.expire(due, 100, false).await.unwrap();
    assert_eq!((swept.branches, swept.homes, swept.expired), (vec![branch("theirs", "c", 6)], vec![], 1));
    let swept = one.expire(due, 100, false).await.unwrap();
    assert_eq!(swept.branches, [branch("mine", "c", 5)]);
    assert_eq!((swept.homes, swept.expired), (vec![order("split")], 0));
    assert_eq!(one.expire(due, 100, false).await.unwrap(), Expired::default());

    // A SKU with an open branch of another server stays: that server could not tell it anything any more.
    for (store, server, held) in [(&one, 1, "theirs"), (&other, 2, "mine")] {
        assert_eq!(take(store, &["c"], server, 0).await, [Taken::OrdersSpan(order(held))]);
    }
    done(&other, &release(branch("theirs", "c", 6))).await;
    assert!(matches!(take(&one, &["c"], 1, 0).await[..], [Taken::Owned { .. }]));
    // Whoever asks, the home is where it is.
    let home = home_of(other.submit(&confirm(order("split")), NOW).await.unwrap());
    assert_eq!((home.server, home.shard), (ServerId(1), shard_of_order(&order("split"), SHARDS)));
    balance(&one).await;
}

/// Homes are due at once, cold branches ask again, and the lost server can't write its homes any more.
pub async fn what_a_lost_server_had_goes_to_the_new_one(base: &Base) {
    let store = base.open(1, 1);
    let mut hot = Hot::new(1);
    must(&mut hot, create("hot", 10));
    hot.flush_all(&store).await;
    done(&store, &create("cold", 10)).await;
    // One whose last decision is still to be told, one that is open, one that is over, and a branch whose home was never flushed.
    for number in ["told", "open", "over"] {
        must(&mut hot, hold(number, 3, "hot", 1));
        done(&store, &hold(number, 3, "cold", 1)).await;
        hot.must(made(number, 3, &[("hot", 1), ("cold", 1)]));
    }
    done(&store, &hold("lost", 4, "cold", 1)).await;
    let all = ["told", "open", "over", "lost"]
        .map(|number| branch(number, "cold", if number == "lost" { 4 } else { 3 }));
    store.leave_to_home(&all).await.unwrap();
    for number in ["told", "over"] {
        must(&mut hot, confirm(order(number)));
    }
    must(&mut hot, confirm(branch("over", "hot", 3)));
    done(&store, &confirm(branch("over", "cold", 3))).await;
    let carried =
        hotstock_engine::home::HomeStep::Carried { order_no: order("over"), through: 1, serials: vec![] };
    hot.must(Action::Home(Box::new(carried)));
    hot.flush_all(&store).await;
    assert_eq!(base.number("SELECT COUNT(*) FROM orders WHERE due_at IS NOT NULL").await, 0);

    let holding = store.holdings().await.unwrap().pop().unwrap();
    assert_eq!((holding.server, holding.skus, holding.homes), (ServerId(1), 1, 2));
    assert_eq!(store.take_over(ServerId(1), ServerId(2)).await.unwrap(), 1);
    let new = base.open(2, 1);
    let now = hot.now.plus_seconds(BRANCH_ASK_SECONDS.into());
    assert_eq!(store.expire(now, 100, false).await.unwrap(), Expired::default(), "nothing is the lost one's");
    let mut swept = new.expire(now, 100, false).await.unwrap();
    swept.homes.sort();
    swept.branches.sort();
    assert_eq!(swept.homes, [order("open"), order("told")]);
    assert_eq!(
        swept.branches,
        [branch("lost", "cold", 4), branch("open", "cold", 3), branch("told", "cold", 3)]
    );
    let home = new.home(&order("told")).await.unwrap().unwrap();
    assert_eq!((home.server, home.image.pending.len()), (ServerId(2), 1));
    assert_eq!(home.image.order.lsn, Lsn::ZERO);
    let view = hotstock_engine::state::State::view_of(home.image.order).unwrap();
    assert_eq!(view.status, OrderStatus::Confirmed);

    // Should it come back: what it writes of its homes is not taken either.
    must(&mut hot, confirm(order("open")));
    let fenced = hot.flush(&store, 100).await;
    assert!(matches!(fenced, Err(hotstock_engine::store::StoreError::Fenced { .. })), "{fenced:?}");
    balance(&new).await;
}
