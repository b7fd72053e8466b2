//! A running shard: [`shared`] is what others see of it, [`parts`] what it holds of them, [`turn`] what it does when
//! it is woken, [`waiting`] keeps the commands that wait for the store, [`load`] takes what was found there,
//! [`callers`] who waits for an answer that comes in a later turn, [`actor`] is the ractor actor around it,
//! [`supervisor`] starts the shards and rebuilds one that panicked.

pub(crate) mod actor;
mod callers;
mod load;
pub(crate) mod parts;
pub(crate) mod shared;
pub(crate) mod supervisor;
pub(crate) mod turn;
mod waiting;
