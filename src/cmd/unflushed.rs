//! `hotstock unflushed`: what a server answered and the SQL store never got. For a data directory that was fenced:
//! another server has the store, or the store went another way. An operator reads it to put right what can be put right
//! by hand.
//!
//! The list begins after the last event that journal and store have in common. As long as the store's watermark is in
//! this journal, that is the watermark. When another server has flushed since, its watermark says nothing of this
//! journal; then the common event is found by bisection: the rows of the stock journal say which event of which shard
//! made them, and the store has the events of this journal up to one and none after it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use hotstock_engine::event::{Change, Event};
use hotstock_engine::hold::HoldMove;
use hotstock_engine::ids::{Lsn, ShardId, SkuId, WarehouseId};
use hotstock_engine::journal::{Bounds, JournalError, JournalReader};
use hotstock_engine::moves::{MoveKind, StockMove};
use hotstock_engine::store::{Ownership, Store};
use hotstock_persistence::data_dir::DataDir;
use serde::Serialize;

use crate::cli::Unflushed;
use crate::cmd::{say, time};
use crate::config::Config;
use crate::failure::Failure;
use crate::store;

/// Events that are read at once.
const PAGE: usize = 1_000;

/// Lists them.
///
/// # Errors
/// [`Failure`] when the directory is in use or damaged, or the store does not answer.
pub async fn run(args: Unflushed, config: Config) -> Result<(), Failure> {
    let data_dir = DataDir::open(&config.data.dir, None)?;
    let reader = data_dir.stopped_journal().map_err(hotstock_engine::options::StartError::from)?;
    let place = store::place(&config);
    let store = store::open_of(&config, &data_dir)?;
    let failed = |error| Failure::other(&format!("reading {place}"), error);
    let ownership = store.ownership().await.map_err(failed)?;
    store::must_be_of(&store, &data_dir, &place)?;
    let mut list = List { json: args.json, ..List::default() };
    for shard in (0..data_dir.shards()).map(ShardId) {
        let bounds = reader.bounds(shard);
        let common = common(shard, bounds, &reader, &store, &ownership).await?;
        list.head(shard, bounds, &common);
        list.shard(shard, common.through.next(), bounds, &reader)?;
    }
    store.close().await;
    list.end();
    Ok(())
}

/// Up to where journal and store have the same events.
struct Common {
    through: Lsn,
    how: How,
}

enum How {
    /// The store never took in an event of this shard.
    Never,
    /// Its watermark is an event of this journal.
    Watermark,
    /// Its watermark is below everything that the journal still has: the store went back in time.
    Behind(Lsn),
    /// Its watermark is no event of this journal: somebody else has flushed since.
    Found,
}

async fn common(
    shard: ShardId,
    bounds: Bounds,
    reader: &dyn JournalReader,
    store: &dyn Store,
    ownership: &Ownership,
) -> Result<Common, Failure> {
    let before = Lsn(bounds.first.0.saturating_sub(1));
    let Some(mark) = ownership.watermarks.iter().find(|mark| mark.shard == shard) else {
        return Ok(Common { through: before, how: How::Never });
    };
    if mark.lsn < before {
        return Ok(Common { through: before, how: How::Behind(mark.lsn) });
    }
    if mark.lsn <= bounds.last && reader.chain(shard, mark.lsn).map_err(unreadable)? == mark.hash {
        return Ok(Common { through: mark.lsn, how: How::Watermark });
    }
    // The store has `low` (or it was trimmed, which happens only to what was flushed) and not the one after `high`.
    let (mut low, mut high) = (before, bounds.last);
    while low < high {
        let middle = Lsn(low.0 + (high.0 - low.0).div_ceil(2));
        match first_move(shard, middle, high, reader)? {
            // Nothing from the middle on has left a trace in the stock journal.
            None => high = Lsn(middle.0 - 1),
            Some((lsn, event, moved)) => match has(store, shard, lsn, &event, &moved).await? {
                true => low = lsn,
                false => high = Lsn(middle.0 - 1),
            },
        }
    }
    Ok(Common { through: low, how: How::Found })
}

/// The first event from `from` to `to` that moved stock.
fn first_move(
    shard: ShardId,
    mut from: Lsn,
    to: Lsn,
    reader: &dyn JournalReader,
) -> Result<Option<(Lsn, Event, StockMove)>, Failure> {
    while from <= to {
        let events = reader.read(shard, from, PAGE).map_err(unreadable)?;
        let Some((last, _)) = events.last() else { break };
        from = last.next();
        for (lsn, event) in events.into_iter().filter(|(lsn, _)| *lsn <= to) {
            if let Some(moved) = event.stock_moves().into_iter().next() {
                return Ok(Some((lsn, event, moved)));
            }
        }
    }
    Ok(None)
}

/// Whether the store has what an event did to a stock.
async fn has(
    store: &dyn Store,
    shard: ShardId,
    lsn: Lsn,
    event: &Event,
    moved: &StockMove,
) -> Result<bool, Failure> {
    let after = [(moved.warehouse_id, moved.after.version - 1)];
    let rows = store.stock_journal(&moved.sku_id, &after, 1).await;
    let rows = rows.map_err(|error| Failure::other("reading the stock journal", error))?.rows;
    let is_it = |row: &hotstock_engine::store::JournalRow| {
        row.source == (shard, lsn) && row.at == event.at && row.change == *moved
    };
    Ok(rows.iter().any(is_it))
}

fn unreadable(error: JournalError) -> Failure {
    hotstock_engine::options::StartError::from(error).into()
}

/// What is listed, and its sums.
#[derive(Default)]
struct List {
    json: bool,
    events: u64,
    orders: BTreeSet<String>,
    /// By SKU and warehouse: available, reserved, sold.
    deltas: BTreeMap<(String, u32), [i64; 3]>,
}

impl List {
    /// A line for people; JSON has one line for each event and none beside them.
    fn text(&self, line: impl fmt::Display) {
        if !self.json {
            say(line);
        }
    }

    fn head(&self, shard: ShardId, bounds: Bounds, common: &Common) {
        let (through, last) = (common.through, bounds.last);
        let text = match common.how {
            How::Watermark if through == last => "the store has everything up to the last event".to_owned(),
            How::Never => format!("the store has none of its events, the last of which is {last}"),
            How::Watermark => format!("the store has everything up to event {through}; the last is {last}"),
            How::Behind(mark) => format!(
                "the store has everything up to event {mark}, but the journal begins with {}: those between are not listed",
                bounds.first
            ),
            How::Found => format!(
                "another server has written to the store; both have everything up to event {through}, the last here is {last}"
            ),
        };
        self.text(format_args!("shard {shard}: {text}"));
    }

    fn shard(
        &mut self,
        shard: ShardId,
        mut from: Lsn,
        bounds: Bounds,
        reader: &dyn JournalReader,
    ) -> Result<(), Failure> {
        while from <= bounds.last {
            let events = reader.read(shard, from, PAGE).map_err(unreadable)?;
            let Some((last, _)) = events.last() else { break };
            from = last.next();
            for (lsn, event) in &events {
                self.event(shard, *lsn, event);
            }
        }
        Ok(())
    }

    fn event(&mut self, shard: ShardId, lsn: Lsn, event: &Event) {
        let Some(entry) = Entry::of(shard, lsn, event) else { return };
        self.events += 1;
        self.orders.extend(entry.order_no.clone());
        for moved in event.stock_moves() {
            let sums = self.deltas.entry((moved.sku_id.to_string(), moved.warehouse_id.0)).or_default();
            let delta = moved.delta;
            for (sum, units) in sums.iter_mut().zip([delta.available, delta.reserved, delta.sold]) {
                *sum += units;
            }
        }
        if self.json {
            say(serde_json::to_string(&entry).expect("an entry is a plain struct, which is always JSON"));
        } else {
            say(entry);
        }
    }

    fn end(&self) {
        if self.events == 0 {
            return self.text("nothing was answered that the store does not have");
        }
        self.text(format_args!(
            "{} events of {} orders never reached the store; what they did to stock:",
            self.events,
            self.orders.len()
        ));
        for ((sku_id, warehouse_id), [available, reserved, sold]) in &self.deltas {
            self.text(format_args!(
                "  SKU {sku_id}, warehouse {warehouse_id}: available {available:+}, reserved {reserved:+}, sold {sold:+}"
            ));
        }
    }
}

/// One event that somebody was answered.
#[derive(Debug, Serialize)]
struct Entry {
    time: String,
    shard: u16,
    lsn: u64,
    /// As the stock journal calls it; beside that cancelled, extended, promoted, demoted. What a shard holds for an
    /// order that another one decides: held, hold_confirmed, hold_released, hold_expired, hold_returned.
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_no: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<u32>,
    lines: Vec<EntryLine>,
}

#[derive(Debug, Serialize)]
struct EntryLine {
    sku_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    warehouse_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quantity: Option<i64>,
}

impl Entry {
    /// `None` for what nobody asked for: an engine's own housekeeping.
    fn of(shard: ShardId, lsn: Lsn, event: &Event) -> Option<Self> {
        let mut entry = Self {
            time: time(event.at),
            shard: shard.0,
            lsn: lsn.0,
            what: "",
            order_no: None,
            request_id: None,
            reason: None,
            ttl_seconds: None,
            lines: Vec::new(),
        };
        let moves = event.stock_moves();
        if let Some(first) = moves.first() {
            entry.request_id = first.request_id.as_ref().map(ToString::to_string);
            entry.reason = first.reason.as_ref().map(ToString::to_string);
        }
        entry.lines = moves.iter().map(EntryLine::of_move).collect();
        let (what, order_no) = match &event.change {
            Change::StockCreated { .. } => (MoveKind::Created.name(), None),
            Change::StockChanged { .. } | Change::StatusChanged { .. } => (moves.first()?.kind.name(), None),
            Change::Reserved { order_no, .. } => (MoveKind::Reserved.name(), Some(order_no)),
            Change::Confirmed { order_no, .. } => (MoveKind::Confirmed.name(), Some(order_no)),
            Change::Released { order_no, .. } => (MoveKind::Released.name(), Some(order_no)),
            Change::Expired { order_no, .. } => (MoveKind::Expired.name(), Some(order_no)),
            Change::Returned { order_no, .. } => (MoveKind::Returned.name(), Some(order_no)),
            Change::Cancelled { order_no, reason } => {
                entry.reason = reason.as_ref().map(ToString::to_string);
                ("cancelled", Some(order_no))
            }
            Change::Extended { order_no, ttl_seconds } => {
                entry.ttl_seconds = Some(*ttl_seconds);
                ("extended", Some(order_no))
            }
            Change::Pinned { skus, hot } => {
                let line = |sku_id: &SkuId| EntryLine {
                    sku_id: sku_id.to_string(),
                    warehouse_id: None,
                    quantity: None,
                };
                entry.lines = skus.iter().map(line).collect();
                (if *hot { "promoted" } else { "demoted" }, None)
            }
            Change::Held { order_no, .. } => ("held", Some(order_no)),
            Change::HoldChanged { order_no, kind, .. } => {
                let what = match kind {
                    HoldMove::Sold => "hold_confirmed",
                    HoldMove::Released => "hold_released",
                    HoldMove::Expired => "hold_expired",
                    HoldMove::Returned => "hold_returned",
                    HoldMove::Over => return None,
                };
                (what, Some(order_no))
            }
            Change::Forgotten { .. }
            | Change::Loaded { .. }
            | Change::OrdersLoaded { .. }
            | Change::Evicted { .. }
            | Change::Acknowledged { .. }
            | Change::Started { .. } => return None,
        };
        entry.what = what;
        entry.order_no = order_no.map(ToString::to_string);
        entry.lines.extend(elsewhere(&event.change));
        Some(entry)
    }
}

/// Units of an order that lie in other shards: what is logged there of them is told there.
fn elsewhere(change: &Change) -> Vec<EntryLine> {
    let line = |sku_id: &SkuId, warehouse_id: WarehouseId, units: u32| EntryLine {
        sku_id: sku_id.to_string(),
        warehouse_id: Some(warehouse_id.0),
        quantity: Some(units.into()),
    };
    match change {
        Change::Reserved { lines, .. } => {
            let lines = lines.iter().filter(|l| l.after.is_none() && l.held > 0);
            lines.map(|l| line(&l.sku_id, l.warehouse_id, l.held)).collect()
        }
        Change::Confirmed { lines, .. } => {
            let lines = lines.iter().filter(|l| l.after.is_none());
            lines.map(|l| line(&l.sku_id, l.warehouse_id, l.held.saturating_add(l.late))).collect()
        }
        Change::Released { lines, .. } | Change::Expired { lines, .. } | Change::Returned { lines, .. } => {
            let lines = lines.iter().filter(|l| l.after.is_none() && l.quantity > 0);
            lines.map(|l| line(&l.sku_id, l.warehouse_id, l.quantity)).collect()
        }
        _ => Vec::new(),
    }
}

impl EntryLine {
    fn of_move(moved: &StockMove) -> Self {
        let delta = &moved.delta;
        let quantity = match moved.kind {
            MoveKind::Reserved => delta.reserved,
            MoveKind::Confirmed => delta.sold,
            MoveKind::Created
            | MoveKind::Restocked
            | MoveKind::Deducted
            | MoveKind::Adjusted
            | MoveKind::Suspended
            | MoveKind::Resumed
            | MoveKind::Released
            | MoveKind::Expired
            | MoveKind::Returned
            | MoveKind::Repaired => delta.available,
        };
        Self {
            sku_id: moved.sku_id.to_string(),
            warehouse_id: Some(moved.warehouse_id.0),
            quantity: Some(quantity),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, shard, lsn, what, order_no, request_id, reason, ttl_seconds, lines } = self;
        write!(f, "{time}  shard {shard} event {lsn}  {what}")?;
        if let Some(order_no) = order_no {
            write!(f, "  order {order_no}")?;
        }
        for (place, EntryLine { sku_id, warehouse_id, quantity }) in lines.iter().enumerate() {
            write!(f, "{}", if place == 0 { "  " } else { ", " })?;
            if let Some(quantity) = quantity.filter(|quantity| *quantity != 0) {
                write!(f, "{quantity} of ")?;
            }
            write!(f, "SKU {sku_id}")?;
            if let Some(warehouse_id) = warehouse_id {
                write!(f, " in warehouse {warehouse_id}")?;
            }
        }
        if let Some(ttl_seconds) = ttl_seconds {
            write!(f, "  for {ttl_seconds} s")?;
        }
        if let Some(request_id) = request_id {
            write!(f, "  request {request_id}")?;
        }
        if let Some(reason) = reason {
            write!(f, "  ({reason})")?;
        }
        Ok(())
    }
}
