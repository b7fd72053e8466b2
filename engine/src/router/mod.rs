//! Takes a command to the shard that decides it: that of its SKU or order. [`batch`] does so for many. A new order
//! whose lines lie in several shards goes to [`spanning`](crate::spanning); one that does already goes to its home
//! like any other.
//!
//! Where an order is, the directory knows while it is in memory. Of one that left memory the store knows the shard:
//! whichever shard is asked looks there, and answers [`Elsewhere`](ShardAnswer::Elsewhere) when it is another one. So
//! no request needs to know more than where to ask first.

mod batch;

use std::iter::Peekable;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::command::{Command, Lines};
use crate::directory::{Claimed, Directory};
use crate::failpoints::Failpoints;
use crate::fence::Fence;
use crate::ids::{OrderNo, ShardId, SkuId, shard_of, shard_of_order};
use crate::inner::{InnerCommand, InnerOutcome, Subject};
use crate::known::Known;
use crate::limits::{MAX_COMMANDS_PER_ENVELOPE, MAX_ELSEWHERE_TRIES, MAX_LOOK_PAUSE_MILLIS, MAX_TURN_BYTES};
use crate::outcome::{Outcome, Refusal};
use crate::reads::Reads;
use crate::shard::shared::{
    Awaited, BatchId, Envelope, ShardAnswer, ShardShared, claimed, enter, give_back_claims,
};
use crate::spanning::{Chore, Spanning};

/// See the top of the file.
pub(crate) struct Router {
    /// Itself, for what it leaves to the background.
    pub me: Weak<Router>,
    pub shards: Arc<[Arc<ShardShared>]>,
    pub directory: Arc<Directory>,
    pub known: Arc<Known>,
    pub fence: Arc<Fence>,
    /// Of levels, to choose warehouses for orders over several shards.
    pub reads: Arc<Reads>,
    /// Orders over several shards.
    pub spanning: Spanning,
    /// The queue of the keeper; bounded by `MAX_WAITING_CHORES`.
    pub chores: mpsc::Sender<Chore>,
    /// How long a caller waits for units in several shards.
    pub attempt_wait: Duration,
    pub failpoints: Failpoints,
    pub batches: AtomicU64,
}

/// Where a command goes. One that may make an order took a claim for its shard.
enum Route {
    Shard(ShardId),
    /// A reserve whose lines lie in several shards, or that meets one for the same order whose lines do.
    Several,
}

impl Router {
    /// Carries out a command of a caller.
    pub async fn submit(&self, command: Command) -> Outcome {
        command.validate()?;
        self.carry_out(command.into()).await
    }

    /// Carries out a command that is within its bounds.
    pub async fn carry_out(&self, command: InnerCommand) -> Outcome {
        self.fence.check()?;
        let route = self.route(&command);
        self.settle(command, route).await
    }

    /// Carries out a command, wherever it has to go.
    async fn settle(&self, command: InnerCommand, route: Route) -> Outcome {
        let (mut command, mut route) = (command, route);
        for tries in 0..MAX_ELSEWHERE_TRIES {
            let shard = match route {
                Route::Shard(shard) => shard,
                Route::Several => match self.span(command).await {
                    ShardAnswer::Outcome(outcome) => return self.conclude(outcome).await,
                    ShardAnswer::Elsewhere { shard, command: back } => {
                        route = self.route_to(&back, shard);
                        command = *back;
                        continue;
                    }
                    ShardAnswer::NotHere(back) => {
                        pause(tries).await;
                        route = self.route(&back);
                        command = *back;
                        continue;
                    }
                },
            };
            self.before_decision(&command);
            match self.ask_once(shard, command).await {
                ShardAnswer::Outcome(outcome) => return self.conclude(outcome).await,
                ShardAnswer::Elsewhere { shard, command: back } => {
                    route = self.route_to(&back, shard);
                    command = *back;
                }
                ShardAnswer::NotHere(back) => {
                    pause(tries).await;
                    route = self.route(&back);
                    command = *back;
                }
            }
        }
        if let Route::Shard(_) = route {
            give_back_claims(std::slice::from_ref(&command), &self.directory);
        }
        Err(Refusal::Overloaded)
    }

    /// Where a command goes at first.
    fn route(&self, command: &InnerCommand) -> Route {
        match command.subject() {
            Subject::Sku { sku_id, .. } => Route::Shard(self.shard_of(sku_id)),
            Subject::NewOrder { lines, .. } if self.is_over_shards(lines) => Route::Several,
            Subject::NewOrder { order_no, lines } => {
                self.route_new(order_no, self.shard_of(&lines.first().sku_id))
            }
            Subject::AnyOrder(order_no) => {
                Route::Shard(self.directory.claim(order_no, shard_of_order(order_no, self.shard_count())))
            }
            Subject::Order(order_no) => Route::Shard(self.shard_of_order(order_no)),
        }
    }

    /// Where a command goes whose order another shard decides for, as the store says.
    fn route_to(&self, command: &InnerCommand, shard: ShardId) -> Route {
        match command.subject() {
            Subject::NewOrder { order_no, .. } => self.route_new(order_no, shard),
            Subject::AnyOrder(order_no) => Route::Shard(self.directory.claim(order_no, shard)),
            Subject::Sku { .. } | Subject::Order(_) => Route::Shard(shard),
        }
    }

    /// Where a command goes whose order is there, and nowhere else for good.
    fn route_back(&self, command: &InnerCommand, shard: ShardId) -> Route {
        let subject = command.subject();
        if matches!(subject, Subject::NewOrder { lines, .. } if self.is_over_shards(lines)) {
            return Route::Several;
        }
        if let Some(order_no) = subject.may_make() {
            // Wherever others look for it, it is here.
            let _elsewhere = self.directory.claim(order_no, shard);
        }
        Route::Shard(shard)
    }

    fn route_new(&self, order_no: &OrderNo, wanted: ShardId) -> Route {
        let Claimed { shard, is_attempted, .. } = self.directory.look_and_claim(order_no, wanted);
        if is_attempted {
            // Behind the attempt, under the order's lock.
            self.directory.give_back(order_no);
            return Route::Several;
        }
        Route::Shard(shard)
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

    /// Whether an order goes to a shard that does not own its lines, because another request for it went there; that
    /// one may have made it by then, or not.
    fn is_away(&self, command: &InnerCommand, shard: ShardId) -> bool {
        match command.subject() {
            Subject::NewOrder { order_no, lines } => {
                self.shard_of(&lines.first().sku_id) != shard && self.directory.there(order_no).is_none()
            }
            Subject::Sku { .. } | Subject::AnyOrder(_) | Subject::Order(_) => false,
        }
    }

    /// Has a shard decide a command, and goes on to where its order is. A command that can make an order took a claim
    /// for the shard.
    pub async fn ask(&self, shard: ShardId, command: InnerCommand) -> InnerOutcome {
        let (mut shard, mut command) = (shard, command);
        for tries in 0..MAX_ELSEWHERE_TRIES {
            match self.ask_once(shard, command).await {
                ShardAnswer::Outcome(outcome) => return outcome,
                ShardAnswer::Elsewhere { shard: elsewhere, command: back } => {
                    (shard, command) = (elsewhere, *back);
                }
                ShardAnswer::NotHere(back) => {
                    pause(tries).await;
                    command = *back;
                }
            }
            if let Some(order_no) = claimed(&command) {
                shard = self.directory.claim(order_no, shard);
            }
        }
        give_back_claims(std::slice::from_ref(&command), &self.directory);
        Err(Refusal::Overloaded)
    }

    /// Has one shard decide a command, which took its claim if it needs one. A full gate gives it back.
    pub async fn ask_once(&self, shard: ShardId, command: InnerCommand) -> ShardAnswer {
        match self.post(shard, command) {
            Ok(answer) => {
                let mut answer = Awaited::new(answer, &self.chores);
                answer.get().await.unwrap_or(ShardAnswer::refused(Refusal::ShardRestarted))
            }
            Err(refusal) => ShardAnswer::refused(refusal),
        }
    }

    /// As [`Router::ask_once`]; whoever asks the shard after this returned is answered after it.
    pub fn post(
        &self,
        shard: ShardId,
        command: InnerCommand,
    ) -> Result<oneshot::Receiver<ShardAnswer>, Refusal> {
        let shared = self.enter(shard, std::slice::from_ref(&command))?;
        let (to, answer) = oneshot::channel();
        shared.mailbox.push([Envelope::One(command, to)]);
        shared.wake();
        Ok(answer)
    }

    /// Sends commands for branches to the shard that has their SKUs.
    pub fn post_branches(
        &self,
        shard: ShardId,
        commands: Vec<InnerCommand>,
    ) -> Result<oneshot::Receiver<Vec<ShardAnswer>>, Refusal> {
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

/// Lets others run first; longer from try to try.
async fn pause(tries: u32) {
    if tries < 2 {
        tokio::task::yield_now().await;
    } else {
        let millis = 1_u64 << tries.min(16);
        tokio::time::sleep(Duration::from_millis(millis.min(MAX_LOOK_PAUSE_MILLIS))).await;
    }
}
