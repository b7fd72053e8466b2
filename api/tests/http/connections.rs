//! Connections: their bounds, odd requests, and how they end.

use std::time::Duration;

use hotstock_api::Options;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Fixture, RawClient, must_come, until};

const LONG: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn a_stop_lets_requests_end() {
    let fixture = Fixture::start().await;
    let (mut client, idle) = (fixture.client().await, fixture.client().await);
    client.create_stock("a", 1).await;
    fixture.journal.hold();
    let under_way = tokio::spawn(async move { client.reserve("O", "a", 1).await });
    until(|| fixture.journal.is_waiting()).await;
    let (address, journal) = (fixture.server.address(), fixture.journal.clone());
    let stopped = tokio::spawn(fixture.stop());
    // Its listener is closed while the request is under way.
    must_come(async { while TcpStream::connect(address).await.is_ok() {} }).await;
    journal.let_go();
    must_come(under_way).await.unwrap().expect(201);
    assert_eq!(must_come(stopped).await.unwrap().cut_off, 0);
    drop(idle);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let options = Options { drain_timeout: Duration::from_millis(1), ..Options::default() };
    let fixture = Fixture::with_http(options).await;
    let mut client = fixture.client().await;
    client.create_stock("a", 1).await;
    fixture.journal.hold();
    let mut raw = RawClient::connect(&fixture).await;
    raw.write("POST /v1/reservations/O/release HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n").await;
    until(|| fixture.journal.is_waiting()).await;
    let stopped = must_come(fixture.server.stop()).await.unwrap();
    assert_eq!(stopped.cut_off, 1);
    assert_eq!(raw.rest().await, "", "no answer, so the outcome is unknown to the caller");
    fixture.journal.let_go();
    must_come(fixture.engine.stop()).await;
}

#[tokio::test]
async fn readiness_goes_before_the_listener() {
    let fixture = Fixture::with_http(Options { unready_for: LONG, ..Options::default() }).await;
    let mut client = fixture.client().await;
    client.get("/readyz").await;
    let address = fixture.server.address();
    let stopping = tokio::spawn(fixture.server.stop());
    must_come(async { while client.get("/readyz").await.status == 200 {} }).await;
    assert_eq!(client.get("/readyz").await.code(), "not_ready");
    assert!(TcpStream::connect(address).await.is_ok());
    assert_eq!(client.get("/livez").await.status, 200);
    stopping.abort();
}

#[tokio::test]
async fn connections_are_bounded() {
    let fixture = Fixture::with_http(Options { max_connections: 1, ..Options::default() }).await;
    let mut first = fixture.client().await;
    first.get("/livez").await;
    let mut second = fixture.client().await;
    let waiting = tokio::spawn(async move { second.get("/livez").await.status });
    for _ in 0..100 {
        assert!(first.get("/metrics").await.text().contains("hotstock_http_connections 1\n"));
    }
    assert!(!waiting.is_finished());
    drop(first);
    assert_eq!(must_come(waiting).await.unwrap(), 200);
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_its_connection() {
    let options = Options { header_read_timeout: Duration::from_millis(1), ..Options::default() };
    let fixture = Fixture::with_http(options).await;
    let mut raw = RawClient::connect(&fixture).await;
    raw.write("GET /livez HTTP/1.1\r\nhos").await;
    raw.rest().await;
}

#[tokio::test]
async fn large_bodies_share_a_bounded_room() {
    let options = Options {
        max_body_bytes: 64 * 1024,
        max_batch_body_bytes: 64 * 1024,
        max_body_kib_in_flight: 64,
        ..Options::default()
    };
    let fixture = Fixture::with_http(options).await;
    let (body, padding) = (r#"{"order_no":"O","lines":[]}"#, " ".repeat(50_000));
    let head = format!(
        "POST /v1/reservations HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len() + padding.len()
    );
    let mut first = RawClient::connect(&fixture).await;
    first.write(&head).await;
    // The server asks for the body once it has taken the room for it.
    assert!(first.read_some().await.starts_with("HTTP/1.1 100"));
    let post = async |body: &str| {
        // Of its own connection: one whose body was not read is closed.
        fixture.client().await.request("POST", "/v1/reservations", &[], body.to_owned()).await.code()
    };
    let large = format!("{padding}{body}");
    assert_eq!(post(&large).await, "overloaded");
    assert_eq!(post(body).await, "invalid_field", "a small one needs no room");
    first.write(&large).await;
    assert_eq!(first.answer().await.code(), "invalid_field");
    drop(first);
    // The room is free again once the server has let go of the first request.
    must_come(async { while post(&large).await != "invalid_field" {} }).await;
}

#[tokio::test]
async fn a_body_that_is_declared_too_large_is_not_waited_for() {
    let fixture = Fixture::start().await;
    let mut raw = RawClient::connect(&fixture).await;
    raw.write("POST /v1/stock HTTP/1.1\r\nhost: test\r\ncontent-length: 99999999999\r\n\r\n").await;
    assert_eq!(raw.answer().await.code(), "request_too_large");
}

#[tokio::test]
async fn a_body_in_chunks_has_the_same_bound() {
    let fixture = Fixture::with_http(Options { max_body_bytes: 20_000, ..Options::default() }).await;
    let head = "POST /v1/stock HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("3e8\r\n{}\r\n", " ".repeat(1_000));
    let mut raw = RawClient::connect(&fixture).await;
    raw.write(&format!("{head}{}0\r\n\r\n", chunk.repeat(19))).await;
    assert_eq!(raw.answer().await.code(), "malformed_request", "it was read to its end, and is no JSON");
    let mut raw = RawClient::connect(&fixture).await;
    raw.write(&format!("{head}{}", chunk.repeat(21))).await;
    assert_eq!(raw.answer().await.code(), "request_too_large");
}

#[tokio::test]
async fn requests_in_one_packet_are_answered_in_turn() {
    let fixture = Fixture::start().await;
    let mut raw = RawClient::connect(&fixture).await;
    let get = |path| format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    raw.write(&format!("{}{}", get("/livez"), get("/v1/stock/none"))).await;
    assert_eq!(raw.answer().await.text(), "ok\n");
    assert_eq!(raw.answer().await.code(), "unknown_sku");
}

#[tokio::test]
async fn odd_requests_are_answered() {
    let fixture = Fixture::start().await;
    let cases = [
        ("OPTIONS * HTTP/1.1", 404),
        ("CONNECT example.com:443 HTTP/1.1", 404),
        ("GET http://example.com/livez HTTP/1.1", 200),
        ("GET //livez HTTP/1.1", 404),
        ("GET /livez/ HTTP/1.1", 404),
        ("GET /v1/stock/.. HTTP/1.1", 404),
        ("BREW /livez HTTP/1.1", 405),
    ];
    for (line, status) in cases {
        let mut raw = RawClient::connect(&fixture).await;
        raw.write(&format!("{line}\r\nhost: test\r\n\r\n")).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, status, "{line}: {}", answer.text());
    }
    // What is no HTTP at all gets hyper's bare answer, if any, and the server goes on.
    for garbage in [
        "nonsense\r\n\r\n",
        "\0\0\0\0",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/1.1\r\nbad header\r\n\r\n",
    ] {
        let mut raw = RawClient::connect(&fixture).await;
        raw.write(garbage).await;
        raw.stream.shutdown().await.unwrap();
        let answer = raw.rest().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{garbage}: {answer}");
    }
    let mut client = fixture.client().await;
    let head = client.request("HEAD", "/livez", &[], "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[tokio::test]
async fn who_closes_its_half_behind_its_request_is_answered() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client.create_stock("a", 1).await;
    fixture.journal.hold();
    let mut raw = RawClient::connect(&fixture).await;
    let body = r#"{"order_no":"O","lines":[{"sku_id":"a","quantity":1}]}"#;
    let length = body.len();
    raw.write(&format!(
        "POST /v1/reservations HTTP/1.1\r\nhost: t\r\ncontent-length: {length}\r\n\r\n{body}"
    ))
    .await;
    raw.stream.shutdown().await.unwrap();
    until(|| fixture.journal.is_waiting()).await;
    fixture.journal.let_go();
    raw.answer().await.expect(201);
    assert_eq!(raw.rest().await, "", "and then the connection ends");
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_undo_its_request() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client.create_stock("a", 1).await;
    fixture.journal.hold();
    let mut raw = RawClient::connect(&fixture).await;
    let body = r#"{"order_no":"O","lines":[{"sku_id":"a","quantity":1}]}"#;
    let length = body.len();
    raw.write(&format!(
        "POST /v1/reservations HTTP/1.1\r\nhost: t\r\ncontent-length: {length}\r\n\r\n{body}"
    ))
    .await;
    until(|| fixture.journal.is_waiting()).await;
    drop(raw);
    fixture.journal.let_go();
    assert_eq!(client.reserve("O", "a", 1).await.expect(200)["replayed"], true);
}

/// Reading a connection to its end must not fail the test when the server resets it.
#[tokio::test]
async fn a_peer_that_closes_at_once_is_no_error() {
    let fixture = Fixture::start().await;
    for _ in 0..10 {
        drop(TcpStream::connect(fixture.server.address()).await.unwrap());
    }
    let mut stream = TcpStream::connect(fixture.server.address()).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    must_come(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(fixture.stop().await.cut_off, 0);
}
