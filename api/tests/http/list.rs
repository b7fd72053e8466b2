//! The list of orders over HTTP.

use serde_json::{Value, json};

use crate::support::{Client, Fixture};

/// A server with the SKUs `one` and `two`, whose orders are not flushed.
async fn with_both() -> (Fixture, Client) {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    for sku in ["one", "two"] {
        client.create_stock(sku, 100).await;
    }
    fixture.store.hold_flushes();
    (fixture, client)
}

fn numbers(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().unwrap().iter();
    items.map(|order| order["order_no"].as_str().unwrap()).collect()
}

async fn listed(client: &mut Client, query: &str) -> Vec<String> {
    let page = client.get(&format!("/v1/reservations{query}")).await.expect(200);
    assert_eq!(page["next_cursor"], Value::Null, "{query}");
    numbers(&page).into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn orders_are_listed_flushed_or_not() {
    let (fixture, mut client) = with_both().await;
    assert_eq!(client.get("/v1/reservations").await.expect(200), json!({"items": [], "next_cursor": null}));
    for (order, sku) in [("b", "one"), ("c/ü", "two"), ("a", "two"), ("d", "one"), ("e", "two")] {
        client.reserve(order, sku, 1).await.expect(201);
    }
    client.confirm("a").await.expect(200);
    client.confirm("d").await.expect(200);
    client.release("e").await.expect(200);
    client.release("never").await.expect(200);

    let page = client.get("/v1/reservations").await.expect(200);
    assert_eq!(numbers(&page), ["a", "b", "c/ü", "d", "e", "never"]);
    for item in page["items"].as_array().unwrap() {
        let order_no = item["order_no"].as_str().unwrap().replace('/', "%2F").replace('ü', "%C3%BC");
        assert_eq!(*item, client.get(&format!("/v1/reservations/{order_no}")).await.expect(200));
    }
    for (query, expected) in [
        ("?status=reserved", &["b", "c/ü"][..]),
        ("?status=confirmed,released", &["a", "d", "e"]),
        ("?status=confirmed&status=cancelled", &["a", "d", "never"]),
        ("?status=expired", &[]),
        ("?sku_id=two", &["a", "c/ü", "e"]),
        ("?sku_id=two&status=reserved", &["c/ü"]),
        ("?sku_id=other", &[]),
    ] {
        assert_eq!(listed(&mut client, query).await, expected, "{query}");
    }
    // Flushed or not, it is the same.
    fixture.store.let_flushes_go();
    fixture.stop().await;
}

#[tokio::test]
async fn the_list_of_orders_goes_page_by_page() {
    let (_fixture, mut client) = with_both().await;
    for number in 0..25 {
        let sku = if number % 3 == 0 { "two" } else { "one" };
        client.reserve(&format!("{number:02}"), sku, 1).await.expect(201);
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("/v1/reservations?limit=4{cursor}")).await.expect(200);
        seen.extend(numbers(&page).into_iter().map(str::to_owned));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let expected: Vec<String> = (0..25).map(|number| format!("{number:02}")).collect();
    assert_eq!(seen, expected);
    // A last page that is full is known to be the last.
    assert_eq!(listed(&mut client, "?limit=25").await, expected);
}

#[tokio::test]
async fn wrong_parameters_are_named() {
    let (_fixture, mut client) = with_both().await;
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("cursor=!", "cursor"),
        ("cursor=", "cursor"),
        ("status=sold", "status"),
        ("status=reserved,", "status"),
        ("status=", "status"),
        ("status=reserved&status=Reserved", "status"),
        ("sku_id=", "sku_id"),
    ] {
        client.get(&format!("/v1/reservations?{query}")).await.expect_field("invalid_field", field);
    }
    for query in ["limit=many", "page=2", "limit=1&limit=2", "sku_id=a&sku_id=b"] {
        let answer = client.get(&format!("/v1/reservations?{query}")).await;
        assert_eq!(answer.code(), "malformed_request", "{query}");
    }
}

#[tokio::test]
async fn without_its_store_there_is_no_list() {
    let (fixture, mut client) = with_both().await;
    fixture.store.cut();
    assert_eq!(client.get("/v1/reservations").await.code(), "store_unavailable");
}
