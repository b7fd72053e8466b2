//! What is above the shards: [`engine`] is what other crates call, [`start`] the one place where the parts are wired,
//! by its [`options`]; [`running`]: all that is under way in it, and how it ends.
//!
//! - [`router`]: where a command goes. [`checker`]: the order service, asked before an order expires. [`pins`]: what is
//!   kept in memory.
//! - [`reads`], [`list`], [`history`]: reads of both memory and store. [`status`]: health and counts. [`inspect`]: the
//!   shards, as [`reconcile`] sees them, which counts every stock in several ways.
//!   [`mirror_source`]: all stocks, for the mirror.
//! - [`owner`]: takes the store and keeps it. [`seize`], [`restore`]: a new directory from it.

pub mod engine;
pub mod options;
mod running;
mod start;

pub(crate) mod checker;
pub mod pins;
pub(crate) mod router;

pub(crate) mod history;
pub(crate) mod inspect;
pub mod list;
mod mirror_source;
pub(crate) mod reads;
pub mod reconcile;
pub mod status;

pub(crate) mod owner;
pub mod restore;
pub mod seize;
