//! The model of one stock, a SKU in a warehouse: three levels. Orders and requests, which are checked by themselves,
//! come as what they did to it; refusals and reads as what they say of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::linear::{Model, Span};

/// Everything that concerned a stock.
pub struct StockHistory {
    /// Units that it was created with.
    pub quantity: i64,
    /// What happened.
    pub deeds: Vec<Deed>,
    /// When.
    pub spans: Vec<Span>,
    /// Units that attempts that came to nothing may have held when it happened.
    pub passing: Vec<Sums>,
    /// Some of its orders lie in several shards: what they hold in passing counts as changes too.
    pub spread: bool,
}

/// Some numbers, 0 among them, as ranges that don't touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums(Vec<(i64, i64)>);

impl Sums {
    /// 0 alone.
    pub fn nothing() -> Self {
        Self(vec![(0, 0)])
    }

    /// The numbers that are marked.
    pub fn of(marks: &[bool]) -> Self {
        let mut ranges: Vec<(i64, i64)> = Vec::new();
        for (number, _) in (0_i64..).zip(marks).filter(|(_, is)| **is) {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => ranges.push((number, number)),
            }
        }
        Self(ranges)
    }

    fn has(&self, number: i64) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&number))
    }
}

/// One thing that happened to a stock, or was said of it.
#[derive(Debug, Clone)]
pub struct Deed {
    /// What.
    pub what: What,
    /// By which order, or other caller, in words.
    pub who: String,
}

/// See [`Deed`]. Units are never negative, but for a change's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "units are units, and levels are available, reserved, sold and the version")]
pub enum What {
    /// An order holds units; `all`: as many as it asked for, else all that there were.
    Hold { units: i64, all: bool },
    /// Held units are sold; if the hold of this order had lapsed unseen, they are taken again.
    Sell { units: i64, order: u32 },
    /// Units whose hold had ended are taken again and sold.
    SellLate { units: i64 },
    /// The caller gives held units back, or the hold is over; less what was given back before unseen.
    GiveBack { units: i64, order: u32 },
    /// A part of what is sold, or given back, later may have been before: whose request that was, nobody saw.
    Early { units: i64, order: u32, sale: bool },
    /// The hold of an order that was sold may have been over before; nobody saw it.
    Lapse { units: i64, order: u32 },
    /// Sold units come back.
    TakeBack { units: i64 },
    /// A restock, deduct or adjust, with the levels that it was answered.
    Change { delta: i64, levels: Option<[i64; 4]> },
    /// Somebody was refused, who wanted more than there was.
    Short { wanted: i64, available: i64 },
    /// Somebody was refused because of another stock; of this one there was enough.
    Enough { wanted: i64 },
    /// Somebody was told that there is no such stock.
    Lost,
    /// Somebody read the levels.
    Read { levels: [i64; 4] },
}

/// The levels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// Available, reserved, sold.
    pub levels: [i64; 3],
    /// Changes so far.
    changes: i64,
    /// How much more the newest version that anybody was shown counts: creation, and what was held in passing.
    uncounted: i64,
    /// Orders that lapsed unseen.
    lapsed: BTreeSet<u32>,
    /// Units of orders that were sold (`true`) or given back before it was seen.
    early: BTreeMap<(u32, bool), i64>,
}

impl State {
    /// Moves units to available, reserved, sold.
    fn moved(&self, by: [i64; 3]) -> Option<Self> {
        let mut after = self.clone();
        after.changes += i64::from(by != [0; 3]);
        after.levels.iter_mut().zip(by).for_each(|(level, by)| *level += by);
        after.levels.iter().all(|level| *level >= 0).then_some(after)
    }

    /// What is left to do of something that was done in part before.
    fn less_early(&self, units: i64, order: u32, sale: bool) -> Option<(i64, Self)> {
        let mut after = self.clone();
        let early = after.early.remove(&(order, sale)).unwrap_or(0);
        (early <= units).then_some((units - early, after))
    }

    /// Whether somebody can have been shown these levels while units are held in passing.
    fn shows(&self, shown: [i64; 4], passing: &Sums, spread: bool) -> Option<Self> {
        let [available, reserved, sold] = self.levels;
        let uncounted = shown[3] - self.changes;
        let version = if spread { uncounted >= self.uncounted } else { uncounted == self.uncounted };
        let held = available - shown[0];
        let levels = passing.has(held) && shown[1] == reserved + held && shown[2] == sold;
        (version && levels).then(|| Self { uncounted, ..self.clone() })
    }
}

impl What {
    /// What it adds to available, reserved, sold.
    pub fn moves(&self) -> [i64; 3] {
        match *self {
            Self::Hold { units, .. } => [-units, units, 0],
            Self::Sell { units, .. } => [0, -units, units],
            Self::SellLate { units } => [-units, 0, units],
            Self::GiveBack { units, .. } | Self::Lapse { units, .. } => [units, -units, 0],
            Self::Early { units, sale: false, .. } => [units, -units, 0],
            Self::Early { units, sale: true, .. } => [0, -units, units],
            Self::TakeBack { units } => [units, 0, -units],
            Self::Change { delta, .. } => [delta, 0, 0],
            Self::Short { .. } | Self::Enough { .. } | Self::Lost | Self::Read { .. } => [0; 3],
        }
    }
}

impl Model for StockHistory {
    type State = State;

    fn first(&self) -> State {
        State {
            levels: [self.quantity, 0, 0],
            changes: 0,
            uncounted: 1,
            lapsed: BTreeSet::new(),
            early: BTreeMap::new(),
        }
    }

    fn step(&self, state: &State, operation: usize) -> Option<State> {
        let (what, passing) = (&self.deeds[operation].what, &self.passing[operation]);
        let available = state.levels[0];
        let there_were = |units: i64| passing.has(available - units);
        let same = |fits: bool| fits.then(|| state.clone());
        match *what {
            What::Hold { units, all } if all || there_were(units) => state.moved(what.moves()),
            What::Hold { .. } => None,
            What::Sell { units, order } if state.lapsed.contains(&order) => {
                state.moved(What::SellLate { units }.moves())
            }
            What::Early { units, order, sale } => {
                let mut after = state.moved(what.moves())?;
                *after.early.entry((order, sale)).or_default() += units;
                Some(after)
            }
            What::Sell { units, order } if state.early.contains_key(&(order, true)) => {
                let (left, state) = state.less_early(units, order, true)?;
                state.moved(What::Sell { units: left, order }.moves())
            }
            What::GiveBack { units, order } if state.early.contains_key(&(order, false)) => {
                let (left, state) = state.less_early(units, order, false)?;
                state.moved(What::GiveBack { units: left, order }.moves())
            }
            What::Lapse { order, .. } => {
                let mut after = state.moved(what.moves())?;
                after.lapsed.insert(order);
                Some(after)
            }
            What::Sell { .. } | What::SellLate { .. } | What::GiveBack { .. } | What::TakeBack { .. } => {
                state.moved(what.moves())
            }
            What::Change { levels, .. } => {
                let after = state.moved(what.moves())?;
                levels.map_or_else(|| Some(after.clone()), |levels| after.shows(levels, passing, self.spread))
            }
            What::Short { wanted, available } => same(available < wanted && there_were(available)),
            What::Enough { wanted } => same(available >= wanted),
            What::Lost => None,
            What::Read { levels } => state.shows(levels, passing, self.spread),
        }
    }

    /// Versions only grow.
    fn is_too_late(&self, state: &State, operation: usize) -> bool {
        let version = state.changes + state.uncounted;
        match self.deeds[operation].what {
            What::Read { levels } => levels[3] < version,
            What::Change { levels: Some(levels), .. } => levels[3] < version + 1,
            _ => false,
        }
    }

    fn kind(&self, operation: usize) -> Option<u64> {
        let (number, units) = match self.deeds[operation].what {
            What::Hold { units, all: true } => (0, units),
            What::SellLate { units } => (1, units),
            What::GiveBack { units, .. } => (2, units),
            What::TakeBack { units } => (3, units),
            _ => return None,
        };
        Some(units.unsigned_abs() << 2 | number)
    }
}
