//! What operators ask, and the journal of a SKU, over HTTP.

use hotstock_engine::engine::EngineOptions;
use serde_json::{Value, json};

use crate::support::{Client, Fixture};

async fn with_store() -> (Fixture, Client) {
    let fixture = Fixture::with_store(EngineOptions::default()).await;
    let client = fixture.client().await;
    (fixture, client)
}

#[tokio::test]
async fn a_sku_is_promoted_and_demoted() {
    let (_fixture, mut client) = with_store().await;
    client.create_stock("a b/ü", 10).await;
    client.reserve("O", "a b/ü", 2).await.expect(201);
    let path = "/v1/admin/skus/a%20b%2F%C3%BC";
    let moved = client.post(&format!("{path}/promote"), json!({})).await.expect(200);
    let expected =
        json!({"sku_id": "a b/ü", "hot": true, "shard": 0, "epoch": 1, "orders": 1, "replayed": false});
    assert_eq!(moved, expected);
    assert_eq!(client.post(&format!("{path}/promote"), json!({})).await.expect(200)["replayed"], true);
    let hot = client.get("/v1/admin/skus/hot").await.expect(200);
    let sku = json!({"sku_id": "a b/ü", "shard": 0, "epoch": 1, "stage": "open", "auto": false});
    assert_eq!(hot, json!({"items": [sku], "next_cursor": null}));
    assert_eq!(client.reserve("O", "a b/ü", 2).await.expect(200)["replayed"], true);
    client.confirm("O").await.expect(200);
    let moved = client.post(&format!("{path}/demote"), json!({})).await.expect(200);
    assert_eq!((&moved["hot"], &moved["replayed"], moved.get("shard")), (&json!(false), &json!(false), None));
    assert_eq!(client.get("/v1/admin/skus/hot").await.expect(200)["items"], json!([]));
    assert_eq!(client.post("/v1/admin/skus/x/promote", json!({})).await.code(), "unknown_sku");
}

#[tokio::test]
async fn many_are_moved_with_a_result_each() {
    let (_fixture, mut client) = with_store().await;
    for sku in ["a", "b", "c"] {
        client.create_stock(sku, 10).await;
    }
    let moved = client.post("/v1/admin/skus/promote", json!({"sku_ids": ["c", "x", "a"]})).await.expect(200);
    let results = moved["results"].as_array().unwrap();
    let short: Vec<_> = results
        .iter()
        .map(|one| (one["sku_id"].as_str().unwrap(), one["status"].as_u64().unwrap()))
        .collect();
    assert_eq!(short, [("c", 200), ("x", 404), ("a", 200)]);
    assert_eq!(
        (&results[1]["body"]["code"], &results[0]["body"]["hot"]),
        (&json!("unknown_sku"), &json!(true))
    );
    let page = client.get("/v1/admin/skus/hot?limit=1").await.expect(200);
    let cursor = page["next_cursor"].as_str().unwrap();
    let second = client.get(&format!("/v1/admin/skus/hot?limit=1&cursor={cursor}")).await.expect(200);
    assert_eq!((&page["items"][0]["sku_id"], &second["items"][0]["sku_id"]), (&json!("a"), &json!("c")));
    assert_eq!(second["next_cursor"], Value::Null);
    let many: Vec<String> = (0..1_001).map(|number| number.to_string()).collect();
    for (bad, field) in [
        (json!([]), "sku_ids"),
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
async fn a_stock_is_created_hot_in_one_request() {
    let (_fixture, mut client) = with_store().await;
    let body = json!({"sku_id": "a", "quantity": 10, "hot": true});
    let created = client.post("/v1/stock", &body).await.expect(201);
    assert_eq!((&created["hot"], &created["replayed"]), (&json!(true), &json!(false)));
    let again = client.post("/v1/stock", &body).await.expect(200);
    assert_eq!((&again["hot"], &again["replayed"]), (&json!(true), &json!(true)));
    assert_eq!(client.get("/v1/admin/skus/hot").await.expect(200)["items"][0]["sku_id"], "a");
}

#[tokio::test]
async fn the_journal_is_read_page_by_page_hot_or_cold() {
    let (_fixture, mut client) = with_store().await;
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
    let (fixture, mut client) = with_store().await;
    client.create_stock("a", 10).await;
    client.create_stock("b", 10).await;
    client.post("/v1/admin/skus/a/promote", json!({})).await.expect(200);
    let shards = client.get("/v1/admin/shards").await.expect(200);
    assert_eq!((&shards["shards"][0]["stocks"], &shards["store"]["hot_skus"]), (&json!(1), &json!(1)));
    assert!(
        shards["shards"][0]["flushed"].is_u64() && shards["shards"][0]["lag_events"].is_u64(),
        "{shards}"
    );
    assert_eq!(client.post("/v1/admin/checkpoint", json!({})).await.status, 202);
    assert_eq!(client.get("/v1/admin/anomalies").await.expect(200), json!({"count": 0, "items": []}));

    let found = client.request("POST", "/v1/admin/reconcile", &[], "").await.expect(200);
    assert_eq!((&found["skus"], &found["differences"]), (&json!(2), &json!([])));
    fixture.store().spoil(&"b".parse_sku(), 3);
    let found = client.post("/v1/admin/reconcile", json!({})).await.expect(200);
    assert_eq!(
        (&found["differences"][0]["sku_id"], &found["repaired"]),
        (&json!("b"), &json!([])),
        "{found}"
    );
    let fixed = client.post("/v1/admin/reconcile", json!({"fix": true})).await.expect(200);
    assert_eq!(fixed["repaired"][0]["side"], "row", "{fixed}");
    let found = client.post("/v1/admin/reconcile", json!({})).await.expect(200);
    assert_eq!(found["differences"], json!([]), "{found}");
}

/// Text as a SKU, where it is known to be one.
trait ParseSku {
    fn parse_sku(&self) -> hotstock_engine::ids::SkuId;
}

impl ParseSku for str {
    fn parse_sku(&self) -> hotstock_engine::ids::SkuId {
        hotstock_engine::ids::SkuId::new(self).unwrap()
    }
}
