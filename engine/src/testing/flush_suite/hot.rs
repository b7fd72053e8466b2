//! A shard as the store sees it: a state machine whose events are flushed, in the batches that a test asks for.

use crate::checkpoint::Image;
use crate::clock::Timestamp;
use crate::command::{
    Action, ChangeKind, ChangeStock, Confirm, CreateStock, Extend, Line, Lines, Mode, Part, Release, Reserve,
    Return, SetStatus, StockStatus,
};
use crate::event::{Change, Event};
use crate::ids::{Lsn, OrderNo, RequestId, ServerId, ShardId, SkuId, WarehouseId};
use crate::outcome::Outcome;
use crate::state::{Decision, State};
use crate::store::{FlushBatch, Flushed, Store, StoreError};

/// A shard without journal: its events wait in memory until they are flushed.
pub struct Hot {
    /// Its server.
    pub server: ServerId,
    /// Its number there.
    pub shard: ShardId,
    /// Its truth.
    pub state: State,
    /// The time of the next event.
    pub now: Timestamp,
    /// Where the store's watermark is.
    pub flushed: Lsn,
    /// Events after it.
    pub events: Vec<(Lsn, Event)>,
}

impl Hot {
    /// A shard of a server, empty.
    #[must_use]
    pub fn new(server: u128) -> Self {
        Self {
            server: ServerId(server),
            shard: ShardId(0),
            state: State::new(ShardId(0), 1),
            now: Timestamp(1_800_000_000_000),
            flushed: Lsn::ZERO,
            events: Vec::new(),
        }
    }

    /// Carries out a command and keeps its event.
    ///
    /// # Panics
    /// When the event does not fit its own state.
    pub fn run(&mut self, action: Action) -> Outcome {
        self.now = self.now.plus_millis(1);
        match self.state.decide(&action.into(), self.now) {
            Decision::Answer(outcome) => outcome,
            Decision::Log(event) => {
                let lsn = self.last().next();
                self.state.apply(lsn, &event).expect("its own event fits");
                let answer = self.state.answer(&event);
                self.events.push((lsn, event));
                Ok(answer)
            }
        }
    }

    /// Carries out a command that is not refused.
    ///
    /// # Panics
    /// When it is.
    pub fn must(&mut self, action: Action) {
        let asked = format!("{action:?}");
        self.run(action).unwrap_or_else(|refusal| panic!("{asked}: {refusal}"));
    }

    /// Expires what is due after so many seconds.
    ///
    /// # Panics
    /// When an event does not fit.
    pub fn expire_after(&mut self, seconds: u64) {
        self.now = self.now.plus_seconds(seconds);
        while let Some(event) = self.state.next_expiry(self.now) {
            let lsn = self.last().next();
            self.state.apply(lsn, &event).expect("its own event fits");
            self.events.push((lsn, event));
        }
    }

    /// Logs a change that the store has to know of and that leaves the state as it is.
    ///
    /// # Panics
    /// Never: it is the next.
    pub fn log(&mut self, change: Change) {
        let lsn = self.last().next();
        let event = Event { at: self.now, trace: None, change };
        self.state.pass_over(lsn, &event).expect("it is the next");
        self.events.push((lsn, event));
    }

    /// The shard lets go of everything but its stocks.
    ///
    /// # Panics
    /// When a stock is not there.
    pub fn forget_orders(&mut self, stocks: &[(SkuId, WarehouseId)]) {
        self.log(Change::Forgotten { through: self.last(), sold: Vec::new() });
        let image = |(sku_id, w): &(SkuId, WarehouseId)| {
            self.state.image_of_stock(sku_id, *w).map(Image::Stock).expect("it has the stock")
        };
        let images = stocks.iter().map(image).collect();
        self.state = State::of_images(self.last(), self.now, images).expect("each stock once");
    }

    /// The last event.
    #[must_use]
    pub fn last(&self) -> Lsn {
        self.flushed.plus(self.events.len() as u64)
    }

    /// The next `max` events as a batch.
    #[must_use]
    pub fn batch(&self, max: usize) -> FlushBatch<'_> {
        let events = &self.events[..self.events.len().min(max)];
        FlushBatch { server: self.server, shard: self.shard, after: self.flushed, events }
    }

    /// Flushes the next `max` events.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn flush(&mut self, store: &dyn Store, max: usize) -> Result<Flushed, StoreError> {
        let flushed = store.flush(self.batch(max)).await?;
        self.move_to(flushed.watermark);
        Ok(flushed)
    }

    /// Flushes everything in one batch.
    ///
    /// # Panics
    /// When the store does not take it.
    pub async fn flush_all(&mut self, store: &dyn Store) -> Flushed {
        let last = self.last();
        let flushed = self.flush(store, usize::MAX).await.expect("it flushes");
        assert_eq!(flushed.watermark, last);
        flushed
    }

    /// The watermark is here.
    ///
    /// # Panics
    /// When it went back or beyond the last event.
    pub fn move_to(&mut self, watermark: Lsn) {
        assert!(watermark >= self.flushed && watermark <= self.last(), "{watermark}, after {}", self.flushed);
        let gone = watermark.0 - self.flushed.0;
        self.events.drain(..usize::try_from(gone).expect("so many are in memory"));
        self.flushed = watermark;
    }
}

/// A SKU by its name.
#[must_use]
pub fn sku(name: &str) -> SkuId {
    SkuId::new(name).expect("a short name")
}

/// An order by its number.
#[must_use]
pub fn order(number: &str) -> OrderNo {
    OrderNo::new(number).expect("a short number")
}

/// The warehouse of most tests.
pub const W1: WarehouseId = WarehouseId(1);

/// A second one.
pub const W2: WarehouseId = WarehouseId(2);

/// Creates a stock.
#[must_use]
pub fn create(name: &str, warehouse_id: WarehouseId, quantity: u64) -> Action {
    Action::CreateStock(CreateStock { sku_id: sku(name), warehouse_id, quantity, serialized: false })
}

/// Restocks.
#[must_use]
pub fn restock(name: &str, quantity: i64, request_id: &str) -> Action {
    let (kind, request_id) = (ChangeKind::Restock, RequestId::new(request_id).expect("a short id"));
    Action::ChangeStock(ChangeStock {
        sku_id: sku(name),
        warehouse_id: W1,
        kind,
        quantity,
        request_id,
        reason: None,
    })
}

/// Suspends or resumes.
#[must_use]
pub fn set_status(name: &str, status: StockStatus) -> Action {
    Action::SetStatus(SetStatus { sku_id: sku(name), warehouse_id: None, status })
}

/// Units of SKUs in [`W1`].
#[must_use]
pub fn lines(of: &[(&str, u32)]) -> Lines {
    let line =
        |(name, quantity): &(&str, u32)| Line { sku_id: sku(name), warehouse_id: W1, quantity: *quantity };
    Lines::new(of.iter().map(line)).expect("within bounds")
}

/// Reserves for ten minutes.
#[must_use]
pub fn reserve(number: &str, of: &[(&str, u32)]) -> Action {
    let (order_no, lines) = (order(number), lines(of));
    Action::Reserve(Reserve {
        order_no,
        lines,
        ttl_seconds: 600,
        buyer_id: None,
        mode: Mode::BestEffort,
        choice: None,
    })
}

/// A part of an order.
#[must_use]
pub fn part(of: &[(&str, u32)], request_id: &str) -> Option<Part> {
    let request_id = RequestId::new(request_id).ok();
    Some(Part { lines: lines(of), request_id })
}

/// Confirms.
#[must_use]
pub fn confirm(number: &str, part: Option<Part>) -> Action {
    Action::Confirm(Confirm { order_no: order(number), part })
}

/// Releases.
#[must_use]
pub fn release(number: &str, part: Option<Part>) -> Action {
    Action::Release(Release { order_no: order(number), part, reason: None })
}

/// Extends to `ttl_seconds` from now.
#[must_use]
pub fn extend(number: &str, ttl_seconds: u32) -> Action {
    Action::Extend(Extend { order_no: order(number), ttl_seconds })
}

/// Returns.
#[must_use]
pub fn give_back(number: &str, of: &[(&str, u32)], request_id: &str) -> Action {
    let request_id = RequestId::new(request_id).expect("a short id");
    Action::Return(Return { order_no: order(number), request_id, lines: Some(lines(of)) })
}
