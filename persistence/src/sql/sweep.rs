//! Expiry of cold orders. Any number of servers sweep at once: each takes orders that no other one holds.

use hotstock_engine::clock::Timestamp;
use hotstock_engine::ids::OrderNo;
use hotstock_engine::state::State;
use hotstock_engine::store::Expired;

use super::Work;
use super::desk::{Desk, check_sound};
use super::dialect::{Access, Arg, Tx};
use super::error::SqlError;
use super::rows::{self, Lock, ORDERS, complete, find_stock, is_open, load_stocks};
use super::statements::marks;
use crate::limits::{MAX_KEYS_PER_STATEMENT, POSTPONE_MILLIS};

/// See [`Store::expire`](hotstock_engine::store::Store::expire).
pub(super) struct Sweep {
    pub now: Timestamp,
    pub max: usize,
}

impl Work for Sweep {
    type Done = Expired;

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Expired, SqlError> {
        let sql = format!(
            "SELECT {} FROM orders WHERE due_at <= ? ORDER BY due_at LIMIT ?{}",
            ORDERS.columns.join(", "),
            tx.dialect().for_update_skip_locked()
        );
        let due = tx.rows(&sql, vec![State::due_through(self.now).into(), self.max.into()]).await?;
        let orders = complete(tx, &due).await?;
        let seen = orders.len();
        if seen == 0 {
            return Ok(Expired::default());
        }
        let keys = rows::stocks_of(orders.iter().map(|order| &order.image));
        let stocks = load_stocks(tx, &keys, Lock::Yes).await?;

        let (mut ours, mut postponed, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        for order in orders {
            let owned = order.image.lines.iter().any(|line| {
                let stock = find_stock(&stocks, &line.sku_id, line.warehouse_id);
                stock.is_some_and(|stock| stock.owner.is_some())
            });
            let unsound = check_sound(&order.image, &stocks).err();
            match unsound {
                // A shard expires its own.
                _ if owned => postponed.push(order.image.order_no),
                // It must not keep the others from expiring.
                Some(problem) => {
                    tracing::error!(order_no = %order.image.order_no, %problem, "an order can't be expired");
                    postponed.push(order.image.order_no);
                }
                None if !is_open(&order.image) => ended.push(order.image.order_no),
                None => ours.push(order),
            }
        }
        set_due(tx, &postponed, self.now.plus_millis(POSTPONE_MILLIS).into()).await?;
        set_due(tx, &ended, Arg::Null).await?;

        let cold = stocks.into_iter().filter(|stock| stock.owner.is_none()).collect();
        let mut desk = Desk::new(cold, ours, None)?;
        let mut expired = 0;
        while let Some(event) = desk.state.next_expiry(self.now) {
            desk.apply(&event)?;
            expired += 1;
        }
        let changed = desk.write(tx).await?;
        Ok(Expired { seen, expired, changed, branches: Vec::new(), due: Vec::new(), homes: Vec::new() })
    }
}

/// Says when orders are looked at again, if at all.
async fn set_due(tx: &mut dyn Tx, order_nos: &[OrderNo], due_at: Arg) -> Result<(), SqlError> {
    for order_nos in order_nos.chunks(MAX_KEYS_PER_STATEMENT) {
        let sql = format!("UPDATE orders SET due_at = ? WHERE order_no IN ({})", marks(order_nos.len()));
        let args = std::iter::once(due_at.clone()).chain(order_nos.iter().map(Arg::from));
        tx.execute(&sql, args.collect()).await?;
    }
    Ok(())
}
