//! What operators ask, and the journal of a SKU, over HTTP.

use hotstock_api::Options;
use hotstock_api::auth::hash;
use hotstock_engine::ids::SkuId;
use hotstock_engine::options::{EngineOptions, StoreOptions};
use serde_json::{Value, json};

use crate::support::{Client, Fixture, until};

async fn start() -> (Fixture, Client) {
    let fixture = Fixture::start().await;
    let client = fixture.client().await;
    (fixture, client)
}

#[tokio::test]
async fn a_sku_is_promoted_and_demoted() {
    let (_fixture, mut client) = start().await;
    client.create_stock("a b/ü", 10).await;
    client.reserve("O", "a b/ü", 2).await.expect(201);
    let path = "/v1/admin/skus/a%20b%2F%C3%BC";
    let pinned = client.post(&format!("{path}/promote"), json!({})).await.expect(200);
    assert_eq!(pinned, json!({"sku_id": "a b/ü", "hot": true, "shard": 0, "replayed": false}));
    assert_eq!(client.post(&format!("{path}/promote"), json!({})).await.expect(200)["replayed"], true);
    let hot = client.get("/v1/admin/skus/hot").await.expect(200);
    assert_eq!(hot, json!({"items": [{"sku_id": "a b/ü", "shard": 0}], "next_cursor": null}));
    assert_eq!(client.reserve("O", "a b/ü", 2).await.expect(200)["replayed"], true);
    // An open order is no hindrance.
    let pinned = client.post(&format!("{path}/demote"), json!({})).await.expect(200);
    assert_eq!(pinned, json!({"sku_id": "a b/ü", "hot": false, "shard": 0, "replayed": false}));
    assert_eq!(client.post(&format!("{path}/demote"), json!({})).await.expect(200)["replayed"], true);
    assert_eq!(client.get("/v1/admin/skus/hot").await.expect(200)["items"], json!([]));
    client.confirm("O").await.expect(200);
    for way in ["promote", "demote"] {
        assert_eq!(client.post(&format!("/v1/admin/skus/x/{way}"), json!({})).await.code(), "unknown_sku");
    }
}

/// SKU and status of each result.
fn short(answer: &Value) -> Vec<(&str, u64)> {
    let of = |one: &'_ Value| one["status"].as_u64().unwrap();
    let results = answer["results"].as_array().unwrap();
    results.iter().map(|one| (one["sku_id"].as_str().unwrap(), of(one))).collect()
}

#[tokio::test]
async fn many_are_promoted_with_a_result_each() {
    let (_fixture, mut client) = start().await;
    for sku in ["a", "b", "c"] {
        client.create_stock(sku, 10).await;
    }
    let pinned = client.post("/v1/admin/skus/promote", json!({"sku_ids": ["c", "x", "a"]})).await.expect(200);
    assert_eq!(short(&pinned), [("c", 200), ("x", 404), ("a", 200)]);
    let results = &pinned["results"];
    assert_eq!(
        (&results[1]["body"]["code"], &results[0]["body"]["hot"]),
        (&json!("unknown_sku"), &json!(true))
    );
    let page = client.get("/v1/admin/skus/hot?limit=1").await.expect(200);
    let cursor = page["next_cursor"].as_str().unwrap();
    let second = client.get(&format!("/v1/admin/skus/hot?limit=1&cursor={cursor}")).await.expect(200);
    assert_eq!((&page["items"][0]["sku_id"], &second["items"][0]["sku_id"]), (&json!("a"), &json!("c")));
    assert_eq!(second["next_cursor"], Value::Null);
    let many: Vec<String> = (0..10_001).map(|number| number.to_string()).collect();
    for (bad, field) in [
        (json!([]), "sku_ids"),
        (json!(null), "sku_ids"),
        (json!(many), "sku_ids"),
        (json!(["a", ""]), "sku_ids[1]"),
        (json!(["a", "a"]), "sku_ids[1]"),
    ] {
        client
            .post("/v1/admin/skus/demote", json!({"sku_ids": bad}))
            .await
            .expect_field("invalid_field", field);
    }
}

#[tokio::test]
async fn the_hot_list_is_replaced_as_a_whole() {
    let (_fixture, mut client) = start().await;
    for sku in ["a", "b", "c"] {
        client.create_stock(sku, 10).await;
    }
    let set = async |client: &mut Client, skus: Value| {
        let body = serde_json::to_vec(&json!({ "sku_ids": skus })).unwrap();
        client.request("PUT", "/v1/admin/skus/hot", &[], body).await
    };
    let hot = async |client: &mut Client| {
        let page = client.get("/v1/admin/skus/hot").await.expect(200);
        let items = page["items"].as_array().unwrap().iter();
        items.map(|item| item["sku_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let answer = set(&mut client, json!(["b", "a"])).await.expect(200);
    assert_eq!(short(&answer), [("a", 200), ("b", 200)]);
    let answer = set(&mut client, json!(["c", "x", "a"])).await.expect(200);
    let mut results = short(&answer);
    results.sort_unstable();
    assert_eq!(results, [("a", 200), ("b", 200), ("c", 200), ("x", 404)]);
    let of = |sku: &str| {
        let results = answer["results"].as_array().unwrap();
        results.iter().find(|one| one["sku_id"] == sku).unwrap()["body"].clone()
    };
    assert_eq!((&of("b")["hot"], &of("c")["hot"]), (&json!(false), &json!(true)));
    assert_eq!(of("a")["replayed"], true);
    assert_eq!(hot(&mut client).await, ["a", "c"]);
    set(&mut client, json!(null)).await.expect_field("invalid_field", "sku_ids");
    assert_eq!(hot(&mut client).await, ["a", "c"]);
    set(&mut client, json!([])).await.expect(200);
    assert!(hot(&mut client).await.is_empty());
}

#[tokio::test]
async fn a_stock_is_created_hot_in_one_request() {
    let (_fixture, mut client) = start().await;
    let body = json!({"sku_id": "a", "quantity": 10, "hot": true});
    let created = client.post("/v1/stock", &body).await.expect(201);
    assert_eq!((&created["hot"], &created["replayed"]), (&json!(true), &json!(false)));
    let again = client.post("/v1/stock", &body).await.expect(200);
    assert_eq!((&again["hot"], &again["replayed"]), (&json!(true), &json!(true)));
    assert_eq!(client.get("/v1/admin/skus/hot").await.expect(200)["items"][0]["sku_id"], "a");
}

#[tokio::test]
async fn only_operators_create_hot_stock() {
    let fixture =
        Fixture::with_http(Options { admin_token_sha256: Some(hash("s3cret")), ..Options::default() }).await;
    let mut client = fixture.client().await;
    let body = |sku: &str, hot: bool| json!({"sku_id": sku, "quantity": 10, "hot": hot});
    assert_eq!(client.post("/v1/stock", body("a", true)).await.code(), "unauthorized");
    client.get("/v1/stock/a").await.expect(404);
    client.post("/v1/stock", body("a", false)).await.expect(201);
    let bearer = [("authorization", "Bearer s3cret")];
    let text = serde_json::to_vec(&body("b", true)).unwrap();
    client.request("POST", "/v1/stock", &bearer, text).await.expect(201);
    let nobody = Fixture::with_http(Options { admin_from_loopback: false, ..Options::default() }).await;
    assert_eq!(nobody.client().await.post("/v1/stock", body("a", true)).await.code(), "forbidden");
}

#[tokio::test]
async fn the_journal_is_read_page_by_page() {
    let (_fixture, mut client) = start().await;
    assert_eq!(client.get("/v1/stock/a/journal").await.code(), "unknown_sku");
    client.create_stock("a", 10).await;
    client.post("/v1/stock", json!({"sku_id": "a", "warehouse_id": 2, "quantity": 5})).await.expect(201);
    client.reserve("O", "a", 2).await.expect(201);
    client.post("/v1/admin/skus/a/promote", json!({})).await.expect(200);
    client.confirm("O").await.expect(200);
    client
        .post("/v1/stock/a/restock", json!({"request_id": "PO-7", "quantity": 4, "reason": "delivery"}))
        .await
        .expect(200);
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("/v1/stock/a/journal?limit=2{after}")).await.expect(200);
        let items = page["items"].as_array().unwrap().clone();
        assert!(items.len() <= 2);
        after = format!("&after={}", page["next_after"].as_str().unwrap());
        if items.is_empty() {
            break;
        }
        all.extend(items);
    }
    let mut ids: Vec<&str> = all.iter().map(|row| row["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["1-1", "1-2", "1-3", "1-4", "2-1"]);
    let row = all.iter().find(|row| row["id"] == "1-4").unwrap();
    assert_eq!(
        (&row["kind"], &row["request_id"], &row["reason"]),
        (&json!("restocked"), &json!("PO-7"), &json!("delivery"))
    );
    assert_eq!(row["delta"], json!({"available": 4, "reserved": 0, "sold": 0}));
    assert_eq!(row["after"]["available"], 12);
    client.create_stock("b", 1).await;
    for (query, field) in [("limit=0", "limit"), ("limit=1001", "limit"), ("after=!", "after")] {
        client.get(&format!("/v1/stock/a/journal?{query}")).await.expect_field("invalid_field", field);
    }
    // It can be polled: what comes later comes after the same cursor.
    client.post("/v1/stock/a/restock", json!({"request_id": "PO-8", "quantity": 1})).await.expect(200);
    let page = client.get(&format!("/v1/stock/a/journal?limit=2{after}")).await.expect(200);
    assert_eq!(page["items"][0]["id"], "1-5");
}

#[tokio::test]
async fn shards_say_how_far_they_are_and_what_does_not_fit_is_found() {
    let store = StoreOptions { flush_interval_ms: 1, ..StoreOptions::default() };
    let engine = EngineOptions { store, ..EngineOptions::default() };
    let fixture = Fixture::with(engine, Options::default()).await;
    let mut client = fixture.client().await;
    client.create_stock("a", 10).await;
    client.create_stock("b", 10).await;
    client.reserve("O", "a", 1).await.expect(201);
    client.post("/v1/admin/skus/a/promote", json!({})).await.expect(200);
    let answer = client.get("/v1/admin/shards").await.expect(200);
    let (shard, of_store) = (&answer["shards"][0], &answer["store"]);
    for (field, expected) in [("resident", 2), ("hot", 1), ("stocks", 2), ("open_orders", 1)] {
        assert_eq!(shard[field], expected, "{field} of {shard}");
    }
    for field in ["flushed", "lag_events", "lag_ms", "loads", "evictions", "memory_bytes"] {
        assert!(shard[field].is_u64(), "{field} of {shard}");
    }
    assert_eq!((&of_store["epoch"], of_store.get("fenced")), (&json!(1), None), "{of_store}");
    assert_eq!((&of_store["parked"], &of_store["known"]["ready"]), (&json!(0), &json!(true)), "{of_store}");
    assert!(of_store["flushed_rows"].is_u64(), "{of_store}");
    assert_eq!(client.post("/v1/admin/checkpoint", json!({})).await.status, 202);
    assert_eq!(client.get("/v1/admin/anomalies").await.expect(200), json!({"count": 0, "items": []}));
    assert_eq!(client.get("/v1/admin/parked").await.expect(200), json!({"count": 0, "items": []}));
    assert_eq!(client.post("/v1/admin/reconcile", json!({})).await.expect(200)["differences"], json!([]));

    // Somebody changes a row by hand: its SKU is parked, and only it.
    fixture.store.spoil(&SkuId::new("b").unwrap(), 3);
    client.post("/v1/stock/b/restock", json!({"request_id": "r", "quantity": 1})).await.expect(200);
    client.post("/v1/stock/a/restock", json!({"request_id": "r", "quantity": 1})).await.expect(200);
    until(|| fixture.engine.stats().store.parked == 1).await;
    let parked = client.get("/v1/admin/parked").await.expect(200);
    assert_eq!((&parked["count"], &parked["items"][0]["sku_id"]), (&json!(1), &json!("b")), "{parked}");
    assert!(parked["items"][0]["reason"].is_string() && parked["items"][0]["since"].is_string());
    let anomalies = client.get("/v1/admin/anomalies").await.expect(200);
    assert_eq!(anomalies["items"][0]["kind"], "stock_changed", "{anomalies}");
    let fixed = client.post("/v1/admin/reconcile", json!({"fix": true})).await.expect(200);
    assert!(!fixed["repaired"].as_array().unwrap().is_empty(), "{fixed}");
    assert_eq!(client.get("/v1/admin/parked").await.expect(200)["count"], 0);
}
