//! The words of the domain, and what the engine asks of others: plain data and traits, without behaviour.
//!
//! - What callers ask, and what they are told: [`command`] with its [`subject`], [`outcome`]; in the words of
//!   [`units`] and [`order`].
//! - What is logged: [`event`], with [`hold`] for what lies in other shards. What is written down: [`image`]; what
//!   events did to stocks: [`moves`].
//! - What the engine asks of durable storage (implemented in `hotstock-persistence`): [`journal`], [`checkpoint`],
//!   [`store`]; of the mirror: [`mirror`]; of the order service: [`check`].
//! - [`counters`]: what it tells of itself.

pub mod order;
pub mod units;

pub mod command;
pub mod outcome;
pub(crate) mod subject;

pub mod event;
pub mod hold;
pub mod image;
pub mod moves;

pub mod checkpoint;
pub mod journal;
pub mod store;

pub mod check;
pub mod mirror;

pub mod counters;
