//! Random calls on a pool of objects, and on a plain vector beside it.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Acquire,
    TryAcquire,
    GiveBack(usize),
    GiveBackBroken(usize),
    TakeOut(usize),
    Fill(usize),
    KeptMax(usize),
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Acquire),
        3 => Just(Step::TryAcquire),
        8 => any::<usize>().prop_map(Step::GiveBack),
        2 => any::<usize>().prop_map(Step::GiveBackBroken),
        1 => any::<usize>().prop_map(Step::TakeOut),
        1 => (0_usize..8).prop_map(Step::Fill),
        1 => (0_usize..8).prop_map(Step::KeptMax),
        1 => prop_oneof![9 => Just(Step::TryAcquire), 1 => Just(Step::Close)],
    ]
}

/// The same pool, naively.
#[derive(Default)]
struct Twin {
    kept: Vec<(usize, bool)>,
    next: usize,
    existing: usize,
    is_closed: bool,
    counts: [u64; 6],
}

proptest! {
    #[test]
    fn a_pool_does_what_a_plain_vector_would(
        objects_max in 1_usize..8, kept_max in 0_usize..8, steps in prop::collection::vec(step(), 0..80),
    ) {
        let pool = numbers(objects_max).kept_max(kept_max).reset(|number| *number != usize::MAX).build();
        let mut kept_max = kept_max;
        let mut twin = Twin::default();
        let mut used: Vec<Pooled<usize>> = Vec::new();
        for step in steps {
            let picked = |at: usize| (!used.is_empty()).then(|| at % used.len());
            match step {
                Step::Acquire | Step::TryAcquire => {
                    let expected = match twin.kept.pop() {
                        Some((number, was_used)) => {
                            twin.counts[1] += u64::from(was_used);
                            Some(number)
                        }
                        None if matches!(step, Step::TryAcquire) || twin.is_closed || twin.existing == objects_max => None,
                        None => {
                            (twin.next, twin.existing, twin.counts[0]) = (twin.next + 1, twin.existing + 1, twin.counts[0] + 1);
                            Some(twin.next - 1)
                        }
                    };
                    let got = if matches!(step, Step::Acquire) { pool.acquire().ok() } else { pool.try_acquire() };
                    prop_assert_eq!(got.as_deref().copied(), expected);
                    used.extend(got);
                }
                Step::GiveBack(at) | Step::GiveBackBroken(at) => {
                    let Some(at) = picked(at) else { continue };
                    let mut object = used.swap_remove(at);
                    let is_broken = matches!(step, Step::GiveBackBroken(_));
                    twin.counts[2] += 1;
                    if is_broken || twin.is_closed || twin.kept.len() >= kept_max {
                        (twin.existing, twin.counts[3]) = (twin.existing - 1, twin.counts[3] + 1);
                    } else {
                        twin.kept.push((*object, true));
                    }
                    if is_broken { *object = usize::MAX; }
                }
                Step::TakeOut(at) => {
                    let Some(at) = picked(at) else { continue };
                    used.swap_remove(at).into_inner();
                    twin.existing -= 1;
                }
                Step::Fill(count) => {
                    let wanted = if twin.is_closed { 0 } else { count.min(kept_max).saturating_sub(twin.kept.len()).min(objects_max - twin.existing) };
                    twin.kept.extend((0..wanted).map(|more| (twin.next + more, false)));
                    (twin.next, twin.existing, twin.counts[0]) = (twin.next + wanted, twin.existing + wanted, twin.counts[0] + wanted as u64);
                    prop_assert_eq!(pool.fill(count).unwrap_or(0), wanted);
                }
                Step::KeptMax(count) => {
                    pool.set_kept_max(count);
                    kept_max = count;
                    let surplus = twin.kept.len().saturating_sub(count);
                    twin.kept.drain(..surplus);
                    (twin.existing, twin.counts[3]) = (twin.existing - surplus, twin.counts[3] + surplus as u64);
                }
                Step::Close => {
                    pool.close();
                    twin.is_closed = true;
                    (twin.existing, twin.counts[3]) = (twin.existing - twin.kept.len(), twin.counts[3] + twin.kept.len() as u64);
                    twin.kept.clear();
                }
            }
            (twin.counts[4], twin.counts[5]) = (twin.kept.len() as u64, used.len() as u64);
            prop_assert_eq!(counts(&pool), twin.counts);
        }
    }
}
