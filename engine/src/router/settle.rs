//! The careful way of a command: looks where its SKUs and its order are, waits while they move, asks the shard or the store, and
//! looks again when they had moved meanwhile. What it answers in the end was true at one moment in between.
//!
//! An order over several places that the store alone knows is taken in by its home first; only a read is answered from the store.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::command::{Action, Command, Place, Release, Reserve};
use crate::directory::{Claimed, Home};
use crate::hub::{How, Hub, Side, add, refusal_of};
use crate::ids::{Lsn, OrderNo, ShardId, SkuId, shard_of_order};
use crate::limits::MAX_LOOK_PAUSE_MILLIS;
use crate::outcome::{Answer, Effect, Outcome, Refusal};
use crate::placement::routes::{Look, Over, Where};
use crate::spanning::Adopted;
use crate::state::State;
use crate::store::{ColdOutcome, Owner, StoredHome, StoredOrder};

/// One look.
enum Step {
    Done(Outcome),
    /// Something had moved, or another request for the same order is under way.
    Again,
    /// A SKU is moving.
    Wait(Over),
}

/// Inside a look: `Err` ends the command.
type Looked = Result<Step, Refusal>;

impl Hub {
    /// Carries out a command wherever it has to be. `unknown`: a shard was just asked and does not know the order.
    pub(super) async fn settle(&self, side: &Side, command: Command, unknown: bool) -> Outcome {
        let outcome = self.settle_at(side, &command, unknown).await;
        self.conclude(Some(&command), outcome).await
    }

    async fn settle_at(&self, side: &Side, command: &Command, unknown: bool) -> Outcome {
        let deadline = Instant::now() + Duration::from_millis(self.context.options.store.move_wait_ms);
        let mut tries = 0;
        loop {
            let unknown = unknown && tries == 0;
            let looked = match &command.action {
                Action::CreateStock(c) => self.look_stock(side, command, &c.sku_id).await,
                Action::ChangeStock(c) => self.look_stock(side, command, &c.sku_id).await,
                Action::SetStatus(c) => self.look_stock(side, command, &c.sku_id).await,
                Action::Reserve(c) => self.look_reserve(side, command, c, deadline).await,
                Action::Release(c @ Release { part: None, .. }) => {
                    self.look_release(side, command, &c.order_no, unknown, deadline).await
                }
                Action::Confirm(_)
                | Action::Release(_)
                | Action::Extend(_)
                | Action::Return(_)
                | Action::Expire(_)
                | Action::GetOrder(_) => {
                    let order_no = command.order_no().expect("these name an order");
                    self.look_order(side, command, order_no, unknown, deadline).await
                }
                // Movers and homes know where.
                Action::Place(_) | Action::Home(_) => Err(Refusal::Overloaded),
            };
            match looked? {
                Step::Done(outcome) => return outcome,
                // The move goes on only when the store is back: no use in waiting for the whole time.
                Step::Wait(_) if side.is_down() => return Err(Refusal::StoreUnavailable),
                Step::Wait(mut over) => {
                    add(&side.counters.move_waits, 1);
                    // Over with an error, when the route that it hung on is gone.
                    if timeout_at(deadline, over.changed()).await.is_err() {
                        return Err(side.late());
                    }
                }
                Step::Again => {
                    if Instant::now() >= deadline {
                        return Err(side.late());
                    }
                    pause(tries).await;
                }
            }
            add(&side.counters.route_retries, 1);
            tries += 1;
        }
    }

    async fn look_stock(&self, side: &Side, command: &Command, sku_id: &SkuId) -> Looked {
        let moves = side.routes.moves([sku_id]);
        match side.routes.look(sku_id) {
            Look::Moving(over) => Ok(Step::Wait(over)),
            Look::Lost => Err(Refusal::OwnedElsewhere { sku_id: sku_id.clone() }),
            Look::Hot(shard) => {
                let outcome = self.ask(shard, command.clone(), How::Exact).await;
                Ok(self.unless_moved(side, outcome, moves, || vec![sku_id]))
            }
            Look::Cold => match self.ask_store(side, command).await? {
                ColdOutcome::Done { outcome, .. } => Ok(Step::Done(outcome)),
                ColdOutcome::Elsewhere(owner) => self.elsewhere(side, owner, sku_id),
                ColdOutcome::Home(_) => Ok(Step::Again),
            },
        }
    }

    async fn look_reserve(&self, side: &Side, command: &Command, c: &Reserve, deadline: Instant) -> Looked {
        let skus = || c.lines.as_slice().iter().map(|line| &line.sku_id).collect::<Vec<_>>();
        let moves = side.routes.moves(skus());
        let place = match side.routes.place(skus()) {
            Where::Moving(over) => return Ok(Step::Wait(over)),
            Where::Lost(sku_id) => return Err(Refusal::OwnedElsewhere { sku_id }),
            place => place,
        };
        let directory = &self.context.directory;
        if matches!(place, Where::Mixed) {
            return Ok(match self.span(command.clone()).await {
                Some(outcome) => self.unless_moved(side, outcome, moves, skus),
                None => self.look_known(side, command, c, moves, deadline).await?,
            });
        }
        if let Where::Hot(shard) = place {
            let claimed = directory.look_and_claim(&c.order_no, Home::Shard(shard));
            return match claimed.home {
                Home::Shard(home) if !claimed.is_attempted => {
                    self.before_decision(command);
                    let outcome = self.ask(home, command.clone(), How::Exact).await;
                    if home != shard && !is_known(&outcome) {
                        return Ok(Step::Again);
                    }
                    Ok(self.unless_moved(side, outcome, moves, skus))
                }
                Home::Shard(_) | Home::Cold => {
                    directory.give_back(&c.order_no);
                    Ok(Step::Again)
                }
            };
        }
        // Cold. A shard that knows the order says so; nobody can make it there meanwhile.
        let claim = Claim::take(self, &c.order_no, Home::Cold);
        if let Home::Shard(home) = claim.home {
            directory.claim(&c.order_no, claim.home);
            let outcome = self.ask(home, command.clone(), How::Exact).await;
            return Ok(if is_known(&outcome) { Step::Done(outcome) } else { Step::Again });
        }
        if directory.is_silent() {
            let here = self.ask(ShardId(0), Action::GetOrder(c.order_no.clone()).into(), How::Exact).await;
            match here {
                Ok(_) => {
                    directory.claim(&c.order_no, claim.home);
                    let outcome = self.ask(ShardId(0), command.clone(), How::Exact).await;
                    return Ok(if is_known(&outcome) { Step::Done(outcome) } else { Step::Again });
                }
                Err(Refusal::UnknownOrder { .. }) => {}
                Err(Refusal::Moved(_)) => return Ok(Step::Again),
                Err(refusal) => return Err(refusal),
            }
        }
        self.until_shed(side, deadline).await?;
        self.store_reserve(side, command, c).await
    }

    /// Has the store decide a reserve of cold SKUs, or of an order that it knows.
    async fn store_reserve(&self, side: &Side, command: &Command, c: &Reserve) -> Looked {
        match self.ask_store(side, command).await? {
            ColdOutcome::Done { outcome, .. } => Ok(Step::Done(outcome)),
            ColdOutcome::Elsewhere(owner) => {
                // Of an order that exists, it is the owner of the order's own lines.
                match self.fetch(side, &c.order_no, owner).await? {
                    Fetched::Unknown => self.elsewhere(side, owner, &c.lines.first().sku_id),
                    Fetched::Step(step) => Ok(step),
                    Fetched::Order(stored) => self.repeat_of(side, command, &stored).await,
                }
            }
            ColdOutcome::Home(stored) => self.at_home(command, &stored).await,
        }
    }

    /// A reserve whose lines lay in several places when they were looked up, and that nobody tried to hold: an order that the store
    /// knows, or one whose lines have come together since.
    async fn look_known(&self, side: &Side, command: &Command, c: &Reserve, moves: u64, deadline: Instant) -> Looked {
        if side.routes.moves(c.lines.as_slice().iter().map(|line| &line.sku_id)) != moves {
            return Ok(Step::Again);
        }
        let claim = Claim::take(self, &c.order_no, Home::Cold);
        if claim.home != Home::Cold {
            return Ok(Step::Again);
        }
        match self.stored_before(side, &c.order_no, deadline).await? {
            Stored::Unknown => Ok(Step::Again),
            Stored::Known => self.store_reserve(side, command, c).await,
            Stored::Home(stored) => {
                // Its home takes a claim of its own.
                drop(claim);
                self.at_home(command, &stored).await
            }
        }
    }

    /// What the store knows of an order before it is made, with everything that left a shard.
    pub(crate) async fn stored_before(&self, side: &Side, order_no: &OrderNo, deadline: Instant) -> Result<Stored, Refusal> {
        self.until_shed(side, deadline).await?;
        match self.ask_store(side, &Action::GetOrder(order_no.clone()).into()).await? {
            ColdOutcome::Done { outcome: Err(Refusal::UnknownOrder { .. }), .. } => Ok(Stored::Unknown),
            ColdOutcome::Done { .. } | ColdOutcome::Elsewhere(_) => Ok(Stored::Known),
            ColdOutcome::Home(stored) => Ok(Stored::Home(stored)),
        }
    }

    /// An order over several places that its home has let go of, or that the store made: a read is answered from the store, for
    /// anything else the home takes it in.
    async fn at_home(&self, command: &Command, stored: &StoredHome) -> Looked {
        if matches!(command.action, Action::GetOrder(_)) {
            let view = State::view_of(stored.image.order.clone()).ok_or(Refusal::StoreUnavailable)?;
            return Ok(Step::Done(Ok(Answer::Order { order: view, effect: Effect::Replayed })));
        }
        match self.adopt_home(&stored.image.order.order_no).await? {
            Adopted::There | Adopted::Unknown => Ok(Step::Again),
            Adopted::Elsewhere => {
                let first = stored.image.order.lines.first().ok_or(Refusal::StoreUnavailable)?;
                Err(Refusal::OwnedElsewhere { sku_id: first.sku_id.clone() })
            }
        }
    }

    async fn look_release(
        &self,
        side: &Side,
        command: &Command,
        order_no: &OrderNo,
        unknown: bool,
        deadline: Instant,
    ) -> Looked {
        let shard = shard_of_order(order_no, self.context.options.shards);
        let claim = Claim::take(self, order_no, Home::Shard(shard));
        let Home::Shard(home) = claim.home else { return Ok(Step::Again) };
        if !unknown {
            self.context.directory.claim(order_no, claim.home);
            self.before_decision(command);
            let outcome = self.ask(home, command.clone(), How::Exact).await;
            match outcome {
                Err(Refusal::UnknownOrder { .. }) => {}
                Err(Refusal::Moved(_)) => return self.until_still(side, home, order_no).await,
                outcome => return Ok(Step::Done(outcome)),
            }
        }
        self.until_shed(side, deadline).await?;
        let home_stored = side.noted(side.store.home(order_no).await).map_err(refusal_of)?;
        if home_stored.is_none() && self.stored(side, order_no).await?.is_none() {
            // Nobody knows it: it was released before it was reserved.
            self.context.directory.claim(order_no, claim.home);
            let outcome = self.ask(home, command.clone(), How::MayCancel).await;
            return Ok(if matches!(outcome, Err(Refusal::Moved(_))) { Step::Again } else { Step::Done(outcome) });
        }
        self.store_order(side, command, order_no).await
    }

    async fn look_order(
        &self,
        side: &Side,
        command: &Command,
        order_no: &OrderNo,
        unknown: bool,
        deadline: Instant,
    ) -> Looked {
        let home = match self.context.directory.home(order_no) {
            Some(Home::Shard(home)) => Some(home),
            // A request for it is under way in the store; with one shard that says nothing about what the shard knows.
            _ => self.context.directory.is_silent().then_some(ShardId(0)),
        };
        if !unknown && let Some(home) = home {
            self.before_decision(command);
            match self.ask(home, command.clone(), How::Exact).await {
                Err(Refusal::UnknownOrder { .. }) => {}
                Err(Refusal::Moved(_)) => return self.until_still(side, home, order_no).await,
                outcome => return Ok(Step::Done(outcome)),
            }
        }
        self.until_shed(side, deadline).await?;
        self.store_order(side, command, order_no).await
    }

    /// Has the store decide about an order that no shard knows.
    async fn store_order(&self, side: &Side, command: &Command, order_no: &OrderNo) -> Looked {
        let owner = match self.ask_store(side, command).await? {
            ColdOutcome::Done { outcome, .. } => return Ok(Step::Done(outcome)),
            ColdOutcome::Elsewhere(owner) => owner,
            ColdOutcome::Home(stored) => return self.at_home(command, &stored).await,
        };
        match self.fetch(side, order_no, owner).await? {
            Fetched::Unknown => Ok(Step::Again),
            Fetched::Step(step) => Ok(step),
            Fetched::Order(stored) => self.repeat_of(side, command, &stored).await,
        }
    }

    /// An order all of whose SKUs a shard has, but that the shard has let go of: a read is answered from the store, for anything else
    /// the shard takes it back.
    async fn repeat_of(&self, side: &Side, command: &Command, stored: &Fetch<'_>) -> Looked {
        if matches!(command.action, Action::GetOrder(_)) {
            let view = State::view_of(stored.order.image.clone()).ok_or(Refusal::StoreUnavailable)?;
            return Ok(Step::Done(Ok(Answer::Order { order: view, effect: Effect::Replayed })));
        }
        add(&side.counters.orders_fetched, 1);
        let order = stored.order.image.clone();
        let place = Place::Orders { sku_id: None, orders: vec![order], requests: Vec::new() };
        match self.ask(stored.shard, Action::Place(Box::new(place)).into(), How::Exact).await {
            Ok(_) | Err(Refusal::Moved(_)) => Ok(Step::Again),
            Err(refusal) => Err(refusal),
        }
    }

    /// An order of which the store says that its SKUs are hot. It is read under its lock, and after the shard said
    /// that it does not know it: what the store has then is the newest.
    async fn fetch<'a>(&self, side: &'a Side, order_no: &OrderNo, owner: Owner) -> Result<Fetched<'a>, Refusal> {
        let lock = side.lock_of(order_no).lock().await;
        if owner.server == side.server {
            match self.ask(owner.shard, Action::GetOrder(order_no.clone()).into(), How::Exact).await {
                Err(Refusal::UnknownOrder { .. }) => {}
                Ok(_) | Err(Refusal::Moved(_)) => return Ok(Fetched::Step(Step::Again)),
                Err(refusal) => return Err(refusal),
            }
        }
        let Some(order) = self.stored(side, order_no).await? else { return Ok(Fetched::Unknown) };
        if owner.server != side.server {
            let first = order.image.lines.first();
            let sku_id = first.map(|line| line.sku_id.clone());
            return match sku_id {
                Some(sku_id) => Err(Refusal::OwnedElsewhere { sku_id }),
                None => Ok(Fetched::Step(Step::Again)),
            };
        }
        let skus = || order.image.lines.iter().map(|line| &line.sku_id);
        match side.routes.place(skus()) {
            Where::Hot(shard) => Ok(Fetched::Order(Fetch { order, shard, _lock: lock })),
            Where::Moving(over) => Ok(Fetched::Step(Step::Wait(over))),
            Where::Lost(sku_id) => Err(Refusal::OwnedElsewhere { sku_id }),
            Where::Cold | Where::Mixed => {
                for sku_id in skus() {
                    if matches!(side.routes.look(sku_id), Look::Cold) {
                        self.reclaim(sku_id);
                    }
                }
                Ok(Fetched::Step(Step::Again))
            }
        }
    }

    /// A shard said that something about the order is moving: until that is over.
    async fn until_still(&self, side: &Side, shard: ShardId, order_no: &OrderNo) -> Looked {
        match self.ask(shard, Action::GetOrder(order_no.clone()).into(), How::Exact).await {
            Ok(Answer::Order { order, .. }) => match side.routes.place(order.lines.iter().map(|line| &line.sku_id)) {
                Where::Moving(over) => Ok(Step::Wait(over)),
                _ => Ok(Step::Again),
            },
            _ => Ok(Step::Again),
        }
    }

    /// Until the store knows every order that left a shard with its SKU so far.
    pub(crate) async fn until_shed(&self, side: &Side, deadline: Instant) -> Result<(), Refusal> {
        for shard in &self.shards {
            let shed = Lsn(shard.shed.load(Ordering::Acquire));
            if *side.follows[shard.id.index()].flushed.borrow() >= shed {
                continue;
            }
            if side.is_down() {
                return Err(Refusal::StoreUnavailable);
            }
            if !side.flushed(shard.id, shed, deadline).await {
                return Err(side.late());
            }
        }
        Ok(())
    }

    /// The store says that a SKU is hot.
    fn elsewhere(&self, side: &Side, owner: Owner, sku_id: &SkuId) -> Looked {
        if owner.server != side.server {
            return Err(Refusal::OwnedElsewhere { sku_id: sku_id.clone() });
        }
        if matches!(side.routes.look(sku_id), Look::Cold) {
            self.reclaim(sku_id);
        }
        Ok(Step::Again)
    }

    /// What a shard said of SKUs, unless they moved since they were looked up.
    fn unless_moved<'a>(
        &self,
        side: &Side,
        outcome: Outcome,
        moves: u64,
        skus: impl Fn() -> Vec<&'a SkuId>,
    ) -> Step {
        match outcome {
            Err(Refusal::Moved(_)) => Step::Again,
            Err(Refusal::UnknownSku { .. }) if side.routes.moves(skus()) != moves => Step::Again,
            outcome => Step::Done(outcome),
        }
    }

    /// Has the store decide a command, if there is room.
    async fn ask_store(&self, side: &Side, command: &Command) -> Result<ColdOutcome, Refusal> {
        let Ok(_permit) = side.gate.try_acquire() else {
            add(&side.counters.cold_overloaded, 1);
            return Err(Refusal::Overloaded);
        };
        add(&side.counters.cold_commands, 1);
        if self.context.options.store.promotion.promote {
            side.auto.note(command);
        }
        let answer = side.noted(side.store.submit(command, self.context.clock.now()).await).map_err(refusal_of)?;
        if let (ColdOutcome::Done { changed, .. }, Some(dirty)) = (&answer, &self.context.dirty) {
            changed.iter().for_each(|stock| dirty.mark(stock.clone()));
        }
        Ok(answer)
    }

    async fn stored(&self, side: &Side, order_no: &OrderNo) -> Result<Option<StoredOrder>, Refusal> {
        side.noted(side.store.order(order_no).await).map_err(refusal_of)
    }
}

/// See [`Hub::fetch`].
enum Fetched<'a> {
    Unknown,
    Step(Step),
    Order(Fetch<'a>),
}

/// An order that a shard has let go of, under its lock.
struct Fetch<'a> {
    order: StoredOrder,
    /// Has all its SKUs.
    shard: ShardId,
    _lock: tokio::sync::MutexGuard<'a, ()>,
}

/// What the store knows of an order.
pub(crate) enum Stored {
    Unknown,
    /// It lies in one place, or did when it ended.
    Known,
    Home(Box<StoredHome>),
}

/// A claim that is given back on drop.
pub(crate) struct Claim<'a> {
    hub: &'a Hub,
    order_no: &'a OrderNo,
    pub home: Home,
    /// The order is known to be at its home.
    pub is_there: bool,
    attempts: bool,
}

impl<'a> Claim<'a> {
    pub fn take(hub: &'a Hub, order_no: &'a OrderNo, wanted: Home) -> Self {
        let Claimed { home, is_there, .. } = hub.context.directory.look_and_claim(order_no, wanted);
        Self { hub, order_no, home, is_there, attempts: false }
    }

    /// From here on, until it is given back, nobody else makes the order in its home.
    pub fn begin_attempt(&mut self) {
        self.attempts = true;
        self.hub.context.directory.set_attempted(self.order_no, true);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.attempts {
            self.hub.context.directory.set_attempted(self.order_no, false);
        }
        self.hub.context.directory.give_back(self.order_no);
    }
}

/// Whether a shard that a reserve was sent to knows its order: it does not look at stock then.
pub(crate) fn is_known(outcome: &Outcome) -> bool {
    match outcome {
        Ok(Answer::Order { effect: Effect::Replayed, .. })
        | Err(Refusal::OrderMismatch { .. } | Refusal::OrderCancelled { .. }) => true,
        Ok(_) => true,
        Err(Refusal::Moved(_) | Refusal::UnknownSku { .. }) => false,
        // The shard could not say.
        Err(_) => true,
    }
}

/// Lets others run first; longer from look to look.
async fn pause(tries: u32) {
    if tries < 2 {
        tokio::task::yield_now().await;
    } else {
        let millis = 1_u64 << tries.min(16);
        sleep(Duration::from_millis(millis.min(MAX_LOOK_PAUSE_MILLIS))).await;
    }
}
