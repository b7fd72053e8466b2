//! What the shards say to each other about orders over several of them. A message lies in the mailbox of the shard that
//! it is for; it is lost only when that shard fails, or the process ends. Each can come twice, but for `Hold`: units of
//! an attempt are asked for once.
//!
//! It need not wait until what it rests on is durable: it leaves behind the events that it rests on, on their way to
//! the one journal of all shards. So whatever is logged because of it stands behind them there, and a crash that loses
//! them loses that too. Callers alone wait for the disk, once.

use smallvec::SmallVec;

use crate::base::ids::{AttemptId, OrderNo, Reason, ShardId, SkuId, WarehouseId};
use crate::contract::command::{Line, Reserve};
use crate::contract::event::ReservedLine;
use crate::contract::hold::{HoldMove, HoldPurpose};
use crate::contract::outcome::{Refusal, StockView};
use crate::contract::units::Serials;

/// Serial numbers that units of a stock got.
pub(crate) type GivenSerials = (SkuId, WarehouseId, Serials);

/// See the top of the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Message {
    /// To a participant: what is there of these SKUs?
    Look { order_no: OrderNo, skus: Vec<SkuId> },
    /// To the coordinator: each with all its stocks as they are now, none when there is no such SKU; or why it can't be
    /// said.
    Looked { order_no: OrderNo, found: Result<Vec<(SkuId, Vec<StockView>)>, Refusal> },
    /// To a participant: hold this.
    Hold(Box<HoldRequest>),
    /// To the coordinator: every line that was asked for with what it got; or why nothing is held.
    Held { order_no: OrderNo, attempt: AttemptId, outcome: Result<SmallVec<[ReservedLine; 1]>, Refusal> },
    /// To a participant: the attempt came to nothing.
    Abandon { order_no: OrderNo, attempt: AttemptId },
    /// To the coordinator: nothing is held for it any more.
    Abandoned { order_no: OrderNo, attempt: AttemptId },
    /// To a participant: carry out a decision.
    Instruct(Box<Instruction>),
    /// To the coordinator: it is carried out, and gave these serial numbers.
    Done { order_no: OrderNo, attempt: AttemptId, seq: u32, serials: Vec<GivenSerials> },
    /// To a participant: the serial numbers that came with this decision are logged.
    Heard { order_no: OrderNo, attempt: AttemptId, seq: u32 },
    /// To the coordinator, after one of the two began anew: is this still wanted, of which decisions were carried out
    /// up to `seq`? Answered with `Keep` or `Abandon`; with `Heard`, if nothing more is to be told of those.
    Ask { order_no: OrderNo, attempt: AttemptId, seq: u32 },
    /// To a participant: it is.
    Keep { order_no: OrderNo, attempt: AttemptId },
}

/// What a coordinator asks a participant to hold.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HoldRequest {
    /// The lines that lie in the participant's shard, as a request of their own. Its time says nothing: a hold ends
    /// when its coordinator says so.
    pub reserve: Reserve,
    pub attempt: AttemptId,
    pub coordinator: ShardId,
    pub purpose: HoldPurpose,
    /// Attempts whose holds the order has. What others hold for it came to nothing.
    pub known: Vec<AttemptId>,
}

/// What a coordinator has a participant carry out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Instruction {
    pub order_no: OrderNo,
    /// Of the hold that it is about.
    pub attempt: AttemptId,
    /// Counts the decisions of the order. One that was carried out is not carried out again.
    pub seq: u32,
    pub kind: HoldMove,
    pub reason: Option<Reason>,
    /// Units of the participant's stocks.
    pub lines: Vec<Line>,
}

impl Message {
    /// The steps of orders over several shards at which a test can end the process: this message has come.
    pub const STEPS: &[&str] = &[
        "span.look",
        "span.looked",
        "span.hold",
        "span.held",
        "span.abandon",
        "span.abandoned",
        "span.instruct",
        "span.done",
        "span.heard",
        "span.ask",
        "span.keep",
    ];

    /// The step at which it is.
    pub fn step(&self) -> &'static str {
        let index = match self {
            Self::Look { .. } => 0,
            Self::Looked { .. } => 1,
            Self::Hold(_) => 2,
            Self::Held { .. } => 3,
            Self::Abandon { .. } => 4,
            Self::Abandoned { .. } => 5,
            Self::Instruct(_) => 6,
            Self::Done { .. } => 7,
            Self::Heard { .. } => 8,
            Self::Ask { .. } => 9,
            Self::Keep { .. } => 10,
        };
        Self::STEPS[index]
    }

    /// SKUs that the receiver has to have in memory before it can say anything.
    pub fn skus(&self) -> impl Iterator<Item = &SkuId> {
        let (looked, held) = match self {
            Self::Look { skus, .. } => (skus.as_slice(), &[][..]),
            Self::Hold(request) => (&[][..], request.reserve.lines.as_slice()),
            Self::Looked { .. }
            | Self::Held { .. }
            | Self::Abandon { .. }
            | Self::Abandoned { .. }
            | Self::Instruct(_)
            | Self::Done { .. }
            | Self::Heard { .. }
            | Self::Ask { .. }
            | Self::Keep { .. } => (&[][..], &[][..]),
        };
        looked.iter().chain(held.iter().map(|line| &line.sku_id))
    }
}
