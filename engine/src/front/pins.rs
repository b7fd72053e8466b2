//! SKUs that operators want kept in memory (hot): loaded ahead of a sale, and never evicted until they are let go.
//! Nothing waits for that but the load itself; nothing is refused because of it. It is logged by the shard, and so
//! holds across restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::base::backoff::Backoff;
use crate::base::ids::{ShardId, SkuId, shard_of};
use crate::base::limits::{MAX_HOT_LIST, MAX_LOADED_AT_ONCE, MAX_PAGE_ROWS, MAX_PINNED_PER_ENVELOPE};
use crate::contract::command::InvalidField;
use crate::contract::outcome::{Effect, Refusal};
use crate::contract::store::Wanted;
use crate::services::fence::Fence;
use crate::services::hot::HotList;
use crate::services::shared::{Envelope, PinAnswer, ShardShared};
use crate::services::store_link::{StoreLink, refusal_of};
use crate::services::views::Views;

/// What became of a SKU that was to be kept in memory, or let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pinned {
    /// [`Effect::Changed`]; or [`Effect::Replayed`]: it was so already.
    pub effect: Effect,
    /// The shard that decides for it.
    pub shard: ShardId,
}

/// What became of each SKU.
pub(crate) type Results = Vec<(SkuId, Result<Pinned, Refusal>)>;

/// See the top of the file.
pub(crate) struct Pins {
    shards: Arc<[Arc<ShardShared>]>,
    views: Arc<Views>,
    link: Arc<StoreLink>,
    fence: Arc<Fence>,
    pub hot: Arc<HotList>,
    /// The hot list is replaced by one at a time.
    replacing: tokio::sync::Mutex<()>,
}

impl Pins {
    pub fn new(
        shards: Arc<[Arc<ShardShared>]>,
        views: Arc<Views>,
        link: Arc<StoreLink>,
        fence: Arc<Fence>,
        hot: Arc<HotList>,
    ) -> Self {
        Self { shards, views, link, fence, hot, replacing: tokio::sync::Mutex::new(()) }
    }

    /// Keeps SKUs in memory, or lets them go. Those above [`MAX_HOT_LIST`] are refused.
    pub async fn pin(&self, skus: &[SkuId], hot: bool) -> Results {
        let (some, rest) = skus.split_at(skus.len().min(MAX_HOT_LIST));
        let mut answers: Vec<Option<PinAnswer>> = vec![None; some.len()];
        for (shard, indexes) in self.by_shard(some) {
            for indexes in indexes.chunks(MAX_PINNED_PER_ENVELOPE) {
                let skus = indexes.iter().map(|index| some[*index].clone()).collect();
                let sent = self.send(shard, skus, hot);
                for (index, answer) in indexes.iter().zip(self.wait(sent, indexes.len()).await) {
                    answers[*index] = Some(answer);
                }
            }
        }
        if !hot {
            self.tell_stored(some, &mut answers).await;
        }
        let of = |(sku_id, answer): (&SkuId, Option<PinAnswer>)| {
            let shard = self.shard(sku_id);
            let effect = answer.unwrap_or(Err(Refusal::ShardRestarted));
            (sku_id.clone(), effect.map(|effect| Pinned { effect, shard }))
        };
        let mut results: Results = some.iter().zip(answers).map(of).collect();
        results.extend(rest.iter().map(|sku_id| (sku_id.clone(), Err(Refusal::Overloaded))));
        results
    }

    /// Makes these the hot ones, and no others. A result for each that was or is on the list.
    ///
    /// # Errors
    /// [`Refusal::InvalidField`] for more than [`MAX_HOT_LIST`].
    pub async fn replace(&self, skus: &[SkuId]) -> Result<Results, Refusal> {
        if skus.len() > MAX_HOT_LIST {
            return Err(InvalidField::new("sku_ids", format!("must be at most {MAX_HOT_LIST}")).into());
        }
        let _one = self.replacing.lock().await;
        let wanted: BTreeSet<&SkuId> = skus.iter().collect();
        let others = self.hot.list(None, usize::MAX).into_iter().map(|hot| hot.sku_id);
        let others: Vec<SkuId> = others.filter(|sku_id| !wanted.contains(sku_id)).collect();
        let wanted: Vec<SkuId> = wanted.into_iter().cloned().collect();
        let mut results = self.pin(&wanted, true).await;
        for others in others.chunks(MAX_HOT_LIST) {
            results.extend(self.pin(others, false).await);
        }
        results.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(results)
    }

    fn shard(&self, sku_id: &SkuId) -> ShardId {
        shard_of(sku_id, u16::try_from(self.shards.len()).unwrap_or(u16::MAX))
    }

    fn by_shard(&self, skus: &[SkuId]) -> BTreeMap<ShardId, Vec<usize>> {
        let mut by_shard: BTreeMap<ShardId, Vec<usize>> = BTreeMap::new();
        for (index, sku_id) in skus.iter().enumerate() {
            by_shard.entry(self.shard(sku_id)).or_default().push(index);
        }
        by_shard
    }

    fn send(
        &self,
        shard: ShardId,
        skus: Vec<SkuId>,
        hot: bool,
    ) -> Result<oneshot::Receiver<Vec<PinAnswer>>, Refusal> {
        self.fence.check()?;
        let shared = &self.shards[shard.index()];
        if !shared.gate.enter(1) {
            return Err(Refusal::Overloaded);
        }
        let (to, answers) = oneshot::channel();
        shared.mailbox.push([Envelope::Pin { skus, hot, to }]);
        shared.wake();
        Ok(answers)
    }

    async fn wait(
        &self,
        sent: Result<oneshot::Receiver<Vec<PinAnswer>>, Refusal>,
        count: usize,
    ) -> Vec<PinAnswer> {
        let refusal = match sent {
            Ok(answers) => match answers.await {
                Ok(answers) => return answers,
                Err(_) => Refusal::ShardRestarted,
            },
            Err(refusal) => refusal,
        };
        vec![Err(refusal); count]
    }

    /// Of SKUs that are to be let go and are not in memory: whether the store has them, so that who asks twice is
    /// told the same.
    async fn tell_stored(&self, skus: &[SkuId], answers: &mut [Option<PinAnswer>]) {
        let is_unknown = |answer: &Option<PinAnswer>| matches!(answer, Some(Err(Refusal::UnknownSku { .. })));
        let unknown: Vec<usize> = (0..skus.len()).filter(|index| is_unknown(&answers[*index])).collect();
        for indexes in unknown.chunks(MAX_LOADED_AT_ONCE) {
            let names: BTreeSet<SkuId> = indexes.iter().map(|index| skus[*index].clone()).collect();
            let wanted = Wanted { skus: names.into_iter().collect(), ..Wanted::default() };
            let loaded = self.link.noted(self.link.store().load(&wanted).await).map_err(refusal_of);
            for index in indexes {
                match &loaded {
                    Ok(loaded) if loaded.skus.contains_key(&skus[*index]) => {
                        answers[*index] = Some(Ok(Effect::Replayed))
                    }
                    Ok(_) => {}
                    Err(refusal) => answers[*index] = Some(Err(refusal.clone())),
                }
            }
        }
    }

    /// After a start: loads SKUs that the store says are kept in memory and that are not there, as in a directory
    /// that was made from it.
    pub async fn load_stored(&self) {
        let mut backoff = Backoff::default();
        let mut after: Option<SkuId> = None;
        loop {
            let page = self.link.noted(self.link.store().hot_skus(after.as_ref(), MAX_PAGE_ROWS).await);
            let Ok(page) = page else {
                tokio::time::sleep(backoff.next()).await;
                continue;
            };
            let missing = page.iter().filter(|sku_id| self.views.stock(sku_id, None).is_empty());
            let missing: Vec<SkuId> = missing.cloned().collect();
            for (sku_id, result) in self.pin(&missing, true).await {
                if let Err(refusal) = result {
                    tracing::warn!(
                        ?sku_id,
                        refusal = refusal.to_string(),
                        "a SKU that is to be kept in memory can't be loaded"
                    );
                }
            }
            if page.len() < MAX_PAGE_ROWS {
                return;
            }
            after = page.into_iter().next_back();
        }
    }
}
