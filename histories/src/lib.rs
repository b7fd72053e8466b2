//! What the callers of a server saw, and whether one server that does one thing after the other could have answered so.
//!
//! A [`Recorder`] takes down every request with the time before it was sent and the time after its answer came, also
//! those whose outcome is unknown. [`check`] takes the recording apart and looks for an order of the operations, within
//! their times, in which sequential models answer the same (linearizability): [`linear`] is the search, [`orders`],
//! [`changes`] and [`stocks`] are the models. They are naive, know the HTTP contract alone and share nothing with the
//! engine.
//!
//! **The parts.** One search over a whole history would never end, so it is cut:
//! - every **order** by itself, and every **request id** of a SKU: what was asked under one number is one thing, done
//!   once, its repeats are repeats, other content is a mismatch, and every answer fits the ones before. Whether there
//!   was stock is left open there.
//! - every **stock** (a SKU in a warehouse): the effects that its orders and requests were found to have, within the
//!   times that their answers prove ([`effects`]), all refusals for want of stock with what they say there was, and all
//!   reads.
//!
//! **What that proves.** Nothing is sold twice or lost, in every stock, at every moment that anybody looked at; a
//! refusal was true at a moment between its request and its answer; a read shows no older levels than anybody was told
//! before it; an acknowledged step is never undone or done again, whoever was killed; an order took effect with all its
//! lines or none, by its own answers and, in the end, by the levels: [`Checked::levels`] are those that all orders
//! together make, for the test to compare.
//!
//! **What it does not prove.**
//! - That an order took effect in several stocks at the same moment. Over several shards it does not: units are held
//!   one after the other, and decisions and expiries reach the shards one after the other. Two warehouses of one SKU
//!   are read one after the other too.
//! - That orders over several shards hold nothing in passing. An attempt that comes to nothing holds units for a
//!   moment, and one that was cut off until its shards have asked; a read or refusal in that time may count them, and
//!   is believed if any of the attempts that can have been under way make up the difference.
//! - That an expiry comes in time; it may come at any time from its deadline on.
//! - Serial numbers, chosen warehouses, suspended SKUs.
//! - Anything of a request that was cut off, never repeated and never looked after: it may have happened or not.

pub mod calls;
pub mod changes;
mod check;
pub mod effects;
pub mod linear;
pub mod orders;
mod print;
mod recorder;
pub mod stocks;
#[cfg(test)]
mod tests;

pub use calls::Stock;
pub use check::{Checked, Failure, check};
pub use recorder::{Answer, Recorder, Request};
