//! The engine as the mirror reads it.

use async_trait::async_trait;

use crate::base::ids::SkuId;
use crate::contract::mirror::MirrorSource;
use crate::contract::outcome::{Refusal, StockView};
use crate::front::engine::Engine;

#[async_trait]
impl MirrorSource for Engine {
    async fn page(&self, after: Option<&SkuId>, limit: usize) -> Result<Vec<Vec<StockView>>, Refusal> {
        self.stock_page(after, limit).await
    }
}
