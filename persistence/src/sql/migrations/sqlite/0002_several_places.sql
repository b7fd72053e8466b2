-- Orders over several places.
--
-- kind: 0 an order in one place; 1 the home of an order over several, whole in `record`; 2 a branch of one, which is an order in one place
-- too. status: for the list, NULL of a branch, which none shows. home_server, home_shard: of a home, where it is; of a branch,
-- the server that wrote it last (and no shard). open of a home: it holds units, or its branches are to be told something.
-- serials: `line:from-to,…`, in the order in which they were given.
ALTER TABLE orders ADD COLUMN kind INTEGER NOT NULL DEFAULT 0;
ALTER TABLE orders ADD COLUMN status TEXT;
ALTER TABLE orders ADD COLUMN home_server TEXT;
ALTER TABLE orders ADD COLUMN home_shard INTEGER;
ALTER TABLE orders ADD COLUMN record BLOB;
ALTER TABLE orders ADD COLUMN serials TEXT;

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
    FROM order_lines WHERE order_lines.order_no = orders.order_no), 'released') END;

CREATE INDEX orders_status ON orders (status, order_no) WHERE status IS NOT NULL;
DROP INDEX orders_due;
CREATE INDEX orders_due ON orders (home_server, due_at) WHERE due_at IS NOT NULL;

-- linked is 2 in the lines of branches.
CREATE INDEX order_lines_sku ON order_lines (sku_id, order_no);

-- The SKUs of homes, for the list. What they hold stands in the lines of their branches.
CREATE TABLE home_lines (
    sku_id   TEXT NOT NULL,
    order_no TEXT NOT NULL,
    PRIMARY KEY (sku_id, order_no)
) WITHOUT ROWID;

-- Serial numbers given so far at a stock; NULL: its units get none. serial_from: the first of those that a confirm gave.
ALTER TABLE stock ADD COLUMN numbered INTEGER;
ALTER TABLE stock_journal ADD COLUMN serial_from INTEGER;
