//! The JSON that our own clients (replay, demo, bench) send and read. Written from the HTTP contract, not shared with
//! the server, so that a change of the contract by mistake breaks them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::client::{CallError, Connection, Target, segment};
use crate::failure::Failure;

/// Connections that stock a server with many SKUs: enough to share each sync among many, few beside the server's limit.
const STOCKING_CONNECTIONS: usize = 64;

/// SKUs in one page of the stock list; the contract's largest.
const PAGE: usize = 1_000;

/// One line of an order.
#[derive(Debug, Clone, Serialize)]
pub struct Line<'a> {
    /// What.
    pub sku_id: &'a str,
    /// Units.
    pub quantity: u32,
}

/// `POST /v1/reservations`
#[derive(Debug, Serialize)]
pub struct Reserve<'a> {
    /// The order.
    pub order_no: &'a str,
    /// What it holds.
    pub lines: &'a [Line<'a>],
    /// For how long.
    pub ttl_seconds: u32,
    /// Who buys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buyer_id: Option<&'a str>,
}

/// `POST /v1/reservations/{order_no}/return`
#[derive(Debug, Serialize)]
pub struct Return<'a> {
    /// The id of this return.
    pub request_id: &'a str,
    /// What comes back.
    pub lines: &'a [Line<'a>],
}

/// `POST /v1/stock`
#[derive(Debug, Serialize)]
pub struct CreateStock<'a> {
    /// What.
    pub sku_id: &'a str,
    /// Where; the server's default where missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warehouse_id: Option<u32>,
    /// Units to begin with.
    pub quantity: u64,
}

/// `POST /v1/stock/{sku_id}/restock` and `/adjust`
#[derive(Debug, Serialize)]
pub struct ChangeStock<'a> {
    /// The id of this change.
    pub request_id: &'a str,
    /// Units; signed for adjust.
    pub quantity: i64,
    /// Why.
    pub reason: &'a str,
}

/// What we read of an order.
#[derive(Debug, Deserialize)]
pub struct Order {
    /// Where it stands.
    pub status: String,
    /// Whether the request had been answered before.
    pub replayed: bool,
    /// What became of what it asked for.
    pub lines: Vec<OrderLine>,
}

/// What we read of a line of an order.
#[derive(Debug, Deserialize)]
pub struct OrderLine {
    /// What.
    pub sku_id: String,
    /// Units asked for.
    pub quantity: u32,
    /// Units held now.
    pub held: u32,
    /// Units confirmed so far.
    pub confirmed: u32,
    /// Units given back without being sold.
    pub released: u32,
    /// Units sold and returned.
    pub returned: u32,
}

/// What we read of the answer to a change of stock.
#[derive(Debug, Deserialize)]
pub struct StockChanged {
    /// Whether the request had been answered before.
    pub replayed: bool,
}

/// What we read of a problem document.
#[derive(Debug, Default, Deserialize)]
pub struct Problem {
    /// Stable, from the contract.
    pub code: String,
    /// For people.
    #[serde(default)]
    pub detail: String,
    /// Of a refusal for want of stock: the lines that are short.
    #[serde(default)]
    pub lines: Vec<ShortLine>,
}

/// A line that could not be served.
#[derive(Debug, Deserialize)]
pub struct ShortLine {
    /// What.
    pub sku_id: String,
    /// Units asked for.
    pub requested: i64,
    /// Units there were.
    pub available: i64,
}

/// The levels of a SKU over all warehouses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub struct Levels {
    /// Can be reserved now.
    pub available: i64,
    /// Held by orders that are not paid.
    pub reserved: i64,
    /// Of confirmed orders.
    pub sold: i64,
}

/// `GET /v1/stock/{sku_id}`, and an item of `GET /v1/stock`
#[derive(Debug, Deserialize)]
pub struct Sku {
    /// What.
    pub sku_id: String,
    /// How much.
    pub total: Levels,
}

#[derive(Debug, Deserialize)]
struct StockPage {
    items: Vec<Sku>,
    next_cursor: Option<String>,
}

/// A request as JSON text.
pub fn json(request: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(request).expect("our requests are plain structs, which are always JSON")
}

/// What an answer that was not expected says.
pub fn unexpected(what: &str, status: u16, connection: &Connection) -> Failure {
    match connection.json::<Problem>() {
        Ok(problem) => Failure::Other(format!("{what}: {status} {}: {}", problem.code, problem.detail)),
        Err(_) => Failure::other(what, format!("{status} {}", String::from_utf8_lossy(connection.body()))),
    }
}

/// The levels of one SKU.
pub async fn stock_of(connection: &mut Connection, sku_id: &str) -> Result<Levels, Failure> {
    let status = connection.call_until_known("GET", &format!("/v1/stock/{}", segment(sku_id)), b"").await?;
    match status {
        200 => Ok(connection.json::<Sku>()?.total),
        _ => Err(unexpected(&format!("stock of {sku_id}"), status, connection)),
    }
}

/// The levels of every SKU of the server, page by page.
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

/// The variable with the operators' token, for the commands that talk to a server. Not a flag: others could read that.
pub const TOKEN_VARIABLE: &str = "HOTSTOCK_TOKEN";

/// SKUs that are promoted or demoted by one request. The contract takes 10,000; a request of these is sure to be done
/// in time.
pub const SKUS_PER_REQUEST: usize = 1_000;

/// A connection for what operators ask.
pub fn operator(target: &Target) -> Connection {
    Connection::new(target.clone()).with_token(std::env::var(TOKEN_VARIABLE).ok())
}

/// What is asked for SKUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinWay {
    /// Load them and keep them in memory.
    Promote,
    /// Keep them no longer.
    Demote,
}

impl PinWay {
    /// As the path says it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Demote => "demote",
        }
    }
}

#[derive(Serialize)]
struct Skus<'a, S> {
    sku_ids: &'a [S],
}

#[derive(Deserialize)]
struct PinResults {
    results: Vec<PinResult>,
}

/// What became of one SKU.
#[derive(Debug, Deserialize)]
pub struct PinResult {
    /// Which.
    pub sku_id: String,
    /// As it would have been answered alone.
    pub status: u16,
    /// Likewise.
    pub body: serde_json::Value,
}

/// Promotes or demotes up to [`SKUS_PER_REQUEST`] SKUs.
///
/// # Errors
/// [`Failure`] when the request as a whole is not carried out.
pub async fn pin_skus<S: Serialize>(
    connection: &mut Connection,
    way: PinWay,
    skus: &[S],
) -> Result<Vec<PinResult>, Failure> {
    let path = format!("/v1/admin/skus/{}", way.word());
    let status = connection.call_until_known("POST", &path, &json(&Skus { sku_ids: skus })).await?;
    match status {
        200 => Ok(connection.json::<PinResults>()?.results),
        401 | 403 => {
            let failure = unexpected(way.word(), status, connection);
            Err(Failure::Other(format!("{failure} ({TOKEN_VARIABLE} is where the token belongs)")))
        }
        _ => Err(unexpected(way.word(), status, connection)),
    }
}

/// Promotes any number of SKUs; tells how many were not hot before.
///
/// # Errors
/// [`Failure`] at the first SKU that is refused.
pub async fn promote_all<S: Serialize>(target: &Target, skus: &[S]) -> Result<u64, Failure> {
    let mut connection = operator(target);
    let mut new = 0;
    for skus in skus.chunks(SKUS_PER_REQUEST) {
        for result in pin_skus(&mut connection, PinWay::Promote, skus).await? {
            if result.status != 200 {
                let PinResult { sku_id, status, body } = result;
                return Err(Failure::Other(format!("promote {sku_id}: {status} {body}")));
            }
            new += u64::from(result.body["replayed"] == false);
        }
    }
    Ok(new)
}

/// Asks for an order change (`confirm`, `release`, …) until the answer is known.
pub async fn change_order(
    connection: &mut Connection,
    order_no: &str,
    change: &str,
    body: &[u8],
) -> Result<u16, CallError> {
    let path = format!("/v1/reservations/{}/{change}", segment(order_no));
    connection.call_until_known("POST", &path, body).await
}
