//! The names of small enums, as they stand in rows.

use hotstock_engine::command::{Mode, StockStatus};
use hotstock_engine::hold::HoldPurpose;
use hotstock_engine::order::{OrderStatus, Phase};
use hotstock_engine::store::StoreError;

use crate::sql::error::broken;

/// Two functions, the name of each value and the value of each name, from one table.
macro_rules! named {
    ($name_of:ident, $named:ident, $type:ty, $what:literal, { $($value:path => $name:literal),+ $(,)? }) => {
        pub(in crate::sql) fn $name_of(value: $type) -> &'static str {
            match value { $($value => $name),+ }
        }

        pub(in crate::sql) fn $named(name: &str) -> Result<$type, StoreError> {
            match name {
                $($name => Ok($value),)+
                _ => Err(broken(format!(concat!("a ", $what, " {:?}"), name))),
            }
        }
    };
}

named!(status_name, status, StockStatus, "stock status", {
    StockStatus::OnSale => "on_sale",
    StockStatus::Suspended => "suspended",
});

named!(mode_name, mode, Mode, "mode", {
    Mode::AllOrNothing => "all_or_nothing",
    Mode::BestEffort => "best_effort",
});

named!(phase_name, phase, Phase, "phase", {
    Phase::Open => "open",
    Phase::Released => "released",
    Phase::Expired => "expired",
    Phase::Cancelled => "cancelled",
});

named!(purpose_name, purpose, HoldPurpose, "hold for", {
    HoldPurpose::Units => "units",
    HoldPurpose::Return => "return",
});

/// The name of [`HoldPurpose::Units`], whose units count as held.
pub(in crate::sql) const UNITS: &str = "units";

/// The name of a state, as the list is asked for it.
pub(in crate::sql) fn order_status_name(status: OrderStatus) -> &'static str {
    match status {
        OrderStatus::Reserved => "reserved",
        OrderStatus::PartiallyConfirmed => "partially_confirmed",
        OrderStatus::Confirmed => "confirmed",
        OrderStatus::Released => "released",
        OrderStatus::Expired => "expired",
        OrderStatus::Cancelled => "cancelled",
        OrderStatus::PartiallyReturned => "partially_returned",
        OrderStatus::Returned => "returned",
    }
}
