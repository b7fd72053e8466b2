//! Random requests in the language of the tables: few SKUs and few orders, so that they meet.

use fastrand::Rng;

pub const SKUS: [&str; 3] = ["A", "B", "C"];

/// Makes requests; knows which orders and ids were used, so that most requests mean something.
pub struct Requests {
    rng: Rng,
    orders: Vec<(String, String)>,
    made: usize,
    first: Vec<String>,
}

impl Requests {
    pub fn new(seed: u64) -> Self {
        let first =
            ["create A 20 serialized", "create A@2 5 serialized", "create B 9", "create C 3 serialized"];
        let first = first.iter().rev().map(|row| (*row).to_owned()).collect();
        Self { rng: Rng::with_seed(seed), orders: Vec::new(), made: 0, first }
    }

    pub fn next(&mut self) -> String {
        if let Some(row) = self.first.pop() {
            return row;
        }
        match self.rng.u32(0..100) {
            0..35 => self.reserve(),
            35..50 => self.about_order("confirm"),
            50..62 => self.about_order("release"),
            62..72 => self.about_order("return"),
            72..76 => format!("get {}", self.order()),
            76..80 => format!("extend {} {}", self.order(), self.rng.u32(600..900)),
            80..92 => self.change(),
            92..96 => format!("{} {}", ["suspend", "resume", "resume"][self.rng.usize(0..3)], self.place()),
            96..98 => {
                let serialized = [" serialized", ""][self.rng.usize(0..2)];
                format!("create {} {}{serialized}", self.place(), [20, 5, 9, 3][self.rng.usize(0..4)])
            }
            _ => format!("stock {}", SKUS[self.rng.usize(0..3)]),
        }
    }

    /// A reserve that was answered is repeated sometimes.
    pub fn learn(&mut self, sent: &str, answer: &str) {
        if let Some(order) = sent.strip_prefix("reserve ").and_then(|rest| rest.split(' ').next())
            && answer.starts_with("201")
        {
            self.orders.push((order.to_owned(), sent.to_owned()));
        }
    }

    fn place(&mut self) -> &'static str {
        ["A", "A", "A@2", "B", "C", "Z"][self.rng.usize(0..6)]
    }

    fn unknown(&mut self) -> String {
        self.made += 1;
        format!("N{}", self.made)
    }

    fn order(&mut self) -> String {
        if self.orders.is_empty() || self.rng.u8(0..12) == 0 {
            return self.unknown();
        }
        let recent = self.orders.len().saturating_sub(8);
        self.orders[self.rng.usize(recent..self.orders.len())].0.clone()
    }

    fn lines(&mut self) -> String {
        let mut lines = String::new();
        for _ in 0..self.rng.usize(1..4) {
            lines +=
                &format!(" {}:{}", ["A", "A", "A@2", "B", "C"][self.rng.usize(0..5)], self.rng.u32(1..5));
        }
        lines
    }

    fn reserve(&mut self) -> String {
        if !self.orders.is_empty() && self.rng.u8(0..5) == 0 {
            let again = self.rng.usize(0..self.orders.len());
            return self.orders[again].1.clone();
        }
        self.made += 1;
        if !self.orders.is_empty() && self.rng.u8(0..12) == 0 {
            // A known number with more of the same, or for other goods: a mismatch, wherever the first order lies by
            // now.
            let known = self.rng.usize(0..self.orders.len());
            let (head, tail) = self.orders[known].1.split_once(" ttl=").unwrap_or_default();
            if self.rng.bool() {
                return format!("{head}9 ttl={tail}");
            }
            let order = self.orders[known].0.clone();
            return format!("reserve {order} {}:7 ttl=3600", ["A", "A@2", "B", "C"][self.rng.usize(0..4)]);
        }
        let order = if self.rng.u8(0..12) == 0 { self.unknown() } else { format!("O{}", self.made) };
        let best = if self.rng.u8(0..4) == 0 { " best_effort" } else { "" };
        let buyer = if self.rng.bool() { " buyer=u" } else { "" };
        format!("reserve {order}{} ttl=3600{buyer}{best}", self.lines())
    }

    fn about_order(&mut self, what: &str) -> String {
        let order = self.order();
        let part = if self.rng.bool() { self.lines() } else { String::new() };
        // A return without an id is no request; a part may have one.
        let id = if what == "return" || self.rng.bool() && !part.is_empty() {
            format!(" id=R{}", self.rng.u32(0..40))
        } else {
            String::new()
        };
        format!("{what} {order}{part}{id}")
    }

    fn change(&mut self) -> String {
        let kind = ["restock", "restock", "deduct", "adjust"][self.rng.usize(0..4)];
        let quantity = match (kind, self.rng.u32(1..6)) {
            ("adjust", n) if self.rng.bool() => -i64::from(n),
            (_, n) => i64::from(n),
        };
        format!("{kind} {} {quantity} id=S{}", self.place(), self.rng.u32(0..60))
    }
}
