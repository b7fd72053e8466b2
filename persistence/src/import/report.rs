//! What became of the rows of an import.

use std::collections::BTreeMap;
use std::fmt;

use super::{Item, Refused, Row, Why};
use crate::limits::MAX_IMPORT_EXAMPLES;

/// Counts of an import, in bounded memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Rows read.
    pub read: u64,
    /// Rows that are stock.
    pub accepted: u64,
    /// Units in them.
    pub units: u64,
    /// Units that the old system holds for orders; in `units` only when they were asked for.
    pub locked: u64,
    /// Units that the old system has sold.
    pub sold: u64,
    /// Stocks that were created.
    pub created: u64,
    /// Stocks that were there already, with this first quantity.
    pub repeated: u64,
    /// Stocks that were there with another quantity, or that the engine refused, with examples.
    pub conflicts: (u64, Vec<(Row, String)>),
    /// Refused rows by reason, with examples.
    pub refused: BTreeMap<Why, (u64, Vec<Refused>)>,
}

impl Report {
    /// Counts what was read.
    pub fn note(&mut self, item: &Item) {
        self.read += 1;
        match item {
            Item::Row(row) => {
                self.accepted += 1;
                // Far below 2^64 for any table; a report need not be exact beyond.
                self.units = self.units.saturating_add(row.available);
                self.locked = self.locked.saturating_add(row.locked);
                self.sold = self.sold.saturating_add(row.sold);
            }
            Item::Refused(refused) => {
                let (count, examples) = self.refused.entry(refused.why.clone()).or_default();
                *count += 1;
                if examples.len() < MAX_IMPORT_EXAMPLES {
                    examples.push(refused.clone());
                }
            }
        }
    }

    /// Counts a stock that could not be created, with what the engine said.
    pub fn note_conflict(&mut self, row: &Row, why: impl fmt::Display) {
        self.conflicts.0 += 1;
        if self.conflicts.1.len() < MAX_IMPORT_EXAMPLES {
            self.conflicts.1.push((row.clone(), why.to_string()));
        }
    }

    /// Whether every row that was read is there now.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.refused.is_empty() && self.conflicts.0 == 0
    }
}

/// For people: the counts, then the reasons with their examples.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "rows read        {}", self.read)?;
        writeln!(f, "stocks           {} with {} units", self.accepted, self.units)?;
        writeln!(f, "created          {}", self.created)?;
        writeln!(f, "there already    {}", self.repeated)?;
        writeln!(f, "held there       {} units of orders that are not imported", self.locked)?;
        writeln!(f, "sold there       {} units", self.sold)?;
        let (conflicts, examples) = &self.conflicts;
        writeln!(f, "conflicts        {conflicts}")?;
        for (row, why) in examples {
            writeln!(
                f,
                "  SKU {} in warehouse {}, {} units: {why}",
                row.sku_id, row.warehouse_id, row.available
            )?;
        }
        for (why, (count, examples)) in &self.refused {
            writeln!(f, "refused          {count}: {why}")?;
            for row in examples {
                writeln!(f, "  SKU {:?} in warehouse {:?}", row.sku, row.warehouse)?;
            }
        }
        Ok(())
    }
}
