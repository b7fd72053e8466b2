//! Orders, with their lines, requests and serial numbers.

use std::collections::{BTreeMap, HashMap};

use hotstock_engine::ids::{BuyerId, OrderNo, RequestId, ShardId, SkuId};
use hotstock_engine::image::{LineImage, LineSerials, OrderImage};
use hotstock_engine::order::{OrderRequest, OrderStatus};
use hotstock_engine::store::{StoreError, StoredOrder};
use hotstock_engine::units::Serials;

use super::{
    ORDER_LINES, ORDER_REQUESTS, ORDER_SERIALS, ORDERS, mode, mode_name, order_status_name, phase,
    phase_name, select,
};
use crate::codec::{decode_span, encode_span};
use crate::sql::dialect::{Arg, Fields, Row, Tx};
use crate::sql::error::{SqlError, broken, problem_of};
use crate::sql::statements::rows_in;

/// Adds a part of an order, whose other columns come next, to its image.
type ReadPart = fn(&mut OrderImage, &mut Fields<'_>) -> Result<(), StoreError>;

/// What was found of orders.
#[derive(Default)]
pub(in crate::sql) struct FoundOrders {
    /// By number.
    pub orders: Vec<StoredOrder>,
    /// Those that are there and can't be read, by number, and why.
    pub unreadable: BTreeMap<OrderNo, String>,
}

impl FoundOrders {
    /// Those that can be read; the others are left out, and named in the log.
    pub fn readable(self) -> Vec<StoredOrder> {
        for (order_no, problem) in &self.unreadable {
            tracing::warn!(?order_no, problem, "the stored rows of an order can't be read; it is left out");
        }
        self.orders
    }
}

/// These orders, whole; `lock` is the end of the statement that reads them. Those that are not there are
/// left out.
pub(in crate::sql) async fn find_orders(
    tx: &mut dyn Tx,
    order_nos: &[OrderNo],
    lock: &str,
) -> Result<FoundOrders, SqlError> {
    let mut found = FoundOrders::default();
    let mut said = HashMap::new();
    for row in &rows_in(tx, &select(&ORDERS), "order_no", order_nos, lock).await? {
        // One that can't be read is no reason not to find the others.
        let order_no = row.fields().order_no()?;
        match stored_order(row) {
            Ok((order, says)) => {
                found.orders.push(order);
                said.insert(order_no, says);
            }
            Err(error) => found.is_unreadable(order_no, "orders", error),
        }
    }
    add_parts(tx, &mut found).await?;
    let FoundOrders { orders, unreadable } = &mut found;
    for order in &*orders {
        let image = &order.image;
        if let Some(problem) = said.get(&image.order_no).and_then(|says| says.differs_from(image)) {
            unreadable.entry(image.order_no.clone()).or_insert(problem);
        }
    }
    orders.retain(|order| !unreadable.contains_key(&order.image.order_no));
    orders.sort_by(|one, other| one.image.order_no.cmp(&other.image.order_no));
    Ok(found)
}

impl FoundOrders {
    fn is_unreadable(&mut self, order_no: OrderNo, table: &str, error: StoreError) {
        let problem = format!("a row of {table}: {}", problem_of(error));
        self.unreadable.entry(order_no).or_insert(problem);
    }
}

/// What the row of an order says of its lines.
struct Says {
    status: String,
    /// 1 or 0, if nobody changed it.
    open: i64,
}

impl Says {
    /// Why the lines can't be all that there were.
    fn differs_from(&self, image: &OrderImage) -> Option<String> {
        let said = (self.status.as_str(), self.open);
        let right = (order_status_name(image.status()), i64::from(!image.is_done()));
        let words = |(status, open): (&str, i64)| match open {
            0 => format!("{status} and not open"),
            1 => format!("{status} and open"),
            other => format!("{status}, and {other} in `open`"),
        };
        (said != right)
            .then(|| format!("its row of orders says {}; its lines make it {}", words(said), words(right)))
    }
}

/// Whether what the row of an order says is what its phase, its span and the sums of its lines make of it, of a row
/// with these: number, phase, status, open, span, and the sums of held, confirmed, released and returned.
pub(in crate::sql) fn order_fits(row: &Row) -> bool {
    let fits = || -> Result<bool, StoreError> {
        let f = &mut row.fields();
        let (_, phase) = (f.order_no()?, phase(f.text()?)?);
        let (status, open) = (f.text()?.to_owned(), f.int()?);
        let span = f.bytes_or_null()?.map(decode_span).transpose().map_err(broken)?;
        let sums = [f.count()?, f.count()?, f.count()?, f.count()?];
        let is_open = sums[0] > 0 || span.is_some_and(|span| !span.pending.is_empty());
        Ok(status == order_status_name(OrderStatus::of(phase, sums)) && open == i64::from(is_open))
    };
    fits().unwrap_or(false)
}

/// Reads what orders have in other tables.
async fn add_parts(tx: &mut dyn Tx, found: &mut FoundOrders) -> Result<(), SqlError> {
    let mut orders = std::mem::take(&mut found.orders);
    let mut images: BTreeMap<OrderNo, &mut OrderImage> =
        orders.iter_mut().map(|order| (order.image.order_no.clone(), &mut order.image)).collect();
    let order_nos: Vec<OrderNo> = images.keys().cloned().collect();
    let parts: [(_, _, ReadPart); 3] = [
        (ORDER_LINES, "line", add_line),
        (ORDER_REQUESTS, "seq", add_request),
        (ORDER_SERIALS, "seq", add_serials),
    ];
    for (table, by, add) in parts {
        let tail = format!(" ORDER BY order_no, {by}");
        for row in &rows_in(tx, &select(&table), "order_no", &order_nos, &tail).await? {
            let f = &mut row.fields();
            let order_no = f.order_no()?;
            let Some(image) = images.get_mut(&order_no) else { continue };
            if let Err(error) = add(image, f) {
                found.is_unreadable(order_no, table.name, error);
            }
        }
    }
    found.orders = orders;
    Ok(())
}

/// Reads the columns of [`ORDER_LINES`] after the first.
fn add_line(image: &mut OrderImage, f: &mut Fields<'_>) -> Result<(), StoreError> {
    let (line, next) = (f.count()?, image.lines.len());
    if line != next as u64 {
        return Err(broken(format!("line {line} comes where line {next} should")));
    }
    image.lines.push(line_image(f)?);
    Ok(())
}

/// Reads the columns of [`ORDER_REQUESTS`] after the first.
fn add_request(image: &mut OrderImage, f: &mut Fields<'_>) -> Result<(), StoreError> {
    let _seq = f.count()?;
    let (request_id, fingerprint) = (f.id_or_null(RequestId::new)?, f.int()?.cast_unsigned());
    image.requests.push(OrderRequest { request_id, fingerprint });
    Ok(())
}

/// Reads the columns of [`ORDER_SERIALS`] after the first.
fn add_serials(image: &mut OrderImage, f: &mut Fields<'_>) -> Result<(), StoreError> {
    let (_seq, line) = (f.count()?, f.small()?);
    image.serials.push(LineSerials { line, serials: Serials { from: f.count()?, to: f.count()? } });
    Ok(())
}

/// Reads a row with the columns of [`ORDERS`], without what stands in other tables.
fn stored_order(row: &Row) -> Result<(StoredOrder, Says), StoreError> {
    let f = &mut row.fields();
    let (order_no, shard) = (f.order_no()?, f.shard()?);
    let (buyer_id, mode, phase) = (f.id_or_null(BuyerId::new)?, mode(f.text()?)?, phase(f.text()?)?);
    let says = Says { status: f.text()?.to_owned(), open: f.int()? };
    let (created_at, expires_at, changed_at, lsn) = (f.time()?, f.time()?, f.time()?, f.lsn()?);
    let asked = f.int_or_null()?;
    let span = f.bytes_or_null()?.map(decode_span).transpose().map_err(broken)?.map(Box::new);
    let first = |asked: i64| OrderRequest { request_id: None, fingerprint: asked.cast_unsigned() };
    let requests = asked.map(first).into_iter().collect();
    let (lines, serials) = (Vec::new(), Vec::new());
    let image = OrderImage {
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
    };
    Ok((StoredOrder { shard, image }, says))
}

/// Reads the columns of [`ORDER_LINES`] after the first two.
fn line_image(f: &mut Fields<'_>) -> Result<LineImage, StoreError> {
    let (sku_id, warehouse_id) = (f.id(SkuId::new)?, f.warehouse()?);
    let (quantity, held, confirmed) = (f.small()?, f.small()?, f.small()?);
    let (released, returned, lapsed) = (f.small()?, f.small()?, f.small()?);
    Ok(LineImage { sku_id, warehouse_id, quantity, held, confirmed, released, returned, lapsed })
}

/// A row for [`ORDERS`].
pub(in crate::sql) fn order_row(image: &OrderImage, shard: ShardId) -> Vec<Arg> {
    vec![
        (&image.order_no).into(),
        shard.into(),
        image.buyer_id.as_ref().into(),
        mode_name(image.mode).into(),
        phase_name(image.phase).into(),
        order_status_name(image.status()).into(),
        (!image.is_done()).into(),
        image.created_at.into(),
        image.expires_at.into(),
        image.changed_at.into(),
        image.lsn.into(),
        asked(image).map(u64::cast_signed).into(),
        image.span.as_deref().map(encode_span).into(),
    ]
}

/// The content of the request that made an order, when that is the first of its requests. It stands in its row: almost
/// every order has it, and most have no other.
fn asked(image: &OrderImage) -> Option<u64> {
    let first = image.requests.first().filter(|request| request.request_id.is_none());
    first.map(|request| request.fingerprint)
}

/// The rows of an order for [`ORDER_LINES`].
pub(in crate::sql) fn line_rows(image: &OrderImage) -> impl Iterator<Item = Vec<Arg>> + '_ {
    image.lines.iter().enumerate().map(|(place, line)| {
        vec![
            (&image.order_no).into(),
            place.into(),
            (&line.sku_id).into(),
            line.warehouse_id.into(),
            line.quantity.into(),
            line.held.into(),
            line.confirmed.into(),
            line.released.into(),
            line.returned.into(),
            line.lapsed.into(),
        ]
    })
}

/// The rows of an order for [`ORDER_REQUESTS`]: all of its requests but one that stands in its own row.
pub(in crate::sql) fn request_rows(image: &OrderImage) -> impl Iterator<Item = Vec<Arg>> + '_ {
    let requests = image.requests.iter().enumerate().skip(usize::from(asked(image).is_some()));
    requests.map(|(seq, request)| request_row(&image.order_no, seq, request))
}

/// A row for [`ORDER_REQUESTS`].
pub(in crate::sql) fn request_row(order_no: &OrderNo, seq: usize, request: &OrderRequest) -> Vec<Arg> {
    let fingerprint = request.fingerprint.cast_signed();
    vec![order_no.into(), seq.into(), request.request_id.as_ref().into(), fingerprint.into()]
}

/// A row for [`ORDER_SERIALS`].
pub(in crate::sql) fn serial_row(order_no: &OrderNo, seq: usize, given: &LineSerials) -> Vec<Arg> {
    let Serials { from, to } = given.serials;
    vec![order_no.into(), seq.into(), u32::from(given.line).into(), from.into(), to.into()]
}
