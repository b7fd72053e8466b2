//! The background of orders over several shards: asks the homes of branches that were not heard of, and carries
//! decisions that nobody else carries. Whatever fails is tried again for as long as the engine runs, with growing
//! pauses in which it takes no place of the others.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::carry::Carried;
use super::reserve::release_orphan;
use super::{Entered, STEP_ASK, STEP_EXPIRED, is_transient};
use crate::backoff::Backoff;
use crate::command::Action;
use crate::home::{Asked, Errand, HomeStep};
use crate::ids::{Branch, OrderNo, ShardId};
use crate::inner::{InnerAnswer, InnerCommand};
use crate::limits::{CARRY_WAIT_MILLIS, MAX_CARRIED_AT_ONCE, MAX_WAITING_CHORES};
use crate::outcome::{Answer, Refusal};
use crate::router::Router;
use crate::spanning::places::Patience;
use crate::store_link::add;

/// Something to be done in the background.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Chore {
    /// This branch of a shard asks its home.
    Ask(OrderNo),
    /// The branches of this order are to be told what is pending.
    Carry(OrderNo),
}

/// What came of it.
enum Kept {
    Done,
    /// Not yet.
    Later,
}

/// The chores that are known: one each, whatever names it again meanwhile.
#[derive(Default)]
struct Chores {
    known: HashMap<Chore, Known>,
    /// When those are due that are not under way.
    due: BTreeMap<(Instant, u64), Chore>,
    /// Tells those apart that are due at the same time.
    count: u64,
}

#[derive(Default)]
struct Known {
    backoff: Backoff,
    /// It was named again while it was under way.
    again: bool,
}

impl Chores {
    fn put(&mut self, chore: Chore) {
        if let Some(known) = self.known.get_mut(&chore) {
            known.again = true;
            return;
        }
        self.known.insert(chore.clone(), Known::default());
        self.wait(chore, Instant::now());
    }

    fn wait(&mut self, chore: Chore, until: Instant) {
        self.count += 1;
        self.due.insert((until, self.count), chore);
    }

    fn take_due(&mut self, now: Instant) -> Option<Chore> {
        let first = self.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    fn next_due(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((due, _), _)| *due)
    }

    fn ended(&mut self, chore: Chore, kept: &Kept) {
        let Some(known) = self.known.get_mut(&chore) else { return };
        let pause = match kept {
            Kept::Done if !std::mem::take(&mut known.again) => {
                self.known.remove(&chore);
                return;
            }
            Kept::Done => {
                known.backoff.reset();
                std::time::Duration::ZERO
            }
            Kept::Later => known.backoff.next(),
        };
        self.wait(chore, Instant::now() + pause);
    }
}

impl Router {
    /// The loop; ends with the engine.
    pub async fn keep(&self, mut named: mpsc::Receiver<Chore>) {
        let mut chores = Chores::default();
        let mut running: JoinSet<(Chore, Kept)> = JoinSet::new();
        // By the id of the task: what a task that panicked was at.
        let mut at: HashMap<tokio::task::Id, Chore> = HashMap::new();
        loop {
            while running.len() < MAX_CARRIED_AT_ONCE
                && let Some(chore) = chores.take_due(Instant::now())
            {
                let router = self.arc();
                let doing = chore.clone();
                let task = running.spawn(async move {
                    let kept = router.do_chore(&doing).await;
                    (doing, kept)
                });
                at.insert(task.id(), chore);
            }
            self.spanning.counters.chores_waiting.store(chores.known.len() as u64, Ordering::Relaxed);
            let next = chores.next_due().filter(|_| running.len() < MAX_CARRIED_AT_ONCE);
            let rest = async {
                match next {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                chore = named.recv(), if chores.known.len() < MAX_WAITING_CHORES => match chore {
                    Some(chore) => chores.put(chore),
                    None => return,
                },
                Some(ended) = running.join_next_with_id() => match ended {
                    Ok((id, (chore, kept))) => {
                        at.remove(&id);
                        chores.ended(chore, &kept);
                    }
                    Err(error) => {
                        tracing::error!(%error, "a chore of an order over several places failed");
                        if let Some(chore) = at.remove(&error.id()) {
                            chores.ended(chore, &Kept::Later);
                        }
                    }
                },
                () = rest => {}
            }
        }
    }

    async fn do_chore(&self, chore: &Chore) -> Kept {
        match chore {
            Chore::Ask(number) => match number.branch() {
                Some(branch) => self.ask_home(number, branch).await,
                None => Kept::Done,
            },
            Chore::Carry(order_no) => self.carry_pending(order_no).await,
        }
    }

    /// A branch was not heard of for a while: its home either knows it, or it is released.
    async fn ask_home(&self, number: &OrderNo, branch: Branch) -> Kept {
        let Branch { order_no, sku_id, attempt } = branch;
        if self.spanning.is_under_way(&order_no, attempt) {
            return Kept::Later;
        }
        add(&self.spanning.counters.branches_asked, 1);
        self.before(STEP_ASK);
        let home = self.home_of(&order_no);
        let asked = Asked { order_no: order_no.clone(), attempt };
        let known = match self.ask(home, HomeStep::Ask(asked).into()).await {
            Ok(_) => true,
            Err(Refusal::UnknownOrder { .. }) => false,
            Err(refusal) => return kept_of(&refusal),
        };
        self.after(STEP_ASK);
        if known {
            return Kept::Done;
        }
        let until = Instant::now() + std::time::Duration::from_millis(CARRY_WAIT_MILLIS);
        let released = self
            .tell(&[release_orphan(number.clone(), sku_id.clone())], super::STEP_ABORT, Patience::Firm(until))
            .await;
        match released.into_iter().next() {
            Some(Ok(_)) => {
                add(&self.spanning.counters.orphans_released, 1);
                tracing::info!(%order_no, %sku_id, "a branch whose order was not made is released");
                Kept::Done
            }
            Some(Err(refusal)) => kept_of(&refusal),
            None => Kept::Done,
        }
    }

    /// Tells branches what their home has decided and nobody told them yet.
    async fn carry_pending(&self, order_no: &OrderNo) -> Kept {
        let entered = self.spanning.enter(order_no);
        let mut through = entered.lock().await;
        let home = self.home_of(order_no);
        let errands = match self.pending(home, order_no).await {
            Ok(errands) if errands.is_empty() => return Kept::Done,
            Ok(errands) => errands,
            Err(refusal) => return kept_of(&refusal),
        };
        let expires = |errand: &Errand| {
            errand.commands.iter().any(|branch| matches!(branch.command, InnerCommand::Expire(_)))
        };
        if errands.iter().any(expires) {
            self.failpoints.reach(STEP_EXPIRED);
        }
        // The home says that they are pending: whoever told them before could not report it.
        *through = 0;
        if self.carry_in_background(home, &entered, &errands, &mut through).await {
            return Kept::Done;
        }
        add(&self.spanning.counters.carries_retried, 1);
        Kept::Later
    }

    /// Tells branches what is pending, and the home that they were told. The lock is held. `false`: it has to be done
    /// again.
    pub(super) async fn carry_in_background(
        &self,
        home: ShardId,
        entered: &Entered<'_>,
        errands: &[Errand],
        through: &mut u64,
    ) -> bool {
        let carried = self.carry(errands, through).await;
        let Ok(lines) = self.lines_for(home, &entered.order_no, &carried).await else { return false };
        let reported = self.report_carried(home, entered, &carried, &lines);
        self.is_reported(reported).await && carried.all
    }

    /// What the branches of an order are to be told.
    pub(super) async fn pending(&self, home: ShardId, order_no: &OrderNo) -> Result<Vec<Errand>, Refusal> {
        match self.ask(home, HomeStep::Pending(order_no.clone()).into()).await {
            Ok(InnerAnswer::Decided { errands, .. }) => Ok(errands),
            Ok(InnerAnswer::Public(_) | InnerAnswer::HoldFirst { .. }) => Ok(Vec::new()),
            Err(refusal) => Err(refusal),
        }
    }

    /// The lines of an order, if there is something to be said of them.
    async fn lines_for(
        &self,
        home: ShardId,
        order_no: &OrderNo,
        carried: &Carried,
    ) -> Result<Vec<crate::outcome::LineView>, Refusal> {
        if carried.serials.is_empty() {
            return Ok(Vec::new());
        }
        match self.ask(home, Action::GetOrder(order_no.clone()).into()).await {
            Ok(InnerAnswer::Public(Answer::Order { order, .. })) => Ok(order.lines.into_vec()),
            Ok(_) => Ok(Vec::new()),
            Err(refusal) => Err(refusal),
        }
    }
}

/// Whether a refusal is worth another try.
fn kept_of(refusal: &Refusal) -> Kept {
    match refusal {
        // The order was forgotten, so nothing can be pending; or nothing is written any more until the next start.
        Refusal::UnknownOrder { .. } | Refusal::JournalUnavailable => Kept::Done,
        refusal if is_transient(refusal) => Kept::Later,
        refusal => {
            tracing::error!(%refusal, "a chore of an order over several places is refused");
            Kept::Done
        }
    }
}
