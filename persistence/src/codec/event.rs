//! Events as bytes: the time, then the *body*, of which the chain hash is made ([`super::link`]). The numbers of the
//! kinds are frozen. A time is kept as its distance from the record's base time, which is a byte or two where the
//! whole would be nine; since that depends on what else is in the record, it is no part of the body.

use bincode::error::{DecodeError, EncodeError};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::event::{Change, ConfirmedLine, Event, ForgottenSold, MovedLine, ReservedLine};
use hotstock_engine::home::{DecidedLine, HeldLine, HomeChange};
use hotstock_engine::ids::{AttemptId, Epoch, Lsn, TraceId};
use smallvec::SmallVec;

use super::image::{
    decision, decision_number, get_home_image, get_order_image, get_request_image, get_stock_image,
    put_home_image, put_order_image, put_request_image, put_stock_image,
};
use super::words::{
    change_kind, change_kind_number, get, get_after, get_bool, get_counts, get_id, get_levels,
    get_line_serials, get_list, get_option, get_order_request, get_warehouse, mode, mode_number, put,
    put_after, put_bool, put_counts, put_id, put_levels, put_line_serials, put_list, put_option,
    put_order_request, put_stock, status, status_number, wrong,
};
use super::{Dec, Enc, Malformed, append, front};

/// Set in the byte of the kind when a trace id follows it.
const HAS_TRACE: u8 = 0x80;

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
const HOME_RESERVED: u8 = 20;
const HOME_DECIDED: u8 = 21;
const HOME_EXTENDED: u8 = 22;
const HOME_CARRIED: u8 = 23;
const HOME_LOADED: u8 = 24;

/// Appends one event, and answers where in `out` its body begins, which ends with `out`. `base` is any time near to
/// those of the events of the record.
pub fn encode_event(event: &Event, base: Timestamp, out: &mut Vec<u8>) -> usize {
    let Event { at, trace, change } = event;
    // Wrapping, so that any two times have a distance; the logged time of a shard never steps back, but the type may.
    append(out, |e| put(e, &at.0.wrapping_sub(base.0).cast_signed()));
    let body = out.len();
    append(out, |e| {
        put(e, &(kind(change) | if trace.is_some() { HAS_TRACE } else { 0 }))?;
        if let Some(trace) = trace {
            put(e, &trace.0)?;
        }
        put_change(e, change)
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
    Ok(Event { at, trace, change: get_change(d, kind & !HAS_TRACE)? })
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
        Change::Home(change) => match **change {
            HomeChange::Reserved { .. } => HOME_RESERVED,
            HomeChange::Decided { .. } => HOME_DECIDED,
            HomeChange::Extended { .. } => HOME_EXTENDED,
            HomeChange::Carried { .. } => HOME_CARRIED,
            HomeChange::Loaded(_) => HOME_LOADED,
        },
    }
}

fn put_change(e: &mut impl Enc, change: &Change) -> Result<(), EncodeError> {
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
        Change::Reserved { order_no, buyer_id, mode, ttl_seconds, asked, lines } => {
            asked.map_or(Ok(()), |asked| put(e, &asked))?;
            put_id(e, order_no)?;
            put_option(e, buyer_id.as_ref(), put_id)?;
            put(e, &mode_number(*mode))?;
            put(e, ttl_seconds)?;
            put_list(e, lines, put_reserved_line)
        }
        Change::Confirmed { order_no, request, lines, after } => {
            put_id(e, order_no)?;
            put_option(e, request.as_ref(), put_order_request)?;
            put_after(e, after)?;
            put_list(e, lines, put_confirmed_line)?;
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
            put_after(e, after)?;
            put_list(e, lines, put_moved_line)
        }
        Change::Cancelled { order_no, reason } => {
            put_id(e, order_no)?;
            put_option(e, reason.as_ref(), put_id)
        }
        Change::Expired { order_no, lines, after } => {
            put_id(e, order_no)?;
            put_after(e, after)?;
            put_list(e, lines, put_moved_line)
        }
        Change::Extended { order_no, ttl_seconds } => {
            put_id(e, order_no)?;
            put(e, ttl_seconds)
        }
        Change::Returned { order_no, request, lines, after } => {
            put_id(e, order_no)?;
            put_order_request(e, request)?;
            put_after(e, after)?;
            put_list(e, lines, put_moved_line)
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
        Change::Home(change) => put_home_change(e, change),
    }
}

fn put_home_change(e: &mut impl Enc, change: &HomeChange) -> Result<(), EncodeError> {
    match change {
        HomeChange::Reserved { order_no, buyer_id, mode, ttl_seconds, asked, attempt, lines } => {
            put_id(e, order_no)?;
            put_option(e, buyer_id.as_ref(), put_id)?;
            put(e, &mode_number(*mode))?;
            put(e, ttl_seconds)?;
            put_option(e, asked.as_ref(), put)?;
            put(e, &attempt.0)?;
            put_list(e, lines, |e, line| {
                put_stock(e, &line.sku_id, line.warehouse_id)?;
                put(e, &line.quantity)?;
                put(e, &line.held)
            })
        }
        HomeChange::Decided { order_no, kind, request, reason, attempt, lines } => {
            put_id(e, order_no)?;
            put(e, &decision_number(*kind))?;
            put_option(e, request.as_ref(), put_order_request)?;
            put_option(e, reason.as_ref(), put_id)?;
            put_option(e, attempt.as_ref(), |e, attempt| put(e, &attempt.0))?;
            put_list(e, lines, |e, line| {
                put(e, &line.line)?;
                put(e, &line.units)?;
                put(e, &line.late)
            })
        }
        HomeChange::Extended { order_no, ttl_seconds } => {
            put_id(e, order_no)?;
            put(e, ttl_seconds)
        }
        HomeChange::Carried { order_no, through, serials } => {
            put_id(e, order_no)?;
            put(e, through)?;
            put_list(e, serials, put_line_serials)
        }
        HomeChange::Loaded(image) => put_home_image(e, image),
    }
}

fn get_home_change<'a>(d: &mut impl Dec<'a>, kind: u8) -> Result<HomeChange, DecodeError> {
    Ok(match kind {
        HOME_RESERVED => HomeChange::Reserved {
            order_no: get_id(d)?,
            buyer_id: get_option(d, get_id)?,
            mode: mode(get(d)?)?,
            ttl_seconds: get(d)?,
            asked: get_option(d, get)?,
            attempt: AttemptId(get(d)?),
            lines: get_list(d, |d| {
                let (sku_id, warehouse_id) = (get_id(d)?, get_warehouse(d)?);
                Ok(HeldLine { sku_id, warehouse_id, quantity: get(d)?, held: get(d)? })
            })?,
        },
        HOME_DECIDED => HomeChange::Decided {
            order_no: get_id(d)?,
            kind: decision(get(d)?)?,
            request: get_option(d, get_order_request)?,
            reason: get_option(d, get_id)?,
            attempt: get_option(d, |d| Ok(AttemptId(get(d)?)))?,
            lines: get_list(d, |d| Ok(DecidedLine { line: get(d)?, units: get(d)?, late: get(d)? }))?,
        },
        HOME_EXTENDED => HomeChange::Extended { order_no: get_id(d)?, ttl_seconds: get(d)? },
        HOME_CARRIED => HomeChange::Carried {
            order_no: get_id(d)?,
            through: get(d)?,
            serials: get_list(d, get_line_serials)?,
        },
        HOME_LOADED => HomeChange::Loaded(Box::new(get_home_image(d)?)),
        other => return Err(wrong("kind of event", other)),
    })
}

fn get_change<'a>(d: &mut impl Dec<'a>, kind: u8) -> Result<Change, DecodeError> {
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
            lines: get_list(d, get_reserved_line)?,
        },
        CONFIRMED | CONFIRMED_WITH_SERIALS => {
            let (order_no, request, after) = (get_id(d)?, get_option(d, get_order_request)?, get_after(d)?);
            let mut lines: SmallVec<[ConfirmedLine; 1]> = get_list(d, get_confirmed_line)?;
            if kind == CONFIRMED_WITH_SERIALS {
                for line in &mut lines {
                    line.serial = Some(get(d)?).filter(|serial| *serial > 0);
                }
            }
            Change::Confirmed { order_no, request, lines, after }
        }
        RELEASED => Change::Released {
            order_no: get_id(d)?,
            request: get_option(d, get_order_request)?,
            reason: get_option(d, get_id)?,
            after: get_after(d)?,
            lines: get_list(d, get_moved_line)?,
        },
        CANCELLED => Change::Cancelled { order_no: get_id(d)?, reason: get_option(d, get_id)? },
        EXPIRED => Change::Expired {
            order_no: get_id(d)?,
            after: get_after(d)?,
            lines: get_list(d, get_moved_line)?,
        },
        EXTENDED => Change::Extended { order_no: get_id(d)?, ttl_seconds: get(d)? },
        RETURNED => Change::Returned {
            order_no: get_id(d)?,
            request: get_order_request(d)?,
            after: get_after(d)?,
            lines: get_list(d, get_moved_line)?,
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
        HOME_RESERVED | HOME_DECIDED | HOME_EXTENDED | HOME_CARRIED | HOME_LOADED => {
            Change::Home(Box::new(get_home_change(d, kind)?))
        }
        other => return Err(wrong("kind of event", other)),
    })
}

fn put_forgotten_sold(e: &mut impl Enc, sold: &ForgottenSold) -> Result<(), EncodeError> {
    let ForgottenSold { sku_id, warehouse_id, total } = sold;
    put_stock(e, sku_id, *warehouse_id)?;
    put(e, total)
}

fn get_forgotten_sold<'a>(d: &mut impl Dec<'a>) -> Result<ForgottenSold, DecodeError> {
    Ok(ForgottenSold { sku_id: get_id(d)?, warehouse_id: get_warehouse(d)?, total: get(d)? })
}

fn put_reserved_line(e: &mut impl Enc, line: &ReservedLine) -> Result<(), EncodeError> {
    let ReservedLine { sku_id, warehouse_id, quantity, held, after } = line;
    put_stock(e, sku_id, *warehouse_id)?;
    put(e, quantity)?;
    put(e, held)?;
    put_levels(e, after)
}

fn get_reserved_line<'a>(d: &mut impl Dec<'a>) -> Result<ReservedLine, DecodeError> {
    Ok(ReservedLine {
        sku_id: get_id(d)?,
        warehouse_id: get_warehouse(d)?,
        quantity: get(d)?,
        held: get(d)?,
        after: get_levels(d)?,
    })
}

fn put_confirmed_line(e: &mut impl Enc, line: &ConfirmedLine) -> Result<(), EncodeError> {
    // Serial numbers come behind all lines.
    let ConfirmedLine { line, sku_id, warehouse_id, held, late, after, counts, serial: _ } = line;
    put(e, line)?;
    put_stock(e, sku_id, *warehouse_id)?;
    put(e, held)?;
    put(e, late)?;
    put_levels(e, after)?;
    put_counts(e, counts)
}

fn get_confirmed_line<'a>(d: &mut impl Dec<'a>) -> Result<ConfirmedLine, DecodeError> {
    Ok(ConfirmedLine {
        line: get(d)?,
        sku_id: get_id(d)?,
        warehouse_id: get_warehouse(d)?,
        held: get(d)?,
        late: get(d)?,
        after: get_levels(d)?,
        counts: get_counts(d)?,
        serial: None,
    })
}

fn put_moved_line(e: &mut impl Enc, line: &MovedLine) -> Result<(), EncodeError> {
    let MovedLine { line, sku_id, warehouse_id, quantity, after, counts } = line;
    put(e, line)?;
    put_stock(e, sku_id, *warehouse_id)?;
    put(e, quantity)?;
    put_levels(e, after)?;
    put_counts(e, counts)
}

fn get_moved_line<'a>(d: &mut impl Dec<'a>) -> Result<MovedLine, DecodeError> {
    Ok(MovedLine {
        line: get(d)?,
        sku_id: get_id(d)?,
        warehouse_id: get_warehouse(d)?,
        quantity: get(d)?,
        after: get_levels(d)?,
        counts: get_counts(d)?,
    })
}
