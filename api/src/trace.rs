//! The caller's trace: the trace-id of a W3C `traceparent` header.

use axum::http::HeaderMap;
use hotstock_engine::ids::TraceId;

/// The trace that the headers carry. None when there is no `traceparent`, more than one, or one that breaks the
/// standard: by which such a header is ignored, never an error.
#[must_use]
pub fn of_headers(headers: &HeaderMap) -> Option<TraceId> {
    let mut all = headers.get_all("traceparent").iter();
    match (all.next(), all.next()) {
        (Some(one), None) => parse(one.as_bytes()),
        _ => None,
    }
}

/// `00-<32 hex digits: trace-id>-<16: parent-id>-<2: flags>`, all lowercase. A later version may have more after it.
fn parse(text: &[u8]) -> Option<TraceId> {
    const LENGTH: usize = 55;
    let (head, rest) = text.split_at_checked(LENGTH)?;
    if [head[2], head[35], head[52]] != *b"---" {
        return None;
    }
    let [version]: [u8; 1] = hex(&head[..2])?;
    let trace: [u8; 16] = hex(&head[3..35])?;
    let parent: [u8; 8] = hex(&head[36..52])?;
    let _flags: [u8; 1] = hex(&head[53..])?;
    let length_ok = match version {
        0 => rest.is_empty(),
        255 => false,
        _ => rest.is_empty() || rest[0] == b'-',
    };
    (length_ok && trace != [0; 16] && parent != [0; 8]).then_some(TraceId(trace))
}

fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

/// A random trace for a problem whose caller brought none.
#[must_use]
pub fn fresh() -> TraceId {
    // `| 1`: a trace of zeros is not valid.
    TraceId((fastrand::u128(..) | 1).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|v| ("traceparent".parse().unwrap(), HeaderValue::from_str(v).unwrap())).collect()
    }

    #[test]
    fn a_valid_trace_is_taken() {
        let trace = of_headers(&headers(&[GOOD])).unwrap();
        assert_eq!(trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let later = GOOD.replacen("00", "01", 1) + "-more";
        assert_eq!(of_headers(&headers(&[&later])), Some(trace));
    }

    #[test]
    fn an_invalid_trace_is_ignored() {
        let bad = [
            String::new(),
            GOOD.to_uppercase(),
            GOOD.replacen("00", "ff", 1),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace("-01", "_01"),
            GOOD.replace("-01", "-0"),
            GOOD.to_owned() + "-more",
            GOOD.replace("4bf", "xyz"),
        ];
        for text in bad {
            assert_eq!(of_headers(&headers(&[&text])), None, "{text}");
        }
        assert_eq!(of_headers(&headers(&[GOOD, GOOD])), None);
        assert_eq!(of_headers(&headers(&[])), None);
    }
}
