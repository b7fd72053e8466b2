//! Which rows of a source are stock. Rows come SKU by SKU; those of one SKU are looked at together.

use std::collections::{HashMap, VecDeque};

use hotstock_engine::ids::{SkuId, WarehouseId};
use hotstock_engine::limits::{MAX_STOCK_UNITS, MAX_WAREHOUSES_PER_SKU};

use super::source::{Source, Units, Warehouse};
use super::{Item, Refused, Row, Why};

/// A row as it was read: bytes, `None` for NULL or where there is no such column.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RawRow {
    pub sku: Option<Vec<u8>>,
    pub warehouse: Option<Vec<u8>>,
    pub units: Option<Vec<u8>>,
    pub reserved: Option<Vec<u8>>,
    pub sold: Option<Vec<u8>>,
    pub total: Option<Vec<u8>>,
    pub deleted: Option<Vec<u8>>,
}

/// Turns rows into items; holds back those of one SKU until the next begins.
#[derive(Debug)]
pub(super) struct Checker {
    source: Source,
    include_reserved: bool,
    sku: Option<Vec<u8>>,
    /// Of this SKU, at most [`MAX_WAREHOUSES_PER_SKU`].
    group: Vec<Row>,
    ready: VecDeque<Item>,
}

impl Checker {
    pub fn new(source: Source, include_reserved: bool) -> Self {
        Self { source, include_reserved, sku: None, group: Vec::new(), ready: VecDeque::new() }
    }

    /// Takes the next row, in the order of the SKUs' bytes.
    pub fn push(&mut self, raw: &RawRow) {
        if raw.sku != self.sku {
            self.finish();
            self.sku.clone_from(&raw.sku);
        }
        match self.check(raw) {
            Ok(_) if self.group.len() == MAX_WAREHOUSES_PER_SKU => self.refuse(raw, Why::TooManyRows),
            Ok(row) => self.group.push(row),
            Err(why) => self.refuse(raw, why),
        }
    }

    /// The last row was pushed.
    pub fn finish(&mut self) {
        let mut rows: HashMap<WarehouseId, usize> = HashMap::new();
        for row in &self.group {
            *rows.entry(row.warehouse_id).or_default() += 1;
        }
        for row in self.group.drain(..) {
            self.ready.push_back(if rows[&row.warehouse_id] > 1 {
                let (sku, warehouse) = (row.sku_id.to_string(), row.warehouse_id.to_string());
                Item::Refused(Refused { sku, warehouse, why: Why::Duplicate })
            } else {
                Item::Row(row)
            });
        }
    }

    /// The next item that is ready.
    pub fn pop(&mut self) -> Option<Item> {
        self.ready.pop_front()
    }

    fn refuse(&mut self, raw: &RawRow, why: Why) {
        let text = |bytes: &Option<Vec<u8>>| {
            bytes.as_deref().map_or_else(String::new, |bytes| String::from_utf8_lossy(bytes).into_owned())
        };
        let refused = Refused { sku: text(&raw.sku), warehouse: text(&raw.warehouse), why };
        self.ready.push_back(Item::Refused(refused));
    }

    fn check(&self, raw: &RawRow) -> Result<Row, Why> {
        if raw.deleted.as_deref().is_some_and(|mark| !matches!(mark, b"0" | b"" | b"\0")) {
            return Err(Why::Deleted);
        }
        let text = |bytes: &Option<Vec<u8>>| {
            bytes.as_deref().and_then(|bytes| str::from_utf8(bytes).ok()).map(str::to_owned)
        };
        let sku_id = text(&raw.sku).and_then(|text| SkuId::new(&text).ok()).ok_or(Why::BadSku)?;
        let warehouse_id = match &self.source.warehouse {
            Warehouse::Always(warehouse_id) => *warehouse_id,
            Warehouse::Column(_) => {
                let number = text(&raw.warehouse).and_then(|text| text.parse().ok());
                WarehouseId(number.ok_or(Why::BadWarehouse)?)
            }
        };
        // A held or sold column that was never written counts nothing.
        let optional =
            |bytes: &Option<Vec<u8>>, what| bytes.as_deref().map_or(Ok(0), |bytes| units(bytes, what));
        let required =
            |bytes: &Option<Vec<u8>>, what| units(bytes.as_deref().ok_or(Why::NotANumber(what))?, what);
        let sold = optional(&raw.sold, "sold")?;
        let (free, locked) = match self.source.units {
            Units::OnHand(_) => {
                let (on_hand, locked) =
                    (required(&raw.units, "on_hand")?, optional(&raw.reserved, "reserved")?);
                let more = Why::Contradiction("more units are reserved than there are");
                (on_hand.checked_sub(locked).ok_or(more)?, locked)
            }
            Units::Available(_) => {
                let free = required(&raw.units, "available")?;
                let locked = match (&self.source.total, &self.source.reserved) {
                    (Some(_), None) => {
                        let more =
                            Why::Contradiction("more units are available and sold than there are in total");
                        let rest = required(&raw.total, "total")?
                            .checked_sub(free)
                            .and_then(|n| n.checked_sub(sold));
                        rest.ok_or(more)?
                    }
                    _ => optional(&raw.reserved, "reserved")?,
                };
                (free, locked)
            }
        };
        // Two numbers below 2^50 each.
        let available = if self.include_reserved { free + locked } else { free };
        if available > MAX_STOCK_UNITS {
            return Err(Why::TooLarge("available and reserved together"));
        }
        Ok(Row { sku_id, warehouse_id, available, locked, sold })
    }
}

/// A whole number of units, as MySQL writes an integer or a decimal.
fn units(bytes: &[u8], what: &'static str) -> Result<u64, Why> {
    let text = str::from_utf8(bytes).map_err(|_| Why::NotANumber(what))?.trim();
    let (sign, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !fraction.bytes().all(|byte| byte == b'0') {
        return Err(Why::NotANumber(what));
    }
    match whole.trim_start_matches('0') {
        "" => Ok(0),
        _ if sign => Err(Why::Negative(what)),
        number => number.parse().ok().filter(|units| *units <= MAX_STOCK_UNITS).ok_or(Why::TooLarge(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(sku: &str, warehouse: &str, units: &str) -> RawRow {
        let bytes = |text: &str| Some(text.as_bytes().to_vec());
        RawRow { sku: bytes(sku), warehouse: bytes(warehouse), units: bytes(units), ..RawRow::default() }
    }

    fn items(rows: &[RawRow]) -> Vec<Item> {
        let mut checker = Checker::new(Source::map("table=t,sku=s,warehouse=w,available=a").unwrap(), false);
        rows.iter().for_each(|row| checker.push(row));
        checker.finish();
        std::iter::from_fn(|| checker.pop()).collect()
    }

    #[test]
    fn quantities_are_whole_and_within_bounds() {
        assert_eq!(units(b"12", "x"), Ok(12));
        assert_eq!(units(b"0012.000", "x"), Ok(12));
        assert_eq!(units(b"-0", "x"), Ok(0));
        assert_eq!(units(b"-1", "x"), Err(Why::Negative("x")));
        assert_eq!(units(MAX_STOCK_UNITS.to_string().as_bytes(), "x"), Ok(MAX_STOCK_UNITS));
        assert_eq!(units(b"1000000000000001", "x"), Err(Why::TooLarge("x")));
        assert_eq!(units(b"99999999999999999999999", "x"), Err(Why::TooLarge("x")));
        for bad in ["", "1.5", "1e3", "abc", "-", "+1", ".5", "\u{ff11}"] {
            assert_eq!(units(bad.as_bytes(), "x"), Err(Why::NotANumber("x")), "{bad}");
        }
    }

    #[test]
    fn rows_that_contradict_each_other_are_all_refused() {
        // The same warehouse, written in two ways.
        let got = items(&[raw("A", "1", "5"), raw("A", "01", "6"), raw("A", "2", "7"), raw("B", "1", "8")]);
        let refused =
            got.iter().filter(|item| matches!(item, Item::Refused(Refused { why: Why::Duplicate, .. })));
        assert_eq!(refused.count(), 2);
        let kept: Vec<_> = got
            .iter()
            .filter_map(|item| match item {
                Item::Row(row) => Some(row.available),
                Item::Refused(_) => None,
            })
            .collect();
        assert_eq!(kept, [7, 8]);
    }

    #[test]
    fn a_sku_has_no_more_rows_than_warehouses_are_allowed() {
        let rows: Vec<_> = (0..=MAX_WAREHOUSES_PER_SKU).map(|n| raw("A", &n.to_string(), "1")).collect();
        let got = items(&rows);
        assert_eq!(got.len(), MAX_WAREHOUSES_PER_SKU + 1);
        let refused: Vec<_> = got.iter().filter(|item| matches!(item, Item::Refused(_))).collect();
        assert!(matches!(refused[..], [Item::Refused(Refused { why: Why::TooManyRows, .. })]));
    }
}
