//! A running server over the engine and a journal in memory, and a client for it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use hotstock_api::{Options, Server, Stopped};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::engine::Engine;
use hotstock_engine::options::{EngineOptions, Parts};
use hotstock_engine::testing::{
    ManualClock, MemoryCheckpoints, MemoryFilters, MemoryIdentity, MemoryJournal, MemoryStore,
};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HeaderMap;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// 2026-03-08T09:00:00.000Z, when every test begins.
pub const START: Timestamp = Timestamp(1_772_960_400_000);

/// A running server.
pub struct Fixture {
    pub server: Server,
    pub engine: Engine,
    pub journal: MemoryJournal,
    pub clock: ManualClock,
    pub store: MemoryStore,
}

impl Fixture {
    /// A server as it is by default.
    pub async fn start() -> Self {
        Self::with(EngineOptions::default(), Options::default()).await
    }

    /// A server with other bounds.
    pub async fn with_http(http: Options) -> Self {
        Self::with(EngineOptions::default(), http).await
    }

    /// A server over another engine and with other bounds.
    pub async fn with(engine: EngineOptions, http: Options) -> Self {
        Self::with_faults(engine, http, |parts| parts).await
    }

    /// A server over an engine whose parts are made to fail.
    pub async fn with_faults(
        engine: EngineOptions,
        http: Options,
        faults: impl FnOnce(Parts) -> Parts,
    ) -> Self {
        let (journal, clock) = (MemoryJournal::default(), ManualClock::default());
        clock.set(START);
        let store = MemoryStore::with_clock(Arc::new(clock.clone()));
        let parts = Parts::new(
            Box::new(journal.open()),
            Arc::new(MemoryCheckpoints::default()),
            Arc::new(MemoryFilters::default()),
            Arc::new(MemoryIdentity::new(1)),
            Arc::new(clock.clone()),
            Arc::new(store.clone()),
        );
        let engine = Engine::start(engine, faults(parts)).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::start(listener, engine.clone(), http).unwrap();
        Self { server, engine, journal, clock, store }
    }

    /// A connection to it.
    pub async fn client(&self) -> Client {
        Client { send: connect(TcpStream::connect(self.server.address()).await.unwrap()).await }
    }

    /// Stops the server, then the engine.
    pub async fn stop(self) -> Stopped {
        let stopped = self.server.stop().await.unwrap();
        self.engine.stop().await;
        stopped
    }
}

async fn connect(stream: TcpStream) -> SendRequest<Full<Bytes>> {
    let (send, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    send
}

/// Awaits what must come. The time only ends a test that would hang; nothing is concluded from it.
pub async fn must_come<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("it came within a minute")
}

/// Awaits a condition that other tasks bring about.
pub async fn until(mut condition: impl FnMut() -> bool) {
    must_come(async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// One connection.
pub struct Client {
    send: SendRequest<Full<Bytes>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// The stable code of a problem.
    #[track_caller]
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_else(|| panic!("not a problem: {}", self.text())).to_owned()
    }

    /// The body as JSON, of an answer that must have this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }

    /// A problem that must have this code and name this field.
    #[track_caller]
    pub fn expect_field(&self, code: &str, field: &str) {
        let body = self.json();
        assert_eq!((body["code"].as_str(), body["field"].as_str()), (Some(code), Some(field)), "{body}");
    }
}

impl Client {
    /// Any request.
    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = hyper::Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send.ready().await.unwrap();
        let request = request.body(Full::new(body.into())).unwrap();
        let (parts, body) = must_come(self.send.send_request(request)).await.unwrap().into_parts();
        let body = must_come(body.collect()).await.unwrap().to_bytes();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// A GET.
    pub async fn get(&mut self, path: &str) -> Answer {
        self.request("GET", path, &[], Bytes::new()).await
    }

    /// A POST of JSON.
    pub async fn post(&mut self, path: &str, body: impl serde::Serialize) -> Answer {
        self.request("POST", path, &[], serde_json::to_vec(&body).unwrap()).await
    }

    /// Creates a stock in warehouse 1.
    pub async fn create_stock(&mut self, sku_id: &str, quantity: u64) {
        self.post("/v1/stock", json!({"sku_id": sku_id, "quantity": quantity})).await.expect(201);
    }

    /// Reserves one line in warehouse 1.
    pub async fn reserve(&mut self, order_no: &str, sku_id: &str, quantity: u64) -> Answer {
        let lines = json!([{"sku_id": sku_id, "quantity": quantity}]);
        self.post("/v1/reservations", json!({"order_no": order_no, "lines": lines})).await
    }

    /// Confirms all of an order; no body at all.
    pub async fn confirm(&mut self, order_no: &str) -> Answer {
        self.request("POST", &format!("/v1/reservations/{order_no}/confirm"), &[], "").await
    }

    /// Releases all of an order; no body at all.
    pub async fn release(&mut self, order_no: &str) -> Answer {
        self.request("POST", &format!("/v1/reservations/{order_no}/release"), &[], "").await
    }
}

/// One connection, byte by byte.
pub struct RawClient {
    pub stream: TcpStream,
    read: Vec<u8>,
}

impl RawClient {
    pub async fn connect(fixture: &Fixture) -> Self {
        Self { stream: TcpStream::connect(fixture.server.address()).await.unwrap(), read: Vec::new() }
    }

    /// Sends as it is.
    pub async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Whatever comes next.
    pub async fn read_some(&mut self) -> String {
        let mut buffer = vec![0; 4_096];
        let length = must_come(self.stream.read(&mut buffer)).await.unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// All until the server closes or resets the connection.
    pub async fn rest(&mut self) -> String {
        let mut rest = std::mem::take(&mut self.read);
        // A reset is an end as well.
        let _ = must_come(self.stream.read_to_end(&mut rest)).await;
        String::from_utf8(rest).unwrap()
    }

    /// One answer that declares its length, as all of this server's do.
    pub async fn answer(&mut self) -> Answer {
        loop {
            if let Some((answer, used)) = whole_answer(&self.read) {
                self.read.drain(..used);
                return answer;
            }
            let more = must_come(self.stream.read_buf(&mut self.read)).await.unwrap();
            assert!(more > 0, "the connection ended: {}", String::from_utf8_lossy(&self.read));
        }
    }
}

/// The first answer in `bytes` and how many of them it takes, if it is all there.
fn whole_answer(bytes: &[u8]) -> Option<(Answer, usize)> {
    let head_length = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..head_length]).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
    let header = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.parse::<hyper::header::HeaderName>().unwrap(), value.parse().unwrap())
    };
    let headers: HeaderMap = lines.map(header).collect();
    let length: usize =
        headers.get("content-length").map_or(0, |length| length.to_str().unwrap().parse().unwrap());
    let body = bytes.get(head_length..head_length + length)?;
    Some((Answer { status, headers, body: Bytes::copy_from_slice(body) }, head_length + length))
}
