//! The store of [`PureShards`](hotstock_engine::testing::PureShards): the rows of each shard, and what left it.

use hotstock_engine::event::{Change, Event};
use hotstock_engine::ids::{OrderNo, ShardId};
use hotstock_engine::state::{Departed, Need, State, Stored};
use hotstock_engine::testing::PureStore;

use crate::stored::{Known, Rows, next_load};

pub struct Stores {
    pub rows: Vec<Rows>,
    known: Vec<Known>,
    /// Orders and requests that left memory since somebody looked, by name.
    pub left: Vec<String>,
}

impl Stores {
    pub fn new(shards: u16) -> Self {
        let shards = usize::from(shards);
        Self { rows: vec![Rows::default(); shards], known: vec![Known::default(); shards], left: Vec::new() }
    }

    /// Takes in the events of a shard; `log`: all of them that are durable.
    pub fn flush(&mut self, shard: ShardId, log: &[Event]) {
        let rows = &mut self.rows[shard.index()];
        let flushed = usize::try_from(rows.flushed.0).unwrap();
        log[flushed.min(log.len())..].iter().for_each(|event| rows.flush(rows.flushed.next(), event));
    }
}

impl PureStore for Stores {
    fn stored(&self, shard: ShardId) -> &dyn Stored {
        &self.known[shard.index()]
    }

    fn shard_of_order(&self, order_no: &OrderNo) -> Option<ShardId> {
        let shard = self.known.iter().position(|known| known.orders.contains(order_no))?;
        Some(ShardId(u16::try_from(shard).unwrap()))
    }

    fn begin(&mut self, shard: ShardId) {
        self.known[shard.index()].missing.clear();
    }

    fn has(&self, shard: ShardId, need: &Need) -> bool {
        match need {
            Need::Sku(sku_id) => self.rows[shard.index()].stocks.contains_key(sku_id),
            Need::Order(_) | Need::Request(..) => true,
        }
    }

    fn next_load(&mut self, shard: ShardId, state: &State, log: &[Event], needs: &[Need]) -> Option<Change> {
        self.flush(shard, log);
        next_load(state, &self.rows[shard.index()], &mut self.known[shard.index()], needs)
    }

    fn departed(&mut self, shard: ShardId, departed: Vec<Departed>) {
        let name = |departed: &Departed| match departed {
            Departed::Order(order_no) => order_no.to_string(),
            Departed::Request(sku_id, request_id) => format!("{sku_id}.{request_id}"),
        };
        self.left.extend(departed.iter().map(name));
        self.known[shard.index()].add(departed);
    }
}
