//! Histories made by hand: those that a correct server can have answered are explained, broken ones are refused, each
//! for the part that is broken.

mod broken;
mod generated;
mod script;
mod sound;
