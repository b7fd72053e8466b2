//! `hotstock verify`: rebuilds the stock of a data directory from checkpoint and journal, as a start would, and checks
//! every invariant; reads the whole journal, and so checks its chain of hashes. Changes nothing, and needs the
//! directory for itself.

use hotstock_engine::command::StockStatus;
use hotstock_engine::ids::ShardId;
use hotstock_engine::options::StartError;
use hotstock_engine::recovery::{Recovered, check_holds, recover};
use hotstock_engine::state::{AuditReport, StockAudit};
use hotstock_persistence::data_dir::DataDir;

use crate::cli::Verify;
use crate::cmd::say;
use crate::failure::Failure;

/// Orders that are named one by one; a table of all would hide the rest.
const MAX_NAMED: usize = 10;

/// Verifies.
///
/// # Errors
/// [`Failure::Audit`] with the first invariant that does not hold, [`Failure::Damaged`] with the event that can't be
/// read.
pub fn run(args: &Verify) -> Result<(), Failure> {
    let data_dir = DataDir::open(&args.data_dir, None)?;
    let reader = data_dir.stopped_journal().map_err(StartError::from)?;
    let checkpoints = data_dir.checkpoints();

    let mut totals = Totals::default();
    let mut states = Vec::new();
    for shard in (0..data_dir.shards()).map(ShardId) {
        reader.check(shard).map_err(StartError::from)?;
        let Recovered { state, checkpoint, replayed, .. } =
            recover(shard, data_dir.shards(), &reader, &checkpoints).map_err(StartError::from)?;
        let last = state.applied();
        say(format_args!(
            "shard {shard}: checkpoint at event {checkpoint}, {replayed} events replayed, the last is {last}"
        ));
        let audit = state.audit();
        if !args.summary {
            table(&audit);
        }
        if let Some(first) = audit.violations.first() {
            let more = match audit.violations.len() - 1 {
                0 => String::new(),
                n => format!(" (and {n} more)"),
            };
            return Err(Failure::Audit(format!("shard {shard}: {first}{more}")));
        }
        totals.add(&audit);
        states.push(state);
    }
    let report = check_holds(&states);
    if let Some(first) = report.violations.first() {
        let more = report.violations.len() - 1;
        return Err(Failure::Audit(format!("{first} (and {more} more orders over several shards)")));
    }
    if report.orders > 0 {
        say(format_args!(
            "{} orders over several shards; of {} it has still to be told to other shards what was decided",
            report.orders, report.pending
        ));
    }
    for order_no in report.asking.iter().take(MAX_NAMED) {
        say(format_args!(
            "units are held for order {order_no}, which does not know of it: the next start asks, and releases them if nobody does"
        ));
    }
    if report.asking.len() > MAX_NAMED {
        say(format_args!("(and {} more)", report.asking.len() - MAX_NAMED));
    }
    say(totals.text());
    Ok(())
}

/// Every row begins with the SKU; a name may hold spaces, so the numbers are counted from the right.
fn table(audit: &AuditReport) {
    let width =
        audit.stocks.iter().map(|stock| stock.sku_id.as_str().chars().count()).max().unwrap_or(0).max(3);
    let head = ["warehouse", "available", "reserved", "sold", "supplied", "open orders"];
    say(format_args!("{:<width$}{}", "SKU", head.map(|title| format!("{title:>13}")).concat()));
    for StockAudit { sku_id, warehouse_id, levels, status, supplied, open_orders, .. } in &audit.stocks {
        let numbers = [
            u64::from(warehouse_id.0),
            levels.available,
            levels.reserved,
            levels.sold,
            *supplied,
            *open_orders,
        ];
        let suspended = if *status == StockStatus::Suspended { "  suspended" } else { "" };
        let numbers = numbers.map(|number| format!("{number:>13}")).concat();
        say(format_args!("{:<width$}{numbers}{suspended}", sku_id.as_str()));
    }
}

/// All shards together.
#[derive(Default)]
struct Totals {
    stocks: usize,
    orders: usize,
    open_orders: usize,
    available: u64,
    reserved: u64,
    sold: u64,
    supplied: u64,
}

impl Totals {
    fn add(&mut self, audit: &AuditReport) {
        self.stocks += audit.stocks.len();
        self.orders += audit.orders;
        self.open_orders += audit.open_orders;
        for stock in &audit.stocks {
            self.available += stock.levels.available;
            self.reserved += stock.levels.reserved;
            self.sold += stock.levels.sold;
            self.supplied += stock.supplied;
        }
    }

    fn text(&self) -> String {
        let Self { stocks, orders, open_orders, available, reserved, sold, supplied } = self;
        format!(
            "every invariant holds: {stocks} stocks, {supplied} units = {available} available + {reserved} reserved + \
             {sold} sold; {orders} orders known, {open_orders} of them open"
        )
    }
}
