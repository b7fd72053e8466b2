//! What no correct server answers.

use serde_json::json;

use super::script::{Script, view, view_of};

#[test]
fn one_unit_sold_twice() {
    Script::with(1)
        .reserve([1, 4], "x", 1, 201, [1, 0, 0, 0])
        .reserve([2, 5], "y", 1, 201, [1, 0, 0, 0])
        .order([6, 7], "confirm", "x", false, [0, 1, 0, 0])
        .order([6, 8], "confirm", "y", false, [0, 1, 0, 0])
        .refused_for("stock a in 1");
}

#[test]
fn a_read_that_does_not_see_what_its_caller_was_told() {
    Script::with(5)
        .reserve([1, 2], "x", 2, 201, [2, 0, 0, 0])
        .read([3, 4], [5, 0, 0, 1])
        .refused_for("stock a in 1");
}

#[test]
fn a_read_that_goes_back() {
    let reads = |first, second| {
        Script::with(5).reserve([1, 9], "x", 2, 201, [2, 0, 0, 0]).read([2, 3], first).read([4, 5], second)
    };
    assert_eq!(reads([5, 0, 0, 1], [3, 2, 0, 2]).explained(), [3, 2, 0]);
    reads([3, 2, 0, 2], [5, 0, 0, 1]).refused_for("stock a in 1");
    // The same levels, but of an older version.
    let twice = |first, second| {
        let script = Script::with(5).read([4, 5], [5, 0, 0, first]);
        script.read([6, 7], [5, 0, 0, second])
    };
    twice(1, 1).explained();
    twice(3, 1).refused_for("stock a in 1");
}

#[test]
fn a_confirm_that_is_lost() {
    Script::with(5)
        .reserve([1, 2], "x", 2, 201, [2, 0, 0, 0])
        .order([3, 4], "confirm", "x", false, [0, 2, 0, 0])
        .died(5)
        .get([6, 7], "x", [2, 0, 0, 0])
        .refused_for("order x");
}

#[test]
fn a_confirm_that_is_lost_with_its_levels_only() {
    Script::with(5)
        .reserve([1, 2], "x", 2, 201, [2, 0, 0, 0])
        .order([3, 4], "confirm", "x", false, [0, 2, 0, 0])
        .get([6, 7], "x", [0, 2, 0, 0])
        .read([8, 9], [3, 2, 0, 2])
        .refused_for("stock a in 1");
}

#[test]
fn a_refusal_while_there_was_stock_the_whole_time() {
    Script::with(5)
        .reserve([1, 2], "x", 2, 201, [2, 0, 0, 0])
        .short([3, 4], "y", 3, 2)
        .refused_for("stock a in 1");
}

#[test]
fn a_refusal_that_names_another_number_than_there_was() {
    Script::with(5).short([3, 4], "y", 6, 5).explained();
    Script::with(5).short([3, 4], "y", 6, 4).refused_for("stock a in 1");
}

#[test]
fn a_refusal_of_other_units_than_were_asked_for() {
    let line = json!({ "sku_id": "a", "warehouse_id": 1, "requested": 7, "available": 5 });
    let body = json!({ "order_no": "x", "lines": [{ "sku_id": "a", "quantity": 6 }] });
    let answer = json!({ "code": "insufficient_stock", "lines": [line] });
    let script = Script::with(5).told([1, 2], "POST", "/v1/reservations", body, 409, answer);
    script.refused_for("stock a in 1");
}

#[test]
fn a_repeat_that_is_done_again() {
    Script::with(5)
        .reserve([1, 2], "x", 2, 201, [2, 0, 0, 0])
        .died(3)
        .reserve([4, 5], "x", 2, 201, [2, 0, 0, 0])
        .refused_for("order x");
}

#[test]
fn a_repeat_with_another_answer() {
    let again = |made: &str| {
        let mut answer = view("x", true, 2, [2, 0, 0, 0]);
        answer["created_at"] = json!(made);
        let body = json!({ "order_no": "x", "lines": [{ "sku_id": "a", "quantity": 2 }] });
        let script = Script::with(5).reserve([1, 2], "x", 2, 201, [2, 0, 0, 0]);
        script.told([4, 5], "POST", "/v1/reservations", body, 200, answer)
    };
    again("then").explained();
    again("later").refused_for("order x");
}

#[test]
fn two_orders_under_one_number() {
    let body = json!({ "order_no": "x", "lines": [{ "sku_id": "b", "quantity": 1 }] });
    let answer = view_of("x", false, &[("b", 1, [1, 0, 0, 0])]);
    let script = Script::with(5).stock("b", 5).reserve([1, 2], "x", 2, 201, [2, 0, 0, 0]);
    script.told([3, 4], "POST", "/v1/reservations", body, 201, answer).refused_for("order x");
}

#[test]
fn an_order_that_is_gone() {
    Script::with(5)
        .reserve([1, 2], "x", 2, 201, [2, 0, 0, 0])
        .refused([3, 4], "confirm", "x", 404, "unknown_order")
        .refused_for("order x");
}

#[test]
fn a_stock_that_is_gone() {
    let script = Script::with(5);
    let answer = json!({ "code": "unknown_sku", "sku_id": "a" });
    script.told([3, 4], "GET", "/v1/stock/a", json!(null), 404, answer).refused_for("stock a in 1");
}

#[test]
fn an_expiry_before_its_time() {
    // The hold is for a second.
    let expired = |at: u64| {
        let script = Script::with(5).reserve([10, 12], "x", 2, 201, [2, 0, 0, 0]);
        script.get([at, at + 1], "x", [0, 0, 2, 0])
    };
    expired(990).refused_for("order x");
    assert_eq!(expired(1_020).explained(), [5, 0, 0]);
}

#[test]
fn a_release_of_what_is_sold() {
    Script::with(5)
        .reserve([1, 2], "x", 2, 201, [2, 0, 0, 0])
        .order([3, 4], "confirm", "x", false, [0, 2, 0, 0])
        .order([5, 6], "release", "x", false, [0, 0, 2, 0])
        .refused_for("order x");
}

#[test]
fn units_that_come_back_twice() {
    let twice = |replayed| {
        Script::with(5)
            .reserve([1, 2], "x", 2, 201, [2, 0, 0, 0])
            .order([3, 4], "confirm", "x", false, [0, 2, 0, 0])
            .order([5, 6], "return", "x", false, [0, 2, 0, 2])
            .order([7, 8], "return", "x", replayed, [0, 2, 0, 2])
    };
    assert_eq!(twice(true).explained(), [5, 0, 0]);
    twice(false).refused_for("order x");
}

#[test]
fn a_delivery_that_is_booked_twice() {
    Script::with(5)
        .restock([1, 2], "PO", 3, false, [8, 0, 0, 2])
        .restock([3, 4], "PO", 3, false, [11, 0, 0, 3])
        .refused_for("request PO of a");
    // Or once, by its answers, and twice by the levels.
    Script::with(5)
        .restock_cut_off([1, 2], "PO", 3)
        .died(3)
        .restock([4, 5], "PO", 3, true, [8, 0, 0, 2])
        .read([6, 7], [11, 0, 0, 3])
        .refused_for("stock a in 1");
}

#[test]
fn what_was_cut_off_takes_effect_after_its_server_is_dead() {
    let script = |died: u64| {
        Script::with(5).reserve_cut_off([1, 3], "x", 2).died(died).read([10, 11], [5, 0, 0, 1]).reserve(
            [12, 13],
            "x",
            2,
            200,
            [2, 0, 0, 0],
        )
    };
    script(4).refused_for("stock a in 1");
}

#[test]
fn operations_of_one_batch_out_of_their_order() {
    let batch = |first: &str, second: &str| {
        let reserve = |order: &str| json!({ "op": "reserve", "order_no": order, "lines": [{ "sku_id": "a", "quantity": 1 }] });
        let line = json!({ "sku_id": "a", "warehouse_id": 1, "requested": 1, "available": 0 });
        let short = json!({ "status": 409, "body": { "code": "insufficient_stock", "lines": [line] } });
        let made = json!({ "status": 201, "body": view("x", false, 1, [1, 0, 0, 0]) });
        let result = |order: &str| if order == "x" { made.clone() } else { short.clone() };
        let body = json!({ "operations": [reserve(first), reserve(second)] });
        let answer = json!({ "results": [result(first), result(second)] });
        Script::with(1).told([1, 5], "POST", "/v1/batch", body, 200, answer)
    };
    batch("x", "y").explained();
    batch("y", "x").refused_for("stock a in 1");
}

#[test]
fn best_effort_that_takes_less_than_there_is() {
    let script = |there: i64| {
        let body =
            json!({ "order_no": "x", "lines": [{ "sku_id": "a", "quantity": 5 }], "mode": "best_effort" });
        let answer = view("x", false, 5, [3, 0, 0, 0]);
        Script::with(there).told([1, 2], "POST", "/v1/reservations", body, 201, answer)
    };
    assert_eq!(script(3).explained(), [0, 3, 0]);
    script(4).refused_for("stock a in 1");
}
