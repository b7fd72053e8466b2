//! A shard's state from the newest checkpoint and the journal after it. Used at start, by the supervisor when a shard
//! panicked, and by `verify`. Also what must hold of several shards together.

use std::collections::{HashMap, HashSet};

use crate::checkpoint::{CheckpointError, CheckpointStore, FilterManifest, LineImage, OrderImage};
use crate::home::HomeImage;
use crate::ids::{Branch, Lsn, OrderNo, ShardId};
use crate::journal::{JournalError, JournalReader};
use crate::state::{Departed, State};

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
            crate::checkpoint::CheckpointEnd { departed: Lsn::ZERO, ..end },
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

/// Orders over several places, beside what of them lies in shards. See [`check_homes`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HomesReport {
    /// Orders whose home is in one of the shards.
    pub homes: usize,
    /// Their branches, and others, that lie in the shards.
    pub branches: usize,
    /// Branches that hold units and whose home is not here or does not know them: each asks, and is released if it is
    /// known nowhere. A server that ended in the middle of a request leaves some.
    pub asking: Vec<OrderNo>,
    /// Orders whose branches may not have been told everything: they are after the start. They can't be compared.
    pub pending: usize,
    /// What does not hold; empty when all is well.
    pub violations: Vec<String>,
}

/// Compares homes with the branches of all shards: when nothing is pending, a branch has exactly the units that its
/// home says. One that holds units is in memory; others may have left it.
#[must_use]
pub fn check_homes(states: &[State]) -> HomesReport {
    let homes: HashMap<&OrderNo, &HomeImage> =
        states.iter().flat_map(State::homes).map(|home| (&home.order.order_no, home)).collect();
    let pending = homes.values().filter(|home| !home.pending.is_empty()).count();
    let mut report = HomesReport { homes: homes.len(), pending, ..HomesReport::default() };
    let mut here: HashSet<OrderNo> = HashSet::new();
    for order in states.iter().flat_map(State::branches) {
        report.branches += 1;
        let Some(branch) = order.order_no.branch() else { continue };
        match homes.get(&branch.order_no).filter(|home| home.knows_attempt(branch.attempt)) {
            None if order.lines.iter().any(|line| line.held > 0) => {
                report.asking.push(order.order_no.clone())
            }
            Some(home) if home.pending.is_empty() => {
                report.violations.extend(difference(home, &branch, &order))
            }
            None | Some(_) => {}
        }
        here.insert(order.order_no);
    }
    for home in homes.values().filter(|home| home.pending.is_empty()) {
        for share in home.shares.iter().filter(|share| share.held > 0) {
            let Some(LineImage { sku_id, .. }) = home.order.lines.get(usize::from(share.line)) else {
                continue;
            };
            let number = Branch {
                order_no: home.order.order_no.clone(),
                sku_id: sku_id.clone(),
                attempt: share.attempt,
            }
            .number();
            if !here.contains(&number) && states.iter().any(|state| state.owns(sku_id)) {
                let problem = format!("order {}: nothing is held of SKU {sku_id}", home.order.order_no);
                report.violations.push(problem);
            }
        }
    }
    report.asking.sort();
    report.violations.sort();
    report
}

/// Where a branch has other units than its home says.
fn difference(home: &HomeImage, branch: &Branch, order: &OrderImage) -> Option<String> {
    let share_of = |line: &LineImage| {
        home.shares.iter().find(|share| {
            let of = home.order.lines.get(usize::from(share.line));
            let is_of = of.is_some_and(|of| of.sku_id == line.sku_id && of.warehouse_id == line.warehouse_id);
            share.attempt == branch.attempt && is_of
        })
    };
    let differs = |line: &&LineImage| {
        let has = [line.held, line.confirmed, line.released, line.returned];
        has != share_of(line)
            .map_or([0; 4], |share| [share.held, share.confirmed, share.released, share.returned])
    };
    let LineImage { sku_id, warehouse_id, held, confirmed, returned, .. } =
        order.lines.iter().find(differs)?;
    let order_no = &branch.order_no;
    Some(format!(
        "order {order_no}: where SKU {sku_id} in warehouse {warehouse_id} is, {held} units are held, {confirmed} confirmed and \
         {returned} returned, which is not what its home says"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::command::{Action, Confirm, CreateStock, Line, Lines, Mode, Release, Reserve};
    use crate::home::HomeStep;
    use crate::home::attempt::{Judged, branches_of, judge_reserve};
    use crate::ids::{AttemptId, SkuId, WarehouseId, shard_of};
    use crate::inner::{InnerAnswer, InnerCommand, InnerOutcome};
    use crate::state::Decision;

    /// Two shards and an order over both.
    struct Two(Vec<State>);

    impl Two {
        fn run(&mut self, shard: ShardId, command: &InnerCommand) -> InnerOutcome {
            let state = &mut self.0[shard.index()];
            match state.decide(command, Timestamp(1_000)) {
                Decision::Answer(outcome) => outcome,
                Decision::Log(event) => {
                    let lsn = state.applied().next();
                    state.apply(lsn, &event).unwrap();
                    Ok(state.answer(&event))
                }
                Decision::Elsewhere => unreachable!("it is here"),
            }
        }

        fn at_home(&mut self, step: HomeStep) -> InnerOutcome {
            self.run(ShardId(0), &step.into())
        }

        fn with_an_order() -> Self {
            let mut two = Self((0..2).map(|id| State::new(ShardId(id), 2)).collect());
            let names = ["a", "b", "c", "d"].map(|name| SkuId::new(name).unwrap());
            let of_shard = |id| names.iter().find(|name| shard_of(name, 2) == ShardId(id)).unwrap().clone();
            let warehouse_id = WarehouseId(1);
            let line = |id| Line { sku_id: of_shard(id), warehouse_id, quantity: 2 };
            for id in 0..2 {
                let create =
                    CreateStock { sku_id: of_shard(id), warehouse_id, quantity: 9, serialized: false };
                two.run(ShardId(id), &Action::CreateStock(create).into()).unwrap();
            }
            let reserve = Reserve {
                order_no: OrderNo::new("o").unwrap(),
                lines: Lines::new([line(0), line(1)]).unwrap(),
                ttl_seconds: 60,
                buyer_id: None,
                mode: Mode::AllOrNothing,
                choice: None,
            };
            let attempt = AttemptId(7);
            let branches = branches_of(&reserve, attempt);
            let ask =
                |branch: &crate::home::BranchCommand| two.run(shard_of(&branch.sku_id, 2), &branch.command);
            let answers: Vec<_> = branches.iter().map(ask).collect();
            let Judged::Held(lines) = judge_reserve(&reserve, attempt, &answers) else {
                panic!("{answers:?}")
            };
            assert_eq!(check_homes(&two.0).asking.len(), 2, "before the home knows");
            two.at_home(HomeStep::Reserve { reserve, attempt, lines }).unwrap();
            two
        }
    }

    #[test]
    fn homes_and_branches_that_fit_are_no_violation() {
        let mut two = Two::with_an_order();
        let right = HomesReport { homes: 1, branches: 2, ..HomesReport::default() };
        assert_eq!(check_homes(&two.0), right);
        let order_no = OrderNo::new("o").unwrap();
        let confirm = Action::Confirm(Confirm { order_no: order_no.clone(), part: None }).into();
        let Ok(InnerAnswer::Decided { errands, .. }) = two.run(ShardId(0), &confirm) else {
            panic!("not decided")
        };
        assert_eq!(check_homes(&two.0), HomesReport { pending: 1, ..right.clone() });
        for branch in errands.iter().flat_map(|errand| &errand.commands) {
            two.run(shard_of(&branch.sku_id, 2), &branch.command).unwrap();
        }
        two.at_home(HomeStep::Carried { order_no, through: 1, serials: Vec::new() }).unwrap();
        assert_eq!(check_homes(&two.0), right);
    }

    #[test]
    fn a_branch_that_differs_or_is_gone_is_told() {
        let mut two = Two::with_an_order();
        let branch = two.0[1].branches().next().unwrap().order_no;
        let release = Action::Release(Release { order_no: branch.clone(), part: None, reason: None });
        two.run(ShardId(1), &release.into()).unwrap();
        let told = check_homes(&two.0).violations;
        assert!(
            told.len() == 1 && told[0].contains("order o: ") && told[0].contains("0 units are held"),
            "{told:?}"
        );

        let two = Two::with_an_order();
        let told = check_homes(&[two.0[0].clone(), State::new(ShardId(1), 2)]).violations;
        assert!(told.len() == 1 && told[0].contains("nothing is held"), "{told:?}");
        assert_eq!(check_homes(&two.0[..1]).violations, [""; 0], "the other shard was not looked at");
        let lost = check_homes(&two.0[1..]);
        assert_eq!((lost.asking, lost.violations), (vec![branch], Vec::new()));
    }
}
