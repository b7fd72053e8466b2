//! The engine as the rest of the program sees it: start, submit, read, stop.

use std::iter::Peekable;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use ractor::{Actor, ActorRef};
use tokio::sync::{mpsc, oneshot};

pub use crate::status::{Health, ShardStats, Stats};

use crate::checkpoint::CheckpointStore;
use crate::checkpointer;
use crate::clock::Clock;
use crate::command::{Action, Command, Release, Reserve};
use crate::context::{BeforeDecide, Context};
use crate::directory::Directory;
use crate::ids::{OrderNo, ShardId, SkuId, WarehouseId, shard_of, shard_of_order};
use crate::journal::{Journal, JournalReader};
use crate::limits::{
    DEFAULT_CHECKPOINT_EVENTS, DEFAULT_GATE_PERMITS, DEFAULT_REMEMBER_MAX, DEFAULT_REMEMBER_SECONDS,
    MAX_COMMANDS_PER_ENVELOPE, MAX_PAGE_ROWS, MAX_ROUTE_TRIES, MAX_SHARDS, MAX_TURN_BYTES, MAX_WAITING_SLICES, TICK_MILLIS,
};
use crate::outcome::{Outcome, Refusal, StockView};
use crate::recovery::recover_audited;
use crate::replier;
use crate::shard::shared::{Envelope, ShardShared, give_back_claims};
use crate::shard::supervisor::{Supervisor, SupervisorArguments, SupervisorMessage};
use crate::sync::{Inbox, unpoisoned};
use crate::views::Views;
use crate::writer::{self, COMMIT_BUCKETS, WriterCounters};

/// How the engine is set up.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Shards; must be what the data directory was created with.
    pub shards: u16,
    /// Commands that may be under way in one shard.
    pub gate_permits: u32,
    /// How long ended orders and request ids are remembered, in seconds.
    pub remember_seconds: u64,
    /// How many of them one shard remembers at the most.
    pub remember_max: usize,
    /// A checkpoint of a shard begins after this many of its events (or as many as it has entries, if that is more).
    pub checkpoint_events: u64,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            shards: 1,
            gate_permits: DEFAULT_GATE_PERMITS,
            remember_seconds: DEFAULT_REMEMBER_SECONDS,
            remember_max: DEFAULT_REMEMBER_MAX,
            checkpoint_events: DEFAULT_CHECKPOINT_EVENTS,
        }
    }
}

/// What the engine needs from outside.
pub struct Parts {
    /// The write-ahead log; the engine's journal writer owns it from here on.
    pub journal: Box<dyn Journal>,
    /// Where checkpoints are kept.
    pub checkpoints: Arc<dyn CheckpointStore>,
    /// The one source of time.
    pub clock: Arc<dyn Clock>,
    before_decide: Option<BeforeDecide>,
}

impl Parts {
    /// The parts.
    #[must_use]
    pub fn new(
        journal: Box<dyn Journal>,
        checkpoints: Arc<dyn CheckpointStore>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { journal, checkpoints, clock, before_decide: None }
    }

    /// Runs before a command is decided, in the shard. A test makes a shard panic with it.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn before_decide(mut self, fault: impl Fn(&Command) + Send + Sync + 'static) -> Self {
        self.before_decide = Some(Arc::new(fault));
        self
    }
}

/// The engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal can't be read.
    #[error(transparent)]
    Journal(#[from] crate::journal::JournalError),
    /// The checkpoint can't be read.
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::CheckpointError),
    /// What was read breaks an invariant of stock.
    #[error("shard {shard}: {problem}")]
    Inconsistent {
        /// Whose.
        shard: ShardId,
        /// What.
        problem: String,
    },
    /// A thread or actor could not be started.
    #[error("can't start {what}: {problem}")]
    Spawn {
        /// Which.
        what: &'static str,
        /// Why.
        problem: String,
    },
}

/// A running engine; cheap to clone. Dropping it does not stop it: [`Engine::stop`] does.
#[derive(Clone)]
pub struct Engine {
    running: Arc<Running>,
}

struct Running {
    context: Arc<Context>,
    shards: Vec<Arc<ShardShared>>,
    reader: Arc<dyn JournalReader>,
    counters: Arc<WriterCounters>,
    stopping: AtomicBool,
    /// Taken by the one that stops the engine.
    parts: Mutex<Option<Stoppable>>,
}

/// Every background task of the engine.
struct Stoppable {
    supervisor: ActorRef<SupervisorMessage>,
    ticker: tokio::task::JoinHandle<()>,
    replier: tokio::task::JoinHandle<()>,
    writer: JoinHandle<()>,
    checkpointer: JoinHandle<()>,
}

impl Engine {
    /// Recovers every shard from its checkpoint and journal and starts.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(options: EngineOptions, parts: Parts) -> Result<Self, StartError> {
        let count = options.shards.clamp(1, MAX_SHARDS);
        let options = EngineOptions { shards: count, ..options };
        let Parts { journal, checkpoints, clock, before_decide } = parts;
        let reader = journal.reader();
        let (to_checkpointer, for_checkpointer) = mpsc::channel(MAX_WAITING_SLICES);
        let (to_replier, for_replier) = mpsc::unbounded_channel();
        let context = Arc::new(Context {
            options,
            clock,
            directory: Directory::new(count),
            views: Views::default(),
            inbox: Inbox::default(),
            checkpointer: to_checkpointer,
            replier: to_replier,
            poison: OnceLock::new(),
            journal_full: AtomicBool::new(false),
            before_decide,
        });
        let mut shards = Vec::new();
        let mut states = Vec::new();
        for id in (0..count).map(ShardId) {
            let (reader, checkpoints) = (Arc::clone(&reader), Arc::clone(&checkpoints));
            let recover = move || recover_audited(id, count, reader.as_ref(), checkpoints.as_ref());
            let recovered = tokio::task::spawn_blocking(recover).await;
            let recovered = recovered.map_err(|error| spawn_error("recovery", &error))??;
            let shared = ShardShared::new(id, context.options.gate_permits);
            shared.counters.checkpoint.store(recovered.checkpoint.0, Ordering::Relaxed);
            shared.counters.checkpoint_begun.store(recovered.checkpoint.0, Ordering::Relaxed);
            for order_no in recovered.state.order_numbers() {
                context.directory.claim(order_no, id);
            }
            tracing::info!(shard = %id, lsn = %recovered.state.applied(), replayed = recovered.replayed, "recovered");
            shards.push(Arc::new(shared));
            states.push(recovered.state);
        }
        let counters = Arc::new(WriterCounters::default());
        let writer = {
            let (context, counters) = (Arc::clone(&context), Arc::clone(&counters));
            spawn_thread("journal writer", move || writer::run(journal, &context, &counters))?
        };
        let checkpointer = {
            let (context, shards, store) = (Arc::clone(&context), shards.clone(), Arc::clone(&checkpoints));
            let body = move || checkpointer::run(store.as_ref(), &context, &shards, for_checkpointer);
            spawn_thread("checkpointer", body)?
        };
        let arguments = SupervisorArguments {
            context: Arc::clone(&context),
            shards: shards.clone(),
            states,
            reader: Arc::clone(&reader),
            checkpoints,
        };
        let supervisor = Supervisor::spawn(None, Supervisor, arguments).await;
        let (supervisor, _) = supervisor.map_err(|error| spawn_error("supervisor", &error))?;
        let replier = tokio::spawn(replier::run(for_replier));
        let ticker = tokio::spawn(tick(Arc::clone(&context), shards.clone()));
        let parts = Mutex::new(Some(Stoppable { supervisor, ticker, replier, writer, checkpointer }));
        let stopping = AtomicBool::new(false);
        Ok(Self { running: Arc::new(Running { context, shards, reader, counters, stopping, parts }) })
    }

    /// Carries out a command. Whatever it answers is durable. A dropped future does not undo the command.
    ///
    /// # Errors
    /// [`Refusal`], which says whether the outcome is unknown.
    pub async fn submit(&self, command: Command) -> Outcome {
        command.validate()?;
        let mut command = command;
        for _ in 0..MAX_ROUTE_TRIES {
            let shard = self.route(&command)?;
            let shared = self.enter(shard, std::slice::from_ref(&command))?;
            let (to, answer) = oneshot::channel();
            shared.mailbox.push([Envelope::One(command, to)]);
            shared.wake();
            match answer.await.unwrap_or(Err(Refusal::ShardRestarted)) {
                Err(Refusal::Moved(back)) => command = *back,
                outcome => return outcome,
            }
        }
        Err(Refusal::Overloaded)
    }

    /// Carries out commands; those about the same order or SKU in the order given. Answers in the same order.
    pub async fn submit_batch(&self, commands: Vec<Command>) -> Vec<Outcome> {
        let mut outcomes: Vec<Outcome> = Vec::new();
        outcomes.resize_with(commands.len(), || Err(Refusal::Overloaded));
        let mut left: Vec<(usize, Command)> = Vec::with_capacity(commands.len());
        for (index, command) in commands.into_iter().enumerate() {
            match command.validate() {
                Ok(()) => left.push((index, command)),
                Err(invalid) => outcomes[index] = Err(invalid.into()),
            }
        }
        for _ in 0..MAX_ROUTE_TRIES {
            if left.is_empty() {
                break;
            }
            let (sent, later) = self.send_all(std::mem::take(&mut left), &mut outcomes);
            left = later;
            for (indices, answer) in sent {
                let Ok(answers) = answer.await else {
                    for index in indices {
                        outcomes[index] = Err(Refusal::ShardRestarted);
                    }
                    continue;
                };
                for (index, outcome) in indices.into_iter().zip(answers) {
                    match outcome {
                        Err(Refusal::Moved(back)) => left.push((index, *back)),
                        outcome => outcomes[index] = outcome,
                    }
                }
            }
            left.sort_by_key(|(index, _)| *index);
        }
        outcomes
    }

    /// Sends commands to their shards, in order. Those that can't be sent get their outcome at once; those that have to
    /// wait for the answers to others are given back.
    fn send_all(
        &self,
        commands: Vec<(usize, Command)>,
        outcomes: &mut [Outcome],
    ) -> (Vec<Sent>, Vec<(usize, Command)>) {
        let mut later: Vec<(usize, Command)> = Vec::new();
        let mut by_shard: Vec<(Vec<usize>, Vec<Command>)> = Vec::new();
        by_shard.resize_with(self.running.shards.len(), Default::default);
        // Orders with a command whose place is uncertain: what comes after it waits for its answer.
        let mut uncertain: Vec<OrderNo> = Vec::new();
        for (index, command) in commands {
            if !uncertain.is_empty() && command.order_no().is_some_and(|order_no| uncertain.contains(order_no)) {
                later.push((index, command));
                continue;
            }
            match self.route(&command) {
                Ok(shard) if self.is_away(&command, shard) => {
                    uncertain.extend(command.order_no().cloned());
                    let (indices, commands) = &mut by_shard[shard.index()];
                    if commands.iter().any(|earlier| earlier.order_no() == command.order_no()) {
                        self.give_back(std::slice::from_ref(&command));
                        later.push((index, command));
                    } else {
                        indices.push(index);
                        commands.push(command);
                    }
                }
                Ok(shard) => {
                    let (indices, commands) = &mut by_shard[shard.index()];
                    indices.push(index);
                    commands.push(command);
                }
                Err(refusal) => outcomes[index] = Err(refusal),
            }
        }
        let mut sent = Vec::new();
        for (shard, (indices, commands)) in self.running.shards.iter().zip(by_shard) {
            if commands.is_empty() || self.enter(shard.id, &commands).is_err() {
                // `Overloaded` is what the outcomes began with.
                continue;
            }
            let mut envelopes = Vec::new();
            let mut commands = commands.into_iter().peekable();
            let mut indices = indices.into_iter();
            while commands.peek().is_some() {
                let (to, answer) = oneshot::channel();
                let some = next_envelope(&mut commands);
                sent.push((indices.by_ref().take(some.len()).collect(), answer));
                envelopes.push(Envelope::Many(some, to));
            }
            shard.mailbox.push(envelopes);
            shard.wake();
        }
        (sent, later)
    }

    /// Whether an order goes to a shard that does not own its lines, because another request for it went there.
    fn is_away(&self, command: &Command, shard: ShardId) -> bool {
        let count = self.running.context.options.shards;
        match &command.action {
            Action::Reserve(c) if count > 1 => shard_of(&c.lines.first().sku_id, count) != shard,
            _ => false,
        }
    }

    /// The shard that decides a command. A command that may make an order takes a claim on the way.
    fn route(&self, command: &Command) -> Result<ShardId, Refusal> {
        let Context { directory, options, .. } = self.running.context.as_ref();
        let count = options.shards;
        let shard = match &command.action {
            Action::CreateStock(c) => Some(shard_of(&c.sku_id, count)),
            Action::ChangeStock(c) => Some(shard_of(&c.sku_id, count)),
            Action::SetStatus(c) => Some(shard_of(&c.sku_id, count)),
            Action::Reserve(Reserve { order_no, lines, .. }) => {
                let home = shard_of(&lines.first().sku_id, count);
                let one = count == 1 || lines.as_slice().iter().all(|line| shard_of(&line.sku_id, count) == home);
                if !one {
                    // Only the home of an order that is known can say whether this is a mismatch.
                    return directory.claim_known(order_no).ok_or(Refusal::SpansShards);
                }
                Some(directory.claim(order_no, home))
            }
            Action::Release(Release { order_no, part: None, .. }) => {
                Some(directory.claim(order_no, shard_of_order(order_no, count)))
            }
            Action::Place(_) => Some(ShardId(0)),
            Action::Confirm(_) | Action::Release(_) | Action::Extend(_) | Action::Return(_) | Action::GetOrder(_) => {
                command.order_no().and_then(|order_no| directory.home(order_no))
            }
        };
        shard.ok_or_else(|| {
            let order_no = command.order_no().expect("every other command has a shard").clone();
            Refusal::UnknownOrder { order_no }
        })
    }

    /// Admits commands to a shard, all or none; their claims go back when they are not admitted.
    fn enter(&self, shard: ShardId, commands: &[Command]) -> Result<&Arc<ShardShared>, Refusal> {
        let shared = &self.running.shards[shard.index()];
        if shared.gate.enter(commands.len() as u64) {
            return Ok(shared);
        }
        shared.counters.overloaded.fetch_add(commands.len() as u64, Ordering::Relaxed);
        self.give_back(commands);
        Err(Refusal::Overloaded)
    }

    fn give_back(&self, commands: &[Command]) {
        give_back_claims(commands, &self.running.context.directory);
    }

    /// The durable levels of a SKU, in one warehouse or all, by warehouse. Empty when there are none.
    #[must_use]
    pub fn stock(&self, sku_id: &SkuId, warehouse_id: Option<WarehouseId>) -> Vec<StockView> {
        self.running.context.views.stock(sku_id, warehouse_id)
    }

    /// Up to `limit` SKUs (at most [`MAX_PAGE_ROWS`]) after `after` in the order of their names, each with all its
    /// warehouses.
    #[must_use]
    pub fn stock_page(&self, after: Option<&SkuId>, limit: usize) -> Vec<Vec<StockView>> {
        self.running.context.views.page(after, limit.min(MAX_PAGE_ROWS))
    }

    /// Whether orders can be taken.
    #[must_use]
    pub fn health(&self) -> Health {
        let with = |flag: fn(&ShardShared) -> &AtomicBool| -> Vec<ShardId> {
            let flagged = self.running.shards.iter().filter(|shard| flag(shard).load(Ordering::Acquire));
            flagged.map(|shard| shard.id).collect()
        };
        if self.running.stopping.load(Ordering::Acquire) {
            return Health::Stopping;
        }
        if let Some(problem) = self.running.context.poison.get() {
            return Health::JournalPoisoned(problem.clone());
        }
        let failed = with(|shard| &shard.failed);
        if !failed.is_empty() {
            return Health::ShardFailed(failed);
        }
        let rebuilding = with(|shard| &shard.rebuilding);
        if rebuilding.is_empty() { Health::Ready } else { Health::Rebuilding(rebuilding) }
    }

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Running { context, counters, reader, shards, .. } = self.running.as_ref();
        let mut commits = 0;
        let histogram = COMMIT_BUCKETS.iter().zip(&counters.histogram).map(|(bound, count)| {
            commits += count.load(Ordering::Relaxed);
            (*bound, commits)
        });
        Stats {
            shards: shards.iter().map(|shard| ShardStats::of(shard)).collect(),
            commits: counters.commits.load(Ordering::Relaxed),
            committed_events: counters.events.load(Ordering::Relaxed),
            commit_micros: counters.micros.load(Ordering::Relaxed),
            commit_histogram: histogram.collect(),
            journal_disk_bytes: reader.disk_bytes(),
            directory_orders: context.directory.len() as u64,
        }
    }

    /// The reading side of the journal, for followers.
    #[must_use]
    pub fn journal(&self) -> Arc<dyn JournalReader> {
        Arc::clone(&self.running.reader)
    }

    /// Takes no more commands, lets those under way end (each answered), syncs and stops every task and thread. A second
    /// call returns at once.
    pub async fn stop(&self) {
        self.running.stopping.store(true, Ordering::Release);
        let parts = unpoisoned(self.running.parts.lock()).take();
        let Some(Stoppable { supervisor, ticker, replier, writer, checkpointer }) = parts else { return };
        for shard in &self.running.shards {
            shard.drain().await;
        }
        ticker.abort();
        // The shards end with their supervisor; a turn under way is finished first.
        for shard in &self.running.shards {
            shard.stop_actor().await;
        }
        supervisor.stop(None);
        let context = Arc::clone(&self.running.context);
        drop(context.checkpointer.send(checkpointer::CheckpointMessage::Stop).await);
        context.inbox.close();
        let joined = tokio::task::spawn_blocking(move || {
            for (name, thread) in [("journal writer", writer), ("checkpointer", checkpointer)] {
                if thread.join().is_err() {
                    tracing::error!(name, "a thread panicked");
                }
            }
        });
        drop(joined.await);
        // The writer was the last to send answers.
        drop(self.running.context.replier.send(None));
        drop(replier.await);
    }
}

/// As many commands as travel together: bounded by their number and by their rough size, at least one.
fn next_envelope(commands: &mut Peekable<impl Iterator<Item = Command>>) -> Vec<Command> {
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

/// Where commands of a batch went: their places in it, and the way their answers come.
type Sent = (Vec<usize>, oneshot::Receiver<Vec<Outcome>>);

/// Lets every shard look at its deadlines now and then, also when no command comes.
async fn tick(context: Arc<Context>, shards: Vec<Arc<ShardShared>>) {
    let mut interval = tokio::time::interval(Duration::from_millis(TICK_MILLIS));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        for shard in &shards {
            if shard.failed.load(Ordering::Acquire) {
                // A command that was admitted just before the shard was given up.
                shard.drop_mail(&context.directory);
            } else {
                shard.wake();
            }
        }
    }
}

fn spawn_thread(
    what: &'static str,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    let thread = std::thread::Builder::new().name(what.into()).spawn(body);
    thread.map_err(|error| spawn_error(what, &error))
}

fn spawn_error(what: &'static str, problem: &dyn std::fmt::Display) -> StartError {
    StartError::Spawn { what, problem: problem.to_string() }
}
