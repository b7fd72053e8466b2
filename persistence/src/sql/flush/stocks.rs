//! The rows of stocks, of their journal and of stock requests.
//!
//! A stock row is changed only where it is what the first event of the batch found. Where it is not, somebody changed
//! it by hand: its SKU is parked, and from then on its stock rows are left alone until they are repaired. The journal
//! goes on, so that it can tell what is true.

use std::collections::{BTreeSet, HashMap};

use hotstock_engine::command::StockStatus;
use hotstock_engine::ids::SkuId;
use hotstock_engine::image::StockImage;
use hotstock_engine::units::Levels;

use super::super::dialect::{Arg, Existing, Row, Update};
use super::super::error::{SqlError, problem_of};
use super::super::rows::{
    STOCK, STOCK_JOURNAL, STOCK_REQUESTS, StockKey, journal_row, levels, status_name, stock_request_row,
    stock_row, words,
};
use super::super::statements::{rows_in, rows_of_any, update};
use super::Writing;
use super::rows::{ChangedStock, Rows};

/// A stock row that is not what the shard found.
const STOCK_CHANGED: &str = "stock_changed";

const CHANGE_STOCKS: Update = Update {
    table: "stock",
    // Also what the first event found.
    keys: &["sku_id", "warehouse_id", "version", "available", "reserved", "sold", "supplied"],
    sets: &[
        "available = v.n_to_available",
        "reserved = v.n_to_reserved",
        "sold = v.n_to_sold",
        "version = v.n_to_version",
        "supplied = v.n_to_supplied",
        "status = COALESCE(v.n_status, status)",
        "numbered = numbered + v.n_numbered",
        "lsn = v.n_lsn",
        "changed_at = v.n_changed_at",
    ],
    values: &[
        "sku_id",
        "warehouse_id",
        "version",
        "available",
        "reserved",
        "sold",
        "supplied",
        "to_available",
        "to_reserved",
        "to_sold",
        "to_version",
        "to_supplied",
        "status",
        "numbered",
        "lsn",
        "changed_at",
    ],
    bytes: &[],
};

const PIN: Update = Update {
    table: "stock",
    keys: &["sku_id"],
    sets: &["hot = v.n_hot", "lsn = v.n_lsn"],
    values: &["sku_id", "hot", "lsn"],
    bytes: &[],
};

impl Writing<'_> {
    pub(super) async fn stocks(&mut self, rows: &Rows) -> Result<(), SqlError> {
        let parked = self.parked_before(rows).await?;
        let live = |(key, _): &(&StockKey, &ChangedStock)| !parked.contains(&key.0);
        let created = rows.stocks.iter().filter(|(_, stock)| stock.created.is_some()).filter(live).collect();
        self.created_stocks(created).await?;
        self.changed_stocks(
            rows.stocks.iter().filter(|(_, stock)| stock.created.is_none()).filter(live).collect(),
        )
        .await?;
        // Of a parked SKU too: it is as hot as its shard says.
        let pins =
            rows.pins.iter().map(|(sku_id, (hot, lsn))| vec![sku_id.into(), (*hot).into(), (*lsn).into()]);
        let pinned = update(self.tx, &PIN, pins.collect()).await?;
        self.count += pinned.count;

        let requests = rows.requests.values().map(stock_request_row).collect();
        let skus: Vec<_> = rows.requests.keys().map(|(sku_id, _)| sku_id.clone()).collect();
        // One that was pruned may come again.
        self.insert(&STOCK_REQUESTS, Existing::Replaced, requests, &|place| Some(skus[place].clone()))
            .await?;

        if self.careful {
            self.strange_journal(rows).await?;
        }
        let existing = if self.careful { Existing::Replaced } else { Existing::Refused };
        let journal = rows.journal.iter().map(journal_row).collect();
        let sku_of = |place: usize| Some(rows.journal[place].change.sku_id.clone());
        self.insert(&STOCK_JOURNAL, existing, journal, &sku_of).await
    }

    /// SKUs of the batch that are parked.
    async fn parked_before(&mut self, rows: &Rows) -> Result<BTreeSet<SkuId>, SqlError> {
        let mut parked = BTreeSet::new();
        if self.tx.rows("SELECT sku_id FROM parked LIMIT 1", &[]).await?.is_empty() {
            return Ok(parked);
        }
        let skus: BTreeSet<_> = rows.stocks.keys().map(|(sku_id, _)| sku_id.clone()).collect();
        let skus: Vec<_> = skus.into_iter().collect();
        for row in rows_in(self.tx, "SELECT sku_id FROM parked WHERE", "sku_id", &skus, "").await? {
            parked.insert(row.fields().id(SkuId::new)?);
        }
        Ok(parked)
    }

    async fn created_stocks(&mut self, created: Vec<(&StockKey, &ChangedStock)>) -> Result<(), SqlError> {
        // A new warehouse of a SKU is as hot as the others.
        let skus: BTreeSet<_> = created.iter().map(|((sku_id, _), _)| sku_id.clone()).collect();
        let skus: Vec<_> = skus.into_iter().collect();
        let (mut hot, mut there) = (BTreeSet::new(), HashMap::new());
        let head = "SELECT sku_id, warehouse_id, hot, available, reserved, sold, version FROM stock WHERE";
        for row in rows_in(self.tx, head, "sku_id", &skus, "").await? {
            let f = &mut row.fields();
            let sku_id = f.id(SkuId::new)?;
            let Ok(warehouse_id) = f.warehouse() else { continue };
            if f.flag().unwrap_or_default() {
                hot.insert(sku_id.clone());
            }
            there.insert((sku_id, warehouse_id), levels(f).map_err(problem_of));
        }
        let mut new = Vec::new();
        for (key, stock) in created {
            match there.get(key) {
                None => new.push((key, stock)),
                Some(levels) => {
                    let words_of = |problem: &String| format!("a row that can't be read ({problem})");
                    let (words, after) =
                        (levels.as_ref().map_or_else(words_of, |levels| words(*levels)), words(stock.after));
                    self.park(
                        key,
                        stock,
                        format!(
                            "the store has {words} in warehouse {}; the shard creates it: {after}",
                            key.1
                        ),
                    );
                }
            }
        }
        let rows = new.iter().map(|((sku_id, warehouse_id), stock)| {
            let (initial, serialized) = stock.created.unwrap_or_default();
            let image = StockImage {
                sku_id: sku_id.clone(),
                warehouse_id: *warehouse_id,
                levels: stock.after,
                status: stock.status.unwrap_or(StockStatus::OnSale),
                initial,
                supplied: stock.after.quantity(),
                forgotten_sold: 0,
                lsn: stock.lsn,
                hot: hot.contains(sku_id),
                numbered: serialized.then_some(stock.numbered),
            };
            stock_row(&image, self.shard, stock.changed_at)
        });
        let rows = rows.collect();
        self.insert(&STOCK, Existing::Refused, rows, &|place| Some(new[place].0.0.clone())).await
    }

    async fn changed_stocks(&mut self, changed: Vec<(&StockKey, &ChangedStock)>) -> Result<(), SqlError> {
        let rows: Vec<_> = changed.iter().map(|(key, stock)| changed_row(key, stock)).collect();
        let wanted = rows.len() as u64;
        let written = update(self.tx, &CHANGE_STOCKS, rows).await?;
        self.count += written.count;
        let took_all = written.count == wanted;
        self.refused(STOCK.name, written, &|place| Some(changed[place].0.0.clone()))?;
        if took_all {
            return Ok(());
        }
        // Some did not take: those that are not as they should be by now.
        let keys = changed
            .iter()
            .map(|((sku_id, warehouse_id), _)| vec![sku_id.into(), (*warehouse_id).into()])
            .collect();
        let head =
            "SELECT sku_id, warehouse_id, supplied, available, reserved, sold, version FROM stock WHERE";
        let found = rows_of_any(self.tx, head, "(sku_id = ? AND warehouse_id = ?)", keys, "").await?;
        let found = found.iter().map(found_stock).collect::<Result<HashMap<_, _>, SqlError>>()?;
        for (key, stock) in changed {
            let had = match found.get(key) {
                Some(Ok(had)) if *had == (stock.after.quantity(), stock.after) => continue,
                Some(Ok((supplied, levels))) => format!("{}, {supplied} supplied", words(*levels)),
                Some(Err(problem)) => format!("a row that can't be read ({problem})"),
                None => "no row".to_owned(),
            };
            let before = words(stock.before.unwrap_or_default());
            self.park(
                key,
                stock,
                format!("the store had {had} in warehouse {}; the shard had {before}", key.1),
            );
        }
        Ok(())
    }

    fn park(&mut self, (sku_id, _): &StockKey, stock: &ChangedStock, detail: String) {
        self.anomaly(STOCK_CHANGED, (stock.lsn, stock.changed_at), None, Some(sku_id), detail.clone());
        self.parked.entry(sku_id.clone()).or_insert((self.last.1, detail));
    }

    /// Rows of the journal that nobody logged, of stocks of the batch. They are written over.
    async fn strange_journal(&mut self, rows: &Rows) -> Result<(), SqlError> {
        let keys = rows.stocks.iter().map(|((sku_id, warehouse_id), stock)| {
            let before = stock.before.map_or(0, |levels| levels.version);
            vec![sku_id.into(), (*warehouse_id).into(), before.into()]
        });
        let head = "SELECT sku_id, warehouse_id, version FROM stock_journal WHERE";
        let one = "(sku_id = ? AND warehouse_id = ? AND version > ?)";
        let mut strange = BTreeSet::new();
        for row in rows_of_any(self.tx, head, one, keys.collect(), "").await? {
            let f = &mut row.fields();
            let (sku_id, warehouse_id) = (f.id(SkuId::new)?, f.warehouse()?);
            let version = f.count().map_or_else(problem_of, |version| version.to_string());
            strange.insert((sku_id, warehouse_id, version));
        }
        for (sku_id, warehouse_id, version) in strange {
            let detail =
                format!("the journal of warehouse {warehouse_id} had version {version}, which nobody logged");
            self.anomaly("journal_changed", self.last, None, Some(&sku_id), detail);
        }
        Ok(())
    }
}

/// A stock with its supplied units and its levels, or why these can't be read.
type FoundStock = (StockKey, Result<(u64, Levels), String>);

fn found_stock(row: &Row) -> Result<FoundStock, SqlError> {
    let f = &mut row.fields();
    let key = (f.id(SkuId::new)?, f.warehouse()?);
    let supplied = f.count();
    Ok((key, supplied.and_then(|supplied| Ok((supplied, levels(f)?))).map_err(problem_of)))
}

fn changed_row((sku_id, warehouse_id): &StockKey, stock: &ChangedStock) -> Vec<Arg> {
    let (before, after) = (stock.before.unwrap_or_default(), stock.after);
    vec![
        sku_id.into(),
        (*warehouse_id).into(),
        before.version.into(),
        before.available.into(),
        before.reserved.into(),
        before.sold.into(),
        before.quantity().into(),
        after.available.into(),
        after.reserved.into(),
        after.sold.into(),
        after.version.into(),
        after.quantity().into(),
        stock.status.map(status_name).into(),
        stock.numbered.into(),
        stock.lsn.into(),
        stock.changed_at.into(),
    ]
}
