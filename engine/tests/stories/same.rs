//! Nobody can tell several shops from one: the same commands, at random, to a mall and to one shop that has
//! everything. In the mall SKUs and orders also leave memory, shops start again, answers are lost; at the end of each
//! step everything was told.

use hotstock_engine::command::StockStatus;
use proptest::prelude::*;

use crate::mall::Mall;
use crate::shop::Shop;

const SKUS: [&str; 5] = ["A", "B", "N", "O", "N@2"];

#[derive(Debug, Clone)]
enum Step {
    /// What both are told.
    Both(String),
    /// What only the mall knows of: what leaves memory, a start, a shop that does not hear for the next command.
    Mall(String),
    /// The shop does not answer the next command, which is then repeated.
    Broken(&'static str, usize, String),
}

fn lines() -> impl Strategy<Value = String> {
    let line = (0..SKUS.len(), 1_u32..5).prop_map(|(sku, quantity)| format!("{}:{quantity}", SKUS[sku]));
    prop::collection::vec(line, 1..5).prop_map(|lines| lines.join(" "))
}

/// The lines of a part; without an id or with one.
fn part() -> impl Strategy<Value = String> {
    let id = prop_oneof![Just(String::new()), (0..3).prop_map(|id| format!(" id=R{id}"))];
    (lines(), id).prop_map(|(lines, id)| format!("{lines}{id}"))
}

fn command() -> impl Strategy<Value = String> {
    let order = || (0..5).prop_map(|n| format!("O{n}"));
    let of_order = |verb: &'static str| order().prop_map(move |order| format!("{verb} {order}"));
    let in_part = |verb: &'static str| {
        (order(), part()).prop_map(move |(order, part)| format!("{verb} {order} {part}"))
    };
    let ttl = prop_oneof![Just(1), Just(60)];
    let best = prop_oneof![2 => Just(""), 1 => Just(" best_effort")];
    let reserve = (order(), lines(), ttl, best)
        .prop_map(|(order, lines, ttl, best)| format!("reserve {order} {lines} ttl={ttl}{best}"));
    let again = (order(), 0..3, prop_oneof![Just(String::new()), lines()]);
    let return_ = again.prop_map(|(order, id, lines)| format!("return {order} R{id} {lines}"));
    let stock = (0..SKUS.len(), 1..4, 0..1000, prop_oneof![Just("restock"), Just("deduct")])
        .prop_map(|(sku, units, id, verb)| format!("{verb} {} {units} S{verb}{id}", SKUS[sku]));
    let status = (0..SKUS.len(), prop_oneof![1 => Just("suspend"), 2 => Just("resume")])
        .prop_map(|(sku, verb)| format!("{verb} {}", SKUS[sku]));
    prop_oneof![
        8 => reserve,
        3 => of_order("confirm"),
        4 => in_part("confirm"),
        2 => of_order("release"),
        4 => in_part("release"),
        1 => of_order("extend").prop_map(|text| format!("{text} 5")),
        4 => return_,
        1 => of_order("get"),
        2 => stock,
        1 => status,
        2 => (1..30).prop_map(|tenths| format!("wait {}", tenths * 100)),
        1 => Just("expire".to_owned()),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let sku = || prop_oneof![Just("A"), Just("B"), Just("N"), Just("O")];
    let broken = (prop_oneof![Just("deaf"), Just("mute")], 0..2_usize, command());
    prop_oneof![
        20 => command().prop_map(Step::Both),
        3 => sku().prop_map(|sku| Step::Mall(format!("evict {sku}"))),
        1 => (0..3).prop_map(|max| Step::Mall(format!("forget 0 {max}"))),
        1 => Just(Step::Mall("restart".to_owned())),
        2 => broken.prop_map(|(how, shop, command)| Step::Broken(how, shop, command)),
    ]
}

/// What is available of a suspended SKU is not told by a shop that refuses it, nor which of its other lines are short.
fn comparable(told: &str, suspended: bool) -> String {
    match told.split_once(' ') {
        Some((code @ ("insufficient_stock" | "late_payment_no_stock"), _)) if suspended => code.to_owned(),
        _ => told.to_owned(),
    }
}

fn has_suspended(shop: &Shop) -> bool {
    shop.state.audit().stocks.iter().any(|stock| stock.status == StockStatus::Suspended)
}

fn sorted(told: &str) -> Vec<&str> {
    let mut words: Vec<_> = told.split_whitespace().collect();
    words.sort_unstable();
    words
}

fn tell_both(mall: &mut Mall, shop: &mut Shop, sent: &str) -> Result<(), TestCaseError> {
    let suspended = has_suspended(shop);
    let (of_mall, of_shop) = (mall.say(sent), shop.say(sent));
    if sent == "expire" {
        prop_assert_eq!(sorted(&of_mall), sorted(&of_shop), "{}", sent);
    } else {
        prop_assert_eq!(comparable(&of_mall, suspended), comparable(&of_shop, suspended), "{}", sent);
    }
    mall.say("carry");
    mall.say("ask");
    Ok(())
}

/// Some seconds in a debug build; PROPTEST_CASES asks for more.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { 60 };
    ProptestConfig { cases, ..default }
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn several_shops_do_what_one_does(steps in prop::collection::vec(step(), 1..60)) {
        let (mut mall, mut shop) = (Mall::default(), Shop::default());
        for sku in SKUS {
            tell_both(&mut mall, &mut shop, &format!("create {sku} 6"))?;
        }
        for step in steps {
            match step {
                Step::Both(sent) => tell_both(&mut mall, &mut shop, &sent)?,
                Step::Mall(sent) => {
                    mall.say(&sent);
                    mall.say("carry");
                }
                Step::Broken(how, number, sent) => {
                    // The mall may take it in some seconds before the shop does, which an expiry would show.
                    let sent = sent.replace("ttl=1", "ttl=99999").replace("ttl=60", "ttl=99999");
                    // Whoever has no answer asks again; what is about stock alone is not.
                    let is_of_order = ["reserve", "confirm", "release", "return"].iter().any(|verb| sent.starts_with(verb));
                    if is_of_order {
                        mall.say(&format!("{how} {number}"));
                        mall.say(&sent);
                        mall.say(&format!("hears {number}"));
                        mall.say("restart");
                        mall.say("carry");
                        mall.say("wait 3000");
                        shop.say("wait 3000");
                        mall.say("ask");
                        // Both may say that it was done before, or do it now.
                        let (of_mall, of_shop) = (mall.say(&sent), shop.say(&sent));
                        let suspended = has_suspended(&shop);
                        let effect = |told: &str| comparable(told, suspended).replace("created ", "replayed ").replace("changed ", "replayed ");
                        prop_assert_eq!(effect(&of_mall), effect(&of_shop), "{} {}", how, sent);
                        mall.say("carry");
                    }
                }
            }
            for sku in SKUS {
                let sent = format!("levels {sku}");
                prop_assert_eq!(mall.say(&sent), shop.say(&sent), "{}", sku);
            }
        }
        mall.check();
        shop.check();
    }
}
