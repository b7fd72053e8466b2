//! The HTTP client of whatever asks another server: the operators' commands ([`crate::operator`]) and the order check
//! ([`crate::order_check`]). hyper's, over http and https, with rustls and the certificates that the system trusts.
//!
//! It adds one thing to hyper's: a bound on the whole way to a connection. hyper bounds TCP alone, and a server that
//! takes a connection and says nothing would otherwise hold a TLS handshake for ever.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::body::{Body, Bytes};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;

/// How long a connection may lie idle: less than servers commonly keep one, so that no request meets one that is just
/// being closed.
const IDLE: Duration = Duration::from_secs(15);

/// How a client is set up.
#[derive(Debug, Clone, Copy)]
pub struct ClientOptions {
    /// The time for a connection: looking up the name, TCP, and TLS.
    pub connect_within: Duration,
    /// Connections that are kept while nothing is asked over them.
    pub max_idle: usize,
}

/// A client for one server, whose address is http or https.
///
/// A request goes out once. When a kept connection turns out to be closed before anything of a request was written,
/// hyper opens another one for it; a request that may have arrived is never sent again.
///
/// # Errors
/// For https, when the system has no certificates.
pub fn client<B>(server: &Uri, options: ClientOptions) -> io::Result<Client<Connector, B>>
where
    B: Body<Data = Bytes> + Send,
{
    let connector = Connector::new(server, options.connect_within)?;
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(options.max_idle)
        .build(connector))
}

/// Makes connections, each within a time.
#[derive(Clone)]
pub struct Connector {
    http: HttpConnector,
    /// Only for a server whose address is https: a machine without certificates can still ask over http.
    https: Option<HttpsConnector<HttpConnector>>,
    within: Duration,
}

impl Connector {
    fn new(server: &Uri, within: Duration) -> io::Result<Self> {
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        http.enforce_http(false);
        let https = match server.scheme_str() {
            Some("https") => {
                let builder = HttpsConnectorBuilder::new().with_native_roots()?;
                Some(builder.https_only().enable_http1().wrap_connector(http.clone()))
            }
            _ => None,
        };
        Ok(Self { http, https, within })
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // hyper's connector has no queue of its own: it is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let within = self.within;
        let connecting: Self::Future = match &mut self.https {
            Some(https) => Box::pin(https.call(server)),
            None => {
                let connecting = self.http.call(server);
                Box::pin(async { Ok(MaybeHttpsStream::Http(connecting.await?)) })
            }
        };
        Box::pin(async move {
            let late = |_| BoxError::from(format!("no connection within {} s", within.as_secs_f64()));
            timeout(within, connecting).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
        })
    }
}

/// An error with what is behind it: the client's own says only that it could not connect.
pub fn with_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
