//! The replay's own books: what every SKU's levels must be after the answers that the replay was given; and how often
//! what happened.

use std::collections::BTreeMap;

use hotstock_engine::ids::SkuId;
use sha2::{Digest as _, Sha256};

use crate::wire;

/// What must be true of one SKU: available + sold = supplied, and nothing is reserved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entry {
    /// Units it was stocked with, and all that came and went other than by orders.
    pub supplied: i64,
    /// Units of confirmed orders, less those that came back.
    pub sold: i64,
}

/// What must be true of every SKU.
#[derive(Debug, Default)]
pub struct Books(BTreeMap<SkuId, Entry>);

impl Books {
    /// Units came in, or left (negative), other than by an order.
    pub fn supply(&mut self, sku_id: &SkuId, units: i64) {
        self.0.entry(sku_id.clone()).or_default().supplied += units;
    }

    /// Units were sold, or came back (negative).
    pub fn sell(&mut self, sku_id: &SkuId, units: i64) {
        self.0.entry(sku_id.clone()).or_default().sold += units;
    }

    /// Adds what another caller did.
    pub fn add(&mut self, other: &Self) {
        for (sku_id, entry) in &other.0 {
            self.supply(sku_id, entry.supplied);
            self.sell(sku_id, entry.sold);
        }
    }

    /// How many SKUs there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The sums over all SKUs.
    pub fn total(&self) -> Entry {
        let add = |sum: Entry, entry: &Entry| Entry {
            supplied: sum.supplied + entry.supplied,
            sold: sum.sold + entry.sold,
        };
        self.0.values().fold(Entry::default(), add)
    }

    /// A short text for all levels together: two replays that end with the same stock have the same one.
    pub fn fingerprint(&self) -> String {
        let line = |(sku_id, entry): (&SkuId, &Entry)| {
            format!("{sku_id}\n{} {}\n", entry.supplied - entry.sold, entry.sold)
        };
        let all: String = self.0.iter().map(line).collect();
        Sha256::digest(all)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Compares with what the server says; each difference is a line. SKUs that the replay never touched are not its
    /// concern.
    pub fn differences(&self, server: &[wire::Sku]) -> Vec<String> {
        let on_server: BTreeMap<&str, wire::Levels> =
            server.iter().map(|sku| (sku.sku_id.as_str(), sku.total)).collect();
        let mut differences = Vec::new();
        for (sku_id, entry) in &self.0 {
            let Some(levels) = on_server.get(sku_id.as_str()) else {
                differences.push(format!("{sku_id}: the server does not know it"));
                continue;
            };
            let expected =
                wire::Levels { available: entry.supplied - entry.sold, reserved: 0, sold: entry.sold };
            if *levels != expected {
                differences.push(format!("{sku_id}: expected {expected:?}, the server has {levels:?}"));
            }
            let there = levels.available + levels.reserved + levels.sold;
            if there != entry.supplied {
                let supplied = entry.supplied;
                differences.push(format!(
                    "{sku_id}: {supplied} units came in, but available + reserved + sold = {there}"
                ));
            }
        }
        differences
    }
}

/// What can become of a document of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Happened {
    /// An order was reserved and confirmed.
    Sold,
    /// An order was refused for want of stock, and its number closed.
    Refused,
    /// Units of a confirmed order came back.
    Returned,
    /// Units came back that match no order: restocked.
    Restocked,
    /// A cancellation of a refused order: nothing to bring back.
    NothingToReturn,
    /// A stock correction was made.
    Corrected,
    /// A stock correction was refused: the units are not there.
    NotCorrected,
}

impl Happened {
    fn label(self) -> &'static str {
        match self {
            Self::Sold => "orders sold (reserved, confirmed)",
            Self::Refused => "orders refused (insufficient stock)",
            Self::Returned => "returns to a confirmed order",
            Self::Restocked => "returns without an order (restocked)",
            Self::NothingToReturn => "returns of refused orders (nothing to do)",
            Self::Corrected => "corrections made",
            Self::NotCorrected => "corrections refused (insufficient stock)",
        }
    }
}

/// How often each of these happened.
#[derive(Debug, Default)]
pub struct Tally(BTreeMap<Happened, Count>);

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    times: u64,
    units: i64,
    /// How many of them the server had done before.
    known: u64,
}

impl Tally {
    /// Counts one; `known` says that the server had done it before.
    pub fn count(&mut self, what: Happened, units: i64, known: bool) {
        let count = self.0.entry(what).or_default();
        count.times += 1;
        count.units += units;
        count.known += u64::from(known);
    }

    /// Adds what another caller counted.
    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            let sum = self.0.entry(*what).or_default();
            sum.times += count.times;
            sum.units += count.units;
            sum.known += count.known;
        }
    }

    /// How many changed something on the server now.
    pub fn new_ones(&self) -> u64 {
        self.0.values().map(|count| count.times - count.known).sum()
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let mut table =
            format!("{:<42}{:>10}{:>12}{:>16}\n", "what happened", "times", "units", "known before");
        for (what, Count { times, units, known }) in &self.0 {
            table.push_str(&format!("{:<42}{times:>10}{units:>12}{known:>16}\n", what.label()));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_find_what_is_missing_and_what_is_too_much() {
        let sku = |name: &str| SkuId::new(name).unwrap();
        let mut books = Books::default();
        books.supply(&sku("a"), 10);
        books.sell(&sku("a"), 4);
        books.supply(&sku("b"), 1);
        let server = |available, sold| {
            let levels = wire::Levels { available, reserved: 0, sold };
            let item = |name: &str, total| wire::Sku { sku_id: name.to_owned(), total };
            [item("a", levels), item("b", wire::Levels { available: 1, ..Default::default() })]
        };
        assert_eq!(books.differences(&server(6, 4)), Vec::<String>::new());
        assert_eq!(books.differences(&server(5, 5)).len(), 1);
        assert_eq!(books.differences(&server(7, 4)).len(), 2);
        assert_eq!(books.differences(&server(6, 4)[..1]), ["b: the server does not know it"]);
        let before = books.fingerprint();
        books.sell(&sku("a"), 1);
        assert_ne!(books.fingerprint(), before);
        books.sell(&sku("a"), -1);
        assert_eq!(books.fingerprint(), before);
    }
}
