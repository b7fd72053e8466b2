//! Takes a command to the shard that decides it: that of its SKU or order. [`batch`] does so for many. A new order goes
//! to the shard of its first line, whichever shards the others lie in: that one is its coordinator
//! ([`crate::machine::coordinator`]).
//!
//! Where an order is, the directory knows while it is in memory. Of one that left memory the store knows the shard:
//! whichever shard is asked looks there, and answers [`Elsewhere`](ShardAnswer::Elsewhere) when it is another one. So
//! no request needs to know more than where to ask first.

mod batch;

use std::iter::Peekable;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::oneshot;

use crate::base::ids::{OrderNo, ShardId, SkuId, shard_of, shard_of_order};
use crate::base::limits::{MAX_COMMANDS_PER_ENVELOPE, MAX_ELSEWHERE_TRIES, MAX_TURN_BYTES};
use crate::contract::command::{Command, Lines};
use crate::contract::outcome::{Outcome, Refusal};
use crate::contract::subject::Subject;
use crate::machine::inner::InnerCommand;
use crate::services::directory::Directory;
use crate::services::fence::Fence;
use crate::services::known::Known;
use crate::services::shared::{
    BatchId, Envelope, ShardAnswer, ShardShared, claimed, enter, give_back_claims,
};

/// See the top of the file.
pub(crate) struct Router {
    /// Itself, for what a batch does at the same time.
    pub me: Weak<Router>,
    pub shards: Arc<[Arc<ShardShared>]>,
    pub directory: Arc<Directory>,
    pub known: Arc<Known>,
    pub fence: Arc<Fence>,
    pub batches: AtomicU64,
}

impl Router {
    /// Carries out a command of a caller.
    pub async fn submit(&self, command: Command) -> Outcome {
        command.validate()?;
        self.carry_out(command.into()).await
    }

    /// Carries out a command that is within its bounds, wherever it has to go.
    pub async fn carry_out(&self, command: InnerCommand) -> Outcome {
        self.fence.check()?;
        let (mut shard, mut command) = (self.route(&command), command);
        for _ in 0..MAX_ELSEWHERE_TRIES {
            match self.ask(shard, command).await {
                ShardAnswer::Outcome(outcome) => return outcome,
                ShardAnswer::Elsewhere { shard: elsewhere, command: back } => {
                    shard = self.claim_for(&back, elsewhere);
                    command = *back;
                }
            }
        }
        give_back_claims(std::slice::from_ref(&command), &self.directory);
        Err(Refusal::Overloaded)
    }

    /// Where a command goes at first. One that may make an order takes a claim.
    fn route(&self, command: &InnerCommand) -> ShardId {
        match command.subject() {
            Subject::Sku { sku_id, .. } => self.shard_of(sku_id),
            Subject::NewOrder { order_no, lines } => {
                self.directory.claim(order_no, self.shard_of(&lines.first().sku_id))
            }
            Subject::AnyOrder(order_no) => {
                self.directory.claim(order_no, shard_of_order(order_no, self.shard_count()))
            }
            Subject::Order(order_no) => self.shard_of_order(order_no),
        }
    }

    /// Where a command goes whose order another shard decides for, as the store says; with a claim, if it needs one.
    fn claim_for(&self, command: &InnerCommand, shard: ShardId) -> ShardId {
        match claimed(command) {
            Some(order_no) => self.directory.claim(order_no, shard),
            None => shard,
        }
    }

    /// Where an order is, or where it is asked for first.
    pub fn shard_of_order(&self, order_no: &OrderNo) -> ShardId {
        self.directory.shard(order_no).unwrap_or_else(|| shard_of_order(order_no, self.shard_count()))
    }

    /// Where a SKU is.
    fn shard_of(&self, sku_id: &SkuId) -> ShardId {
        shard_of(sku_id, self.shard_count())
    }

    pub fn shard_count(&self) -> u16 {
        u16::try_from(self.shards.len()).unwrap_or(u16::MAX)
    }

    /// Whether lines lie in several shards.
    fn is_over_shards(&self, lines: &Lines) -> bool {
        one_shard(lines, self.shard_count()).is_none()
    }

    /// Whether another shard than that of its lines decides for a new order, because another request for it came
    /// first.
    fn is_away(&self, command: &InnerCommand, shard: ShardId) -> bool {
        match command.subject() {
            Subject::NewOrder { lines, .. } => self.shard_of(&lines.first().sku_id) != shard,
            Subject::Sku { .. } | Subject::AnyOrder(_) | Subject::Order(_) => false,
        }
    }

    /// Has one shard decide a command, which took its claim if it needs one. A full gate gives it back.
    async fn ask(&self, shard: ShardId, command: InnerCommand) -> ShardAnswer {
        let shared = match self.enter(shard, std::slice::from_ref(&command)) {
            Ok(shared) => shared,
            Err(refusal) => return ShardAnswer::refused(refusal),
        };
        let (to, answer) = oneshot::channel();
        shared.mailbox.push([Envelope::One(command, to)]);
        shared.wake();
        answer.await.unwrap_or(ShardAnswer::refused(Refusal::ShardRestarted))
    }

    /// Admits commands to a shard, all or none; their claims go back when they are not admitted.
    pub fn enter(&self, shard: ShardId, commands: &[InnerCommand]) -> Result<&Arc<ShardShared>, Refusal> {
        let shared = &self.shards[shard.index()];
        enter(shared, commands, &self.directory).map(|()| shared)
    }

    fn next_batch(&self) -> BatchId {
        BatchId(self.batches.fetch_add(1, Ordering::Relaxed))
    }

    pub fn arc(&self) -> Arc<Self> {
        self.me.upgrade().expect("whoever calls this holds one")
    }
}

/// The one shard that has all lines.
pub(crate) fn one_shard(lines: &Lines, count: u16) -> Option<ShardId> {
    let first = shard_of(&lines.first().sku_id, count);
    let is_there = count == 1 || lines.as_slice().iter().all(|line| shard_of(&line.sku_id, count) == first);
    is_there.then_some(first)
}

/// As many commands as travel together: bounded by their number and by their rough size, at least one.
pub(crate) fn next_envelope(
    commands: &mut Peekable<impl Iterator<Item = InnerCommand>>,
) -> Vec<InnerCommand> {
    let mut some = Vec::new();
    let mut bytes = 0;
    while some.len() < MAX_COMMANDS_PER_ENVELOPE
        && let Some(command) =
            commands.next_if(|command| some.is_empty() || bytes + command.weight() <= MAX_TURN_BYTES)
    {
        bytes += command.weight();
        some.push(command);
    }
    some
}
