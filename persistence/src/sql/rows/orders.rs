//! Orders with their lines and requests.

use std::collections::BTreeMap;

use hotstock_engine::checkpoint::{LineImage, OrderImage};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::event::OrderRequest;
use hotstock_engine::ids::{BuyerId, Lsn, OrderNo, RequestId, SkuId};
use hotstock_engine::store::StoreError;

use super::{
    Lock, ORDER_LINES, ORDER_REQUESTS, ORDERS, OrderEntry, in_key_order, is_linked, is_open, mode, mode_name,
    phase, phase_name, select,
};
use crate::sql::dialect::{Arg, Row, Tx};
use crate::sql::error::{SqlError, broken};
use crate::sql::statements::rows_in;

/// These orders, whole; `order_nos` are sorted. Those that are not there are left out.
pub(in crate::sql) async fn load_orders(
    tx: &mut dyn Tx,
    order_nos: &[OrderNo],
    lock: Lock,
) -> Result<Vec<OrderEntry>, SqlError> {
    let tail = format!(" ORDER BY order_no{}", lock.words(tx));
    let rows = rows_in(tx, &select(&ORDERS), "order_no", order_nos, &tail).await?;
    complete(tx, &rows).await
}

/// Orders whose rows (with the columns of [`ORDERS`]) were read, whole, in the order of the rows.
pub(in crate::sql) async fn complete(tx: &mut dyn Tx, rows: &[Row]) -> Result<Vec<OrderEntry>, SqlError> {
    let mut orders = Vec::with_capacity(rows.len());
    let mut requests = 0;
    for row in rows {
        let (entry, count) = order_entry(row)?;
        requests += count;
        orders.push(entry);
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
            let (order_no, _seq) = (f.id(OrderNo::new)?, f.count()?);
            let (request_id, fingerprint) = (f.id_or_null(RequestId::new)?, f.int()?.cast_unsigned());
            let place = *places.get(&order_no).ok_or_else(|| lost(&order_no))?;
            orders[place].image.requests.push(OrderRequest { request_id, fingerprint });
        }
    }
    Ok(orders)
}

/// Reads a row with the columns of [`ORDERS`]: the order without lines and requests, and how many requests it has.
fn order_entry(row: &Row) -> Result<(OrderEntry, u64), StoreError> {
    let f = &mut row.fields();
    let (order_no, buyer_id) = (f.id(OrderNo::new)?, f.id_or_null(BuyerId::new)?);
    let (mode, phase, _open) = (mode(f.text()?)?, phase(f.text()?)?, f.flag()?);
    let (created_at, expires_at, changed_at) = (f.time()?, f.time()?, f.time()?);
    let due_at = f.int_or_null()?.map(|at| u64::try_from(at).map(Timestamp)).transpose().map_err(broken)?;
    let (server, shard, lsn) = (f.server_or_null()?, f.shard_or_null()?, f.lsn()?);
    let source = server.zip(shard).map(|(server, shard)| (server, shard, lsn));
    let requests = f.count()?;
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
        serials: Vec::new(),
    };
    Ok((OrderEntry { image, due_at, source }, requests))
}

fn line_image(row: &Row) -> Result<(OrderNo, LineImage), StoreError> {
    let f = &mut row.fields();
    let (order_no, sku_id, warehouse_id) = (f.id(OrderNo::new)?, f.id(SkuId::new)?, f.warehouse()?);
    let _line = f.count()?;
    let (quantity, held, confirmed) = (f.small()?, f.small()?, f.small()?);
    let (released, returned, lapsed) = (f.small()?, f.small()?, f.small()?);
    Ok((order_no, LineImage { sku_id, warehouse_id, quantity, held, confirmed, released, returned, lapsed }))
}

/// A row for [`ORDERS`].
pub(in crate::sql) fn order_row(entry: &OrderEntry) -> Vec<Arg> {
    let OrderEntry { image, due_at, source } = entry;
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
    ]
}

/// The rows of an order for [`ORDER_LINES`].
pub(in crate::sql) fn line_rows(image: &OrderImage) -> impl Iterator<Item = Vec<Arg>> + '_ {
    let (open, linked) = (is_open(image), is_linked(image));
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
