//! Orders over several places: the machine of their home, pure like [`State`](crate::state::State) and apart from its stocks.
//!
//! An order whose lines lie in several shards, or partly in the store, has one **home**, a shard. What it holds of each SKU is a
//! **branch** ([`Branch`]): an order of its own in the place of that SKU, which holds, sells and gives back like any
//! other order and moves with its SKU, but never expires by itself. The protocol is two-phase commit with presumed abort (Mohan, Lindsay,
//! Obermarck: *Transaction Management in the R\* Distributed Database Management System*, 1986):
//!
//! ```text
//!   attempt   the branches are reserved, all at the same time, under a new AttemptId (nothing is logged here)
//!   decide    all held → HomeChange::Reserved is logged; one refused → the branches that held are released
//!   later     confirm, release, expiry, return: HomeChange::Decided is logged, the caller's answer rests on it
//!   carry     the branches are told, as often as it takes; then HomeChange::Carried is logged, so that nobody is told again
//!   ask       a branch that was not acknowledged soon asks its home; an attempt that it does not know is released
//! ```
//!
//! - [`words`]: what is asked of a home, logged by it and told to its branches. [`attempt`]: which branches to reserve, and what
//!   their answers mean. [`judge`]: the rules of orders, which are those of the shards' own state machine. [`shares`]: which branch has
//!   which units. [`split`]: an order in one place becomes one over several.
//! - [`Homes`] (here): the orders of one home. `decide` answers a command or makes the change that carries it out; `apply` lets a change
//!   take effect, live and in recovery alike.

pub mod attempt;
mod judge;
mod shares;
mod split;
mod words;

pub use split::split;
pub use words::{
    Asked, BranchCommand, Decided, DecidedLine, DecisionKind, Errand, HeldLine, HomeChange, HomeImage, HomeStep, Share,
};

use crate::clock::Timestamp;
use crate::command::Command;
use crate::event::Event;
use crate::ids::{Lsn, OrderNo};
use crate::outcome::OrderView;

/// The orders over several places whose home is one shard.
#[derive(Debug, Clone, Default)]
pub struct Homes {}

impl Homes {
    /// Whether there is none: the usual case, which must cost nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Whether the order is here.
    #[must_use]
    pub fn knows(&self, _order_no: &OrderNo) -> bool {
        false
    }

    /// An order and its last change, as callers see it.
    #[must_use]
    pub fn view(&self, _order_no: &OrderNo) -> Option<(Lsn, OrderView)> {
        None
    }

    /// An order, as an image.
    #[must_use]
    pub fn image(&self, _order_no: &OrderNo) -> Option<&HomeImage> {
        None
    }

    /// The event for the next order whose time is over, if there is one.
    #[must_use]
    pub fn next_expiry(&self, _now: Timestamp) -> Option<Event> {
        None
    }

    /// Answers a command about an order that is here (or a step that makes it be here), or makes the event that carries it out.
    pub(crate) fn decide(&self, _command: &Command, _now: Timestamp) -> crate::state::Decision {
        todo!("TODO(core)")
    }
}
