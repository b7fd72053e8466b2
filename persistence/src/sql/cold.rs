//! Commands on cold SKUs and on orders that SQL decides: one, or those for the branches of one order in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use hotstock_engine::checkpoint::{OrderImage, RequestImage};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Action, ChangeStock, Command};
use hotstock_engine::ids::{OrderNo, ServerId, SkuId, shard_of_order};
use hotstock_engine::outcome::{Outcome, Refusal};
use hotstock_engine::state::Decision;
use hotstock_engine::store::{ColdOutcome, Owner, StoreError};

use super::desk::{Desk, check_sound};
use super::dialect::{Access, Tx};
use super::error::{SqlError, broken};
use super::rows::{
    self, HomeEntry, Lock, OrderEntry, StockEntry, StockKey, find_orders, in_key_order, load_sku, load_skus,
    load_stocks, request_image, serialized_skus, write_split,
};
use super::{SqlStore, Work};

/// See [`Store::submit`](hotstock_engine::store::Store::submit).
pub(super) async fn submit(
    store: &SqlStore,
    command: &Command,
    now: Timestamp,
) -> Result<ColdOutcome, StoreError> {
    let mut outcomes = twice(store, std::slice::from_ref(command), now).await?;
    outcomes.pop().ok_or_else(|| broken("a command without an outcome"))
}

/// See [`Store::submit_all`](hotstock_engine::store::Store::submit_all).
pub(super) async fn submit_all(
    store: &SqlStore,
    commands: &[Command],
    now: Timestamp,
) -> Result<Vec<ColdOutcome>, StoreError> {
    if commands.iter().all(|command| command.order_no().is_some()) {
        return if commands.is_empty() { Ok(Vec::new()) } else { twice(store, commands, now).await };
    }
    let mut outcomes = Vec::with_capacity(commands.len());
    for command in commands {
        outcomes.push(submit(store, command, now).await?);
    }
    Ok(outcomes)
}

async fn twice(
    store: &SqlStore,
    commands: &[Command],
    now: Timestamp,
) -> Result<Vec<ColdOutcome>, StoreError> {
    let first = once(store, commands, now).await;
    let Err(StoreError::OutcomeUnknown(problem)) = first else { return first };
    // If it took effect the first time, this says so.
    let second = once(store, commands, now).await;
    second.map_err(|_| StoreError::OutcomeUnknown(problem))
}

async fn once(
    store: &SqlStore,
    commands: &[Command],
    now: Timestamp,
) -> Result<Vec<ColdOutcome>, StoreError> {
    let is_shards = |command: &Command| matches!(command.action, Action::Place(_) | Action::Home(_));
    if commands.iter().any(is_shards) {
        return Err(broken("moves, and orders over several places, are not decided by SQL"));
    }
    let decide = Decide { commands, now, server: store.server, shards: store.shards };
    let reads = commands.iter().all(|command| matches!(command.action, Action::GetOrder(_)));
    if reads { store.run(&Look(decide)).await } else { store.run(&decide).await }
}

/// Commands in a transaction that may change something: one, or any number about orders.
struct Decide<'a> {
    commands: &'a [Command],
    now: Timestamp,
    server: ServerId,
    shards: u16,
}

/// Commands that only read.
struct Look<'a>(Decide<'a>);

impl Work for Decide<'_> {
    type Done = Vec<ColdOutcome>;

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        self.carry_out(tx, Lock::Yes).await
    }
}

impl Work for Look<'_> {
    type Done = Vec<ColdOutcome>;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        self.0.carry_out(tx, Lock::No).await
    }
}

/// What became of one command before anything is written.
enum Step {
    Ended(ColdOutcome),
    /// It moved these stocks.
    Moved(Outcome, Vec<StockKey>),
}

impl Decide<'_> {
    async fn carry_out(&self, tx: &mut dyn Tx, lock: Lock) -> Result<Vec<ColdOutcome>, SqlError> {
        let gathered = gather(tx, self.commands, lock).await?;
        let places: Vec<_> = self.commands.iter().map(|command| gathered.whose(command)).collect();
        let Gathered { orders, homes, stocks, request, .. } = gathered;
        let is_shards = |order_no: &OrderNo| {
            let about = |(command, _): &(&Command, &Whose)| command.order_no() == Some(order_no);
            let place = self.commands.iter().zip(&places).find(about);
            place.is_some_and(|(_, whose)| matches!(whose, Whose::One(_)))
        };
        // Orders of shards are not looked at.
        let orders: Vec<_> = orders.into_values().filter(|order| !is_shards(&order.image.order_no)).collect();
        for order in &orders {
            check_sound(&order.image, &stocks)?;
        }
        let apart: BTreeMap<OrderNo, OrderImage> = match places
            .iter()
            .any(|whose| matches!(whose, Whose::Several(_)))
        {
            true => orders.iter().map(|order| (order.image.order_no.clone(), order.image.clone())).collect(),
            false => BTreeMap::new(),
        };
        let mut desk = Desk::new(stocks, orders, request)?;
        let mut steps = Vec::with_capacity(self.commands.len());
        for (command, whose) in self.commands.iter().zip(places) {
            if let Some(home) = command.order_no().and_then(|order_no| homes.get(order_no)) {
                steps.push(Step::Ended(ColdOutcome::Home(Box::new(home.clone().stored()))));
                continue;
            }
            if let Whose::One(owner) = whose {
                steps.push(Step::Ended(ColdOutcome::Elsewhere(owner)));
                continue;
            }
            let step = match (desk.state.decide(command, self.now), whose) {
                (Decision::Answer(outcome), Whose::Several(owners)) if rests_on_levels(&outcome) => {
                    self.come_apart(tx, command, owners, &apart).await?
                }
                (Decision::Log(_), Whose::Several(owners)) => {
                    self.come_apart(tx, command, owners, &apart).await?
                }
                (Decision::Answer(outcome), _) => Step::Moved(outcome, Vec::new()),
                (Decision::Log(event), _) => {
                    let moved = desk.apply(&event)?;
                    Step::Moved(Ok(desk.state.answer(&event)), moved)
                }
            };
            steps.push(step);
        }
        // A transaction that only reads has nothing to write.
        let changed = if lock == Lock::Yes { desk.write(tx, self.server).await? } else { Vec::new() };
        let outcome = |step| match step {
            Step::Ended(outcome) => outcome,
            Step::Moved(outcome, moved) => {
                let is_moved = |key: &StockKey| moved.contains(key);
                let views = changed.iter().filter(|view| is_moved(&(view.sku_id.clone(), view.warehouse_id)));
                ColdOutcome::Done { outcome, changed: views.cloned().collect() }
            }
        };
        Ok(steps.into_iter().map(outcome).collect())
    }

    /// A command that would change something in several places. An order that is known becomes one over several, whose home
    /// decides: on the server that has the others of its SKUs. One that is new is not for SQL alone.
    async fn come_apart(
        &self,
        tx: &mut dyn Tx,
        command: &Command,
        owners: Vec<Owner>,
        orders: &BTreeMap<OrderNo, OrderImage>,
    ) -> Result<Step, SqlError> {
        let first = *owners.first().ok_or_else(|| broken("several places without an owner"))?;
        let order = command.order_no().and_then(|order_no| orders.get(order_no));
        let alone = owners.iter().all(|owner| owner.server == first.server);
        let Some(order) = order.filter(|_| alone) else {
            return Ok(Step::Ended(ColdOutcome::Elsewhere(first)));
        };
        let known = if first.server == self.server { None } else { shards_of(tx, first.server).await? };
        let shards = known.unwrap_or(self.shards);
        let home = |order_no: &OrderNo| shard_of_order(order_no, shards);
        let homes = write_split(tx, vec![order.clone()], first.server, home).await?;
        let home = homes.into_iter().next().ok_or_else(|| broken("an order that was split got lost"))?;
        Ok(Step::Ended(ColdOutcome::Home(Box::new(home.stored()))))
    }
}

/// How many shards a server has, as it said when it last opened the store.
async fn shards_of(tx: &mut dyn Tx, server: ServerId) -> Result<Option<u16>, SqlError> {
    let rows = tx.rows("SELECT shards FROM servers WHERE server_id = ?", vec![server.into()]).await?;
    Ok(rows.first().map(|row| row.fields().small()).transpose()?)
}

/// What rests on the levels of a hot stock, which are not known here, is not said.
fn rests_on_levels(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Err(Refusal::InsufficientStock { .. }
            | Refusal::SkuSuspended { .. }
            | Refusal::LatePaymentNoStock { .. })
    )
}

/// The rows that commands are about.
#[derive(Default)]
struct Gathered {
    orders: BTreeMap<OrderNo, OrderEntry>,
    homes: BTreeMap<OrderNo, HomeEntry>,
    /// By key.
    stocks: Vec<StockEntry>,
    request: Option<RequestImage>,
    /// SKUs that have no stock where a command looks for it, but elsewhere.
    others: Vec<StockEntry>,
}

/// Who decides.
enum Whose {
    /// SQL.
    Nobodys,
    /// One shard.
    One(Owner),
    /// Several shards, or a shard and SQL; the shards.
    Several(Vec<Owner>),
}

impl Gathered {
    fn whose(&self, command: &Command) -> Whose {
        let order = command.order_no().and_then(|order_no| self.orders.get(order_no));
        let skus: Option<BTreeSet<&SkuId>> = match (order, &command.action) {
            (Some(order), _) => Some(order.image.lines.iter().map(|line| &line.sku_id).collect()),
            (None, Action::Reserve(c)) => Some(c.lines.as_slice().iter().map(|line| &line.sku_id).collect()),
            // Nothing is there to look at, or all that was gathered is.
            (None, _) => None,
        };
        let about = |stock: &&StockEntry| match &skus {
            Some(skus) => skus.contains(&stock.image.sku_id),
            None => command.order_no().is_none(),
        };
        let mut cold = false;
        let mut owners: Vec<Owner> = Vec::new();
        // Each SKU has its own epoch.
        let place = |owner: &Owner| (owner.server, owner.shard);
        for stock in self.stocks.iter().chain(&self.others).filter(about) {
            match stock.owner {
                None => cold = true,
                Some(owner) if !owners.iter().any(|other| place(other) == place(&owner)) => {
                    owners.push(owner)
                }
                Some(_) => {}
            }
        }
        match (owners.as_slice(), cold) {
            ([], _) => Whose::Nobodys,
            ([owner], false) => Whose::One(*owner),
            _ => Whose::Several(owners),
        }
    }
}

async fn gather(tx: &mut dyn Tx, commands: &[Command], lock: Lock) -> Result<Gathered, SqlError> {
    match commands {
        [Command { action: Action::CreateStock(c), .. }] => of_sku(tx, &c.sku_id, lock).await,
        [Command { action: Action::SetStatus(c), .. }] => of_sku(tx, &c.sku_id, lock).await,
        [Command { action: Action::ChangeStock(c), .. }] => of_change(tx, c, lock).await,
        commands => of_orders(tx, commands, lock).await,
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

/// The orders that commands name, their stocks, and those that new ones would hold.
async fn of_orders(tx: &mut dyn Tx, commands: &[Command], lock: Lock) -> Result<Gathered, SqlError> {
    let order_nos = in_key_order(commands.iter().filter_map(Command::order_no).cloned().collect());
    let found = find_orders(tx, &order_nos, lock).await?;
    let mut gathered = Gathered::default();
    gathered.orders.extend(found.orders.into_iter().map(|order| (order.image.order_no.clone(), order)));
    gathered.homes.extend(found.homes.into_iter().map(|home| (home.home.order.order_no.clone(), home)));

    let mut keys: Vec<StockKey> = rows::stocks_of(gathered.orders.values().map(|order| &order.image));
    let (mut chosen, mut numbering) = (false, false);
    let mut wanted: BTreeSet<&SkuId> = BTreeSet::new();
    for command in commands {
        match &command.action {
            Action::Reserve(c) if !knows(&gathered, &c.order_no) => {
                let lines = c.lines.as_slice();
                keys.extend(lines.iter().map(|line| (line.sku_id.clone(), line.warehouse_id)));
                wanted.extend(lines.iter().map(|line| &line.sku_id));
                chosen |= c.choice.is_some();
            }
            Action::Confirm(_) => numbering = true,
            _ => {}
        }
    }
    let keys = in_key_order(keys);
    let skus = in_key_order(keys.iter().map(|(sku_id, _)| sku_id.clone()).collect());
    // The next serial number of a SKU rests on all its warehouses, and so does the choice among them. All in one go: rows are
    // locked in the order of their keys.
    let whole = chosen || (numbering && !serialized_skus(tx, &skus).await?.is_empty());
    gathered.stocks =
        if whole { load_skus(tx, &skus, lock).await? } else { load_stocks(tx, &keys, lock).await? };
    if !whole {
        let there: BTreeSet<_> = gathered.stocks.iter().map(|stock| &stock.image.sku_id).collect();
        let missing: Vec<_> = wanted.into_iter().filter(|id| !there.contains(id)).cloned().collect();
        gathered.others = load_skus(tx, &missing, Lock::No).await?;
    }
    Ok(gathered)
}

fn knows(gathered: &Gathered, order_no: &OrderNo) -> bool {
    gathered.orders.contains_key(order_no) || gathered.homes.contains_key(order_no)
}
