//! Events as bytes: the time, then the *body*, of which the chain hash is made ([`super::link`]). The numbers of the
//! kinds are frozen. A time is kept as its distance from the record's base time, which is a byte or two where the
//! whole would be nine; since that depends on what else is in the record, it is no part of the body.

use bincode::error::{DecodeError, EncodeError};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::event::{
    Acknowledged, Change, ConfirmedLine, Event, ForgottenSold, HeldLine, HoldMovedLine, MovedLine,
    OrderAfter, ReservedLine,
};
use hotstock_engine::ids::{AttemptId, Epoch, Lsn, ShardId, TraceId};
use hotstock_engine::units::Levels;
use smallvec::SmallVec;

use super::image::{
    get_order_image, get_request_image, get_span, get_stock_image, put_order_image, put_request_image,
    put_span, put_stock_image,
};
use super::words::{
    change_kind, change_kind_number, get, get_after, get_bool, get_counts, get_id, get_levels,
    get_line_serials, get_list, get_option, get_order_request, get_serials, get_warehouse, hold_move,
    hold_move_number, mode, mode_number, purpose, purpose_number, put, put_after, put_bool, put_counts,
    put_id, put_levels, put_line_serials, put_list, put_option, put_order_request, put_serials, put_stock,
    status, status_number, wrong,
};
use super::{Dec, Enc, Malformed, append, front};

/// Set in the byte of the kind when a trace id follows it.
const HAS_TRACE: u8 = 0x80;

/// Set in it when the event is about an order over several shards. What only such an event can have (an attempt, lines
/// without levels, what the coordinator keeps) takes no byte in any other.
const SPANS: u8 = 0x40;

const STOCK_CREATED: u8 = 1;
const SERIALIZED_STOCK_CREATED: u8 = 2;
const STOCK_CHANGED: u8 = 3;
const STATUS_CHANGED: u8 = 4;
const RESERVED: u8 = 5;
const RESERVED_BY_CHOICE: u8 = 6;
const CONFIRMED: u8 = 7;
const CONFIRMED_WITH_SERIALS: u8 = 8;
const RELEASED: u8 = 9;
const CANCELLED: u8 = 10;
const EXPIRED: u8 = 11;
const EXTENDED: u8 = 12;
const RETURNED: u8 = 13;
const FORGOTTEN: u8 = 14;
const LOADED: u8 = 15;
const ORDERS_LOADED: u8 = 16;
const EVICTED: u8 = 17;
const PINNED: u8 = 18;
const STARTED: u8 = 19;
const ACKNOWLEDGED: u8 = 20;
const HELD: u8 = 21;
const HOLD_CHANGED: u8 = 22;

/// Set in the byte of what happens to the units of a hold when there is no more to it.
const IS_OVER: u8 = 0x80;

/// Appends one event, and answers where in `out` its body begins, which ends with `out`. `base` is any time near to
/// those of the events of the record.
pub fn encode_event(event: &Event, base: Timestamp, out: &mut Vec<u8>) -> usize {
    let Event { at, trace, change } = event;
    // Wrapping, so that any two times have a distance; the logged time of a shard never steps back, but the type may.
    append(out, |e| put(e, &at.0.wrapping_sub(base.0).cast_signed()));
    let body = out.len();
    append(out, |e| {
        let (spans, has_trace) = (spans(change), trace.is_some());
        let marks = if has_trace { HAS_TRACE } else { 0 } | if spans { SPANS } else { 0 };
        put(e, &(kind(change) | marks))?;
        if let Some(trace) = trace {
            put(e, &trace.0)?;
        }
        put_change(e, change, spans)
    });
    body
}

/// Takes one event off the front of `bytes`; answers its body too.
///
/// # Errors
/// [`Malformed`] when it is cut short or breaks the bounds of the engine's types.
pub fn decode_event<'a>(bytes: &mut &'a [u8], base: Timestamp) -> Result<(Event, &'a [u8]), Malformed> {
    let at = Timestamp(base.0.wrapping_add(get::<i64>(&mut front(bytes))?.cast_unsigned()));
    let body = *bytes;
    let event = get_event(&mut front(bytes), at)?;
    Ok((event, &body[..body.len() - bytes.len()]))
}

fn get_event<'a>(d: &mut impl Dec<'a>, at: Timestamp) -> Result<Event, DecodeError> {
    let kind = get::<u8>(d)?;
    let trace = if kind & HAS_TRACE == 0 { None } else { Some(TraceId(get(d)?)) };
    Ok(Event { at, trace, change: get_change(d, kind & !(HAS_TRACE | SPANS), kind & SPANS != 0)? })
}

/// See [`SPANS`].
fn spans(change: &Change) -> bool {
    let moved = |lines: &[MovedLine]| lines.iter().any(|line| line.after.is_none());
    match change {
        Change::Reserved { attempt, lines, .. } => {
            attempt.is_some() || lines.iter().any(|line| line.after.is_none())
        }
        Change::Confirmed { attempt, lines, after, .. } => {
            attempt.is_some() || after.span.is_some() || lines.iter().any(|line| line.after.is_none())
        }
        Change::Returned { attempt, lines, after, .. } => {
            attempt.is_some() || after.span.is_some() || moved(lines)
        }
        Change::Released { lines, after, .. } | Change::Expired { lines, after, .. } => {
            after.span.is_some() || moved(lines)
        }
        _ => false,
    }
}

fn kind(change: &Change) -> u8 {
    match change {
        Change::StockCreated { serialized: true, .. } => SERIALIZED_STOCK_CREATED,
        Change::StockCreated { .. } => STOCK_CREATED,
        Change::StockChanged { .. } => STOCK_CHANGED,
        Change::StatusChanged { .. } => STATUS_CHANGED,
        Change::Reserved { asked: Some(_), .. } => RESERVED_BY_CHOICE,
        Change::Reserved { .. } => RESERVED,
        Change::Confirmed { lines, .. } if lines.iter().any(|line| line.serial.is_some()) => {
            CONFIRMED_WITH_SERIALS
        }
        Change::Confirmed { .. } => CONFIRMED,
        Change::Released { .. } => RELEASED,
        Change::Cancelled { .. } => CANCELLED,
        Change::Expired { .. } => EXPIRED,
        Change::Extended { .. } => EXTENDED,
        Change::Returned { .. } => RETURNED,
        Change::Forgotten { .. } => FORGOTTEN,
        Change::Loaded { .. } => LOADED,
        Change::OrdersLoaded { .. } => ORDERS_LOADED,
        Change::Evicted { .. } => EVICTED,
        Change::Pinned { .. } => PINNED,
        Change::Started { .. } => STARTED,
        Change::Acknowledged { .. } => ACKNOWLEDGED,
        Change::Held { .. } => HELD,
        Change::HoldChanged { .. } => HOLD_CHANGED,
    }
}

fn put_change(e: &mut impl Enc, change: &Change, spans: bool) -> Result<(), EncodeError> {
    match change {
        Change::StockCreated { sku_id, warehouse_id, quantity, serialized: _ } => {
            put_stock(e, sku_id, *warehouse_id)?;
            put(e, quantity)
        }
        Change::StockChanged { sku_id, warehouse_id, kind, delta, request_id, reason, after } => {
            put_stock(e, sku_id, *warehouse_id)?;
            put(e, &change_kind_number(*kind))?;
            put(e, delta)?;
            put_id(e, request_id)?;
            put_option(e, reason.as_ref(), put_id)?;
            put_levels(e, after)
        }
        Change::StatusChanged { sku_id, warehouses, status } => {
            put_id(e, sku_id)?;
            put(e, &status_number(*status))?;
            put_list(e, warehouses, |e, (warehouse, levels)| {
                put(e, &warehouse.0)?;
                put_levels(e, levels)
            })
        }
        Change::Reserved { order_no, buyer_id, mode, ttl_seconds, asked, attempt, lines } => {
            asked.map_or(Ok(()), |asked| put(e, &asked))?;
            put_id(e, order_no)?;
            put_option(e, buyer_id.as_ref(), put_id)?;
            put(e, &mode_number(*mode))?;
            put(e, ttl_seconds)?;
            put_attempt(e, *attempt, spans)?;
            put_list(e, lines, |e, line| put_reserved_line(e, line, spans))
        }
        Change::Confirmed { order_no, request, attempt, lines, after } => {
            put_id(e, order_no)?;
            put_option(e, request.as_ref(), put_order_request)?;
            put_attempt(e, *attempt, spans)?;
            put_order_after(e, after, spans)?;
            put_list(e, lines, |e, line| put_confirmed_line(e, line, spans))?;
            if lines.iter().all(|line| line.serial.is_none()) {
                return Ok(());
            }
            // 0: none. Serial numbers begin at 1.
            lines.iter().try_for_each(|line| put(e, &line.serial.unwrap_or(0)))
        }
        Change::Released { order_no, request, reason, lines, after } => {
            put_id(e, order_no)?;
            put_option(e, request.as_ref(), put_order_request)?;
            put_option(e, reason.as_ref(), put_id)?;
            put_order_after(e, after, spans)?;
            put_list(e, lines, |e, line| put_moved_line(e, line, spans))
        }
        Change::Cancelled { order_no, reason } => {
            put_id(e, order_no)?;
            put_option(e, reason.as_ref(), put_id)
        }
        Change::Expired { order_no, lines, after } => {
            put_id(e, order_no)?;
            put_order_after(e, after, spans)?;
            put_list(e, lines, |e, line| put_moved_line(e, line, spans))
        }
        Change::Extended { order_no, ttl_seconds } => {
            put_id(e, order_no)?;
            put(e, ttl_seconds)
        }
        Change::Returned { order_no, request, attempt, lines, after } => {
            put_id(e, order_no)?;
            put_order_request(e, request)?;
            put_attempt(e, *attempt, spans)?;
            put_order_after(e, after, spans)?;
            put_list(e, lines, |e, line| put_moved_line(e, line, spans))
        }
        Change::Forgotten { through, sold } => {
            put(e, &through.0)?;
            put_list(e, sold, put_forgotten_sold)
        }
        Change::Loaded { sku_id, stocks } => {
            put_id(e, sku_id)?;
            put_list(e, stocks, put_stock_image)
        }
        Change::OrdersLoaded { orders, requests } => {
            put_list(e, orders, put_order_image)?;
            put_list(e, requests, put_request_image)
        }
        Change::Evicted { sku_id, through, orders, sold } => {
            put_id(e, sku_id)?;
            put(e, &through.0)?;
            put_list(e, orders, put_id)?;
            put_list(e, sold, put_forgotten_sold)
        }
        Change::Pinned { skus, hot } => {
            put_bool(e, *hot)?;
            put_list(e, skus, put_id)
        }
        Change::Started { epoch } => put(e, &epoch.0),
        Change::Acknowledged { orders } => put_list(e, orders, |e, order| {
            let Acknowledged { order_no, serials, after } = order;
            put_id(e, order_no)?;
            put_list(e, serials, put_line_serials)?;
            put_order_after(e, after, true)
        }),
        Change::Held { order_no, attempt, coordinator, purpose, lines } => {
            put_id(e, order_no)?;
            put(e, &attempt.0)?;
            put(e, &coordinator.0)?;
            put(e, &purpose_number(*purpose))?;
            put_list(e, lines, |e, line| {
                let HeldLine { sku_id, warehouse_id, units, after } = line;
                put_stock(e, sku_id, *warehouse_id)?;
                put(e, units)?;
                put_levels(e, after)
            })
        }
        Change::HoldChanged { order_no, attempt, seq, kind, reason, lines, is_over } => {
            put_id(e, order_no)?;
            put(e, &attempt.0)?;
            put(e, seq)?;
            put(e, &(hold_move_number(*kind) | if *is_over { IS_OVER } else { 0 }))?;
            put_option(e, reason.as_ref(), put_id)?;
            put_list(e, lines, put_hold_moved_line)
        }
    }
}

fn get_change<'a>(d: &mut impl Dec<'a>, kind: u8, spans: bool) -> Result<Change, DecodeError> {
    let may_span = matches!(
        kind,
        RESERVED | RESERVED_BY_CHOICE | CONFIRMED | CONFIRMED_WITH_SERIALS | RELEASED | EXPIRED | RETURNED
    );
    if spans && !may_span {
        return Err(wrong("kind of event", kind | SPANS));
    }
    Ok(match kind {
        STOCK_CREATED | SERIALIZED_STOCK_CREATED => Change::StockCreated {
            sku_id: get_id(d)?,
            warehouse_id: get_warehouse(d)?,
            quantity: get(d)?,
            serialized: kind == SERIALIZED_STOCK_CREATED,
        },
        STOCK_CHANGED => Change::StockChanged {
            sku_id: get_id(d)?,
            warehouse_id: get_warehouse(d)?,
            kind: change_kind(get(d)?)?,
            delta: get(d)?,
            request_id: get_id(d)?,
            reason: get_option(d, get_id)?,
            after: get_levels(d)?,
        },
        STATUS_CHANGED => Change::StatusChanged {
            sku_id: get_id(d)?,
            status: status(get(d)?)?,
            warehouses: get_list(d, |d| Ok((get_warehouse(d)?, get_levels(d)?)))?,
        },
        RESERVED | RESERVED_BY_CHOICE => Change::Reserved {
            asked: if kind == RESERVED { None } else { Some(get(d)?) },
            order_no: get_id(d)?,
            buyer_id: get_option(d, get_id)?,
            mode: mode(get(d)?)?,
            ttl_seconds: get(d)?,
            attempt: get_attempt(d, spans)?,
            lines: get_list(d, |d| get_reserved_line(d, spans))?,
        },
        CONFIRMED | CONFIRMED_WITH_SERIALS => {
            let (order_no, request) = (get_id(d)?, get_option(d, get_order_request)?);
            let (attempt, after) = (get_attempt(d, spans)?, get_order_after(d, spans)?);
            let mut lines: SmallVec<[ConfirmedLine; 1]> = get_list(d, |d| get_confirmed_line(d, spans))?;
            if kind == CONFIRMED_WITH_SERIALS {
                for line in &mut lines {
                    line.serial = Some(get(d)?).filter(|serial| *serial > 0);
                }
            }
            Change::Confirmed { order_no, request, attempt, lines, after }
        }
        RELEASED => Change::Released {
            order_no: get_id(d)?,
            request: get_option(d, get_order_request)?,
            reason: get_option(d, get_id)?,
            after: get_order_after(d, spans)?,
            lines: get_list(d, |d| get_moved_line(d, spans))?,
        },
        CANCELLED => Change::Cancelled { order_no: get_id(d)?, reason: get_option(d, get_id)? },
        EXPIRED => Change::Expired {
            order_no: get_id(d)?,
            after: get_order_after(d, spans)?,
            lines: get_list(d, |d| get_moved_line(d, spans))?,
        },
        EXTENDED => Change::Extended { order_no: get_id(d)?, ttl_seconds: get(d)? },
        RETURNED => Change::Returned {
            order_no: get_id(d)?,
            request: get_order_request(d)?,
            attempt: get_attempt(d, spans)?,
            after: get_order_after(d, spans)?,
            lines: get_list(d, |d| get_moved_line(d, spans))?,
        },
        FORGOTTEN => Change::Forgotten { through: Lsn(get(d)?), sold: get_list(d, get_forgotten_sold)? },
        LOADED => Change::Loaded { sku_id: get_id(d)?, stocks: get_list(d, get_stock_image)? },
        ORDERS_LOADED => Change::OrdersLoaded {
            orders: get_list(d, get_order_image)?,
            requests: get_list(d, get_request_image)?,
        },
        EVICTED => Change::Evicted {
            sku_id: get_id(d)?,
            through: Lsn(get(d)?),
            orders: get_list(d, get_id)?,
            sold: get_list(d, get_forgotten_sold)?,
        },
        PINNED => Change::Pinned { hot: get_bool(d)?, skus: get_list(d, get_id)? },
        STARTED => Change::Started { epoch: Epoch(get(d)?) },
        ACKNOWLEDGED => Change::Acknowledged {
            orders: get_list(d, |d| {
                let (order_no, serials) = (get_id(d)?, get_list(d, get_line_serials)?);
                Ok(Acknowledged { order_no, serials, after: get_order_after(d, true)? })
            })?,
        },
        HELD => Change::Held {
            order_no: get_id(d)?,
            attempt: AttemptId(get(d)?),
            coordinator: ShardId(get(d)?),
            purpose: purpose(get(d)?)?,
            lines: get_list(d, |d| {
                let (sku_id, warehouse_id) = (get_id(d)?, get_warehouse(d)?);
                Ok(HeldLine { sku_id, warehouse_id, units: get(d)?, after: get_levels(d)? })
            })?,
        },
        HOLD_CHANGED => {
            let (order_no, attempt, seq) = (get_id(d)?, AttemptId(get(d)?), get(d)?);
            let number = get::<u8>(d)?;
            let (kind, is_over) = (hold_move(number & !IS_OVER)?, number & IS_OVER != 0);
            let (reason, lines) = (get_option(d, get_id)?, get_list(d, get_hold_moved_line)?);
            Change::HoldChanged { order_no, attempt, seq, kind, reason, lines, is_over }
        }
        other => return Err(wrong("kind of event", other)),
    })
}

fn put_attempt(e: &mut impl Enc, attempt: Option<AttemptId>, spans: bool) -> Result<(), EncodeError> {
    if spans { put_option(e, attempt.as_ref(), |e, attempt| put(e, &attempt.0)) } else { Ok(()) }
}

fn get_attempt<'a>(d: &mut impl Dec<'a>, spans: bool) -> Result<Option<AttemptId>, DecodeError> {
    if spans { get_option(d, |d| Ok(AttemptId(get(d)?))) } else { Ok(None) }
}

fn put_order_after(e: &mut impl Enc, after: &OrderAfter, spans: bool) -> Result<(), EncodeError> {
    put_after(e, after)?;
    if spans { put_option(e, after.span.as_deref(), put_span) } else { Ok(()) }
}

fn get_order_after<'a>(d: &mut impl Dec<'a>, spans: bool) -> Result<OrderAfter, DecodeError> {
    let after = get_after(d)?;
    let span = if spans { get_option(d, get_span)?.map(Box::new) } else { None };
    Ok(OrderAfter { span, ..after })
}

/// The levels of a line; of an order in one shard every line has them.
fn put_line_levels(e: &mut impl Enc, after: Option<&Levels>, spans: bool) -> Result<(), EncodeError> {
    match after {
        Some(after) if !spans => put_levels(e, after),
        after => put_option(e, after, put_levels),
    }
}

fn get_line_levels<'a>(d: &mut impl Dec<'a>, spans: bool) -> Result<Option<Levels>, DecodeError> {
    if spans { get_option(d, get_levels) } else { get_levels(d).map(Some) }
}

fn put_forgotten_sold(e: &mut impl Enc, sold: &ForgottenSold) -> Result<(), EncodeError> {
    let ForgottenSold { sku_id, warehouse_id, total } = sold;
    put_stock(e, sku_id, *warehouse_id)?;
    put(e, total)
}

fn get_forgotten_sold<'a>(d: &mut impl Dec<'a>) -> Result<ForgottenSold, DecodeError> {
    Ok(ForgottenSold { sku_id: get_id(d)?, warehouse_id: get_warehouse(d)?, total: get(d)? })
}

fn put_reserved_line(e: &mut impl Enc, line: &ReservedLine, spans: bool) -> Result<(), EncodeError> {
    let ReservedLine { sku_id, warehouse_id, quantity, held, after } = line;
    put_stock(e, sku_id, *warehouse_id)?;
    put(e, quantity)?;
    put(e, held)?;
    put_line_levels(e, after.as_ref(), spans)
}

fn get_reserved_line<'a>(d: &mut impl Dec<'a>, spans: bool) -> Result<ReservedLine, DecodeError> {
    Ok(ReservedLine {
        sku_id: get_id(d)?,
        warehouse_id: get_warehouse(d)?,
        quantity: get(d)?,
        held: get(d)?,
        after: get_line_levels(d, spans)?,
    })
}

fn put_confirmed_line(e: &mut impl Enc, line: &ConfirmedLine, spans: bool) -> Result<(), EncodeError> {
    // Serial numbers come behind all lines.
    let ConfirmedLine { line, sku_id, warehouse_id, held, late, after, counts, serial: _ } = line;
    put(e, line)?;
    put_stock(e, sku_id, *warehouse_id)?;
    put(e, held)?;
    put(e, late)?;
    put_line_levels(e, after.as_ref(), spans)?;
    put_counts(e, counts)
}

fn get_confirmed_line<'a>(d: &mut impl Dec<'a>, spans: bool) -> Result<ConfirmedLine, DecodeError> {
    Ok(ConfirmedLine {
        line: get(d)?,
        sku_id: get_id(d)?,
        warehouse_id: get_warehouse(d)?,
        held: get(d)?,
        late: get(d)?,
        after: get_line_levels(d, spans)?,
        counts: get_counts(d)?,
        serial: None,
    })
}

fn put_moved_line(e: &mut impl Enc, line: &MovedLine, spans: bool) -> Result<(), EncodeError> {
    let MovedLine { line, sku_id, warehouse_id, quantity, after, counts } = line;
    put(e, line)?;
    put_stock(e, sku_id, *warehouse_id)?;
    put(e, quantity)?;
    put_line_levels(e, after.as_ref(), spans)?;
    put_counts(e, counts)
}

fn get_moved_line<'a>(d: &mut impl Dec<'a>, spans: bool) -> Result<MovedLine, DecodeError> {
    Ok(MovedLine {
        line: get(d)?,
        sku_id: get_id(d)?,
        warehouse_id: get_warehouse(d)?,
        quantity: get(d)?,
        after: get_line_levels(d, spans)?,
        counts: get_counts(d)?,
    })
}

fn put_hold_moved_line(e: &mut impl Enc, line: &HoldMovedLine) -> Result<(), EncodeError> {
    let HoldMovedLine { sku_id, warehouse_id, units, after, serial, left, sold, unheard } = line;
    put_stock(e, sku_id, *warehouse_id)?;
    put(e, units)?;
    put_levels(e, after)?;
    // 0: none. Serial numbers begin at 1.
    put(e, &serial.unwrap_or(0))?;
    put(e, left)?;
    put(e, sold)?;
    put_list(e, unheard, put_serials)
}

fn get_hold_moved_line<'a>(d: &mut impl Dec<'a>) -> Result<HoldMovedLine, DecodeError> {
    Ok(HoldMovedLine {
        sku_id: get_id(d)?,
        warehouse_id: get_warehouse(d)?,
        units: get(d)?,
        after: get_levels(d)?,
        serial: Some(get(d)?).filter(|serial| *serial > 0),
        left: get(d)?,
        sold: get(d)?,
        unheard: get_list(d, get_serials)?,
    })
}
