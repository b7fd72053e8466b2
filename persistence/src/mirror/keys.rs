//! The names of the mirror's keys in Redis.

use hotstock_engine::ids::{SkuId, WarehouseId};

/// Ends the name of the hash that stands beside the plain number.
const HASH_SUFFIX: &str = ":levels";

/// Makes names. Those of two different stocks are never the same, whatever characters the ids have:
///
/// - the warehouse is a number, so the second colon ends it;
/// - only names of hashes end in `:levels`: a SKU whose own name ends in `:levels`, or in that and some `%`, gets one
///   more `%`. All other SKUs stand in the key as they are, as existing readers expect.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The plain number: what is available.
    pub fn available(&self, sku_id: &SkuId, warehouse_id: WarehouseId) -> String {
        let sku = sku_id.as_str();
        let mark = if sku.trim_end_matches('%').ends_with(HASH_SUFFIX) { "%" } else { "" };
        format!("{}:{warehouse_id}:{sku}{mark}", self.prefix)
    }

    /// The hash with all levels.
    pub fn levels(&self, sku_id: &SkuId, warehouse_id: WarehouseId) -> String {
        let mut key = self.available(sku_id, warehouse_id);
        key.push_str(HASH_SUFFIX);
        key
    }

    /// The mark of one run of the mirror. No warehouse is called `run`.
    pub fn mark(&self, run: &str) -> String {
        format!("{}:run:{run}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn both(sku: &str, warehouse: u32) -> [String; 2] {
        let (keys, sku) = (Keys::new("inv"), SkuId::new(sku).unwrap());
        [keys.available(&sku, WarehouseId(warehouse)), keys.levels(&sku, WarehouseId(warehouse))]
    }

    #[test]
    fn they_are_as_existing_readers_expect() {
        assert_eq!(both("85123A", 1), ["inv:1:85123A", "inv:1:85123A:levels"]);
        assert_eq!(both("Größe 5:rot%", 20), ["inv:20:Größe 5:rot%", "inv:20:Größe 5:rot%:levels"]);
        assert_eq!(both("a:levels", 1), ["inv:1:a:levels%", "inv:1:a:levels%:levels"]);
    }

    proptest! {
        #[test]
        fn no_two_stocks_share_a_key(skus in prop::collection::hash_set("(a|:|%|:levels|1){1,5}", 1..40)) {
            let mut owners = HashMap::new();
            for sku in &skus {
                for warehouse in [1, 11] {
                    for key in both(sku, warehouse) {
                        let other = owners.insert(key.clone(), (sku, warehouse));
                        prop_assert!(other.is_none(), "{key} is of {other:?} and of {sku} in {warehouse}");
                    }
                }
            }
        }
    }
}
