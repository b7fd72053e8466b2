//! Where the SKUs of a server with a store are decided: a SKU is cold (absent here), hot in a shard, or moving. Requests for one that is
//! moving wait until it has arrived; whoever asks a place that the SKU has left meanwhile finds its count of moves changed
//! and asks again.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use foldhash::fast::RandomState;
use tokio::sync::watch;

use super::HotSku;
use crate::checkpoint::Stage;
use crate::clock::Timestamp;
use crate::command::Lines;
use crate::ids::{ShardId, SkuId};

/// Counts of moves, each shared by the SKUs with one hash: a few bytes instead of an entry for every cold SKU. Two
/// that share one cost a needless second look.
const MOVE_COUNTS: usize = 1_024;

/// SKU → place. No guard of the map lives across an await.
pub(crate) struct Routes {
    routes: DashMap<SkuId, Route, RandomState>,
    moves: Box<[AtomicU64]>,
    hasher: RandomState,
    /// How long ended orders are remembered, in milliseconds.
    remembered: u64,
}

enum Route {
    Hot(Hot),
    Moving {
        shard: ShardId,
        epoch: u64,
        /// [`Stage::Adopting`] or [`Stage::Closing`].
        stage: Stage,
        auto: bool,
        /// Whoever waits has a receiver; it ends when the move does, because this is dropped.
        over: watch::Sender<()>,
    },
    /// Another server took it while it was ours.
    Lost,
}

/// A SKU in its shard.
struct Hot {
    shard: ShardId,
    epoch: u64,
    auto: bool,
    since: Timestamp,
    /// Until then the store may remember ended orders that hold it and did not come with it, because their SKUs have come apart.
    left_until: Timestamp,
    /// Requests for it, counted when it became hot by itself.
    hits: AtomicU64,
}

/// The end of a move comes as an error of the receiver.
pub(crate) type Over = watch::Receiver<()>;

/// Where one SKU is.
#[derive(Debug)]
pub(crate) enum Look {
    Cold,
    Hot(ShardId),
    Moving(Over),
    Lost,
}

/// Which shards have the lines of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spread {
    One(ShardId),
    Several,
    /// Not all of them are hot.
    Other,
}

/// Where the lines of an order are.
#[derive(Debug)]
pub(crate) enum Where {
    /// All in this shard.
    Hot(ShardId),
    Cold,
    /// In several places.
    Mixed,
    /// One of them is moving.
    Moving(Over),
    /// This one belongs to another server.
    Lost(SkuId),
}

/// What came of [`Routes::begin`].
pub(crate) enum Begun {
    /// The SKU is moving from here on, and the caller has to end it.
    Started,
    /// It is where it was to go.
    There { shard: Option<ShardId>, epoch: u64 },
    /// Another move is under way.
    Busy(Over),
    Lost,
}

/// What the automatic needs to know of a SKU that became hot by itself.
pub(crate) struct AutoHot {
    pub sku_id: SkuId,
    pub since: Timestamp,
    /// Requests since the last look.
    pub hits: u64,
}

impl Routes {
    /// For shards that remember ended orders for so many seconds.
    pub fn new(remember_seconds: u64) -> Self {
        let moves = (0..MOVE_COUNTS).map(|_| AtomicU64::new(0)).collect();
        let remembered = remember_seconds.saturating_mul(1000);
        Self { routes: DashMap::default(), moves, hasher: RandomState::default(), remembered }
    }

    /// A SKU that is hot from now on. `had_orders`: there may be ended orders of it that are in the store alone.
    fn hot(&self, (shard, epoch, auto): (ShardId, u64, bool), now: Timestamp, had_orders: bool) -> Route {
        let left_until = if had_orders { Timestamp(now.0.saturating_add(self.remembered)) } else { Timestamp::default() };
        Route::Hot(Hot { shard, epoch, auto, since: now, left_until, hits: AtomicU64::new(0) })
    }

    /// Whether the store may remember an order of a SKU that its shard does not know: one that had ended, over SKUs that went to different
    /// places afterwards.
    pub fn may_have_left_orders(&self, sku_id: &SkuId, now: Timestamp) -> bool {
        match self.routes.get(sku_id).as_deref() {
            Some(Route::Hot(hot)) => now < hot.left_until,
            _ => true,
        }
    }

    /// Where a SKU is.
    pub fn look(&self, sku_id: &SkuId) -> Look {
        match self.routes.get(sku_id).as_deref() {
            None => Look::Cold,
            Some(Route::Hot(hot)) => {
                hot.hit();
                Look::Hot(hot.shard)
            }
            Some(Route::Moving { over, .. }) => Look::Moving(over.subscribe()),
            Some(Route::Lost) => Look::Lost,
        }
    }

    /// The shard that has a SKU.
    pub fn hot_one(&self, sku_id: &SkuId) -> Option<ShardId> {
        match self.routes.get(sku_id).as_deref() {
            Some(Route::Hot(hot)) => {
                hot.hit();
                Some(hot.shard)
            }
            _ => None,
        }
    }

    /// Whether shards have all lines, and whether it is one. The quick look of the hot path.
    pub fn spread(&self, lines: &Lines) -> Spread {
        let mut spread = Spread::Other;
        for line in lines.as_slice() {
            let shard = match self.routes.get(&line.sku_id).as_deref() {
                Some(Route::Hot(hot)) => {
                    hot.hit();
                    hot.shard
                }
                _ => return Spread::Other,
            };
            spread = match spread {
                Spread::Other => Spread::One(shard),
                Spread::One(one) if one == shard => spread,
                Spread::One(_) | Spread::Several => Spread::Several,
            };
        }
        spread
    }

    /// Where SKUs are, together.
    pub fn place<'a>(&self, skus: impl IntoIterator<Item = &'a SkuId>) -> Where {
        let mut place: Option<Option<ShardId>> = None;
        let mut mixed = false;
        for sku_id in skus {
            let here = match self.look(sku_id) {
                Look::Cold => None,
                Look::Hot(shard) => Some(shard),
                Look::Moving(over) => return Where::Moving(over),
                Look::Lost => return Where::Lost(sku_id.clone()),
            };
            mixed |= place.is_some_and(|place| place != here);
            place = Some(here);
        }
        match place.flatten() {
            _ if mixed => Where::Mixed,
            Some(shard) => Where::Hot(shard),
            None => Where::Cold,
        }
    }

    /// How often these SKUs (and those that share a count with them) moved so far.
    pub fn moves<'a>(&self, skus: impl IntoIterator<Item = &'a SkuId>) -> u64 {
        skus.into_iter().fold(0, |sum, sku_id| sum.wrapping_add(self.count(sku_id).load(Ordering::Acquire)))
    }

    /// Begins a move into a shard ([`Stage::Adopting`]) or out of it ([`Stage::Closing`]).
    pub fn begin(&self, sku_id: &SkuId, stage: Stage, into: ShardId, by_itself: bool) -> Begun {
        let moving = |shard, epoch, auto| Route::Moving { shard, epoch, stage, auto, over: watch::Sender::new(()) };
        let begun = match (self.routes.entry(sku_id.clone()), stage) {
            (Entry::Occupied(mut entry), _) => match (entry.get(), stage) {
                (Route::Moving { over, .. }, _) => return Begun::Busy(over.subscribe()),
                (Route::Lost, _) => return Begun::Lost,
                (Route::Hot(hot), Stage::Closing) => {
                    let (shard, epoch, auto) = (hot.shard, hot.epoch, hot.auto);
                    entry.insert(moving(shard, epoch, auto));
                    Begun::Started
                }
                (Route::Hot(hot), _) => return Begun::There { shard: Some(hot.shard), epoch: hot.epoch },
            },
            (Entry::Vacant(_), Stage::Closing) => return Begun::There { shard: None, epoch: 0 },
            (Entry::Vacant(entry), _) => {
                entry.insert(moving(into, 0, by_itself));
                Begun::Started
            }
        };
        self.moved(sku_id);
        begun
    }

    /// The ownership of a SKU that is hot or about to leave; 0 for one that is not.
    pub fn epoch(&self, sku_id: &SkuId) -> u64 {
        match self.routes.get(sku_id).as_deref() {
            Some(Route::Hot(hot)) => hot.epoch,
            Some(Route::Moving { epoch, .. }) => *epoch,
            Some(Route::Lost) | None => 0,
        }
    }

    /// A SKU that the recovered state of a shard has.
    pub fn recovered(&self, sku_id: &SkuId, shard: ShardId, epoch: u64, stage: Stage, now: Timestamp) {
        let auto = false;
        let route = match stage {
            Stage::Open => self.hot((shard, epoch, auto), now, true),
            Stage::Adopting | Stage::Closing => {
                Route::Moving { shard, epoch, stage, auto, over: watch::Sender::new(()) }
            }
        };
        self.routes.insert(sku_id.clone(), route);
        self.moved(sku_id);
    }

    /// A move into a shard has ended. `had_orders`: it had orders before.
    pub fn arrived(&self, sku_id: &SkuId, shard: ShardId, epoch: u64, now: Timestamp, had_orders: bool) {
        let auto = matches!(self.routes.get(sku_id).as_deref(), Some(Route::Moving { auto: true, .. }));
        let hot = self.hot((shard, epoch, auto), now, had_orders);
        drop(self.routes.insert(sku_id.clone(), hot));
        self.moved(sku_id);
    }

    /// A SKU that was about to leave stays in its shard, as it was.
    pub fn stays(&self, sku_id: &SkuId, now: Timestamp) {
        let was = match self.routes.get(sku_id).as_deref() {
            Some(Route::Moving { shard, epoch, auto, .. }) => Some((*shard, *epoch, *auto)),
            _ => None,
        };
        if let Some(was) = was {
            drop(self.routes.insert(sku_id.clone(), self.hot(was, now, true)));
            self.moved(sku_id);
        }
    }

    /// The store decides for a SKU.
    pub fn cold(&self, sku_id: &SkuId) {
        drop(self.routes.remove(sku_id));
        self.moved(sku_id);
    }

    /// A SKU has left its shard and the store knows it. `false` when it was not about to leave.
    pub fn left(&self, sku_id: &SkuId) -> bool {
        let closing = |_: &SkuId, route: &Route| matches!(route, Route::Moving { stage: Stage::Closing, .. });
        let left = self.routes.remove_if(sku_id, closing).is_some();
        if left {
            self.moved(sku_id);
        }
        left
    }

    /// Another server owns a SKU that was ours.
    pub fn lost(&self, sku_id: &SkuId) {
        drop(self.routes.insert(sku_id.clone(), Route::Lost));
        self.moved(sku_id);
    }

    /// SKUs that shards have, and those that are moving.
    pub fn counts(&self) -> (u64, u64) {
        let (mut hot, mut moving) = (0, 0);
        for route in &self.routes {
            match route.value() {
                Route::Hot(_) => hot += 1,
                Route::Moving { .. } => moving += 1,
                Route::Lost => {}
            }
        }
        (hot, moving)
    }

    /// Hot and moving SKUs, of whatever kind; may be a little off while others move.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Up to `limit` SKUs after `after` that are hot or moving, by name.
    pub fn list(&self, after: Option<&SkuId>, limit: usize) -> Vec<HotSku> {
        let of = |sku_id: &SkuId, route: &Route| {
            let (shard, epoch, stage, auto) = match route {
                Route::Hot(hot) => (hot.shard, hot.epoch, Stage::Open, hot.auto),
                Route::Moving { shard, epoch, stage, auto, .. } => (*shard, *epoch, *stage, *auto),
                Route::Lost => return None,
            };
            Some(HotSku { sku_id: sku_id.clone(), shard, epoch, stage, auto })
        };
        let is_after = |sku_id: &SkuId| after.is_none_or(|after| sku_id > after);
        let all = self.routes.iter().filter(|route| is_after(route.key()));
        let mut all: Vec<_> = all.filter_map(|route| of(route.key(), route.value())).collect();
        all.sort_unstable_by(|a, b| a.sku_id.cmp(&b.sku_id));
        all.truncate(limit);
        all
    }

    /// The SKUs that became hot by themselves, with the requests since the last call.
    pub fn auto_hot(&self) -> Vec<AutoHot> {
        let of = |sku_id: &SkuId, route: &Route| match route {
            Route::Hot(hot) if hot.auto => {
                let hits = hot.hits.swap(0, Ordering::Relaxed);
                Some(AutoHot { sku_id: sku_id.clone(), since: hot.since, hits })
            }
            _ => None,
        };
        self.routes.iter().filter_map(|route| of(route.key(), route.value())).collect()
    }

    fn count(&self, sku_id: &SkuId) -> &AtomicU64 {
        let hash = self.hasher.hash_one(sku_id) % MOVE_COUNTS as u64;
        &self.moves[usize::try_from(hash).expect("below MOVE_COUNTS")]
    }

    /// After the route: who sees the new count sees the new route.
    fn moved(&self, sku_id: &SkuId) {
        self.count(sku_id).fetch_add(1, Ordering::Release);
    }
}

impl Hot {
    fn hit(&self) {
        if self.auto {
            self.hits.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sku(name: &str) -> SkuId {
        SkuId::new(name).unwrap()
    }

    #[test]
    fn a_move_is_begun_once_and_ended_for_all_who_wait() {
        let routes = Routes::new(60);
        let (a, shard, now) = (sku("a"), ShardId(3), Timestamp(1));
        assert!(matches!(routes.begin(&a, Stage::Adopting, shard, false), Begun::Started));
        let Begun::Busy(over) = routes.begin(&a, Stage::Closing, shard, false) else { panic!("it is moving") };
        let Look::Moving(also) = routes.look(&a) else { panic!("it is moving") };
        assert!(over.has_changed().is_ok() && also.has_changed().is_ok(), "it is under way");
        let moves = routes.moves([&a]);
        routes.arrived(&a, shard, 7, now, false);
        assert!(over.has_changed().is_err() && also.has_changed().is_err(), "it is over");
        assert_ne!(routes.moves([&a]), moves);
        let again = routes.begin(&a, Stage::Adopting, shard, false);
        assert!(matches!(again, Begun::There { shard: Some(ShardId(3)), epoch: 7 }));
        assert!(matches!(routes.begin(&a, Stage::Closing, shard, false), Begun::Started));
        routes.stays(&a, now);
        assert!(matches!(routes.look(&a), Look::Hot(ShardId(3))));
        assert!(!routes.left(&a), "it is not about to leave");
        assert!(matches!(routes.begin(&a, Stage::Closing, shard, false), Begun::Started));
        assert!(routes.left(&a));
        assert!(matches!(routes.look(&a), Look::Cold));
    }

    #[test]
    fn an_order_is_where_all_its_lines_are() {
        let routes = Routes::new(60);
        let [a, b, c, d] = ["a", "b", "c", "d"].map(sku);
        let (one, two, now) = (ShardId(1), ShardId(2), Timestamp(1));
        routes.recovered(&a, one, 1, Stage::Open, now);
        routes.recovered(&b, one, 1, Stage::Open, now);
        routes.recovered(&c, two, 1, Stage::Open, now);
        assert!(matches!(routes.place([&a, &b]), Where::Hot(ShardId(1))));
        assert!(matches!(routes.place([&a, &c]), Where::Mixed));
        assert!(matches!(routes.place([&a, &d]), Where::Mixed));
        assert!(matches!(routes.place([&d]), Where::Cold));
        routes.recovered(&c, two, 1, Stage::Closing, now);
        assert!(matches!(routes.place([&a, &c]), Where::Moving(_)));
        routes.lost(&b);
        assert!(matches!(routes.place([&a, &b]), Where::Lost(_)));
        let names: Vec<_> = routes.list(Some(&a), 9).iter().map(|hot| hot.sku_id.to_string()).collect();
        assert_eq!(names, ["c"]);
    }
}
