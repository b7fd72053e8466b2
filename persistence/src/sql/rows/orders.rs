//! Orders in one place, and branches, with their lines and requests.

use std::collections::BTreeMap;

use hotstock_engine::checkpoint::{LineImage, LineSerials, OrderImage};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::event::OrderRequest;
use hotstock_engine::ids::{BuyerId, Lsn, OrderNo, RequestId, SkuId};
use hotstock_engine::outcome::Serials;
use hotstock_engine::store::StoreError;

use super::homes::HOME;
use super::{
    Found, HomeEntry, Linked, Lock, ORDER_LINES, ORDER_REQUESTS, ORDERS, OrderEntry, in_key_order, is_open,
    mode, mode_name, order_status_name, phase, phase_name, select, status_of,
};
use crate::codec::decode_home;
use crate::sql::dialect::{Arg, Row, Tx};
use crate::sql::error::{SqlError, broken};
use crate::sql::statements::rows_in;

/// The kinds of rows of `orders`, beside [`HOME`].
const PLAIN: i64 = 0;
const BRANCH: i64 = 2;

/// These orders in one place and branches, whole; `order_nos` are sorted. Those that are not there are left out.
pub(in crate::sql) async fn load_orders(
    tx: &mut dyn Tx,
    order_nos: &[OrderNo],
    lock: Lock,
) -> Result<Vec<OrderEntry>, SqlError> {
    Ok(find_orders(tx, order_nos, lock).await?.orders)
}

/// These orders of either kind, whole; `order_nos` are sorted. Those that are not there are left out.
pub(in crate::sql) async fn find_orders(
    tx: &mut dyn Tx,
    order_nos: &[OrderNo],
    lock: Lock,
) -> Result<Found, SqlError> {
    let tail = format!(" ORDER BY order_no{}", lock.words(tx));
    let rows = rows_in(tx, &select(&ORDERS), "order_no", order_nos, &tail).await?;
    complete(tx, &rows).await
}

/// Orders whose rows (with the columns of [`ORDERS`]) were read, whole, in the order of the rows.
pub(in crate::sql) async fn complete(tx: &mut dyn Tx, rows: &[Row]) -> Result<Found, SqlError> {
    let (mut orders, mut homes) = (Vec::with_capacity(rows.len()), Vec::new());
    let mut requests = 0;
    for row in rows {
        match entry(row)? {
            Entry::Order(entry, count) => {
                requests += count;
                orders.push(*entry);
            }
            Entry::Home(entry) => homes.push(*entry),
        }
    }
    let order_nos = in_key_order(orders.iter().map(|order| order.image.order_no.clone()).collect());
    let places: BTreeMap<OrderNo, usize> =
        orders.iter().enumerate().map(|(place, order)| (order.image.order_no.clone(), place)).collect();
    let lost = |order_no: &OrderNo| broken(format!("a part of order {order_no}, which was not asked for"));

    let lines =
        rows_in(tx, &select(&ORDER_LINES), "order_no", &order_nos, " ORDER BY order_no, line").await?;
    for row in &lines {
        let (order_no, line) = line_image(row)?;
        let place = *places.get(&order_no).ok_or_else(|| lost(&order_no))?;
        orders[place].image.lines.push(line);
    }
    // Few orders have any.
    if requests > 0 {
        let rows =
            rows_in(tx, &select(&ORDER_REQUESTS), "order_no", &order_nos, " ORDER BY order_no, seq").await?;
        for row in &rows {
            let f = &mut row.fields();
            let (order_no, _seq) = (f.order_no()?, f.count()?);
            let (request_id, fingerprint) = (f.id_or_null(RequestId::new)?, f.int()?.cast_unsigned());
            let place = *places.get(&order_no).ok_or_else(|| lost(&order_no))?;
            orders[place].image.requests.push(OrderRequest { request_id, fingerprint });
        }
    }
    Ok(Found { orders, homes })
}

/// What a row of [`ORDERS`] tells.
enum Entry {
    /// An order without its lines and requests, and how many requests it has.
    Order(Box<OrderEntry>, u64),
    /// An order over several places, whole.
    Home(Box<HomeEntry>),
}

/// Reads a row with the columns of [`ORDERS`].
fn entry(row: &Row) -> Result<Entry, StoreError> {
    let f = &mut row.fields();
    let (order_no, buyer_id) = (f.order_no()?, f.id_or_null(BuyerId::new)?);
    let (mode, phase, _open) = (mode(f.text()?)?, phase(f.text()?)?, f.flag()?);
    let (created_at, expires_at, changed_at) = (f.time()?, f.time()?, f.time()?);
    let due_at = f.int_or_null()?.map(|at| u64::try_from(at).map(Timestamp)).transpose().map_err(broken)?;
    let (server, shard, lsn) = (f.server_or_null()?, f.shard_or_null()?, f.lsn()?);
    let source = server.zip(shard).map(|(server, shard)| (server, shard, lsn));
    let (requests, kind, _status) = (f.count()?, f.int()?, f.text_or_null()?.is_some());
    let (writer, home_shard) = (f.server_or_null()?, f.shard_or_null()?);
    if kind == HOME {
        let record = f.bytes_or_null()?.ok_or_else(|| broken(format!("order {order_no}: no record")))?;
        let home = decode_home(record).map_err(|problem| broken(format!("order {order_no}: {problem}")))?;
        let Some((server, shard)) = writer.zip(home_shard).filter(|_| home.order.order_no == order_no) else {
            return Err(broken(format!("order {order_no}: half a home")));
        };
        return Ok(Entry::Home(Box::new(HomeEntry { home, server, shard, due_at, source })));
    }
    let _record = f.bytes_or_null()?.is_some();
    let serials = serials(f.text_or_null()?.unwrap_or_default())
        .ok_or_else(|| broken(format!("order {order_no}: its serial numbers can't be read")))?;
    let image = OrderImage {
        order_no,
        buyer_id,
        mode,
        phase,
        created_at,
        expires_at,
        changed_at,
        lsn: Lsn::ZERO,
        lines: Vec::new(),
        requests: Vec::new(),
        serials,
    };
    Ok(Entry::Order(Box::new(OrderEntry { image, due_at, source, writer }), requests))
}

/// Serial numbers as text: `line:from-to,…`, in their order.
fn serials_text(serials: &[LineSerials]) -> Option<String> {
    let one =
        |LineSerials { line, serials: Serials { from, to } }: &LineSerials| format!("{line}:{from}-{to}");
    (!serials.is_empty()).then(|| serials.iter().map(one).collect::<Vec<_>>().join(","))
}

/// Reads what [`serials_text`] wrote; `None` when it is something else.
fn serials(text: &str) -> Option<Vec<LineSerials>> {
    let one = |text: &str| {
        let (line, range) = text.split_once(':')?;
        let (from, to) = range.split_once('-')?;
        let serials = Serials { from: from.parse().ok()?, to: to.parse().ok()? };
        Some(LineSerials { line: line.parse().ok()?, serials })
    };
    if text.is_empty() { Some(Vec::new()) } else { text.split(',').map(one).collect() }
}

fn line_image(row: &Row) -> Result<(OrderNo, LineImage), StoreError> {
    let f = &mut row.fields();
    let (order_no, sku_id, warehouse_id) = (f.order_no()?, f.id(SkuId::new)?, f.warehouse()?);
    let _line = f.count()?;
    let (quantity, held, confirmed) = (f.small()?, f.small()?, f.small()?);
    let (released, returned, lapsed) = (f.small()?, f.small()?, f.small()?);
    Ok((order_no, LineImage { sku_id, warehouse_id, quantity, held, confirmed, released, returned, lapsed }))
}

/// A row for [`ORDERS`].
pub(in crate::sql) fn order_row(entry: &OrderEntry) -> Vec<Arg> {
    let OrderEntry { image, due_at, source, writer } = entry;
    let is_branch = image.order_no.is_branch();
    let status = (!is_branch).then(|| order_status_name(status_of(image)));
    vec![
        (&image.order_no).into(),
        image.buyer_id.as_ref().into(),
        mode_name(image.mode).into(),
        phase_name(image.phase).into(),
        is_open(image).into(),
        image.created_at.into(),
        image.expires_at.into(),
        image.changed_at.into(),
        (*due_at).into(),
        source.map(|(server, _, _)| server).into(),
        source.map(|(_, shard, _)| shard).into(),
        source.map_or(Lsn::ZERO, |(_, _, lsn)| lsn).into(),
        image.requests.len().into(),
        if is_branch { BRANCH } else { PLAIN }.into(),
        status.into(),
        writer.filter(|_| is_branch).into(),
        Arg::Null,
        Arg::Null,
        serials_text(&image.serials).as_deref().into(),
    ]
}

/// The rows of an order for [`ORDER_LINES`].
pub(in crate::sql) fn line_rows(image: &OrderImage) -> impl Iterator<Item = Vec<Arg>> + '_ {
    let (open, linked) = (is_open(image), Linked::of(image));
    image.lines.iter().enumerate().map(move |(place, line)| {
        vec![
            (&image.order_no).into(),
            (&line.sku_id).into(),
            line.warehouse_id.into(),
            place.into(),
            line.quantity.into(),
            line.held.into(),
            line.confirmed.into(),
            line.released.into(),
            line.returned.into(),
            line.lapsed.into(),
            open.into(),
            linked.into(),
            image.changed_at.into(),
        ]
    })
}

/// The rows of an order's requests from the `from`th on, for [`ORDER_REQUESTS`].
pub(in crate::sql) fn request_rows(image: &OrderImage, from: usize) -> impl Iterator<Item = Vec<Arg>> + '_ {
    image.requests.iter().enumerate().skip(from).map(|(seq, request)| {
        vec![
            (&image.order_no).into(),
            seq.into(),
            request.request_id.as_ref().into(),
            request.fingerprint.cast_signed().into(),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_come_back_in_their_order() {
        let of = |line, from, to| LineSerials { line, serials: Serials { from, to } };
        let given = vec![of(1, 1, 3), of(0, 7, 7), of(1, 4, u64::MAX)];
        let text = serials_text(&given).unwrap();
        assert_eq!(text, "1:1-3,0:7-7,1:4-18446744073709551615");
        assert_eq!(serials(&text), Some(given));
        assert_eq!((serials_text(&[]), serials("")), (None, Some(Vec::new())));
        for wrong in [",", "1", "1:2", "1:2-", "1:2-3,", "70000:1-2", "-1:1-2"] {
            assert_eq!(serials(wrong), None, "{wrong}");
        }
    }
}
