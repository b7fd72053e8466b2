//! Who may ask what operators ask: whoever has the token, or, while none is set, whoever is on this machine.

use std::net::SocketAddr;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::codes::Code;
use crate::limits::Options;
use crate::problem::Problem;

/// What every path of the operators begins with.
pub const ADMIN_PREFIX: &str = "/v1/admin/";

/// The path that asks for an operator when its body does: a stock that is created hot.
pub const CREATE_STOCK_PATH: &str = "/v1/stock";

/// Whether who asks may matter for a path.
#[must_use]
pub fn may_ask_for_operator(path: &str) -> bool {
    path.starts_with(ADMIN_PREFIX) || path == CREATE_STOCK_PATH
}

/// The other end of the connection, put into the requests that need it.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// The SHA-256 of a token: what is kept of it.
#[must_use]
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Checks a request of an operator. With a token set only the token counts, wherever the request comes from; without
/// one only the peer's address does, if at all. A peer that is not known is not on this machine.
///
/// # Errors
/// `unauthorized` and `forbidden`.
pub fn check(options: &Options, headers: &HeaderMap, peer: Option<Peer>) -> Result<(), Problem> {
    let Some(expected) = &options.admin_token_sha256 else {
        // An IPv4 caller of an IPv6 socket has a mapped address.
        let local = peer.is_some_and(|Peer(address)| address.ip().to_canonical().is_loopback());
        return match (local, options.admin_from_loopback) {
            (true, true) => Ok(()),
            (false, true) => Err(Problem::new(
                Code::Forbidden,
                "no token is set (admin.token_sha256), so this is taken from the server's own machine only",
            )),
            (_, false) => Err(Problem::new(
                Code::Forbidden,
                "no token is set (admin.token_sha256) and admin.from_loopback is false: this is taken from nobody",
            )),
        };
    };
    let Some(token) = bearer(headers) else {
        return Err(Problem::new(Code::Unauthorized, "there is no header `Authorization: Bearer …`"));
    };
    if bool::from(hash(token).ct_eq(expected)) {
        Ok(())
    } else {
        Err(Problem::new(Code::Unauthorized, "this is not the token"))
    }
}

/// The one token of the headers. The scheme's case does not matter (RFC 9110).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (Some(one), None) = (all.next(), all.next()) else { return None };
    let (scheme, token) = one.to_str().ok()?.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn code(token: Option<&str>, headers: &[&str], peer: Option<&str>) -> Option<Code> {
        let options = Options { admin_token_sha256: token.map(hash), ..Options::default() };
        let headers =
            headers.iter().map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect();
        let peer = peer.map(|peer| Peer(peer.parse().unwrap()));
        check(&options, &headers, peer).err().map(|problem| problem.code)
    }

    #[test]
    fn with_a_token_only_the_token_counts() {
        let local = Some("127.0.0.1:5");
        for good in ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret "] {
            assert_eq!(code(Some("s3cret"), &[good], Some("10.0.0.1:5")), None, "{good}");
        }
        for bad in [&["Bearer other"][..], &["Bearer "], &["Bearer"], &["Basic s3cret"], &["s3cret"], &[]] {
            assert_eq!(code(Some("s3cret"), bad, local), Some(Code::Unauthorized), "{bad:?}");
        }
        let twice = ["Bearer s3cret", "Bearer s3cret"];
        assert_eq!(code(Some("s3cret"), &twice, local), Some(Code::Unauthorized));
    }

    #[test]
    fn without_a_token_only_this_machine_is_heard() {
        for local in ["127.0.0.1:5", "127.8.8.8:5", "[::1]:5", "[::ffff:127.0.0.1]:5"] {
            assert_eq!(code(None, &[], Some(local)), None, "{local}");
        }
        for far in ["10.0.0.1:5", "[2001:db8::1]:5", "[::ffff:10.0.0.1]:5", "0.0.0.0:5"] {
            assert_eq!(code(None, &["Bearer x"], Some(far)), Some(Code::Forbidden), "{far}");
        }
        assert_eq!(code(None, &[], None), Some(Code::Forbidden));
    }

    /// The value that `printf abc | sha256sum` prints: what an operator may compute by other means.
    #[test]
    fn the_hash_is_sha_256() {
        assert_eq!(hash("abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
    }
}
