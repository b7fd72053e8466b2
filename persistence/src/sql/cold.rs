//! Commands on cold SKUs and on orders that SQL decides.

use hotstock_engine::checkpoint::RequestImage;
use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Action, ChangeStock, Command, Reserve};
use hotstock_engine::ids::{OrderNo, SkuId};
use hotstock_engine::outcome::{Outcome, Refusal};
use hotstock_engine::state::Decision;
use hotstock_engine::store::{ColdOutcome, Owner, StoreError};

use super::desk::{Desk, check_sound};
use super::dialect::{Access, Tx};
use super::error::{SqlError, broken};
use super::rows::{
    self, Lock, OrderEntry, StockEntry, in_key_order, load_orders, load_sku, load_skus, load_stocks,
    request_image,
};
use super::{SqlStore, Work};

/// See [`Store::submit`](hotstock_engine::store::Store::submit).
pub(super) async fn submit(
    store: &SqlStore,
    command: &Command,
    now: Timestamp,
) -> Result<ColdOutcome, StoreError> {
    let first = once(store, command, now).await;
    let Err(StoreError::OutcomeUnknown(problem)) = first else { return first };
    // If it took effect the first time, this says so.
    let second = once(store, command, now).await;
    second.map_err(|_| StoreError::OutcomeUnknown(problem))
}

async fn once(store: &SqlStore, command: &Command, now: Timestamp) -> Result<ColdOutcome, StoreError> {
    match &command.action {
        Action::Place(_) => Err(broken("moves are not decided by SQL")),
        Action::GetOrder(_) => store.run(&Look(Decide { command, now })).await,
        _ => store.run(&Decide { command, now }).await,
    }
}

/// A command in a transaction that may change something.
struct Decide<'a> {
    command: &'a Command,
    now: Timestamp,
}

/// A command that only reads.
struct Look<'a>(Decide<'a>);

impl Work for Decide<'_> {
    type Done = ColdOutcome;

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<ColdOutcome, SqlError> {
        self.carry_out(tx, Lock::Yes).await
    }
}

impl Work for Look<'_> {
    type Done = ColdOutcome;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<ColdOutcome, SqlError> {
        self.0.carry_out(tx, Lock::No).await
    }
}

impl Decide<'_> {
    async fn carry_out(&self, tx: &mut dyn Tx, lock: Lock) -> Result<ColdOutcome, SqlError> {
        let gathered = gather(tx, &self.command.action, lock).await?;
        let whose = gathered.whose();
        if let Whose::One(owner) = whose {
            return Ok(ColdOutcome::Elsewhere(owner));
        }
        let Gathered { order, stocks, request, .. } = gathered;
        if let Some(order) = &order {
            check_sound(&order.image, &stocks)?;
        }
        let mut desk = Desk::new(stocks, order.into_iter().collect(), request)?;
        match (desk.state.decide(self.command, self.now), whose) {
            (Decision::Answer(outcome), Whose::Several) => Ok(unchanged(in_several_places(outcome))),
            (Decision::Answer(outcome), _) => Ok(unchanged(outcome)),
            (Decision::Log(_), Whose::Several) => Ok(unchanged(Err(Refusal::SpansShards))),
            (Decision::Log(event), _) => {
                desk.apply(&event)?;
                let outcome = Ok(desk.state.answer(&event));
                let changed = desk.write(tx).await?;
                Ok(ColdOutcome::Done { outcome, changed })
            }
        }
    }
}

fn unchanged(outcome: Outcome) -> ColdOutcome {
    ColdOutcome::Done { outcome, changed: Vec::new() }
}

/// What rests on the levels of a hot stock, which are not known here, is not said.
fn in_several_places(outcome: Outcome) -> Outcome {
    match outcome {
        Err(
            Refusal::InsufficientStock { .. }
            | Refusal::SkuSuspended { .. }
            | Refusal::LatePaymentNoStock { .. },
        ) => Err(Refusal::SpansShards),
        other => other,
    }
}

/// The rows that a command is about.
#[derive(Default)]
struct Gathered {
    order: Option<OrderEntry>,
    stocks: Vec<StockEntry>,
    request: Option<RequestImage>,
    /// Owners of SKUs that have no stock where the command looks for it, but elsewhere.
    others: Vec<Option<Owner>>,
}

/// Who decides.
#[derive(Clone, Copy)]
enum Whose {
    /// SQL.
    Nobodys,
    /// One shard.
    One(Owner),
    /// Several shards, or a shard and SQL.
    Several,
}

impl Gathered {
    fn whose(&self) -> Whose {
        let mut owners = self.stocks.iter().map(|stock| stock.owner).chain(self.others.iter().copied());
        let Some(first) = owners.next() else { return Whose::Nobodys };
        // Each SKU has its own epoch.
        let place = |owner: Option<Owner>| owner.map(|owner| (owner.server, owner.shard));
        match first {
            _ if !owners.all(|other| place(other) == place(first)) => Whose::Several,
            Some(owner) => Whose::One(owner),
            None => Whose::Nobodys,
        }
    }
}

async fn gather(tx: &mut dyn Tx, action: &Action, lock: Lock) -> Result<Gathered, SqlError> {
    match action {
        Action::CreateStock(c) => of_sku(tx, &c.sku_id, lock).await,
        Action::SetStatus(c) => of_sku(tx, &c.sku_id, lock).await,
        Action::ChangeStock(c) => of_change(tx, c, lock).await,
        Action::Reserve(c) => of_reserve(tx, c, lock).await,
        Action::Confirm(c) => of_order(tx, &c.order_no, lock).await,
        Action::Release(c) => of_order(tx, &c.order_no, lock).await,
        Action::Extend(c) => of_order(tx, &c.order_no, lock).await,
        Action::Return(c) => of_order(tx, &c.order_no, lock).await,
        Action::GetOrder(order_no) => of_order(tx, order_no, lock).await,
        Action::Expire(order_no) => of_order(tx, order_no, lock).await,
        Action::Home(_) => todo!("TODO(sql)"),
        Action::Place(_) => Ok(Gathered::default()),
    }
}

async fn of_sku(tx: &mut dyn Tx, sku_id: &SkuId, lock: Lock) -> Result<Gathered, SqlError> {
    Ok(Gathered { stocks: load_sku(tx, sku_id, lock).await?, ..Gathered::default() })
}

async fn of_change(tx: &mut dyn Tx, c: &ChangeStock, lock: Lock) -> Result<Gathered, SqlError> {
    let mut stocks = load_stocks(tx, &[(c.sku_id.clone(), c.warehouse_id)], lock).await?;
    if stocks.is_empty() {
        // The others of the SKU tell whether a shard decides.
        stocks = load_sku(tx, &c.sku_id, lock).await?;
    }
    let sql = format!("{} sku_id = ? AND request_id = ?", rows::select_stock_requests());
    let found = tx.rows(&sql, vec![(&c.sku_id).into(), (&c.request_id).into()]).await?;
    let request = found.first().map(request_image).transpose()?;
    Ok(Gathered { stocks, request, ..Gathered::default() })
}

async fn of_order(tx: &mut dyn Tx, order_no: &OrderNo, lock: Lock) -> Result<Gathered, SqlError> {
    let Some(order) = load_orders(tx, std::slice::from_ref(order_no), lock).await?.pop() else {
        return Ok(Gathered::default());
    };
    let stocks = load_stocks(tx, &rows::stocks_of([&order.image]), lock).await?;
    Ok(Gathered { order: Some(order), stocks, ..Gathered::default() })
}

async fn of_reserve(tx: &mut dyn Tx, c: &Reserve, lock: Lock) -> Result<Gathered, SqlError> {
    let known = of_order(tx, &c.order_no, lock).await?;
    if known.order.is_some() {
        return Ok(known);
    }
    let lines = c.lines.as_slice();
    let keys = in_key_order(lines.iter().map(|line| (line.sku_id.clone(), line.warehouse_id)).collect());
    let stocks = load_stocks(tx, &keys, lock).await?;
    let mut others = Vec::new();
    if stocks.len() < keys.len() {
        let there = |sku_id: &SkuId| stocks.iter().any(|stock| stock.image.sku_id == *sku_id);
        let missing =
            in_key_order(keys.into_iter().map(|(sku_id, _)| sku_id).filter(|id| !there(id)).collect());
        others = load_skus(tx, &missing, Lock::No).await?.into_iter().map(|stock| stock.owner).collect();
    }
    Ok(Gathered { stocks, others, ..Gathered::default() })
}
