//! An order service that says what a test tells it to, and an engine that asks it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hotstock_engine::check::{CheckOptions, NoAnswer, OrderCheck, Payment};
use hotstock_engine::counters::CheckStats;
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::OrderNo;
use hotstock_engine::options::EngineOptions;
use hotstock_engine::order::OrderStatus;
use hotstock_engine::outcome::{Answer, OrderView};
use tokio::sync::watch;

use crate::support::{World, get, sku};

/// What the service does when it is asked.
#[derive(Debug, Clone, Copy)]
pub enum Say {
    Paid,
    Unpaid,
    Cancelled,
    Nothing,
    Panic,
}

/// See the top of the file.
#[derive(Default)]
pub struct Service {
    /// One after the other; the last one again and again. Without any: unpaid.
    says: Mutex<HashMap<String, Vec<Say>>>,
    asked: Mutex<Vec<String>>,
    held: watch::Sender<bool>,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

impl Service {
    pub fn tell(&self, order: &str, says: &[Say]) {
        self.says.lock().unwrap().insert(order.to_owned(), says.iter().rev().copied().collect());
    }

    /// Questions stay unanswered from now on.
    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    pub fn let_go(&self) {
        self.held.send_replace(false);
    }

    /// Every question so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// The most questions that were under way at the same time.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    fn next(&self, order: &str) -> Say {
        let mut says = self.says.lock().unwrap();
        match says.get_mut(order) {
            Some(left) if left.len() > 1 => left.pop().unwrap(),
            Some(left) => left[0],
            None => Say::Unpaid,
        }
    }
}

#[async_trait]
impl OrderCheck for Service {
    async fn payment(&self, order_no: &OrderNo) -> Result<Payment, NoAnswer> {
        self.asked.lock().unwrap().push(order_no.to_string());
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(under_way, Ordering::SeqCst);
        drop(self.held.subscribe().wait_for(|held| !held).await);
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        match self.next(order_no.as_str()) {
            Say::Paid => Ok(Payment::Paid),
            Say::Unpaid => Ok(Payment::Unpaid),
            Say::Cancelled => Ok(Payment::Cancelled),
            Say::Nothing => Err(NoAnswer("told to say nothing".to_owned())),
            Say::Panic => panic!("a fault on demand"),
        }
    }
}

/// An engine that asks a service.
pub struct Shop {
    pub world: World,
    pub service: Arc<Service>,
}

impl Shop {
    pub fn new() -> Self {
        Self { world: World::new(), service: Arc::default() }
    }

    pub async fn start(&self, shards: u16, check: CheckOptions) -> Engine {
        let options = EngineOptions { shards, check, ..EngineOptions::default() };
        let service = Arc::clone(&self.service) as Arc<dyn OrderCheck>;
        Engine::start(options, self.world.parts().with_order_check(service)).await.unwrap()
    }

    /// So many seconds later.
    pub fn pass(&self, seconds: u64) {
        self.world.clock.advance(Duration::from_secs(seconds));
    }
}

pub async fn read(engine: &Engine, order: &str) -> OrderView {
    match engine.submit(get(order)).await {
        Ok(Answer::Order { order, .. }) => order,
        other => panic!("{order}: {other:?}"),
    }
}

/// Waits until a condition that has to be asked for holds; the test harness bounds the time.
pub async fn until<F: Future<Output = bool>>(ask: impl Fn() -> F) {
    while !ask().await {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub async fn until_status(engine: &Engine, order: &str, status: OrderStatus) {
    until(async || read(engine, order).await.status == status).await;
}

pub fn stats(engine: &Engine) -> CheckStats {
    engine.stats().checks.unwrap()
}

/// Waits until the checker has nothing to do.
pub async fn until_idle(engine: &Engine) {
    until(async || stats(engine).waiting == 0).await;
}

/// available, reserved, sold
pub async fn levels(engine: &Engine, name: &str) -> (u64, u64, u64) {
    let levels = engine.stock(&sku(name), None).await.unwrap()[0].levels;
    (levels.available, levels.reserved, levels.sold)
}
