//! Random steps against a twin that only counts.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    Allocate,
    Batch(usize),
    Drop(usize),
    Release(usize),
    Detach(usize),
    Attach(usize),
    FreeId(usize),
    Reset,
    Trim,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Allocate),
        2 => (0_usize..8).prop_map(Step::Batch),
        6 => (0_usize..32).prop_map(Step::Drop),
        2 => (0_usize..32).prop_map(Step::Release),
        2 => (0_usize..32).prop_map(Step::Detach),
        1 => (0_usize..8).prop_map(Step::Attach),
        1 => (0_usize..8).prop_map(Step::FreeId),
        1 => Just(Step::Reset),
        1 => Just(Step::Trim),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_done_it_agrees_with_a_twin_that_counts(
        steps in proptest::collection::vec(step(), 1..200), capacity in 1_u32..24, guarded in any::<bool>(),
    ) {
        let allocator = SlabAllocator::builder(200, capacity).bit_guard(guarded).build().expect("an allocator");
        let capacity = capacity as usize;
        // What is held: the reference, what was written to it, and whether it is valid. And ids, with what was written.
        let mut held: Vec<(SlabRef<'_>, u8, bool)> = Vec::new();
        let mut ids: BTreeMap<SlabId, u8> = BTreeMap::new();
        let (mut mark, mut served) = (0_u8, 0_u64);
        for step in steps {
            let live = held.len() + ids.len();
            match step {
                Step::Allocate => match allocator.allocate() {
                    Ok(mut slab) => {
                        prop_assert!(live < capacity);
                        prop_assert!(!guarded || slab.iter().all(|byte| *byte == 0));
                        mark = mark.wrapping_add(1);
                        slab.fill(mark);
                        held.push((slab, mark, true));
                        served += 1;
                    }
                    Err(error) => {
                        prop_assert_eq!(live, capacity);
                        let expected =
                            SlabError::OutOfMemory { requested: 1, in_use: live as u64, capacity: live as u64 };
                        prop_assert_eq!(error, expected);
                    }
                },
                Step::Batch(count) => match allocator.allocate_batch(count) {
                    Ok(batch) => {
                        prop_assert!(live + count <= capacity && batch.len() == count);
                        served += count as u64;
                        for mut slab in batch {
                            mark = mark.wrapping_add(1);
                            slab.fill(mark);
                            held.push((slab, mark, true));
                        }
                    }
                    Err(_) => prop_assert!(live + count > capacity),
                },
                Step::Drop(at) if at < held.len() => drop(held.swap_remove(at)),
                Step::Release(at) if at < held.len() => {
                    let (mut slab, _, is_valid) = held.swap_remove(at);
                    let expected = if is_valid { Ok(()) } else { Err(SlabError::InvalidReference) };
                    prop_assert_eq!(slab.release(), expected);
                    prop_assert_eq!(slab.release(), Err(SlabError::DoubleFree));
                }
                Step::Detach(at) if at < held.len() => {
                    let (slab, mark, is_valid) = held.swap_remove(at);
                    match slab.detach() {
                        Ok(id) => {
                            prop_assert!(is_valid);
                            ids.insert(id, mark);
                        }
                        Err(error) => prop_assert!(!is_valid && error == SlabError::InvalidReference),
                    }
                }
                Step::Attach(at) if at < ids.len() => {
                    let (&id, &mark) = ids.iter().nth(at).expect("it is below the length");
                    ids.remove(&id);
                    held.push((allocator.attach(id).expect("it is kept"), mark, true));
                    prop_assert!(allocator.attach(id).is_err());
                }
                Step::FreeId(at) if at < ids.len() => {
                    let id = *ids.keys().nth(at).expect("it is below the length");
                    ids.remove(&id);
                    prop_assert_eq!(allocator.deallocate_id(id), Ok(()));
                    prop_assert_eq!(allocator.deallocate_id(id), Err(SlabError::DoubleFree));
                }
                Step::Reset => {
                    allocator.reset();
                    ids.clear();
                    held.iter_mut().for_each(|(_, _, is_valid)| *is_valid = false);
                }
                Step::Trim => allocator.trim(),
                _ => {}
            }
            for (slab, mark, is_valid) in &held {
                match slab.bytes() {
                    Ok(bytes) => prop_assert!(*is_valid && bytes.iter().all(|byte| byte == mark)),
                    Err(_) => prop_assert!(!is_valid),
                }
            }
            let stats = allocator.stats();
            prop_assert_eq!(stats.used_slabs, (held.len() + ids.len()) as u64);
            prop_assert_eq!(stats.detached_slabs, ids.len() as u64);
            prop_assert_eq!((stats.total_allocations, stats.guard_violations), (served, 0));
            prop_assert_eq!(stats.total_deallocations, served - stats.used_slabs);
            allocator.heap.check();
        }
    }
}
