//! Every bound of the HTTP server, in one place, each with its reason.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hotstock_engine::counters::MirrorStats;
use hotstock_engine::ids::WarehouseId;
use hotstock_engine::limits::{DEFAULT_GATE_PERMITS, MAX_TTL_SECONDS};
use hotstock_engine::mirror::Mirror;

/// Operations of one batch request. From the HTTP contract.
pub const MAX_BATCH_OPERATIONS: usize = 10_000;

/// SKUs, or orders, of one page of a list, when the caller does not say.
pub const DEFAULT_PAGE_ROWS: usize = 100;

/// Rows of one page of a SKU's journal, when the caller does not say, and at the most.
pub const DEFAULT_JOURNAL_ROWS: usize = 100;

/// See [`DEFAULT_JOURNAL_ROWS`]. A row has about 350 bytes.
pub const MAX_JOURNAL_ROWS: usize = 1_000;

/// Anomalies that are shown, the newest ones. Who has more has another problem than to read them one by one.
pub const MAX_ANOMALIES: usize = 1_000;

/// SKUs that are promoted, demoted or made the hot list by one request. From the HTTP contract: the preheat of a sale.
pub const MAX_PINNED_SKUS: usize = 10_000;

/// Lines of the log a second about operators' calls that were refused: enough to be seen, too few to fill a disk.
pub const MAX_STRANGERS_TOLD: u64 = 5;

/// A body up to this size is read without asking for room in [`Options::max_body_kib_in_flight`]: ordinary requests
/// are far smaller, and should not touch a counter that all cores share.
pub const SMALL_BODY_BYTES: usize = 16 * 1024;

/// Bytes of one text in an error's `detail`: errors of the JSON parser quote the input.
pub const MAX_DETAIL_BYTES: usize = 300;

/// How long accepting pauses when the system has no more file descriptors: trying again at once would burn a core.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The mirror beside the engine: what reconcile compares with, and what the mirror says of itself.
#[derive(Clone)]
pub struct MirrorLink {
    /// For reconcile.
    pub mirror: Arc<dyn Mirror>,
    /// For metrics and `GET /v1/admin/shards`.
    pub stats: Arc<dyn Fn() -> MirrorStats + Send + Sync>,
}

impl fmt::Debug for MirrorLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MirrorLink")
    }
}

/// How the server is set up. [`Options::default`] has the values that the reasons speak of.
#[derive(Debug, Clone)]
pub struct Options {
    /// The warehouse of a line that names none.
    pub default_warehouse_id: WarehouseId,
    /// How long a reservation holds when it does not say, in seconds. From the HTTP contract: half an hour.
    pub default_ttl_seconds: u32,
    /// The warehouses that come first where any may serve and the caller prefers none, the best first. At most
    /// [`MAX_WAREHOUSES_PER_SKU`](hotstock_engine::limits::MAX_WAREHOUSES_PER_SKU).
    pub prefer_warehouses: Vec<WarehouseId>,
    /// The SHA-256 of the operators' token. None: there is none.
    pub admin_token_sha256: Option<[u8; 32]>,
    /// Whether, while there is no token, operators' requests are taken from this machine. Otherwise from nobody.
    pub admin_from_loopback: bool,
    /// The mirror, if there is one.
    pub mirror: Option<MirrorLink>,
    /// Connections at the same time. More wait in the kernel's backlog, untouched. 10,000 clients with a connection
    /// each, and some 40 KiB per connection (buffers, task) keeps idle ones at 400 MB.
    pub max_connections: usize,
    /// The largest body of all requests but batches. A reservation of 1,000 lines whose every character is escaped
    /// has about 450 KiB.
    pub max_body_bytes: usize,
    /// The largest body of a batch: 10,000 operations of 800 bytes each; a usual one has 120.
    pub max_batch_body_bytes: usize,
    /// Room for all bodies above [`SMALL_BODY_BYTES`] that are being read or worked on, in KiB; past it requests are
    /// answered `overloaded`. Without it 10,000 connections with a batch each would hold 80 GB.
    pub max_body_kib_in_flight: u32,
    /// Request line and headers together. Twice what proxies commonly let through is of no use to anyone.
    pub max_header_bytes: usize,
    /// How long a request's head may take to arrive, and how long a connection may be idle between two requests (hyper
    /// has one timer for both). Longer than clients keep idle connections (30 to 60 s), so that the client is the one
    /// to close and no request meets a closing connection.
    pub header_read_timeout: Duration,
    /// How long a body may take to arrive. 8 MiB in 10 s is a slow line; who takes longer holds memory for it.
    pub body_read_timeout: Duration,
    /// How long the engine may take for a request. It answers in milliseconds; past this the caller is better told that
    /// the outcome is unknown than left to its own timeout.
    pub request_timeout: Duration,
    /// How long sent bytes may stay unacknowledged, or unsent because the peer does not read (`TCP_USER_TIMEOUT`).
    /// Without it a peer that never reads keeps a connection and its answer for ever.
    pub write_timeout: Duration,
    /// How long `/readyz` says no before the server stops accepting, so that load balancers go elsewhere first. None by
    /// default: only who runs behind one knows how often it looks.
    pub unready_for: Duration,
    /// How long requests under way may take to end when the server stops; then their connections are cut.
    pub drain_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            default_warehouse_id: WarehouseId(1),
            default_ttl_seconds: 1_800,
            prefer_warehouses: Vec::new(),
            admin_token_sha256: None,
            admin_from_loopback: true,
            mirror: None,
            max_connections: 10_000,
            max_body_bytes: 1024 * 1024,
            max_batch_body_bytes: 8 * 1024 * 1024,
            max_body_kib_in_flight: 256 * 1024,
            max_header_bytes: 16 * 1024,
            header_read_timeout: Duration::from_secs(75),
            body_read_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            unready_for: Duration::ZERO,
            drain_timeout: Duration::from_secs(15),
        }
    }
}

const _: () =
    assert!(MAX_BATCH_OPERATIONS <= DEFAULT_GATE_PERMITS as usize, "a batch must fit an idle engine");
const _: () = assert!(1_800 <= MAX_TTL_SECONDS);
