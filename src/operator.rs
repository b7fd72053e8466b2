//! The operators' side of HTTP: what the commands that speak to a running server send, and how they tell what came of
//! it.
//!
//! A command asks once. When it can't connect, or an answer does not come, it says so and ends; the operator decides
//! whether to ask again, which every request of the contract allows.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use hotstock_tools::wire::{Problem, TOKEN_VARIABLE};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::client::legacy::Client;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::failure::Failure;
use crate::http::{self, ClientOptions, Connector, with_cause};

/// How long a connection may take to be made. An operator is told within two seconds that there is none; the rest is
/// for the program's own start. TCP repeats its first packet after one second, so a single lost one is survived.
const CONNECT_WITHIN: Duration = Duration::from_millis(1_500);

/// How long an answer may take. Above the server's own limit (`server.request_timeout_ms`, 10 s), so that its answer
/// comes first.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// The largest answer that is read. A page of reconcile with a difference in every SKU stays well below.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Connections that are kept for the next request: as many as an import has requests under way.
const MAX_IDLE: usize = crate::cmd::import::AT_A_TIME;

/// The address of a server, such as `https://stock.example:8443`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl(Uri);

impl FromStr for ServerUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err("must begin with http:// or https://".to_owned());
        }
        // What stands behind the host must be a port, and nothing else may be there.
        let (host, port) = (uri.host().unwrap_or_default(), uri.port().map(|port| format!(":{port}")));
        let plain = format!("{host}{}", port.unwrap_or_default());
        let is_plain = uri.authority().is_some_and(|authority| authority.as_str() == plain);
        if host.is_empty() || !is_plain || uri.path() != "/" || uri.query().is_some() {
            return Err("must be http://HOST, http://HOST:PORT, or the same with https".to_owned());
        }
        Ok(Self(uri))
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_string().trim_end_matches('/'))
    }
}

/// Asks one server, with the operators' token if there is one.
pub struct Operator {
    client: Client<Connector, Full<Bytes>>,
    server: ServerUrl,
    token: Option<HeaderValue>,
    answer_within: Duration,
}

impl Operator {
    /// For a server. The token is read from [`TOKEN_VARIABLE`].
    ///
    /// # Errors
    /// [`Failure`] when the token is no text, or the system has no certificates for https.
    pub fn new(server: &ServerUrl) -> Result<Self, Failure> {
        let options = ClientOptions { connect_within: CONNECT_WITHIN, max_idle: MAX_IDLE };
        let client = http::client(&server.0, options)
            .map_err(|error| Failure::other("reading the certificates that the system trusts", error))?;
        let token = match std::env::var(TOKEN_VARIABLE) {
            Ok(token) => {
                let header = HeaderValue::try_from(format!("Bearer {token}"));
                let mut header =
                    header.map_err(|_| Failure::Usage(format!("{TOKEN_VARIABLE} has no token in it")))?;
                header.set_sensitive(true);
                Some(header)
            }
            Err(_) => None,
        };
        Ok(Self { client, server: server.clone(), token, answer_within: ANSWER_WITHIN })
    }

    /// Sends one request, once.
    ///
    /// # Errors
    /// [`Failure`] when there is no connection, which means that nothing happened, or no answer, which means that
    /// nobody knows whether something did.
    pub async fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        let body = serde_json::to_vec(body).expect("our requests are plain structs, which are always JSON");
        let mut request = Request::post(format!("{}{path}", self.server))
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("hotstock/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Full::new(Bytes::from(body)));
        let request = request.map_err(|error| Failure::other(path, error))?;
        let unknown = |problem: String| {
            Failure::Other(format!(
                "{} did not answer POST {path}: {problem}. Whether it was carried out is unknown; it can be repeated",
                self.server
            ))
        };
        match timeout(self.answer_within, self.answer(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(NoAnswer::NotConnected(problem))) => {
                Err(Failure::Other(format!("can't connect to {}: {problem}", self.server)))
            }
            Ok(Err(NoAnswer::Unknown(problem))) => Err(unknown(problem)),
            Err(_) => Err(unknown(format!("nothing within {} s", self.answer_within.as_secs()))),
        }
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Answer, NoAnswer> {
        let response = self.client.request(request).await.map_err(|error| match error.is_connect() {
            true => NoAnswer::NotConnected(with_cause(&error)),
            false => NoAnswer::Unknown(with_cause(&error)),
        })?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| NoAnswer::Unknown(format!("the answer can't be read: {error}")))?;
        Ok(Answer { status, body: body.to_bytes() })
    }
}

/// Why there is no answer.
enum NoAnswer {
    /// Nothing was sent, so nothing happened.
    NotConnected(String),
    /// The request may have arrived.
    Unknown(String),
}

/// What a server answered.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    body: Bytes,
}

impl Answer {
    /// The body, read as JSON.
    ///
    /// # Errors
    /// [`Failure`] when it is something else.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let body: String = String::from_utf8_lossy(&self.body).chars().take(300).collect();
            Failure::Other(format!("an answer that can't be understood: {error}: {body}"))
        })
    }

    /// What a problem document says to people.
    ///
    /// # Errors
    /// [`Failure`] when the body is none.
    pub fn detail(&self) -> Result<String, Failure> {
        Ok(self.json::<Problem>()?.detail)
    }

    /// As a failure: what was tried, and what was answered to it.
    #[must_use]
    pub fn unexpected(&self, tried: &str) -> Failure {
        let status = self.status;
        let said = match self.json::<Problem>() {
            Ok(problem) => format!("{status} {}: {}", problem.code, problem.detail),
            Err(_) => format!("{status} {}", String::from_utf8_lossy(&self.body)),
        };
        match status {
            401 | 403 => {
                Failure::Other(format!("{tried}: {said} ({TOKEN_VARIABLE} is where the token belongs)"))
            }
            _ => Failure::Other(format!("{tried}: {said}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_a_host_with_or_without_a_port() {
        let of = |url: &str| url.parse::<ServerUrl>().map(|url| url.to_string());
        for right in ["http://127.0.0.1:8080", "https://stock.example", "http://[::1]:9", "https://[::1]"] {
            assert_eq!(of(right).unwrap(), right);
        }
        assert_eq!(of("http://stock.example/").unwrap(), "http://stock.example");
        for wrong in [
            "ftp://a",
            "a:1",
            "http://",
            "http://a/b",
            "https://a?b",
            "http://user@a",
            "http://a:",
            "http://a:70000",
            "http://a:b",
            "/",
        ] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    /// A server that takes a request and never says anything, as one does that stands still.
    #[tokio::test]
    async fn an_answer_that_does_not_come_is_an_unknown_outcome() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: ServerUrl = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let operator = Operator { answer_within: Duration::from_millis(200), ..Operator::new(&url).unwrap() };
        let failure = operator.post("/v1/stock", &()).await.err().unwrap().to_string();
        assert!(failure.contains("nothing within") && failure.contains("is unknown"), "{failure}");
    }
}
