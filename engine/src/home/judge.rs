//! The rules of orders, applied to an order over several places: a small state of it and of stocks that have plenty decides.
