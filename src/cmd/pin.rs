//! `hotstock promote` and `hotstock demote`: which SKUs a running server keeps in memory.

use hotstock_tools::wire::{SKUS_PER_REQUEST, SkuResult, SkuResults, Skus};

use crate::cli::Pin;
use crate::cmd::say;
use crate::failure::Failure;
use crate::operator::Operator;

/// What is asked for the SKUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinWay {
    /// Load them and keep them in memory.
    Promote,
    /// Keep them no longer than they are used.
    Demote,
}

impl PinWay {
    /// As the path says it.
    fn word(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Demote => "demote",
        }
    }
}

/// Promotes or demotes the SKUs, and tells what became of each.
///
/// # Errors
/// [`Failure::Incomplete`] when one was refused.
pub async fn run(args: Pin, way: PinWay) -> Result<(), Failure> {
    let (operator, word) = (Operator::new(&args.url)?, way.word());
    let mut refused = 0;
    for sku_ids in args.skus.chunks(SKUS_PER_REQUEST) {
        let answer = operator.post(&format!("/v1/admin/skus/{word}"), &Skus { sku_ids }).await?;
        if answer.status != 200 {
            return Err(answer.unexpected(word));
        }
        for result in answer.json::<SkuResults>()?.results {
            refused += usize::from(result.status != 200);
            say(line(&result));
        }
    }
    match refused {
        0 => Ok(()),
        _ => Err(Failure::Incomplete(format!("{refused} SKUs were not {word}d"))),
    }
}

fn line(SkuResult { sku_id, status, body }: &SkuResult) -> String {
    if *status != 200 {
        let text = |field: &str| body[field].as_str().unwrap_or("?").to_owned();
        return format!("{sku_id}: {status} {}: {}", text("code"), text("detail"));
    }
    let is = if body["hot"] == true { "hot" } else { "not hot" };
    let was = if body["replayed"] == true { ", as it was" } else { "" };
    format!("{sku_id}: {is}, in shard {}{was}", body["shard"])
}
