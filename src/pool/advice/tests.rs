//! Advice at the door: who is told, what content is afterwards, and that giving content up needs no room, leaves readers
//! what they have, and is seen whole or not at all.

use super::*;
use crate::memory::{self, Heap};
use crate::pool::tests::at_once;
use crate::pool::{AllocateRequest, ArenaRequest, ArenaSize, Chore, Config, Content, Priority, Upload};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

const MEBIBYTE: u64 = 1 << 20;
const NOW: Now = Now(1);
/// More than is given back where it is discarded.
const LARGE: u64 = 12 * MEBIBYTE;

fn pool(limit: u64) -> Pool {
    let memory = memory::Config {
        slab_sizes: vec![1000, 4096, MEBIBYTE],
        max_pool_size: limit,
        initial_slabs_per_size: 0,
        ..memory::Config::default()
    };
    let config = Config { write_wait_ms: 0, ..Config::default() };
    Pool::new(Heap::new(&memory).expect("the configuration is right"), &config)
}

fn heap(pool: &Pool) -> &Arc<Heap> {
    let Engine::Local(local) = &pool.engine;
    local.heap()
}

fn allocate(pool: &Pool, size_bytes: u64) -> AllocationId {
    at_once(pool.allocate(&AllocateRequest::new(size_bytes), Duration::ZERO, NOW)).expect("there is room").id
}

/// What a call says that may let others run in between.
fn wait_for<T>(call: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(call)
}

fn advise(pool: &Pool, id: AllocationId, advice: Advice) -> Result<Option<u64>, AdviseError> {
    wait_for(pool.advise(id, advice, NOW)).map(|written| written.map(|written| written.version))
}

fn begin(pool: &Pool, id: AllocationId) -> Upload<'_> {
    let any = Precondition::default();
    at_once(pool.upload(id, Placement::Replace, &any, NOW)).expect("there is room")
}

fn fill(pool: &Pool, id: AllocationId, size_bytes: u64) {
    let mut upload = begin(pool, id);
    upload.push(&vec![7; usize::try_from(size_bytes).expect("small")]).expect("it fits");
    upload.commit(&Precondition::default(), NOW).expect("live");
}

fn patch(pool: &Pool, id: AllocationId, offset: u64, bytes: &[u8]) -> Result<u64, WriteError> {
    let pieces = [Bytes::copy_from_slice(bytes)];
    let any = Precondition::default();
    at_once(pool.write(id, Placement::Patch { offset }, &pieces, &any, NOW)).map(|written| written.version)
}

fn begin_to_read(pool: &Pool, id: AllocationId) -> Content {
    at_once(pool.read(id, NOW)).expect("live")
}

/// Whether all of it is this byte.
fn is_all(content: Content, byte: u8) -> bool {
    let size_bytes = content.size_bytes;
    content.read(0..size_bytes).all(|piece| piece.iter().all(|found| *found == byte))
}

fn counted(pool: &Pool, advice: Advice, outcome: AdviceOutcome) -> u64 {
    at_once(pool.stats()).heap.advice.0[advice as usize][outcome as usize]
}

fn assert_quiet(pool: &Pool) {
    heap(pool).check();
    let stats = at_once(pool.stats());
    assert_eq!((stats.heap.in_use_bytes, stats.heap.draining_bytes, stats.objects.objects), (0, 0, 0));
}

#[test]
fn content_that_is_given_up_is_zeros_of_a_new_version_and_needs_no_room() {
    for advice in [Advice::Free, Advice::DontNeed, Advice::Remove] {
        for size_bytes in [100, 1000, 5000, MEBIBYTE, 3 * MEBIBYTE, LARGE] {
            // Not a byte is left beside it.
            let made = pool(size_bytes + MEBIBYTE);
            let id = allocate(&made, size_bytes);
            let rest: Vec<_> = std::iter::from_fn(|| {
                let request = AllocateRequest::new(1000);
                at_once(made.allocate(&request, Duration::ZERO, NOW)).ok()
            })
            .collect();
            fill(&made, id, size_bytes);
            assert_eq!(advise(&made, id, advice), Ok(Some(2)), "{advice:?} of {size_bytes}");
            let content = begin_to_read(&made, id);
            assert_eq!(content.version, 2);
            assert!(is_all(content, 0), "{advice:?} of {size_bytes}");
            assert_eq!(advise(&made, id, advice), Ok(Some(3)), "once more");
            assert_eq!(patch(&made, id, 50, b"after"), Ok(4), "and it can be written as ever");
            let after: Vec<u8> = begin_to_read(&made, id).read(49..56).flatten().collect();
            assert_eq!(after, b"\0after\0");
            assert_eq!(counted(&made, advice, AdviceOutcome::Applied), 2);
            for id in rest.into_iter().map(|made| made.id).chain([id]) {
                at_once(made.free(id, NOW)).expect("live");
            }
            assert_quiet(&made);
        }
    }
}

#[test]
fn readers_keep_what_they_have_and_then_it_takes_room_for_both() {
    for size_bytes in [1000, MEBIBYTE, 6 * MEBIBYTE] {
        let made = pool(16 * MEBIBYTE);
        let id = allocate(&made, size_bytes);
        fill(&made, id, size_bytes);
        let held = begin_to_read(&made, id);
        assert_eq!(advise(&made, id, Advice::DontNeed), Ok(Some(2)));
        assert!(is_all(begin_to_read(&made, id), 0) && held.version == 1);
        assert!(is_all(held, 7), "of {size_bytes}");
        at_once(made.free(id, NOW)).expect("live");
        assert_quiet(&made);
    }
    let made = pool(16 * MEBIBYTE);
    let id = allocate(&made, LARGE);
    fill(&made, id, LARGE);
    let held = begin_to_read(&made, id);
    let refused = advise(&made, id, Advice::DontNeed);
    assert!(matches!(refused, Err(AdviseError::Write(_))), "{refused:?}");
    assert!(begin_to_read(&made, id).version == 1 && is_all(held, 7), "nothing was changed");
    assert_eq!(advise(&made, id, Advice::DontNeed), Ok(Some(2)), "once nobody reads it");
}

#[test]
fn a_large_block_is_zeros_at_once_and_its_pages_go_back_in_the_janitors_time() {
    let made = pool(64 * MEBIBYTE);
    made.begin_janitor();
    let id = allocate(&made, LARGE);
    let resident = |made: &Pool| heap(made).large_resident_kib();
    fill(&made, id, LARGE);
    let full = resident(&made);
    assert!(full >= LARGE >> 10);
    assert_eq!(advise(&made, id, Advice::DontNeed), Ok(Some(2)));
    assert!(is_all(begin_to_read(&made, id), 0) && resident(&made) == full, "before a page went back");
    assert_eq!(advise(&made, id, Advice::DontNeed), Ok(Some(3)), "once more meanwhile");
    assert!(matches!(made.await_chore(Duration::ZERO), Chore::Scrub));
    while made.await_chore(Duration::ZERO) == Chore::Scrub {
        made.scrub_slice();
    }
    assert!(resident(&made) < 64, "{} KiB are resident still", resident(&made));
    let content = begin_to_read(&made, id);
    assert_eq!(content.version, 3);
    assert!(is_all(content, 0));
    let in_use_bytes = heap(&made).in_use_bytes();
    assert_eq!(patch(&made, id, LARGE - 1, b"x"), Ok(4), "in place");
    assert_eq!(heap(&made).in_use_bytes(), in_use_bytes);
}

#[test]
fn what_is_written_or_freed_while_pages_go_back_is_as_if_they_were_gone() {
    for end in ["patch", "put", "free"] {
        let made = pool(64 * MEBIBYTE);
        made.begin_janitor();
        let id = allocate(&made, LARGE);
        fill(&made, id, LARGE);
        assert_eq!(advise(&made, id, Advice::Free), Ok(Some(2)));
        match end {
            // Into segments of its own: the block's are lent.
            "patch" => assert_eq!(patch(&made, id, 5 * MEBIBYTE, b"patched"), Ok(3)),
            "put" => fill(&made, id, LARGE),
            _ => at_once(made.free(id, NOW)).expect("live"),
        }
        while made.await_chore(Duration::ZERO) == Chore::Scrub {
            made.scrub_slice();
        }
        if end != "free" {
            let content = begin_to_read(&made, id);
            assert_eq!(content.version, 3);
            let bytes: Vec<u8> = content.read(0..LARGE).flatten().collect();
            let at = usize::try_from(5 * MEBIBYTE).expect("small");
            let expected: &[u8] = if end == "put" { &[7; 7] } else { b"patched" };
            assert_eq!(&bytes[at..at + 7], expected);
            let rest = if end == "put" { 7 } else { 0 };
            assert!(bytes[..at].iter().chain(&bytes[at + 7..]).all(|byte| *byte == rest));
            at_once(made.free(id, NOW)).expect("live");
        }
        made.end_janitor();
        made.abandon_chores();
        assert_quiet(&made);
    }
}

#[test]
fn content_that_an_upload_fills_for_the_first_time_is_given_up_beside_it() {
    for size_bytes in [1000, 6 * MEBIBYTE] {
        let made = pool(64 * MEBIBYTE);
        let id = allocate(&made, size_bytes);
        let mut upload = begin(&made, id);
        upload.push(&[7; 1000]).expect("it fits");
        assert_eq!(advise(&made, id, Advice::DontNeed), Ok(Some(1)));
        assert!(is_all(begin_to_read(&made, id), 0));
        assert_eq!(upload.commit(&Precondition::default(), NOW).map(|written| written.version), Ok(2));
        let first: Vec<u8> = begin_to_read(&made, id).read(0..1000).flatten().collect();
        assert_eq!(first, [7; 1000], "whoever comes last has it");
        at_once(made.free(id, NOW)).expect("live");
        assert_quiet(&made);
    }
}

#[test]
fn hints_change_no_byte_and_no_version_and_what_became_of_them_is_counted() {
    let made = pool(64 * MEBIBYTE);
    for size_bytes in [1000, MEBIBYTE, LARGE] {
        let id = allocate(&made, size_bytes);
        fill(&made, id, size_bytes);
        for advice in Advice::ALL.into_iter().filter(|advice| !advice.discards()) {
            let answer = advise(&made, id, advice);
            match advice {
                Advice::Mergeable => assert_eq!(answer, Err(AdviseError::MayNotMerge)),
                _ => assert_eq!(answer, Ok(None), "{advice:?}"),
            }
        }
        let content = begin_to_read(&made, id);
        assert_eq!(content.version, 1);
        assert!(is_all(content, 7));
        at_once(made.free(id, NOW)).expect("live");
        assert_eq!(advise(&made, id, Advice::Random), Err(NotFound(id).into()));
        assert_eq!(advise(&made, id, Advice::Mergeable), Err(NotFound(id).into()));
        assert_eq!(advise(&made, id, Advice::Free), Err(NotFound(id).into()));
    }
    for advice in [Advice::WillNeed, Advice::Sequential, Advice::Random, Advice::HugePage] {
        let counts = [AdviceOutcome::Nothing, AdviceOutcome::Applied].map(|of| counted(&made, advice, of));
        assert_eq!(counts, [1, 2], "{advice:?}: a block of 1000 bytes shares its page");
    }
    assert_quiet(&made);
}

#[test]
fn pages_of_what_is_wanted_soon_are_made_while_others_run() {
    let made = pool(64 * MEBIBYTE);
    let id = allocate(&made, LARGE);
    assert_eq!(heap(&made).large_resident_kib(), 0);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let turns = std::cell::Cell::new(0);
    runtime.block_on(async {
        let others = async {
            loop {
                turns.set(turns.get() + 1);
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            answer = made.advise(id, Advice::WillNeed, NOW) => assert_eq!(answer.map(|_| ()), Ok(())),
            () = others => {}
        }
    });
    assert_eq!(heap(&made).large_resident_kib(), LARGE >> 10);
    assert!(turns.get() >= LARGE / SLICE_MADE_BYTES - 1, "others had {} turns", turns.get());
    assert!(is_all(begin_to_read(&made, id), 0));
    assert_eq!(begin_to_read(&made, id).version, 0);
}

#[test]
fn a_member_of_an_arena_is_zeroed_where_it_lies_and_takes_no_hints() {
    let made = pool(64 * MEBIBYTE);
    let request = ArenaRequest {
        size: ArenaSize::Estimate(10_000),
        parent: None,
        limit_bytes: None,
        lease: None,
        tag: None,
        priority: Priority::Normal,
    };
    let arena = wait_for(made.create_arena(&request, Duration::ZERO, NOW)).expect("there is room").id;
    let member = wait_for(made.allocate_in_arena(arena, 5000, Priority::Normal, Duration::ZERO, NOW))
        .expect("there is room")
        .id;
    assert_eq!(patch(&made, member, 10, b"member"), Ok(1));
    assert_eq!(advise(&made, member, Advice::Random), Ok(None));
    assert_eq!(counted(&made, Advice::Random, AdviceOutcome::Nothing), 1);
    assert_eq!(advise(&made, member, Advice::DontNeed), Ok(Some(2)));
    let content = begin_to_read(&made, member);
    assert_eq!(content.version, 2);
    assert!(is_all(content, 0));
    at_once(made.rollback_arena(arena, NOW)).expect("open");
    assert_eq!(advise(&made, member, Advice::Random), Err(NotFound(member).into()));
    assert_eq!(advise(&made, member, Advice::Free), Err(AdviseError::Write(NotFound(member).into())));
}

#[test]
fn threads_that_write_read_and_give_up_content_see_it_whole() {
    let made = pool(128 * MEBIBYTE);
    made.begin_janitor();
    let sizes = [4096, LARGE];
    let ids = sizes.map(|size_bytes| allocate(&made, size_bytes));
    // Across the border of two segments.
    let places = [1000, 4 * MEBIBYTE - 32];
    let rounds = if cfg!(debug_assertions) { 1500 } else { 10_000 };
    std::thread::scope(|scope| {
        let janitor = scope.spawn(|| {
            loop {
                match made.await_chore(Duration::from_micros(100)) {
                    Chore::Ready => made.do_chore(),
                    Chore::Scrub => made.scrub_slice(),
                    Chore::Nothing | Chore::Relief => {}
                    Chore::Ended => return,
                }
            }
        });
        let workers: Vec<_> = (0..3_u64)
            .map(|seed| {
                let made = &made;
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
                    let runtime = runtime.expect("a runtime");
                    let mut random = fastrand::Rng::with_seed(seed);
                    let mut held = Vec::new();
                    for _ in 0..rounds {
                        let of = random.usize(..2);
                        let (id, place) = (ids[of], places[of]);
                        match random.u8(..8) {
                            0 => {
                                // Beside a reader it may find no room, or a write in between.
                                let _ = runtime.block_on(made.advise(id, Advice::DontNeed, NOW));
                            }
                            1 => assert!(runtime.block_on(made.advise(id, Advice::Random, NOW)).is_ok()),
                            2..5 => {
                                let pieces = [Bytes::from(vec![random.u8(1..); 64])];
                                let patch = Placement::Patch { offset: place };
                                let any = Precondition::default();
                                let _ = runtime.block_on(made.write(id, patch, &pieces, &any, NOW));
                            }
                            _ => held.push((runtime.block_on(made.read(id, NOW)).expect("live"), place)),
                        }
                        if held.len() > 2 {
                            let (content, place) = held.swap_remove(random.usize(..held.len()));
                            let version = content.version;
                            let bytes: Vec<u8> = content.read(place - 8..place + 72).flatten().collect();
                            assert!(bytes[8..72].iter().all(|byte| *byte == bytes[8]), "version {version}");
                            assert!(bytes[..8].iter().chain(&bytes[72..]).all(|byte| *byte == 0));
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
        made.end_janitor();
        janitor.join().expect("no panic");
    });
    made.abandon_chores();
    let applied = counted(&made, Advice::DontNeed, AdviceOutcome::Applied);
    assert!(applied > 100, "{applied} contents were given up");
    for id in ids {
        at_once(made.free(id, NOW)).expect("live");
    }
    assert_quiet(&made);
}

#[test]
fn an_upload_into_a_block_is_not_disturbed_by_hints_about_it() {
    const PIECES: usize = 40;
    let made = pool(32 * MEBIBYTE);
    let rounds = if cfg!(debug_assertions) { 300 } else { 3000 };
    for size_bytes in [64 << 10, 6 * MEBIBYTE] {
        for _ in 0..rounds {
            let id = allocate(&made, size_bytes);
            let mut upload = begin(&made, id);
            std::thread::scope(|scope| {
                let hints = scope.spawn(|| {
                    for advice in [Advice::Random, Advice::Sequential, Advice::HugePage] {
                        assert_eq!(advise(&made, id, advice), Ok(None));
                    }
                });
                (0..PIECES).for_each(|_| upload.push(&[7; 1000]).expect("it fits"));
                hints.join().expect("no panic");
            });
            assert_eq!(upload.commit(&Precondition::default(), NOW).map(|written| written.version), Ok(1));
            at_once(made.free(id, NOW)).expect("live");
        }
    }
    assert_quiet(&made);
}
