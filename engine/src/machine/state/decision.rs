//! What `decide` says to a command.

use crate::base::ids::AttemptId;
use crate::contract::command::Line;
use crate::contract::event::{Change, Event};
use crate::contract::hold::HoldPurpose;
use crate::contract::outcome::{Answer, Outcome, Refusal, ShortLine};

/// What `decide` says to a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It changes something: this is the event, to be applied and logged.
    Log(Event),
    /// It changes nothing: a refusal, a repeat or a read.
    Answer(Outcome),
    /// Units in other shards are to be held first.
    HoldFirst(Box<HoldFirst>),
}

/// What has to be held in other shards before a command can be decided.
#[derive(Debug, Clone, PartialEq)]
pub struct HoldFirst {
    /// For what.
    pub purpose: HoldPurpose,
    /// The units that the command needs beside those that the order holds, here and elsewhere, in its order. Empty for
    /// a reserve, which names them itself.
    pub lines: Vec<Line>,
    /// Those of them whose stocks are here and have not enough.
    pub short: Vec<ShortLine>,
}

/// What is held in other shards for a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Elsewhere {
    /// By this attempt.
    pub attempt: AttemptId,
    /// All lines of [`HoldFirst`] that lie in other shards, as they were named.
    pub lines: Vec<Line>,
}

/// Inside `decide`: a change to be logged, or an answer that rests on nothing new.
#[derive(Debug)]
pub(crate) enum Verdict {
    Change(Change),
    Nothing(Answer),
    /// See [`Decision::HoldFirst`].
    HoldFirst(Box<HoldFirst>),
}

pub(crate) type Decided = Result<Verdict, Refusal>;
