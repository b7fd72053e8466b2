//! Where the stock of another system stands: its table and columns.

use std::fmt;
use std::str::FromStr;

use hotstock_engine::ids::WarehouseId;

/// The longest name of a table or column that MySQL has, in characters.
const MAX_NAME: usize = 64;

/// The warehouse of systems that have one, and don't say so.
const ONLY_WAREHOUSE: WarehouseId = WarehouseId(1);

/// A table of stock and what its columns mean. From a preset's name or a map:
/// `table=goods,sku=code,warehouse=store_id,available=free,reserved=held`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub(super) table: Table,
    pub(super) sku: Name,
    pub(super) warehouse: Warehouse,
    pub(super) units: Units,
    /// Units held for orders.
    pub(super) reserved: Option<Name>,
    pub(super) sold: Option<Name>,
    /// Everything there ever was. Where no column says what is reserved, it is what remains of this.
    pub(super) total: Option<Name>,
    pub(super) deleted: Deleted,
}

/// A table, with its database where it is not that of the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub database: Option<Name>,
    pub name: Name,
}

/// A name of letters, digits and underscores. Shown, it is quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(String);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Warehouse {
    Column(Name),
    Always(WarehouseId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Units {
    /// Can be sold now.
    Available(Name),
    /// Available and reserved together.
    OnHand(Name),
}

/// How rows are marked that are there no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deleted {
    Never,
    /// Any value but 0 in this column.
    Column(Name),
    /// Likewise, in those versions of the system that have the column.
    IfThere(Name),
}

/// A preset that is not known, or a map that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSource(String);

/// The presets by name, with the columns that they read.
pub const PRESETS: [(&str, &str); 4] = [
    ("ymall", "t_inventory(sku_id, warehouse_id, available_qty, reserved_qty)"),
    (
        "nft",
        "collection(id, quantity, saleable_inventory, occupied_inventory): what is neither saleable nor occupied is reserved",
    ),
    ("product_stock", "product_stock(product_id, stock)"),
    ("mall", "pms_sku_stock(sku_code, stock, lock_stock): stock counts the locked units too"),
];

impl Source {
    /// A known system.
    ///
    /// # Errors
    /// [`BadSource`] that names the presets.
    pub fn preset(name: &str) -> Result<Self, BadSource> {
        let mut source = match name {
            "ymall" => Self::map(
                "table=t_inventory,sku=sku_id,warehouse=warehouse_id,available=available_qty,reserved=reserved_qty",
            ),
            // Saleable falls with the order, occupied rises with the payment.
            "nft" => Self::map(
                "table=collection,sku=id,available=saleable_inventory,sold=occupied_inventory,total=quantity",
            ),
            "product_stock" => Self::map("table=product_stock,sku=product_id,available=stock"),
            "mall" => Self::map("table=pms_sku_stock,sku=sku_code,on_hand=stock,reserved=lock_stock"),
            _ => {
                let names = PRESETS.map(|(name, _)| name).join(", ");
                Err(BadSource(format!("there is no preset {name:?}; there are {names}")))
            }
        }?;
        source.deleted = Deleted::IfThere(Name::new("deleted")?);
        Ok(source)
    }

    /// A system of one's own: `table=…,sku=…,available=…` or `on_hand=…` (available and reserved together), and where
    /// they are there `warehouse=…` (a column, or a number for all rows; 1 without it), `reserved=…`, `sold=…`,
    /// `total=…`, `deleted=…`.
    ///
    /// # Errors
    /// [`BadSource`] that says what does not fit.
    pub fn map(text: &str) -> Result<Self, BadSource> {
        let mut fields = Fields::read(text)?;
        let table = fields.take("table").ok_or_else(|| BadSource("the map has no table=…".to_owned()))?;
        let sku = fields.column("sku")?.ok_or_else(|| BadSource("the map has no sku=…".to_owned()))?;
        let units = match (fields.column("available")?, fields.column("on_hand")?) {
            (Some(name), None) => Units::Available(name),
            (None, Some(name)) => Units::OnHand(name),
            _ => return Err(BadSource("the map must have either available=… or on_hand=…".to_owned())),
        };
        let warehouse = match fields.take("warehouse") {
            None => Warehouse::Always(ONLY_WAREHOUSE),
            Some(text) => match text.parse() {
                Ok(number) => Warehouse::Always(WarehouseId(number)),
                Err(_) => Warehouse::Column(Name::new(text)?),
            },
        };
        let source = Self {
            table: Table::new(table)?,
            sku,
            warehouse,
            units,
            reserved: fields.column("reserved")?,
            sold: fields.column("sold")?,
            total: fields.column("total")?,
            deleted: fields.column("deleted")?.map_or(Deleted::Never, Deleted::Column),
        };
        match fields.0.first() {
            Some((key, _)) => Err(BadSource(format!("the map has {key}=…, which means nothing here"))),
            None => Ok(source),
        }
    }
}

/// A preset's name, or a map (which has a `=`).
impl FromStr for Source {
    type Err = BadSource;

    fn from_str(text: &str) -> Result<Self, BadSource> {
        if text.contains('=') { Self::map(text) } else { Self::preset(text) }
    }
}

impl Table {
    fn new(text: &str) -> Result<Self, BadSource> {
        Ok(match text.split_once('.') {
            Some((database, name)) => Self { database: Some(Name::new(database)?), name: Name::new(name)? },
            None => Self { database: None, name: Name::new(text)? },
        })
    }
}

impl Name {
    fn new(text: &str) -> Result<Self, BadSource> {
        let plain = |c: char| c.is_alphanumeric() || c == '_';
        if text.is_empty() || text.chars().count() > MAX_NAME || !text.chars().all(plain) {
            return Err(BadSource(format!(
                "{text:?} is no name of a table or column (letters, digits, underscores)"
            )));
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name holds no backquote.
        write!(f, "`{}`", self.0)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.database {
            Some(database) => write!(f, "{database}.{}", self.name),
            None => self.name.fmt(f),
        }
    }
}

/// The fields of a map that were not taken yet.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    fn read(text: &'a str) -> Result<Self, BadSource> {
        let mut fields: Vec<(&str, &str)> = Vec::new();
        for field in text.split(',') {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| BadSource(format!("{field:?} in the map is not key=value")))?;
            let (key, value) = (key.trim(), value.trim());
            if fields.iter().any(|(known, _)| *known == key) {
                return Err(BadSource(format!("the map has {key}=… twice")));
            }
            fields.push((key, value));
        }
        Ok(Self(fields))
    }

    fn take(&mut self, key: &str) -> Option<&'a str> {
        let place = self.0.iter().position(|(known, _)| *known == key)?;
        Some(self.0.remove(place).1)
    }

    fn column(&mut self, key: &str) -> Result<Option<Name>, BadSource> {
        self.take(key).map(Name::new).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_a_source() {
        for (name, columns) in PRESETS {
            let source: Source = name.parse().unwrap();
            assert!(columns.starts_with(source.table.name.as_str()), "{name}");
        }
        assert!("shop".parse::<Source>().unwrap_err().to_string().contains("ymall, nft"));
    }

    #[test]
    fn a_map_names_its_columns() {
        let source = Source::map("table=erp.goods, sku=code,warehouse=12,on_hand=qty,deleted=gone").unwrap();
        assert_eq!(source.table.to_string(), "`erp`.`goods`");
        assert_eq!(source.warehouse, Warehouse::Always(WarehouseId(12)));
        assert_eq!(source.deleted, Deleted::Column(Name("gone".to_owned())));
        let unnamed = Source::map("table=t,sku=s,available=a").unwrap();
        assert_eq!(unnamed.warehouse, Warehouse::Always(WarehouseId(1)));
    }

    #[test]
    fn a_map_that_does_not_fit_is_refused() {
        for bad in [
            "",
            "table=t",
            "table=t,sku=s",
            "table=t,sku=s,available=a,on_hand=b",
            "table=t,sku=s,available=a,colour=c",
            "table=t,sku=s,sku=s,available=a",
            "table=t`,sku=s,available=a",
            "table=t,sku=s;drop,available=a",
            "table=a.b.c,sku=s,available=a",
            "table=t,sku=s.x,available=a",
            "table=t,sku=,available=a",
            "table=t,sku=s,warehouse=-1,available=a",
        ] {
            assert!(Source::map(bad).is_err(), "{bad}");
        }
    }
}
