//! A request of reconcile: a page of rows and what is in memory beside it, SKU by SKU, then the mirror.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::compare::{Known, Sku};
use super::live::Live;
use super::mirror::{self, Problem, key_of};
use super::report::{Check, Difference, GoOn, Reconcile, Reconciled, Remedy, Repair, Side};
use super::truth::truths;
use super::walk::{Suspect, Walk};
use crate::base::ids::{SkuId, WarehouseId};
use crate::base::limits::{
    MAX_PAGE_ROWS, MAX_RECONCILE_CAUSES, MAX_RECONCILE_KEPT, MAX_RECONCILE_PIECES, RECONCILE_ANOMALIES,
    RECONCILE_KEEP_SECONDS, RECONCILE_MILLIS, RECONCILE_TRIES,
};
use crate::base::sync::unpoisoned;
use crate::contract::outcome::Refusal;
use crate::contract::store::{self, Anomaly, StoreError};
use crate::services::store_link::{StoreLink, refusal_of};

/// Reconcile, with the walks that a request could not finish.
#[derive(Debug, Default)]
pub(crate) struct Reconciler {
    unfinished: Mutex<HashMap<SkuId, Unfinished>>,
}

/// The walks of a SKU, some at their end.
#[derive(Debug)]
struct Unfinished {
    walks: Walks,
    kept_at: Instant,
}

/// Each with whether it is at its end.
type Walks = BTreeMap<WarehouseId, (Walk, bool)>;

/// One request.
struct Request<'a> {
    live: &'a dyn Live,
    link: &'a StoreLink,
    deadline: Instant,
    /// The newest, read when they are first needed.
    anomalies: Option<Vec<Anomaly>>,
}

impl Reconciler {
    /// Compares SKUs until the page or the time is over; see the top of the folder.
    ///
    /// # Errors
    /// [`Refusal`] when the store can't be read or a shard not be asked; what was put right until then stays so.
    pub async fn run(
        &self,
        live: &dyn Live,
        link: &StoreLink,
        ask: &Reconcile,
    ) -> Result<Reconciled, Refusal> {
        let deadline = Instant::now() + Duration::from_millis(RECONCILE_MILLIS);
        let mut request = Request { live, link, deadline, anomalies: None };
        let (skus, has_next) = request.page(ask.after.as_ref(), ask.limit.clamp(1, MAX_PAGE_ROWS)).await?;
        let is_resident = |sku: &Sku| !matches!(sku.known, Known::Stored);
        let in_memory = skus.iter().filter(|(_, sku)| is_resident(sku));
        let residents: BTreeSet<SkuId> = in_memory.map(|(sku_id, _)| sku_id.clone()).collect();
        let (mut done, mut last) = (Reconciled::default(), ask.after.clone());
        let (mut told, mut left) = (Vec::new(), skus.len());
        for (sku_id, mut sku) in skus {
            if matches!(sku.known, Known::Far) {
                done.unsettled.push(sku_id.clone());
            }
            let walks = unpoisoned(self.unfinished.lock()).remove(&sku_id).map(|kept| kept.walks);
            match request.walk(&sku_id, &sku, walks.unwrap_or_default()).await? {
                Ok(walks) => sku.walks = walks,
                Err(walks) => {
                    self.keep(sku_id, walks);
                    break;
                }
            }
            let mut found = sku.differences(&sku_id);
            request.find_causes(&mut found).await?;
            let repaired = if ask.fix { request.repair(&sku_id, &mut found).await? } else { Vec::new() };
            // What a wrong row says is not what the mirror should show.
            let is_wrong =
                found.iter().any(|difference| difference.check == Check::Row) && repaired.is_empty();
            if ask.mirror.is_some() && !is_wrong {
                told.extend(live.stock(&sku_id).await?.into_iter().map(|stock| (key_of(&stock), stock)));
            }
            done.differences.append(&mut found);
            done.repaired.extend(repaired);
            done.skus += 1;
            left -= 1;
            last = Some(sku_id);
            if Instant::now() >= deadline {
                break;
            }
        }
        done.next = (left > 0 || has_next).then_some(GoOn { after: last });
        if let Some(mirror) = &ask.mirror {
            match mirror::compare(live, mirror.as_ref(), told.into_iter().collect(), ask.fix).await {
                Ok(mut found) => {
                    let of_shard =
                        found.iter_mut().filter(|difference| residents.contains(&difference.sku_id));
                    of_shard.for_each(|difference| difference.expected.0 = Side::Shard);
                    take_mirror(&mut done, found, ask.fix);
                }
                Err(Problem::Mirror(error)) => done.mirror_error = Some(error.to_string()),
                Err(Problem::Engine(refusal)) => return Err(refusal),
            }
        }
        log(&done);
        Ok(done)
    }

    /// Keeps the walks of a SKU for the next request.
    fn keep(&self, sku_id: SkuId, walks: Walks) {
        let mut kept = unpoisoned(self.unfinished.lock());
        let now = Instant::now();
        kept.retain(|_, other| {
            now.duration_since(other.kept_at) < Duration::from_secs(RECONCILE_KEEP_SECONDS)
        });
        if kept.len() < MAX_RECONCILE_KEPT {
            kept.insert(sku_id, Unfinished { walks, kept_at: now });
        }
    }
}

impl Request<'_> {
    /// Up to `limit` SKUs: their rows, and what is in memory of them at the watermarks with which the rows were read.
    /// And whether there are more after them.
    async fn page(
        &self,
        after: Option<&SkuId>,
        limit: usize,
    ) -> Result<(BTreeMap<SkuId, Sku>, bool), Refusal> {
        // Memory first: what leaves it between the two reads is in the store, and what comes into it was there.
        let residents = self.live.residents(after, limit);
        let read = self.link.noted(self.link.store().books(after, limit).await).map_err(refusal_of)?;
        let mut skus: BTreeMap<SkuId, Sku> = BTreeMap::new();
        for stock in read.rows.stocks {
            let sku = skus.entry(stock.row.sku_id.clone()).or_default();
            sku.books.insert(stock.row.warehouse_id, stock);
        }
        for (sku_id, warehouse_id) in read.rows.without_row {
            skus.entry(sku_id).or_default().without_row.insert(warehouse_id);
        }
        // What is in memory and has no row yet, or no more. A list that is as long as it may be ends the page.
        let rows_end = if skus.len() >= limit { skus.keys().last().cloned() } else { None };
        let residents_end = if residents.len() >= limit { residents.last().cloned() } else { None };
        for sku_id in residents {
            skus.entry(sku_id).or_default();
        }
        let end = [rows_end, residents_end].into_iter().flatten().min();
        if let Some(end) = &end {
            skus.retain(|sku_id, _| sku_id <= end);
        }
        let names: Vec<SkuId> = skus.keys().cloned().collect();
        for (sku_id, stocks) in truths(self.live, &names, &read.watermarks).await? {
            skus.entry(sku_id).or_default().known = stocks.map_or(Known::Far, Known::Resident);
        }
        Ok((skus, end.is_some()))
    }

    /// Counts the journal and the orders of each stock. `Err`: the time is over; there is where to go on.
    async fn walk(
        &self,
        sku_id: &SkuId,
        sku: &Sku,
        mut walks: Walks,
    ) -> Result<Result<BTreeMap<WarehouseId, Walk>, Walks>, Refusal> {
        for warehouse_id in sku.warehouses() {
            let (walk, is_done) = walks.entry(warehouse_id).or_default();
            while !*is_done {
                *is_done = self.step(walk, sku_id, warehouse_id).await?;
                if !*is_done && Instant::now() >= self.deadline {
                    return Ok(Err(walks));
                }
            }
        }
        Ok(Ok(walks.into_iter().map(|(warehouse_id, (walk, _))| (warehouse_id, walk)).collect()))
    }

    async fn step(
        &self,
        walk: &mut Walk,
        sku_id: &SkuId,
        warehouse_id: WarehouseId,
    ) -> Result<bool, Refusal> {
        self.link.noted(walk.step(self.link.store(), sku_id, warehouse_id).await).map_err(refusal_of)
    }

    /// Names the orders and the anomalies behind differences, within a bound.
    async fn find_causes(&mut self, found: &mut [Difference]) -> Result<(), Refusal> {
        for difference in found {
            if matches!(difference.check, Check::Held | Check::Sold) {
                let causes = self.suspects(difference).await?;
                difference.causes.extend(causes);
            }
            let about = |anomaly: &&Anomaly| anomaly.sku_id.as_ref() == Some(&difference.sku_id);
            let known = self.anomalies().await?.iter().filter(about).take(MAX_RECONCILE_CAUSES);
            let words = |anomaly: &Anomaly| {
                format!("anomaly {} at {}: {}", anomaly.kind, anomaly.at.0, anomaly.detail)
            };
            difference.causes.extend(known.map(words));
        }
        Ok(())
    }

    async fn anomalies(&mut self) -> Result<&[Anomaly], Refusal> {
        if self.anomalies.is_none() {
            let (_, newest) = self
                .link
                .noted(self.link.store().anomalies(RECONCILE_ANOMALIES).await)
                .map_err(refusal_of)?;
            self.anomalies = Some(newest);
        }
        Ok(self.anomalies.as_deref().unwrap_or_default())
    }

    /// The orders whose lines are not as the journal says.
    async fn suspects(&self, difference: &Difference) -> Result<Vec<String>, Refusal> {
        let mut walk = Walk::for_suspects();
        let mut is_done = false;
        for _ in 0..MAX_RECONCILE_PIECES {
            if !is_done {
                is_done = self.step(&mut walk, &difference.sku_id, difference.warehouse_id).await?;
            }
        }
        if !is_done {
            return Ok(vec!["its history is too long to look for the orders in it".to_owned()]);
        }
        let place = usize::from(difference.check == Check::Sold);
        let differs = |suspect: &Suspect| suspect.line.unwrap_or_default()[place] != suspect.journal[place];
        let suspects = walk.suspects().into_iter().filter(differs).take(MAX_RECONCILE_CAUSES);
        let (has, units) = [("holds", "held"), ("has sold", "confirmed less returned")][place];
        let words = |Suspect { order_no, line, journal }: Suspect| {
            let journal = journal[place];
            match line {
                Some(line) => format!(
                    "order {order_no} {has} {} units in its line and {journal} by the journal: its line (of an order of another shard, its row of \
                     `holds`) has to be set by hand to {units} = {journal}",
                    line[place]
                ),
                None => format!(
                    "order {order_no} {has} {journal} units by the journal and has no line: it has to be added by hand"
                ),
            }
        };
        Ok(suspects.map(words).collect())
    }

    /// Writes the rows of a SKU, if one of its differences says that they can be. What was put right.
    async fn repair(&self, sku_id: &SkuId, found: &mut [Difference]) -> Result<Vec<Repair>, Refusal> {
        let can = |difference: &Difference| {
            matches!(difference.remedy, Remedy::RowFromShard | Remedy::RowFromJournal)
        };
        if !found.iter().any(can) {
            return Ok(Vec::new());
        }
        for _ in 0..RECONCILE_TRIES {
            // What it is now: orders have gone on since it was compared.
            let store = self.link.store();
            let marks = self.link.noted_whole(store.ownership().await).map_err(refusal_of)?.watermarks;
            let truth =
                truths(self.live, std::slice::from_ref(sku_id), &marks).await?.remove(sku_id).flatten();
            let images = truth.map(|stocks| {
                stocks.into_iter().filter(|stock| !stock.is_new).map(|stock| stock.image).collect()
            });
            let repair = store::Repair {
                epoch: self.live.epoch(),
                sku_id: sku_id.clone(),
                stocks: images,
                at: self.live.now(),
            };
            match self.link.noted(store.repair(&repair).await) {
                Ok(repaired) if repaired.is_empty() => continue,
                Ok(_) => {}
                // Of this SKU; the others are put right.
                Err(StoreError::Inconsistent(problem)) => {
                    for difference in found.iter_mut().filter(|difference| can(difference)) {
                        difference.causes.push(format!("it can't be put right: {problem}"));
                    }
                    return Ok(Vec::new());
                }
                Err(error) => return Err(refusal_of(error)),
            }
            self.live.repaired(sku_id);
            let of = |difference: &Difference| Repair {
                sku_id: sku_id.clone(),
                warehouse_id: difference.warehouse_id,
                side: Side::Row,
                before: difference.found.1.clone(),
                after: difference.expected.1.clone(),
            };
            return Ok(found.iter().filter(|difference| can(difference)).map(of).collect());
        }
        for difference in found.iter_mut().filter(|difference| can(difference)) {
            difference
                .causes
                .push("not put right now, because the store went on each time: ask again".to_owned());
        }
        Ok(Vec::new())
    }
}

fn take_mirror(done: &mut Reconciled, found: Vec<Difference>, is_fixed: bool) {
    if is_fixed {
        done.repaired.extend(found.iter().map(|difference| Repair {
            sku_id: difference.sku_id.clone(),
            warehouse_id: difference.warehouse_id,
            side: Side::Mirror,
            before: difference.found.1.clone(),
            after: difference.expected.1.clone(),
        }));
    }
    done.differences.extend(found);
    done.differences.sort_by(|one, other| {
        let key =
            |difference: &Difference| (difference.sku_id.clone(), difference.warehouse_id, difference.check);
        key(one).cmp(&key(other))
    });
}

fn log(done: &Reconciled) {
    for difference in &done.differences {
        let Difference { sku_id, warehouse_id, check, expected, found, causes, .. } = difference;
        let (expected, found) = ((expected.0.name(), &expected.1), (found.0.name(), &found.1));
        tracing::warn!(?sku_id, %warehouse_id, check = check.name(), ?expected, ?found, ?causes, "reconcile: a difference");
    }
    for Repair { sku_id, warehouse_id, side, before, after } in &done.repaired {
        tracing::warn!(?sku_id, %warehouse_id, side = side.name(), before, after, "reconcile: put right");
    }
}
