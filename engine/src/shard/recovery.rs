//! A shard's state from the newest checkpoint and the journal after it. Used at start, by the supervisor when a shard
//! panicked, and by `verify`. Also what must hold of several shards together.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::ids::{AttemptId, Lsn, OrderNo, ShardId, SkuId, WarehouseId};
use crate::contract::checkpoint::{CheckpointError, CheckpointStore, FilterManifest};
use crate::contract::hold::HoldPurpose;
use crate::contract::image::{HoldImage, OrderImage};
use crate::contract::journal::{JournalError, JournalReader};
use crate::machine::state::{Departed, State};

/// Events read at once.
const EVENTS_PER_READ: usize = 4_096;

/// See [`recover`].
#[derive(Debug)]
pub struct Recovered {
    /// The state at the end of the journal, audited by nobody yet.
    pub state: State,
    /// The event after which the replay began.
    pub checkpoint: Lsn,
    /// Events replayed.
    pub replayed: u64,
    /// What left memory during the replay: the filter of known numbers may have been saved before. What had left
    /// before the checkpoint was finished is in the filter.
    pub departed: Vec<Departed>,
    /// What the checkpoint says of the filter. `None`: there is none, and everything that ever left memory is in
    /// `departed`.
    pub known: Option<FilterManifest>,
}

/// A shard can't be read back.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The journal can't be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The checkpoint can't be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// What was read breaks an invariant of stock.
    #[error("shard {shard}: {problem}")]
    Inconsistent {
        /// Whose.
        shard: ShardId,
        /// What.
        problem: String,
    },
}

/// Reads a shard back.
///
/// # Errors
/// [`RecoveryError`], with the LSN where something does not fit.
pub fn recover(
    shard: ShardId,
    shards: u16,
    journal: &dyn JournalReader,
    checkpoints: &dyn CheckpointStore,
) -> Result<Recovered, RecoveryError> {
    let broken = |problem: String| RecoveryError::Inconsistent { shard, problem };
    let (mut state, mut known) = (State::new(shard, shards), None);
    if let Some(mut checkpoint) = checkpoints.newest(shard)? {
        let end = checkpoint.end();
        let end = planted!(
            "departed-forgotten",
            crate::contract::checkpoint::CheckpointEnd { departed: Lsn::ZERO, ..end },
            end
        );
        state = State::restoring(shard, shards, checkpoint.begin(), end);
        while let Some(slice) = checkpoint.next_slice()? {
            state.restore(slice).map_err(|corruption| broken(format!("the checkpoint: {corruption}")))?;
        }
        known = Some(checkpoint.known().clone());
    }
    let checkpoint = state.applied();
    loop {
        let events = journal.read(shard, state.applied().next(), EVENTS_PER_READ)?;
        if events.is_empty() {
            break;
        }
        for (lsn, event) in &events {
            state.apply(*lsn, event).map_err(|corruption| broken(corruption.to_string()))?;
        }
    }
    state.check_exact().map_err(|corruption| broken(corruption.to_string()))?;
    let last = journal.bounds(shard).last;
    if state.applied() != last {
        // Only a journal whose newest part is gone: checkpoints are finished after their events are durable.
        return Err(broken(format!(
            "the checkpoint goes to event {}, the journal to {last}",
            state.applied()
        )));
    }
    let departed = state.take_departed();
    // There are no views of these yet.
    drop(state.take_left());
    let replayed = state.applied().0 - checkpoint.0;
    Ok(Recovered { state, checkpoint, replayed, departed, known })
}

/// Recovers and audits: what the engine starts with.
///
/// # Errors
/// [`RecoveryError`]; the first broken invariant is named.
pub fn recover_audited(
    shard: ShardId,
    shards: u16,
    journal: &dyn JournalReader,
    checkpoints: &dyn CheckpointStore,
) -> Result<Recovered, RecoveryError> {
    let recovered = recover(shard, shards, journal, checkpoints)?;
    match recovered.state.audit().violations.first() {
        Some(violation) => Err(RecoveryError::Inconsistent { shard, problem: violation.to_string() }),
        None => Ok(recovered),
    }
}

/// Orders over several shards, beside what participants hold for them. See [`check_holds`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HoldsReport {
    /// Orders over several shards that one of the shards decides.
    pub orders: usize,
    /// What is held for such orders.
    pub holds: usize,
    /// Holds whose order does not know them: each is asked after at the next start, and released if it is known
    /// nowhere. A server that ended in the middle of a request leaves some.
    pub asking: Vec<OrderNo>,
    /// Orders whose participants may not have been told everything: they are after the start. They can't be compared.
    pub pending: usize,
    /// What does not hold; empty when all is well.
    pub violations: Vec<String>,
}

/// Compares orders with what all shards hold for them: when nothing is pending, participants hold exactly what the
/// order says.
#[must_use]
pub fn check_holds(states: &[State]) -> HoldsReport {
    let mut report = HoldsReport::default();
    let mut orders: BTreeMap<OrderNo, OrderImage> = BTreeMap::new();
    for (home, order) in states.iter().flat_map(|home| home.orders().map(move |order| (home, order))) {
        if order.span.is_some() {
            orders.insert(order.order_no.clone(), order);
        } else if let Some(line) = order.lines.iter().find(|line| !home.owns(&line.sku_id)) {
            let (order_no, sku_id) = (&order.order_no, &line.sku_id);
            report.violations.push(format!(
                "order {order_no}: SKU {sku_id} lies in another shard than the order, which knows of no hold there"
            ));
        }
    }
    let is_pending = |order: &OrderImage| order.span.as_ref().is_some_and(|span| !span.pending.is_empty());
    report.orders = orders.len();
    report.pending = orders.values().filter(|order| is_pending(order)).count();
    let mut held: BTreeMap<(OrderNo, SkuId, WarehouseId), u32> = BTreeMap::new();
    for hold in states.iter().flat_map(State::holds) {
        report.holds += 1;
        let decided_by = states.iter().find(|home| home.span_of(&hold.order_no).is_some());
        if let Some(home) = decided_by {
            report.violations.extend(misfit_of(&hold, home));
        }
        if !is_known(&orders, &hold, hold.attempt) {
            report.asking.push(hold.order_no);
            continue;
        }
        for line in hold.lines.into_iter().filter(|_| hold.purpose == HoldPurpose::Units) {
            let key = (hold.order_no.clone(), line.sku_id, line.warehouse_id);
            let units = held.entry(key).or_default();
            *units = units.saturating_add(line.units);
        }
    }
    let looked_at: BTreeSet<ShardId> = states.iter().map(State::shard).collect();
    for (order_no, order) in orders.iter().filter(|(_, order)| !is_pending(order)) {
        let home = states.iter().find(|state| state.knows_order(order_no));
        for line in &order.lines {
            let Some(home) = home.filter(|home| !home.owns(&line.sku_id)) else { continue };
            let key = (order_no.clone(), line.sku_id.clone(), line.warehouse_id);
            let units = held.get(&key).copied().unwrap_or(0);
            if units != line.held && looked_at.contains(&home.shard_of(&line.sku_id)) {
                let (sku_id, warehouse_id, must) = (&line.sku_id, line.warehouse_id, line.held);
                report.violations.push(format!(
                    "order {order_no}: {units} units of SKU {sku_id} in warehouse {warehouse_id} are held for it and \
                     {must} must be"
                ));
            }
        }
    }
    report.asking.sort();
    report.violations.sort();
    report
}

/// What a hold says that can't be, beside its units. `home`: of the shard that decides for its order.
fn misfit_of(hold: &HoldImage, home: &State) -> Option<String> {
    let HoldImage { order_no, coordinator, seq, .. } = hold;
    let decisions = home.span_of(order_no).map_or(0, |span| span.decisions);
    if *coordinator != home.shard() {
        let home = home.shard();
        return Some(format!(
            "order {order_no}: a hold says that shard {coordinator} decides for it, and {home} does"
        ));
    }
    (*seq > decisions).then(|| {
        format!("order {order_no}: a hold has carried out decision {seq}, and {decisions} were made")
    })
}

fn is_known(orders: &BTreeMap<OrderNo, OrderImage>, hold: &HoldImage, attempt: AttemptId) -> bool {
    let span = orders.get(&hold.order_no).and_then(|order| order.span.as_ref());
    span.is_some_and(|span| span.knows(attempt))
}
