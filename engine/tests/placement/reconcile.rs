//! Reconcile of a running engine: it tells nothing of what only moves or changes, and puts right what somebody broke.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hotstock_engine::outcome::Refusal;
use hotstock_engine::reconcile::{Check, Reconcile, Reconciled, Remedy};

use crate::house::{House, demote, flushed, levels, promote};
use crate::support::{confirm, create, release, reserve, sku};

async fn look(engine: &hotstock_engine::engine::Engine, fix: bool) -> Reconciled {
    engine.reconcile(Reconcile { limit: 100, fix, ..Reconcile::default() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_and_moves_are_no_differences() {
    let house = House::new();
    let engine = house.start(2).await;
    for name in ["a", "b", "c"] {
        engine.submit(create(name, 1_000_000)).await.unwrap();
    }
    promote(&engine, "b").await.unwrap();
    let (stop, orders_done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let orders = async {
        for n in 0_usize.. {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            let (name, of) = (format!("o-{n}"), ["a", "b", "c"][n % 3]);
            engine.submit(reserve(&name, of, 1)).await.unwrap();
            let end = if n % 2 == 0 { confirm(&name) } else { release(&name) };
            engine.submit(end).await.unwrap();
            orders_done.store(n, Ordering::SeqCst);
        }
    };
    let moves = async {
        while !stop.load(Ordering::SeqCst) {
            promote(&engine, "a").await.unwrap();
            demote(&engine, "a").await.unwrap();
        }
    };
    let looks = async {
        let mut looks = 0;
        while looks < 40 || orders_done.load(Ordering::SeqCst) < 300 {
            looks += 1;
            let found = look(&engine, false).await;
            assert_eq!((found.skus, &found.differences[..]), (3, &[][..]));
            assert!(found.unsettled.is_empty() && found.next.is_none(), "{found:?}");
        }
        stop.store(true, Ordering::SeqCst);
    };
    tokio::join!(orders, moves, looks);
    flushed(&engine).await;
    house.check_books().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_were_broken_are_put_right() {
    let house = House::new();
    let session = house.store.session();
    let engine = house.start_with(crate::house::options(1), &session).await;
    for name in ["cold", "hot"] {
        engine.submit(create(name, 100)).await.unwrap();
        engine.submit(reserve(&format!("{name}-1"), name, 30)).await.unwrap();
    }
    promote(&engine, "hot").await.unwrap();
    engine.submit(reserve("hot-2", "hot", 20)).await.unwrap();
    flushed(&engine).await;
    for name in ["cold", "hot"] {
        house.store.spoil(&sku(name), 99);
    }
    let told = look(&engine, false).await.differences;
    let what: Vec<_> = told.iter().map(|d| (d.sku_id.to_string(), d.check, d.remedy)).collect();
    let row = |name: &str| (name.to_owned(), Check::Row, Remedy::RowFromJournal);
    assert_eq!(what, [row("cold"), row("hot")]);
    assert_eq!(levels(&engine, "cold").await.0, 99, "a look changes nothing");

    let fixed = look(&engine, true).await;
    assert_eq!((fixed.differences, fixed.repaired.len()), (told, 2));
    assert_eq!(levels(&engine, "cold").await, (70, 30, 0));
    assert_eq!(look(&engine, true).await.differences, []);
    engine.submit(reserve("hot-3", "hot", 5)).await.unwrap();
    flushed(&engine).await;
    assert_eq!(house.row("hot").await.view.levels.available, 45);
    assert_eq!(look(&engine, false).await.differences, []);

    session.cut();
    let away = engine.reconcile(Reconcile { limit: 1, ..Reconcile::default() }).await;
    assert_eq!(away, Err(Refusal::StoreUnavailable));
    session.mend();
    engine.stop().await;
}
