//! What callers wish, drawn at random so that much of it meets: few names, few units, whole seconds.

use hotstock_engine::command::{
    Action, ChangeKind, ChangeStock, Choice, Command, Confirm, CreateStock, Extend, Line, Lines, Mode, Part,
    Release, Reserve, Return, SetStatus, StockStatus,
};
use hotstock_engine::ids::{BuyerId, OrderNo, Reason, RequestId, SkuId, WarehouseId};
use hotstock_engine::limits::{MAX_LINE_QUANTITY, MAX_STOCK_UNITS};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// A partial confirm, release or return. Lines are picked from those of the order by index.
#[derive(Debug, Clone)]
pub struct PartWish {
    pub kind: PartKind,
    pub order_no: OrderNo,
    pub picks: Vec<(usize, u32)>,
    pub request_id: Option<RequestId>,
}

/// See [`PartWish`].
#[derive(Debug, Clone, Copy)]
pub enum PartKind {
    Confirm,
    Release,
    Return,
}

/// How many names there are of everything, and how long orders get.
#[derive(Debug, Clone, Copy)]
pub struct World {
    pub skus: u32,
    pub warehouses: u32,
    pub orders: u32,
    pub lines: usize,
}

impl World {
    pub const SMALL: World = World { skus: 3, warehouses: 2, orders: 6, lines: 4 };
    pub const MANY_WAREHOUSES: World = World { skus: 2, warehouses: 4, orders: 6, lines: 3 };
    pub const WIDE: World = World { skus: 35, warehouses: 2, orders: 5, lines: 60 };
}

impl PartWish {
    /// The wish as a command for an order that asked for these lines.
    pub fn action(self, asked: &[Line]) -> Action {
        let Self { kind, order_no, picks, request_id } = self;
        let foreign = line_of(0, 0, 1);
        let pick = |(index, quantity): (usize, u32)| {
            // Of a short order, now and then, a line that it may not have.
            let line = asked.get(index % (asked.len() + usize::from(asked.len() < 2))).unwrap_or(&foreign);
            Line { quantity, ..line.clone() }
        };
        let lines = Lines::new(picks.into_iter().map(pick)).expect("few small quantities");
        match kind {
            PartKind::Confirm => {
                Action::Confirm(Confirm { order_no, part: Some(Part { lines, request_id }) })
            }
            PartKind::Release => {
                Action::Release(Release { order_no, part: Some(Part { lines, request_id }), reason: None })
            }
            PartKind::Return => {
                let request_id = request_id.unwrap_or_else(|| RequestId::new("R0").unwrap());
                Action::Return(Return { order_no, request_id, lines: Some(lines) })
            }
        }
    }
}

/// A stock of every SKU in every warehouse, to begin with.
pub fn first_stocks(world: World) -> impl Strategy<Value = Vec<Action>> {
    let places = (0..world.skus).flat_map(|s| (0..world.warehouses).map(move |w| (s, w)));
    let create = |s, w, quantity| create(s, w, quantity, is_serialized(s));
    let creates = places.map(|(s, w)| stock_quantity().prop_map(move |quantity| create(s, w, quantity)));
    creates.collect::<Vec<_>>()
}

/// Any command of a whole order, or of stock.
pub fn action(world: World) -> impl Strategy<Value = Action> {
    let w = world;
    let status = prop_oneof![2 => Just(StockStatus::OnSale), 1 => Just(StockStatus::Suspended)];
    prop_oneof![
        1 => (0..=w.skus, 0..w.warehouses, stock_quantity(), prop::bool::weighted(0.1))
            .prop_map(|(s, w, q, otherwise)| create(s, w, q, is_serialized(s) != otherwise)),
        5 => change(w),
        2 => (0..=w.skus, option::of(0..w.warehouses), status).prop_map(|(s, w, status)| {
            Action::SetStatus(SetStatus { sku_id: sku(s), warehouse_id: w.map(WarehouseId), status })
        }),
        16 => reserve(w),
        5 => order_no(w).prop_map(|order_no| Action::Confirm(Confirm { order_no, part: None })),
        5 => order_no(w).prop_map(|order_no| {
            let reason = Some(Reason::new("user_cancelled").unwrap());
            Action::Release(Release { order_no, part: None, reason })
        }),
        2 => (order_no(w), ttl())
            .prop_map(|(order_no, ttl_seconds)| Action::Extend(Extend { order_no, ttl_seconds })),
        2 => (order_no(w), request_id()).prop_map(|(order_no, request_id)| {
            Action::Return(Return { order_no, request_id, lines: None })
        }),
        1 => order_no(w).prop_map(Action::GetOrder),
    ]
}

fn change(world: World) -> impl Strategy<Value = Action> {
    let kind = prop_oneof![
        3 => Just(ChangeKind::Restock),
        2 => Just(ChangeKind::Deduct),
        1 => Just(ChangeKind::Adjust)
    ];
    let size = prop_oneof![20 => 1..5_i64, 1 => Just(i64::try_from(MAX_STOCK_UNITS).unwrap())];
    let place = (0..=world.skus, 0..world.warehouses);
    (place, kind, size, any::<bool>(), request_id()).prop_map(|((s, w), kind, size, down, request_id)| {
        let quantity = if kind == ChangeKind::Adjust && down { -size } else { size };
        let (sku_id, warehouse_id) = (sku(s), WarehouseId(w));
        Action::ChangeStock(ChangeStock { sku_id, warehouse_id, kind, quantity, request_id, reason: None })
    })
}

fn reserve(world: World) -> impl Strategy<Value = Action> {
    // One more SKU than there are, now and then.
    let known = 0..world.skus;
    let sku_number = prop_oneof![30 => known, 1 => Just(world.skus)];
    let quantity = prop_oneof![40 => 1..4_u32, 1 => Just(MAX_LINE_QUANTITY / 2)];
    let line = (sku_number, 0..world.warehouses, quantity);
    let lines = prop_oneof![2 => vec(line.clone(), 1..2), 1 => vec(line, 1..=world.lines)];
    let mode = prop_oneof![2 => Just(Mode::AllOrNothing), 1 => Just(Mode::BestEffort)];
    let buyer = option::weighted(0.2, (0..2_u32).prop_map(|n| BuyerId::new(&format!("u{n}")).unwrap()));
    (order_no(world), lines, ttl(), mode, buyer).prop_filter_map(
        "quantities of a line sum up to too much",
        |(order_no, lines, ttl_seconds, mode, buyer_id)| {
            let lines = lines.into_iter().map(|(s, w, quantity)| line_of(s, w, quantity));
            let lines = Lines::new(lines).ok()?;
            Some(Action::Reserve(Reserve { order_no, lines, ttl_seconds, buyer_id, mode, choice: None }))
        },
    )
}

/// An order some of whose lines may lie in any warehouse.
pub fn open_reserve(world: World) -> impl Strategy<Value = Action> {
    let sku_number = prop_oneof![30 => 0..world.skus, 1 => Just(world.skus)];
    let warehouse = option::weighted(0.3, 0..world.warehouses);
    let quantity = prop_oneof![40 => 1..6_u32, 1 => Just(MAX_LINE_QUANTITY / 4)];
    let line = (sku_number, warehouse, quantity);
    let lines = prop_oneof![2 => vec(line.clone(), 1..2), 1 => vec(line, 1..=world.lines)];
    let mode = prop_oneof![2 => Just(Mode::AllOrNothing), 1 => Just(Mode::BestEffort)];
    let prefer = vec((0..=world.warehouses).prop_map(WarehouseId), 0..3);
    (order_no(world), lines, ttl(), mode, prefer).prop_filter_map(
        "no line is open, or quantities sum up to too much",
        |(order_no, lines, ttl_seconds, mode, prefer)| {
            let line = |(s, w, quantity): (u32, Option<u32>, u32)| (sku(s), w.map(WarehouseId), quantity);
            let (lines, open) = Lines::with_open(lines.into_iter().map(line)).ok()?;
            let choice = Some(Box::new(Choice { open, prefer }));
            let reserve =
                Action::Reserve(Reserve { order_no, lines, ttl_seconds, buyer_id: None, mode, choice });
            Command::from(reserve.clone()).validate().ok().map(|()| reserve)
        },
    )
}

/// A part of any order.
pub fn part(world: World) -> impl Strategy<Value = PartWish> {
    let kind = prop_oneof![
        3 => Just(PartKind::Confirm),
        3 => Just(PartKind::Release),
        2 => Just(PartKind::Return)
    ];
    let picks = vec((0..world.lines, 1..3_u32), 1..3);
    let request_id = option::weighted(0.6, request_id());
    (kind, order_no(world), picks, request_id).prop_map(|(kind, order_no, picks, request_id)| PartWish {
        kind,
        order_no,
        picks,
        request_id,
    })
}

/// Every other SKU numbers its units.
fn is_serialized(s: u32) -> bool {
    s.is_multiple_of(2)
}

fn create(s: u32, w: u32, quantity: u64, serialized: bool) -> Action {
    Action::CreateStock(CreateStock { sku_id: sku(s), warehouse_id: WarehouseId(w), quantity, serialized })
}

fn line_of(s: u32, w: u32, quantity: u32) -> Line {
    Line { sku_id: sku(s), warehouse_id: WarehouseId(w), quantity }
}

pub fn sku(number: u32) -> SkuId {
    SkuId::new(&format!("S{number}")).unwrap()
}

fn order_no(world: World) -> impl Strategy<Value = OrderNo> {
    (0..world.orders).prop_map(|number| OrderNo::new(&format!("O{number}")).unwrap())
}

fn request_id() -> impl Strategy<Value = RequestId> {
    (0..3_u32).prop_map(|number| RequestId::new(&format!("R{number}")).unwrap())
}

fn stock_quantity() -> impl Strategy<Value = u64> {
    prop_oneof![30 => 0..12_u64, 1 => Just(MAX_STOCK_UNITS)]
}

fn ttl() -> impl Strategy<Value = u32> {
    prop_oneof![5 => 1..4_u32, 1 => Just(900)]
}
