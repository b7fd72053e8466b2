//! What [`PureShards`](super::PureShards) needs of a store: what left memory, and how it comes back.

use crate::base::ids::{OrderNo, RequestId, ShardId, SkuId};
use crate::contract::event::{Change, Event};
use crate::machine::state::{Departed, Need, State, Stored};

/// See the top of the file.
pub trait PureStore {
    /// What is known of a shard's rows without asking for them.
    fn stored(&self, shard: ShardId) -> &dyn Stored;

    /// The shard that decided for an order that left memory.
    fn shard_of_order(&self, order_no: &OrderNo) -> Option<ShardId>;

    /// Another command begins to look for what it needs.
    fn begin(&mut self, shard: ShardId);

    /// Whether there is something to be loaded for a need.
    fn has(&self, shard: ShardId, need: &Need) -> bool;

    /// The next change with which something that is needed comes into memory. `log`: the durable events of the shard,
    /// to be taken in before.
    fn next_load(&mut self, shard: ShardId, state: &State, log: &[Event], needs: &[Need]) -> Option<Change>;

    /// This left memory.
    fn departed(&mut self, shard: ShardId, departed: Vec<Departed>);
}

/// As the state asks for it.
pub(super) struct StoredBy<'a, S>(pub &'a S, pub ShardId);

impl<S: PureStore> Stored for StoredBy<'_, S> {
    fn may_have_order(&self, order_no: &OrderNo) -> bool {
        self.0.stored(self.1).may_have_order(order_no)
    }

    fn may_have_request(&self, sku_id: &SkuId, request_id: &RequestId) -> bool {
        self.0.stored(self.1).may_have_request(sku_id, request_id)
    }

    fn lacks_sku(&self, sku_id: &SkuId) -> bool {
        self.0.stored(self.1).lacks_sku(sku_id)
    }
}

/// Nothing is stored, and nothing leaves memory.
#[derive(Debug, Clone, Copy)]
pub struct NoStore;

struct Nothing;

impl Stored for Nothing {
    fn may_have_order(&self, _: &OrderNo) -> bool {
        false
    }

    fn may_have_request(&self, _: &SkuId, _: &RequestId) -> bool {
        false
    }

    fn lacks_sku(&self, _: &SkuId) -> bool {
        true
    }
}

impl PureStore for NoStore {
    fn stored(&self, _: ShardId) -> &dyn Stored {
        &Nothing
    }

    fn shard_of_order(&self, _: &OrderNo) -> Option<ShardId> {
        None
    }

    fn begin(&mut self, _: ShardId) {}

    fn has(&self, _: ShardId, _: &Need) -> bool {
        false
    }

    fn next_load(&mut self, _: ShardId, _: &State, _: &[Event], _: &[Need]) -> Option<Change> {
        None
    }

    fn departed(&mut self, _: ShardId, _: Vec<Departed>) {}
}
