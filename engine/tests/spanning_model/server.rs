//! The server of the simulation: how commands about orders over several places are carried to the places, as tasks that live in its
//! memory. Everything that matters is decided by `hotstock_engine::home`; here is who is asked next.

use std::cell::{Ref, RefCell, RefMut};
use std::pin::Pin;
use std::rc::Rc;

use hotstock_engine::command::{Action, Command, Confirm, Lines, Release, Reserve};
use hotstock_engine::home::attempt::{Judged, branches_of, branches_of_late, judge_late, judge_reserve};
use hotstock_engine::home::{Asked, BranchCommand, Errand, HomeStep};
use hotstock_engine::ids::{AttemptId, OrderNo};
use hotstock_engine::outcome::{Answer, Effect, Outcome, Refusal};

use crate::messages::{Reply, Said, all, until};
use crate::naive::order::Order;
use crate::world::{Route, World};

/// Looks at a place before a command is given up: far more than anything takes here.
const TRIES: u32 = 400;

/// Tries of a branch command within an attempt.
const ATTEMPT_TRIES: u32 = 3;

/// See the module. Clones are the same server.
#[derive(Clone)]
pub struct Server(Rc<RefCell<World>>);

/// The lock of an order, given back when it is dropped.
struct Lock {
    server: Server,
    order_no: OrderNo,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While a failed test unwinds, the world may be in use.
        if let Ok(mut world) = self.server.0.try_borrow_mut() {
            world.locked.remove(&self.order_no);
        }
    }
}

/// Whether nobody knows what became of a command.
pub fn is_unknown(outcome: &Outcome) -> bool {
    matches!(outcome, Err(Refusal::ShardRestarted | Refusal::JournalUnavailable))
}

/// Whether nothing happened, for a reason that goes by.
pub fn is_passing(outcome: &Outcome) -> bool {
    matches!(outcome, Err(Refusal::Overloaded | Refusal::StoreUnavailable))
}

impl Server {
    pub fn new(world: World) -> Self {
        Self(Rc::new(RefCell::new(world)))
    }

    pub fn world(&self) -> RefMut<'_, World> {
        self.0.borrow_mut()
    }

    pub fn look(&self) -> Ref<'_, World> {
        self.0.borrow()
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.world().spawned.push(Box::pin(task));
    }

    /// Sends a message and waits for the answer.
    async fn ask(&self, to: usize, command: Command) -> Reply {
        let slot = self.world().send(to, command);
        until(|| slot.borrow_mut().take()).await
    }

    /// A command that goes to a shard for good.
    async fn ask_one(&self, to: usize, command: Command) -> (Outcome, Option<Order>) {
        let (said, then) = self.ask(to, command).await;
        match said {
            Said::Outcome(outcome) => (outcome, then),
            Said::Elsewhere(_) | Said::NotHere => (Err(Refusal::Overloaded), None),
        }
    }

    async fn pause(&self, millis: u64) {
        let end = self.look().clock.plus_millis(millis);
        until(|| (self.look().clock >= end).then_some(())).await;
    }

    async fn lock(&self, order_no: &OrderNo) -> Lock {
        until(|| self.world().locked.insert(order_no.clone()).then_some(())).await;
        Lock { server: self.clone(), order_no: order_no.clone() }
    }

    /// A caller's command, to its answer.
    pub async fn call(&self, command: Command) -> (Outcome, Option<Order>) {
        let mut elsewhere = None;
        for _ in 0..TRIES {
            let route = elsewhere.take().map_or_else(|| self.look().route(&command), Route::At);
            let target = match route {
                Route::At(target) => target,
                Route::Span => {
                    let Action::Reserve(reserve) = &command.action else { unreachable!("{command:?} spans") };
                    match self.reserve(reserve).await {
                        Some(answer) => return answer,
                        None => continue,
                    }
                }
            };
            if let Some(order_no) = command.order_no() {
                self.world().claims.entry(order_no.clone()).or_insert((target, 0)).1 += 1;
            }
            let (said, then) = self.ask(target, command.clone()).await;
            if let Some(order_no) = command.order_no() {
                self.unclaim(order_no);
            }
            match said {
                Said::NotHere => self.pause(10).await,
                Said::Elsewhere(shard) => elsewhere = Some(shard),
                Said::Outcome(Err(Refusal::HoldFirst(lines))) => {
                    let Action::Confirm(confirm) = &command.action else {
                        panic!("{command:?} needs late units")
                    };
                    match self.late(confirm, lines).await {
                        Some(answer) => return answer,
                        None => continue,
                    }
                }
                Said::Outcome(outcome) => return (self.decided(outcome).await, then),
            }
        }
        (Err(Refusal::Overloaded), None)
    }

    fn unclaim(&self, order_no: &OrderNo) {
        let mut world = self.world();
        if let Some(claim) = world.claims.get_mut(order_no) {
            claim.1 -= 1;
            if claim.1 == 0 {
                world.claims.remove(order_no);
            }
        }
    }

    /// An answer of a home for its caller; what it decided is carried to the branches.
    async fn decided(&self, outcome: Outcome) -> Outcome {
        let Ok(Answer::Decided { order, effect, errands }) = outcome else { return outcome };
        let answer = Ok(Answer::Order { order: order.clone(), effect });
        let (server, order_no) = (self.clone(), order.order_no.clone());
        let done = Rc::new(RefCell::new(false));
        let end = Rc::clone(&done);
        self.spawn(async move {
            server.carry(&order_no, Some(errands)).await;
            *end.borrow_mut() = true;
        });
        // The caller waits for a bounded time, or goes away.
        if self.world().rng.bool() {
            let end = self.look().clock.plus_millis(3_000);
            until(|| (*done.borrow() || self.look().clock >= end).then_some(())).await;
        }
        answer
    }

    /// A reserve over several places. `None`: to be looked at anew.
    async fn reserve(&self, reserve: &Reserve) -> Option<(Outcome, Option<Order>)> {
        let order_no = &reserve.order_no;
        let lock = self.lock(order_no).await;
        let command = Command::from(Action::Reserve(reserve.clone()));
        if self.look().route(&command) != Route::Span {
            return None;
        }
        let home = self.look().name_shard(order_no);
        // Whether the store has it: whoever asks for it meanwhile goes to its home too.
        self.world().claims.insert(order_no.clone(), (home, 1));
        let read = self.ask(home, Action::GetOrder(order_no.clone()).into()).await;
        match read {
            (Said::Outcome(Err(Refusal::UnknownOrder { .. })), _) => {}
            (Said::Outcome(Err(refusal)), _) => {
                self.unclaim(order_no);
                return Some((Err(refusal), None));
            }
            (Said::Elsewhere(shard), _) => {
                self.unclaim(order_no);
                let (outcome, then) = self.ask_one(shard, command).await;
                return Some((self.decided(outcome).await, then));
            }
            (Said::Outcome(Ok(_)) | Said::NotHere, _) => {
                self.unclaim(order_no);
                return None;
            }
        }
        let attempt = self.begin_attempt(order_no);
        let answer = self.try_reserve(reserve, attempt, home).await;
        self.unclaim(order_no);
        self.end_attempt(order_no, attempt);
        drop(lock);
        let (outcome, then) = answer;
        Some((self.decided(outcome).await, then))
    }

    async fn try_reserve(
        &self,
        reserve: &Reserve,
        attempt: AttemptId,
        home: usize,
    ) -> (Outcome, Option<Order>) {
        self.world().saw("attempts");
        let branches = branches_of(reserve, attempt);
        let answers = self.hold(&branches).await;
        let lines = match judge_reserve(reserve, attempt, &answers) {
            Judged::Held(lines) => lines,
            Judged::Refused { refusal, releases } => {
                self.world().saw("attempts refused");
                if self.give_back(releases).await {
                    // The caller is told when all of it is free again, and not before.
                    branches.iter().for_each(|branch| assert_free(&self.look(), branch));
                }
                return (Err(refusal), None);
            }
        };
        let step = HomeStep::Reserve { reserve: reserve.clone(), attempt, lines };
        let step = Command::from(Action::Home(Box::new(step)));
        let tries = self.world().rng.u32(1..4);
        let mut unsure = false;
        for _ in 0..tries {
            let (outcome, then) = self.ask_one(home, step.clone()).await;
            unsure |= is_unknown(&outcome);
            if unsure && (is_unknown(&outcome) || is_passing(&outcome)) {
                // That nothing happened now says nothing of the first try.
                continue;
            }
            if let Ok(Answer::Order { effect: Effect::Created, .. }) = &outcome {
                self.world().saw("orders made over several places");
            } else if outcome.is_err() {
                // It is not, and never will be, the order's: it was released in between, or the home was too busy.
                self.give_back(aborts(&branches)).await;
            }
            return (outcome, then);
        }
        // Whether the home knows it: the branches will ask.
        (Err(Refusal::ShardRestarted), None)
    }

    /// A late payment: its units are held, then the home decides it anew. `None`: to be looked at anew.
    async fn late(&self, confirm: &Confirm, lines: Lines) -> Option<(Outcome, Option<Order>)> {
        let order_no = &confirm.order_no;
        // What its branches still hold of an order that has ended is given back first: the payment may need it.
        self.carry(order_no, None).await;
        let lock = self.lock(order_no).await;
        let home = self.home_of(order_no);
        let attempt = self.begin_attempt(order_no);
        let answer = self.try_late(confirm, lines, attempt, home).await;
        self.end_attempt(order_no, attempt);
        drop(lock);
        let (outcome, then) = answer?;
        Some((self.decided(outcome).await, then))
    }

    async fn try_late(
        &self,
        confirm: &Confirm,
        lines: Lines,
        attempt: AttemptId,
        home: usize,
    ) -> Option<(Outcome, Option<Order>)> {
        self.world().saw("late attempts");
        if self.world().rng.u32(0..4) == 0 {
            self.probe_late(confirm, &lines, home).await;
        }
        let branches = branches_of_late(&confirm.order_no, &lines, attempt);
        let answers = self.hold(&branches).await;
        if let Judged::Refused { refusal, releases } =
            judge_late(&confirm.order_no, &lines, attempt, &answers)
        {
            self.give_back(releases).await;
            return Some((Err(refusal), None));
        }
        let step = HomeStep::Late { confirm: confirm.clone(), attempt, lines };
        let (outcome, then) = self.ask_one(home, Action::Home(Box::new(step)).into()).await;
        match &outcome {
            _ if is_unknown(&outcome) => {}
            Ok(Answer::Decided { effect: Effect::Changed, .. }) => self.world().saw("late payments taken"),
            // It did not need them, or needs others.
            _ => {
                self.give_back(aborts(&branches)).await;
            }
        }
        match outcome {
            Err(Refusal::HoldFirst(_)) => None,
            outcome => Some((outcome, then)),
        }
    }

    /// A home takes no late units but those that it named, whoever says that they are held; the model looks at what it answers.
    async fn probe_late(&self, confirm: &Confirm, lines: &Lines, home: usize) {
        let mut others = lines.as_slice().to_vec();
        others[0].quantity += 1;
        let lines = Lines::new(others).expect("one more is within the bounds");
        let attempt = self.world().new_attempt();
        let step = HomeStep::Late { confirm: confirm.clone(), attempt, lines };
        let (outcome, _) = self.ask_one(home, Action::Home(Box::new(step)).into()).await;
        let sold = matches!(outcome, Ok(Answer::Decided { effect: Effect::Changed, .. }));
        assert!(!sold, "{confirm:?} takes units that nobody holds: {outcome:?}");
    }

    fn begin_attempt(&self, order_no: &OrderNo) -> AttemptId {
        let mut world = self.world();
        let attempt = world.new_attempt();
        world.under_way.insert((order_no.clone(), attempt));
        attempt
    }

    fn end_attempt(&self, order_no: &OrderNo, attempt: AttemptId) {
        self.world().under_way.remove(&(order_no.clone(), attempt));
    }

    /// The reserves of an attempt, all at the same time.
    async fn hold(&self, branches: &[BranchCommand]) -> Vec<Outcome> {
        let tell = |branch: &BranchCommand| {
            let (server, branch) = (self.clone(), branch.clone());
            Box::pin(async move { server.tell(&branch, ATTEMPT_TRIES).await })
                as Pin<Box<dyn Future<Output = Outcome>>>
        };
        all(branches.iter().map(tell).collect()).await
    }

    /// Releases the branches of an attempt; whether all have heard of it. What does not asks by itself.
    async fn give_back(&self, releases: Vec<BranchCommand>) -> bool {
        let tell = |branch: BranchCommand| {
            let server = self.clone();
            Box::pin(async move { server.tell(&branch, ATTEMPT_TRIES).await.is_ok() })
                as Pin<Box<dyn Future<Output = bool>>>
        };
        all(releases.into_iter().map(tell).collect()).await.into_iter().all(|told| told)
    }

    /// A command for a branch, to where its SKU is; again while nobody knows what became of it, or for a reason that goes by.
    async fn tell(&self, branch: &BranchCommand, tries: u32) -> Outcome {
        let mut last = Err(Refusal::Overloaded);
        let mut left = tries;
        while left > 0 {
            let shard = self.look().shard_of(&branch.sku_id);
            let (outcome, _) = self.ask_one(shard, branch.command.clone()).await;
            if !is_unknown(&outcome) && !is_passing(&outcome) {
                return outcome;
            }
            // Unknown once is unknown for good: a later refusal says nothing of the first try.
            if !is_unknown(&last) {
                last = outcome;
            }
            left = left.saturating_sub(1);
            self.pause(50).await;
        }
        last
    }

    /// Tells the branches of an order what its home has decided, and the home that they were told.
    pub async fn carry(&self, order_no: &OrderNo, errands: Option<Vec<Errand>>) {
        let _lock = self.lock(order_no).await;
        let errands = match errands {
            Some(errands) => errands,
            None => match self.ask_home(order_no, || HomeStep::Pending(order_no.clone())).await {
                Ok(Answer::Pending(errands)) => errands,
                Err(Refusal::UnknownOrder { .. }) => return,
                other => panic!("what is pending of {order_no}: {other:?}"),
            },
        };
        let Some(through) = errands.last().map(|errand| errand.number) else { return };
        for errand in errands {
            let tell = |branch: BranchCommand| {
                let server = self.clone();
                let told = async move { (server.tell(&branch, u32::MAX).await, branch) };
                Box::pin(told) as Pin<Box<dyn Future<Output = (Outcome, BranchCommand)>>>
            };
            for (outcome, branch) in all(errand.commands.into_iter().map(tell).collect()).await {
                assert!(outcome.is_ok(), "a branch refuses {branch:?}: {outcome:?}");
            }
        }
        self.world().saw("decisions carried");
        let step = || HomeStep::Carried { order_no: order_no.clone(), through, serials: Vec::new() };
        let carried = self.ask_home(order_no, step).await;
        assert!(
            carried.is_ok() || matches!(carried, Err(Refusal::UnknownOrder { .. })),
            "{order_no}: {carried:?}"
        );
    }

    /// A branch asks its home; one that its home does not know is released.
    pub async fn ask_after(&self, number: OrderNo) {
        let branch = number.branch().expect("only branches ask");
        let asked = Asked { order_no: branch.order_no.clone(), attempt: branch.attempt };
        let under_way = (asked.order_no.clone(), asked.attempt);
        while self.look().under_way.contains(&under_way) {
            self.pause(100).await;
        }
        self.world().saw("branches asked");
        match self.ask_home(&asked.order_no, || HomeStep::Ask(asked.clone())).await {
            Ok(Answer::Placed) => {}
            Err(Refusal::UnknownOrder { .. }) => {
                self.world().saw("branches released by presumed abort");
                let release = Release { order_no: number, part: None, reason: None };
                let command = Command::from(Action::Release(release));
                self.tell(&BranchCommand { sku_id: branch.sku_id, command }, u32::MAX)
                    .await
                    .expect("a release is taken");
            }
            other => panic!("{asked:?} asks: {other:?}"),
        }
    }

    /// The shard of an order's home.
    fn home_of(&self, order_no: &OrderNo) -> usize {
        let world = self.look();
        world.known_at(order_no).unwrap_or_else(|| world.name_shard(order_no))
    }

    /// A step of a home, to a final answer.
    async fn ask_home(&self, order_no: &OrderNo, step: impl Fn() -> HomeStep) -> Outcome {
        loop {
            let home = self.home_of(order_no);
            let (outcome, _) = self.ask_one(home, Action::Home(Box::new(step())).into()).await;
            if !is_unknown(&outcome) && !is_passing(&outcome) {
                return outcome;
            }
            self.pause(20).await;
        }
    }
}

/// A branch holds nothing, wherever it lies.
fn assert_free(world: &World, branch: &BranchCommand) {
    let number = branch.command.order_no().expect("it is about a branch");
    let image = world.image_of(number);
    assert!(
        !image.as_ref().is_some_and(hotstock_engine::checkpoint::OrderImage::is_open),
        "the order is refused, and {number:?} still holds: {image:?}"
    );
}

/// The releases of the branches of an attempt.
fn aborts(branches: &[BranchCommand]) -> Vec<BranchCommand> {
    let release = |branch: &BranchCommand| {
        let order_no = branch.command.order_no().expect("it is about a branch").clone();
        let release = Release { order_no, part: None, reason: None };
        BranchCommand { sku_id: branch.sku_id.clone(), command: Action::Release(release).into() }
    };
    branches.iter().map(release).collect()
}
