//! SKUs, ended orders and stock requests leave memory and come back: nobody can tell.

use hotstock_engine::clock::Timestamp;
use hotstock_engine::event::{Change, Event};
use hotstock_engine::ids::{Epoch, Lsn, ShardId, SkuId, WarehouseId, shard_of};
use hotstock_engine::image::StockImage;
use hotstock_engine::limits::{MAX_EVICTED_ENTRIES, MAX_LOADED_PER_EVENT, MAX_PINNED_PER_EVENT};
use hotstock_engine::outcome::Refusal;
use hotstock_engine::state::{Sizes, State};
use hotstock_engine::units::Levels;

use crate::shop::{Shop, story};

fn sku(name: &str) -> SkuId {
    SkuId::new(name).unwrap()
}

#[test]
fn an_idle_sku_leaves_and_comes_back() {
    story(
        "create A 10                    -> created A 10/0/0
         create A@2 5                   -> created A@2 5/0/0
         reserve O1 A:2 A@2:1           -> created reserved A:2[held 2] A@2:1[held 1]
         confirm O1                     -> changed confirmed A:2[confirmed 2] A@2:1[confirmed 1]
         restock A 3 R1                 -> changed A 11/0/2
         suspend A@2                    -> changed A@2 4/0/1 suspended
         evict A                        -> left A.R1 O1
         here A                         -> false
         levels A                       -> 11/0/2
         restart                        ->
         here A                         -> false
         reserve O2 A:1                 -> created reserved A:1[held 1]
         reserve O3 A@2:1               -> sku_suspended A
         levels A                       -> 10/1/2
         levels A@2                     -> 4/0/1
         evict A                        -> stays
         restock A 3 R1                 -> replayed A 11/0/2
         restock A 4 R1                 -> request_mismatch
         reserve O1 A:2 A@2:1           -> replayed confirmed A:2[confirmed 2] A@2:1[confirmed 1]
         return O1 R1 A:1               -> changed partially_returned A:2[confirmed 2 returned 1] A@2:1[confirmed 1]
         levels A                       -> 11/1/1
         create A 10                    -> replayed A 11/1/1
         create A 9                     -> stock_exists 10
         create A@3 7                   -> created A@3 7/0/0
         release O2                     -> changed released A:1[released 1]
         evict A                        -> left A.R1 O1 O2
         create A@3 7                   -> replayed A@3 7/0/0",
    );
}

/// The order comes with its SKU, and only it.
#[test]
fn an_order_of_an_evicted_sku_comes_back_alone() {
    story(
        "create A 10                    -> created A 10/0/0
         reserve O1 A:2                 -> created reserved A:2[held 2]
         reserve O2 A:3                 -> created reserved A:3[held 3]
         confirm O1                     -> changed confirmed A:2[confirmed 2]
         confirm O2                     -> changed confirmed A:3[confirmed 3]
         evict A                        -> left O1 O2
         return O1 R1                   -> changed returned A:2[confirmed 2 returned 2]
         levels A                       -> 7/0/3
         evict A                        -> left O1
         return O1 R1                   -> replayed returned A:2[confirmed 2 returned 2]
         return O1 R2                   -> nothing_to_return A 0 of 2
         return O2 R1 A:3               -> changed returned A:3[confirmed 3 returned 3]
         levels A                       -> 10/0/0
         get O9                         -> unknown_order
         confirm O9                     -> unknown_order",
    );
}

#[test]
fn an_evicted_order_is_paid_late() {
    story(
        "create A 4                     -> created A 4/0/0
         reserve O1 A:2 ttl=1           -> created reserved A:2[held 2]
         reserve O2 A:2 ttl=1           -> created reserved A:2[held 2]
         wait 1000                      ->
         expire                         -> O1 O2
         evict A                        -> left O1 O2
         confirm O1                     -> changed confirmed A:2[confirmed 2]
         deduct A 1 R1                  -> changed A 1/0/2
         evict A                        -> left A.R1 O1
         confirm O2                     -> late_payment_no_stock A 1 of 2
         confirm O1                     -> replayed confirmed A:2[confirmed 2]
         levels A                       -> 1/0/2",
    );
}

/// An order that lies on several SKUs leaves with the first of them; what it sold of the others stays counted there.
#[test]
fn skus_that_share_an_order_leave_one_by_one() {
    story(
        "create A 5                     -> created A 5/0/0
         create B 5                     -> created B 5/0/0
         reserve O1 A:1 B:2             -> created reserved A:1[held 1] B:2[held 2]
         evict A                        -> stays
         confirm O1 A:1                 -> changed partially_confirmed A:1[confirmed 1] B:2[held 2]
         evict A                        -> stays
         confirm O1                     -> changed confirmed A:1[confirmed 1] B:2[confirmed 2]
         evict A                        -> left O1
         levels B                       -> 3/0/2
         reserve O2 B:1                 -> created reserved B:1[held 1]
         get O1                         -> replayed confirmed A:1[confirmed 1] B:2[confirmed 2]
         here A                         -> true
         evict B                        -> stays
         release O2                     -> changed released B:1[released 1]
         evict B                        -> left O1 O2
         evict A                        -> left
         return O1 R1 B:1               -> changed partially_returned A:1[confirmed 1] B:2[confirmed 2 returned 1]
         levels A                       -> 4/0/1
         levels B                       -> 4/0/1",
    );
}

#[test]
fn what_is_pinned_stays() {
    story(
        "create A 5                     -> created A 5/0/0
         pin A                          -> changed
         pin A                          -> replayed
         pin B                          -> unknown_sku B
         evict A                        -> stays
         create A@2 5                   -> created A@2 5/0/0
         restart                        ->
         evict A                        -> stays
         unpin A                        -> changed
         unpin A                        -> replayed
         evict A                        -> left
         pin A                          -> changed
         here A                         -> true
         evict A                        -> stays",
    );
}

/// Nothing leaves that the store has not taken in.
#[test]
fn what_is_not_flushed_stays() {
    let mut shop = Shop::default();
    shop.tell(
        "create A 5                     -> created A 5/0/0
         reserve O1 A:1                 -> created reserved A:1[held 1]
         confirm O1                     -> changed confirmed A:1[confirmed 1]
         release O2                     -> changed cancelled",
    );
    let mut evict = |flushed| shop.state.next_eviction(Lsn(flushed), |_| true, |_| false, shop.clock);
    assert_eq!((evict(0), evict(1), evict(2)), (None, None, None));
    let change = evict(3).map(|event| event.change);
    let Some(Change::Evicted { through, .. }) = change else { panic!("{change:?}") };
    assert_eq!(through, Lsn(3));
    shop.tell("evict A -> left O1");
    assert_eq!(shop.state.departed(), Lsn(3));
    assert_eq!(shop.replayed().departed(), Lsn(3));
}

/// Which SKU leaves: one that was not used since the hand last passed, before one that was.
#[test]
fn the_least_used_leaves_first() {
    let mut shop = Shop::default();
    shop.tell(
        "create A 9                     -> created A 9/0/0
         create B 9                     -> created B 9/0/0
         create C 9                     -> created C 9/0/0",
    );
    for n in 0..3 {
        shop.tell(&format!("restock A 1 R{n} -> changed A {}/0/0", 10 + n));
        shop.tell(&format!("restock C 1 R{n} -> changed C {}/0/0", 10 + n));
    }
    shop.flush();
    let mut left = Vec::new();
    while let Some(event) = shop.state.next_eviction(shop.rows.flushed, |_| true, |_| false, shop.clock) {
        let Change::Evicted { sku_id, .. } = &event.change else { panic!("{event:?}") };
        left.push(sku_id.to_string());
        shop.log(event);
        // Asked for, and refused: it is in use all the same.
        shop.state.note_use(&crate::shop::action_of(&["reserve", "O9", "C:99"]).into());
    }
    assert_eq!(left, ["B", "A", "C"]);
    assert_eq!(shop.state.sizes(), Sizes::default());
    assert_eq!(shop.state.take_left().len(), 3);
    shop.check();
}

/// Numbers of stocks that left are used again; whoever follows takes what left before what changed.
#[test]
fn a_stock_takes_the_number_of_one_that_left() {
    let mut shop = Shop::default();
    shop.tell(
        "create A 5                     -> created A 5/0/0
         create B 5                     -> created B 5/0/0",
    );
    shop.state.take_touched();
    shop.tell(
        "restock A 1 R1                 -> changed A 6/0/0
         evict A                        -> left A.R1
         create C 7                     -> created C 7/0/0
         reserve O1 C:1 B:1             -> created reserved C:1[held 1] B:1[held 1]",
    );
    let left = shop.state.take_left();
    let touched = shop.state.take_touched();
    let mut names: Vec<_> =
        touched.iter().map(|number| shop.state.stock_view(*number).sku_id.to_string()).collect();
    assert!(touched.contains(&left[0].number));
    names.sort();
    assert_eq!((left.len(), left[0].sku_id.as_str(), names.join(" ")), (1, "A", "B C".to_owned()));
    shop.check();
}

/// One on which very much lies waits until that is forgotten: its event stays small.
#[test]
fn a_sku_with_many_orders_waits() {
    let mut shop = Shop::default();
    shop.tell("create A 5000 -> created A 5000/0/0");
    for n in 0..=MAX_EVICTED_ENTRIES {
        shop.tell(&format!("reserve O{n} A:1 -> created reserved A:1[held 1]"));
        shop.tell(&format!("release O{n} -> changed released A:1[released 1]"));
    }
    shop.tell(
        "evict A                        -> stays
         wait 1                         ->",
    );
    let most = MAX_EVICTED_ENTRIES;
    assert!(!shop.say(&format!("forget 99999 {most}")).is_empty());
    assert!(shop.say("evict A").starts_with("left"));
    shop.check();
}

/// Whatever the store hands over: it is refused, or it can be applied.
#[test]
fn stocks_that_make_no_sense_are_not_loaded() {
    let mut shop = Shop::default();
    shop.tell(
        "create A 10                    -> created A 10/0/0
         create A@2 5                   -> created A@2 5/0/0
         reserve O1 A:2                 -> created reserved A:2[held 2]
         confirm O1                     -> changed confirmed A:2[confirmed 2]
         evict A                        -> left O1",
    );
    let sound = shop.rows.sku(&sku("A"));
    let refused = |change: fn(&mut Vec<StockImage>)| {
        let mut stocks = sound.clone();
        change(&mut stocks);
        let outcome = shop.state.decide_loaded(&sku("A"), &stocks);
        assert!(matches!(outcome, Err(Refusal::StockInconsistent { .. })), "{outcome:?}");
    };
    refused(Vec::clear);
    refused(|stocks| stocks[0].levels.available += 1);
    refused(|stocks| stocks[0].supplied -= 1);
    refused(|stocks| stocks[0].sku_id = sku("B"));
    refused(|stocks| stocks.extend_from_within(..));
    refused(|stocks| stocks[1].warehouse_id = WarehouseId(1));
    refused(|stocks| stocks[0].levels.sold = u64::MAX);
    refused(|stocks| stocks[0].levels.version = u64::MAX);
    refused(|stocks| stocks[0].levels.version = 0);
    refused(|stocks| stocks[0].initial = u64::MAX);
    refused(|stocks| stocks[0].numbered = Some(2));
    refused(|stocks| stocks[0].levels = Levels { available: 6, reserved: 2, ..stocks[0].levels });
    // Any row that says so keeps the SKU.
    let mut hot = sound.clone();
    hot[0].hot = true;
    let Ok(Some(Change::Loaded { stocks, .. })) = shop.state.decide_loaded(&sku("A"), &hot) else {
        panic!("it is sound")
    };
    assert!(stocks.iter().all(|stock| stock.hot && stock.forgotten_sold == stock.levels.sold));
}

#[test]
fn orders_that_make_no_sense_are_not_loaded() {
    let mut shop = Shop::default();
    shop.tell(
        "create A 10                    -> created A 10/0/0
         create B 10                    -> created B 10/0/0
         reserve O1 A:2 B:1             -> created reserved A:2[held 2] B:1[held 1]
         confirm O1                     -> changed confirmed A:2[confirmed 2] B:1[confirmed 1]
         restock A 1 R1                 -> changed A 9/0/2
         wait 1                         ->
         forget 0 9                     -> O1",
    );
    let sound = shop.rows.orders.values().next().unwrap().clone();
    let refused = |change: fn(&mut hotstock_engine::image::OrderImage)| {
        let mut order = sound.clone();
        change(&mut order);
        let outcome = shop.state.decide_orders_loaded(&[order], &[]);
        let refused = matches!(
            outcome,
            Err(Refusal::StockInconsistent { .. }
                | Refusal::OrderInconsistent { .. }
                | Refusal::UnknownSku { .. }
                | Refusal::InvalidField(_))
        );
        assert!(refused, "{outcome:?}");
    };
    refused(|order| (order.lines[0].held, order.lines[0].confirmed) = (1, 1));
    refused(|order| order.lines[0].confirmed = 3);
    refused(|order| order.lines[0].returned = 3);
    refused(|order| order.lines[0].lapsed = 1);
    refused(|order| order.lines[1] = order.lines[0].clone());
    refused(|order| order.lines[1].sku_id = sku("C"));
    refused(|order| order.lines[1].warehouse_id = WarehouseId(9));
    refused(|order| order.lines.clear());
    refused(|order| order.phase = hotstock_engine::order::Phase::Cancelled);
    // Twice as much as was ever sold.
    refused(|order| (order.lines[0].quantity, order.lines[0].confirmed) = (4, 4));
    let many = vec![sound.clone(); MAX_LOADED_PER_EVENT + 1];
    assert!(matches!(shop.state.decide_orders_loaded(&many, &[]), Err(Refusal::InvalidField(_))));
    let mut request = shop.rows.requests.values().next().unwrap().clone();
    request.warehouse_id = WarehouseId(9);
    assert!(matches!(shop.state.decide_orders_loaded(&[], &[request]), Err(Refusal::UnknownSku { .. })));
    // What is here is left out, and so is what comes twice.
    let twice = [sound.clone(), sound];
    let change = shop.state.decide_orders_loaded(&twice, &[]).unwrap().unwrap();
    shop.log(shop.state.event(change, shop.clock));
    assert_eq!(shop.state.decide_orders_loaded(&twice, &[]), Ok(None));
    shop.check();
}

/// SKUs and orders of other shards don't come here.
#[test]
fn what_is_not_of_this_shard_is_refused() {
    let names = ["a", "b", "c", "d"].map(sku);
    let [here, there] =
        [0, 1].map(|id| names.iter().find(|name| shard_of(name, 2) == ShardId(id)).unwrap().clone());
    let image = |sku_id: &SkuId| StockImage {
        sku_id: sku_id.clone(),
        warehouse_id: WarehouseId(1),
        levels: Levels { available: 3, reserved: 0, sold: 0, version: 1 },
        status: hotstock_engine::command::StockStatus::OnSale,
        initial: 3,
        supplied: 3,
        forgotten_sold: 0,
        lsn: Lsn(7),
        hot: false,
        numbered: None,
    };
    let state = State::with_few(ShardId(0), 2);
    assert!(matches!(state.decide_loaded(&here, &[image(&here)]), Ok(Some(_))));
    assert!(matches!(state.decide_loaded(&there, &[image(&there)]), Err(Refusal::StockInconsistent { .. })));
    assert!(matches!(state.decide_pinned(&[here], true), Err(Refusal::UnknownSku { .. })));
    let many = vec![there; MAX_PINNED_PER_EVENT + 1];
    assert!(matches!(state.decide_pinned(&many, true), Err(Refusal::InvalidField(_))));
}

/// A journal that says otherwise is refused.
#[test]
fn an_event_that_does_not_fit_is_refused() {
    let mut shop = Shop::default();
    shop.tell(
        "create A 10                    -> created A 10/0/0
         reserve O1 A:2                 -> created reserved A:2[held 2]
         confirm O1                     -> changed confirmed A:2[confirmed 2]
         evict A                        -> left O1
         get O1                         -> replayed confirmed A:2[confirmed 2]",
    );
    let started = shop.state.event(shop.state.decide_started(Epoch(3)), Timestamp(0));
    shop.log(started);
    let replay = |log: &[Event]| {
        let mut state = State::new(ShardId(0), 1);
        log.iter().try_for_each(|event| state.apply(state.applied().next(), event))
    };
    replay(&shop.log).expect("as it is, it fits");
    let refused_at = |index: usize, change: &dyn Fn(&mut Change)| {
        let mut log = shop.log.clone();
        change(&mut log[index].change);
        let refused = replay(&log).expect_err("it does not fit");
        assert_eq!(refused.lsn, Lsn(index as u64 + 1), "{refused}");
    };
    refused_at(2, &|change| {
        let Change::Confirmed { lines, .. } = change else { panic!("{change:?}") };
        lines[0].counts.confirmed += 1;
    });
    refused_at(2, &|change| {
        let Change::Confirmed { after, .. } = change else { panic!("{change:?}") };
        after.requests += 1;
    });
    refused_at(3, &|change| {
        let Change::Evicted { through, .. } = change else { panic!("{change:?}") };
        *through = Lsn(2);
    });
    refused_at(3, &|change| {
        let Change::Evicted { orders, .. } = change else { panic!("{change:?}") };
        orders.clear();
    });
    refused_at(4, &|change| {
        let Change::Loaded { stocks, .. } = change else { panic!("{change:?}") };
        stocks[0].levels.available += 1;
    });
    refused_at(4, &|change| {
        let Change::Loaded { stocks, .. } = change else { panic!("{change:?}") };
        stocks[0].forgotten_sold = 0;
    });
    refused_at(5, &|change| {
        let Change::OrdersLoaded { orders, .. } = change else { panic!("{change:?}") };
        orders[0].lines[0].confirmed = 3;
    });
    let mut twice = shop.log.clone();
    twice.insert(5, twice[4].clone());
    assert_eq!(replay(&twice).expect_err("it is here").lsn, Lsn(6));
}
