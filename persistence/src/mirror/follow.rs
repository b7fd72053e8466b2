//! The task that follows the changes: takes what is dirty every few milliseconds, writes it, and mirrors everything
//! again whenever Redis may lack something.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hotstock_engine::dirty::Dirty;
use hotstock_engine::mirror::MirrorSource;
use hotstock_engine::outcome::StockView;
use hotstock_engine::planted;
use redis::RedisResult;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::link::{Connect, Link};
use super::resync::Resync;
use super::stats::Shared;
use super::{MirrorOptions, pause};
use crate::limits::MIRROR_CHECK_MILLIS;

pub(super) struct Follower {
    pub redis: Box<dyn Connect>,
    pub options: MirrorOptions,
    pub dirty: Arc<Dirty>,
    pub source: Arc<dyn MirrorSource>,
    pub shared: Arc<Shared>,
    /// Becomes true when the mirror is to end.
    pub stop: watch::Receiver<bool>,
    /// Random; the name of this run's mark.
    pub run: String,
}

impl Follower {
    pub async fn run(mut self) {
        let mut failures = 0;
        loop {
            let ended = match self.redis.connect().await {
                Ok(mut link) => self.follow(link.as_mut(), &mut failures).await,
                Err(error) => Err(error),
            };
            self.shared.connected.store(false, Ordering::Relaxed);
            self.shared.resyncing.store(true, Ordering::Relaxed);
            let Err(error) = ended else { return };
            self.shared.failed(error.to_string());
            failures += 1;
            if failures == 1 {
                tracing::warn!(%error, "the mirror has lost Redis; orders go on, it will catch up");
            }
            tokio::select! {
                () = sleep(pause(failures)) => {}
                () = stopped(&mut self.stop) => return,
            }
        }
    }

    /// Until the connection fails or the mirror is stopped.
    async fn follow(&mut self, link: &mut dyn Link, failures: &mut u32) -> RedisResult<()> {
        // Planted before anything is read: what is lost from here on is seen.
        link.plant(&self.run).await?;
        self.shared.connected.store(true, Ordering::Relaxed);
        let batch = self.options.batch;
        let mut resync = Some(self.resync());
        // One that runs began too early for what was lost since; it is ended all the same, so that each SKU has its
        // turn.
        let mut again = false;
        let mut page: Vec<StockView> = Vec::new();
        let mut next_check = check_time();
        while !*self.stop.borrow() {
            again |= self.dirty.take_overflow();
            if Instant::now() >= next_check {
                if planted!("emptied-mirror-not-seen", false, !link.is_planted(&self.run).await?) {
                    tracing::info!("Redis was emptied: all stocks are mirrored again");
                    link.plant(&self.run).await?;
                    again = true;
                }
                self.shared.succeeded();
                next_check = check_time();
            }
            if again && resync.is_none() {
                again = false;
                self.shared.resyncing.store(true, Ordering::Relaxed);
                resync = Some(self.resync());
            }
            let changed = self.dirty.take(batch);
            let is_full = changed.len() == batch;
            self.put_changed(link, changed).await?;
            let some = page.split_off(page.len().saturating_sub(batch));
            self.put(link, &some).await?;
            if is_full || !page.is_empty() {
                continue;
            }
            tokio::select! {
                biased;
                () = stopped(&mut self.stop) => {}
                () = sleep_until(next_check) => {}
                next = next_page(&mut resync) => {
                    if next.is_empty() {
                        resync = None;
                        self.shared.counters.resyncs.fetch_add(1, Ordering::Relaxed);
                        self.shared.resyncing.store(again, Ordering::Relaxed);
                        if *failures > 0 {
                            tracing::info!("Redis is mirrored again");
                        }
                        *failures = 0;
                    }
                    page = next;
                }
                // The permit is consumed before what is dirty is taken, as `Dirty` asks for.
                () = self.dirty.notified() => self.gather().await,
            }
        }
        drop(resync);
        self.end(link).await;
        Ok(())
    }

    fn resync(&self) -> Resync {
        Resync::start(Arc::clone(&self.source), Arc::clone(&self.shared))
    }

    /// Lets changes of the same stocks come together.
    async fn gather(&mut self) {
        tokio::select! {
            () = sleep(Duration::from_millis(self.options.flush_every_ms)) => {}
            () = stopped(&mut self.stop) => {}
        }
    }

    /// Writes changed stocks; when that fails they are dirty again, so that the lag tells of them.
    async fn put_changed(&self, link: &mut dyn Link, changed: Vec<StockView>) -> RedisResult<()> {
        self.shared.in_flight.store(changed.len(), Ordering::Relaxed);
        let done = self.put(link, &changed).await;
        if done.is_err() {
            changed.into_iter().for_each(|stock| self.dirty.mark(stock));
        }
        self.shared.in_flight.store(0, Ordering::Relaxed);
        done
    }

    async fn put(&self, link: &mut dyn Link, stocks: &[StockView]) -> RedisResult<()> {
        if stocks.is_empty() {
            return Ok(());
        }
        let puts: Vec<(&StockView, Option<u64>)> = stocks.iter().map(|stock| (stock, None)).collect();
        link.put(&puts).await?;
        self.shared.sent(stocks.len());
        Ok(())
    }

    /// Writes what is left, if that goes within the time of one answer. What stays behind is mirrored at the next
    /// start.
    async fn end(&self, link: &mut dyn Link) {
        let last = async {
            loop {
                let changed = self.dirty.take(self.options.batch);
                if changed.is_empty() {
                    return link.uproot(&self.run).await;
                }
                self.put_changed(link, changed).await?;
            }
        };
        if !matches!(timeout(self.options.timeout(), last).await, Ok(Ok(()))) {
            tracing::warn!(stocks = self.dirty.len(), "the mirror ended before Redis had taken everything");
        }
    }
}

fn check_time() -> Instant {
    Instant::now() + Duration::from_millis(MIRROR_CHECK_MILLIS)
}

async fn next_page(resync: &mut Option<Resync>) -> Vec<StockView> {
    match resync {
        Some(resync) => resync.next().await,
        None => std::future::pending().await,
    }
}

/// Until the mirror is to end. Its handle is gone: that also says so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}
