//! What is printed for people.

use std::fmt::Display;
use std::io::Write;

/// Prints a line on stdout. A reader who went away (`… | head`) is no reason to stop before the exit code is known.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A number with commas between its thousands.
#[must_use]
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_parted() {
        let of = [0, 7, 999, 1_000, 12_345, 1_234_567].map(grouped);
        assert_eq!(of, ["0", "7", "999", "1,000", "12,345", "1,234,567"]);
    }
}
