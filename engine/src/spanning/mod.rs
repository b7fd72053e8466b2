//! Orders over several shards, running: brings the commands of the protocol ([`home`](crate::home)) to the home and
//! the branches of an order, waits for their answers, and goes on in the background with what could not be told at
//! once.
//!
//! - [`places`]: commands for branches, each to the shard of its SKU, all at the same time. [`reserve`]: an attempt,
//!   and what is left of one that failed. [`decide`]: what a home answers, and late payments. [`carry`]: a decision
//!   on its way to the branches.
//! - [`keeper`]: the background: branches that ask, decisions that nobody carries.
//! - [`Spanning`] (here): which orders have a command under way. Commands of one order that move units go one after
//!   the other.
//!
//! Nothing here is remembered: what matters is in the journals, and whatever is dropped in the middle is found again
//! by a branch that asks or by a home that has a decision pending.

mod carry;
mod decide;
mod keeper;
mod places;
mod reserve;

pub(crate) use keeper::Chore;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::counters::SpanningCounters;
use crate::directory::{Claimed, Directory};
use crate::ids::{AttemptId, OrderNo, ShardId};
use crate::limits::{MAX_SPANNING_UNDER_WAY, SPANNING_STOP_MILLIS};
use crate::outcome::Refusal;
use crate::router::Router;
use crate::store_link::add;
use crate::sync::unpoisoned;

/// A step of the protocol with a name before it (the command is about to be sent) and after it (its answer, which is
/// durable, is here).
#[derive(Clone, Copy)]
pub(crate) struct Step {
    before: &'static str,
    after: &'static str,
}

macro_rules! steps {
    ($($name:ident: $step:literal),* $(,)?) => {
        $(pub(crate) const $name: Step = Step { before: concat!($step, ".before"), after: concat!($step, ".after") };)*

        /// The steps of an order over several places at which a test can end the process.
        pub const SPANNING_STEPS: &[&str] = &[$(concat!($step, ".before"), concat!($step, ".after"),)* "span.expire.after"];
    };
}

steps! {
    STEP_HOLD: "span.hold",
    STEP_HOME: "span.home",
    STEP_ABORT: "span.abort",
    STEP_DECIDE: "span.decide",
    STEP_LATE_HOLD: "span.late.hold",
    STEP_LATE: "span.late",
    STEP_CARRY: "span.carry",
    STEP_CARRIED: "span.carried",
    STEP_ASK: "span.ask",
}

/// An expiry of a home is durable, and its branches are about to be told.
pub(crate) const STEP_EXPIRED: &str = "span.expire.after";

/// See the top of the file.
pub(crate) struct Spanning {
    /// One for each command under way.
    permits: Arc<Semaphore>,
    /// Orders with something under way; bounded by the permits and by what the keeper does at the same time.
    orders: Mutex<HashMap<OrderNo, Arc<UnderWay>>>,
    /// Commands under way; `None` once the engine stops.
    tasks: Mutex<Option<JoinSet<()>>>,
    stopping: AtomicBool,
    pub counters: SpanningCounters,
}

/// An order with something under way.
#[derive(Default)]
struct UnderWay {
    /// Held by who moves its units; the last decision that was carried meanwhile, so that nobody carries it again.
    lock: tokio::sync::Mutex<u64>,
    /// Who holds it or waits for it. Counted under the lock of the map.
    users: AtomicU64,
    /// The attempt under way, 0 for none.
    attempt: AtomicU64,
}

/// A user of an order.
pub(crate) struct Entered<'a> {
    spanning: &'a Spanning,
    pub order_no: OrderNo,
    order: Arc<UnderWay>,
}

/// An attempt under way: its branches are told to wait when they ask.
struct Attempt<'a> {
    id: AttemptId,
    order: &'a UnderWay,
}

impl Spanning {
    pub fn new() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MAX_SPANNING_UNDER_WAY)),
            orders: Mutex::default(),
            tasks: Mutex::new(Some(JoinSet::new())),
            stopping: AtomicBool::new(false),
            counters: SpanningCounters::default(),
        }
    }

    /// A place for one more command.
    fn permit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.permits).try_acquire_owned().map_err(|_| {
            add(&self.counters.overloaded, 1);
            Refusal::Overloaded
        })
    }

    /// Commands under way.
    pub fn under_way(&self) -> u64 {
        (MAX_SPANNING_UNDER_WAY.saturating_sub(self.permits.available_permits())) as u64
    }

    /// Whoever is about to move units of an order.
    fn enter(&self, order_no: &OrderNo) -> Entered<'_> {
        let mut orders = unpoisoned(self.orders.lock());
        let order = orders.entry(order_no.clone()).or_default();
        order.users.fetch_add(1, Ordering::Relaxed);
        Entered { spanning: self, order_no: order_no.clone(), order: Arc::clone(order) }
    }

    /// Whether an attempt has not come to its end yet.
    fn is_under_way(&self, order_no: &OrderNo, attempt: AttemptId) -> bool {
        let orders = unpoisoned(self.orders.lock());
        orders.get(order_no).is_some_and(|order| order.attempt.load(Ordering::Acquire) == attempt.0)
    }

    /// Runs something in a task of its own, so that a caller who goes away changes nothing. `false`: the engine is
    /// stopping.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut tasks = unpoisoned(self.tasks.lock());
        let Some(tasks) = tasks.as_mut() else { return false };
        // What has ended is let go of here, so that the set does not grow.
        while let Some(ended) = tasks.try_join_next() {
            report(ended);
        }
        tasks.spawn(task);
        true
    }

    /// Takes nothing new and lets what is under way end, for a while. The rest is found again at the next start.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let tasks = unpoisoned(self.tasks.lock()).take();
        let Some(mut tasks) = tasks else { return };
        let ended = async {
            while let Some(ended) = tasks.join_next().await {
                report(ended);
            }
        };
        let in_time = timeout(Duration::from_millis(SPANNING_STOP_MILLIS), ended).await.is_ok();
        if !in_time {
            tracing::warn!(
                left = tasks.len(),
                "orders over several places are left as they are; the next start goes on with them"
            );
            tasks.shutdown().await;
        }
    }

    /// Whoever tries again and again ends now.
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a command of an order over several places failed; its outcome is unknown");
    }
}

impl Entered<'_> {
    /// Waits until nobody else moves units of the order.
    async fn lock(&self) -> tokio::sync::MutexGuard<'_, u64> {
        self.order.lock.lock().await
    }

    /// Begins an attempt. The lock is held.
    fn attempt(&self) -> Attempt<'_> {
        // 0 is none.
        let id = AttemptId(fastrand::u64(1..));
        self.order.attempt.store(id.0, Ordering::Release);
        add(&self.spanning.counters.attempts, 1);
        Attempt { id, order: &self.order }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut orders = unpoisoned(self.spanning.orders.lock());
        if self.order.users.fetch_sub(1, Ordering::Relaxed) == 1 {
            orders.remove(&self.order_no);
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.order.attempt.store(0, Ordering::Release);
    }
}

/// A claim that is given back on drop.
struct Claim<'a> {
    directory: &'a Directory,
    order_no: &'a OrderNo,
    shard: ShardId,
    /// The order is known to be there.
    is_there: bool,
    attempts: bool,
}

impl<'a> Claim<'a> {
    fn take(directory: &'a Directory, order_no: &'a OrderNo, wanted: ShardId) -> Self {
        let Claimed { shard, is_there, .. } = directory.look_and_claim(order_no, wanted);
        Self { directory, order_no, shard, is_there, attempts: false }
    }

    /// From here on, until it is given back, nobody else makes the order in its shard.
    fn begin_attempt(&mut self) {
        self.attempts = true;
        self.directory.set_attempted(self.order_no, true);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.attempts {
            self.directory.set_attempted(self.order_no, false);
        }
        self.directory.give_back(self.order_no);
    }
}

impl Router {
    /// The step before something is sent.
    fn before(&self, step: Step) {
        self.failpoints.reach(step.before);
    }

    /// The step after its answer is here.
    fn after(&self, step: Step) {
        self.failpoints.reach(step.after);
    }
}

/// Whether a refusal says nothing about the order itself: the same command may be carried out later.
fn is_transient(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Overloaded | Refusal::JournalFull | Refusal::StoreUnavailable | Refusal::Fenced { .. } => {
            true
        }
        refusal => is_unknown(refusal),
    }
}

/// Whether nobody knows if the command took effect.
fn is_unknown(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::JournalUnavailable | Refusal::ShardRestarted)
}
