//! The journal of a SKU: its rows as they travel, and the cursor that reads on.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hotstock_engine::command::InvalidField;
use hotstock_engine::ids::WarehouseId;
use hotstock_engine::limits::MAX_WAREHOUSES_PER_SKU;
use hotstock_engine::store::JournalRow;
use hotstock_engine::units::Serials;
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use super::stock::LevelsBody;
use super::values::{Number, SerialsBody, Time, each_range};

/// `GET /v1/stock/{sku_id}/journal`.
#[derive(Debug, Serialize, ToSchema)]
pub struct JournalBody<'a> {
    /// Changes in the order of time; those of one warehouse in the order of their versions, without gap.
    #[serde(serialize_with = "each_row")]
    #[schema(value_type = Vec<JournalRowBody>)]
    pub items: &'a [JournalRow],
    /// Give it as `after` to read on. Always there: no items means that there are none yet, and the same `after` may be
    /// asked again later.
    pub next_after: String,
}

/// One change of a stock.
#[derive(Debug, Serialize, ToSchema)]
pub struct JournalRowBody<'a> {
    /// Unique within the SKU: the warehouse and the version of the stock that the change made.
    #[schema(value_type = String, example = "1-17")]
    id: RowId,
    /// When it was decided.
    #[schema(value_type = String, format = DateTime)]
    time: Time,
    /// created, restocked, deducted, adjusted, suspended, resumed, reserved, confirmed, released, expired, returned,
    /// repaired.
    #[schema(example = "reserved")]
    kind: &'static str,
    /// Where.
    #[schema(example = 1)]
    warehouse_id: u32,
    /// The order that caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "ORD-1")]
    order_no: Option<&'a str>,
    /// The request that caused it, where it had an id.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    /// Why, in the caller's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// The trace of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    /// The serial numbers that confirmed units got, of a SKU that gives such.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "each_range")]
    #[schema(value_type = Option<Vec<SerialsBody>>)]
    serials: Option<&'a [Serials]>,
    /// What it changed.
    delta: DeltaBody,
    /// The levels after it.
    after: LevelsBody,
}

/// Units that moved.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeltaBody {
    /// In and out of available.
    #[schema(example = -2)]
    available: i64,
    /// In and out of reserved.
    #[schema(example = 2)]
    reserved: i64,
    /// In and out of sold.
    #[schema(example = 0)]
    sold: i64,
}

#[derive(Debug)]
struct RowId(u32, u64);

impl Serialize for RowId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}-{}", self.0, self.1))
    }
}

impl<'a> From<&'a JournalRow> for JournalRowBody<'a> {
    fn from(row: &'a JournalRow) -> Self {
        let change = &row.change;
        Self {
            id: RowId(change.warehouse_id.0, change.after.version),
            time: Time(row.at),
            kind: change.kind.name(),
            warehouse_id: change.warehouse_id.0,
            order_no: change.order_no.as_ref().map(|id| id.as_str()),
            request_id: change.request_id.as_ref().map(|id| id.as_str()),
            reason: change.reason.as_ref().map(|reason| reason.as_str()),
            trace_id: row.trace.map(|trace| trace.to_string()),
            serials: change.serials.is_some().then_some(change.serials.as_slice()),
            delta: DeltaBody {
                available: change.delta.available,
                reserved: change.delta.reserved,
                sold: change.delta.sold,
            },
            after: LevelsBody::from(&change.after),
        }
    }
}

fn each_row<S: Serializer>(rows: &[JournalRow], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rows.iter().map(JournalRowBody::from))
}

/// The parameters of `GET /v1/stock/{sku_id}/journal`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalQuery {
    /// Rows of the page.
    pub limit: Option<Number>,
    /// Where the page before ended.
    pub after: Option<String>,
}

/// Where a reader is: of each warehouse the last version that it has seen, by warehouse. One number for all would skip
/// or repeat rows, because warehouses count by themselves and their rows are merged by time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen(pub Vec<(WarehouseId, u64)>);

impl Seen {
    /// Reads what [`Seen::cursor`] wrote.
    ///
    /// # Errors
    /// [`InvalidField`] for anything else.
    pub fn of_cursor(cursor: &str) -> Result<Self, InvalidField> {
        Self::decode(cursor).ok_or_else(|| InvalidField::new("after", "must be the next_after of a page"))
    }

    /// Takes note of rows that were read.
    pub fn note(&mut self, rows: &[JournalRow]) {
        for JournalRow { change, .. } in rows {
            let version = change.after.version;
            match self.0.binary_search_by_key(&change.warehouse_id, |(warehouse, _)| *warehouse) {
                Ok(place) => self.0[place].1 = self.0[place].1.max(version),
                Err(place) => self.0.insert(place, (change.warehouse_id, version)),
            }
        }
    }

    /// As text: small enough for a request line even with a thousand warehouses, hence bytes of seven bits and not
    /// digits.
    #[must_use]
    pub fn cursor(&self) -> String {
        let mut bytes = Vec::with_capacity(self.0.len() * 4);
        let mut last = 0;
        for (warehouse, version) in &self.0 {
            write_number(&mut bytes, u64::from(warehouse.0) - last);
            write_number(&mut bytes, *version);
            last = u64::from(warehouse.0);
        }
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    fn decode(cursor: &str) -> Option<Self> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let mut rest = bytes.as_slice();
        let mut seen: Vec<(WarehouseId, u64)> = Vec::new();
        while !rest.is_empty() {
            let (step, version) = (read_number(&mut rest)?, read_number(&mut rest)?);
            let last = seen.last().map(|(warehouse, _)| *warehouse);
            let warehouse = last.map_or(0, |last| u64::from(last.0)).checked_add(step)?;
            let warehouse = WarehouseId(u32::try_from(warehouse).ok()?);
            if last.is_some_and(|last| last >= warehouse) || seen.len() >= MAX_WAREHOUSES_PER_SKU {
                return None;
            }
            // Versions are counts of changes; one beyond 2^63 would not fit the store.
            seen.push((warehouse, version.min(i64::MAX.unsigned_abs())));
        }
        Some(Self(seen))
    }
}

fn write_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push((number & 0x7f) as u8);
}

fn read_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        let bits = u64::from(byte & 0x7f);
        if bits.checked_shl(shift)? >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back() {
        let all = |pairs: &[(u32, u64)]| Seen(pairs.iter().map(|(w, v)| (WarehouseId(*w), *v)).collect());
        for seen in [
            all(&[]),
            all(&[(1, 17)]),
            all(&[(0, 0), (1, 127), (2, 128), (u32::MAX, i64::MAX.unsigned_abs())]),
            all(&(0..1_000).map(|n| (n * 4_000_000, u64::from(n) * 1_000_000)).collect::<Vec<_>>()),
        ] {
            let cursor = seen.cursor();
            assert!(cursor.len() < 14 * 1024, "it fits a request line: {}", cursor.len());
            assert_eq!(Seen::of_cursor(&cursor), Ok(seen));
        }
    }

    #[test]
    fn nonsense_is_not_a_cursor() {
        let encoded = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        for bad in [
            "!".to_owned(),
            "1-17".to_owned(),
            encoded(&[1]),
            encoded(&[0x80]),
            encoded(&[1, 5, 0, 6]),
            encoded(&[0xff; 12]),
            encoded(&[0xff, 0xff, 0xff, 0xff, 0xff, 1, 1]),
        ] {
            assert!(Seen::of_cursor(&bad).is_err(), "{bad}");
        }
    }
}
