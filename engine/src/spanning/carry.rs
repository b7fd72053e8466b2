//! A decision of a home on its way to the branches: told as often as it takes, in the order of the decisions; then
//! the home logs that nobody need be told again.

use std::time::Duration;

use tokio::time::Instant;

use super::places::Patience;
use super::{Chore, Entered, STEP_CARRIED, STEP_CARRY, is_transient};
use crate::checkpoint::LineSerials;
use crate::home::{Errand, HomeStep};
use crate::ids::{ShardId, SkuId, WarehouseId};
use crate::inner::InnerAnswer;
use crate::limits::CARRY_WAIT_MILLIS;
use crate::outcome::{Answer, LineView, OrderView, Refusal, Serials};
use crate::router::Router;
use crate::shard::shared::ShardAnswer;
use crate::store_link::add;

/// What came of telling the branches.
pub(super) struct Carried {
    /// Every errand was told; otherwise the keeper has to go on.
    pub all: bool,
    /// Somebody else had told some of them meanwhile: what they gave is known to the home.
    pub skipped: bool,
    /// The last decision that all its branches know.
    pub through: Option<u64>,
    /// Serial numbers that branches gave.
    pub serials: Vec<(SkuId, WarehouseId, Serials)>,
}

impl Router {
    /// Tells branches what was decided, oldest decision first. The lock of the order is held; `through` is what lies
    /// under it.
    pub(super) async fn carry(&self, errands: &[Errand], through: &mut u64) -> Carried {
        let until = Instant::now() + Duration::from_millis(CARRY_WAIT_MILLIS);
        let mut carried = Carried { all: true, skipped: false, through: None, serials: Vec::new() };
        for errand in errands {
            if errand.number <= *through {
                carried.skipped = true;
                continue;
            }
            let outcomes = self.tell(&errand.commands, STEP_CARRY, Patience::Firm(until)).await;
            for (branch, outcome) in errand.commands.iter().zip(outcomes) {
                match outcome {
                    Ok(InnerAnswer::Public(Answer::Order { order, .. })) => {
                        carried.serials.extend(serials_of(&order))
                    }
                    Ok(_) => {}
                    Err(refusal) if is_transient(&refusal) => carried.all = false,
                    Err(refusal) => {
                        // It can't be while nobody changes rows by hand; going on with the others is the best that
                        // can be done.
                        add(&self.spanning.counters.errands_refused, 1);
                        let order_no = branch.command.order_no().map(crate::ids::OrderNo::of_caller);
                        tracing::error!(?order_no, sku_id = %branch.sku_id, %refusal, "a branch does not take what its home decided");
                    }
                }
            }
            if !carried.all {
                break;
            }
            *through = errand.number;
            carried.through = Some(errand.number);
        }
        add(&self.spanning.counters.carries, 1);
        carried
    }

    /// Has the home log how far its branches were told. What it is asked after this returned, it answers with what it
    /// learned. The answer says whether it could be logged.
    pub(super) fn report_carried(
        &self,
        home: ShardId,
        order: &Entered<'_>,
        carried: &Carried,
        lines: &[LineView],
    ) -> Reported {
        let Some(through) = carried.through else { return Reported(None) };
        let serials = line_serials(&carried.serials, lines);
        let step = HomeStep::Carried { order_no: order.order_no.clone(), through, serials };
        self.before(STEP_CARRIED);
        Reported(Some(self.post(home, step.into())))
    }

    /// Waits until the home has logged it. `false`: somebody has to tell it again.
    pub(super) async fn is_reported(&self, reported: Reported) -> bool {
        let Reported(Some(posted)) = reported else { return true };
        let outcome = match posted {
            Ok(answer) => match answer.await {
                Ok(ShardAnswer::Outcome(outcome)) => outcome,
                // Its home does not have what it has to tell: that can't be, and is tried again.
                Ok(ShardAnswer::Elsewhere { .. } | ShardAnswer::NotHere(_)) => Err(Refusal::Overloaded),
                Err(_) => Err(Refusal::ShardRestarted),
            },
            Err(refusal) => Err(refusal),
        };
        self.after(STEP_CARRIED);
        !matches!(outcome, Err(refusal) if is_transient(&refusal))
    }

    /// Leaves the rest to the keeper, when it has room.
    pub(super) async fn leave_to_keeper(&self, order: &Entered<'_>) {
        // It is gone only when the engine stops; the next start finds what is pending.
        drop(self.chores.send(Chore::Carry(order.order_no.clone())).await);
    }
}

/// A report on its way to the home; `None`: there was nothing to report.
pub(super) struct Reported(Option<Result<tokio::sync::oneshot::Receiver<ShardAnswer>, Refusal>>);

fn serials_of(branch: &OrderView) -> Vec<(SkuId, WarehouseId, Serials)> {
    let of_line = |line: &LineView| -> Vec<_> {
        let serials = line.serials.as_deref().unwrap_or_default();
        serials.iter().map(|serials| (line.sku_id.clone(), line.warehouse_id, *serials)).collect()
    };
    branch.lines.iter().flat_map(of_line).collect()
}

/// Serial numbers by the lines of the order.
fn line_serials(serials: &[(SkuId, WarehouseId, Serials)], lines: &[LineView]) -> Vec<LineSerials> {
    let of = |(sku_id, warehouse_id, serials): &(SkuId, WarehouseId, Serials)| {
        let line =
            lines.iter().position(|line| line.sku_id == *sku_id && line.warehouse_id == *warehouse_id)?;
        Some(LineSerials { line: u16::try_from(line).ok()?, serials: *serials })
    };
    serials.iter().filter_map(of).collect()
}

/// The order with the serial numbers that its branches just gave.
pub(super) fn with_serials(mut order: OrderView, given: &[(SkuId, WarehouseId, Serials)]) -> OrderView {
    for LineSerials { line, serials } in line_serials(given, &order.lines) {
        let line = &mut order.lines[usize::from(line)];
        let mut all = line.serials.take().map(Vec::from).unwrap_or_default();
        if !all.contains(&serials) {
            all.push(serials);
        }
        line.serials = Some(all.into());
    }
    order
}
