//! The demo's buyers: thousands of small lives that reserve, think, and pay, change their mind or walk away.
//!
//! A buyer whose request gets no answer does what every order service must: it repeats the same request until it knows.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::Semaphore;

use crate::client::{Connection, Target};
use crate::failure::Failure;
use crate::wire;

/// Connections that the buyers share, as the pool of an order service would.
const CONNECTIONS: usize = 64;

/// How long units are held: short, so that those who walk away give them back while one is watching.
const TTL_SECONDS: u32 = 2;

/// The wait before a request of unknown outcome is repeated.
const REPEAT_AFTER: Duration = Duration::from_millis(150);

/// Repeats of one request before the demo fails: with the wait between them far more than a restart takes.
const MAX_REPEATS: u32 = 200;

/// Latencies up to a minute, in microseconds.
const MAX_MICROS: u64 = 60_000_000;

/// An order whose buyer was told that it is confirmed.
#[derive(Debug, Clone)]
pub struct Told {
    /// The number of the order.
    pub order_no: String,
    /// What was bought, by its index in [`Shop::skus`].
    pub sku: usize,
    /// How many units.
    pub units: u64,
}

/// What the buyers saw, counted since the start.
#[derive(Debug, Default)]
pub struct Seen {
    /// Requests that were answered.
    pub answers: AtomicU64,
    /// Requests of unknown outcome that were repeated.
    pub unknown: AtomicU64,
    /// Buyers who found nothing left.
    pub refused: AtomicU64,
    /// Buyers who gave back.
    pub released: AtomicU64,
    /// Buyers who walked away.
    pub walked_away: AtomicU64,
    /// Buyers who paid after their hold had ended and whose units were gone: refunded.
    pub refunded: AtomicU64,
}

/// The shop as the buyers know it, with the connections that they share and what they saw.
pub struct Shop {
    /// Names of the SKUs; the first is the one on sale.
    pub skus: Vec<String>,
    pool: Mutex<Vec<Connection>>,
    free: Semaphore,
    told: Mutex<Vec<Told>>,
    latencies: Mutex<Histogram<u64>>,
    failure: Mutex<Option<Failure>>,
    /// What the buyers saw.
    pub seen: Seen,
}

/// What a buyer will do, decided when it is born.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Pays,
    ChangesMind,
    WalksAway,
}

/// Numbers that look random and are the same in every run, so that every run is the same sale.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        // The mixing steps of SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

impl Shop {
    /// A shop with these SKUs.
    pub fn new(target: &Target, skus: Vec<String>) -> Arc<Self> {
        let pool = (0..CONNECTIONS).map(|_| Connection::new(target.clone())).collect();
        let latencies = Histogram::new_with_max(MAX_MICROS, 3).expect("the bounds are constants and fit");
        Arc::new(Self {
            skus,
            pool: Mutex::new(pool),
            free: Semaphore::new(CONNECTIONS),
            told: Mutex::default(),
            latencies: Mutex::new(latencies),
            failure: Mutex::default(),
            seen: Seen::default(),
        })
    }

    /// The life of one buyer. A failure ends the demo; see [`Self::failure`].
    pub async fn buyer(self: Arc<Self>, number: u64) {
        if let Err(failure) = self.live(number).await {
            self.failure.lock().expect("no one panics with this lock held").get_or_insert(failure);
        }
    }

    /// The first thing that no buyer should see.
    pub fn failure(&self) -> Option<Failure> {
        self.failure.lock().expect("no one panics with this lock held").take()
    }

    /// Everyone who was told "confirmed".
    pub fn told(&self) -> Vec<Told> {
        self.told.lock().expect("no one panics with this lock held").clone()
    }

    /// The 99th percentile of the latencies since the last call.
    pub fn take_p99(&self) -> Duration {
        let mut latencies = self.latencies.lock().expect("no one panics with this lock held");
        let p99 = Duration::from_micros(latencies.value_at_quantile(0.99));
        latencies.reset();
        p99
    }

    async fn live(&self, number: u64) -> Result<(), Failure> {
        let mut dice = Dice(number.wrapping_mul(0x5851_F42D_4C95_7F2D));
        // Nine of ten come for the sale, the others for something off the shelf.
        let sku = match dice.below(10) {
            0 => 1 + usize::try_from(dice.below(self.skus.len() as u64 - 1)).unwrap_or(0),
            _ => 0,
        };
        let fate = match dice.below(100) {
            0..85 => Fate::Pays,
            85..93 => Fate::ChangesMind,
            _ => Fate::WalksAway,
        };
        let quantity = if dice.below(2) == 0 { 1 } else { 2 };
        // The last units go to whoever takes a single one: two would be refused for ever when one is left.
        for quantity in (1..=quantity).rev() {
            let order_no = format!("DEMO-{number}-{quantity}");
            let lines = [wire::Line { sku_id: &self.skus[sku], quantity }];
            let buyer = format!("buyer-{number}");
            let body = wire::json(&wire::Reserve {
                order_no: &order_no,
                lines: &lines,
                ttl_seconds: TTL_SECONDS,
                buyer_id: Some(&buyer),
            });
            match self.ask("/v1/reservations", &body).await? {
                (200 | 201, _) => {
                    tokio::time::sleep(Duration::from_millis(50 + dice.below(350))).await;
                    return self.decide(fate, Told { order_no, sku, units: u64::from(quantity) }).await;
                }
                (409, code) if code == "insufficient_stock" => {}
                (status, code) => {
                    return Err(Failure::Other(format!("reserving {order_no} was answered {status} {code}")));
                }
            }
        }
        self.seen.refused.fetch_add(1, Relaxed);
        Ok(())
    }

    async fn decide(&self, fate: Fate, order: Told) -> Result<(), Failure> {
        let path = |change: &str| format!("/v1/reservations/{}/{change}", order.order_no);
        match fate {
            Fate::Pays => match self.ask(&path("confirm"), b"{}").await? {
                (200, _) => {
                    self.told.lock().expect("no one panics with this lock held").push(order);
                }
                // The server was down until the hold had ended, and others bought the units: an honest refund.
                (409, code) if code == "late_payment_no_stock" => {
                    self.seen.refunded.fetch_add(1, Relaxed);
                }
                (status, code) => {
                    let order_no = order.order_no;
                    return Err(Failure::Other(format!(
                        "confirming {order_no} was answered {status} {code}"
                    )));
                }
            },
            Fate::ChangesMind => match self.ask(&path("release"), b"{}").await? {
                (200, _) => {
                    self.seen.released.fetch_add(1, Relaxed);
                }
                (status, code) => {
                    let order_no = order.order_no;
                    return Err(Failure::Other(format!("releasing {order_no} was answered {status} {code}")));
                }
            },
            Fate::WalksAway => {
                self.seen.walked_away.fetch_add(1, Relaxed);
            }
        }
        Ok(())
    }

    /// Asks until the outcome is known: its status, and the code of a refusal.
    async fn ask(&self, path: &str, body: &[u8]) -> Result<(u16, String), Failure> {
        for _ in 0..MAX_REPEATS {
            let permit = self.free.acquire().await.map_err(|error| Failure::other("the pool", error))?;
            let taken = self.pool.lock().expect("no one panics with this lock held").pop();
            let mut connection = taken.expect("there are as many permits as connections");
            let began = Instant::now();
            let called = connection.call("POST", path, body).await;
            let took = began.elapsed();
            let code = match called {
                Ok(400..=499) => connection.json::<wire::Problem>().map(|problem| problem.code),
                _ => Ok(String::new()),
            };
            self.pool.lock().expect("no one panics with this lock held").push(connection);
            drop(permit);
            match called {
                Ok(status @ 200..=499) if status != 429 => {
                    self.seen.answers.fetch_add(1, Relaxed);
                    let micros = u64::try_from(took.as_micros()).unwrap_or(MAX_MICROS).min(MAX_MICROS);
                    self.latencies
                        .lock()
                        .expect("no one panics with this lock held")
                        .saturating_record(micros);
                    return Ok((status, code?));
                }
                _ => {
                    self.seen.unknown.fetch_add(1, Relaxed);
                    tokio::time::sleep(REPEAT_AFTER).await;
                }
            }
        }
        Err(Failure::Other(format!("{path} got no answer in {MAX_REPEATS} tries")))
    }
}
