//! Checkpoint entries as bytes.

use bincode::error::{DecodeError, EncodeError};
use hotstock_engine::checkpoint::{Image, LineImage, OrderImage, RequestImage, StockImage};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::event::LineCounts;
use hotstock_engine::home::{Decided, DecisionKind, HomeImage, Share};
use hotstock_engine::ids::{AttemptId, Lsn};

use super::words::{
    get, get_bool, get_counts, get_id, get_levels, get_line_serials, get_list, get_option, get_order_request,
    get_warehouse, mode, mode_number, phase, phase_number, put, put_bool, put_counts, put_id, put_levels,
    put_line_serials, put_list, put_option, put_order_request, put_stock, status, status_number, wrong,
};
use super::{Dec, Enc, FORMAT_VERSION, Malformed, append, front, is_read};

const STOCK: u8 = 1;
const ORDER: u8 = 2;
const REQUEST: u8 = 3;
const HOME: u8 = 4;

/// Set in the byte of a status when a count of serial numbers follows it, and in that of a mode when serial numbers
/// follow the order.
const NUMBERED: u8 = 0x80;

/// Set in the byte of a status when the SKU is hot.
const HOT: u8 = 0x40;

/// Appends one entry.
pub fn encode_image(image: &Image, out: &mut Vec<u8>) {
    append(out, |e| put_image(e, image));
}

/// Takes one entry off the front of `bytes`.
///
/// # Errors
/// [`Malformed`] when it is cut short or breaks the bounds of the engine's types.
pub fn decode_image(bytes: &mut &[u8]) -> Result<Image, Malformed> {
    Ok(get_image(&mut front(bytes))?)
}

/// An order over several places as bytes of their own: the format version, then the entry.
#[must_use]
pub fn encode_home(home: &HomeImage) -> Vec<u8> {
    let mut bytes = vec![FORMAT_VERSION];
    append(&mut bytes, |e| put_home_image(e, home));
    bytes
}

/// Reads what [`encode_home`] wrote.
///
/// # Errors
/// [`Malformed`] when the version is another one, or the bytes are cut short, too many or break the bounds of the
/// engine's types.
pub fn decode_home(bytes: &[u8]) -> Result<HomeImage, Malformed> {
    let Some((version, mut rest)) = bytes.split_first() else { return Err(Malformed::new("it is empty")) };
    if !is_read(*version) {
        return Err(Malformed::new(format!("format version {version}")));
    }
    let home = get_home_image(&mut front(&mut rest))?;
    if rest.is_empty() { Ok(home) } else { Err(Malformed::new("it is too long")) }
}

fn put_image(e: &mut impl Enc, image: &Image) -> Result<(), EncodeError> {
    match image {
        Image::Stock(stock) => {
            put(e, &STOCK)?;
            put_stock_image(e, stock)
        }
        Image::Order(order) => {
            put(e, &ORDER)?;
            put_order_image(e, order)
        }
        Image::Request(request) => {
            put(e, &REQUEST)?;
            put_request_image(e, request)
        }
        Image::Home(home) => {
            put(e, &HOME)?;
            put_home_image(e, home)
        }
    }
}

fn get_image<'a>(d: &mut impl Dec<'a>) -> Result<Image, DecodeError> {
    match get(d)? {
        STOCK => get_stock_image(d).map(Image::Stock),
        ORDER => get_order_image(d).map(Image::Order),
        REQUEST => get_request_image(d).map(Image::Request),
        HOME => get_home_image(d).map(Image::Home),
        other => Err(wrong("kind of checkpoint entry", other)),
    }
}

pub(super) fn put_stock_image(e: &mut impl Enc, image: &StockImage) -> Result<(), EncodeError> {
    let StockImage {
        sku_id,
        warehouse_id,
        levels,
        status,
        initial,
        supplied,
        forgotten_sold,
        lsn,
        hot,
        numbered,
    } = image;
    put_stock(e, sku_id, *warehouse_id)?;
    put_levels(e, levels)?;
    let marks = if numbered.is_some() { NUMBERED } else { 0 } | if *hot { HOT } else { 0 };
    put(e, &(status_number(*status) | marks))?;
    put(e, initial)?;
    put(e, supplied)?;
    put(e, forgotten_sold)?;
    put(e, &lsn.0)?;
    numbered.map_or(Ok(()), |numbered| put(e, &numbered))
}

pub(super) fn get_stock_image<'a>(d: &mut impl Dec<'a>) -> Result<StockImage, DecodeError> {
    let (sku_id, warehouse_id, levels, number) =
        (get_id(d)?, get_warehouse(d)?, get_levels(d)?, get::<u8>(d)?);
    Ok(StockImage {
        sku_id,
        warehouse_id,
        levels,
        status: status(number & !(NUMBERED | HOT))?,
        hot: number & HOT != 0,
        initial: get(d)?,
        supplied: get(d)?,
        forgotten_sold: get(d)?,
        lsn: Lsn(get(d)?),
        numbered: if number & NUMBERED == 0 { None } else { Some(get(d)?) },
    })
}

pub(super) fn put_order_image(e: &mut impl Enc, image: &OrderImage) -> Result<(), EncodeError> {
    let OrderImage {
        order_no,
        buyer_id,
        mode,
        phase,
        created_at,
        expires_at,
        changed_at,
        lsn,
        lines,
        requests,
        serials,
    } = image;
    put_id(e, order_no)?;
    put_option(e, buyer_id.as_ref(), put_id)?;
    put(e, &(mode_number(*mode) | if serials.is_empty() { 0 } else { NUMBERED }))?;
    put(e, &phase_number(*phase))?;
    put(e, &created_at.0)?;
    put(e, &expires_at.0)?;
    put(e, &changed_at.0)?;
    put(e, &lsn.0)?;
    put_list(e, lines, put_line_image)?;
    put_list(e, requests, put_order_request)?;
    if serials.is_empty() { Ok(()) } else { put_list(e, serials, put_line_serials) }
}

pub(super) fn get_order_image<'a>(d: &mut impl Dec<'a>) -> Result<OrderImage, DecodeError> {
    let (order_no, buyer_id, number) = (get_id(d)?, get_option(d, get_id)?, get::<u8>(d)?);
    let image = OrderImage {
        order_no,
        buyer_id,
        mode: mode(number & !NUMBERED)?,
        phase: phase(get(d)?)?,
        created_at: Timestamp(get(d)?),
        expires_at: Timestamp(get(d)?),
        changed_at: Timestamp(get(d)?),
        lsn: Lsn(get(d)?),
        lines: get_list(d, get_line_image)?,
        requests: get_list(d, get_order_request)?,
        serials: Vec::new(),
    };
    let serials = if number & NUMBERED == 0 { Vec::new() } else { get_list(d, get_line_serials)? };
    Ok(OrderImage { serials, ..image })
}

/// An order over several places.
pub(super) fn put_home_image(e: &mut impl Enc, image: &HomeImage) -> Result<(), EncodeError> {
    let HomeImage { order, shares, decisions, pending } = image;
    put_order_image(e, order)?;
    put_list(e, shares, |e, share| {
        let Share { attempt, line, held, confirmed, released, returned } = share;
        put(e, &attempt.0)?;
        put(e, line)?;
        [held, confirmed, released, returned].into_iter().try_for_each(|units| put(e, units))
    })?;
    put(e, decisions)?;
    put_list(e, pending, |e, decided| {
        let Decided { number, kind, reason, shares, whole } = decided;
        put(e, number)?;
        put(e, &decision_number(*kind))?;
        put_option(e, reason.as_ref(), put_id)?;
        put_list(e, shares, |e, (share, units)| {
            put(e, share)?;
            put(e, units)
        })?;
        put_bool(e, *whole)
    })
}

/// See [`put_home_image`].
pub(super) fn get_home_image<'a>(d: &mut impl Dec<'a>) -> Result<HomeImage, DecodeError> {
    Ok(HomeImage {
        order: get_order_image(d)?,
        shares: get_list(d, |d| {
            Ok(Share {
                attempt: AttemptId(get(d)?),
                line: get(d)?,
                held: get(d)?,
                confirmed: get(d)?,
                released: get(d)?,
                returned: get(d)?,
            })
        })?,
        decisions: get(d)?,
        pending: get_list(d, |d| {
            Ok(Decided {
                number: get(d)?,
                kind: decision(get(d)?)?,
                reason: get_option(d, get_id)?,
                shares: get_list(d, |d| Ok((get(d)?, get(d)?)))?,
                whole: get_bool(d)?,
            })
        })?,
    })
}

pub(super) fn decision_number(kind: DecisionKind) -> u8 {
    match kind {
        DecisionKind::Confirm => 1,
        DecisionKind::Release => 2,
        DecisionKind::Expire => 3,
        DecisionKind::Return => 4,
    }
}

pub(super) fn decision(number: u8) -> Result<DecisionKind, DecodeError> {
    match number {
        1 => Ok(DecisionKind::Confirm),
        2 => Ok(DecisionKind::Release),
        3 => Ok(DecisionKind::Expire),
        4 => Ok(DecisionKind::Return),
        other => Err(wrong("kind of decision", other)),
    }
}

fn put_line_image(e: &mut impl Enc, image: &LineImage) -> Result<(), EncodeError> {
    let LineImage { sku_id, warehouse_id, quantity, held, confirmed, released, returned, lapsed } = image;
    put_stock(e, sku_id, *warehouse_id)?;
    put(e, quantity)?;
    let [held, confirmed, released, returned, lapsed] = [*held, *confirmed, *released, *returned, *lapsed];
    put_counts(e, &LineCounts { held, confirmed, released, returned, lapsed })
}

fn get_line_image<'a>(d: &mut impl Dec<'a>) -> Result<LineImage, DecodeError> {
    let (sku_id, warehouse_id, quantity) = (get_id(d)?, get_warehouse(d)?, get(d)?);
    let LineCounts { held, confirmed, released, returned, lapsed } = get_counts(d)?;
    Ok(LineImage { sku_id, warehouse_id, quantity, held, confirmed, released, returned, lapsed })
}

pub(super) fn put_request_image(e: &mut impl Enc, image: &RequestImage) -> Result<(), EncodeError> {
    let RequestImage { sku_id, request_id, warehouse_id, fingerprint, after, at, lsn } = image;
    put_stock(e, sku_id, *warehouse_id)?;
    put_id(e, request_id)?;
    put(e, fingerprint)?;
    put_levels(e, after)?;
    put(e, &at.0)?;
    put(e, &lsn.0)
}

pub(super) fn get_request_image<'a>(d: &mut impl Dec<'a>) -> Result<RequestImage, DecodeError> {
    Ok(RequestImage {
        sku_id: get_id(d)?,
        warehouse_id: get_warehouse(d)?,
        request_id: get_id(d)?,
        fingerprint: get(d)?,
        after: get_levels(d)?,
        at: Timestamp(get(d)?),
        lsn: Lsn(get(d)?),
    })
}
