//! The body of whatever the engine answered.

use hotstock_engine::outcome::{Answer, Effect};
use serde::Serialize;
use utoipa::ToSchema;

use super::order::OrderBody;
use super::stock::{SkuBody, StockBody};
use crate::problem::ProblemBody;

/// Any body that a request can be answered.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[allow(missing_docs, reason = "the names say it")]
pub enum AnyBody<'a> {
    Order(OrderBody<'a>),
    Stock(StockBody<'a>),
    Sku(SkuBody<'a>),
    Problem(ProblemBody<'a>),
}

impl<'a> AnyBody<'a> {
    /// The body of an answer.
    #[must_use]
    pub fn of(answer: &'a Answer) -> Self {
        let replayed = |effect: &Effect| *effect == Effect::Replayed;
        match answer {
            Answer::Order { order, effect } => Self::Order(OrderBody::new(order, replayed(effect))),
            Answer::Stock { stock, effect } => Self::Stock(StockBody::new(stock, replayed(effect))),
            Answer::Sku { stocks, effect } => Self::Sku(SkuBody::new(stocks, Some(replayed(effect)))),
        }
    }
}

/// Whether the answer is to a request that made something new.
#[must_use]
pub fn created(answer: &Answer) -> bool {
    match answer {
        Answer::Order { effect, .. } | Answer::Stock { effect, .. } | Answer::Sku { effect, .. } => {
            *effect == Effect::Created
        }
    }
}
