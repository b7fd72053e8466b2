//! Orders over several shards: what the shard of an order flushes of it, and what the others hold and sell for it.

use std::collections::{BTreeMap, BTreeSet};

use super::flushes::{Dice, balance, check, numbered, sums};
use super::shard::sorted;
use super::upkeep::prune_all;
use super::{
    Shards, Subject, W1, confirm, create, extend, give_back, load, order, part, release, reserve, restock,
    sku, taken_by,
};
use crate::base::ids::{Epoch, Lsn, OrderNo, ShardId};
use crate::contract::image::Image;
use crate::contract::store::{FlushPart, Flushed, Misfit, Prune, Store, StoredHold, SumsCursor};
use crate::front::restore::restore;
use crate::machine::state::State;
use crate::shard::recovery::check_holds;

/// SKUs of two shards, the second of each numbered: `a` and `m` of the shard that decides, `b` and `n` of the other.
struct Names {
    a: String,
    m: String,
    b: String,
    n: String,
}

/// One of everything that happens to orders over two shards: `at` decides, `other` holds for it. Their numbers begin
/// with `mark`.
async fn one_of_everything(
    shards: &mut Shards,
    store: &dyn Store,
    mark: &str,
    (at, other): (usize, usize),
) -> Names {
    let mut names = shards.names(mark, 2);
    let [mut of_other, mut own] = [other, at].map(|shard| std::mem::take(&mut names[shard]));
    let next = |of: &mut Vec<String>| of.pop().expect("there are two");
    let (a, m, b, n) = (next(&mut own), next(&mut own), next(&mut of_other), next(&mut of_other));
    for (shard, plain, with_serials) in [(at, &a, &m), (other, &b, &n)] {
        shards.all[shard].must(create(plain, W1, 100));
        shards.all[shard].must(numbered(with_serials, 100));
    }
    let number = |of: &str| format!("{mark}-{of}");
    let all = [(a.as_str(), 2), (m.as_str(), 1), (b.as_str(), 3), (n.as_str(), 2)];
    let (b_alone, n_alone) = (b.as_str(), n.as_str());
    for of in ["whole", "part", "back", "late", "refused", "expired"] {
        shards.reserve(store, at, &number(of), &all).await.expect("there is plenty");
    }
    shards.act(store, at, confirm(&number("whole"), None)).await.expect("it is held");
    shards.tell(at, &number("whole"), 9);
    // Some units at a time, with their numbers.
    for (request, units) in [("1", 1), ("2", 1)] {
        let some = part(&[(n_alone, units), (b_alone, 1)], request);
        shards.act(store, at, confirm(&number("part"), some)).await.expect("it is held");
        shards.tell(at, &number("part"), 1);
    }
    shards.act(store, at, extend(&number("part"), 1_000)).await.expect("it is open");
    shards.act(store, at, release(&number("part"), None)).await.expect("it is held");
    shards.tell(at, &number("part"), 9);
    shards.act(store, at, confirm(&number("back"), None)).await.expect("it is held");
    shards.tell(at, &number("back"), 9);
    for (request, units) in [("1", 1), ("2", 2)] {
        let back = give_back(&number("back"), &[(b_alone, units)], request);
        shards.act(store, at, back).await.expect("it was sold");
        shards.tell(at, &number("back"), 9);
    }
    shards.act(store, at, release(&number("refused"), None)).await.expect("it is held");
    shards.tell(at, &number("refused"), 9);
    shards.all[at].expire_after(700);
    for of in ["late", "expired"] {
        shards.tell(at, &number(of), 9);
    }
    shards.act(store, at, confirm(&number("late"), None)).await.expect("there is plenty");
    shards.tell(at, &number("late"), 9);
    // Attempts that come to nothing.
    shards
        .reserve(store, at, &number("none"), &[(&a, 1), (&b, 1_000)])
        .await
        .expect_err("there is not so much");
    shards
        .reserve(store, at, &number("none"), &[(&a, 1_000), (&b, 1)])
        .await
        .expect_err("there is not so much");
    let attempt = shards.hold_only(store, at, &number("lost"), &[(&b, 4), (&n, 1)]).await;
    let attempt = attempt.expect("there is plenty");
    shards.let_go(&number("lost"), attempt);
    // What stays: held, confirmed and not told, told and not heard, coming back, held and not known.
    for of in ["held", "pending", "unheard", "coming"] {
        shards.reserve(store, at, &number(of), &all).await.expect("there is plenty");
    }
    for of in ["pending", "unheard", "coming"] {
        shards.act(store, at, confirm(&number(of), None)).await.expect("it is held");
    }
    drop(shards.instruct(at, &number("unheard")));
    shards.tell(at, &number("coming"), 9);
    let back = give_back(&number("coming"), &[(b_alone, 2)], "1");
    shards.act(store, at, back).await.expect("it was sold");
    let unknown = shards.hold_only(store, at, &number("unknown"), &[(&b, 4), (&n, 1)]).await;
    unknown.expect("there is plenty");
    Names { a, m, b, n }
}

/// Whatever the batches are, and however often they come.
pub async fn orders_over_several_shards_are_taken_in(subject: &dyn Subject) {
    let store = taken_by(subject, 6).await;
    let store = &*store;
    let mut shards = Shards::new(6);
    for (size, pair) in [(usize::MAX, (0, 1)), (1, (2, 3)), (4, (5, 4))] {
        one_of_everything(&mut shards, store, &format!("of-{}", pair.0), pair).await;
        for shard in [pair.0, pair.1] {
            let shard = &mut shards.all[shard];
            while !shard.events.is_empty() {
                // The answer was lost.
                store.flush(shard.batch(size)).await.expect("it flushes");
                assert_eq!(shard.flush(store, size).await.expect("it flushes").anomalies, 0);
            }
        }
    }
    for shard in &shards.all {
        check(store, shard).await;
    }
    assert_eq!(store.anomalies(10).await.expect("it reads").0, 0);
    let kept: BTreeSet<_> = shards.all[1].holds().into_iter().map(|hold| hold.image.order_no).collect();
    let expected = ["held", "pending", "unheard", "coming", "unknown"];
    assert_eq!(kept, expected.iter().map(|of| order(&format!("of-0-{of}"))).collect());
}

/// Random events of two shards in random batches, with SKUs that leave and come back, give the rows that the shards
/// have; and at any moment every count adds up.
pub async fn any_batches_of_shards_give_the_same_rows(subject: &dyn Subject) {
    let store = taken_by(subject, 4).await;
    let store = &*store;
    let mut shards = Shards::new(4);
    let (mut evicted, mut spanning) = (0, 0);
    for (seed, pair) in [(1, [0, 1]), (2, [3, 2])] {
        let mut dice = Dice(seed);
        let names = shards.names(&format!("{seed}-sku"), 4);
        let skus: Vec<(usize, &str)> = pair
            .iter()
            .flat_map(|shard| names[*shard].iter().map(move |name| (*shard, name.as_str())))
            .collect();
        for (n, (shard, name)) in skus.iter().enumerate() {
            shards.all[*shard].must(if n % 2 == 1 { numbered(name, 300) } else { create(name, W1, 300) });
        }
        let orders: Vec<_> = (0..30).map(|n| format!("{seed}-order-{n}")).collect();
        for step in 0..600_usize {
            let (one, other) = (dice.below(8), dice.below(8));
            let (number, some, few) = (&orders[dice.below(30)], 1 + dice.units(5), 1 + dice.units(2));
            // One shard decides an order, whatever is asked.
            let at = pair[number.len() % 2];
            let request = format!("request-{step}");
            let (sku_id, place) = (skus[other].1, skus[other].0);
            // Refusals are part of it.
            match dice.below(24) {
                0..=6 if one != other => {
                    let of = [(skus[one].1, some), (sku_id, few)];
                    if skus[one].0 == at || place == at {
                        drop(shards.reserve(store, at, number, &of).await);
                    }
                }
                7..=9 => drop(shards.act(store, at, confirm(number, None)).await),
                10 => drop(shards.act(store, at, confirm(number, part(&[(sku_id, few)], &request))).await),
                11 => drop(shards.act(store, at, release(number, None)).await),
                12 => drop(shards.act(store, at, give_back(number, &[(sku_id, few)], &request)).await),
                13 | 14 => shards.tell(at, number, 1 + dice.below(3)),
                15 => drop(shards.act(store, place, restock(sku_id, 3, &request)).await),
                16 => {
                    let (number, at) = (format!("{number}-x"), pair[usize::from(place == pair[0])]);
                    let held = shards.hold_only(store, at, &number, &[(sku_id, 1)]).await;
                    if let Some(attempt) = held.ok().filter(|_| dice.below(16) > 0) {
                        shards.let_go(&number, attempt);
                    }
                }
                17 => shards.all[at].expire_after(u64::from(100 * some)),
                18..=20 => {
                    if dice.below(3) == 0 {
                        shards.all[at].expire_after(700);
                        orders.iter().for_each(|number| shards.tell(pair[number.len() % 2], number, 9));
                        shards.flush_all(store).await;
                    }
                    evicted += shards.all[place].evict(1 + dice.below(5));
                }
                _ => {
                    let shard = &mut shards.all[pair[dice.below(2)]];
                    let most = [3, 40, 200][dice.below(3)];
                    let size = 1 + dice.below(most);
                    if shard.events.is_empty() {
                        continue;
                    }
                    if dice.below(3) == 0 {
                        // The answer was lost.
                        store.flush(shard.batch(size)).await.expect("it flushes");
                    }
                    assert_eq!(shard.flush(store, size).await.expect("it flushes").anomalies, 0);
                    if dice.below(6) == 0 {
                        balance(store).await;
                    }
                }
            }
        }
        assert_eq!(shards.flush_all(store).await, 0);
        for shard in pair {
            let shard = &shards.all[shard];
            assert!(shard.state.audit().violations.is_empty(), "{:?}", shard.state.audit().violations);
            check(store, shard).await;
            let orders = shard.made.orders.values().filter_map(|order| order.span.as_ref());
            spanning += orders.filter(|span| span.decisions > 0).count();
        }
    }
    assert!(evicted > 10 && spanning > 10, "{evicted} {spanning}");
    assert_eq!(store.anomalies(10).await.expect("it reads").0, 0);
}

/// Of an order with many lines of whose decisions its participants know nothing; in one batch with others.
pub async fn what_is_pending_is_kept_however_long_it_is(subject: &dyn Subject) {
    let store = taken_by(subject, 2).await;
    let store = &*store;
    let mut shards = Shards::new(2);
    let names = shards.names("sku", 300);
    let own = names[0][0].as_str();
    shards.all[0].must(create(own, W1, 1_000));
    let mut of = vec![(own, 1)];
    for name in &names[1] {
        shards.all[1].must(create(name, W1, 100));
        of.push((name, 100));
    }
    for number in ["before", "behind"] {
        shards.all[0].must(reserve(number, &[(own, 1)]));
    }
    shards.reserve(store, 0, "between", &of).await.expect("there is plenty");
    shards.flush_all(store).await;
    for number in ["before", "behind"] {
        shards.all[0].must(confirm(number, None));
    }
    let some: Vec<(&str, u32)> = names[1].iter().map(|name| (name.as_str(), 1)).collect();
    for n in 0..90 {
        let some = part(&some, &format!("request-{n}"));
        shards.act(store, 0, confirm("between", some)).await.expect("it is held");
    }
    assert_eq!(shards.flush_all(store).await, 0);
    check(store, &shards.all[0]).await;
}

/// Of each stock what its own shard has flushed counts.
pub async fn counts_fit_whatever_each_shard_has_flushed(subject: &dyn Subject) {
    let store = taken_by(subject, 4).await;
    let store = &*store;
    let mut shards = Shards::new(4);
    for (mark, pair, first) in [("x", (0, 1), 0), ("y", (2, 3), 3)] {
        let names = one_of_everything(&mut shards, store, mark, pair).await;
        let then = pair.0 + pair.1 - first;
        for shard in [first, then] {
            while !shards.all[shard].events.is_empty() {
                shards.all[shard].flush(store, 6).await.expect("it flushes");
                balance(store).await;
            }
        }
        for (shard, name) in [(pair.0, &names.a), (pair.0, &names.m), (pair.1, &names.b), (pair.1, &names.n)]
        {
            let sums = sums(store, &sku(name), W1).await;
            let shown = shards.all[shard].made.stocks[&(sku(name), W1)].levels;
            let held: u64 = sums.lines.iter().map(|(_, held, _)| held).sum();
            let sold: u64 = sums.lines.iter().map(|(.., sold)| sold).sum();
            assert_eq!((held, sold), (shown.reserved, shown.sold), "{name}");
            let names: BTreeSet<_> = sums.lines.iter().map(|(order_no, ..)| order_no).collect();
            assert_eq!(names.len(), sums.lines.len(), "each order once");
        }
    }
}

/// By order, attempt and shard; only those that are not over.
pub async fn holds_come_page_by_page(subject: &dyn Subject) {
    let store = taken_by(subject, 3).await;
    let store = &*store;
    let mut shards = Shards::new(3);
    let names = shards.names("sku", 1).concat();
    for (shard, name) in names.iter().enumerate() {
        shards.all[shard].must(create(name, W1, 1_000));
    }
    let mut attempts = Vec::new();
    for n in 0..12 {
        let number = format!("h-{}", n / 2);
        let of = [(names[1].as_str(), 1), (names[2].as_str(), 2)];
        let held = shards.hold_only(store, 0, &number, &of[n % 3 / 2..]).await;
        attempts.push((number, held.expect("there is plenty")));
    }
    // Over, without and with something sold.
    for (number, attempt) in attempts.drain(..2) {
        shards.let_go(&number, attempt);
    }
    shards.reserve(store, 0, "sold", &[(&names[0], 1), (&names[1], 1)]).await.expect("there is plenty");
    shards.act(store, 0, confirm("sold", None)).await.expect("it is held");
    shards.tell(0, "sold", 9);
    shards.flush_all(store).await;
    let mut expected: Vec<StoredHold> = shards.all.iter().flat_map(|shard| shard.holds()).collect();
    let key = |hold: &StoredHold| (hold.image.order_no.clone(), hold.image.attempt, hold.shard);
    expected.sort_by_key(key);
    assert!(expected.len() > 12, "{}", expected.len());
    for max in [1, 4, 100] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = store.holds(after.as_ref(), max).await.expect("it reads");
            assert!(page.len() <= max);
            let Some(last) = page.last() else { break };
            after = Some(key(last));
            found.extend(page.into_iter().map(sorted));
        }
        assert_eq!(found, expected);
    }
}

/// Wherever the store was cut off: what is held for an order is what it says, or it is told what is pending; and what
/// no order knows is asked after, and let go.
pub async fn new_directories_begin_whole(subject: &dyn Subject) {
    let store = taken_by(subject, 4).await;
    let store = &*store;
    let mut shards = Shards::new(4);
    let (mut asking, mut told) = (0, 0);
    for (mark, pair, size) in [("x", (0, 1), 1), ("y", (2, 3), 3), ("z", (1, 0), 2)] {
        one_of_everything(&mut shards, store, mark, pair).await;
        while !shards.are_flushed() {
            shards.flush(store, size).await;
            let owned = store.ownership().await.expect("it answers");
            let restored = restore(store, Epoch(1), &owned, shards.all[0].now).await.expect("it is sound");
            assert!(restored.repaired.is_empty());
            let states = restored.shards.into_iter().map(|restored| {
                let lsn = restored.mark.lsn;
                let mut state = State::restoring(restored.mark.shard, 4, lsn, restored.end);
                state.restore(restored.images).expect("it fits");
                state
            });
            let states: Vec<State> = states.collect();
            let report = check_holds(&states);
            assert_eq!(report.violations, Vec::<String>::new());
            (asking, told) = (asking + report.asking.len(), told + report.pending);
        }
        balance(store).await;
    }
    assert!(asking > 0 && told > 0, "{asking} {told}");
}

/// A batch of several shards is there as a whole or not at all, once; also one that only looks at some of them.
pub async fn a_batch_of_shards_is_taken_in_as_a_whole(subject: &dyn Subject) {
    let store = taken_by(subject, 4).await;
    let store = &*store;
    let mut shards = Shards::new(4);
    for (mark, pair) in [("x", (0, 1)), ("y", (2, 1))] {
        one_of_everything(&mut shards, store, mark, pair).await;
    }
    let moved = |flushed: &Flushed| flushed.watermarks.iter().map(|mark| mark.lsn).collect::<Vec<_>>();
    for size in [1, 7, 60, 3, usize::MAX] {
        let whole: Vec<Lsn> = shards.batch(size).parts.iter().map(end_of).collect();
        // One of them is not where it should be, with or without events of its own.
        for wrong in [0, 3] {
            let mut batch = shards.batch(size);
            let part = &mut batch.parts[wrong];
            (part.after, part.events) = (part.after.next(), &part.events[part.events.len().min(1)..]);
            if batch.parts.iter().all(|part| part.events.is_empty()) {
                continue;
            }
            let told = store.flush(batch).await.expect("it answers");
            let here: Vec<Lsn> = shards.all.iter().map(|shard| shard.flushed).collect();
            assert_eq!((moved(&told), told.rows, told.anomalies), (here, 0, 0), "nothing is written");
        }
        // The answer was lost.
        let first = store.flush(shards.batch(size)).await.expect("it flushes");
        assert_eq!((moved(&first), first.anomalies), (whole.clone(), 0));
        let again = shards.flush(store, size).await;
        assert_eq!((again.watermarks, again.rows), (first.watermarks, 0));
        let known: Vec<Lsn> =
            store.ownership().await.expect("it answers").watermarks.iter().map(|mark| mark.lsn).collect();
        let flushed: Vec<Lsn> = whole.into_iter().filter(|lsn| *lsn > Lsn::ZERO).collect();
        assert_eq!(known, flushed);
    }
    for shard in &shards.all[..3] {
        check(store, shard).await;
    }
    balance(store).await;
    assert_eq!(store.anomalies(10).await.expect("it reads").0, 0);
}

/// Of each SKU and order: of which the rows of what is held say something else than the order.
async fn other_holds(store: &dyn Store) -> Vec<(String, String, String)> {
    let books = store.books(None, 1_000).await.expect("it reads").rows;
    let mut found = Vec::new();
    for stock in books.stocks {
        let (mut cursor, sku_id) = (SumsCursor::default(), stock.row.sku_id);
        loop {
            let piece = store.sums(&sku_id, W1, &cursor, 3, 5).await.expect("it reads").rows;
            for misfit in piece.misfits {
                if let Misfit::OtherHold { order_no, order, held } = misfit {
                    found.push((order_no.to_string(), sku_id.to_string(), format!("{order}; {held}")));
                }
            }
            cursor.version = piece.journal.last().map_or(cursor.version, |row| row.change.after.version);
            match piece.lines.last() {
                Some((order_no, ..)) => cursor.order_no = Some(order_no.clone()),
                None => break,
            }
        }
    }
    found.sort();
    found
}

/// Rows that somebody deleted or changed, of what is held or was sold; and nothing, whatever is pending, at any moment.
pub async fn what_is_held_otherwise_than_an_order_says_is_named(subject: &dyn Subject) {
    let store = taken_by(subject, 2).await;
    let store = &*store;
    let mut shards = Shards::new(2);
    let names = one_of_everything(&mut shards, store, "x", (0, 1)).await;
    while !shards.are_flushed() {
        shards.flush(store, 9).await;
        assert_eq!(other_holds(store).await, []);
    }
    for (number, units, said) in [
        ("held", None, ["3 held, 0 sold; 0 held, 0 sold", "2 held, 0 sold; 0 held, 0 sold"]),
        ("whole", None, ["0 held, 3 sold; 0 held, 0 sold", "0 held, 2 sold; 0 held, 0 sold"]),
        ("back", Some(1), ["0 held, 0 sold; 1 held, 0 sold", "0 held, 2 sold; 1 held, 2 sold"]),
        // It is not known yet what its participant has done.
        ("pending", None, ["", ""]),
    ] {
        let order_no = order(&format!("x-{number}"));
        let before = other_holds(store).await;
        subject.edit_holds(&order_no, units).await;
        let now: Vec<_> =
            other_holds(store).await.into_iter().filter(|told| !before.contains(told)).collect();
        let expected = [&names.b, &names.n].into_iter().zip(said).filter(|(_, said)| !said.is_empty());
        let expected = expected.map(|(name, said)| (order_no.to_string(), name.clone(), said.to_owned()));
        let mut expected: Vec<_> = expected.collect();
        expected.sort();
        assert_eq!(now, expected, "{number}");
        // Nor is it what a new directory begins with, while units are held.
        let owned = store.ownership().await.expect("it answers");
        let refused = restore(store, Epoch(1), &owned, shards.all[0].now).await.expect_err("it is not sound");
        // An ended order for which something is held is looked at as well.
        let first = if before.iter().chain(&now).any(|(of, ..)| of == "x-back") {
            "order x-back: 1 units of SKU"
        } else {
            "order x-held: 0 units of SKU"
        };
        assert!(refused.to_string().starts_with(first), "{refused}");
    }
}

fn end_of(part: &FlushPart<'_>) -> Lsn {
    part.after.plus(part.events.len() as u64)
}

/// Both the orders and what is held for them.
pub async fn new_directories_begin_with_what_is_held(subject: &dyn Subject) {
    let store = taken_by(subject, 2).await;
    let store = &*store;
    let mut shards = Shards::new(2);
    one_of_everything(&mut shards, store, "x", (0, 1)).await;
    shards.flush_all(store).await;
    let owned = store.ownership().await.expect("it answers");
    let now = shards.all[0].now;
    let restored = restore(store, Epoch(1), &owned, now).await.expect("it is sound");
    assert!(restored.repaired.is_empty());
    let mut states = Vec::new();
    let began: Vec<_> =
        restored.shards.iter().map(|shard| (shard.mark, shard.end, shard.images.clone())).collect();
    for (shard, restored) in shards.all.iter().zip(restored.shards) {
        assert_eq!(restored.mark.lsn, shard.flushed);
        let mut state = State::restoring(shard.shard, 2, restored.mark.lsn, restored.end);
        state.restore(restored.images).expect("it fits");
        let held = |state: &State| -> BTreeMap<_, _> {
            let lines = state.holds().flat_map(|hold| {
                let key = (hold.order_no.clone(), hold.attempt, hold.seq);
                hold.lines.into_iter().map(move |line| ((key.clone(), line.sku_id.clone()), line))
            });
            lines.collect()
        };
        assert_eq!(held(&state), held(&shard.state));
        let open: BTreeMap<_, _> = shard.made.orders.iter().filter(|(_, image)| !image.is_done()).collect();
        let found: Vec<_> = state.orders().collect();
        assert_eq!(found.len(), open.len());
        for image in &found {
            assert_eq!(Some(&image), open.get(&image.order_no));
        }
        for ((sku_id, warehouse_id), image) in &shard.made.stocks {
            let restored = state.image_of_stock(sku_id, *warehouse_id).expect("something is held of each");
            assert_eq!(restored.levels, image.levels);
        }
        states.push(state);
    }
    let report = check_holds(&states);
    assert_eq!((report.violations, report.asking), (Vec::new(), vec![order("x-unknown")]));
    // What nobody wrote is named, also where the units are right.
    let edits: [fn(&mut Image); 3] = [
        |image| {
            if let Image::Order(order) = image {
                order.span = None;
            }
        },
        |image| {
            if let Image::Hold(hold) = image {
                hold.coordinator = ShardId(1 - hold.coordinator.0);
            }
        },
        |image| {
            if let Image::Hold(hold) = image {
                hold.seq += 100;
            }
        },
    ];
    for edit in edits {
        let states = began.iter().cloned().map(|(mark, end, mut images)| {
            images.iter_mut().for_each(edit);
            let mut state = State::restoring(mark.shard, 2, mark.lsn, end);
            state.restore(images).expect("each shard by itself fits");
            state
        });
        assert_ne!(check_holds(&states.collect::<Vec<_>>()).violations, Vec::<String>::new());
    }
}

/// As soon as nothing more can come of it; what it sold stays in the sums of all its stocks.
pub async fn an_order_over_several_shards_goes_with_its_holds(subject: &dyn Subject) {
    let store = taken_by(subject, 2).await;
    let store = &*store;
    let mut shards = Shards::new(2);
    let names = one_of_everything(&mut shards, store, "x", (0, 1)).await;
    let all = [(names.a.as_str(), 2), (names.b.as_str(), 3)];
    shards.reserve(store, 0, "young", &all).await.expect("there is plenty");
    shards.act(store, 0, confirm("young", None)).await.expect("it is held");
    shards.tell(0, "young", 9);
    for shard in &mut shards.all {
        shard.now = shard.now.plus_seconds(1_000);
    }
    let old = shards.all[0].now;
    shards.act(store, 0, give_back("young", &[(&names.b, 1)], "1")).await.expect("it was sold");
    shards.tell(0, "young", 9);
    // The other shard is behind: what it sold is not in its rows yet.
    shards.all[0].flush_all(store).await;
    let held = shards.all[1].events.iter().position(|(_, event)| {
        matches!(&event.change, crate::contract::event::Change::HoldChanged { order_no, .. } if *order_no == order("x-whole"))
    });
    shards.all[1].flush(store, held.expect("it sold some")).await.expect("it flushes");
    let prune = Prune { epoch: Epoch(1), orders_before: Some(old), max: 2, ..Prune::default() };
    prune_all(store, &prune).await;
    balance(store).await;
    let there = |store| async move {
        let numbers: Vec<(OrderNo, _)> = store_numbers(store).await;
        numbers.into_iter().map(|(order_no, _)| order_no).collect::<BTreeSet<_>>()
    };
    assert!(there(store).await.contains(&order("x-whole")), "units are held for it");

    shards.all[1].flush_all(store).await;
    assert_eq!(store.anomalies(10).await.expect("it reads").0, 0);
    balance(store).await;
    let pruned = prune_all(store, &prune).await;
    assert!(pruned.orders >= 4, "{pruned:?}");
    balance(store).await;
    let expected = ["coming", "held", "pending", "unheard"].map(|of| order(&format!("x-{of}")));
    let expected: BTreeSet<_> = expected.into_iter().chain([order("young")]).collect();
    assert_eq!(there(store).await, expected);
    for name in [&names.a, &names.m, &names.b, &names.n] {
        assert!(sums(store, &sku(name), W1).await.pruned.sold > 0, "{name}");
    }
    // What is held stays, of orders that are not there too.
    let holds: BTreeSet<_> =
        store.holds(None, 100).await.expect("it reads").into_iter().map(|hold| hold.image.order_no).collect();
    assert!(holds.contains(&order("x-unknown")));

    // And everything goes on from there.
    for of in ["pending", "unheard", "coming"] {
        shards.tell(0, &format!("x-{of}"), 9);
    }
    shards.act(store, 0, confirm("x-held", None)).await.expect("it is held");
    shards.tell(0, "x-held", 9);
    assert_eq!(shards.flush_all(store).await, 0);
    balance(store).await;
    let loaded = load(store, &[], &[order("x-held"), order("young"), order("x-whole")]).await;
    assert_eq!(loaded.orders.len(), 2);
    assert_eq!(loaded.orders[0].shard, ShardId(0));
    assert!(loaded.unreadable_orders.is_empty());
}

async fn store_numbers(store: &dyn Store) -> Vec<(OrderNo, crate::base::clock::Timestamp)> {
    store.order_numbers(None, 1_000).await.expect("it reads")
}
