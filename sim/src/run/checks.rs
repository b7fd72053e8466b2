//! What is looked at in a run: whether the server has what it told, and whether everything comes to an end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use hotstock_engine::command::Action;
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::OrderNo;
use hotstock_engine::outcome::{Answer, OrderView, Refusal};
use hotstock_engine::reconcile::Reconcile;
use hotstock_engine::status::Health;
use hotstock_engine::store::Store as _;
use tokio::time::sleep;

use super::{End, Run, SETTLED};
use crate::worlds::{How, Told, Violation, order_of, stocks, unversioned};

/// How often, and in what steps of simulated time, something is looked for that must come by itself.
const LOOKS: u32 = 300;
const PAUSE: Duration = Duration::from_millis(100);

impl Run<'_> {
    /// An order as it is read. `None`: it can't be read now.
    async fn read(
        &self,
        engine: &Engine,
        order_no: &OrderNo,
    ) -> Result<Option<Option<OrderView>>, Violation> {
        let asked = engine.submit(Action::GetOrder(order_no.clone()).into());
        let Some(outcome) = self.bounded("a read", asked).await? else { return Ok(None) };
        match outcome {
            Ok(Answer::Order { order, .. }) => Ok(Some(Some(order))),
            Err(Refusal::UnknownOrder { .. }) => Ok(Some(None)),
            Err(
                Refusal::StoreUnavailable
                | Refusal::Overloaded
                | Refusal::JournalUnavailable
                | Refusal::ShardRestarted
                | Refusal::Fenced { .. },
            ) => Ok(None),
            other => Err(format!("a read of {order_no} tells {other:?}")),
        }
    }

    /// Whether the process lives and can say what is so.
    pub(super) fn can_be_read(&self, engine: &Engine) -> bool {
        self.is_alive() && !matches!(engine.health(), Health::JournalPoisoned(_) | Health::ShardFailed(_))
    }

    /// The orders of these commands, as they are now.
    pub(super) async fn orders_of(
        &self,
        engine: &Engine,
        told: &[Told],
    ) -> Result<BTreeMap<OrderNo, Option<OrderView>>, Violation> {
        let mut seen = BTreeMap::new();
        for one in told {
            let Some(order_no) = order_of(&one.action) else { continue };
            let mut order = self.read(engine, order_no).await?;
            // Where an order lies whose warehouses were chosen, and nobody was told, only a look can show.
            let must_be_seen =
                one.answer.is_none() && matches!(&one.action, Action::Reserve(c) if c.choice.is_some());
            let mut looks = 0;
            while must_be_seen && order.is_none() && looks < LOOKS && self.can_be_read(engine) {
                self.mend_store();
                sleep(PAUSE).await;
                order = self.read(engine, order_no).await?;
                looks += 1;
            }
            // One that is due, and that no server has had the time to expire, says nothing of what came after that.
            let is_due = self.unseen.contains(order_no)
                && order
                    .as_ref()
                    .is_some_and(|order| order.as_ref().is_some_and(|order| order.expires_at.is_some()));
            if let Some(order) = order.filter(|_| !is_due) {
                seen.insert(order_no.clone(), order);
            }
        }
        Ok(seen)
    }

    /// Of commands whose outcome nobody knew when the process ended: they took effect or they did not. `false`: the
    /// process ended again.
    pub(super) async fn settle_doubtful(&mut self, engine: &Engine) -> Result<bool, Violation> {
        if self.doubtful.is_empty() {
            return Ok(true);
        }
        self.shaken = true;
        let told = std::mem::take(&mut self.doubtful);
        let seen = self.orders_of(engine, &told).await?;
        if !self.can_be_read(engine) {
            self.doubtful = told;
            return Ok(false);
        }
        let (now, lenient, in_order) = (self.doubtful_at, self.plan.setup.spanning, self.in_order);
        self.worlds.take(
            &told,
            &How {
                now,
                seen: &seen,
                seen_at: self.now(),
                lenient,
                spanning: self.plan.setup.spanning,
                in_order,
            },
        )?;
        self.expire(engine).await?;
        self.compare(engine).await?;
        Ok(self.is_alive())
    }

    /// What is due expires, and is seen to.
    pub(super) async fn expire(&mut self, engine: &Engine) -> Result<(), Violation> {
        loop {
            self.follow_time();
            let now = self.now();
            let due: BTreeSet<OrderNo> = self
                .worlds
                .iter()
                .flat_map(|world| world.due(now).map(|(order_no, _)| order_no.clone()))
                .collect();
            self.worlds.expire(now);
            self.unseen.extend(due);
            let Some(order_no) = self.unseen.pop_first() else { return Ok(()) };
            // Its units come back a moment after it was seen to have expired.
            self.units_on_their_way |= self.worlds.is_over_shards(&order_no);
            if !self.until_expired(engine, &order_no).await? {
                // The process ended; the next one is to expire it, and is waited for.
                self.unseen.insert(order_no);
                return Ok(());
            }
            // Others may have become due meanwhile.
        }
    }

    /// Waits until the server has expired an order. `false`: it is not able to any more.
    async fn until_expired(&mut self, engine: &Engine, order_no: &OrderNo) -> Result<bool, Violation> {
        let mut looks = 0;
        while self.is_alive() && engine.health() == Health::Ready {
            match self.read(engine, order_no).await? {
                Some(seen) if self.worlds.clone().see_order(order_no, seen.as_ref()).is_ok() => {
                    return Ok(true);
                }
                // What may be in the store alone can't be read while that is away.
                None if looks > 20 => return Ok(self.is_alive()),
                seen if looks == LOOKS => {
                    let expected = self.worlds.any().order_view(order_no);
                    return Err(format!(
                        "an order that is due is for ever\n    {seen:?}\n  and must be\n    {expected:?}"
                    ));
                }
                _ => {}
            }
            looks += 1;
            sleep(PAUSE).await;
            // It is looked for ten times a second.
            self.follow_time();
        }
        Ok(false)
    }

    /// Everything that can be read is as it may be; what a server tells its shards by itself comes a moment later.
    /// `false`: it can't be read now.
    pub(super) async fn compare(&mut self, engine: &Engine) -> Result<bool, Violation> {
        let mut looks = 0;
        loop {
            let (alive, ready) = (self.is_alive(), engine.health() == Health::Ready);
            if !alive || !ready {
                return Ok(false);
            }
            let misfits = engine.stats().cross_shard.misfits;
            if misfits > 0 {
                return Err(format!("{misfits} decisions could not be carried out by who holds the units"));
            }
            match self.look(engine).await {
                Ok(Some(())) => break,
                Ok(None) if looks > 30 => return Ok(false),
                Err(problem) if looks == LOOKS => return Err(problem),
                Ok(None) | Err(_) => {}
            }
            looks += 1;
            sleep(PAUSE).await;
            self.expire(engine).await?;
        }
        self.shaken = false;
        Ok(true)
    }

    /// One look at everything. `None`: some of it can't be read now.
    async fn look(&mut self, engine: &Engine) -> Result<Option<()>, Violation> {
        let mut worlds = self.worlds.clone();
        let orders: Vec<OrderNo> = worlds
            .iter()
            .flat_map(|world| world.orders.keys().cloned())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        for order_no in orders {
            let Some(seen) = self.read(engine, &order_no).await? else { return Ok(None) };
            if !self.is_alive() {
                return Ok(None);
            }
            let old = self.is_old(&worlds, &order_no);
            if !(old && seen.is_none()) {
                worlds.see_order(&order_no, seen.as_ref())?;
            }
        }
        let page = self.bounded("a page of stocks", engine.stock_page(None, 100)).await?;
        let Some(page) = page else { return Ok(None) };
        let page = match page {
            Ok(page) => page,
            Err(Refusal::StoreUnavailable | Refusal::Fenced { .. }) => return Ok(None),
            Err(other) => return Err(format!("a page of stocks: {other}")),
        };
        let seen: Vec<_> = page.into_iter().flatten().map(unversioned).collect();
        worlds.see_stocks(&seen)?;
        self.trace.note(format_args!("{seen:?}"));
        self.worlds = worlds;
        Ok(Some(()))
    }

    /// Whether an order may have been pruned.
    fn is_old(&self, worlds: &crate::worlds::Worlds, order_no: &OrderNo) -> bool {
        let keep = self.plan.setup.keep_days.saturating_sub(1) * 86_400_000;
        let order = worlds.any().orders.get(order_no);
        keep > 0 && order.is_some_and(|order| !order.is_open() && order.changed_at.0 + keep < self.now().0)
    }

    /// After a bit had flipped: what is told is right, or it is told that it can't be.
    pub(super) async fn compare_what_can_be_read(&mut self, engine: &Engine) -> Result<(), Violation> {
        let orders: Vec<OrderNo> = self.worlds.any().orders.keys().cloned().collect();
        for order_no in orders {
            if let Ok(Some(seen)) = self.read(engine, &order_no).await
                && !self.is_old(&self.worlds, &order_no)
            {
                self.worlds.clone().see_order(&order_no, seen.as_ref())?;
            }
        }
        Ok(())
    }

    /// No order is open any more: nothing is held for one, nor kept ready for what is given back.
    async fn see_no_holds(&self) -> Result<(), Violation> {
        let store = self.store.session();
        let mut looks = 0;
        loop {
            let holds = store.holds(None, 9).await.map_err(|error| error.to_string())?;
            if holds.is_empty() {
                return Ok(());
            }
            if looks == LOOKS {
                return Err(format!("with all orders over, these are left: {holds:?}"));
            }
            looks += 1;
            sleep(PAUSE).await;
        }
    }

    /// The mirror shows what there is, a moment later.
    async fn compare_mirror(&self, engine: &Engine) -> Result<(), Violation> {
        let mut looks = 0;
        while self.mirror.is_some() {
            let page = self.bounded("a page of stocks", engine.stock_page(None, 100)).await?;
            let Some(Ok(page)) = page else { return Ok(()) };
            let (there, seen) = (page.into_iter().flatten().collect::<Vec<_>>(), self.redis.stocks());
            if there == seen {
                break;
            }
            if looks == LOOKS {
                return Err(format!("the mirror shows {seen:?}\n  and there are {there:?}"));
            }
            looks += 1;
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// The faults are over: everything is answered, nothing is held past its time, the store has it all.
    pub(super) async fn finish(&mut self, engine: &Engine) -> Result<End, Violation> {
        self.disk.mend();
        self.mend_store();
        self.redis.mend();
        self.slow_disk.store(0, Ordering::SeqCst);
        self.stall.store(0, Ordering::SeqCst);
        self.step.store(usize::MAX, Ordering::SeqCst);
        self.panic_next.store(0, Ordering::SeqCst);
        if engine.health() != Health::Ready && !self.mend(engine).await? {
            return self.stop(engine).await;
        }
        sleep(SETTLED).await;
        self.follow_time();
        // A store that went back in time is found out by now, and is given again what it lost.
        self.clock.go_on(self.clock.millis() + 700_000_000);
        self.before.fetch_add(700_000_000, Ordering::SeqCst);
        sleep(PAUSE * 5).await;
        self.follow_time();
        self.expire(engine).await?;
        if !self.compare(engine).await? {
            if !self.is_alive() {
                return Ok(End::Crash);
            }
            return Err(format!("with all faults over, not everything can be read: {:?}", engine.health()));
        }
        let held = self.worlds.any().orders.values().filter(|order| order.is_open()).count();
        if held > 0 {
            return Err(format!("{held} orders hold units, although their time is over"));
        }
        let mut looks = 0;
        loop {
            let stats = engine.stats();
            if stats.shards.iter().all(|shard| shard.applied == shard.durable && shard.lag_events == 0) {
                break;
            }
            if looks == LOOKS {
                return Err(format!("the flush never ends: {:?}", stats.store.problem));
            }
            looks += 1;
            sleep(PAUSE).await;
        }
        self.see_no_holds().await?;
        // Of what the disk did to checkpoints nothing is left by now.
        let failures = |engine: &Engine| {
            engine.stats().shards.iter().map(|shard| shard.checkpoint_failures).sum::<u64>()
        };
        let (before, asked) = (failures(engine), engine.stats().shards);
        engine.checkpoint_now();
        sleep(SETTLED).await;
        if failures(engine) > before {
            return Err("with all faults over, no checkpoint can be written".into());
        }
        for (shard, asked) in engine.stats().shards.iter().zip(asked) {
            if shard.checkpoint < asked.applied {
                let (checkpoint, applied) = (shard.checkpoint, asked.applied);
                return Err(format!(
                    "a checkpoint was asked for at {applied}, and the last is of {checkpoint}"
                ));
            }
        }
        self.compare_mirror(engine).await?;
        let reconciled = engine.reconcile(Reconcile { limit: 1_000, ..Reconcile::default() });
        let Some(reconciled) = self.bounded("reconcile", reconciled).await? else { return Ok(End::Crash) };
        match reconciled {
            Ok(found) if found.differences.is_empty() => {}
            Ok(found) => return Err(format!("reconcile finds {:#?}", found.differences)),
            Err(refusal) => return Err(format!("reconcile: {refusal}")),
        }
        self.bounded("stop", engine.stop()).await?;
        let store = self.store.session();
        let rows = store.stock_page(None, 100).await.map_err(|error| error.to_string())?.rows;
        let rows: Vec<_> = rows.into_iter().flatten().map(unversioned).collect();
        if rows != stocks(self.worlds.any()) {
            return Err(format!(
                "the store ends with {rows:?}, and must have {:?}",
                stocks(self.worlds.any())
            ));
        }
        let (count, some) = store.anomalies(9).await.map_err(|error| error.to_string())?;
        if count > 0 {
            return Err(format!("the store has anomalies: {some:#?}"));
        }
        self.trace.note(format_args!("{rows:?} {}", self.disk.operations()));
        Ok(End::Over)
    }
}
