-- Ids are TEXT with the BINARY collation, which compares bytes. Times are unix milliseconds.
CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE servers (
    server_id TEXT    NOT NULL PRIMARY KEY,
    shards    INTEGER NOT NULL,
    seen_at   INTEGER NOT NULL
) WITHOUT ROWID;

-- One row per (sku, warehouse). Without an owner SQL decides for it; the owner of a SKU is the same in all its rows.
CREATE TABLE stock (
    sku_id       TEXT    NOT NULL,
    warehouse_id INTEGER NOT NULL,
    available    INTEGER NOT NULL,
    reserved     INTEGER NOT NULL,
    sold         INTEGER NOT NULL,
    version      INTEGER NOT NULL,
    status       TEXT    NOT NULL,
    initial      INTEGER NOT NULL,
    supplied     INTEGER NOT NULL,
    owner_server TEXT,
    owner_shard  INTEGER,
    epoch        INTEGER NOT NULL,
    lsn          INTEGER NOT NULL,
    changed_at   INTEGER NOT NULL,
    PRIMARY KEY (sku_id, warehouse_id),
    CHECK (available >= 0 AND reserved >= 0 AND sold >= 0)
) WITHOUT ROWID;
CREATE INDEX stock_owner ON stock (owner_server, sku_id);

-- due_at: when SQL has to expire it; NULL when it holds nothing or a shard decides. requests: rows in order_requests.
-- server, shard, lsn: the last event of a shard that changed it; NULL and 0 when SQL did.
CREATE TABLE orders (
    order_no   TEXT    NOT NULL PRIMARY KEY,
    buyer_id   TEXT,
    mode       TEXT    NOT NULL,
    phase      TEXT    NOT NULL,
    open       INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    due_at     INTEGER,
    server     TEXT,
    shard      INTEGER,
    lsn        INTEGER NOT NULL,
    requests   INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX orders_due ON orders (due_at) WHERE due_at IS NOT NULL;

-- open and changed_at are those of the order, linked says that it has lines of other SKUs too: so the orders of a SKU are found
-- by one index, those that link it to others first.
CREATE TABLE order_lines (
    order_no     TEXT    NOT NULL,
    sku_id       TEXT    NOT NULL,
    warehouse_id INTEGER NOT NULL,
    line         INTEGER NOT NULL,
    quantity     INTEGER NOT NULL,
    held         INTEGER NOT NULL,
    confirmed    INTEGER NOT NULL,
    released     INTEGER NOT NULL,
    returned     INTEGER NOT NULL,
    lapsed       INTEGER NOT NULL,
    open         INTEGER NOT NULL,
    linked       INTEGER NOT NULL,
    changed_at   INTEGER NOT NULL,
    PRIMARY KEY (order_no, sku_id, warehouse_id)
) WITHOUT ROWID;
CREATE INDEX order_lines_open ON order_lines (sku_id, open, linked, order_no);
CREATE INDEX order_lines_changed ON order_lines (sku_id, open, changed_at, order_no);

-- The partial requests that an order answered, in their order. Fingerprints are 64 bits, kept as signed numbers.
CREATE TABLE order_requests (
    order_no    TEXT    NOT NULL,
    seq         INTEGER NOT NULL,
    request_id  TEXT,
    fingerprint INTEGER NOT NULL,
    PRIMARY KEY (order_no, seq)
) WITHOUT ROWID;

CREATE TABLE stock_requests (
    sku_id       TEXT    NOT NULL,
    request_id   TEXT    NOT NULL,
    warehouse_id INTEGER NOT NULL,
    fingerprint  INTEGER NOT NULL,
    available    INTEGER NOT NULL,
    reserved     INTEGER NOT NULL,
    sold         INTEGER NOT NULL,
    version      INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    PRIMARY KEY (sku_id, request_id)
) WITHOUT ROWID;
CREATE INDEX stock_requests_at ON stock_requests (sku_id, at, request_id);

-- Every change of every stock. version numbers the rows of a stock from 1 without gap, whoever decided.
CREATE TABLE stock_journal (
    sku_id       TEXT    NOT NULL,
    warehouse_id INTEGER NOT NULL,
    version      INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    kind         TEXT    NOT NULL,
    order_no     TEXT,
    request_id   TEXT,
    reason       TEXT,
    d_available  INTEGER NOT NULL,
    d_reserved   INTEGER NOT NULL,
    d_sold       INTEGER NOT NULL,
    available    INTEGER NOT NULL,
    reserved     INTEGER NOT NULL,
    sold         INTEGER NOT NULL,
    trace_id     TEXT,
    server       TEXT,
    shard        INTEGER,
    lsn          INTEGER,
    PRIMARY KEY (sku_id, warehouse_id, version)
) WITHOUT ROWID;
CREATE INDEX stock_journal_order ON stock_journal (order_no);

CREATE TABLE watermarks (
    server_id TEXT    NOT NULL,
    shard     INTEGER NOT NULL,
    lsn       INTEGER NOT NULL,
    time      INTEGER NOT NULL,
    PRIMARY KEY (server_id, shard)
) WITHOUT ROWID;

CREATE TABLE anomalies (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    at       INTEGER NOT NULL,
    kind     TEXT    NOT NULL,
    server   TEXT,
    shard    INTEGER,
    lsn      INTEGER,
    sku_id   TEXT,
    order_no TEXT,
    detail   TEXT    NOT NULL
);
CREATE INDEX anomalies_source ON anomalies (server, shard, kind);
CREATE INDEX anomalies_order ON anomalies (order_no) WHERE order_no IS NOT NULL;
