//! An engine on its data directory, with SQLite behind it, and the naive model side by side. The model forgets nothing:
//! whatever leaves the engine's memory has to be found again when it is asked for.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hotstock_engine::clock::Clock as _;
use hotstock_engine::command::{Action, ChangeKind, ChangeStock, Command, CreateStock};
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::{OrderNo, RequestId, ShardId, SkuId, WarehouseId, shard_of};
use hotstock_engine::inner::InnerCommand;
use hotstock_engine::options::{EngineOptions, Parts, StoreOptions};
use hotstock_engine::outcome::{Outcome, Refusal};
use hotstock_engine::status::Health;
use hotstock_engine::testing::{ManualClock, MemoryIdentity};
use hotstock_persistence::data_dir::DataDir;
use hotstock_persistence::journal::{Fault, Faults, JournalOptions};
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use tempfile::TempDir;

use crate::Step;
use crate::disk::{frozen_copy, torn};
use crate::naive::{Naive, plain};
use crate::wishes::PartWish;

/// What has ended leaves memory after this, or because there is no room.
pub const REMEMBER_SECONDS: u64 = 60;

/// Until something that must come has come: far longer than it takes on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The request that makes a shard panic.
const BOOM: &str = "BOOM";

/// What fails while commands are under way.
#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    /// The disk refuses a write; nothing of it is there.
    WriteFails,
    /// The disk refuses a sync; what was written may be there.
    SyncFails,
    /// A shard panics (modulo their number), and is rebuilt.
    ShardPanics(u16),
}

/// See the module.
pub struct House {
    /// The data directory.
    dir: TempDir,
    /// The store, which is another machine: a crash here changes nothing there.
    store: TempDir,
    /// The store as it was some time ago.
    backup: Option<TempDir>,
    /// Of the directory, wherever the copies of it lie that crashes leave.
    identity: MemoryIdentity,
    shards: u16,
    clock: ManualClock,
    /// `None` between a stop and a start: an engine that is still there keeps its files open.
    engine: Option<Engine>,
    faults: Faults,
    naive: Naive,
    /// Commands that were sent.
    sent: Vec<Action>,
}

impl House {
    pub async fn open(shards: u16) -> Self {
        let (dir, store) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let (clock, identity) = (ManualClock::default(), MemoryIdentity::default());
        let (engine, faults) = start(dir.path(), store.path(), &identity, shards, &clock).await;
        let (engine, naive) = (Some(engine), Naive::default());
        Self { dir, store, backup: None, identity, shards, clock, engine, faults, naive, sent: Vec::new() }
    }

    pub async fn close(mut self) {
        self.stop().await;
    }

    async fn stop(&mut self) {
        let engine = self.engine.take().expect("it runs");
        engine.stop().await;
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("it runs")
    }

    pub async fn take(&mut self, step: Step) {
        match step {
            Step::Do(action) => self.send(action).await,
            Step::DoPart(wish) => {
                let action = self.part(wish);
                self.send(action).await;
            }
            Step::Again(_) if self.sent.is_empty() => {}
            Step::Again(index) => self.submit(&self.sent[index % self.sent.len()].clone()).await,
            Step::Batch(actions) => self.batch(actions).await,
            Step::Pass(tenths) => self.pass(Duration::from_millis(tenths * 100)).await,
            Step::LongPass => self.pass(Duration::from_secs(REMEMBER_SECONDS + 1)).await,
            Step::Restart => {
                self.stop().await;
                self.start_again().await;
            }
            Step::Crash => self.crash().await,
            Step::Backup => self.backup = Some(frozen_copy(self.store.path())),
            Step::Restore => self.restore().await,
            Step::Torn(action, seed) => self.tear(action, seed).await,
            Step::Trouble(trouble, actions) => self.go_through(trouble, actions).await,
        }
    }

    /// Whether an order lies in one shard. Those over several have tests of their own (`engine/tests/cross_shard`): the
    /// versions of their stocks tell of attempts, which this model knows nothing of.
    fn is_in_one_shard(&self, action: &Action) -> bool {
        let Action::Reserve(c) = action else { return true };
        let mut shards = c.lines.as_slice().iter().map(|line| shard_of(&line.sku_id, self.shards));
        let first = shards.next();
        shards.all(|shard| Some(shard) == first)
    }

    /// Sends a command, which must be answered as the model answers it.
    pub async fn send(&mut self, action: Action) {
        if !self.is_in_one_shard(&action) {
            return;
        }
        self.submit(&action).await;
        self.sent.push(action);
    }

    async fn submit(&mut self, action: &Action) {
        let expected = self.carry_out(action);
        let got = self.engine().submit(action.clone().into()).await;
        assert_eq!(plain(got), plain(expected), "(engine left, model right) at {action:?}");
    }

    async fn batch(&mut self, mut actions: Vec<Action>) {
        actions.retain(|action| self.is_in_one_shard(action));
        let expected: Vec<_> = actions.iter().map(|action| plain(self.carry_out(action))).collect();
        let got = self.engine().submit_batch(actions.iter().cloned().map(Command::from).collect()).await;
        let got: Vec<_> = got.into_iter().map(plain).collect();
        assert_eq!(got, expected, "(engine left, model right) at {actions:?}");
        self.sent.extend(actions);
    }

    /// What the model says to a command.
    fn carry_out(&mut self, action: &Action) -> Outcome {
        let now = self.clock.now();
        self.naive.carry_out(action, now)
    }

    /// Moves the clock, and waits until what is due has expired. What is old may leave memory; nobody is told.
    async fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
        let now = self.clock.now();
        let due: Vec<_> = self.naive.due(now).map(|(order_no, _)| order_no.clone()).collect();
        for order_no in due {
            self.naive.expire(&order_no, now).expect("it is due");
        }
        self.poke().await;
        self.settle("expiries").await;
    }

    /// A turn of every shard, for expiries without the tick.
    async fn poke(&self) {
        for shard in (0..self.shards).map(ShardId) {
            let action = stock_request(shard, self.shards, "poke");
            let refused = self.engine().submit(action.into()).await;
            assert!(matches!(refused, Err(Refusal::UnknownSku { .. })), "{refused:?}");
        }
    }

    /// Waits until everything that was decided is durable, and as many orders are open as in the model.
    async fn settle(&self, what: &str) {
        let open = self.naive.orders.values().filter(|order| order.is_open()).count() as u64;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stats = self.engine().stats();
            let durable =
                stats.shards.iter().all(|shard| shard.applied == shard.durable && shard.in_flight == 0);
            let open_orders: u64 = stats.shards.iter().map(|shard| shard.open_orders).sum();
            if durable && open_orders == open {
                return;
            }
            assert!(Instant::now() < deadline, "{what} never come: {stats:?}, the model: {:?}", self.naive);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until nothing is logged any more, not even by the engine itself; how many events there are.
    async fn rest(&self) -> u64 {
        let mut last = None;
        loop {
            self.settle("syncs").await;
            let events = self.engine().stats().shards.iter().map(|shard| shard.durable.0).sum();
            if last.replace(events) == Some(events) {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Copies as a crash in this moment leaves them: of the store first, which must not have what the directory has
    /// not.
    fn crash_copies(&self) -> (TempDir, TempDir) {
        let store = frozen_copy(self.store.path());
        (frozen_copy(self.dir.path()), store)
    }

    /// Starts from what a crash in this moment leaves.
    async fn crash(&mut self) {
        self.settle("syncs").await;
        let left = self.crash_copies();
        self.stop().await;
        (self.dir, self.store) = left;
        self.start_again().await;
    }

    /// Stops, and starts with the store as it was some time ago: the journal makes good what it lost.
    async fn restore(&mut self) {
        let Some(backup) = self.backup.take() else { return };
        self.stop().await;
        self.store = backup;
        self.start_again().await;
    }

    /// Sends a command, and starts from what a crash in the middle of its write leaves.
    async fn tear(&mut self, wished: Action, seed: u64) {
        let changes = |action: &Action| {
            let mut after = self.naive.clone();
            drop(after.carry_out(action, self.clock.now()));
            after.events > self.naive.events
        };
        // Only what changes something is written: a create of a stock that is new always does.
        let action = if changes(&wished) && self.is_in_one_shard(&wished) {
            wished
        } else {
            new_stock(self.naive.shelves.len())
        };
        let ((before, store), events) = loop {
            let events = self.rest().await;
            let copies = self.crash_copies();
            if self.rest().await == events {
                break (copies, events);
            }
        };
        let without = self.naive.clone();
        self.send(action.clone()).await;
        self.settle("syncs").await;
        let after = frozen_copy(self.dir.path());
        if self.rest().await != events + 1 {
            // Something was loaded for it, or left memory: the writes before the last one are not torn.
            return;
        }
        let Some(left) = torn(before.path(), after.path(), seed) else { return };
        self.stop().await;
        // What was torn had not been synced, so the store did not have it.
        (self.dir, self.store) = (left, store);
        self.start_again().await;
        let with = std::mem::replace(&mut self.naive, without.clone());
        self.choose(vec![without, with]).await;
        // Nobody was answered, so the caller repeats.
        self.submit(&action).await;
    }

    /// Sends commands while something fails. Those without an answer were carried out or not; their callers repeat.
    async fn go_through(&mut self, trouble: Trouble, mut actions: Vec<Action>) {
        actions.retain(|action| self.is_in_one_shard(action));
        match trouble {
            Trouble::WriteFails => self.faults.fail_next(Fault::Write),
            Trouble::SyncFails => self.faults.fail_next(Fault::Sync),
            Trouble::ShardPanics(shard) => {
                let middle = actions.len() / 2;
                actions.insert(middle, stock_request(ShardId(shard % self.shards), self.shards, BOOM));
            }
        }
        let answers = self.engine().submit_batch(actions.iter().cloned().map(Command::from).collect()).await;
        let now = self.clock.now();
        let mut possible = vec![self.naive.clone()];
        let mut unknown = Vec::new();
        for (action, answer) in actions.iter().zip(answers) {
            if is_unknown(&answer) {
                unknown.push(action);
                let mut carried_out = possible.clone();
                for naive in &mut carried_out {
                    drop(naive.carry_out(action, now));
                }
                possible.extend(carried_out);
            } else {
                let answer = plain(answer);
                possible.retain_mut(|naive| plain(naive.carry_out(action, now)) == answer);
                assert!(!possible.is_empty(), "no course of events explains {answer:?} to {action:?}");
            }
        }
        if matches!(trouble, Trouble::ShardPanics(_)) {
            let deadline = Instant::now() + PATIENCE;
            while self.engine().health() != Health::Ready {
                assert!(Instant::now() < deadline, "not rebuilt: {:?}", self.engine().health());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        } else {
            // Also when nothing had to be written: the fault must not wait for somebody else.
            self.stop().await;
            self.start_again().await;
        }
        self.choose(possible).await;
        for action in unknown {
            if !is_boom(action) {
                self.submit(action).await;
            }
        }
        self.sent.extend(actions.into_iter().filter(|action| !is_boom(action)));
    }

    async fn start_again(&mut self) {
        let (dir, store) = (self.dir.path(), self.store.path());
        let (engine, faults) = start(dir, store, &self.identity, self.shards, &self.clock).await;
        (self.engine, self.faults) = (Some(engine), faults);
    }

    /// Takes the first model that is what the engine shows.
    async fn choose(&mut self, possible: Vec<Naive>) {
        let mut differences = Vec::new();
        let mut orders: Vec<_> = possible.iter().flat_map(|naive| naive.orders.keys().cloned()).collect();
        orders.sort_unstable();
        orders.dedup();
        for naive in possible {
            self.naive = naive;
            let same = match self.compare().await {
                // Nor is there an order that only another course of events would have made.
                Ok(()) => self.compare_unknown(&orders).await,
                different => different,
            };
            match same {
                Ok(()) => return,
                Err(difference) => differences.push(difference),
            }
        }
        panic!("no course of events leads here: {differences:#?}");
    }

    /// The engine shows what the model shows.
    pub async fn check(&self, after: &str) {
        if let Err(difference) = self.compare().await {
            panic!("after {after}: {difference}");
        }
    }

    async fn compare(&self) -> Result<(), String> {
        let expected: Vec<_> = self.naive.shelves.keys().map(|place| self.naive.stock_view(place)).collect();
        let got: Vec<_> = self
            .engine()
            .stock_page(None, 100)
            .await
            .map_err(|refusal| refusal.to_string())?
            .into_iter()
            .flatten()
            .collect();
        if got != expected {
            return Err(format!("stocks (engine, model): {got:#?}\n{expected:#?}"));
        }
        for (order_no, order) in &self.naive.orders {
            let got = self.engine().submit(Action::GetOrder(order_no.clone()).into()).await;
            let expected = Ok(hotstock_engine::outcome::Answer::Order {
                order: order.view(order_no),
                effect: hotstock_engine::outcome::Effect::Replayed,
            });
            if got != expected {
                return Err(format!("order (engine, model): {got:#?}\n{expected:#?}"));
            }
        }
        Ok(())
    }

    /// Of these orders the engine knows none that the model does not.
    async fn compare_unknown(&self, orders: &[OrderNo]) -> Result<(), String> {
        for order_no in orders.iter().filter(|order_no| !self.naive.orders.contains_key(*order_no)) {
            let got = self.engine().submit(Action::GetOrder(order_no.clone()).into()).await;
            if !matches!(got, Err(Refusal::UnknownOrder { .. })) {
                return Err(format!("the model does not know order {order_no}, the engine has {got:#?}"));
            }
        }
        Ok(())
    }

    fn part(&self, wish: PartWish) -> Action {
        let order = self.naive.orders.get(&wish.order_no);
        wish.action(order.map_or(&[], |order| &order.asked))
    }
}

fn is_unknown(answer: &Outcome) -> bool {
    matches!(answer, Err(Refusal::JournalUnavailable | Refusal::ShardRestarted))
}

/// A request about a stock that is not there, in a given shard.
fn stock_request(shard: ShardId, shards: u16, request_id: &str) -> Action {
    let mut names = (0..).map(|n| SkuId::new(&format!("nothing-{n}")).unwrap());
    let sku_id = names.find(|sku| shard_of(sku, shards) == shard).expect("names don't end");
    let request_id = RequestId::new(request_id).unwrap();
    let (kind, warehouse_id) = (ChangeKind::Restock, WarehouseId(0));
    Action::ChangeStock(ChangeStock { sku_id, warehouse_id, kind, quantity: 1, request_id, reason: None })
}

fn new_stock(number: usize) -> Action {
    let sku_id = SkuId::new(&format!("new-{number}")).unwrap();
    Action::CreateStock(CreateStock { sku_id, warehouse_id: WarehouseId(0), quantity: 1, serialized: false })
}

fn is_boom(action: &Action) -> bool {
    matches!(action, Action::ChangeStock(change) if change.request_id.as_str() == BOOM)
}

/// Opens a data directory as the program does. Segments and checkpoints are small, so that there are many; there is
/// room for one SKU and two ended orders, so that loading and evicting never stop.
async fn start(
    dir: &Path,
    store: &Path,
    identity: &MemoryIdentity,
    shards: u16,
    clock: &ManualClock,
) -> (Engine, Faults) {
    let data_dir = DataDir::open(dir, Some(shards)).unwrap();
    let journal = data_dir.journal(JournalOptions { segment_bytes: 4_096, zeros: 0 }).unwrap();
    let faults = journal.faults();
    let store = SqlStore::open(&SqlOptions::new(format!("sqlite:{}", store.join("store.db").display())));
    let parts = Parts::new(
        Box::new(journal),
        Arc::new(data_dir.checkpoints()),
        Arc::new(data_dir.filters()),
        Arc::new(identity.clone()),
        Arc::new(clock.clone()),
        Arc::new(store.unwrap()),
    );
    let parts = parts.before_decide(|command| {
        assert!(
            !matches!(command, InnerCommand::Public(command) if is_boom(&command.action)),
            "a shard that was made to panic"
        );
    });
    let options = EngineOptions {
        shards,
        remember_seconds: REMEMBER_SECONDS,
        remember_max: 2,
        max_resident_skus: 1,
        checkpoint_events: 20,
        store: StoreOptions {
            flush_interval_ms: 2,
            // For ever, by the clock that the test turns.
            keep_days: 0,
            keep_journal_days: 0,
            keep_flushed_minutes: 1_000_000,
            ..StoreOptions::default()
        },
        ..EngineOptions::default()
    };
    (Engine::start(options, parts).await.unwrap(), faults)
}
