//! `hotstock serve`: serves until it is asked to stop, then stops in order.

use std::io::Write;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::failure::Failure;
use crate::wiring::{Server, TakeOver};

/// What the one line on stdout begins with; the address follows. The demo and scripts wait for it.
pub const LISTENS: &str = "hotstock listens on http://";

/// Serves.
///
/// # Errors
/// [`Failure`] when it does not start, or ends by itself.
pub async fn run(config: Config, take_over: TakeOver) -> Result<(), Failure> {
    let failed = |error| Failure::other("listening for signals", error);
    // Before the start, so that a signal in its middle is not lost.
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut server = Server::start(&config, take_over).await?;
    let mut out = std::io::stdout();
    // Whoever started it may have closed stdout; that is no reason not to serve.
    let _ = writeln!(out, "{LISTENS}{}", server.address()).and_then(|()| out.flush());
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        failure = server.ended() => return Err(failure),
    }
    server.stop().await;
    tracing::info!("stopped; everything that was answered is durable");
    Ok(())
}
