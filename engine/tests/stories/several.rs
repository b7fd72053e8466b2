//! Several shards, and orders over them: the language of [`shop`](crate::shop), told to three shards that send each
//! other messages ([`PureShards`]).
//!
//! SKUs A to M lie in shard 0, N to Y in shard 1, Z in shard 2. A command is answered before the next row; what else is
//! on its way is delivered too. Beside the words of a shop there are
//!
//! ```text
//! deaf 1                   ->                  shard 1 gets nothing any more; `hears 1`: again
//! mute 1                   ->                  what it sends stays on its way
//! start confirm O1         ->                  is sent, and nothing is delivered
//! deliver hold             ->                  the first message of that kind is delivered, and no other
//! twice done               ->                  it will come twice
//! on its way               -> held             what is on its way
//! answers                  -> replayed …       of those that were started; `…` for one that was not answered
//! rebuild 0 held           ->                  shard 0 fails over that message; without one: between two messages
//! crash                    ->                  all of them begin anew; what was on its way is lost. `restart`:
//!                                              likewise, and all is delivered
//! linger 1000              ->                  time goes by for what is under way, not for orders
//! logged                   -> 0 Held           what was logged since this was asked last, and where
//! settle                   ->                  everything is delivered and waited for
//! checkpoint               ->                  of all shards
//! ```

use std::collections::{BTreeMap, BTreeSet};

use hotstock_engine::event::Event;
use hotstock_engine::ids::{OrderNo, ShardId, SkuId, shard_of};
use hotstock_engine::inner::InnerCommand;
use hotstock_engine::outcome::Outcome;
use hotstock_engine::testing::{Fate, PureShards, Ticket};

use crate::shop::{action_of, number, place_of, text_of};
use crate::stores::Stores;

const SHARDS: u16 = 3;

pub struct Several {
    pub shards: PureShards<Stores>,
    deaf: BTreeSet<ShardId>,
    mute: BTreeSet<ShardId>,
    started: Vec<Ticket>,
    /// Events that were told of.
    told: Vec<usize>,
    /// SKUs by the letters of the stories.
    names: BTreeMap<String, String>,
}

impl Default for Several {
    fn default() -> Self {
        let names = ('A'..='Z').map(|name| (name.to_string(), sku_named(name)));
        let shards = PureShards::with_store(SHARDS, Stores::new(SHARDS));
        let (deaf, mute, started) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        Self { shards, deaf, mute, started, told: vec![0; SHARDS.into()], names: names.collect() }
    }
}

/// A SKU that lies where the letter says.
fn sku_named(name: char) -> String {
    let shard = match name {
        'A'..='M' => ShardId(0),
        'N'..='Y' => ShardId(1),
        _ => ShardId(2),
    };
    let named = |n: u32| format!("{name}-{n}");
    let there = |sku: &String| shard_of(&SkuId::new(sku).unwrap(), SHARDS) == shard;
    (0..).map(named).find(there).unwrap()
}

/// Tells a story to shards that have nothing.
#[track_caller]
pub fn several(table: &str) -> Several {
    let mut several = Several::default();
    several.tell(table);
    several.check();
    several
}

impl Several {
    #[track_caller]
    pub fn tell(&mut self, table: &str) {
        for row in table.lines().map(str::trim).filter(|row| !row.is_empty()) {
            let (sent, expected) = row.split_once("->").expect("a row is `sent -> answered`");
            let got = self.say(sent.trim());
            assert_eq!(got, expected.trim(), "(answered left, expected right) in the row: {row}");
            self.shards.audit();
        }
    }

    /// Every invariant, when everything was delivered.
    #[track_caller]
    pub fn check(&mut self) {
        self.deaf.clear();
        self.mute.clear();
        self.shards.settle();
        self.shards.check();
    }

    /// Carries out one row and gives the answer as text.
    pub fn say(&mut self, sent: &str) -> String {
        let sent = self.named(sent);
        let told = self.carry_out(&sent);
        self.letters(told)
    }

    fn named(&self, sent: &str) -> String {
        let name = |word: &str| {
            let end = word.find(['@', ':']).unwrap_or(word.len());
            match self.names.get(&word[..end]) {
                Some(name) => format!("{name}{}", &word[end..]),
                None => word.to_owned(),
            }
        };
        sent.split_whitespace().map(name).collect::<Vec<_>>().join(" ")
    }

    fn letters(&self, told: String) -> String {
        self.names.iter().fold(told, |told, (letter, name)| told.replace(name, letter))
    }

    fn carry_out(&mut self, sent: &str) -> String {
        let words: Vec<_> = sent.split_whitespace().collect();
        let shard = || ShardId(words[1].parse().expect("a shard"));
        let sku_id = || place_of(words[1]).0;
        match words[0] {
            "wait" => self.shards.time = self.shards.time.plus_millis(number(words[1])),
            "linger" => {
                self.shards.linger(number(words[1]));
                self.deliver();
            }
            "expire" => {
                let mut expired: Vec<_> = self.shards.expire().iter().map(ToString::to_string).collect();
                expired.sort();
                self.deliver();
                return expired.join(" ");
            }
            "forget" => {
                let (window, max) = (number(words[1]), usize::try_from(number(words[2])).unwrap());
                self.shards.store.left.clear();
                self.shards.forget(self.shards.time.minus_millis(window), max);
                let mut left = std::mem::take(&mut self.shards.store.left);
                left.retain(|name| !name.contains('.'));
                left.sort();
                return left.join(" ");
            }
            "evict" => {
                self.shards.store.left.clear();
                if !self.shards.evict(&sku_id()) {
                    return "stays".to_owned();
                }
                let mut left = std::mem::take(&mut self.shards.store.left);
                left.sort();
                return std::iter::once("left".to_owned()).chain(left).collect::<Vec<_>>().join(" ");
            }
            "here" => {
                let shard = shard_of(&sku_id(), SHARDS);
                return self.shards.state(shard).is_resident(&sku_id()).to_string();
            }
            "levels" => return self.levels(words[1]),
            "deaf" => drop(self.deaf.insert(shard())),
            "mute" => drop(self.mute.insert(shard())),
            "hears" => {
                self.deaf.remove(&shard());
                self.mute.remove(&shard());
                self.deliver();
            }
            "start" => {
                let ticket = self.shards.send(action_of(&words[1..]));
                self.started.push(ticket);
            }
            "start_expire" => {
                let command = InnerCommand::Expire(OrderNo::new(words[1]).unwrap());
                let ticket = self.shards.send(command);
                self.started.push(ticket);
            }
            "deliver" => match self.index_of(words[1]) {
                Some(index) => self.shards.deliver(index),
                None => return "nothing".to_owned(),
            },
            "twice" => {
                let index = self.index_of(words[1]).expect("it is on its way");
                self.shards.duplicate(index);
            }
            "on" => {
                return self.shards.mail().iter().map(|letter| letter.step()).collect::<Vec<_>>().join(" ");
            }
            "answers" => {
                let started = std::mem::take(&mut self.started);
                let told = started.iter().map(|ticket| match self.shards.fate(*ticket) {
                    Fate::Waiting => "…".to_owned(),
                    Fate::Answered(outcome) => text_of(outcome.clone()),
                    Fate::Lost => "lost".to_owned(),
                });
                return told.collect::<Vec<_>>().join(" | ");
            }
            "rebuild" => {
                let lost = words.get(2).and_then(|step| self.index_of(step));
                self.shards.rebuild(shard(), lost.into_iter().collect());
            }
            "crash" => self.shards.restart(),
            "restart" => {
                self.shards.restart();
                self.shards.linger(1);
                self.deliver();
            }
            "logged" => return self.logged(),
            "settle" => self.shards.settle(),
            "checkpoint" => {
                for shard in self.shards.ids() {
                    while !self.shards.checkpoint(shard, 1_000) {}
                }
            }
            _ => return text_of(self.send(action_of(&words))),
        }
        String::new()
    }

    /// Sends a command and lets time go by until it is answered.
    pub fn send(&mut self, command: impl Into<InnerCommand>) -> Outcome {
        let ticket = self.shards.send(command);
        for _ in 0..100 {
            self.deliver();
            match self.shards.fate(ticket) {
                Fate::Waiting => self.shards.linger(500),
                Fate::Answered(outcome) => return outcome.clone(),
                Fate::Lost => panic!("the shard failed"),
            }
        }
        panic!("it is never answered");
    }

    /// Delivers everything that can be.
    fn deliver(&mut self) {
        let (deaf, mute) = (self.deaf.clone(), self.mute.clone());
        let goes = |to: &ShardId, from: Option<ShardId>| {
            !deaf.contains(to) && !from.is_some_and(|from| mute.contains(&from))
        };
        while let Some(index) = self.shards.mail().iter().position(|letter| goes(&letter.to, letter.from)) {
            self.shards.deliver(index);
        }
    }

    fn index_of(&self, step: &str) -> Option<usize> {
        self.shards.mail().iter().position(|letter| letter.step() == step)
    }

    fn levels(&self, place: &str) -> String {
        let (sku_id, warehouse_id) = place_of(place);
        let shard = shard_of(&sku_id, SHARDS);
        let stock = self.shards.state(shard).image_of_stock(&sku_id, warehouse_id);
        let stored =
            || self.shards.store.rows[shard.index()].stocks.get(&sku_id)?.get(&warehouse_id).cloned();
        let levels = stock.or_else(stored).map(|stock| stock.levels);
        levels.map_or("none".to_owned(), |l| format!("{}/{}/{}", l.available, l.reserved, l.sold))
    }

    fn logged(&mut self) -> String {
        let mut told = Vec::new();
        for shard in self.shards.ids() {
            let log = self.shards.log(shard);
            let from = std::mem::replace(&mut self.told[shard.index()], log.len()).min(log.len());
            let name = |event: &Event| {
                let text = format!("{:?}", event.change);
                text.split([' ', '{']).next().unwrap_or_default().to_owned()
            };
            let names: Vec<_> = log[from..].iter().map(name).collect();
            if !names.is_empty() {
                told.push(format!("{shard} {}", names.join(" ")));
            }
        }
        told.join(", ")
    }
}
