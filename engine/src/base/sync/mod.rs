//! The concurrent primitives of the hot path, each small enough to be model-checked (see `loom-tests`).
//!
//! - [`Gate`]: how many commands may be under way in a shard.
//! - [`Mailbox`]: the queue of a shard, and whether it must be woken.
//! - [`Inbox`]: the queue of the journal writer, which sleeps on it.
//! - [`Backlog`]: how far a shard may run ahead of the sync, and when it goes on.
//! - [`Durable`]: the durable LSN of a shard.
//! - [`StockCell`]: the levels of one stock, read while they are published.
//!
//! [`primitives`] is the one switch between `std` and loom's doubles.

mod backlog;
mod cell;
mod durable;
mod gate;
mod inbox;
mod mailbox;
mod primitives;

pub use backlog::Backlog;
pub use cell::{CellValue, StockCell};
pub use durable::Durable;
pub use gate::Gate;
pub use inbox::Inbox;
pub use mailbox::Mailbox;
#[cfg(not(loom))]
pub(crate) use primitives::unpoisoned;
