//! Asks the order service over HTTP whether an order was paid: `GET {check_url}/{order_no}`.
//!
//! Whatever is not status 200 with one of the three words is no answer: redirects are not followed, large bodies not
//! read, and nothing is guessed from a 404, which may be a service that knows the order in a moment.

use std::time::Duration;

use async_trait::async_trait;
use hotstock_engine::check::{NoAnswer, OrderCheck, Payment};
use hotstock_engine::ids::OrderNo;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::timeout;

use crate::config::Orders;
use crate::failure::Failure;
use crate::http::{self, ClientOptions, Connector, with_cause};

/// The largest answer that is read. One has some twenty bytes; a service may say more about an order.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// What is not encoded in a segment of a path: the unreserved characters of RFC 3986.
const IN_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The order service of the configuration, asked over HTTP.
pub struct HttpOrderCheck {
    client: Client<Connector, Empty<Bytes>>,
    /// The address of the service, without a slash at its end.
    url: String,
    timeout: Duration,
}

/// What the service says; other fields may be there.
#[derive(Deserialize)]
struct Said {
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Paid,
    Unpaid,
    Cancelled,
}

impl HttpOrderCheck {
    /// For the service of the configuration, if there is one.
    ///
    /// # Errors
    /// [`Failure`] when the URL is none, or the system has no certificates for https.
    pub fn new(config: &Orders) -> Result<Option<Self>, Failure> {
        if config.check_url.is_empty() {
            return Ok(None);
        }
        let url = config.check_url.expose().trim_end_matches('/').to_owned();
        let parsed: Uri =
            url.parse().map_err(|error| Failure::Usage(format!("orders.check_url: {error}")))?;
        if parsed.host().is_none_or(str::is_empty) {
            return Err(Failure::Usage("orders.check_url: names no host".to_owned()));
        }
        let timeout = Duration::from_millis(config.check_timeout_ms);
        // A question has one bound, with the way to a connection in it.
        let options = ClientOptions { connect_within: timeout, max_idle: config.check_concurrency };
        let client = http::client(&parsed, options)
            .map_err(|error| Failure::other("orders.check_url: the system's certificates", error))?;
        Ok(Some(Self { client, url, timeout }))
    }

    async fn ask(&self, order_no: &OrderNo) -> Result<Payment, String> {
        let number = utf8_percent_encode(order_no.as_str(), IN_SEGMENT);
        let request = Request::get(format!("{}/{number}", self.url))
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("hotstock/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let response = self.client.request(request).await.map_err(|error| with_cause(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("status {}", response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| format!("the answer can't be read: {error}"))?.to_bytes();
        let said: Said =
            serde_json::from_slice(&body).map_err(|error| format!("the answer is none: {error}"))?;
        Ok(match said.status {
            Status::Paid => Payment::Paid,
            Status::Unpaid => Payment::Unpaid,
            Status::Cancelled => Payment::Cancelled,
        })
    }
}

#[async_trait]
impl OrderCheck for HttpOrderCheck {
    async fn payment(&self, order_no: &OrderNo) -> Result<Payment, NoAnswer> {
        match timeout(self.timeout, self.ask(order_no)).await {
            Ok(answer) => answer.map_err(NoAnswer),
            Err(_) => Err(NoAnswer(format!("nothing within {:?}", self.timeout))),
        }
    }
}
