//! The model of one order, from the contract alone: what its requests make of it, what they are answered. Whether there
//! is stock it does not know; a refusal for want of stock it believes, and leaves to the model of the stock.
//!
//! Today's contract: a confirm after the hold ended, by expiry or by a release of everything, takes again what went
//! back then.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::calls::{Ask, Call, Lines, OrderAsk, Part, Stock, Told, Wish, stock_of};
use crate::linear::{End, Model, Span};

/// What one order's callers asked, and what may have happened to it by itself.
pub struct OrderHistory<'a> {
    /// Its number.
    pub number: String,
    /// Its calls, those left out that surely did nothing.
    pub calls: Vec<&'a Call>,
    /// What the search orders.
    pub operations: Vec<Operation>,
    /// When.
    pub spans: Vec<Span>,
    /// The different things that reserves of this number asked for, with the units that each got.
    pub wishes: Vec<(Wish, Vec<u64>)>,
    parts: Vec<Identity>,
    /// Whether the search may let it expire. An order expires once at the most, so where it works out without, nothing
    /// proves that it did.
    pub expires: bool,
    /// When it was made, by the first answer that says so.
    born: Option<String>,
}

/// A partial request as an order remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    kind: &'static str,
    part: Part,
}

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A call, by its index in `calls`.
    Call(usize),
    /// Its time is over, as this operation has set it.
    Expire(usize),
}

/// Where an order stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum State {
    /// Nobody reserved it.
    Unknown,
    /// Released before it was reserved.
    Cancelled,
    /// Reserved once.
    Live(Live),
}

/// An order that was reserved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Live {
    /// What was asked for.
    pub wish: usize,
    /// In the order of the wish's stocks.
    pub lines: Vec<Counts>,
    /// Why it holds nothing, where it is not because all is sold.
    ended: Ended,
    /// The operation that set its time.
    timer: usize,
    requests: Vec<usize>,
}

/// The units of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Counts {
    /// Held.
    pub held: u64,
    /// Sold, including those that came back.
    pub confirmed: u64,
    /// Given back unsold.
    pub released: u64,
    /// Came back after they were sold.
    pub returned: u64,
    /// Those of `released` that a late payment takes again.
    pub late: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Ended {
    No,
    Released,
    Expired,
}

/// What a call is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// The order; whether it is a repeat.
    View(bool),
    Code(&'static str),
}

/// Refusals that depend on stock.
const FOR_STOCK: [&str; 4] = ["insufficient_stock", "unknown_sku", "sku_suspended", "late_payment_no_stock"];

impl<'a> OrderHistory<'a> {
    /// Of all calls about one number.
    pub fn new(number: &str, all: &[&'a Call], history_ends: u64) -> Self {
        let calls: Vec<&Call> =
            all.iter().copied().filter(|call| !matches!(call.end, Told::NotDone(_))).collect();
        let (mut wishes, mut parts): (Vec<Wish>, Vec<Identity>) = (Vec::new(), Vec::new());
        for call in &calls {
            match about(call) {
                OrderAsk::Reserve(wish, _) if !wishes.contains(wish) => wishes.push(wish.clone()),
                ask => parts.extend(identity(ask).filter(|identity| !parts.contains(identity))),
            }
        }
        let mut views: Vec<(u64, &Value)> =
            calls.iter().filter_map(|call| call.success()).map(|(at, _, body)| (at, body)).collect();
        views.sort_by_key(|(at, _)| *at);
        let wishes = wishes.into_iter().map(|wish| {
            let got = views.iter().find_map(|(_, view)| got_of(&wish, view));
            let all: Vec<u64> = wish.lines.values().copied().collect();
            let got = got.filter(|_| wish.best_effort).unwrap_or(all);
            (wish, got)
        });
        let mut history = Self {
            number: number.to_owned(),
            operations: (0..calls.len()).map(Operation::Call).collect(),
            spans: calls.iter().map(|call| span_of(call)).collect(),
            wishes: wishes.collect(),
            parts,
            expires: true,
            born: views.first().and_then(|(_, view)| view["created_at"].as_str()).map(str::to_owned),
            calls,
        };
        history.add_expiries(history_ends);
        history.add_batch_order();
        history
    }

    /// Each request that may have set the order's time may be followed by its end.
    fn add_expiries(&mut self, history_ends: u64) {
        for (index, call) in self.calls.iter().enumerate() {
            let (OrderAsk::Reserve(_, ttl) | OrderAsk::Extend(ttl)) = about(call) else { continue };
            let sets_time = match call.success() {
                Some((_, _, body)) => body["replayed"] == false,
                None => call.is_unknown(),
            };
            let over = call.sent + ttl;
            if sets_time && over <= history_ends {
                self.operations.push(Operation::Expire(index));
                self.spans.push(Span::new(over, End::Open(None)));
            }
        }
    }

    /// Operations of one batch take effect in their order.
    fn add_batch_order(&mut self) {
        for index in 1..self.calls.len() {
            let (before, call) = (&self.calls[index - 1], &self.calls[index]);
            let same = before.request == call.request && before.part.is_some();
            if same && !before.is_unknown() && !call.is_unknown() {
                self.spans[index].after.push(index - 1);
            }
        }
    }

    /// The earliest time at which its hold can have ended without anybody being told: it was over, or a release of all
    /// of it was cut off.
    pub fn earliest_end(&self) -> Option<u64> {
        let operations = self.operations.iter().zip(&self.spans);
        let ends = operations.filter(|(operation, _)| match operation {
            Operation::Expire(_) => true,
            Operation::Call(call) => {
                let call = self.calls[*call];
                call.is_unknown() && matches!(about(call), OrderAsk::Release(Part { lines: None, .. }))
            }
        });
        ends.map(|(_, span)| span.from).min()
    }

    /// The stocks of an order, in the order of its lines.
    pub fn stocks(&self, live: &Live) -> impl Iterator<Item = &Stock> {
        self.wishes[live.wish].0.lines.keys()
    }

    fn decide(&self, state: &State, index: usize) -> (State, Expected) {
        let call = self.calls[index];
        let ask = about(call);
        let same = state.clone();
        let live = match (state, ask) {
            (State::Live(live), _) => live,
            (State::Unknown, OrderAsk::Reserve(wish, _)) => {
                if let Some(code) = call.code().and_then(for_stock) {
                    return (same, Expected::Code(code));
                }
                return (State::Live(self.reserved(wish, index)), Expected::View(false));
            }
            (State::Unknown, OrderAsk::Release(Part { lines: None, .. })) => {
                return (State::Cancelled, Expected::View(false));
            }
            (State::Unknown, _) => return (same, Expected::Code("unknown_order")),
            (State::Cancelled, OrderAsk::Get | OrderAsk::Release(_)) => return (same, Expected::View(true)),
            (State::Cancelled, _) => return (same, Expected::Code("order_cancelled")),
        };
        let repeat = (same.clone(), Expected::View(true));
        let refused = |code| (same.clone(), Expected::Code(code));
        let request = match self.remembered(live, ask) {
            Ok(Some(known)) if live.requests.contains(&known) => return repeat,
            Ok(request) => request,
            Err(()) => return refused("request_mismatch"),
        };
        let mut live = live.clone();
        live.requests.extend(request);
        let changed = |live| (State::Live(live), Expected::View(false));
        match ask {
            OrderAsk::Get => repeat,
            OrderAsk::Reserve(wish, _) if *wish == self.wishes[live.wish].0 => repeat,
            OrderAsk::Reserve(..) => refused("order_mismatch"),
            OrderAsk::Extend(_) if live.is_open() => {
                live.timer = index;
                changed(live)
            }
            OrderAsk::Extend(_) => refused("order_ended"),
            OrderAsk::Confirm(part) => {
                let open = live.is_open();
                let all = |line: &Counts| if open { line.held } else { line.late };
                let Some(wanted) = self.wanted(&live, part, all) else { return refused("exceeds_hold") };
                if wanted.iter().zip(&live.lines).any(|(units, line)| *units > line.held + line.late) {
                    return refused("exceeds_hold");
                }
                if wanted.iter().all(|units| *units == 0) {
                    return repeat;
                }
                let is_late = wanted.iter().zip(&live.lines).any(|(units, line)| *units > line.held);
                if is_late && let Some(code) = call.code().and_then(for_stock) {
                    return refused(code);
                }
                live.sell(&wanted);
                changed(live)
            }
            OrderAsk::Release(part) => {
                if !live.is_open() {
                    let is_sold = live.ended == Ended::No;
                    return if is_sold { refused("already_confirmed") } else { repeat };
                }
                let Some(wanted) = self.wanted(&live, part, |line| line.held) else {
                    return refused("exceeds_hold");
                };
                if wanted.iter().zip(&live.lines).any(|(units, line)| *units > line.held) {
                    return refused("exceeds_hold");
                }
                live.give_back(&wanted, part.lines.is_none());
                if !live.is_open() {
                    live.ended = Ended::Released;
                    if part.lines.is_some() && live.lines.iter().all(|line| line.confirmed == 0) {
                        live.lines.iter_mut().for_each(|line| line.late = line.released);
                    }
                }
                changed(live)
            }
            OrderAsk::Return(part) => {
                let there = |line: &Counts| line.confirmed - line.returned;
                let Some(wanted) = self.wanted(&live, part, there) else {
                    return refused("nothing_to_return");
                };
                let too_many = wanted.iter().zip(&live.lines).any(|(units, line)| *units > there(line));
                if too_many || wanted.iter().all(|units| *units == 0) {
                    return refused("nothing_to_return");
                }
                live.lines.iter_mut().zip(&wanted).for_each(|(line, units)| line.returned += units);
                changed(live)
            }
        }
    }

    fn reserved(&self, wish: &Wish, index: usize) -> Live {
        let wish = self.wishes.iter().position(|(known, _)| known == wish).unwrap_or(0);
        let lines = self.wishes[wish].1.iter().map(|held| Counts { held: *held, ..Counts::default() });
        Live { wish, lines: lines.collect(), ended: Ended::No, timer: index, requests: Vec::new() }
    }

    /// The partial request, if it is one; an error when its id is known for another.
    fn remembered(&self, live: &Live, ask: &OrderAsk) -> Result<Option<usize>, ()> {
        let Some(identity) = identity(ask) else { return Ok(None) };
        let index = self.parts.iter().position(|known| *known == identity);
        let id = &identity.part.request_id;
        let of_id = |known: &usize| id.is_some() && self.parts[*known].part.request_id == *id;
        match live.requests.iter().find(|known| of_id(known)) {
            Some(known) if Some(*known) != index => Err(()),
            _ => Ok(index),
        }
    }

    /// Units of each line that are meant; `None`: a line that the order has not.
    fn wanted(&self, live: &Live, part: &Part, all: impl Fn(&Counts) -> u64) -> Option<Vec<u64>> {
        let Some(lines) = &part.lines else { return Some(live.lines.iter().map(all).collect()) };
        let stocks: Vec<&Stock> = self.stocks(live).collect();
        let known = lines.keys().all(|stock| stocks.contains(&stock));
        known.then(|| stocks.iter().map(|stock| lines.get(*stock).copied().unwrap_or(0)).collect())
    }

    fn is_told(&self, call: &Call, after: &State, expected: Expected) -> bool {
        let Told::Answer(_, status, body) = &call.end else { return true };
        match expected {
            Expected::Code(code) => call.code() == Some(code),
            Expected::View(is_repeat) => {
                let made = matches!(about(call), OrderAsk::Reserve(..)) && !is_repeat;
                let flag = matches!(about(call), OrderAsk::Get) || body["replayed"] == is_repeat;
                *status == if made { 201 } else { 200 } && flag && self.shows(body, after)
            }
        }
    }

    /// Whether a view is one of this state.
    fn shows(&self, view: &Value, state: &State) -> bool {
        let born = self.born.as_deref() == view["created_at"].as_str();
        let (status, open, lines) = match state {
            State::Unknown => return false,
            State::Cancelled => ("cancelled", false, BTreeMap::new()),
            State::Live(live) => {
                let wish = &self.wishes[live.wish].0;
                let line = |((stock, quantity), line): ((&Stock, &u64), &Counts)| {
                    let counts = [*quantity, line.held, line.confirmed, line.released, line.returned];
                    (stock.clone(), counts)
                };
                (live.status(), live.is_open(), wish.lines.iter().zip(&live.lines).map(line).collect())
            }
        };
        born && view["status"] == status
            && view["expires_at"].is_null() != open
            && lines_of_view(view).is_some_and(|shown| shown == lines)
    }
}

impl Live {
    /// Whether it holds units.
    pub fn is_open(&self) -> bool {
        self.lines.iter().any(|line| line.held > 0)
    }

    fn sum(&self, of: impl Fn(&Counts) -> u64) -> u64 {
        self.lines.iter().map(of).sum()
    }

    fn status(&self) -> &'static str {
        let (held, sold) = (self.sum(|line| line.held), self.sum(|line| line.confirmed));
        let (back, returned) = (self.sum(|line| line.released), self.sum(|line| line.returned));
        match (held, sold, back, returned) {
            (0, sold, _, returned) if returned > 0 && returned == sold => "returned",
            (_, _, _, 1..) => "partially_returned",
            (0, 1.., 0, 0) => "confirmed",
            (_, 1.., _, 0) => "partially_confirmed",
            (1.., 0, _, 0) => "reserved",
            _ if self.ended == Ended::Expired => "expired",
            _ => "released",
        }
    }

    fn sell(&mut self, wanted: &[u64]) {
        for (line, units) in self.lines.iter_mut().zip(wanted) {
            let from_hold = line.held.min(*units);
            let late = units - from_hold;
            line.held -= from_hold;
            line.confirmed += units;
            line.released -= late;
            line.late -= late;
        }
        if self.sum(|line| line.released) == 0 {
            self.ended = Ended::No;
        }
    }

    fn give_back(&mut self, wanted: &[u64], whole: bool) {
        for (line, units) in self.lines.iter_mut().zip(wanted) {
            line.held -= units;
            line.released += units;
            line.late += if whole { *units } else { 0 };
        }
    }
}

impl Model for OrderHistory<'_> {
    type State = State;

    fn first(&self) -> State {
        State::Unknown
    }

    fn step(&self, state: &State, operation: usize) -> Option<State> {
        match (self.operations[operation], state) {
            (Operation::Call(index), _) => {
                let (after, expected) = self.decide(state, index);
                let call = self.calls[index];
                // One that nobody knows of and that changed nothing need not have happened.
                let counts = !call.is_unknown() || after != *state;
                (counts && self.is_told(call, &after, expected)).then_some(after)
            }
            (Operation::Expire(timer), State::Live(live))
                if self.expires && live.timer == timer && live.is_open() =>
            {
                let mut live = live.clone();
                let held: Vec<u64> = live.lines.iter().map(|line| line.held).collect();
                live.give_back(&held, true);
                live.ended = Ended::Expired;
                Some(State::Live(live))
            }
            (Operation::Expire(_), _) => None,
        }
    }
}

/// What a call asks about its order.
pub fn about(call: &Call) -> &OrderAsk {
    match &call.ask {
        Ask::Order(_, ask) => ask,
        // A history of an order has calls about it alone.
        _ => &OrderAsk::Get,
    }
}

/// When a call took effect, by what is known of its end.
pub fn span_of(call: &Call) -> Span {
    let end = match &call.end {
        Told::Answer(at, ..) | Told::NotDone(at) => End::Answered(*at),
        Told::Unknown(until) => End::Open(*until),
    };
    Span::new(call.sent, end)
}

fn identity(ask: &OrderAsk) -> Option<Identity> {
    let (kind, part, always) = match ask {
        OrderAsk::Confirm(part) => ("confirm", part, false),
        OrderAsk::Release(part) => ("release", part, false),
        OrderAsk::Return(part) => ("return", part, true),
        OrderAsk::Reserve(..) | OrderAsk::Extend(_) | OrderAsk::Get => return None,
    };
    (always || part.lines.is_some()).then(|| Identity { kind, part: part.clone() })
}

fn for_stock(code: &str) -> Option<&'static str> {
    FOR_STOCK.into_iter().find(|known| *known == code)
}

/// Quantity, held, confirmed, released, returned of each line of a view.
pub fn lines_of_view(view: &Value) -> Option<BTreeMap<Stock, [u64; 5]>> {
    let line = |line: &Value| {
        let mut counts = [0; 5];
        for (count, name) in counts.iter_mut().zip(["quantity", "held", "confirmed", "released", "returned"])
        {
            *count = line[name].as_u64()?;
        }
        Some((stock_of(line), counts))
    };
    view["lines"].as_array()?.iter().map(line).collect()
}

/// What each line of a wish got, by a view of the order that was made of it.
fn got_of(wish: &Wish, view: &Value) -> Option<Vec<u64>> {
    let lines = lines_of_view(view)?;
    let asked: Lines = lines.iter().map(|(stock, counts)| (stock.clone(), counts[0])).collect();
    (asked == wish.lines).then(|| lines.values().map(|[_, held, sold, back, _]| held + sold + back).collect())
}
