//! Finds the orders that a cancellation brings units back from: the data does not name them.
//!
//! The rule: the orders of the same customer that hold the SKU, newest first, those that were confirmed before those
//! that were refused. Units of a refused order never left the shop, so its cancellation brings nothing back. What
//! matches no earlier order at all (sold before the file begins, or to an unknown customer) comes in as a restock.

use std::collections::HashMap;

use hotstock_engine::ids::{BuyerId, SkuId};

/// What every known customer bought, or tried to.
#[derive(Debug, Default)]
pub struct Ledger {
    bought: HashMap<(BuyerId, SkuId), Vec<Purchase>>,
}

#[derive(Debug)]
struct Purchase {
    invoice: String,
    confirmed: bool,
    /// Units that no cancellation has claimed yet.
    left: i64,
}

/// Where the units of one cancelled line come from.
#[derive(Debug, Default, PartialEq)]
pub struct Origin {
    /// Confirmed orders, and the units of each.
    pub returned: Vec<(String, i64)>,
    /// Units of refused orders.
    pub never_sold: i64,
    /// Units that match no order.
    pub unmatched: i64,
}

impl Ledger {
    /// Notes a line of an order; unknown customers are not kept, since nothing can be matched to them.
    pub fn bought(
        &mut self,
        customer: Option<&BuyerId>,
        sku_id: &SkuId,
        units: i64,
        invoice: &str,
        confirmed: bool,
    ) {
        if let Some(customer) = customer {
            let purchases = self.bought.entry((customer.clone(), sku_id.clone())).or_default();
            purchases.push(Purchase { invoice: invoice.to_owned(), confirmed, left: units });
        }
    }

    /// Claims units for a cancellation.
    pub fn cancel(&mut self, customer: Option<&BuyerId>, sku_id: &SkuId, units: i64) -> Origin {
        let mut origin = Origin { unmatched: units, ..Origin::default() };
        let key = customer.map(|customer| (customer.clone(), sku_id.clone()));
        let Some(purchases) = key.and_then(|key| self.bought.get_mut(&key)) else { return origin };
        for confirmed in [true, false] {
            for purchase in purchases.iter_mut().rev().filter(|p| p.confirmed == confirmed && p.left > 0) {
                let taken = purchase.left.min(origin.unmatched);
                if taken == 0 {
                    break;
                }
                purchase.left -= taken;
                origin.unmatched -= taken;
                if confirmed {
                    origin.returned.push((purchase.invoice.clone(), taken));
                } else {
                    origin.never_sold += taken;
                }
            }
        }
        origin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_come_from_the_newest_confirmed_orders_first() {
        let customer = BuyerId::new("7").unwrap();
        let (whose, sku) = (Some(&customer), SkuId::new("a").unwrap());
        let mut ledger = Ledger::default();
        ledger.bought(whose, &sku, 3, "1", true);
        ledger.bought(whose, &sku, 4, "2", true);
        ledger.bought(whose, &sku, 5, "3", false);
        ledger.bought(None, &sku, 9, "4", true);
        let returned = vec![("2".to_owned(), 4), ("1".to_owned(), 1)];
        assert_eq!(ledger.cancel(whose, &sku, 5), Origin { returned, never_sold: 0, unmatched: 0 });
        let returned = vec![("1".to_owned(), 2)];
        assert_eq!(ledger.cancel(whose, &sku, 8), Origin { returned, never_sold: 5, unmatched: 1 });
        assert_eq!(ledger.cancel(whose, &sku, 2).unmatched, 2);
        assert_eq!(ledger.cancel(None, &sku, 2).unmatched, 2);
    }
}
