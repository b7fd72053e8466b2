//! What the benches share: orders as a shard logs them, and a directory on the disk that the builds are on.

#![allow(dead_code, reason = "every bench uses its part")]

use std::path::PathBuf;

use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::Mode;
use hotstock_engine::event::{Change, Event, ReservedLine};
use hotstock_engine::ids::{Lsn, OrderNo, ShardId, SkuId, WarehouseId};
use hotstock_engine::journal::Group;
use hotstock_engine::units::Levels;

/// The reservation that the `number`th order of a flash sale logs: a snowflake number, a short SKU, one unit per line.
pub fn reserved(number: u64, lines: usize) -> Event {
    let line = |place: usize| ReservedLine {
        sku_id: SkuId::new(&format!("{}", 100_001 + place)).expect("a short text"),
        warehouse_id: WarehouseId(1),
        quantity: 1,
        held: 1,
        after: Some(Levels {
            available: 10_000_000 - number,
            reserved: number,
            sold: 0,
            version: number + 1,
        }),
    };
    Event {
        at: Timestamp(1_760_000_000_000 + number / 300),
        trace: None,
        change: Change::Reserved {
            order_no: OrderNo::new(&format!("{}", 1_890_000_000_000_000_000 + number)).expect("a short text"),
            buyer_id: None,
            mode: Mode::AllOrNothing,
            ttl_seconds: 900,
            lines: (0..lines).map(line).collect(),
            asked: None,
            attempt: None,
        },
    }
}

/// Single-line orders of one shard, from LSN `first` on.
pub fn group(shard: u16, first: u64, count: u64) -> Group {
    let events = (first..first + count).map(|number| reserved(number, 1)).collect();
    Group { shard: ShardId(shard), first: Lsn(first), events }
}

/// A directory beside the builds: a real disk, where the system's own temporary directory may be memory.
pub fn on_disk() -> tempfile::TempDir {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    std::fs::create_dir_all(&target).expect("the build's directory can be made");
    tempfile::Builder::new().prefix("bench-").tempdir_in(target).expect("a directory can be made there")
}
