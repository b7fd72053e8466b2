//! `hotstock verify`

use crate::cli::Verify;
use crate::failure::Failure;

/// Verifies.
pub fn run(_args: &Verify) -> Result<(), Failure> {
    Ok(())
}
