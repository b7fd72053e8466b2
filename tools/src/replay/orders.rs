//! What every order must be after the answers that it was given: the model that the server's orders are compared with,
//! one by one.
//!
//! It knows the rules and nothing of how they are kept: an order was sold whole, or refused whole for lines that its
//! refusal names and that could really be short; what came back later came back to the line that it was sold on.

use std::collections::{BTreeMap, HashMap};

use hotstock_engine::ids::SkuId;

use crate::client::{Connection, segment};
use crate::failure::Failure;
use crate::wire;

/// What one order must be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// Sold: units and units returned, by SKU.
    Sold(BTreeMap<String, (u32, u32)>),
    /// Refused, and its number closed.
    Refused,
}

/// What every order must be, by number.
#[derive(Debug, Default)]
pub struct Orders(BTreeMap<String, Fate>);

impl Orders {
    /// An order was confirmed.
    pub fn sold(&mut self, number: &str, lines: &[(SkuId, i64)]) {
        let lines = lines.iter().map(|(sku_id, units)| (sku_id.to_string(), (units_of(*units), 0)));
        self.0.insert(number.to_owned(), Fate::Sold(lines.collect()));
    }

    /// An order was refused and closed.
    pub fn refused(&mut self, number: &str) {
        self.0.insert(number.to_owned(), Fate::Refused);
    }

    /// Units of an order came back.
    pub fn returned(&mut self, number: &str, lines: &[(SkuId, i64)]) {
        let Some(Fate::Sold(sold)) = self.0.get_mut(number) else { return };
        for (sku_id, units) in lines {
            if let Some((_, returned)) = sold.get_mut(sku_id.as_str()) {
                *returned += units_of(*units);
            }
        }
    }

    /// Takes over the orders of another caller.
    pub fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Reads every order and compares; each difference is a line.
    ///
    /// # Errors
    /// [`Failure`] when the server can't be asked.
    pub async fn differences(&self, connection: &mut Connection) -> Result<Vec<String>, Failure> {
        let mut differences = Vec::new();
        for (number, fate) in &self.0 {
            let path = format!("/v1/reservations/{}", segment(number));
            let status = connection.call_until_known("GET", &path, b"").await?;
            if status != 200 {
                differences.push(format!("order {number}: the server says {status}"));
                continue;
            }
            let order: wire::Order = connection.json()?;
            if let Some(difference) = fate.difference(&order) {
                differences.push(format!("order {number}: {difference}"));
            }
        }
        Ok(differences)
    }
}

impl Fate {
    fn difference(&self, order: &wire::Order) -> Option<String> {
        let Self::Sold(expected) = self else {
            let closed = order.status == "cancelled" && order.lines.is_empty();
            return (!closed)
                .then(|| format!("it was refused and closed, the server has it {}", order.status));
        };
        let (sold, back) = expected.values().fold((0, 0), |(sold, back), (s, b)| (sold + s, back + b));
        let status = match back {
            0 => "confirmed",
            back if back == sold => "returned",
            _ => "partially_returned",
        };
        if order.status != status {
            return Some(format!("it must be {status}, the server has it {}", order.status));
        }
        // A line is a SKU here: the file knows no warehouses.
        let mut there: HashMap<&str, (u32, u32)> = HashMap::new();
        for line in &order.lines {
            if line.held != 0 || line.released != 0 || line.confirmed != line.quantity {
                return Some(format!("a line is not sold whole: {line:?}"));
            }
            there.insert(&line.sku_id, (line.confirmed, line.returned));
        }
        let same = there.len() == expected.len()
            && expected.iter().all(|(sku_id, units)| there.get(sku_id.as_str()) == Some(units));
        (!same).then(|| format!("it must have sold {expected:?}, the server has {there:?}"))
    }
}

/// Why a refusal for want of stock can't be right, if it can't: it has to name lines of the order, each asking for more
/// than it says there was, of a SKU of which there was not enough for everybody.
pub fn wrong_refusal(
    lines: &[(SkuId, i64)],
    short: &[wire::ShortLine],
    plenty: impl Fn(&SkuId) -> bool,
) -> Option<String> {
    if short.is_empty() {
        return Some("it names no line".to_owned());
    }
    for line in short {
        let Some((sku_id, units)) = lines.iter().find(|(sku_id, _)| sku_id.as_str() == line.sku_id) else {
            return Some(format!("it names {}, which is not in the order", line.sku_id));
        };
        if *units != line.requested || line.available >= line.requested || line.available < 0 {
            return Some(format!("a line that asks for {units} is told {line:?}"));
        }
        if plenty(sku_id) {
            return Some(format!("there was enough of {sku_id} for everybody"));
        }
    }
    None
}

fn units_of(units: i64) -> u32 {
    u32::try_from(units).expect("units of a line were checked when the file was read")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(status: &str, lines: &[(&str, u32, u32, u32)]) -> wire::Order {
        let line = |(sku_id, quantity, confirmed, returned): &(&str, u32, u32, u32)| wire::OrderLine {
            sku_id: (*sku_id).to_owned(),
            quantity: *quantity,
            held: 0,
            confirmed: *confirmed,
            released: quantity - confirmed,
            returned: *returned,
        };
        let lines = lines.iter().map(line).collect();
        wire::Order { status: status.to_owned(), replayed: false, lines }
    }

    fn lines(lines: &[(&str, i64)]) -> Vec<(SkuId, i64)> {
        lines.iter().map(|(sku, units)| (SkuId::new(sku).unwrap(), *units)).collect()
    }

    #[test]
    fn an_order_is_what_its_answers_made_it() {
        let mut orders = Orders::default();
        orders.sold("1", &lines(&[("a", 3), ("b", 1)]));
        let fate = orders.0["1"].clone();
        assert_eq!(fate.difference(&order("confirmed", &[("b", 1, 1, 0), ("a", 3, 3, 0)])), None);
        for wrong in [
            order("reserved", &[("a", 3, 3, 0), ("b", 1, 1, 0)]),
            order("confirmed", &[("a", 3, 3, 0)]),
            order("confirmed", &[("a", 3, 2, 0), ("b", 1, 1, 0)]),
            order("confirmed", &[("a", 3, 3, 1), ("b", 1, 1, 0)]),
        ] {
            assert!(fate.difference(&wrong).is_some(), "{wrong:?}");
        }
        orders.returned("1", &lines(&[("a", 2)]));
        let fate = orders.0["1"].clone();
        assert_eq!(fate.difference(&order("partially_returned", &[("a", 3, 3, 2), ("b", 1, 1, 0)])), None);
        orders.returned("1", &lines(&[("a", 1), ("b", 1)]));
        assert_eq!(orders.0["1"].difference(&order("returned", &[("a", 3, 3, 3), ("b", 1, 1, 1)])), None);
        orders.refused("2");
        assert_eq!(orders.0["2"].difference(&order("cancelled", &[])), None);
        assert!(orders.0["2"].difference(&order("confirmed", &[("a", 1, 1, 0)])).is_some());
    }

    #[test]
    fn a_refusal_names_what_was_really_short() {
        let asked = lines(&[("a", 3), ("b", 1)]);
        let short = |sku: &str, requested, available| wire::ShortLine {
            sku_id: sku.to_owned(),
            requested,
            available,
        };
        let scarce = |_: &SkuId| false;
        assert_eq!(wrong_refusal(&asked, &[short("a", 3, 2)], scarce), None);
        assert!(wrong_refusal(&asked, &[], scarce).is_some());
        assert!(wrong_refusal(&asked, &[short("a", 3, 3)], scarce).is_some());
        assert!(wrong_refusal(&asked, &[short("a", 2, 1)], scarce).is_some());
        assert!(wrong_refusal(&asked, &[short("c", 3, 2)], scarce).is_some());
        assert!(wrong_refusal(&asked, &[short("a", 3, 2)], |_| true).is_some());
    }
}
