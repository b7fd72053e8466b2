//! A real fsync before any answer, seen from outside: the server runs under strace, and in its system calls every
//! answer to a reservation of a hot SKU comes after an fdatasync of the journal that began after the request had
//! arrived. (The SQL store syncs files of its own, which are not counted.)

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::json;

use support::{Client, Server, hotstock};

/// What the trace says, in the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// A reservation arrived.
    Request,
    /// An fdatasync of a file of the journal ended well.
    Synced,
    /// A 201 left.
    Created,
}

fn traced_server(data_dir: &Path, trace: &Path) -> Server {
    let mut command = Command::new("strace");
    command
        .args([
            "-f",
            "-y",
            "-s",
            "64",
            "-e",
            "trace=fdatasync,fsync,recvfrom,sendto,read,write,writev,readv",
            "-o",
        ])
        .arg(trace)
        .arg(hotstock())
        // No zeros written ahead: their syncs in the background would be taken for those of commits.
        .args(["serve", "--set", "journal.zeros_bytes=0", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data_dir);
    Server::spawn(command)
}

/// The server is strace's child: a SIGTERM to strace is not passed on, so it is asked through its own pid.
fn stop(server: Server, trace: &Path) {
    let text = std::fs::read_to_string(trace).unwrap();
    let pid: i32 = text.split_whitespace().next().unwrap().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    assert_eq!(server.end_after_child(), Some(0));
}

fn events(trace: &Path) -> Vec<Seen> {
    let text = std::fs::read_to_string(trace).unwrap();
    // Threads whose sync of a journal file is under way: "<unfinished ...>" names the file, "resumed" the end.
    let mut syncing: Vec<&str> = Vec::new();
    let mut seen = Vec::new();
    for line in text.lines() {
        let Some((pid, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        let of_journal = call.starts_with("fdatasync(") && call.contains("/journal/");
        if of_journal && call.contains("unfinished") {
            syncing.push(pid);
        } else if (of_journal && call.ends_with("= 0"))
            || (call.starts_with("<... fdatasync resumed") && call.ends_with("= 0") && syncing.contains(&pid))
        {
            syncing.retain(|other| *other != pid);
            seen.push(Seen::Synced);
        } else if call.contains("\"POST /v1/reservations HTTP") {
            seen.push(Seen::Request);
        } else if call.contains("\"HTTP/1.1 201") {
            seen.push(Seen::Created);
        }
    }
    seen
}

fn reserve(n: usize) -> String {
    json!({ "order_no": format!("o{n}"), "lines": [{ "sku_id": "a", "quantity": 1 }] }).to_string()
}

#[test]
fn every_answer_waits_for_its_own_fsync() {
    const ORDERS: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let server = traced_server(&dir.path().join("data"), &trace);
    let mut client = Client::default();
    let stock = json!({ "sku_id": "a", "quantity": 1000, "hot": true }).to_string();
    assert_eq!(client.call(&server.address, "POST", "/v1/stock", &stock).unwrap().0, 201);
    for n in 0..ORDERS {
        assert_eq!(client.call(&server.address, "POST", "/v1/reservations", &reserve(n)).unwrap().0, 201);
    }
    stop(server, &trace);

    let seen = events(&trace);
    let requests = seen.iter().filter(|event| **event == Seen::Request).count();
    assert_eq!(requests, ORDERS, "the trace shows every request: {seen:?}");
    let mut synced_since_request = 0;
    let mut under_way = false;
    for event in &seen {
        match event {
            Seen::Request => (synced_since_request, under_way) = (0, true),
            Seen::Synced => synced_since_request += 1,
            Seen::Created if under_way => {
                assert!(synced_since_request >= 1, "an answer left before its fsync: {seen:?}");
                under_way = false;
            }
            Seen::Created => {}
        }
    }
}

#[test]
fn one_fsync_serves_many_callers() {
    const CALLERS: usize = 24;
    const ORDERS: usize = 20;
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let server = traced_server(&dir.path().join("data"), &trace);
    let stock = json!({ "sku_id": "a", "quantity": 1000, "hot": true }).to_string();
    assert_eq!(Client::default().call(&server.address, "POST", "/v1/stock", &stock).unwrap().0, 201);
    let before = events(&trace).iter().filter(|event| **event == Seen::Synced).count();
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let address = &server.address;
            scope.spawn(move || {
                let mut client = Client::default();
                for n in 0..ORDERS {
                    let body = reserve(caller * ORDERS + n);
                    assert_eq!(client.call(address, "POST", "/v1/reservations", &body).unwrap().0, 201);
                }
            });
        }
    });
    stop(server, &trace);
    let seen = events(&trace);
    let syncs = seen.iter().filter(|event| **event == Seen::Synced).count() - before;
    // Each caller's orders come one after the other, so there are at least as many syncs as one caller has orders.
    assert!((ORDERS..CALLERS * ORDERS / 2).contains(&syncs), "{syncs} syncs for {} orders", CALLERS * ORDERS);
}
