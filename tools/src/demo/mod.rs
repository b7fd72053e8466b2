//! `hotstock demo`: a flash sale in half a minute, against a real server that is killed in the middle.
//!
//! - `server`: the server, a process of its own.
//! - `buyers`: the thousands who want the same thing.
//! - `board`: the line that shows how it goes.
//! - `audit`: what must be true when it is over.

mod audit;
mod board;
mod buyers;
mod server;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

use crate::client::{Connection, Target};
use crate::failure::Failure;
use crate::terminal::{grouped, say};
use crate::wire;
use board::Board;
use buyers::Shop;
use server::ChildServer;

/// SKUs in the shop; the first goes on sale.
const SKUS: usize = 20;

/// Units of each SKU that only lies on the shelf: more than the demo sells of it.
const SHELF_UNITS: u64 = 100_000;

/// Buyers who come in a second. Two cores serve them with ease, so that one watches a sale and not an overload.
const BUYERS_PER_SECOND: u64 = 2_000;

/// Units sold per second of the rush: nine of ten buyers want one or two units of it, 85 of 100 pay.
const UNITS_PER_SECOND: u64 = 2_300;

/// Buyers at a time. While the server is down they pile up to here; a real shop would show a waiting page.
const MAX_BUYERS: u32 = 6_000;

/// Between two lines of the board.
const TICK: Duration = Duration::from_millis(500);

/// How often new buyers come in.
const ARRIVALS: Duration = Duration::from_millis(10);

/// How long the server stays dead: long enough to see, short enough to wait.
const OUTAGE: Duration = Duration::from_millis(700);

/// The demo fails when the sale is not over after this many times its length (a much slower machine than ours).
const PATIENCE: u32 = 10;

/// The command line of `hotstock demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long the rush lasts, about; the stock is chosen to fit. Restart, tail and audit come on top
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(4..=600))]
    pub seconds: u64,
}

/// The program that the demo runs as its server and as its auditor.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    /// Its file.
    pub file: &'a Path,
    /// What the line begins with that it prints when it listens; the address follows.
    pub listens: &'a str,
}

/// Holds the sale, with the kill, and accounts for every unit.
///
/// # Errors
/// [`Failure`]; [`Failure::Audit`] when a unit was sold twice or lost.
pub async fn run(args: Args, program: Program<'_>) -> Result<(), Failure> {
    let directory =
        tempfile::tempdir().map_err(|error| Failure::other("making a temporary directory", error))?;
    let mut home = Home {
        data_dir: directory.path().join("data"),
        log: directory.path().join("server.log"),
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        program,
    };
    let server = home.start_server()?;
    // The second one must come back to where the buyers know it.
    home.address = server.address();
    let target = Target::from(home.address);
    let on_sale = args.seconds * UNITS_PER_SECOND;
    let stocked = stock(&target, on_sale).await?;

    say(format_args!("hotstock demo: a flash sale that survives a kill\n"));
    say(format_args!("  server  a process of its own, pid {}, {target}", server.pid()));
    say(format_args!("  stock   {SKUS} SKUs; {} goes on sale with {} units", stocked[0].0, grouped(on_sale)));
    say(format_args!(
        "  buyers  {} a second; of a hundred, 85 pay, 8 change their mind, 7 walk away and let it expire\n",
        grouped(BUYERS_PER_SECOND)
    ));

    let shop = Shop::new(&target, stocked.iter().map(|(sku_id, _)| sku_id.clone()).collect());
    let mut board = Board::new(on_sale);
    let places = Arc::new(Semaphore::new(MAX_BUYERS as usize));
    let patience = Duration::from_secs(args.seconds) * PATIENCE;
    let server = sale(&shop, &places, &mut board, server, &home, patience).await?;
    // Every place is free again when every buyer knows how it ended.
    let everyone =
        places.acquire_many(MAX_BUYERS).await.map_err(|error| Failure::other("the buyers", error))?;
    drop(everyone);
    if let Some(failure) = shop.failure() {
        return Err(failure);
    }
    board.sold_out(&shop.seen);

    let audited = audit::stock(&target, &shop, &stocked).await;
    let stopped = tokio::task::block_in_place(|| server.stop());
    audited?;
    stopped?;
    audit::data_directory(program.file, &home.data_dir)?;
    say(format_args!("\nEvery unit is accounted for."));
    Ok(())
}

async fn stock(target: &Target, on_sale: u64) -> Result<Vec<(String, u64)>, Failure> {
    let shelf = (1..SKUS).map(|number| (format!("SHELF-{number:02}"), SHELF_UNITS));
    let stocked: Vec<_> = std::iter::once(("FLASH-1".to_owned(), on_sale)).chain(shelf).collect();
    wire::create_stock(target, stocked.clone()).await?;
    // What is preheated for a sale: all of it is in memory before the first order.
    let names: Vec<&String> = stocked.iter().map(|(sku_id, _)| sku_id).collect();
    wire::promote_all(target, &names).await?;
    Ok(stocked)
}

/// What the sale needs to start a server again: the program, its data, its log, its port.
struct Home<'a> {
    program: Program<'a>,
    data_dir: PathBuf,
    log: PathBuf,
    address: SocketAddr,
}

impl Home<'_> {
    fn start_server(&self) -> Result<ChildServer, Failure> {
        tokio::task::block_in_place(|| {
            ChildServer::start(self.program, &self.data_dir, &self.log, self.address)
        })
    }
}

/// Lets buyers in until the SKU on sale is sold out; kills the server when half of it is sold. Returns the last server.
async fn sale(
    shop: &Arc<Shop>,
    places: &Arc<Semaphore>,
    board: &mut Board,
    mut server: ChildServer,
    home: &Home<'_>,
    patience: Duration,
) -> Result<ChildServer, Failure> {
    let mut watcher = Connection::new(Target::from(home.address));
    let half = i64::try_from(board.on_sale() / 2).unwrap_or(i64::MAX);
    let newcomers = BUYERS_PER_SECOND * u64::try_from(ARRIVALS.as_millis()).unwrap_or(1) / 1_000;
    let mut arrivals = tokio::time::interval(ARRIVALS);
    arrivals.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let began = Instant::now();
    let mut next_line = began + TICK;
    let (mut buyers, mut killed) = (0, false);
    loop {
        arrivals.tick().await;
        for _ in 0..newcomers {
            // Who finds no place goes home: the crowd does not grow without end.
            let Ok(place) = Arc::clone(places).try_acquire_owned() else { break };
            let buyer = Arc::clone(shop).buyer(buyers);
            buyers += 1;
            tokio::spawn(async move {
                buyer.await;
                drop(place);
            });
        }
        if Instant::now() < next_line {
            continue;
        }
        next_line += TICK;
        if let Some(failure) = shop.failure() {
            return Err(failure);
        }
        let levels = wire::stock_of(&mut watcher, &shop.skus[0]).await?;
        board.line(levels, &shop.seen, shop.take_p99());
        if levels.available == 0 && levels.reserved == 0 {
            return Ok(server);
        }
        if levels.sold >= half && !killed {
            killed = true;
            server = kill_and_restart(server, home, shop, board).await?;
            next_line = Instant::now() + TICK;
        }
        if began.elapsed() > patience {
            return Err(Failure::Other(format!("the sale was not over after {patience:?}")));
        }
    }
}

async fn kill_and_restart(
    server: ChildServer,
    home: &Home<'_>,
    shop: &Shop,
    board: &mut Board,
) -> Result<ChildServer, Failure> {
    let unknown_before = shop.seen.unknown.load(Relaxed);
    server.kill()?;
    board.say("SIGKILL: the server is gone, in the middle of everything");
    tokio::time::sleep(OUTAGE).await;
    let began = Instant::now();
    let server = home.start_server()?;
    let took = began.elapsed().as_secs_f64();
    board.say(&format!("restarted on the same data, pid {}, ready after {took:.2} s", server.pid()));
    let unknown = shop.seen.unknown.load(Relaxed) - unknown_before;
    board.say(&format!("{} requests got no answer; their buyers ask again", grouped(unknown)));
    Ok(server)
}
