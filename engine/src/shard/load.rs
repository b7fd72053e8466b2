//! What the loader found comes into memory: logged as `Loaded` and `OrdersLoaded`, in the turn in which those that
//! wait for it are decided.
//!
//! What the store says of what is not in memory counts only if it had taken in everything that left memory: its
//! watermark of the shard is not below the last change of what left
//! ([`State::departed`](crate::machine::state::State::departed)); for an order whose shard nobody knows, so of every
//! shard. Otherwise the store went back in time, or is read behind a flush, and is asked again.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::time::Instant;

use super::turn::Shard;
use super::waiting::Learned;
use crate::base::clock::Timestamp;
use crate::base::ids::{Lsn, OrderNo, RequestId, ShardId, SkuId};
use crate::base::limits::LOAD_AGAIN_MILLIS;
use crate::contract::counters::ShardCounters;
use crate::contract::event::Change;
use crate::contract::outcome::Refusal;
use crate::contract::store::{Loaded, StoredSku};
use crate::machine::state::Need;
use crate::services::shared::LoadAnswer;
use crate::services::store_link::add;

/// What came of a need.
enum Took {
    /// It is in memory.
    Here,
    /// It is not, and this is why.
    Not(Learned),
    /// The store could not say.
    Again,
}

impl Shard {
    /// Takes an answer of the loader. Those that wait for nothing more are ready.
    pub(super) fn take_loaded(&mut self, answer: LoadAnswer, now: Timestamp) {
        let LoadAnswer { needs, found } = answer;
        for need in needs {
            let waiting = self.work.waiting.take_asked(&need);
            if waiting.is_empty() {
                continue;
            }
            let took = match &found {
                Ok(loaded) => self.take(&need, loaded, now),
                Err(refusal) => Took::Not(Learned::Refused(refusal.clone())),
            };
            let learned = match &took {
                Took::Here => None,
                Took::Not(learned) => Some(learned),
                Took::Again => {
                    self.work.waiting.ask_again(need.clone(), waiting);
                    if self.again.is_empty() {
                        self.again_at = Instant::now() + Duration::from_millis(LOAD_AGAIN_MILLIS);
                    }
                    self.again.push(need);
                    continue;
                }
            };
            let mut ready = Vec::new();
            self.work.waiting.learn(&need, learned, waiting, &mut ready);
            self.work.ready.extend(ready);
        }
    }

    fn take(&mut self, need: &Need, loaded: &Arc<Loaded>, now: Timestamp) -> Took {
        match need {
            Need::Sku(sku_id) => self.take_sku(sku_id, loaded, now),
            Need::Order(order_no) => self.take_order(order_no, loaded, now),
            Need::Request(sku_id, request_id) => self.take_request(sku_id, request_id, loaded, now),
        }
    }

    /// Whether what the store says of this shard counts.
    fn counts(&self, loaded: &Loaded) -> bool {
        planted!("version-not-compared", true, flushed(loaded, self.shared.id) >= self.state.departed())
    }

    fn take_sku(&mut self, sku_id: &SkuId, loaded: &Loaded, now: Timestamp) -> Took {
        if self.state.is_resident(sku_id) {
            return Took::Here;
        }
        if !self.counts(loaded) {
            return Took::Again;
        }
        let stocks = match loaded.skus.get(sku_id) {
            Some(StoredSku::Sound(stocks)) => stocks,
            Some(StoredSku::Unsound(problem)) => {
                let refusal = Refusal::StockInconsistent { sku_id: sku_id.clone(), problem: problem.clone() };
                return Took::Not(Learned::Refused(refusal));
            }
            None => {
                self.absent.insert(sku_id.clone(), Instant::now());
                return Took::Not(Learned::Absent(flushed(loaded, self.shared.id)));
            }
        };
        match self.state.decide_loaded(sku_id, stocks) {
            Ok(None) => {}
            Ok(Some(change)) => {
                let event = self.state.event(change, now);
                self.apply(event);
                add(&self.shared.counters.loaded_skus, 1);
                self.parts.failpoints.reach("load.loaded");
            }
            Err(refusal) => return Took::Not(Learned::Refused(refusal)),
        }
        Took::Here
    }

    fn take_order(&mut self, order_no: &OrderNo, loaded: &Arc<Loaded>, now: Timestamp) -> Took {
        if self.state.knows_order(order_no) {
            return Took::Here;
        }
        let unreadable = loaded.unreadable_orders.iter().find(|(unreadable, _)| unreadable == order_no);
        if let Some((_, problem)) = unreadable {
            let (order_no, problem) = (order_no.clone(), problem.clone());
            return Took::Not(Learned::Refused(Refusal::OrderInconsistent { order_no, problem }));
        }
        let Some(stored) = loaded.orders.iter().find(|stored| stored.image.order_no == *order_no) else {
            let counts = |shard: &Arc<crate::services::shared::ShardShared>| {
                flushed(loaded, shard.id) >= shard.departed_lsn()
            };
            if !self.counts(loaded) || !self.parts.shards.iter().all(counts) {
                return Took::Again;
            }
            return Took::Not(Learned::Absent(flushed(loaded, self.shared.id)));
        };
        let inconsistent = |problem: String| {
            let order_no = order_no.clone();
            Took::Not(Learned::Refused(Refusal::OrderInconsistent { order_no, problem }))
        };
        if stored.shard != self.shared.id {
            if stored.shard.index() < self.parts.shards.len() {
                return Took::Not(Learned::Elsewhere(stored.shard));
            }
            return inconsistent(format!("its row is of shard {}, which there is not", stored.shard));
        }
        if !self.counts(loaded) {
            return Took::Again;
        }
        let image = &stored.image;
        for line in &image.lines {
            let sku_id = &line.sku_id;
            if !self.state.owns(sku_id) {
                if image.span.is_some() {
                    // What it has there, that shard knows.
                    continue;
                }
                let shard = self.shared.id;
                return inconsistent(format!("its row is of shard {shard}, where its SKU {sku_id} is not"));
            }
            match self.take_sku(sku_id, loaded, now) {
                Took::Here => {}
                Took::Not(Learned::Refused(refusal)) => return Took::Not(Learned::Refused(refusal)),
                Took::Not(_) => {
                    let problem = format!("its order {order_no} is there, and the SKU is not");
                    let refusal = Refusal::StockInconsistent { sku_id: sku_id.clone(), problem };
                    return Took::Not(Learned::Refused(refusal));
                }
                Took::Again => return Took::Again,
            }
        }
        let decided = self.state.decide_orders_loaded(std::slice::from_ref(image), &[]);
        self.take_decided(decided, now, |counters| &counters.loaded_orders)
    }

    /// What was decided of an order or a request is logged, and counted.
    fn take_decided(
        &mut self,
        decided: Result<Option<Change>, Refusal>,
        now: Timestamp,
        counter: fn(&ShardCounters) -> &AtomicU64,
    ) -> Took {
        match decided {
            Ok(None) => Took::Here,
            Ok(Some(change)) => {
                let event = self.state.event(change, now);
                self.apply(event);
                add(counter(&self.shared.counters), 1);
                self.parts.failpoints.reach("load.orders");
                Took::Here
            }
            Err(refusal) => Took::Not(Learned::Refused(refusal)),
        }
    }

    fn take_request(
        &mut self,
        sku_id: &SkuId,
        request_id: &RequestId,
        loaded: &Loaded,
        now: Timestamp,
    ) -> Took {
        if !self.counts(loaded) {
            return Took::Again;
        }
        let unreadable = loaded.unreadable_requests.iter();
        if let Some((_, _, problem)) =
            unreadable.into_iter().find(|(sku, id, _)| sku == sku_id && id == request_id)
        {
            let problem = format!("its request {request_id}: {problem}");
            return Took::Not(Learned::Refused(Refusal::StockInconsistent {
                sku_id: sku_id.clone(),
                problem,
            }));
        }
        let is_it = |image: &&crate::contract::image::RequestImage| {
            image.sku_id == *sku_id && image.request_id == *request_id
        };
        let Some(image) = loaded.requests.iter().find(is_it) else {
            return Took::Not(Learned::Absent(flushed(loaded, self.shared.id)));
        };
        if !self.state.is_resident(sku_id) {
            match loaded.skus.get(sku_id) {
                Some(_) => match self.take_sku(sku_id, loaded, now) {
                    Took::Here => {}
                    other => return other,
                },
                // The store looked for it with the request.
                None => {
                    let problem = format!("its request {request_id} is there, and the SKU is not");
                    let refusal = Refusal::StockInconsistent { sku_id: sku_id.clone(), problem };
                    return Took::Not(Learned::Refused(refusal));
                }
            }
        }
        let decided = self.state.decide_orders_loaded(&[], std::slice::from_ref(image));
        self.take_decided(decided, now, |counters| &counters.loaded_requests)
    }
}

/// How far a shard was flushed when this was read.
fn flushed(loaded: &Loaded, shard: ShardId) -> Lsn {
    let mark = loaded.watermarks.iter().find(|mark| mark.shard == shard);
    mark.map_or(Lsn::ZERO, |mark| mark.lsn)
}
