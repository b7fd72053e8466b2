//! The yardstick: an axum server that parses the same JSON into structs and answers it again. It shows what HTTP, JSON
//! and the load generator cost on this machine when there is no stock to keep and no disk to wait for.

use std::net::Ipv4Addr;

use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::TcpSocket;

use crate::client::Target;

/// Connections that the kernel keeps while they wait to be accepted. All workers connect at once; one that finds no
/// room waits a second for its next try.
const LISTEN_BACKLOG: u32 = 4_096;

#[derive(Serialize, Deserialize)]
struct Line {
    sku_id: String,
    quantity: u32,
}

#[derive(Serialize, Deserialize)]
struct Reserve {
    order_no: String,
    lines: Vec<Line>,
    ttl_seconds: u32,
}

#[derive(Serialize, Deserialize)]
struct Operation {
    op: String,
    order_no: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lines: Vec<Line>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct Batch {
    operations: Vec<Operation>,
}

#[derive(Serialize, Deserialize)]
struct Empty {}

/// Starts the server on a free port; it lives as long as the process.
pub fn start() -> std::io::Result<Target> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let listener = socket.listen(LISTEN_BACKLOG)?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/v1/reservations", post(echo::<Reserve>))
        .route("/v1/reservations/{order_no}/confirm", post(echo::<Empty>))
        .route("/v1/batch", post(echo::<Batch>));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address.into())
}

async fn echo<T: Serialize + DeserializeOwned>(body: Bytes) -> Response {
    let parsed = serde_json::from_slice::<T>(&body);
    match parsed.and_then(|request| serde_json::to_vec(&request)) {
        Ok(answer) => ([(header::CONTENT_TYPE, "application/json")], answer).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}
