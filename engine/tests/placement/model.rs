//! The whole engine with a store against the naive model, which knows neither shards nor store: random commands, one by one and in
//! batches, among random promotions, demotions, restarts and crashes. Whatever lies where, every answer is the model's.

use std::time::{Duration, Instant};

use hotstock_engine::clock::Clock as _;
use hotstock_engine::command::{Action, Command};
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::SkuId;
use hotstock_engine::outcome::{Answer, Effect, Outcome, Refusal, StockView};
use hotstock_engine::testing::MemoryStore;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::house::{House, options};
use crate::naive::{self, Naive};
use crate::support::sku;
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
    /// SKUs, by the bits of the number, are moved; those that orders link to others may stay.
    Promote(u32),
    Demote(u32),
    Restart,
    /// Nothing reaches the journal and the store any more, while these SKUs are on their way.
    Crash(u32),
}

fn step(world: World) -> impl Strategy<Value = Step> {
    let skus = || 1..1_u32 << world.skus;
    prop_oneof![
        40 => action(world).prop_map(Step::Do),
        20 => part(world).prop_map(Step::DoPart),
        10 => (0..1000_usize).prop_map(Step::Again),
        15 => vec(action(world), 2..6).prop_map(Step::Batch),
        8 => (1..40_u64).prop_map(Step::Pass),
        20 => skus().prop_map(Step::Promote),
        20 => skus().prop_map(Step::Demote),
        3 => Just(Step::Restart),
        3 => skus().prop_map(Step::Crash),
    ]
}

/// An engine and the model side by side.
struct Pair {
    house: House,
    shards: u16,
    engine: Engine,
    session: MemoryStore,
    naive: Naive,
    sent: Vec<Action>,
}

impl Pair {
    async fn new(shards: u16) -> Self {
        let house = House::new();
        let session = house.store.session();
        let engine = house.start_with(options(shards), &session).await;
        Self { house, shards, engine, session, naive: Naive::default(), sent: Vec::new() }
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
            Step::Promote(bits) => drop(self.engine.promote(&names(bits)).await),
            Step::Demote(bits) => drop(self.engine.demote(&names(bits)).await),
            Step::Restart => self.restart().await,
            Step::Crash(bits) => {
                let (engine, skus) = (self.engine.clone(), names(bits));
                let moving = tokio::spawn(async move {
                    drop(engine.promote(&skus).await);
                    drop(engine.demote(&skus).await);
                });
                tokio::task::yield_now().await;
                self.house.world.journal.fail_next();
                self.session.cut();
                self.restart().await;
                drop(moving.await);
            }
        }
    }

    async fn restart(&mut self) {
        self.engine.stop().await;
        self.session = self.house.store.session();
        self.engine = self.house.start_with(options(self.shards), &self.session).await;
    }

    async fn send(&mut self, action: Action) {
        if let Action::Reserve(c) = &action
            && let Some(order) = self.naive.orders.get(&c.order_no)
            && !order.asked.iter().all(|line| c.lines.as_slice().iter().any(|l| l.sku_id == line.sku_id))
        {
            // Its number is used for other SKUs. A shard does not ask the store about orders that it does not know (the conflict is
            // found by the flush), so here they are brought to one place first.
            self.bring_together(true).await;
        }
        let now = self.house.world.clock.now();
        let expected = self.naive.carry_out(&action, now);
        let got = self.engine.submit(action.clone().into()).await;
        assert_eq!(plain(got), plain(expected), "(engine left, model right) at {action:?}");
        self.sent.push(action);
    }

    /// Everything cold, or with one shard everything hot: all in one place.
    async fn bring_together(&self, cold: bool) {
        let all = names(u32::MAX >> (31 - World::SMALL.skus));
        let results = if cold || self.shards > 1 {
            self.engine.demote(&all).await
        } else {
            self.engine.promote(&all).await
        };
        for (sku_id, result) in results {
            assert!(matches!(result, Ok(_) | Err(Refusal::UnknownSku { .. })), "{sku_id}: {result:?}");
        }
    }

    async fn batch(&mut self, actions: Vec<Action>) {
        // Together before, so that none of them is refused for where its SKUs are.
        self.bring_together(actions.len().is_multiple_of(2)).await;
        let now = self.house.world.clock.now();
        let expected: Vec<_> =
            actions.iter().map(|action| plain(self.naive.carry_out(action, now))).collect();
        let commands: Vec<Command> = actions.iter().cloned().map(Command::from).collect();
        let got: Vec<_> = self.engine.submit_batch(commands).await.into_iter().map(plain).collect();
        assert_eq!(got, expected, "(engine left, model right) at {actions:?}");
        self.sent.extend(actions);
    }

    async fn pass(&mut self, time: Duration) {
        self.house.world.clock.advance(time);
        let now = self.house.world.clock.now();
        let due: Vec<_> = self.naive.due(now).map(|(order_no, _)| order_no.clone()).collect();
        for order_no in due {
            self.naive.expire(&order_no, now).expect("it is due");
        }
        let deadline = Instant::now() + PATIENCE;
        while let Err(difference) = self.compare().await {
            assert!(Instant::now() < deadline, "expiries never come: {difference}");
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
        for (order_no, order) in &self.naive.orders {
            let got = self.engine.submit(Action::GetOrder(order_no.clone()).into()).await;
            let expected = Ok(Answer::Order { order: order.view(order_no), effect: Effect::Replayed });
            if got != expected {
                return Err(format!("order (engine, model): {got:#?}\n{expected:#?}"));
            }
        }
        Ok(())
    }
}

/// An order that is refused in one of several places was held in the others for a moment: their versions count that.
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
        // Over several places, of a SKU that is suspended in several warehouses the first is named.
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
    let regressions = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/placement/regressions.txt");
    ProptestConfig {
        cases: if asked { default.cases } else { cases },
        max_shrink_iters: 500,
        failure_persistence: Some(Box::new(proptest::test_runner::FileFailurePersistence::Direct(
            regressions,
        ))),
        ..default
    }
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn the_engine_with_a_store_does_what_the_model_does(
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
                if let Err(difference) = pair.compare().await {
                    panic!("{difference}");
                }
            }
            pair.engine.stop().await;
            pair.house.check_books().await;
        });
    }
}
