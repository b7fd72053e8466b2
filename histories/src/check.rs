//! Takes a recording apart, checks every part, and says what the orders make of the stocks in the end.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::calls::{Ask, Call, OrderAsk, Stock, Told, calls_of, stock_of};
use crate::changes::{ChangeHistory, levels_of};
use crate::effects::{Effect, Passing, effects_of, passing_of, signed};
use crate::linear::{self, End, Span};
use crate::orders::{OrderHistory, about};
use crate::print;
use crate::recorder::Recorder;
use crate::stocks::{Deed, StockHistory, Sums, What};

/// Steps of a model after which a search is given up. A part of some thousand operations takes some ten thousand.
const BUDGET: u64 = 5_000_000;

/// What was checked.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// What all orders and requests together make of each stock: available, reserved, sold.
    pub levels: BTreeMap<Stock, [i64; 3]>,
    /// Operations of callers.
    pub operations: usize,
    /// Those of them whose outcome was unknown.
    pub unknown: usize,
    /// Parts.
    pub parts: usize,
    /// Steps of the models.
    pub steps: u64,
    /// How long it took.
    pub took: Duration,
    /// The part that took longest.
    pub longest: Duration,
}

/// A part that could not be explained.
#[derive(Debug)]
pub struct Failure {
    /// The part and what is wrong with it, for people.
    pub report: String,
}

impl Checked {
    /// The levels of a SKU over its warehouses.
    pub fn sku(&self, sku: &str) -> [i64; 3] {
        let of_sku = self.levels.iter().filter(|(stock, _)| stock.sku == sku);
        of_sku.fold([0; 3], |sum, (_, levels)| [0, 1, 2].map(|level| sum[level] + levels[level]))
    }

    fn part<M: linear::Model>(
        &mut self,
        name: &str,
        model: &M,
        spans: &[Span],
        line: impl Fn(usize) -> String,
    ) -> Result<Vec<usize>, Failure>
    where
        M::State: std::fmt::Debug,
    {
        let began = Instant::now();
        let found = linear::check(model, spans, BUDGET);
        self.parts += 1;
        self.longest = self.longest.max(began.elapsed());
        match found {
            Ok(found) => {
                self.steps += found.steps;
                Ok(found.order)
            }
            Err(stuck) => Err(Failure { report: print::report(name, model, spans, &stuck, line) }),
        }
    }
}

impl Recorder {
    /// Checks the recording; when it can't be explained, writes the part to a file and panics with its name.
    /// `shard_of`: in which shard a SKU lies. What stands before the first point of `name` names the file.
    ///
    /// # Panics
    /// When it can't be explained.
    pub fn must_be_explained(&self, name: &str, shard_of: impl Fn(&str) -> u16) -> Checked {
        check(self, shard_of).unwrap_or_else(|failure| {
            let file = PathBuf::from(format!("{name}-{}.history.txt", std::process::id()));
            let path = std::env::temp_dir().join(file);
            let text = format!("{}\n{}", failure.report, everything(self));
            let written = std::fs::write(&path, text).map(|()| path.display().to_string());
            let head: String = failure.report.lines().take(4).map(|line| format!("{line}\n")).collect();
            panic!("the history can't be explained; the part is in {written:?}:\n{head}");
        })
    }
}

/// All calls by the time at which they were sent, to look up what else went on.
fn everything(recorder: &Recorder) -> String {
    let calls = calls_of(recorder).unwrap_or_default();
    let lines = calls.iter().map(|call| print::timed(&crate::orders::span_of(call), &print::call(call)));
    lines.fold("Everything that was asked:\n".to_owned(), |text, line| text + &line + "\n")
}

/// Checks a recording. `shard_of`: in which shard a SKU lies.
///
/// # Errors
/// The first part that can't be explained.
pub fn check(recorder: &Recorder, shard_of: impl Fn(&str) -> u16) -> Result<Checked, Failure> {
    let began = Instant::now();
    let calls = calls_of(recorder).map_err(|report| Failure { report })?;
    // What would happen later nobody was told of.
    let last = calls.iter().filter_map(|call| match call.end {
        Told::Answer(at, ..) => Some(at),
        _ => None,
    });
    let history_ends = last.max().unwrap_or(0);
    let mut checked = Checked { operations: calls.len(), ..Checked::default() };
    checked.unknown = calls.iter().filter(|call| call.is_unknown()).count();
    let spread = spread_orders(&calls, shard_of);
    let mut stocks = Stocks::created_by(&calls);
    let mut orders: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    let mut changes: BTreeMap<(&str, &str), Vec<&Call>> = BTreeMap::new();
    for call in &calls {
        match &call.ask {
            Ask::Order(number, _) => orders.entry(number).or_default().push(call),
            Ask::Change { stock, request_id, .. } => {
                changes.entry((&stock.sku, request_id)).or_default().push(call);
                stocks.refused_change(call);
            }
            Ask::Read(sku, warehouse) => stocks.read(call, sku, *warehouse),
            Ask::Create(..) => {}
        }
    }
    for (id, (number, calls)) in (0..).zip(&orders) {
        let mut history = OrderHistory::new(number, calls, history_ends);
        history.expires = false;
        history.expires = linear::check(&history, &history.spans, BUDGET).is_err();
        let line = |index: usize| operation_line(&history, index);
        let found = checked.part(&format!("order {number}"), &history, &history.spans, line)?;
        history.expires = true;
        let spread = spread.contains(number);
        let effects = effects_of(&history, &found, id, spread);
        if spread {
            let has_ended = effects.iter().any(|effect| matches!(effect.what, What::GiveBack { .. }));
            stocks
                .passing
                .extend(passing_of(calls, &history, has_ended).into_iter().map(|passing| (id, passing)));
        }
        stocks.order(&history, id, spread, &effects)?;
        calls.iter().for_each(|call| stocks.refused_order(call, id, spread));
    }
    for ((sku, id), calls) in &changes {
        let history = ChangeHistory::new(sku, id, calls);
        let line = |index: usize| print::call(history.calls[index]);
        let found = checked.part(&format!("request {id} of {sku}"), &history, &history.spans, line)?;
        stocks.change(&history, &found)?;
    }
    let passing = std::mem::take(&mut stocks.passing);
    for (stock, builder) in stocks.by_stock {
        checked.levels.insert(stock.clone(), builder.levels());
        let history = builder.history(&stock, &passing);
        let line = |index: usize| {
            let Deed { what, who } = &history.deeds[index];
            let passing = match &history.passing[index] {
                sums if *sums == Sums::nothing() => String::new(),
                sums => format!(" (held in passing by others: one of {sums:?})"),
            };
            format!("{what:?}{passing} {who}")
        };
        checked.part(&format!("stock {stock}"), &history, &history.spans, line)?;
    }
    checked.took = began.elapsed();
    Ok(checked)
}

/// The orders whose stocks lie in several shards, as somebody asked for them.
fn spread_orders(calls: &[Call], shard_of: impl Fn(&str) -> u16) -> HashSet<&str> {
    let spread = calls.iter().filter_map(|call| match &call.ask {
        Ask::Order(number, OrderAsk::Reserve(wish, _)) => {
            let mut shards = wish.lines.keys().map(|stock| shard_of(&stock.sku));
            let first = shards.next();
            shards.any(|shard| Some(shard) != first).then_some(number.as_str())
        }
        _ => None,
    });
    spread.collect()
}

fn operation_line(history: &OrderHistory<'_>, index: usize) -> String {
    match history.operations[index] {
        crate::orders::Operation::Call(call) => print::call(history.calls[call]),
        crate::orders::Operation::Expire(_) => format!("{}: its time is over", history.number),
    }
}

/// Which call, told what happened, did a thing: its request and its place in a batch.
type Source = Option<(usize, usize)>;

/// Where a call stands in a batch.
fn source_of(call: &Call) -> Source {
    call.part.map(|part| (call.request, part))
}

/// The deeds of one stock, while they are gathered.
struct Builder {
    quantity: i64,
    known_at: u64,
    deeds: Vec<(Deed, Span, Source)>,
    /// The order of a deed.
    orders: Vec<Option<u32>>,
    /// What surely happened, summed.
    moved: [i64; 3],
}

struct Stocks {
    by_stock: BTreeMap<Stock, Builder>,
    /// With the number of the order.
    passing: Vec<(u32, Passing)>,
}

impl Stocks {
    fn created_by(calls: &[Call]) -> Self {
        let mut by_stock: BTreeMap<Stock, Builder> = BTreeMap::new();
        for call in calls {
            if let (Ask::Create(stock, quantity), Some((at, ..))) = (&call.ask, call.success()) {
                by_stock.entry(stock.clone()).or_insert_with(|| Builder {
                    quantity: *quantity,
                    known_at: at,
                    deeds: Vec::new(),
                    orders: Vec::new(),
                    moved: [0; 3],
                });
            }
        }
        Self { by_stock, passing: Vec::new() }
    }

    fn add(&mut self, stock: &Stock, what: What, call: &Call, order: Option<u32>, source: Source) {
        let Some(builder) = self.by_stock.get_mut(stock) else { return };
        let Told::Answer(at, ..) = call.end else { return };
        let deed = Deed { what, who: print::call(call) };
        builder.push(deed, Span::new(call.sent, End::Answered(at)), order, source);
    }

    fn read(&mut self, call: &Call, sku: &str, warehouse: Option<u64>) {
        let Told::Answer(_, status, body) = &call.end else { return };
        let asked = |stock: &&Stock| stock.sku == sku && warehouse.is_none_or(|id| id == stock.warehouse);
        let stocks: Vec<Stock> = self.by_stock.keys().filter(asked).cloned().collect();
        let shown = |stock: &Stock| {
            let all = body["warehouses"].as_array()?;
            let own = all.iter().find(|one| one["warehouse_id"].as_u64() == Some(stock.warehouse))?;
            levels_of(own)
        };
        for stock in stocks {
            match shown(&stock) {
                Some(levels) => self.add(&stock, What::Read { levels }, call, None, None),
                None if call.sent < self.by_stock[&stock].known_at || !matches!(status, 200 | 404) => {}
                None => self.add(&stock, What::Lost, call, None, None),
            }
        }
    }

    fn refused_change(&mut self, call: &Call) {
        let Ask::Change { stock, .. } = &call.ask else { return };
        let Told::Answer(_, _, body) = &call.end else { return };
        match call.code() {
            Some("insufficient_stock") => {
                let (wanted, available) = named(&body["lines"][0]);
                self.add(stock, What::Short { wanted, available }, call, None, source_of(call));
            }
            Some("unknown_sku") => self.lost(stock, call),
            _ => {}
        }
    }

    fn lost(&mut self, stock: &Stock, call: &Call) {
        if self.by_stock.get(stock).is_some_and(|builder| call.sent >= builder.known_at) {
            self.add(stock, What::Lost, call, None, None);
        }
    }

    fn refused_order(&mut self, call: &Call, id: u32, spread: bool) {
        let Told::Answer(_, _, body) = &call.end else { return };
        let is_late = call.code() == Some("late_payment_no_stock");
        let asked = match about(call) {
            OrderAsk::Reserve(wish, _) => Some(wish),
            _ => None,
        };
        let is_short = call.code() == Some("insufficient_stock") && asked.is_some();
        if !is_late && !is_short {
            if call.code() == Some("unknown_sku") {
                self.lost(&stock_of(body), call);
            }
            return;
        }
        let source = source_of(call).filter(|_| !spread);
        let empty = Vec::new();
        let lines = body["lines"].as_array().unwrap_or(&empty);
        for line in lines {
            let (stock, (requested, available)) = (stock_of(line), named(line));
            // What a refusal says was asked is what was asked.
            let right =
                asked.is_none_or(|wish| wish.lines.get(&stock).copied().map(signed) == Some(requested));
            let wanted = if right { requested } else { i64::MIN };
            self.add(&stock, What::Short { wanted, available }, call, Some(id), source);
        }
        if let Some(wish) = asked.filter(|wish| !spread && !wish.best_effort) {
            for (stock, units) in &wish.lines {
                if !lines.iter().any(|line| stock_of(line) == *stock) {
                    self.add(stock, What::Enough { wanted: signed(*units) }, call, Some(id), source);
                }
            }
        }
    }

    fn order(
        &mut self,
        history: &OrderHistory<'_>,
        id: u32,
        spread: bool,
        effects: &[Effect],
    ) -> Result<(), Failure> {
        // Effects name each other by their place among those of the order.
        let mut places: Vec<(Stock, usize)> = Vec::new();
        for effect in effects {
            let told_by = effect.told_by.map(|call| history.calls[call]);
            let source = told_by.and_then(source_of).filter(|_| !spread);
            let builder = self.builder(&effect.stock)?;
            places.push((effect.stock.clone(), builder.deeds.len()));
            let who = told_by.map_or_else(|| format!("of {}", history.number), print::call);
            builder.push(Deed { what: effect.what.clone(), who }, effect.span.clone(), Some(id), source);
            if !effect.maybe {
                let moves = effect.what.moves();
                [0, 1, 2].into_iter().for_each(|level| builder.moved[level] += moves[level]);
            }
        }
        for (stock, place) in &places {
            let builder = self.builder(stock)?;
            let span = &mut builder.deeds[*place].1;
            for list in [&mut span.after, &mut span.not_after] {
                list.iter_mut().for_each(|effect| *effect = places[*effect].1);
            }
        }
        Ok(())
    }

    fn change(&mut self, history: &ChangeHistory<'_>, found: &[usize]) -> Result<(), Failure> {
        // The first of them did it.
        let Some((content, by)) = found.iter().find_map(|index| {
            let content = crate::changes::content_of(history.calls[*index])?;
            let did = history.calls[*index].code().is_none();
            did.then(|| (history.contents.iter().position(|known| *known == content), *index))
        }) else {
            return self.unseen_change(history);
        };
        let Some(content) = content else { return Ok(()) };
        let own = &history.contents[content];
        let call = history.calls[by];
        let same = || {
            let of_content = |call: &&&Call| crate::changes::content_of(call).as_ref() == Some(own);
            history.calls.iter().filter(of_content)
        };
        let from = match call.is_unknown() {
            true => same().filter(|call| call.is_unknown()).map(|call| call.sent).min(),
            false => None,
        };
        let to = same().filter_map(|call| call.success()).map(|(at, ..)| at).min();
        let span = Span::new(from.unwrap_or(call.sent), to.map_or(End::Open(None), End::Answered));
        let what = What::Change { delta: own.delta(), levels: history.levels(content) };
        let source = source_of(call);
        let (stock, moves) = (own.stock.clone(), what.moves());
        let builder = self.builder(&stock)?;
        builder.push(Deed { what, who: print::call(call) }, span, None, source);
        [0, 1, 2].into_iter().for_each(|level| builder.moved[level] += moves[level]);
        Ok(())
    }

    /// One that was never answered may have been carried out.
    fn unseen_change(&mut self, history: &ChangeHistory<'_>) -> Result<(), Failure> {
        for call in history.calls.iter().filter(|call| call.is_unknown()) {
            let Some(content) = crate::changes::content_of(call) else { continue };
            let what = What::Change { delta: content.delta(), levels: None };
            let span = crate::orders::span_of(call);
            let builder = self.builder(&content.stock)?;
            builder.push(Deed { what, who: print::call(call) }, span, None, None);
        }
        Ok(())
    }

    fn builder(&mut self, stock: &Stock) -> Result<&mut Builder, Failure> {
        let report = format!("{stock} is used, and nothing in the recording created it");
        self.by_stock.get_mut(stock).ok_or(Failure { report })
    }
}

impl Builder {
    fn push(&mut self, deed: Deed, span: Span, order: Option<u32>, source: Source) {
        self.deeds.push((deed, span, source));
        self.orders.push(order);
    }

    fn levels(&self) -> [i64; 3] {
        let [available, reserved, sold] = self.moved;
        [self.quantity + available, reserved, sold]
    }

    fn history(mut self, stock: &Stock, passing: &[(u32, Passing)]) -> StockHistory {
        self.add_batch_order();
        let own: Vec<&(u32, Passing)> =
            passing.iter().filter(|(_, passing)| passing.stock == *stock).collect();
        let sums = self.deeds.iter().zip(&self.orders).map(|((deed, span, _), order)| {
            let (looks, is_refusal) = match deed.what {
                What::Read { .. } | What::Change { .. } => (true, false),
                What::Short { .. } | What::Hold { all: false, .. } => (true, true),
                _ => (false, false),
            };
            let until = match span.end {
                End::Answered(at) | End::Open(Some(at)) => at,
                End::Open(None) => u64::MAX,
            };
            let may_count = |(by, passing): &&&(u32, Passing)| {
                let own = is_refusal && *order == Some(*by);
                looks && !own && passing.from <= until && passing.to.is_none_or(|to| to >= span.from)
            };
            sums_of(own.iter().filter(may_count).map(|(_, passing)| passing))
        });
        let passing = sums.collect();
        let (deeds, spans) = self.deeds.into_iter().map(|(deed, span, _)| (deed, span)).unzip();
        StockHistory { quantity: self.quantity, deeds, spans, passing, spread: !own.is_empty() }
    }

    /// Operations of one batch on one stock take effect in their order.
    fn add_batch_order(&mut self) {
        let mut of_batches: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for (index, (_, _, source)) in self.deeds.iter().enumerate() {
            if let Some(source) = source {
                of_batches.entry(*source).or_default().push(index);
            }
        }
        let parts: Vec<(&(usize, usize), &Vec<usize>)> = of_batches.iter().collect();
        for pair in parts.windows(2) {
            let [((batch, _), before), ((other, _), deeds)] = pair else { continue };
            if batch == other {
                deeds.iter().for_each(|deed| self.deeds[*deed].1.after.extend(before.iter().copied()));
            }
        }
    }
}

/// Requested and available of a line of a refusal.
fn named(line: &Value) -> (i64, i64) {
    let count = |name: &str| line[name].as_i64().unwrap_or(i64::MIN);
    (count("requested"), count("available"))
}

/// The sums that some of them can make together, 0 included.
fn sums_of<'a>(passing: impl Iterator<Item = &'a Passing>) -> Sums {
    // Whether each number can be reached.
    let mut reached = vec![true];
    for passing in passing {
        let most = usize::try_from(passing.units).unwrap_or(0);
        let least = if passing.up_to { 1 } else { most };
        let before = reached.clone();
        reached.resize(before.len() + most, false);
        for units in least..=most {
            before.iter().enumerate().filter(|(_, is)| **is).for_each(|(sum, _)| reached[sum + units] = true);
        }
    }
    Sums::of(&reached)
}
