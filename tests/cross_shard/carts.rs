//! A thousand callers at once, each with fifty lines over a hundred SKUs of which there is half of what all want
//! together. Every cart is held whole or refused whole; in the end, when nobody else asks, whoever was refused is
//! refused for lines that are really short.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;
use serde_json::{Value, json};

use crate::fixture::{Fixture, SHARDS, sku_in};
use crate::support::Client;

const CARTS: usize = 1_000;
const LINES: usize = 50;
const SKUS: usize = 100;
/// Tries of one cart while the others fight for the same units: a refusal while they hold what they give back again is
/// true, and no last word.
const TRIES: u32 = 2;

struct Cart {
    order_no: String,
    lines: Vec<(usize, i64)>,
}

impl Cart {
    fn body(&self, skus: &[String]) -> Value {
        let line = |(sku, units): &(usize, i64)| json!({ "sku_id": skus[*sku], "quantity": units });
        json!({ "order_no": self.order_no, "lines": self.lines.iter().map(line).collect::<Vec<_>>(), "ttl_seconds": 3_600 })
    }
}

#[test]
fn a_thousand_large_carts_fight_for_half_of_what_they_want() {
    let mut rng = Rng::with_seed(4);
    let carts: Vec<Cart> = (0..CARTS)
        .map(|number| {
            let skus = rng.choose_multiple(0..SKUS, LINES);
            let lines = skus.into_iter().map(|sku| (sku, rng.i64(1..=3))).collect();
            Cart { order_no: format!("cart-{number}"), lines }
        })
        .collect();
    let mut wanted = vec![0; SKUS];
    carts.iter().flat_map(|cart| &cart.lines).for_each(|(sku, units)| wanted[*sku] += units);

    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(dir.path());
    // Over all shards; every tenth is not hot and has to be loaded before the first cart with it is decided.
    let name = |sku: usize| {
        let shard = u16::try_from(sku).unwrap() % SHARDS;
        sku_in(shard, &format!("{}{sku}-", if sku.is_multiple_of(10) { "stored" } else { "sku" }))
    };
    let skus: Vec<String> = (0..SKUS).map(name).collect();
    for (sku, sku_id) in skus.iter().enumerate() {
        fixture.stock(sku_id, wanted[sku] / 2, !sku_id.starts_with("stored"));
    }

    let address = fixture.address().to_owned();
    let (start, refusals) = (Barrier::new(CARTS), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for cart in &carts {
            let (address, skus, start, refusals) = (&address, &skus, &start, &refusals);
            let work = move || {
                let (mut client, body) = (Client::default(), cart.body(skus).to_string());
                start.wait();
                for _ in 0..TRIES {
                    let (status, answer) = client.call(address, "POST", "/v1/reservations", &body).unwrap();
                    match status {
                        200 | 201 => return,
                        409 => {
                            refusals.fetch_add(1, Ordering::Relaxed);
                            explained(cart, skus, &answer);
                        }
                        // Too many at once: nothing happened, or it is not known what did.
                        503 | 504 => {}
                        _ => panic!("{}: {status} {answer}", cart.order_no),
                    }
                }
            };
            std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, work).unwrap();
        }
    });

    // One after the other: now every answer is about what is there.
    let mut held = 0;
    for cart in &carts {
        let (status, answer) = fixture.settle("/v1/reservations", &cart.body(&skus));
        if matches!(status, 200 | 201) {
            held += 1;
            for (line, (sku, units)) in answer["lines"].as_array().unwrap().iter().zip(&cart.lines) {
                assert_eq!((&line["sku_id"], &line["held"]), (&json!(skus[*sku]), &json!(units)), "whole");
            }
            let path = format!("/v1/reservations/{}/confirm", cart.order_no);
            assert_eq!(fixture.settle(&path, &json!({})).0, 200);
            continue;
        }
        assert_eq!(status, 409, "{answer}");
        explained(cart, &skus, &answer);
        for line in answer["lines"].as_array().unwrap() {
            let (_, stock) = fixture.get(&format!("/v1/stock/{}", line["sku_id"].as_str().unwrap()));
            assert_eq!(stock["total"]["available"], line["available"], "what it was told is what there is");
        }
    }
    println!(
        "{held} of {CARTS} carts are sold, {} were refused on the way",
        refusals.load(Ordering::Relaxed)
    );
    assert!(held > 0, "somebody gets something");
    fixture.orders = carts.iter().map(|cart| cart.order_no.clone()).collect();
    fixture.audit();
}

/// A refusal names lines of the cart, each asking for more than it says there was.
fn explained(cart: &Cart, skus: &[String], answer: &Value) {
    assert_eq!(answer["code"], "insufficient_stock", "{answer}");
    let asked: BTreeMap<&str, i64> =
        cart.lines.iter().map(|(sku, units)| (skus[*sku].as_str(), *units)).collect();
    let short = answer["lines"].as_array().unwrap();
    assert!(!short.is_empty(), "{answer}");
    for line in short {
        let requested = asked.get(line["sku_id"].as_str().unwrap()).copied();
        assert_eq!(line["requested"].as_i64(), requested, "{answer}");
        assert!(line["available"].as_i64() < requested, "{answer}");
    }
}
