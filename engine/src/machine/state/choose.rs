//! Which warehouses serve lines that may lie in any: pure, of numbers alone.
//!
//! 1. **As few warehouses as can be.** Those that lines of the order name are in it anyway; beside them none if that
//!    is enough, else one, else the fewest. Of up to [`MAX_TRIED`] warehouses every set is tried. Of more, the one
//!    that serves most of what is still missing comes next, which may be one too many now and then: the fewest of
//!    many is a set cover, and a shard has no time for it.
//! 2. **The preferred ones**, among as few; then those that serve more of the order, then those that have more, then
//!    the lowest number.
//! 3. **Each line in as few pieces as can be** within these warehouses, by the same order.
//!
//! A line is never refused here: who asks sees to it that there is enough of each in all.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::base::ids::WarehouseId;
use crate::base::limits::MAX_WAREHOUSES_PER_SKU;
use crate::contract::command::StockStatus;
use crate::contract::outcome::StockView;

/// Warehouses of which every set is tried: 256 sets.
const MAX_TRIED: usize = 8;

/// Warehouses that are taken one after the other when there are more; an order that needs more still is served line
/// by line.
const MAX_ROUNDS: usize = 8;

/// Stocks that are looked at once a round. An order with more (hundreds of lines in hundreds of warehouses) is served
/// line by line, so that it does not keep the shard from others.
const MAX_WEIGHED: usize = 16_384;

/// A line whose warehouses are to be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Open {
    /// Units; at most the sum of what is there.
    pub units: u64,
    /// What can be had where; each warehouse once.
    pub there: Vec<(WarehouseId, u64)>,
}

/// For each line, where its units come from: pieces of at least one unit, the best place first. `used` are the
/// warehouses of the order's other lines.
pub(super) fn choose(
    lines: &[Open],
    used: &[WarehouseId],
    prefer: &[WarehouseId],
) -> Vec<Vec<(WarehouseId, u64)>> {
    if let [Open { units: 1.., there }] = lines
        && let [(only, _)] = there[..]
    {
        return vec![vec![(only, lines[0].units)]];
    }
    let depots = depots(lines, used, prefer);
    let places: HashMap<WarehouseId, usize> =
        depots.iter().enumerate().map(|(place, depot)| (depot.id, place)).collect();
    let lines: Vec<Line> = lines.iter().map(|line| Line::new(line, &places)).collect();
    let fixed = depots.iter().take_while(|depot| depot.used).count();
    let chosen = cover(&lines, fixed, depots.len());
    let mut taken: Vec<bool> = (0..depots.len()).map(|place| place < fixed).collect();
    let mut pieces = Vec::with_capacity(lines.len());
    for line in &lines {
        let of_line = line.cut(|place| chosen.as_ref().is_none_or(|chosen| chosen[place]), &taken);
        of_line.iter().for_each(|(place, _)| taken[*place] = true);
        pieces.push(of_line.into_iter().map(|(place, units)| (depots[place].id, units)).collect());
    }
    pieces
}

/// The warehouses that an order whose SKUs lie in several places had best use, if its open lines were decided
/// together: for its shards, which decide apart. Each line with its units and the stocks of its SKU. A guess:
/// the levels may have changed since.
#[must_use]
pub fn prefer_for_all(
    lines: &[(u32, Vec<StockView>)],
    used: &[WarehouseId],
    prefer: &[WarehouseId],
) -> Vec<WarehouseId> {
    let open = lines.iter().map(|(quantity, stocks)| {
        let sold =
            stocks.iter().filter(|stock| stock.status == StockStatus::OnSale && stock.levels.available > 0);
        let there: Vec<_> = sold.map(|stock| (stock.warehouse_id, stock.levels.available)).collect();
        Open { units: u64::from(*quantity).min(sum(&there)), there }
    });
    let pieces = choose(&open.collect::<Vec<_>>(), used, prefer);
    let mut hint: Vec<WarehouseId> = Vec::new();
    let mut known = std::collections::HashSet::new();
    for id in pieces.iter().flatten().map(|(id, _)| *id).chain(prefer.iter().copied()) {
        if known.insert(id) {
            hint.push(id);
        }
    }
    hint.truncate(MAX_WAREHOUSES_PER_SKU);
    hint
}

/// The units there are in all.
pub(super) fn sum(there: &[(WarehouseId, u64)]) -> u64 {
    there.iter().map(|(_, units)| units).fold(0, |sum, units| sum.saturating_add(*units))
}

/// A warehouse; its place in the list is its rank.
struct Depot {
    id: WarehouseId,
    used: bool,
    /// Its place among the preferred ones.
    preferred: usize,
    /// Units of the order that it could serve.
    serves: u64,
    /// Units that it has.
    has: u64,
}

/// All warehouses, the best first; those that are used anyway before all others.
fn depots(lines: &[Open], used: &[WarehouseId], prefer: &[WarehouseId]) -> Vec<Depot> {
    let mut ranks = HashMap::new();
    for (rank, id) in prefer.iter().enumerate() {
        ranks.entry(*id).or_insert(rank);
    }
    let mut depots: HashMap<WarehouseId, Depot> = HashMap::new();
    for line in lines {
        for (id, units) in &line.there {
            let depot = depots.entry(*id).or_insert_with(|| Depot {
                id: *id,
                used: used.contains(id),
                preferred: ranks.get(id).copied().unwrap_or(usize::MAX),
                serves: 0,
                has: 0,
            });
            depot.serves = depot.serves.saturating_add(line.units.min(*units));
            depot.has = depot.has.saturating_add(*units);
        }
    }
    let mut depots: Vec<Depot> = depots.into_values().collect();
    let best_first = |d: &Depot| (!d.used, d.preferred, Reverse(d.serves), Reverse(d.has), d.id);
    depots.sort_unstable_by_key(best_first);
    depots
}

/// A line, with the places of warehouses instead of their ids.
struct Line {
    units: u64,
    /// By place, ascending; none without units.
    there: Vec<(usize, u64)>,
}

impl Line {
    fn new(line: &Open, places: &HashMap<WarehouseId, usize>) -> Self {
        let there = line.there.iter().filter(|(_, units)| *units > 0);
        let mut there: Vec<_> = there.map(|(id, units)| (places[id], *units)).collect();
        there.sort_unstable();
        Self { units: line.units, there }
    }

    /// What some warehouses have of it.
    fn had(&self, chosen: impl Fn(usize) -> bool) -> u64 {
        let had = self.there.iter().filter(|(place, _)| chosen(*place));
        had.fold(0, |sum: u64, (_, units)| sum.saturating_add(*units))
    }

    /// The fewest pieces in which the chosen warehouses can serve it. Among as few those whose place is `taken`
    /// first, then by rank.
    fn cut(&self, chosen: impl Fn(usize) -> bool, taken: &[bool]) -> Vec<(usize, u64)> {
        let mut here: Vec<_> = self.there.iter().copied().filter(|(place, _)| chosen(*place)).collect();
        let mut largest = here.clone();
        largest.sort_by_key(|(_, units)| Reverse(*units));
        let (mut count, mut reached) = (0, 0_u64);
        while reached < self.units
            && let Some((_, units)) = largest.get(count)
        {
            reached = reached.saturating_add(*units);
            count += 1;
        }
        let picked = if count > MAX_TRIED {
            largest.truncate(count);
            largest
        } else {
            here.sort_by_key(|(place, _)| !taken[*place]);
            self.pick(&here, &largest, count)
        };
        let mut left = self.units;
        let piece = |(place, units): (usize, u64)| {
            let piece = units.min(left);
            left -= piece;
            (place, piece)
        };
        picked.into_iter().map(piece).collect()
    }

    /// `count` of them that are enough; `here` in the order in which they are wanted. One is taken if the largest of
    /// the others can fill up what is missing then.
    fn pick(&self, here: &[(usize, u64)], largest: &[(usize, u64)], count: usize) -> Vec<(usize, u64)> {
        let mut picked: Vec<(usize, u64)> = Vec::with_capacity(count);
        for (place, units) in here {
            if picked.len() == count {
                break;
            }
            let others =
                largest.iter().filter(|(other, _)| other != place && picked.iter().all(|(p, _)| p != other));
            let others = others.take(count - picked.len() - 1);
            let all = others.chain(&picked).fold(*units, |sum, (_, units)| sum.saturating_add(*units));
            if all >= self.units {
                picked.push((*place, *units));
            }
        }
        picked
    }
}

/// The fewest warehouses that can serve all lines, beside the first `fixed` ones, which are used anyway. `None`: each
/// line is to find its own.
fn cover(lines: &[Line], fixed: usize, depots: usize) -> Option<Vec<bool>> {
    let mut chosen: Vec<bool> = (0..depots).map(|place| place < fixed).collect();
    // What is still missing, and who has it.
    let needy = |line: &Line| {
        let units = line.units.saturating_sub(line.had(|place| place < fixed));
        let there: Vec<_> = line.there.iter().copied().filter(|(place, _)| *place >= fixed).collect();
        (units > 0).then_some(Line { units, there })
    };
    let lines: Vec<Line> = lines.iter().filter_map(needy).collect();
    if lines.is_empty() {
        return Some(chosen);
    }
    if let Some(place) = one_for_all(&lines, depots) {
        chosen[place] = true;
        return Some(chosen);
    }
    let fresh = depots - fixed;
    if fresh <= MAX_TRIED {
        let places = tried(&lines, fixed, fresh);
        places.into_iter().for_each(|place| chosen[place] = true);
        return Some(chosen);
    }
    if lines.iter().map(|line| line.there.len()).sum::<usize>() > MAX_WEIGHED {
        return None;
    }
    let places = one_by_one(&lines, depots)?;
    places.into_iter().for_each(|place| chosen[place] = true);
    Some(chosen)
}

/// The best warehouse that has enough of every line.
fn one_for_all(lines: &[Line], depots: usize) -> Option<usize> {
    let mut served = vec![0; depots];
    for line in lines {
        line.there
            .iter()
            .filter(|(_, units)| *units >= line.units)
            .for_each(|(place, _)| served[*place] += 1);
    }
    served.iter().position(|served| *served == lines.len())
}

/// Tries every set of the warehouses from `fixed` on, smaller ones first, among them those with better warehouses.
fn tried(lines: &[Line], fixed: usize, fresh: usize) -> Vec<usize> {
    // The best warehouse is the highest bit, so that of sets of one size the better is the greater number.
    let has = |set: u32, place: usize| set >> (fresh - 1 - (place - fixed)) & 1 == 1;
    let enough = |set: u32| lines.iter().all(|line| line.had(|place| has(set, place)) >= line.units);
    let sets = (1..=fresh)
        .flat_map(|size| (0..1_u32 << fresh).rev().filter(move |set| set.count_ones() as usize == size));
    // The set of all is enough, as each line has enough in all.
    let best = sets.into_iter().find(|set| enough(*set)).unwrap_or(u32::MAX);
    (fixed..fixed + fresh).filter(|place| has(best, *place)).collect()
}

/// The warehouse that serves most of what is missing, then the next, within a bound; then those are dropped that the
/// others make superfluous.
fn one_by_one(lines: &[Line], depots: usize) -> Option<Vec<usize>> {
    let mut missing: Vec<u64> = lines.iter().map(|line| line.units).collect();
    let mut places: Vec<usize> = Vec::new();
    while missing.iter().any(|units| *units > 0) {
        if places.len() == MAX_ROUNDS {
            return None;
        }
        let mut serves = vec![0_u64; depots];
        for (line, missing) in lines.iter().zip(&missing) {
            line.there.iter().for_each(|(place, units)| serves[*place] += units.min(missing));
        }
        places.iter().for_each(|place| serves[*place] = 0);
        let (best, _) =
            serves.iter().enumerate().max_by_key(|(place, serves)| (**serves, Reverse(*place)))?;
        places.push(best);
        for (line, missing) in lines.iter().zip(&mut missing) {
            *missing = missing.saturating_sub(line.had(|place| place == best));
        }
    }
    for place in places.clone() {
        let without = |line: &Line| line.had(|other| other != place && places.contains(&other)) >= line.units;
        if lines.iter().all(without) {
            places.retain(|known| *known != place);
        }
    }
    Some(places)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn warehouse(place: usize) -> WarehouseId {
        WarehouseId(u32::try_from(place).unwrap() + 1)
    }

    fn open(units: u64, there: &[u64]) -> Open {
        let there = there.iter().enumerate().map(|(place, units)| (warehouse(place), *units));
        Open { units, there: there.collect() }
    }

    /// Every set of warehouses 1 to `count`.
    fn sets(count: usize) -> impl Iterator<Item = Vec<WarehouseId>> {
        (0..1_u32 << count).map(move |set| (0..count).filter(|i| set >> i & 1 == 1).map(warehouse).collect())
    }

    fn had(line: &Open, set: &[WarehouseId]) -> u64 {
        line.there.iter().filter(|(id, _)| set.contains(id)).map(|(_, units)| units).sum()
    }

    fn serves(lines: &[Open], set: &[WarehouseId]) -> bool {
        lines.iter().all(|line| had(line, set) >= line.units)
    }

    /// The pieces of each line are what was asked, of what is there. Gives the warehouses beside the used ones.
    fn sound(lines: &[Open], used: &[WarehouseId], pieces: &[Vec<(WarehouseId, u64)>]) -> Vec<WarehouseId> {
        assert_eq!(lines.len(), pieces.len());
        for (line, pieces) in lines.iter().zip(pieces) {
            assert_eq!(sum(pieces), line.units, "{line:?} {pieces:?}");
            for (id, units) in pieces {
                let there = line.there.iter().find(|(there, _)| there == id).map(|(_, units)| *units);
                assert!((1..=there.unwrap()).contains(units), "{line:?} {pieces:?}");
                assert_eq!(pieces.iter().filter(|(other, _)| other == id).count(), 1, "{pieces:?}");
            }
        }
        let mut fresh: Vec<_> =
            pieces.iter().flatten().map(|(id, _)| *id).filter(|id| !used.contains(id)).collect();
        fresh.sort_unstable();
        fresh.dedup();
        fresh
    }

    /// The places of warehouses among the preferred ones, the best first.
    fn ranks(set: &[WarehouseId], prefer: &[WarehouseId]) -> Vec<usize> {
        let rank = |id: &WarehouseId| prefer.iter().position(|known| known == id).unwrap_or(usize::MAX);
        let mut ranks: Vec<_> = set.iter().map(rank).collect();
        ranks.sort_unstable();
        ranks
    }

    /// As few warehouses as any set would do with, the preferred ones among as few, no line in more pieces than it
    /// must be.
    fn check(lines: &[Open], count: usize, used: &[WarehouseId], prefer: &[WarehouseId]) {
        let pieces = choose(lines, used, prefer);
        let case = || format!("{lines:?} used {used:?} prefer {prefer:?}: {pieces:?}");
        let fresh = sound(lines, used, &pieces);
        let beside = |set: &Vec<WarehouseId>| set.iter().all(|id| !used.contains(id));
        let enough = |set: &Vec<WarehouseId>| serves(lines, &[set.as_slice(), used].concat());
        let all: Vec<_> = sets(count).filter(beside).filter(enough).collect();
        let fewest = all.iter().map(Vec::len).min().unwrap();
        assert_eq!(fresh.len(), fewest, "{}", case());
        let best = all.iter().filter(|set| set.len() == fewest).map(|set| ranks(set, prefer)).min();
        assert_eq!(Some(ranks(&fresh, prefer)), best, "{}", case());
        let within = [fresh.as_slice(), used].concat();
        for (line, pieces) in lines.iter().zip(&pieces) {
            let some = sets(count).filter(|set| set.iter().all(|id| within.contains(id)));
            let least = some.filter(|set| had(line, set) >= line.units).map(|set| set.len()).min().unwrap();
            assert_eq!(pieces.len(), least, "{}", case());
        }
    }

    /// Two lines, three warehouses with none to three units of each, every quantity that there is in all, every
    /// preference.
    #[test]
    fn every_small_case_is_as_good_as_can_be() {
        let [one, two, three] = [0, 1, 2].map(warehouse);
        let prefers: [&[WarehouseId]; 4] = [&[], &[three], &[two, one], &[three, two, one]];
        let mut cases = 0;
        for levels in 0..4_u64.pow(6) {
            let level = |i: u32| levels / 4_u64.pow(i) % 4;
            let (a, b) = ([level(0), level(1), level(2)], [level(3), level(4), level(5)]);
            for (first, second) in [(1, 1), (2, 3), (4, 2), (5, 0)] {
                if first > a.iter().sum() || second > b.iter().sum() {
                    continue;
                }
                let prefer = prefers[cases % prefers.len()];
                let used: &[WarehouseId] = if cases % 3 == 0 { &[two] } else { &[] };
                check(&[open(first, &a), open(second, &b)], 3, used, prefer);
                cases += 1;
            }
        }
        assert!(cases > 10_000, "{cases}");
    }

    #[test]
    fn one_warehouse_before_the_preferred_ones_and_the_preferred_ones_before_the_full_ones() {
        let ids = |pieces: &[Vec<(WarehouseId, u64)>]| -> Vec<Vec<(u32, u64)>> {
            pieces.iter().map(|line| line.iter().map(|(id, units)| (id.0, *units)).collect()).collect()
        };
        let [one, two, three] = [0, 1, 2].map(warehouse);
        let lines = [open(2, &[2, 5, 2]), open(1, &[0, 1, 1])];
        assert_eq!(ids(&choose(&lines, &[], &[])), [[(2, 2)], [(2, 1)]], "it has more");
        assert_eq!(ids(&choose(&lines, &[], &[one, three])), [[(3, 2)], [(3, 1)]], "one has not all");
        assert_eq!(ids(&choose(&lines, &[three], &[two])), [[(3, 2)], [(3, 1)]], "it is in the order anyway");
        // Cut over two, of which the preferred one gives what it has.
        let lines = [open(6, &[3, 4, 4])];
        assert_eq!(ids(&choose(&lines, &[], &[one])), [[(1, 3), (2, 3)]]);
        assert_eq!(ids(&choose(&lines, &[], &[])), [[(2, 4), (3, 2)]]);
        // Without any unit there is no piece.
        assert_eq!(ids(&choose(&[open(0, &[0, 0])], &[], &[])), [[(0, 0); 0]]);
    }

    #[test]
    fn a_hint_begins_with_what_would_serve_all() {
        let stock = |warehouse_id, available, status| StockView {
            sku_id: crate::base::ids::SkuId::new("a").unwrap(),
            warehouse_id,
            levels: crate::contract::units::Levels { available, ..Default::default() },
            status,
            serialized: false,
        };
        let [one, two, three] = [0, 1, 2].map(warehouse);
        let on_sale = |levels: [u64; 3]| {
            let stocks = [one, two, three].into_iter().zip(levels);
            stocks.map(|(id, available)| stock(id, available, StockStatus::OnSale)).collect::<Vec<_>>()
        };
        let lines = [(2, on_sale([9, 2, 0])), (1, on_sale([0, 1, 9]))];
        assert_eq!(prefer_for_all(&lines, &[], &[three, two]), [two, three]);
        let mut suspended = lines.clone();
        suspended[0].1[1].status = StockStatus::Suspended;
        assert_eq!(prefer_for_all(&suspended, &[], &[two]), [one, two]);
        // Too much is asked: what there is.
        assert_eq!(prefer_for_all(&[(99, on_sale([1, 0, 2]))], &[], &[]), [three, one]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

        /// Up to eight warehouses, every set of which is tried.
        #[test]
        fn the_fewest_of_some(
            lines in vec((0..14_u64, vec(0..5_u64, 6)), 1..5),
            used in vec(0..6_usize, 0..2),
            prefer in vec(0..8_usize, 0..4),
        ) {
            let lines: Vec<_> = lines.iter().map(|(units, there)| open((*units).min(there.iter().sum()), there)).collect();
            let ids = |places: &[usize]| places.iter().map(|place| warehouse(*place)).collect::<Vec<_>>();
            check(&lines, 6, &ids(&used), &ids(&prefer));
        }

        /// Many: one if one is enough, else none that is superfluous, and always all that was asked.
        #[test]
        fn few_of_many(
            lines in vec((1..40_u64, vec(0..9_u64, 30)), 1..6),
            used in vec(0..30_usize, 0..3),
            prefer in vec(0..30_usize, 0..4),
        ) {
            let lines: Vec<_> = lines.iter().map(|(units, there)| open((*units).min(there.iter().sum()), there)).collect();
            let ids = |places: &[usize]| places.iter().map(|place| warehouse(*place)).collect::<Vec<_>>();
            let (used, prefer) = (ids(&used), ids(&prefer));
            let fresh = sound(&lines, &used, &choose(&lines, &used, &prefer));
            let enough = |set: &[WarehouseId]| serves(&lines, &[set, used.as_slice()].concat());
            let one = (0..30).map(warehouse).any(|id| enough(&[id]));
            if one {
                prop_assert!(fresh.len() <= 1);
            }
            if fresh.len() < MAX_ROUNDS {
                let without = |id: &WarehouseId| fresh.iter().copied().filter(|other| other != id).collect::<Vec<_>>();
                prop_assert!(!fresh.iter().any(|id| enough(&without(id))), "{:?} of {:?}", fresh, lines);
            }
        }
    }

    /// Hundreds of lines in hundreds of warehouses are served too, each by itself.
    #[test]
    fn a_huge_order_is_served_line_by_line() {
        let lines: Vec<_> = (0..300).map(|i| open(7, &vec![1 + i % 3; 300])).collect();
        sound(&lines, &[], &choose(&lines, &[], &[]));
        let lines: Vec<_> = (0..20).map(|_| open(12, &[1; 40])).collect();
        let fresh = sound(&lines, &[], &choose(&lines, &[], &[]));
        assert_eq!(fresh.len(), 12, "each line stays with the warehouses of those before it");
    }
}
