//! Several shards and what their coordinators say to each other, one step after the other: what is held, decided and
//! acknowledged can be flushed at any moment between.

use std::sync::Arc;

use super::shard::{TestShard, lines, order, sku};
use crate::base::ids::{AttemptId, Epoch, OrderNo, ShardId, SkuId, WarehouseId, shard_of};
use crate::contract::command::{Action, Line, Lines, Mode, Reserve};
use crate::contract::event::{Change, ReservedLine};
use crate::contract::hold::HoldPurpose;
use crate::contract::image::{Decision as Decided, LineSerials};
use crate::contract::outcome::{Outcome, Refusal};
use crate::contract::store::{FlushBatch, Flushed, Store};
use crate::machine::inner::InnerCommand;
use crate::machine::message::{HoldRequest, Instruction};
use crate::machine::state::{Decision, Elsewhere};

/// What a participant answers.
pub(super) struct Told {
    seq: u32,
    attempt: AttemptId,
    shard: ShardId,
    serials: Vec<LineSerials>,
}

/// The shards of a server; a SKU lies where it does in a server.
pub struct Shards {
    /// By number.
    pub all: Vec<TestShard>,
    /// The last attempt.
    attempts: u64,
}

impl Shards {
    /// All empty, in epoch 1.
    #[must_use]
    pub fn new(shards: u16) -> Self {
        let mut all: Vec<_> = (0..shards).map(|number| TestShard::of(number, shards)).collect();
        let logged = Arc::default();
        all.iter_mut().for_each(|shard| shard.logged = Arc::clone(&logged));
        Self { all, attempts: 0 }
    }

    /// Names that begin with this one, `count` of each shard in its order.
    #[must_use]
    pub fn names(&self, name: &str, count: usize) -> Vec<Vec<String>> {
        let mut names = vec![Vec::new(); self.all.len()];
        for n in 0.. {
            let name = format!("{name}-{n}");
            let of_shard = &mut names[self.place(&sku(&name))];
            if of_shard.len() < count {
                of_shard.push(name);
            }
            if names.iter().all(|of_shard| of_shard.len() == count) {
                break;
            }
        }
        names
    }

    fn place(&self, sku_id: &SkuId) -> usize {
        shard_of(sku_id, u16::try_from(self.all.len()).expect("they are few")).index()
    }

    /// Has a shard hold what it has of an order, which it decides, and the others hold the rest for it. When one
    /// refuses, what was held is let go.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn reserve(
        &mut self,
        store: &dyn Store,
        at: usize,
        number: &str,
        of: &[(&str, u32)],
    ) -> Outcome {
        let mode = Mode::AllOrNothing;
        let reserve = Reserve {
            order_no: order(number),
            lines: lines(of),
            ttl_seconds: 600,
            buyer_id: None,
            mode,
            choice: None,
        };
        let command = InnerCommand::from(Action::Reserve(reserve.clone()));
        self.all[at].load_for(store, &command).await;
        self.all[at].now = self.all[at].now.plus_millis(1);
        match self.all[at].state.decide(&command, self.all[at].now) {
            Decision::Answer(outcome) => return outcome,
            Decision::Log(event) => return Ok(self.all[at].carry_out(event)),
            Decision::HoldFirst(_) => {}
        }
        let wanted: Vec<Line> = reserve.lines.as_slice().to_vec();
        let (attempt, mut got) = self.hold(store, at, &reserve.order_no, &wanted, HoldPurpose::Units).await?;
        let own = Lines::some_of(wanted.iter().filter(|line| self.place(&line.sku_id) == at).cloned());
        let coordinator = &mut self.all[at];
        match coordinator.state.hold_lines(&Reserve { lines: own, ..reserve.clone() }) {
            Ok(own) => got.extend(own),
            Err(refusal) => {
                self.abandon(&reserve.order_no, attempt);
                return Err(refusal);
            }
        }
        let coordinator = &mut self.all[at];
        let lines = wanted.iter().map(|wanted| {
            let line = got.iter().find(|line| line.sku_id == wanted.sku_id);
            line.expect("each was held").clone()
        });
        let change = coordinator.state.decide_reserved(&reserve, attempt, lines.collect());
        let event = coordinator.state.event(change, coordinator.now);
        Ok(coordinator.carry_out(event))
    }

    /// Has the other shards hold units of these lines, those that have some. What they got.
    async fn hold(
        &mut self,
        store: &dyn Store,
        at: usize,
        order_no: &OrderNo,
        wanted: &[Line],
        purpose: HoldPurpose,
    ) -> Result<(AttemptId, Vec<ReservedLine>), Refusal> {
        self.attempts += 1;
        // They come in any order.
        let attempt = AttemptId(self.attempts.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut got = Vec::new();
        for place in (0..self.all.len()).filter(|place| *place != at) {
            let of_shard = wanted.iter().filter(|line| self.place(&line.sku_id) == place).cloned();
            let of_shard: Vec<Line> = of_shard.collect();
            if of_shard.is_empty() {
                continue;
            }
            let reserve = Reserve {
                order_no: order_no.clone(),
                lines: Lines::some_of(of_shard),
                ttl_seconds: 600,
                buyer_id: None,
                mode: Mode::AllOrNothing,
                choice: None,
            };
            let participant = &mut self.all[place];
            participant.now = participant.now.plus_millis(1);
            participant.load_for(store, &Action::Reserve(reserve.clone()).into()).await;
            let coordinator = ShardId(u16::try_from(at).expect("they are few"));
            let request = HoldRequest { reserve, attempt, coordinator, purpose, known: Vec::new() };
            match participant.state.decide_hold(&request) {
                Ok((change, lines)) => {
                    participant.log(change);
                    got.extend(lines);
                }
                Err(refusal) => {
                    self.abandon(order_no, attempt);
                    return Err(refusal);
                }
            }
        }
        Ok((attempt, got))
    }

    /// An attempt came to nothing.
    fn abandon(&mut self, order_no: &OrderNo, attempt: AttemptId) {
        for participant in &mut self.all {
            if let Some(change) = participant.state.decide_abandoned(order_no, attempt) {
                participant.log(change);
            }
        }
    }

    /// Has the others hold units for an order of a shard, which is not made; the attempt.
    ///
    /// # Errors
    /// Why one of them refuses.
    pub async fn hold_only(
        &mut self,
        store: &dyn Store,
        at: usize,
        number: &str,
        of: &[(&str, u32)],
    ) -> Result<AttemptId, Refusal> {
        let wanted: Vec<Line> = lines(of).as_slice().to_vec();
        let held = self.hold(store, at, &order(number), &wanted, HoldPurpose::Units).await;
        held.map(|(attempt, _)| attempt)
    }

    /// Lets go of that.
    pub fn let_go(&mut self, number: &str, attempt: AttemptId) {
        self.abandon(&order(number), attempt);
    }

    /// Has a shard carry out a command about an order that it decides, and the others hold what that needs.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn act(&mut self, store: &dyn Store, at: usize, action: impl Into<InnerCommand>) -> Outcome {
        let command = action.into();
        let coordinator = &mut self.all[at];
        coordinator.now = coordinator.now.plus_millis(1);
        coordinator.load_for(store, &command).await;
        let first = match coordinator.state.decide(&command, coordinator.now) {
            Decision::Answer(outcome) => return outcome,
            Decision::Log(event) => return Ok(coordinator.carry_out(event)),
            Decision::HoldFirst(first) => first,
        };
        let order_no = command.order_no().expect("it is about an order").clone();
        let (attempt, _) = self.hold(store, at, &order_no, &first.lines, first.purpose).await?;
        let lines = first.lines.into_iter().filter(|line| self.place(&line.sku_id) != at).collect();
        let elsewhere = Elsewhere { attempt, lines };
        let coordinator = &mut self.all[at];
        match coordinator.state.decide_with(&command, Some(&elsewhere), coordinator.now) {
            Decision::Log(event) => Ok(coordinator.carry_out(event)),
            Decision::Answer(outcome) => {
                self.abandon(&order_no, attempt);
                outcome
            }
            Decision::HoldFirst(first) => panic!("it is held already: {first:?}"),
        }
    }

    /// Tells the participants of an order that a shard decides what is pending, and that shard that they know; of at
    /// most so many steps.
    pub fn tell(&mut self, at: usize, number: &str, steps: usize) {
        let order_no = order(number);
        for _ in 0..steps {
            let Some(Told { seq, attempt, shard, serials }) = self.instruct(at, number) else { return };
            let coordinator = &mut self.all[at];
            if let Some(order) = coordinator.state.acknowledge(&order_no, &[(seq, shard)], serials) {
                coordinator.log(Change::Acknowledged { orders: vec![order] });
            }
            let participant = &mut self.all[shard.index()];
            if let Some(change) = participant.state.decide_heard(&order_no, attempt, seq) {
                participant.log(change);
            }
        }
    }

    /// Has one participant carry out what is pending, whose answer is lost unless it is taken.
    ///
    /// # Panics
    /// When it can't.
    pub(super) fn instruct(&mut self, at: usize, number: &str) -> Option<Told> {
        let order_no = order(number);
        let span = self.all[at].state.span_of(&order_no)?;
        let Decided { seq, attempt, kind, reason, lines, waiting } = span.pending.first()?.clone();
        let places: Vec<(SkuId, WarehouseId, ShardId)> = self.all[at].state.places_of_lines(&order_no);
        let shard = waiting[0];
        let of_shard = lines.iter().filter_map(|(line, quantity)| {
            let (sku_id, warehouse_id, of) = &places[usize::from(*line)];
            let (sku_id, warehouse_id, quantity) = (sku_id.clone(), *warehouse_id, *quantity);
            (*of == shard).then_some(Line { sku_id, warehouse_id, quantity })
        });
        let lines = of_shard.collect();
        let instruction = Instruction { order_no: order_no.clone(), attempt, seq, kind, reason, lines };
        let participant = &mut self.all[shard.index()];
        match participant.state.decide_instructed(&instruction) {
            Ok(Some(change)) => participant.log(change),
            Ok(None) => {}
            Err(problem) => panic!("{problem}"),
        }
        let given = participant.state.serials_of_hold(&order_no, attempt).into_iter();
        let serials = given.map(|(sku_id, warehouse_id, serials)| {
            let line = places.iter().position(|(sku, at, _)| *sku == sku_id && *at == warehouse_id);
            let line = u16::try_from(line.expect("it is one of its lines")).expect("they are few");
            LineSerials { line, serials }
        });
        Some(Told { seq, attempt, shard, serials: serials.collect() })
    }

    /// The next `max` events of all shards, in the order in which they were logged.
    #[must_use]
    pub fn batch(&self, max: usize) -> FlushBatch<'_> {
        let mut counts = vec![0; self.all.len()];
        let next = |counts: &[usize]| {
            let next = |place: &usize| self.all[*place].order.get(counts[*place]);
            (0..counts.len()).filter(|place| next(place).is_some()).min_by_key(|place| next(place))
        };
        for _ in 0..max {
            let Some(place) = next(&counts) else { break };
            counts[place] += 1;
        }
        let parts = self.all.iter().zip(counts).map(|(shard, count)| shard.part(count)).collect();
        FlushBatch { epoch: Epoch(1), parts }
    }

    /// Whether everything is flushed.
    #[must_use]
    pub fn are_flushed(&self) -> bool {
        self.all.iter().all(|shard| shard.events.is_empty())
    }

    /// Flushes the next `max` events of all shards together.
    ///
    /// # Panics
    /// When the store does not take them.
    pub async fn flush(&mut self, store: &dyn Store, max: usize) -> Flushed {
        let flushed = store.flush(self.batch(max)).await.expect("it flushes");
        for shard in &mut self.all {
            shard.move_to(flushed.flushed(shard.shard));
        }
        flushed
    }

    /// Flushes everything, each shard in one batch. Anomalies.
    pub async fn flush_all(&mut self, store: &dyn Store) -> u64 {
        let mut anomalies = 0;
        for shard in &mut self.all {
            anomalies += shard.flush_all(store).await.anomalies;
        }
        anomalies
    }
}
