//! How events and checkpoint entries become bytes: bincode 2 with variable-length integers, written field by field.
//!
//! The bytes of a format version never change once data directories hold them. A new field or variant is a new version,
//! and the fixtures under `tests/fixtures` keep the old ones readable. The containers (journal record, checkpoint
//! slice) carry the version and the check sum; here are only the contents.
//!
//! The functions take the engine's types as they are, so nothing is cloned or collected on the way to the disk.

mod chain;
mod event;
mod image;
mod words;

pub use chain::link;
pub use event::{decode_event, encode_event};
pub use image::{decode_image, decode_serials, decode_span, encode_image, encode_serials, encode_span};

use bincode::config::{Configuration, standard};
use bincode::de::read::{BorrowReader, Reader};
use bincode::de::{BorrowDecoder, DecoderImpl};
use bincode::enc::write::Writer;
use bincode::enc::{Encoder, EncoderImpl};
use bincode::error::{DecodeError, EncodeError};

/// The format version of everything that a data directory holds: event payloads (in journal records), image payloads
/// (in checkpoint slices), and the containers around them. Every version from 1 on stays readable.
pub const FORMAT_VERSION: u8 = 1;

/// Whether this program reads what a container with this version holds.
pub(crate) fn is_read(version: u8) -> bool {
    (1..=FORMAT_VERSION).contains(&version)
}

/// Bytes that are not what the format says. The caller adds where they were.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

impl Malformed {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl From<DecodeError> for Malformed {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::UnexpectedEnd { .. } => Self::new("it ends too early"),
            DecodeError::OtherString(what) => Self(what),
            other => Self(other.to_string()),
        }
    }
}

/// Appends to a vector; can't fail.
struct Append<'a>(&'a mut Vec<u8>);

impl Writer for Append<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

#[inline]
fn append(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut EncoderImpl<Append<'_>, Configuration>) -> Result<(), EncodeError>,
) {
    let mut encoder = EncoderImpl::new(Append(out), standard());
    write(&mut encoder)
        .expect("appending to a vector can't fail, and no other encode error applies to our types");
}

/// Takes bytes off the front of a slice that the caller keeps, so that what is left can be read on.
struct Front<'s, 'a>(&'s mut &'a [u8]);

impl Reader for Front<'_, '_> {
    #[inline]
    fn read(&mut self, bytes: &mut [u8]) -> Result<(), DecodeError> {
        bytes.copy_from_slice(self.take_bytes(bytes.len())?);
        Ok(())
    }
}

impl<'a> BorrowReader<'a> for Front<'_, 'a> {
    #[inline]
    fn take_bytes(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let Some((taken, rest)) = self.0.split_at_checked(length) else {
            return Err(DecodeError::UnexpectedEnd { additional: length - self.0.len() });
        };
        *self.0 = rest;
        Ok(taken)
    }
}

/// A decoder that takes from the front of `bytes`. Text is borrowed, so a length beyond the input is refused before
/// anything is allocated.
fn front<'s, 'a>(bytes: &'s mut &'a [u8]) -> DecoderImpl<Front<'s, 'a>, Configuration, ()> {
    DecoderImpl::new(Front(bytes), standard(), ())
}

/// Appends numbers as the base record of a journal segment holds them.
pub(crate) fn encode_numbers(numbers: &[u64], out: &mut Vec<u8>) {
    append(out, |e| words::put_list(e, numbers, words::put));
}

/// Reads what [`encode_numbers`] wrote.
pub(crate) fn decode_numbers(mut bytes: &[u8]) -> Result<Vec<u64>, Malformed> {
    Ok(words::get_list(&mut front(&mut bytes), words::get::<u64>)?)
}

// Bounds that every function of this module writes alike.
trait Enc: Encoder {}
impl<T: Encoder> Enc for T {}
trait Dec<'a>: BorrowDecoder<'a, Context = ()> {}
impl<'a, T: BorrowDecoder<'a, Context = ()>> Dec<'a> for T {}
