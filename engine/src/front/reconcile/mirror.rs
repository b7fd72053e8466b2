//! What Redis shows beside what callers are told.

use std::collections::BTreeMap;
use std::time::Duration;

use super::compare::{on, words};
use super::live::Live;
use super::report::{Check, Difference, Remedy, Side};
use crate::base::ids::{SkuId, WarehouseId};
use crate::base::limits::{RECONCILE_MIRROR_LOOKS, RECONCILE_PAUSE_MILLIS};
use crate::contract::mirror::{Mirror, MirrorError, Mirrored, Put};
use crate::contract::outcome::{Refusal, StockView};

/// A stock as its name.
pub(super) type Key = (SkuId, WarehouseId);

/// Stocks as callers were told at some moment.
pub(super) type Told = BTreeMap<Key, StockView>;

/// Why it was not compared.
pub(super) enum Problem {
    Mirror(MirrorError),
    Engine(Refusal),
}

/// The stocks that the mirror does not show, of those that callers were told before. With `fix` they are written.
pub(super) async fn compare(
    live: &dyn Live,
    mirror: &dyn Mirror,
    mut before: Told,
    fix: bool,
) -> Result<Vec<Difference>, Problem> {
    let mut wrong: Vec<(StockView, Mirrored)> = Vec::new();
    for look in 0..RECONCILE_MIRROR_LOOKS {
        if look > 0 {
            tokio::time::sleep(Duration::from_millis(RECONCILE_PAUSE_MILLIS)).await;
        }
        let keys: Vec<Key> = before.keys().cloned().collect();
        let shown = mirror.levels(&keys).await.map_err(Problem::Mirror)?;
        let mut doubtful: BTreeMap<Key, Mirrored> = keys.into_iter().zip(shown).collect();
        doubtful.retain(|key, shown| !shown.shows(&before[key]));
        let now = told(live, doubtful.keys()).await.map_err(Problem::Engine)?;
        wrong.clear();
        for (key, shown) in doubtful {
            // A stock that callers are not told of any more can't be compared.
            let Some(now) = now.get(&key) else { continue };
            let is_between = shown.levels.is_some_and(|(levels, _)| {
                let is_whole = shown.available == Some(levels.available);
                is_whole
                    && before[&key].levels.version < levels.version
                    && levels.version < now.levels.version
            });
            if !shown.shows(now) && !is_between {
                wrong.push((now.clone(), shown));
            }
        }
        if wrong.is_empty() {
            return Ok(Vec::new());
        }
        // It is behind by some milliseconds: next time it shows this, or later.
        before = wrong.iter().map(|(stock, _)| (key_of(stock), stock.clone())).collect();
    }
    if fix {
        let put = |(stock, shown): &(StockView, Mirrored)| Put { stock: stock.clone(), over: shown.version };
        mirror.put(&wrong.iter().map(put).collect::<Vec<_>>()).await.map_err(Problem::Mirror)?;
    }
    let difference = |(stock, shown): (StockView, Mirrored)| Difference {
        expected: (Side::Row, format!("{}, {}", words(&stock.levels), on(stock.status))),
        found: (Side::Mirror, shown_words(&shown)),
        sku_id: stock.sku_id,
        warehouse_id: stock.warehouse_id,
        check: Check::Mirror,
        causes: Vec::new(),
        remedy: Remedy::MirrorFromStock,
    };
    Ok(wrong.into_iter().map(difference).collect())
}

/// Stocks as callers are told now.
async fn told(live: &dyn Live, keys: impl Iterator<Item = &Key>) -> Result<Told, Refusal> {
    let mut skus: Vec<&SkuId> = keys.map(|(sku_id, _)| sku_id).collect();
    skus.dedup();
    let mut told = Told::new();
    for sku_id in skus {
        told.extend(live.stock(sku_id).await?.into_iter().map(|stock| (key_of(&stock), stock)));
    }
    Ok(told)
}

pub(super) fn key_of(stock: &StockView) -> Key {
    (stock.sku_id.clone(), stock.warehouse_id)
}

fn shown_words(shown: &Mirrored) -> String {
    if *shown == Mirrored::default() {
        return "missing".to_owned();
    }
    let plain = shown.available.map_or("plain missing".to_owned(), |available| format!("plain {available}"));
    match (shown.levels, shown.version) {
        (Some((levels, status)), _) => format!("{plain}; {}, {}", words(&levels), on(status)),
        (None, Some(version)) => format!("{plain}; levels broken, version {version}"),
        (None, None) => format!("{plain}; levels missing"),
    }
}
