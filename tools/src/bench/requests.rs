//! What the bench sends: reservations, and with `--confirm` their confirmations, one by one or in batches.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use hotstock_engine::command::{Action, Command, Confirm, CreateStock, Line, Lines, Mode, Reserve};
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::{OrderNo, SkuId, WarehouseId};

use crate::failure::Failure;

/// Holds of the bench last this long; the contract's default.
const TTL_SECONDS: u32 = 1_800;

const BATCH: &str = "/v1/batch";

/// Order numbers that were given out: no two requests of a process share one.
static NEXT_ORDER: AtomicU64 = AtomicU64::new(0);

/// The names of the SKUs.
pub fn skus(count: u32) -> Vec<String> {
    (1..=count).map(|number| format!("SKU-{number}")).collect()
}

/// Creates the stock of the bench.
pub async fn stock_in_process(engine: &Engine, count: u32, units: u64) -> Result<(), Failure> {
    let create = |name: String| {
        let sku_id = SkuId::new(&name).expect("the bench's own names are short text");
        Command::from(Action::CreateStock(CreateStock {
            sku_id,
            warehouse_id: WarehouseId(1),
            quantity: units,
            serialized: false,
        }))
    };
    let names = skus(count);
    for names in names.chunks(1_000) {
        for outcome in engine.submit_batch(names.iter().cloned().map(create).collect()).await {
            outcome.map_err(|refusal| Failure::other("stocking", refusal))?;
        }
    }
    Ok(())
}

/// SKUs that are promoted at once.
const PROMOTED_AT_ONCE: usize = 1_000;

/// Keeps the SKUs of the bench in memory.
pub async fn promote_in_process(engine: &Engine, count: u32) -> Result<(), Failure> {
    let names = skus(count);
    for names in names.chunks(PROMOTED_AT_ONCE) {
        let skus: Vec<SkuId> = names
            .iter()
            .map(|name| SkuId::new(name).expect("the bench's own names are short text"))
            .collect();
        for (sku_id, pinned) in engine.promote(&skus).await {
            pinned.map_err(|refusal| Failure::other(&format!("promoting {sku_id}"), refusal))?;
        }
    }
    Ok(())
}

/// One worker's stream of orders.
pub struct Orders {
    prefix: String,
    skus: u64,
    dice: u64,
    /// The orders of the request that was made last.
    numbers: Vec<String>,
}

impl Orders {
    /// The orders of one worker, spread evenly over `skus` SKUs.
    pub fn new(skus: u32, worker: u64) -> Self {
        // Two runs against one server must not meet: an order number is used once.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Self { prefix: format!("B{now:x}"), skus: u64::from(skus), dice: worker, numbers: Vec::new() }
    }

    fn next(&mut self) -> (String, u64) {
        let number = NEXT_ORDER.fetch_add(1, Relaxed);
        // Knuth's multiplier; the upper bits are random enough to spread load.
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (format!("{}-{number}", self.prefix), (self.dice >> 33) % self.skus + 1)
    }

    /// One reservation: its path; its body goes into `body`.
    pub fn reserve(&mut self, body: &mut Vec<u8>) -> &'static str {
        let (order_no, sku) = self.next();
        body.clear();
        write!(
            body,
            r#"{{"order_no":"{order_no}","lines":[{{"sku_id":"SKU-{sku}","quantity":1}}],"ttl_seconds":{TTL_SECONDS}}}"#
        )
        .expect("writing to a Vec can't fail");
        self.numbers.clear();
        self.numbers.push(order_no);
        "/v1/reservations"
    }

    /// The confirmation of the last reservation.
    pub fn confirm(&self, body: &mut Vec<u8>) -> String {
        body.clear();
        body.extend_from_slice(b"{}");
        let order_no = self.numbers.first().map_or("", String::as_str);
        format!("/v1/reservations/{order_no}/confirm")
    }

    /// A batch of `count` reservations.
    pub fn reserve_batch(&mut self, count: u32, body: &mut Vec<u8>) -> &'static str {
        body.clear();
        self.numbers.clear();
        body.extend_from_slice(b"{\"operations\":[");
        for index in 0..count {
            let (order_no, sku) = self.next();
            let comma = if index > 0 { "," } else { "" };
            write!(
                body,
                r#"{comma}{{"op":"reserve","order_no":"{order_no}","lines":[{{"sku_id":"SKU-{sku}","quantity":1}}],"ttl_seconds":{TTL_SECONDS}}}"#
            )
            .expect("writing to a Vec can't fail");
            self.numbers.push(order_no);
        }
        body.extend_from_slice(b"]}");
        BATCH
    }

    /// A batch that confirms the orders of the last one.
    pub fn confirm_batch(&self, body: &mut Vec<u8>) -> String {
        body.clear();
        body.extend_from_slice(b"{\"operations\":[");
        for (index, order_no) in self.numbers.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(body, r#"{comma}{{"op":"confirm","order_no":"{order_no}"}}"#)
                .expect("writing to a Vec can't fail");
        }
        body.extend_from_slice(b"]}");
        BATCH.to_owned()
    }

    /// `count` reservations as the engine takes them.
    pub fn reserve_commands(&mut self, count: u32) -> Vec<Command> {
        self.numbers.clear();
        let commands = (0..count).map(|_| {
            let (number, sku) = self.next();
            let sku_id = SkuId::new(&format!("SKU-{sku}")).expect("the bench's own names are short text");
            let line = Line { sku_id, warehouse_id: WarehouseId(1), quantity: 1 };
            let reserve = Reserve {
                order_no: OrderNo::new(&number).expect("the bench's own numbers are short text"),
                lines: Lines::new([line]).expect("one line of one unit is within the bounds"),
                ttl_seconds: TTL_SECONDS,
                buyer_id: None,
                mode: Mode::AllOrNothing,
                choice: None,
            };
            self.numbers.push(number);
            Command::from(Action::Reserve(reserve))
        });
        commands.collect()
    }

    /// Confirmations of the last reservations as the engine takes them.
    pub fn confirm_commands(&self) -> Vec<Command> {
        let confirm = |number: &String| {
            let order_no = OrderNo::new(number).expect("the bench's own numbers are short text");
            Command::from(Action::Confirm(Confirm { order_no, part: None }))
        };
        self.numbers.iter().map(confirm).collect()
    }
}
