//! What must hold when everything has come to rest, and of every answer.

use std::collections::BTreeMap;

use hotstock_engine::checkpoint::{OrderImage, StockImage};
use hotstock_engine::command::{Action, Command, StockStatus};
use hotstock_engine::home::HomeImage;
use hotstock_engine::ids::{Branch, OrderNo};
use hotstock_engine::outcome::{OrderView, Outcome, Refusal, ShortLine};

use crate::naive::Place;
use crate::shard::Shard;
use crate::world::World;

/// A refusal for want of stock names what really was so, at some moment since the call.
pub fn explain(world: &World, command: &Command, since: u64, outcome: &Outcome) {
    let is_short = |line: &ShortLine| {
        let place = (line.sku_id.clone(), line.warehouse_id);
        let so = world.was(&place, since, |available, status| {
            let suspended = status == StockStatus::Suspended;
            let said = line.available == available || (suspended && line.available == 0);
            said && (suspended || available < line.requested)
        });
        assert!(
            so,
            "{command:?} since {since}: {line:?} of {outcome:?} never was so: {:?}",
            world.levels.get(&place)
        );
    };
    match outcome {
        Err(Refusal::InsufficientStock { lines } | Refusal::LatePaymentNoStock { lines }) => {
            assert!(!lines.is_empty(), "{command:?}: {outcome:?} names nothing");
            lines.iter().for_each(is_short);
        }
        Err(Refusal::SkuSuspended { sku_id, warehouse_id }) => {
            let place = (sku_id.clone(), *warehouse_id);
            assert!(
                world.was(&place, since, |_, status| status == StockStatus::Suspended),
                "{command:?}: {outcome:?}"
            );
        }
        Err(Refusal::UnknownSku { sku_id, .. }) => {
            assert!(world.supplied.keys().all(|place| place.0 != *sku_id), "{command:?}: {outcome:?}");
        }
        Err(Refusal::HoldFirst(_)) => {
            panic!("{command:?} is told {outcome:?}");
        }
        _ => {}
    }
    let is_reserve = matches!(command.action, Action::Reserve(_));
    assert!(is_reserve || !matches!(outcome, Err(Refusal::SkuSuspended { .. })), "{command:?}: {outcome:?}");
}

/// Everything is where the model says, in every place; nothing is under way.
pub fn at_rest(world: &World) {
    for shard in &world.shards {
        let live = Shard::contents(&shard.state);
        assert_eq!(live, Shard::contents(&shard.replayed()), "shard {}: live (left) and replayed", shard.id);
        assert_eq!(shard.flushed(), shard.journal.len(), "everything is flushed");
        follows(world, shard);
    }
    assert!(
        world.claims.is_empty() && world.locked.is_empty() && world.under_way.is_empty(),
        "something is under way"
    );
    let mut held: BTreeMap<Place, u64> = BTreeMap::new();
    let mut sold: BTreeMap<Place, u64> = BTreeMap::new();
    for order in world.orders.values() {
        for line in order.view_lines() {
            let place = (line.sku_id.clone(), line.warehouse_id);
            *held.entry(place.clone()).or_default() += u64::from(line.held);
            *sold.entry(place).or_default() += u64::from(line.confirmed - line.returned);
        }
    }
    for (place, supplied) in &world.supplied {
        let (levels, _) = world.stock(place).expect("every stock is somewhere");
        let expected = (held.get(place).copied().unwrap_or(0), sold.get(place).copied().unwrap_or(0));
        assert_eq!(
            (levels.reserved, levels.sold),
            expected,
            "reserved and sold of {place:?} and (right) by the model"
        );
        assert_eq!(i64::try_from(levels.quantity()), Ok(*supplied), "units of {place:?}: {levels:?}");
    }
    for (order_no, order) in &world.orders {
        let expected = order.view(order_no);
        assert_eq!(view(world, order_no), Some(expected), "(left: the engine, right: the model)");
    }
    homes_agree(world);
}

/// Nothing is held any more.
pub fn all_over(world: &World) {
    for (order_no, order) in &world.orders {
        assert!(!order.is_open(), "{order_no} is still open at {:?}: {order:?}", world.clock);
    }
    for row in world.shards.iter().flat_map(|shard| shard.rows.orders.values()) {
        assert!(!row.is_open(), "it still holds units at {:?}: {row:?}", world.clock);
    }
}

/// The rows of a shard are what it has in memory, and what it has not there is known to have left it.
fn follows(world: &World, shard: &Shard) {
    for (order_no, row) in &shard.rows.orders {
        match shard.state.image_of_order(order_no) {
            // One that came back has the LSN of that.
            Some(live) => assert_eq!(*row, OrderImage { lsn: row.lsn, ..live }),
            None => assert!(world.known.orders.contains(order_no), "{order_no:?} left and is not known"),
        }
    }
    for (order_no, row) in &shard.rows.homes {
        match shard.state.image_of_home(order_no) {
            Some(mut live) => {
                live.order.lsn = row.order.lsn;
                // That it came back is an event of the store, too.
                assert_eq!(*row, live);
            }
            None => assert!(world.known.orders.contains(order_no), "{order_no:?} left and is not known"),
        }
    }
    for stocks in shard.rows.stocks.values() {
        for row in stocks.values() {
            let Some(live) = shard.state.image_of_stock(&row.sku_id, row.warehouse_id) else { continue };
            let (lsn, forgotten_sold) = (row.lsn, row.forgotten_sold);
            assert_eq!(*row, StockImage { lsn, forgotten_sold, ..live });
        }
    }
}

/// What a caller would be shown.
fn view(world: &World, order_no: &OrderNo) -> Option<OrderView> {
    if let Some(shard) = world.known_at(order_no) {
        return world.shards[shard].state.order(order_no).map(|(_, view)| view);
    }
    let (plain, home) = (world.image_of(order_no), world.image_of_home(order_no));
    assert!(plain.is_none() || home.is_none(), "{order_no} lies in one place and over several");
    plain.or(home.map(|home| home.order)).map(|image| image.view())
}

/// Every branch is as its home says, and every branch that holds units has a home that says so.
fn homes_agree(world: &World) {
    let stored = || world.shards.iter().map(|shard| &shard.rows);
    for order_no in stored().flat_map(|rows| rows.homes.keys()) {
        assert!(world.image_of(order_no).is_none(), "{order_no} lies in one place and over several");
        let image = world.image_of_home(order_no).expect("it is stored");
        assert!(image.pending.is_empty(), "{order_no}: nobody tells {:?}", image.pending);
        for share in &image.shares {
            let line = &image.order.lines[usize::from(share.line)];
            let number = branch(&image, share.line, share.attempt).number();
            let known =
                world.image_of(&number).unwrap_or_else(|| panic!("{number:?} of {share:?} is nowhere"));
            let lying =
                known.lines.iter().find(|l| (&l.sku_id, l.warehouse_id) == (&line.sku_id, line.warehouse_id));
            let lying = lying.map(|l| (l.held, l.confirmed, l.released, l.returned));
            let said = (share.held, share.confirmed, share.released, share.returned);
            assert_eq!(lying, Some(said), "{number:?}: as it lies there, and (right) as its home says");
        }
    }
    for row in
        stored().flat_map(|rows| rows.orders.values()).filter(|row| row.order_no.is_branch() && row.is_open())
    {
        let branch = row.order_no.branch().expect("it is one");
        let home = world.image_of_home(&branch.order_no);
        let knows = home.is_some_and(|home| home.knows_attempt(branch.attempt));
        assert!(knows, "{branch:?} holds units, and no home knows of it");
    }
}

fn branch(home: &HomeImage, line: u16, attempt: hotstock_engine::ids::AttemptId) -> Branch {
    let sku_id = home.order.lines[usize::from(line)].sku_id.clone();
    Branch { order_no: home.order.order_no.clone(), sku_id, attempt }
}
