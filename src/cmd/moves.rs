//! `hotstock promote` and `hotstock demote`: moves SKUs of a running server.

use crate::cli::Move;
use crate::cmd::say;
use crate::failure::Failure;
use crate::wire::{self, MoveResult, SKUS_PER_MOVE, Way};

/// Moves them, and tells what became of each.
///
/// # Errors
/// [`Failure::Incomplete`] when one did not move.
pub async fn run(args: Move, way: Way) -> Result<(), Failure> {
    let mut connection = wire::operator(&args.url);
    let mut left = 0;
    for skus in args.skus.chunks(SKUS_PER_MOVE) {
        for result in wire::move_skus(&mut connection, way, skus).await? {
            left += usize::from(result.status != 200);
            say(line(&result));
        }
    }
    let word = way.word();
    if left > 0 { Err(Failure::Incomplete(format!("{left} SKUs were not {word}d"))) } else { Ok(()) }
}

fn line(MoveResult { sku_id, status, body }: &MoveResult) -> String {
    if *status != 200 {
        let text = |field: &str| body[field].as_str().unwrap_or("?").to_owned();
        return format!("{sku_id}: {status} {}: {}", text("code"), text("detail"));
    }
    let place = match body["shard"].as_u64() {
        Some(shard) => format!("hot in shard {shard}"),
        None => "cold".to_owned(),
    };
    let was = if body["replayed"] == true { ", as it was" } else { "" };
    format!("{sku_id}: {place}{was}, epoch {}, {} orders moved", body["epoch"], body["orders"])
}
