//! Orders over several shards: the machine of their coordinator, pure. It runs inside the turn of its shard, which
//! carries its messages ([`Message`](crate::machine::message::Message)); the shards hold for each other what
//! [`holds`](crate::machine::state) describes.
//!
//! The shard that decides for an order is its **coordinator**; those that have the stocks of its lines are its
//! **participants**. (The lines of the coordinator's own stocks need no message.) The protocol is two-phase commit
//! with presumed abort (Mohan, Lindsay, Obermarck: *Transaction Management in the R\* Distributed Database Management
//! System*, 1986):
//!
//! ```text
//!   look       SKUs that nobody has seen are brought into memory where they are
//!   see        what is plainly short, unknown or suspended is refused, and nothing changed anywhere
//!   hold       participants hold the units, all at the same time, under a new AttemptId (logged there alone)
//!   decide     all held → the order is logged; one refused → the others are abandoned, then the caller is told
//!   propagate  confirm, release, expiry, return: logged here first, then the participants are instructed until each
//!              has acknowledged; the answer waits for that, for a while
//!   ask        after a start or a rebuild a participant asks; of an attempt that no order knows it is told to let go
//! ```
//!
//! Units that a command needs beside those that the order holds (a late payment, a return) are held in the same way
//! first: so whatever is decided can be carried out, however long that takes. They are asked for only when everything
//! that was decided of the order before is told, since a participant is told one decision after the other.
//!
//! - [`Message`](crate::machine::message::Message): what is said. [`judge`]: what the answers mean together.
//!   [`attempt`]: an order whose units are being held. [`effects`]: what is asked of the shard around.
//! - [`Coordinator`] (in [`protocol`]): which orders have something under way. Commands about an order whose units are
//!   being held wait in one queue, in their order. [`propagate`]: decisions on their way to the participants.
//!
//! Nothing here is remembered: what matters is in the journals of the shards.

mod attempt;
mod effects;
mod judge;
mod propagate;
mod protocol;

pub(crate) use effects::{Effects, Moment, Surroundings, Tally};
pub(crate) use protocol::Coordinator;
