//! The JSON that our own clients send and read: replay, demo, bench, and the operators' commands of the program.
//! Written from the HTTP contract, not shared with the server, so that a change of the contract by mistake breaks them.
//! An answer has more fields than are read here.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::client::{CallError, Connection, Target, segment};
use crate::failure::Failure;

/// The variable with the operators' token. Not a flag: others can read a command line.
pub const TOKEN_VARIABLE: &str = "HOTSTOCK_TOKEN";

/// SKUs that are promoted or demoted by one request. The contract takes 10,000; a request of these is sure to be done
/// in time.
pub const SKUS_PER_REQUEST: usize = 1_000;

/// Connections that stock a server with many SKUs: enough to share each sync among many, few beside the server's limit.
const STOCKING_CONNECTIONS: usize = 64;

/// SKUs in one page of the stock list; the contract's largest.
const PAGE: usize = 1_000;

/// One line of an order, as it is asked for. The warehouse is the server's default.
#[derive(Debug, Clone, Serialize)]
pub struct Line<'a> {
    /// The SKU that is wanted.
    pub sku_id: &'a str,
    /// How many units of it.
    pub quantity: u32,
}

/// `POST /v1/reservations`: an order that holds units until it is paid.
#[derive(Debug, Serialize)]
pub struct Reserve<'a> {
    /// The number of the order, which also makes the request known when it is repeated.
    pub order_no: &'a str,
    /// What it holds.
    pub lines: &'a [Line<'a>],
    /// How long it holds that, unless it is paid.
    pub ttl_seconds: u32,
    /// Who buys, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buyer_id: Option<&'a str>,
}

/// `POST /v1/reservations/{order_no}/return`: sold units come back.
#[derive(Debug, Serialize)]
pub struct Return<'a> {
    /// Makes the request known when it is repeated.
    pub request_id: &'a str,
    /// What comes back.
    pub lines: &'a [Line<'a>],
}

/// `POST /v1/stock`: a SKU in a warehouse, with its first units.
#[derive(Debug, Serialize)]
pub struct CreateStock<'a> {
    /// The SKU.
    pub sku_id: &'a str,
    /// The warehouse; without one the server's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warehouse_id: Option<u32>,
    /// Units to begin with.
    pub quantity: u64,
}

/// `POST /v1/stock/{sku_id}/restock` and `/adjust`: units come in, or are counted again.
#[derive(Debug, Serialize)]
pub struct ChangeStock<'a> {
    /// Makes the request known when it is repeated.
    pub request_id: &'a str,
    /// How many units; for an adjustment a negative number takes them away.
    pub quantity: i64,
    /// Why, for people who read the journal of the stock.
    pub reason: &'a str,
}

/// `POST /v1/admin/skus/promote` and `/demote`: which SKUs are kept in memory.
#[derive(Debug, Serialize)]
pub struct Skus<'a, S> {
    /// The SKUs, at most [`SKUS_PER_REQUEST`] in ours.
    pub sku_ids: &'a [S],
}

/// The answer to [`Skus`].
#[derive(Debug, Deserialize)]
pub struct SkuResults {
    /// One for each SKU, in the order of the request.
    pub results: Vec<SkuResult>,
}

/// What became of one SKU of a request for many.
#[derive(Debug, Deserialize)]
pub struct SkuResult {
    /// The SKU.
    pub sku_id: String,
    /// The status that a request for this SKU alone would have been answered with.
    pub status: u16,
    /// The body of that answer.
    pub body: serde_json::Value,
}

/// An order, as it is answered.
#[derive(Debug, Deserialize)]
pub struct Order {
    /// Its state: `reserved`, `confirmed`, `cancelled`, …
    pub status: String,
    /// Whether the request had been answered before, and was answered the same again.
    pub replayed: bool,
    /// What became of each line.
    pub lines: Vec<OrderLine>,
}

/// A line of an order, as it is answered.
#[derive(Debug, Deserialize)]
pub struct OrderLine {
    /// The SKU.
    pub sku_id: String,
    /// Units that were asked for.
    pub quantity: u32,
    /// Units that are held now.
    pub held: u32,
    /// Units that were confirmed so far.
    pub confirmed: u32,
    /// Units that were given back without being sold.
    pub released: u32,
    /// Units that were sold and came back.
    pub returned: u32,
}

/// The answer to a change of stock.
#[derive(Debug, Deserialize)]
pub struct StockChanged {
    /// Whether the request had been answered before, and was answered the same again.
    pub replayed: bool,
}

/// A problem document: why a request was refused.
#[derive(Debug, Default, Deserialize)]
pub struct Problem {
    /// The reason for programs, which stays the same from version to version.
    pub code: String,
    /// The reason for people.
    #[serde(default)]
    pub detail: String,
    /// The lines that are short, where the reason is that stock is.
    #[serde(default)]
    pub lines: Vec<ShortLine>,
}

/// A line for which there was not enough.
#[derive(Debug, Deserialize)]
pub struct ShortLine {
    /// The SKU.
    pub sku_id: String,
    /// Units that were asked for.
    pub requested: i64,
    /// Units that there were.
    pub available: i64,
}

/// The levels of a SKU, over all its warehouses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub struct Levels {
    /// Units that can be reserved now.
    pub available: i64,
    /// Units that are held by orders that are not paid.
    pub reserved: i64,
    /// Units of confirmed orders.
    pub sold: i64,
}

/// `GET /v1/stock/{sku_id}`, and an item of `GET /v1/stock`.
#[derive(Debug, Deserialize)]
pub struct Sku {
    /// The SKU.
    pub sku_id: String,
    /// Its levels.
    pub total: Levels,
}

#[derive(Debug, Deserialize)]
struct StockPage {
    items: Vec<Sku>,
    next_cursor: Option<String>,
}

/// A request as JSON text.
#[must_use]
pub fn json(request: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(request).expect("our requests are plain structs, which are always JSON")
}

/// What an answer that was not expected says.
#[must_use]
pub fn unexpected(what: &str, status: u16, connection: &Connection) -> Failure {
    match connection.json::<Problem>() {
        Ok(problem) => Failure::Other(format!("{what}: {status} {}: {}", problem.code, problem.detail)),
        Err(_) => Failure::other(what, format!("{status} {}", String::from_utf8_lossy(connection.body()))),
    }
}

/// The levels of one SKU.
///
/// # Errors
/// [`Failure`] when the server does not answer, or not with them.
pub async fn stock_of(connection: &mut Connection, sku_id: &str) -> Result<Levels, Failure> {
    let status = connection.call_until_known("GET", &format!("/v1/stock/{}", segment(sku_id)), b"").await?;
    match status {
        200 => Ok(connection.json::<Sku>()?.total),
        _ => Err(unexpected(&format!("stock of {sku_id}"), status, connection)),
    }
}

/// The levels of every SKU of the server, page by page.
///
/// # Errors
/// [`Failure`] when the server does not answer, or not with them.
pub async fn all_stock(connection: &mut Connection) -> Result<Vec<Sku>, Failure> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/stock?limit={PAGE}{cursor}");
        let status = connection.call_until_known("GET", &path, b"").await?;
        if status != 200 {
            return Err(unexpected("the stock list", status, connection));
        }
        let page: StockPage = connection.json()?;
        all.extend(page.items);
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={}", segment(&next)),
            None => return Ok(all),
        }
    }
}

/// Creates the stock of every SKU; tells how many were new to the server.
///
/// # Errors
/// [`Failure`], also when a SKU exists and began with another quantity.
pub async fn create_stock(target: &Target, skus: Vec<(String, u64)>) -> Result<usize, Failure> {
    let skus = Arc::new(skus);
    let mut workers = JoinSet::new();
    for worker in 0..STOCKING_CONNECTIONS.min(skus.len()) {
        let (skus, mut connection) = (Arc::clone(&skus), Connection::new(target.clone()));
        workers.spawn(async move {
            let mut created = 0;
            for (sku_id, quantity) in skus.iter().skip(worker).step_by(STOCKING_CONNECTIONS) {
                let body = json(&CreateStock { sku_id, warehouse_id: None, quantity: *quantity });
                match connection.call_until_known("POST", "/v1/stock", &body).await? {
                    201 => created += 1,
                    200 => {}
                    status => return Err(unexpected(&format!("stocking {sku_id}"), status, &connection)),
                }
            }
            Ok::<_, Failure>(created)
        });
    }
    let mut created = 0;
    while let Some(done) = workers.join_next().await {
        created += done.map_err(|error| Failure::other("stocking", error))??;
    }
    Ok(created)
}

/// Promotes any number of SKUs, with the token of [`TOKEN_VARIABLE`]; tells how many were not hot before.
///
/// # Errors
/// [`Failure`] at the first SKU that is refused.
pub async fn promote_all<S: Serialize>(target: &Target, skus: &[S]) -> Result<u64, Failure> {
    let mut connection = Connection::new(target.clone()).with_token(std::env::var(TOKEN_VARIABLE).ok());
    let mut new = 0;
    for sku_ids in skus.chunks(SKUS_PER_REQUEST) {
        let body = json(&Skus { sku_ids });
        let status = connection.call_until_known("POST", "/v1/admin/skus/promote", &body).await?;
        if status != 200 {
            return Err(unexpected("promote", status, &connection));
        }
        for result in connection.json::<SkuResults>()?.results {
            if result.status != 200 {
                let SkuResult { sku_id, status, body } = result;
                return Err(Failure::Other(format!("promote {sku_id}: {status} {body}")));
            }
            new += u64::from(result.body["replayed"] == false);
        }
    }
    Ok(new)
}

/// Asks for an order change (`confirm`, `release`, …) until the answer is known; its status.
///
/// # Errors
/// [`CallError::GivenUp`].
pub async fn change_order(
    connection: &mut Connection,
    order_no: &str,
    change: &str,
    body: &[u8],
) -> Result<u16, CallError> {
    let path = format!("/v1/reservations/{}/{change}", segment(order_no));
    connection.call_until_known("POST", &path, body).await
}
