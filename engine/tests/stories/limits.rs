//! The bounds: what fits exactly passes, one more is refused and changes nothing.

use hotstock_engine::command::{Action, CreateStock, Line, Lines, Mode, Reserve};
use hotstock_engine::ids::{OrderNo, ShardId, SkuId, WarehouseId, shard_of};
use hotstock_engine::limits::{
    MAX_LINE_QUANTITY, MAX_ORDER_LINES, MAX_REQUESTS_PER_ORDER, MAX_STOCK_UNITS, MAX_TTL_SECONDS,
    MAX_WAREHOUSES_PER_SKU,
};
use hotstock_engine::order::OrderStatus;
use hotstock_engine::outcome::{Answer, Effect};
use hotstock_engine::state::{Decision, State};

use crate::shop::{Shop, story};

fn sku(n: usize) -> SkuId {
    SkuId::new(&format!("S{n}")).unwrap()
}

fn many_lines(count: usize) -> Vec<Line> {
    (0..count).map(|n| Line { sku_id: sku(n), warehouse_id: WarehouseId(1), quantity: 2 }).collect()
}

fn reserve(lines: Lines) -> Action {
    let order_no = OrderNo::new("O1").unwrap();
    Action::Reserve(Reserve {
        order_no,
        lines,
        ttl_seconds: 1,
        buyer_id: None,
        mode: Mode::AllOrNothing,
        choice: None,
    })
}

#[test]
fn an_order_has_at_most_a_thousand_lines() {
    let mut shop = Shop::default();
    for n in 0..MAX_ORDER_LINES {
        let (sku_id, warehouse_id) = (sku(n), WarehouseId(1));
        shop.send(Action::CreateStock(CreateStock { sku_id, warehouse_id, quantity: 5, serialized: false }))
            .unwrap();
    }
    assert_eq!(Lines::new(many_lines(MAX_ORDER_LINES + 1)).unwrap_err().field, "lines");
    let lines = Lines::new(many_lines(MAX_ORDER_LINES)).unwrap();
    let Ok(Answer::Order { order, effect: Effect::Created }) = shop.send(reserve(lines)) else {
        panic!("an order of a thousand lines is taken")
    };
    assert_eq!(order.lines.len(), MAX_ORDER_LINES);
    shop.tell("levels S999 -> 3/2/0");
    let Ok(Answer::Order { order, .. }) = shop.send(Action::Confirm(hotstock_engine::command::Confirm {
        order_no: OrderNo::new("O1").unwrap(),
        part: None,
    })) else {
        panic!("it can be confirmed")
    };
    assert_eq!(order.status, OrderStatus::Confirmed);
    shop.tell("levels S0 -> 3/0/2");
    shop.tell("levels S999 -> 3/0/2");
    shop.check();
}

#[test]
fn quantities_of_a_line() {
    let line = |quantity| Line { sku_id: sku(0), warehouse_id: WarehouseId(1), quantity };
    assert_eq!(Lines::new([line(0)]).unwrap_err().field, "lines[0].quantity");
    assert_eq!(Lines::new([line(MAX_LINE_QUANTITY + 1)]).unwrap_err().field, "lines[0].quantity");
    let summed_too_far = Lines::new([line(MAX_LINE_QUANTITY), line(1)]);
    assert_eq!(summed_too_far.unwrap_err().field, "lines[1].quantity");
    story(&format!(
        "create A {MAX_STOCK_UNITS}              -> created A {MAX_STOCK_UNITS}/0/0
         reserve O1 A:{MAX_LINE_QUANTITY}        -> created reserved A:{MAX_LINE_QUANTITY}[held {MAX_LINE_QUANTITY}]
         confirm O1                              -> changed confirmed A:{MAX_LINE_QUANTITY}[confirmed {MAX_LINE_QUANTITY}]
         return O1 R1                            -> changed returned A:{MAX_LINE_QUANTITY}[confirmed {MAX_LINE_QUANTITY} returned {MAX_LINE_QUANTITY}]
         levels A                                -> {MAX_STOCK_UNITS}/0/0"
    ));
}

#[test]
fn a_stock_never_gets_too_large() {
    let max = MAX_STOCK_UNITS;
    let below = MAX_STOCK_UNITS - 1;
    let above = MAX_STOCK_UNITS + 1;
    story(&format!(
        "create A {above}               -> invalid_field quantity
         create A {max}                 -> created A {max}/0/0
         restock A 1 R1                 -> invalid_field quantity
         reserve O1 A:1                 -> created reserved A:1[held 1]
         confirm O1                     -> changed confirmed A:1[confirmed 1]
         restock A 1 R1                 -> invalid_field quantity
         adjust A {max} R1              -> invalid_field quantity
         deduct A 1 R2                  -> changed A {}/0/1
         restock A 1 R1                 -> changed A {below}/0/1
         return O1 R3                   -> changed returned A:1[confirmed 1 returned 1]
         levels A                       -> {max}/0/0
         deduct A {above} R4            -> invalid_field quantity
         adjust A -{above} R4           -> invalid_field quantity
         deduct A {max} R4              -> changed A 0/0/0",
        below - 1
    ));
}

#[test]
fn fields_out_of_bounds() {
    let too_long = MAX_TTL_SECONDS + 1;
    story(&format!(
        "create A 5                     -> created A 5/0/0
         restock A 0 R1                 -> invalid_field quantity
         restock A -1 R1                -> invalid_field quantity
         deduct A -1 R1                 -> invalid_field quantity
         adjust A 0 R1                  -> invalid_field quantity
         reserve O1 A:1 ttl=0           -> invalid_field ttl_seconds
         reserve O1 A:1 ttl={too_long}  -> invalid_field ttl_seconds
         reserve O1 A:1 ttl={MAX_TTL_SECONDS} -> created reserved A:1[held 1]
         extend O1 0                    -> invalid_field ttl_seconds
         extend O1 {too_long}           -> invalid_field ttl_seconds"
    ));
}

#[test]
fn a_sku_has_a_bounded_number_of_warehouses() {
    let mut shop = Shop::default();
    for n in 0..MAX_WAREHOUSES_PER_SKU {
        shop.tell(&format!("create A@{} 1 -> created A@{} 1/0/0", n + 10, n + 10));
    }
    shop.tell(
        "create A@9 1  -> invalid_field warehouse_id
         create A@10 1 -> replayed A@10 1/0/0
         create B@9 1  -> created B@9 1/0/0",
    );
}

#[test]
fn an_order_remembers_a_bounded_number_of_parts() {
    let mut shop = Shop::default();
    shop.tell(
        "create A 5000     -> created A 5000/0/0
         reserve O1 A:3000 -> created reserved A:3000[held 3000]",
    );
    for n in 0..MAX_REQUESTS_PER_ORDER {
        let (held, confirmed) = (2999 - n, n + 1);
        shop.tell(&format!(
            "confirm O1 A:1 id=R{n} -> changed partially_confirmed A:3000[held {held} confirmed {confirmed}]"
        ));
    }
    shop.tell(
        "confirm O1 A:1 id=NEW  -> too_many_requests
         release O1 A:1         -> too_many_requests
         return O1 NEW A:1      -> too_many_requests
         confirm O1 A:1 id=R0   -> replayed partially_confirmed A:3000[held 2000 confirmed 1000]
         confirm O1 A:2 id=R0   -> request_mismatch
         confirm O1             -> changed confirmed A:3000[confirmed 3000]
         return O1 NEW A:1      -> too_many_requests
         return O1 ALL          -> changed returned A:3000[confirmed 3000 returned 3000]
         return O1 ALL          -> replayed returned A:3000[confirmed 3000 returned 3000]
         return O1 MORE         -> nothing_to_return A 0 of 3000",
    );
    shop.check();
}

/// An order for SKUs of another shard is never held here, not even in part.
#[test]
fn a_shard_takes_only_what_is_its_own() {
    let mine = |n: &usize| shard_of(&sku(*n), 4) == ShardId(0);
    let own = (0..100).find(mine).unwrap();
    let other = (0..100).find(|n| !mine(n)).unwrap();
    let mut shop = Shop { state: State::new(ShardId(0), 4), ..Shop::default() };
    shop.tell(&format!("create S{own} 5 -> created S{own} 5/0/0"));
    let line = |n| Line { sku_id: sku(n), warehouse_id: WarehouseId(1), quantity: 1 };
    let both = reserve(Lines::new([line(own), line(other)]).unwrap());
    assert!(matches!(shop.state.decide(&both.into(), shop.clock), Decision::HoldFirst(_)));
    shop.tell(&format!("levels S{own} -> 5/0/0"));
    shop.tell(&format!("reserve O1 S{own}:1 -> created reserved S{own}:1[held 1]"));
}
