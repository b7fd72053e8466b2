//! The whole engine with little memory against the naive model, which knows neither shards nor store nor memory:
//! random commands, one by one and in batches, among pins, restarts, crashes, checkpoints, lost filters, a store that
//! is away or goes back in time. Whatever lies where, every answer is the model's.

use std::time::{Duration, Instant};

use hotstock_engine::clock::Clock as _;
use hotstock_engine::command::{Action, Command};
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::SkuId;
use hotstock_engine::options::EngineOptions;
use hotstock_engine::outcome::{Answer, Effect, Outcome, Refusal, StockView};
use hotstock_engine::status::Health;
use hotstock_engine::store::Store;
use hotstock_engine::testing::MemorySnapshot;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::naive::{self, Naive};
use crate::support::{World as Outside, order_no, sku, tight, until_flushed};
use crate::wishes::{PartWish, World, action, first_stocks, part};

/// Far longer than anything takes that must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    Do(Action),
    DoPart(PartWish),
    /// A caller repeats a command that was sent before.
    Again(usize),
    Batch(Vec<Action>),
    /// Time passes, in tenths of seconds.
    Pass(u64),
    /// SKUs, by the bits of the number, are kept in memory, or no longer.
    Pin(u32),
    Unpin(u32),
    Checkpoint,
    Restart,
    /// Nothing reaches the journal and the store any more.
    Crash,
    /// The engine starts again without its filter of known numbers.
    LoseFilter,
    /// The store does not answer until it is mended.
    Cut,
    Mend,
    /// What the store has now.
    Snapshot,
    /// The store goes back to when it was last looked at.
    GoBack,
}

fn step(world: World) -> impl Strategy<Value = Step> {
    let skus = || 1..1_u32 << world.skus;
    prop_oneof![
        60 => action(world).prop_map(Step::Do),
        30 => part(world).prop_map(Step::DoPart),
        15 => (0..1000_usize).prop_map(Step::Again),
        20 => vec(action(world), 2..6).prop_map(Step::Batch),
        12 => (1..40_u64).prop_map(Step::Pass),
        4 => skus().prop_map(Step::Pin),
        4 => skus().prop_map(Step::Unpin),
        4 => Just(Step::Checkpoint),
        3 => Just(Step::Restart),
        3 => Just(Step::Crash),
        2 => Just(Step::LoseFilter),
        3 => Just(Step::Cut),
        6 => Just(Step::Mend),
        3 => Just(Step::Snapshot),
        2 => Just(Step::GoBack),
    ]
}

/// An engine and the model side by side.
struct Pair {
    outside: Outside,
    shards: u16,
    engine: Engine,
    naive: Naive,
    sent: Vec<Action>,
    is_cut: bool,
    snapshot: Option<MemorySnapshot>,
}

fn options(shards: u16) -> EngineOptions {
    let mut options = tight(shards);
    // A store that goes back in time is fed from the journal.
    options.store.keep_flushed_minutes = 1_000_000;
    options.max_resident_skus = 1;
    options
}

impl Pair {
    async fn new(shards: u16) -> Self {
        let outside = Outside::new();
        let engine = outside.start(options(shards)).await;
        Self {
            outside,
            shards,
            engine,
            naive: Naive::default(),
            sent: Vec::new(),
            is_cut: false,
            snapshot: None,
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Do(action) => self.send(action).await,
            Step::DoPart(wish) => {
                let order = self.naive.orders.get(&wish.order_no);
                let action = wish.action(order.map_or(&[], |order| &order.asked));
                self.send(action).await;
            }
            Step::Again(_) if self.sent.is_empty() => {}
            Step::Again(index) => {
                let action = self.sent[index % self.sent.len()].clone();
                self.send(action).await;
            }
            Step::Batch(actions) => self.batch(actions).await,
            Step::Pass(tenths) => self.pass(Duration::from_millis(tenths * 100)).await,
            Step::Pin(bits) => drop(self.engine.promote(&names(bits)).await),
            Step::Unpin(bits) => drop(self.engine.demote(&names(bits)).await),
            Step::Checkpoint => self.engine.checkpoint_now(),
            Step::Restart => self.restart().await,
            Step::Crash => {
                self.outside.journal.fail_next();
                self.outside.session().cut();
                self.restart().await;
            }
            Step::LoseFilter => {
                self.engine.stop().await;
                self.outside.filters.lose();
                self.start().await;
            }
            Step::Cut => {
                self.outside.session().cut();
                self.is_cut = true;
            }
            Step::Mend => {
                self.outside.session().mend();
                self.is_cut = false;
            }
            Step::Snapshot => self.snapshot = Some(self.outside.store.snapshot()),
            Step::GoBack => {
                if let Some(snapshot) = self.snapshot.take() {
                    self.outside.store.restore(&snapshot);
                }
            }
        }
    }

    async fn restart(&mut self) {
        self.engine.stop().await;
        self.start().await;
    }

    async fn start(&mut self) {
        self.outside.journal.mend();
        self.engine = self.outside.start(options(self.shards)).await;
        self.is_cut = false;
    }

    /// What the engine says in the end. Behind a store that went back in time it may take a moment; without one it
    /// refuses what it would have to look for, and nothing happened then.
    async fn ask(&self, command: Command) -> Option<Outcome> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.engine.submit(command.clone()).await {
                Err(Refusal::StoreUnavailable | Refusal::Overloaded) if self.is_cut => return None,
                Err(refusal @ (Refusal::StoreUnavailable | Refusal::Overloaded)) => {
                    assert!(Instant::now() < deadline, "{refusal} for ever: {command:?}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                outcome => return Some(outcome),
            }
        }
    }

    async fn send(&mut self, action: Action) {
        let now = self.outside.clock.now();
        let Some(got) = self.ask(action.clone().into()).await else { return };
        let expected = self.naive.carry_out(&action, now);
        assert_eq!(plain(got), plain(expected), "(engine left, model right) at {action:?}");
        self.sent.push(action);
    }

    async fn batch(&mut self, actions: Vec<Action>) {
        let now = self.outside.clock.now();
        let commands: Vec<Command> = actions.iter().cloned().map(Command::from).collect();
        let got = self.engine.submit_batch(commands).await;
        for (action, got) in actions.iter().zip(got) {
            if matches!(got, Err(Refusal::StoreUnavailable | Refusal::Overloaded)) {
                // Nothing happened, and the rest goes on without it.
                assert!(self.is_cut || self.snapshot.is_none(), "{action:?} {got:?}");
                continue;
            }
            let expected = plain(self.naive.carry_out(action, now));
            assert_eq!(plain(got), expected, "(engine left, model right) at {action:?} of {actions:?}");
        }
        self.sent.extend(actions);
    }

    async fn pass(&mut self, time: Duration) {
        self.outside.clock.advance(time);
        // A turn that began before may still be under way: two answers of each shard later it is not.
        for _ in 0..2 {
            for name in ["nobody", "no one", "none", "nothing", "nowhere"] {
                drop(self.engine.submit(Action::GetOrder(order_no(name)).into()).await);
            }
        }
        let now = self.outside.clock.now();
        let due: Vec<_> = self.naive.due(now).map(|(order_no, _)| order_no.clone()).collect();
        for order_no in &due {
            self.naive.expire(order_no, now).expect("it is due");
        }
        // Expiries need no store.
        let deadline = Instant::now() + PATIENCE;
        for order_no in due {
            let expected = Ok(Answer::Order {
                order: self.naive.orders[&order_no].view(&order_no),
                effect: Effect::Replayed,
            });
            while let Some(got) = self.ask(Action::GetOrder(order_no.clone()).into()).await
                && got != expected
            {
                assert!(Instant::now() < deadline, "an expiry never comes: {got:?}");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Everything that can be read, until it is as the model has it: branches are told a moment later.
    async fn check(&self) {
        if self.is_cut {
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        while let Err(difference) = self.compare().await {
            assert!(Instant::now() < deadline, "{difference}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn compare(&self) -> Result<(), String> {
        let expected = self.naive.shelves.keys().map(|place| unversioned(self.naive.stock_view(place)));
        let expected: Vec<_> = expected.collect();
        let page = self.engine.stock_page(None, 100).await.map_err(|refusal| refusal.to_string())?;
        let got: Vec<_> = page.into_iter().flatten().map(unversioned).collect();
        if got != expected {
            return Err(format!("stocks (engine, model): {got:#?}\n{expected:#?}"));
        }
        for stocks in expected.chunk_by(|one, other| one.sku_id == other.sku_id) {
            let got =
                self.engine.stock(&stocks[0].sku_id, None).await.map_err(|refusal| refusal.to_string())?;
            let got: Vec<_> = got.into_iter().map(unversioned).collect();
            if got != stocks {
                return Err(format!("a stock (engine, model): {got:#?}\n{stocks:#?}"));
            }
        }
        Ok(())
    }

    /// Every order, at the end; and what the store has then.
    async fn finish(mut self) {
        self.outside.session().mend();
        self.is_cut = false;
        for (order_no, order) in &self.naive.orders {
            let expected = Ok(Answer::Order { order: order.view(order_no), effect: Effect::Replayed });
            let got = self.ask(Action::GetOrder(order_no.clone()).into()).await;
            assert_eq!(got, Some(expected), "(engine left, model right)");
        }
        // A store that has just gone back in time is found out by the heartbeat, or by the next start.
        self.restart().await;
        assert_eq!(self.engine.health(), Health::Ready);
        until_flushed(&self.engine).await;
        self.engine.stop().await;
        let store = self.outside.store.session();
        let (anomalies, some) = store.anomalies(9).await.unwrap();
        assert_eq!(anomalies, 0, "{some:#?}");
        let stored = store.stock_page(None, 100).await.unwrap().rows;
        let stored: Vec<_> = stored.into_iter().flatten().map(unversioned).collect();
        let expected = self.naive.shelves.keys().map(|place| unversioned(self.naive.stock_view(place)));
        assert_eq!(stored, expected.collect::<Vec<_>>(), "(store left, model right)");
    }
}

/// An order that is refused in one of several shards was held in the others for a moment: their versions count that.
fn unversioned(mut stock: StockView) -> StockView {
    stock.levels.version = 0;
    stock
}

/// What both say alike.
fn plain(outcome: Outcome) -> Outcome {
    match naive::plain(outcome) {
        Ok(Answer::Stock { stock, effect }) => Ok(Answer::Stock { stock: unversioned(stock), effect }),
        Ok(Answer::Sku { stocks, effect }) => {
            Ok(Answer::Sku { stocks: stocks.into_iter().map(unversioned).collect(), effect })
        }
        Err(Refusal::StockExists { initial, stock }) => {
            Err(Refusal::StockExists { initial, stock: unversioned(stock) })
        }
        // Over several shards, of a SKU that is suspended in several warehouses the first is named.
        Err(Refusal::LatePaymentNoStock { .. }) => Err(Refusal::LatePaymentNoStock { lines: Vec::new() }),
        outcome => outcome,
    }
}

/// The SKUs of the random commands, by the bits of a number.
fn names(bits: u32) -> Vec<SkuId> {
    (0..=World::SMALL.skus).filter(|n| bits & (1 << n) != 0).map(|n| sku(&format!("S{n}"))).collect()
}

/// `cases` unless `PROPTEST_CASES` asks for another number.
fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let regressions = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/residency/regressions.txt");
    ProptestConfig {
        cases: if asked { default.cases } else { cases },
        max_shrink_iters: 300,
        failure_persistence: Some(Box::new(proptest::test_runner::FileFailurePersistence::Direct(
            regressions,
        ))),
        ..default
    }
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn the_engine_with_little_memory_does_what_the_model_does(
        shards in 1..=2_u16,
        first in first_stocks(World::SMALL),
        steps in vec(step(World::SMALL), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(async {
            let mut pair = Pair::new(shards).await;
            for action in first {
                pair.send(action).await;
            }
            for step in steps {
                pair.take(step).await;
                pair.check().await;
            }
            pair.finish().await;
        });
    }
}
