-- Ids are VARBINARY: bytes, compared as bytes. (Every *_bin collation that MySQL 8 and MariaDB both know pads with spaces.)
-- Times are unix milliseconds. IF NOT EXISTS everywhere: DDL commits by itself here, and a server that died in between goes on.
CREATE TABLE IF NOT EXISTS meta (
    name VARBINARY(64) NOT NULL PRIMARY KEY,
    value VARBINARY(256) NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE IF NOT EXISTS servers (
    server_id VARBINARY(32) NOT NULL PRIMARY KEY,
    shards BIGINT NOT NULL,
    seen_at BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- One row per (sku, warehouse). Without an owner SQL decides for it; the owner of a SKU is the same in all its rows.
CREATE TABLE IF NOT EXISTS stock (
    sku_id VARBINARY(64) NOT NULL,
    warehouse_id BIGINT NOT NULL,
    available BIGINT NOT NULL,
    reserved BIGINT NOT NULL,
    sold BIGINT NOT NULL,
    version BIGINT NOT NULL,
    status VARBINARY(16) NOT NULL,
    initial BIGINT NOT NULL,
    supplied BIGINT NOT NULL,
    owner_server VARBINARY(32),
    owner_shard BIGINT,
    epoch BIGINT NOT NULL,
    lsn BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (sku_id, warehouse_id),
    CHECK (available >= 0 AND reserved >= 0 AND sold >= 0),
    INDEX stock_owner (owner_server, sku_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- due_at: when SQL has to expire it; NULL when it holds nothing or a shard decides. requests: rows in order_requests.
-- server, shard, lsn: the last event of a shard that changed it; NULL and 0 when SQL did.
CREATE TABLE IF NOT EXISTS orders (
    order_no VARBINARY(64) NOT NULL PRIMARY KEY,
    buyer_id VARBINARY(64),
    mode VARBINARY(16) NOT NULL,
    phase VARBINARY(16) NOT NULL,
    open BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    due_at BIGINT,
    server VARBINARY(32),
    shard BIGINT,
    lsn BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    INDEX orders_due (due_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- open and changed_at are those of the order, linked says that it has lines of other SKUs too: so the orders of a SKU are found
-- by one index, those that link it to others first.
CREATE TABLE IF NOT EXISTS order_lines (
    order_no VARBINARY(64) NOT NULL,
    sku_id VARBINARY(64) NOT NULL,
    warehouse_id BIGINT NOT NULL,
    line BIGINT NOT NULL,
    quantity BIGINT NOT NULL,
    held BIGINT NOT NULL,
    confirmed BIGINT NOT NULL,
    released BIGINT NOT NULL,
    returned BIGINT NOT NULL,
    lapsed BIGINT NOT NULL,
    open BIGINT NOT NULL,
    linked BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (order_no, sku_id, warehouse_id),
    INDEX order_lines_open (sku_id, open, linked, order_no),
    INDEX order_lines_changed (sku_id, open, changed_at, order_no)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- The partial requests that an order answered, in their order. Fingerprints are 64 bits, kept as signed numbers.
CREATE TABLE IF NOT EXISTS order_requests (
    order_no VARBINARY(64) NOT NULL,
    seq BIGINT NOT NULL,
    request_id VARBINARY(64),
    fingerprint BIGINT NOT NULL,
    PRIMARY KEY (order_no, seq)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE IF NOT EXISTS stock_requests (
    sku_id VARBINARY(64) NOT NULL,
    request_id VARBINARY(64) NOT NULL,
    warehouse_id BIGINT NOT NULL,
    fingerprint BIGINT NOT NULL,
    available BIGINT NOT NULL,
    reserved BIGINT NOT NULL,
    sold BIGINT NOT NULL,
    version BIGINT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (sku_id, request_id),
    INDEX stock_requests_at (sku_id, at, request_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- Every change of every stock. version numbers the rows of a stock from 1 without gap, whoever decided.
CREATE TABLE IF NOT EXISTS stock_journal (
    sku_id VARBINARY(64) NOT NULL,
    warehouse_id BIGINT NOT NULL,
    version BIGINT NOT NULL,
    at BIGINT NOT NULL,
    kind VARBINARY(32) NOT NULL,
    order_no VARBINARY(64),
    request_id VARBINARY(64),
    reason VARBINARY(256),
    d_available BIGINT NOT NULL,
    d_reserved BIGINT NOT NULL,
    d_sold BIGINT NOT NULL,
    available BIGINT NOT NULL,
    reserved BIGINT NOT NULL,
    sold BIGINT NOT NULL,
    trace_id VARBINARY(32),
    server VARBINARY(32),
    shard BIGINT,
    lsn BIGINT,
    PRIMARY KEY (sku_id, warehouse_id, version),
    INDEX stock_journal_order (order_no)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE IF NOT EXISTS watermarks (
    server_id VARBINARY(32) NOT NULL,
    shard BIGINT NOT NULL,
    lsn BIGINT NOT NULL,
    time BIGINT NOT NULL,
    PRIMARY KEY (server_id, shard)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE IF NOT EXISTS anomalies (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    at BIGINT NOT NULL,
    kind VARBINARY(32) NOT NULL,
    server VARBINARY(32),
    shard BIGINT,
    lsn BIGINT,
    sku_id VARBINARY(64),
    order_no VARBINARY(64),
    detail VARBINARY(1024) NOT NULL,
    INDEX anomalies_order (order_no),
    INDEX anomalies_source (server, shard, kind)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
