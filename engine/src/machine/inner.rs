//! What goes between the parts of the engine and never leaves it: what a shard is asked ([`InnerCommand`]), around the
//! [commands](crate::contract::command) of callers. (What shards say to each other: [`crate::machine::coordinator`].)

use crate::base::ids::{OrderNo, TraceId};
use crate::contract::command::{Action, Command};
use crate::contract::event::rough_bytes;
use crate::contract::subject::Subject;

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
