//! The list of orders: its parameters and its pages.

use std::fmt;

use hotstock_engine::command::InvalidField;
use hotstock_engine::ids::SkuId;
use hotstock_engine::order::OrderStatus;
use hotstock_engine::store::OrderFilter;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::de::{Error, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::order::{OrderBody, StatusName};
use super::values::{Number, id};

/// One page of the list of orders.
#[derive(Debug, Serialize, ToSchema)]
pub struct OrdersBody<'a> {
    /// Orders by their number; at the end of a page there may be fewer than its limit, also none.
    pub items: Vec<OrderBody<'a>>,
    /// Give it as `cursor` to read on; null at the end.
    #[schema(required = true)]
    pub next_cursor: Option<String>,
}

/// The parameters of `GET /v1/reservations`.
#[derive(Debug, Default)]
pub struct OrdersQuery {
    /// Names of states, one or several with commas; named several times, they add up.
    pub status: Vec<String>,
    /// Only orders with a line of this SKU.
    pub sku_id: Option<String>,
    /// Orders of the page.
    pub limit: Option<Number>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

impl OrdersQuery {
    /// Which orders are meant.
    ///
    /// # Errors
    /// [`InvalidField`].
    pub fn filter(&self) -> Result<OrderFilter, InvalidField> {
        let mut status = Vec::new();
        for name in self.status.iter().flat_map(|names| names.split(',')) {
            let named = status_named(name)?;
            if !status.contains(&named) {
                status.push(named);
            }
        }
        let sku_id = self.sku_id.as_ref().map(|text| id("sku_id", text, SkuId::new)).transpose()?;
        Ok(OrderFilter { status, sku_id })
    }
}

fn status_named(name: &str) -> Result<OrderStatus, InvalidField> {
    let text: StrDeserializer<'_, ValueError> = name.into_deserializer();
    StatusName::deserialize(text)
        .map(OrderStatus::from)
        .map_err(|error| InvalidField::new("status", format!("must be names of states: {error}")))
}

/// Serde's derive takes no parameter twice.
impl<'de> Deserialize<'de> for OrdersQuery {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const FIELDS: &[&str] = &["status", "sku_id", "limit", "cursor"];

        struct QueryVisitor;

        impl<'de> Visitor<'de> for QueryVisitor {
            type Value = OrdersQuery;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("parameters")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OrdersQuery, A::Error> {
                fn once<T, E: Error>(field: &'static str, value: T, of: &mut Option<T>) -> Result<(), E> {
                    if of.replace(value).is_some() { Err(E::duplicate_field(field)) } else { Ok(()) }
                }
                let mut query = OrdersQuery::default();
                while let Some(name) = map.next_key::<String>()? {
                    match name.as_str() {
                        "status" => query.status.push(map.next_value()?),
                        "sku_id" => once("sku_id", map.next_value()?, &mut query.sku_id)?,
                        "limit" => once("limit", map.next_value()?, &mut query.limit)?,
                        "cursor" => once("cursor", map.next_value()?, &mut query.cursor)?,
                        other => return Err(A::Error::unknown_field(other, FIELDS)),
                    }
                }
                Ok(query)
            }
        }

        deserializer.deserialize_map(QueryVisitor)
    }
}
