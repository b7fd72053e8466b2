//! `hotstock promote` and `hotstock demote`: which SKUs a running server keeps in memory.

use crate::cli::Pin;
use crate::cmd::say;
use crate::failure::Failure;
use crate::wire::{self, PinResult, PinWay, SKUS_PER_REQUEST};

/// Promotes or demotes them, and tells what became of each.
///
/// # Errors
/// [`Failure::Incomplete`] when one was refused.
pub async fn run(args: Pin, way: PinWay) -> Result<(), Failure> {
    let mut connection = wire::operator(&args.url);
    let mut left = 0;
    for skus in args.skus.chunks(SKUS_PER_REQUEST) {
        for result in wire::pin_skus(&mut connection, way, skus).await? {
            left += usize::from(result.status != 200);
            say(line(&result));
        }
    }
    let word = way.word();
    if left > 0 { Err(Failure::Incomplete(format!("{left} SKUs were not {word}d"))) } else { Ok(()) }
}

fn line(PinResult { sku_id, status, body }: &PinResult) -> String {
    if *status != 200 {
        let text = |field: &str| body[field].as_str().unwrap_or("?").to_owned();
        return format!("{sku_id}: {status} {}: {}", text("code"), text("detail"));
    }
    let is = if body["hot"] == true { "hot" } else { "not hot" };
    let was = if body["replayed"] == true { ", as it was" } else { "" };
    format!("{sku_id}: {is}, in shard {}{was}", body["shard"])
}
