//! Orders over several places: their branches, which SQL holds like orders, and how an order in one place becomes one over several. Also the
//! list of orders.

use std::collections::BTreeSet;

use super::{
    HOUR, NOW, Subject, W1, confirm, create, done, levels, order_no, outcome, release, request_id, reserve,
    sku,
};
use crate::checkpoint::{LineImage, OrderImage, Phase};
use crate::command::{Action, Choice, Command, Line, Lines, Mode, Reserve, Return};
use crate::home::attempt::{Judged, branches_of, judge_reserve};
use crate::home::{HomeImage, Share};
use crate::ids::{AttemptId, Branch, OrderNo, ServerId, ShardId, WarehouseId, shard_of_order};
use crate::outcome::{Answer, Effect, OrderStatus, OrderView, Refusal};
use crate::state::State;
use crate::store::{ColdOutcome, Moving, OrderFilter, Owner, Store, StoredHome, Taken};

/// Servers of these tests, each with four shards.
const ONE: ServerId = ServerId(1);
const TWO: ServerId = ServerId(2);
const SHARDS: u16 = 4;

fn branch(order: &str, name: &str, attempt: u64) -> OrderNo {
    Branch { order_no: order_no(order), sku_id: sku(name), attempt: AttemptId(attempt) }.number()
}

/// A reserve of one unit of each SKU.
fn wanted(order: &str, skus: &[&str]) -> Reserve {
    match reserve(order, skus, HOUR).action {
        Action::Reserve(reserve) => reserve,
        other => unreachable!("{other:?}"),
    }
}

/// Reserves the branches of an attempt, all of which are cold. Gives their numbers.
async fn attempted(store: &dyn Store, order: &str, skus: &[&str], attempt: u64) -> Vec<OrderNo> {
    let reserve = wanted(order, skus);
    let branches = branches_of(&reserve, AttemptId(attempt));
    let commands: Vec<Command> = branches.into_iter().map(|branch| branch.command).collect();
    let outcomes = store.submit_all(&commands, NOW).await.expect("the store is there");
    let answers: Vec<_> = outcomes.into_iter().map(outcome_of).collect();
    let judged = judge_reserve(&reserve, AttemptId(attempt), &answers);
    assert!(matches!(judged, Judged::Held(_)), "{judged:?}");
    commands.iter().filter_map(|command| command.order_no().cloned()).collect()
}

fn outcome_of(cold: ColdOutcome) -> crate::outcome::Outcome {
    match cold {
        ColdOutcome::Done { outcome, .. } => outcome,
        other => panic!("{other:?}"),
    }
}

/// The home of an order that a command is about.
async fn at_home(store: &dyn Store, command: &Command) -> StoredHome {
    match store.submit(command, NOW).await.expect("the store is there") {
        ColdOutcome::Home(home) => *home,
        other => panic!("{command:?}: {other:?}"),
    }
}

async fn stored(store: &dyn Store, number: &OrderNo) -> OrderImage {
    store.order(number).await.expect("the store is there").expect("the order is there").image
}

async fn listed(
    store: &dyn Store,
    filter: &OrderFilter,
    after: Option<&OrderNo>,
    limit: usize,
) -> Vec<OrderView> {
    store.list(filter, after, limit).await.expect("the store is there")
}

/// The units of the lines of an order and of its branches: per SKU held, confirmed, returned.
async fn check_branches(store: &dyn Store, home: &HomeImage) {
    let mut places = BTreeSet::new();
    for number in home.branches() {
        let kept = stored(store, &number).await;
        for LineImage { sku_id, warehouse_id, held, confirmed, released, returned, .. } in kept.lines {
            let is_of = |share: &&Share| {
                let line = &home.order.lines[usize::from(share.line)];
                let of = Branch {
                    order_no: home.order.order_no.clone(),
                    sku_id: line.sku_id.clone(),
                    attempt: share.attempt,
                };
                of.number() == number && line.warehouse_id == warehouse_id && line.sku_id == sku_id
            };
            let share = home.shares.iter().find(is_of).expect("each line of a branch has its share");
            assert_eq!(
                (held, confirmed, released, returned),
                (share.held, share.confirmed, share.released, share.returned)
            );
            assert!(places.insert((sku_id, warehouse_id)), "one branch for each line here");
        }
    }
    let got = |line: &&LineImage| line.held + line.confirmed + line.released > 0;
    assert_eq!(places.len(), home.order.lines.iter().filter(got).count());
}

/// Reserved, asked after, kept, confirmed, returned, under its own number; nobody lists it.
pub async fn branches_lie_like_orders(subject: &dyn Subject) {
    let (one, two) = (subject.open_as(ONE, SHARDS), subject.open_as(TWO, SHARDS));
    for name in ["a", "b"] {
        done(&*one, &create(name, W1, 10), NOW).await;
    }
    let numbers = attempted(&*one, "o", &["a", "b"], 77).await;
    assert_eq!(numbers, [branch("o", "a", 77), branch("o", "b", 77)]);
    let again = attempted(&*one, "o", &["a", "b"], 77).await;
    assert_eq!(
        (again, levels(&*one, "a").await.reserved),
        (numbers.clone(), 1),
        "a repeat holds nothing more"
    );
    assert_eq!(listed(&*one, &OrderFilter::default(), None, 10).await, []);
    assert_eq!(one.home(&order_no("o")).await, Ok(None), "its home knows it, not the store");
    assert_eq!(one.order(&order_no("o")).await, Ok(None));

    // They ask when their time has come, are named again later, and never expire.
    assert_eq!(one.expire(NOW, 9, false).await.expect("the store is there").seen, 0);
    let late = NOW.plus_seconds(u64::from(HOUR));
    let other = two.expire(late, 9, false).await.expect("the store is there");
    assert_eq!((other.seen, other.branches), (0, Vec::new()), "another server knows nothing of their home");
    let first = one.expire(late, 1, true).await.expect("the store is there");
    let second = one.expire(late, 9, true).await.expect("the store is there");
    let named: BTreeSet<OrderNo> = first.branches.iter().chain(&second.branches).cloned().collect();
    assert_eq!((first.seen, second.seen, named), (1, 1, numbers.iter().cloned().collect()));
    assert_eq!((first.expired + second.expired, first.due.len() + second.due.len()), (0, 0));
    assert_eq!(one.expire(late, 9, false).await.expect("the store is there").seen, 0, "they are put off");
    let later = late.plus_seconds(u64::from(HOUR));
    assert_eq!(one.expire(later, 9, false).await.expect("the store is there").branches.len(), 2);
    one.leave_to_home(&numbers).await.expect("the store is there");
    one.leave_to_home(&[order_no("nobody"), branch("nobody", "a", 1)]).await.expect("the store is there");
    let later = later.plus_seconds(u64::from(HOUR));
    assert_eq!(one.expire(later, 9, false).await.expect("the store is there").seen, 0);

    let [a, b] = &numbers[..] else { unreachable!() };
    done(&*one, &confirm_of(a), later).await;
    let back = Return { order_no: a.clone(), request_id: request_id("d2"), lines: None };
    done(&*one, &Action::Return(back).into(), later).await;
    done(&*one, &Action::Expire(b.clone()).into(), later).await;
    let images = [stored(&*one, a).await, stored(&*one, b).await];
    assert_eq!(images.each_ref().map(|image| image.phase), [Phase::Open, Phase::Expired]);
    assert_eq!([levels(&*one, "a").await.available, levels(&*one, "b").await.available], [10, 10]);
    let journal = one.stock_journal(&sku("b"), &[], 9).await.expect("the store is there").rows;
    let rows: Vec<_> =
        journal.iter().map(|row| (row.change.kind.name(), row.change.order_no.as_ref())).collect();
    assert_eq!(rows, [("created", None), ("reserved", Some(b)), ("expired", Some(b))]);

    // One that was released before it came is a tombstone, also for its reserve.
    let gone = branch("p", "a", 5);
    done(&*one, &release_of(&gone), NOW).await;
    let late = branches_of(&wanted("p", &["a", "b"]), AttemptId(5)).remove(0).command;
    assert_eq!(outcome(&*one, &late, NOW).await, Err(Refusal::OrderCancelled { order_no: gone }));
}

fn confirm_of(number: &OrderNo) -> Command {
    Action::Confirm(crate::command::Confirm { order_no: number.clone(), part: None }).into()
}

fn release_of(number: &OrderNo) -> Command {
    Action::Release(crate::command::Release { order_no: number.clone(), part: None, reason: None }).into()
}

/// Each as if it had been given alone, one after the other, whatever the others are told.
pub async fn commands_go_together(subject: &dyn Subject) {
    let store = subject.open();
    for name in ["a", "b", "hot"] {
        done(&*store, &create(name, W1, 3), NOW).await;
    }
    let taken = store.take(&[sku("hot")], TWO, ShardId(1)).await.expect("the store is there");
    assert!(matches!(taken[..], [Taken::Owned { .. }]));
    let commands = [
        reserve("o", &["a", "b"], HOUR),
        reserve("p", &["nothing"], HOUR),
        reserve("q", &["hot"], HOUR),
        confirm("o"),
        reserve("r", &["a"], HOUR),
        confirm("o"),
    ];
    let outcomes = store.submit_all(&commands, NOW).await.expect("the store is there");
    let owner = Owner { server: TWO, shard: ShardId(1), epoch: 1 };
    assert_eq!(outcomes[2], ColdOutcome::Elsewhere(owner));
    let effects: Vec<_> = [0, 1, 3, 4, 5].map(|at| outcome_of(outcomes[at].clone())).into_iter().collect();
    let effect = |at: usize| match &effects[at] {
        Ok(Answer::Order { effect, .. }) => Some(*effect),
        _ => None,
    };
    assert!(matches!(effects[1], Err(Refusal::UnknownSku { .. })));
    let seen = [0, 2, 3, 4].map(effect);
    assert_eq!(seen, [Effect::Created, Effect::Changed, Effect::Created, Effect::Replayed].map(Some));
    let of_a = levels(&*store, "a").await;
    assert_eq!((of_a.available, of_a.reserved, of_a.sold, of_a.version), (1, 1, 1, 4));
    let ColdOutcome::Done { changed, .. } = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(changed.len(), 2, "what it changed, for the mirror");
    assert_eq!(store.submit_all(&[], NOW).await, Ok(Vec::new()));
}

/// A cold order whose order service is to be asked is named and left as it is, until it is told what to do.
pub async fn due_orders_are_asked_about_first(subject: &dyn Subject) {
    let store = subject.open();
    for name in ["a", "b"] {
        done(&*store, &create(name, W1, 10), NOW).await;
    }
    for order in ["paid", "unpaid", "kept"] {
        done(&*store, &reserve(order, &["a", "b"], 10), NOW).await;
    }
    let now = NOW.plus_seconds(20);
    let mut due = store.expire(now, 2, true).await.expect("the store is there");
    assert_eq!((due.seen, due.expired, due.changed.len()), (2, 0, 0));
    due.due.extend(store.expire(now, 2, true).await.expect("the store is there").due);
    due.due.sort();
    assert_eq!(due.due, ["kept", "paid", "unpaid"].map(order_no));
    assert_eq!(store.expire(now, 9, true).await.expect("the store is there").seen, 0, "they are put off");
    done(&*store, &confirm("paid"), now).await;
    let early = outcome(&*store, &Action::Expire(order_no("nobody")).into(), now).await;
    assert_eq!(early, Err(Refusal::UnknownOrder { order_no: order_no("nobody") }));
    done(&*store, &Action::Expire(order_no("unpaid")).into(), now).await;
    let extend = crate::command::Extend { order_no: order_no("kept"), ttl_seconds: 30 };
    done(&*store, &Action::Extend(extend).into(), now).await;
    let not_yet = outcome(&*store, &Action::Expire(order_no("kept")).into(), now).await;
    assert!(matches!(not_yet, Ok(Answer::Order { effect: Effect::Replayed, .. })), "{not_yet:?}");
    let of_a = levels(&*store, "a").await;
    assert_eq!((of_a.reserved, of_a.sold), (1, 1));
    let due = store.expire(now.plus_seconds(40), 9, true).await.expect("the store is there");
    assert_eq!((due.due, due.expired), (vec![order_no("kept")], 0));
    // One that was put off is not lost.
    let swept = store.expire(now.plus_seconds(4_000), 9, false).await.expect("the store is there");
    assert_eq!((swept.seen, swept.expired), (1, 1));
    let journal = store.stock_journal(&sku("a"), &[], 99).await.expect("the store is there").rows;
    assert_eq!(journal.iter().filter(|row| row.change.kind.name() == "expired").count(), 2);
}

/// What changes nothing is answered for an order whose SKUs have come apart; anything else makes it one over several places.
pub async fn an_order_come_apart_gets_a_home(subject: &dyn Subject) {
    let store = subject.open_as(ONE, SHARDS);
    for name in ["a", "b", "c"] {
        done(&*store, &create(name, W1, 2), NOW).await;
    }
    done(&*store, &reserve("paid", &["a", "b"], HOUR), NOW).await;
    done(&*store, &confirm("paid"), NOW).await;
    for order in ["lapsed", "late"] {
        done(&*store, &reserve(order, &["a", "b"], HOUR), NOW).await;
        done(&*store, &release(order), NOW).await;
    }
    let taken = store.take(&[sku("a")], TWO, ShardId(3)).await.expect("the store is there");
    assert!(matches!(taken[..], [Taken::Owned { epoch: 1, .. }]));
    let owner = Owner { server: TWO, shard: ShardId(3), epoch: 1 };

    for command in
        [confirm("paid"), reserve("paid", &["b", "a"], HOUR), Action::GetOrder(order_no("paid")).into()]
    {
        let answer = outcome(&*store, &command, NOW).await;
        let Ok(Answer::Order { order, effect: Effect::Replayed }) = answer else {
            panic!("{command:?}: {answer:?}")
        };
        assert_eq!(order.status, OrderStatus::Confirmed);
    }
    let mismatch = outcome(&*store, &reserve("paid", &["b"], HOUR), NOW).await;
    assert_eq!(mismatch, Err(Refusal::OrderMismatch { order_no: order_no("paid") }));
    assert_eq!(store.home(&order_no("paid")).await, Ok(None), "it lies where it lay");
    // A new one is not for the store to decide.
    let new = store.submit(&reserve("new", &["b", "a"], HOUR), NOW).await.expect("the store is there");
    assert_eq!(new, ColdOutcome::Elsewhere(owner));
    let unknown = reserve("new", &["b", "nothing"], HOUR);
    assert!(matches!(outcome(&*store, &unknown, NOW).await, Err(Refusal::UnknownSku { .. })));

    let before = listed(&*store, &OrderFilter::default(), None, 9).await;
    let versions = [levels(&*store, "a").await.version, levels(&*store, "b").await.version];
    let back = Return { order_no: order_no("paid"), request_id: request_id("r"), lines: None };
    // The row of a hot SKU says nothing of its stock: what is short by it may be there.
    done(&*store, &reserve("last", &["b"], HOUR), NOW).await;
    for (command, number) in
        [(Action::Return(back).into(), "paid"), (confirm("lapsed"), "lapsed"), (confirm("late"), "late")]
    {
        let home = at_home(&*store, &command).await;
        let shard = shard_of_order(&order_no(number), SHARDS);
        // With the server that has the others of its SKUs: no other one could tell it anything.
        assert_eq!((home.server, home.shard, &home.image.order.order_no), (TWO, shard, &order_no(number)));
        assert_eq!((home.image.decisions, home.image.pending.len(), home.image.is_open()), (0, 0, false));
        check_branches(&*store, &home.image).await;
        assert_eq!(store.home(&order_no(number)).await, Ok(Some(home.clone())));
        assert_eq!(store.order(&order_no(number)).await, Ok(None), "it is at its home");
        for command in
            [confirm(number), reserve(number, &["a", "b"], HOUR), Action::GetOrder(order_no(number)).into()]
        {
            assert_eq!(at_home(&*store, &command).await, home, "from here on its home decides");
        }
        // Its branches are decided where they lie.
        let cold = outcome(&*store, &Action::GetOrder(branch(number, "b", 0)).into(), NOW).await;
        assert!(cold.is_ok(), "{cold:?}");
        let hot = store.submit(&Action::GetOrder(branch(number, "a", 0)).into(), NOW).await;
        assert_eq!(hot, Ok(ColdOutcome::Elsewhere(owner)));
    }
    let seen = listed(&*store, &OrderFilter::default(), None, 9).await;
    let but_last: Vec<_> = seen.into_iter().filter(|order| order.order_no != order_no("last")).collect();
    assert_eq!(but_last, before, "callers see no difference");
    assert_eq!(
        [levels(&*store, "a").await.version, levels(&*store, "b").await.version],
        [versions[0], versions[1] + 1],
        "no unit moved"
    );
    let due = store.expire(NOW.plus_seconds(99_999), 9, false).await.expect("the store is there");
    assert_eq!(
        (due.homes, due.branches, due.expired),
        (Vec::new(), Vec::new(), 1),
        "only the open one falls due"
    );
    // Two shards are several places too, and what is cold goes on.
    let taken = store.take(&[sku("b")], ONE, ShardId(2)).await.expect("the store is there");
    assert!(matches!(taken[..], [Taken::Owned { .. }]));
    let new = store.submit(&reserve("new", &["a", "b"], HOUR), NOW).await.expect("the store is there");
    assert!(matches!(new, ColdOutcome::Elsewhere(_)), "{new:?}");
    done(&*store, &reserve("cold", &["c"], HOUR), NOW).await;
}

/// A SKU that is taken takes its part of an open order along and leaves the others.
pub async fn open_orders_come_apart_with_their_skus(subject: &dyn Subject) {
    let store = subject.open_as(TWO, SHARDS);
    for name in ["a", "b", "c", "d"] {
        done(&*store, &create(name, W1, 10), NOW).await;
    }
    done(&*store, &reserve("ab", &["a", "b"], 60), NOW).await;
    done(&*store, &reserve("bc", &["b", "c"], HOUR), NOW).await;
    done(&*store, &reserve("cd", &["c", "d"], HOUR), NOW).await;
    done(&*store, &reserve("ended", &["a", "c"], HOUR), NOW).await;
    done(&*store, &release("ended"), NOW).await;
    let before = listed(&*store, &OrderFilter::default(), None, 9).await;
    let taken = store.take(&[sku("a"), sku("b")], ONE, ShardId(2)).await.expect("the store is there");
    assert!(matches!(taken[..], [Taken::Owned { .. }, Taken::Owned { .. }]), "{taken:?}");

    // Both SKUs of "ab" went, "cd" stayed, "bc" lies in two places now.
    for number in ["ab", "cd", "ended"] {
        assert_eq!(store.home(&order_no(number)).await, Ok(None), "{number}");
        assert_eq!(stored(&*store, &order_no(number)).await.lines.len(), 2);
    }
    let home = store.home(&order_no("bc")).await.expect("the store is there").expect("it is there");
    assert_eq!((home.server, home.shard), (ONE, shard_of_order(&order_no("bc"), SHARDS)));
    assert!(home.image.is_open());
    check_branches(&*store, &home.image).await;
    assert_eq!(at_home(&*store, &confirm("bc")).await, home);
    assert_eq!(listed(&*store, &OrderFilter::default(), None, 9).await, before, "callers see no difference");
    assert_eq!(
        [levels(&*store, "b").await.version, levels(&*store, "c").await.version],
        [3, 5],
        "no unit moved"
    );

    let moving = Moving { sku_id: sku("b"), server: ONE, shard: ShardId(2), since: NOW };
    let along = store.orders_of(&moving, None, 9).await.expect("the store is there");
    let along: Vec<_> = along.into_iter().map(|order| order.order_no).collect();
    assert_eq!(along, [order_no("ab"), branch("bc", "b", 0)]);
    // Its rows in the journal, from before and from since, are one order's.
    let number = branch("bc", "c", 0);
    done(&*store, &confirm_of(&number), NOW).await;
    for name in ["b", "c"] {
        assert_eq!(store.suspects(&sku(name), W1, 9).await, Ok(Vec::new()), "SKU {name}");
    }
    // Its home is not told yet: the sweep of its server names it when its time is over, once in a while; never its branches.
    let over = NOW.plus_seconds(u64::from(HOUR) + 60);
    let other = store.expire(over, 9, false).await.expect("the store is there");
    assert_eq!((other.homes.len(), other.branches.len(), other.expired), (0, 0, 1), "only \"cd\"");
    let one = subject.open_as(ONE, SHARDS);
    let swept = one.expire(over, 9, true).await.expect("the store is there");
    assert_eq!((swept.homes, swept.branches, swept.expired), (vec![order_no("bc")], Vec::new(), 0));
    assert_eq!(one.expire(over, 9, true).await.expect("the store is there").seen, 0, "it is put off");
    let later = over.plus_seconds(u64::from(HOUR));
    assert_eq!(one.expire(later, 9, false).await.expect("the store is there").homes, [order_no("bc")]);
    assert_eq!(store.home(&order_no("bc")).await, Ok(Some(home)), "nothing is decided here");
    // Taken again, it is as it is; and the rest comes after it.
    let again = store.take(&[sku("c"), sku("b")], ONE, ShardId(2)).await.expect("the store is there");
    assert!(matches!(again[..], [Taken::Owned { .. }, Taken::Owned { epoch: 1, .. }]), "{again:?}");
}

/// Pages are complete, by number (as bytes), and as orders are read.
pub async fn orders_are_listed_page_by_page(subject: &dyn Subject) {
    let store = subject.open_as(ONE, 1);
    for name in ["a", "b", "a "] {
        done(&*store, &create(name, W1, 100), NOW).await;
    }
    let mut expected = Vec::new();
    for n in 0..40_u32 {
        let number = ["A", "a", "ä", "a "][(n % 4) as usize].to_owned() + &n.to_string();
        let skus = [&["a"][..], &["b"], &["a", "b"], &["a "], &["b", "a "]][(n % 5) as usize];
        if n % 11 == 10 {
            done(&*store, &release(&number), NOW).await;
        } else {
            done(&*store, &reserve(&number, skus, if n % 6 == 5 { 5 } else { HOUR }), NOW).await;
        }
        let end = match n % 6 {
            _ if n % 11 == 10 => None,
            1 => Some(release(&number)),
            2 | 3 => Some(confirm(&number)),
            _ => None,
        };
        if let Some(end) = end {
            done(&*store, &end, NOW).await;
        }
        if n % 6 == 3 && n % 11 != 10 {
            let back = Return { order_no: order_no(&number), request_id: request_id("r"), lines: None };
            done(&*store, &Action::Return(back).into(), NOW).await;
        }
        expected.push(number);
    }
    while store.expire(NOW.plus_seconds(9), 3, false).await.expect("the store is there").seen > 0 {}
    // Some come to lie in several places.
    let taken = store.take(&[sku("a")], ONE, ShardId(0)).await.expect("the store is there");
    assert!(matches!(taken[..], [Taken::Owned { .. }]));
    expected.sort();

    let every = [
        OrderStatus::Reserved,
        OrderStatus::Confirmed,
        OrderStatus::Released,
        OrderStatus::Expired,
        OrderStatus::Cancelled,
        OrderStatus::Returned,
    ];
    let all = listed(&*store, &OrderFilter::default(), None, 1_000).await;
    let numbers: Vec<_> = all.iter().map(|order| order.order_no.as_str()).collect();
    assert_eq!(numbers, expected);
    let (mut plain, mut homes) = (0, 0);
    for order in &all {
        let image = match store.home(&order.order_no).await.expect("the store is there") {
            Some(home) => {
                homes += 1;
                home.image.order
            }
            None => {
                plain += 1;
                stored(&*store, &order.order_no).await
            }
        };
        assert_eq!(State::view_of(image).as_ref(), Some(order));
    }
    assert!(plain > 30 && homes > 1, "{plain} and {homes}");
    assert!(every.iter().all(|status| all.iter().any(|order| order.status == *status)), "{all:?}");

    let mut filters = vec![OrderFilter::default()];
    for status in [
        vec![],
        every[..1].to_vec(),
        every[1..3].to_vec(),
        vec![OrderStatus::PartiallyReturned],
        every.to_vec(),
    ] {
        for name in ["a", "b", "a ", "A"] {
            filters.push(OrderFilter { status: status.clone(), sku_id: Some(sku(name)) });
        }
        filters.push(OrderFilter { status, sku_id: None });
    }
    for filter in filters {
        let wanted: Vec<_> = all.iter().filter(|order| filter.takes(order)).cloned().collect();
        for limit in [1, 3, 1_000] {
            let mut seen: Vec<OrderView> = Vec::new();
            loop {
                let after = seen.last().map(|order| order.order_no.clone());
                let page = listed(&*store, &filter, after.as_ref(), limit).await;
                assert!(page.len() <= limit);
                if page.is_empty() {
                    break;
                }
                seen.extend(page);
            }
            assert_eq!(seen, wanted, "{filter:?} in pages of {limit}");
        }
    }
}

/// A line that lies where its decider puts it is served from any warehouse.
pub async fn any_warehouse_serves_a_line_that_is_open(subject: &dyn Subject) {
    let store = subject.open();
    for (warehouse, units) in [(1, 2), (2, 5), (3, 4)] {
        done(&*store, &create("a", WarehouseId(warehouse), units), NOW).await;
    }
    let open = |order: &str, quantity: u32, prefer: &[u32]| {
        let line = Line { sku_id: sku("a"), warehouse_id: W1, quantity };
        let prefer = prefer.iter().map(|number| WarehouseId(*number)).collect();
        Command::from(Action::Reserve(Reserve {
            order_no: order_no(order),
            lines: Lines::new([line]).expect("a small line"),
            ttl_seconds: HOUR,
            buyer_id: None,
            mode: Mode::AllOrNothing,
            choice: Some(Box::new(Choice { open: vec![0], prefer })),
        }))
    };
    done(&*store, &open("whole", 5, &[]), NOW).await;
    done(&*store, &open("preferred", 1, &[3]), NOW).await;
    done(&*store, &open("cut", 5, &[]), NOW).await;
    let warehouses = |image: OrderImage| -> Vec<(u32, u32)> {
        let mut lines: Vec<_> = image.lines.iter().map(|line| (line.warehouse_id.0, line.held)).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(warehouses(stored(&*store, &order_no("whole")).await), [(2, 5)]);
    assert_eq!(warehouses(stored(&*store, &order_no("preferred")).await), [(3, 1)]);
    assert_eq!(warehouses(stored(&*store, &order_no("cut")).await), [(1, 2), (3, 3)]);
    let repeat = outcome(&*store, &open("cut", 5, &[]), NOW).await;
    assert!(matches!(repeat, Ok(Answer::Order { effect: Effect::Replayed, .. })), "{repeat:?}");
    let refused = outcome(&*store, &open("none", 1, &[]), NOW).await;
    assert!(matches!(refused, Err(Refusal::InsufficientStock { .. })), "{refused:?}");
}
