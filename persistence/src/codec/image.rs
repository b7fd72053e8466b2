//! Checkpoint entries as bytes.

use bincode::error::{DecodeError, EncodeError};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::ids::{AttemptId, Lsn, ShardId};
use hotstock_engine::image::{
    Decision, HoldImage, HoldLineImage, Image, LineImage, OrderImage, RequestImage, Span, StockImage,
};
use hotstock_engine::order::LineCounts;
use hotstock_engine::units::Serials;

use super::words::{
    get, get_counts, get_id, get_levels, get_line_serials, get_list, get_option, get_order_request,
    get_serials, get_warehouse, hold_move, hold_move_number, mode, mode_number, phase, phase_number, purpose,
    purpose_number, put, put_counts, put_id, put_levels, put_line_serials, put_list, put_option,
    put_order_request, put_serials, put_stock, status, status_number, wrong,
};
use super::{Dec, Enc, FORMAT_VERSION, Malformed, append, front, is_read};

const STOCK: u8 = 1;
const ORDER: u8 = 2;
const REQUEST: u8 = 3;
const HOLD: u8 = 4;

/// Set in the byte of a status when a count of serial numbers follows it, and in that of a mode when serial numbers
/// follow the order.
const NUMBERED: u8 = 0x80;

/// Set in the byte of a status when the SKU is hot.
const HOT: u8 = 0x40;

/// Set in the byte of a mode when what the coordinator of an order over several shards keeps ends the order.
const SPANS: u8 = 0x40;

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

/// What the coordinator of an order over several shards keeps, as bytes of their own: the format version, then that.
#[must_use]
pub fn encode_span(span: &Span) -> Vec<u8> {
    let mut bytes = vec![FORMAT_VERSION];
    append(&mut bytes, |e| put_span(e, span));
    bytes
}

/// Reads what [`encode_span`] wrote.
///
/// # Errors
/// [`Malformed`] when the version is another one, or the bytes are cut short, too many or break the bounds of the
/// engine's types.
pub fn decode_span(bytes: &[u8]) -> Result<Span, Malformed> {
    let mut rest = versioned(bytes)?;
    ended(get_span(&mut front(&mut rest))?, rest)
}

/// Ranges of serial numbers as bytes of their own: the format version, then those.
#[must_use]
pub fn encode_serials(serials: &[Serials]) -> Vec<u8> {
    let mut bytes = vec![FORMAT_VERSION];
    append(&mut bytes, |e| put_list(e, serials, put_serials));
    bytes
}

/// Reads what [`encode_serials`] wrote.
///
/// # Errors
/// As [`decode_span`].
pub fn decode_serials(bytes: &[u8]) -> Result<Vec<Serials>, Malformed> {
    let mut rest = versioned(bytes)?;
    ended(get_list(&mut front(&mut rest), get_serials)?, rest)
}

/// What comes after the version, which must be one that is read.
fn versioned(bytes: &[u8]) -> Result<&[u8], Malformed> {
    match bytes.split_first() {
        None => Err(Malformed::new("it is empty")),
        Some((version, _)) if !is_read(*version) => Err(Malformed::new(format!("format version {version}"))),
        Some((_, rest)) => Ok(rest),
    }
}

/// What was read, when nothing comes after it.
fn ended<T>(read: T, rest: &[u8]) -> Result<T, Malformed> {
    if rest.is_empty() { Ok(read) } else { Err(Malformed::new("it is too long")) }
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
        Image::Hold(hold) => {
            put(e, &HOLD)?;
            put_hold_image(e, hold)
        }
    }
}

fn get_image<'a>(d: &mut impl Dec<'a>) -> Result<Image, DecodeError> {
    match get(d)? {
        STOCK => get_stock_image(d).map(Image::Stock),
        ORDER => get_order_image(d).map(Image::Order),
        REQUEST => get_request_image(d).map(Image::Request),
        HOLD => get_hold_image(d).map(Image::Hold),
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
        span,
    } = image;
    let marks = if serials.is_empty() { 0 } else { NUMBERED } | if span.is_some() { SPANS } else { 0 };
    put_id(e, order_no)?;
    put_option(e, buyer_id.as_ref(), put_id)?;
    put(e, &(mode_number(*mode) | marks))?;
    put(e, &phase_number(*phase))?;
    put(e, &created_at.0)?;
    put(e, &expires_at.0)?;
    put(e, &changed_at.0)?;
    put(e, &lsn.0)?;
    put_list(e, lines, put_line_image)?;
    put_list(e, requests, put_order_request)?;
    if !serials.is_empty() {
        put_list(e, serials, put_line_serials)?;
    }
    span.as_ref().map_or(Ok(()), |span| put_span(e, span))
}

pub(super) fn get_order_image<'a>(d: &mut impl Dec<'a>) -> Result<OrderImage, DecodeError> {
    let (order_no, buyer_id, number) = (get_id(d)?, get_option(d, get_id)?, get::<u8>(d)?);
    let image = OrderImage {
        order_no,
        buyer_id,
        mode: mode(number & !(NUMBERED | SPANS))?,
        phase: phase(get(d)?)?,
        created_at: Timestamp(get(d)?),
        expires_at: Timestamp(get(d)?),
        changed_at: Timestamp(get(d)?),
        lsn: Lsn(get(d)?),
        lines: get_list(d, get_line_image)?,
        requests: get_list(d, get_order_request)?,
        serials: Vec::new(),
        span: None,
    };
    let serials = if number & NUMBERED == 0 { Vec::new() } else { get_list(d, get_line_serials)? };
    let span = if number & SPANS == 0 { None } else { Some(Box::new(get_span(d)?)) };
    Ok(OrderImage { serials, span, ..image })
}

pub(super) fn put_span(e: &mut impl Enc, span: &Span) -> Result<(), EncodeError> {
    let Span { attempt, decisions, pending } = span;
    put(e, &attempt.0)?;
    put(e, decisions)?;
    put_list(e, pending, |e, decision| {
        let Decision { seq, attempt, kind, reason, lines, waiting } = decision;
        put(e, seq)?;
        put(e, &attempt.0)?;
        put(e, &hold_move_number(*kind))?;
        put_option(e, reason.as_ref(), put_id)?;
        put_list(e, lines, |e, (line, units)| {
            put(e, line)?;
            put(e, units)
        })?;
        put_list(e, waiting, |e, shard| put(e, &shard.0))
    })
}

pub(super) fn get_span<'a>(d: &mut impl Dec<'a>) -> Result<Span, DecodeError> {
    Ok(Span {
        attempt: AttemptId(get(d)?),
        decisions: get(d)?,
        pending: get_list(d, |d| {
            Ok(Decision {
                seq: get(d)?,
                attempt: AttemptId(get(d)?),
                kind: hold_move(get(d)?)?,
                reason: get_option(d, get_id)?,
                lines: get_list(d, |d| Ok((get(d)?, get(d)?)))?,
                waiting: get_list(d, |d| Ok(ShardId(get(d)?)))?,
            })
        })?,
    })
}

fn put_hold_image(e: &mut impl Enc, image: &HoldImage) -> Result<(), EncodeError> {
    let HoldImage { order_no, attempt, coordinator, purpose, seq, lsn, lines } = image;
    put_id(e, order_no)?;
    put(e, &attempt.0)?;
    put(e, &coordinator.0)?;
    put(e, &purpose_number(*purpose))?;
    put(e, seq)?;
    put(e, &lsn.0)?;
    put_list(e, lines, |e, line| {
        let HoldLineImage { sku_id, warehouse_id, units, sold, serials } = line;
        put_stock(e, sku_id, *warehouse_id)?;
        put(e, units)?;
        put(e, sold)?;
        put_list(e, serials, put_serials)
    })
}

fn get_hold_image<'a>(d: &mut impl Dec<'a>) -> Result<HoldImage, DecodeError> {
    Ok(HoldImage {
        order_no: get_id(d)?,
        attempt: AttemptId(get(d)?),
        coordinator: ShardId(get(d)?),
        purpose: purpose(get(d)?)?,
        seq: get(d)?,
        lsn: Lsn(get(d)?),
        lines: get_list(d, |d| {
            Ok(HoldLineImage {
                sku_id: get_id(d)?,
                warehouse_id: get_warehouse(d)?,
                units: get(d)?,
                sold: get(d)?,
                serials: get_list(d, get_serials)?,
            })
        })?,
    })
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
