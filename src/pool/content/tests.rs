//! Content under a naive twin, and hunted for what must never happen: torn reads, lost updates, stale bytes, leaks.

use super::*;
use crate::memory::Advice;
use crate::memory::Heap;
use crate::pool::tests::at_once;
use crate::pool::{AdviseError, AllocateRequest, Config, Pool};
use proptest::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const NOW: Now = Now(1);

fn pool(limit: u64, sizes: &[u64]) -> Pool {
    let memory =
        memory::Config { slab_sizes: sizes.to_vec(), max_pool_size: limit, ..memory::Config::default() };
    let config = Config { write_wait_ms: 0, ..Config::default() };
    Pool::new(Heap::new(&memory).expect("the configuration is right"), &config)
}

fn allocate(pool: &Pool, size_bytes: u64) -> AllocationId {
    at_once(pool.allocate(&AllocateRequest::new(size_bytes), Duration::ZERO, NOW)).expect("there is room").id
}

fn read(pool: &Pool, id: AllocationId) -> (Vec<u8>, u64) {
    let content = at_once(pool.read(id, NOW)).expect("live");
    let (size, version) = (content.size_bytes, content.version);
    (content.read(0..size).flatten().collect(), version)
}

fn write(
    pool: &Pool,
    id: AllocationId,
    placement: Placement,
    bytes: &[u8],
    if_match: Option<u64>,
) -> Result<Written, WriteError> {
    let precondition = Precondition {
        if_match: if_match.map(|version| Versions::OneOf(vec![version])),
        ..Precondition::default()
    };
    at_once(pool.write(id, placement, &[Bytes::copy_from_slice(bytes)], &precondition, NOW))
}

fn upload(pool: &Pool, id: AllocationId, placement: Placement, bytes: &[u8]) -> Result<Written, WriteError> {
    let mut upload = at_once(pool.upload(id, placement, &Precondition::default(), NOW))?;
    for piece in bytes.chunks(1000) {
        upload.push(piece)?;
    }
    upload.commit(&Precondition::default(), NOW)
}

#[test]
fn content_never_written_is_zeros_of_version_0() {
    let pool = pool(1 << 20, &[4096]);
    let id = allocate(&pool, 3000);
    assert_eq!(read(&pool, id), (vec![0; 3000], 0));
}

#[test]
fn a_replacement_pads_with_zeros_and_a_patch_leaves_the_rest() {
    let pool = pool(1 << 20, &[4096]);
    let id = allocate(&pool, 10);
    assert_eq!(
        write(&pool, id, Placement::Replace, b"0123456789", None),
        Ok(Written { version: 1, whole: true })
    );
    assert_eq!(
        write(&pool, id, Placement::Patch { offset: 8 }, b"xy", None),
        Ok(Written { version: 2, whole: false })
    );
    assert_eq!(read(&pool, id), (b"01234567xy".to_vec(), 2));
    assert_eq!(write(&pool, id, Placement::Replace, b"abc", None), Ok(Written { version: 3, whole: false }));
    assert_eq!(read(&pool, id), (b"abc\0\0\0\0\0\0\0".to_vec(), 3));
    let past_end = WriteError::PastEnd { end_bytes: 11, size_bytes: 10 };
    assert_eq!(write(&pool, id, Placement::Patch { offset: 9 }, b"xy", None), Err(past_end));
    assert_eq!(
        write(&pool, id, Placement::Patch { offset: 4 }, b"", None).map(|written| written.version),
        Ok(3)
    );
}

#[test]
fn a_reader_sees_one_version_however_many_writes_come() {
    let pool = pool(1 << 20, &[8192]);
    let id = allocate(&pool, 8192);
    write(&pool, id, Placement::Replace, &[1; 8192], None).expect("there is room");
    let content = at_once(pool.read(id, NOW)).expect("live");
    let mut pieces = content.read(0..8192);
    for value in 2..5 {
        write(&pool, id, Placement::Replace, &[value; 8192], None).expect("there is room");
        upload(&pool, id, Placement::Patch { offset: 100 }, &[value; 5000]).expect("there is room");
    }
    at_once(pool.free(id, NOW)).expect("live");
    assert!(pieces.all(|piece| piece.iter().all(|byte| *byte == 1)));
    drop(pieces);
    assert_eq!(at_once(pool.stats()).heap.in_use_bytes, 0);
}

#[test]
fn a_first_upload_takes_no_second_block_and_is_invisible_until_it_commits() {
    let pool = pool(4096, &[4096]);
    let id = allocate(&pool, 4096);
    let mut first = at_once(pool.upload(id, Placement::Replace, &Precondition::default(), NOW))
        .expect("its own segment is lent");
    first.push(&[7; 2000]).expect("it fits");
    assert_eq!(read(&pool, id), (vec![0; 4096], 0));
    assert!(matches!(
        at_once(pool.upload(id, Placement::Replace, &Precondition::default(), NOW)),
        Err(WriteError::NoRoom(_))
    ));
    first.push(&[7; 2096]).expect("it fits");
    assert_eq!(first.commit(&Precondition::default(), NOW), Ok(Written { version: 1, whole: true }));
    assert_eq!(read(&pool, id), (vec![7; 4096], 1));
}

#[test]
fn an_upload_that_breaks_off_leaves_zeros_and_the_next_may_use_the_segment() {
    let pool = pool(4096, &[4096]);
    let id = allocate(&pool, 4096);
    let mut broken = at_once(pool.upload(id, Placement::Patch { offset: 5 }, &Precondition::default(), NOW))
        .expect("lent");
    broken.push(&[9; 3000]).expect("it fits");
    drop(broken);
    assert_eq!(read(&pool, id), (vec![0; 4096], 0));
    assert_eq!(upload(&pool, id, Placement::Patch { offset: 1 }, &[1]).map(|written| written.version), Ok(1));
    let mut expected = vec![0; 4096];
    expected[1] = 1;
    assert_eq!(read(&pool, id), (expected, 1));
}

#[test]
fn an_upload_whose_block_is_freed_ends_as_not_found_and_gives_the_memory_back() {
    for commits in [false, true] {
        let pool = pool(4096, &[4096]);
        let id = allocate(&pool, 4096);
        let mut running =
            at_once(pool.upload(id, Placement::Replace, &Precondition::default(), NOW)).expect("lent");
        running.push(&[9; 3000]).expect("it fits");
        at_once(pool.free(id, NOW)).expect("live");
        assert_eq!(at_once(pool.stats()).heap.in_use_bytes, 4096, "a write still fills it");
        if commits {
            assert_eq!(running.commit(&Precondition::default(), NOW), Err(NotFound(id).into()));
        } else {
            assert_eq!(running.push(&[9; 10]), Err(NotFound(id).into()));
            drop(running);
        }
        let next = allocate(&pool, 4096);
        assert_eq!(read(&pool, next), (vec![0; 4096], 0), "never a byte of an earlier owner");
    }
}

#[test]
fn a_private_write_that_overtakes_the_lent_segment_wins_and_the_upload_still_commits() {
    let pool = pool(8192, &[4096]);
    let id = allocate(&pool, 4096);
    let mut slow = at_once(pool.upload(id, Placement::Patch { offset: 0 }, &Precondition::default(), NOW))
        .expect("lent");
    slow.push(&[1; 10]).expect("it fits");
    assert_eq!(
        write(&pool, id, Placement::Patch { offset: 100 }, &[2; 10], None).map(|written| written.version),
        Ok(1)
    );
    assert_eq!(slow.commit(&Precondition::default(), NOW).map(|written| written.version), Ok(2));
    let mut expected = vec![0; 4096];
    expected[..10].fill(1);
    expected[100..110].fill(2);
    assert_eq!(read(&pool, id), (expected, 2), "neither update is lost");
    assert_eq!(at_once(pool.stats()).heap.in_use_bytes, 4096);
}

#[test]
fn of_two_writes_with_one_version_exactly_one_is_applied() {
    let pool = pool(1 << 20, &[4096]);
    let id = allocate(&pool, 100);
    assert!(write(&pool, id, Placement::Replace, b"a", Some(0)).is_ok());
    assert_eq!(
        write(&pool, id, Placement::Replace, b"b", Some(0)),
        Err(WriteError::PreconditionFailed { version: 1 })
    );
    let mut uploads: Vec<_> = (0..2)
        .map(|_| at_once(pool.upload(id, Placement::Replace, &Precondition::default(), NOW)).expect("room"))
        .collect();
    let if_first = Precondition { if_match: Some(Versions::OneOf(vec![1])), ..Precondition::default() };
    assert!(uploads.remove(0).commit(&if_first, NOW).is_ok());
    assert_eq!(uploads.remove(0).commit(&if_first, NOW), Err(WriteError::PreconditionFailed { version: 2 }));
}

#[test]
fn an_upload_that_names_a_version_that_is_past_is_refused_before_its_body() {
    let pool = pool(4096, &[4096]);
    let id = allocate(&pool, 100);
    write(&pool, id, Placement::Replace, b"a", None).expect("in place");
    let past = Precondition { if_match: Some(Versions::OneOf(vec![0])), ..Precondition::default() };
    let refused = at_once(pool.upload(id, Placement::Replace, &past, NOW)).expect_err("the version is 1");
    assert_eq!(
        refused,
        WriteError::PreconditionFailed { version: 1 },
        "though there is no room for a second one"
    );
}

/// Runs `writer` and `reader` on threads of their own for a number of rounds.
fn hunt(threads: u64, rounds: u64, hunter: impl Fn(u64, u64) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let hunter = &hunter;
            scope.spawn(move || (0..rounds).for_each(|round| hunter(thread, round)));
        }
    });
}

/// Rounds of a hunt; `MAAS_HUNT_ROUNDS` makes it longer.
fn rounds() -> u64 {
    std::env::var("MAAS_HUNT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1500)
}

#[test]
fn readers_never_see_two_writes_at_once() {
    let pool = pool(1 << 20, &[16_384]);
    let id = allocate(&pool, 16_384);
    hunt(4, rounds(), |thread, round| {
        let value = u8::try_from(round % 251).expect("small") + 1;
        match (thread, round % 2) {
            (0, _) => {
                assert!(write(&pool, id, Placement::Replace, &[value; 16_384], None).is_ok());
            }
            (1, 0) => drop(upload(&pool, id, Placement::Replace, &[value; 16_384]).expect("there is room")),
            _ => {
                let (bytes, _) = read(&pool, id);
                assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a torn read");
            }
        }
    });
}

#[test]
fn no_acknowledged_write_is_lost() {
    let pool = pool(1 << 20, &[8192]);
    let id = allocate(&pool, 8192);
    // Each thread owns 1024 bytes, and counts in them by patches; now and then by an upload.
    let counts: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
    let increments = AtomicU64::new(0);
    hunt(4, rounds(), |thread, round| {
        let offset = thread * 2048;
        let value = [u8::try_from(round % 256).expect("a byte"); 1024];
        let placement = Placement::Patch { offset };
        let written = if round % 5 == 0 {
            upload(&pool, id, placement, &value)
        } else {
            write(&pool, id, placement, &value, None)
        };
        written.expect("there is room");
        counts[usize::try_from(thread).expect("small")].store(round % 256, Ordering::Relaxed);
        // And all threads count together in eight bytes, by compare and swap.
        loop {
            let (bytes, version) = read(&pool, id);
            let sum = u64::from_le_bytes(bytes[1024..1032].try_into().expect("eight bytes")) + 1;
            match write(&pool, id, Placement::Patch { offset: 1024 }, &sum.to_le_bytes(), Some(version)) {
                Ok(_) => break,
                Err(WriteError::PreconditionFailed { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        increments.fetch_add(1, Ordering::Relaxed);
    });
    let (bytes, version) = read(&pool, id);
    for (thread, count) in counts.iter().enumerate() {
        let expected = u8::try_from(count.load(Ordering::Relaxed)).expect("a byte");
        assert!(bytes[thread * 2048..thread * 2048 + 1024].iter().all(|byte| *byte == expected));
    }
    assert_eq!(
        u64::from_le_bytes(bytes[1024..1032].try_into().expect("eight bytes")),
        increments.load(Ordering::Relaxed)
    );
    assert_eq!(version, 2 * increments.load(Ordering::Relaxed), "every write was counted once");
    assert_eq!(at_once(pool.stats()).heap.in_use_bytes, 8192);
}

#[test]
fn no_fresh_block_shows_a_byte_of_an_earlier_owner() {
    let pool = pool(1 << 20, &[1024, 3000, 16_384]);
    hunt(4, rounds(), |thread, round| {
        let mut random = fastrand::Rng::with_seed(thread << 32 | round);
        let size = random.u64(1..16_384);
        let id = allocate(&pool, size);
        let (bytes, version) = read(&pool, id);
        assert!(version == 0 && bytes.iter().all(|byte| *byte == 0), "a stale byte");
        let length = random.u64(0..=size);
        let body = vec![0xab; usize::try_from(length).expect("small")];
        let offset = random.u64(0..=size - length);
        match random.u8(0..4) {
            0 => assert!(write(&pool, id, Placement::Replace, &body, None).expect("it fits").version > 0),
            1 => assert!(upload(&pool, id, Placement::Patch { offset }, &body).is_ok()),
            2 => {
                let mut broken =
                    at_once(pool.upload(id, Placement::Patch { offset }, &Precondition::default(), NOW))
                        .expect("there is room");
                broken.push(&body).expect("it fits");
            }
            _ => assert!(write(&pool, id, Placement::Patch { offset }, &body, None).is_ok()),
        }
        let held = at_once(pool.read(id, NOW)).expect("live");
        at_once(pool.free(id, NOW)).expect("live");
        drop(held);
    });
    let stats = at_once(pool.stats());
    assert_eq!((stats.heap.in_use_bytes, stats.heap.draining_bytes, stats.active_allocations), (0, 0, 0));
}

#[derive(Debug, Clone)]
enum Action {
    Allocate(u64),
    Free(usize),
    Write { at: usize, patch: Option<u64>, length: u64, stale: bool },
    Upload { at: usize, patch: Option<u64>, length: u64, breaks: bool },
    Hold(usize),
    Release(usize),
    Advise(usize, Advice),
}

fn action() -> impl Strategy<Value = Action> {
    let place = || proptest::option::of(0_u64..9000);
    prop_oneof![
        2 => (1_u64..9000).prop_map(Action::Allocate),
        1 => any::<usize>().prop_map(Action::Free),
        4 => (any::<usize>(), place(), 0_u64..9000, proptest::bool::weighted(0.2)).prop_map(|(at, patch, length, stale)| Action::Write { at, patch, length, stale }),
        3 => (any::<usize>(), place(), 0_u64..9000, proptest::bool::weighted(0.2)).prop_map(|(at, patch, length, breaks)| Action::Upload { at, patch, length, breaks }),
        2 => any::<usize>().prop_map(Action::Hold),
        2 => any::<usize>().prop_map(Action::Release),
        1 => any::<usize>().prop_map(|at| Action::Advise(at, Advice::Random)),
        2 => any::<usize>().prop_map(|at| Action::Advise(at, Advice::Free)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The twin: a vector of bytes and a count of writes for each allocation.
    #[test]
    fn content_agrees_with_a_naive_twin(actions in prop::collection::vec(action(), 1..120)) {
        let pool = pool(1 << 20, &[1024, 3000, 10_000]);
        let mut twin: Vec<(AllocationId, Vec<u8>, u64)> = Vec::new();
        let mut held: Vec<(Content, Vec<u8>)> = Vec::new();
        let mut fill = 0_u8;
        for action in actions {
            fill = fill.wrapping_add(37) | 1;
            let in_memory = |bytes: u64| usize::try_from(bytes).expect("small");
            match action {
                Action::Allocate(size) => {
                    if let Ok(made) = at_once(pool.allocate(&AllocateRequest::new(size), Duration::ZERO, NOW)) {
                        twin.push((made.id, vec![0; in_memory(size)], 0));
                    }
                }
                Action::Free(at) if !twin.is_empty() => {
                    let (id, _, _) = twin.swap_remove(at % twin.len());
                    prop_assert!(at_once(pool.free(id, NOW)).is_ok());
                    prop_assert_eq!(write(&pool, id, Placement::Replace, b"x", None), Err(NotFound(id).into()));
                }
                Action::Write { at, patch, length, .. } | Action::Upload { at, patch, length, .. } if !twin.is_empty() => {
                    let at = at % twin.len();
                    let (id, bytes, version) = &mut twin[at];
                    let placement = patch.map_or(Placement::Replace, |offset| Placement::Patch { offset });
                    let body = vec![fill; in_memory(length)];
                    let (start, end) = (placement.offset(), placement.offset() + length);
                    let fits = end <= bytes.len() as u64;
                    let (outcome, applies) = match action {
                        Action::Write { stale, .. } => {
                            let if_match = if stale { *version + 1 } else { *version };
                            (write(&pool, *id, placement, &body, Some(if_match)), !stale)
                        }
                        Action::Upload { breaks: true, .. } => {
                            if let Ok(mut upload) = at_once(pool.upload(*id, placement, &Precondition::default(), NOW)) { let _ = upload.push(&body); }
                            (Err(WriteError::PreconditionFailed { version: *version }), false)
                        }
                        _ => (upload(&pool, *id, placement, &body), true),
                    };
                    match outcome {
                        Ok(written) => {
                            prop_assert!(fits && applies);
                            if length > 0 || placement == Placement::Replace {
                                if placement == Placement::Replace { bytes.fill(0); }
                                bytes[in_memory(start)..in_memory(end)].fill(fill);
                                *version += 1;
                            }
                            prop_assert_eq!(written.version, *version);
                            prop_assert_eq!(written.whole, placement == Placement::Replace && length == bytes.len() as u64);
                        }
                        Err(WriteError::PastEnd { .. }) => prop_assert!(!fits),
                        Err(WriteError::PreconditionFailed { .. }) => prop_assert!(!applies),
                        Err(WriteError::NoRoom(_) | WriteError::Waited { .. }) => {}
                        Err(error) => prop_assert!(false, "{}", error),
                    }
                }
                Action::Hold(at) if !twin.is_empty() => {
                    let (id, bytes, _) = &twin[at % twin.len()];
                    held.push((at_once(pool.read(*id, NOW)).expect("live"), bytes.clone()));
                }
                Action::Advise(at, advice) if !twin.is_empty() => {
                    let at = at % twin.len();
                    let (id, bytes, version) = &mut twin[at];
                    match at_once(pool.advise(*id, advice, NOW)) {
                        Ok(Some(written)) => {
                            bytes.fill(0);
                            *version += 1;
                            prop_assert!(advice.discards() && written.version == *version);
                        }
                        Ok(None) => prop_assert!(!advice.discards()),
                        Err(AdviseError::Write(WriteError::NoRoom(_) | WriteError::Waited { .. })) => {}
                        Err(error) => prop_assert!(false, "{}", error),
                    }
                }
                Action::Release(at) if !held.is_empty() => {
                    let (content, bytes) = held.swap_remove(at % held.len());
                    let read: Vec<u8> = content.read(0..bytes.len() as u64).flatten().collect();
                    prop_assert_eq!(read, bytes);
                }
                _ => {}
            }
            for (id, bytes, version) in &twin {
                prop_assert_eq!(&read(&pool, *id), &(bytes.clone(), *version));
            }
        }
        drop(held);
        for (id, _, _) in twin { at_once(pool.free(id, NOW)).expect("live"); }
        let stats = at_once(pool.stats());
        prop_assert_eq!((stats.heap.in_use_bytes, stats.heap.draining_bytes), (0, 0));
    }
}
