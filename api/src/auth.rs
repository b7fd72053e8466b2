//! Who may ask what operators ask: whoever has the token, or, while none is set, whoever is on this machine. A web page
//! in a browser on this machine is not: whoever wrote it is elsewhere.

use std::net::{IpAddr, SocketAddr};

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName};
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
/// one only the peer's address does, if at all, and nothing may look like a web page's request. A peer that is not
/// known is not on this machine.
///
/// # Errors
/// `unauthorized` and `forbidden`.
pub fn check(options: &Options, headers: &HeaderMap, peer: Option<Peer>) -> Result<(), Problem> {
    let Some(expected) = &options.admin_token_sha256 else {
        // An IPv4 caller of an IPv6 socket has a mapped address.
        let local = peer.is_some_and(|Peer(address)| address.ip().to_canonical().is_loopback());
        return match (local, options.admin_from_loopback) {
            (true, true) => match of_a_web_page(headers) {
                None => Ok(()),
                Some(problem) => Err(Problem::new(
                    Code::Forbidden,
                    format!(
                        "a web page may have sent this: {problem}; without a token (admin.token_sha256) this is taken from \
                         programs on the server's own machine only"
                    ),
                )),
            },
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

/// Why a browser may have sent this for a page of somebody else: by another name of this machine (DNS rebinding), from
/// another origin, or as a form, which needs no leave of ours. See the Fetch standard on "simple" requests.
fn of_a_web_page(headers: &HeaderMap) -> Option<&'static str> {
    let one = |name: HeaderName| {
        let mut all = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("?"));
        (all.next(), all.next().is_some())
    };
    let (host, twice) = one(HOST);
    if twice || !host.is_some_and(is_here) {
        return Some("its `Host` is not localhost or a loopback address");
    }
    let is_own = |origin: &str| origin.strip_prefix("http://") == host;
    if let (Some(origin), twice) = one(ORIGIN)
        && (twice || !is_own(origin))
    {
        return Some("its `Origin` is another");
    }
    if let (Some(site), twice) = one(SEC_FETCH_SITE)
        && (twice || !matches!(site, "none" | "same-origin"))
    {
        return Some("its `Sec-Fetch-Site` is another");
    }
    let is_json = |text: &str| {
        text.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    };
    match one(CONTENT_TYPE) {
        (Some(kind), twice) if twice || !is_json(kind) => Some("its `Content-Type` is not application/json"),
        _ => None,
    }
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a `Host` names this machine in a way that nobody else can point elsewhere.
fn is_here(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
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
        let headers = headers.iter().map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap()));
        let headers = headers.chain([(HOST, HeaderValue::from_static("localhost:8080"))]).collect();
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

    #[test]
    fn without_a_token_no_web_page_is_heard() {
        let ask = |headers: &[(&'static str, &str)]| {
            let of = |(name, value): &(&'static str, &str)| {
                (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            };
            let headers = headers.iter().map(of).collect();
            let peer = Peer("127.0.0.1:5".parse().unwrap());
            check(&Options::default(), &headers, Some(peer)).err().map(|problem| problem.code)
        };
        let here = ("host", "127.0.0.1:8080");
        for good in [
            &[here][..],
            &[("host", "localhost")],
            &[("host", "LOCALHOST:1")],
            &[("host", "[::1]:8080")],
            &[here, ("content-type", "Application/JSON; charset=utf-8")],
            &[here, ("origin", "http://127.0.0.1:8080"), ("sec-fetch-site", "same-origin")],
            &[here, ("sec-fetch-site", "none")],
        ] {
            assert_eq!(ask(good), None, "{good:?}");
        }
        for bad in [
            &[][..],
            &[("host", "shop.example:8080")],
            &[("host", "localhost.shop.example")],
            &[("host", "10.0.0.1")],
            &[("host", "a b")],
            &[here, here],
            &[here, ("origin", "http://shop.example")],
            &[here, ("origin", "https://127.0.0.1:8080")],
            &[here, ("origin", "http://127.0.0.1:8081")],
            &[here, ("origin", "null")],
            &[here, ("sec-fetch-site", "cross-site")],
            &[here, ("sec-fetch-site", "same-site")],
            &[here, ("content-type", "text/plain")],
            &[here, ("content-type", "application/x-www-form-urlencoded")],
            &[here, ("content-type", "application/json"), ("content-type", "text/plain")],
        ] {
            assert_eq!(ask(bad), Some(Code::Forbidden), "{bad:?}");
        }
    }

    /// The value that `printf abc | sha256sum` prints: what an operator may compute by other means.
    #[test]
    fn the_hash_is_sha_256() {
        assert_eq!(hash("abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
    }
}
