//! Health, counts and the description.

use serde_json::Value;

use crate::support::Fixture;

#[tokio::test]
async fn a_server_is_alive_and_ready() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    assert_eq!(client.get("/livez").await.status, 200);
    assert_eq!(client.get("/readyz").await.status, 200);
    fixture.engine.stop().await;
    assert_eq!(client.get("/livez").await.status, 200);
    assert_eq!(client.get("/readyz").await.code(), "not_ready");
}

#[tokio::test]
async fn without_its_store_a_server_stays_ready_and_says_so() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client.create_stock("a", 1).await;
    fixture.store.cut();
    client.get("/v1/reservations").await.expect(503);
    let ready = client.get("/readyz").await;
    assert_eq!(ready.status, 200);
    assert!(ready.text().contains("without the SQL store"), "{}", ready.text());
    client.reserve("O", "a", 1).await.expect(201);
}

#[tokio::test]
async fn requests_and_shards_are_counted() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client.create_stock("a", 1).await;
    client.reserve("O", "a", 1).await.expect(201);
    client.reserve("P", "a", 1).await.expect(409);
    client.get("/nowhere").await.expect(404);
    let metrics = client.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text"));
    let text = metrics.text();
    let lines = [
        r#"hotstock_http_requests_total{route="/v1/reservations",method="POST",status="201"} 1"#,
        r#"hotstock_http_requests_total{route="/v1/reservations",method="POST",status="409"} 1"#,
        r#"hotstock_http_requests_total{route="not_found",method="*",status="404"} 1"#,
        r#"hotstock_http_request_duration_seconds_count{route="/v1/reservations",method="POST"} 2"#,
        r#"hotstock_problems_total{code="insufficient_stock"} 1"#,
        "hotstock_http_connections 1",
        r#"hotstock_shard_open_orders{shard="0"} 1"#,
        // The start, the stock, the order.
        r#"hotstock_shard_durable_lsn{shard="0"} 3"#,
        "hotstock_journal_events_total 3",
        "hotstock_store_epoch 1",
        "hotstock_fenced 0",
        "# HELP hotstock_shard_overloaded Commands turned away at the gate",
        "# TYPE hotstock_journal_commit_duration_seconds histogram",
        "# EOF",
    ];
    for line in lines {
        assert!(text.lines().any(|found| found == line), "{line}\nin\n{text}");
    }
    // The last bucket has all commits, in whichever they fell.
    let of = |name: &str| {
        let line =
            text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}\nin\n{text}"));
        line.rsplit(' ').next().unwrap().to_owned()
    };
    let all = of("hotstock_journal_commit_duration_seconds_count");
    assert_eq!(of(r#"hotstock_journal_commit_duration_seconds_bucket{le="+Inf"}"#), all);
    assert_eq!(of("hotstock_journal_commits_total"), all);
}

#[tokio::test]
async fn every_described_path_is_served() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    let description: Value = client.get("/openapi.json").await.expect(200);
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let path = path.replace("{sku_id}", "x").replace("{order_no}", "x");
            let answer = client.request(&method.to_uppercase(), &path, &[], "").await;
            let is_problem = answer.header("content-type") == "application/problem+json";
            let unserved = is_problem && ["not_found", "method_not_allowed"].contains(&&*answer.code());
            assert!(!unserved, "{method} {path}");
        }
    }
}
