//! The seal of a segment: which events it holds, fixed when nothing is written to it any more. With it the journal
//! opens without looking into the segment, and what lies beyond it (the leftovers of a torn tail) stays dead.
//!
//! Layout: magic `HSSEAL`, format version, one byte 0, CRC-32 of the rest, length of the first list, then two lists
//! of numbers (see `codec`): the next LSN of every shard and then the chain hash before it, when the segment began,
//! and when it ended.

use std::path::Path;

use super::tip::{Tip, decode_tips, encode_tips};
use crate::codec::{FORMAT_VERSION, is_read};
use crate::files::{FileError, read_if_there, write_whole};

const FILE: &str = "seal";
const MAGIC: &[u8; 6] = b"HSSEAL";

/// The events of a segment: of shard `s`, those from `base[s].next` up to but not including `end[s].next`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub base: Vec<Tip>,
    pub end: Vec<Tip>,
}

impl Range {
    pub fn is_empty(&self) -> bool {
        self.base == self.end
    }
}

/// Seals the segment in `dir`. Its events must be durable.
pub(crate) fn write(dir: &Path, range: &Range) -> Result<(), FileError> {
    let mut lists = Vec::new();
    encode_tips(&range.base, &mut lists);
    let base_bytes = u32::try_from(lists.len()).expect("1,024 shards take 19 KB");
    encode_tips(&range.end, &mut lists);
    let mut rest = base_bytes.to_le_bytes().to_vec();
    rest.append(&mut lists);
    let mut content = MAGIC.to_vec();
    content.extend([FORMAT_VERSION, 0]);
    content.extend(crc32fast::hash(&rest).to_le_bytes());
    content.append(&mut rest);
    write_whole(&dir.join(FILE), &content)
}

/// The seal of the segment in `dir`; `None` when it has none or one that is not intact, so that the segment has to
/// be looked through.
pub(crate) fn read(dir: &Path, shards: u16) -> Result<Option<Range>, FileError> {
    let path = dir.join(FILE);
    let Some(content) = read_if_there(&path)? else { return Ok(None) };
    let range = parse(&content).filter(|range| {
        let complete = |list: &[Tip]| list.len() == usize::from(shards);
        let forward =
            range.base.iter().zip(&range.end).all(|(base, end)| base.next < end.next || base == end);
        complete(&range.base) && complete(&range.end) && forward
    });
    if range.is_none() {
        tracing::warn!(path = %path.display(), "the seal is not intact, the segment is looked through instead");
    }
    Ok(range)
}

fn parse(content: &[u8]) -> Option<Range> {
    let rest = content.strip_prefix(MAGIC)?;
    let ([version, 0], rest) = rest.split_first_chunk::<2>()? else { return None };
    if !is_read(*version) {
        return None;
    }
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    if crc32fast::hash(rest) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (base_bytes, lists) = rest.split_first_chunk::<4>()?;
    let (base, end) = lists.split_at_checked(usize::try_from(u32::from_le_bytes(*base_bytes)).ok()?)?;
    Some(Range { base: decode_tips(base).ok()?, end: decode_tips(end).ok()? })
}
