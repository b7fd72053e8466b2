//! Orders over several places: the machine of their home, pure like [`State`](crate::state::State) and apart from its
//! stocks.
//!
//! An order whose lines lie in several shards has one **home** (its coordinator), a shard. What it holds of each SKU
//! is a **branch** ([`Branch`](crate::ids::Branch)): an order of its own in the shard of that SKU, which holds, sells
//! and gives back like any other order, but never expires by itself. The protocol is two-phase commit with presumed
//! abort (Mohan, Lindsay, Obermarck: *Transaction Management in the R\* Distributed Database Management System*,
//! 1986):
//!
//! ```text
//!   attempt   the branches are reserved, all at the same time, under a new AttemptId (nothing is logged here)
//!   decide    all held → HomeChange::Reserved is logged; one refused → the branches that held are released
//!   later     confirm, release, expiry, return: HomeChange::Decided is logged, the caller's answer rests on it
//!   carry     the branches are told, as often as it takes; then HomeChange::Carried is logged: nobody is told again
//!   ask       a branch that was not acknowledged soon asks its home; an attempt that it does not know is released
//! ```
//!
//! - [`words`]: what is asked of a home, logged by it and told to its branches. [`attempt`]: which branches to
//!   reserve, and what their answers mean. [`judge`]: the rules of orders, which are those of the shards' own state
//!   machine. [`shares`]: which branch has which units, and what it is told.
//! - [`Homes`] (here): the orders of one home. [`decide`] answers a command or a step, or makes the change that carries
//!   it out; [`Homes::apply`] (in [`apply`]) lets a change take effect, live and in recovery
//!   alike.

mod apply;
pub mod attempt;
mod decide;
mod judge;
mod shares;
mod words;

pub(crate) use apply::Applied;
pub use apply::apply_to_image;
pub(crate) use decide::{decide_expire, decide_order};
pub use words::{
    Asked, BranchCommand, Decided, DecidedLine, DecisionKind, Errand, HeldLine, HomeChange, HomeImage,
    HomeStep, Share,
};

use std::collections::BTreeSet;

use crate::clock::Timestamp;
use crate::event::Change;
use crate::ids::{Lsn, OrderNo};
use crate::outcome::OrderView;
use crate::state::{Deadlines, Keyed, NO_DEADLINE, Room, TAKEN, Table};

/// The orders over several places whose home is one shard.
#[derive(Debug, Clone)]
pub struct Homes {
    table: Table<HomeOrder>,
    /// Of those that hold units, but for those that were taken as due.
    deadlines: Deadlines,
    /// Orders that hold units.
    open: usize,
    /// Slots of orders whose branches are to be told something, and nobody is at it.
    unsent: BTreeSet<u32>,
    /// Orders with a decision that somebody asked for, who therefore tells it; from this time on they count as
    /// unsent, because who asked may have gone away.
    trusted: BTreeSet<(Timestamp, u32)>,
    /// The first look at `unsent` takes everything that is pending: who was at it before the start is gone.
    looked: bool,
}

#[derive(Debug, Clone)]
struct HomeOrder {
    image: HomeImage,
    /// Its time in `trusted`, if it is there.
    trusted_until: Option<Timestamp>,
    /// Its index in the list of its deadline, [`NO_DEADLINE`] or [`TAKEN`].
    deadline_index: u32,
}

impl Keyed for HomeOrder {
    type Key = OrderNo;

    fn key(&self) -> &OrderNo {
        &self.image.order.order_no
    }
}

impl HomeImage {
    /// Whether it holds units, as it was decided.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.order.is_open()
    }

    /// Whether nothing happens any more unless a caller asks for it: it has ended, and its branches know.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.pending.is_empty() && !self.is_open()
    }

    /// What its branches are to be told, oldest first.
    #[must_use]
    pub fn errands(&self) -> Vec<Errand> {
        self.pending.iter().map(|decided| shares::errand(self, decided)).collect()
    }

    /// As callers see it.
    #[must_use]
    pub fn view(&self) -> OrderView {
        self.order.view()
    }

    /// Whether it knows an attempt: some of its units were got by it.
    #[must_use]
    pub fn knows_attempt(&self, attempt: crate::ids::AttemptId) -> bool {
        self.shares.iter().any(|share| share.attempt == attempt)
    }
}

impl Homes {
    pub(crate) fn new(room: Room) -> Self {
        let (table, deadlines) = (Table::new(room), Deadlines::default());
        let (unsent, trusted) = (BTreeSet::new(), BTreeSet::new());
        Self { table, deadlines, open: 0, unsent, trusted, looked: false }
    }

    /// Whether there is none: the usual case, which must cost nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    /// Whether the order is here.
    #[must_use]
    pub fn knows(&self, order_no: &OrderNo) -> bool {
        !self.is_empty() && self.table.find(order_no).is_some()
    }

    /// An order and its last change, as callers see it.
    #[must_use]
    pub fn view(&self, order_no: &OrderNo) -> Option<(Lsn, OrderView)> {
        self.image(order_no).map(|image| (image.order.lsn, image.view()))
    }

    /// An order, as an image.
    #[must_use]
    pub fn image(&self, order_no: &OrderNo) -> Option<&HomeImage> {
        if self.is_empty() {
            return None;
        }
        self.table.by_key(order_no).map(|home| &home.image)
    }

    /// The change for the next order whose time is over, if there is one.
    #[must_use]
    pub fn next_expiry(&self, now: Timestamp) -> Option<Change> {
        let image = self.at_slot(self.deadlines.first_due(now)?)?;
        Some(Change::Home(Box::new(decide::expiry_of(image))))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &HomeImage> {
        self.table.iter().map(|home| &home.image)
    }

    pub(crate) fn at_slot(&self, slot: u32) -> Option<&HomeImage> {
        self.table.get(slot).map(|home| &home.image)
    }

    /// Orders, and how many of them hold units.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.table.len(), self.open)
    }

    /// One above the highest slot that was ever used.
    pub(crate) fn slots(&self) -> usize {
        self.table.slots()
    }

    /// Up to `max` images from slot `from` on, and the slot after them.
    pub(crate) fn images(&self, from: usize, max: usize) -> (Vec<HomeImage>, usize) {
        let to = self.table.slots().min(from.saturating_add(max));
        let slots = (from..to).filter_map(|slot| self.at_slot(u32::try_from(slot).ok()?));
        (slots.cloned().collect(), to)
    }

    pub(crate) fn slot_of(&self, order_no: &OrderNo) -> Option<u32> {
        if self.is_empty() {
            return None;
        }
        self.table.find(order_no)
    }

    /// Adds an order that is not here.
    pub(crate) fn insert(&mut self, image: HomeImage) -> u32 {
        let (open, pending) = (image.is_open(), !image.pending.is_empty());
        self.open += usize::from(open);
        let slot = self.table.insert(HomeOrder { image, trusted_until: None, deadline_index: NO_DEADLINE });
        if pending {
            self.unsent.insert(slot);
        }
        self.arm(slot);
        slot
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<HomeImage> {
        self.disarm(slot);
        self.unsent.remove(&slot);
        self.trust(slot, None);
        let image = self.table.remove(slot)?.image;
        self.open -= usize::from(image.is_open());
        Some(image)
    }

    /// Names up to `max` orders whose time is over and takes them out of the index.
    pub(crate) fn take_due(&mut self, now: Timestamp, max: usize) -> Vec<OrderNo> {
        let mut taken = Vec::new();
        while taken.len() < max {
            let Some(slot) = self.deadlines.first_due(now) else { break };
            self.disarm(slot);
            let home = self.table.get_mut(slot).expect("an order leaves after its deadline");
            home.deadline_index = TAKEN;
            taken.push(home.image.order.order_no.clone());
        }
        taken
    }

    /// An order that was taken is due again. `false`: it is not here.
    pub(crate) fn give_back_due(&mut self, order_no: &OrderNo) -> bool {
        let Some(slot) = self.slot_of(order_no) else { return false };
        if let Some(home) = self.table.get_mut(slot).filter(|home| home.deadline_index == TAKEN) {
            home.deadline_index = NO_DEADLINE;
        }
        self.arm(slot);
        true
    }

    /// See [`State::take_unsent`](crate::state::State::take_unsent).
    pub(crate) fn take_unsent(&mut self, now: Timestamp, max: usize) -> Vec<OrderNo> {
        if !std::mem::replace(&mut self.looked, true) {
            let pending = self.table.slots_and_entries().filter(|(_, home)| !home.image.pending.is_empty());
            self.unsent.extend(pending.map(|(slot, _)| slot));
        }
        let mut taken = Vec::new();
        while taken.len() < max {
            while let Some((_, slot)) = self.trusted.first().copied().filter(|(until, _)| *until <= now) {
                self.trust(slot, None);
                self.unsent.insert(slot);
            }
            let Some(slot) = self.unsent.pop_first() else { break };
            self.trust(slot, None);
            taken.extend(self.table.get(slot).map(|home| home.image.order.order_no.clone()));
        }
        taken
    }

    /// Somebody tells what is pending, until then at the latest; `None`: nobody, or nothing is.
    fn trust(&mut self, slot: u32, until: Option<Timestamp>) {
        let Some(home) = self.table.get_mut(slot) else { return };
        if let Some(was) = std::mem::replace(&mut home.trusted_until, until) {
            self.trusted.remove(&(was, slot));
        }
        self.trusted.extend(until.map(|until| (until, slot)));
    }

    /// From now on the order expires when its time is over, if it holds units.
    fn arm(&mut self, slot: u32) {
        let is_free = |home: &&mut HomeOrder| home.deadline_index == NO_DEADLINE && home.image.is_open();
        if let Some(home) = self.table.get_mut(slot).filter(is_free) {
            home.deadline_index = self.deadlines.add(home.image.order.expires_at, slot);
        }
    }

    fn disarm(&mut self, slot: u32) {
        let Some(home) = self.table.get_mut(slot) else { return };
        let index = std::mem::replace(&mut home.deadline_index, NO_DEADLINE);
        let moved = self.deadlines.remove(home.image.order.expires_at, index);
        if let Some(home) = moved.and_then(|moved| self.table.get_mut(moved)) {
            home.deadline_index = index;
        }
    }

    /// What does not hold of the orders, for the audit.
    pub(crate) fn check(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.iter().filter_map(|image| shares::check(image).err()).collect();
        let open = self.iter().filter(|image| image.is_open()).count();
        if open != self.open {
            problems.push(format!("{open} orders over several places hold units, {} are counted", self.open));
        }
        let due = |home: &HomeOrder| home.image.is_open() && home.deadline_index != TAKEN;
        let armed = self.table.iter().filter(|home| due(home)).count();
        let right = |slot, step, index| {
            let home = self.table.get(slot);
            home.is_some_and(|home| {
                due(home)
                    && home.deadline_index == index
                    && Deadlines::step_of(home.image.order.expires_at) == step
            })
        };
        problems.extend(self.deadlines.check(armed, right).err());
        let pending = |slot: &u32| self.at_slot(*slot).is_some_and(|image| !image.pending.is_empty());
        if let Some(slot) = self.unsent.iter().find(|slot| !pending(slot)) {
            problems.push(format!("slot {slot} of the homes has nothing to be told and waits for it"));
        }
        let trusted = |(until, slot): &(Timestamp, u32)| {
            pending(slot) && self.table.get(*slot).is_some_and(|home| home.trusted_until == Some(*until))
        };
        let named = self.table.iter().filter(|home| home.trusted_until.is_some()).count();
        if named != self.trusted.len() || !self.trusted.iter().all(trusted) {
            problems.push("somebody is trusted to tell what is not pending".to_owned());
        }
        problems
    }
}
