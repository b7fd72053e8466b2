-- Ids are TEXT with the BINARY collation, which compares bytes. Times are unix milliseconds. An index costs every flush, so there is
-- none that nothing reads.
--
-- Behind the rows of stock, orders, order_lines, holds, order_requests, order_serials, stock_requests and stock_journal stands one
-- more for each shard, whose key begins with the byte FF: the guard, with the LSN that the table goes up to. See sql/guards.rs.
CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO meta (name, value) VALUES ('format', 'hotstock 1');

-- Who may write: one row. An epoch is taken at each start and take-over of a server; whoever has an older one is refused. take: the
-- random id of that, which the data directory of who did it has.
CREATE TABLE server (
    id          INTEGER NOT NULL PRIMARY KEY,
    server_id   TEXT,
    take        TEXT,
    shards      INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    lease_until INTEGER,
    taken_at    INTEGER
);
INSERT INTO server (id, shards, epoch) VALUES (1, 0, 0);

-- How far each shard is flushed: its last event, the hash over all of them (64 bits, as a signed number), by whom.
CREATE TABLE watermarks (
    shard INTEGER NOT NULL PRIMARY KEY,
    lsn   INTEGER NOT NULL,
    hash  INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    at    INTEGER NOT NULL
);

-- One row per (sku, warehouse), as it was when it was flushed. numbered: serial numbers given so far; NULL: its units get none.
-- pruned_sold: net units sold by orders that were pruned. pruned_version: the last row of its journal that was; the others are the
-- sums of the deltas up to there.
CREATE TABLE stock (
    sku_id            TEXT    NOT NULL,
    warehouse_id      INTEGER NOT NULL,
    available         INTEGER NOT NULL,
    reserved          INTEGER NOT NULL,
    sold              INTEGER NOT NULL,
    version           INTEGER NOT NULL,
    status            TEXT    NOT NULL,
    initial           INTEGER NOT NULL,
    supplied          INTEGER NOT NULL,
    numbered          INTEGER,
    hot               INTEGER NOT NULL,
    shard             INTEGER NOT NULL,
    lsn               INTEGER NOT NULL,
    changed_at        INTEGER NOT NULL,
    pruned_sold       INTEGER NOT NULL DEFAULT 0,
    pruned_version    INTEGER NOT NULL DEFAULT 0,
    pruned_available  INTEGER NOT NULL DEFAULT 0,
    pruned_reserved   INTEGER NOT NULL DEFAULT 0,
    pruned_sold_delta INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (sku_id, warehouse_id),
    CHECK (available >= 0 AND reserved >= 0 AND sold >= 0)
) WITHOUT ROWID;
CREATE INDEX stock_hot ON stock (sku_id) WHERE hot = 1;

-- SKUs whose stock rows are left alone, because somebody changed them by hand or they did not fit.
CREATE TABLE parked (
    sku_id TEXT    NOT NULL PRIMARY KEY,
    at     INTEGER NOT NULL,
    reason TEXT    NOT NULL
) WITHOUT ROWID;

-- shard: who decides for it. open: it holds units or has something pending. asked: the fingerprint of the request that made it.
-- span: of an order over several shards, what its coordinator keeps of it beside the counts (codec); of any other NULL.
CREATE TABLE orders (
    order_no   TEXT    NOT NULL PRIMARY KEY,
    shard      INTEGER NOT NULL,
    buyer_id   TEXT,
    mode       TEXT    NOT NULL,
    phase      TEXT    NOT NULL,
    status     TEXT    NOT NULL,
    open       INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    lsn        INTEGER NOT NULL,
    asked      INTEGER,
    span       BLOB
) WITHOUT ROWID;
-- The list by status, and what is open.
CREATE INDEX orders_status ON orders (open, status, order_no);
-- What is old enough to be pruned. (By the time that never changes.)
CREATE INDEX orders_created ON orders (created_at);

CREATE TABLE order_lines (
    order_no     TEXT    NOT NULL,
    line         INTEGER NOT NULL,
    sku_id       TEXT    NOT NULL,
    warehouse_id INTEGER NOT NULL,
    quantity     INTEGER NOT NULL,
    held         INTEGER NOT NULL,
    confirmed    INTEGER NOT NULL,
    released     INTEGER NOT NULL,
    returned     INTEGER NOT NULL,
    lapsed       INTEGER NOT NULL,
    PRIMARY KEY (order_no, line)
) WITHOUT ROWID;
-- The list by SKU, and the sums of a stock's orders.
CREATE INDEX order_lines_sku ON order_lines (sku_id, order_no);

-- What a shard holds, or sold, for an order that another shard decides (coordinator): one row for each stock of an attempt (16 hex
-- digits) to hold units (purpose units) or to take sold ones back (return). Of an order over several shards the lines in its own
-- shard alone count for their stocks; the others count by these rows, which the stock's own shard flushes. sold: net, of a return
-- below nothing. serials: ranges that the coordinator may not have logged (codec). seq, lsn: the largest of a hold's rows count. A
-- hold is over when no row has units or serials: rows that sold nothing go then, the others stay until their order goes.
CREATE TABLE holds (
    order_no     TEXT    NOT NULL,
    attempt      TEXT    NOT NULL,
    sku_id       TEXT    NOT NULL,
    warehouse_id INTEGER NOT NULL,
    shard        INTEGER NOT NULL,
    coordinator  INTEGER NOT NULL,
    purpose      TEXT    NOT NULL,
    seq          INTEGER NOT NULL,
    units        INTEGER NOT NULL,
    sold         INTEGER NOT NULL,
    serials      BLOB,
    lsn          INTEGER NOT NULL,
    PRIMARY KEY (order_no, attempt, sku_id, warehouse_id)
) WITHOUT ROWID;
-- The sums of a stock's orders.
CREATE INDEX holds_sku ON holds (sku_id, order_no);

-- The other requests that an order answered, in their order. Fingerprints are 64 bits, kept as signed numbers.
CREATE TABLE order_requests (
    order_no    TEXT    NOT NULL,
    seq         INTEGER NOT NULL,
    request_id  TEXT,
    fingerprint INTEGER NOT NULL,
    PRIMARY KEY (order_no, seq)
) WITHOUT ROWID;

-- The serial numbers that the lines of an order got, in the order in which they were given.
CREATE TABLE order_serials (
    order_no    TEXT    NOT NULL,
    seq         INTEGER NOT NULL,
    line        INTEGER NOT NULL,
    serial_from INTEGER NOT NULL,
    serial_to   INTEGER NOT NULL,
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
    lsn          INTEGER NOT NULL,
    PRIMARY KEY (sku_id, request_id)
) WITHOUT ROWID;
CREATE INDEX stock_requests_at ON stock_requests (at);

-- Every change of every stock. version numbers the rows of a stock from 1 without gap; what was pruned is missing at the front.
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
    serial_from  INTEGER,
    trace_id     TEXT,
    shard        INTEGER NOT NULL,
    lsn          INTEGER NOT NULL,
    PRIMARY KEY (sku_id, warehouse_id, version)
) WITHOUT ROWID;

CREATE TABLE anomalies (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    at       INTEGER NOT NULL,
    kind     TEXT    NOT NULL,
    shard    INTEGER,
    lsn      INTEGER,
    sku_id   TEXT,
    order_no TEXT,
    detail   TEXT    NOT NULL
);
CREATE INDEX anomalies_order ON anomalies (kind, order_no);
