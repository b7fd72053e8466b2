//! An order service, asked before orders expire: a real one over HTTP, started by the test; orders on hot and on stored
//! SKUs, and over several shards; a service that says nonsense, nothing, or is away; a server that is killed while it
//! asks.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use support::{Client, Server};

/// What the service answers to an order: the whole HTTP answer, one after the other, the last one again and again.
/// `None`: it hangs until the test lets go.
type Script = Vec<Option<String>>;

#[derive(Default)]
struct Book {
    scripts: HashMap<String, Script>,
    asked: Vec<String>,
    let_go: bool,
}

/// A small HTTP server: one thread per connection, as many requests on each as come.
struct Service {
    address: SocketAddr,
    book: Arc<(Mutex<Book>, Condvar)>,
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn says(word: &str) -> Option<String> {
    Some(answer("200 OK", &format!(r#"{{"status":"{word}","amount":3}}"#)))
}

impl Service {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, book) = (listener.local_addr().unwrap(), Arc::<(Mutex<Book>, Condvar)>::default());
        let service = Self { address, book: Arc::clone(&book) };
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let book = Arc::clone(&book);
                std::thread::spawn(move || drop(serve(stream, &book)));
            }
        });
        service
    }

    fn tell(&self, path: &str, script: Script) {
        let script = script.into_iter().rev().collect();
        self.book.0.lock().unwrap().scripts.insert(path.to_owned(), script);
    }

    fn let_go(&self) {
        self.book.0.lock().unwrap().let_go = true;
        self.book.1.notify_all();
    }

    /// How often an order was asked about.
    fn asked(&self, path: &str) -> usize {
        self.book.0.lock().unwrap().asked.iter().filter(|asked| *asked == path).count()
    }

    fn setting(&self) -> String {
        format!("orders.check_url=http://{}/orders/", self.address)
    }
}

fn serve(stream: TcpStream, book: &(Mutex<Book>, Condvar)) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let path = head.strip_prefix("GET /orders/").and_then(|rest| rest.split(' ').next()).unwrap_or(&head);
        let mut open = book.0.lock().unwrap();
        open.asked.push(path.to_owned());
        let said = match open.scripts.get_mut(path) {
            Some(script) if script.len() > 1 => script.pop().unwrap(),
            Some(script) => script[0].clone(),
            None => says("unpaid"),
        };
        let Some(said) = said else {
            drop(book.1.wait_while(open, |book| !book.let_go).unwrap());
            return Ok(());
        };
        drop(open);
        stream.write_all(said.as_bytes())?;
    }
}

fn call(server: &Server, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Client::default().call(&server.address, method, path, &body).unwrap()
}

fn create(server: &Server, sku_id: &str, hot: bool) {
    let (status, answer) =
        call(server, "POST", "/v1/stock", &json!({"sku_id": sku_id, "quantity": 100, "hot": hot}));
    assert_eq!(status, 201, "{answer}");
}

/// Reserves for a second.
fn reserve(server: &Server, order_no: &str, skus: &[&str]) {
    let lines: Vec<_> = skus.iter().map(|sku_id| json!({"sku_id": sku_id, "quantity": 1})).collect();
    let body = json!({"order_no": order_no, "lines": lines, "ttl_seconds": 1});
    let (status, answer) = call(server, "POST", "/v1/reservations", &body);
    assert_eq!(status, 201, "{answer}");
}

fn order(server: &Server, order_no: &str) -> Value {
    let (status, answer) = call(server, "GET", &format!("/v1/reservations/{order_no}"), &Value::Null);
    assert_eq!(status, 200, "{answer}");
    answer
}

/// Looks until something is so; the test harness bounds the time.
fn until(what: impl Fn() -> bool) {
    while !what() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn until_status(server: &Server, order_no: &str, status: &str) {
    until(|| order(server, order_no)["status"] == status);
}

fn levels(server: &Server, sku_id: &str) -> Value {
    let (status, answer) = call(server, "GET", &format!("/v1/stock/{sku_id}"), &Value::Null);
    assert_eq!(status, 200, "{answer}");
    json!([answer["total"]["available"], answer["total"]["reserved"], answer["total"]["sold"]])
}

/// The text of `/metrics`.
fn metrics(server: &Server) -> String {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn paid_orders_are_sold_and_the_others_go_back_wherever_they_lie() {
    let service = Service::start();
    let dir = tempfile::tempdir().unwrap();
    let settings = [service.setting(), "engine.shards=2".to_owned(), "engine.max_resident_skus=1".to_owned()];
    let server = Server::start(dir.path(), &settings.each_ref().map(String::as_str));
    create(&server, "hot", true);
    create(&server, "hot too", true);
    create(&server, "stored", false);
    let places: [(&str, &[&str]); 4] =
        [("h", &["hot"]), ("c", &["stored"]), ("s", &["hot", "hot too"]), ("m", &["hot", "stored"])];
    for (place, skus) in places {
        for word in ["paid", "unpaid", "cancelled"] {
            service.tell(&format!("{place}-{word}"), vec![says(word)]);
            reserve(&server, &format!("{place}-{word}"), skus);
        }
    }
    // Its number needs encoding, and the service answers nonsense before it says something.
    let nonsense = [
        answer("404 Not Found", r#"{"status":"unpaid"}"#),
        answer("302 Found\r\nlocation: /orders/h-unpaid", ""),
        answer("200 OK", "paid"),
        answer("200 OK", r#"{"status":"perhaps"}"#),
        answer("200 OK", &format!(r#"{{"status":"unpaid","{}":1}}"#, "x".repeat(70_000))),
        answer("503 Service Unavailable", ""),
    ];
    let script = nonsense.into_iter().map(Some).chain([says("paid")]).collect();
    service.tell("a%2Fb%20%C3%BC", script);
    reserve(&server, "a/b ü", &["hot"]);

    for (place, _) in places {
        until_status(&server, &format!("{place}-paid"), "confirmed");
        for word in ["unpaid", "cancelled"] {
            until_status(&server, &format!("{place}-{word}"), "expired");
        }
    }
    until_status(&server, "a%2Fb%20%C3%BC", "confirmed");
    assert_eq!(service.asked("a%2Fb%20%C3%BC"), 7);
    until(|| levels(&server, "hot") == json!([96, 0, 4]));
    until(|| levels(&server, "hot%20too") == json!([99, 0, 1]));
    until(|| levels(&server, "stored") == json!([98, 0, 2]));
    let metrics = metrics(&server);
    for line in
        ["hotstock_order_check_failures_total 6", r#"hotstock_order_check_outcomes_total{outcome="paid"} 5"#]
    {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    assert_eq!(server.end(Signal::TERM), Some(0));
}

#[test]
fn a_service_that_is_away_holds_units_for_the_grace_and_no_longer() {
    // Nobody listens there any more.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let hanging = Service::start();
    hanging.tell("hangs", vec![None]);
    let dir = tempfile::tempdir().unwrap();
    for (url, order_no) in
        [(format!("orders.check_url=http://{address}/"), "away"), (hanging.setting(), "hangs")]
    {
        let data = dir.path().join(order_no);
        let grace = "orders.check_grace_seconds=2";
        let server = Server::start(&data, &[&url, grace, "orders.check_timeout_ms=300"]);
        create(&server, "hot", true);
        create(&server, "stored", false);
        let other = format!("{order_no}-stored");
        hanging.tell(&other, vec![None]);
        reserve(&server, order_no, &["hot"]);
        reserve(&server, &other, &["stored"]);
        until_status(&server, order_no, "expired");
        until_status(&server, &other, "expired");
        assert_eq!(
            (levels(&server, "hot"), levels(&server, "stored")),
            (json!([100, 0, 0]), json!([100, 0, 0]))
        );
        assert!(metrics(&server).contains(r#"hotstock_order_check_outcomes_total{outcome="released"} 2"#));
        assert_eq!(server.end(Signal::TERM), Some(0));
    }
    assert!(hanging.asked("hangs") > 1, "it is asked again after a timeout");
    hanging.let_go();
}

#[test]
fn a_server_that_is_killed_while_it_asks_asks_again() {
    let service = Service::start();
    let dir = tempfile::tempdir().unwrap();
    let settings = [service.setting(), "orders.check_timeout_ms=60000".to_owned()];
    let settings = settings.each_ref().map(String::as_str);
    let server = Server::start(dir.path(), &settings);
    create(&server, "hot", true);
    service.tell("O1", vec![None]);
    reserve(&server, "O1", &["hot"]);
    until(|| service.asked("O1") == 1);
    assert_eq!(order(&server, "O1")["status"], "reserved");
    server.end(Signal::KILL);
    service.tell("O1", vec![says("paid")]);
    let server = Server::start(dir.path(), &settings);
    until_status(&server, "O1", "confirmed");
    assert_eq!(levels(&server, "hot"), json!([99, 0, 1]));
    // An order without an answer does not keep the server from stopping.
    service.tell("O2", vec![None]);
    reserve(&server, "O2", &["hot"]);
    until(|| service.asked("O2") == 1);
    assert_eq!(server.end(Signal::TERM), Some(0));
    service.let_go();
}
