-- Orders over several places. What the columns mean stands beside SQLite's.
-- Every statement can be repeated. MySQL knows no ADD COLUMN IF NOT EXISTS, so the changes of a table, which are made together, are
-- prepared only where the first of their columns is missing. The number of a branch has up to 146 bytes.
SET @change = IF((SELECT COUNT(*) FROM information_schema.columns
        WHERE table_schema = DATABASE() AND table_name = 'orders' AND column_name = 'kind') > 0,
    'DO 0',
    'ALTER TABLE orders
        MODIFY order_no VARBINARY(146) NOT NULL,
        ADD COLUMN kind BIGINT NOT NULL DEFAULT 0,
        ADD COLUMN status VARBINARY(32),
        ADD COLUMN home_server VARBINARY(32),
        ADD COLUMN home_shard BIGINT,
        ADD COLUMN record MEDIUMBLOB,
        ADD COLUMN serials MEDIUMBLOB,
        DROP INDEX orders_due,
        ADD INDEX orders_due (home_server, due_at),
        ADD INDEX orders_status (status, order_no)');
PREPARE change_once FROM @change;
EXECUTE change_once;
DEALLOCATE PREPARE change_once;

UPDATE orders SET status = CASE WHEN phase = 'cancelled' THEN 'cancelled' ELSE COALESCE((
    SELECT CASE
        WHEN SUM(returned) > 0 AND SUM(returned) = SUM(confirmed) AND SUM(held) = 0 THEN 'returned'
        WHEN SUM(returned) > 0 THEN 'partially_returned'
        WHEN SUM(confirmed) > 0 AND SUM(held) = 0 AND SUM(released) = 0 THEN 'confirmed'
        WHEN SUM(confirmed) > 0 THEN 'partially_confirmed'
        WHEN SUM(held) > 0 THEN 'reserved'
        WHEN orders.phase = 'expired' THEN 'expired'
        ELSE 'released'
    END
    FROM order_lines WHERE order_lines.order_no = orders.order_no), 'released') END
WHERE status IS NULL AND kind = 0;

ALTER TABLE order_requests MODIFY order_no VARBINARY(146) NOT NULL;
ALTER TABLE anomalies MODIFY order_no VARBINARY(146);

SET @change = IF((SELECT COUNT(*) FROM information_schema.statistics
        WHERE table_schema = DATABASE() AND table_name = 'order_lines' AND index_name = 'order_lines_sku') > 0,
    'DO 0',
    'ALTER TABLE order_lines
        MODIFY order_no VARBINARY(146) NOT NULL,
        ADD INDEX order_lines_sku (sku_id, order_no)');
PREPARE change_once FROM @change;
EXECUTE change_once;
DEALLOCATE PREPARE change_once;

CREATE TABLE IF NOT EXISTS home_lines (
    sku_id VARBINARY(64) NOT NULL,
    order_no VARBINARY(64) NOT NULL,
    PRIMARY KEY (sku_id, order_no)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

SET @change = IF((SELECT COUNT(*) FROM information_schema.columns
        WHERE table_schema = DATABASE() AND table_name = 'stock' AND column_name = 'numbered') > 0,
    'DO 0',
    'ALTER TABLE stock
        ADD COLUMN numbered BIGINT');
PREPARE change_once FROM @change;
EXECUTE change_once;
DEALLOCATE PREPARE change_once;

SET @change = IF((SELECT COUNT(*) FROM information_schema.columns
        WHERE table_schema = DATABASE() AND table_name = 'stock_journal' AND column_name = 'serial_from') > 0,
    'DO 0',
    'ALTER TABLE stock_journal
        MODIFY order_no VARBINARY(146),
        ADD COLUMN serial_from BIGINT');
PREPARE change_once FROM @change;
EXECUTE change_once;
DEALLOCATE PREPARE change_once;
