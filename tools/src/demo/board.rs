//! The demo's board: one line each half second. On a terminal it is rewritten in place.

use std::io::{IsTerminal, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::buyers::Seen;
use crate::terminal::{grouped, say};
use crate::wire::Levels;

/// Characters of the bar that burns down.
const BAR: u64 = 24;

/// What the board has to know to show its next line.
pub struct Board {
    on_sale: u64,
    began: Instant,
    last_line: Instant,
    last_answers: u64,
    terminal: bool,
    /// A line stands on the terminal that the next one may overwrite.
    line_open: bool,
}

impl Board {
    /// A board for a sale of so many units; its clock starts now.
    pub fn new(on_sale: u64) -> Self {
        let now = Instant::now();
        let terminal = std::io::stdout().is_terminal();
        say(format_args!(
            "  {:>7}  {:24}  {:>9} {:>7} {:>9}  {:>9}  {:>9}",
            "", "", "available", "held", "sold", "answers/s", "p99"
        ));
        Self { on_sale, began: now, last_line: now, last_answers: 0, terminal, line_open: false }
    }

    /// Units that went on sale.
    pub fn on_sale(&self) -> u64 {
        self.on_sale
    }

    /// Shows how it stands.
    pub fn line(&mut self, levels: Levels, seen: &Seen, p99: Duration) {
        let answers = seen.answers.load(Relaxed);
        let seconds = self.last_line.elapsed().as_secs_f64().max(0.001);
        // A count of answers in half a second is far below 2^52.
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let rate = format!("{:.0}", (answers - self.last_answers) as f64 / seconds);
        (self.last_line, self.last_answers) = (Instant::now(), answers);
        let left = u64::try_from(levels.available + levels.reserved).unwrap_or(0);
        let full = usize::try_from((left * BAR).div_ceil(self.on_sale.max(1))).unwrap_or(0);
        let bar = "█".repeat(full) + &"·".repeat(usize::try_from(BAR).unwrap_or(0).saturating_sub(full));
        let number = |n: i64| grouped(u64::try_from(n).unwrap_or(0));
        self.show(&format!(
            "{:>5.1} s  {bar}  {:>9} {:>7} {:>9}  {:>9}  {:>6.1} ms",
            self.began.elapsed().as_secs_f64(),
            number(levels.available),
            number(levels.reserved),
            number(levels.sold),
            grouped(rate.parse().unwrap_or(0)),
            p99.as_secs_f64() * 1_000.0,
        ));
    }

    /// Tells of something that happened; it stays on the screen.
    pub fn say(&mut self, what: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        let before = if std::mem::take(&mut self.line_open) { "\n" } else { "" };
        print_flushed(&format!("{before}  {seconds:>5.1} s  *** {what}\n"));
    }

    /// The last word of the sale.
    pub fn sold_out(&mut self, seen: &Seen) {
        self.say("sold out");
        let count = |counter: &std::sync::atomic::AtomicU64| grouped(counter.load(Relaxed));
        say(format_args!(
            "\n  {} answers; {} buyers gave back, {} walked away, {} were refunded, {} found nothing left; {} \
             requests of unknown outcome were repeated",
            count(&seen.answers),
            count(&seen.released),
            count(&seen.walked_away),
            count(&seen.refunded),
            count(&seen.refused),
            count(&seen.unknown),
        ));
    }

    fn show(&mut self, line: &str) {
        self.line_open = self.terminal;
        match self.terminal {
            // Back to the first column, and the rest of the old line away.
            true => print_flushed(&format!("\r\x1b[K  {line}")),
            false => print_flushed(&format!("  {line}\n")),
        }
    }
}

/// A reader who went away is no reason to stop.
fn print_flushed(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
