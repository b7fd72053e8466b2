//! What SQL decides: commands on cold SKUs, and what is due.

use std::collections::{BTreeMap, BTreeSet};

use super::tables::{Me, Place, Tables, Touched, is_open, moves_of};
use crate::clock::Timestamp;
use crate::command::Command;
use crate::ids::{Lsn, OrderNo, shard_of_order};
use crate::outcome::{Refusal, StockView};
use crate::state::{Decision, State};
use crate::store::{ColdOutcome, Expired, Owner, StoreError};

/// When what was put off comes again.
const PUT_OFF_SECONDS: u64 = 5;

impl Tables {
    pub fn submit(&mut self, me: Me, command: &Command, now: Timestamp) -> Result<ColdOutcome, StoreError> {
        if let Some(home) = command.order_no().and_then(|order_no| self.home(order_no)) {
            return Ok(ColdOutcome::Home(Box::new(home)));
        }
        let touched = self.touched_by(command);
        // An order that is there is decided where its own lines are.
        let known = command.order_no().filter(|order_no| self.places_of(order_no).next().is_some());
        let of_order: Option<BTreeSet<Place>> = known.map(|order_no| self.places_of(order_no).collect());
        let owners = self.owners(of_order.as_ref().unwrap_or(&touched.stocks));
        let owner: Option<Owner> =
            owners.iter().flatten().min_by_key(|owner| (owner.server, owner.shard)).copied();
        let is_there = command.order_no().is_some_and(|order_no| self.orders.contains_key(order_no));
        if let Some(owner) = owner
            && (owners.len() == 1 || !is_there)
        {
            return Ok(ColdOutcome::Elsewhere(owner));
        }
        let (mut state, now) = self.state_of(Lsn::ZERO, &touched, &BTreeSet::new(), now)?;
        let event = match (state.decide(command, now), known) {
            // What the rows of hot SKUs have in stock is old.
            (
                Decision::Log(_) | Decision::Answer(Err(Refusal::LatePaymentNoStock { .. })),
                Some(order_no),
            ) if owner.is_some() => {
                let server = owner.map_or(me.server, |owner| owner.server);
                if let Some(owner) =
                    owner.filter(|_| owners.iter().flatten().any(|other| other.server != server))
                {
                    return Ok(ColdOutcome::Elsewhere(owner));
                }
                self.split(&order_no.clone(), Me { server, ..me });
                let home = self.home(order_no).ok_or_else(|| StoreError::Inconsistent("no home".into()))?;
                return Ok(ColdOutcome::Home(Box::new(home)));
            }
            (Decision::Answer(outcome), _) => return Ok(ColdOutcome::Done { outcome, changed: Vec::new() }),
            (Decision::Log(event), _) => event,
        };
        let moves = moves_of(&state, &event);
        state.apply(Lsn(1), &event)?;
        let outcome = Ok(state.answer(&event));
        self.write_moves(moves, &event, None);
        let changed = self.write_back(me, &state, &touched, &BTreeSet::new(), None, event.at);
        Ok(ColdOutcome::Done { outcome, changed })
    }

    pub fn expire(
        &mut self,
        me: Me,
        now: Timestamp,
        max: usize,
        ask_first: bool,
    ) -> Result<Expired, StoreError> {
        let is_due = |due: Option<Timestamp>| due.filter(|due| *due <= State::due_through(now));
        let orders =
            self.orders.iter().filter(|(_, kept)| kept.server.is_none_or(|server| server == me.server));
        let orders = orders.filter_map(|(order_no, kept)| Some((is_due(kept.due)?, order_no.clone())));
        let homes = self.homes.iter().filter(|(_, kept)| kept.server == me.server);
        let homes = homes.filter_map(|(order_no, kept)| Some((is_due(kept.due)?, order_no.clone())));
        let mut due: Vec<_> = orders.chain(homes).collect();
        due.sort_unstable();
        due.truncate(max);
        let mut expired = Expired { seen: due.len(), ..Expired::default() };
        let mut changed: BTreeMap<Place, StockView> = BTreeMap::new();
        let later = Some(now.plus_seconds(PUT_OFF_SECONDS));
        for (_, order_no) in due {
            if let Some(home) = self.homes.get_mut(&order_no) {
                home.due = later;
                expired.homes.push(order_no);
                continue;
            }
            let mut touched = Touched::default();
            touched.orders.insert(order_no.clone());
            touched.stocks.extend(self.places_of(&order_no));
            if self.owners(&touched.stocks).iter().any(Option::is_some) {
                // Whoever owns them lets it expire, or has it ask.
                self.set_due(&order_no, None);
            } else if order_no.is_branch() {
                self.set_due(&order_no, later);
                expired.branches.push(order_no);
            } else if ask_first {
                self.set_due(&order_no, later);
                expired.due.push(order_no);
            } else {
                let (mut state, now) = self.state_of(Lsn::ZERO, &touched, &BTreeSet::new(), now)?;
                let Some(event) = state.next_expiry(now) else { continue };
                let moves = moves_of(&state, &event);
                state.apply(Lsn(1), &event)?;
                self.write_moves(moves, &event, None);
                for stock in self.write_back(me, &state, &touched, &BTreeSet::new(), None, event.at) {
                    changed.insert((stock.sku_id.clone(), stock.warehouse_id), stock);
                }
                expired.expired += 1;
            }
        }
        expired.changed = changed.into_values().collect();
        Ok(expired)
    }

    pub fn leave_to_home(&mut self, branches: &[OrderNo]) {
        branches
            .iter()
            .filter(|order_no| order_no.is_branch())
            .for_each(|order_no| self.set_due(order_no, None));
    }

    /// An order in one place becomes one over several, at home on the server of `me`.
    pub(super) fn split(&mut self, order_no: &OrderNo, me: Me) {
        let Some(kept) = self.orders.remove(order_no) else { return };
        let (mut image, branches) = crate::home::split(kept.image);
        image.order.lsn = Lsn::ZERO;
        for mut branch in branches {
            branch.lsn = Lsn::ZERO;
            let kept = super::tables::KeptOrder { image: branch, due: None, server: Some(me.server) };
            self.orders.insert(kept.image.order_no.clone(), kept);
        }
        let due = is_open(&image.order).then_some(image.order.expires_at);
        let shard = shard_of_order(order_no, me.shards);
        let home = super::tables::KeptHome { server: me.server, shard, image, due };
        self.homes.insert(order_no.clone(), home);
    }
}
