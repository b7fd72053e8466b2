-- The tables of SQLite (what the columns mean stands there) for MySQL 8 and MariaDB 10.11. Ids are VARBINARY: bytes, compared as bytes.
-- (Every *_bin collation that both know pads with spaces.) Every statement can be repeated: DDL commits by itself here, and a server
-- that died in between goes on.
CREATE TABLE IF NOT EXISTS meta (
    name VARBINARY(64) NOT NULL PRIMARY KEY,
    value VARBINARY(256) NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
INSERT IGNORE INTO meta (name, value) VALUES ('format', 'hotstock 1');

CREATE TABLE IF NOT EXISTS server (
    id BIGINT NOT NULL PRIMARY KEY,
    server_id VARBINARY(32),
    take VARBINARY(32),
    shards BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    lease_until BIGINT,
    taken_at BIGINT
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
INSERT IGNORE INTO server (id, shards, epoch) VALUES (1, 0, 0);

CREATE TABLE IF NOT EXISTS watermarks (
    shard BIGINT NOT NULL PRIMARY KEY,
    lsn BIGINT NOT NULL,
    hash BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    at BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE IF NOT EXISTS stock (
    sku_id VARBINARY(64) NOT NULL,
    warehouse_id BIGINT NOT NULL,
    available BIGINT NOT NULL,
    reserved BIGINT NOT NULL,
    sold BIGINT NOT NULL,
    version BIGINT NOT NULL,
    status VARBINARY(32) NOT NULL,
    initial BIGINT NOT NULL,
    supplied BIGINT NOT NULL,
    numbered BIGINT,
    hot BIGINT NOT NULL,
    shard BIGINT NOT NULL,
    lsn BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    pruned_sold BIGINT NOT NULL DEFAULT 0,
    pruned_version BIGINT NOT NULL DEFAULT 0,
    pruned_available BIGINT NOT NULL DEFAULT 0,
    pruned_reserved BIGINT NOT NULL DEFAULT 0,
    pruned_sold_delta BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (sku_id, warehouse_id),
    CHECK (available >= 0 AND reserved >= 0 AND sold >= 0),
    INDEX stock_hot (hot, sku_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE IF NOT EXISTS parked (
    sku_id VARBINARY(64) NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    reason VARBINARY(1024) NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE IF NOT EXISTS orders (
    order_no VARBINARY(64) NOT NULL PRIMARY KEY,
    shard BIGINT NOT NULL,
    buyer_id VARBINARY(64),
    mode VARBINARY(16) NOT NULL,
    phase VARBINARY(16) NOT NULL,
    status VARBINARY(32) NOT NULL,
    open BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    lsn BIGINT NOT NULL,
    asked BIGINT,
    span MEDIUMBLOB,
    INDEX orders_status (open, status, order_no),
    INDEX orders_created (created_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE IF NOT EXISTS order_lines (
    order_no VARBINARY(64) NOT NULL,
    line BIGINT NOT NULL,
    sku_id VARBINARY(64) NOT NULL,
    warehouse_id BIGINT NOT NULL,
    quantity BIGINT NOT NULL,
    held BIGINT NOT NULL,
    confirmed BIGINT NOT NULL,
    released BIGINT NOT NULL,
    returned BIGINT NOT NULL,
    lapsed BIGINT NOT NULL,
    PRIMARY KEY (order_no, line),
    INDEX order_lines_sku (sku_id, order_no)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE IF NOT EXISTS holds (
    order_no VARBINARY(64) NOT NULL,
    attempt VARBINARY(16) NOT NULL,
    sku_id VARBINARY(64) NOT NULL,
    warehouse_id BIGINT NOT NULL,
    shard BIGINT NOT NULL,
    coordinator BIGINT NOT NULL,
    purpose VARBINARY(16) NOT NULL,
    seq BIGINT NOT NULL,
    units BIGINT NOT NULL,
    sold BIGINT NOT NULL,
    serials MEDIUMBLOB,
    lsn BIGINT NOT NULL,
    PRIMARY KEY (order_no, attempt, sku_id, warehouse_id),
    INDEX holds_sku (sku_id, order_no)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE IF NOT EXISTS order_requests (
    order_no VARBINARY(64) NOT NULL,
    seq BIGINT NOT NULL,
    request_id VARBINARY(64),
    fingerprint BIGINT NOT NULL,
    PRIMARY KEY (order_no, seq)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE IF NOT EXISTS order_serials (
    order_no VARBINARY(64) NOT NULL,
    seq BIGINT NOT NULL,
    line BIGINT NOT NULL,
    serial_from BIGINT NOT NULL,
    serial_to BIGINT NOT NULL,
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
    lsn BIGINT NOT NULL,
    PRIMARY KEY (sku_id, request_id),
    INDEX stock_requests_at (at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

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
    serial_from BIGINT,
    trace_id VARBINARY(32),
    shard BIGINT NOT NULL,
    lsn BIGINT NOT NULL,
    PRIMARY KEY (sku_id, warehouse_id, version)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE IF NOT EXISTS anomalies (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    at BIGINT NOT NULL,
    kind VARBINARY(32) NOT NULL,
    shard BIGINT,
    lsn BIGINT,
    sku_id VARBINARY(64),
    order_no VARBINARY(64),
    detail VARBINARY(1024) NOT NULL,
    INDEX anomalies_order (kind, order_no)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
