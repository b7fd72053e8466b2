//! Serial numbers: which unit gets which, and that none is given twice.

use hotstock_engine::event::Change;
use hotstock_engine::ids::{OrderNo, SkuId};
use hotstock_engine::image::{LineSerials, OrderImage, StockImage};
use hotstock_engine::outcome::Refusal;
use hotstock_engine::units::Serials;

use crate::several::{Several, several};
use crate::shop::{Shop, story};

/// A unit gets its number when it is sold; what was only held never had one, and what comes back keeps its own.
#[test]
fn numbers_are_given_in_the_order_of_sales() {
    story(
        "create A 9 serialized          -> created A 9/0/0 serialized
         reserve O1 A:3 ttl=1           -> created reserved A:3[held 3]
         reserve O2 A:2                 -> created reserved A:2[held 2]
         reserve O3 A:1                 -> created reserved A:1[held 1]
         confirm O2                     -> changed confirmed A:2[confirmed 2 #1-2]
         confirm O2                     -> replayed confirmed A:2[confirmed 2 #1-2]
         release O3                     -> changed released A:1[released 1]
         confirm O1 A:1 id=R1           -> changed partially_confirmed A:3[held 2 confirmed 1 #3-3]
         wait 1000                      ->
         expire                         -> O1
         return O2 R1                   -> changed returned A:2[confirmed 2 returned 2 #1-2]
         reserve O4 A:2                 -> created reserved A:2[held 2]
         confirm O4                     -> changed confirmed A:2[confirmed 2 #4-5]
         confirm O1                     -> changed confirmed A:3[confirmed 3 #3-3 #6-7]
         confirm O3                     -> changed confirmed A:1[confirmed 1 #8-8]
         restart                        ->
         confirm O1 A:1 id=R1           -> replayed confirmed A:3[confirmed 3 #3-3 #6-7]
         get O4                         -> replayed confirmed A:2[confirmed 2 #4-5]
         return O4 R1 A:1               -> changed partially_returned A:2[confirmed 2 returned 1 #4-5]
         reserve O5 A:1                 -> created reserved A:1[held 1]
         confirm O5                     -> changed confirmed A:1[confirmed 1 #9-9]",
    );
}

/// A late payment that takes both held and given back units, in one go.
#[test]
fn a_late_payment_gets_one_range() {
    story(
        "create A 5 serialized          -> created A 5/0/0 serialized
         reserve O1 A:3                 -> created reserved A:3[held 3]
         confirm O1 A:2                 -> changed partially_confirmed A:3[held 1 confirmed 2 #1-2]
         release O1                     -> changed partially_confirmed A:3[confirmed 2 released 1 #1-2]
         restock A 1 R1                 -> changed A 4/0/2 serialized
         deduct A 4 R2                  -> changed A 0/0/2 serialized
         confirm O1                     -> late_payment_no_stock A 0 of 1
         restock A 4 R3                 -> changed A 4/0/2 serialized
         restock A 1 R1                 -> replayed A 4/0/2 serialized
         confirm O1                     -> changed confirmed A:3[confirmed 3 #1-2 #3-3]",
    );
}

/// The numbers are those of the SKU, wherever it lies.
#[test]
fn warehouses_share_the_numbers() {
    story(
        "create A 9 serialized          -> created A 9/0/0 serialized
         create A@2 9 serialized        -> created A@2 9/0/0 serialized
         create B 9                     -> created B 9/0/0
         create C 9 serialized          -> created C 9/0/0 serialized
         reserve O1 A@2:2 C:1 A:3 B:1   -> created reserved A@2:2[held 2] C:1[held 1] A:3[held 3] B:1[held 1]
         reserve O2 A:1                 -> created reserved A:1[held 1]
         confirm O2                     -> changed confirmed A:1[confirmed 1 #1-1]
         confirm O1                     -> changed confirmed A@2:2[confirmed 2 #2-3] C:1[confirmed 1 #1-1] A:3[confirmed 3 #4-6] B:1[confirmed 1]
         reserve O3 A@2:2 A:2           -> created reserved A@2:2[held 2] A:2[held 2]
         confirm O3 A:1 A@2:1           -> changed partially_confirmed A@2:2[held 1 confirmed 1 #8-8] A:2[held 1 confirmed 1 #7-7]
         create A@3 1 serialized        -> created A@3 1/0/0 serialized
         reserve O4 A@3:1               -> created reserved A@3:1[held 1]
         confirm O4                     -> changed confirmed A@3:1[confirmed 1 #9-9]
         suspend A                      -> changed A 3/1/5 serialized suspended A@2 5/1/3 serialized suspended A@3 0/0/1 serialized suspended
         confirm O3                     -> changed confirmed A@2:2[confirmed 2 #8-8 #10-10] A:2[confirmed 2 #7-7 #11-11]",
    );
}

#[test]
fn all_stocks_of_a_sku_agree() {
    story(
        "create A 5 serialized          -> created A 5/0/0 serialized
         create A 5 serialized          -> replayed A 5/0/0 serialized
         create A 5                     -> invalid_field serialized
         create A 6                     -> stock_exists 5
         create A@2 5                   -> invalid_field serialized
         create A@2 5 serialized        -> created A@2 5/0/0 serialized
         create B 5                     -> created B 5/0/0
         create B 5 serialized          -> invalid_field serialized
         create B@2 5 serialized        -> invalid_field serialized
         create B@2 5                   -> created B@2 5/0/0",
    );
}

/// What is forgotten keeps its numbers.
#[test]
fn forgotten_orders_give_no_number_free() {
    story(
        "create A 9 serialized          -> created A 9/0/0 serialized
         reserve O1 A:3                 -> created reserved A:3[held 3]
         confirm O1                     -> changed confirmed A:3[confirmed 3 #1-3]
         return O1 R1                   -> changed returned A:3[confirmed 3 returned 3 #1-3]
         reserve O2 A:2                 -> created reserved A:2[held 2]
         confirm O2                     -> changed confirmed A:2[confirmed 2 #4-5]
         wait 1                         ->
         forget 0 99                    -> O1 O2
         reserve O3 A:1                 -> created reserved A:1[held 1]
         confirm O3                     -> changed confirmed A:1[confirmed 1 #6-6]
         wait 1                         ->
         evict A                        -> left O3
         get O1                         -> replayed returned A:3[confirmed 3 returned 3 #1-3]
         reserve O4 A:1                 -> created reserved A:1[held 1]
         confirm O4                     -> changed confirmed A:1[confirmed 1 #7-7]",
    );
}

/// The stocks of A, and an order with its numbers, as the store has them.
fn stored() -> (Vec<StockImage>, OrderImage) {
    let mut shop = Shop::default();
    shop.tell(
        "create A 9 serialized          -> created A 9/0/0 serialized
         create A@2 9 serialized        -> created A@2 9/0/0 serialized
         reserve O0 A@2:2               -> created reserved A@2:2[held 2]
         confirm O0                     -> changed confirmed A@2:2[confirmed 2 #1-2]
         reserve O1 A:2                 -> created reserved A:2[held 2]
         confirm O1                     -> changed confirmed A:2[confirmed 2 #3-4]",
    );
    shop.flush();
    (shop.rows.sku(&sku("A")), shop.rows.orders[&OrderNo::new("O1").unwrap()].clone())
}

fn sku(name: &str) -> SkuId {
    SkuId::new(name).unwrap()
}

fn load(shop: &mut Shop, stocks: &[StockImage]) -> Result<(), Refusal> {
    let change = shop.state.decide_loaded(&sku("A"), stocks)?.expect("it is not here");
    shop.log(shop.state.event(change, shop.clock));
    Ok(())
}

fn load_order(shop: &mut Shop, order: &OrderImage) -> Result<(), Refusal> {
    let change = shop.state.decide_orders_loaded(std::slice::from_ref(order), &[])?.expect("it is not here");
    shop.log(shop.state.event(change, shop.clock));
    Ok(())
}

/// A SKU that leaves and comes back goes on where it was, whatever warehouses it has by then, and whichever orders
/// come back with it.
#[test]
fn a_sku_comes_back_with_its_numbers() {
    story(
        "create A 9 serialized          -> created A 9/0/0 serialized
         create A@2 9 serialized        -> created A@2 9/0/0 serialized
         reserve O0 A@2:2               -> created reserved A@2:2[held 2]
         confirm O0                     -> changed confirmed A@2:2[confirmed 2 #1-2]
         evict A                        -> left O0
         create A@3 5                   -> invalid_field serialized
         create A@3 5 serialized        -> created A@3 5/0/0 serialized
         reserve O2 A@3:1               -> created reserved A@3:1[held 1]
         evict A                        -> stays
         confirm O2                     -> changed confirmed A@3:1[confirmed 1 #3-3]
         evict A                        -> left O2
         return O0 R1 A@2:1             -> changed partially_returned A@2:2[confirmed 2 returned 1 #1-2]
         reserve O3 A:1 A@2:1           -> created reserved A:1[held 1] A@2:1[held 1]
         confirm O3                     -> changed confirmed A:1[confirmed 1 #4-4] A@2:1[confirmed 1 #5-5]
         restart                        ->
         get O0                         -> replayed partially_returned A@2:2[confirmed 2 returned 1 #1-2]",
    );
}

#[test]
fn numbers_that_make_no_sense_are_not_taken() {
    let (stocks, order) = stored();
    let refused = |outcome: Result<(), Refusal>| {
        assert!(matches!(outcome, Err(Refusal::StockInconsistent { .. })), "{outcome:?}");
    };
    let mut shop = Shop::default();
    for numbered in [None, Some(1), Some(u64::MAX)] {
        let mut wrong = stocks.clone();
        wrong[1].numbered = numbered;
        refused(load(&mut shop, &wrong));
        assert_eq!(shop.log.len(), 0);
    }
    load(&mut shop, &stocks).unwrap();
    let range = |line, from, to| LineSerials { line, serials: Serials { from, to } };
    let wrong = [
        vec![],
        vec![range(0, 3, 3)],
        vec![range(0, 3, 5)],
        vec![range(0, 4, 5)],
        vec![range(0, 0, 1)],
        vec![range(0, 4, 3)],
        vec![range(1, 3, 4)],
        vec![range(0, 3, 4), range(0, 1, 1)],
        vec![range(0, 3, 3), range(0, 3, 3)],
    ];
    for serials in wrong {
        refused(load_order(&mut shop, &OrderImage { serials, ..order.clone() }));
    }
    load_order(&mut shop, &order).unwrap();
    let order_no = OrderNo::new("O9").unwrap();
    let mut twice = OrderImage { order_no, ..order };
    twice.lines[0].returned = 2;
    refused(load_order(&mut shop, &twice));
    shop.check();
}

/// The same number is computed again from the journal; another is found at once.
#[test]
fn an_event_with_another_number_is_refused() {
    let mut shop = Shop::default();
    shop.tell(
        "create A 9 serialized          -> created A 9/0/0 serialized
         create B 9                     -> created B 9/0/0
         reserve O1 A:1 B:1             -> created reserved A:1[held 1] B:1[held 1]
         confirm O1                     -> changed confirmed A:1[confirmed 1 #1-1] B:1[confirmed 1]",
    );
    let event = shop.log.pop().unwrap();
    let before = shop.replayed();
    for (line, serial) in [(0, None), (0, Some(0)), (0, Some(2)), (1, Some(1))] {
        let mut wrong = event.clone();
        let Change::Confirmed { lines, .. } = &mut wrong.change else { panic!("{wrong:?}") };
        lines[line].serial = serial;
        let mut state = before.clone();
        state.apply(state.applied().next(), &wrong).expect_err("it gives another number");
    }
    before.clone().apply(before.applied().next(), &event).expect("it gives the right one");
}

/// An order over several shards: each participant gives the numbers of its SKUs when it is told, the order keeps them.
#[test]
fn an_order_over_several_shards_keeps_the_numbers() {
    several(
        "create A 9 serialized          -> created A 9/0/0 serialized
         create A@2 9 serialized        -> created A@2 9/0/0 serialized
         create B 9                     -> created B 9/0/0
         create N 9 serialized          -> created N 9/0/0 serialized
         reserve O0 A:1                 -> created reserved A:1[held 1]
         reserve O1 N:2 A:3 A@2:1 B:1 ttl=60 -> created reserved N:2[held 2] A:3[held 3] A@2:1[held 1] B:1[held 1]
         confirm O1 A:1 N:1             -> changed partially_confirmed N:2[held 1 confirmed 1 #1-1] A:3[held 2 confirmed 1 #1-1] A@2:1[held 1] B:1[held 1]
         confirm O0                     -> changed confirmed A:1[confirmed 1 #2-2]
         confirm O1 A:1 A@2:1           -> changed partially_confirmed N:2[held 1 confirmed 1 #1-1] A:3[held 1 confirmed 2 #1-1 #3-3] A@2:1[confirmed 1 #4-4] B:1[held 1]
         return O1 R1 A:1               -> changed partially_returned N:2[held 1 confirmed 1 #1-1] A:3[held 1 confirmed 2 returned 1 #1-1 #3-3] A@2:1[confirmed 1 #4-4] B:1[held 1]
         restart                        ->
         wait 60000                     ->
         expire                         -> O1
         confirm O1                     -> changed partially_returned N:2[confirmed 2 #1-1 #2-2] A:3[confirmed 3 returned 1 #1-1 #3-3 #5-5] A@2:1[confirmed 1 #4-4] B:1[confirmed 1]
         confirm O1 A:1 N:1             -> replayed partially_returned N:2[confirmed 2 #1-1 #2-2] A:3[confirmed 3 returned 1 #1-1 #3-3 #5-5] A@2:1[confirmed 1 #4-4] B:1[confirmed 1]
         reserve O2 A@2:1 N:1           -> created reserved A@2:1[held 1] N:1[held 1]
         confirm O2                     -> changed confirmed A@2:1[confirmed 1 #6-6] N:1[confirmed 1 #3-3]",
    );
}

const SOLD: &str = "
    create A 9                     -> created A 9/0/0
    create N 9 serialized          -> created N 9/0/0 serialized
    reserve O1 A:2 N:2             -> created reserved A:2[held 2] N:2[held 2]";

/// What a participant was told while its answer was lost: the number was given, and the coordinator learns of it.
#[test]
fn a_number_that_was_given_is_told_again() {
    several(&format!(
        "{SOLD}
         mute 1                         ->
         confirm O1                     -> changed confirmed A:2[confirmed 2] N:2[confirmed 2]
         reserve O2 N:1                 -> created reserved N:1[held 1]
         confirm O2                     -> changed confirmed N:1[confirmed 1 #3-3]
         crash                          ->
         hears 1                        ->
         settle                         ->
         get O1                         -> replayed confirmed A:2[confirmed 2] N:2[confirmed 2 #1-2]
         evict N                        -> left O2
         get O1                         -> replayed confirmed A:2[confirmed 2] N:2[confirmed 2 #1-2]"
    ));
}

/// The coordinator says when it has logged the numbers; if that does not come, the participant keeps them until it has
/// asked, and no longer: a SKU with a hold does not leave memory.
#[test]
fn numbers_that_were_logged_and_not_heard_of_are_let_go() {
    for fault in ["crash ->", "rebuild 1 heard -> \n settle ->"] {
        several(&format!(
            "{SOLD}
             start confirm O1               ->
             deliver command                ->
             deliver instruct               ->
             deliver done                   ->
             on its way                     -> heard
             {fault}
             settle                         ->
             get O1                         -> replayed confirmed A:2[confirmed 2] N:2[confirmed 2 #1-2]
             evict N                        -> left"
        ));
    }
}

/// Of a late payment, whose attempt the order knows no longer when it is carried out.
#[test]
fn numbers_of_a_late_payment_are_let_go() {
    several(&format!(
        "{SOLD}
         release O1                     -> changed released A:2[released 2] N:2[released 2]
         start confirm O1               ->
         deliver command                ->
         deliver look                   ->
         deliver looked                 ->
         deliver hold                   ->
         deliver held                   ->
         deliver instruct               ->
         deliver done                   ->
         on its way                     -> heard
         crash                          ->
         settle                         ->
         get O1                         -> replayed confirmed A:2[confirmed 2] N:2[confirmed 2 #1-2]
         evict N                        -> left"
    ));
}

/// A participant that says twice what it did, in one turn of the coordinator.
#[test]
fn numbers_that_are_told_twice_are_logged_once() {
    let mut several = Several::default();
    several.tell(&format!(
        "{SOLD}
         start confirm O1               ->
         deliver command                ->
         deliver instruct               ->
         twice done                     ->
         on its way                     -> done done"
    ));
    several.shards.deliver_together(vec![0, 1]);
    several.tell(
        "settle                         ->
         answers                        -> changed confirmed A:2[confirmed 2] N:2[confirmed 2 #1-2]
         get O1                         -> replayed confirmed A:2[confirmed 2] N:2[confirmed 2 #1-2]",
    );
    several.check();
}

/// A coordinator that began anew and has not come to tell everything again hears of what it told before.
#[test]
fn numbers_from_before_a_rebuild_are_logged() {
    let mut several = Several::default();
    several.shards.told_per_turn = 0;
    several.tell(&format!(
        "{SOLD}
         start confirm O1               ->
         deliver command                ->
         deliver instruct               ->
         rebuild 0                      ->
         linger 1                       ->"
    ));
    several.shards.told_per_turn = 1;
    several.tell(
        "settle                         ->
         get O1                         -> replayed confirmed A:2[confirmed 2] N:2[confirmed 2 #1-2]",
    );
    several.check();
}
