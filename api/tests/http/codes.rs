//! Every stable code, produced over HTTP.

use std::time::Duration;

use hotstock_api::Options;
use hotstock_api::auth::hash;
use hotstock_api::codes::{Code, TABLE};
use hotstock_engine::command::{Action, CreateStock};
use hotstock_engine::ids::{OrderNo, ServerId, SkuId, TakeId, WarehouseId};
use hotstock_engine::limits::MAX_REQUESTS_PER_ORDER;
use hotstock_engine::options::{EngineOptions, StoreOptions};
use hotstock_engine::store::{Store as _, Take};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::{Answer, Client, Fixture, RawClient, must_come, until};

/// A server with ten units of `a`, and a connection to it.
async fn with_ten() -> (Fixture, Client) {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client.create_stock("a", 10).await;
    (fixture, client)
}

/// Creates one unit of `a` past the server, whose bounds may be too narrow for it.
async fn create_directly(fixture: &Fixture) {
    let sku_id = SkuId::new("a").unwrap();
    let action = Action::CreateStock(CreateStock {
        sku_id,
        warehouse_id: WarehouseId(1),
        quantity: 1,
        serialized: false,
    });
    fixture.engine.submit(action.into()).await.unwrap();
}

/// Brings the code about. A code without an arm does not compile.
async fn produce(code: Code) -> Answer {
    match code {
        Code::MalformedRequest => {
            let (_fixture, mut client) = with_ten().await;
            client.request("POST", "/v1/reservations", &[], "not JSON").await
        }
        Code::InvalidField => {
            let (_fixture, mut client) = with_ten().await;
            client.reserve("O", "a", 0).await
        }
        Code::OrderMismatch => {
            let (_fixture, mut client) = with_ten().await;
            client.reserve("O", "a", 1).await.expect(201);
            client.reserve("O", "a", 2).await
        }
        Code::RequestMismatch => {
            let (_fixture, mut client) = with_ten().await;
            let restock = |quantity| json!({"request_id": "r", "quantity": quantity});
            client.post("/v1/stock/a/restock", restock(1)).await.expect(200);
            client.post("/v1/stock/a/restock", restock(2)).await
        }
        Code::UnknownSku => {
            let (_fixture, mut client) = with_ten().await;
            client.reserve("O", "b", 1).await
        }
        Code::UnknownOrder => {
            let (_fixture, mut client) = with_ten().await;
            client.confirm("O").await
        }
        Code::InsufficientStock => {
            let (_fixture, mut client) = with_ten().await;
            client.reserve("O", "a", 11).await
        }
        Code::OrderCancelled => {
            let (_fixture, mut client) = with_ten().await;
            client.release("O").await.expect(200);
            client.reserve("O", "a", 1).await
        }
        Code::AlreadyConfirmed => {
            let (_fixture, mut client) = with_ten().await;
            client.reserve("O", "a", 1).await.expect(201);
            client.confirm("O").await.expect(200);
            client.release("O").await
        }
        Code::OrderEnded => {
            let (_fixture, mut client) = with_ten().await;
            client.reserve("O", "a", 1).await.expect(201);
            client.confirm("O").await.expect(200);
            client.post("/v1/reservations/O/extend", json!({"ttl_seconds": 60})).await
        }
        Code::ExceedsHold => {
            let (_fixture, mut client) = with_ten().await;
            client.reserve("O", "a", 1).await.expect(201);
            let two = json!({"lines": [{"sku_id": "a", "quantity": 2}]});
            client.post("/v1/reservations/O/confirm", two).await
        }
        Code::LatePaymentNoStock => {
            let (_fixture, mut client) = with_ten().await;
            client.reserve("O", "a", 10).await.expect(201);
            client.release("O").await.expect(200);
            client.reserve("P", "a", 10).await.expect(201);
            client.confirm("O").await
        }
        Code::NothingToReturn => {
            let (_fixture, mut client) = with_ten().await;
            client.reserve("O", "a", 1).await.expect(201);
            client.confirm("O").await.expect(200);
            let two = json!({"request_id": "r", "lines": [{"sku_id": "a", "quantity": 2}]});
            client.post("/v1/reservations/O/return", two).await
        }
        Code::OrderTooOld => {
            let store = StoreOptions { keep_days: 1, ..StoreOptions::default() };
            let engine = EngineOptions { store, ..EngineOptions::default() };
            let fixture = Fixture::with(engine, Options::default()).await;
            let mut client = fixture.client().await;
            client.create_stock("a", 10).await;
            client.reserve("O", "a", 1).await.expect(201);
            client.confirm("O").await.expect(200);
            fixture.clock.advance(Duration::from_secs(86_401));
            client.post("/v1/reservations/O/return", json!({"request_id": "r"})).await
        }
        Code::TooManyRequestsForOrder => too_many_parts().await,
        Code::SkuSuspended => {
            let (_fixture, mut client) = with_ten().await;
            client.post("/v1/stock/a/suspend", json!({})).await.expect(200);
            client.reserve("O", "a", 1).await
        }
        Code::StockExists => {
            let (_fixture, mut client) = with_ten().await;
            client.post("/v1/stock", json!({"sku_id": "a", "quantity": 7})).await
        }
        Code::JournalFull => journal_full().await,
        Code::StoreUnavailable => {
            let store = StoreOptions { load_wait_ms: 10, ..StoreOptions::default() };
            let engine = EngineOptions { store, ..EngineOptions::default() };
            let fixture = Fixture::with(engine, Options::default()).await;
            fixture.store.cut();
            fixture.client().await.reserve("O", "stored", 1).await
        }
        Code::Fenced => fenced().await,
        Code::StockInconsistent => inconsistent().await,
        Code::OrderInconsistent => unreadable().await,
        Code::Unauthorized => {
            let http = Options { admin_token_sha256: Some(hash("s3cret")), ..Options::default() };
            let fixture = Fixture::with_http(http).await;
            let mut client = fixture.client().await;
            let bearer = [("authorization", "Bearer s3cret")];
            client.request("GET", "/v1/admin/shards", &bearer, "").await.expect(200);
            client.get("/v1/admin/shards").await
        }
        Code::Forbidden => {
            let fixture =
                Fixture::with_http(Options { admin_from_loopback: false, ..Options::default() }).await;
            fixture.client().await.get("/v1/admin/shards").await
        }
        Code::NotFound => Fixture::start().await.client().await.get("/v1/nowhere").await,
        Code::MethodNotAllowed => {
            Fixture::start().await.client().await.request("DELETE", "/v1/stock", &[], "").await
        }
        Code::RequestIncomplete => incomplete().await,
        Code::RequestTooLarge => {
            let fixture = Fixture::with_http(Options { max_body_bytes: 100, ..Options::default() }).await;
            fixture.client().await.reserve(&"x".repeat(100), "a", 1).await
        }
        Code::HeadersTooLarge => {
            let large = "x".repeat(Options::default().max_header_bytes);
            Fixture::start().await.client().await.request("GET", "/livez", &[("x-large", &large)], "").await
        }
        Code::Overloaded => overloaded().await,
        Code::JournalUnavailable => {
            let (fixture, mut client) = with_ten().await;
            fixture.journal.fail_next();
            client.reserve("O", "a", 1).await
        }
        Code::ShardRestarted => shard_restarted().await,
        Code::NotReady => {
            let fixture = Fixture::start().await;
            fixture.engine.stop().await;
            fixture.client().await.get("/readyz").await
        }
        Code::Timeout => timeout().await,
    }
}

/// A journal whose cap is reached by its first bytes, and a store that takes nothing in.
async fn journal_full() -> Answer {
    let store = StoreOptions { journal_cap_bytes: 0, flush_interval_ms: 1, ..StoreOptions::default() };
    let engine = EngineOptions { store, ..EngineOptions::default() };
    let fixture = Fixture::with(engine, Options::default()).await;
    let mut client = fixture.client().await;
    client.create_stock("a", 10).await;
    client.reserve("before", "a", 1).await;
    until(|| fixture.engine.stats().store.journal_full.is_some()).await;
    client.reserve("O", "a", 1).await
}

/// Another server takes the store.
async fn fenced() -> Answer {
    let (fixture, mut client) = with_ten().await;
    let other = fixture.store.session();
    let after = other.ownership().await.unwrap().epoch;
    let (server, epoch) = (ServerId(2), after.next().unwrap());
    other
        .take(&Take {
            id: TakeId(2),
            server,
            shards: 1,
            after,
            epoch,
            lease_seconds: 0,
            over: true,
            judged: None,
        })
        .await
        .unwrap();
    until(|| fixture.engine.stats().store.fenced.is_some()).await;
    assert_eq!(client.get("/readyz").await.code(), "not_ready");
    client.reserve("O", "a", 1).await
}

/// Somebody changes the rows of SKUs while they lie in the store alone.
async fn inconsistent() -> Answer {
    let store = StoreOptions { flush_interval_ms: 1, ..StoreOptions::default() };
    let engine = EngineOptions { max_resident_skus: 1, store, ..EngineOptions::default() };
    let fixture = Fixture::with(engine, Options::default()).await;
    let mut client = fixture.client().await;
    client.create_stock("a", 10).await;
    client.create_stock("b", 10).await;
    // One of the two leaves; which one is the engine's business.
    until(|| fixture.engine.stats().shards[0].resident <= 1).await;
    for sku in ["a", "b"] {
        fixture.store.spoil(&SkuId::new(sku).unwrap(), 7);
    }
    let (a, b) = (client.reserve("A", "a", 1).await, client.reserve("B", "b", 1).await);
    if a.status == 201 { b } else { a }
}

/// Somebody changes the row of an order while it lies in the store alone.
async fn unreadable() -> Answer {
    let store = StoreOptions { flush_interval_ms: 1, ..StoreOptions::default() };
    let engine = EngineOptions { max_resident_skus: 1, store, ..EngineOptions::default() };
    let fixture = Fixture::with(engine, Options::default()).await;
    let mut client = fixture.client().await;
    for sku in ["a", "b"] {
        client.create_stock(sku, 10).await;
        client.reserve(sku, sku, 1).await.expect(201);
        client.post(&format!("/v1/reservations/{sku}/release"), json!({})).await.expect(200);
    }
    // One of the two leaves with its order; which one is the engine's business.
    until(|| fixture.engine.stats().shards[0].resident <= 1).await;
    for order in ["a", "b"] {
        fixture.store.spoil_order(&OrderNo::new(order).unwrap());
    }
    // Its number is taken all the same.
    let (a, b) = (client.reserve("a", "a", 1).await, client.reserve("b", "b", 1).await);
    if a.status == 200 || a.status == 201 { b } else { a }
}

async fn too_many_parts() -> Answer {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client.create_stock("a", 10_000).await;
    client.reserve("O", "a", 10_000).await.expect(201);
    let part = |number: usize| {
        json!({"op": "confirm", "order_no": "O", "request_id": number.to_string(),
            "lines": [{"sku_id": "a", "quantity": 1}]})
    };
    let parts: Vec<Value> = (0..MAX_REQUESTS_PER_ORDER).map(part).collect();
    let results = client.post("/v1/batch", json!({"operations": parts})).await.expect(200);
    assert!(results["results"].as_array().unwrap().iter().all(|result| result["status"] == 200));
    let one_more = json!({"request_id": "one more", "lines": [{"sku_id": "a", "quantity": 1}]});
    client.post("/v1/reservations/O/confirm", one_more).await
}

async fn incomplete() -> Answer {
    let soon = Options { body_read_timeout: Duration::from_millis(1), ..Options::default() };
    let fixture = Fixture::with_http(soon).await;
    let mut raw = RawClient::connect(&fixture).await;
    let head = b"POST /v1/reservations HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n{";
    raw.stream.write_all(head).await.unwrap();
    raw.answer().await
}

async fn overloaded() -> Answer {
    let engine = EngineOptions { gate_permits: 1, ..EngineOptions::default() };
    let fixture = Fixture::with(engine, Options::default()).await;
    // The one place in the gate comes back shortly after the answer that it was taken for.
    let idle = async || until(|| fixture.engine.stats().shards[0].in_flight == 0).await;
    let (mut first, mut second) = (fixture.client().await, fixture.client().await);
    first.create_stock("a", 10).await;
    idle().await;
    fixture.journal.hold();
    let waiting = tokio::spawn(async move { first.reserve("O", "a", 1).await });
    until(|| fixture.journal.is_waiting()).await;
    let refused = second.reserve("P", "a", 1).await;
    fixture.journal.let_go();
    must_come(waiting).await.unwrap().expect(201);
    idle().await;
    assert_eq!(second.get("/v1/reservations/P").await.code(), "unknown_order", "nothing happened");
    idle().await;
    second.reserve("P", "a", 1).await.expect(201);
    refused
}

async fn shard_restarted() -> Answer {
    let (engine, http) = (EngineOptions::default(), Options::default());
    let fixture = Fixture::with_faults(engine, http, |parts| {
        parts.before_decide(|command| {
            assert!(
                command.order_no().is_none_or(|order_no| order_no.as_str() != "fatal"),
                "a fault on demand"
            );
        })
    })
    .await;
    let mut client = fixture.client().await;
    client.create_stock("a", 1).await;
    let answer = client.release("fatal").await;
    client.reserve("O", "a", 1).await.expect(201);
    answer
}

async fn timeout() -> Answer {
    let soon = Options { request_timeout: Duration::from_millis(1), ..Options::default() };
    let fixture = Fixture::with_http(soon).await;
    create_directly(&fixture).await;
    fixture.journal.hold();
    let answer = fixture.client().await.reserve("O", "a", 1).await;
    fixture.journal.let_go();
    answer
}

#[tokio::test]
async fn every_code_is_produced_as_the_table_says() {
    for row in TABLE {
        let answer = produce(row.code).await;
        let problem = answer.json();
        assert_eq!((problem["code"].as_str(), answer.status), (Some(row.name), row.status), "{problem}");
        assert_eq!(problem["status"], row.status, "{problem}");
        assert_eq!(problem["title"], row.title, "{problem}");
        assert_eq!(problem["type"], row.link, "{problem}");
        assert!(!problem["detail"].as_str().unwrap().is_empty(), "{problem}");
        let trace = problem["trace_id"].as_str().unwrap();
        assert!(trace.len() == 32 && trace.bytes().all(|digit| digit.is_ascii_hexdigit()), "{problem}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let retry_after =
            answer.headers.get("retry-after").map(|seconds| seconds.to_str().unwrap().to_owned());
        assert_eq!(retry_after, row.retry_after.map(|seconds| seconds.to_string()), "{problem}");
    }
}

#[tokio::test]
async fn codes_name_what_they_are_about() {
    let line = |requested: u64, available: u64| json!([{"sku_id": "a", "warehouse_id": 1, "requested": requested, "available": available}]);
    let about = |code| async move { produce(code).await.json() };
    assert_eq!(about(Code::InvalidField).await["field"], "lines[0].quantity");
    assert_eq!(about(Code::InsufficientStock).await["lines"], line(11, 10));
    assert_eq!(about(Code::ExceedsHold).await["lines"], line(2, 1));
    assert_eq!(about(Code::LatePaymentNoStock).await["lines"], line(10, 0));
    assert_eq!(about(Code::NothingToReturn).await["lines"], line(2, 1));
    assert_eq!(about(Code::UnknownSku).await["sku_id"], "b");
    assert_eq!(about(Code::SkuSuspended).await["sku_id"], "a");
    assert_eq!(about(Code::StockExists).await["initial"], 10);
    assert!(about(Code::StockInconsistent).await["sku_id"].is_string());
}

#[tokio::test]
async fn a_problem_carries_the_trace_of_its_caller() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let header = format!("00-{trace}-00f067aa0ba902b7-01");
    let headers = [("traceparent", header.as_str())];
    let refused = client.request("GET", "/v1/stock/x", &headers, "").await;
    assert_eq!(refused.json()["trace_id"], trace);
    let nowhere = client.request("GET", "/nowhere", &headers, "").await;
    assert_eq!(nowhere.json()["trace_id"], trace);
    let (one, two) = (client.get("/v1/stock/x").await, client.get("/v1/stock/x").await);
    assert_ne!(one.json()["trace_id"], two.json()["trace_id"]);
}

#[tokio::test]
async fn a_method_that_is_not_taken_is_told_which_are() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    let mut allowed: Vec<String> = client
        .request("PUT", "/v1/stock", &[], "")
        .await
        .header("allow")
        .split(',')
        .map(|method| method.trim().to_owned())
        .collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
}

/// Whatever comes in, the answer is a problem of the 400s and the server goes on.
#[tokio::test]
async fn bad_input_is_never_the_servers_fault() {
    let (_fixture, mut client) = with_ten().await;
    let deep = "[".repeat(100_000);
    let bodies: [&[u8]; 16] = [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{\"order_no\":\"\xff\"}",
        b"{\"order_no\":\"\\ud800\"}",
        b"{\"order_no\":\"O\",\"order_no\":\"O\"}",
        b"{\"order_no\":\"O\",\"lines\":{}}",
        b"{\"order_no\":\"O\",\"lines\":[[\"a\",1,1]]}",
        b"{\"order_no\":\"O\",\"lines\":[{\"sku_id\":1.5,\"quantity\":1}]}",
        b"{\"order_no\":\"O\",\"lines\":[{\"sku_id\":\"a\",\"quantity\":1e400}]}",
        b"{\"order_no\":\"O\",\"lines\":[{\"sku_id\":\"a\",\"quantity\":99999999999999999999}]}",
        b"{\"order_no\":\"O\",\"lines\":[{\"sku_id\":\"a\",\"quantity\":1}],\"ttl_seconds\":-5}",
        b"\x1f\x8b\x08\x00compressed",
        deep.as_bytes(),
    ];
    let paths = [
        "/v1/reservations",
        "/v1/batch",
        "/v1/stock",
        "/v1/reservations/O/extend",
        "/v1/reservations/O/return",
        "/v1/stock/a/restock",
        "/v1/stock/a/adjust",
    ];
    for path in paths {
        for body in bodies {
            let answer = client.request("POST", path, &[], body.to_vec()).await;
            assert!((400..500).contains(&answer.status), "{path} {body:?}: {}", answer.text());
            answer.code();
        }
    }
    client.reserve("O", "a", 1).await.expect(201);
}
