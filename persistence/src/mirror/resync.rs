//! Reads all stocks for the mirror, page by page: beside the changes that go on, and never more than a page ahead of
//! what Redis has taken.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hotstock_engine::ids::SkuId;
use hotstock_engine::mirror::MirrorSource;
use hotstock_engine::outcome::StockView;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::pause;
use super::stats::Shared;
use crate::limits::{MIRROR_PAGE_SKUS, MIRROR_PAGE_TIMEOUT_MILLIS};

/// A running resync; dropped, it ends.
pub(super) struct Resync {
    pages: mpsc::Receiver<Vec<StockView>>,
    task: JoinHandle<()>,
}

impl Resync {
    pub fn start(source: Arc<dyn MirrorSource>, shared: Arc<Shared>) -> Self {
        let (to, pages) = mpsc::channel(1);
        Self { pages, task: tokio::spawn(read(source, shared, to)) }
    }

    /// The next stocks; an empty page when there are no more. Nothing is lost when this is dropped.
    pub async fn next(&mut self) -> Vec<StockView> {
        match self.pages.recv().await {
            Some(page) => page,
            // It ends only after its empty page, which whoever calls this knows as the last.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Resync {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(source: Arc<dyn MirrorSource>, shared: Arc<Shared>, to: mpsc::Sender<Vec<StockView>>) {
    let mut after: Option<SkuId> = None;
    let mut failures = 0;
    loop {
        let problem = match page(&source, after.clone()).await {
            Ok(skus) => {
                failures = 0;
                if let Some(last) = skus.last().and_then(|stocks| stocks.first()) {
                    after = Some(last.sku_id.clone());
                }
                let stocks: Vec<StockView> = skus.into_iter().flatten().collect();
                let is_last = stocks.is_empty();
                if to.send(stocks).await.is_err() || is_last {
                    return;
                }
                continue;
            }
            Err(problem) => problem,
        };
        failures += 1;
        shared.counters.source_errors.fetch_add(1, Ordering::Relaxed);
        if failures == 1 {
            tracing::warn!(
                problem,
                "the mirror can't read all stocks now; it goes on with those that change"
            );
        }
        tokio::time::sleep(pause(failures)).await;
    }
}

/// One page, in a task of its own: a panic in there must not end the mirror.
async fn page(source: &Arc<dyn MirrorSource>, after: Option<SkuId>) -> Result<Vec<Vec<StockView>>, String> {
    // The set ends the task when this is dropped.
    let mut task = JoinSet::new();
    let source = Arc::clone(source);
    task.spawn(async move { source.page(after.as_ref(), MIRROR_PAGE_SKUS).await });
    match tokio::time::timeout(Duration::from_millis(MIRROR_PAGE_TIMEOUT_MILLIS), task.join_next()).await {
        Ok(Some(Ok(page))) => page.map_err(|refusal| refusal.to_string()),
        Ok(Some(Err(panicked))) => Err(panicked.to_string()),
        Ok(None) | Err(_) => Err("a page took too long".to_owned()),
    }
}
