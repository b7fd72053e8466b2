//! Where an order stands, and what identifies a request about a part of it.

use crate::base::ids::RequestId;

/// How the units that an order did not confirm went back last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// They did not.
    Open,
    /// The caller gave them back.
    Released,
    /// Their time was over.
    Expired,
    /// There never were any: released before it was reserved.
    Cancelled,
}

/// Where an order stands; follows from the counts of its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OrderStatus {
    /// Units are held, none is confirmed.
    Reserved,
    /// Some units are confirmed, others are held or were given back.
    PartiallyConfirmed,
    /// Every unit that it held is confirmed.
    Confirmed,
    /// Given back by the caller.
    Released,
    /// Given back because its time was over.
    Expired,
    /// Released before it was reserved: a tombstone.
    Cancelled,
    /// Some of the confirmed units came back.
    PartiallyReturned,
    /// All confirmed units came back.
    Returned,
}

impl OrderStatus {
    /// Where an order stands whose lines sum up to these units: held, confirmed, released, returned.
    #[must_use]
    pub fn of(phase: Phase, [held, confirmed, released, returned]: [u64; 4]) -> Self {
        match phase {
            Phase::Cancelled => Self::Cancelled,
            _ if returned > 0 && returned == confirmed && held == 0 => Self::Returned,
            _ if returned > 0 => Self::PartiallyReturned,
            _ if confirmed > 0 && held == 0 && released == 0 => Self::Confirmed,
            _ if confirmed > 0 => Self::PartiallyConfirmed,
            _ if held > 0 => Self::Reserved,
            Phase::Expired => Self::Expired,
            Phase::Open | Phase::Released => Self::Released,
        }
    }
}

/// What became of the units of a line. Events carry the counts after them, as they carry levels: so the rows of the
/// store follow from the events alone, and a replay that counts otherwise is found at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LineCounts {
    /// Units held.
    pub held: u32,
    /// Units confirmed so far.
    pub confirmed: u32,
    /// Units given back without being sold.
    pub released: u32,
    /// Units sold and returned.
    pub returned: u32,
    /// Those of `released` that a late payment takes again.
    pub lapsed: u32,
}

/// The identity of a partial request within its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderRequest {
    /// The caller's id; without one, the content is the identity.
    pub request_id: Option<RequestId>,
    /// The content: what was asked and the lines.
    pub fingerprint: u64,
}
