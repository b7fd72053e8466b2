//! Which branch has which units of an order.
