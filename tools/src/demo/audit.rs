//! What must be true when the sale is over: the server's stock against the buyers' own record, order by order, and then
//! the data directory itself.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::buyers::{Shop, Told};
use crate::client::{Connection, Target};
use crate::failure::Failure;
use crate::terminal::{grouped, say};
use crate::wire;

/// Orders that are asked for again in one request.
const ORDERS_PER_BATCH: usize = 1_000;

/// Holds of the demo end after two seconds, and an expiry may be one second late; more is a fault.
const MAX_EXPIRY: Duration = Duration::from_secs(10);

/// How often is looked whether anything is still held.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Serialize)]
struct Batch<'a> {
    operations: Vec<Confirm<'a>>,
}

#[derive(Serialize)]
struct Confirm<'a> {
    op: &'static str,
    order_no: &'a str,
}

#[derive(Deserialize)]
struct Results {
    results: Vec<Answered>,
}

#[derive(Deserialize)]
struct Answered {
    status: u16,
    body: serde_json::Value,
}

/// Compares the server with what it was stocked with and what the buyers were told.
pub async fn stock(target: &Target, shop: &Shop, stocked: &[(String, u64)]) -> Result<(), Failure> {
    let told = shop.told();
    let mut bought = vec![0; stocked.len()];
    let mut orders = HashSet::new();
    for Told { order_no, sku, units } in &told {
        bought[*sku] += units;
        if !orders.insert(order_no) {
            return Err(Failure::Audit(format!("order {order_no} was confirmed to two buyers")));
        }
    }
    let mut connection = Connection::new(target.clone());
    nothing_held(&mut connection).await?;
    say(format_args!("\naudit"));
    for (index, (sku_id, units)) in stocked.iter().enumerate() {
        let levels = wire::stock_of(&mut connection, sku_id).await?;
        let must_be = |what: &str, is: i64, must: u64| match u64::try_from(is) {
            Ok(is) if is == must => Ok(()),
            _ => Err(Failure::Audit(format!("{sku_id}: {what} is {is} and must be {must} ({levels:?})"))),
        };
        must_be("available + sold", levels.available + levels.sold, *units)?;
        must_be("sold", levels.sold, bought[index])?;
        if index == 0 {
            must_be("sold of the SKU on sale", levels.sold, *units)?;
            said(&format!("all {} units of {sku_id} are sold, not one more", grouped(*units)));
        }
    }
    said(&format!(
        "of each of {} SKUs exactly the units are sold that buyers were told they have",
        stocked.len()
    ));
    said(&format!(
        "nothing is held any more, and available + sold = units stocked, for all {} SKUs",
        stocked.len()
    ));
    known_again(&mut connection, &told).await?;
    said(&format!(
        "each of the {} orders that were confirmed still is: asked again, one by one",
        grouped(told.len() as u64)
    ));
    Ok(())
}

/// Waits until the last who walked away have let go of what they held.
async fn nothing_held(connection: &mut Connection) -> Result<(), Failure> {
    let began = Instant::now();
    loop {
        let held: i64 = wire::all_stock(connection).await?.iter().map(|sku| sku.total.reserved).sum();
        match held {
            0 => return Ok(()),
            _ if began.elapsed() > MAX_EXPIRY => {
                return Err(Failure::Audit(format!("{held} units are still held after {MAX_EXPIRY:?}")));
            }
            _ => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// Confirms every order again: the server must know each as done.
async fn known_again(connection: &mut Connection, told: &[Told]) -> Result<(), Failure> {
    for orders in told.chunks(ORDERS_PER_BATCH) {
        let operations =
            orders.iter().map(|told| Confirm { op: "confirm", order_no: &told.order_no }).collect();
        let body = wire::json(&Batch { operations });
        let status = connection.call_until_known("POST", "/v1/batch", &body).await?;
        if status != 200 {
            return Err(wire::unexpected("asking again", status, connection));
        }
        let Results { results } = connection.json()?;
        if results.len() != orders.len() {
            return Err(Failure::Audit(format!("{} orders, {} answers", orders.len(), results.len())));
        }
        for (Told { order_no, .. }, Answered { status, body }) in orders.iter().zip(results) {
            let known = status == 200 && body["status"] == "confirmed" && body["replayed"] == true;
            if !known || body["order_no"] != **order_no {
                return Err(Failure::Audit(format!(
                    "order {order_no} was confirmed, and now: {status} {body}"
                )));
            }
        }
    }
    Ok(())
}

/// Lets `hotstock verify` look at the data directory, as an operator would.
pub fn data_directory(program: &Path, data_dir: &Path) -> Result<(), Failure> {
    let failed = |error| Failure::other("running hotstock verify", error);
    let mut verify = Command::new(program);
    let output =
        verify.arg("verify").arg("--summary").arg("--data-dir").arg(data_dir).output().map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::Audit(format!("hotstock verify: {}\n{text}{errors}", output.status)));
    }
    said(&format!("hotstock verify: {}", text.lines().last().unwrap_or_default()));
    Ok(())
}

fn said(what: &str) {
    say(format_args!("  ok  {what}"));
}
