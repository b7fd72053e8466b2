//! The HTTP client of replay, demo and bench: one keep-alive connection, one request at a time.
//!
//! Written by hand, over `httparse`, because the load generator shares its cores with the server that it measures: no
//! task per connection, no channel, no allocation per request. It was measured beside hyper's on two cores, against a
//! server that answers every reservation with the same bytes: with 64 connections a request cost 9 to 12 microseconds
//! of a core in here, 16 to 17 over hyper's bare connection and 22 to 28 over its client with a pool; with 256
//! connections 11, 22 and 33. Generator and server together take some 50 for a request, so hyper's client would make
//! every figure a fifth to a third worse, and say nothing of the server by that.
//!
//! It speaks the part of HTTP/1.1 that our server uses (`Content-Length` bodies), and says so when it meets another
//! part. Whoever asks without measuring, or over https, uses hyper's client, as the operators' commands do.

use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer that takes longer is an unknown outcome. Above the server's own timeout, so that its answer comes first.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// A connection that takes longer to be made is given up. TCP repeats its first packet after one second, so a single
/// lost one is survived.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest answer that is read: a page of 1,000 SKUs or a batch of 10,000 operations stays well below.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Header lines of an answer; ours has five, a proxy adds some.
const MAX_ANSWER_HEADERS: usize = 64;

/// Times that [`Connection::call_until_known`] asks: with the waits between them about half a minute, more than a
/// restart takes.
const MAX_TRIES: u32 = 120;

/// The wait between two of those tries; a `Retry-After` may make it longer, up to [`MAX_RETRY_WAIT`].
const RETRY_WAIT: Duration = Duration::from_millis(250);

/// A server that asks for more patience than this is asked again all the same.
const MAX_RETRY_WAIT: Duration = Duration::from_secs(2);

/// A server: host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its host and port: `host:port`.
    pub authority: String,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let authority = url.strip_prefix("http://").ok_or("must begin with http://")?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.is_empty() || authority.contains(['/', '?', '#', '@']) {
            return Err("must be http://HOST or http://HOST:PORT".to_owned());
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(host, port)| {
            port.bytes().all(|b| b.is_ascii_digit())
                && !port.is_empty()
                && (!host.contains(':') || host.ends_with(']'))
        });
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Self { authority })
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { authority: address.to_string() }
    }
}

/// A call without an answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nothing was sent: nothing happened.
    #[error("can't connect to {0}: {1}")]
    NotConnected(Target, io::Error),
    /// The request may have arrived: its outcome is unknown.
    #[error("the connection to {0} was lost: {1}")]
    Lost(Target, io::Error),
    /// The answer can't be understood: the outcome is unknown.
    #[error("{0} gave an answer that can't be understood: {1}")]
    Unreadable(Target, String),
    /// Every try ended with an unknown outcome or a refusal to serve.
    #[error("{0} {1} at {2} was not answered in {MAX_TRIES} tries; the last: {3}")]
    GivenUp(&'static str, String, Target, String),
}

/// One connection to a server; connects when it is first used, and again after it was lost.
pub struct Connection {
    target: Target,
    token: Option<String>,
    stream: Option<TcpStream>,
    request: Vec<u8>,
    answer: Vec<u8>,
    body_at: std::ops::Range<usize>,
    retry_after: Option<Duration>,
}

/// Without what was sent, which may hold a token.
impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("target", &self.target).finish_non_exhaustive()
    }
}

/// What the head of an answer says.
struct Head {
    status: u16,
    body_at: usize,
    body_bytes: usize,
    retry_after: Option<Duration>,
    close: bool,
}

impl Connection {
    /// A connection that is made with the first call.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            token: None,
            stream: None,
            request: Vec::new(),
            answer: Vec::new(),
            body_at: 0..0,
            retry_after: None,
        }
    }

    /// Sends the operators' token with every request.
    #[must_use]
    pub fn with_token(self, token: Option<String>) -> Self {
        Self { token, ..self }
    }

    /// Sends a request and reads its answer; the status is returned, the body is in [`Self::body`].
    ///
    /// # Errors
    /// [`CallError`], and the connection is made anew by the next call.
    pub async fn call(&mut self, method: &'static str, path: &str, body: &[u8]) -> Result<u16, CallError> {
        self.body_at = 0..0;
        // Taken out for the time of the call: when the caller drops this future halfway, the rest of the answer
        // must not be taken for the answer of the next request.
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let connecting = TcpStream::connect(&self.target.authority);
                let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
                let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
                stream.map_err(|error| CallError::NotConnected(self.target.clone(), error))?
            }
        };
        let exchange = self.exchange(stream, method, path, body);
        match tokio::time::timeout(CALL_TIMEOUT, exchange).await {
            Ok(answered) => answered,
            Err(_) => Err(CallError::Lost(self.target.clone(), io::ErrorKind::TimedOut.into())),
        }
    }

    async fn exchange(
        &mut self,
        mut stream: TcpStream,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<u16, CallError> {
        use std::io::Write;
        let lost = |target: &Target, error| CallError::Lost(target.clone(), error);
        self.request.clear();
        let authority = &self.target.authority;
        let length = body.len();
        write!(self.request, "{method} {path} HTTP/1.1\r\nhost: {authority}\r\n")
            .and_then(|()| match &self.token {
                Some(token) => write!(self.request, "authorization: Bearer {token}\r\n"),
                None => Ok(()),
            })
            .and_then(|()| {
                write!(self.request, "content-type: application/json\r\ncontent-length: {length}\r\n\r\n")
            })
            .expect("writing to a Vec can't fail");
        self.request.extend_from_slice(body);
        stream.write_all(&self.request).await.map_err(|error| lost(&self.target, error))?;

        self.answer.clear();
        let head = loop {
            let read = stream.read_buf(&mut self.answer).await.map_err(|error| lost(&self.target, error))?;
            if read == 0 {
                return Err(lost(&self.target, io::ErrorKind::UnexpectedEof.into()));
            }
            match parse_head(&self.answer) {
                Ok(Some(head)) => break head,
                Ok(None) if self.answer.len() < MAX_ANSWER_BYTES => {}
                Ok(None) => {
                    return Err(CallError::Unreadable(self.target.clone(), "its head has no end".into()));
                }
                Err(problem) => return Err(CallError::Unreadable(self.target.clone(), problem)),
            }
        };
        let end = head.body_at + head.body_bytes;
        self.answer.reserve(end.saturating_sub(self.answer.len()));
        while self.answer.len() < end {
            let read = stream.read_buf(&mut self.answer).await.map_err(|error| lost(&self.target, error))?;
            if read == 0 {
                return Err(lost(&self.target, io::ErrorKind::UnexpectedEof.into()));
            }
        }
        self.body_at = head.body_at..end;
        self.retry_after = head.retry_after;
        self.stream = (!head.close).then_some(stream);
        Ok(head.status)
    }

    /// As [`Self::call`], but repeats the request while its outcome is unknown or the server is too busy. Every request
    /// of the contract may be repeated, so this ends with the one true answer.
    ///
    /// # Errors
    /// [`CallError::GivenUp`] after many tries.
    pub async fn call_until_known(
        &mut self,
        method: &'static str,
        path: &str,
        body: &[u8],
    ) -> Result<u16, CallError> {
        let mut last = String::new();
        for _ in 0..MAX_TRIES {
            let mut wait = RETRY_WAIT;
            match self.call(method, path, body).await {
                Ok(status @ (429 | 500..)) => {
                    last = format!("{status} {}", String::from_utf8_lossy(self.body()));
                    wait = self.retry_after.unwrap_or(wait).min(MAX_RETRY_WAIT);
                }
                Ok(status) => return Ok(status),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(wait).await;
        }
        Err(CallError::GivenUp(method, path.to_owned(), self.target.clone(), last))
    }

    /// The body of the last answer.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.answer[self.body_at.clone()]
    }

    /// The body of the last answer, read as JSON.
    ///
    /// # Errors
    /// [`CallError::Unreadable`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        serde_json::from_slice(self.body()).map_err(|error| {
            let body: String = String::from_utf8_lossy(self.body()).chars().take(300).collect();
            CallError::Unreadable(self.target.clone(), format!("{error}: {body}"))
        })
    }
}

/// Reads the head of an answer, if it is there in full.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_ANSWER_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let body_at = match parsed.parse(bytes).map_err(|error| error.to_string())? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let status = parsed.code.unwrap_or(0);
    let mut head = Head { status, body_at, body_bytes: 0, retry_after: None, close: false };
    for header in parsed.headers.iter() {
        let value = || std::str::from_utf8(header.value).unwrap_or_default().trim();
        match header.name {
            name if name.eq_ignore_ascii_case("content-length") => {
                head.body_bytes = value().parse().map_err(|_| format!("content-length {:?}", value()))?;
            }
            name if name.eq_ignore_ascii_case("retry-after") => {
                head.retry_after = value().parse().ok().map(Duration::from_secs);
            }
            name if name.eq_ignore_ascii_case("connection") => {
                head.close = value().eq_ignore_ascii_case("close");
            }
            name if name.eq_ignore_ascii_case("transfer-encoding") => {
                return Err(format!("transfer-encoding {}: this client reads only content-length", value()));
            }
            _ => {}
        }
    }
    if head.body_bytes > MAX_ANSWER_BYTES {
        return Err(format!("a body of {} bytes", head.body_bytes));
    }
    Ok(Some(head))
}

/// An id as one segment of a path.
#[must_use]
pub fn segment(id: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
    const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    // A lone dot would be taken for "this folder" on the way.
    match id {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => percent_encoding::utf8_percent_encode(id, UNRESERVED).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn urls_are_hosts_with_ports() {
        let of = |url: &str| url.parse::<Target>().map(|target| target.authority);
        assert_eq!(of("http://127.0.0.1:8080").unwrap(), "127.0.0.1:8080");
        assert_eq!(of("http://stock.example/").unwrap(), "stock.example:80");
        assert_eq!(of("http://[::1]:9").unwrap(), "[::1]:9");
        assert_eq!(of("http://[::1]").unwrap(), "[::1]:80");
        for wrong in ["https://a", "a:1", "http://", "http://a/b"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    /// Answers one connection after the other with the given bytes, once it has seen the end of a request without body.
    async fn server(answers: Vec<&'static str>) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().into();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut seen = Vec::new();
                while !seen.ends_with(b"\r\n\r\n") {
                    assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        target
    }

    #[tokio::test]
    async fn an_answer_is_read_and_a_lost_one_is_told() {
        let target = server(vec![
            "HTTP/1.1 201 Created\r\nContent-Length: 7\r\nconnection: close\r\n\r\n{\"a\":5}",
            "HTTP/1.1 200 OK\r\ncontent-length: 70\r\n\r\n{\"a\":5}",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "nonsense\r\n\r\n",
        ])
        .await;
        let mut connection = Connection::new(target);
        assert_eq!(connection.call("GET", "/", b"").await.unwrap(), 201);
        assert_eq!(connection.json::<serde_json::Value>().unwrap()["a"], 5);
        assert!(matches!(connection.call("GET", "/", b"").await, Err(CallError::Lost(..))));
        assert_eq!(connection.body(), b"");
        assert!(matches!(connection.call("GET", "/", b"").await, Err(CallError::Unreadable(..))));
        assert!(matches!(connection.call("GET", "/", b"").await, Err(CallError::Unreadable(..))));
    }

    #[tokio::test]
    async fn a_request_is_repeated_until_its_outcome_is_known() {
        let target = server(vec![
            "HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
            "HTTP/1.1 409 Conflict\r\ncontent-length: 2\r\n\r\n{}",
        ])
        .await;
        let mut connection = Connection::new(target);
        assert_eq!(connection.call_until_known("POST", "/", b"").await.unwrap(), 409);
    }

    #[tokio::test]
    async fn no_server_is_told_apart_from_a_lost_answer() {
        // Bound, so that no other test gets the port, and not listening.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let target = socket.local_addr().unwrap().into();
        let called = Connection::new(target).call("GET", "/", b"").await;
        assert!(matches!(called, Err(CallError::NotConnected(..))));
    }

    #[tokio::test]
    async fn a_server_that_accepts_no_connection_is_given_up() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        // Until the queue of the socket is full: from then on the kernel drops who knocks.
        let mut queued = Vec::new();
        let knock = || tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address));
        while let Ok(stream) = knock().await {
            queued.push(stream.unwrap());
        }
        let called = Connection::new(address.into()).call("GET", "/", b"").await;
        assert!(
            matches!(called, Err(CallError::NotConnected(_, error)) if error.kind() == io::ErrorKind::TimedOut)
        );
    }

    #[test]
    fn ids_become_one_segment() {
        assert_eq!(segment("a/b c?ü"), "a%2Fb%20c%3F%C3%BC");
        assert_eq!(segment("536365_a-1.x~"), "536365_a-1.x~");
        assert_eq!(segment(".."), "%2E%2E");
    }
}
