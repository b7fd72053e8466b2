//! Takes a command to where it is decided. Without a store: to the shard of its SKU or order. With one: SKUs that a shard has are looked
//! up in the routes and their commands go straight to the shard (the quick way, here); everything else takes the
//! way of [`settle`], which knows cold SKUs, moves, and orders that a shard has let go of. [`batch`] does so for many.

mod batch;
mod settle;

pub(crate) use batch::skus_of;

use crate::command::{Action, Command, Release, Reserve};
use crate::directory::Home;
use crate::hub::{How, Hub, Side};
use crate::ids::{ShardId, shard_of, shard_of_order};
use crate::limits::MAX_ROUTE_TRIES;
use crate::outcome::{Outcome, Refusal};
use crate::shard::shared::has_claim;

impl Hub {
    /// Carries out a command.
    pub async fn submit(&self, command: Command) -> Outcome {
        command.validate()?;
        let Some(side) = &self.side else { return self.submit_plain(command).await };
        let Some(shard) = self.quick(side, &command) else { return self.settle(side, command, false).await };
        let spare = spare(&command);
        match self.ask(shard, command, How::Quick).await {
            Err(Refusal::Moved(back)) => self.settle(side, *back, false).await,
            outcome => match (look_again(&outcome), spare) {
                (Some(unknown), Some(spare)) => self.settle(side, spare, unknown).await,
                _ => outcome,
            },
        }
    }

    async fn submit_plain(&self, mut command: Command) -> Outcome {
        for _ in 0..MAX_ROUTE_TRIES {
            let shard = self.plain(&command)?;
            match self.ask(shard, command, How::Quick).await {
                Err(Refusal::Moved(back)) => command = *back,
                outcome => return outcome,
            }
        }
        Err(Refusal::Overloaded)
    }

    /// Where a command goes at first; `None`: it has to be looked for. A command that may make an order takes a claim on the way.
    fn first(&self, command: &Command) -> Option<Result<ShardId, Refusal>> {
        match &self.side {
            None => Some(self.plain(command)),
            Some(side) => self.quick(side, command).map(Ok),
        }
    }

    /// The shard that surely decides a command, with a store.
    fn quick(&self, side: &Side, command: &Command) -> Option<ShardId> {
        let directory = &self.context.directory;
        let home = match &command.action {
            Action::CreateStock(c) => return side.routes.hot_one(&c.sku_id),
            Action::ChangeStock(c) => return side.routes.hot_one(&c.sku_id),
            Action::SetStatus(c) => return side.routes.hot_one(&c.sku_id),
            Action::Reserve(Reserve { order_no, lines, .. }) => {
                let shard = side.routes.hot(lines)?;
                if directory.claim(order_no, Home::Shard(shard)) == Home::Shard(shard) {
                    return Some(shard);
                }
                directory.give_back(order_no);
                return None;
            }
            _ => directory.home(command.order_no()?)?,
        };
        let Home::Shard(shard) = home else { return None };
        if has_claim(command) && directory.claim(command.order_no()?, home) != home {
            directory.give_back(command.order_no()?);
            return None;
        }
        Some(shard)
    }

    /// The shard that decides a command, without a store.
    fn plain(&self, command: &Command) -> Result<ShardId, Refusal> {
        let directory = &self.context.directory;
        let count = self.context.options.shards;
        let home = match &command.action {
            Action::CreateStock(c) => return Ok(shard_of(&c.sku_id, count)),
            Action::ChangeStock(c) => return Ok(shard_of(&c.sku_id, count)),
            Action::SetStatus(c) => return Ok(shard_of(&c.sku_id, count)),
            Action::Reserve(Reserve { order_no, lines, .. }) => {
                let home = shard_of(&lines.first().sku_id, count);
                let one = count == 1 || lines.as_slice().iter().all(|line| shard_of(&line.sku_id, count) == home);
                // Only the home of an order that is known can say whether lines in several shards are a mismatch.
                let wanted = one.then_some(Home::Shard(home));
                let known = match wanted {
                    Some(wanted) => Some(directory.claim(order_no, wanted)),
                    None => directory.claim_known(order_no),
                };
                known.ok_or(Refusal::SpansShards)?
            }
            Action::Release(Release { order_no, part: None, .. }) => {
                directory.claim(order_no, Home::Shard(shard_of_order(order_no, count)))
            }
            Action::Confirm(_) | Action::Release(_) | Action::Extend(_) | Action::Return(_) | Action::GetOrder(_) => {
                let order_no = command.order_no().expect("these name an order");
                let unknown = || Refusal::UnknownOrder { order_no: order_no.clone() };
                directory.home(order_no).ok_or_else(unknown)?
            }
            // Only movers place, and they know where.
            Action::Place(_) => return Err(Refusal::Overloaded),
            Action::Expire(_) | Action::Home(_) => todo!("TODO(runtime)"),
        };
        match home {
            Home::Shard(shard) => Ok(shard),
            Home::Cold => unreachable!("without a store nothing is cold"),
        }
    }

    /// Whether an order goes to a shard that does not own its lines, because another request for it went there.
    fn is_away(&self, command: &Command, shard: ShardId) -> bool {
        let count = self.context.options.shards;
        match &command.action {
            Action::Reserve(c) if count > 1 => shard_of(&c.lines.first().sku_id, count) != shard,
            _ => false,
        }
    }
}

/// A copy for the case that the shard does not know what the command is about. (A reserve comes back by itself; its copy
/// would cost more.)
fn spare(command: &Command) -> Option<Command> {
    (!matches!(command.action, Action::Reserve(_))).then(|| command.clone())
}

/// Whether what a shard says may be otherwise elsewhere; `Some(true)`: it does not know the order.
fn look_again(outcome: &Outcome) -> Option<bool> {
    match outcome {
        Err(Refusal::UnknownOrder { .. }) => Some(true),
        Err(Refusal::UnknownSku { .. }) => Some(false),
        _ => None,
    }
}
