//! Orders over HTTP.

use std::time::Duration;

use hotstock_api::limits::Options;
use hotstock_engine::ids::WarehouseId;
use serde_json::{Value, json};

use crate::support::{Fixture, must_come};

#[tokio::test]
async fn an_order_lives_from_reserve_to_return() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client.create_stock("1001", 100).await;
    let body = json!({"order_no": "ORD-1", "lines": [{"sku_id": "1001", "warehouse_id": 1, "quantity": 2}],
        "ttl_seconds": 900, "buyer_id": "u7", "mode": "all_or_nothing"});
    let line = |held, confirmed, returned| {
        json!([{"sku_id": "1001", "warehouse_id": 1, "quantity": 2, "held": held, "confirmed": confirmed,
            "released": 0, "returned": returned}])
    };
    let mut expected = json!({"order_no": "ORD-1", "status": "reserved", "replayed": false,
        "created_at": "2026-03-08T09:00:00.000Z", "expires_at": "2026-03-08T09:15:00.000Z", "lines": line(2, 0, 0)});
    assert_eq!(client.post("/v1/reservations", &body).await.expect(201), expected);
    // A read is not a repeat.
    assert_eq!(client.get("/v1/reservations/ORD-1").await.expect(200), expected);
    expected["replayed"] = json!(true);
    assert_eq!(client.post("/v1/reservations", &body).await.expect(200), expected);

    fixture.clock.advance(Duration::from_secs(60));
    let extended =
        client.post("/v1/reservations/ORD-1/extend", json!({"ttl_seconds": 600})).await.expect(200);
    assert_eq!(extended["expires_at"], "2026-03-08T09:11:00.000Z");

    let expected = json!({"order_no": "ORD-1", "status": "confirmed", "replayed": false,
        "created_at": "2026-03-08T09:00:00.000Z", "expires_at": null, "lines": line(0, 2, 0)});
    assert_eq!(client.post("/v1/reservations/ORD-1/confirm", json!({})).await.expect(200), expected);
    assert_eq!(client.confirm("ORD-1").await.expect(200)["replayed"], true);

    let part = json!({"request_id": "R-1", "lines": [{"sku_id": 1001, "quantity": 1}]});
    let returned = client.post("/v1/reservations/ORD-1/return", &part).await.expect(200);
    assert_eq!((&returned["status"], &returned["lines"]), (&json!("partially_returned"), &line(0, 2, 1)));
    assert_eq!(client.post("/v1/reservations/ORD-1/return", &part).await.expect(200)["replayed"], true);
    let key = [("idempotency-key", "R-2")];
    let rest = client.request("POST", "/v1/reservations/ORD-1/return", &key, "{}").await;
    assert_eq!(rest.expect(200)["status"], "returned");
}

#[tokio::test]
async fn an_order_shows_its_serial_numbers() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client.post("/v1/stock", json!({"sku_id": "a", "quantity": 9, "serialized": true})).await.expect(201);
    client.create_stock("b", 9).await;
    let lines = json!([{"sku_id": "a", "quantity": 4}, {"sku_id": "b", "quantity": 1}]);
    let reserved =
        client.post("/v1/reservations", json!({"order_no": "O", "lines": lines})).await.expect(201);
    assert!(reserved["lines"][0].get("serials").is_none(), "only sold units have numbers");
    let part = json!({"lines": [{"sku_id": "a", "quantity": 1}]});
    let confirmed = client.post("/v1/reservations/O/confirm", &part).await.expect(200);
    assert_eq!(confirmed["lines"][0]["serials"], json!([{"from": 1, "to": 1}]));
    client.reserve("P", "a", 2).await.expect(201);
    assert_eq!(client.confirm("P").await.expect(200)["lines"][0]["serials"], json!([{"from": 2, "to": 3}]));
    let confirmed = client.confirm("O").await.expect(200);
    assert_eq!(confirmed["lines"][0]["serials"], json!([{"from": 1, "to": 1}, {"from": 4, "to": 6}]));
    assert!(confirmed["lines"][1].get("serials").is_none());
    let again = client.confirm("O").await.expect(200);
    assert_eq!((&again["replayed"], &again["lines"]), (&json!(true), &confirmed["lines"]));
    let back = json!({"request_id": "R"});
    let returned = client.post("/v1/reservations/P/return", back).await.expect(200);
    assert_eq!(returned["lines"][0]["serials"], json!([{"from": 2, "to": 3}]));
}

#[tokio::test]
async fn an_order_expires() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client.create_stock("a", 1).await;
    client.reserve("O", "a", 1).await.expect(201);
    fixture.clock.advance(Duration::from_secs(1_801));
    let expired = must_come(async {
        loop {
            let order = client.get("/v1/reservations/O").await.expect(200);
            if order["status"] != "reserved" {
                break order;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!((&expired["status"], &expired["expires_at"]), (&json!("expired"), &json!(null)));
    assert_eq!(expired["lines"][0]["released"], 1);
    // The payment comes late and the stock is there: taken again and sold.
    assert_eq!(client.confirm("O").await.expect(200)["status"], "confirmed");
}

#[tokio::test]
async fn a_release_before_the_reserve_leaves_a_tombstone() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client.create_stock("1001", 1).await;
    let released = client.release("O").await.expect(200);
    assert_eq!((&released["status"], &released["lines"]), (&json!("cancelled"), &json!([])));
    assert_eq!(client.reserve("O", "1001", 1).await.code(), "order_cancelled");
}

#[tokio::test]
async fn equal_parts_are_told_apart_by_their_request_id() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client.create_stock("a", 10).await;
    client.reserve("O", "a", 5).await.expect(201);
    let mut part = json!({"lines": [{"sku_id": "a", "quantity": 1}]});
    let path = "/v1/reservations/O/confirm";
    assert_eq!(client.post(path, &part).await.expect(200)["lines"][0]["confirmed"], 1);
    let again = client.post(path, &part).await.expect(200);
    assert_eq!((&again["replayed"], &again["lines"][0]["confirmed"]), (&json!(true), &json!(1)));
    part["request_id"] = json!("second");
    assert_eq!(client.post(path, &part).await.expect(200)["lines"][0]["confirmed"], 2);
    let path = "/v1/reservations/O/release";
    let mut part = json!({"lines": [{"sku_id": "a", "quantity": 3}], "reason": "user_cancelled"});
    let released = client.post(path, &part).await.expect(200);
    assert_eq!(
        (&released["lines"][0]["released"], &released["status"]),
        (&json!(3), &json!("partially_confirmed"))
    );
    part["reason"] = json!("x".repeat(257));
    client.post(path, &part).await.expect_field("invalid_field", "reason");
}

#[tokio::test]
async fn best_effort_holds_what_there_is() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client.create_stock("a", 3).await;
    let body = json!({"order_no": "O", "lines": [{"sku_id": "a", "quantity": 5}], "mode": "best_effort"});
    let line = &client.post("/v1/reservations", body).await.expect(201)["lines"][0];
    assert_eq!((&line["quantity"], &line["held"]), (&json!(5), &json!(3)));
}

#[tokio::test]
async fn lines_may_lie_in_any_warehouse() {
    let prefer_warehouses = vec![WarehouseId(3)];
    let fixture = Fixture::with_http(Options { prefer_warehouses, ..Options::default() }).await;
    let mut client = fixture.client().await;
    for (warehouse, quantity) in [(1, 2), (2, 5), (3, 5)] {
        let body = json!({"sku_id": "a", "warehouse_id": warehouse, "quantity": quantity});
        client.post("/v1/stock", body).await.expect(201);
    }
    let mut body = json!({"order_no": "O1", "lines": [{"sku_id": "a", "quantity": 4}], "warehouses": "any"});
    let places = |answer: &Value| -> Vec<(u64, u64)> {
        let lines = answer["lines"].as_array().unwrap().iter();
        lines.map(|line| (line["warehouse_id"].as_u64().unwrap(), line["held"].as_u64().unwrap())).collect()
    };
    assert_eq!(places(&client.post("/v1/reservations", &body).await.expect(201)), [(3, 4)], "as configured");
    let again = client.post("/v1/reservations", &body).await.expect(200);
    assert_eq!((&again["replayed"], places(&again)), (&json!(true), vec![(3, 4)]));
    (body["order_no"], body["prefer"]) = (json!("O2"), json!([2, 1]));
    assert_eq!(
        places(&client.post("/v1/reservations", &body).await.expect(201)),
        [(2, 4)],
        "as the caller prefers"
    );
    body["order_no"] = json!("O3");
    assert_eq!(places(&client.post("/v1/reservations", &body).await.expect(201)), [(2, 1), (1, 2), (3, 1)]);
    body["order_no"] = json!("O4");
    let refused = client.post("/v1/reservations", &body).await;
    assert_eq!(refused.code(), "insufficient_stock");
    assert_eq!(refused.json()["lines"], json!([{"sku_id": "a", "requested": 4, "available": 0}]));
    let mut named = body.clone();
    named["lines"][0]["warehouse_id"] = json!(9);
    assert_eq!(client.post("/v1/reservations", &named).await.code(), "unknown_sku", "who names one means it");
    body["lines"][0]["sku_id"] = json!("x");
    assert_eq!(client.post("/v1/reservations", &body).await.code(), "unknown_sku");
    let operation = json!({"op": "reserve", "order_no": "O1", "lines": [{"sku_id": "a", "quantity": 4}], "warehouses": "any"});
    let results = client.post("/v1/batch", json!({"operations": [operation]})).await.expect(200);
    assert_eq!(
        (&results["results"][0]["status"], &results["results"][0]["body"]["replayed"]),
        (&json!(200), &json!(true))
    );
}

#[tokio::test]
async fn ids_in_a_path_are_percent_encoded() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client.create_stock("a/b ü%", 3).await;
    client.reserve("O/1 é", "a/b ü%", 1).await.expect(201);
    assert_eq!(client.get("/v1/reservations/O%2F1%20%C3%A9").await.expect(200)["order_no"], "O/1 é");
    assert_eq!(client.confirm("O%2F1%20%c3%a9").await.expect(200)["status"], "confirmed");
    assert_eq!(client.get("/v1/stock/a%2Fb%20%C3%BC%25").await.expect(200)["total"]["sold"], 1);
    for bad in ["/v1/reservations/a%FFb", "/v1/reservations/a%", "/v1/reservations/a%2", "/v1/stock/%zz"] {
        let answer = client.get(bad).await;
        assert_eq!((answer.status, &*answer.code()), (400, "malformed_request"), "{bad}");
    }
    client.get("/v1/reservations/a%00b").await.expect_field("invalid_field", "order_no");
    client.get(&format!("/v1/stock/{}", "x".repeat(65))).await.expect_field("invalid_field", "sku_id");
    let with_query = client.request("POST", "/v1/reservations/O/confirm?force=1", &[], "").await;
    assert_eq!(with_query.code(), "malformed_request", "what is not known is not ignored");
}
