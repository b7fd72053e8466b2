//! SKUs that become hot by themselves, and cold again. The requests that cold SKUs get are counted in a sketch of the heavy hitters, which
//! takes the same memory however many SKUs there are; of those that stand out a rate is kept that decays with time. A SKU
//! above one rate is promoted; one that became hot so and stays below another, lower rate for a while is demoted.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use heavykeeper::TopK;

use super::Asked;
use super::routes::Routes;
use crate::clock::Timestamp;
use crate::command::Command;
use crate::engine::AutoPromotion;
use crate::hub::Hub;
use crate::ids::SkuId;
use crate::limits::{AUTO_LOOK_MILLIS, AUTO_RATES, AUTO_SKETCH_DEPTH, AUTO_SKETCH_WIDTH, MAX_AUTO_MOVES_PER_LOOK};
use crate::router::skus_of;
use crate::sync::unpoisoned;

/// After this time half of a rate is what came since.
const HALF_LIFE_SECONDS: f64 = 5.0;

/// How readily the sketch lets a newcomer take the place of a rare SKU; the value of its authors.
const SKETCH_DECAY: f64 = 0.9;

/// See the top of the file.
pub(crate) struct Auto {
    counts: Mutex<TopK<SkuId>>,
    rates: Mutex<Rates>,
}

/// Requests a second.
#[derive(Default)]
struct Rates {
    last: Option<Timestamp>,
    cold: HashMap<SkuId, f64>,
    hot: HashMap<SkuId, Quiet>,
}

/// A SKU that is hot by itself.
struct Quiet {
    rate: f64,
    /// Since when it has been below the lower rate.
    since: Option<Timestamp>,
}

/// What a look found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub promote: Vec<SkuId>,
    pub demote: Vec<SkuId>,
}

impl Auto {
    pub fn new() -> Self {
        Self { counts: Mutex::new(sketch()), rates: Mutex::default() }
    }

    /// A command goes to the store.
    pub fn note(&self, command: &Command) {
        let skus = skus_of(command);
        if skus.is_empty() {
            return;
        }
        let mut counts = unpoisoned(self.counts.lock());
        skus.into_iter().for_each(|sku_id| counts.add(sku_id, 1));
    }

    /// What is to be moved now. Call it about once a second.
    pub fn look(&self, now: Timestamp, routes: &Routes, options: &AutoPromotion) -> Wanted {
        let mut wanted = Wanted::default();
        let mut rates = unpoisoned(self.rates.lock());
        let last = *rates.last.get_or_insert(now);
        let millis = now.0.saturating_sub(last.0);
        if millis == 0 {
            return wanted;
        }
        rates.last = Some(now);
        let seconds = millis as f64 / 1000.0;
        let keep = 0.5_f64.powf(seconds / HALF_LIFE_SECONDS);
        let blend = |rate: f64, count: u64| rate * keep + count as f64 / seconds * (1.0 - keep);
        let counted = std::mem::replace(&mut *unpoisoned(self.counts.lock()), sketch()).list();
        let counted: HashMap<SkuId, u64> = counted.into_iter().map(|node| (node.item, node.count)).collect();
        rates.cold.retain(|sku_id, rate| {
            *rate = blend(*rate, counted.get(sku_id).copied().unwrap_or(0));
            // Far below any rate that matters: forgotten, so that the table stays small.
            *rate >= options.promote_above / 100.0
        });
        for (sku_id, count) in counted {
            if rates.cold.len() < AUTO_RATES && !rates.cold.contains_key(&sku_id) {
                rates.cold.insert(sku_id, blend(0.0, count));
            }
        }
        if options.promote {
            let room = options.max_hot.saturating_sub(routes.len()).min(MAX_AUTO_MOVES_PER_LOOK);
            let mut above: Vec<(f64, SkuId)> = Vec::new();
            above.extend(rates.cold.iter().filter(|(_, r)| **r >= options.promote_above).map(|(s, r)| (*r, s.clone())));
            above.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
            above.truncate(room);
            for (_, sku_id) in above {
                // It starts anew when the promotion is refused.
                rates.cold.remove(&sku_id);
                wanted.promote.push(sku_id);
            }
        }
        let hot = routes.auto_hot();
        let mut kept = HashMap::with_capacity(hot.len());
        for auto in hot {
            let mut quiet = rates.hot.remove(&auto.sku_id);
            // One that has just become hot counts as busy.
            let mut rate = quiet.as_ref().map_or(options.promote_above, |quiet| quiet.rate);
            rate = blend(rate, auto.hits);
            let since = quiet.take().and_then(|quiet| quiet.since);
            let since = (rate < options.demote_below).then(|| since.unwrap_or(now));
            let rested = |from: Timestamp, seconds: u64| now >= from.plus_seconds(seconds);
            let is_quiet = since.is_some_and(|since| rested(since, options.quiet_seconds));
            if options.demote
                && is_quiet
                && rested(auto.since, options.min_hot_seconds)
                && wanted.demote.len() < MAX_AUTO_MOVES_PER_LOOK
            {
                wanted.demote.push(auto.sku_id);
            } else {
                kept.insert(auto.sku_id, Quiet { rate, since });
            }
        }
        wanted.demote.sort_unstable();
        rates.hot = kept;
        wanted
    }
}

fn sketch() -> TopK<SkuId> {
    TopK::new(AUTO_RATES, AUTO_SKETCH_WIDTH, AUTO_SKETCH_DEPTH, SKETCH_DECAY)
}

impl Hub {
    /// The loop behind it; ends with the engine.
    pub async fn move_by_rate(&self) {
        let side = self.side();
        let options = &self.context.options.store.promotion;
        loop {
            tokio::select! {
                () = side.stopped() => return,
                () = tokio::time::sleep(Duration::from_millis(AUTO_LOOK_MILLIS)) => {}
            }
            let wanted = side.auto.look(self.context.clock.now(), &side.routes, options);
            // One by one: a SKU that is linked to others must not keep the rest from moving.
            for sku_id in wanted.promote {
                log(self.promote(std::slice::from_ref(&sku_id), Asked::ByItself).await);
            }
            for sku_id in wanted.demote {
                log(self.demote(std::slice::from_ref(&sku_id), Asked::ByItself).await);
            }
        }
    }
}

fn log(results: Vec<(SkuId, Result<super::Moved, crate::outcome::Refusal>)>) {
    for (sku_id, result) in results {
        if let Err(refusal) = result {
            tracing::warn!(%sku_id, %refusal, "a SKU was to move by its rate and did not");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Stage;
    use crate::command::{Action, CreateStock};
    use crate::ids::{ShardId, WarehouseId};

    fn sku(name: &str) -> SkuId {
        SkuId::new(name).unwrap()
    }

    fn request(name: &str) -> Command {
        Action::CreateStock(CreateStock { sku_id: sku(name), warehouse_id: WarehouseId(1), quantity: 1, serialized: false  }).into()
    }

    fn options() -> AutoPromotion {
        AutoPromotion {
            promote: true,
            demote: true,
            promote_above: 50.0,
            demote_below: 5.0,
            quiet_seconds: 10,
            min_hot_seconds: 30,
            max_hot: 2,
        }
    }

    /// Looks once a second of the clock, with so many requests for each SKU in each.
    struct Run {
        auto: Auto,
        routes: Routes,
        now: Timestamp,
    }

    impl Run {
        fn new() -> Self {
            let run = Self { auto: Auto::new(), routes: Routes::new(60), now: Timestamp(1_000) };
            run.auto.look(run.now, &run.routes, &options());
            run
        }

        fn second(&mut self, requests: &[(&str, u64)]) -> Wanted {
            for (name, count) in requests {
                for _ in 0..*count {
                    if self.routes.hot_one(&sku(name)).is_none() {
                        self.auto.note(&request(name));
                    }
                }
            }
            self.now = self.now.plus_seconds(1);
            let wanted = self.auto.look(self.now, &self.routes, &options());
            for sku_id in &wanted.promote {
                self.routes.begin(sku_id, Stage::Adopting, ShardId(0), true);
                self.routes.arrived(sku_id, ShardId(0), 1, self.now, false);
            }
            for sku_id in &wanted.demote {
                self.routes.begin(sku_id, Stage::Closing, ShardId(0), true);
                self.routes.left(sku_id);
            }
            wanted
        }
    }

    #[test]
    fn a_busy_sku_becomes_hot_and_a_quiet_one_cold_again() {
        let mut run = Run::new();
        for _ in 0..30 {
            assert_eq!(run.second(&[("slow", 20), ("a", 1)]), Wanted::default(), "below the rate");
        }
        let seconds = (1..60).find(|_| run.second(&[("busy", 200), ("slow", 20)]).promote == [sku("busy")]);
        assert!((2..10).contains(&seconds.unwrap()), "not by one burst, but soon: {seconds:?}");
        // Between the two rates it stays, for ever.
        for _ in 0..100 {
            assert_eq!(run.second(&[("busy", 20)]), Wanted::default());
        }
        // A quiet moment is not enough.
        for _ in 0..9 {
            assert_eq!(run.second(&[]), Wanted::default());
        }
        for _ in 0..20 {
            assert_eq!(run.second(&[("busy", 100)]), Wanted::default());
        }
        let quiet = (1..100).find(|_| run.second(&[]).demote == [sku("busy")]).unwrap();
        assert!(quiet >= 10, "it was quiet for as long as it takes: {quiet}");
    }

    #[test]
    fn it_stays_hot_for_its_least_time_and_the_hot_set_has_a_bound() {
        let mut run = Run::new();
        let busy = [("a", 200), ("b", 300), ("c", 400)];
        let mut hot = Vec::new();
        let mut since = 0;
        for second in 0..20 {
            let promoted = run.second(&busy).promote;
            if !promoted.is_empty() {
                since = second;
            }
            hot.extend(promoted);
        }
        assert_eq!(hot, [sku("c"), sku("b")], "the busiest first, two at the most");
        // Quiet at once, but hot for the least time.
        let demoted = (20..200).find(|_| !run.second(&[]).demote.is_empty()).unwrap();
        assert!(demoted - since >= 29, "{demoted} {since}");
    }

    #[test]
    fn many_rare_skus_do_not_hide_a_busy_one() {
        let mut run = Run::new();
        let names: Vec<String> = (0..5_000).map(|n| format!("rare-{n}")).collect();
        let mut promoted = Vec::new();
        for _ in 0..15 {
            let mut requests: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
            requests.push(("busy", 300));
            promoted.extend(run.second(&requests).promote);
        }
        assert_eq!(promoted, [sku("busy")]);
    }

    #[test]
    fn both_switches_switch() {
        let mut run = Run::new();
        let off = AutoPromotion { promote: false, demote: false, ..options() };
        run.routes.begin(&sku("hot"), Stage::Adopting, ShardId(0), true);
        run.routes.arrived(&sku("hot"), ShardId(0), 1, run.now, false);
        for _ in 0..200 {
            (0..200).for_each(|_| run.auto.note(&request("busy")));
            run.now = run.now.plus_seconds(1);
            assert_eq!(run.auto.look(run.now, &run.routes, &off), Wanted::default());
        }
    }
}
