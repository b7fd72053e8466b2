//! Orders over several places in the journal of their home, with branches in the same shard: what of it comes to stand in the store.

use std::collections::BTreeSet;

use super::{
    Dice, Hot, W1, balance, check, check_stock, confirm, create, extend, give_back, lines, order, part,
    release, reserve, set_status, sku, without_lsn,
};
use crate::checkpoint::{Image, OrderImage};
use crate::clock::Timestamp;
use crate::command::{Action, Confirm, Mode, Place, Reserve, StockStatus};
use crate::event::Change;
use crate::home::attempt::{Judged, branches_of, branches_of_late, judge_late, judge_reserve};
use crate::home::{Asked, Errand, HomeImage, HomeStep};
use crate::ids::{AttemptId, Branch, Lsn, OrderNo, ShardId};
use crate::outcome::{Answer, OrderStatus, Outcome, Refusal};
use crate::state::State;
use crate::store::{ColdOutcome, Moving, OrderFilter, Store, Taken};

/// What the runtime does with an order over several places, in one shard.
impl Hot {
    fn step(&mut self, step: HomeStep) -> Outcome {
        self.run(Action::Home(Box::new(step)))
    }

    /// Reserves it in branches, and at its home when all of them hold.
    fn span(&mut self, number: &str, of: &[(&str, u32)], mode: Mode, attempt: u64) -> Outcome {
        let (order_no, lines, attempt) = (order(number), lines(of), AttemptId(attempt));
        let reserve = Reserve { order_no, lines, ttl_seconds: 600, buyer_id: None, mode, choice: None };
        let branches = branches_of(&reserve, attempt).into_iter();
        let answers: Vec<_> = branches.map(|branch| self.run(branch.command.action)).collect();
        match judge_reserve(&reserve, attempt, &answers) {
            Judged::Held(lines) => self.step(HomeStep::Reserve { reserve, attempt, lines }),
            Judged::Refused { refusal, releases } => {
                releases.into_iter().for_each(|branch| self.must(branch.command.action));
                Err(refusal)
            }
        }
    }

    /// Has its home decide, and holds the units of a late payment before that; `attempt` is for these.
    fn decide(&mut self, action: Action, attempt: u64) -> Outcome {
        let outcome = self.run(action.clone());
        let (Action::Confirm(confirm), Err(Refusal::HoldFirst(lines))) = (action, &outcome) else {
            return outcome;
        };
        let (order_no, attempt) = (confirm.order_no.clone(), AttemptId(attempt));
        let branches = branches_of_late(&order_no, lines, attempt).into_iter();
        let answers: Vec<_> = branches.map(|branch| self.run(branch.command.action)).collect();
        match judge_late(&order_no, lines, attempt, &answers) {
            Judged::Held(_) => self.step(HomeStep::Late { confirm, attempt, lines: lines.clone() }),
            Judged::Refused { refusal, releases } => {
                releases.into_iter().for_each(|branch| self.must(branch.command.action));
                Err(refusal)
            }
        }
    }

    /// Tells the branches what is pending.
    fn carry(&mut self, number: &str) {
        let Ok(Answer::Pending(errands)) = self.step(HomeStep::Pending(order(number))) else { return };
        for Errand { number: through, commands } in errands {
            commands.into_iter().for_each(|branch| self.must(branch.command.action));
            self.must(carried(number, through));
        }
    }

    /// Everything of these SKUs leaves.
    fn leave(&mut self, names: &[&str]) {
        let skus = names.iter().map(|name| sku(name)).collect();
        self.must(Action::Place(Box::new(Place::Close { skus })));
        while self.state.sizes().stocks > 0
            && names.iter().any(|name| self.state.image_of_stock(&sku(name), W1).is_some())
        {
            let event = self.state.next_leaving(self.now).expect("it leaves");
            let lsn = self.last().next();
            self.state.apply(lsn, &event).expect("its own event fits");
            self.events.push((lsn, event));
        }
    }

    fn home(&self, number: &str) -> HomeImage {
        self.state.image_of_home(&order(number)).expect("it is at home here")
    }
}

fn carried(number: &str, through: u64) -> Action {
    Action::Home(Box::new(HomeStep::Carried { order_no: order(number), through, serials: Vec::new() }))
}

fn is_done(outcome: &Outcome) -> bool {
    matches!(outcome, Ok(Answer::Order { .. } | Answer::Decided { .. }))
}

async fn home_of(store: &dyn Store, number: &str) -> Option<HomeImage> {
    let home = store.home(&order(number)).await.expect("it reads")?;
    Some(HomeImage { order: without_lsn(home.image.order), ..home.image })
}

/// The store has the homes as the shard does, and the branches that are there.
async fn check_homes(store: &dyn Store, hot: &Hot, numbers: &[&str]) {
    for number in numbers {
        let Some(image) = hot.state.image_of_home(&order(number)) else {
            assert_eq!(home_of(store, number).await, None, "order {number}");
            continue;
        };
        let kept = store.home(&order(number)).await.expect("it reads").expect("it is there");
        assert_eq!((kept.server, kept.shard), (hot.server, hot.shard));
        let branches = image.branches();
        let image = HomeImage { order: without_lsn(image.order), ..image };
        assert_eq!(home_of(store, number).await, Some(image), "order {number}");
        assert_eq!(store.order(&order(number)).await, Ok(None), "order {number} is at its home alone");
        for branch in branches {
            let kept = store.order(&branch).await.expect("it reads").map(|kept| without_lsn(kept.image));
            let has = hot.state.image_of_order(&branch).map(without_lsn);
            assert!(has.is_none() || kept == has, "branch {branch}: {kept:?}");
        }
        let filter = OrderFilter { sku_id: None, status: Vec::new() };
        let listed = store.list(&filter, None, 1_000).await.expect("it reads");
        let view = hot.state.order(&order(number)).map(|(_, view)| view);
        let is_it = |listed: &&crate::outcome::OrderView| listed.order_no == order(number);
        assert_eq!(listed.iter().find(is_it), view.as_ref());
        assert!(!listed.iter().any(|order| order.order_no.is_branch()));
    }
}

/// Of everything that a home logs.
fn a_home_with_everything(hot: &mut Hot) {
    hot.must(create("a", W1, 100));
    hot.must(create("b", W1, 10));
    hot.must(create("c", W1, 3));
    assert!(is_done(&hot.span("o-1", &[("a", 5), ("b", 4)], Mode::AllOrNothing, 11)));
    assert!(is_done(&hot.span("o-2", &[("a", 3), ("c", 9)], Mode::BestEffort, 12)));
    assert!(is_done(&hot.span("o-3", &[("b", 1), ("a", 1)], Mode::AllOrNothing, 13)));
    assert!(matches!(
        hot.span("o-4", &[("a", 1), ("c", 1)], Mode::AllOrNothing, 14),
        Err(Refusal::InsufficientStock { .. })
    ));
    assert!(is_done(&hot.span("o-4", &[("a", 1), ("b", 1)], Mode::AllOrNothing, 15)));
    hot.must(release("never", None));
    assert!(is_done(&hot.decide(confirm("o-1", part(&[("a", 2)], "p-1")), 0)));
    hot.carry("o-1");
    assert!(is_done(&hot.decide(release("o-1", part(&[("b", 1)], "")), 0)));
    assert!(is_done(&hot.decide(confirm("o-1", None), 0)));
    hot.must(extend("o-2", 86_400));
    assert!(is_done(&hot.decide(release("o-3", None), 0)));
    hot.carry("o-3");
    assert!(is_done(&hot.decide(confirm("o-3", None), 16)));
    hot.expire_after(700);
    hot.carry("o-4");
    assert!(is_done(&hot.decide(give_back("o-1", &[("a", 1)], "back-1"), 0)));
}

const STOCKS: [(&str, crate::ids::WarehouseId); 3] = [("a", W1), ("b", W1), ("c", W1)];
const HOMES: [&str; 4] = ["o-1", "o-2", "o-3", "o-4"];

/// Homes and branches follow from the events, whatever is pending; in batches of any size.
pub async fn what_a_home_logs_is_taken_in(store: &dyn Store) {
    let mut hot = Hot::new(1);
    a_home_with_everything(&mut hot);
    assert!(hot.home("o-1").pending.len() > 1 && hot.home("o-4").pending.is_empty());
    while !hot.events.is_empty() {
        let size = 1 + hot.events.len() % 3;
        // The answer may be lost: a repeat has no second effect.
        store.flush(hot.batch(size)).await.expect("it flushes");
        let flushed = hot.flush(store, size).await.expect("it flushes");
        assert_eq!(flushed.anomalies, 0);
    }
    check(store, &hot, &STOCKS, &["never"]).await;
    check_homes(store, &hot, &HOMES).await;
    HOMES.iter().for_each(|number| hot.carry(number));
    hot.flush_all(store).await;
    check(store, &hot, &STOCKS, &["never"]).await;
    check_homes(store, &hot, &HOMES).await;
    let held: u64 =
        store.books(None, 9).await.expect("it reads").iter().map(|books| books.held_by_orders).sum();
    assert_eq!(held, 3 + 3, "only \"o-2\" is open");
    let due = hot.now.plus_seconds(99_999);
    let swept = store.expire(due, 9, false).await.expect("it looks");
    assert_eq!(
        (swept.homes, swept.branches, swept.expired),
        (Vec::new(), Vec::new(), 0),
        "all of it is the shard's"
    );
    // Every row of the journal tells which branch it was.
    let rows = store.stock_journal(&sku("b"), &[], 99).await.expect("it reads").rows;
    let of_orders = rows.iter().filter_map(|row| row.change.order_no.as_ref());
    assert!(of_orders.clone().count() > 5 && of_orders.clone().all(OrderNo::is_branch));
    assert!(of_orders.clone().any(|number| number.of_caller() == order("o-3")));
}

/// Any orders and decisions, in batches of any size, some of them given twice.
pub async fn any_batches_of_homes_give_the_same_rows(store: &dyn Store) {
    for seed in 0..5 {
        let mut dice = Dice(seed);
        let mut hot = Hot::new(u128::from(seed) + 1);
        let skus: Vec<String> = (0..3).map(|n| format!("h{seed}-s{n}")).collect();
        let numbers: Vec<String> = (0..10).map(|n| format!("h{seed}-o{n}")).collect();
        skus.iter().for_each(|sku| hot.must(create(sku, W1, 25)));
        for attempt in 1..250 {
            let number = numbers[dice.below(10)].as_str();
            let some = 1 + dice.units(4);
            let first = dice.below(3);
            let all = [0, 1, 2].map(|n| (skus[(first + n) % 3].as_str(), some + 1));
            let of = &all[..2 + dice.below(2)];
            let id = format!("r-{attempt}");
            let attempt = seed * 1_000 + attempt;
            let outcome = match dice.below(16) {
                0..=4 => {
                    let mode = [Mode::AllOrNothing, Mode::BestEffort][dice.below(2)];
                    hot.span(number, of, mode, attempt)
                }
                5 => hot.run(reserve(number, &of[..1])),
                6 => hot.decide(confirm(number, None), attempt),
                7 | 8 => hot.decide(confirm(number, part(&[(of[0].0, some)], &id)), attempt),
                9 => hot.decide(release(number, part(&[(of[1].0, some)], &id)), attempt),
                10 => hot.decide(release(number, None), attempt),
                11 => hot.decide(give_back(number, &[(of[0].0, some)], &id), attempt),
                12 => hot.run(extend(number, 60 * some)),
                13 => {
                    hot.run(set_status(of[0].0, [StockStatus::OnSale, StockStatus::Suspended][dice.below(2)]))
                }
                14 => {
                    hot.expire_after(u64::from(60 * some));
                    continue;
                }
                _ => {
                    let asked = Asked { order_no: order(number), attempt: AttemptId(attempt) };
                    hot.step(HomeStep::Ask(asked))
                }
            };
            // Refusals are part of it, and so is what is told late.
            if outcome.is_ok() && dice.below(3) > 0 {
                hot.carry(number);
            }
        }
        while !hot.events.is_empty() {
            let most = [3, 40, 200][dice.below(3)];
            let size = 1 + dice.below(most);
            if dice.below(3) == 0 {
                // The answer was lost.
                store.flush(hot.batch(size)).await.expect("it flushes");
            }
            assert_eq!(hot.flush(store, size).await.expect("it flushes").anomalies, 0);
        }
        let numbers: Vec<_> = numbers.iter().map(String::as_str).collect();
        let (homes, plain): (Vec<&str>, Vec<&str>) =
            numbers.iter().partition(|number| hot.state.image_of_home(&order(number)).is_some());
        assert!(homes.len() > 2, "{homes:?} and {plain:?}");
        let stocks: Vec<_> = skus.iter().map(|sku| (sku.as_str(), W1)).collect();
        check(store, &hot, &stocks, &plain).await;
        check_homes(store, &hot, &homes).await;
    }
}

/// An order one of whose SKUs leaves comes apart in its shard: so it does in the store.
pub async fn an_order_that_was_split_is_taken_in(store: &dyn Store) {
    for size in [1, 2, 100] {
        let own = |name: &str| format!("{name}-{size}");
        let [a, b, both, ended, alone] = ["a", "b", "both", "ended", "alone"].map(own);
        let mut hot = Hot::new(size as u128);
        hot.must(create(&a, W1, 10));
        hot.must(create(&b, W1, 10));
        hot.must(reserve(&both, &[(&a, 3), (&b, 2)]));
        hot.must(reserve(&ended, &[(&a, 1), (&b, 1)]));
        hot.must(reserve(&alone, &[(&a, 1)]));
        hot.must(confirm(&both, part(&[(&b, 1)], "p-1")));
        hot.must(confirm(&ended, None));
        if size == 2 {
            // Not all of it in one batch.
            hot.flush_all(store).await;
        }
        hot.leave(&[&a]);
        let home = hot.home(&both);
        let branch = |name: &str| {
            let branch = Branch { order_no: order(&both), sku_id: sku(name), attempt: AttemptId(0) };
            branch.number()
        };
        assert_eq!(home.branches(), BTreeSet::from([branch(&a), branch(&b)]));
        // The home decides at once, while what left is on its way.
        let decided = hot.run(release(&both, part(&[(&b, 1)], "p-2")));
        assert!(matches!(decided, Ok(Answer::Decided { .. })), "{decided:?}");
        while !hot.events.is_empty() {
            hot.flush(store, size).await.expect("it flushes");
        }
        check_homes(store, &hot, &[&both]).await;
        assert_eq!(home_of(store, &ended).await, None, "what ended stays whole");
        for (name, owner) in [(&a, None), (&b, Some(hot.server))] {
            let row = store.stock(&sku(name), None).await.expect("it reads").remove(0);
            assert_eq!(row.owner.map(|owner| owner.server), owner);
            check_stock(store, &sku(name)).await;
        }
        balance(store).await;
        // The part that left is cold and waits for its home.
        let kept = store.order(&branch(&a)).await.expect("it reads").expect("it is there");
        assert_eq!((kept.owners, kept.image.lines[0].held), (vec![None], 3));
        let told = store.submit(&release_of(&branch(&a)).into(), hot.now).await.expect("it answers");
        assert!(matches!(told, ColdOutcome::Done { outcome: Ok(_), .. }), "{told:?}");
        let asked = store.submit(&confirm(&both, None).into(), hot.now).await.expect("it answers");
        assert!(matches!(asked, ColdOutcome::Home(_)), "{asked:?}");
        hot.carry(&both);
        hot.flush_all(store).await;
        check_homes(store, &hot, &[&both]).await;
        balance(store).await;
    }
}

fn release_of(number: &OrderNo) -> Action {
    Action::Release(crate::command::Release { order_no: number.clone(), part: None, reason: None })
}

/// Branches that left a shard with their SKU ask again, of the server that they are of.
pub async fn branches_that_left_ask(store: &dyn Store) {
    let mut hot = Hot::new(1);
    hot.must(create("a", W1, 10));
    hot.must(create("b", W1, 10));
    assert!(is_done(&hot.span("o-1", &[("a", 2), ("b", 1)], Mode::AllOrNothing, 5)));
    // Of an attempt whose home went away.
    let lost = Branch { order_no: order("lost"), sku_id: sku("a"), attempt: AttemptId(6) }.number();
    let mut only = reserve("x", &[("a", 1)]);
    if let Action::Reserve(reserve) = &mut only {
        (reserve.order_no, reserve.ttl_seconds) = (lost.clone(), 3);
    }
    hot.must(only);
    hot.leave(&["a"]);
    hot.flush_all(store).await;
    let now = hot.now.plus_seconds(60);
    let swept = store.expire(now, 9, false).await.expect("it looks");
    let kept = Branch { order_no: order("o-1"), sku_id: sku("a"), attempt: AttemptId(5) }.number();
    assert_eq!(swept.branches.iter().collect::<BTreeSet<_>>(), BTreeSet::from([&kept, &lost]));
    assert_eq!((swept.seen, swept.expired), (2, 0));
    let ask = |number: &OrderNo| {
        let Branch { order_no, attempt, .. } = number.branch().expect("it is one");
        HomeStep::Ask(Asked { order_no, attempt })
    };
    assert_eq!(hot.step(ask(&kept)), Ok(Answer::Placed));
    assert_eq!(hot.step(ask(&lost)), Err(Refusal::UnknownOrder { order_no: order("lost") }));
    store.leave_to_home(std::slice::from_ref(&kept)).await.expect("it writes");
    let done = store.submit(&release_of(&lost).into(), now).await.expect("it answers");
    assert!(matches!(done, ColdOutcome::Done { outcome: Ok(_), .. }), "{done:?}");
    let later = store.expire(now.plus_seconds(9_999), 9, false).await.expect("it looks");
    assert_eq!((later.seen, later.branches), (0, Vec::new()));
    check_stock(store, &sku("a")).await;
    balance(store).await;
}

/// A home whose number the store has for another order, and an order whose number it has for a home: the rows stay, the stocks are written.
pub async fn a_home_whose_number_is_there_is_left_alone(store: &dyn Store) {
    let (mut one, mut other) = (Hot::new(1), Hot::new(2));
    for (hot, names) in [(&mut one, ["a", "b"]), (&mut other, ["c", "d"])] {
        names.iter().for_each(|name| hot.must(create(name, W1, 10)));
    }
    one.must(reserve("plain", &[("a", 2)]));
    assert!(is_done(&one.span("home", &[("a", 2), ("b", 2)], Mode::AllOrNothing, 1)));
    one.flush_all(store).await;
    assert!(is_done(&other.span("plain", &[("c", 1), ("d", 1)], Mode::AllOrNothing, 2)));
    other.must(reserve("home", &[("c", 3)]));
    assert_eq!(other.flush_all(store).await.anomalies, 2);
    assert!(is_done(&other.decide(confirm("plain", None), 0)));
    other.carry("plain");
    other.must(confirm("home", None));
    assert_eq!(other.flush_all(store).await.anomalies, 0);
    check_homes(store, &one, &["home"]).await;
    assert_eq!(home_of(store, "plain").await, None);
    let stored = store.order(&order("plain")).await.expect("it reads").expect("it is there");
    assert_eq!(Some(without_lsn(stored.image)), one.state.image_of_order(&order("plain")).map(without_lsn));
    for (hot, name) in [(&one, "a"), (&one, "b"), (&other, "c"), (&other, "d")] {
        let image = hot.state.image_of_stock(&sku(name), W1).expect("it is there");
        assert_eq!(store.stock(&sku(name), None).await.expect("it reads")[0].view.levels, image.levels);
        check_stock(store, &sku(name)).await;
    }
    let (count, anomalies) = store.anomalies(10).await.expect("it reads");
    let about: BTreeSet<_> =
        anomalies.iter().map(|anomaly| (anomaly.kind.as_str(), anomaly.order_no.clone())).collect();
    let exists = |number| ("order_exists", Some(order(number)));
    assert_eq!((count, about), (2, BTreeSet::from([exists("plain"), exists("home")])));
}

/// Split by the store when one of its SKUs was taken, at home in the shard from then on.
pub async fn a_home_comes_from_the_store(store: &dyn Store) {
    let mut now = Timestamp(1_800_000_000_000);
    for action in [create("a", W1, 9), create("b", W1, 9), reserve("o", &[("a", 2), ("b", 3)])] {
        now = now.plus_millis(1);
        let done = store.submit(&action.into(), now).await.expect("it answers");
        assert!(matches!(done, ColdOutcome::Done { outcome: Ok(_), .. }), "{done:?}");
    }
    let mut hot = Hot::new(1);
    let taken = store.take(&[sku("a")], hot.server, hot.shard).await.expect("it takes");
    let [Taken::Owned { epoch, stocks }] = &taken[..] else { panic!("{taken:?}") };
    let moving =
        Moving { sku_id: sku("a"), server: hot.server, shard: hot.shard, since: Timestamp::default() };
    let orders = store.orders_of(&moving, None, 9).await.expect("it reads");
    let of = |name| Branch { order_no: order("o"), sku_id: sku(name), attempt: AttemptId(0) }.number();
    assert_eq!(orders.iter().map(|order| order.order_no.clone()).collect::<Vec<_>>(), [of("a")]);
    let images = stocks.iter().cloned().map(Image::Stock);
    let images = images.chain(orders.iter().cloned().map(Image::Order)).collect();
    (hot.now, hot.state) = (now, State::of_images(Lsn::ZERO, now, images).expect("each once"));
    let stocks = stocks.clone();
    hot.log(Change::AdoptionBegun { sku_id: sku("a"), epoch: *epoch, stocks });
    hot.log(Change::OrdersAdopted { sku_id: Some(sku("a")), orders, requests: Vec::new() });
    hot.log(Change::Adopted { sku_id: sku("a") });
    hot.flush_all(store).await;

    let home = store.home(&order("o")).await.expect("it reads").expect("it is there");
    assert_eq!((home.server, home.shard), (hot.server, ShardId(0)));
    let due = now.plus_seconds(700);
    assert_eq!(
        store.expire(due, 9, false).await.expect("it looks").homes,
        [order("o")],
        "it is not at home yet"
    );
    hot.must(Action::Home(Box::new(HomeStep::Adopt(Box::new(home.image.clone())))));
    hot.flush_all(store).await;
    check_homes(store, &hot, &["o"]).await;
    let due = due.plus_seconds(9_999);
    assert_eq!(store.expire(due, 9, false).await.expect("it looks").seen, 0, "its home has it");
    let decided = hot.run(confirm("o", part(&[("a", 1), ("b", 1)], "p-1")));
    let Ok(Answer::Decided { errands, order: view, .. }) = decided else { panic!("{decided:?}") };
    assert_eq!(view.status, OrderStatus::PartiallyConfirmed);
    hot.flush_all(store).await;
    check_homes(store, &hot, &["o"]).await;
    for branch in errands.into_iter().flat_map(|errand| errand.commands) {
        if branch.sku_id == sku("a") {
            hot.must(branch.command.action);
        } else {
            let done = store.submit(&branch.command, now).await.expect("it answers");
            assert!(matches!(done, ColdOutcome::Done { outcome: Ok(_), .. }), "{done:?}");
        }
    }
    hot.must(carried("o", 1));
    hot.flush_all(store).await;
    check_homes(store, &hot, &["o"]).await;
    let held = |image: OrderImage| (image.lines[0].held, image.lines[0].confirmed);
    let cold = store.order(&of("b")).await.expect("it reads").expect("it is there");
    let in_shard = hot.state.image_of_order(&of("a")).expect("it is here");
    assert_eq!((held(in_shard), held(cold.image)), ((1, 1), (2, 1)));
    for name in ["a", "b"] {
        check_stock(store, &sku(name)).await;
    }
    balance(store).await;
    // The same confirm once more is the same.
    let asked = Action::Confirm(Confirm { order_no: order("o"), part: part(&[("b", 1), ("a", 1)], "p-1") });
    assert!(matches!(hot.run(asked), Ok(Answer::Order { .. })));
}
