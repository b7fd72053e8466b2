//! What operators and their machines ask: alive, ready, counts, the description of the API.

use std::sync::OnceLock;

use axum::body::Bytes;
use axum::http::StatusCode;
use hotstock_engine::counters::Stats;
use hotstock_engine::status::Health;

use crate::app::{Call, Reply};
use crate::codes::Code;
use crate::problem::Problem;
use crate::{metrics, openapi};

/// The process runs and answers. Says nothing about whether it takes orders: a restart would not help a full disk.
#[utoipa::path(get, path = "/livez", tag = "operators", responses((status = 200, description = "It runs")))]
pub async fn livez(_call: Call) -> Result<Reply, Problem> {
    Ok(Reply::new(StatusCode::OK, "text/plain; charset=utf-8", "ok\n"))
}

/// Orders can be taken. Also while the SQL store is down, because what is in memory is served without it; the text says
/// so.
#[utoipa::path(get, path = "/readyz", tag = "operators", responses((status = 200, description = "They can")))]
pub async fn readyz(call: Call) -> Result<Reply, Problem> {
    let not_ready = |why: String| Err(Problem::new(Code::NotReady, why));
    if call.app.is_stopping() {
        return not_ready("the server is stopping".to_owned());
    }
    match call.app.engine.health() {
        Health::Ready => {
            let stats = call.app.engine.stats();
            Ok(ready(&stats))
        }
        Health::Fenced(why) => not_ready(format!("this server is fenced: {why}")),
        Health::Rebuilding(shards) => not_ready(format!("shards are being rebuilt: {shards:?}")),
        Health::JournalPoisoned(why) => {
            not_ready(format!("the journal can't be written, a restart is needed: {why}"))
        }
        Health::ShardFailed(shards) => not_ready(format!("shards were given up: {shards:?}")),
        Health::Stopping => not_ready("the engine is stopping".to_owned()),
    }
}

fn ready(stats: &Stats) -> Reply {
    let mut text = match &stats.store.problem {
        None => "ready\n".to_owned(),
        Some(problem) => {
            format!(
                "ready, without the SQL store (what is in memory is served, nothing is flushed): {problem}\n"
            )
        }
    };
    if let Some(why) = &stats.store.journal_full {
        text.push_str(&format!("no new reservations, the journal is at its cap on the disk: {why}\n"));
    }
    if stats.clock.jumped {
        text.push_str("the wall clock was set; it is not followed, so that no hold ends at another time\n");
    }
    Reply::new(StatusCode::OK, "text/plain; charset=utf-8", text)
}

/// Counts for Prometheus, in the OpenMetrics text format.
#[utoipa::path(get, path = "/metrics", tag = "operators", responses((status = 200, description = "The counts")))]
pub async fn metrics(call: Call) -> Result<Reply, Problem> {
    Ok(Reply::new(StatusCode::OK, metrics::CONTENT_TYPE, call.app.metrics.text()))
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "operators", responses((status = 200, description = "OpenAPI 3.1")))]
pub async fn openapi(_call: Call) -> Result<Reply, Problem> {
    static JSON: OnceLock<Bytes> = OnceLock::new();
    let json = JSON.get_or_init(|| openapi::json().into());
    Ok(Reply::new(StatusCode::OK, "application/json", json.clone()))
}
