//! What shards log of orders over several places, as rows.

use hotstock_engine::command::{Action, Confirm, Extend, Part};
use hotstock_engine::home::{HomeStep, split};
use hotstock_engine::ids::{Lsn, RequestId, ServerId, ShardId};
use hotstock_engine::outcome::OrderStatus;
use hotstock_engine::store::{ColdOutcome, OrderFilter, Store, StoreError, StoredHome};
use hotstock_engine::testing::flush_suite::Hot;

use crate::support::{
    Base, NOW, balance, branch, close, confirm, create, done, give_back, hold, levels, lines, made, must,
    order, release, reserve, sku, without_lsn,
};

/// The home and the branches of an order are what the shard has.
async fn check(store: &dyn Store, hot: &Hot, number: &str) {
    let image = hot.state.image_of_home(&order(number)).map(without_lsn).unwrap();
    let stored = StoredHome { server: hot.server, shard: hot.shard, image };
    assert_eq!(store.home(&order(number)).await.unwrap(), Some(stored.clone()));
    for share in &stored.image.shares {
        let name = stored.image.order.lines[usize::from(share.line)].sku_id.as_str().to_owned();
        let branch = branch(number, &name, share.attempt.0);
        if let Some(mut image) = hot.state.image_of_order(&branch) {
            image.lsn = Lsn::ZERO;
            assert_eq!(store.order(&branch).await.unwrap().unwrap().image, image);
        }
    }
    let listed = store.list(&OrderFilter::default(), None, 1_000).await.unwrap();
    let view = listed.iter().find(|view| view.order_no == order(number)).unwrap();
    assert_eq!(Some(view), hot.state.order(&order(number)).map(|(_, view)| view).as_ref());
    assert!(listed.iter().all(|view| !view.order_no.is_branch()));
    balance(store).await;
}

/// In batches of every size, some of them repeated.
pub async fn a_home_is_written_whenever_it_changes(base: &Base) {
    let store = base.open(1, 1);
    for (server, size) in [(11, 1), (12, 2), (13, 5), (14, 1_000)] {
        let mut hot = Hot::new(server);
        let name = |kind: &str| format!("{server}-{kind}");
        let (a, b, o) = (name("a"), name("b"), name("o"));
        for sku in [&a, &b] {
            must(&mut hot, create(sku, 10));
        }
        must(&mut hot, hold(&o, 7, &a, 4));
        must(&mut hot, hold(&o, 7, &b, 2));
        hot.must(made(&o, 7, &[(&a, 4), (&b, 2)]));
        hot.must(Action::Extend(Extend { order_no: order(&o), ttl_seconds: 7_200 }));
        let part = Part { lines: lines(&[(&a, 1)]), request_id: RequestId::new("c-1").ok() };
        hot.must(Action::Confirm(Confirm { order_no: order(&o), part: Some(part.clone()) }));
        // What the branch is told of it.
        let errand = hot.state.image_of_home(&order(&o)).unwrap().errands().remove(0);
        errand.commands.into_iter().for_each(|branch| must(&mut hot, branch.command));
        let carried = |through| {
            Action::Home(Box::new(HomeStep::Carried { order_no: order(&o), through, serials: vec![] }))
        };
        hot.must(carried(1));
        must(&mut hot, confirm(order(&o)));
        must(&mut hot, give_back(order(&o), "back", &[(&b, 1)]));
        for errand in hot.state.image_of_home(&order(&o)).unwrap().errands() {
            errand.commands.into_iter().for_each(|branch| must(&mut hot, branch.command));
        }
        hot.must(carried(3));
        while !hot.events.is_empty() {
            store.flush(hot.batch(size)).await.unwrap();
            let flushed = hot.flush(&store, size).await.unwrap();
            assert_eq!(flushed.anomalies, 0);
        }
        check(&store, &hot, &o).await;
        let home = store.home(&order(&o)).await.unwrap().unwrap();
        assert_eq!((home.image.decisions, home.image.pending.len()), (3, 0));
        assert_eq!((levels(&store, &a).await, levels(&store, &b).await), ([6, 0, 4], [9, 0, 1]));
        // By SKU it is found once, under its own number.
        let filter = OrderFilter { status: vec![OrderStatus::PartiallyReturned], sku_id: Some(sku(&b)) };
        let found = store.list(&filter, None, 10).await.unwrap();
        assert_eq!(found.iter().map(|view| view.order_no.clone()).collect::<Vec<_>>(), [order(&o)]);
    }
    assert_eq!(base.number("SELECT COUNT(*) FROM orders WHERE due_at IS NOT NULL").await, 0);
}

/// In the batch that made them, and later; the branch that leaves is cold and asks, the one that stays is the shard's.
pub async fn orders_that_a_shard_splits_are_split_in_the_store(base: &Base) {
    let store = base.open(1, 1);
    for (server, size) in [(11, 1), (12, 3), (13, 1_000)] {
        let mut hot = Hot::new(server);
        let name = |kind: &str| format!("{server}-{kind}");
        let (a, b) = (name("a"), name("b"));
        for sku in [&a, &b] {
            must(&mut hot, create(sku, 100));
        }
        let orders: Vec<_> = (0..5).map(|n| name(&format!("o{n}"))).collect();
        for number in &orders {
            must(&mut hot, reserve(number, &[(&a, 2), (&b, 3)]));
        }
        let part = Part { lines: lines(&[(&a, 1)]), request_id: None };
        hot.must(Action::Confirm(Confirm { order_no: order(&orders[1]), part: Some(part) }));
        must(&mut hot, release(order(&orders[2])));
        must(&mut hot, confirm(order(&orders[3])));
        if size < 1_000 {
            hot.flush_all(&store).await;
        }
        let plain = hot.state.image_of_order(&order(&orders[1])).unwrap();
        must(&mut hot, reserve(&name("late"), &[(&b, 1), (&a, 1)]));
        close(&mut hot, &[&a]);
        // Something of a home and of the branch that stays, after the split.
        must(&mut hot, confirm(order(&orders[0])));
        must(&mut hot, confirm(branch(&orders[0], &b, 0)));
        while !hot.events.is_empty() {
            store.flush(hot.batch(size)).await.unwrap();
            assert_eq!(hot.flush(&store, size).await.unwrap().anomalies, 0);
        }
        for number in [&orders[0], &orders[1], &orders[4], &name("late")] {
            check(&store, &hot, number).await;
        }
        let (mut image, branches) = split(plain);
        image.order.lsn = Lsn::ZERO;
        assert_eq!(store.home(&order(&orders[1])).await.unwrap().unwrap().image, image);
        let gone = branch(&orders[1], &a, 0);
        let stored = store.order(&gone).await.unwrap().unwrap();
        let expected = branches.into_iter().find(|image| image.order_no == gone).unwrap();
        assert_eq!((stored.image.lines, stored.owners), (expected.lines, vec![None]));
        // What had ended stays as it was.
        for number in [&orders[2], &orders[3]] {
            assert_eq!(store.home(&order(number)).await.unwrap(), None);
        }
        let left = format!("FROM order_lines WHERE order_no = '{}'", orders[1]);
        assert_eq!(base.number(&format!("SELECT COUNT(*) {left}")).await, 0);
        let due = |kind: &str| {
            format!(
                "SELECT COUNT(*) FROM orders WHERE kind = 2 AND due_at IS {kind} AND order_no LIKE '{server}-%{server}-a%'"
            )
        };
        assert_eq!((base.number(&due("NOT NULL")).await, base.number(&due("NULL")).await), (4, 0));
        // The home has the branch that left sold: SQL decides that now.
        done(&store, &confirm(branch(&orders[0], &a, 0))).await;
        balance(&store).await;
    }
}

/// An order that SQL split, taken in by its home.
pub async fn a_home_that_comes_back_is_not_due_any_more(base: &Base) {
    let store = base.open(1, 1);
    for name in ["a", "b"] {
        done(&store, &create(name, 10)).await;
    }
    done(&store, &reserve("o", &[("a", 1), ("b", 1)])).await;
    store.take(&[sku("a")], ServerId(1), ShardId(0)).await.unwrap();
    let stored = store.home(&order("o")).await.unwrap().unwrap();
    assert_eq!(base.number("SELECT COUNT(*) FROM orders WHERE kind = 1 AND due_at IS NOT NULL").await, 1);
    let mut hot = Hot::new(1);
    hot.must(Action::Home(Box::new(HomeStep::Adopt(Box::new(stored.image.clone())))));
    hot.must(Action::Home(Box::new(HomeStep::Adopt(Box::new(stored.image)))));
    assert_eq!(hot.flush_all(&store).await.anomalies, 0);
    assert_eq!(base.number("SELECT COUNT(*) FROM orders WHERE kind = 1 AND due_at IS NOT NULL").await, 0);
    hot.now = NOW;
    must(&mut hot, release(order("o")));
    hot.flush_all(&store).await;
    check(&store, &hot, "o").await;
}

/// Its row stays; the branches are the shard's and are written.
pub async fn an_order_that_is_there_already_is_left_alone(base: &Base) {
    let store = base.open(1, 1);
    let mut hot = Hot::new(1);
    for name in ["a", "b"] {
        must(&mut hot, create(name, 10));
    }
    done(&store, &release(order("o"))).await;
    must(&mut hot, hold("o", 7, "a", 1));
    must(&mut hot, hold("o", 7, "b", 1));
    hot.must(made("o", 7, &[("a", 1), ("b", 1)]));
    assert_eq!(hot.flush_all(&store).await.anomalies, 1);
    must(&mut hot, confirm(order("o")));
    must(&mut hot, confirm(branch("o", "a", 7)));
    assert_eq!(hot.flush_all(&store).await.anomalies, 0, "it is known by then");
    assert_eq!(store.home(&order("o")).await.unwrap(), None);
    let (count, anomalies) = store.anomalies(10).await.unwrap();
    assert_eq!((count, anomalies[0].kind.as_str()), (1, "order_exists"));
    assert_eq!(levels(&store, "a").await, [9, 0, 1]);

    // A plain one that the store lost, and that the shard splits: the others of the event are split.
    for number in ["p", "q"] {
        must(&mut hot, reserve(number, &[("a", 1), ("b", 1)]));
    }
    hot.flush_all(&store).await;
    base.run("DELETE FROM order_lines WHERE order_no = 'p'; DELETE FROM orders WHERE order_no = 'p'").await;
    close(&mut hot, &["a"]);
    assert!(hot.flush_all(&store).await.anomalies >= 1);
    assert_eq!(store.home(&order("p")).await.unwrap(), None);
    check_home(&store, &hot, "q").await;
}

async fn check_home(store: &dyn Store, hot: &Hot, number: &str) {
    let image = hot.state.image_of_home(&order(number)).map(without_lsn).unwrap();
    assert_eq!(store.home(&order(number)).await.unwrap().unwrap().image, image);
}

/// Nothing of the batch is written.
pub async fn a_home_that_another_server_took_over_is_fenced(base: &Base) {
    let store = base.open(1, 1);
    let mut hot = Hot::new(1);
    done(&store, &create("a", 10)).await;
    done(&store, &create("b", 10)).await;
    for name in ["a", "b"] {
        done(&store, &hold("o", 7, name, 1)).await;
    }
    // The home has no SKU of the order.
    hot.must(made("o", 7, &[("a", 1), ("b", 1)]));
    hot.flush_all(&store).await;
    store.take_over(ServerId(1), ServerId(2)).await.unwrap();
    must(&mut hot, confirm(order("o")));
    let fenced = hot.flush(&store, 100).await;
    assert!(matches!(fenced, Err(StoreError::Fenced { .. })), "{fenced:?}");
    let home = store.home(&order("o")).await.unwrap().unwrap();
    assert_eq!((home.server, home.image.decisions), (ServerId(2), 0));
    let asked = store.submit(&confirm(order("o")), NOW).await.unwrap();
    assert!(matches!(asked, ColdOutcome::Home(_)), "{asked:?}");
}
