//! A running shard: [`shared`] is what others see of it, [`turn`] is what it does when it is woken, [`actor`] is the
//! ractor actor around it, [`supervisor`] starts the shards and rebuilds one that panicked.

pub(crate) mod actor;
pub(crate) mod shared;
pub(crate) mod supervisor;
pub(crate) mod turn;
