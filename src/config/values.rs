//! Values of the configuration that are more than numbers and text: what must not be printed, and what has a form of
//! its own.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A URL that may hold a password. Prints itself without it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The whole text, for the one who connects with it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// For values that the command line brings.
impl From<String> for Secret {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", redacted(&self.0))
    }
}

/// A URL without what may be secret in it: `mysql://user:***@host/db?***`. Whatever has no host that can be told apart
/// is left out whole.
#[must_use]
pub fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return if url.is_empty() { String::new() } else { "***".to_owned() };
    };
    let (rest, parameters) = match rest.split_once(['?', '#']) {
        Some((rest, _)) => (rest, "?***"),
        None => (rest, ""),
    };
    // The last @ ends user and password, wherever someone forgot to encode one in them.
    let (who, place) = match rest.rsplit_once('@') {
        Some((who, place)) => (Some(who), place),
        None => (None, rest),
    };
    let who = who.map_or(String::new(), |who| match who.split_once(':') {
        Some((user, _)) => format!("{user}:***@"),
        None => format!("{who}@"),
    });
    format!("{scheme}://{who}{place}{parameters}")
}

/// The SHA-256 of the operators' token, in hex; empty for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenHash(pub Option<[u8; 32]>);

impl TryFrom<String> for TokenHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        /// The text itself is not in it: someone may have put the token there by mistake.
        const FORM: &str =
            "must be empty or 64 hex digits, the SHA-256 of the token (`hotstock token` prints it)";
        if text.is_empty() {
            return Ok(Self(None));
        }
        let digits: Vec<u8> = text.chars().map_while(|c| c.to_digit(16)?.try_into().ok()).collect();
        if text.len() != 64 || digits.len() != 64 {
            return Err(FORM);
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(Self(Some(hash)))
    }
}

impl From<TokenHash> for String {
    fn from(hash: TokenHash) -> Self {
        hash.0.map_or(Self::new(), |hash| hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_printed_without_its_password() {
        for (url, printed) in [
            ("mysql://root:s3cr:et@db:3306/shop?ssl-key=x", "mysql://root:***@db:3306/shop?***"),
            ("mysql://root:s3/cr@et@db/shop", "mysql://root:***@db/shop"),
            ("redis://:s3cret@host", "redis://:***@host"),
            ("mysql://root@db/shop", "mysql://root@db/shop"),
            ("sqlite:///var/lib/x.db", "sqlite:///var/lib/x.db"),
            ("s3cret", "***"),
            ("", ""),
        ] {
            let secret = Secret(url.to_owned());
            assert_eq!(secret.to_string(), printed);
            assert_eq!(format!("{secret:?}"), format!("{printed:?}"));
        }
    }

    #[test]
    fn a_hash_has_64_digits() {
        let hash = TokenHash::try_from("0F".repeat(32)).unwrap();
        assert_eq!(hash.0, Some([15; 32]));
        assert_eq!(String::from(hash), "0f".repeat(32));
        assert_eq!(TokenHash::try_from(String::new()), Ok(TokenHash(None)));
        for bad in ["0f", &"0f".repeat(33), &"0g".repeat(32), &"é".repeat(32)] {
            assert!(TokenHash::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
