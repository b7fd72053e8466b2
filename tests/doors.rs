//! What somebody may do who is not an operator, and what of it is told.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use support::{Server, hotstock, until};

/// The status of a request with these headers.
fn asked(address: &str, line: &str, headers: &[&str]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = headers.iter().map(|header| format!("{header}\r\n")).collect::<String>();
    write!(stream, "{line} HTTP/1.1\r\n{head}connection: close\r\ncontent-length: 0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn a_web_page_in_a_browser_on_this_machine_is_no_operator() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let checkpoint = "POST /v1/admin/checkpoint";
    assert_eq!(asked(&server.address, checkpoint, &["host: localhost"]), "202");
    for headers in [
        &["host: shop.example"][..],
        &["host: localhost", "origin: http://shop.example"],
        &["host: localhost", "sec-fetch-site: cross-site"],
        &["host: localhost", "content-type: text/plain"],
    ] {
        assert_eq!(asked(&server.address, checkpoint, headers), "403", "{headers:?}");
    }
    let log = server.log();
    assert!(log.contains("an operator's call was refused") && log.contains("/v1/admin/checkpoint"), "{log}");
}

#[test]
fn listening_beyond_this_machine_without_a_token_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let hash = format!("admin.token_sha256={}", "0f".repeat(32));
    for (listen, settings, is_said) in
        [("0.0.0.0:0", &[][..], true), ("0.0.0.0:0", &[&*hash], false), ("127.0.0.1:0", &[], false)]
    {
        let mut command = Command::new(hotstock());
        command.args(["serve", "--listen", listen, "--data-dir"]).arg(dir.path().join("data"));
        for setting in settings {
            command.args(["--set", setting]);
        }
        let server = Server::spawn(command);
        let said = || server.log().contains("whoever reaches this address can order");
        if is_said {
            until("it is said", said);
        }
        assert_eq!(said(), is_said, "{listen}, {settings:?}");
    }
}
