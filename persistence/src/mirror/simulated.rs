//! A Redis that is not one, for the simulator: it keeps what the script of the mirror keeps, takes its time, goes away,
//! loses answers, is emptied, comes back with what it had before, and carries out late what it was told by somebody who
//! is gone. What two writers say under one version has to be alike, or one of them shows what never was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hotstock_engine::ids::{SkuId, WarehouseId};
use hotstock_engine::outcome::StockView;
use redis::{ErrorKind, RedisError, RedisResult};

use super::link::{Connect, Link};

/// See the top of the file. Clones are the same Redis.
#[derive(Debug, Clone)]
pub struct SimulatedRedis(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// The longest that an answer takes, in milliseconds.
    slow: AtomicU64,
}

#[derive(Debug)]
struct State {
    random: fastrand::Rng,
    /// By what each stock is known.
    stocks: BTreeMap<(SkuId, WarehouseId), StockView>,
    marks: BTreeSet<String>,
    /// What it had when this was last noted.
    noted: BTreeMap<(SkuId, WarehouseId), StockView>,
    is_away: bool,
    /// Answers to come that nobody gets.
    lost_answers: u32,
    /// Told by connections that broke, and carried out when it comes to it.
    stuck: Vec<StockView>,
    /// All that was ever shown of a stock under a version.
    shown: BTreeMap<(SkuId, WarehouseId, u64), StockView>,
    wrong: Option<String>,
}

impl SimulatedRedis {
    /// An empty one; what happens by chance follows from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: fastrand::Rng::with_seed(seed),
            stocks: BTreeMap::new(),
            marks: BTreeSet::new(),
            noted: BTreeMap::new(),
            is_away: false,
            lost_answers: 0,
            stuck: Vec::new(),
            shown: BTreeMap::new(),
            wrong: None,
        };
        Self(Arc::new(Inner { state: Mutex::new(state), slow: AtomicU64::new(0) }))
    }

    /// Nobody reaches it, or everybody does again.
    pub fn be_away(&self, is_away: bool) {
        self.state().is_away = is_away;
    }

    /// It takes up to so many milliseconds for an answer.
    pub fn be_slow(&self, millis: u64) {
        self.0.slow.store(millis, Ordering::Relaxed);
    }

    /// It does what it is told so many times, and nobody gets the answer.
    pub fn lose_answers(&self, count: u32) {
        self.state().lost_answers = count;
    }

    /// `FLUSHALL`.
    pub fn empty(&self) {
        let mut state = self.state();
        state.stocks.clear();
        state.marks.clear();
    }

    /// Notes what it has, for [`SimulatedRedis::go_back`].
    pub fn note(&self) {
        let mut state = self.state();
        state.noted = state.stocks.clone();
    }

    /// It starts again with what it had when that was noted: marks are younger than that.
    pub fn go_back(&self) {
        let mut state = self.state();
        state.stocks = state.noted.clone();
        state.marks.clear();
    }

    /// Ends all faults.
    pub fn mend(&self) {
        let mut state = self.state();
        (state.is_away, state.lost_answers) = (false, 0);
        self.0.slow.store(0, Ordering::Relaxed);
    }

    /// What readers see, by SKU and warehouse.
    #[must_use]
    pub fn stocks(&self) -> Vec<StockView> {
        self.state().stocks.values().cloned().collect()
    }

    /// What it was told that can't be, if it was.
    #[must_use]
    pub fn wrong(&self) -> Option<String> {
        self.state().wrong.clone()
    }

    /// A copy as it is now: what is written to one is not in the other.
    #[must_use]
    pub fn copy(&self, seed: u64) -> Self {
        let other = Self::new(seed);
        {
            let (from, mut to) = (self.state(), other.state());
            to.stocks.clone_from(&from.stocks);
            to.marks.clone_from(&from.marks);
        }
        other
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pause(&self) {
        let longest = self.0.slow.load(Ordering::Relaxed).saturating_mul(1_000).max(300);
        let micros = self.state().random.u64(..longest);
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }

    /// One round trip.
    async fn call<T>(&self, act: impl FnOnce(&mut State) -> T) -> RedisResult<T> {
        self.pause().await;
        let done = {
            let mut state = self.state();
            if state.is_away {
                return Err(gone());
            }
            if state.random.u8(..4) == 0 {
                let stuck = std::mem::take(&mut state.stuck);
                stuck.into_iter().for_each(|stock| state.put(stock, None));
            }
            let done = act(&mut state);
            if state.lost_answers > 0 {
                state.lost_answers -= 1;
                return Err(gone());
            }
            done
        };
        self.pause().await;
        Ok(done)
    }
}

fn gone() -> RedisError {
    RedisError::from((ErrorKind::Io, "the simulated Redis is gone"))
}

impl State {
    /// What `put.lua` does.
    fn put(&mut self, stock: StockView, over: Option<u64>) {
        let key = (stock.sku_id.clone(), stock.warehouse_id);
        let there = self.stocks.get(&key).map(|known| known.levels.version);
        if there.is_some_and(|there| there > stock.levels.version && Some(there) != over) {
            return;
        }
        let shown =
            self.shown.entry((key.0.clone(), key.1, stock.levels.version)).or_insert_with(|| stock.clone());
        if shown.levels != stock.levels {
            self.wrong = Some(format!("under one version there are {shown:?} and {stock:?}"));
        }
        self.stocks.insert(key, stock);
    }
}

#[async_trait]
impl Connect for SimulatedRedis {
    async fn connect(&self) -> RedisResult<Box<dyn Link>> {
        self.call(|_| ()).await?;
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Link for SimulatedRedis {
    async fn put(&mut self, stocks: &[(&StockView, Option<u64>)]) -> RedisResult<()> {
        let told = self.call(|state| {
            // A connection that breaks in the middle: the rest is lost, or comes when nobody thinks of it any more.
            let whole = state.random.u8(..40) > 0;
            let done = if whole { stocks.len() } else { state.random.usize(..=stocks.len()) };
            for (stock, over) in &stocks[..done] {
                state.put((*stock).clone(), *over);
            }
            state.stuck.extend(stocks[done..].iter().map(|(stock, _)| (*stock).clone()));
            whole
        });
        if told.await? { Ok(()) } else { Err(gone()) }
    }

    async fn plant(&mut self, run: &str) -> RedisResult<()> {
        let run = run.to_owned();
        self.call(|state| {
            state.marks.insert(run);
        })
        .await
    }

    async fn is_planted(&mut self, run: &str) -> RedisResult<bool> {
        self.call(|state| state.marks.contains(run)).await
    }

    async fn uproot(&mut self, run: &str) -> RedisResult<()> {
        self.call(|state| {
            state.marks.remove(run);
        })
        .await
    }
}
