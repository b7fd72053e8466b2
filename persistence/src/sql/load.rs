//! What is to be decided on goes out: SKUs, orders and stock requests, with the watermarks of the same moment.

use std::collections::{BTreeMap, BTreeSet};

use hotstock_engine::ids::{OrderNo, RequestId, SkuId, WarehouseId};
use hotstock_engine::image::StockImage;
use hotstock_engine::store::{JournalRow, Loaded, PrunedSums, StoreError, StoredSku, Wanted};

use super::dialect::{Access, Arg, Fields, Row, Tx};
use super::error::{SqlError, broken, problem_of};
use super::guards::{StockRows, read_watermarks, select_with_marks};
use super::rows::{
    FoundOrders, PRUNED, PRUNED_COLUMNS, STOCK, STOCK_JOURNAL, STOCK_REQUESTS, columns_of, find_orders,
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
        let rest = format!("{FROM_WHOLE} WHERE s.sku_id IN ({})", marks(args.len()));
        let sql = select_with_marks(&columns_of_load(), COLUMNS_OF_LOAD, &rest);
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
        let found: BTreeSet<_> = orders.iter().map(|order| &order.image.order_no).collect();
        let is_absent =
            |order_no: &&OrderNo| !found.contains(order_no) && !unreadable.contains_key(*order_no);
        let absent: Vec<_> = order_nos.iter().filter(is_absent).cloned().collect();
        unreadable.extend(deleted_orders(tx, &absent).await?);
        let mut wanted: BTreeSet<SkuId> = self.skus.iter().cloned().collect();
        for order in &orders {
            wanted.extend(order.image.lines.iter().map(|line| line.sku_id.clone()));
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
    let head = format!("SELECT {} {FROM_WHOLE} WHERE", columns_of_load());
    for row in rows_in(tx, &head, "s.sku_id", wanted, "").await? {
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
struct FoundSkus(BTreeMap<SkuId, FoundSku>);

#[derive(Default)]
struct FoundSku {
    stocks: Vec<(StockImage, Beside)>,
    problem: Option<String>,
}

/// The warehouses next to one, below and above, of which there is a journal of the same SKU.
type Beside = [Option<WarehouseId>; 2];

impl FoundSkus {
    fn add(&mut self, mut fields: Fields<'_>) -> Result<(), SqlError> {
        let sku_id = fields.clone().id(SkuId::new)?;
        let sku = self.0.entry(sku_id).or_default();
        // A row that can't be read is that of one SKU only.
        match loaded(&mut fields) {
            Ok(stock) => sku.stocks.push(stock),
            Err(problem) => sku.problem = Some(problem),
        }
        Ok(())
    }

    /// Their stocks in the order of warehouses. A SKU of whose stocks one has a journal and no row is unsound.
    fn finish(self) -> BTreeMap<SkuId, StoredSku> {
        let sound = |sku: FoundSku| {
            if let Some(problem) = sku.problem {
                return Err(problem);
            }
            let mut stocks = sku.stocks;
            stocks.sort_unstable_by_key(|(stock, _)| stock.warehouse_id);
            let there: Vec<_> = stocks.iter().map(|(stock, _)| stock.warehouse_id).collect();
            for (place, (_, [below, above])) in stocks.iter().enumerate() {
                let before = place.checked_sub(1).and_then(|before| there.get(before));
                for (journal, row) in [(below, before), (above, there.get(place + 1))] {
                    if let Some(warehouse_id) = journal.filter(|journal| Some(journal) != row) {
                        return Err(format!(
                            "warehouse {warehouse_id} has a journal and no row of its stock"
                        ));
                    }
                }
            }
            Ok(stocks.into_iter().map(|(stock, _)| stock).collect())
        };
        let judged = |(sku_id, sku)| (sku_id, sound(sku).map_or_else(StoredSku::Unsound, StoredSku::Sound));
        self.0.into_iter().map(judged).collect()
    }
}

/// Reads the columns of [`columns_of_load`]; what is wrong, in words.
fn loaded(f: &mut Fields<'_>) -> Result<(StockImage, Beside), String> {
    let stock = whole(f).map_err(problem_of)?;
    stock.check()?;
    let mut warehouse = || -> Result<Option<WarehouseId>, StoreError> {
        let number = f.int_or_null()?;
        number.map(|number| u32::try_from(number).map(WarehouseId).map_err(broken)).transpose()
    };
    let beside = [warehouse().map_err(problem_of)?, warehouse().map_err(problem_of)?];
    Ok((stock.image, beside))
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
    format!("SELECT {} {FROM_WHOLE}", columns_of_whole())
}

fn columns_of_whole() -> String {
    let (stock, journal) = (columns_of(&STOCK, "s"), columns_of(&STOCK_JOURNAL, "j"));
    format!("{stock}, {PRUNED_COLUMNS}, p.reason, {journal}")
}

/// The newest row of a journal is looked up from the end of its range; a maximum would be counted over all of it.
const FROM_WHOLE: &str = "FROM stock s LEFT JOIN parked p ON p.sku_id = s.sku_id \
     LEFT JOIN stock_journal j ON j.sku_id = s.sku_id AND j.warehouse_id = s.warehouse_id AND j.version = \
     (SELECT n.version FROM stock_journal n WHERE n.sku_id = s.sku_id AND n.warehouse_id = s.warehouse_id \
     ORDER BY n.sku_id DESC, n.warehouse_id DESC, n.version DESC LIMIT 1)";

/// Those of [`columns_of_whole`], and the warehouses beside each of which there is a journal: a row that was deleted is
/// noticed before its stock is created once more.
fn columns_of_load() -> String {
    format!(
        "{}, (SELECT b.warehouse_id FROM stock_journal b WHERE b.sku_id = s.sku_id \
         AND b.warehouse_id < s.warehouse_id ORDER BY b.sku_id DESC, b.warehouse_id DESC, b.version DESC LIMIT 1), \
         (SELECT a.warehouse_id FROM stock_journal a WHERE a.sku_id = s.sku_id \
         AND a.warehouse_id > s.warehouse_id ORDER BY a.sku_id, a.warehouse_id, a.version LIMIT 1)",
        columns_of_whole()
    )
}

const COLUMNS_OF_LOAD: usize = STOCK.columns.len() + PRUNED + 1 + STOCK_JOURNAL.columns.len() + 2;

/// Reads [`columns_of_whole`].
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
