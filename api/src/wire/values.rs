//! The building blocks of bodies. Reading borrows from the body where it can; what JSON can't say (bounds) is checked
//! when a value is turned into the engine's type, so that a wrong type and a value out of bounds stay two errors.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::InvalidField;
use hotstock_engine::ids::{InvalidId, WarehouseId};
use hotstock_engine::units::Serials;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

/// A JSON object and nothing else. Serde's derive also takes an array of the fields' values in their order, by which
/// `[]` would be an empty object: a confirm of everything.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(std::marker::PhantomData))
    }
}

/// Text, borrowed from the body unless it has escapes.
#[derive(Debug, Default)]
pub struct Text<'a>(pub Cow<'a, str>);

/// A SKU: text, or an integer taken as its decimal text.
#[derive(Debug, Default)]
pub struct SkuText<'a>(pub Cow<'a, str>);

struct TextVisitor {
    integers: bool,
}

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.integers { "a string or an integer" } else { "a string" })
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        if self.integers { Ok(Cow::Owned(number.to_string())) } else { Err(self.unexpected_integer(number)) }
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        if self.integers { Ok(Cow::Owned(number.to_string())) } else { Err(self.unexpected_integer(number)) }
    }
}

impl TextVisitor {
    fn unexpected_integer<E: Error>(&self, number: impl fmt::Display) -> E {
        E::invalid_type(serde::de::Unexpected::Other(&format!("integer `{number}`")), self)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor { integers: false }).map(Self)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for SkuText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor { integers: true }).map(Self)
    }
}

/// Serial numbers that follow each other.
#[derive(Debug, Serialize, ToSchema)]
pub struct SerialsBody {
    /// The first.
    #[schema(example = 1, minimum = 1)]
    from: u64,
    /// The last.
    #[schema(example = 3, minimum = 1)]
    to: u64,
}

/// Writes serial numbers, of a field that is left out where there are none.
///
/// # Errors
/// Those of the serializer.
pub fn each_range<S: Serializer>(ranges: &Option<&[Serials]>, serializer: S) -> Result<S::Ok, S::Error> {
    let ranges = ranges.unwrap_or_default().iter();
    serializer.collect_seq(ranges.map(|serials| SerialsBody { from: serials.from, to: serials.to }))
}

/// Makes an id of a text; `new` is the id's constructor. The field's name is written only when it is needed.
///
/// # Errors
/// [`InvalidField`] with the name of the field.
pub fn id<T>(
    field: impl fmt::Display,
    text: &str,
    new: impl FnOnce(&str) -> Result<T, InvalidId>,
) -> Result<T, InvalidField> {
    new(text).map_err(|InvalidId { max, .. }| {
        InvalidField::new(
            field.to_string(),
            format!("must be 1 to {max} bytes of text without control characters"),
        )
    })
}

/// A cursor is the name of the last row seen, wrapped so that nobody builds one.
#[must_use]
pub fn cursor_of(name: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(name)
}

/// Reads what [`cursor_of`] wrote; `new` is the constructor of the id.
///
/// # Errors
/// [`InvalidField`] for anything else.
pub fn of_cursor<T>(cursor: &str, new: impl FnOnce(&str) -> Result<T, InvalidId>) -> Result<T, InvalidField> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    text.and_then(|text| new(&text).ok())
        .ok_or_else(|| InvalidField::new("cursor", "must be the next_cursor of a page"))
}

/// An integer of any size; what is beyond 64 bits is as far out of every bound as the ends of them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Number(pub i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;

        impl Visitor<'_> for NumberVisitor {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Number(i64::try_from(number).unwrap_or(i64::MAX)))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Number(number))
            }

            /// The parser hands over integers of more than 64 bits as floats.
            fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
                const BEYOND_64_BITS: f64 = 9.2e18;
                if number.abs() < BEYOND_64_BITS {
                    return Err(E::invalid_type(serde::de::Unexpected::Float(number), &self));
                }
                Ok(Number(if number > 0.0 { i64::MAX } else { i64::MIN }))
            }
        }

        deserializer.deserialize_i64(NumberVisitor)
    }
}

impl Number {
    /// The number as a `T`, if it is within `bounds`.
    ///
    /// # Errors
    /// [`InvalidField`] with the name of the field and its bounds.
    pub fn within<T: TryFrom<i64>>(
        self,
        field: impl fmt::Display,
        bounds: RangeInclusive<i64>,
    ) -> Result<T, InvalidField> {
        let in_bounds = bounds.contains(&self.0).then_some(self.0);
        in_bounds.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
            InvalidField::new(field.to_string(), format!("must be {} to {}", bounds.start(), bounds.end()))
        })
    }

    /// The warehouse of this number, or the default where there is none.
    ///
    /// # Errors
    /// [`InvalidField`] when it is not an unsigned number of 32 bits.
    pub fn warehouse(
        number: Option<Self>,
        default: WarehouseId,
        field: impl fmt::Display,
    ) -> Result<WarehouseId, InvalidField> {
        number.map_or(Ok(default), |number| number.within(field, 0..=i64::from(u32::MAX)).map(WarehouseId))
    }
}

/// A time as RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Time(pub Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// The last millisecond of the year 9999, the last that RFC 3339 can say.
        const MAX_MILLIS: u64 = 253_402_300_799_999;
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(self.0.0.min(MAX_MILLIS));
        serializer.collect_str(&humantime::format_rfc3339_millis(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_of_milliseconds_and_an_end() {
        let text = |millis| serde_json::to_string(&Time(Timestamp(millis))).unwrap();
        assert_eq!(text(0), r#""1970-01-01T00:00:00.000Z""#);
        assert_eq!(text(1_709_210_096_007), r#""2024-02-29T12:34:56.007Z""#);
        assert_eq!(text(u64::MAX), r#""9999-12-31T23:59:59.999Z""#);
    }

    #[test]
    fn a_sku_may_be_an_integer_and_nothing_else() {
        let sku = |json: &'static str| serde_json::from_str::<SkuText<'_>>(json).map(|s| s.0.into_owned());
        assert_eq!(sku("\"1001\"").unwrap(), "1001");
        assert_eq!(sku("1001").unwrap(), "1001");
        assert_eq!(sku("-7").unwrap(), "-7");
        assert_eq!(sku("18446744073709551615").unwrap(), "18446744073709551615");
        for bad in ["1.5", "18446744073709551616", "true", "null", "[]", "{}"] {
            assert!(sku(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn text_borrows_unless_it_has_escapes() {
        let plain: Text<'_> = serde_json::from_str(r#""plain é""#).unwrap();
        assert!(matches!(plain.0, Cow::Borrowed("plain é")));
        let escaped: Text<'_> = serde_json::from_str(r#""a\u0062""#).unwrap();
        assert_eq!(escaped.0, "ab");
        assert!(serde_json::from_str::<Text<'_>>("12").is_err());
    }

    #[test]
    fn a_number_out_of_bounds_is_not_a_wrong_type() {
        let number = |json: &str| serde_json::from_str::<Number>(json).map(|n| n.0);
        assert_eq!(number("-3").unwrap(), -3);
        assert_eq!(number("18446744073709551615").unwrap(), i64::MAX);
        assert_eq!(number("123456789012345678901234567890").unwrap(), i64::MAX);
        assert_eq!(number("-123456789012345678901234567890").unwrap(), i64::MIN);
        for bad in ["1.5", "2.0", "\"2\"", "null", "true"] {
            assert!(number(bad).is_err(), "{bad}");
        }
        let within = |n| Number(n).within::<u32>("quantity", 1..=10);
        assert_eq!(within(10), Ok(10));
        assert_eq!(within(11).unwrap_err().to_string(), "quantity must be 1 to 10");
        assert!(within(0).is_err());
    }

    #[test]
    fn an_array_is_not_an_object() {
        #[derive(Debug, Deserialize)]
        struct Two {
            a: u8,
        }
        assert_eq!(serde_json::from_str::<Object<Two>>(r#"{"a":1}"#).unwrap().0.a, 1);
        assert_eq!(serde_json::from_str::<Two>("[1]").unwrap().a, 1, "the reason why Object is needed");
        assert!(serde_json::from_str::<Object<Two>>("[1]").is_err());
    }
}
