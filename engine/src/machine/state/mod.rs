//! The state machine of one shard: pure, synchronous, without clock or IO.
//!
//! - [`table`]: tables that grow in steps. [`stock`]: stocks, whose levels change here alone. [`order`]: orders and
//!   their [`deadlines`]. [`remembered`]: what is known of ended orders and answered requests. [`held`]: what is held
//!   for orders that other shards decide. [`State`] (in [`shard_state`]): all of it.
//! - [`State::decide`] (in [`decide_order`], [`decide_choice`] with [`choose`], [`decide_stock`]) answers a command
//!   or makes the event that carries it out; or names what has to be held in other shards first, which is the
//!   coordinator's work ([`crate::machine::coordinator`]): see [`decision`]. [`holds`]: the rules of stocks.
//!   [`State::apply`] (in [`apply`]) lets an event change the state, live and in recovery alike; one that does not fit
//!   is a [`corruption`].
//! - [`needs`]: what a command waits for. [`load`], [`forget`] and [`evict`]: how SKUs, ended orders and requests come
//!   from the store into memory and leave it again.
//! - [`capture`]: checkpoints in slices, and the state from one. [`audit`]: every invariant, recomputed.
//!
//! Live, an event goes through `decide`, `apply`, `answer`; in recovery through `apply` alone. The levels in the
//! event are computed by `decide` and computed again by `apply`, which refuses an event that differs.

mod apply;
mod audit;
mod capture;
mod choose;
mod corruption;
mod deadlines;
mod decide_choice;
mod decide_order;
mod decide_stock;
mod decision;
mod evict;
mod forget;
mod held;
mod holds;
mod load;
mod needs;
mod order;
mod remembered;
mod shard_state;
mod stock;
mod table;

pub use audit::{AuditReport, StockAudit, Violation};
pub use capture::Capture;
pub use choose::prefer_for_all;
pub use corruption::Corruption;
pub(crate) use decide_choice::too_many_stocks;
pub use decision::Decision;
pub(crate) use decision::{Elsewhere, HoldFirst};
pub use forget::Forget;
#[cfg(feature = "testing")]
pub(crate) use held::HoldKey;
pub use needs::{Need, Stored};
pub use remembered::Departed;
pub use shard_state::{Sizes, State};
pub use stock::LeftStock;
