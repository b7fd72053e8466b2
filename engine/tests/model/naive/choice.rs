//! Orders that leave warehouses open, in the naive model. It does not choose: it is told where the engine put the
//! lines, and checks what the docs promise of the choice. Whether an order is refused it says by itself.

use std::collections::{BTreeMap, BTreeSet};

use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Action, Line, Mode, Reserve, StockStatus};
use hotstock_engine::ids::{SkuId, WarehouseId};
use hotstock_engine::outcome::{Outcome, Refusal, ShortLine};

use super::order::Wished;
use super::protocol::place;
use super::{Naive, Place, short};

/// The lines as the caller gave them, if some of them name no warehouse.
pub fn wished(c: &Reserve) -> Option<Vec<Wished>> {
    let open = &c.choice.as_ref()?.open;
    let line = |(index, line): (usize, &Line)| {
        let is_open = open.iter().any(|open| usize::from(*open) == index);
        (line.sku_id.clone(), (!is_open).then_some(line.warehouse_id), line.quantity)
    };
    Some(c.lines.as_slice().iter().enumerate().map(line).collect())
}

impl Naive {
    /// Carries out a command; `chosen`: where the engine put the lines of an order that it made.
    pub fn carry_out_where(&mut self, action: &Action, chosen: Option<&[Line]>, now: Timestamp) -> Outcome {
        let Action::Reserve(c) = action else { return self.carry_out(action, now) };
        let Some(wished) = wished(c) else { return self.carry_out(action, now) };
        if self.orders.contains_key(&c.order_no) {
            return self.carry_out(action, now);
        }
        self.refusal_of(c, &wished)?;
        let chosen = chosen.expect("there is enough in all, so that the order is made");
        self.check_chosen(c, &wished, chosen);
        let lines = hotstock_engine::command::Lines::new(chosen.iter().cloned()).expect("lines of an order");
        assert_eq!(lines.as_slice(), chosen, "each stock is one line");
        let reserve = Reserve { lines, choice: None, ..c.clone() };
        let outcome = self.carry_out(&Action::Reserve(reserve), now);
        let order = self.orders.get_mut(&c.order_no).expect("the order is made");
        order.wished = Some(wished);
        outcome
    }

    /// Units of a stock that can be sold.
    fn free(&self, place: &Place) -> u64 {
        let on_sale = self.shelves[place].status == StockStatus::OnSale;
        if on_sale { self.levels(place).available } else { 0 }
    }

    fn places_of(&self, sku_id: &SkuId) -> Vec<Place> {
        self.shelves.keys().filter(|place| place.0 == *sku_id).cloned().collect()
    }

    /// What the lines that name a warehouse take of a stock.
    fn named(wished: &[Wished], place: &Place) -> u64 {
        let named = wished.iter().filter(|(sku_id, id, _)| (sku_id, *id) == (&place.0, Some(place.1)));
        named.map(|(_, _, units)| u64::from(*units)).sum()
    }

    /// Units of a SKU that lines without warehouse can have.
    fn left(&self, wished: &[Wished], sku_id: &SkuId) -> u64 {
        let left = |place: &Place| self.free(place).saturating_sub(Self::named(wished, place));
        self.places_of(sku_id).iter().map(left).sum()
    }

    pub fn refusal_of(&self, c: &Reserve, wished: &[Wished]) -> Result<(), Refusal> {
        for (sku_id, id, _) in wished {
            if let Some(id) = id {
                self.shelf(sku_id, *id)?;
            }
        }
        let mut shorts: Vec<ShortLine> = Vec::new();
        let mut first_suspended = None;
        let (mut suspended, mut held) = (0, 0);
        for (sku_id, id, units) in wished {
            let places = id.map_or_else(|| self.places_of(sku_id), |id| vec![(sku_id.clone(), id)]);
            if places.is_empty() {
                return Err(Refusal::UnknownSku { sku_id: sku_id.clone(), warehouse_id: None });
            }
            if places.iter().all(|place| self.shelves[place].status == StockStatus::Suspended) {
                // Of an open line the one that it would have been in.
                let prefer = c.choice.as_ref().map_or(&[][..], |choice| &choice.prefer);
                let ranked = places.iter().min_by_key(|place| {
                    (prefer.iter().position(|id| *id == place.1).unwrap_or(prefer.len()), place.1)
                });
                let (sku_id, warehouse_id) = ranked.unwrap().clone();
                let refusal = Refusal::SkuSuspended { sku_id, warehouse_id };
                if c.mode == Mode::AllOrNothing {
                    return Err(refusal);
                }
                first_suspended.get_or_insert(refusal);
                suspended += 1;
            }
            let free = match id {
                Some(_) => self.free(&places[0]),
                None => self.left(wished, sku_id),
            };
            if free < u64::from(*units) {
                let place = (sku_id.clone(), id.unwrap_or(WarehouseId::ANY));
                shorts.push(short(&place, u64::from(*units), free));
            }
            held += free.min(u64::from(*units));
        }
        match first_suspended {
            Some(refusal) if held == 0 && suspended == wished.len() => Err(refusal),
            _ if held == 0 || (c.mode == Mode::AllOrNothing && !shorts.is_empty()) => {
                Err(Refusal::InsufficientStock { lines: shorts })
            }
            _ => Ok(()),
        }
    }

    /// What the docs say of a choice.
    fn check_chosen(&self, c: &Reserve, wished: &[Wished], chosen: &[Line]) {
        let prefer = &c.choice.as_ref().unwrap().prefer;
        let asked = |sku_id: &SkuId| -> u64 {
            wished.iter().filter(|(other, ..)| other == sku_id).map(|(_, _, units)| u64::from(*units)).sum()
        };
        let skus: BTreeSet<&SkuId> = wished.iter().map(|(sku_id, ..)| sku_id).collect();
        let lies: BTreeMap<Place, u64> =
            chosen.iter().map(|line| (place(line), u64::from(line.quantity))).collect();
        assert_eq!(lies.keys().map(|place| &place.0).collect::<BTreeSet<_>>(), skus);
        for sku_id in &skus {
            let there: u64 =
                lies.iter().filter(|(place, _)| place.0 == **sku_id).map(|(_, units)| units).sum();
            assert_eq!(there, asked(sku_id), "all units of {sku_id} are asked for somewhere");
        }
        // Nothing that names its warehouse went elsewhere, and best effort got all that there is.
        let mut fresh = BTreeSet::new();
        let named_anywhere = |id: &WarehouseId| {
            wished
                .iter()
                .any(|(sku_id, named, _)| named.as_ref() == Some(id) && self.free(&(sku_id.clone(), *id)) > 0)
        };
        for (place, units) in &lies {
            let named = Self::named(wished, place);
            assert!(*units >= named, "{place:?}: {named} of {units}");
            let got = self.free(place).min(*units);
            if got > self.free(place).min(named) && !named_anywhere(&place.1) {
                fresh.insert(place.1);
            }
        }
        for (sku_id, _, units) in wished.iter().filter(|(_, named, _)| named.is_none()) {
            let of_sku = lies.iter().filter(|(place, _)| place.0 == *sku_id);
            let open = of_sku.map(|(place, units)| {
                self.free(place).min(*units) - self.free(place).min(Self::named(wished, place))
            });
            assert_eq!(open.sum::<u64>(), self.left(wished, sku_id).min(u64::from(*units)), "{sku_id}");
        }
        // As few warehouses as can be, beside those that are named; the preferred ones among as few.
        let all: BTreeSet<WarehouseId> = self.shelves.keys().map(|place| place.1).collect();
        let all: Vec<_> = all.into_iter().filter(|id| !named_anywhere(id)).collect();
        let sets = (0..1_u32 << all.len())
            .map(|set| (0..all.len()).filter(|i| set >> i & 1 == 1).map(|i| all[i]).collect::<BTreeSet<_>>());
        let enough = |set: &BTreeSet<WarehouseId>| {
            wished.iter().filter(|(_, named, _)| named.is_none()).all(|(sku_id, _, units)| {
                let places = self.places_of(sku_id).into_iter();
                let had = places.filter(|place| named_anywhere(&place.1) || set.contains(&place.1));
                let had = had.map(|place| self.free(&place).saturating_sub(Self::named(wished, &place)));
                had.sum::<u64>() >= self.left(wished, sku_id).min(u64::from(*units))
            })
        };
        let ranks = |set: &BTreeSet<WarehouseId>| {
            let rank = |id: &WarehouseId| prefer.iter().position(|known| known == id).unwrap_or(usize::MAX);
            let mut ranks: Vec<_> = set.iter().map(rank).collect();
            ranks.sort_unstable();
            (set.len(), ranks)
        };
        let best = sets.filter(enough).map(|set| ranks(&set)).min();
        assert_eq!(Some(ranks(&fresh)), best, "{wished:?} lies in {chosen:?}");
    }
}
