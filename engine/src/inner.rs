//! What goes between the parts of the engine and never leaves it: what a shard is asked ([`InnerCommand`]), around the
//! [commands](crate::command) of callers. (What shards say to each other: [`crate::coordinator`].)

use crate::command::{Action, Command, Lines};
use crate::event::rough_bytes;
use crate::ids::{OrderNo, RequestId, SkuId, TraceId};

/// What a shard is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum InnerCommand {
    /// By a caller, or in the words of one.
    Public(Command),
    /// Gives back what an order holds because its time is over; one whose time is not over is left as it is.
    Expire(OrderNo),
}

// Whatever is asked for in the usual way is no larger for what is asked for rarely.
const _: () = assert!(size_of::<InnerCommand>() == size_of::<Command>());

impl From<Command> for InnerCommand {
    fn from(command: Command) -> Self {
        Self::Public(command)
    }
}

impl From<Action> for InnerCommand {
    fn from(action: Action) -> Self {
        Self::Public(action.into())
    }
}

impl InnerCommand {
    /// What it is about.
    pub(crate) fn subject(&self) -> Subject<'_> {
        match self {
            Self::Public(command) => command.action.subject(),
            Self::Expire(order_no) => Subject::Order(order_no),
        }
    }

    /// The order that the command is about, if it is about one.
    #[must_use]
    pub fn order_no(&self) -> Option<&OrderNo> {
        self.subject().order_no()
    }

    /// The trace of whoever asked.
    pub(crate) fn trace(&self) -> Option<TraceId> {
        match self {
            Self::Public(command) => command.trace,
            Self::Expire(_) => None,
        }
    }

    /// A rough size in bytes, for the bounds of a message.
    pub(crate) fn weight(&self) -> u64 {
        rough_bytes(match self {
            Self::Public(command) => command.action.line_count(),
            Self::Expire(_) => 1,
        })
    }
}

/// What a command is about: where it goes, what it waits for and what it may make follow from that alone.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject<'a> {
    /// The stocks of a SKU; `request_id`: the change is remembered under it.
    Sku { sku_id: &'a SkuId, request_id: Option<&'a RequestId> },
    /// An order that it makes of these lines, where there is none.
    NewOrder { order_no: &'a OrderNo, lines: &'a Lines },
    /// An order, which it makes where there is none, whatever SKUs there are: a tombstone.
    AnyOrder(&'a OrderNo),
    /// An order that is there.
    Order(&'a OrderNo),
}

impl<'a> Subject<'a> {
    pub fn order_no(self) -> Option<&'a OrderNo> {
        match self {
            Self::Sku { .. } => None,
            Self::NewOrder { order_no, .. } | Self::AnyOrder(order_no) | Self::Order(order_no) => {
                Some(order_no)
            }
        }
    }

    /// The order that it may make.
    pub fn may_make(self) -> Option<&'a OrderNo> {
        match self {
            Self::NewOrder { order_no, .. } | Self::AnyOrder(order_no) => Some(order_no),
            Self::Sku { .. } | Self::Order(_) => None,
        }
    }

    /// The SKUs that it names, as often as it names them.
    pub fn skus(self) -> impl Iterator<Item = &'a SkuId> {
        let (one, lines) = match self {
            Self::Sku { sku_id, .. } => (Some(sku_id), None),
            Self::NewOrder { lines, .. } => (None, Some(lines)),
            Self::AnyOrder(_) | Self::Order(_) => (None, None),
        };
        let of_lines = lines.into_iter().flat_map(|lines| lines.as_slice());
        one.into_iter().chain(of_lines.map(|line| &line.sku_id))
    }
}
