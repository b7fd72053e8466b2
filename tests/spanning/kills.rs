//! The process is ended as hard as by a power cut before and after every logged step, and started again. What was
//! logged stands, what was not never happened: the repeat of the same request tells which, and in the end nothing is
//! held by nobody.

use serde_json::{Value, json};

use crate::shop::{Shop, sku_in};

/// Kills at each step.
fn kills() -> u32 {
    std::env::var("HOTSTOCK_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// What is going on when the process is killed.
#[derive(Clone, Copy, PartialEq)]
enum Play {
    /// A reserve of three hot SKUs in three shards and of one in a fourth that may have to be loaded.
    Reserve,
    /// Likewise, and there is nothing of a fifth.
    Refused,
    /// Confirm, release and return of such an order, in turn.
    Decide,
    /// Such an order's time is over.
    Expire,
    /// Its payment comes after that.
    LatePayment,
    /// The branches of an attempt whose home was killed ask for it.
    Ask,
}

/// What the same request is answered afterwards.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Then {
    /// Nothing was logged: now it is done.
    Done,
    /// It was logged.
    Known,
    /// It is refused, as it would have been.
    Refused,
}

struct Places {
    hot: [String; 3],
    nothing: String,
    /// One for each round: an open order keeps its SKUs in memory.
    stored: Vec<String>,
}

fn lines(skus: &[&String]) -> Vec<Value> {
    skus.iter().map(|sku_id| json!({ "sku_id": sku_id, "quantity": 2 })).collect()
}

fn kill_at(step: &str, hits: u32, play: Play, then: Then) {
    let dir = tempfile::tempdir().unwrap();
    let mut shop = Shop::open(dir.path());
    let places = Places {
        hot: [sku_in(1, "hot-"), sku_in(3, "hot-"), sku_in(6, "hot-")],
        nothing: sku_in(5, "nothing-"),
        stored: (0..kills()).map(|round| sku_in(4, &format!("stored-{round}-"))).collect(),
    };
    for sku_id in &places.hot {
        shop.stock(sku_id, 10_000, true);
    }
    shop.stock(&places.nothing, 0, true);
    for sku_id in &places.stored {
        shop.stock(sku_id, 10_000, false);
    }
    for round in 0..kills() {
        let order_no = format!("o{round}");
        shop.orders.push(order_no.clone());
        let [a, b, c] = &places.hot;
        let four = lines(&[a, b, &places.stored[round as usize], c]);
        let hit = 1 + round % hits;
        let about = format!("{step}:{hit}, round {round}");
        let ttl = if matches!(play, Play::Expire | Play::LatePayment) { 1 } else { 3_600 };
        let reserve = json!({ "order_no": order_no, "lines": four, "ttl_seconds": ttl });
        let path = |action: &str| format!("/v1/reservations/{order_no}/{action}");
        match play {
            Play::Reserve => {
                killed(&mut shop, step, hit, "/v1/reservations", &reserve);
                expect(&mut shop, "/v1/reservations", &reserve, 201, then, &about);
            }
            Play::Refused => {
                let mut five = four;
                five.push(json!({ "sku_id": places.nothing, "quantity": 1 }));
                let reserve = json!({ "order_no": order_no, "lines": five });
                killed(&mut shop, step, hit, "/v1/reservations", &reserve);
                expect(&mut shop, "/v1/reservations", &reserve, 201, then, &about);
            }
            Play::Decide => {
                assert_eq!(shop.settle("/v1/reservations", &reserve).0, 201, "{about}");
                let (action, body) = match round % 3 {
                    0 => ("confirm", json!({})),
                    1 => ("release", json!({})),
                    _ => {
                        assert_eq!(shop.settle(&path("confirm"), &json!({})).0, 200, "{about}");
                        ("return", json!({ "request_id": "R" }))
                    }
                };
                killed(&mut shop, step, hit, &path(action), &body);
                expect(&mut shop, &path(action), &body, 200, then, &about);
                let status = ["confirmed", "released", "returned"][round as usize % 3];
                assert_eq!(shop.status_of(&order_no), status, "{about}");
            }
            Play::Expire => {
                shop.arm(step, hit);
                shop.ask_in_vain("/v1/reservations", &reserve);
                shop.after_the_kill();
                shop.until_status(&order_no, "expired");
                // Otherwise the next kill would come with what is left of this one.
                shop.until_settled();
            }
            Play::LatePayment => {
                assert_eq!(shop.settle("/v1/reservations", &reserve).0, 201, "{about}");
                shop.until_status(&order_no, "expired");
                killed(&mut shop, step, hit, &path("confirm"), &json!({}));
                expect(&mut shop, &path("confirm"), &json!({}), 200, then, &about);
                assert_eq!(shop.status_of(&order_no), "confirmed", "{about}");
            }
            Play::Ask => {
                shop.arm("span.home.before", 1);
                shop.ask_in_vain("/v1/reservations", &reserve);
                // Nobody asks for anything: the branches do.
                shop.after_two_kills(step, hit);
                expect(&mut shop, "/v1/reservations", &reserve, 201, then, &about);
                // Its branches would ask at the next start, too.
                assert_eq!(shop.settle(&path("release"), &json!({})).0, 200, "{about}");
            }
        }
    }
    shop.audit();
}

/// The request reaches the step, and the process is no more.
fn killed(shop: &mut Shop, step: &str, hit: u32, path: &str, body: &Value) {
    shop.arm(step, hit);
    shop.ask_in_vain(path, body);
    shop.after_the_kill();
}

fn expect(shop: &mut Shop, path: &str, body: &Value, made: u16, then: Then, about: &str) {
    let (status, answer) = shop.settle(path, body);
    let got = match (status, answer["replayed"].as_bool()) {
        (200, Some(true)) => Then::Known,
        (status, Some(false)) if status == made => Then::Done,
        (409, _) if answer["code"] == "insufficient_stock" => Then::Refused,
        _ => panic!("{about}: {status} {answer}"),
    };
    assert_eq!(got, then, "{about}: {answer}");
}

/// A test for each step: its name, how many times one request can reach it at least, what is going on, what the repeat
/// is answered.
macro_rules! steps {
    ($($name:ident: $step:literal, $hits:literal, $play:ident, $then:ident;)*) => {$(
        #[test]
        fn $name() {
            kill_at($step, $hits, Play::$play, Then::$then);
        }
    )*};
}

steps! {
    before_a_branch_holds: "span.hold.before", 4, Reserve, Done;
    after_a_branch_holds: "span.hold.after", 4, Reserve, Done;
    before_the_home_logs_the_order: "span.home.before", 1, Reserve, Done;
    after_the_home_logged_the_order: "span.home.after", 1, Reserve, Known;
    before_a_branch_is_released_again: "span.abort.before", 4, Refused, Refused;
    after_a_branch_was_released_again: "span.abort.after", 4, Refused, Refused;
    before_a_decision_is_logged: "span.decide.before", 1, Decide, Done;
    after_a_decision_was_logged: "span.decide.after", 1, Decide, Known;
    before_a_branch_is_told: "span.carry.before", 4, Decide, Known;
    after_a_branch_was_told: "span.carry.after", 4, Decide, Known;
    before_it_is_logged_that_all_were_told: "span.carried.before", 1, Decide, Known;
    after_it_was_logged_that_all_were_told: "span.carried.after", 1, Decide, Known;
    after_an_expiry_was_logged: "span.expire.after", 1, Expire, Done;
    before_a_branch_holds_for_a_late_payment: "span.late.hold.before", 4, LatePayment, Done;
    after_a_branch_holds_for_a_late_payment: "span.late.hold.after", 4, LatePayment, Done;
    before_a_late_payment_is_logged: "span.late.before", 1, LatePayment, Done;
    after_a_late_payment_was_logged: "span.late.after", 1, LatePayment, Known;
    before_a_branch_asks: "span.ask.before", 4, Ask, Done;
    after_a_branch_asked: "span.ask.after", 4, Ask, Done;
}
