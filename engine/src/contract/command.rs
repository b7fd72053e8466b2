//! What callers ask of the engine. Commands are checked when they are made, so that the state machine sees only
//! well-formed ones: text within its bounds, lines summed, quantities positive.

mod choice;

pub use choice::Choice;

use std::collections::HashMap;

use smallvec::SmallVec;

use crate::base::ids::{BuyerId, OrderNo, Reason, RequestId, SkuId, TraceId, WarehouseId};
use crate::base::limits::{MAX_LINE_QUANTITY, MAX_ORDER_LINES, MAX_STOCK_UNITS, MAX_TTL_SECONDS};

/// One request to the engine, with the trace of whoever sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// The caller's trace, kept with the event that the command causes.
    pub trace: Option<TraceId>,
    /// What is asked.
    pub action: Action,
}

impl From<Action> for Command {
    fn from(action: Action) -> Self {
        Self { trace: None, action }
    }
}

/// The commands of the HTTP contract.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Creates the stock of a SKU in a warehouse.
    CreateStock(CreateStock),
    /// Restock, deduct or adjust.
    ChangeStock(ChangeStock),
    /// Suspend or resume.
    SetStatus(SetStatus),
    /// Holds stock for an order.
    Reserve(Reserve),
    /// Turns holds into a sale; after expiry or release, re-reserves and confirms in one step (a late payment).
    Confirm(Confirm),
    /// Gives holds back; for an order never seen, leaves a tombstone.
    Release(Release),
    /// Moves the expiry.
    Extend(Extend),
    /// Brings sold units back to available.
    Return(Return),
    /// Reads an order; decided in its place among the commands, so a caller reads its own writes.
    GetOrder(OrderNo),
}

/// See [`Action::CreateStock`]. The same again is a repeat; another quantity is refused.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateStock {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// The first quantity, 0 to [`MAX_STOCK_UNITS`].
    pub quantity: u64,
    /// Whether each unit that is confirmed gets a serial number. The same for all warehouses of a SKU.
    pub serialized: bool,
}

/// See [`Action::ChangeStock`].
#[derive(Debug, Clone, PartialEq)]
pub struct ChangeStock {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// Which of the three.
    pub kind: ChangeKind,
    /// Units: positive for restock and deduct, signed and not 0 for adjust; at most [`MAX_STOCK_UNITS`] either way.
    pub quantity: i64,
    /// The id of this change, unique within the SKU: the same again is answered the same and changes nothing.
    pub request_id: RequestId,
    /// Why, for the journal.
    pub reason: Option<Reason>,
}

/// How a change of stock is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// Units came in.
    Restock,
    /// Units left other than by an order.
    Deduct,
    /// A correction, up or down.
    Adjust,
}

/// See [`Action::SetStatus`].
#[derive(Debug, Clone, PartialEq)]
pub struct SetStatus {
    /// What.
    pub sku_id: SkuId,
    /// One warehouse, or all that the SKU has.
    pub warehouse_id: Option<WarehouseId>,
    /// The status it shall have.
    pub status: StockStatus,
}

/// Whether new reservations are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum StockStatus {
    /// Yes.
    #[default]
    OnSale,
    /// No; what is held can be confirmed and released.
    Suspended,
}

/// See [`Action::Reserve`].
#[derive(Debug, Clone, PartialEq)]
pub struct Reserve {
    /// The caller's number for the order.
    pub order_no: OrderNo,
    /// What it holds.
    pub lines: Lines,
    /// For how long, 1 to [`MAX_TTL_SECONDS`] seconds.
    pub ttl_seconds: u32,
    /// Who buys.
    pub buyer_id: Option<BuyerId>,
    /// What to do when not every line can be held.
    pub mode: Mode,
    /// Which lines lie in whatever warehouse has them; `None`: each where it says.
    pub choice: Option<Box<Choice>>,
}

/// What a reservation does when it can't hold everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// Holds every line in full or is refused.
    #[default]
    AllOrNothing,
    /// Holds what it can of each line; refused only when it can hold nothing.
    BestEffort,
}

/// See [`Action::Confirm`].
#[derive(Debug, Clone, PartialEq)]
pub struct Confirm {
    /// Which order.
    pub order_no: OrderNo,
    /// A part of it, or all that it holds.
    pub part: Option<Part>,
}

/// See [`Action::Release`].
#[derive(Debug, Clone, PartialEq)]
pub struct Release {
    /// Which order.
    pub order_no: OrderNo,
    /// A part of it, or all that it holds.
    pub part: Option<Part>,
    /// Why, for the journal.
    pub reason: Option<Reason>,
}

/// A part of an order, to be confirmed or released. Without a `request_id` its own content is its identity: the same
/// lines again are a repeat. Who wants the same part twice gives each a `request_id`.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// How much of which lines.
    pub lines: Lines,
    /// Tells two parts with the same lines from a repeat.
    pub request_id: Option<RequestId>,
}

/// See [`Action::Extend`]. Counted from now, so a repeat is harmless and needs no id.
#[derive(Debug, Clone, PartialEq)]
pub struct Extend {
    /// Which order.
    pub order_no: OrderNo,
    /// For how long from now, 1 to [`MAX_TTL_SECONDS`] seconds.
    pub ttl_seconds: u32,
}

/// See [`Action::Return`].
#[derive(Debug, Clone, PartialEq)]
pub struct Return {
    /// Which order.
    pub order_no: OrderNo,
    /// The id of this return, unique within the order.
    pub request_id: RequestId,
    /// A part, or everything that was confirmed and not returned yet.
    pub lines: Option<Lines>,
}

/// How much of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// Units, 1 to [`MAX_LINE_QUANTITY`].
    pub quantity: u32,
}

/// The lines of an order: 1 to [`MAX_ORDER_LINES`], each (sku, warehouse) once, in the order of the request.
#[derive(Debug, Clone)]
pub struct Lines(SmallVec<[Line; 1]>);

/// A field of a command that is out of its bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct InvalidField {
    /// The field, as callers write it: `lines[3].quantity`.
    pub field: String,
    /// What is wrong, as the rest of a sentence that begins with the field.
    pub problem: String,
}

impl InvalidField {
    /// A field and what is wrong with it.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

impl Lines {
    /// Sums lines of the same (sku, warehouse) and checks the bounds.
    ///
    /// # Errors
    /// [`InvalidField`] when there are no lines, too many, or a quantity (single or summed) is 0 or above
    /// [`MAX_LINE_QUANTITY`].
    pub fn new(lines: impl IntoIterator<Item = Line>) -> Result<Self, InvalidField> {
        let mut summed: SmallVec<[Line; 1]> = SmallVec::new();
        let mut places: HashMap<(SkuId, WarehouseId), usize> = HashMap::new();
        for (index, line) in lines.into_iter().enumerate() {
            let field = || format!("lines[{index}].quantity");
            if index == MAX_ORDER_LINES {
                return Err(InvalidField::new("lines", format!("must be at most {MAX_ORDER_LINES}")));
            }
            if !(1..=MAX_LINE_QUANTITY).contains(&line.quantity) {
                return Err(InvalidField::new(field(), format!("must be 1 to {MAX_LINE_QUANTITY}")));
            }
            // The usual order has one line and needs no map.
            let place = match summed.len() {
                0 => None,
                1 => (summed[0].sku_id == line.sku_id && summed[0].warehouse_id == line.warehouse_id)
                    .then_some(0),
                _ => places.get(&(line.sku_id.clone(), line.warehouse_id)).copied(),
            };
            if let Some(place) = place {
                let sum = summed[place].quantity.checked_add(line.quantity);
                summed[place].quantity = sum.filter(|sum| *sum <= MAX_LINE_QUANTITY).ok_or_else(|| {
                    InvalidField::new(field(), format!("makes a sum above {MAX_LINE_QUANTITY} for its SKU"))
                })?;
                continue;
            }
            if summed.len() == 1 {
                places.insert((summed[0].sku_id.clone(), summed[0].warehouse_id), 0);
            }
            if !summed.is_empty() {
                places.insert((line.sku_id.clone(), line.warehouse_id), summed.len());
            }
            summed.push(line);
        }
        if summed.is_empty() {
            return Err(InvalidField::new("lines", "must not be empty"));
        }
        Ok(Self(summed))
    }

    /// Some lines of others, which are within the bounds; at least one.
    pub(crate) fn some_of(lines: impl IntoIterator<Item = Line>) -> Self {
        Self(lines.into_iter().collect())
    }

    /// The lines, in the order of the request.
    #[must_use]
    pub fn as_slice(&self) -> &[Line] {
        &self.0
    }

    /// The first line; there is always one.
    #[must_use]
    pub fn first(&self) -> &Line {
        &self.0[0]
    }

    /// A number that is the same for the same lines in any order, and almost surely another for others.
    /// XXH3-64, stable: it is kept in the journal.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let of = |line: &Line| {
            let mut bytes = Vec::with_capacity(line.sku_id.as_str().len() + 8);
            bytes.extend_from_slice(&line.warehouse_id.0.to_le_bytes());
            bytes.extend_from_slice(&line.quantity.to_le_bytes());
            bytes.extend_from_slice(line.sku_id.as_str().as_bytes());
            xxhash_rust::xxh3::xxh3_64(&bytes)
        };
        self.0.iter().map(of).fold(0, u64::wrapping_add)
    }
}

/// The same lines in any order are the same.
impl PartialEq for Lines {
    fn eq(&self, other: &Self) -> bool {
        if self.0.len() != other.0.len() || self.0 == other.0 {
            return self.0.len() == other.0.len();
        }
        let sorted = |lines: &Self| {
            let mut sorted = lines.0.clone();
            sorted.sort_by(|a, b| (&a.sku_id, a.warehouse_id).cmp(&(&b.sku_id, b.warehouse_id)));
            sorted
        };
        sorted(self) == sorted(other)
    }
}

impl Command {
    /// Checks the bounds of what types alone don't bound. The engine does so at its door.
    ///
    /// # Errors
    /// [`InvalidField`] that names the field.
    pub fn validate(&self) -> Result<(), InvalidField> {
        match &self.action {
            Action::CreateStock(c) if c.quantity > MAX_STOCK_UNITS => {
                Err(InvalidField::new("quantity", format!("must be 0 to {MAX_STOCK_UNITS}")))
            }
            Action::ChangeStock(c) => {
                let size_ok = (1..=MAX_STOCK_UNITS).contains(&c.quantity.unsigned_abs());
                match c.kind {
                    ChangeKind::Adjust if !size_ok => Err(InvalidField::new(
                        "quantity",
                        format!("must be -{MAX_STOCK_UNITS} to {MAX_STOCK_UNITS} and not 0"),
                    )),
                    ChangeKind::Restock | ChangeKind::Deduct if !size_ok || c.quantity < 0 => {
                        Err(InvalidField::new("quantity", format!("must be 1 to {MAX_STOCK_UNITS}")))
                    }
                    _ => Ok(()),
                }
            }
            Action::Reserve(Reserve { ttl_seconds, .. }) | Action::Extend(Extend { ttl_seconds, .. })
                if !(1..=MAX_TTL_SECONDS).contains(ttl_seconds) =>
            {
                Err(InvalidField::new("ttl_seconds", format!("must be 1 to {MAX_TTL_SECONDS}")))
            }
            Action::Reserve(reserve) => reserve.check_choice(),
            _ => Ok(()),
        }
    }
}

impl Action {
    /// A rough size, in lines of an order.
    pub(crate) fn line_count(&self) -> usize {
        match self {
            Self::Reserve(c) => c.lines.as_slice().len(),
            Self::Confirm(Confirm { part, .. }) | Self::Release(Release { part, .. }) => {
                part.as_ref().map_or(1, |part| part.lines.as_slice().len())
            }
            Self::Return(c) => c.lines.as_ref().map_or(1, |lines| lines.as_slice().len()),
            Self::CreateStock(_)
            | Self::ChangeStock(_)
            | Self::SetStatus(_)
            | Self::Extend(_)
            | Self::GetOrder(_) => 1,
        }
    }
}

/// The content of a stock request as a number; XXH3-64, stable.
pub(crate) fn change_fingerprint(kind: ChangeKind, warehouse_id: WarehouseId, quantity: i64) -> u64 {
    let kind: u8 = match kind {
        ChangeKind::Restock => 1,
        ChangeKind::Deduct => 2,
        ChangeKind::Adjust => 3,
    };
    let mut bytes = [0; 13];
    bytes[0] = kind;
    bytes[1..5].copy_from_slice(&warehouse_id.0.to_le_bytes());
    bytes[5..].copy_from_slice(&quantity.to_le_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(sku: &str, quantity: u32) -> Line {
        Line { sku_id: SkuId::new(sku).unwrap(), warehouse_id: WarehouseId(1), quantity }
    }

    #[test]
    fn lines_of_one_stock_are_summed() {
        let lines =
            Lines::new([line("a", 1), line("b", 2), line("a", 3), line("c", 1), line("b", 4)]).unwrap();
        let got: Vec<_> = lines.as_slice().iter().map(|l| (l.sku_id.as_str(), l.quantity)).collect();
        assert_eq!(got, [("a", 4), ("b", 6), ("c", 1)]);
        let doubled = Lines::new([line("a", 1), line("a", 2)]).unwrap();
        assert_eq!(doubled.as_slice().len(), 1);
    }

    #[test]
    fn lines_have_bounds() {
        assert_eq!(Lines::new([]).unwrap_err().field, "lines");
        assert_eq!(Lines::new([line("a", 0)]).unwrap_err().field, "lines[0].quantity");
        assert!(Lines::new([line("a", MAX_LINE_QUANTITY), line("a", 1)]).is_err());
        let many = |n: usize| (0..n).map(|i| line(&format!("s{i}"), 1)).collect::<Vec<_>>();
        assert!(Lines::new(many(MAX_ORDER_LINES)).is_ok());
        assert!(Lines::new(many(MAX_ORDER_LINES + 1)).is_err());
    }

    #[test]
    fn the_order_of_lines_does_not_matter() {
        let one = Lines::new([line("a", 1), line("b", 2)]).unwrap();
        let two = Lines::new([line("b", 2), line("a", 1)]).unwrap();
        let other = Lines::new([line("b", 1), line("a", 2)]).unwrap();
        assert_eq!(one, two);
        assert_eq!(one.fingerprint(), two.fingerprint());
        assert_ne!(one, other);
        assert_ne!(one.fingerprint(), other.fingerprint());
    }
}
