//! What a correct server may answer, though it looks odd at first.

use serde_json::json;

use super::script::{Script, view_of};

#[test]
fn concurrent_operations_come_in_any_order() {
    let levels = Script::with(3)
        .reserve([1, 9], "x", 2, 201, [2, 0, 0, 0])
        .short([2, 8], "y", 3, 1)
        .read([3, 7], [3, 0, 0, 1])
        .reserve([4, 6], "z", 1, 201, [1, 0, 0, 0])
        .explained();
    assert_eq!(levels, [0, 3, 0]);
}

#[test]
fn what_was_cut_off_took_effect() {
    let levels = Script::with(5)
        .reserve_cut_off([1, 3], "x", 2)
        .died(4)
        .read([5, 6], [3, 2, 0, 2])
        .reserve([7, 8], "x", 2, 200, [2, 0, 0, 0])
        .explained();
    assert_eq!(levels, [3, 2, 0]);
}

#[test]
fn what_was_cut_off_did_not_take_effect() {
    let levels = Script::with(5)
        .reserve_cut_off([1, 3], "x", 2)
        .died(4)
        .read([5, 6], [5, 0, 0, 1])
        .reserve([7, 8], "x", 2, 201, [2, 0, 0, 0])
        .explained();
    assert_eq!(levels, [3, 2, 0]);
}

#[test]
fn what_was_cut_off_takes_effect_late_while_its_server_lives() {
    let levels = Script::with(5)
        .reserve_cut_off([1, 3], "x", 2)
        .read([5, 6], [5, 0, 0, 1])
        .reserve([7, 8], "x", 2, 200, [2, 0, 0, 0])
        .explained();
    assert_eq!(levels, [3, 2, 0]);
}

#[test]
fn what_nobody_looks_after_may_have_happened() {
    for levels in [[5, 0, 0, 1], [3, 2, 0, 2]] {
        Script::with(5).reserve_cut_off([1, 3], "x", 2).died(4).read([5, 6], levels).explained();
    }
    for levels in [[3, 2, 0, 2], [3, 0, 2, 3]] {
        let script = Script::with(5).reserve([1, 2], "x", 2, 201, [2, 0, 0, 0]);
        script.cut_off([3, 4], "confirm", "x").died(5).read([6, 7], levels).explained();
    }
    for id in ["PO", "PO-2"] {
        Script::with(5).restock_cut_off([1, 2], id, 3).died(4).read([5, 6], [8, 0, 0, 2]).explained();
    }
}

/// A confirm that was cut off around the deadline: whether it came before or after can't be told by the order.
#[test]
fn an_expiry_that_nobody_saw() {
    for levels in [[5, 0, 0, 3], [3, 0, 2, 3], [3, 2, 0, 2]] {
        let total = Script::with(5)
            .reserve([1, 2], "x", 2, 201, [2, 0, 0, 0])
            .cut_off([900, 1_100], "confirm", "x")
            .died(1_200)
            .read([1_300, 1_301], levels)
            .order([1_400, 1_401], "confirm", "x", levels[2] == 2, [0, 2, 0, 0])
            .read([1_500, 1_501], [3, 0, 2, if levels[0] == 5 { 4 } else { 3 }])
            .explained();
        assert_eq!(total, [3, 0, 2]);
    }
}

/// Two reserves of one order were cut off: whichever made it, its time is over when the first one's is.
#[test]
fn an_expiry_of_an_order_that_either_of_two_made() {
    for levels in [[5, 0, 0, 3], [3, 2, 0, 2]] {
        let script = Script::with(5).reserve_cut_off([1, 3], "x", 2).reserve_cut_off([500, 501], "x", 2);
        let script = script.died(600).read([1_100, 1_101], levels);
        assert_eq!(script.get([1_600, 1_601], "x", [0, 0, 2, 0]).explained(), [5, 0, 0]);
    }
}

/// A part was given back, or sold, by a request that was cut off, and the rest later. Nobody can tell by the order.
#[test]
fn a_part_that_nobody_saw() {
    for (what, counts, levels) in
        [("release", [0, 0, 3, 0], [4, 1, 0, 3]), ("confirm", [0, 3, 0, 0], [2, 1, 2, 3])]
    {
        let path = format!("/v1/reservations/x/{what}");
        let part = json!({ "request_id": "P", "lines": [{ "sku_id": "a", "quantity": 2 }] });
        let status = if what == "release" { "released" } else { "confirmed" };
        let mut answer = view_of("x", false, &[("a", 3, counts)]);
        answer["status"] = json!(status);
        let script = Script::with(5).patient().reserve([1, 2], "x", 3, 201, [3, 0, 0, 0]);
        script
            .told([3, 4], "POST", &path, part, 504, json!({}))
            .read([5, 6], levels)
            .told([7, 8], "POST", &path, json!({}), 200, answer)
            .explained();
    }
}

/// Likewise a release that was cut off, before a payment that may have been a late one.
#[test]
fn a_release_that_nobody_saw() {
    for version in [3, 4] {
        Script::with(5)
            .reserve([1, 2], "x", 2, 201, [2, 0, 0, 0])
            .cut_off([3, 9], "release", "x")
            .read([4, 5], if version == 4 { [5, 0, 0, 3] } else { [3, 2, 0, 2] })
            .order([6, 7], "confirm", "x", false, [0, 2, 0, 0])
            .died(9)
            .refused([10, 11], "release", "x", 409, "already_confirmed")
            .read([12, 13], [3, 0, 2, version])
            .explained();
    }
}

#[test]
fn a_late_payment_finds_nothing() {
    let line = json!({ "sku_id": "a", "warehouse_id": 1, "requested": 2, "available": 1 });
    let answer = json!({ "code": "late_payment_no_stock", "lines": [line] });
    let levels = Script::with(2)
        .reserve([1, 2], "x", 2, 201, [2, 0, 0, 0])
        .get([1_100, 1_101], "x", [0, 0, 2, 0])
        .reserve([1_102, 1_103], "y", 1, 201, [1, 0, 0, 0])
        .told([1_104, 1_105], "POST", "/v1/reservations/x/confirm", json!({}), 409, answer)
        .get([1_106, 1_107], "x", [0, 0, 2, 0])
        .explained();
    assert_eq!(levels, [1, 1, 0]);
}

#[test]
fn a_delivery_is_booked_once() {
    let levels = Script::with(5)
        .restock_cut_off([1, 2], "PO", 3)
        .died(3)
        .read([4, 5], [8, 0, 0, 2])
        .restock([6, 7], "PO", 3, true, [8, 0, 0, 2])
        .explained();
    assert_eq!(levels, [8, 0, 0]);
}

/// An order over several shards that was refused, or cut off, may have held something; one in a single shard not.
#[test]
fn what_attempts_hold_in_passing() {
    let script = |cut_off: bool| {
        let body = json!({ "order_no": "x", "lines": [{ "sku_id": "a", "quantity": 2 }, { "sku_id": "b", "quantity": 2 }] });
        let line = json!({ "sku_id": "b", "warehouse_id": 1, "requested": 2, "available": 1 });
        let answer = json!({ "code": "insufficient_stock", "lines": [line] });
        let script = Script::with(3).stock("b", 1);
        let status = if cut_off { 504 } else { 409 };
        script.told([1, 9], "POST", "/v1/reservations", body, status, answer)
    };
    let held = [1, 2, 0, 2];
    script(false).over_shards().read([4, 5], held).read([6, 7], [3, 0, 0, 3]).explained();
    script(false).over_shards().short([4, 5], "y", 2, 1).explained();
    script(false).over_shards().read([14, 15], held).refused_for("stock a in 1");
    script(true).over_shards().read([14, 15], held).explained();
    script(false).over_shards().read([4, 5], [2, 1, 0, 2]).refused_for("stock a in 1");
    script(false).read([4, 5], held).refused_for("stock a in 1");
}

/// A late payment of a part, which was cut off.
#[test]
fn what_late_payments_hold_in_passing() {
    let lines = json!([{ "sku_id": "a", "quantity": 2 }, { "sku_id": "b", "quantity": 1 }]);
    let body = json!({ "order_no": "x", "lines": lines, "ttl_seconds": 1 });
    let both = |a, b| view_of("x", false, &[("a", 2, a), ("b", 1, b)]);
    let part = json!({ "request_id": "P", "lines": [{ "sku_id": "a", "quantity": 1 }] });
    let expired = both([0, 0, 2, 0], [0, 0, 1, 0]);
    let script = Script::with(3).stock("b", 1).over_shards();
    script
        .told([1, 9], "POST", "/v1/reservations", body, 201, both([2, 0, 0, 0], [1, 0, 0, 0]))
        .told([1_100, 1_101], "GET", "/v1/reservations/x", json!(null), 200, expired)
        .told([1_200, 1_210], "POST", "/v1/reservations/x/confirm", part, 504, json!({}))
        .read([1_300, 1_301], [2, 1, 0, 4])
        .explained();
}

#[test]
fn an_order_is_in_all_its_stocks_or_none() {
    let script = |levels: [i64; 4]| {
        let body = json!({ "order_no": "x", "lines": [{ "sku_id": "a", "quantity": 2 }, { "sku_id": "b", "quantity": 1 }] });
        let answer = view_of("x", false, &[("a", 2, [2, 0, 0, 0]), ("b", 1, [1, 0, 0, 0])]);
        let script =
            Script::with(3).stock("b", 1).told([1, 9], "POST", "/v1/reservations", body, 201, answer);
        script.read_of([14, 15], "b", levels)
    };
    script([0, 1, 0, 2]).over_shards().explained();
    script([1, 0, 0, 2]).over_shards().refused_for("stock b in 1");
}

/// A decision over several shards reaches them one after the other, but before its caller is told; an expiry later.
#[test]
fn decisions_reach_all_stocks() {
    let script = |what: &str, levels: [i64; 4]| {
        let lines = json!([{ "sku_id": "a", "quantity": 2 }, { "sku_id": "b", "quantity": 1 }]);
        let body = json!({ "order_no": "x", "lines": lines, "ttl_seconds": 1 });
        let both = |a, b| view_of("x", false, &[("a", 2, a), ("b", 1, b)]);
        let (after, method, path) = match what {
            "get" => (both([0, 0, 2, 0], [0, 0, 1, 0]), "GET", "/v1/reservations/x"),
            _ => (both([0, 2, 0, 0], [0, 1, 0, 0]), "POST", "/v1/reservations/x/confirm"),
        };
        Script::with(3)
            .stock("b", 1)
            .over_shards()
            .told([1, 9], "POST", "/v1/reservations", body, 201, both([2, 0, 0, 0], [1, 0, 0, 0]))
            .told([1_100, 1_200], method, path, json!({}), 200, after)
            .read_of([1_300, 1_301], "b", levels)
    };
    script("confirm", [0, 0, 1, 3]).explained();
    script("confirm", [0, 1, 0, 2]).refused_for("stock b in 1");
    script("get", [0, 1, 0, 2]).explained();
    script("get", [1, 0, 0, 3]).explained();
}
