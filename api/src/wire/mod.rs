//! What travels: the JSON of requests and answers, and its translation to and from the engine's types. Nothing here
//! is known outside of this crate.
//!
//! 1. [`values`]: text that borrows from the body, numbers, times, and objects that are really objects.
//! 2. [`orders`], [`order`], [`list`], [`stock`], [`history`], [`batch`], [`admin`], [`reconcile`]: the bodies, by
//!    subject.
//! 3. [`answers`]: the body of whatever the engine answered.

pub mod admin;
pub mod answers;
pub mod batch;
pub mod history;
pub mod list;
pub mod order;
pub mod orders;
pub mod reconcile;
pub mod stock;
pub mod values;
