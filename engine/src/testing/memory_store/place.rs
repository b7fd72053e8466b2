//! SKUs on their way to shards, with what goes along.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::tables::{Me, Tables, is_open};
use crate::checkpoint::{OrderImage, RequestImage, StockImage};
use crate::ids::{OrderNo, RequestId, ServerId, ShardId, SkuId};
use crate::store::{Moving, Owner, Taken};

impl Tables {
    pub fn take(&mut self, me: Me, skus: &[SkuId], server: ServerId, shard: ShardId) -> Vec<Taken> {
        let is_here = |owner: Owner| (owner.server, owner.shard) == (server, shard);
        let mut refused: HashMap<&SkuId, Taken> = HashMap::new();
        for sku_id in skus {
            match self.of_sku(sku_id).next().map(|kept| kept.owner) {
                None => drop(refused.insert(sku_id, Taken::Unknown)),
                Some(Some(owner)) if !is_here(owner) => drop(refused.insert(sku_id, Taken::OwnedBy(owner))),
                Some(owner) => {
                    let foreign = |(order_no, kept): (&OrderNo, &super::tables::KeptOrder)| {
                        let holds =
                            kept.image.lines.iter().any(|line| line.sku_id == *sku_id && line.held > 0);
                        let is_foreign = kept.server.is_some_and(|home| home != server);
                        (holds && is_foreign && owner.is_none()).then(|| order_no.of_caller())
                    };
                    let held = self.orders.iter().find_map(foreign);
                    held.map(|order_no| refused.insert(sku_id, Taken::OrdersSpan(order_no)));
                }
            }
        }
        let comes = |sku_id: &SkuId| skus.contains(sku_id) && !refused.contains_key(sku_id);
        let will_be_here = |sku_id: &SkuId| comes(sku_id) || self.owner_of(sku_id).is_some_and(is_here);
        let spans = |(order_no, image): (&OrderNo, &OrderImage)| {
            let mut skus = image.lines.iter().map(|line| &line.sku_id);
            let is_torn = is_open(image) && skus.clone().any(comes) && !skus.all(will_be_here);
            (is_torn && !order_no.is_branch()).then(|| order_no.clone())
        };
        let orders = self.orders.iter().map(|(order_no, kept)| (order_no, &kept.image));
        let torn: Vec<OrderNo> = orders.filter_map(spans).collect();
        torn.iter().for_each(|order_no| self.split(order_no, Me { server, ..me }));
        let mut taken = Vec::with_capacity(skus.len());
        for sku_id in skus {
            if let Some(refused) = refused.get(sku_id) {
                taken.push(refused.clone());
                continue;
            }
            let epoch = match self.owner_of(sku_id) {
                Some(owner) => owner.epoch,
                None => self.of_sku(sku_id).map(|kept| kept.epoch).max().unwrap_or(0) + 1,
            };
            self.set_owner(sku_id, Some(Owner { server, shard, epoch }));
            let stocks = self.of_sku(sku_id).map(|kept| StockImage { epoch, ..kept.image.clone() }).collect();
            taken.push(Taken::Owned { epoch, stocks });
        }
        taken
    }

    pub fn orders_of(&self, moving: &Moving, after: Option<&OrderNo>, max: usize) -> Vec<OrderImage> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let ours = |owner: Option<Owner>| {
            owner.is_some_and(|owner| (owner.server, owner.shard) == (moving.server, moving.shard))
        };
        let moves = |image: &OrderImage| {
            image.lines.iter().any(|line| line.sku_id == moving.sku_id)
                && (is_open(image)
                    || (image.changed_at >= moving.since
                        && image.lines.iter().all(|line| ours(self.owner_of(&line.sku_id)))))
        };
        let orders = self.orders.range((from, Bound::Unbounded)).map(|(_, kept)| &kept.image);
        orders.filter(|image| moves(image)).take(max).cloned().collect()
    }

    pub fn requests_of(&self, moving: &Moving, after: Option<&RequestId>, max: usize) -> Vec<RequestImage> {
        let of_sku = self
            .requests
            .values()
            .filter(|request| request.sku_id == moving.sku_id && request.at >= moving.since);
        let after = of_sku.filter(|request| after.is_none_or(|after| request.request_id > *after));
        after.take(max).cloned().collect()
    }

    pub fn owned(&self, server: ServerId, after: Option<&SkuId>, max: usize) -> Vec<(SkuId, Owner)> {
        let mut owned: BTreeMap<SkuId, Owner> = BTreeMap::new();
        for kept in self.after(after) {
            if let Some(owner) = kept.owner.filter(|owner| owner.server == server) {
                owned.insert(kept.image.sku_id.clone(), owner);
            }
        }
        owned.into_iter().take(max).collect()
    }
}
