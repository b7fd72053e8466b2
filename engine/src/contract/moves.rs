//! What events do to stocks, one move each: the rows of the stock journal.

use super::event::{Change, ConfirmedLine, Event, HeldLine, HoldMovedLine, MovedLine, ReservedLine};
use super::hold::{HoldMove, HoldPurpose};
use crate::base::ids::{OrderNo, Reason, RequestId, SkuId, WarehouseId};
use crate::contract::command::{ChangeKind, StockStatus};
use crate::contract::units::{Delta, Levels, Serials};

/// What one event did to one stock, as the stock journal keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct StockMove {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// By what.
    pub kind: MoveKind,
    /// The order, if it was one.
    pub order_no: Option<OrderNo>,
    /// The request, where it has an id.
    pub request_id: Option<RequestId>,
    /// Why, in the caller's words.
    pub reason: Option<Reason>,
    /// Units moved.
    pub delta: Delta,
    /// The serial numbers that were given.
    pub serials: Option<Serials>,
    /// The levels after; their version numbers the moves of a stock from 1 without gap.
    pub after: Levels,
}

/// The kinds of [`StockMove`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MoveKind {
    /// The stock was created.
    Created,
    /// Units came in.
    Restocked,
    /// Units left other than by an order.
    Deducted,
    /// A correction.
    Adjusted,
    /// No new reservations from here on.
    Suspended,
    /// New reservations again.
    Resumed,
    /// available → reserved.
    Reserved,
    /// reserved (or, of a late payment, available) → sold.
    Confirmed,
    /// reserved → available, by the caller.
    Released,
    /// reserved → available, because the time was over.
    Expired,
    /// sold → available.
    Returned,
    /// A row of the store was put right.
    Repaired,
}

impl MoveKind {
    /// All kinds with their names, which are part of the HTTP contract and stand in the store.
    pub const NAMES: [(Self, &'static str); 12] = [
        (Self::Created, "created"),
        (Self::Restocked, "restocked"),
        (Self::Deducted, "deducted"),
        (Self::Adjusted, "adjusted"),
        (Self::Suspended, "suspended"),
        (Self::Resumed, "resumed"),
        (Self::Reserved, "reserved"),
        (Self::Confirmed, "confirmed"),
        (Self::Released, "released"),
        (Self::Expired, "expired"),
        (Self::Returned, "returned"),
        (Self::Repaired, "repaired"),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let known = Self::NAMES.iter().find(|(kind, _)| *kind == self);
        known.map_or("", |(_, name)| name)
    }

    /// The kind with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
    }
}

impl HoldMove {
    /// As what it stands in the stock journal, if stock moves.
    fn move_kind(self) -> Option<MoveKind> {
        match self {
            Self::Sold => Some(MoveKind::Confirmed),
            Self::Released => Some(MoveKind::Released),
            Self::Expired => Some(MoveKind::Expired),
            Self::Returned => Some(MoveKind::Returned),
            Self::Over => None,
        }
    }
}

impl Event {
    /// What the event did to stocks, in its order.
    #[must_use]
    pub fn stock_moves(&self) -> Vec<StockMove> {
        let plain = |sku_id: &SkuId, warehouse_id, kind, delta, after| StockMove {
            sku_id: sku_id.clone(),
            warehouse_id,
            kind,
            order_no: None,
            request_id: None,
            reason: None,
            delta,
            serials: None,
            after,
        };
        let moved =
            |order_no: &OrderNo, lines: &[MovedLine], kind, delta: fn(u32) -> Delta| -> Vec<StockMove> {
                let of_line = |line: &MovedLine| {
                    let moved =
                        plain(&line.sku_id, line.warehouse_id, kind, delta(line.quantity), line.after?);
                    Some(StockMove { order_no: Some(order_no.clone()), ..moved })
                };
                lines.iter().filter(|line| line.quantity > 0).filter_map(of_line).collect()
            };
        let asked = |moves: Vec<StockMove>, request_id: Option<&RequestId>, reason: Option<&Reason>| {
            let fill = |m| StockMove { request_id: request_id.cloned(), reason: reason.cloned(), ..m };
            moves.into_iter().map(fill).collect()
        };
        match &self.change {
            Change::StockCreated { sku_id, warehouse_id, quantity, .. } => {
                let after = Levels { available: *quantity, reserved: 0, sold: 0, version: 1 };
                // At most MAX_STOCK_UNITS, far below 2^63.
                let delta = Delta::supply(i64::try_from(*quantity).unwrap_or(i64::MAX));
                vec![plain(sku_id, *warehouse_id, MoveKind::Created, delta, after)]
            }
            Change::StockChanged { sku_id, warehouse_id, kind, delta, request_id, reason, after } => {
                let kind = match kind {
                    ChangeKind::Restock => MoveKind::Restocked,
                    ChangeKind::Deduct => MoveKind::Deducted,
                    ChangeKind::Adjust => MoveKind::Adjusted,
                };
                let moves = vec![plain(sku_id, *warehouse_id, kind, Delta::supply(*delta), *after)];
                asked(moves, Some(request_id), reason.as_ref())
            }
            Change::StatusChanged { sku_id, warehouses, status } => {
                let kind = match status {
                    StockStatus::OnSale => MoveKind::Resumed,
                    StockStatus::Suspended => MoveKind::Suspended,
                };
                let of_warehouse = |(warehouse_id, after): &(WarehouseId, Levels)| {
                    plain(sku_id, *warehouse_id, kind, Delta::default(), *after)
                };
                warehouses.iter().map(of_warehouse).collect()
            }
            Change::Reserved { order_no, lines, .. } => {
                let of_line = |line: &ReservedLine| {
                    let (kind, delta) = (MoveKind::Reserved, Delta::hold(line.held));
                    let moved = plain(&line.sku_id, line.warehouse_id, kind, delta, line.after?);
                    Some(StockMove { order_no: Some(order_no.clone()), ..moved })
                };
                lines.iter().filter(|line| line.held > 0).filter_map(of_line).collect()
            }
            Change::Confirmed { order_no, request, lines, .. } => {
                let of_line = |line: &ConfirmedLine| {
                    let (kind, delta) = (MoveKind::Confirmed, Delta::sell(line.held, line.late));
                    let moved = plain(&line.sku_id, line.warehouse_id, kind, delta, line.after?);
                    Some(StockMove { order_no: Some(order_no.clone()), serials: line.serials(), ..moved })
                };
                let moves = lines.iter().filter_map(of_line).collect();
                asked(moves, request.as_ref().and_then(|r| r.request_id.as_ref()), None)
            }
            Change::Released { order_no, request, reason, lines, .. } => {
                let moves = moved(order_no, lines, MoveKind::Released, Delta::unhold);
                asked(moves, request.as_ref().and_then(|r| r.request_id.as_ref()), reason.as_ref())
            }
            Change::Expired { order_no, lines, .. } => {
                moved(order_no, lines, MoveKind::Expired, Delta::unhold)
            }
            Change::Returned { order_no, request, lines, .. } => {
                let moves = moved(order_no, lines, MoveKind::Returned, Delta::give_back);
                asked(moves, request.request_id.as_ref(), None)
            }
            Change::Cancelled { .. }
            | Change::Extended { .. }
            | Change::Forgotten { .. }
            | Change::Loaded { .. }
            | Change::OrdersLoaded { .. }
            | Change::Evicted { .. }
            | Change::Pinned { .. }
            | Change::Started { .. }
            | Change::Acknowledged { .. } => Vec::new(),
            Change::Held { order_no, purpose: HoldPurpose::Units, lines, .. } => {
                let of_line = |line: &HeldLine| {
                    let (kind, delta) = (MoveKind::Reserved, Delta::hold(line.units));
                    let moved = plain(&line.sku_id, line.warehouse_id, kind, delta, line.after);
                    StockMove { order_no: Some(order_no.clone()), ..moved }
                };
                lines.iter().map(of_line).collect()
            }
            Change::Held { purpose: HoldPurpose::Return, .. } => Vec::new(),
            Change::HoldChanged { order_no, kind, reason, lines, .. } => {
                let Some(kind_of_move) = kind.move_kind() else { return Vec::new() };
                let of_line = |line: &HoldMovedLine| {
                    let delta = kind.delta(line.units);
                    let moved = plain(&line.sku_id, line.warehouse_id, kind_of_move, delta, line.after);
                    StockMove { order_no: Some(order_no.clone()), serials: line.serials(), ..moved }
                };
                asked(lines.iter().map(of_line).collect(), None, reason.as_ref())
            }
        }
    }
}
