//! Several shops, and orders over them: the language of [`shop`](crate::shop), told to three shards and to a
//! coordinator that does at once what the running engine does over time.
//!
//! SKUs A to M lie in shop 0, the others in shop 1; the home of an order over both is shop 2, which has no stock.
//! Beside the words of a shop there are
//!
//! ```text
//! hold O1 A:1 N:1          -> held O1/A O1/N         the branches are reserved, then the coordinator is gone
//! deaf 1                   ->                        shop 1 gets no commands any more; `hears 1`: again
//! mute 1                   ->                        its answers are lost
//! carry                    -> O1                     who has something to tell does so
//! ask                      -> released O1/A          due branches ask their home
//! restart                  ->                        all of them, from their journals
//! ```

use std::collections::{BTreeMap, BTreeSet};

use hotstock_engine::checkpoint::LineSerials;
use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Action, Command, Confirm, Lines, Reserve};
use hotstock_engine::home::attempt::{Judged, branches_of, branches_of_late, judge_late, judge_reserve};
use hotstock_engine::home::{Asked, BranchCommand, Errand, HomeImage, HomeStep};
use hotstock_engine::ids::{AttemptId, OrderNo, SkuId};
use hotstock_engine::inner::{InnerAnswer, InnerCommand, InnerOutcome};
use hotstock_engine::outcome::{Answer, Refusal};

use crate::shop::{Shop, action_of, name_of, number, place_of, text_of};

/// The home of orders over several shops.
pub const HOME: usize = 2;

#[derive(Default)]
pub struct Mall {
    pub shops: [Shop; 3],
    /// Where each order is decided.
    directory: BTreeMap<OrderNo, usize>,
    deaf: BTreeSet<usize>,
    mute: BTreeSet<usize>,
    attempts: u64,
}

/// Tells a story to an empty mall.
#[track_caller]
pub fn mall(table: &str) -> Mall {
    let mut mall = Mall::default();
    mall.tell(table);
    mall.check();
    mall
}

impl Mall {
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
        let shop = || usize::try_from(number(words[1])).unwrap();
        match words[0] {
            "wait" | "restart" | "expire" | "forget" => {
                let told: Vec<_> = self.shops.iter_mut().map(|shop| shop.say(sent)).collect();
                let told: Vec<_> = told.into_iter().filter(|told| !told.is_empty()).collect();
                told.join(" ")
            }
            "levels" | "create" | "restock" | "deduct" | "suspend" | "resume" | "evict" | "pin" | "unpin"
            | "here" => {
                let place = self.place(&place_of(words[1]).0);
                self.shops[place].say(sent)
            }
            "deaf" => self.note(|mall| {
                mall.deaf.insert(shop());
            }),
            "mute" => self.note(|mall| {
                mall.mute.insert(shop());
            }),
            "hears" => self.note(|mall| {
                mall.deaf.remove(&shop());
                mall.mute.remove(&shop());
            }),
            "hold" => {
                let Action::Reserve(reserve) = action_of(&[&["reserve"], &words[1..]].concat()) else {
                    unreachable!()
                };
                let (_, commands, answers) = self.attempt(&reserve);
                assert!(answers.iter().all(Result::is_ok), "{answers:?}");
                let names = commands.iter().map(|c| name_of(c.command.order_no().unwrap()));
                format!("held {}", names.collect::<Vec<_>>().join(" "))
            }
            "carry" => self.carry_unsent(),
            "ask" => self.ask(),
            _ => {
                let outcome = self.send(action_of(&words));
                text_of(outcome)
            }
        }
    }

    fn note(&mut self, change: impl FnOnce(&mut Self)) -> String {
        change(self);
        String::new()
    }

    /// Where a SKU lies.
    fn place(&self, sku_id: &SkuId) -> usize {
        usize::from(*sku_id.as_str() > *"MZ")
    }

    fn now(&self) -> Timestamp {
        self.shops[HOME].clock
    }

    /// A command to a shop, over a line that may be broken.
    fn to(&mut self, shop: usize, command: impl Into<InnerCommand>) -> InnerOutcome {
        if self.deaf.contains(&shop) {
            return Err(Refusal::ShardRestarted);
        }
        let outcome = self.shops[shop].send(command);
        if self.mute.contains(&shop) { Err(Refusal::ShardRestarted) } else { outcome }
    }

    fn branch(&mut self, command: &BranchCommand) -> InnerOutcome {
        let shop = self.place(&command.sku_id);
        self.to(shop, command.command.clone())
    }

    fn step(&mut self, shop: usize, step: HomeStep) -> InnerOutcome {
        self.to(shop, step)
    }

    /// What a caller sends.
    pub fn send(&mut self, action: Action) -> InnerOutcome {
        let command = Command::from(action);
        let order_no = command.order_no().expect("the mall sells to orders alone").clone();
        let action = command.action;
        if let (None, Action::Reserve(reserve)) = (self.directory.get(&order_no), &action) {
            let shops: BTreeSet<_> =
                reserve.lines.as_slice().iter().map(|line| self.place(&line.sku_id)).collect();
            if let (1, Some(only)) = (shops.len(), shops.first()) {
                let outcome = self.to(*only, action);
                if outcome.is_ok() {
                    self.directory.insert(order_no, *only);
                }
                return outcome;
            }
            return self.reserve(reserve);
        }
        let home = self.directory.get(&order_no).copied().unwrap_or(HOME);
        let outcome = match self.to(home, action) {
            Ok(InnerAnswer::HoldFirst { confirm, lines }) => self.late(home, confirm, &lines),
            outcome => outcome,
        };
        if outcome.is_ok() {
            self.directory.insert(order_no.clone(), home);
        }
        self.answer(home, &order_no, outcome)
    }

    fn attempt(&mut self, reserve: &Reserve) -> (AttemptId, Vec<BranchCommand>, Vec<InnerOutcome>) {
        self.attempts += 1;
        let attempt = AttemptId(self.attempts);
        let commands = branches_of(reserve, attempt);
        let answers = commands.iter().map(|command| self.branch(command)).collect();
        (attempt, commands, answers)
    }

    fn reserve(&mut self, reserve: &Reserve) -> InnerOutcome {
        let (attempt, _, answers) = self.attempt(reserve);
        match judge_reserve(reserve, attempt, &answers) {
            Judged::Held(lines) => {
                self.directory.insert(reserve.order_no.clone(), HOME);
                let (reserve, order_no) = (reserve.clone(), reserve.order_no.clone());
                let outcome = self.step(HOME, HomeStep::Reserve { reserve, attempt, lines });
                self.answer(HOME, &order_no, outcome)
            }
            Judged::Refused { refusal, releases } => {
                releases.iter().for_each(|release| drop(self.branch(release)));
                Err(refusal)
            }
        }
    }

    fn late(&mut self, home: usize, confirm: Confirm, lines: &Lines) -> InnerOutcome {
        self.attempts += 1;
        let attempt = AttemptId(self.attempts);
        let commands = branches_of_late(&confirm.order_no, lines, attempt);
        let answers: Vec<_> = commands.iter().map(|command| self.branch(command)).collect();
        match judge_late(&confirm.order_no, lines, attempt, &answers) {
            Judged::Held(_) => self.step(home, HomeStep::Late { confirm, attempt, lines: lines.clone() }),
            Judged::Refused { refusal, releases } => {
                releases.iter().for_each(|release| drop(self.branch(release)));
                Err(refusal)
            }
        }
    }

    /// Tells the branches what was decided, and the caller how the order is then.
    fn answer(&mut self, home: usize, order_no: &OrderNo, outcome: InnerOutcome) -> InnerOutcome {
        let Ok(InnerAnswer::Decided { effect, errands, order }) = outcome else { return outcome };
        self.carry(home, order_no, &errands);
        let order = self.shops[home].state.order(order_no).map_or(order, |(_, order)| order);
        Ok(Answer::Order { order, effect }.into())
    }

    /// Tells as much as can be told.
    fn carry(&mut self, home: usize, order_no: &OrderNo, errands: &[Errand]) {
        let mut serials = Vec::new();
        for errand in errands {
            // Each of them, whatever became of the one before; and twice, because messages may be repeated.
            let answers: Vec<_> = errand.commands.iter().map(|command| self.branch(command)).collect();
            if answers.iter().any(|answer| *answer == Err(Refusal::ShardRestarted)) {
                return;
            }
            errand.commands.iter().for_each(|command| drop(self.branch(command)));
            let home_image = self.shops[home].state.image_of_home(order_no).unwrap();
            for answer in answers {
                let Ok(InnerAnswer::Public(Answer::Order { order, .. })) = answer else {
                    panic!("a branch refused: {answer:?}")
                };
                for line in &order.lines {
                    let index = (0..).zip(&home_image.order.lines);
                    let mut index =
                        index.filter(|(_, l)| l.sku_id == line.sku_id && l.warehouse_id == line.warehouse_id);
                    let (index, _) = index.next().unwrap();
                    let given = line.serials.iter().flat_map(|given| given.iter());
                    serials.extend(given.map(|serials| LineSerials { line: index, serials: *serials }));
                }
            }
            let (order_no, serials) = (order_no.clone(), std::mem::take(&mut serials));
            let told = HomeStep::Carried { order_no, through: errand.number, serials };
            self.step(home, told.clone()).unwrap();
            let lsn = self.shops[home].state.applied();
            self.step(home, told).unwrap();
            assert_eq!(self.shops[home].state.applied(), lsn, "it is logged once");
        }
    }

    fn carry_unsent(&mut self) -> String {
        let (mut names, now) = (Vec::new(), self.now());
        for home in 0..self.shops.len() {
            for order_no in self.shops[home].state.take_unsent(now, usize::MAX) {
                names.push(order_no.to_string());
                let pending = self.step(home, HomeStep::Pending(order_no.clone()));
                let Ok(InnerAnswer::Decided { errands, .. }) = pending else { continue };
                self.carry(home, &order_no, &errands);
            }
        }
        names.join(" ")
    }

    fn ask(&mut self) -> String {
        let now = self.now();
        let mut released = Vec::new();
        for shop in 0..self.shops.len() {
            for number in self.shops[shop].state.take_due_branches(now, usize::MAX) {
                let branch = number.branch().expect("only branches ask");
                let asked = Asked { order_no: branch.order_no.clone(), attempt: branch.attempt };
                let home = self.directory.get(&branch.order_no).copied().unwrap_or(HOME);
                match self.step(home, HomeStep::Ask(asked)) {
                    Ok(_) => {}
                    Err(Refusal::UnknownOrder { .. }) => {
                        let release = Action::Release(hotstock_engine::command::Release {
                            order_no: number.clone(),
                            part: None,
                            reason: None,
                        });
                        self.to(shop, release).unwrap();
                        released.push(name_of(&number));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        if released.is_empty() { String::new() } else { format!("released {}", released.join(" ")) }
    }

    /// Every shop is sound and comes back the same; each order has its units where it says, once its branches were
    /// told.
    #[track_caller]
    pub fn check(&self) {
        self.shops.iter().for_each(Shop::check);
        for shop in &self.shops {
            let homes: Vec<_> =
                shop.state.order_numbers().filter_map(|o| shop.state.image_of_home(o)).collect();
            homes.iter().filter(|home| home.pending.is_empty()).for_each(|home| self.check_branches(home));
        }
    }

    #[track_caller]
    fn check_branches(&self, home: &HomeImage) {
        for share in &home.shares {
            let line = &home.order.lines[usize::from(share.line)];
            let (order_no, sku_id) = (home.order.order_no.clone(), line.sku_id.clone());
            let number = hotstock_engine::ids::Branch { order_no, sku_id, attempt: share.attempt }.number();
            // One that left memory is in the store; what holds units does not leave.
            let shop = &self.shops[self.place(&line.sku_id)];
            let stored = || shop.rows.orders.get(&number).cloned();
            let Some(branch) = shop.state.image_of_order(&number).or_else(stored) else {
                assert_eq!(share.held, 0, "what holds units is remembered: {share:?}");
                continue;
            };
            let of_branch = branch.lines.iter().find(|l| l.warehouse_id == line.warehouse_id).unwrap();
            let counts = (of_branch.held, of_branch.confirmed, of_branch.released, of_branch.returned);
            assert_eq!(
                counts,
                (share.held, share.confirmed, share.released, share.returned),
                "{share:?} {branch:?}"
            );
        }
    }
}
