//! What a command is about that is not in memory and may be in the store: it waits until that was looked for.

use super::remembered::RequestKey;
use super::shard_state::State;
use crate::base::ids::{OrderNo, RequestId, SkuId};
use crate::contract::subject::Subject;
use crate::machine::inner::InnerCommand;

/// Something that is wanted from the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Need {
    /// A SKU with all its warehouses.
    Sku(SkuId),
    /// An order.
    Order(OrderNo),
    /// A stock request.
    Request(SkuId, RequestId),
}

/// What is known of the store without asking it.
pub trait Stored {
    /// Whether it may have such an order.
    fn may_have_order(&self, order_no: &OrderNo) -> bool;

    /// Whether it may have such a stock request.
    fn may_have_request(&self, sku_id: &SkuId, request_id: &RequestId) -> bool;

    /// Whether it was just found not to have this SKU.
    fn lacks_sku(&self, sku_id: &SkuId) -> bool;
}

impl State {
    /// Adds to `needs` what is to be looked for in the store before the command can be decided; nothing, for the
    /// usual one. What was looked for and not found, `stored` must say so of.
    pub fn needs(&self, command: &InnerCommand, stored: &impl Stored, needs: &mut Vec<Need>) {
        match command.subject() {
            Subject::Sku { sku_id, request_id } => {
                self.need_sku(sku_id, stored, needs);
                if let Some(request_id) = request_id {
                    self.need_request(sku_id, request_id, stored, needs);
                }
            }
            Subject::NewOrder { order_no, lines } => {
                if self.knows_order(order_no) {
                    return;
                }
                self.need_order(order_no, stored, needs);
                for line in lines.as_slice() {
                    self.need_sku(&line.sku_id, stored, needs);
                }
            }
            Subject::AnyOrder(order_no) | Subject::Order(order_no) => {
                self.need_order(order_no, stored, needs)
            }
        }
    }

    fn need_request(
        &self,
        sku_id: &SkuId,
        request_id: &RequestId,
        stored: &impl Stored,
        needs: &mut Vec<Need>,
    ) {
        let key = RequestKey { sku_id: sku_id.clone(), request_id: request_id.clone() };
        if self.requests.find(&key).is_none() && stored.may_have_request(sku_id, request_id) {
            needs.push(Need::Request(key.sku_id, key.request_id));
        }
    }

    fn need_order(&self, order_no: &OrderNo, stored: &impl Stored, needs: &mut Vec<Need>) {
        if !self.knows_order(order_no) && stored.may_have_order(order_no) {
            needs.push(Need::Order(order_no.clone()));
        }
    }

    /// SKUs of other shards are none of this one's concern.
    pub(crate) fn need_sku(&self, sku_id: &SkuId, stored: &impl Stored, needs: &mut Vec<Need>) {
        if !self.stocks.is_resident(sku_id) && self.owns(sku_id) && !stored.lacks_sku(sku_id) {
            let need = Need::Sku(sku_id.clone());
            if needs.last() != Some(&need) {
                needs.push(need);
            }
        }
    }
}
