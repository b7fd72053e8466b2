//! Orders over several places: the row of a home, and an order in one place that becomes one.

use std::collections::BTreeSet;

use hotstock_engine::checkpoint::OrderImage;
use hotstock_engine::home::{HomeImage, split};
use hotstock_engine::ids::{Lsn, OrderNo, ServerId, ShardId};

use super::{
    HOME_LINES, HomeEntry, ORDER_LINES, ORDER_REQUESTS, ORDERS, OrderEntry, is_open, line_rows, mode_name,
    order_row, order_status_name, phase_name, request_rows, status_of,
};
use crate::codec::encode_home;
use crate::sql::dialect::{Arg, Existing, Tx};
use crate::sql::error::SqlError;
use crate::sql::statements::{execute_in, write};

/// The kind of a row of `orders` that is a home.
pub(super) const HOME: i64 = 1;

/// A row for [`ORDERS`].
pub(in crate::sql) fn home_row(entry: &HomeEntry) -> Vec<Arg> {
    let HomeEntry { home, server, shard, due_at, source } = entry;
    let order = &home.order;
    // What shards count can't be compared.
    let kept = HomeImage { order: OrderImage { lsn: Lsn::ZERO, ..order.clone() }, ..home.clone() };
    vec![
        (&order.order_no).into(),
        order.buyer_id.as_ref().into(),
        mode_name(order.mode).into(),
        phase_name(order.phase).into(),
        is_under_way(home).into(),
        order.created_at.into(),
        order.expires_at.into(),
        order.changed_at.into(),
        (*due_at).into(),
        source.map(|(server, _, _)| server).into(),
        source.map(|(_, shard, _)| shard).into(),
        source.map_or(Lsn::ZERO, |(_, _, lsn)| lsn).into(),
        Arg::Int(0),
        HOME.into(),
        order_status_name(status_of(order)).into(),
        (*server).into(),
        (*shard).into(),
        encode_home(&kept).into(),
        Arg::Null,
    ]
}

/// Whether a home is to do something yet: it holds units, or its branches are to be told.
pub(in crate::sql) fn is_under_way(home: &HomeImage) -> bool {
    is_open(&home.order) || !home.pending.is_empty()
}

/// The rows of a home for [`HOME_LINES`]: one for each SKU.
pub(in crate::sql) fn home_line_rows(home: &HomeImage) -> impl Iterator<Item = Vec<Arg>> + '_ {
    let skus: BTreeSet<_> = home.order.lines.iter().map(|line| &line.sku_id).collect();
    skus.into_iter().map(|sku_id| vec![sku_id.into(), (&home.order.order_no).into()])
}

/// Writes homes, whether they are there or not; `existing` says what becomes of one that is.
pub(in crate::sql) async fn write_homes(
    tx: &mut dyn Tx,
    homes: &[HomeEntry],
    existing: Existing,
) -> Result<u64, SqlError> {
    let rows = homes.iter().map(home_row).collect();
    let lines = homes.iter().flat_map(|entry| home_line_rows(&entry.home)).collect();
    Ok(write(tx, &ORDERS, existing, rows).await? + write(tx, &HOME_LINES, Existing::Kept, lines).await?)
}

/// Takes the lines and requests of orders away that were in one place and are over several now: their record has them.
pub(in crate::sql) async fn drop_parts(tx: &mut dyn Tx, order_nos: &[OrderNo]) -> Result<u64, SqlError> {
    let lines = execute_in(tx, "DELETE FROM order_lines WHERE", "order_no", order_nos).await?;
    Ok(lines + execute_in(tx, "DELETE FROM order_requests WHERE", "order_no", order_nos).await?)
}

/// Makes orders in one place, whose rows are locked, orders over several: the home of each is where `home` says and takes it in when it
/// is asked for or due. The branches need not ask: their home is there.
pub(in crate::sql) async fn write_split(
    tx: &mut dyn Tx,
    orders: Vec<OrderImage>,
    server: ServerId,
    home: impl Fn(&OrderNo) -> ShardId,
) -> Result<Vec<HomeEntry>, SqlError> {
    let order_nos: Vec<_> = orders.iter().map(|order| order.order_no.clone()).collect();
    drop_parts(tx, &order_nos).await?;
    let (mut homes, mut branches) = (Vec::new(), Vec::new());
    for order in orders {
        let (home_image, parts) = split(order);
        let shard = home(&home_image.order.order_no);
        let due_at = is_open(&home_image.order).then_some(home_image.order.expires_at);
        homes.push(HomeEntry { home: home_image, server, shard, due_at, source: None });
        let branch = |image| OrderEntry { image, due_at: None, source: None, writer: Some(server) };
        branches.extend(parts.into_iter().map(branch));
    }
    write_homes(tx, &homes, Existing::Replaced).await?;
    write(tx, &ORDERS, Existing::Refused, branches.iter().map(order_row).collect()).await?;
    let lines = branches.iter().flat_map(|branch| line_rows(&branch.image)).collect();
    write(tx, &ORDER_LINES, Existing::Refused, lines).await?;
    let requests = branches.iter().flat_map(|branch| request_rows(&branch.image, 0)).collect();
    write(tx, &ORDER_REQUESTS, Existing::Refused, requests).await?;
    Ok(homes)
}
