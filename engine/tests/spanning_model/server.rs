//! The server of the simulation: how commands about orders over several places are carried to the places, as tasks that live in its
//! memory. Everything that matters is decided by `hotstock_engine::home`; here is who is asked next.

use std::cell::{Ref, RefCell, RefMut};
use std::pin::Pin;
use std::rc::Rc;

use hotstock_engine::checkpoint::Stage;
use hotstock_engine::command::{Action, Command, Confirm, Lines, Place, Release, Reserve};
use hotstock_engine::home::attempt::{Judged, branches_of, branches_of_late, judge_late, judge_reserve};
use hotstock_engine::home::{Asked, BranchCommand, Errand, HomeStep};
use hotstock_engine::ids::{AttemptId, OrderNo, SkuId};
use hotstock_engine::outcome::{Answer, Effect, Outcome, Refusal};

use crate::messages::{Ask, Reply, Target, all, until};
use crate::naive::order::Order;
use crate::sql::is_open;
use crate::world::{Route, World};

/// Looks at a place before a command is given up: far more than a move takes here.
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
    matches!(outcome, Err(Refusal::ShardRestarted | Refusal::OutcomeUnknown | Refusal::JournalUnavailable))
}

/// Whether nothing happened, for a reason that goes by.
pub fn is_passing(outcome: &Outcome) -> bool {
    matches!(outcome, Err(Refusal::Overloaded | Refusal::StoreUnavailable | Refusal::Moved(_)))
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
    async fn ask(&self, to: Target, ask: Ask) -> Reply {
        let slot = self.world().send(to, ask);
        until(|| slot.borrow_mut().take()).await
    }

    async fn ask_one(&self, to: Target, command: Command) -> (Outcome, Option<Order>) {
        self.ask(to, Ask::Commands(vec![command])).await.remove(0)
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
        for _ in 0..TRIES {
            let route = self.look().route(&command);
            let target = match route {
                Route::At(target) => target,
                Route::Unavailable => return (Err(Refusal::StoreUnavailable), None),
                Route::Wait => {
                    self.pause(10).await;
                    continue;
                }
                Route::Span => {
                    let Action::Reserve(reserve) = &command.action else { unreachable!("{command:?} spans") };
                    match self.reserve(reserve).await {
                        Some(answer) => return answer,
                        None => continue,
                    }
                }
                route => {
                    self.fetch(&command, route).await;
                    continue;
                }
            };
            if let Some(order_no) = command.order_no() {
                self.world().claims.entry(order_no.clone()).or_insert((target, 0)).1 += 1;
            }
            let (outcome, then) = self.ask_one(target, command.clone()).await;
            if let Some(order_no) = command.order_no() {
                self.unclaim(order_no);
            }
            match outcome {
                Err(Refusal::Moved(_)) => self.pause(10).await,
                Err(Refusal::HoldFirst(lines)) => {
                    let Action::Confirm(confirm) = &command.action else {
                        panic!("{command:?} needs late units")
                    };
                    match self.late(confirm, lines).await {
                        Some(answer) => return answer,
                        None => continue,
                    }
                }
                outcome => return (self.decided(outcome).await, then),
            }
        }
        (Err(Refusal::Overloaded), None)
    }

    /// Fetches from the store what a command is about.
    async fn fetch(&self, command: &Command, route: Route) {
        let order_no = command.order_no().expect("it is about an order").clone();
        let (to, ask) = match route {
            Route::Adopt(shard) => (Target::Shard(shard), Ask::AdoptHome(order_no)),
            Route::BringBack(shard) => (Target::Shard(shard), Ask::BringBack(order_no)),
            Route::Split => (Target::Store, Ask::Split(order_no)),
            other => unreachable!("{other:?} is no way to fetch something"),
        };
        let reply = self.ask(to, ask).await;
        if reply[0].0 != Ok(Answer::Placed) {
            self.pause(10).await;
        }
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
        let attempt = self.begin_attempt(order_no);
        self.world().claims.insert(order_no.clone(), (Target::Shard(home), 1));
        let answer = self.try_reserve(reserve, attempt, Target::Shard(home)).await;
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
        home: Target,
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
        let home = self.home_of(order_no).await?;
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
        home: Target,
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
        let (mut home, mut tries) = (home, TRIES);
        let (outcome, then) = loop {
            let (outcome, then) = self.ask_one(home, Action::Home(Box::new(step.clone())).into()).await;
            if !matches!(outcome, Err(Refusal::Moved(_))) || tries == 0 {
                break (outcome, then);
            }
            // An order that ended long ago was forgotten again in between.
            home = self.home_of(&confirm.order_no).await?;
            tries -= 1;
        };
        match &outcome {
            _ if is_unknown(&outcome) => {}
            Ok(Answer::Decided { effect: Effect::Changed, .. }) => self.world().saw("late payments taken"),
            // It did not need them, or needs others.
            _ => {
                self.give_back(aborts(&branches)).await;
            }
        }
        match outcome {
            Err(Refusal::HoldFirst(_) | Refusal::Moved(_)) => None,
            outcome => Some((outcome, then)),
        }
    }

    /// A home takes no late units but those that it named, whoever says that they are held; the model looks at what it answers.
    async fn probe_late(&self, confirm: &Confirm, lines: &Lines, home: Target) {
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

    /// The reserves of an attempt: those for the store together, now and then, the others each for itself.
    async fn hold(&self, branches: &[BranchCommand]) -> Vec<Outcome> {
        let at_once = self.world().rng.bool();
        let cold = |branch: &BranchCommand| self.look().place_of(&branch.sku_id) == Some(Target::Store);
        let together: Vec<usize> = (0..branches.len()).filter(|i| at_once && cold(&branches[*i])).collect();
        let mut answers: Vec<Option<Outcome>> = vec![None; branches.len()];
        let batch = {
            let commands: Vec<_> = together.iter().map(|i| branches[*i].command.clone()).collect();
            let server = self.clone();
            async move {
                if commands.is_empty() {
                    Vec::new()
                } else {
                    server.ask(Target::Store, Ask::Commands(commands)).await
                }
            }
        };
        let alone: Vec<usize> = (0..branches.len()).filter(|i| !together.contains(i)).collect();
        let tell = |i: &usize| {
            let (server, branch) = (self.clone(), branches[*i].clone());
            Box::pin(async move { server.tell(&branch, ATTEMPT_TRIES).await })
                as Pin<Box<dyn Future<Output = Outcome>>>
        };
        let single = all(alone.iter().map(tell).collect());
        let mut single = Box::pin(single);
        let mut batch = Box::pin(batch);
        let (mut of_single, mut of_batch) = (None, None);
        std::future::poll_fn(|context| {
            if of_single.is_none()
                && let std::task::Poll::Ready(done) = single.as_mut().poll(context)
            {
                of_single = Some(done);
            }
            if of_batch.is_none()
                && let std::task::Poll::Ready(done) = batch.as_mut().poll(context)
            {
                of_batch = Some(done);
            }
            match (&of_single, &of_batch) {
                (Some(_), Some(_)) => std::task::Poll::Ready(()),
                _ => std::task::Poll::Pending,
            }
        })
        .await;
        for (i, outcome) in alone.iter().zip(of_single.into_iter().flatten()) {
            answers[*i] = Some(outcome);
        }
        let of_batch = of_batch.unwrap_or_default();
        for (at, i) in together.iter().enumerate() {
            // One answer for all of them: the store is down or lost.
            let outcome = of_batch.get(at).or(of_batch.first()).map(|(outcome, _)| outcome.clone());
            let outcome = outcome.expect("there is an answer");
            answers[*i] = Some(if is_unknown(&outcome) || is_passing(&outcome) {
                let later = self.tell(&branches[*i], ATTEMPT_TRIES).await;
                // A later refusal says nothing of the first try.
                if is_unknown(&outcome) && is_passing(&later) { outcome } else { later }
            } else {
                outcome
            });
        }
        answers.into_iter().map(|answer| answer.expect("each is in one of the two")).collect()
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
            let Some(target) = self.look().place_of(&branch.sku_id) else {
                self.pause(10).await;
                continue;
            };
            let (outcome, _) = self.ask_one(target, branch.command.clone()).await;
            if matches!(outcome, Err(Refusal::Moved(_))) {
                self.pause(10).await;
                continue;
            }
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
            Ok(Answer::Placed) => {
                if self.look().place_of(&branch.sku_id) == Some(Target::Store) {
                    self.ask(Target::Store, Ask::LeaveToHome(number)).await;
                }
            }
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

    /// A home of the store is taken in, so that its time can be over.
    pub async fn adopt_home(&self, order_no: OrderNo) {
        self.home_of(&order_no).await;
    }

    /// The shard of an order's home; it is taken in there when only the store knows it. `None`: it is not over several places.
    async fn home_of(&self, order_no: &OrderNo) -> Option<Target> {
        loop {
            let known = self.look().known_at(order_no);
            if let Some(shard) = known {
                return Some(Target::Shard(shard));
            }
            let row = self.look().sql.homes.get(order_no).map(|row| row.shard);
            let shard = row?;
            let reply = self.ask(Target::Shard(shard), Ask::AdoptHome(order_no.clone())).await;
            if reply[0].0 != Ok(Answer::Placed) {
                self.pause(10).await;
            }
        }
    }

    /// A step of a home, to a final answer.
    async fn ask_home(&self, order_no: &OrderNo, step: impl Fn() -> HomeStep) -> Outcome {
        loop {
            let home = self.home_of(order_no).await;
            let home = home.unwrap_or_else(|| Target::Shard(self.look().name_shard(order_no)));
            let (outcome, _) = self.ask_one(home, Action::Home(Box::new(step())).into()).await;
            if !is_unknown(&outcome) && !is_passing(&outcome) {
                return outcome;
            }
            self.pause(20).await;
        }
    }

    /// Moves cold SKUs of one shard into it.
    pub async fn promote(&self, skus: Vec<SkuId>, shard: usize) {
        let taken = self.ask(Target::Store, Ask::Take(skus.clone(), shard)).await;
        if taken[0].0 != Ok(Answer::Placed) && !is_unknown(&taken[0].0) {
            return;
        }
        self.adopt(skus, shard).await;
    }

    /// Has a shard adopt SKUs that the store has given to it, until they are there.
    pub async fn adopt(&self, mut skus: Vec<SkuId>, shard: usize) {
        {
            let mut world = self.world();
            skus.retain(|sku_id| !world.adopting.contains(sku_id));
            world.adopting.extend(skus.iter().cloned());
        }
        let coming = |sku_id: &SkuId| {
            let world = self.look();
            let ours = world.sql.owners.get(sku_id).is_some_and(|owner| owner.0 == shard);
            let stage = world.shards[shard].stage(sku_id);
            ours && !world.shards[shard].withdrawn.contains_key(sku_id)
                && matches!(stage, None | Some(Stage::Adopting))
        };
        loop {
            let rest: Vec<SkuId> = skus.iter().filter(|sku_id| coming(sku_id)).cloned().collect();
            if rest.is_empty() {
                break;
            }
            let begins = rest.iter().cloned().map(Ask::Begin);
            let orders = rest.iter().cloned().map(Ask::Orders);
            let finish = |sku_id: SkuId| {
                let place = Place::Finish { sku_id };
                Ask::Commands(vec![Action::Place(Box::new(place)).into()])
            };
            let finishes = rest.iter().cloned().map(finish);
            for step in begins.chain(orders).chain(finishes).collect::<Vec<_>>() {
                let said = step.clone();
                let (outcome, _) = self.ask(Target::Shard(shard), step).await.remove(0);
                match outcome {
                    Ok(Answer::Placed) => {}
                    outcome if is_unknown(&outcome) || is_passing(&outcome) => {
                        self.pause(20).await;
                        break;
                    }
                    other => panic!("{said:?} of an adoption: {other:?}"),
                }
            }
        }
        self.world().saw("promotions");
        let mut world = self.world();
        world.adopting.retain(|sku_id| !skus.contains(sku_id));
    }

    /// Closes SKUs of a shard; it lets them go by itself then.
    pub async fn demote(&self, skus: Vec<SkuId>, shard: usize) {
        let place = Place::Close { skus };
        let command = Command::from(Action::Place(Box::new(place)));
        let (outcome, _) = self.ask_one(Target::Shard(shard), command).await;
        match outcome {
            Ok(Answer::Placed) => self.world().saw("demotions"),
            outcome if is_unknown(&outcome) || is_passing(&outcome) => {}
            other => panic!("a demotion: {other:?}"),
        }
    }
}

/// A branch holds nothing, wherever it lies.
fn assert_free(world: &World, branch: &BranchCommand) {
    let number = branch.command.order_no().expect("it is about a branch");
    let image = match world.place_of(&branch.sku_id) {
        Some(Target::Shard(shard)) => world.shards[shard].state.image_of_order(number),
        Some(Target::Store) => world.sql.orders.get(number).map(|row| row.image.clone()),
        // On its way between two places, neither of which may know all of it.
        None => None,
    };
    assert!(
        !image.as_ref().is_some_and(is_open),
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
