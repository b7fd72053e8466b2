//! SKUs on their way into the shard and out of it, step by step.

use hotstock_engine::checkpoint::{OrderImage, Stage, StockImage};
use hotstock_engine::command::{Action, Place};
use hotstock_engine::event::Change;
use hotstock_engine::ids::{Lsn, OrderNo, SkuId, WarehouseId};
use hotstock_engine::limits::MAX_ADOPTED_PER_EVENT;
use hotstock_engine::outcome::{Answer, Outcome, Refusal};

use crate::shop::{Shop, story, text_of};

fn sku(name: &str) -> SkuId {
    SkuId::new(name).unwrap()
}

fn order_no(name: &str) -> OrderNo {
    OrderNo::new(name).unwrap()
}

/// What leaves a shop: the stocks, and the orders that lie on them.
struct Luggage {
    sku_id: SkuId,
    stocks: Vec<StockImage>,
    orders: Vec<OrderImage>,
}

impl Shop {
    fn place(&mut self, place: Place) -> Outcome {
        self.send(Action::Place(Box::new(place)))
    }

    /// The luggage of a SKU in warehouse 1, as it is now.
    fn pack(&self, name: &str, orders: &[&str]) -> Luggage {
        let stock = self.state.image_of_stock(&sku(name), WarehouseId(1)).expect("it is here");
        let image = |name: &&str| self.state.image_of_order(&order_no(name)).expect("it is here");
        Luggage { sku_id: sku(name), stocks: vec![stock], orders: orders.iter().map(image).collect() }
    }

    fn begin(&mut self, luggage: &Luggage, epoch: u64) -> Outcome {
        let (sku_id, stocks) = (luggage.sku_id.clone(), luggage.stocks.clone());
        self.place(Place::Begin { sku_id, epoch, stocks })
    }

    fn bring(&mut self, luggage: &Luggage, orders: &[OrderImage]) -> Outcome {
        let (sku_id, orders) = (Some(luggage.sku_id.clone()), orders.to_vec());
        self.place(Place::Orders { sku_id, orders, requests: Vec::new() })
    }

    fn finish(&mut self, luggage: &Luggage) -> Outcome {
        self.place(Place::Finish { sku_id: luggage.sku_id.clone() })
    }

    /// All of it at once.
    #[track_caller]
    fn adopt(&mut self, luggage: &Luggage, epoch: u64) {
        assert_eq!(self.begin(luggage, epoch), Ok(Answer::Placed));
        assert_eq!(self.bring(luggage, &luggage.orders), Ok(Answer::Placed));
        assert_eq!(self.finish(luggage), Ok(Answer::Placed));
    }

    fn stage(&self, name: &str) -> Option<Stage> {
        self.state.image_of_stock(&sku(name), WarehouseId(1)).map(|image| image.stage)
    }
}

/// A shop that told a story, what a SKU of it has with it, and an empty shop.
fn packed(table: &str, name: &str, orders: &[&str]) -> (Luggage, Shop) {
    let mut shop = Shop::default();
    shop.tell(table);
    let luggage = shop.pack(name, orders);
    (luggage, Shop { clock: shop.clock, ..Shop::default() })
}

const ONE_OF_EACH: &str = "
    create A 10                    -> created A 10/0/0
    reserve O1 A:2 ttl=60          -> created reserved A:2[held 2]
    reserve O2 A:3                 -> created reserved A:3[held 3]
    confirm O2                     -> changed confirmed A:3[confirmed 3]
    reserve O3 A:1                 -> created reserved A:1[held 1]
    release O3                     -> changed released A:1[released 1]";

#[test]
fn a_sku_comes_with_its_orders() {
    let (luggage, mut shop) = packed(ONE_OF_EACH, "A", &["O1", "O2", "O3"]);
    shop.adopt(&luggage, 1);
    shop.tell(
        "levels A                      -> 5/2/3
         reserve O1 A:2                -> replayed reserved A:2[held 2]
         reserve O1 A:1                -> order_mismatch
         confirm O2                    -> replayed confirmed A:3[confirmed 3]
         return O2 R1 A:1              -> changed partially_returned A:3[confirmed 3 returned 1]
         confirm O3                    -> changed confirmed A:1[confirmed 1]
         levels A                      -> 5/2/3
         wait 60000                    ->
         expire                        -> O1
         levels A                      -> 7/0/3
         wait 1                        ->
         forget 0 99                   -> O1 O2 O3
         levels A                      -> 7/0/3
         restart                       ->
         levels A                      -> 7/0/3",
    );
    shop.check();
}

/// Nobody uses it before it is complete; what is there answers repeats.
#[test]
fn an_incomplete_sku_is_not_used() {
    let (luggage, mut shop) = packed(ONE_OF_EACH, "A", &["O1", "O2", "O3"]);
    assert_eq!(shop.begin(&luggage, 1), Ok(Answer::Placed));
    assert_eq!(shop.bring(&luggage, &luggage.orders[1..2]), Ok(Answer::Placed));
    for sent in [
        "reserve O9 A:1",
        "reserve O1 A:2",
        "restock A 1 R1",
        "suspend A",
        "create A@2 5",
        "return O2 R1",
        "release O2",
    ] {
        assert!(shop.say(sent).starts_with("Moved"), "{sent}");
    }
    shop.tell(
        "get O1                        -> unknown_order
         get O2                        -> replayed confirmed A:3[confirmed 3]
         confirm O2                    -> replayed confirmed A:3[confirmed 3]
         create A 10                   -> replayed A 5/2/3
         wait 60000                    ->
         expire                        ->",
    );
    let missing = shop.finish(&luggage).expect_err("O1 holds units");
    assert!(text_of(Err(missing)).starts_with("invalid_field orders"));
    assert_eq!(shop.bring(&luggage, &luggage.orders), Ok(Answer::Placed));
    shop.tell("expire ->");
    assert_eq!(shop.finish(&luggage), Ok(Answer::Placed));
    shop.tell("expire -> O1");
    shop.check();
}

/// After a crash everything is done again; what is there already stays.
#[test]
fn every_step_can_be_repeated() {
    let (luggage, mut shop) = packed(ONE_OF_EACH, "A", &["O1", "O2", "O3"]);
    for _ in 0..2 {
        assert_eq!(shop.begin(&luggage, 1), Ok(Answer::Placed));
        assert_eq!(shop.bring(&luggage, &luggage.orders[..2]), Ok(Answer::Placed));
        shop.check();
    }
    assert_eq!(shop.bring(&luggage, &luggage.orders), Ok(Answer::Placed));
    assert_eq!(shop.finish(&luggage), Ok(Answer::Placed));
    let log = shop.log.len();
    assert_eq!(shop.begin(&luggage, 1), Ok(Answer::Placed));
    assert_eq!(shop.finish(&luggage), Ok(Answer::Placed));
    assert_eq!(shop.log.len(), log, "open in this epoch: nothing to do");
    assert!(matches!(shop.bring(&luggage, &[]), Err(Refusal::Moved(_))));
    assert!(matches!(shop.begin(&luggage, 2), Err(Refusal::Moved(_))), "open in an older epoch");
    let close = || Place::Close { skus: vec![sku("A"), sku("B")] };
    assert_eq!(shop.place(close()), Ok(Answer::Placed));
    let log = shop.log.len();
    assert_eq!(shop.place(close()), Ok(Answer::Placed));
    assert_eq!(shop.log.len(), log, "closed already, and one that is not here");
    assert!(matches!(shop.begin(&luggage, 1), Err(Refusal::Moved(_))));
    assert!(matches!(shop.finish(&luggage), Err(Refusal::Moved(_))));
    shop.check();
}

#[test]
fn a_closed_sku_leaves_with_its_orders() {
    let mut shop = Shop::default();
    shop.tell(ONE_OF_EACH);
    shop.tell(
        "create B 5                    -> created B 5/0/0
         reserve O4 A:1 B:1            -> created reserved A:1[held 1] B:1[held 1]
         confirm O4                    -> changed confirmed A:1[confirmed 1] B:1[confirmed 1]
         close A                       -> placed
         wait 60000                    ->
         expire                        ->
         get O1                        -> replayed reserved A:2[held 2]
         confirm O4                    -> replayed confirmed A:1[confirmed 1] B:1[confirmed 1]",
    );
    for sent in ["return O4 R1 B:1", "confirm O1", "extend O1 60", "reserve O9 A:1 B:1", "deduct A 1 R1"] {
        assert!(shop.say(sent).starts_with("Moved"), "{sent}");
    }
    shop.tell(
        "reserve O5 B:1                -> created reserved B:1[held 1]
         leave                         -> shed O1 O2 O3 O4, withdrawn A
         leave                         ->
         levels A                      -> none
         levels B                      -> 3/1/1
         get O4                        -> unknown_order
         reserve O6 A:1                -> unknown_sku A
         confirm O5                    -> changed confirmed B:1[confirmed 1]",
    );
    assert_eq!(shop.state.take_left().len(), 1);
    shop.check();
}

/// An open order that has them all leaves with them.
#[test]
fn skus_that_share_an_open_order_leave_together() {
    let mut shop = Shop::default();
    shop.tell(
        "create A 5                    -> created A 5/0/0
         create B 5                    -> created B 5/0/0
         create C 5                    -> created C 5/0/0
         reserve O1 A:1 B:1            -> created reserved A:1[held 1] B:1[held 1]
         close C                       -> placed
         close A B C                   -> placed
         leave                         -> shed O1, withdrawn A, withdrawn B, withdrawn C
         reserve O2 A:1                -> unknown_sku A",
    );
    shop.check();
    // Once it has ended it may lie where it wants.
    story(
        "create A 5                    -> created A 5/0/0
         create B 5                    -> created B 5/0/0
         reserve O1 A:1 B:1            -> created reserved A:1[held 1] B:1[held 1]
         confirm O1                    -> changed confirmed A:1[confirmed 1] B:1[confirmed 1]
         close A                       -> placed
         leave                         -> shed O1, withdrawn A
         levels B                      -> 4/0/1",
    );
}

/// And they come together: the orders of both come after both have begun.
#[test]
fn skus_that_share_an_open_order_come_together() {
    let mut first = Shop::default();
    first.tell(
        "create A 5                    -> created A 5/0/0
         create B 5                    -> created B 5/0/0
         reserve O1 A:1 B:2            -> created reserved A:1[held 1] B:2[held 2]
         reserve O2 A:1 B:1            -> created reserved A:1[held 1] B:1[held 1]
         confirm O2                    -> changed confirmed A:1[confirmed 1] B:1[confirmed 1]",
    );
    let (a, b) = (first.pack("A", &["O1", "O2"]), first.pack("B", &["O1", "O2"]));
    let mut shop = Shop { clock: first.clock, ..Shop::default() };
    assert_eq!(shop.begin(&a, 1), Ok(Answer::Placed));
    assert!(
        matches!(shop.bring(&a, &a.orders), Err(Refusal::Moved(_))),
        "O1 holds units of B, which is not here"
    );
    let log = shop.log.len();
    assert_eq!(shop.bring(&a, &a.orders[1..]), Ok(Answer::Placed));
    assert_eq!(shop.log.len(), log, "O2 has ended and stays where it is");
    assert_eq!(shop.begin(&b, 1), Ok(Answer::Placed));
    assert_eq!(shop.bring(&a, &a.orders), Ok(Answer::Placed));
    assert_eq!(shop.finish(&a), Ok(Answer::Placed));
    assert!(shop.say("confirm O1").starts_with("Moved"), "B is not complete");
    assert_eq!(shop.bring(&b, &b.orders), Ok(Answer::Placed));
    assert_eq!(shop.finish(&b), Ok(Answer::Placed));
    shop.tell("confirm O1 -> changed confirmed A:1[confirmed 1] B:2[confirmed 2]");
    shop.check();
}

/// An order that the shard let go of, and that somebody asks for.
#[test]
fn an_ended_order_comes_back_alone() {
    let mut shop = Shop::default();
    shop.tell(ONE_OF_EACH);
    let alone = |luggage: &Luggage| {
        let orders = luggage.orders.clone();
        Place::Orders { sku_id: None, orders, requests: Vec::new() }
    };
    let (sold, open) = (shop.pack("A", &["O2"]), shop.pack("A", &["O1"]));
    shop.tell(
        "wait 1                        ->
         forget 0 99                   -> O2 O3",
    );
    assert_eq!(shop.place(alone(&sold)), Ok(Answer::Placed));
    shop.tell("return O2 R1 -> changed returned A:3[confirmed 3 returned 3]");
    let log = shop.log.len();
    assert_eq!(shop.place(alone(&sold)), Ok(Answer::Placed));
    assert_eq!(shop.log.len(), log, "it is here");
    shop.tell("get O2 -> replayed returned A:3[confirmed 3 returned 3]");
    shop.check();

    let mut other = Shop::default();
    other.tell("create A 10 -> created A 10/0/0");
    assert!(
        matches!(other.place(alone(&open)), Err(Refusal::InvalidField(_))),
        "open orders don't come alone"
    );
    assert!(matches!(other.place(alone(&sold)), Err(Refusal::InvalidField(_))), "nothing was ever sold here");
    let mut nowhere = Shop::default();
    assert!(matches!(nowhere.place(alone(&sold)), Err(Refusal::Moved(_))));
}

/// Whatever the store sends: it is refused, or it can be applied.
#[test]
fn what_makes_no_sense_is_not_adopted() {
    let (luggage, shop) = packed(ONE_OF_EACH, "A", &["O1", "O2", "O3"]);
    let refused = |change: &dyn Fn(&mut Luggage)| {
        let mut shop = Shop { state: shop.state.clone(), log: Vec::new(), clock: shop.clock };
        let (stocks, orders) = (luggage.stocks.clone(), luggage.orders.clone());
        let mut other = Luggage { sku_id: luggage.sku_id.clone(), stocks, orders };
        change(&mut other);
        let orders = other.orders.clone();
        let steps = [shop.begin(&other, 1), shop.bring(&other, &orders), shop.finish(&other)];
        assert_eq!(shop.replayed().audit(), shop.state.audit());
        steps.iter().filter(|step| matches!(step, Err(Refusal::InvalidField(_)))).count()
    };
    assert_eq!(refused(&|_| {}), 0);
    assert_eq!(refused(&|l| l.stocks.clear()), 1);
    assert_eq!(refused(&|l| l.stocks[0].levels.available += 1), 1);
    assert_eq!(refused(&|l| l.stocks[0].sku_id = sku("B")), 1);
    assert_eq!(refused(&|l| l.stocks.extend_from_within(..)), 1);
    assert_eq!(refused(&|l| l.stocks[0].levels.sold = u64::MAX), 1);
    assert_eq!(
        refused(&|l| l.orders[1].lines[0].confirmed = 4),
        2,
        "more than it asked for; then O1 is missing"
    );
    assert_eq!(refused(&|l| l.orders[1].lines[0].returned = 4), 2, "more than it got");
    assert_eq!(refused(&|l| l.orders[0].lines.extend_from_within(..)), 2, "a stock twice");
    assert_eq!(refused(&|l| l.orders[0].lines[0].held = 1), 1, "not all that is reserved");
    assert_eq!(
        refused(&|l| l.stocks[0].levels =
            hotstock_engine::outcome::Levels { available: 6, sold: 2, ..l.stocks[0].levels }),
        2
    );
}

/// A new warehouse of a SKU that came belongs to the same ownership.
#[test]
fn a_new_warehouse_goes_with_its_sku() {
    let (luggage, mut shop) = packed(ONE_OF_EACH, "A", &["O1", "O2", "O3"]);
    shop.adopt(&luggage, 7);
    shop.tell(
        "create A@2 4                  -> created A@2 4/0/0
         close A                       -> placed",
    );
    assert_eq!(shop.state.image_of_stock(&sku("A"), WarehouseId(2)).map(|image| image.epoch), Some(7));
    shop.tell("leave -> shed O1 O2 O3, withdrawn A");
    assert!(matches!(shop.log.last().map(|e| &e.change), Some(Change::Withdrawn { epoch: 7, .. })));
    assert_eq!(shop.stage("A"), None);
    shop.check();
}

/// Numbers of stocks that left are used again.
#[test]
fn a_stock_takes_the_place_of_one_that_left() {
    let mut shop = Shop::default();
    shop.tell(
        "create A 5                    -> created A 5/0/0
         create B 5                    -> created B 5/0/0
         reserve O1 A:1                -> created reserved A:1[held 1]",
    );
    shop.state.take_touched();
    shop.tell(
        "close A                       -> placed
         leave                         -> shed O1, withdrawn A
         create C 7                    -> created C 7/0/0
         reserve O1 C:1 B:1            -> created reserved C:1[held 1] B:1[held 1]",
    );
    let left = shop.state.take_left();
    let touched = shop.state.take_touched();
    let names: Vec<_> =
        touched.iter().map(|number| shop.state.stock_view(*number).sku_id.to_string()).collect();
    assert_eq!(left.iter().map(|left| left.sku_id.as_str()).collect::<Vec<_>>(), ["A"]);
    assert_eq!((names.as_slice(), touched[0]), (&["C".to_owned(), "B".to_owned()][..], left[0].number));
    shop.check();
}

/// Nothing that the store has not taken in is forgotten; what an adoption brought goes together.
#[test]
fn forgetting_stops_at_what_is_flushed() {
    let (luggage, mut shop) = packed(ONE_OF_EACH, "A", &["O1", "O2", "O3"]);
    shop.adopt(&luggage, 1);
    shop.tell(
        "release O4                    -> changed cancelled
         wait 1                        ->",
    );
    let forget = |shop: &Shop, at_most| shop.state.next_forgotten(shop.clock, 99, shop.clock, Lsn(at_most));
    assert_eq!(forget(&shop, 1), None);
    assert_eq!(forget(&shop, 2).map(|forget| forget.count), Some(2), "O2 and O3 came with event 2");
    assert_eq!(forget(&shop, 3).map(|forget| forget.count), Some(2));
    assert_eq!(forget(&shop, 4).map(|forget| forget.count), Some(3));
}

#[test]
fn one_event_sheds_a_bounded_number() {
    let mut shop = Shop::default();
    let orders = 2 * MAX_ADOPTED_PER_EVENT + 1;
    shop.tell("create A 5000 -> created A 5000/0/0");
    for n in 0..orders {
        shop.tell(&format!("reserve O{n} A:1 -> created reserved A:1[held 1]"));
    }
    shop.tell("close A -> placed");
    let mut shed = Vec::new();
    while let Some(event) = shop.state.next_leaving(shop.clock) {
        if let Change::Shed { orders, .. } = &event.change {
            shed.push(orders.len());
        }
        shop.log(event);
        assert_eq!(shop.state.audit().violations, []);
    }
    assert_eq!(shed, [MAX_ADOPTED_PER_EVENT, MAX_ADOPTED_PER_EVENT, 1]);
    assert_eq!(shop.state.sizes(), hotstock_engine::state::Sizes::default());
    shop.check();
}
