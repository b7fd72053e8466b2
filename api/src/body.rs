//! Reading bodies: bounded in size, time and memory, and JSON whose errors name the field.

use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::codes::Code;
use crate::limits::{Options, SMALL_BODY_BYTES};
use crate::problem::Problem;
use crate::wire::values::Object;

/// A body, with the room that it takes until it is dropped.
#[derive(Debug, Default)]
pub struct ReadBody {
    /// The body.
    pub bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

/// Reads a body of at most `max` bytes.
///
/// # Errors
/// `request_too_large`, `request_incomplete` (too slow), `overloaded` (no room), `malformed_request` (it broke off).
pub async fn read(
    body: Body,
    max: usize,
    options: &Options,
    room: &Arc<Semaphore>,
) -> Result<ReadBody, Problem> {
    tokio::time::timeout(options.body_read_timeout, read_frames(body, max, room)).await.unwrap_or_else(|_| {
        let detail = format!("it did not within {} s", options.body_read_timeout.as_secs_f32());
        Err(Problem::new(Code::RequestIncomplete, detail))
    })
}

async fn read_frames(mut body: Body, max: usize, room: &Arc<Semaphore>) -> Result<ReadBody, Problem> {
    let too_large =
        || Problem::new(Code::RequestTooLarge, format!("the body of this request may have {max} bytes"));
    // What the headers declare; without a declaration (chunked) 0, and the largest possible is reckoned with once it
    // turns out to be more than a small body.
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if declared > max {
        return Err(too_large());
    }
    let mut permit = take_room(declared, room)?;
    let (mut first, mut all) = (Bytes::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Problem::malformed(format!("the body can't be read: {error}"), None))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.is_empty() {
            // Nearly every body is one frame, and is not copied.
            first = data;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&data);
        }
        let length = first.len().max(all.len());
        if length > max {
            return Err(too_large());
        }
        if length > SMALL_BODY_BYTES && permit.is_none() {
            permit = take_room(max, room)?;
        }
    }
    let bytes = if all.is_empty() { first } else { all.into() };
    Ok(ReadBody { bytes, _room: permit })
}

fn take_room(bytes: usize, room: &Arc<Semaphore>) -> Result<Option<OwnedSemaphorePermit>, Problem> {
    if bytes <= SMALL_BODY_BYTES {
        return Ok(None);
    }
    let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
    let full = || Problem::new(Code::Overloaded, "too many large bodies are under way");
    Arc::clone(room).try_acquire_many_owned(kib).map(Some).map_err(|_| full())
}

/// Reads a JSON object.
///
/// # Errors
/// `malformed_request`, with the place where it is known.
pub fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Problem> {
    match serde_json::from_str(json) {
        Ok(Object(body)) => Ok(body),
        Err(error) => Err(explain::<T>(json, &error)),
    }
}

/// [`parse`], where no body at all stands for an empty object.
///
/// # Errors
/// `malformed_request`.
pub fn parse_optional<'a, T: Deserialize<'a> + Default>(json: &'a str) -> Result<T, Problem> {
    if json.trim_ascii().is_empty() { Ok(T::default()) } else { parse(json) }
}

/// Reads once more, slower, to find the place of the error.
#[cold]
fn explain<'a, T: Deserialize<'a>>(json: &'a str, error: &serde_json::Error) -> Problem {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let field = match serde_path_to_error::deserialize::<_, Object<T>>(&mut deserializer) {
        Err(error) if !error.inner().is_syntax() && !error.inner().is_eof() => {
            Some(error.path().to_string()).filter(|path| path != ".")
        }
        _ => None,
    };
    Problem::malformed(error.to_string(), field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::About;
    use crate::wire::orders::{ConfirmBody, ReserveBody};

    fn field_of(json: &str) -> (String, Option<String>) {
        let problem = parse::<ReserveBody<'_>>(json).unwrap_err();
        assert_eq!(problem.code, Code::MalformedRequest);
        let field = match problem.about {
            About::Field(field) => Some(field),
            _ => None,
        };
        (problem.detail.into_owned(), field)
    }

    #[test]
    fn errors_name_the_field() {
        let (detail, field) = field_of(r#"{"order_no":"a","lines":[{"sku_id":"x","quantity":"2"}]}"#);
        assert_eq!(field.as_deref(), Some("lines[0].quantity"));
        assert!(detail.contains("expected an integer"), "{detail}");
        let (detail, field) = field_of(r#"{"order_no":"a","lines":[{"sku_id":"x"},{"sku":"x"}]}"#);
        assert!(detail.contains("unknown field `sku`"), "{detail}");
        assert_eq!(field.as_deref(), Some("lines[1].sku"));
        let (detail, field) = field_of(r#"{"oder_no":"a"}"#);
        assert!(detail.contains("unknown field `oder_no`"), "{detail}");
        assert_eq!(field.as_deref(), Some("oder_no"));
        assert_eq!(field_of(r#"{"order_no":7}"#).1.as_deref(), Some("order_no"));
        let (detail, _) = field_of(r#"{"order_no":"a","order_no":"b"}"#);
        assert!(detail.contains("duplicate field `order_no`"), "{detail}");
    }

    #[test]
    fn what_is_not_json_has_no_field() {
        for json in [
            "",
            "{",
            "nonsense",
            "[]",
            "null",
            "\"text\"",
            r#"{"order_no":"a"} more"#,
            "{\"order_no\":\"\\ud800\"}",
        ] {
            assert_eq!(field_of(json).1, None, "{json}");
        }
    }

    #[test]
    fn the_detail_of_an_error_is_short() {
        let (detail, _) = field_of(&format!(r#"{{"lines":"{}"}}"#, "é".repeat(1000)));
        assert!(detail.len() < 310, "{}", detail.len());
    }

    #[test]
    fn no_body_is_an_empty_one_only_where_it_may_be() {
        assert!(parse_optional::<ConfirmBody<'_>>(" \n").unwrap().lines.is_none());
        assert!(parse_optional::<ConfirmBody<'_>>("{}").unwrap().lines.is_none());
        assert!(parse_optional::<ConfirmBody<'_>>("[]").is_err());
        assert!(parse::<ReserveBody<'_>>("").is_err());
    }
}
