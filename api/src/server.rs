//! The server: a listener, its connections, and how they end.
//!
//! Tasks: [`serve`] (or the one task of a [`Server`]) accepts; each connection is a task in its set, ended by its peer,
//! by a timeout, or by the end of the server. An error of a connection ends that connection only.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hotstock_engine::engine::Engine;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tower_service::Service;

use crate::app::App;
use crate::auth::{Peer, may_ask_for_operator};
use crate::limits::{ACCEPT_PAUSE, Options};
use crate::routes;

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Connections whose request did not end within [`Options::drain_timeout`]; the outcome of those requests is
    /// unknown to their callers.
    pub cut_off: usize,
}

/// Serves until `shutdown` is done, then: readiness off, no more connections, requests under way end, return. The
/// engine goes on; stop it after this has returned.
pub async fn serve(
    listener: TcpListener,
    engine: Engine,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> Stopped {
    let app = App::new(engine, options);
    let router = routes::router(&app);
    let http = http(&app.options);
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut stop_accepting = pin!(async {
        shutdown.await;
        app.stopping.store(true, Ordering::Relaxed);
        tokio::time::sleep(app.options.unready_for).await;
    });
    loop {
        let has_room = connections.len() < app.options.max_connections;
        tokio::select! {
            () = &mut stop_accepting => break,
            Some(ended) = connections.join_next() => note(ended),
            accepted = listener.accept(), if has_room => match accepted {
                Ok((stream, peer)) => {
                    let (app, router, http) = (Arc::clone(&app), router.clone(), http.clone());
                    connections.spawn(connection(stream, Peer(peer), app, router, http, stopping.clone()));
                }
                Err(error) => accept_failed(&error).await,
            },
        }
    }
    drop(listener);
    // The connections hold receivers; with none left there is nobody to tell.
    let _ = stop.send(true);
    let drained = async {
        while let Some(ended) = connections.join_next().await {
            note(ended);
        }
    };
    let in_time = tokio::time::timeout(app.options.drain_timeout, drained).await.is_ok();
    let cut_off = if in_time { 0 } else { connections.len() };
    if cut_off > 0 {
        tracing::warn!(cut_off, "requests did not end in time, their connections are cut");
    }
    connections.shutdown().await;
    Stopped { cut_off }
}

fn http(options: &Options) -> http1::Builder {
    let mut http = http1::Builder::new();
    // hyper itself refuses what is far too large, without a problem body; what is somewhat too large gets one from us.
    http.max_header_size(options.max_header_bytes.saturating_mul(4))
        .header_read_timeout(options.header_read_timeout)
        // Who has sent its request and closes its half waits for the answer, and what was decided is told.
        .half_close(true)
        .timer(TokioTimer::new());
    http
}

async fn connection(
    stream: TcpStream,
    peer: Peer,
    app: Arc<App>,
    router: Router,
    http: http1::Builder,
    mut stopping: watch::Receiver<bool>,
) {
    let _open = app.metrics.connection();
    if let Err(error) = prepare(&stream, &app.options) {
        tracing::debug!(%error, "a connection ended before it began");
        return;
    }
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        // Only these look at it, and the first extension of a request costs an allocation.
        if may_ask_for_operator(request.uri().path()) {
            request.extensions_mut().insert(peer);
        }
        // A clone of the router is a clone of an Arc.
        router.clone().call(request.map(Body::new))
    });
    let mut served = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        biased;
        ended = &mut served => ended,
        () = stops(&mut stopping) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}

async fn stops(stopping: &mut watch::Receiver<bool>) {
    // Without a sender the server is gone, which is a stop as well.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

fn prepare(stream: &TcpStream, options: &Options) -> io::Result<()> {
    // Answers are one small write each; waiting for more would only delay them.
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    SockRef::from(stream).set_tcp_user_timeout(Some(options.write_timeout))?;
    Ok(())
}

fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection panicked");
    }
}

/// A connection that its peer gave up before it was accepted is no reason to pause; anything else (no file descriptors)
/// is.
async fn accept_failed(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::error!(%error, "can't accept connections");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// A server that runs in this process.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Stopped>,
}

impl Server {
    /// Starts serving in a task of its own.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn start(listener: TcpListener, engine: Engine, options: Options) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        // A dropped handle stops the server as well: nobody could do it later.
        let shutdown = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(listener, engine, options, shutdown));
        Ok(Self { address, stop, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for it to end, which it does by itself only when its task panics. Not to be awaited again, nor
    /// [`Server::stop`] called, once it has returned.
    ///
    /// # Errors
    /// When its task panicked.
    pub async fn ended(&mut self) -> Result<Stopped, tokio::task::JoinError> {
        (&mut self.task).await
    }

    /// Stops it as [`serve`] does and waits for its end.
    ///
    /// # Errors
    /// When its task panicked.
    pub async fn stop(self) -> Result<Stopped, tokio::task::JoinError> {
        // It may have ended by itself, then there is nobody to tell.
        let _ = self.stop.send(());
        self.task.await
    }
}
