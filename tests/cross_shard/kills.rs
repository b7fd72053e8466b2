//! The process is ended as hard as by a power cut whenever a message between shards has come (what it rests on is on
//! its way to the disk, or there; what it causes is not), and started again. What was logged stands, what was not never
//! happened: the repeat of the same request tells which, at once, and in the end nothing is held by nobody.

use serde_json::{Value, json};

use crate::fixture::{Fixture, sku_in};

/// Kills at each step.
fn kills() -> u32 {
    std::env::var("HOTSTOCK_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// What is going on when the process is killed.
#[derive(Clone, Copy, PartialEq)]
enum Play {
    /// A reserve of three hot SKUs in three shards and of one in a fourth that may have to be loaded.
    Reserve,
    /// Confirm and release of such an order, in turn.
    Decide,
    /// A return of such an order, which was confirmed.
    Return,
    /// Such an order's time is over.
    Expire,
    /// Its payment comes after that.
    LatePayment,
    /// A process was killed in the middle of such a reserve, and the next one is killed while it clears that up.
    Ask,
    /// A process is killed while it starts on such an order.
    Start,
}

/// What the same request is answered afterwards.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Then {
    /// Nothing was logged: now it is done.
    Done,
    /// It was logged.
    Known,
    /// It was on its way to the disk, and nobody was told of it: one of the two.
    Either,
}

struct Places {
    hot: [String; 3],
    /// One for each round: an open order keeps its SKUs in memory.
    stored: Vec<String>,
}

fn lines(skus: &[&String]) -> Vec<Value> {
    skus.iter().map(|sku_id| json!({ "sku_id": sku_id, "quantity": 2 })).collect()
}

fn kill_at(step: &str, hits: u32, play: Play, then: Then) {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(dir.path());
    let places = Places {
        hot: [sku_in(1, "hot-"), sku_in(3, "hot-"), sku_in(6, "hot-")],
        stored: (0..kills()).map(|round| sku_in(4, &format!("stored-{round}-"))).collect(),
    };
    for sku_id in &places.hot {
        fixture.stock(sku_id, 10_000, true);
    }
    for sku_id in &places.stored {
        fixture.stock(sku_id, 10_000, false);
    }
    for round in 0..kills() {
        let order_no = format!("o{round}");
        fixture.orders.push(order_no.clone());
        let [a, b, c] = &places.hot;
        let four = lines(&[a, b, &places.stored[round as usize], c]);
        let hit = 1 + round % hits;
        let about = format!("{step}:{hit}, round {round}");
        let ttl = if matches!(play, Play::Expire | Play::LatePayment) { 1 } else { 3_600 };
        let reserve = json!({ "order_no": order_no, "lines": four, "ttl_seconds": ttl });
        let path = |action: &str| format!("/v1/reservations/{order_no}/{action}");
        match play {
            Play::Reserve => {
                killed(&mut fixture, step, hit, "/v1/reservations", &reserve);
                expect(&mut fixture, "/v1/reservations", &reserve, 201, then, &about);
            }
            Play::Decide => {
                assert_eq!(fixture.settle("/v1/reservations", &reserve).0, 201, "{about}");
                let action = ["confirm", "release"][round as usize % 2];
                killed(&mut fixture, step, hit, &path(action), &json!({}));
                expect(&mut fixture, &path(action), &json!({}), 200, then, &about);
                let status = ["confirmed", "released"][round as usize % 2];
                assert_eq!(fixture.status_of(&order_no), status, "{about}");
            }
            Play::Return => {
                assert_eq!(fixture.settle("/v1/reservations", &reserve).0, 201, "{about}");
                assert_eq!(fixture.settle(&path("confirm"), &json!({})).0, 200, "{about}");
                let body = json!({ "request_id": "R" });
                killed(&mut fixture, step, hit, &path("return"), &body);
                expect(&mut fixture, &path("return"), &body, 200, then, &about);
                assert_eq!(fixture.status_of(&order_no), "returned", "{about}");
            }
            Play::Expire => {
                fixture.arm(step, hit);
                fixture.ask_in_vain("/v1/reservations", &reserve);
                fixture.after_the_kill();
                fixture.until_status(&order_no, "expired");
                // Otherwise the next kill would come with what is left of this one.
                fixture.until_settled();
            }
            Play::LatePayment => {
                assert_eq!(fixture.settle("/v1/reservations", &reserve).0, 201, "{about}");
                fixture.until_status(&order_no, "expired");
                // Or the next start would go on with that.
                fixture.until_settled();
                killed(&mut fixture, step, hit, &path("confirm"), &json!({}));
                expect(&mut fixture, &path("confirm"), &json!({}), 200, then, &about);
                assert_eq!(fixture.status_of(&order_no), "confirmed", "{about}");
            }
            Play::Ask => {
                // Late enough for what is held to be on the disk.
                fixture.arm_late("span.held", 1 + round % 3);
                fixture.ask_in_vain("/v1/reservations", &reserve);
                // Nobody asks for anything: the participants do.
                fixture.after_two_kills(step, hit);
                expect(&mut fixture, "/v1/reservations", &reserve, 201, then, &about);
            }
            Play::Start => {
                assert_eq!(fixture.settle("/v1/reservations", &reserve).0, 201, "{about}");
                fixture.killed_at_start(step);
                expect(&mut fixture, "/v1/reservations", &reserve, 201, then, &about);
                // It would be asked after at the next start, too.
                assert_eq!(fixture.settle(&path("release"), &json!({})).0, 200, "{about}");
            }
        }
    }
    fixture.audit();
}

/// The request reaches the step, and the process is no more.
fn killed(fixture: &mut Fixture, step: &str, hit: u32, path: &str, body: &Value) {
    fixture.arm(step, hit);
    fixture.ask_in_vain(path, body);
    fixture.after_the_kill();
}

fn expect(fixture: &mut Fixture, path: &str, body: &Value, made: u16, then: Then, about: &str) {
    let (status, answer) = fixture.settle(path, body);
    let got = match (status, answer["replayed"].as_bool()) {
        (200, Some(true)) => Then::Known,
        (status, Some(false)) if status == made => Then::Done,
        _ => panic!("{about}: {status} {answer}"),
    };
    assert!(then == Then::Either || got == then, "{about}: {got:?} and not {then:?}: {answer}");
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
    before_a_participant_holds: "span.hold", 3, Reserve, Done;
    before_the_order_is_logged: "span.held", 3, Reserve, Done;
    before_a_participant_carries_a_decision_out: "span.instruct", 3, Decide, Either;
    before_it_is_logged_that_a_participant_did: "span.done", 3, Decide, Either;
    before_an_expiry_is_carried_out: "span.instruct", 3, Expire, Either;
    before_it_is_logged_that_an_expiry_was: "span.done", 3, Expire, Either;
    before_a_participant_holds_for_a_late_payment: "span.hold", 3, LatePayment, Done;
    before_a_late_payment_is_logged: "span.held", 3, LatePayment, Done;
    before_a_late_payment_is_carried_out: "span.instruct", 3, LatePayment, Either;
    before_it_is_logged_that_a_late_payment_was: "span.done", 3, LatePayment, Either;
    before_a_participant_holds_for_a_return: "span.hold", 3, Return, Done;
    before_a_return_is_logged: "span.held", 3, Return, Done;
    before_a_return_is_carried_out: "span.instruct", 3, Return, Either;
    before_it_is_logged_that_a_return_was: "span.done", 3, Return, Either;
    before_a_coordinator_is_asked: "span.ask", 1, Ask, Done;
    before_a_participant_lets_go: "span.abandon", 1, Ask, Done;
    before_a_coordinator_hears_that: "span.abandoned", 1, Ask, Done;
    before_a_coordinator_is_asked_after_an_order: "span.ask", 1, Start, Known;
    before_a_participant_hears_of_its_order: "span.keep", 1, Start, Known;
}
