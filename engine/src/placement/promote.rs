//! Takes SKUs into shards: the store gives them an owner, the shard logs them with their orders and opens them. From the
//! first step on their route says that they move; once the store has given them, the move is carried on until it ends, whatever
//! fails in between, because every step can be repeated.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::routes::Begun;
use super::{Asked, Backoff, Moved};
use crate::checkpoint::{OrderImage, RequestImage, Stage, StockImage};
use crate::command::{Action, Command, Place};
use crate::event::rough_bytes;
use crate::hub::{How, Hub, add, refusal_of};
use crate::ids::{AttemptId, RequestId, ShardId, SkuId, shard_of};
use crate::limits::{MAX_ADOPTED_PER_EVENT, MAX_ADOPTIONS_AT_ONCE, MAX_MOVE_SECONDS, MAX_TURN_BYTES};
use crate::outcome::{Answer, Effect, Outcome, Refusal};
use crate::store::{Moving, StoreError, Taken};

/// The results of a move, by SKU.
pub(super) type Results = Vec<(SkuId, Result<Moved, Refusal>)>;

/// What an order gets that lay in one place and was split.
const SPLIT: AttemptId = AttemptId(0);

/// A SKU that the store has given to a shard.
struct Adoption {
    sku_id: SkuId,
    epoch: u64,
    stocks: Vec<StockImage>,
}

/// Why a move stands still for now.
enum Halt {
    /// The store did not give them, or nobody knows whether it did.
    Take(StoreError),
    Store(StoreError),
    Shard(Refusal),
}

impl Hub {
    /// Makes SKUs hot. See [`crate::engine::Engine::promote`].
    pub async fn promote(&self, skus: &[SkuId], asked: Asked) -> Results {
        let mut by_shard: BTreeMap<ShardId, Vec<SkuId>> = BTreeMap::new();
        for sku_id in skus {
            by_shard.entry(shard_of(sku_id, self.context.options.shards)).or_default().push(sku_id.clone());
        }
        let run = |hub: Arc<Hub>, shard, skus, report| async move { hub.promote_in(shard, skus, asked, report).await };
        self.move_groups(skus, by_shard, run).await
    }

    /// Runs one move for each shard in the background and puts the results in the order asked.
    pub(super) async fn move_groups<F: Future<Output = ()> + Send + 'static>(
        &self,
        skus: &[SkuId],
        by_shard: BTreeMap<ShardId, Vec<SkuId>>,
        run: impl Fn(Arc<Self>, ShardId, Vec<SkuId>, oneshot::Sender<Results>) -> F,
    ) -> Results {
        let mut reports = Vec::new();
        for (shard, mut skus) in by_shard {
            // In the order of their names, so that two moves never wait for each other.
            skus.sort_unstable();
            skus.dedup();
            let (report, reported) = oneshot::channel();
            if self.side().spawn(run(self.arc(), shard, skus, report)) {
                reports.push(reported);
            }
        }
        let mut results = HashMap::new();
        for reported in reports {
            // One that ends without a report was ended by the stop of the engine.
            results.extend(reported.await.unwrap_or_default());
        }
        let of = |sku_id: &SkuId| results.get(sku_id).cloned().unwrap_or(Err(Refusal::Overloaded));
        skus.iter().map(|sku_id| (sku_id.clone(), of(sku_id))).collect()
    }

    async fn promote_in(&self, shard: ShardId, skus: Vec<SkuId>, asked: Asked, report: oneshot::Sender<Results>) {
        let side = self.side();
        let (mut results, moving) = self.begin(skus, Stage::Adopting, shard, asked).await;
        if moving.is_empty() {
            drop(report.send(results));
            return;
        }
        // Until then the store may not know yet that a SKU has left before the last stop.
        let deadline = Instant::now() + Duration::from_secs(MAX_MOVE_SECONDS);
        if side.is_down() || !side.flushed(shard, side.follows[shard.index()].start, deadline).await {
            let refusal = side.late();
            for sku_id in moving {
                side.routes.cold(&sku_id);
                results.push((sku_id, Err(refusal.clone())));
            }
            drop(report.send(results));
            return;
        }
        self.context.failpoint("promote.before_take");
        let mut report = Some((report, results));
        self.carry_on(shard, moving, asked, &mut report).await;
    }

    /// Takes and adopts SKUs whose routes say that they move, until they have arrived or the store did not give them. The
    /// first result is reported; after a failure the move goes on behind it.
    pub(super) async fn carry_on(
        &self,
        shard: ShardId,
        mut moving: Vec<SkuId>,
        asked: Asked,
        report: &mut Option<(oneshot::Sender<Results>, Results)>,
    ) {
        let side = self.side();
        let mut backoff = Backoff::default();
        // Whether the store may have given them to us.
        let mut taken = asked == Asked::Repair;
        while !moving.is_empty() && !side.is_stopping() {
            let mut results = Vec::new();
            let halted = match self.take_and_adopt(shard, &mut moving, asked, &mut results).await {
                Ok(()) => None,
                Err(Halt::Take(StoreError::Unavailable(_) | StoreError::Busy(_))) if !taken => {
                    let refusal = side.late();
                    for sku_id in std::mem::take(&mut moving) {
                        side.routes.cold(&sku_id);
                        results.push((sku_id, Err(refusal.clone())));
                    }
                    None
                }
                Err(Halt::Take(error) | Halt::Store(error)) => {
                    tracing::warn!(%error, skus = moving.len(), "SKUs on their way to a shard wait for the store");
                    Some(refusal_of(error))
                }
                Err(Halt::Shard(refusal)) => {
                    tracing::warn!(%refusal, skus = moving.len(), "SKUs on their way wait for their shard");
                    Some(refusal)
                }
            };
            taken = true;
            if let Some((report, mut all)) = report.take() {
                all.extend(results);
                if let Some(refusal) = &halted {
                    all.extend(moving.iter().map(|sku_id| (sku_id.clone(), Err(refusal.clone()))));
                }
                drop(report.send(all));
            }
            match halted {
                // Nothing is written any more until the process starts again, which repairs it.
                Some(Refusal::JournalUnavailable) => return,
                Some(_) => sleep(backoff.next()).await,
                None => {}
            }
        }
    }

    /// One try. What has arrived or is not to come is taken out of `moving`.
    async fn take_and_adopt(
        &self,
        shard: ShardId,
        moving: &mut Vec<SkuId>,
        asked: Asked,
        results: &mut Results,
    ) -> Result<(), Halt> {
        let side = self.side();
        let taken = side.noted(side.store.take(moving, side.server, shard).await).map_err(Halt::Take)?;
        self.context.failpoint("promote.taken");
        let mut adoptions = Vec::new();
        for (sku_id, taken) in std::mem::take(moving).into_iter().zip(taken) {
            let refusal = match taken {
                Taken::Owned { epoch, stocks } => {
                    moving.push(sku_id.clone());
                    adoptions.push(Adoption { sku_id, epoch, stocks });
                    continue;
                }
                Taken::Unknown => Refusal::UnknownSku { sku_id: sku_id.clone(), warehouse_id: None },
                Taken::OwnedBy(_) => Refusal::OwnedElsewhere { sku_id: sku_id.clone() },
                Taken::OrdersSpan(order_no) => Refusal::OrdersSpan { sku_id: sku_id.clone(), order_no },
            };
            if asked == Asked::Repair {
                // The shard has it half adopted, and it is not ours any more.
                tracing::error!(%sku_id, %refusal, "a SKU that was moving into a shard belongs to another server");
                add(&side.counters.fenced, 1);
                side.routes.lost(&sku_id);
            } else {
                side.routes.cold(&sku_id);
            }
            results.push((sku_id, Err(refusal)));
        }
        // All of them before any order: an order may lie on several.
        let begin = |adoption: &Adoption| {
            let Adoption { sku_id, epoch, stocks } = adoption;
            place(Place::Begin { sku_id: sku_id.clone(), epoch: *epoch, stocks: stocks.clone() })
        };
        self.place_all(shard, adoptions.iter().map(begin).collect()).await?;
        self.context.failpoint("promote.begun");
        let orders = self.adopt_orders(shard, &adoptions).await?;
        self.context.failpoint("promote.before_finish");
        let finish = |adoption: &Adoption| place(Place::Finish { sku_id: adoption.sku_id.clone() });
        self.place_all(shard, adoptions.iter().map(finish).collect()).await?;
        for Adoption { sku_id, epoch, stocks } in adoptions {
            // Its creation is the first change of a stock.
            let had_orders = stocks.iter().any(|stock| stock.levels.version > 1);
            side.routes.arrived(&sku_id, shard, epoch, self.context.clock.now(), had_orders);
            moving.retain(|moving| *moving != sku_id);
            let orders = orders.get(&sku_id).copied().unwrap_or(0);
            match asked {
                Asked::ByCaller => add(&side.counters.promotions_asked, 1),
                Asked::ByItself => add(&side.counters.promotions_auto, 1),
                Asked::Repair => add(&side.counters.moves_repaired, 1),
            }
            tracing::info!(%sku_id, %shard, epoch, orders, why = asked.name(), "the SKU is hot");
            results.push((sku_id, Ok(Moved { effect: Effect::Changed, shard: Some(shard), epoch, orders })));
        }
        self.context.failpoint("promote.finished");
        Ok(())
    }

    /// Has a shard adopt the orders and requests of SKUs; gives the number of orders by SKU.
    async fn adopt_orders(&self, shard: ShardId, adoptions: &[Adoption]) -> Result<HashMap<SkuId, u64>, Halt> {
        let mut counts = HashMap::new();
        let mut waiting = adoptions.iter().map(|adoption| adoption.sku_id.clone());
        let mut running = JoinSet::new();
        loop {
            while running.len() < MAX_ADOPTIONS_AT_ONCE
                && let Some(sku_id) = waiting.next()
            {
                let hub = self.arc();
                running.spawn(async move {
                    let orders = hub.adopt_orders_of(shard, &sku_id).await;
                    orders.map(|orders| (sku_id, orders))
                });
            }
            match running.join_next().await {
                None => return Ok(counts),
                Some(Ok(adopted)) => counts.extend([adopted?]),
                Some(Err(_)) => return Err(Halt::Shard(Refusal::ShardRestarted)),
            }
        }
    }

    async fn adopt_orders_of(&self, shard: ShardId, sku_id: &SkuId) -> Result<u64, Halt> {
        let side = self.side();
        let remembered = self.context.options.remember_seconds.saturating_mul(1000);
        let since = self.context.clock.now().minus_millis(remembered);
        let moving = Moving { sku_id: sku_id.clone(), server: side.server, shard, since };
        let mut count = 0;
        let mut page = side.noted(side.store.orders_of(&moving, None, MAX_ADOPTED_PER_EVENT).await).map_err(Halt::Store)?;
        while let Some(last) = page.last().map(|order| order.order_no.clone()) {
            count += page.len() as u64;
            let full = page.len() >= MAX_ADOPTED_PER_EVENT;
            let adopt = self.adopt_page(shard, sku_id, page);
            if !full {
                adopt.await?;
                break;
            }
            // The next page is read while this one is logged.
            let next = side.store.orders_of(&moving, Some(&last), MAX_ADOPTED_PER_EVENT);
            let (adopted, next) = tokio::join!(adopt, next);
            adopted?;
            self.context.failpoint("promote.orders");
            page = side.noted(next).map_err(Halt::Store)?;
        }
        let mut after: Option<RequestId> = None;
        loop {
            let page = side.store.requests_of(&moving, after.as_ref(), MAX_ADOPTED_PER_EVENT).await;
            let requests: Vec<RequestImage> = side.noted(page).map_err(Halt::Store)?;
            after = requests.last().map(|request| request.request_id.clone());
            let full = requests.len() >= MAX_ADOPTED_PER_EVENT;
            if !requests.is_empty() {
                self.adopt_part(shard, sku_id, Vec::new(), requests).await?;
            }
            if !full {
                self.context.failpoint("promote.orders");
                return Ok(count);
            }
        }
    }

    /// Adopts orders in parts that are not too large for one event.
    async fn adopt_page(&self, shard: ShardId, sku_id: &SkuId, page: Vec<OrderImage>) -> Result<(), Halt> {
        let mut part = Vec::new();
        let mut bytes = 0;
        // The store made branches of orders whose SKUs come apart, and their home with them. It has to be in its shard before anybody
        // finds the SKU hot, and its orders' numbers free.
        for branch in page.iter().filter_map(|order| order.order_no.branch()).filter(|branch| branch.attempt == SPLIT) {
            if !self.context.directory.spans(&branch.order_no) {
                self.adopt_home(&branch.order_no).await.map_err(Halt::Shard)?;
            }
        }
        for order in page {
            let weight = rough_bytes(2 + order.lines.len() + order.requests.len());
            if !part.is_empty() && bytes + weight > MAX_TURN_BYTES {
                self.adopt_part(shard, sku_id, std::mem::take(&mut part), Vec::new()).await?;
                bytes = 0;
            }
            bytes += weight;
            part.push(order);
        }
        self.adopt_part(shard, sku_id, part, Vec::new()).await
    }

    async fn adopt_part(
        &self,
        shard: ShardId,
        sku_id: &SkuId,
        orders: Vec<OrderImage>,
        requests: Vec<RequestImage>,
    ) -> Result<(), Halt> {
        let part = Place::Orders { sku_id: Some(sku_id.clone()), orders, requests };
        match self.ask(shard, place(part), How::Exact).await {
            // It is open already: an earlier try came to its end and nobody was told.
            Ok(_) | Err(Refusal::Moved(_)) => Ok(()),
            Err(refusal) => Err(Halt::Shard(refusal)),
        }
    }

    async fn place_all(&self, shard: ShardId, commands: Vec<Command>) -> Result<(), Halt> {
        let refused = |outcome: Outcome| match outcome {
            Ok(Answer::Placed) => None,
            Ok(_) => unreachable!("a step of a move is answered as such"),
            Err(refusal) => Some(refusal),
        };
        let refused = self.ask_all(shard, commands).await.into_iter().find_map(refused);
        refused.map_or(Ok(()), |refusal| Err(Halt::Shard(refusal)))
    }

    /// Begins the moves of SKUs (sorted, of one shard), waiting for other moves of them. Gives the results of those that need
    /// none, and those that are moving now.
    pub(super) async fn begin(&self, skus: Vec<SkuId>, stage: Stage, shard: ShardId, asked: Asked) -> (Results, Vec<SkuId>) {
        let side = self.side();
        let deadline = Instant::now() + Duration::from_secs(MAX_MOVE_SECONDS);
        let (mut results, mut moving) = (Vec::new(), Vec::new());
        for sku_id in skus {
            loop {
                match side.routes.begin(&sku_id, stage, shard, asked == Asked::ByItself) {
                    Begun::Started => moving.push(sku_id),
                    Begun::There { shard, epoch } => {
                        let there = Moved { effect: Effect::Replayed, shard, epoch, orders: 0 };
                        results.push((sku_id, Ok(there)));
                    }
                    Begun::Lost => {
                        let lost = Refusal::OwnedElsewhere { sku_id: sku_id.clone() };
                        results.push((sku_id, Err(lost)));
                    }
                    Begun::Busy(_) if side.is_down() => results.push((sku_id, Err(Refusal::StoreUnavailable))),
                    Begun::Busy(mut over) => {
                        if timeout_at(deadline, over.changed()).await.is_ok() {
                            continue;
                        }
                        results.push((sku_id, Err(side.late())));
                    }
                }
                break;
            }
        }
        (results, moving)
    }
}

pub(super) fn place(place: Place) -> Command {
    Action::Place(Box::new(place)).into()
}
