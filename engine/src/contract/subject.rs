//! What a command is about: where it goes and what it waits for follows from that.

use super::command::{Action, Command, Lines, Release};
use crate::base::ids::{OrderNo, RequestId, SkuId};

/// What a command is about: where it goes, what it waits for and what it may make follow from that alone.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject<'a> {
    /// The stocks of a SKU; `request_id`: the change is remembered under it.
    Sku { sku_id: &'a SkuId, request_id: Option<&'a RequestId> },
    /// An order that it makes of these lines, where there is none.
    NewOrder { order_no: &'a OrderNo, lines: &'a Lines },
    /// An order, which it makes where there is none, whatever SKUs there are: a tombstone.
    AnyOrder(&'a OrderNo),
    /// An order that is there.
    Order(&'a OrderNo),
}

impl<'a> Subject<'a> {
    pub fn order_no(self) -> Option<&'a OrderNo> {
        match self {
            Self::Sku { .. } => None,
            Self::NewOrder { order_no, .. } | Self::AnyOrder(order_no) | Self::Order(order_no) => {
                Some(order_no)
            }
        }
    }

    /// The order that it may make.
    pub fn may_make(self) -> Option<&'a OrderNo> {
        match self {
            Self::NewOrder { order_no, .. } | Self::AnyOrder(order_no) => Some(order_no),
            Self::Sku { .. } | Self::Order(_) => None,
        }
    }

    /// The SKUs that it names, as often as it names them.
    pub fn skus(self) -> impl Iterator<Item = &'a SkuId> {
        let (one, lines) = match self {
            Self::Sku { sku_id, .. } => (Some(sku_id), None),
            Self::NewOrder { lines, .. } => (None, Some(lines)),
            Self::AnyOrder(_) | Self::Order(_) => (None, None),
        };
        let of_lines = lines.into_iter().flat_map(|lines| lines.as_slice());
        one.into_iter().chain(of_lines.map(|line| &line.sku_id))
    }
}

impl Action {
    /// What it is about.
    pub(crate) fn subject(&self) -> Subject<'_> {
        match self {
            Self::CreateStock(c) => Subject::Sku { sku_id: &c.sku_id, request_id: None },
            Self::ChangeStock(c) => Subject::Sku { sku_id: &c.sku_id, request_id: Some(&c.request_id) },
            Self::SetStatus(c) => Subject::Sku { sku_id: &c.sku_id, request_id: None },
            Self::Reserve(c) => Subject::NewOrder { order_no: &c.order_no, lines: &c.lines },
            Self::Release(Release { order_no, part: None, .. }) => Subject::AnyOrder(order_no),
            Self::Release(c) => Subject::Order(&c.order_no),
            Self::Confirm(c) => Subject::Order(&c.order_no),
            Self::Extend(c) => Subject::Order(&c.order_no),
            Self::Return(c) => Subject::Order(&c.order_no),
            Self::GetOrder(order_no) => Subject::Order(order_no),
        }
    }
}

impl Command {
    /// The order that the command is about, if it is about one.
    #[must_use]
    pub fn order_no(&self) -> Option<&OrderNo> {
        self.action.subject().order_no()
    }
}
