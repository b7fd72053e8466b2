//! Branches of cold SKUs: reserved together, changed like orders, and due to ask.

use hotstock_engine::command::{Action, Choice, Line, Lines, Mode, Reserve};
use hotstock_engine::ids::{ServerId, ShardId, WarehouseId};
use hotstock_engine::limits::BRANCH_ASK_SECONDS;
use hotstock_engine::outcome::{Effect, OrderStatus, Refusal};
use hotstock_engine::store::{ColdOutcome, Expired, Owner, Store};
use hotstock_persistence::limits::POSTPONE_MILLIS;

use crate::support::{
    Base, NOW, W1, balance, branch, confirm, create, create_in, done, give_back, hold, levels, order,
    order_of, release, reserve, reserve_as, sku,
};

/// One transaction, each answered as if it had come alone, and again the same.
pub async fn branches_of_an_order_are_reserved_together(base: &Base) {
    let store = base.open(1, 2);
    for name in ["a", "b", "c"] {
        done(&store, &create(name, 10)).await;
    }
    // Not in the order of the names, and one of them is short.
    let commands = [hold("o", 7, "c", 2), hold("o", 7, "a", 3), hold("o", 7, "b", 11), hold("o", 7, "z", 1)];
    for effect in [Effect::Created, Effect::Replayed] {
        let outcomes = store.submit_all(&commands, NOW).await.unwrap();
        assert_eq!(outcomes.len(), 4);
        for (outcome, (name, units)) in outcomes.iter().zip([("c", 2), ("a", 3)]) {
            let (view, was) = order_of(outcome);
            assert_eq!((was, view.status, view.lines[0].held), (effect, OrderStatus::Reserved, units));
            assert_eq!(view.order_no, branch("o", name, 7));
            let ColdOutcome::Done { changed, .. } = outcome else { unreachable!("it is an order") };
            let changed: Vec<_> = changed.iter().map(|view| view.sku_id.as_str()).collect();
            assert_eq!(changed, if effect == Effect::Created { vec![name] } else { vec![] });
        }
        let refused = |outcome: &ColdOutcome| match outcome {
            ColdOutcome::Done { outcome: Err(refusal), .. } => refusal.clone(),
            other => panic!("{other:?}"),
        };
        assert!(matches!(refused(&outcomes[2]), Refusal::InsufficientStock { .. }));
        assert!(matches!(refused(&outcomes[3]), Refusal::UnknownSku { .. }));
    }
    assert_eq!((levels(&store, "a").await, levels(&store, "b").await), ([7, 3, 0], [10, 0, 0]));
    let stored = store.order(&branch("o", "a", 7)).await.unwrap().unwrap();
    assert_eq!(stored.image.expires_at, NOW.plus_seconds(BRANCH_ASK_SECONDS.into()));
    assert_eq!(store.order(&order("o")).await.unwrap(), None, "the order is its home's");
    assert_eq!(store.submit_all(&[], NOW).await.unwrap(), []);
    balance(&store).await;
}

/// Confirm, return, expiry, release, a tombstone: as the home says, in one transaction, and again the same.
pub async fn branches_are_sold_and_given_back_like_orders(base: &Base) {
    let store = base.open(1, 2);
    for name in ["a", "b", "c"] {
        done(&store, &create(name, 10)).await;
        done(&store, &hold("o", 7, name, 2)).await;
    }
    let commands = [
        confirm(branch("o", "a", 7)),
        // Its home's time is over, whatever the clock says of the branch.
        Action::Expire(branch("o", "b", 7)).into(),
        release(branch("o", "c", 7)),
        release(branch("o", "c", 8)),
        give_back(branch("o", "a", 7), "d2", &[("a", 1)]),
    ];
    let wanted = [
        OrderStatus::Confirmed,
        OrderStatus::Expired,
        OrderStatus::Released,
        OrderStatus::Cancelled,
        OrderStatus::PartiallyReturned,
    ];
    let first = store.submit_all(&commands, NOW).await.unwrap();
    for (outcome, status) in first.iter().zip(wanted) {
        let (view, effect) = order_of(outcome);
        assert_eq!((view.status, effect == Effect::Replayed), (status, false), "{view:?}");
    }
    let again = store.submit_all(&commands, NOW).await.unwrap();
    assert!(again.iter().all(|outcome| order_of(outcome).1 == Effect::Replayed), "{again:?}");
    // After the tombstone nobody reserves it any more.
    let late = store.submit(&hold("o", 8, "c", 1), NOW).await.unwrap();
    assert!(
        matches!(late, ColdOutcome::Done { outcome: Err(Refusal::OrderCancelled { .. }), .. }),
        "{late:?}"
    );
    assert_eq!(levels(&store, "a").await, [9, 0, 1]);
    assert_eq!((levels(&store, "b").await, levels(&store, "c").await), ([10, 0, 0], [10, 0, 0]));
    let due = "SELECT COUNT(*) FROM orders WHERE due_at IS NOT NULL";
    assert_eq!(base.number(due).await, 0, "what holds nothing is not due");
    balance(&store).await;
}

/// The others are carried out.
pub async fn one_of_many_that_another_decides_is_named(base: &Base) {
    let store = base.open(1, 2);
    for name in ["a", "b"] {
        done(&store, &create(name, 10)).await;
    }
    store.take(&[sku("b")], ServerId(1), ShardId(1)).await.unwrap();
    let owner = Owner { server: ServerId(1), shard: ShardId(1), epoch: 1 };
    let outcomes = store.submit_all(&[hold("o", 7, "b", 1), hold("o", 7, "a", 1)], NOW).await.unwrap();
    assert_eq!(outcomes[0], ColdOutcome::Elsewhere(owner));
    assert_eq!(order_of(&outcomes[1]).1, Effect::Created);
    // Nor is an order of both, which is new, for SQL to decide.
    let both = store.submit(&reserve("p", &[("a", 1), ("b", 1)]), NOW).await.unwrap();
    assert_eq!(both, ColdOutcome::Elsewhere(owner));
    assert_eq!(levels(&store, "a").await, [9, 1, 0]);
    balance(&store).await;
}

/// An order whose warehouse is open sees all of them.
pub async fn every_warehouse_is_there_to_choose_from(base: &Base) {
    let store = base.open(1, 1);
    for (warehouse, units) in [(1, 1), (2, 5), (3, 2)] {
        done(&store, &create_in("a", warehouse, units)).await;
    }
    let line = Line { sku_id: sku("a"), warehouse_id: W1, quantity: 4 };
    let command = Action::Reserve(Reserve {
        order_no: order("o"),
        lines: Lines::new([line]).unwrap(),
        ttl_seconds: 60,
        buyer_id: None,
        mode: Mode::AllOrNothing,
        choice: Some(Box::new(Choice { open: vec![0], prefer: Vec::new() })),
    });
    let outcome = store.submit(&command.into(), NOW).await.unwrap();
    let (view, _) = order_of(&outcome);
    let from: Vec<_> = view.lines.iter().map(|line| (line.warehouse_id, line.held)).collect();
    assert_eq!(from, [(WarehouseId(2), 4)]);
    balance(&store).await;
}

/// They are named to their server and looked at again later, until their home answers for them.
pub async fn due_branches_ask_and_do_not_expire(base: &Base) {
    let store = base.open(1, 2);
    done(&store, &create("a", 10)).await;
    done(&store, &hold("o", 7, "a", 1)).await;
    done(&store, &hold("p", 8, "a", 2)).await;
    let expire = async |now| store.expire(now, 10, false).await.unwrap();
    let due = NOW.plus_seconds(BRANCH_ASK_SECONDS.into());
    assert_eq!(expire(due.minus_millis(1_000)).await, Expired::default());
    let named = expire(due).await;
    assert_eq!((named.seen, named.expired, named.changed), (2, 0, vec![]));
    assert_eq!(named.branches, [branch("o", "a", 7), branch("p", "a", 8)]);
    assert_eq!(expire(due).await, Expired::default(), "put off");
    store.leave_to_home(&[branch("o", "a", 7)]).await.unwrap();
    let later = due.plus_millis(POSTPONE_MILLIS + 1_000);
    assert_eq!(expire(later).await.branches, [branch("p", "a", 8)]);
    // Its home has it sell a part; that is no reason to ask.
    let command = confirm(branch("o", "a", 7));
    done(&store, &command).await;
    done(&store, &release(branch("p", "a", 8))).await;
    assert_eq!(expire(later.plus_seconds(3_600)).await, Expired::default());
    assert_eq!(levels(&store, "a").await, [9, 0, 1]);
    balance(&store).await;
}

/// Plain orders are named and put off; what is not asked about expires.
pub async fn an_order_service_may_be_asked_first(base: &Base) {
    let store = base.open(1, 2);
    done(&store, &create("a", 10)).await;
    done(&store, &reserve_as(order("o"), &[("a", 1)], 10)).await;
    let due = NOW.plus_seconds(10);
    let asked = store.expire(due, 10, true).await.unwrap();
    assert_eq!((asked.seen, asked.expired, asked.due), (1, 0, vec![order("o")]));
    assert_eq!(store.expire(due, 10, true).await.unwrap(), Expired::default());
    let later = due.plus_millis(POSTPONE_MILLIS + 1_000);
    assert_eq!(store.expire(later, 10, true).await.unwrap().due, [order("o")]);
    // Unpaid: it ends as an expired one does.
    let outcome = store.submit(&Action::Expire(order("o")).into(), later).await.unwrap();
    assert_eq!(order_of(&outcome).0.status, OrderStatus::Expired);
    done(&store, &reserve_as(order("p"), &[("a", 2)], 10)).await;
    assert_eq!(store.expire(later.plus_seconds(60), 10, false).await.unwrap().expired, 1);
    assert_eq!(levels(&store, "a").await, [10, 0, 0]);
    balance(&store).await;
}
