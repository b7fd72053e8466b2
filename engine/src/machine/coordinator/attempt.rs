//! One attempt to hold the units of an order: what it is about, at which stage it is, and what participants are asked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::effects::{Moment, Surroundings};
use super::judge::{Group, GroupAnswer, Seen};
use crate::base::ids::{AttemptId, OrderNo, ShardId, SkuId, WarehouseId};
use crate::contract::command::{Action, Choice, Command, Lines, Mode, Reserve};
use crate::contract::outcome::{Outcome, StockView};
use crate::machine::inner::InnerCommand;
use crate::machine::state::{HoldFirst, State, prefer_for_all};

/// Units of an order are being held.
#[derive(Debug)]
pub(super) struct Attempt<C> {
    pub(super) caller: C,
    pub(super) command: InnerCommand,
    pub(super) first: HoldFirst,
    pub(super) id: AttemptId,
    pub(super) until: Moment,
    pub(super) groups: Vec<Group>,
    /// Where lines are said to be that may lie anywhere in other shards, if they get nothing.
    pub(super) nowhere: BTreeMap<SkuId, WarehouseId>,
    pub(super) stage: Stage,
    /// Commands about the same order, which wait.
    pub(super) queue: VecDeque<(C, InnerCommand)>,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// What was decided of the order before is being told: its participants would not know yet of units that they are
    /// to give back, or to sell again. Then the command is decided anew.
    Telling,
    /// These participants are asked what there is of SKUs; what was said so far.
    Looking { waiting: BTreeSet<ShardId>, looked: BTreeMap<SkuId, Vec<StockView>>, is_asked: bool },
    /// These participants have not answered yet.
    Holding { waiting: BTreeSet<ShardId>, answers: BTreeMap<ShardId, GroupAnswer> },
    /// These participants have not let go yet; then this is answered.
    Abandoning { waiting: BTreeSet<ShardId>, outcome: Outcome },
}

impl<C> Attempt<C> {
    /// The reserve, if it is one.
    pub(super) fn reserve(&self) -> Option<&Reserve> {
        reserve_of(&self.command)
    }

    /// Every line whose units are needed.
    pub(super) fn wanted(&self) -> Vec<crate::contract::command::Line> {
        match self.reserve() {
            Some(reserve) => reserve.lines.as_slice().to_vec(),
            None => self.first.lines.clone(),
        }
    }

    /// Units that are needed beside those that the order holds, as a request: those that lie elsewhere.
    pub(super) fn more(&self, order_no: &OrderNo, is_elsewhere: impl Fn(&SkuId) -> bool) -> Reserve {
        let lines = self.first.lines.iter().filter(|line| is_elsewhere(&line.sku_id)).cloned();
        Reserve {
            order_no: order_no.clone(),
            lines: Lines::some_of(lines),
            ttl_seconds: 1,
            buyer_id: None,
            mode: Mode::AllOrNothing,
            choice: None,
        }
    }

    /// Whether it still waits for the holds of this attempt.
    pub(super) fn is_wanted(&self, id: AttemptId) -> bool {
        self.id == id && matches!(self.stage, Stage::Holding { .. })
    }
}

pub(super) fn reserve_of(command: &InnerCommand) -> Option<&Reserve> {
    match command {
        InnerCommand::Public(Command { action: Action::Reserve(reserve), .. }) => Some(reserve),
        InnerCommand::Public(_) | InnerCommand::Expire(_) => None,
    }
}

/// The order with a hint which warehouses would serve all its open lines: each shard chooses by itself, and so they
/// choose alike. What the levels are by then decides; without a hint the order may only lie in more warehouses.
pub(super) fn hinted(reserve: &Reserve, stocks: impl Fn(&SkuId) -> Vec<StockView>) -> Reserve {
    let Some(choice) = reserve.choice.as_deref() else { return reserve.clone() };
    let (mut used, mut lines) = (Vec::new(), Vec::new());
    for (index, line) in reserve.lines.as_slice().iter().enumerate() {
        if !choice.is_open(index) {
            used.push(line.warehouse_id);
            continue;
        }
        lines.push((line.quantity, stocks(&line.sku_id)));
    }
    let choice = Choice { prefer: prefer_for_all(&lines, &used, &choice.prefer), ..choice.clone() };
    Reserve { choice: Some(Box::new(choice)), ..reserve.clone() }
}

/// What can be seen of a SKU: what its shard said (`looked`), what this shard has, or what is published.
pub(super) fn see(
    state: &State,
    around: &impl Surroundings,
    looked: &BTreeMap<SkuId, Vec<StockView>>,
    sku_id: &SkuId,
) -> Seen {
    let published = match looked.get(sku_id) {
        Some(stocks) => return Seen::Stocks(stocks.clone()),
        None if state.owns(sku_id) => return Seen::Stocks(state.stocks_of_sku(sku_id)),
        None => around.stocks(sku_id),
    };
    if published.is_empty() { Seen::Nothing } else { Seen::Published(published) }
}
