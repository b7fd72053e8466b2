//! `hotstock promote` and `hotstock demote`: which SKUs a running server keeps in memory.

use serde::{Deserialize, Serialize};

use crate::cli::Pin;
use crate::cmd::say;
use crate::failure::Failure;
use crate::operator::Operator;

/// SKUs that are promoted or demoted by one request. The contract takes 10,000; a request of these is sure to be done
/// in time.
const SKUS_PER_REQUEST: usize = 1_000;

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

#[derive(Serialize)]
struct Skus<'a> {
    sku_ids: &'a [String],
}

#[derive(Deserialize)]
struct Results {
    results: Vec<SkuResult>,
}

/// What became of one SKU, as it would have been answered alone.
#[derive(Deserialize)]
struct SkuResult {
    sku_id: String,
    status: u16,
    body: serde_json::Value,
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
        for result in answer.json::<Results>()?.results {
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
