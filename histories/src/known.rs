//! Faults of orders over several shards that are known. While one stands here as `true`, histories that show it are
//! explained all the same. Whoever mends one says `false`, and takes its line out.

/// An attempt that was cut off by a crash holds its units until its shards have asked, some three seconds; when the
/// same order is tried again before, it may be refused for want of what it holds itself.
pub const OWN_HOLDS_REFUSE: bool = true;

/// In a batch that names an order over several shards, a later operation may overtake an earlier one: a return, or a
/// release, overtakes a late payment of the same order, which has to hold its units first; and what is asked about an
/// order that another caller makes at that time overtakes operations on the same SKU that wait for the order over
/// several shards. Only batches without such orders are held to their order.
pub const SPREAD_BATCHES_OVERTAKE: bool = true;
