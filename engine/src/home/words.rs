//! What is asked of the home of an order, what it logs, and what it has its branches told.

use std::collections::BTreeSet;

use crate::checkpoint::{LineSerials, OrderImage};
use crate::command::{Confirm, Lines, Mode, Reserve};
use crate::event::OrderRequest;
use crate::ids::{AttemptId, Branch, BuyerId, OrderNo, Reason, SkuId, WarehouseId};
use crate::inner::{InnerCommand, Subject};

/// See [`InnerCommand::Home`]. Each can be repeated. What callers ask about an order over several places (confirm,
/// release, extend, return, read, a repeated reserve) comes as the command that it is.
#[derive(Debug, Clone, PartialEq)]
pub enum HomeStep {
    /// Every branch of an attempt holds: the order is made. Answers as a reserve does.
    Reserve {
        /// As it was asked.
        reserve: Reserve,
        /// Which attempt.
        attempt: AttemptId,
        /// What the branches hold, in the order of the request; each (SKU, warehouse) once.
        lines: Vec<HeldLine>,
    },
    /// The units of a late payment are held: the confirm is decided again, with them. Answers as a confirm does. When
    /// it needs other units by now, it answers [`HoldFirst`](crate::inner::InnerAnswer::HoldFirst); when it needs none,
    /// as it is.
    Late {
        /// As it was asked.
        confirm: Confirm,
        /// Which attempt.
        attempt: AttemptId,
        /// What its branches hold: all of what [`HoldFirst`](crate::inner::InnerAnswer::HoldFirst) named.
        lines: Lines,
    },
    /// What is still to be told to the branches of an order: [`Decided`](crate::inner::InnerAnswer::Decided), or the
    /// order when it is nothing.
    Pending(OrderNo),
    /// Branches were told everything up to a decision.
    Carried {
        /// Which order.
        order_no: OrderNo,
        /// The number of the decision.
        through: u64,
        /// Serial numbers that its lines have got; those that are known are left out.
        serials: Vec<LineSerials>,
    },
    /// A branch asks: refused with [`UnknownOrder`](crate::outcome::Refusal::UnknownOrder) unless the order knows its
    /// attempt.
    Ask(Asked),
}

/// Which attempt of which order a branch asks after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The order.
    pub order_no: OrderNo,
    /// The attempt.
    pub attempt: AttemptId,
}

impl HomeStep {
    /// The order.
    #[must_use]
    pub fn order_no(&self) -> &OrderNo {
        match self {
            Self::Reserve { reserve, .. } => &reserve.order_no,
            Self::Late { confirm, .. } => &confirm.order_no,
            Self::Pending(order_no) | Self::Carried { order_no, .. } => order_no,
            Self::Ask(asked) => &asked.order_no,
        }
    }

    /// What it is about. The SKUs of its lines are those of its branches, not of its home.
    pub(crate) fn subject(&self) -> Subject<'_> {
        match self {
            Self::Reserve { .. } => Subject::AnyOrder(self.order_no()),
            Self::Late { .. } | Self::Pending(_) | Self::Carried { .. } | Self::Ask(_) => {
                Subject::Order(self.order_no())
            }
        }
    }

    /// A rough size, in lines of an event.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Reserve { lines, .. } => lines.len(),
            Self::Late { lines, .. } => lines.as_slice().len(),
            Self::Carried { serials, .. } => 1 + serials.len(),
            Self::Pending(_) | Self::Ask(_) => 1,
        }
    }
}

/// A line of an order over several places when it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLine {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// Units asked for.
    pub quantity: u32,
    /// Units that its branch holds.
    pub held: u32,
}

/// What a home logs. See [`Change::Home`](crate::event::Change::Home).
#[derive(Debug, Clone, PartialEq)]
pub enum HomeChange {
    /// An order is made: every branch holds.
    Reserved {
        /// The order.
        order_no: OrderNo,
        /// Who buys.
        buyer_id: Option<BuyerId>,
        /// As it was asked.
        mode: Mode,
        /// It expires this long after the event's time.
        ttl_seconds: u32,
        /// As in [`Change::Reserved`](crate::event::Change::Reserved).
        asked: Option<u64>,
        /// The attempt whose branches hold.
        attempt: AttemptId,
        /// Every line.
        lines: Vec<HeldLine>,
    },
    /// A decision, to be carried to the branches.
    Decided {
        /// The order.
        order_no: OrderNo,
        /// What.
        kind: DecisionKind,
        /// The partial request that this answers, if it was one.
        request: Option<OrderRequest>,
        /// Why.
        reason: Option<Reason>,
        /// The attempt that holds the units of a late payment.
        attempt: Option<AttemptId>,
        /// The lines that change.
        lines: Vec<DecidedLine>,
    },
    /// The expiry was moved. No branch knows of it.
    Extended {
        /// The order.
        order_no: OrderNo,
        /// It expires this long after the event's time.
        ttl_seconds: u32,
    },
    /// The branches were told everything up to a decision.
    Carried {
        /// The order.
        order_no: OrderNo,
        /// The number of the decision.
        through: u64,
        /// Serial numbers that were not known yet.
        serials: Vec<LineSerials>,
    },
    /// An order that had ended and left memory is here again.
    Loaded(Box<HomeImage>),
}

impl HomeChange {
    /// The order.
    #[must_use]
    pub fn order_no(&self) -> &OrderNo {
        match self {
            Self::Reserved { order_no, .. }
            | Self::Decided { order_no, .. }
            | Self::Extended { order_no, .. }
            | Self::Carried { order_no, .. } => order_no,
            Self::Loaded(image) => &image.order.order_no,
        }
    }

    /// A rough size, in lines of an event.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Reserved { lines, .. } => lines.len(),
            Self::Decided { lines, .. } => lines.len(),
            Self::Extended { .. } => 1,
            Self::Carried { serials, .. } => 1 + serials.len(),
            Self::Loaded(image) => image.weight(),
        }
    }
}

/// What a home decides after the order was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DecisionKind {
    /// Held units are sold.
    Confirm,
    /// Held units are given back by the caller.
    Release,
    /// Held units are given back because the time is over.
    Expire,
    /// Sold units come back.
    Return,
}

/// A line of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecidedLine {
    /// The index of the line.
    pub line: u16,
    /// Units: held (confirm, release, expiry) or sold (return) before.
    pub units: u32,
    /// Of a confirm: units that the attempt of a late payment holds, beside those.
    pub late: u32,
}

/// An order over several places, as its home has it: what a checkpoint and the store keep.
#[derive(Debug, Clone, PartialEq)]
pub struct HomeImage {
    /// The order, its lines counted as they were decided.
    pub order: OrderImage,
    /// Which branch has which units.
    pub shares: Vec<Share>,
    /// Decisions so far.
    pub decisions: u64,
    /// Those of them that branches may not know, oldest first.
    pub pending: Vec<Decided>,
}

impl HomeImage {
    /// The numbers of its branches, each once, by number.
    #[must_use]
    pub fn branches(&self) -> BTreeSet<OrderNo> {
        let number = |share: &Share| {
            let sku_id = self.order.lines.get(usize::from(share.line))?.sku_id.clone();
            Some(Branch { order_no: self.order.order_no.clone(), sku_id, attempt: share.attempt }.number())
        };
        self.shares.iter().filter_map(number).collect()
    }

    /// Those of one SKU.
    #[must_use]
    pub fn branches_of(&self, sku_id: &SkuId) -> Vec<OrderNo> {
        let is_of = |number: &OrderNo| number.branch().is_some_and(|branch| branch.sku_id == *sku_id);
        self.branches().into_iter().filter(is_of).collect()
    }

    /// A rough size, in lines of an event.
    pub(crate) fn weight(&self) -> usize {
        let pending = self.pending.iter().map(|decided| decided.shares.len()).sum::<usize>();
        self.order.weight() + self.shares.len() + pending
    }
}

/// The units of one line that lie in one branch. held + confirmed + released = what the branch got for the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The attempt of the branch; its SKU is that of the line.
    pub attempt: AttemptId,
    /// The index of the line.
    pub line: u16,
    /// Units held.
    pub held: u32,
    /// Units confirmed so far.
    pub confirmed: u32,
    /// Units given back without being sold.
    pub released: u32,
    /// Units sold and returned.
    pub returned: u32,
}

/// A decision that branches may not know yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Counts the decisions of the order, from 1.
    pub number: u64,
    /// What.
    pub kind: DecisionKind,
    /// Why.
    pub reason: Option<Reason>,
    /// Which share gives or takes how many units; `whole`: all that its branch holds, so that it need not be
    /// remembered there.
    pub shares: Vec<(u16, u32)>,
    /// See `shares`: of each branch that it touches, everything that the branch still held is meant.
    pub whole: bool,
}

/// One decision as commands for the branches. They can be given in any order, at the same time, and again; but only
/// after those of every earlier decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Errand {
    /// The number of the decision.
    pub number: u64,
    /// One for each branch.
    pub commands: Vec<BranchCommand>,
}

/// A command for a branch.
#[derive(Debug, Clone, PartialEq)]
pub struct BranchCommand {
    /// Where it goes: to the place where this SKU is.
    pub sku_id: SkuId,
    /// A plain command under the number of the branch.
    pub command: InnerCommand,
}
