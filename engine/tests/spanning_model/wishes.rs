//! What callers wish, drawn at random so that much of it meets: few orders, few SKUs, few units.

use fastrand::Rng;
use hotstock_engine::command::{
    Action, ChangeKind, ChangeStock, Confirm, CreateStock, Extend, Line, Lines, Mode, Part, Release, Reserve,
    Return, SetStatus, StockStatus,
};
use hotstock_engine::ids::{BuyerId, OrderNo, Reason, RequestId, SkuId, WarehouseId};

use crate::table::Orders;

/// How many names there are.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    pub skus: u32,
    pub warehouses: u32,
    pub orders: u32,
}

pub fn sku(number: u32) -> SkuId {
    SkuId::new(&format!("S{number}")).unwrap()
}

/// A stock of every SKU in every warehouse, to begin with.
pub fn first_stocks(names: Names, rng: &mut Rng) -> Vec<Action> {
    let places = (0..names.skus).flat_map(|s| (0..names.warehouses).map(move |w| (s, w)));
    let create = |(s, w): (u32, u32)| {
        let (sku_id, warehouse_id, quantity) = (sku(s), WarehouseId(w), rng.u64(0..24));
        Action::CreateStock(CreateStock { sku_id, warehouse_id, quantity, serialized: false })
    };
    places.map(create).collect()
}

/// A command; `number` is its own.
pub fn wish(names: Names, rng: &mut Rng, orders: &Orders, number: u64) -> Action {
    let order_no = OrderNo::new(&format!("O{}", rng.u32(0..names.orders))).unwrap();
    // Mostly of what there is.
    let known: Vec<&OrderNo> = orders.keys().collect();
    let known = if known.is_empty() { order_no.clone() } else { known[rng.usize(..known.len())].clone() };
    let known = if rng.u32(0..8) == 0 { order_no.clone() } else { known };
    match rng.u32(0..100) {
        0..42 => reserve(names, rng, order_no),
        42..54 => Action::Confirm(Confirm { order_no: known, part: None }),
        54..61 => {
            let reason = Some(Reason::new("changed_mind").unwrap());
            Action::Release(Release { order_no: known, part: None, reason })
        }
        61..65 => Action::Extend(Extend { order_no: known, ttl_seconds: ttl(rng) }),
        65..70 => Action::Return(Return { order_no: known, request_id: request_id(rng), lines: None }),
        70..88 => part(rng, orders, known),
        88..91 => Action::GetOrder(known),
        91..97 => {
            let kind = [ChangeKind::Restock, ChangeKind::Deduct][rng.usize(..2)];
            let (sku_id, warehouse_id) =
                (sku(rng.u32(0..names.skus)), WarehouseId(rng.u32(0..names.warehouses)));
            let request_id = RequestId::new(&format!("C{number}")).unwrap();
            let quantity = rng.i64(1..4);
            Action::ChangeStock(ChangeStock {
                sku_id,
                warehouse_id,
                kind,
                quantity,
                request_id,
                reason: None,
            })
        }
        _ => {
            let status = if rng.u32(0..3) == 0 { StockStatus::Suspended } else { StockStatus::OnSale };
            Action::SetStatus(SetStatus { sku_id: sku(rng.u32(0..names.skus)), warehouse_id: None, status })
        }
    }
}

fn reserve(names: Names, rng: &mut Rng, order_no: OrderNo) -> Action {
    let count = if rng.u32(0..5) == 0 { 1 } else { rng.usize(2..7) };
    // One more SKU than there are, now and then.
    let skus = names.skus + u32::from(rng.u32(0..20) == 0);
    let line = |_| {
        let quantity = if rng.u32(0..16) == 0 { 9 } else { rng.u32(1..4) };
        Line {
            sku_id: sku(rng.u32(0..skus)),
            warehouse_id: WarehouseId(rng.u32(0..names.warehouses)),
            quantity,
        }
    };
    let lines: Vec<Line> = (0..count).map(line).collect();
    let lines = Lines::new(lines).expect("few small lines");
    let mode = if rng.u32(0..3) == 0 { Mode::BestEffort } else { Mode::AllOrNothing };
    let buyer_id = (rng.u32(0..6) == 0).then(|| BuyerId::new("u1").unwrap());
    Action::Reserve(Reserve { order_no, lines, ttl_seconds: ttl(rng), buyer_id, mode, choice: None })
}

fn part(rng: &mut Rng, orders: &Orders, order_no: OrderNo) -> Action {
    let foreign = Line { sku_id: sku(0), warehouse_id: WarehouseId(0), quantity: 1 };
    let asked: &[Line] = orders.get(&order_no).map_or(&[], |order| &order.asked);
    let pick = |_| {
        let line =
            if asked.is_empty() || rng.u32(0..15) == 0 { &foreign } else { &asked[rng.usize(..asked.len())] };
        Line { quantity: rng.u32(1..3), ..line.clone() }
    };
    let count = 1 + usize::from(asked.len() > 1);
    let lines = (0..count).map(pick).collect::<Vec<_>>();
    let lines = Lines::new(lines).expect("few small lines");
    let id = request_id(rng);
    let request_id = (rng.u32(0..3) > 0).then(|| id.clone());
    match rng.u32(0..8) {
        0..3 => Action::Confirm(Confirm { order_no, part: Some(Part { lines, request_id }) }),
        3..6 => Action::Release(Release { order_no, part: Some(Part { lines, request_id }), reason: None }),
        _ => Action::Return(Return { order_no, request_id: id, lines: Some(lines) }),
    }
}

fn request_id(rng: &mut Rng) -> RequestId {
    RequestId::new(&format!("R{}", rng.u32(0..4))).unwrap()
}

fn ttl(rng: &mut Rng) -> u32 {
    match rng.u32(0..10) {
        0..6 => rng.u32(1..5),
        _ => rng.u32(60..120),
    }
}
