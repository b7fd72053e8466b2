//! Takes a command to where it is decided. Without a store: to the shard of its SKU or order. With one: SKUs that a shard has are looked
//! up in the routes and their commands go straight to the shard (the quick way, here); everything else takes the
//! way of [`settle`], which knows cold SKUs, moves, and orders that a shard has let go of. [`batch`] does so for many. A new order
//! whose lines lie in several places goes to [`spanning`](crate::spanning); one that does already goes to its home like any other.

mod batch;
mod settle;

pub(crate) use batch::skus_of;
pub(crate) use settle::{Claim, Stored, is_known};

use crate::command::{Action, Command, Lines, Release, Reserve};
use crate::directory::Home;
use crate::hub::{How, Hub, Side};
use crate::ids::{ShardId, shard_of, shard_of_order};
use crate::outcome::{Outcome, Refusal};
use crate::placement::routes::Spread;
use crate::shard::shared::has_claim;

/// Where a command goes at first. One that may make an order took a claim for its shard.
enum First {
    Shard(ShardId),
    /// A reserve whose lines lie in several shards.
    Several,
    /// It has to be looked for.
    Unsure,
    Refused(Refusal),
}

impl Hub {
    /// Carries out a command.
    pub async fn submit(&self, command: Command) -> Outcome {
        command.validate()?;
        let shard = match self.first(&command) {
            First::Shard(shard) => shard,
            First::Several => return self.submit_several(command).await,
            First::Unsure => return self.look_for(command, false).await,
            First::Refused(refusal) => return Err(refusal),
        };
        let spare = self.spare(&command);
        self.before_decision(&command);
        match (self.ask(shard, command, How::Quick).await, spare) {
            (Err(Refusal::Moved(back)), _) => self.look_for(*back, false).await,
            (outcome, spare) => match (self.look_again(&outcome), spare) {
                (Some(unknown), Some(spare)) => self.look_for(spare, unknown).await,
                (_, spare) => self.conclude(spare.as_ref(), outcome).await,
            },
        }
    }

    async fn submit_several(&self, command: Command) -> Outcome {
        let spare = self.side.is_some().then(|| command.clone());
        match (self.span(command).await, spare) {
            (Some(outcome), spare) => self.conclude(spare.as_ref(), outcome).await,
            (None, Some(spare)) => self.look_for(spare, false).await,
            // Without a store nothing moves.
            (None, None) => Err(Refusal::Overloaded),
        }
    }

    /// The careful way. `unknown`: a shard was just asked and does not know the order.
    async fn look_for(&self, command: Command, unknown: bool) -> Outcome {
        match &self.side {
            Some(side) => self.settle(side, command, unknown).await,
            None if matches!(command.action, Action::Reserve(_)) => {
                let outcome = self.span(command).await.unwrap_or(Err(Refusal::Overloaded));
                self.conclude(None, outcome).await
            }
            None => match self.plain(&command) {
                First::Shard(shard) => {
                    let outcome = self.ask(shard, command.clone(), How::Quick).await;
                    self.conclude(Some(&command), outcome).await
                }
                First::Refused(refusal) => Err(refusal),
                First::Several | First::Unsure => Err(Refusal::Overloaded),
            },
        }
    }

    /// Where a command goes at first.
    fn first(&self, command: &Command) -> First {
        match &self.side {
            None => self.plain(command),
            Some(side) => self.quick(side, command),
        }
    }

    /// The shard that surely decides a command, with a store.
    fn quick(&self, side: &Side, command: &Command) -> First {
        let directory = &self.context.directory;
        let one = |shard: Option<ShardId>| shard.map_or(First::Unsure, First::Shard);
        let home = match &command.action {
            Action::CreateStock(c) => return one(side.routes.hot_one(&c.sku_id)),
            Action::ChangeStock(c) => return one(side.routes.hot_one(&c.sku_id)),
            Action::SetStatus(c) => return one(side.routes.hot_one(&c.sku_id)),
            Action::Reserve(Reserve { order_no, lines, .. }) => {
                let shard = match side.routes.spread(lines) {
                    Spread::One(shard) => shard,
                    Spread::Several => return First::Several,
                    Spread::Other => return First::Unsure,
                };
                if directory.claim(order_no, Home::Shard(shard)) == Home::Shard(shard) {
                    return First::Shard(shard);
                }
                directory.give_back(order_no);
                return First::Unsure;
            }
            _ => command.order_no().and_then(|order_no| directory.home(order_no)),
        };
        let (Some(Home::Shard(shard)), Some(order_no)) = (home, command.order_no()) else { return First::Unsure };
        let home = Home::Shard(shard);
        if has_claim(command) && directory.claim(order_no, home) != home {
            directory.give_back(order_no);
            return First::Unsure;
        }
        First::Shard(shard)
    }

    /// The shard that decides a command, without a store.
    fn plain(&self, command: &Command) -> First {
        let directory = &self.context.directory;
        let count = self.context.options.shards;
        let home = match &command.action {
            Action::CreateStock(c) => return First::Shard(shard_of(&c.sku_id, count)),
            Action::ChangeStock(c) => return First::Shard(shard_of(&c.sku_id, count)),
            Action::SetStatus(c) => return First::Shard(shard_of(&c.sku_id, count)),
            Action::Reserve(Reserve { order_no, lines, .. }) => {
                if self.is_over_shards(lines) {
                    return First::Several;
                }
                directory.claim(order_no, Home::Shard(shard_of(&lines.first().sku_id, count)))
            }
            Action::Release(Release { order_no, part: None, .. }) => {
                directory.claim(order_no, Home::Shard(shard_of_order(order_no, count)))
            }
            Action::Confirm(_)
            | Action::Release(_)
            | Action::Extend(_)
            | Action::Return(_)
            | Action::GetOrder(_)
            | Action::Expire(_) => {
                let order_no = command.order_no().expect("these name an order");
                match directory.home(order_no) {
                    Some(home) => home,
                    None => return First::Refused(Refusal::UnknownOrder { order_no: order_no.clone() }),
                }
            }
            // Movers and homes know where.
            Action::Place(_) | Action::Home(_) => return First::Refused(Refusal::Overloaded),
        };
        match home {
            Home::Shard(shard) => First::Shard(shard),
            Home::Cold => unreachable!("without a store nothing is cold"),
        }
    }

    /// Whether lines lie in several shards.
    fn is_over_shards(&self, lines: &Lines) -> bool {
        let count = self.context.options.shards;
        match &self.side {
            _ if count == 1 => false,
            Some(side) => side.routes.spread(lines) == Spread::Several,
            None => {
                let first = shard_of(&lines.first().sku_id, count);
                lines.as_slice().iter().any(|line| shard_of(&line.sku_id, count) != first)
            }
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

    /// A copy for the case that the shard does not know what the command is about, or that a payment comes late for an order over
    /// several places. (A reserve comes back by itself; its copy would cost more.)
    fn spare(&self, command: &Command) -> Option<Command> {
        let wanted = match &command.action {
            Action::Reserve(_) => false,
            Action::Confirm(_) => self.side.is_some() || self.shards.len() > 1,
            _ => self.side.is_some(),
        };
        wanted.then(|| command.clone())
    }

    /// Whether what a shard says may be otherwise elsewhere; `Some(true)`: it does not know the order.
    fn look_again(&self, outcome: &Outcome) -> Option<bool> {
        match outcome {
            _ if self.side.is_none() => None,
            Err(Refusal::UnknownOrder { .. }) => Some(true),
            Err(Refusal::UnknownSku { .. }) => Some(false),
            _ => None,
        }
    }
}
