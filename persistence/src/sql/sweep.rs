//! What is due: cold orders expire, branches and homes are named to their server. Any number of servers sweep at once: each takes rows
//! that no other one holds.

use hotstock_engine::clock::Timestamp;
use hotstock_engine::ids::{OrderNo, ServerId};
use hotstock_engine::state::State;
use hotstock_engine::store::Expired;

use super::Work;
use super::desk::{Desk, check_sound};
use super::dialect::{Access, Arg, Row, Tx};
use super::error::SqlError;
use super::rows::{
    self, Found, HomeEntry, Lock, ORDERS, complete, find_stock, is_open, is_under_way, load_stocks,
};
use super::statements::marks;
use crate::limits::{MAX_KEYS_PER_STATEMENT, POSTPONE_MILLIS};

/// See [`Store::expire`](hotstock_engine::store::Store::expire).
pub(super) struct Sweep {
    pub now: Timestamp,
    pub max: usize,
    pub ask_first: bool,
    pub server: ServerId,
}

impl Work for Sweep {
    type Done = Expired;

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Expired, SqlError> {
        let due = self.due(tx).await?;
        let Found { orders, homes } = complete(tx, &due).await?;
        let mut swept = Expired { seen: due.len(), ..Expired::default() };
        if swept.seen == 0 {
            return Ok(swept);
        }
        let keys = rows::stocks_of(orders.iter().map(|order| &order.image));
        let stocks = load_stocks(tx, &keys, Lock::Yes).await?;

        let (mut ours, mut postponed, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        for order in orders {
            let order_no = order.image.order_no.clone();
            let owned = order.image.lines.iter().any(|line| {
                let stock = find_stock(&stocks, &line.sku_id, line.warehouse_id);
                stock.is_some_and(|stock| stock.owner.is_some())
            });
            if owned {
                // A shard expires its own, and its branches ask by themselves.
                postponed.push(order_no);
            } else if !is_open(&order.image) {
                ended.push(order_no);
            } else if order_no.is_branch() {
                swept.branches.push(order_no.clone());
                postponed.push(order_no);
            } else if self.ask_first {
                swept.due.push(order_no.clone());
                postponed.push(order_no);
            } else if let Err(problem) = check_sound(&order.image, &stocks) {
                // It must not keep the others from expiring.
                tracing::error!(%order_no, %problem, "an order can't be expired");
                postponed.push(order_no);
            } else {
                ours.push(order);
            }
        }
        for HomeEntry { home, .. } in homes {
            if is_under_way(&home) {
                swept.homes.push(home.order.order_no.clone());
                postponed.push(home.order.order_no);
            } else {
                ended.push(home.order.order_no);
            }
        }
        set_due(tx, &postponed, self.now.plus_millis(POSTPONE_MILLIS).into()).await?;
        set_due(tx, &ended, Arg::Null).await?;

        let cold = stocks.into_iter().filter(|stock| stock.owner.is_none()).collect();
        let mut desk = Desk::new(cold, ours, None)?;
        while let Some(event) = desk.state.next_expiry(self.now) {
            desk.apply(&event)?;
            swept.expired += 1;
        }
        swept.changed = desk.write(tx, self.server).await?;
        Ok(swept)
    }
}

impl Sweep {
    /// The rows of what is due: of this server, then of none. Those of other servers are theirs.
    async fn due(&self, tx: &mut dyn Tx) -> Result<Vec<Row>, SqlError> {
        let mut due = Vec::new();
        for (whose, server) in [("home_server = ?", Some(self.server)), ("home_server IS NULL", None)] {
            let sql = format!(
                "SELECT {} FROM orders WHERE {whose} AND due_at <= ? ORDER BY due_at LIMIT ?{}",
                ORDERS.columns.join(", "),
                tx.dialect().for_update_skip_locked()
            );
            let left = self.max.saturating_sub(due.len());
            let through = State::due_through(self.now);
            let args = server.map(Arg::from).into_iter().chain([through.into(), left.into()]);
            due.extend(tx.rows(&sql, args.collect()).await?);
        }
        Ok(due)
    }
}

/// See [`Store::leave_to_home`](hotstock_engine::store::Store::leave_to_home).
pub(super) struct LeaveToHome<'a> {
    pub branches: &'a [OrderNo],
}

impl Work for LeaveToHome<'_> {
    type Done = ();

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<(), SqlError> {
        let branches: Vec<_> = self.branches.iter().filter(|branch| branch.is_branch()).cloned().collect();
        set_due(tx, &branches, Arg::Null).await
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
