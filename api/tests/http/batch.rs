//! Batches over HTTP.

use serde_json::{Value, json};

use crate::support::Fixture;

#[tokio::test]
async fn every_operation_is_answered_as_its_own_request() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client.create_stock("a", 10).await;
    let reserve = json!({"op": "reserve", "order_no": "O", "lines": [{"sku_id": "a", "quantity": 4}]});
    let operations = json!([
        reserve,
        reserve,
        {"op": "reserve", "order_no": "P", "lines": [{"sku_id": "a", "quantity": 7}]},
        {"op": "extend", "order_no": "O", "ttl_seconds": 60},
        {"op": "confirm", "order_no": "O"},
        {"op": "return", "order_no": "O", "request_id": "R", "lines": [{"sku_id": "a", "quantity": 1}]},
        {"op": "release", "order_no": "never-seen", "reason": "why not"},
        {"op": "restock", "sku_id": "a", "quantity": 5, "request_id": "1"},
        {"op": "deduct", "sku_id": "a", "quantity": 2, "request_id": "2"},
        {"op": "adjust", "sku_id": "a", "quantity": -1, "request_id": "3"},
    ]);
    let answer = client.post("/v1/batch", json!({"operations": operations})).await.expect(200);
    let results = answer["results"].as_array().unwrap();
    let statuses: Vec<u64> = results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 200, 409, 200, 200, 200, 200, 200, 200, 200]);
    assert_eq!(results[1]["body"]["replayed"], true);
    assert_eq!(results[2]["body"]["code"], "insufficient_stock");
    assert_eq!(results[2]["body"]["lines"][0]["available"], 6);
    assert_eq!(results[5]["body"]["status"], "partially_returned");
    assert_eq!(results[6]["body"]["status"], "cancelled");
    assert_eq!(results[9]["body"]["available"], 9);
    assert_eq!(answer.as_object().unwrap().len(), 1);
    let order = client.get("/v1/reservations/O").await.expect(200);
    assert_eq!(order["lines"], results[5]["body"]["lines"]);
}

#[tokio::test]
async fn a_wrong_operation_fails_alone() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client.create_stock("a", 10).await;
    let reserve = |order_no: &str, quantity: Value| json!({"op": "reserve", "order_no": order_no, "lines": [{"sku_id": "a", "quantity": quantity}]});
    let cases = [
        (reserve("first", json!(1)), (201, "reserved", "")),
        (reserve("x", json!(0)), (422, "invalid_field", "lines[0].quantity")),
        (reserve("x", json!("1")), (400, "malformed_request", "lines[0].quantity")),
        (
            json!({"op": "confirm", "order_no": "first", "mode": "best_effort"}),
            (400, "malformed_request", "mode"),
        ),
        (json!({"op": "steal", "order_no": "x"}), (422, "invalid_field", "op")),
        (reserve("second", json!(1)), (201, "reserved", "")),
        (json!(7), (400, "malformed_request", "")),
        (json!(["reserve", "x"]), (400, "malformed_request", "")),
        (json!({"order_no": "x", "surprise": 1}), (400, "malformed_request", "surprise")),
        (reserve("third", json!(1)), (201, "reserved", "")),
    ];
    let operations: Vec<&Value> = cases.iter().map(|(operation, _)| operation).collect();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let headers = [("traceparent", &*format!("00-{trace}-00f067aa0ba902b7-01"))];
    let body = json!({"operations": operations}).to_string();
    let answer = client.request("POST", "/v1/batch", &headers, body).await.expect(200);
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), cases.len());
    for (result, (operation, expected)) in results.iter().zip(&cases) {
        let body = &result["body"];
        let name = body["code"].as_str().or(body["status"].as_str()).unwrap();
        let field = body["field"].as_str().unwrap_or("");
        assert_eq!((result["status"].as_u64().unwrap(), name, field), *expected, "{operation}");
        if name != "reserved" {
            assert_eq!(body["trace_id"], trace);
        }
    }
}

#[tokio::test]
async fn what_is_not_a_batch_fails_as_a_whole() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    for body in ["", "[]", "{\"operations\":7}", "{\"operations\":[{}", "{\"operations\":[],\"more\":1}"] {
        let answer = client.request("POST", "/v1/batch", &[], body).await;
        assert_eq!((answer.status, &*answer.code()), (400, "malformed_request"), "{body}");
    }
    client.post("/v1/batch", json!({})).await.expect_field("invalid_field", "operations");
    client.post("/v1/batch", json!({"operations": []})).await.expect_field("invalid_field", "operations");
    let operation = json!({"op": "confirm", "order_no": "x"});
    let many = |count| json!({"operations": vec![&operation; count]});
    client.post("/v1/batch", many(10_001)).await.expect_field("invalid_field", "operations");
    let full = client.post("/v1/batch", many(10_000)).await.expect(200);
    assert_eq!(full["results"].as_array().unwrap().len(), 10_000);
}
