//! Stock over HTTP.

use serde_json::{Value, json};

use crate::support::Fixture;

#[tokio::test]
async fn stock_is_created_once() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    let body = json!({"sku_id": 1001, "warehouse_id": 1, "quantity": 100});
    let mut expected = json!({"sku_id": "1001", "warehouse_id": 1, "available": 100, "reserved": 0, "sold": 0,
        "on_hand": 100, "quantity": 100, "status": "on_sale", "version": 1, "replayed": false});
    assert_eq!(client.post("/v1/stock", &body).await.expect(201), expected);
    expected["replayed"] = json!(true);
    assert_eq!(client.post("/v1/stock", &body).await.expect(200), expected);
    let other = client.post("/v1/stock", json!({"sku_id": "1001", "quantity": 7})).await;
    assert_eq!(other.code(), "stock_exists");
    let problem = other.expect(409);
    assert_eq!((&problem["initial"], &problem["stock"]["available"]), (&json!(100), &json!(100)));
}

#[tokio::test]
async fn a_sku_numbers_its_units_or_does_not() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    let mut body = json!({"sku_id": "a", "quantity": 5, "serialized": true});
    let mut expected = json!({"sku_id": "a", "warehouse_id": 1, "available": 5, "reserved": 0, "sold": 0,
        "on_hand": 5, "quantity": 5, "status": "on_sale", "version": 1, "serialized": true, "replayed": false});
    assert_eq!(client.post("/v1/stock", &body).await.expect(201), expected);
    expected["replayed"] = json!(true);
    assert_eq!(client.post("/v1/stock", &body).await.expect(200), expected);
    assert_eq!(client.get("/v1/stock/a").await.expect(200)["warehouses"][0]["serialized"], true);
    body["serialized"] = json!(false);
    client.post("/v1/stock", &body).await.expect_field("invalid_field", "serialized");
    body["warehouse_id"] = json!(2);
    client.post("/v1/stock", &body).await.expect_field("invalid_field", "serialized");
    body["serialized"] = json!("yes");
    assert_eq!(client.post("/v1/stock", &body).await.code(), "malformed_request");
}

#[tokio::test]
async fn a_sku_is_read_over_its_warehouses() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client.create_stock("1001", 100).await;
    client.post("/v1/stock", json!({"sku_id": "1001", "warehouse_id": 2, "quantity": 5})).await.expect(201);
    client.reserve("O", "1001", 2).await.expect(201);
    let one = json!({"warehouse_id": 1, "available": 98, "reserved": 2, "sold": 0, "on_hand": 100, "quantity": 100,
        "status": "on_sale", "version": 2});
    let two = json!({"warehouse_id": 2, "available": 5, "reserved": 0, "sold": 0, "on_hand": 5, "quantity": 5,
        "status": "on_sale", "version": 1});
    let all = json!({"sku_id": "1001", "warehouses": [one, two],
        "total": {"available": 103, "reserved": 2, "sold": 0, "on_hand": 105, "quantity": 105}});
    assert_eq!(client.get("/v1/stock/1001").await.expect(200), all);
    let second = json!({"sku_id": "1001", "warehouses": [two],
        "total": {"available": 5, "reserved": 0, "sold": 0, "on_hand": 5, "quantity": 5}});
    assert_eq!(client.get("/v1/stock/1001?warehouse_id=2").await.expect(200), second);
    assert_eq!(client.get("/v1/stock/1001?warehouse_id=3").await.code(), "unknown_sku");
    client.get("/v1/stock/1001?warehouse_id=-1").await.expect_field("invalid_field", "warehouse_id");
    for bad in ["?warehouse_id=one", "?warehouse=1", "?warehouse_id=1&warehouse_id=2"] {
        assert_eq!(client.get(&format!("/v1/stock/1001{bad}")).await.code(), "malformed_request", "{bad}");
    }
}

#[tokio::test]
async fn changes_have_an_id_and_are_made_once() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client.create_stock("a", 10).await;
    let restock = json!({"request_id": "PO-7", "warehouse_id": 1, "quantity": 50, "reason": "delivery"});
    let first = client.post("/v1/stock/a/restock", &restock).await.expect(200);
    assert_eq!((&first["available"], &first["replayed"]), (&json!(60), &json!(false)));
    let again = client.post("/v1/stock/a/restock", &restock).await.expect(200);
    assert_eq!((&again["available"], &again["replayed"]), (&json!(60), &json!(true)));

    let (path, key) = ("/v1/stock/a/deduct", [("idempotency-key", "D-1")]);
    let by_header = client.request("POST", path, &key, r#"{"quantity":20}"#).await.expect(200);
    assert_eq!(by_header["available"], 40);
    let both = client.request("POST", path, &key, r#"{"quantity":20,"request_id":"D-1"}"#).await.expect(200);
    assert_eq!(both["replayed"], true);
    let differ = client.request("POST", path, &key, r#"{"quantity":20,"request_id":"D-2"}"#).await;
    differ.expect_field("invalid_field", "request_id");
    client.post(path, json!({"quantity": 1})).await.expect_field("invalid_field", "request_id");
    let twice = [("idempotency-key", "D-3"), ("idempotency-key", "D-4")];
    let twice = client.request("POST", path, &twice, r#"{"quantity":20}"#).await;
    twice.expect_field("invalid_field", "Idempotency-Key");

    let adjust = json!({"request_id": "A-1", "quantity": -15});
    assert_eq!(client.post("/v1/stock/a/adjust", adjust).await.expect(200)["available"], 25);
    let too_much = client.post("/v1/stock/a/adjust", json!({"request_id": "A-2", "quantity": -26})).await;
    assert_eq!(too_much.code(), "insufficient_stock");
    assert_eq!(
        too_much.expect(409)["lines"],
        json!([{"sku_id": "a", "warehouse_id": 1, "requested": 26, "available": 25}])
    );
}

#[tokio::test]
async fn a_suspended_sku_takes_no_new_orders() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client.create_stock("a", 10).await;
    client.post("/v1/stock", json!({"sku_id": "a", "warehouse_id": 2, "quantity": 5})).await.expect(201);
    client.reserve("held", "a", 1).await.expect(201);
    let suspended = client.request("POST", "/v1/stock/a/suspend", &[], "").await.expect(200);
    assert_eq!(suspended["replayed"], false);
    let statuses = |sku: &Value| -> Vec<String> {
        let all = sku["warehouses"].as_array().unwrap().iter();
        all.map(|warehouse| warehouse["status"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(statuses(&suspended), ["suspended", "suspended"]);
    assert_eq!(client.post("/v1/stock/a/suspend", json!({})).await.expect(200)["replayed"], true);
    assert_eq!(client.reserve("new", "a", 1).await.code(), "sku_suspended");
    assert_eq!(client.confirm("held").await.expect(200)["status"], "confirmed");
    client.post("/v1/stock/a/resume", json!({"warehouse_id": 2})).await.expect(200);
    assert_eq!(statuses(&client.get("/v1/stock/a").await.expect(200)), ["suspended", "on_sale"]);
    client.post("/v1/stock/a/resume", json!({})).await.expect(200);
    client.reserve("new", "a", 1).await.expect(201);
}

#[tokio::test]
async fn the_list_goes_page_by_page() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    assert_eq!(client.get("/v1/stock").await.expect(200), json!({"items": [], "next_cursor": null}));
    for sku in ["b", "a", "d/ü", "c"] {
        client.create_stock(sku, 1).await;
    }
    let names = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap().iter();
        items.map(|sku| sku["sku_id"].as_str().unwrap().to_owned()).collect()
    };
    let first = client.get("/v1/stock?limit=3").await.expect(200);
    assert_eq!(names(&first), ["a", "b", "c"]);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = client.get(&format!("/v1/stock?limit=3&cursor={cursor}")).await.expect(200);
    assert_eq!((names(&second), &second["next_cursor"]), (vec!["d/ü".to_owned()], &Value::Null));
    // A last page that is full is known to be the last.
    assert_eq!(client.get("/v1/stock?limit=4").await.expect(200)["next_cursor"], Value::Null);
    assert_eq!(first["items"][0], client.get("/v1/stock/a").await.expect(200));
    let wrong =
        [("limit=0", "limit"), ("limit=1001", "limit"), ("cursor=!", "cursor"), ("cursor=", "cursor")];
    for (query, field) in wrong {
        client.get(&format!("/v1/stock?{query}")).await.expect_field("invalid_field", field);
    }
    for query in ["limit=many", "page=2"] {
        let answer = client.get(&format!("/v1/stock?{query}")).await;
        assert_eq!(answer.code(), "malformed_request", "{query}");
    }
}
