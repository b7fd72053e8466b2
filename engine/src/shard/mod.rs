//! A running shard: [`parts`] is what it holds of the services, [`turn`] what it does when it is woken, [`waiting`]
//! keeps the commands that wait for the store, [`load`] takes what was found there, [`actor`] is the ractor actor
//! around it, [`supervisor`] starts the shards and rebuilds one that panicked, by its [`recovery`] from checkpoint and
//! journal.

pub(crate) mod actor;
mod load;
pub(crate) mod parts;
pub mod recovery;
pub(crate) mod supervisor;
mod turn;
mod waiting;
