//! What the rest of the engine sees of a shard: its gate and mailbox, its durable LSN, its counters. It outlives the
//! actor: a rebuilt shard goes on with the same.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ractor::ActorRef;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::command::{Action, Command, Release};
use crate::directory::Directory;
use crate::home::HomeStep;
use crate::ids::{Lsn, ShardId};
use crate::outcome::{Answer, Outcome, Refusal};
use crate::spanning::Chore;
use crate::sync::{Backlog, Durable, Gate, Mailbox, unpoisoned};

/// Commands with the way back to their caller.
#[derive(Debug)]
pub(crate) enum Envelope {
    One(Command, oneshot::Sender<Outcome>),
    /// Of one caller, decided one after the other; at most `MAX_COMMANDS_PER_ENVELOPE`.
    Many(Vec<Command>, oneshot::Sender<Vec<Outcome>>),
    /// Of the router, which wants to know what the shard knows; see [`Hub::ask`](crate::hub::Hub::ask).
    Exact {
        command: Command,
        /// A release of an order that the shard does not know leaves a tombstone.
        may_cancel: bool,
        to: oneshot::Sender<Outcome>,
    },
    /// For branches of an order over several places: exact, without claims, and a release leaves a tombstone.
    Branches(Vec<Command>, oneshot::Sender<Vec<Outcome>>),
}

impl Envelope {
    pub fn commands(&self) -> &[Command] {
        match self {
            Self::One(command, _) | Self::Exact { command, .. } => std::slice::from_ref(command),
            Self::Many(commands, _) | Self::Branches(commands, _) => commands,
        }
    }

    /// Those that may have come with a claim.
    pub fn claiming(&self) -> &[Command] {
        match self {
            Self::Branches(..) => &[],
            _ => self.commands(),
        }
    }
}

/// Whether a command came with a claim in the directory: those that can make an order do.
pub(crate) fn has_claim(command: &Command) -> bool {
    match &command.action {
        Action::Reserve(_) | Action::Release(Release { part: None, .. }) => true,
        Action::Home(step) => matches!(**step, HomeStep::Reserve { .. }),
        _ => false,
    }
}

/// An answer that waits for its durability.
#[derive(Debug)]
pub(crate) enum Reply {
    One(oneshot::Sender<Outcome>, Outcome),
    Many(oneshot::Sender<Vec<Outcome>>, Vec<Outcome>),
}

impl Reply {
    /// Answers. A caller that went away does not matter: the command took effect, and what is still to be told to branches goes to the
    /// keeper.
    pub fn send(self, chores: &mpsc::Sender<Chore>) {
        match self {
            Self::One(to, outcome) => {
                if let Err(outcome) = to.send(outcome) {
                    leave_to_keeper(std::slice::from_ref(&outcome), chores);
                }
            }
            Self::Many(to, outcomes) => {
                if let Err(outcomes) = to.send(outcomes) {
                    leave_to_keeper(&outcomes, chores);
                }
            }
        }
    }

    /// Answers that the outcome is unknown because the journal can't be written.
    pub fn send_unavailable(self) {
        match self {
            Self::One(to, _) => drop(to.send(Err(Refusal::JournalUnavailable))),
            Self::Many(to, outcomes) => {
                drop(to.send(outcomes.iter().map(|_| Err(Refusal::JournalUnavailable)).collect()));
            }
        }
    }
}

/// Of answers that nobody took: those that tell what branches are to be told.
pub(crate) fn leave_to_keeper(outcomes: &[Outcome], chores: &mpsc::Sender<Chore>) {
    for outcome in outcomes {
        if let Ok(Answer::Decided { order, .. }) = outcome
            && chores.try_send(Chore::Carry(order.order_no.clone())).is_err()
        {
            tracing::error!(order_no = %order.order_no, "too much waits to be told to branches; this order waits for the next start");
        }
    }
}

/// An answer that is waited for. Should whoever waits go away, an answer that is there by then is not lost.
pub(crate) struct Awaited<'a, T: Outcomes> {
    answer: oneshot::Receiver<T>,
    chores: &'a mpsc::Sender<Chore>,
}

/// What a shard answers: one or several outcomes.
pub(crate) trait Outcomes {
    fn all(&self) -> &[Outcome];
}

impl Outcomes for Outcome {
    fn all(&self) -> &[Outcome] {
        std::slice::from_ref(self)
    }
}

impl Outcomes for Vec<Outcome> {
    fn all(&self) -> &[Outcome] {
        self
    }
}

impl<'a, T: Outcomes> Awaited<'a, T> {
    pub fn new(answer: oneshot::Receiver<T>, chores: &'a mpsc::Sender<Chore>) -> Self {
        Self { answer, chores }
    }

    /// `None`: the shard failed while it held the command.
    pub async fn get(&mut self) -> Option<T> {
        (&mut self.answer).await.ok()
    }
}

impl<T: Outcomes> Drop for Awaited<'_, T> {
    fn drop(&mut self) {
        // From here on the sender knows that nobody listens.
        self.answer.close();
        if let Ok(answer) = self.answer.try_recv() {
            leave_to_keeper(answer.all(), self.chores);
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

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct ShardShared {
    pub id: ShardId,
    pub gate: Gate,
    pub mailbox: Mailbox<Envelope>,
    pub durable: Durable,
    pub backlog: Backlog,
    /// The last event that the store has taken in: what changed later is not forgotten. `u64::MAX` without a store.
    pub flushed: AtomicU64,
    /// The last event with which orders left with their SKU: what the store says of an order that is not here counts only
    /// when it has taken that in.
    pub shed: AtomicU64,
    /// Told when the follower should not wait for its interval.
    pub flush_wanted: Notify,
    pub counters: Counters,
    /// A checkpoint is asked for, whatever the number of events.
    pub checkpoint_asked: AtomicBool,
    /// The shard was given up.
    pub failed: AtomicBool,
    /// The shard is being rebuilt.
    pub rebuilding: AtomicBool,
    /// Told when the last command leaves the closed gate.
    emptied: Notify,
    actor: Mutex<Option<ActorRef<ShardMessage>>>,
}

/// Counts of a shard, written by its actor once a turn.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub applied: AtomicU64,
    /// Begin of the last checkpoint that is complete.
    pub checkpoint: AtomicU64,
    /// Begin of the last checkpoint that was begun.
    pub checkpoint_begun: AtomicU64,
    pub checkpoint_failures: AtomicU64,
    pub commands: AtomicU64,
    pub turns: AtomicU64,
    pub refusals: AtomicU64,
    pub overloaded: AtomicU64,
    pub expired: AtomicU64,
    pub forgotten: AtomicU64,
    pub forgotten_early: AtomicU64,
    pub open_orders: AtomicU64,
    pub orders: AtomicU64,
    pub stocks: AtomicU64,
    pub rebuilds: AtomicU64,
}

impl ShardShared {
    pub fn new(id: ShardId, gate_permits: u32) -> Self {
        Self {
            id,
            gate: Gate::new(gate_permits),
            mailbox: Mailbox::default(),
            durable: Durable::default(),
            backlog: Backlog::default(),
            flushed: AtomicU64::new(u64::MAX),
            shed: AtomicU64::new(0),
            flush_wanted: Notify::new(),
            counters: Counters::default(),
            checkpoint_asked: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            rebuilding: AtomicBool::new(false),
            emptied: Notify::new(),
            actor: Mutex::new(None),
        }
    }

    /// Makes sure that a turn begins from now on.
    pub fn wake(&self) {
        if self.mailbox.must_wake() {
            self.send_wake();
        }
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

    /// Drops what waits in the mailbox: its callers learn that the outcome is unknown.
    pub fn drop_mail(self: &Arc<Self>, directory: &Directory) {
        let mut mail = Vec::new();
        self.mailbox.take(&mut mail);
        for envelope in &mail {
            give_back_claims(envelope.claiming(), directory);
            drop(Permits::new(Arc::clone(self), envelope.commands().len() as u64));
        }
    }
}

/// Gives back the claims of commands that will not be decided.
pub(crate) fn give_back_claims(commands: &[Command], directory: &Directory) {
    for command in commands.iter().filter(|command| has_claim(command)) {
        if let Some(order_no) = command.order_no() {
            directory.give_back(order_no);
        }
    }
}
