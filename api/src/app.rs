//! What every request has at hand: the engine, the bounds, the counters; and one request after its reading.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, Query, RawPathParams, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use hotstock_engine::command::{Action, Command, InvalidField};
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::TraceId;
use hotstock_engine::outcome::Answer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use crate::auth::{self, Peer};
use crate::body::{self, ReadBody};
use crate::codes::Code;
use crate::limits::{MAX_STRANGERS_TOLD, Options};
use crate::metrics::Metrics;
use crate::problem::Problem;
use crate::routes::{RouteInfo, Takes};
use crate::trace;
use crate::wire::answers::AnyBody;
use crate::wire::orders::Defaults;

/// What every request has at hand.
pub struct App {
    /// The engine.
    pub engine: Engine,
    /// The bounds.
    pub options: Options,
    /// What requests leave out.
    pub defaults: Defaults,
    /// The counters.
    pub metrics: Metrics,
    /// Set when the server begins to stop.
    pub stopping: AtomicBool,
    body_room: Arc<Semaphore>,
    /// Those who asked what only operators may.
    strangers: Told,
}

impl App {
    /// The state of a server over `engine`.
    #[must_use]
    pub fn new(engine: Engine, options: Options) -> Arc<Self> {
        // The largest body must fit when nothing else is under way.
        let largest_kib = options.max_body_bytes.max(options.max_batch_body_bytes).div_ceil(1024);
        let room = largest_kib.max(options.max_body_kib_in_flight as usize).min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            metrics: Metrics::new(engine.clone(), options.mirror.clone()),
            defaults: Defaults {
                warehouse_id: options.default_warehouse_id,
                ttl_seconds: options.default_ttl_seconds,
                prefer: options.prefer_warehouses.clone(),
            },
            stopping: AtomicBool::new(false),
            body_room: Arc::new(Semaphore::new(room)),
            strangers: Told::new(),
            engine,
            options,
        })
    }

    /// Whether the server has begun to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        // Nothing else is published with it.
        self.stopping.load(Ordering::Relaxed)
    }

    /// Counts, logs and writes the answer to a request.
    pub fn finish(
        &self,
        route: &'static RouteInfo,
        trace: Option<TraceId>,
        started: Instant,
        answer: Result<Reply, Problem>,
    ) -> Response<Body> {
        let response = match answer {
            Ok(reply) => reply.response(),
            Err(problem) => {
                let trace = trace.unwrap_or_else(trace::fresh);
                self.metrics.problem(problem.code);
                self.log(route, &problem, trace);
                problem.response(trace)
            }
        };
        self.metrics.request(route.route, response.status().as_u16(), started.elapsed());
        response
    }
}

impl App {
    /// Refusals are the ordinary business of a flash sale, so only an unknown outcome is worth a line by default, and
    /// who asks what only operators may; of those, who may be many, a few a second.
    fn log(&self, route: &RouteInfo, problem: &Problem, trace: TraceId) {
        let (code, path, detail) = (problem.code.info().name, route.path, &*problem.detail);
        if problem.code.info().outcome_unknown {
            tracing::warn!(code, path, %trace, detail, "outcome unknown to the caller");
        } else if matches!(problem.code, Code::Unauthorized | Code::Forbidden) && self.strangers.may_be_told()
        {
            tracing::warn!(code, path, %trace, detail, "an operator's call was refused");
        } else {
            tracing::debug!(code, path, %trace, detail, "refused");
        }
    }
}

/// Lines of which there may be very many: [`MAX_STRANGERS_TOLD`] a second are told. (What is counted a moment late as
/// one second ends makes it a few more.)
#[derive(Debug)]
struct Told {
    begun: Instant,
    second: AtomicU64,
    lines: AtomicU64,
}

impl Told {
    fn new() -> Self {
        Self { begun: Instant::now(), second: AtomicU64::new(0), lines: AtomicU64::new(0) }
    }

    fn may_be_told(&self) -> bool {
        let second = self.begun.elapsed().as_secs();
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.lines.store(0, Ordering::Relaxed);
        }
        self.lines.fetch_add(1, Ordering::Relaxed) < MAX_STRANGERS_TOLD
    }
}

/// One request, its body read.
pub struct Call {
    /// What every request has at hand.
    pub app: Arc<App>,
    /// The caller's trace.
    pub trace: Option<TraceId>,
    uri: Uri,
    headers: HeaderMap,
    peer: Option<Peer>,
    path_params: RawPathParams,
    body: ReadBody,
}

impl Call {
    /// Reads a request as far as its route asks for it.
    ///
    /// # Errors
    /// A [`Problem`] when it is too large, too slow, or can't be read.
    pub async fn read(
        app: Arc<App>,
        request: Request,
        trace: Option<TraceId>,
        route: &'static RouteInfo,
    ) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        check_head(&parts, &app.options, route)?;
        let path_params = RawPathParams::from_request_parts(&mut parts, &())
            .await
            .map_err(|error| Problem::malformed(error.body_text(), None))?;
        let max = match route.takes {
            Takes::Nothing => None,
            Takes::Body => Some(app.options.max_body_bytes),
            Takes::Batch => Some(app.options.max_batch_body_bytes),
        };
        let body = match max {
            Some(max) => body::read(body, max, &app.options, &app.body_room).await?,
            None => ReadBody::default(),
        };
        let peer = parts.extensions.get::<Peer>().copied();
        Ok(Self { app, trace, uri: parts.uri, headers: parts.headers, peer, path_params, body })
    }

    /// The id in the path (no route has two); empty in a path without one.
    #[must_use]
    pub fn path_id(&self) -> &str {
        self.path_params.iter().next().map_or("", |(_, id)| id)
    }

    /// The parameters after the `?`.
    ///
    /// # Errors
    /// `malformed_request`, also for one that is not known.
    pub fn query<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let query = Query::try_from_uri(&self.uri).map(|Query(query)| query);
        query.map_err(|error| Problem::malformed(error.body_text(), None))
    }

    /// The body. It is checked to be text once, as a whole, which is quicker than string by string.
    ///
    /// # Errors
    /// `malformed_request` when it is not UTF-8.
    pub fn body(&self) -> Result<&str, Problem> {
        let not_text = |error| Problem::malformed(format!("the body is not UTF-8: {error}"), None);
        std::str::from_utf8(&self.body.bytes).map_err(not_text)
    }

    /// The header Idempotency-Key.
    ///
    /// # Errors
    /// `invalid_field` for one that is not text.
    pub fn idempotency_key(&self) -> Result<Option<&str>, Problem> {
        let not_text = || InvalidField::new("Idempotency-Key", "must be visible ASCII, once");
        let mut all = self.headers.get_all("idempotency-key").iter();
        match (all.next(), all.next()) {
            (None, _) => Ok(None),
            (Some(key), None) => Ok(Some(key.to_str().map_err(|_| not_text())?)),
            (Some(_), Some(_)) => Err(not_text().into()),
        }
    }

    /// Whether an operator asks, where a part of the request is the operators' alone. Its path must be one of
    /// [`auth::may_ask_for_operator`].
    ///
    /// # Errors
    /// `unauthorized` and `forbidden`.
    pub fn check_operator(&self) -> Result<(), Problem> {
        auth::check(&self.app.options, &self.headers, self.peer)
    }

    /// A command of this request.
    #[must_use]
    pub fn command(&self, action: Action) -> Command {
        Command { trace: self.trace, action }
    }

    /// Has the engine carry out an action.
    ///
    /// # Errors
    /// The engine's refusal.
    pub async fn submit(&self, action: Action) -> Result<Answer, Problem> {
        self.app.engine.submit(self.command(action)).await.map_err(Problem::from)
    }
}

/// What can be said before the body is read.
fn check_head(parts: &Parts, options: &Options, route: &RouteInfo) -> Result<(), Problem> {
    let target = parts.uri.path().len() + parts.uri.query().map_or(0, str::len);
    let headers: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if target + headers > options.max_header_bytes {
        let detail = format!("request line and headers may have {} bytes", options.max_header_bytes);
        return Err(Problem::new(Code::HeadersTooLarge, detail));
    }
    if !percent_encoding_is_valid(parts.uri.path()) {
        return Err(Problem::malformed("the path has a % without two hex digits".to_owned(), None));
    }
    match parts.uri.query() {
        Some(query) if !route.query && !query.is_empty() => {
            Err(Problem::malformed("this path takes no parameters".to_owned(), None))
        }
        _ => Ok(()),
    }
}

/// Decoders let a lone `%` stand for itself, by which two spellings of a path would be one id.
fn percent_encoding_is_valid(path: &str) -> bool {
    path.split('%')
        .skip(1)
        .all(|after| after.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)))
}

/// An answer that is not a problem.
pub struct Reply {
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
}

impl Reply {
    /// An answer of any kind.
    #[must_use]
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, body: body.into() }
    }

    /// JSON.
    #[must_use]
    pub fn json(status: StatusCode, body: &impl Serialize) -> Self {
        /// The answer to an order of one line has about 300 bytes.
        const USUAL_BYTES: usize = 384;
        let mut json = Vec::with_capacity(USUAL_BYTES);
        serde_json::to_writer(&mut json, body).expect("text and numbers can always be written");
        Self::new(status, "application/json", json)
    }

    /// 200 with what the engine answered.
    #[must_use]
    pub fn ok(answer: &Answer) -> Self {
        Self::json(StatusCode::OK, &AnyBody::of(answer))
    }

    fn response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        response
    }
}
