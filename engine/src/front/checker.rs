//! The task that asks the order service about orders whose time is over, and carries out what follows.
//!
//! An order that nobody has asked about yet comes before those that are asked about again, so that each is asked
//! about once while the service is slow. Questions take the places of `concurrency`; what follows from answers has
//! places of its own, so that a service that does not answer keeps no order from ending when its grace is over.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use crate::base::backoff::Backoff;
use crate::base::clock::{Clock, Timestamp};
use crate::base::ids::OrderNo;
use crate::base::limits::{MAX_CHECKS_CARRIED_AT_ONCE, MAX_TTL_SECONDS, TICK_MILLIS};
use crate::contract::check::{NoAnswer, Payment, Unanswered};
use crate::contract::command::{Action, Confirm, Extend};
use crate::contract::outcome::{Answer, Outcome, Refusal};
use crate::front::router::Router;
use crate::machine::inner::InnerCommand;
use crate::services::checks::Checks;
use crate::services::store_link::add;

/// The loop; ends with the engine, wherever it stands.
pub(crate) async fn run(
    router: Arc<Router>,
    checks: Arc<Checks>,
    clock: Arc<dyn Clock>,
    mut due: mpsc::UnboundedReceiver<OrderNo>,
) {
    let mut checker = Checker::new(router, checks, clock);
    let mut tick = tokio::time::interval(Duration::from_millis(TICK_MILLIS));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        checker.start();
        tokio::select! {
            biased;
            Some(ended) = checker.running.join_next_with_id() => checker.ended(ended),
            Some(order_no) = due.recv() => checker.admit(order_no),
            _ = tick.tick(), if !checker.known.is_empty() => checker.tick(),
        }
    }
}

/// An order that was due.
#[derive(Debug)]
struct Job {
    order_no: OrderNo,
    /// It is not asked about after this.
    until: Timestamp,
    /// What is to be done; `None`: it is asked about.
    then: Option<Then>,
    backoff: Backoff,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Whether it is due at all: it was named again while it was worked on.
    Look,
    Confirm,
    Expire,
    Extend,
}

/// The end of one step of a job.
enum Ran {
    Asked(Result<Payment, NoAnswer>),
    Carried(Outcome),
}

struct Checker {
    router: Arc<Router>,
    checks: Arc<Checks>,
    clock: Arc<dyn Clock>,
    /// Every order that has a place, and whether it became due again meanwhile.
    known: HashMap<OrderNo, bool>,
    /// Not asked about yet, oldest first.
    fresh: VecDeque<Job>,
    /// To be asked about again.
    again: VecDeque<Job>,
    /// To be carried out.
    settled: VecDeque<Job>,
    /// To be tried again at a time; the number tells those of one time apart.
    resting: BTreeMap<(Instant, u64), Job>,
    rests: u64,
    running: JoinSet<Ran>,
    jobs: HashMap<Id, Job>,
    asking: usize,
    carrying: usize,
}

impl Checker {
    fn new(router: Arc<Router>, checks: Arc<Checks>, clock: Arc<dyn Clock>) -> Self {
        Self {
            router,
            checks,
            clock,
            known: HashMap::new(),
            fresh: VecDeque::new(),
            again: VecDeque::new(),
            settled: VecDeque::new(),
            resting: BTreeMap::new(),
            rests: 0,
            running: JoinSet::new(),
            jobs: HashMap::new(),
            asking: 0,
            carrying: 0,
        }
    }

    fn checks(&self) -> &Checks {
        &self.checks
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// An order is due; whoever says so took a place for it.
    fn admit(&mut self, order_no: OrderNo) {
        if let Some(again) = self.known.get_mut(&order_no) {
            *again = true;
            self.checks().room.add_permits(1);
            return;
        }
        self.known.insert(order_no.clone(), false);
        self.begin(order_no);
    }

    fn begin(&mut self, order_no: OrderNo) {
        let until = self.now().plus_seconds(u64::from(self.checks().options.grace_seconds));
        self.fresh.push_back(Job { order_no, until, then: None, backoff: Backoff::default() });
    }

    fn done(&mut self, order_no: OrderNo) {
        if self.known.get_mut(&order_no).is_some_and(std::mem::take) {
            let until = self.now();
            let (then, backoff) = (Some(Then::Look), Backoff::default());
            self.settled.push_back(Job { order_no, until, then, backoff });
        } else {
            self.known.remove(&order_no);
            self.checks().room.add_permits(1);
        }
    }

    /// Begins whatever has a place.
    fn start(&mut self) {
        let now = self.now();
        while self.fresh.front().is_some_and(|job| job.until <= now) {
            let job = self.fresh.pop_front().expect("it is there");
            self.unanswered(job);
        }
        let rested = Instant::now();
        while let Some(first) = self.resting.first_entry().filter(|first| first.key().0 <= rested) {
            let job = first.remove();
            match job.then {
                Some(_) => self.settled.push_back(job),
                None if job.until <= now => self.unanswered(job),
                None => self.again.push_back(job),
            }
        }
        while self.carrying < MAX_CHECKS_CARRIED_AT_ONCE
            && let Some(job) = self.settled.pop_front()
        {
            self.carrying += 1;
            self.carry(job);
        }
        while self.asking < self.checks().options.concurrency.max(1)
            && let Some(job) = self.fresh.pop_front().or_else(|| self.again.pop_front())
        {
            self.asking += 1;
            self.ask(job);
        }
    }

    /// Looks whose grace is over.
    fn tick(&mut self) {
        let now = self.now();
        let (over, rest) =
            std::mem::take(&mut self.again).into_iter().partition(|job: &Job| job.until <= now);
        self.again = rest;
        VecDeque::into_iter(over).for_each(|job| self.unanswered(job));
    }

    /// The service did not say in time.
    fn unanswered(&mut self, mut job: Job) {
        let checks = self.checks();
        let (then, counter) = match checks.options.unanswered {
            Unanswered::Release => (Then::Expire, &checks.counters.released),
            Unanswered::Keep => (Then::Extend, &checks.counters.kept),
        };
        add(counter, 1);
        tracing::warn!(order_no = %job.order_no, ?then, "the order service does not say whether an order was paid");
        job.then = Some(then);
        job.backoff.reset();
        self.settled.push_back(job);
    }

    fn ask(&mut self, job: Job) {
        add(&self.checks().counters.asked, 1);
        let (service, order_no) = (Arc::clone(&self.checks().service), job.order_no.clone());
        let task = self.running.spawn(async move { Ran::Asked(service.payment(&order_no).await) });
        self.jobs.insert(task.id(), job);
    }

    fn carry(&mut self, job: Job) {
        let (router, order_no, then) = (Arc::clone(&self.router), job.order_no.clone(), job.then);
        let extend_by = self.checks().options.grace_seconds;
        let task = self.running.spawn(async move {
            Ran::Carried(match then {
                Some(Then::Look) => router.submit(Action::GetOrder(order_no).into()).await,
                Some(Then::Confirm) => router.confirm_open(order_no).await,
                Some(Then::Extend) => {
                    let ttl_seconds = extend_by.clamp(1, MAX_TTL_SECONDS);
                    router.submit(Action::Extend(Extend { order_no, ttl_seconds }).into()).await
                }
                Some(Then::Expire) | None => router.carry_out(InnerCommand::Expire(order_no)).await,
            })
        });
        self.jobs.insert(task.id(), job);
    }

    /// A step came to its end.
    fn ended(&mut self, ended: Result<(Id, Ran), tokio::task::JoinError>) {
        let (id, ran) = match ended {
            Ok((id, ran)) => (id, Some(ran)),
            // It panicked, which says nothing of the order.
            Err(error) => (error.id(), None),
        };
        let Some(mut job) = self.jobs.remove(&id) else { return };
        if job.then.is_some() {
            self.carrying -= 1
        } else {
            self.asking -= 1
        }
        match ran {
            Some(Ran::Asked(Ok(payment))) => {
                let counters = &self.checks().counters;
                let (then, counter) = match payment {
                    Payment::Paid => (Then::Confirm, &counters.paid),
                    Payment::Unpaid => (Then::Expire, &counters.unpaid),
                    Payment::Cancelled => (Then::Expire, &counters.cancelled),
                };
                add(counter, 1);
                job.then = Some(then);
                job.backoff.reset();
                self.settled.push_back(job);
            }
            Some(Ran::Asked(Err(NoAnswer(problem)))) => {
                add(&self.checks().counters.failed, 1);
                tracing::debug!(order_no = %job.order_no, problem, "the order service does not answer");
                self.rest(job);
            }
            Some(Ran::Carried(outcome)) => match outcome {
                Err(refusal) if may_pass(&refusal) => self.rest(job),
                Ok(Answer::Order { order, .. }) if job.then == Some(Then::Look) => {
                    if order.expires_at.is_some_and(|at| at <= self.now()) {
                        self.begin(job.order_no);
                    } else {
                        self.done(job.order_no);
                    }
                }
                Err(refusal) if job.then == Some(Then::Confirm) => {
                    add(&self.checks().counters.refused, 1);
                    tracing::warn!(order_no = %job.order_no, %refusal, "a paid order can't be confirmed");
                    self.done(job.order_no);
                }
                // It ended otherwise meanwhile.
                Ok(_) | Err(_) => self.done(job.order_no),
            },
            None => {
                if job.then.is_none() {
                    add(&self.checks().counters.failed, 1);
                }
                self.rest(job);
            }
        }
    }

    /// It is tried again after a pause.
    fn rest(&mut self, mut job: Job) {
        let at = Instant::now() + job.backoff.next();
        self.rests += 1;
        self.resting.insert((at, self.rests), job);
    }
}

impl Router {
    /// Sells what an order holds. One that ended while the service was asked stays as it is: a payment that comes so
    /// late is for the caller to say.
    async fn confirm_open(&self, order_no: OrderNo) -> Outcome {
        let seen = self.submit(Action::GetOrder(order_no.clone()).into()).await?;
        match &seen {
            Answer::Order { order, .. } if order.expires_at.is_none() => Ok(seen),
            _ => self.submit(Action::Confirm(Confirm { order_no, part: None }).into()).await,
        }
    }
}

/// Whether the same command may go through later.
fn may_pass(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Overloaded
            | Refusal::JournalFull
            | Refusal::StoreUnavailable
            | Refusal::JournalUnavailable
            | Refusal::ShardRestarted
            | Refusal::Fenced { .. }
    )
}
