//! What the machine of a coordinator asks of the world around it, what it wants done, and by which time.

use std::collections::VecDeque;

use crate::base::ids::{AttemptId, ShardId, SkuId};
use crate::contract::event::Event;
use crate::contract::outcome::{Outcome, StockView};
use crate::machine::inner::InnerCommand;
use crate::machine::message::Message;

/// Milliseconds since some moment: deadlines of what is under way. (What expires has a [`Timestamp`].)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Moment(pub u64);

impl Moment {
    pub(super) fn plus(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

/// What is looked after: an order can have both, due at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Attempt,
    Propagation,
}

/// What the machine asks of the world around it.
pub(crate) trait Surroundings {
    /// The stocks of a SKU of another shard, as they are published; none when it is not in memory.
    fn stocks(&self, sku_id: &SkuId) -> Vec<StockView>;

    /// Whether no participant waits to hear of holds from before a start. Until then an order may be short of what is
    /// left of an attempt of its own.
    fn is_settled(&self) -> bool;

    /// A number that is higher than that of any attempt before, whichever shard's.
    fn new_attempt(&self) -> AttemptId;
}

/// What the machine wants done. Events are applied already, in their order.
#[derive(Debug)]
pub(crate) struct Effects<C> {
    /// To be logged.
    pub events: Vec<Event>,
    /// To be sent behind the events.
    pub sends: Vec<(ShardId, Message)>,
    /// To be answered when everything is durable that any shard has logged so far.
    pub answers: Vec<(C, Outcome)>,
    /// Commands that waited for others about their order: to be decided now, in this order.
    pub ready: VecDeque<(C, InnerCommand)>,
}

impl<C> Default for Effects<C> {
    fn default() -> Self {
        Self { events: Vec::new(), sends: Vec::new(), answers: Vec::new(), ready: VecDeque::new() }
    }
}

/// Counts of orders over several shards.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub made: u64,
    pub refused: u64,
    pub overloaded: u64,
    pub attempts: u64,
    pub abandoned: u64,
    pub instructions: u64,
    pub repeated: u64,
}
