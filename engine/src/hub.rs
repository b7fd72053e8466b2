//! What the router, the movers, the follower and the sweeper share: the shards, and the side of the engine that faces the store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::command::Command;
use crate::context::Context;
use crate::engine::EngineOptions;
use crate::ids::{Lsn, OrderNo, ServerId, ShardId, SkuId};
use crate::journal::JournalReader;
use crate::limits::{MAX_COMMANDS_PER_ENVELOPE, MAX_TURN_BYTES, ORDER_LOCKS};
use crate::outcome::{Outcome, Refusal};
use crate::placement::auto::Auto;
use crate::placement::routes::Routes;
use crate::shard::shared::{Awaited, Envelope, ShardShared, give_back_claims};
use crate::spanning::Spanning;
use crate::store::{Store, StoreError};
use crate::sync::unpoisoned;

/// See the top of the file.
pub(crate) struct Hub {
    /// Itself, for what it leaves to the background.
    pub me: Weak<Hub>,
    pub context: Arc<Context>,
    pub shards: Vec<Arc<ShardShared>>,
    pub reader: Arc<dyn JournalReader>,
    /// `None`: every SKU is hot.
    pub side: Option<Side>,
    /// Orders over several places.
    pub spanning: Spanning,
}

/// The side that faces the store.
pub(crate) struct Side {
    pub store: Arc<dyn Store>,
    pub server: ServerId,
    pub routes: Routes,
    /// Commands that may be under way in the store.
    pub gate: Semaphore,
    pub counters: SideCounters,
    pub auto: Auto,
    /// One per shard.
    pub follows: Vec<Follow>,
    /// Orders that come back from the store do so one at a time; several orders share a lock.
    locks: Box<[tokio::sync::Mutex<()>]>,
    /// Why the store could not do what it was last asked.
    problem: Mutex<Option<String>>,
    down: AtomicBool,
    /// After the start, every SKU that the store says is ours has a route.
    pub settled: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
    /// Moves under way; `None` once the engine stops.
    tasks: Mutex<Option<JoinSet<()>>>,
}

/// How far a shard is flushed.
pub(crate) struct Follow {
    pub flushed: watch::Sender<Lsn>,
    /// There is a reason not to wait for the interval.
    pub wake: Notify,
    /// What was durable when the engine started: until it is flushed, the store may not know yet that a SKU has left.
    pub start: Lsn,
    /// The time of the oldest event that is not flushed, or when it was last looked.
    pub oldest: AtomicU64,
    pub error: Mutex<Option<String>>,
    /// Orders that left with SKUs, until whoever asked for it takes note.
    pub gone: Mutex<HashMap<SkuId, u64>>,
}

/// Counts of the side.
#[derive(Debug, Default)]
pub(crate) struct SideCounters {
    pub promotions_asked: AtomicU64,
    pub promotions_auto: AtomicU64,
    pub demotions_asked: AtomicU64,
    pub demotions_auto: AtomicU64,
    pub moves_repaired: AtomicU64,
    pub fenced: AtomicU64,
    pub cold_commands: AtomicU64,
    pub cold_overloaded: AtomicU64,
    pub route_retries: AtomicU64,
    pub move_waits: AtomicU64,
    pub orders_fetched: AtomicU64,
    pub swept: AtomicU64,
    pub store_errors: AtomicU64,
    pub anomalies: AtomicU64,
    pub flushes: AtomicU64,
    pub flushed_events: AtomicU64,
    pub flushed_rows: AtomicU64,
    pub flush_micros: AtomicU64,
}

/// Adds to a count that only metrics read.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Hub {
    /// Has a shard decide a command, which took its claim if it needs one. A full gate gives it back.
    pub async fn ask(&self, shard: ShardId, command: Command, how: How) -> Outcome {
        let mut answer = Awaited::new(self.post(shard, command, how)?, &self.context.chores);
        answer.get().await.unwrap_or(Err(Refusal::ShardRestarted))
    }

    /// As [`Hub::ask`]; whoever asks the shard after this returned is answered after it.
    pub fn post(&self, shard: ShardId, command: Command, how: How) -> Result<oneshot::Receiver<Outcome>, Refusal> {
        let shared = self.enter(shard, std::slice::from_ref(&command))?;
        let (to, answer) = oneshot::channel();
        shared.mailbox.push([match how {
            How::Quick => Envelope::One(command, to),
            How::Exact => Envelope::Exact { command, may_cancel: false, to },
            How::MayCancel => Envelope::Exact { command, may_cancel: true, to },
        }]);
        shared.wake();
        Ok(answer)
    }

    /// Has a shard decide commands without claims, one after the other.
    pub async fn ask_all(&self, shard: ShardId, commands: Vec<Command>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(commands.len());
        let mut commands = commands.into_iter().peekable();
        while commands.peek().is_some() {
            let some = next_envelope(&mut commands);
            let count = some.len();
            let shared = match self.enter(shard, &some) {
                Ok(shared) => shared,
                Err(refusal) => {
                    outcomes.extend((0..count).map(|_| Err(refusal.clone())));
                    continue;
                }
            };
            let (to, answer) = oneshot::channel();
            shared.mailbox.push([Envelope::Many(some, to)]);
            shared.wake();
            let answers = answer.await;
            outcomes.extend(answers.unwrap_or_else(|_| (0..count).map(|_| Err(Refusal::ShardRestarted)).collect()));
        }
        outcomes
    }

    /// Admits commands to a shard, all or none; their claims go back when they are not admitted.
    pub fn enter(&self, shard: ShardId, commands: &[Command]) -> Result<&Arc<ShardShared>, Refusal> {
        let shared = &self.shards[shard.index()];
        if shared.gate.enter(commands.len() as u64) {
            return Ok(shared);
        }
        shared.counters.overloaded.fetch_add(commands.len() as u64, Ordering::Relaxed);
        give_back_claims(commands, &self.context.directory);
        Err(Refusal::Overloaded)
    }

    /// Sends commands for branches to the shard that has their SKUs.
    pub fn post_branches(&self, shard: ShardId, commands: Vec<Command>) -> Result<oneshot::Receiver<Vec<Outcome>>, Refusal> {
        let shared = &self.shards[shard.index()];
        let count = commands.len() as u64;
        if !shared.gate.enter(count) {
            shared.counters.overloaded.fetch_add(count, Ordering::Relaxed);
            return Err(Refusal::Overloaded);
        }
        let (to, answers) = oneshot::channel();
        shared.mailbox.push([Envelope::Branches(commands, to)]);
        shared.wake();
        Ok(answers)
    }

    pub fn arc(&self) -> Arc<Self> {
        self.me.upgrade().expect("whoever calls this holds one")
    }

    /// The side that faces the store, for what runs only with one.
    pub fn side(&self) -> &Side {
        self.side.as_ref().expect("only engines with a store run this")
    }
}

/// How a shard is asked.
#[derive(Clone, Copy)]
pub(crate) enum How {
    /// A reserve of a SKU that the shard does not have comes back, so that it can be looked for.
    Quick,
    /// It says what it knows; a release of an order that it does not know is refused.
    Exact,
    /// Such a release leaves a tombstone.
    MayCancel,
}

/// As many commands as travel together: bounded by their number and by their rough size, at least one.
pub(crate) fn next_envelope(commands: &mut std::iter::Peekable<impl Iterator<Item = Command>>) -> Vec<Command> {
    let mut some = Vec::new();
    let mut bytes = 0;
    while some.len() < MAX_COMMANDS_PER_ENVELOPE
        && let Some(command) = commands.next_if(|command| some.is_empty() || bytes + command.weight() <= MAX_TURN_BYTES)
    {
        bytes += command.weight();
        some.push(command);
    }
    some
}

impl Side {
    /// For shards whose journals are durable up to `starts`.
    pub fn new(store: Arc<dyn Store>, server: ServerId, options: &EngineOptions, starts: &[Lsn]) -> Self {
        let cold_permits = options.store.cold_permits;
        let follow = |start: &Lsn| Follow {
            flushed: watch::Sender::new(Lsn::ZERO),
            wake: Notify::new(),
            start: *start,
            oldest: AtomicU64::new(0),
            error: Mutex::default(),
            gone: Mutex::default(),
        };
        Self {
            store,
            server,
            routes: Routes::new(options.remember_seconds),
            gate: Semaphore::new(usize::try_from(cold_permits).unwrap_or(Semaphore::MAX_PERMITS).max(1)),
            counters: SideCounters::default(),
            auto: Auto::new(),
            follows: starts.iter().map(follow).collect(),
            locks: (0..ORDER_LOCKS).map(|_| tokio::sync::Mutex::new(())).collect(),
            problem: Mutex::default(),
            down: AtomicBool::new(false),
            settled: watch::Sender::new(false),
            stopping: watch::Sender::new(false),
            tasks: Mutex::new(Some(JoinSet::new())),
        }
    }

    /// Notes whether the store could do it.
    pub fn noted<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match &result {
            Ok(_) if !self.down.load(Ordering::Relaxed) => {}
            Ok(_) => {
                self.down.store(false, Ordering::Relaxed);
                *unpoisoned(self.problem.lock()) = None;
                tracing::info!("the store answers again");
            }
            // Contention is no sign of a store that is away, nor is a row that does not fit.
            Err(StoreError::Busy(_) | StoreError::Fenced { .. } | StoreError::Inconsistent(_)) => {
                add(&self.counters.store_errors, 1);
            }
            Err(error) => {
                add(&self.counters.store_errors, 1);
                if !self.down.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the store fails");
                }
                *unpoisoned(self.problem.lock()) = Some(error.to_string());
            }
        }
        result
    }

    /// Whether the last call of the store failed.
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    pub fn problem(&self) -> Option<String> {
        unpoisoned(self.problem.lock()).clone()
    }

    /// What a request is told that can't be served in time.
    pub fn late(&self) -> Refusal {
        if self.is_down() { Refusal::StoreUnavailable } else { Refusal::Overloaded }
    }

    /// Waits until a shard is flushed through `lsn`; `false` when that does not come in time.
    pub async fn flushed(&self, shard: ShardId, lsn: Lsn, deadline: Instant) -> bool {
        let follow = &self.follows[shard.index()];
        if *follow.flushed.borrow() >= lsn {
            return true;
        }
        follow.wake.notify_one();
        let mut flushed = follow.flushed.subscribe();
        let reached = flushed.wait_for(|flushed| *flushed >= lsn);
        matches!(timeout_at(deadline, reached).await, Ok(Ok(_)))
    }

    /// The lock of an order that comes back from the store.
    pub fn lock_of(&self, order_no: &OrderNo) -> &tokio::sync::Mutex<()> {
        let hash = xxhash_rust::xxh3::xxh3_64(order_no.as_str().as_bytes());
        &self.locks[usize::try_from(hash % ORDER_LOCKS as u64).expect("below ORDER_LOCKS")]
    }

    /// Runs something in the background until it ends or the engine stops. `false`: the engine is stopping.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut tasks = unpoisoned(self.tasks.lock());
        let Some(tasks) = tasks.as_mut() else { return false };
        // What has ended is let go of here, so that the set does not grow.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
        true
    }

    /// Ends every background task where it stands; whatever it left half done is repaired at the next start.
    pub async fn stop_tasks(&self) {
        let tasks = unpoisoned(self.tasks.lock()).take();
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
        }
    }

    /// Tells the loops to end.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
        for follow in &self.follows {
            follow.wake.notify_one();
        }
    }

    /// Comes when the engine stops.
    pub async fn stopped(&self) {
        let mut stopping = self.stopping.subscribe();
        drop(stopping.wait_for(|stopping| *stopping).await);
    }

    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }
}

/// What a caller is told of an error of the store.
pub(crate) fn refusal_of(error: StoreError) -> Refusal {
    match error {
        StoreError::Unavailable(_) => Refusal::StoreUnavailable,
        StoreError::OutcomeUnknown(_) => Refusal::OutcomeUnknown,
        StoreError::Busy(_) => Refusal::Overloaded,
        StoreError::Fenced { sku_id } => Refusal::OwnedElsewhere { sku_id },
        StoreError::Inconsistent(problem) => {
            tracing::error!(problem, "the store does not fit");
            Refusal::StoreUnavailable
        }
    }
}
