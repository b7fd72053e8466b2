//! The words that events and images share: numbers, text ids, lists, levels, and the frozen numbers of small enums.

use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Decode, Encode};
use hotstock_engine::command::{ChangeKind, Mode, StockStatus};
use hotstock_engine::event::OrderAfter;
use hotstock_engine::hold::{HoldMove, HoldPurpose};
use hotstock_engine::ids::{BuyerId, OrderNo, Reason, RequestId, SkuId, WarehouseId};
use hotstock_engine::image::LineSerials;
use hotstock_engine::order::{LineCounts, OrderRequest, OrderStatus, Phase};
use hotstock_engine::units::{Levels, Serials};

use super::{Dec, Enc};

/// Entries that a list reserves room for before they are read; a false length costs no more than this.
const MAX_RESERVED: usize = 1_024;

#[inline]
pub(super) fn put(e: &mut impl Enc, value: &impl Encode) -> Result<(), EncodeError> {
    value.encode(e)
}

#[inline]
pub(super) fn get<'a, T: Decode<()>>(d: &mut impl Dec<'a>) -> Result<T, DecodeError> {
    T::decode(d)
}

pub(super) fn wrong(what: &str, number: u8) -> DecodeError {
    DecodeError::OtherString(format!("{number} is not a {what} of this format"))
}

/// A text id of the engine.
pub(super) trait TextId: Sized {
    fn text(&self) -> &str;
    fn parse(text: &str) -> Result<Self, hotstock_engine::ids::InvalidId>;
}

macro_rules! text_ids {
    ($($name:ident),*) => {$(
        impl TextId for $name {
            fn text(&self) -> &str {
                self.as_str()
            }
            fn parse(text: &str) -> Result<Self, hotstock_engine::ids::InvalidId> {
                Self::new(text)
            }
        }
    )*};
}
text_ids!(SkuId, OrderNo, RequestId, BuyerId, Reason);

#[inline]
pub(super) fn put_id(e: &mut impl Enc, id: &impl TextId) -> Result<(), EncodeError> {
    id.text().encode(e)
}

pub(super) fn get_id<'a, T: TextId>(d: &mut impl Dec<'a>) -> Result<T, DecodeError> {
    let text = <&str>::borrow_decode(d)?;
    T::parse(text).map_err(|error| DecodeError::OtherString(error.to_string()))
}

pub(super) fn put_option<E: Enc, T>(
    e: &mut E,
    value: Option<&T>,
    put_one: impl FnOnce(&mut E, &T) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    put(e, &u8::from(value.is_some()))?;
    value.map_or(Ok(()), |value| put_one(e, value))
}

pub(super) fn get_option<'a, D: Dec<'a>, T>(
    d: &mut D,
    get_one: impl FnOnce(&mut D) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    match get(d)? {
        0_u8 => Ok(None),
        1 => get_one(d).map(Some),
        other => Err(wrong("mark of presence", other)),
    }
}

#[inline]
pub(super) fn put_list<E: Enc, T>(
    e: &mut E,
    list: &[T],
    put_one: impl Fn(&mut E, &T) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    put(e, &(list.len() as u64))?;
    list.iter().try_for_each(|one| put_one(e, one))
}

pub(super) fn get_list<'a, D: Dec<'a>, T, L: Default + Extend<T> + Reserve>(
    d: &mut D,
    get_one: impl Fn(&mut D) -> Result<T, DecodeError>,
) -> Result<L, DecodeError> {
    let length = get::<u64>(d)?;
    let mut list = L::default();
    list.reserve_for(usize::try_from(length).unwrap_or(usize::MAX).min(MAX_RESERVED));
    for _ in 0..length {
        list.extend([get_one(d)?]);
    }
    Ok(list)
}

/// A list that can be given room in advance.
pub(super) trait Reserve {
    fn reserve_for(&mut self, entries: usize);
}

impl<T> Reserve for Vec<T> {
    fn reserve_for(&mut self, entries: usize) {
        self.reserve_exact(entries);
    }
}

impl<A: smallvec::Array> Reserve for smallvec::SmallVec<A> {
    fn reserve_for(&mut self, entries: usize) {
        self.reserve_exact(entries);
    }
}

#[inline]
pub(super) fn put_levels(e: &mut impl Enc, levels: &Levels) -> Result<(), EncodeError> {
    let Levels { available, reserved, sold, version } = levels;
    put(e, available)?;
    put(e, reserved)?;
    put(e, sold)?;
    put(e, version)
}

pub(super) fn get_levels<'a>(d: &mut impl Dec<'a>) -> Result<Levels, DecodeError> {
    Ok(Levels { available: get(d)?, reserved: get(d)?, sold: get(d)?, version: get(d)? })
}

#[inline]
pub(super) fn put_stock(e: &mut impl Enc, sku: &SkuId, warehouse: WarehouseId) -> Result<(), EncodeError> {
    put_id(e, sku)?;
    put(e, &warehouse.0)
}

pub(super) fn get_warehouse<'a>(d: &mut impl Dec<'a>) -> Result<WarehouseId, DecodeError> {
    get(d).map(WarehouseId)
}

pub(super) fn put_order_request(e: &mut impl Enc, request: &OrderRequest) -> Result<(), EncodeError> {
    let OrderRequest { request_id, fingerprint } = request;
    put_option(e, request_id.as_ref(), put_id)?;
    put(e, fingerprint)
}

pub(super) fn get_order_request<'a>(d: &mut impl Dec<'a>) -> Result<OrderRequest, DecodeError> {
    Ok(OrderRequest { request_id: get_option(d, get_id)?, fingerprint: get(d)? })
}

pub(super) fn change_kind_number(kind: ChangeKind) -> u8 {
    match kind {
        ChangeKind::Restock => 0,
        ChangeKind::Deduct => 1,
        ChangeKind::Adjust => 2,
    }
}

pub(super) fn change_kind(number: u8) -> Result<ChangeKind, DecodeError> {
    match number {
        0 => Ok(ChangeKind::Restock),
        1 => Ok(ChangeKind::Deduct),
        2 => Ok(ChangeKind::Adjust),
        other => Err(wrong("kind of change", other)),
    }
}

pub(super) fn mode_number(mode: Mode) -> u8 {
    match mode {
        Mode::AllOrNothing => 0,
        Mode::BestEffort => 1,
    }
}

pub(super) fn mode(number: u8) -> Result<Mode, DecodeError> {
    match number {
        0 => Ok(Mode::AllOrNothing),
        1 => Ok(Mode::BestEffort),
        other => Err(wrong("mode", other)),
    }
}

pub(super) fn status_number(status: StockStatus) -> u8 {
    match status {
        StockStatus::OnSale => 0,
        StockStatus::Suspended => 1,
    }
}

pub(super) fn status(number: u8) -> Result<StockStatus, DecodeError> {
    match number {
        0 => Ok(StockStatus::OnSale),
        1 => Ok(StockStatus::Suspended),
        other => Err(wrong("status", other)),
    }
}

pub(super) fn put_line_serials(e: &mut impl Enc, serials: &LineSerials) -> Result<(), EncodeError> {
    let LineSerials { line, serials } = serials;
    put(e, line)?;
    put_serials(e, serials)
}

pub(super) fn get_line_serials<'a>(d: &mut impl Dec<'a>) -> Result<LineSerials, DecodeError> {
    Ok(LineSerials { line: get(d)?, serials: get_serials(d)? })
}

pub(super) fn put_serials(e: &mut impl Enc, serials: &Serials) -> Result<(), EncodeError> {
    let Serials { from, to } = serials;
    put(e, from)?;
    put(e, to)
}

pub(super) fn get_serials<'a>(d: &mut impl Dec<'a>) -> Result<Serials, DecodeError> {
    Ok(Serials { from: get(d)?, to: get(d)? })
}

pub(super) fn purpose_number(purpose: HoldPurpose) -> u8 {
    match purpose {
        HoldPurpose::Units => 0,
        HoldPurpose::Return => 1,
    }
}

pub(super) fn purpose(number: u8) -> Result<HoldPurpose, DecodeError> {
    match number {
        0 => Ok(HoldPurpose::Units),
        1 => Ok(HoldPurpose::Return),
        other => Err(wrong("purpose of a hold", other)),
    }
}

pub(super) fn hold_move_number(kind: HoldMove) -> u8 {
    match kind {
        HoldMove::Sold => 0,
        HoldMove::Released => 1,
        HoldMove::Expired => 2,
        HoldMove::Returned => 3,
        HoldMove::Over => 4,
    }
}

pub(super) fn hold_move(number: u8) -> Result<HoldMove, DecodeError> {
    match number {
        0 => Ok(HoldMove::Sold),
        1 => Ok(HoldMove::Released),
        2 => Ok(HoldMove::Expired),
        3 => Ok(HoldMove::Returned),
        4 => Ok(HoldMove::Over),
        other => Err(wrong("change of a hold", other)),
    }
}

pub(super) fn put_bool(e: &mut impl Enc, value: bool) -> Result<(), EncodeError> {
    put(e, &u8::from(value))
}

pub(super) fn get_bool<'a>(d: &mut impl Dec<'a>) -> Result<bool, DecodeError> {
    match get(d)? {
        0_u8 => Ok(false),
        1 => Ok(true),
        other => Err(wrong("yes or no", other)),
    }
}

/// A byte whose bits tell which of the counts are not zero, and those: of a line most are.
#[inline]
pub(super) fn put_counts(e: &mut impl Enc, counts: &LineCounts) -> Result<(), EncodeError> {
    let LineCounts { held, confirmed, released, returned, lapsed } = *counts;
    let counts = [held, confirmed, released, returned, lapsed];
    let mark = |(bit, count): (usize, &u32)| u8::from(*count > 0) << bit;
    put(e, &counts.iter().enumerate().map(mark).sum::<u8>())?;
    counts.iter().filter(|count| **count > 0).try_for_each(|count| put(e, count))
}

pub(super) fn get_counts<'a>(d: &mut impl Dec<'a>) -> Result<LineCounts, DecodeError> {
    let marks = get::<u8>(d)?;
    if marks >= 1 << 5 {
        return Err(wrong("mark of counts", marks));
    }
    let mut counts = [0_u32; 5];
    for (bit, count) in counts.iter_mut().enumerate() {
        if marks & 1 << bit != 0 {
            *count = get(d)?;
        }
    }
    let [held, confirmed, released, returned, lapsed] = counts;
    Ok(LineCounts { held, confirmed, released, returned, lapsed })
}

/// Set in the byte of an order's phase and status when the count of requests follows it …
const HAS_REQUESTS: u8 = 0x40;

/// … and when that of ranges of serial numbers does.
const HAS_SERIALS: u8 = 0x80;

/// Set when the order still holds units, or has something pending.
const IS_OPEN: u8 = 0x20;

/// Two bits of phase, three of status, one whether it is open, two that tell which counts follow. Without what the
/// coordinator of an order over several shards keeps.
#[inline]
pub(super) fn put_after(e: &mut impl Enc, after: &OrderAfter) -> Result<(), EncodeError> {
    let OrderAfter { phase, status, open, requests, serials, span: _ } = *after;
    let mark = |count: u32, mark: u8| if count > 0 { mark } else { 0 };
    let marks = mark(open.into(), IS_OPEN) | mark(requests, HAS_REQUESTS) | mark(serials, HAS_SERIALS);
    put(e, &(phase_number(phase) | order_status_number(status) << 2 | marks))?;
    [requests, serials].iter().filter(|count| **count > 0).try_for_each(|count| put(e, count))
}

pub(super) fn get_after<'a>(d: &mut impl Dec<'a>) -> Result<OrderAfter, DecodeError> {
    let number = get::<u8>(d)?;
    let (phase, status) = (phase(number & 3)?, order_status(number >> 2 & 7)?);
    let requests = if number & HAS_REQUESTS == 0 { 0 } else { get(d)? };
    let serials = if number & HAS_SERIALS == 0 { 0 } else { get(d)? };
    Ok(OrderAfter { phase, status, open: number & IS_OPEN != 0, requests, serials, span: None })
}

pub(super) fn phase_number(phase: Phase) -> u8 {
    match phase {
        Phase::Open => 0,
        Phase::Released => 1,
        Phase::Expired => 2,
        Phase::Cancelled => 3,
    }
}

pub(super) fn phase(number: u8) -> Result<Phase, DecodeError> {
    match number {
        0 => Ok(Phase::Open),
        1 => Ok(Phase::Released),
        2 => Ok(Phase::Expired),
        3 => Ok(Phase::Cancelled),
        other => Err(wrong("phase", other)),
    }
}

fn order_status_number(status: OrderStatus) -> u8 {
    match status {
        OrderStatus::Reserved => 0,
        OrderStatus::PartiallyConfirmed => 1,
        OrderStatus::Confirmed => 2,
        OrderStatus::Released => 3,
        OrderStatus::Expired => 4,
        OrderStatus::Cancelled => 5,
        OrderStatus::PartiallyReturned => 6,
        OrderStatus::Returned => 7,
    }
}

fn order_status(number: u8) -> Result<OrderStatus, DecodeError> {
    match number {
        0 => Ok(OrderStatus::Reserved),
        1 => Ok(OrderStatus::PartiallyConfirmed),
        2 => Ok(OrderStatus::Confirmed),
        3 => Ok(OrderStatus::Released),
        4 => Ok(OrderStatus::Expired),
        5 => Ok(OrderStatus::Cancelled),
        6 => Ok(OrderStatus::PartiallyReturned),
        7 => Ok(OrderStatus::Returned),
        other => Err(wrong("status of an order", other)),
    }
}
