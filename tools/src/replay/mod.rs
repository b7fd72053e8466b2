//! `hotstock replay`: plays a CSV file of real orders against a server through HTTP, then audits every unit.
//!
//! - `file`: what the file asks for, in time order.
//! - `player`: how each part is played, and why a second replay changes nothing.
//! - `ledger`: which order a cancellation belongs to.
//! - `books`, `orders`: what must be true of the stock and of every order afterwards.

mod books;
mod file;
mod ledger;
mod orders;
mod player;

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hotstock_engine::ids::SkuId;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;

use crate::client::{Connection, Target};
use crate::failure::Failure;
use crate::host::{Host, Running as _, Serving as _, Setup, all_evicted, key_value};
use crate::terminal::say;
use crate::wire;
use books::Books;
use file::{Document, OrderFile};
use orders::Orders;
use player::{Player, Tally};

/// Rows that were left out and differences of the audit are listed up to here; more are counted.
const MAX_LISTED: usize = 20;

/// The command line of `hotstock replay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A CSV file with the columns invoice_no, stock_code, quantity and customer_id, in time order
    pub file: PathBuf,
    /// A running server, such as http://127.0.0.1:8080; without it one is started inside this process
    #[arg(long)]
    pub url: Option<Target>,
    /// Stock every SKU with N units, so that some orders are refused; without it with as many as the file sells
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=1_000_000_000))]
    pub stock: Option<u64>,
    /// The data directory of the server inside; without it a temporary one
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    pub data_dir: Option<PathBuf>,
    /// The SQL store of the server inside, mysql://user:password@host:port/database; without it SQLite in the data
    /// directory
    #[arg(long, value_name = "URL", conflicts_with = "url")]
    pub store: Option<String>,
    /// Where the SKUs are when the orders begin
    #[arg(long, value_enum, default_value_t = Place::Hot)]
    pub place: Place,
    /// Any key of the configuration of the server inside, such as engine.max_resident_skus=200; may be given several
    /// times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, conflicts_with = "url")]
    set: Vec<(String, String)>,
    /// Every line of an invoice is an order of its own
    #[arg(long)]
    pub by_line: bool,
    /// Shards of the server inside
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1_024), conflicts_with = "url")]
    pub shards: u16,
    /// Callers at the same time. What belongs to one customer is played in its order; with one caller everything is
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub callers: u16,
    /// What the random choice of --place mixed follows from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// Where the SKUs are when the orders begin: see [`Args::place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Place {
    /// In memory to stay: all are promoted
    Hot,
    /// In the SQL store alone: the server starts anew after they were created, and loads what is asked for (of --url:
    /// as they are created)
    Stored,
    /// As for stored, then a random two thirds of them are promoted
    Mixed,
}

/// Plays a file against the server of `--url`, or against one that is started in this process, and audits it.
///
/// # Errors
/// [`Failure::Audit`] when the server's stock is not what its answers make it; [`Failure::Other`], or whatever the host
/// says of a server that does not start.
pub async fn run<H: Host>(args: Args, host: &H) -> Result<(), H::Failure> {
    let mut file = file::read(&args.file)?;
    if args.by_line {
        file = file.by_line();
    }
    say(format_args!("{}: {} rows, {} documents", args.file.display(), file.rows, file.documents.len()));
    list("left out", &file.left_out);
    if let Some(target) = &args.url {
        let stocked = Stocked::make(&file, target, &args).await?;
        return Ok(play(&file, stocked, target, &args).await?);
    }
    match &args.data_dir {
        Some(data_dir) => on_a_server(&file, data_dir, &args, host).await,
        None => {
            let temporary =
                tempfile::tempdir().map_err(|error| Failure::other("making a temporary directory", error))?;
            on_a_server(&file, temporary.path(), &args, host).await
        }
    }
}

/// Plays a file against a server of this process, on a data directory.
async fn on_a_server<H: Host>(
    file: &OrderFile,
    data_dir: &Path,
    args: &Args,
    host: &H,
) -> Result<(), H::Failure> {
    let setup = Setup {
        set: args.set.clone(),
        data_dir: data_dir.to_owned(),
        shards: args.shards,
        store: args.store.clone(),
        evicting: false,
    };
    let mut stocked = None;
    if args.place != Place::Hot {
        // Nothing shall be in memory when the orders begin, but what an earlier replay on this directory left open.
        // A restart alone does not do it: what was in memory is there again.
        let server = host.serve(&Setup { evicting: true, ..setup.clone() }).await?;
        let made = Stocked::make(file, &server.address().into(), args).await;
        let evicted = all_evicted(server.engine()).await;
        server.stop().await;
        stocked = Some(made?);
        evicted?;
    }
    let server = host.serve(&setup).await?;
    let target = server.address().into();
    let stocked = match stocked {
        Some(stocked) => Ok(stocked),
        None => Stocked::make(file, &target, args).await,
    };
    let played = match stocked {
        Ok(stocked) => play(file, stocked, &target, args).await,
        Err(failure) => Err(failure),
    };
    server.stop().await;
    Ok(played?)
}

/// The SKUs of a file, with the units that they are stocked with.
struct Stocked {
    books: Books,
    /// Those of which there is enough for everybody.
    plenty: HashSet<SkuId>,
    /// All of them, in the order of their names.
    names: Vec<String>,
}

impl Stocked {
    /// Creates the SKUs on a server; those that are there stay as they are.
    async fn make(file: &OrderFile, target: &Target, args: &Args) -> Result<Self, Failure> {
        let mut books = Books::default();
        let mut plenty = HashSet::new();
        let skus: Vec<(String, u64)> = file
            .enough_for_all()
            .into_iter()
            .map(|(sku_id, enough)| {
                let units = args.stock.unwrap_or(enough);
                if units >= enough {
                    plenty.insert(sku_id.clone());
                }
                books.supply(&sku_id, i64::try_from(units).unwrap_or(i64::MAX));
                (sku_id.to_string(), units)
            })
            .collect();
        let mut names: Vec<String> = skus.iter().map(|(sku_id, _)| sku_id.clone()).collect();
        names.sort_unstable();
        let stocked = Self { books, plenty, names };
        let created = wire::create_stock(target, skus).await?;
        say(format_args!(
            "{target}: {} SKUs with {} units, {created} of them new to the server",
            stocked.books.len(),
            stocked.books.total().supplied
        ));
        Ok(stocked)
    }
}

/// Plays the documents with all callers, tells how it went, and audits the server.
async fn play(file: &OrderFile, stocked: Stocked, target: &Target, args: &Args) -> Result<(), Failure> {
    let Stocked { mut books, plenty, mut names } = stocked;
    let promoted = match args.place {
        Place::Stored => 0,
        Place::Hot => names.len(),
        Place::Mixed => {
            fastrand::Rng::with_seed(args.seed).shuffle(&mut names);
            names.len() - names.len().div_ceil(3)
        }
    };
    let new = wire::promote_all(target, &names[..promoted]).await?;
    say(format_args!("{promoted} of {} SKUs are hot, {new} of them promoted now", names.len()));

    let bar = ProgressBar::new(file.documents.len() as u64).with_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} documents, {per_sec}, {eta} left")
            .expect("the template is a constant"),
    );
    let began = Instant::now();
    let mut callers = JoinSet::new();
    let plenty = Arc::new(plenty);
    for documents in shares(&file.documents, usize::from(args.callers)) {
        let mut player = Player::new(Connection::new(target.clone()), Arc::clone(&plenty));
        let bar = bar.clone();
        callers.spawn(async move {
            for document in documents {
                player.play(&document).await?;
                bar.inc(1);
            }
            Ok::<_, Failure>(player)
        });
    }
    let (mut orders, mut tally) = (Orders::default(), Tally::default());
    while let Some(done) = callers.join_next().await {
        let player = done.map_err(|error| Failure::other("playing", error))??;
        books.add(&player.books);
        orders.add(player.orders);
        tally.add(&player.tally);
    }
    bar.finish_and_clear();
    let seconds = began.elapsed().as_secs_f64();
    let how = if args.callers == 1 {
        "one after the other".to_owned()
    } else {
        format!("by {} callers", args.callers)
    };
    say(format_args!("played in {seconds:.1} s, {how}\n\n{}", tally.table()));
    match tally.new_ones() {
        0 => say(format_args!("nothing new: the server knew every one of them, and changed nothing")),
        n => say(format_args!("{n} were new to the server")),
    }
    audit(&books, &orders, target).await
}

/// Deals the documents out: those of one customer go to one caller, because a cancellation brings back what was bought
/// before; each caller has its own in the order of the file.
fn shares(documents: &[Document], callers: usize) -> Vec<Vec<Document>> {
    // The same in every run, so that a second replay asks the same.
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let mut shares = vec![Vec::new(); callers];
    for (place, document) in documents.iter().enumerate() {
        let caller = match &document.customer {
            Some(customer) => usize::try_from(hasher.hash_one(customer) % callers as u64).unwrap_or(0),
            None => place % callers,
        };
        shares[caller].push(document.clone());
    }
    shares
}

/// Compares every SKU and every order of the server with what it answered.
async fn audit(books: &Books, orders: &Orders, target: &Target) -> Result<(), Failure> {
    let mut connection = Connection::new(target.clone());
    let mut differences = orders.differences(&mut connection).await?;
    differences.extend(books.differences(&wire::all_stock(&mut connection).await?));
    let total = books.total();
    if differences.is_empty() {
        let available = total.supplied - total.sold;
        say(format_args!(
            "audit: {} SKUs are as the answers made them; {} units stocked and adjusted = {available} available + 0 \
             reserved + {} sold",
            books.len(),
            total.supplied,
            total.sold
        ));
        say(format_args!("audit: {} orders are as they were answered", orders.len()));
        say(format_args!("final stock {}", books.fingerprint()));
        return Ok(());
    }
    list("audit", &differences);
    Err(Failure::Audit(format!(
        "audit: {} differences between the answers and what the server has",
        differences.len()
    )))
}

/// Prints lines, up to a number of them.
fn list(what: &str, lines: &[String]) {
    for line in lines.iter().take(MAX_LISTED) {
        say(format_args!("  {what}: {line}"));
    }
    if lines.len() > MAX_LISTED {
        say(format_args!("  {what}: and {} more", lines.len() - MAX_LISTED));
    }
}
