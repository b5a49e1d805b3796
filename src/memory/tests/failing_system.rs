//! Every system call about memory fails in turn, once or from then on: an error value each time, nothing is lost, and the
//! next call works.

use super::*;
use crate::memory::os::faults;

fn configs() -> Vec<Config> {
    let base = Config {
        slab_sizes: vec![1024, 3000, 4096, 32 << 10],
        max_pool_size: 96 << 10,
        initial_slabs_per_size: 2,
        prefault: true,
        classes: [(3000, ClassConfig { max_free: Some(2), ..ClassConfig::default() })].into(),
        ..Config::default()
    };
    let guarded = Config { guard_pages: true, ..base.clone() };
    let huge = Config {
        slab_sizes: vec![1 << 20, 2 << 20],
        max_pool_size: 4 << 20,
        huge_pages: HugePages::TwoMebibytes,
        guard_pages: true,
        ..Config::default()
    };
    vec![base, guarded, huge]
}

/// Takes slabs of every class, writes to them, fills the pool, and has each class pay for another. What is refused for
/// want of pages is counted, and tried again.
fn work(heap: &Arc<Heap>) -> u64 {
    let sizes: Vec<u64> = heap.stats().classes.iter().map(|class| class.slab_size_bytes).collect();
    let mut failures = 0;
    for round in 0..2 {
        for size in sizes.iter().chain(sizes.iter().rev()) {
            let mut slabs = Vec::new();
            let enough = if round == 0 { 2 } else { usize::MAX };
            while slabs.len() < enough {
                match allocate(heap, *size) {
                    Ok(slab) => {
                        write(heap, slab, size - 2, &[1]).expect("the only holder");
                        slabs.push(slab);
                    }
                    Err(AllocateError::System { requested_bytes, error }) => {
                        assert_eq!((requested_bytes, error.errno), (*size, rustix::io::Errno::NOMEM));
                        failures += 1;
                        if failures % 3 == 0 {
                            break; // it may fail for ever
                        }
                    }
                    Err(AllocateError::Exhausted { in_use_bytes, .. }) => {
                        assert!(in_use_bytes + size > heap.limit_bytes());
                        break;
                    }
                }
            }
            heap.check();
            for (at, slab) in slabs.iter().enumerate() {
                let pin = (at % 7 == 0).then(|| Pin::new(heap, *slab).expect("held"));
                assert!(heap.check_slack(*slab, size - 1));
                drop(pin);
            }
            slabs.into_iter().for_each(|slab| heap.free(slab));
            heap.sweep_slice(1 << 20);
            let depth = if round == 0 { ReclaimDepth::Gentle } else { ReclaimDepth::Aggressive };
            while !heap.reclaim_for_pressure_slice(depth).is_done {}
            heap.check();
        }
    }
    failures
}

/// Walks the calls of one life of a heap. Returns how many there are.
fn walk(config: &Config, fail: fn(u64)) -> u64 {
    for nth in 0.. {
        fail(nth);
        let made = Heap::new(config).map(Arc::new);
        let failures = made.as_ref().map_or(0, work);
        if faults::disarm() {
            assert_eq!(failures, 0, "nothing failed by itself");
            made.expect("no call failed");
            return nth;
        }
        match made {
            Err(HeapError::System(error)) => assert_eq!(error.errno, rustix::io::Errno::NOMEM),
            Err(error) => panic!("call {nth}: {error}"),
            Ok(heap) => {
                assert_eq!(heap.in_use_bytes(), 0, "call {nth}");
                assert_eq!(heap.stats().draining_bytes, 0);
                assert_eq!(work(&heap), 0, "the next calls work");
                assert_eq!(heap.in_use_bytes(), 0);
            }
        }
    }
    unreachable!("a life has an end")
}

#[test]
fn a_system_that_fails_at_any_call_is_an_error_value_and_nothing_leaks() {
    for config in configs() {
        for refuse_markers in [false, true] {
            faults::refuse_markers(refuse_markers);
            for fail in [faults::fail_after, faults::fail_on_after] {
                if refuse_markers && !config.guard_pages {
                    continue; // there are none
                }
                let calls = walk(&config, fail);
                assert!(calls > 20, "a life makes more calls than {calls}");
            }
        }
    }
}
