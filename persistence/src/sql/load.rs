//! What is to be decided on goes out: SKUs, orders and stock requests, with the watermarks of the same moment.

use std::collections::{BTreeMap, BTreeSet};

use hotstock_engine::checkpoint::StockImage;
use hotstock_engine::ids::{OrderNo, RequestId, SkuId};
use hotstock_engine::store::{
    JournalRow, Loaded, PrunedSums, StoreError, StoredOrderKind, StoredSku, Wanted,
};

use super::dialect::{Access, Arg, Fields, Row, Tx};
use super::error::{SqlError, problem_of};
use super::guards::{StockRows, read_watermarks, select_with_marks};
use super::rows::{
    FoundOrders, PRUNED_COLUMNS, STOCK, STOCK_JOURNAL, STOCK_REQUESTS, columns_of, find_orders,
    journal_entry_or_null, pruned_sums, request_image, select, stock_image, stock_image_of_broken, words,
};
use super::statements::{marks, padded, rows_in, rows_of_any};
use super::strays::{deleted_orders, deleted_requests};
use super::{SqlStore, Work};
use crate::limits::MAX_KEYS_PER_STATEMENT;

/// What is wanted. SKUs alone, as most loads are, are read by one statement, without a transaction around it.
pub(super) async fn load(store: &SqlStore, wanted: &Wanted) -> Result<Loaded, StoreError> {
    let fits = (1..=MAX_KEYS_PER_STATEMENT).contains(&wanted.skus.len());
    if fits
        && wanted.orders.is_empty()
        && wanted.requests.is_empty()
        && let Some(loaded) = store.run(&Skus(&wanted.skus)).await?
    {
        return Ok(loaded);
    }
    store.run(wanted).await
}

/// SKUs; `None`: one of them is not there, which needs a closer look.
struct Skus<'a>(&'a [SkuId]);

impl Work for Skus<'_> {
    type Done = Option<Loaded>;

    const ACCESS: Access = Access::One;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Option<Loaded>, SqlError> {
        let wanted: BTreeSet<&SkuId> = self.0.iter().collect();
        let args = padded(wanted.iter().map(|sku_id| vec![(*sku_id).into()]).collect());
        let rest = format!("{FROM_CURRENT} WHERE s.sku_id IN ({})", marks(args.len()));
        let sql = select_with_marks(&columns_of_whole(), &rest);
        let args: Vec<Arg> = args.into_iter().flatten().collect();
        let (mut skus, mut found) = (FoundSkus::default(), StockRows::default());
        for row in tx.rows(&sql, &args).await? {
            if let Some(fields) = found.add(&row)? {
                skus.add(fields)?;
            }
        }
        let watermarks = found.watermarks()?;
        let skus = skus.finish();
        Ok((skus.len() == wanted.len()).then(|| Loaded { watermarks, skus, ..Loaded::default() }))
    }
}

impl Work for Wanted {
    type Done = Loaded;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Loaded, SqlError> {
        let watermarks = read_watermarks(tx).await?;
        let order_nos: Vec<_> = self.orders.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        let FoundOrders { orders, mut unreadable } = find_orders(tx, &order_nos, "").await?;
        let found: BTreeSet<_> = orders.iter().map(|order| &order.image().order_no).collect();
        let is_absent =
            |order_no: &&OrderNo| !found.contains(order_no) && !unreadable.contains_key(*order_no);
        let absent: Vec<_> = order_nos.iter().filter(is_absent).cloned().collect();
        unreadable.extend(deleted_orders(tx, &absent).await?);
        let mut wanted: BTreeSet<SkuId> = self.skus.iter().cloned().collect();
        for order in &orders {
            if let StoredOrderKind::Plain(image) = &order.kind {
                wanted.extend(image.lines.iter().map(|line| line.sku_id.clone()));
            }
        }
        let (mut requests, mut unreadable_requests) = (Vec::new(), Vec::new());
        let mut absent: BTreeSet<_> = self.requests.iter().cloned().collect();
        let keys =
            self.requests.iter().map(|(sku_id, request_id)| vec![sku_id.into(), request_id.into()]).collect();
        let one = "(sku_id = ? AND request_id = ?)";
        for row in rows_of_any(tx, &select(&STOCK_REQUESTS), one, keys, "").await? {
            let f = &mut row.fields();
            let key = (f.id(SkuId::new)?, f.id(RequestId::new)?);
            absent.remove(&key);
            match request_image(&row) {
                Ok(image) => {
                    wanted.insert(image.sku_id.clone());
                    requests.push(image);
                }
                Err(error) => unreadable_requests.push((key.0, key.1, problem_of(error))),
            }
        }
        let absent: Vec<_> = absent.into_iter().collect();
        unreadable_requests.extend(deleted_requests(tx, &absent).await?);
        let wanted: Vec<_> = wanted.into_iter().collect();
        let skus = load_skus(tx, &wanted).await?;
        let unreadable_orders = unreadable.into_iter().collect();
        Ok(Loaded { watermarks, skus, orders, requests, unreadable_orders, unreadable_requests })
    }
}

async fn load_skus(tx: &mut dyn Tx, wanted: &[SkuId]) -> Result<BTreeMap<SkuId, StoredSku>, SqlError> {
    let mut skus = FoundSkus::default();
    for row in
        rows_in(tx, &format!("SELECT {} {FROM_CURRENT} WHERE", columns_of_whole()), "s.sku_id", wanted, "")
            .await?
    {
        skus.add(row.fields())?;
    }
    let mut skus = skus.finish();
    // One whose rows somebody deleted is not one that never was.
    let missing: Vec<_> = wanted.iter().filter(|sku_id| !skus.contains_key(*sku_id)).cloned().collect();
    let head = "SELECT sku_id FROM stock_journal WHERE";
    for row in rows_in(tx, head, "sku_id", &missing, " GROUP BY sku_id").await? {
        let problem = "it has a journal and no row of its stock".to_owned();
        skus.insert(row.fields().id(SkuId::new)?, StoredSku::Unsound(problem));
    }
    Ok(skus)
}

/// SKUs as their rows are read.
#[derive(Default)]
struct FoundSkus(BTreeMap<SkuId, StoredSku>);

impl FoundSkus {
    fn add(&mut self, mut fields: Fields<'_>) -> Result<(), SqlError> {
        let sku_id = fields.clone().id(SkuId::new)?;
        // A row that can't be read is that of one SKU only.
        let stock =
            whole(&mut fields).map_err(problem_of).and_then(|stock| stock.check().map(|()| stock.image));
        let so_far = self.0.entry(sku_id).or_insert_with(|| StoredSku::Sound(Vec::new()));
        match (so_far, stock) {
            (StoredSku::Sound(stocks), Ok(image)) => stocks.push(image),
            (StoredSku::Unsound(_), _) => {}
            (sound, Err(problem)) => *sound = StoredSku::Unsound(problem),
        }
        Ok(())
    }

    /// Their stocks in the order of warehouses.
    fn finish(self) -> BTreeMap<SkuId, StoredSku> {
        let mut skus = self.0;
        for sku in skus.values_mut() {
            if let StoredSku::Sound(stocks) = sku {
                stocks.sort_unstable_by_key(|stock| stock.warehouse_id);
            }
        }
        skus
    }
}

/// A stock with what it is judged by.
pub(super) struct Whole {
    pub image: StockImage,
    /// Why its SKU is parked.
    pub parked: Option<String>,
    /// The newest row of its journal.
    pub newest: Option<JournalRow>,
    pub pruned: PrunedSums,
    /// Why it can't be read; what can't be is 0, or not there.
    pub unreadable: Option<String>,
}

/// Reads stocks, for [`whole`]; the table of stocks is `s`.
pub(super) fn select_whole() -> String {
    // The newest row of a journal is looked up from the end of its range; a maximum would be counted over all of it.
    format!(
        "SELECT {} FROM stock s LEFT JOIN parked p ON p.sku_id = s.sku_id \
         LEFT JOIN stock_journal j ON j.sku_id = s.sku_id AND j.warehouse_id = s.warehouse_id AND j.version = \
         (SELECT n.version FROM stock_journal n WHERE n.sku_id = s.sku_id AND n.warehouse_id = s.warehouse_id \
         ORDER BY n.sku_id DESC, n.warehouse_id DESC, n.version DESC LIMIT 1)",
        columns_of_whole()
    )
}

fn columns_of_whole() -> String {
    let (stock, journal) = (columns_of(&STOCK, "s"), columns_of(&STOCK_JOURNAL, "j"));
    format!("{stock}, {PRUNED_COLUMNS}, p.reason, {journal}")
}

/// Likewise, for a load: the row of the journal that the row of the stock says is its newest, or the one after it where
/// there is one. Both are found by their keys, which costs half of looking for the newest.
const FROM_CURRENT: &str = "FROM stock s LEFT JOIN parked p ON p.sku_id = s.sku_id \
     LEFT JOIN stock_journal k ON k.sku_id = s.sku_id AND k.warehouse_id = s.warehouse_id AND k.version = \
     CASE WHEN s.version < 9223372036854775807 THEN s.version + 1 END \
     LEFT JOIN stock_journal j ON j.sku_id = s.sku_id AND j.warehouse_id = s.warehouse_id AND j.version = \
     COALESCE(k.version, s.version)";

/// Reads the columns of [`select_whole`].
pub(super) fn whole(f: &mut Fields<'_>) -> Result<Whole, StoreError> {
    let (image, pruned) = (stock_image(f)?, pruned_sums(f)?);
    let parked = f.text_or_null()?.map(str::to_owned);
    Ok(Whole { image, parked, newest: journal_entry_or_null(f)?, pruned, unreadable: None })
}

/// Reads as much of a row as can be read; only whose it is must be.
pub(super) fn whole_or_broken(row: &Row) -> Result<Whole, StoreError> {
    let unreadable = match whole(&mut row.fields()) {
        Ok(whole) => return Ok(whole),
        Err(error) => Some(problem_of(error)),
    };
    let f = &mut row.fields();
    let image = stock_image_of_broken(f)?;
    let [sold, version] = std::array::from_fn(|_| f.count());
    let deltas: [_; 3] = std::array::from_fn(|_| f.int());
    let pruned = match (sold, version, deltas) {
        (Ok(sold), Ok(version), [Ok(available), Ok(reserved), Ok(delta)]) => {
            PrunedSums { sold, version, deltas: [available, reserved, delta] }
        }
        _ => PrunedSums::default(),
    };
    let parked = f.text_or_null().ok().flatten().map(str::to_owned);
    let newest = journal_entry_or_null(f).unwrap_or_default();
    Ok(Whole { image, parked, newest, pruned, unreadable })
}

impl Whole {
    /// Whether it can be decided on.
    fn check(&self) -> Result<(), String> {
        let StockImage { warehouse_id, levels, supplied, .. } = &self.image;
        if let Some(reason) = &self.parked {
            return Err(reason.clone());
        }
        let Some(newest) = &self.newest else {
            let version = levels.version;
            return Err(format!("the journal of warehouse {warehouse_id} has no row of version {version}"));
        };
        if newest.change.after != *levels {
            let (row, journal) = (words(*levels), words(newest.change.after));
            return Err(format!(
                "the row of warehouse {warehouse_id} says {row}; its journal says {journal}"
            ));
        }
        if levels.quantity() != *supplied {
            let quantity = levels.quantity();
            return Err(format!("warehouse {warehouse_id} has {quantity} units, {supplied} were supplied"));
        }
        Ok(())
    }
}
