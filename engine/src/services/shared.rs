//! What the rest of the engine sees of a shard: its gate and mailbox, its durable LSN, its counters. It outlives the
//! actor: a rebuilt shard goes on with the same. Also what is sent to a shard and what it answers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ractor::ActorRef;
use tokio::sync::{Notify, oneshot};

use crate::base::clock::Timestamp;
use crate::base::ids::{Lsn, OrderNo, ShardId, SkuId};
use crate::contract::counters::ShardCounters;
use crate::contract::image::StockImage;
use crate::contract::outcome::{Effect, Outcome, Refusal};
use crate::contract::store::Loaded;
use crate::machine::inner::InnerCommand;
use crate::machine::message::Message;
use crate::machine::state::{Need, State};
use crate::services::directory::Directory;

use super::callers::{Caller, Slots};
use crate::base::sync::{Backlog, Durable, Gate, Mailbox, unpoisoned};

/// What lies in the mailbox of a shard: commands with the way back to their caller, and what the loader found.
#[derive(Debug)]
pub(crate) enum Envelope {
    One(InnerCommand, oneshot::Sender<ShardAnswer>),
    /// Of one caller, decided one after the other; at most `MAX_COMMANDS_PER_ENVELOPE`. Those of one batch are
    /// decided in the order in which they came.
    Many(Vec<InnerCommand>, BatchId, oneshot::Sender<Vec<ShardAnswer>>),
    /// Of another shard, about an order over several.
    Message(ShardId, Message),
    /// This other shard was rebuilt: what it was about to do or to say is lost.
    Rebuilt(ShardId),
    /// SKUs are kept in memory from here on, or no longer. Of an operator.
    Pin {
        skus: Vec<SkuId>,
        hot: bool,
        to: oneshot::Sender<Vec<PinAnswer>>,
    },
    /// The stocks of SKUs that are in memory, and the last event. Of reconcile.
    Images {
        skus: Vec<SkuId>,
        to: oneshot::Sender<ImagesAnswer>,
    },
    /// What this shard wanted from the store.
    Loaded(LoadAnswer),
}

/// What a shard wanted, and the one snapshot of the store in which it was looked for.
#[derive(Debug)]
pub(crate) struct LoadAnswer {
    pub needs: Vec<Need>,
    pub found: Result<Arc<Loaded>, Refusal>,
}

/// What became of a SKU that was to be pinned or let go.
pub(crate) type PinAnswer = Result<Effect, Refusal>;

/// Stocks as they are after an event.
pub(crate) type ImagesAnswer = Result<(Lsn, Vec<StockImage>), Refusal>;

/// Tells batches apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BatchId(pub u64);

/// What a shard says to a command.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ShardAnswer {
    Outcome(Outcome),
    /// The store has the order, and this other shard decides for it.
    Elsewhere {
        shard: ShardId,
        command: Box<InnerCommand>,
    },
}

impl ShardAnswer {
    pub fn refused(refusal: Refusal) -> Self {
        Self::Outcome(Err(refusal))
    }
}

impl Envelope {
    pub fn commands(&self) -> &[InnerCommand] {
        match self {
            Self::One(command, _) => std::slice::from_ref(command),
            Self::Many(commands, _, _) => commands,
            Self::Pin { .. }
            | Self::Images { .. }
            | Self::Loaded(_)
            | Self::Message(..)
            | Self::Rebuilt(_) => &[],
        }
    }

    /// Places in the gate that it holds.
    pub fn permits(&self) -> u64 {
        match self {
            Self::One(..) | Self::Pin { .. } | Self::Images { .. } => 1,
            Self::Many(commands, _, _) => commands.len() as u64,
            Self::Loaded(_) | Self::Message(..) | Self::Rebuilt(_) => 0,
        }
    }

    /// The batch that it is a part of.
    pub fn batch(&self) -> Option<BatchId> {
        match self {
            Self::Many(_, batch, _) => Some(*batch),
            Self::One(..)
            | Self::Message(..)
            | Self::Rebuilt(_)
            | Self::Pin { .. }
            | Self::Images { .. }
            | Self::Loaded(_) => None,
        }
    }

    /// Answers everything in it that is not decided, each command by itself.
    pub fn answer(self, outcome: impl Fn(Option<&InnerCommand>) -> Outcome) {
        let of = |command| ShardAnswer::Outcome(outcome(Some(command)));
        match self {
            Self::One(command, to) => drop(to.send(of(&command))),
            Self::Many(commands, _, to) => {
                drop(to.send(commands.iter().map(of).collect()));
            }
            Self::Pin { skus, to, .. } => {
                if let Err(refusal) = outcome(None) {
                    drop(to.send(skus.iter().map(|_| Err(refusal.clone())).collect()));
                }
            }
            Self::Images { to, .. } => {
                if let Err(refusal) = outcome(None) {
                    drop(to.send(Err(refusal)));
                }
            }
            // Who sent it begins anew too, or is told the same.
            Self::Loaded(_) | Self::Message(..) | Self::Rebuilt(_) => {}
        }
    }
}

/// The order for which a command came with a claim in the directory: those that can make one do.
pub(crate) fn claimed(command: &InnerCommand) -> Option<&OrderNo> {
    command.subject().may_make()
}

/// An answer that waits for its durability.
#[derive(Debug)]
pub(crate) enum Reply {
    One(oneshot::Sender<ShardAnswer>, ShardAnswer),
    Many(oneshot::Sender<Vec<ShardAnswer>>, Vec<ShardAnswer>),
    /// Of the coordinator.
    Caller(Caller, Outcome),
    /// To a command that waited for others about its order.
    Deferred(Caller, ShardAnswer),
    /// Some answers of an envelope of which others come later.
    Slots(Arc<Slots>, Vec<(usize, ShardAnswer)>),
    Pinned(oneshot::Sender<Vec<PinAnswer>>, Vec<PinAnswer>),
    Images(oneshot::Sender<ImagesAnswer>, ImagesAnswer),
}

impl Reply {
    /// Answers. A caller that went away does not matter: the command took effect.
    pub fn send(self) {
        match self {
            Self::One(to, answer) => drop(to.send(answer)),
            Self::Many(to, answers) => drop(to.send(answers)),
            Self::Caller(caller, outcome) => caller.answer(outcome),
            Self::Deferred(caller, answer) => caller.send(answer),
            Self::Slots(slots, answers) => slots.fill(answers),
            Self::Pinned(to, answers) => drop(to.send(answers)),
            Self::Images(to, images) => drop(to.send(images)),
        }
    }

    /// Answers that the outcome is unknown because the journal can't be written.
    pub fn send_unavailable(self) {
        let unavailable = || ShardAnswer::refused(Refusal::JournalUnavailable);
        match self {
            Self::One(to, _) => drop(to.send(unavailable())),
            Self::Many(to, answers) => drop(to.send(answers.iter().map(|_| unavailable()).collect())),
            Self::Caller(caller, _) | Self::Deferred(caller, _) => {
                caller.answer(Err(Refusal::JournalUnavailable));
            }
            Self::Slots(slots, answers) => {
                slots.fill(answers.into_iter().map(|(index, _)| (index, unavailable())).collect());
            }
            Self::Pinned(to, answers) => {
                drop(to.send(answers.iter().map(|_| Err(Refusal::JournalUnavailable)).collect()));
            }
            Self::Images(to, _) => drop(to.send(Err(Refusal::JournalUnavailable))),
        }
    }
}

/// Places in the gate that come back on drop.
#[derive(Debug)]
pub(crate) struct Permits {
    shared: Arc<ShardShared>,
    count: u64,
}

impl Permits {
    /// For `count` commands that have entered the gate.
    pub fn new(shared: Arc<ShardShared>, count: u64) -> Self {
        Self { shared, count }
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        if self.shared.gate.leave(self.count) {
            self.shared.emptied.notify_one();
        }
    }
}

/// Messages of the shard actor. Commands don't travel as messages; they lie in the mailbox.
#[derive(Debug)]
pub(crate) enum ShardMessage {
    /// There is something to do.
    Wake,
}

/// How far a shard has decided: an event behind [`Decided::get`]'s is not before its time.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    lsn: AtomicU64,
    time: AtomicU64,
}

impl Decided {
    /// At the end of each turn: the last event and the time of the turn, which never goes back.
    pub fn publish(&self, lsn: Lsn, time: Timestamp) {
        self.lsn.store(lsn.0, Ordering::Release);
        self.time.store(time.0, Ordering::Release);
    }

    pub fn get(&self) -> (Lsn, Timestamp) {
        // The time first: of a turn that ends between the two it is told less, never more.
        let time = Timestamp(self.time.load(Ordering::Acquire));
        (Lsn(self.lsn.load(Ordering::Acquire)), time)
    }
}

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct ShardShared {
    pub id: ShardId,
    pub gate: Gate,
    pub mailbox: Mailbox<Envelope>,
    pub durable: Durable,
    pub backlog: Backlog,
    pub decided: Decided,
    /// The last event that the store has taken in: what changed later does not leave memory.
    pub flushed: AtomicU64,
    /// The last change of anything that left memory: what the store says of what is not here counts only when it has
    /// taken that in.
    pub departed: AtomicU64,
    pub counters: ShardCounters,
    /// Begin of the last checkpoint that was begun.
    pub checkpoint_begun: AtomicU64,
    /// A checkpoint is asked for, whatever the number of events.
    checkpoint_asked: AtomicBool,
    /// The shard was given up.
    pub failed: AtomicBool,
    /// The shard is being rebuilt.
    pub rebuilding: AtomicBool,
    /// Holds of which it has not heard since a start: see [`Shard`](crate::shard::turn::Shard).
    pub asking: AtomicU64,
    /// Told when the last command leaves the closed gate.
    emptied: Notify,
    actor: Mutex<Option<ActorRef<ShardMessage>>>,
}

impl ShardShared {
    pub fn new(id: ShardId, gate_permits: u32) -> Self {
        Self {
            id,
            gate: Gate::new(gate_permits),
            mailbox: Mailbox::default(),
            durable: Durable::default(),
            backlog: Backlog::default(),
            decided: Decided::default(),
            flushed: AtomicU64::new(0),
            departed: AtomicU64::new(0),
            counters: ShardCounters::default(),
            checkpoint_begun: AtomicU64::new(0),
            checkpoint_asked: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            rebuilding: AtomicBool::new(false),
            asking: AtomicU64::new(0),
            emptied: Notify::new(),
            actor: Mutex::new(None),
        }
    }

    /// Puts something into the mailbox that needs no place in the gate.
    pub fn deliver(&self, envelopes: Vec<Envelope>) {
        self.mailbox.push(envelopes);
        self.wake();
    }

    /// Makes sure that a turn begins from now on.
    pub fn wake(&self) {
        if self.mailbox.must_wake() {
            self.send_wake();
        }
    }

    /// A checkpoint is wanted, whatever the number of events.
    pub fn ask_checkpoint(&self) {
        self.checkpoint_asked.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether one is wanted; told once.
    pub fn take_asked_checkpoint(&self) -> bool {
        self.checkpoint_asked.swap(false, Ordering::AcqRel)
    }

    /// A new actor serves this shard; it is woken whatever the flag of the mailbox says.
    pub fn set_actor(&self, actor: Option<ActorRef<ShardMessage>>) {
        *unpoisoned(self.actor.lock()) = actor;
        self.send_wake();
    }

    fn send_wake(&self) {
        // No actor: it is being rebuilt and will be woken when it is there.
        if let Some(actor) = unpoisoned(self.actor.lock()).as_ref() {
            drop(actor.cast(ShardMessage::Wake));
        }
    }

    /// Lets no command in and waits until none is under way.
    pub async fn drain(&self) {
        self.gate.close();
        while self.gate.under_way() > 0 {
            self.emptied.notified().await;
        }
    }

    /// Ends the actor after the turn that it is in.
    pub async fn stop_actor(&self) {
        let actor = unpoisoned(self.actor.lock()).take();
        if let Some(actor) = actor {
            // An error says that it has ended already.
            drop(actor.stop_and_wait(None, None).await);
        }
    }

    pub fn durable_lsn(&self) -> Lsn {
        Lsn(self.durable.get())
    }

    pub fn flushed_lsn(&self) -> Lsn {
        Lsn(self.flushed.load(Ordering::Acquire))
    }

    pub fn departed_lsn(&self) -> Lsn {
        Lsn(self.departed.load(Ordering::Acquire))
    }

    /// Takes over what was recovered.
    pub fn recovered(&self, state: &State, checkpoint: Lsn) {
        self.counters.checkpoint.store(checkpoint.0, Ordering::Relaxed);
        self.checkpoint_begun.store(checkpoint.0, Ordering::Relaxed);
        self.departed.store(state.departed().0, Ordering::Release);
    }

    /// Drops what waits in the mailbox: its callers learn that the outcome is unknown.
    pub fn drop_mail(self: &Arc<Self>, directory: &Directory) {
        let mut mail = Vec::new();
        self.mailbox.take(&mut mail);
        for envelope in &mail {
            give_back_claims(envelope.commands(), directory);
            drop(Permits::new(Arc::clone(self), envelope.permits()));
        }
    }
}

/// Gives back the claims of commands that will not be decided.
pub(crate) fn give_back_claims(commands: &[InnerCommand], directory: &Directory) {
    for order_no in commands.iter().filter_map(claimed) {
        directory.give_back(order_no);
    }
}

/// Admits commands to a shard, all or none; their claims go back when they are not admitted.
pub(crate) fn enter(
    shared: &ShardShared,
    commands: &[InnerCommand],
    directory: &Directory,
) -> Result<(), Refusal> {
    let count = commands.len() as u64;
    if shared.gate.enter(count) {
        return Ok(());
    }
    shared.counters.overloaded.fetch_add(count, Ordering::Relaxed);
    give_back_claims(commands, directory);
    Err(Refusal::Overloaded)
}
