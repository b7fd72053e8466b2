//! The list of orders: the rows of the store, and over them what is durable in the shards' journals and not flushed
//! yet.
//!
//! The seam is that of [`history`](crate::front::history), with the journal read behind the store: whatever changed an
//! order before the page was read is in the page, or in an event after the watermark that was known before. Orders that
//! such events touch are asked of whoever decides for them, as any read of an order is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::blocking;
use crate::base::ids::{Lsn, OrderNo, ShardId};
use crate::base::limits::{MAX_COMMANDS_PER_ENVELOPE, MAX_HISTORY_TRIES, MAX_LIST_LOOKS, MAX_UNFLUSHED_SCAN};
use crate::contract::command::Action;
use crate::contract::event::{Change, Event};
use crate::contract::journal::{JournalError, JournalReader};
use crate::contract::outcome::{Answer, OrderView, Refusal};
use crate::contract::store::{OrderFilter, Watermark};
use crate::front::router::Router;
use crate::services::shared::ShardShared;
use crate::services::store_link::{StoreLink, refusal_of};

/// Events read at once.
const EVENTS_PER_READ: usize = 4_096;

/// See [`Engine::list_orders`](crate::front::engine::Engine::list_orders).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OrderPage {
    /// By number (as bytes).
    pub orders: Vec<OrderView>,
    /// Where the next page begins: behind this number. `None`: there is no more.
    pub next: Option<OrderNo>,
}

/// Orders that events touched which the store may not have.
struct Touched {
    /// The first by number.
    orders: BTreeSet<OrderNo>,
    /// Those above the last of them were left out.
    is_cut: bool,
}

/// Lists orders.
pub(crate) struct Lists {
    pub router: Arc<Router>,
    pub link: Arc<StoreLink>,
    pub reader: Arc<dyn JournalReader>,
}

impl Lists {
    /// See [`Engine::list_orders`](crate::front::engine::Engine::list_orders).
    pub async fn orders(
        &self,
        filter: &OrderFilter,
        after: Option<&OrderNo>,
        limit: usize,
    ) -> Result<OrderPage, Refusal> {
        self.router.fence.check()?;
        let store = self.link.store();
        for _ in 0..MAX_HISTORY_TRIES {
            let marks = self.link.noted_whole(store.ownership().await).map_err(refusal_of)?.watermarks;
            // One more tells whether there is more.
            let wanted = limit.saturating_add(1);
            let listed = self.link.noted(store.list(filter, after, wanted).await).map_err(refusal_of)?;
            // It went back in time between the two.
            if marks.iter().any(|mark| listed.flushed(mark.shard) < mark.lsn) {
                continue;
            }
            let rows = listed.rows;
            let is_full = rows.len() >= wanted;
            let end = rows.last().filter(|_| is_full).map(|row| row.order_no.clone());
            let Some(touched) = self.touched(marks, after, end.as_ref()).await? else { continue };
            return self.laid_over(filter, limit, rows, end, touched).await;
        }
        Err(Refusal::StoreUnavailable)
    }

    /// The orders above `after`, and up to `end`, that durable events behind the marks touched; `None` when the
    /// journal does not have these any more.
    async fn touched(
        &self,
        marks: Vec<Watermark>,
        after: Option<&OrderNo>,
        end: Option<&OrderNo>,
    ) -> Result<Option<Touched>, Refusal> {
        let span = |shard: &Arc<ShardShared>| {
            let mark = marks.iter().find(|mark| mark.shard == shard.id).map_or(Lsn::ZERO, |mark| mark.lsn);
            (shard.id, mark, shard.durable_lsn())
        };
        let spans: Vec<_> =
            self.router.shards.iter().map(span).filter(|(_, mark, durable)| durable > mark).collect();
        let events = spans.iter().map(|(_, mark, durable)| durable.0 - mark.0).fold(0, u64::saturating_add);
        if events > MAX_UNFLUSHED_SCAN {
            return Err(Refusal::StoreUnavailable);
        }
        if spans.is_empty() {
            return Ok(Some(Touched { orders: BTreeSet::new(), is_cut: false }));
        }
        let (reader, after, end) = (Arc::clone(&self.reader), after.cloned(), end.cloned());
        let scan = move || {
            let mut touched = Touched { orders: BTreeSet::new(), is_cut: false };
            let is_within = |order_no: &&OrderNo| {
                Some(*order_no) > after.as_ref() && end.as_ref().is_none_or(|end| *order_no <= end)
            };
            for (shard, mark, durable) in spans {
                let read = for_each_event(reader.as_ref(), shard, mark.next(), durable, |event| {
                    for order_no in orders_of(&event.change).filter(is_within) {
                        if !touched.orders.contains(order_no) {
                            touched.orders.insert(order_no.clone());
                        }
                        if touched.orders.len() > MAX_LIST_LOOKS {
                            touched.orders.pop_last();
                            touched.is_cut = true;
                        }
                    }
                });
                match read {
                    Ok(()) => {}
                    Err(JournalError::Trimmed { .. }) => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
            Ok(Some(touched))
        };
        match blocking::run(scan).await {
            Ok(Ok(touched)) => Ok(touched),
            Ok(Err(error)) => {
                tracing::error!(%error, "the journal can't be read");
                Err(Refusal::JournalUnavailable)
            }
            Err(error) => {
                tracing::error!(%error, "reading the journal failed");
                Err(Refusal::JournalUnavailable)
            }
        }
    }

    /// Rows of the store up to `end` (`None`: all there are), with the orders that were touched since as they are now.
    async fn laid_over(
        &self,
        filter: &OrderFilter,
        limit: usize,
        rows: Vec<OrderView>,
        end: Option<OrderNo>,
        touched: Touched,
    ) -> Result<OrderPage, Refusal> {
        let cut = touched.orders.last().filter(|_| touched.is_cut).cloned();
        let end = match (end, cut) {
            (Some(end), Some(cut)) => Some(end.min(cut)),
            (end, cut) => end.or(cut),
        };
        let mut all: BTreeMap<OrderNo, (Option<OrderView>, bool)> = BTreeMap::new();
        all.extend(rows.into_iter().map(|row| (row.order_no.clone(), (Some(row), false))));
        for order_no in touched.orders {
            all.entry(order_no).or_default().1 = true;
        }
        let is_within = |(order_no, _): &(OrderNo, _)| end.as_ref().is_none_or(|end| order_no <= end);
        let mut all = all.into_iter().filter(is_within).peekable();
        let mut orders = Vec::new();
        while orders.len() <= limit && all.peek().is_some() {
            let some: Vec<_> = all.by_ref().take(MAX_COMMANDS_PER_ENVELOPE).collect();
            let asked = some.iter().filter(|(_, (_, is_touched))| *is_touched);
            let asked = asked.map(|(order_no, _)| Action::GetOrder(order_no.clone()).into()).collect();
            let mut answers = self.router.submit_batch(asked).await.into_iter();
            for (_, (row, is_touched)) in some {
                let order = match is_touched.then(|| answers.next()).flatten() {
                    None => row,
                    Some(Ok(Answer::Order { order, .. })) => Some(order),
                    Some(Err(Refusal::UnknownOrder { .. })) => None,
                    Some(Ok(_)) => row,
                    Some(Err(refusal)) => return Err(refusal),
                };
                orders.extend(order.filter(|order| filter.takes(order)));
            }
        }
        let is_more = orders.len() > limit;
        orders.truncate(limit);
        let next = if is_more { orders.last().map(|order| order.order_no.clone()) } else { end };
        Ok(OrderPage { orders, next })
    }
}

fn for_each_event(
    reader: &dyn JournalReader,
    shard: ShardId,
    from: Lsn,
    to: Lsn,
    mut each: impl FnMut(&Event),
) -> Result<(), JournalError> {
    let mut next = from;
    while next <= to {
        let events = reader.read(shard, next, EVENTS_PER_READ)?;
        let Some((last, _)) = events.last() else { break };
        next = last.next();
        events.iter().take_while(|(lsn, _)| *lsn <= to).for_each(|(_, event)| each(event));
    }
    Ok(())
}

/// The orders that callers see changed by this. What comes into memory and leaves it changes nothing that they see, nor
/// does what a participant holds.
fn orders_of(change: &Change) -> impl Iterator<Item = &OrderNo> {
    let (one, many) = match change {
        Change::Reserved { order_no, .. }
        | Change::Confirmed { order_no, .. }
        | Change::Released { order_no, .. }
        | Change::Cancelled { order_no, .. }
        | Change::Expired { order_no, .. }
        | Change::Extended { order_no, .. }
        | Change::Returned { order_no, .. } => (Some(order_no), &[][..]),
        // Its lines may have got their serial numbers.
        Change::Acknowledged { orders } => (None, orders.as_slice()),
        Change::StockCreated { .. }
        | Change::StockChanged { .. }
        | Change::StatusChanged { .. }
        | Change::Forgotten { .. }
        | Change::Loaded { .. }
        | Change::OrdersLoaded { .. }
        | Change::Evicted { .. }
        | Change::Pinned { .. }
        | Change::Held { .. }
        | Change::HoldChanged { .. }
        | Change::Started { .. } => (None, &[][..]),
    };
    one.into_iter().chain(many.iter().map(|order| &order.order_no))
}
