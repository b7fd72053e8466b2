//! Long histories of a toy server that is right by its make: all are explained, in time, and with one wrong number they
//! are refused.

use fastrand::Rng;

use super::script::Script;

/// Callers at the same time.
const CALLERS: usize = 8;

/// So many units of `a` to begin with.
const UNITS: i64 = 40;

/// One server, many callers: everything happens at a moment of its own between its request and its answer. Some
/// answers never come.
fn history(mut script: Script, seed: u64, operations: u64, wrong: Option<u64>) -> Script {
    let mut rng = Rng::with_seed(seed);
    let (mut available, mut reserved, mut version) = (UNITS, 0_i64, 1_i64);
    for number in 1..=operations {
        let at = number * 10;
        let spread = u64::try_from(CALLERS).unwrap() * 10;
        let times = [at.saturating_sub(rng.u64(1..spread)), at + rng.u64(1..spread)];
        let units = rng.u64(1..4);
        let order = format!("o{number}");
        match rng.u8(0..10) {
            0..5 if available >= i64::try_from(units).unwrap() => {
                available -= i64::try_from(units).unwrap();
                reserved += i64::try_from(units).unwrap();
                version += 1;
                script = if rng.u8(0..10) == 0 {
                    let again = [times[1] + 1, times[1] + rng.u64(2..200)];
                    script.reserve_cut_off(times, &order, units).reserve(
                        again,
                        &order,
                        units,
                        200,
                        [units, 0, 0, 0],
                    )
                } else {
                    script.reserve(times, &order, units, 201, [units, 0, 0, 0])
                };
            }
            0..5 => script = script.short(times, &order, units, available),
            5..8 => {
                let more = rng.i64(1..3);
                available += more;
                version += 1;
                script = script.restock(times, &order, more, false, [available, reserved, 0, version]);
            }
            _ => {
                let off = i64::from(wrong == Some(number));
                script = script.read(times, [available - off, reserved + off, 0, version]);
            }
        }
    }
    script
}

#[test]
fn right_histories_are_explained() {
    for seed in 0..40 {
        history(Script::with(UNITS), seed, 150, None).explained();
    }
    history(Script::with(UNITS).patient(), 77, 5_000, None).explained();
}

#[test]
fn a_wrong_read_is_refused() {
    for seed in 0..40 {
        let is_refused =
            |number: &u64| !history(Script::with(UNITS), seed, 100, Some(*number)).can_be_explained();
        let wrong = (20..100).find(is_refused);
        assert!(wrong.is_some(), "seed {seed}: no read that is off by one is refused");
    }
}
