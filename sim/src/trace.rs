//! A hash over everything that a run did: two runs of one seed have the same.

use std::fmt::Write as _;
use std::hash::Hasher as _;

use xxhash_rust::xxh3::Xxh3;

pub struct Trace {
    hash: Xxh3,
    line: String,
    show: bool,
}

impl Trace {
    pub fn new(show: bool) -> Self {
        Self { hash: Xxh3::new(), line: String::new(), show }
    }

    pub fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.line.clear();
        let _ = self.line.write_fmt(what);
        self.hash.write(self.line.as_bytes());
        if self.show {
            eprintln!("{}", self.line);
        }
    }

    pub fn finish(&self) -> u64 {
        self.hash.finish()
    }
}
