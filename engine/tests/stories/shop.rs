//! The language of the stories. A story is a table of `what is sent -> what is answered`, one row a line:
//!
//! ```text
//! create A 10                      -> created A 10/0/0
//! create B@7 10 serialized         -> created B@7 10/0/0 serialized
//! reserve O1 A:2 B@7:1 ttl=60      -> created reserved A:2[held 2] B@7:1[held 1]
//! confirm O1 A:1 id=R1             -> changed partially_confirmed …
//! levels A                         -> 8/1/1
//! wait 60000                       ->
//! expire                           -> O1
//! ```
//!
//! `A@7` is the SKU A in warehouse 7 (1 where nothing is said), `A@any` in one that is to be chosen; levels are
//! available/reserved/sold; `#1-3` in an order are the serial numbers 1 to 3. `wait` moves the clock by milliseconds;
//! `expire` names the orders that expired, `forget` (window in milliseconds, max) those that left memory; `evict A`
//! names what left with the SKU, if it could; `pin A` and `unpin A` keep SKUs in memory, or no longer; `here A` tells
//! whether it is. Whatever leaves memory was flushed before, and comes back when it is asked for. At its end a story is
//! replayed from its journal, and must leave the same behind.

use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{
    Action, ChangeKind, ChangeStock, Choice, Confirm, CreateStock, Extend, Line, Lines, Mode, Part, Release,
    Reserve, Return, SetStatus, StockStatus,
};
use hotstock_engine::event::{Change, Event};
use hotstock_engine::ids::{BuyerId, Lsn, OrderNo, RequestId, ShardId, SkuId, WarehouseId};
use hotstock_engine::inner::InnerCommand;
use hotstock_engine::order::OrderStatus;
use hotstock_engine::outcome::{Answer, Effect, LineView, OrderView, Outcome, Refusal, ShortLine, StockView};
use hotstock_engine::state::{Decision, Departed, Need, State};

use crate::stored::{Known, Rows, next_load};

/// When every story begins.
pub const BEGIN: Timestamp = Timestamp(1_000_000);

/// One shard, its journal and its clock.
pub struct Shop {
    pub state: State,
    pub log: Vec<Event>,
    pub clock: Timestamp,
    /// What was flushed.
    pub rows: Rows,
    pub known: Known,
}

impl Default for Shop {
    fn default() -> Self {
        let (rows, known) = (Rows::default(), Known::default());
        Self { state: State::new(ShardId(0), 1), log: Vec::new(), clock: BEGIN, rows, known }
    }
}

/// Tells a story to an empty shop.
#[track_caller]
pub fn story(table: &str) {
    let mut shop = Shop::default();
    shop.tell(table);
    shop.check();
}

impl Shop {
    /// Goes through a table and stops at the first row that is answered otherwise.
    #[track_caller]
    pub fn tell(&mut self, table: &str) {
        for row in table.lines().map(str::trim).filter(|row| !row.is_empty()) {
            let (sent, expected) = row.split_once("->").expect("a row is `sent -> answered`");
            let got = self.say(sent.trim());
            assert_eq!(got, expected.trim(), "(answered left, expected right) in the row: {row}");
        }
    }

    /// Carries out one row and gives the answer as text.
    pub fn say(&mut self, sent: &str) -> String {
        let words: Vec<_> = sent.split_whitespace().collect();
        match words[..] {
            ["wait", millis] => {
                self.clock = self.clock.plus_millis(number(millis));
                String::new()
            }
            ["clock_back", millis] => {
                self.clock = self.clock.minus_millis(number(millis));
                String::new()
            }
            ["expire"] => self.expire(),
            ["forget", window, max] => self.forget(number(window), number(max)),
            ["evict", sku] => self.evict(sku),
            ["pin", sku] => self.pin(sku, true),
            ["unpin", sku] => self.pin(sku, false),
            ["here", sku] => self.state.is_resident(&place_of(sku).0).to_string(),
            ["restart"] => {
                self.state = self.replayed();
                // What left before the restart is named no more.
                drop(self.departed());
                String::new()
            }
            ["levels", place] => {
                let (sku_id, warehouse_id) = place_of(place);
                let audit = self.state.audit();
                let mut stocks = audit.stocks.iter();
                let stock = stocks.find(|s| s.sku_id == sku_id && s.warehouse_id == warehouse_id);
                let stored = || Some(self.rows.stocks.get(&sku_id)?.get(&warehouse_id)?.levels);
                let levels = stock.map(|stock| stock.levels).or_else(stored);
                levels.map_or("none".to_owned(), |l| format!("{}/{}/{}", l.available, l.reserved, l.sold))
            }
            _ => text_of(self.send(action_of(&words))),
        }
    }

    /// Carries out one command as a shard does: decide, apply, answer.
    pub fn send(&mut self, command: impl Into<InnerCommand>) -> Outcome {
        let command = command.into();
        if let InnerCommand::Public(command) = &command {
            command.validate()?;
        }
        self.bring(&command);
        match self.state.decide(&command, self.clock) {
            Decision::Answer(outcome) => outcome,
            Decision::Log(event) => {
                self.log(event.clone());
                Ok(self.state.answer(&event))
            }
            Decision::HoldFirst(_) => panic!("{command:?} is for several shards"),
        }
    }

    /// What a command is about comes into memory.
    pub fn bring(&mut self, command: &InnerCommand) {
        self.known.missing.clear();
        let mut needs = Vec::new();
        loop {
            self.state.needs(command, &self.known, &mut needs);
            if needs.is_empty() {
                return;
            }
            self.load(&std::mem::take(&mut needs));
        }
    }

    pub fn load(&mut self, needs: &[Need]) {
        self.flush();
        while let Some(change) = next_load(&self.state, &self.rows, &mut self.known, needs) {
            self.log(self.state.event(change, self.clock));
        }
    }

    /// The store takes in everything.
    pub fn flush(&mut self) {
        let flushed = usize::try_from(self.rows.flushed.0).unwrap();
        for event in &self.log[flushed..] {
            self.rows.flush(self.rows.flushed.next(), event);
        }
    }

    /// What left memory since it was asked last: orders by name, requests by their ids.
    pub fn departed(&mut self) -> Vec<String> {
        let departed = self.state.take_departed();
        self.known.add(departed.clone());
        let name = |departed: &Departed| match departed {
            Departed::Order(order_no) => order_no.to_string(),
            Departed::Request(sku_id, request_id) => format!("{sku_id}.{request_id}"),
        };
        let mut names: Vec<_> = departed.iter().map(name).collect();
        names.sort();
        names
    }

    /// A SKU leaves memory; says what leaves with it.
    fn evict(&mut self, sku: &str) -> String {
        self.flush();
        let wanted = SkuId::new(sku).unwrap();
        let flushed = self.rows.flushed;
        match self.state.next_eviction(flushed, |sku_id| *sku_id == wanted, |_| false, self.clock) {
            None => "stays".to_owned(),
            Some(event) => {
                self.log(event);
                let names = self.departed();
                std::iter::once("left".to_owned()).chain(names).collect::<Vec<_>>().join(" ")
            }
        }
    }

    fn pin(&mut self, sku: &str, hot: bool) -> String {
        let sku_id = SkuId::new(sku).unwrap();
        self.load(&[Need::Sku(sku_id.clone())]);
        match self.state.decide_pinned(&[sku_id], hot) {
            Ok(Some(change)) => {
                self.log(self.state.event(change, self.clock));
                "changed".to_owned()
            }
            Ok(None) => "replayed".to_owned(),
            Err(refusal) => text_of(Err(refusal)),
        }
    }

    pub fn log(&mut self, event: Event) {
        self.state.apply(self.state.applied().next(), &event).expect("what was decided can be applied");
        self.log.push(event);
    }

    fn expire(&mut self) -> String {
        let mut expired = Vec::new();
        while let Some(event) = self.state.next_expiry(self.clock) {
            expired.push(match &event.change {
                Change::Expired { order_no, .. } => order_no.to_string(),
                other => panic!("{other:?} expires nothing"),
            });
            self.log(event);
        }
        expired.sort();
        expired.join(" ")
    }

    fn forget(&mut self, window_millis: u64, max: u64) -> String {
        self.flush();
        let before = self.clock.minus_millis(window_millis);
        let max = usize::try_from(max).expect("a small number");
        while let Some(forget) = self.state.next_forgotten(before, max, self.clock, Lsn(u64::MAX), |_| false)
        {
            self.log(forget.event);
        }
        let departed = self.departed();
        let is_order = |name: &&String| !name.contains('.');
        departed.iter().filter(is_order).cloned().collect::<Vec<_>>().join(" ")
    }

    /// The state that a restart makes from the journal.
    pub fn replayed(&self) -> State {
        let mut state = State::new(ShardId(0), 1);
        for event in &self.log {
            state.apply(state.applied().next(), event).expect("what was applied can be replayed");
        }
        state
    }

    /// Every invariant holds, and a restart finds the same stocks and orders.
    #[track_caller]
    pub fn check(&self) {
        let audit = self.state.audit();
        assert_eq!(audit.violations, []);
        let replayed = self.replayed();
        assert_eq!(replayed.audit(), audit);
        for (order_no, _) in self.state.order_numbers() {
            assert_eq!(replayed.image_of_order(order_no), self.state.image_of_order(order_no));
        }
    }
}

pub fn action_of(words: &[&str]) -> Action {
    let (what, rest) = words.split_first().expect("a row has a verb");
    let order_no = || OrderNo::new(rest[0]).expect("an order number comes first");
    let change = |kind| {
        let (sku_id, warehouse_id) = place_of(rest[0]);
        let quantity = rest[1].parse().expect("a quantity");
        let request_id = RequestId::new(rest[2]).expect("a request id");
        Action::ChangeStock(ChangeStock { sku_id, warehouse_id, kind, quantity, request_id, reason: None })
    };
    let set_status = |status| {
        let all = !rest[0].contains('@');
        let (sku_id, warehouse_id) = place_of(rest[0]);
        Action::SetStatus(SetStatus { sku_id, warehouse_id: (!all).then_some(warehouse_id), status })
    };
    match *what {
        "create" => {
            let (sku_id, warehouse_id) = place_of(rest[0]);
            Action::CreateStock(CreateStock {
                sku_id,
                warehouse_id,
                quantity: number(rest[1]),
                serialized: rest.contains(&"serialized"),
            })
        }
        "restock" => change(ChangeKind::Restock),
        "deduct" => change(ChangeKind::Deduct),
        "adjust" => change(ChangeKind::Adjust),
        "suspend" => set_status(StockStatus::Suspended),
        "resume" => set_status(StockStatus::OnSale),
        "reserve" => Action::Reserve(Reserve {
            order_no: order_no(),
            lines: open_lines_of(&rest[1..]).0,
            ttl_seconds: option(rest, "ttl=").map_or(1800, |ttl| ttl.parse().expect("seconds")),
            buyer_id: option(rest, "buyer=").map(|buyer| BuyerId::new(buyer).expect("a buyer id")),
            mode: if rest.contains(&"best_effort") { Mode::BestEffort } else { Mode::AllOrNothing },
            choice: choice_of(&rest[1..]),
        }),
        "confirm" => Action::Confirm(Confirm { order_no: order_no(), part: part_of(&rest[1..]) }),
        "release" => {
            Action::Release(Release { order_no: order_no(), part: part_of(&rest[1..]), reason: None })
        }
        "extend" => {
            let ttl_seconds = rest[1].parse().expect("seconds");
            Action::Extend(Extend { order_no: order_no(), ttl_seconds })
        }
        "return" => {
            let request_id = RequestId::new(rest[1]).expect("a request id");
            Action::Return(Return { order_no: order_no(), request_id, lines: lines_of(&rest[2..]) })
        }
        "get" => Action::GetOrder(order_no()),
        other => panic!("the stories know no verb {other:?}"),
    }
}

fn part_of(words: &[&str]) -> Option<Part> {
    let request_id = option(words, "id=").map(|id| RequestId::new(id).expect("a request id"));
    lines_of(words).map(|lines| Part { lines, request_id })
}

fn lines_of(words: &[&str]) -> Option<Lines> {
    let lines: Vec<_> = words
        .iter()
        .filter_map(|word| word.split_once(':'))
        .map(|(place, quantity)| {
            let (sku_id, warehouse_id) = place_of(place);
            Line { sku_id, warehouse_id, quantity: quantity.parse().expect("a quantity") }
        })
        .collect();
    (!lines.is_empty()).then(|| Lines::new(lines).expect("lines within their bounds"))
}

/// The lines of a reserve, and those of them that are open.
fn open_lines_of(words: &[&str]) -> (Lines, Vec<u16>) {
    let line = |(place, quantity): (&str, &str)| {
        let quantity = quantity.parse().expect("a quantity");
        match place.strip_suffix("@any") {
            Some(sku) => (SkuId::new(sku).expect("a SKU"), None, quantity),
            None => {
                let (sku_id, warehouse_id) = place_of(place);
                (sku_id, Some(warehouse_id), quantity)
            }
        }
    };
    let lines = words.iter().filter_map(|word| word.split_once(':')).map(line);
    Lines::with_open(lines).expect("lines within their bounds")
}

fn choice_of(words: &[&str]) -> Option<Box<Choice>> {
    let (_, open) = open_lines_of(words);
    let prefer = option(words, "prefer=").into_iter().flat_map(|ids| ids.split(','));
    let prefer = prefer.map(|id| WarehouseId(id.parse().expect("a warehouse"))).collect();
    (!open.is_empty()).then(|| Box::new(Choice { open, prefer }))
}

fn option<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(name))
}

pub fn place_of(word: &str) -> (SkuId, WarehouseId) {
    let (sku, warehouse) = word.split_once('@').unwrap_or((word, "1"));
    (SkuId::new(sku).expect("a SKU"), WarehouseId(warehouse.parse().expect("a warehouse")))
}

pub fn number(word: &str) -> u64 {
    word.parse().expect("a number")
}

/// An outcome as it stands in a table.
pub fn text_of(outcome: Outcome) -> String {
    match outcome {
        Ok(answer) => answer_text(answer),
        Err(refusal) => refusal_text(refusal),
    }
}

fn answer_text(answer: Answer) -> String {
    match answer {
        Answer::Order { order, effect } => format!("{} {}", effect_text(effect), order_text(&order)),
        Answer::Stock { stock, effect } => format!("{} {}", effect_text(effect), stock_text(&stock)),
        Answer::Sku { stocks, effect } => {
            let stocks: Vec<_> = stocks.iter().map(stock_text).collect();
            format!("{} {}", effect_text(effect), stocks.join(" "))
        }
    }
}

fn effect_text(effect: Effect) -> &'static str {
    match effect {
        Effect::Created => "created",
        Effect::Changed => "changed",
        Effect::Replayed => "replayed",
    }
}

fn order_text(order: &OrderView) -> String {
    let status = match order.status {
        OrderStatus::Reserved => "reserved",
        OrderStatus::PartiallyConfirmed => "partially_confirmed",
        OrderStatus::Confirmed => "confirmed",
        OrderStatus::Released => "released",
        OrderStatus::Expired => "expired",
        OrderStatus::Cancelled => "cancelled",
        OrderStatus::PartiallyReturned => "partially_returned",
        OrderStatus::Returned => "returned",
    };
    let holds = order.lines.iter().any(|line| line.held > 0);
    assert_eq!(order.expires_at.is_some(), holds, "what holds units expires, and nothing else: {order:?}");
    std::iter::once(status.to_owned()).chain(order.lines.iter().map(line_text)).collect::<Vec<_>>().join(" ")
}

fn line_text(line: &LineView) -> String {
    let counts = [
        ("held", line.held),
        ("confirmed", line.confirmed),
        ("released", line.released),
        ("returned", line.returned),
    ];
    let counts = counts.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}"));
    let serials = line.serials.iter().flatten().map(|serials| format!("#{}-{}", serials.from, serials.to));
    let counts = counts.chain(serials).collect::<Vec<_>>().join(" ");
    format!("{}:{}[{counts}]", place_text(&line.sku_id, line.warehouse_id), line.quantity)
}

fn stock_text(stock: &StockView) -> String {
    let l = stock.levels;
    let suspended = if stock.status == StockStatus::Suspended { " suspended" } else { "" };
    let place = place_text(&stock.sku_id, stock.warehouse_id);
    let serialized = if stock.serialized { " serialized" } else { "" };
    format!("{place} {}/{}/{}{serialized}{suspended}", l.available, l.reserved, l.sold)
}

fn place_text(sku_id: &SkuId, warehouse_id: WarehouseId) -> String {
    match warehouse_id {
        WarehouseId(1) => sku_id.to_string(),
        WarehouseId::ANY => format!("{sku_id}@any"),
        WarehouseId(id) => format!("{sku_id}@{id}"),
    }
}

fn refusal_text(refusal: Refusal) -> String {
    let shorts = |name: &str, lines: &[ShortLine]| {
        let lines = lines.iter().map(|line| {
            let place = place_text(&line.sku_id, line.warehouse_id);
            format!(" {place} {} of {}", line.available, line.requested)
        });
        std::iter::once(name.to_owned()).chain(lines).collect::<String>()
    };
    match refusal {
        Refusal::InvalidField(problem) => format!("invalid_field {}", problem.field),
        Refusal::OrderMismatch { .. } => "order_mismatch".to_owned(),
        Refusal::RequestMismatch => "request_mismatch".to_owned(),
        Refusal::UnknownSku { sku_id, .. } => format!("unknown_sku {sku_id}"),
        Refusal::UnknownOrder { .. } => "unknown_order".to_owned(),
        Refusal::Overloaded => "overloaded".to_owned(),
        Refusal::InsufficientStock { lines } => shorts("insufficient_stock", &lines),
        Refusal::OrderCancelled { .. } => "order_cancelled".to_owned(),
        Refusal::AlreadyConfirmed { .. } => "already_confirmed".to_owned(),
        Refusal::OrderEnded { .. } => "order_ended".to_owned(),
        Refusal::ExceedsHold { lines } => shorts("exceeds_hold", &lines),
        Refusal::LatePaymentNoStock { lines } => shorts("late_payment_no_stock", &lines),
        Refusal::NothingToReturn { lines } => shorts("nothing_to_return", &lines),
        Refusal::SkuSuspended { sku_id, .. } => format!("sku_suspended {sku_id}"),
        Refusal::StockExists { initial, .. } => format!("stock_exists {initial}"),
        Refusal::OrderTooOld { .. } => "order_too_old".to_owned(),
        Refusal::TooManyRequests { .. } => "too_many_requests".to_owned(),
        other => format!("{other:?}"),
    }
}
