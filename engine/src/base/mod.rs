//! The lowest layer, which knows nothing of stock: [`ids`] and [`limits`]; [`clock`]; the concurrent primitives
//! ([`sync`]), and what tests reach into ([`planted`], [`failpoints`]). [`blocking`]: where work is done that blocks
//! its thread; [`backoff`]: pauses between tries.

// Under `--cfg loom` only `limits` and `sync` are built: tokio has no net there, and ractor does not build.
pub mod limits;
pub mod sync;

// Before all others, which use its macro.
#[macro_use]
pub mod planted;

#[cfg(not(loom))]
pub mod ids;

#[cfg(not(loom))]
pub mod clock;

#[cfg(not(loom))]
pub(crate) mod backoff;
#[cfg(not(loom))]
pub(crate) mod blocking;
#[cfg(not(loom))]
pub(crate) mod failpoints;
