//! Orders some of whose lines may lie in any warehouse: how such lines are summed, checked, and told apart from others.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::{InvalidField, Line, Lines, Reserve};
use crate::base::ids::{SkuId, WarehouseId};
use crate::base::limits::{MAX_LINE_QUANTITY, MAX_ORDER_LINES, MAX_WAREHOUSES_PER_SKU};

/// Keeps what was asked apart from the partial requests of an order, whose seeds are 1 to 3. Stands in the journal:
/// never changes.
const ASKED_SEED: u64 = 4;

/// The warehouses of some lines are chosen by whoever decides: one that can serve the whole order before others, else
/// the fewest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Choice {
    /// The lines (their index, ascending) whose `warehouse_id` says nothing; each SKU at most once. At least one.
    pub open: Vec<u16>,
    /// Warehouses that come before others, the best first; at most [`MAX_WAREHOUSES_PER_SKU`].
    pub prefer: Vec<WarehouseId>,
}

impl Choice {
    /// Whether the line at an index is open.
    #[must_use]
    pub fn is_open(&self, index: usize) -> bool {
        u16::try_from(index).is_ok_and(|index| self.open.binary_search(&index).is_ok())
    }
}

impl Lines {
    /// As [`Lines::new`], of lines some of which name no warehouse; gives the indices of those too. Open lines of a
    /// SKU are summed with each other, not with those that name a warehouse.
    ///
    /// # Errors
    /// As of [`Lines::new`].
    pub fn with_open(
        lines: impl IntoIterator<Item = (SkuId, Option<WarehouseId>, u32)>,
    ) -> Result<(Self, Vec<u16>), InvalidField> {
        let mut summed: SmallVec<[Line; 1]> = SmallVec::new();
        let mut open = Vec::new();
        let mut places: HashMap<(SkuId, Option<WarehouseId>), usize> = HashMap::new();
        for (index, (sku_id, warehouse_id, quantity)) in lines.into_iter().enumerate() {
            let field = || format!("lines[{index}].quantity");
            if index == MAX_ORDER_LINES {
                return Err(InvalidField::new("lines", format!("must be at most {MAX_ORDER_LINES}")));
            }
            if !(1..=MAX_LINE_QUANTITY).contains(&quantity) {
                return Err(InvalidField::new(field(), format!("must be 1 to {MAX_LINE_QUANTITY}")));
            }
            let place = *places.entry((sku_id.clone(), warehouse_id)).or_insert(summed.len());
            if let Some(line) = summed.get_mut(place) {
                let sum = line.quantity.checked_add(quantity).filter(|sum| *sum <= MAX_LINE_QUANTITY);
                line.quantity = sum.ok_or_else(|| {
                    InvalidField::new(field(), format!("makes a sum above {MAX_LINE_QUANTITY} for its SKU"))
                })?;
                continue;
            }
            if warehouse_id.is_none() {
                open.push(u16::try_from(place).expect("at most MAX_ORDER_LINES"));
            }
            summed.push(Line { sku_id, warehouse_id: warehouse_id.unwrap_or(WarehouseId::ANY), quantity });
        }
        if summed.is_empty() {
            return Err(InvalidField::new("lines", "must not be empty"));
        }
        Ok((Self(summed), open))
    }
}

impl Reserve {
    /// What was asked, as a number, when warehouses are to be chosen: the lines that they are chosen for without
    /// their warehouse, the others with it; the same in any order. XXH3-64, stable: it is kept in the journal.
    #[must_use]
    pub fn asked(&self) -> Option<u64> {
        let choice = self.choice.as_ref()?;
        let of = |(index, line): (usize, &Line)| {
            let warehouse_id = if choice.is_open(index) { None } else { Some(line.warehouse_id) };
            let mut bytes = Vec::with_capacity(line.sku_id.as_str().len() + 9);
            bytes.push(u8::from(warehouse_id.is_some()));
            bytes.extend_from_slice(&warehouse_id.map_or(0, |id| id.0).to_le_bytes());
            bytes.extend_from_slice(&line.quantity.to_le_bytes());
            bytes.extend_from_slice(line.sku_id.as_str().as_bytes());
            xxhash_rust::xxh3::xxh3_64(&bytes)
        };
        let sum = self.lines.as_slice().iter().enumerate().map(of).fold(0, u64::wrapping_add);
        Some(xxhash_rust::xxh3::xxh3_64_with_seed(&sum.to_le_bytes(), ASKED_SEED))
    }

    /// Checks what the types of a choice don't bound.
    pub(super) fn check_choice(&self) -> Result<(), InvalidField> {
        let Some(choice) = self.choice.as_deref() else { return Ok(()) };
        let lines = self.lines.as_slice();
        let ascends = choice.open.windows(2).all(|pair| pair[0] < pair[1]);
        let last = choice.open.last().map(|last| usize::from(*last));
        if !ascends || last.is_none_or(|last| last >= lines.len()) {
            return Err(InvalidField::new("warehouses", "must leave some of the lines open, each once"));
        }
        if choice.prefer.len() > MAX_WAREHOUSES_PER_SKU {
            return Err(InvalidField::new("prefer", format!("must be at most {MAX_WAREHOUSES_PER_SKU}")));
        }
        // Units chosen for a line may come to lie with those of another line of its SKU.
        let mut sums: HashMap<&SkuId, (u32, bool)> = HashMap::new();
        for (index, line) in lines.iter().enumerate() {
            let (sum, open) = sums.entry(&line.sku_id).or_default();
            let field = format!("lines[{index}]");
            if choice.is_open(index) && std::mem::replace(open, true) {
                return Err(InvalidField::new(field, "is a second open line of its SKU"));
            }
            // Nobody could tell it from an open one where there is room for a number only.
            if !choice.is_open(index) && line.warehouse_id == WarehouseId::ANY {
                let problem =
                    format!("must be 0 to {} in an order that leaves warehouses open", u32::MAX - 1);
                return Err(InvalidField::new(format!("{field}.warehouse_id"), problem));
            }
            *sum = sum.saturating_add(line.quantity);
            if *sum > MAX_LINE_QUANTITY {
                let problem = format!("makes a sum above {MAX_LINE_QUANTITY} for its SKU");
                return Err(InvalidField::new(format!("{field}.quantity"), problem));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::OrderNo;
    use crate::contract::command::{Action, Command, Mode};

    type Wish = (&'static str, Option<u32>, u32);

    fn summed(lines: &[Wish]) -> Result<(Lines, Vec<u16>), InvalidField> {
        let line = |(sku, warehouse, quantity): &Wish| {
            (SkuId::new(sku).unwrap(), warehouse.map(WarehouseId), *quantity)
        };
        Lines::with_open(lines.iter().map(line))
    }

    fn reserve(lines: &[Wish]) -> Reserve {
        let (lines, open) = summed(lines).unwrap();
        Reserve {
            order_no: OrderNo::new("O").unwrap(),
            lines,
            ttl_seconds: 1,
            buyer_id: None,
            mode: Mode::AllOrNothing,
            choice: Some(Box::new(Choice { open, prefer: Vec::new() })),
        }
    }

    #[test]
    fn open_and_named_lines_of_one_sku_are_summed_apart() {
        let wishes = [
            ("a", None, 1),
            ("a", Some(1), 2),
            ("b", Some(1), 1),
            ("a", None, 3),
            ("a", Some(1), 4),
            ("b", None, 7),
        ];
        let (lines, open) = summed(&wishes).unwrap();
        let got: Vec<_> =
            lines.as_slice().iter().map(|l| (l.sku_id.as_str(), l.warehouse_id, l.quantity)).collect();
        let (any, one) = (WarehouseId::ANY, WarehouseId(1));
        assert_eq!(got, [("a", any, 4), ("a", one, 6), ("b", one, 1), ("b", any, 7)]);
        assert_eq!(open, [0, 3]);
    }

    #[test]
    fn open_lines_have_the_bounds_of_others() {
        let field = |lines: &[Wish]| summed(lines).unwrap_err().field;
        assert_eq!(field(&[]), "lines");
        assert_eq!(field(&[("a", None, 0)]), "lines[0].quantity");
        assert_eq!(field(&[("a", None, MAX_LINE_QUANTITY), ("a", None, 1)]), "lines[1].quantity");
        let names: Vec<_> = (0..=MAX_ORDER_LINES).map(|i| SkuId::new(&format!("s{i}")).unwrap()).collect();
        let many = |n: usize| Lines::with_open(names[..n].iter().map(|sku_id| (sku_id.clone(), None, 1)));
        assert_eq!(many(MAX_ORDER_LINES).unwrap().1.len(), MAX_ORDER_LINES);
        assert!(many(MAX_ORDER_LINES + 1).is_err());
    }

    #[test]
    fn a_choice_that_makes_no_sense_is_refused() {
        let field = |reserve: Reserve| Command::from(Action::Reserve(reserve)).validate().unwrap_err().field;
        let with = |open: &[u16], prefer: usize| {
            let prefer = vec![WarehouseId(1); prefer];
            let choice = Some(Box::new(Choice { open: open.to_vec(), prefer }));
            Reserve { choice, ..reserve(&[("a", None, 1), ("b", None, 1), ("a", Some(1), 1)]) }
        };
        assert_eq!(Command::from(Action::Reserve(with(&[0, 1], MAX_WAREHOUSES_PER_SKU))).validate(), Ok(()));
        for open in [&[][..], &[3], &[1, 0], &[1, 1]] {
            assert_eq!(field(with(open, 0)), "warehouses", "{open:?}");
        }
        assert_eq!(field(with(&[0, 1, 2], 0)), "lines[2]");
        assert_eq!(field(reserve(&[("a", None, 1), ("b", Some(u32::MAX), 1)])), "lines[1].warehouse_id");
        assert_eq!(field(with(&[0], MAX_WAREHOUSES_PER_SKU + 1)), "prefer");
        // Together they may come to lie on one stock.
        let much = reserve(&[("a", None, MAX_LINE_QUANTITY), ("a", Some(1), 1)]);
        assert_eq!(field(much), "lines[1].quantity");
    }

    #[test]
    fn what_was_asked_is_the_same_in_any_order_and_another_for_other_lines() {
        let asked = |lines: &[Wish]| reserve(lines).asked().unwrap();
        let one = asked(&[("a", None, 1), ("b", Some(2), 3)]);
        assert_eq!(asked(&[("b", Some(2), 3), ("a", None, 1)]), one);
        let others: [&[Wish]; 5] = [
            &[("a", None, 1)],
            &[("a", None, 2), ("b", Some(2), 3)],
            &[("a", None, 1), ("b", Some(3), 3)],
            &[("a", None, 1), ("b", None, 3)],
            &[("a", None, 1), ("c", Some(2), 3)],
        ];
        for other in others {
            assert_ne!(asked(other), one, "{other:?}");
        }
        let prefers = Reserve {
            choice: Some(Box::new(Choice { open: vec![0], prefer: vec![WarehouseId(2)] })),
            ..reserve(&[("a", None, 1), ("b", Some(2), 3)])
        };
        assert_eq!(prefers.asked(), Some(one), "what is preferred may differ in a repeat");
        assert_eq!(Reserve { choice: None, ..prefers }.asked(), None);
    }

    /// Fixed for ever: journals that exist depend on it.
    #[test]
    fn the_number_of_what_was_asked_is_frozen() {
        let asked = reserve(&[("1001", None, 2), ("85123A", Some(7), 1)]).asked().unwrap();
        assert_eq!(asked, 6_630_013_662_538_519_216);
    }
}
