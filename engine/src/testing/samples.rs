//! Events of every kind for tests of what stores or carries them.

use smallvec::SmallVec;

use crate::base::clock::Timestamp;
use crate::base::ids::{
    AttemptId, BuyerId, Epoch, Lsn, OrderNo, Reason, RequestId, ShardId, SkuId, TraceId, WarehouseId,
};
use crate::contract::command::{ChangeKind, Mode, StockStatus};
use crate::contract::event::{
    Acknowledged, Change, ConfirmedLine, Event, ForgottenSold, HeldLine, HoldMovedLine, MovedLine,
    OrderAfter, ReservedLine,
};
use crate::contract::hold::{HoldMove, HoldPurpose};
use crate::contract::image::{
    Decision, HoldImage, HoldLineImage, LineImage, LineSerials, OrderImage, RequestImage, Span, StockImage,
};
use crate::contract::order::{LineCounts, OrderRequest, OrderStatus, Phase};
use crate::contract::units::{Levels, Serials};

/// Kinds of events that [`event`] goes through.
pub const KINDS: u64 = 24;

/// An event that differs from that of any other `seed`; [`KINDS`] in a row are of every kind.
#[must_use]
pub fn event(seed: u64) -> Event {
    Event {
        at: Timestamp(1_700_000_000_000 + seed / 3),
        trace: seed.is_multiple_of(5).then(|| TraceId(u128::from(seed).to_be_bytes())),
        change: change(seed),
    }
}

/// A reservation of `lines` lines with the longest names that are allowed.
///
/// # Panics
/// Never: the names are within their bounds.
#[must_use]
pub fn large_event(seed: u64, lines: usize) -> Event {
    let line = |place: usize| ReservedLine {
        sku_id: SkuId::new(&format!("{place:064}")).expect("64 digits are a SKU"),
        ..reserved_line(seed + place as u64)
    };
    let change = Change::Reserved {
        order_no: order_no(seed),
        buyer_id: None,
        mode: Mode::BestEffort,
        ttl_seconds: 60,
        lines: (0..lines).map(line).collect(),
        asked: None,
        attempt: None,
    };
    Event { change, ..event(seed) }
}

fn change(seed: u64) -> Change {
    match seed % KINDS {
        0 => Change::StockCreated {
            sku_id: sku(seed),
            warehouse_id: WarehouseId(1),
            quantity: seed,
            serialized: false,
        },
        1 => Change::StockChanged {
            sku_id: sku(seed),
            warehouse_id: WarehouseId(u32::MAX),
            kind: [ChangeKind::Restock, ChangeKind::Deduct, ChangeKind::Adjust][(seed / KINDS % 3) as usize],
            delta: -(seed.cast_signed()),
            request_id: request_id(seed),
            reason: reason(seed),
            after: levels(seed),
        },
        2 => Change::StatusChanged {
            sku_id: sku(seed),
            warehouses: (0..seed % 4).map(|place| (warehouse(place), levels(seed + place))).collect(),
            status: [StockStatus::OnSale, StockStatus::Suspended][(seed / KINDS % 2) as usize],
        },
        3 => reserved(seed, 1),
        4 => reserved(seed, 3),
        5 => Change::Confirmed {
            order_no: order_no(seed),
            request: order_request(seed),
            attempt: None,
            lines: lines(seed, confirmed_line),
            after: order_after(seed),
        },
        6 => Change::Released {
            order_no: order_no(seed),
            request: order_request(seed + 1),
            reason: reason(seed),
            lines: lines(seed, moved_line),
            after: order_after(seed),
        },
        7 => Change::Cancelled { order_no: order_no(seed), reason: reason(seed) },
        8 => Change::Expired {
            order_no: order_no(seed),
            lines: lines(seed, moved_line),
            after: order_after(seed),
        },
        9 => Change::Extended { order_no: order_no(seed), ttl_seconds: 604_800 },
        10 => Change::Returned {
            order_no: order_no(seed),
            request: OrderRequest { request_id: Some(request_id(seed)), fingerprint: u64::MAX - seed },
            attempt: seed.is_multiple_of(4).then_some(AttemptId(seed)),
            lines: lines(seed, moved_line),
            after: order_after(seed),
        },
        11 => Change::Forgotten { through: Lsn(seed), sold: (0..seed % 3).map(forgotten).collect() },
        12 => Change::Loaded {
            sku_id: sku(seed),
            stocks: (0..=seed % 2).map(|place| stock_image(seed + place)).collect(),
        },
        13 => Change::OrdersLoaded {
            orders: (0..seed % 4).map(|place| order_image(seed + place)).collect(),
            requests: (0..seed % 3).map(|place| request_image(seed + place)).collect(),
        },
        14 => Change::Evicted {
            sku_id: sku(seed),
            through: Lsn(u64::MAX - seed),
            orders: (0..seed % 5).map(|place| order_no(seed + place)).collect(),
            sold: (0..seed % 3).map(forgotten).collect(),
        },
        15 => Change::Pinned {
            skus: (0..=seed % 3).map(|place| sku(seed + place)).collect(),
            hot: seed.is_multiple_of(2),
        },
        16 => Change::Started { epoch: Epoch(seed << 20) },
        17 => Change::StockCreated {
            sku_id: sku(seed),
            warehouse_id: WarehouseId(2),
            quantity: seed,
            serialized: true,
        },
        18 => chosen(seed),
        19 => Change::Confirmed {
            order_no: order_no(seed),
            request: order_request(seed),
            attempt: seed.is_multiple_of(2).then_some(AttemptId(seed << 40)),
            lines: lines(seed, |seed| ConfirmedLine {
                serial: (!seed.is_multiple_of(3)).then_some(u64::MAX >> (seed % 64)),
                after: elsewhere(seed),
                ..confirmed_line(seed)
            }),
            after: OrderAfter { span: Some(Box::new(span(seed))), ..order_after(seed) },
        },
        20 => Change::Reserved {
            order_no: order_no(seed),
            buyer_id: None,
            mode: Mode::BestEffort,
            ttl_seconds: 1 + u32::from(low(seed)),
            asked: seed.is_multiple_of(3).then_some(u64::MAX - seed),
            attempt: Some(AttemptId(u64::MAX / (seed + 1))),
            lines: lines(seed, |seed| ReservedLine { after: elsewhere(seed), ..reserved_line(seed) }),
        },
        21 => {
            Change::Acknowledged { orders: (0..=seed % 3).map(|place| acknowledged(seed + place)).collect() }
        }
        22 => Change::Held {
            order_no: order_no(seed),
            attempt: AttemptId(u64::MAX - seed),
            coordinator: ShardId(low(seed)),
            purpose: purpose(seed),
            lines: lines(seed, held_line),
        },
        _ => Change::HoldChanged {
            order_no: order_no(seed),
            attempt: AttemptId(seed << 21),
            seq: low(seed).into(),
            kind: hold_move(seed),
            reason: reason(seed),
            lines: lines(seed, hold_moved_line),
            is_over: seed.is_multiple_of(2),
        },
    }
}

fn acknowledged(seed: u64) -> Acknowledged {
    Acknowledged {
        order_no: order_no(seed),
        serials: (0..seed % 3).map(|place| line_serials(seed + place)).collect(),
        after: OrderAfter { span: Some(Box::new(span(seed))), ..order_after(seed) },
    }
}

/// Levels of a line that may lie in another shard.
fn elsewhere(seed: u64) -> Option<Levels> {
    seed.is_multiple_of(2).then(|| levels(seed))
}

fn held_line(seed: u64) -> HeldLine {
    HeldLine {
        sku_id: sku(seed),
        warehouse_id: warehouse(seed),
        units: low(seed).into(),
        after: levels(seed),
    }
}

fn hold_moved_line(seed: u64) -> HoldMovedLine {
    HoldMovedLine {
        sku_id: sku(seed),
        warehouse_id: warehouse(seed),
        units: low(seed).into(),
        after: levels(seed),
        serial: seed.is_multiple_of(3).then_some(seed << 30),
        left: low(seed / 2).into(),
        sold: [seed.cast_signed(), -seed.cast_signed()][(seed % 2) as usize],
        unheard: (0..seed % 3).map(|place| line_serials(seed + place).serials).collect(),
    }
}

fn purpose(seed: u64) -> HoldPurpose {
    [HoldPurpose::Units, HoldPurpose::Return][(seed % 2) as usize]
}

fn hold_move(seed: u64) -> HoldMove {
    [HoldMove::Sold, HoldMove::Released, HoldMove::Expired, HoldMove::Returned, HoldMove::Over]
        [(seed % 5) as usize]
}

/// What the coordinator of an order over several shards keeps of it.
#[must_use]
pub fn span(seed: u64) -> Span {
    let decision = |place: u64| Decision {
        seq: low(place).into(),
        attempt: AttemptId(place << 33),
        kind: hold_move(place),
        reason: reason(place),
        lines: (0..place % 3).map(|line| (low(line), 1_000_000_000)).collect(),
        waiting: (0..place % 4).map(|shard| ShardId(low(shard))).collect(),
    };
    Span {
        attempt: AttemptId(u64::MAX - seed),
        decisions: low(seed).into(),
        pending: (0..seed % 3).map(|place| decision(seed + place)).collect(),
    }
}

/// What a participant holds, as a checkpoint or the store has it, that differs from that of any other `seed`.
#[must_use]
pub fn hold_image(seed: u64) -> HoldImage {
    let line = |place: u64| HoldLineImage {
        sku_id: sku(place),
        warehouse_id: warehouse(place),
        units: low(place).into(),
        sold: -place.cast_signed(),
        serials: (0..place % 3).map(|serial| line_serials(place + serial).serials).collect(),
    };
    HoldImage {
        order_no: order_no(seed),
        attempt: AttemptId(seed << 17),
        coordinator: ShardId(low(seed)),
        purpose: purpose(seed),
        seq: low(seed / 2).into(),
        lsn: Lsn(seed),
        lines: (0..=seed % 3).map(|place| line(seed + place)).collect(),
    }
}

fn chosen(seed: u64) -> Change {
    let Change::Reserved { order_no, buyer_id, mode, ttl_seconds, lines, .. } = reserved(seed, 2) else {
        unreachable!("it reserves")
    };
    let asked = Some(u64::MAX - seed);
    Change::Reserved { order_no, buyer_id, mode, ttl_seconds, lines, asked, attempt: None }
}

fn line_serials(seed: u64) -> LineSerials {
    LineSerials { line: low(seed), serials: Serials { from: seed + 1, to: (seed + 1) << 20 } }
}

/// A stock, as a checkpoint or a load holds it, that differs from that of any other `seed`.
#[must_use]
pub fn stock_image(seed: u64) -> StockImage {
    StockImage {
        sku_id: sku(seed),
        warehouse_id: warehouse(seed),
        levels: levels(seed),
        status: [StockStatus::OnSale, StockStatus::Suspended][(seed % 2) as usize],
        initial: seed,
        supplied: seed << 33,
        forgotten_sold: seed * 3,
        lsn: Lsn(seed),
        hot: seed.is_multiple_of(3),
        numbered: seed.is_multiple_of(5).then_some(seed << 21),
    }
}

/// An order, as a checkpoint or a load holds it, that differs from that of any other `seed`.
#[must_use]
pub fn order_image(seed: u64) -> OrderImage {
    let line = |place: u64| LineImage {
        sku_id: sku(place),
        warehouse_id: warehouse(place),
        quantity: 1_000_000_000,
        held: low(place).into(),
        confirmed: low(place / 2).into(),
        released: low(place / 3).into(),
        returned: low(place / 5).into(),
        lapsed: low(place / 7).into(),
    };
    OrderImage {
        order_no: order_no(seed),
        buyer_id: seed.is_multiple_of(2).then(|| BuyerId::new(&format!("u{seed}")).expect("a short text")),
        mode: [Mode::AllOrNothing, Mode::BestEffort][(seed % 2) as usize],
        phase: phase(seed),
        created_at: Timestamp(1_700_000_000_000 + seed),
        expires_at: Timestamp(1_700_000_900_000 + seed),
        changed_at: Timestamp(1_700_000_000_500 + seed),
        lsn: Lsn(seed),
        lines: (0..seed % 4).map(|place| line(seed + place)).collect(),
        requests: (0..seed % 3).filter_map(|place| order_request(seed + place)).collect(),
        serials: (0..seed % 5).filter(|_| seed.is_multiple_of(2)).map(line_serials).collect(),
        span: seed.is_multiple_of(5).then(|| Box::new(span(seed))),
    }
}

/// A stock request, as a checkpoint or a load holds it, that differs from that of any other `seed`.
#[must_use]
pub fn request_image(seed: u64) -> RequestImage {
    RequestImage {
        sku_id: sku(seed),
        request_id: request_id(seed),
        warehouse_id: warehouse(seed),
        fingerprint: u64::MAX - seed,
        after: levels(seed),
        at: Timestamp(1_700_000_000_000 + seed),
        lsn: Lsn(seed),
    }
}

fn reserved(seed: u64, count: u64) -> Change {
    Change::Reserved {
        order_no: order_no(seed),
        buyer_id: seed.is_multiple_of(2).then(|| BuyerId::new(&format!("买家{seed}")).expect("a short text")),
        mode: [Mode::AllOrNothing, Mode::BestEffort][(seed / KINDS % 2) as usize],
        ttl_seconds: 900,
        lines: (0..count).map(|place| reserved_line(seed + place)).collect(),
        asked: None,
        attempt: None,
    }
}

fn lines<T>(seed: u64, line: impl Fn(u64) -> T) -> SmallVec<[T; 1]> {
    (0..=seed % 3).map(|place| line(seed + place)).collect()
}

fn reserved_line(seed: u64) -> ReservedLine {
    ReservedLine {
        sku_id: sku(seed),
        warehouse_id: warehouse(seed),
        quantity: 1_000_000_000,
        held: low(seed).into(),
        after: Some(levels(seed)),
    }
}

fn confirmed_line(seed: u64) -> ConfirmedLine {
    ConfirmedLine {
        line: low(seed),
        sku_id: sku(seed),
        warehouse_id: warehouse(seed),
        held: low(seed).into(),
        late: low(seed / 2).into(),
        after: Some(levels(seed)),
        counts: counts(seed),
        serial: None,
    }
}

fn moved_line(seed: u64) -> MovedLine {
    MovedLine {
        line: low(seed),
        sku_id: sku(seed),
        warehouse_id: warehouse(seed),
        quantity: low(seed).into(),
        after: Some(levels(seed)),
        counts: counts(seed),
    }
}

fn counts(seed: u64) -> LineCounts {
    let [held, confirmed, released, returned, lapsed] = [2, 3, 5, 7, 11].map(|part| low(seed / part).into());
    LineCounts { held, confirmed, released, returned, lapsed }
}

fn order_after(seed: u64) -> OrderAfter {
    const STATUS: [OrderStatus; 8] = [
        OrderStatus::Reserved,
        OrderStatus::PartiallyConfirmed,
        OrderStatus::Confirmed,
        OrderStatus::Released,
        OrderStatus::Expired,
        OrderStatus::Cancelled,
        OrderStatus::PartiallyReturned,
        OrderStatus::Returned,
    ];
    OrderAfter {
        phase: phase(seed),
        open: seed.is_multiple_of(2),
        status: STATUS[(seed % 8) as usize],
        requests: low(seed / 13).into(),
        serials: low(seed / 17).into(),
        span: None,
    }
}

fn phase(seed: u64) -> Phase {
    [Phase::Open, Phase::Released, Phase::Expired, Phase::Cancelled][(seed % 4) as usize]
}

fn forgotten(seed: u64) -> ForgottenSold {
    ForgottenSold { sku_id: sku(seed), warehouse_id: warehouse(seed), total: seed << 40 }
}

fn order_request(seed: u64) -> Option<OrderRequest> {
    let request_id = seed.is_multiple_of(4).then(|| request_id(seed));
    (!seed.is_multiple_of(3))
        .then_some(OrderRequest { request_id, fingerprint: seed.wrapping_mul(u64::MAX / 7) })
}

fn levels(seed: u64) -> Levels {
    Levels { available: 1_000_000_000_000_000 - seed, reserved: seed, sold: seed * 3, version: seed + 1 }
}

/// The lower bits of a seed, as a small number.
fn low(seed: u64) -> u16 {
    u16::try_from(seed & 0x7fff).expect("fifteen bits fit sixteen")
}

fn warehouse(seed: u64) -> WarehouseId {
    WarehouseId(low(seed).into())
}

fn sku(seed: u64) -> SkuId {
    SkuId::new(&format!("sku-{seed}")).expect("a short text")
}

fn order_no(seed: u64) -> OrderNo {
    OrderNo::new(&format!("ORD-2026-{seed:012}")).expect("a short text")
}

fn request_id(seed: u64) -> RequestId {
    RequestId::new(&format!("req-{seed}")).expect("a short text")
}

fn reason(seed: u64) -> Option<Reason> {
    let text = "客户取消 ".repeat(low(seed % 15).into());
    (!text.is_empty()).then(|| Reason::new(&text).expect("at most 196 bytes"))
}
