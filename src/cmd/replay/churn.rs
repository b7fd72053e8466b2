//! A random third of the SKUs, promoted and demoted again and again while the orders come: what an order is answered must not depend on
//! where its SKU lies, nor on its being on the way.

use fastrand::Rng;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::Target;
use crate::failure::Failure;
use crate::wire::{self, Way};

/// SKUs that are moved by one request at the most.
const MOST_AT_ONCE: usize = 20;

/// The task that moves them.
pub struct Churn {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<Moves, Failure>>,
}

#[derive(Debug, Default)]
struct Moves {
    skus: usize,
    promoted: u64,
    demoted: u64,
}

impl Churn {
    /// Starts it. The SKUs, and the order in which they move, follow from the seed; how that falls together with the orders does not.
    pub fn start(target: &Target, mut skus: Vec<String>, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        rng.shuffle(&mut skus);
        skus.truncate(skus.len().div_ceil(3));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(churn(target.clone(), skus, rng, stopped));
        Self { stop, task }
    }

    /// Ends it after the move that is under way, and says what was moved.
    ///
    /// # Errors
    /// [`Failure`] when a move was refused: with orders of one SKU each none has to be.
    pub async fn stop(self) -> Result<String, Failure> {
        self.stop.send_replace(true);
        let moves = self.task.await.map_err(|error| Failure::other("moving SKUs", error))??;
        let Moves { skus, promoted, demoted } = moves;
        Ok(format!(
            "meanwhile {skus} SKUs were promoted {promoted} times and demoted {demoted} times, in all"
        ))
    }
}

async fn churn(
    target: Target,
    skus: Vec<String>,
    mut rng: Rng,
    stopped: watch::Receiver<bool>,
) -> Result<Moves, Failure> {
    let mut moves = Moves { skus: skus.len(), ..Moves::default() };
    let mut hot = vec![false; skus.len()];
    while !*stopped.borrow() && !skus.is_empty() {
        let from = rng.usize(..skus.len());
        let until = skus.len().min(from + rng.usize(1..=MOST_AT_ONCE));
        // Those that are where the first one is: they all go the other way.
        let way = if hot[from] { Way::Demote } else { Way::Promote };
        let chosen: Vec<usize> = (from..until).filter(|place| hot[*place] == hot[from]).collect();
        let names: Vec<&String> = chosen.iter().map(|place| &skus[*place]).collect();
        let moved = wire::move_all(&target, way, &names).await?;
        for place in chosen {
            hot[place] = way == Way::Promote;
        }
        match way {
            Way::Promote => moves.promoted += moved,
            Way::Demote => moves.demoted += moved,
        }
    }
    Ok(moves)
}
