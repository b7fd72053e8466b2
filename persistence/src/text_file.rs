//! The small text files of a data directory: a title, named values, a check sum. People read them; only the program
//! writes them.
//!
//! ```text
//!   # hotstock data directory. …
//!   shards = 8
//!   check = 1b2c3d4e
//! ```

/// The first line of every such file. That of the programs before format 1 began otherwise ([`EARLIER_TITLE`]).
const TITLE: &str = "# hotstock data directory. Do not edit: which server may sell what depends on it.";

/// How the files of earlier programs began, whose formats are not read.
const EARLIER_TITLE: &str = "hotstock data directory.";

/// Whether an earlier program wrote the file.
pub(crate) fn is_of_an_earlier_program(content: &[u8]) -> bool {
    content.starts_with(EARLIER_TITLE.as_bytes())
}

/// The content of a file with these values. No value holds a line break.
pub(crate) fn print(values: &[(&str, &str)]) -> Vec<u8> {
    let lines: String = values.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
    let text = format!("{TITLE}\n{lines}");
    let check = crc32fast::hash(text.as_bytes());
    format!("{text}check = {check:08x}\n").into_bytes()
}

/// The value of this name, whether or not the file is intact.
pub(crate) fn value<'a>(content: &'a [u8], name: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(content).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))
}

/// The values of these names, if the file is what [`print`] makes of them.
pub(crate) fn parse<'a, const N: usize>(content: &'a [u8], names: [&str; N]) -> Option<[&'a str; N]> {
    let mut values = [""; N];
    for (found, name) in values.iter_mut().zip(names) {
        *found = value(content, name)?;
    }
    let named: Vec<(&str, &str)> = names.into_iter().zip(values).collect();
    (print(&named) == content).then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_printed_is_parsed() {
        let content = print(&[("a", "1"), ("b", "two = 2")]);
        assert_eq!(parse(&content, ["a", "b"]), Some(["1", "two = 2"]));
        assert_eq!(parse(&content, ["b", "a"]), None);
        assert_eq!(parse(&content, ["a"]), None);
        for at in 0..content.len() {
            let mut changed = content.clone();
            changed[at] ^= 1;
            assert_eq!(parse(&changed, ["a", "b"]), None, "byte {at}");
            assert_eq!(parse(&content[..at], ["a", "b"]), None, "{at} bytes");
        }
        assert!(!is_of_an_earlier_program(&content));
        assert!(is_of_an_earlier_program(b"hotstock data directory. Do not edit: the shards"));
    }
}
