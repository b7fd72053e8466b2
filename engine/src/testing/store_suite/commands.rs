//! Cold commands and expiry.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::{
    HOUR, NOW, Subject, W1, confirm, create, done, levels, order_no, outcome, release, request_id, reserve,
    restock, sku,
};
use crate::checkpoint::OrderImage;
use crate::clock::Timestamp;
use crate::command::{
    Action, ChangeKind, ChangeStock, Choice, Command, Confirm, CreateStock, Extend, Line, Lines, Mode, Part,
    Release, Reserve, Return, SetStatus, StockStatus,
};
use crate::ids::{BuyerId, Lsn, OrderNo, ShardId, SkuId, TraceId, WarehouseId};
use crate::outcome::{Answer, Effect, Outcome, Refusal, StockView};
use crate::state::{Decision, State};
use crate::store::{ColdOutcome, JournalRow, Store, StoreError};

/// A small generator (splitmix64): the same seed, the same commands.
struct Dice(u64);

impl Dice {
    /// 0 to `below` - 1.
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    /// A small number, 1 to `most`.
    fn small(&mut self, most: u32) -> u32 {
        u32::try_from(self.roll(u64::from(most))).unwrap_or(0) + 1
    }

    fn sku(&mut self) -> SkuId {
        // Names that a careless collation takes for one.
        sku(["a", "A", "ä", "a "][usize::try_from(self.roll(4)).unwrap_or(0)])
    }

    fn warehouse(&mut self) -> WarehouseId {
        WarehouseId(self.small(2))
    }

    fn order(&mut self) -> OrderNo {
        order_no(&format!("order {}", self.roll(12)))
    }

    fn lines(&mut self, most: u32) -> Lines {
        let count = [1, 1, 2, 3][usize::try_from(self.roll(4)).unwrap_or(0)];
        let line =
            |_| Line { sku_id: self.sku(), warehouse_id: self.warehouse(), quantity: self.small(most) };
        Lines::new((0..count).map(line).collect::<Vec<_>>()).expect("a few small lines")
    }

    /// The first line may lie anywhere.
    fn choice(&mut self) -> Option<Box<Choice>> {
        let prefer = (0..self.roll(3)).map(|_| self.warehouse()).collect();
        (self.roll(4) == 0).then(|| Box::new(Choice { open: vec![0], prefer }))
    }

    fn part(&mut self) -> Option<Part> {
        let part = self.roll(2) == 0;
        part.then(|| Part {
            lines: self.lines(2),
            request_id: (self.roll(3) > 0).then(|| request_id(&format!("part {}", self.roll(3)))),
        })
    }

    fn action(&mut self) -> Action {
        match self.roll(20) {
            0 => Action::CreateStock(CreateStock {
                sku_id: self.sku(),
                warehouse_id: self.warehouse(),
                quantity: [20, 20, 20, 7][usize::try_from(self.roll(4)).unwrap_or(0)],
                // All warehouses of a SKU agree, or the last one is refused.
                serialized: self.roll(2) == 0,
            }),
            1..=2 => Action::ChangeStock(ChangeStock {
                sku_id: self.sku(),
                warehouse_id: self.warehouse(),
                kind: [ChangeKind::Restock, ChangeKind::Deduct, ChangeKind::Adjust]
                    [usize::try_from(self.roll(3)).unwrap_or(0)],
                quantity: i64::from(self.small(9)),
                request_id: request_id(&format!("change {}", self.roll(30))),
                reason: None,
            }),
            3 => Action::SetStatus(SetStatus {
                sku_id: self.sku(),
                warehouse_id: (self.roll(2) == 0).then(|| self.warehouse()),
                status: if self.roll(3) == 0 { StockStatus::Suspended } else { StockStatus::OnSale },
            }),
            4..=9 => Action::Reserve(Reserve {
                order_no: self.order(),
                lines: self.lines(4),
                ttl_seconds: self.small(30),
                buyer_id: (self.roll(9) == 0).then(|| BuyerId::new("Käufer").expect("a short text")),
                mode: if self.roll(3) == 0 { Mode::BestEffort } else { Mode::AllOrNothing },
                choice: self.choice(),
            }),
            10..=12 => Action::Confirm(Confirm { order_no: self.order(), part: self.part() }),
            13..=14 => Action::Release(Release { order_no: self.order(), part: self.part(), reason: None }),
            15 => Action::Extend(Extend { order_no: self.order(), ttl_seconds: self.small(30) }),
            16..=17 => Action::Return(Return {
                order_no: self.order(),
                request_id: request_id(&format!("return {}", self.roll(3))),
                lines: (self.roll(2) == 0).then(|| self.lines(2)),
            }),
            _ => Action::GetOrder(self.order()),
        }
    }
}

/// A shard's state machine that is asked the same.
struct Twin {
    state: State,
    /// What the stock journal must hold.
    journal: Vec<JournalRow>,
}

impl Twin {
    fn apply(&mut self, event: &crate::event::Event) {
        let levels = |sku_id: &SkuId, warehouse_id: WarehouseId| {
            self.state.image_of_stock(sku_id, warehouse_id).map(|image| image.levels)
        };
        let (at, trace, source) = (event.at, event.trace, None);
        let moves = event.stock_moves(levels).into_iter();
        self.journal.extend(moves.map(|change| JournalRow { change, at, trace, source }));
        let lsn = self.state.applied().next();
        self.state.apply(lsn, event).expect("an event of its own fits");
    }

    fn submit(&mut self, command: &Command, now: Timestamp) -> (Outcome, Vec<StockView>) {
        match self.state.decide(command, now) {
            Decision::Answer(outcome) => (outcome, Vec::new()),
            Decision::Log(event) => {
                self.apply(&event);
                (Ok(self.state.answer(&event)), self.changed())
            }
        }
    }

    fn expire(&mut self, now: Timestamp) -> (usize, Vec<StockView>) {
        let mut expired = 0;
        while let Some(event) = self.state.next_expiry(now) {
            self.apply(&event);
            expired += 1;
        }
        (expired, self.changed())
    }

    fn changed(&mut self) -> Vec<StockView> {
        let numbers = self.state.take_touched();
        by_key(numbers.into_iter().map(|number| self.state.stock_view(number)).collect())
    }
}

fn by_key(mut stocks: Vec<StockView>) -> Vec<StockView> {
    stocks.sort_by(|a, b| (&a.sku_id, a.warehouse_id).cmp(&(&b.sku_id, b.warehouse_id)));
    stocks
}

/// Random commands and expiry, seed by seed: each outcome, each level and each order as in a shard.
///
/// # Panics
/// When the store does not keep its contract; so do all functions of the suite.
pub async fn random_commands_end_as_in_a_shard(subject: &dyn Subject) {
    let store = subject.open();
    for seed in 0..6 {
        let mut dice = Dice(seed);
        let mut twin = Twin { state: State::new(ShardId(0), 1), journal: Vec::new() };
        // Every seed has SKUs and orders of its own, in one database.
        let own = |action| own_names(action, seed);
        let mut now = Timestamp(NOW.0 + seed * 1_000_000_000);
        for step in 0..300 {
            now = now.plus_millis(dice.roll(3_000));
            let command = Command {
                trace: (dice.roll(3) == 0).then(|| TraceId(u128::from(seed).to_be_bytes())),
                action: own(dice.action()),
            };
            let (expected, changed) = twin.submit(&command, now);
            let got = store.submit(&command, now).await.expect("the store is there");
            let ColdOutcome::Done { outcome, changed: seen } = got else { panic!("{command:?}: {got:?}") };
            assert_eq!(outcome, expected, "seed {seed}, step {step}: {command:?}");
            assert_eq!(by_key(seen), changed, "seed {seed}, step {step}: {command:?}");
            if dice.roll(10) == 0 {
                let (expired, changed) = twin.expire(now);
                let got = store.expire(now, 1_000, false).await.expect("the store is there");
                assert_eq!((got.seen, got.expired), (expired, expired), "seed {seed}, step {step}");
                assert_eq!(by_key(got.changed), changed, "seed {seed}, step {step}");
            }
        }
        assert_same_end(&*store, &twin).await;
        // Nothing of it falls due while the next seed runs.
        while store.expire(Timestamp(u64::MAX >> 12), 1_000, false).await.expect("the store is there").seen
            > 0
        {}
    }
}

fn own_names(action: Action, seed: u64) -> Action {
    let own = |order: OrderNo| order_no(&format!("{seed}: {order}"));
    let own_sku = |id: SkuId| sku(&format!("{seed}{id}"));
    let own_lines = |lines: Lines| {
        let lines =
            lines.as_slice().iter().map(|line| Line { sku_id: own_sku(line.sku_id.clone()), ..line.clone() });
        Lines::new(lines).expect("they were good before")
    };
    let own_part = |part: Option<Part>| part.map(|part| Part { lines: own_lines(part.lines), ..part });
    match action {
        Action::CreateStock(c) => Action::CreateStock(CreateStock { sku_id: own_sku(c.sku_id), ..c }),
        Action::ChangeStock(c) => Action::ChangeStock(ChangeStock { sku_id: own_sku(c.sku_id), ..c }),
        Action::SetStatus(c) => Action::SetStatus(SetStatus { sku_id: own_sku(c.sku_id), ..c }),
        Action::Reserve(c) => {
            Action::Reserve(Reserve { order_no: own(c.order_no), lines: own_lines(c.lines), ..c })
        }
        Action::Confirm(c) => Action::Confirm(Confirm { order_no: own(c.order_no), part: own_part(c.part) }),
        Action::Release(c) => {
            Action::Release(Release { order_no: own(c.order_no), part: own_part(c.part), ..c })
        }
        Action::Extend(c) => Action::Extend(Extend { order_no: own(c.order_no), ..c }),
        Action::Return(c) => {
            Action::Return(Return { order_no: own(c.order_no), lines: c.lines.map(own_lines), ..c })
        }
        Action::GetOrder(order) => Action::GetOrder(own(order)),
        Action::Expire(order_no) => Action::Expire(order_no),
        Action::Home(step) => Action::Home(step),
        Action::Place(place) => Action::Place(place),
    }
}

async fn assert_same_end(store: &dyn Store, twin: &Twin) {
    let state = &twin.state;
    let audit = state.audit();
    let mut journal = twin.journal.clone();
    journal.sort_by_key(|row| (row.change.sku_id.clone(), row.change.warehouse_id, row.change.after.version));
    let mut skus: Vec<_> = audit.stocks.iter().map(|stock| stock.sku_id.clone()).collect();
    skus.dedup();
    for sku_id in skus {
        let stored = store.stock_journal(&sku_id, &[], 100_000).await.expect("the store is there");
        let expected: Vec<_> = journal.iter().filter(|row| row.change.sku_id == sku_id).cloned().collect();
        assert_eq!(stored.rows, expected);
        assert_eq!((stored.owner, stored.watermark), (None, Lsn::ZERO));
    }
    for stock in &audit.stocks {
        let rows = store.stock(&stock.sku_id, Some(stock.warehouse_id)).await.expect("the store is there");
        let seen: Vec<_> = rows.iter().map(|row| (row.view.levels, row.view.status)).collect();
        assert_eq!(seen, [(stock.levels, stock.status)]);
    }
    for order_no in state.order_numbers() {
        let stored = store.order(order_no).await.expect("the store is there").expect("the order is there");
        let image = state.image_of_order(order_no).map(|image| OrderImage { lsn: Lsn::ZERO, ..image });
        assert_eq!(Some(stored.image), image);
        assert!(stored.owners.iter().all(Option::is_none));
    }
}

/// Forty units, 128 orders from sixteen tasks through two servers.
pub async fn a_row_that_many_want_is_never_oversold(subject: &dyn Subject) {
    let stores = [subject.open(), subject.open()];
    done(&*stores[0], &create("one", W1, 40), NOW).await;
    let mut tasks = JoinSet::new();
    for task in 0..16 {
        let store = Arc::clone(&stores[task % 2]);
        tasks.spawn(async move {
            let mut held = 0;
            for order in 0..8 {
                match outcome(&*store, &reserve(&format!("{task} {order}"), &["one"], HOUR), NOW).await {
                    Ok(_) => held += 1,
                    Err(Refusal::InsufficientStock { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            held
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().sum::<u64>(), 40);
    let levels = levels(&*stores[0], "one").await;
    assert_eq!((levels.available, levels.reserved, levels.sold, levels.version), (0, 40, 0, 41));
}

/// One order number from sixteen tasks: made once, repeated fifteen times, one unit held.
pub async fn an_order_number_that_many_use_is_one_order(subject: &dyn Subject) {
    let stores = [subject.open(), subject.open()];
    done(&*stores[0], &create("one", W1, 40), NOW).await;
    let mut tasks = JoinSet::new();
    for task in 0..16 {
        let store = Arc::clone(&stores[task % 2]);
        tasks.spawn(async move { outcome(&*store, &reserve("same", &["one"], HOUR), NOW).await });
    }
    let outcomes = tasks.join_all().await;
    let with = |wanted: Effect| {
        let is =
            |outcome: &&Outcome| matches!(outcome, Ok(Answer::Order { effect, .. }) if *effect == wanted);
        outcomes.iter().filter(is).count()
    };
    assert_eq!((with(Effect::Created), with(Effect::Replayed)), (1, 15));
    assert_eq!(levels(&*stores[0], "one").await.reserved, 1);
}

/// Orders of the same SKUs, named in either order, and their releases, all at once.
pub async fn lines_in_any_order_do_not_lock_each_other_out(subject: &dyn Subject) {
    let stores = [subject.open(), subject.open()];
    for name in ["a", "b", "c"] {
        done(&*stores[0], &create(name, W1, 1_000), NOW).await;
    }
    let mut tasks = JoinSet::new();
    for task in 0..12 {
        let store = Arc::clone(&stores[task % 2]);
        tasks.spawn(async move {
            let lines = [["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"]][task % 3];
            for order in 0..6 {
                let order = format!("{task} {order}");
                done(&*store, &reserve(&order, &lines, HOUR), NOW).await;
                let end = if task % 2 == 0 { confirm(&order) } else { release(&order) };
                done(&*store, &end, NOW).await;
            }
        });
    }
    tasks.join_all().await;
    for name in ["a", "b", "c"] {
        let levels = levels(&*stores[0], name).await;
        assert_eq!((levels.available, levels.reserved, levels.sold, levels.version), (964, 0, 36, 145));
    }
}

/// Three servers sweep what falls due at one moment.
pub async fn servers_that_sweep_at_once_expire_each_order_once(subject: &dyn Subject) {
    let stores = [subject.open(), subject.open(), subject.open()];
    done(&*stores[0], &create("a", W1, 100), NOW).await;
    done(&*stores[0], &create("b", W1, 100), NOW).await;
    for order in 0..60 {
        let lines = [&["a"][..], &["b"], &["b", "a"]][order % 3];
        done(&*stores[0], &reserve(&format!("due {order}"), lines, 10), NOW).await;
    }
    done(&*stores[0], &reserve("later", &["a"], 11), NOW).await;
    let now = NOW.plus_seconds(10);
    assert_eq!(stores[0].expire(now.minus_millis(100), 10, false).await.expect("the store is there").seen, 0);
    let mut tasks = JoinSet::new();
    for store in stores.clone() {
        tasks.spawn(async move {
            let mut expired = 0;
            loop {
                let swept = store.expire(now, 7, false).await.expect("the store is there");
                expired += swept.expired;
                if swept.seen == 0 {
                    return expired;
                }
            }
        });
    }
    let mut expired: usize = tasks.join_all().await.into_iter().sum();
    // What another one held while it was looked for is found in the next round, as a server would.
    while let Ok(swept) = stores[0].expire(now, 7, false).await
        && swept.seen > 0
    {
        expired += swept.expired;
    }
    assert_eq!(expired, 60);
    let (a, b) = (levels(&*stores[0], "a").await, levels(&*stores[0], "b").await);
    assert_eq!((a.available, a.reserved, a.version), (99, 1, 82));
    assert_eq!((b.available, b.reserved, b.version), (100, 0, 81));
}

/// A server whose clock is behind writes no time before that of the row.
pub async fn the_time_of_a_row_never_steps_back(subject: &dyn Subject) {
    let store = subject.open();
    done(&*store, &create("a", W1, 10), NOW).await;
    done(&*store, &reserve("o", &["a"], 60), NOW.minus_millis(5_000)).await;
    let order = store.order(&order_no("o")).await.expect("the store is there").expect("the order is there");
    assert_eq!((order.image.created_at, order.image.expires_at), (NOW, NOW.plus_seconds(60)));
    done(&*store, &confirm("o"), NOW.minus_millis(9_000)).await;
    let order = store.order(&order_no("o")).await.expect("the store is there").expect("the order is there");
    assert_eq!(order.image.changed_at, NOW);
}

/// Stocks by SKU and warehouse, pages of them by the bytes of their names, orders.
pub async fn reads_show_what_was_written(subject: &dyn Subject) {
    let store = subject.open();
    let names = ["B", "a", "a ", "b", "ä", "商品"];
    let mut expected = BTreeMap::new();
    for (place, name) in names.iter().enumerate() {
        for warehouse in [&[1][..], &[1, 2], &[1, 2, 3]][place % 3] {
            done(&*store, &create(name, WarehouseId(*warehouse * 7), place as u64), NOW).await;
            expected.entry(sku(name)).or_insert_with(Vec::new).push(WarehouseId(warehouse * 7));
        }
    }
    let mut after = None;
    let mut seen = BTreeMap::new();
    loop {
        let page = store.stock_page(after.as_ref(), 4).await.expect("the store is there");
        let Some(last) = page.last() else { break };
        after = Some(last[0].view.sku_id.clone());
        for stocks in page {
            let warehouses: Vec<_> = stocks.iter().map(|row| row.view.warehouse_id).collect();
            assert!(
                seen.keys().all(|earlier| *earlier < stocks[0].view.sku_id),
                "by the bytes of their names"
            );
            seen.insert(stocks[0].view.sku_id.clone(), warehouses);
        }
    }
    assert_eq!(seen, expected);
    assert_eq!(store.stock(&sku("A"), None).await.expect("the store is there"), []);
    assert_eq!(store.stock(&sku("b"), Some(WarehouseId(8))).await.expect("the store is there"), []);
    assert_eq!(store.stock(&sku("a "), None).await.expect("the store is there").len(), 3);
    assert_eq!(store.order(&order_no("none")).await.expect("the store is there"), None);
    let unknown = outcome(&*store, &Action::GetOrder(order_no("none")).into(), NOW).await;
    assert_eq!(unknown, Err(Refusal::UnknownOrder { order_no: order_no("none") }));
    store.ping().await.expect("the store is there");
}

/// One restock from twelve tasks: the stock changes once, all are told the same levels.
pub async fn a_request_id_that_many_use_changes_the_stock_once(subject: &dyn Subject) {
    let stores = [subject.open(), subject.open()];
    done(&*stores[0], &create("a", W1, 1), NOW).await;
    let mut tasks = JoinSet::new();
    for task in 0..12 {
        let store = Arc::clone(&stores[task % 2]);
        tasks.spawn(async move { outcome(&*store, &restock("a", 5, "same"), NOW).await });
    }
    for outcome in tasks.join_all().await {
        let Ok(Answer::Stock { stock, .. }) = outcome else { panic!("{outcome:?}") };
        assert_eq!((stock.levels.available, stock.levels.version), (6, 2));
    }
    assert_eq!(levels(&*stores[0], "a").await.version, 2);
    let other = outcome(&*stores[1], &restock("a", 6, "same"), NOW).await;
    assert_eq!(other, Err(Refusal::RequestMismatch));
}

/// After `close` nothing is done any more.
pub async fn a_closed_store_says_so(subject: &dyn Subject) {
    let store = subject.open();
    done(&*store, &create("a", W1, 1), NOW).await;
    store.close().await;
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    let late = store.submit(&reserve("o", &["a"], HOUR), NOW).await;
    assert!(matches!(late, Err(StoreError::Unavailable(_))));
    assert_eq!(levels(&*subject.open(), "a").await.version, 1);
}
