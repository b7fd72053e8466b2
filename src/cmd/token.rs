//! `hotstock token`: a fresh token for the operators, and its hash for the configuration.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::cmd::say;
use crate::failure::Failure;

/// 256 bits from the operating system: nobody guesses them, so a plain SHA-256 of it is a safe thing to keep.
const TOKEN_BYTES: usize = 32;

/// Prints both. Neither is kept anywhere.
///
/// # Errors
/// [`Failure`] when the system gives no random bytes.
pub fn run() -> Result<(), Failure> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::other("asking the system for random bytes", error))?;
    let token = BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let hash: String = hotstock_api::auth::hash(&token).iter().map(|byte| format!("{byte:02x}")).collect();
    say(format_args!("token         {token}"));
    say(format_args!("admin.token_sha256 = \"{hash}\""));
    say(
        "\nThe token goes to the operators (HOTSTOCK_TOKEN), the hash into the server's configuration. The token is not kept anywhere.",
    );
    Ok(())
}
