//! Where an order whose warehouses are to be chosen holds what: the lines that it would have had if its caller had
//! known.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::choose::{Open, choose, sum};
use super::shard_state::State;
use crate::base::ids::{SkuId, WarehouseId};
use crate::base::limits::MAX_ORDER_LINES;
use crate::contract::command::{Choice, InvalidField, Line, Mode, Reserve, StockStatus};
use crate::contract::outcome::{Refusal, ShortLine};

/// What is known of a line before anything is chosen.
enum Seen {
    Named,
    Open {
        /// Units that can be held.
        units: u64,
        /// Where the line is said to be if nothing can.
        nowhere: WarehouseId,
    },
}

impl State {
    /// The lines with their warehouses: those that are named as they are, each open one where it was chosen to lie,
    /// in pieces if need be. Units of one stock are one line. What is asked for beyond what there is (best effort) is
    /// asked for in its first place.
    ///
    /// Refuses what can't be held as a reserve of named lines does; a shortage of an open line is of all warehouses
    /// together.
    pub(super) fn chosen_lines(&self, c: &Reserve, choice: &Choice) -> Result<SmallVec<[Line; 1]>, Refusal> {
        let lines = c.lines.as_slice();
        let all_or_nothing = c.mode == Mode::AllOrNothing;
        let mut short = Vec::new();
        let mut suspended = 0;
        // What the named lines hold, by stock: the open ones get the rest.
        let mut taken: HashMap<u32, u64> = HashMap::new();
        let mut used = Vec::new();
        for (_, line) in lines.iter().enumerate().filter(|(index, _)| !choice.is_open(*index)) {
            let number = self.stock_number(&line.sku_id, line.warehouse_id)?;
            let free = super::holds::sellable(self.stocks.get(number));
            let held = free.unwrap_or(0).min(line.quantity.into());
            taken.insert(number, held);
            if held > 0 && !used.contains(&line.warehouse_id) {
                used.push(line.warehouse_id);
            }
        }
        let mut open = Vec::with_capacity(choice.open.len());
        let mut seen = Vec::with_capacity(lines.len());
        for (index, line) in lines.iter().enumerate() {
            if !choice.is_open(index) {
                let stock = self.stocks.get(self.stock_number(&line.sku_id, line.warehouse_id)?);
                if stock.status == StockStatus::Suspended {
                    suspended += 1;
                    if all_or_nothing {
                        let (sku_id, warehouse_id) = (line.sku_id.clone(), line.warehouse_id);
                        return Err(Refusal::SkuSuspended { sku_id, warehouse_id });
                    }
                }
                // Of what is suspended nothing can be had, as where every line names its warehouse.
                let is_on_sale = stock.status == StockStatus::OnSale;
                let available = if is_on_sale { stock.levels.available } else { 0 };
                if available < u64::from(line.quantity) {
                    short.push(short_line(line, available));
                }
                seen.push(Seen::Named);
                continue;
            }
            let numbers = self.stocks.numbers(&line.sku_id);
            let named = numbers.iter().map(|number| self.stocks.get(*number).warehouse_id);
            let prefers =
                |id: &WarehouseId| choice.prefer.iter().position(|known| known == id).unwrap_or(usize::MAX);
            let Some(nowhere) = named.min_by_key(|id| (prefers(id), *id)) else {
                return Err(Refusal::UnknownSku { sku_id: line.sku_id.clone(), warehouse_id: None });
            };
            let on_sale = |number: &&u32| self.stocks.get(**number).status == StockStatus::OnSale;
            if !numbers.iter().any(|number| on_sale(&number)) {
                suspended += 1;
                if all_or_nothing {
                    return Err(Refusal::SkuSuspended { sku_id: line.sku_id.clone(), warehouse_id: nowhere });
                }
            }
            let rest = |number: &u32| {
                let stock = self.stocks.get(*number);
                let taken = taken.get(number).copied().unwrap_or(0);
                (stock.warehouse_id, stock.levels.available.saturating_sub(taken))
            };
            let there: Vec<_> =
                numbers.iter().filter(on_sale).map(rest).filter(|(_, units)| *units > 0).collect();
            let available = sum(&there);
            if available < u64::from(line.quantity) {
                short.push(short_line(line, available));
            }
            let units = available.min(line.quantity.into());
            seen.push(Seen::Open { units, nowhere });
            open.push(Open { units, there });
        }
        let nothing = taken.values().chain(open.iter().map(|line| &line.units)).all(|units| *units == 0);
        if nothing && suspended == lines.len() {
            let first = lines.first().map(|line| &line.sku_id);
            let warehouse_id = match seen.first() {
                Some(Seen::Open { nowhere, .. }) => *nowhere,
                _ => c.lines.first().warehouse_id,
            };
            let sku_id = first.expect("an order has a line").clone();
            return Err(Refusal::SkuSuspended { sku_id, warehouse_id });
        }
        if nothing || (all_or_nothing && !short.is_empty()) {
            return Err(Refusal::InsufficientStock { lines: short });
        }
        let mut pieces = choose(&open, &used, &choice.prefer).into_iter();
        let mut placed = Placed::default();
        for (line, seen) in lines.iter().zip(seen) {
            match seen {
                Seen::Named => placed.add(&line.sku_id, line.warehouse_id, line.quantity),
                Seen::Open { units, nowhere } => {
                    let pieces = pieces.next().unwrap_or_default();
                    // More than there is, if best effort asked for it.
                    let mut beyond = u64::from(line.quantity).saturating_sub(units);
                    if pieces.is_empty() {
                        placed.add(&line.sku_id, nowhere, line.quantity);
                    }
                    for (warehouse_id, units) in pieces {
                        let quantity = u32::try_from(units + std::mem::take(&mut beyond));
                        placed.add(
                            &line.sku_id,
                            warehouse_id,
                            quantity.expect("at most the quantity of the line"),
                        );
                    }
                }
            }
        }
        if placed.lines.len() > MAX_ORDER_LINES {
            return Err(too_many_stocks());
        }
        Ok(placed.lines)
    }
}

/// An order whose open lines are cut into more pieces than an order has lines.
pub(crate) fn too_many_stocks() -> Refusal {
    let problem =
        format!("would lie in more than {MAX_ORDER_LINES} stocks: ask for fewer SKUs or units at a time");
    InvalidField::new("lines", problem).into()
}

/// Lines, each stock once.
#[derive(Default)]
struct Placed {
    lines: SmallVec<[Line; 1]>,
    places: HashMap<(SkuId, WarehouseId), usize>,
}

impl Placed {
    fn add(&mut self, sku_id: &SkuId, warehouse_id: WarehouseId, quantity: u32) {
        let place = *self.places.entry((sku_id.clone(), warehouse_id)).or_insert(self.lines.len());
        match self.lines.get_mut(place) {
            // No overflow: a reserve whose lines of one SKU are more than MAX_LINE_QUANTITY in all is not let in.
            Some(line) => line.quantity = line.quantity.saturating_add(quantity),
            None => self.lines.push(Line { sku_id: sku_id.clone(), warehouse_id, quantity }),
        }
    }
}

fn short_line(line: &Line, available: u64) -> ShortLine {
    ShortLine {
        sku_id: line.sku_id.clone(),
        warehouse_id: line.warehouse_id,
        requested: u64::from(line.quantity),
        available,
    }
}
