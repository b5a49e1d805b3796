//! Live blocks are moved under those who read, write, patch, fill and free them: nobody may notice.

use crate::clock::Now;
use crate::memory::{self, Heap};
use crate::pool::tests::at_once;
use crate::pool::{
    AllocateRequest, AllocationId, Config, Engine, Placement, Pool, Precondition, Versions, WriteError,
    Written,
};
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const NOW: Now = Now(1);
const LARGE: u64 = 4 << 20;

fn pool(limit: u64, sizes: &[u64]) -> Pool {
    let memory = memory::Config {
        slab_sizes: sizes.to_vec(),
        max_pool_size: limit,
        initial_slabs_per_size: 0,
        ..memory::Config::default()
    };
    let config = Config { write_wait_ms: 5, ..Config::default() };
    Pool::new(Heap::new(&memory).expect("the configuration is right"), &config)
}

fn allocate(pool: &Pool, size_bytes: u64) -> Option<AllocationId> {
    let request = AllocateRequest::new(size_bytes);
    at_once(pool.allocate(&request, Duration::ZERO, NOW)).ok().map(|made| made.id)
}

fn write(pool: &Pool, id: AllocationId, bytes: &[u8]) -> Result<Written, WriteError> {
    let pieces = [Bytes::copy_from_slice(bytes)];
    at_once(pool.write(id, Placement::Replace, &pieces, &Precondition::default(), NOW))
}

fn read(pool: &Pool, id: AllocationId) -> (Vec<u8>, u64) {
    let content = at_once(pool.read(id, NOW)).expect("live");
    let (size, version) = (content.size_bytes, content.version);
    (content.read(0..size).flatten().collect(), version)
}

fn free(pool: &Pool, id: AllocationId) {
    at_once(pool.free(id, NOW)).expect("live");
}

/// Committed bytes beyond those that are held.
fn excess(pool: &Pool) -> u64 {
    let heap = at_once(pool.stats()).heap;
    heap.committed_bytes.saturating_sub(heap.pool_size_bytes)
}

fn moves(pool: &Pool) -> u64 {
    at_once(pool.stats()).heap.compaction.moves
}

/// Takes all the room that is left with large blocks, and gives it back: what is in the way is moved.
fn squeeze(pool: &Pool, large: u64) {
    let (in_use, limit) = pool.in_use_and_limit_bytes();
    let made: Vec<_> = (0..(limit - in_use) / large).filter_map(|_| allocate(pool, large)).collect();
    made.into_iter().for_each(|id| free(pool, id));
}

fn check(pool: &Pool) {
    let Engine::Local(local) = &pool.engine;
    local.heap().check();
}

/// Fills the pool with small blocks, frees three of four, then fills what is free with large ones.
fn checkerboard(size: u64) {
    let limit = 24 << 20;
    let pool = pool(limit, &[size, LARGE]);
    let in_memory = usize::try_from(size).expect("small");
    let mut random = fastrand::Rng::with_seed(size);
    let all: Vec<AllocationId> = std::iter::from_fn(|| allocate(&pool, size)).collect();
    assert_eq!(all.len() as u64, limit / size);
    let mut lasting = Vec::new();
    for (number, id) in all.into_iter().enumerate() {
        if random.u8(0..4) > 0 {
            free(&pool, id);
            continue;
        }
        // Some were never written, some partly, some more than once.
        let bytes: Vec<u8> = (0..in_memory / 4 * (number % 5)).map(|_| random.u8(..)).collect();
        for _ in 0..number % 3 {
            write(&pool, id, &bytes).expect("nobody reads it");
        }
        lasting.push((id, read(&pool, id)));
    }
    // In the second round those are moved again that were moved before.
    for _ in 0..2 {
        let (in_use, _) = pool.in_use_and_limit_bytes();
        let moves_before = moves(&pool);
        let mut filling = Vec::new();
        for _ in 0..(limit - in_use) / LARGE {
            filling.push(allocate(&pool, LARGE).expect("what is free is enough"));
            assert!(excess(&pool) <= memory::page_size(), "{} bytes", excess(&pool));
        }
        assert!(allocate(&pool, LARGE).is_none());
        assert!(moves(&pool) > moves_before + 100, "{} moves", moves(&pool));
        check(&pool);
        // Half as many stay as before, so that some of those that were moved lie too high by then.
        filling.into_iter().for_each(|id| free(&pool, id));
        while allocate(&pool, size).is_some_and(|id| {
            lasting.push((id, (vec![0; in_memory], 0)));
            true
        }) {}
        random.shuffle(&mut lasting);
        let kept = lasting.len() / 8;
        lasting.drain(kept..).for_each(|(id, _)| free(&pool, id));
    }
    for (id, before) in lasting {
        assert!(read(&pool, id) == before, "content and version are as they were");
        free(&pool, id);
    }
    check(&pool);
}

#[test]
fn a_pool_of_scattered_small_blocks_takes_large_ones_and_the_survivors_are_as_they_were() {
    for size in [1024, 1000, 3 << 10, 5000] {
        checkerboard(size);
    }
}

#[test]
fn whoever_reads_holds_its_version_where_it_is() {
    let pool = pool(1 << 20, &[1024, 256 << 10]);
    let all: Vec<AllocationId> = std::iter::from_fn(|| allocate(&pool, 1024)).collect();
    let (read_on, replaced) = (all[1000], all[900]);
    write(&pool, read_on, &[1; 1024]).expect("nobody reads it");
    write(&pool, replaced, &[2; 1024]).expect("nobody reads it");
    all.iter().filter(|id| ![read_on, replaced].contains(id)).for_each(|id| free(&pool, *id));
    let held = at_once(pool.read(read_on, NOW)).expect("live").read(0..1024);
    let old = at_once(pool.read(replaced, NOW)).expect("live").read(0..1024);
    write(&pool, replaced, &[3; 1024]).expect("there is room for a second version");
    squeeze(&pool, 256 << 10);
    assert_eq!(held.flatten().collect::<Vec<u8>>(), [1; 1024]);
    assert_eq!(old.flatten().collect::<Vec<u8>>(), [2; 1024]);
    squeeze(&pool, 256 << 10);
    assert_eq!(read(&pool, read_on), (vec![1; 1024], 1));
    assert_eq!(read(&pool, replaced), (vec![3; 1024], 2));
    assert_eq!(at_once(pool.stats()).heap.in_use_bytes, 2048);
    check(&pool);
}

#[test]
fn what_is_being_filled_stays_and_commits_where_it_is() {
    let pool = pool(1 << 20, &[1024, 256 << 10]);
    let all: Vec<AllocationId> = (0..1020).map(|_| allocate(&pool, 1024).expect("room")).collect();
    let (lent, patched) = (all[1000], all[900]);
    write(&pool, patched, &[5; 1024]).expect("nobody reads it");
    let any = Precondition::default();
    let mut first = at_once(pool.upload(lent, Placement::Replace, &any, NOW)).expect("its own segment");
    let mut patch =
        at_once(pool.upload(patched, Placement::Patch { offset: 10 }, &any, NOW)).expect("there is room");
    let request = AllocateRequest::new(1024);
    let mut deposit = at_once(pool.deposit(&request, Duration::ZERO, NOW)).expect("there is room");
    for step in 0..4 {
        first.push(&[6; 256]).expect("live");
        deposit.push(&[7; 256]).expect("it fits");
        patch.push(&[8; 100]).expect("live");
        let kept = [lent, patched];
        let part = all.iter().enumerate().filter(|(at, id)| at % 4 == step && !kept.contains(id));
        part.for_each(|(_, id)| free(&pool, *id));
        squeeze(&pool, 256 << 10);
    }
    // The version that is patched was moved meanwhile, and its edges are found where it is.
    assert!(moves(&pool) > 0);
    first.commit(&any, NOW).expect("live");
    patch.commit(&any, NOW).expect("live");
    let made = deposit.commit(NOW).expect("open").id;
    squeeze(&pool, 256 << 10);
    let mut expected = vec![5; 1024];
    expected[10..410].fill(8);
    assert_eq!(read(&pool, lent), (vec![6; 1024], 1));
    assert_eq!(read(&pool, patched), (expected, 2));
    assert_eq!(read(&pool, made), (vec![7; 1024], 1));
    check(&pool);
}

#[test]
fn an_upload_that_outlives_its_block_gives_back_its_own_segment_and_no_other() {
    let pool = pool(64 << 10, &[1024, 16 << 10]);
    let all: Vec<AllocationId> = std::iter::from_fn(|| allocate(&pool, 1024)).collect();
    let any = Precondition::default();
    let mut running = at_once(pool.upload(all[60], Placement::Replace, &any, NOW)).expect("lent");
    running.push(&[9; 500]).expect("live");
    all.iter().skip(4).for_each(|id| free(&pool, *id));
    // Others have its entry by now, and are moved about.
    let others: Vec<AllocationId> = (0..20).map(|_| allocate(&pool, 1024).expect("room")).collect();
    for id in &others {
        write(&pool, *id, &[4; 1024]).expect("nobody reads it");
    }
    others[..10].iter().for_each(|id| free(&pool, *id));
    squeeze(&pool, 16 << 10);
    drop(running);
    squeeze(&pool, 16 << 10);
    others[10..].iter().for_each(|id| assert_eq!(read(&pool, *id), (vec![4; 1024], 1)));
    assert_eq!(at_once(pool.stats()).heap.in_use_bytes, 14 << 10);
    check(&pool);
}

/// Threads that write and read blocks of one byte value each, with their versions, while one thread fills the rest of
/// the pool again and again, so that all of them are moved.
#[test]
fn nobody_sees_a_torn_or_a_lost_write_while_blocks_are_moved() {
    const SIZE: usize = 1000;
    let rounds: u64 =
        std::env::var("MAAS_HUNT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(2000);
    let pool = pool(1 << 20, &[SIZE as u64, 64 << 10]);
    let ends = AtomicBool::new(false);
    let tagged = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3_u64)
            .map(|thread| {
                let (pool, tagged) = (&pool, &tagged);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(thread);
                    let mut mine: Vec<(AllocationId, u8, u64)> = Vec::new();
                    // A write that finds no room for a second version waits for it, and a wait needs a timer.
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
                    let runtime = runtime.expect("a runtime can be had");
                    for round in 0..rounds {
                        tagged.fetch_add(1, Ordering::Relaxed);
                        while mine.len() < 60 {
                            let Some(id) = allocate(pool, SIZE as u64) else { break };
                            mine.push((id, 0, 0));
                        }
                        if mine.is_empty() {
                            std::thread::yield_now(); // the pool is filled with other blocks for a moment
                            continue;
                        }
                        let at = random.usize(..mine.len());
                        let (id, byte, version) = mine[at];
                        let content = at_once(pool.read(id, NOW)).expect("live");
                        assert_eq!(content.version, version, "nobody else writes it");
                        let pieces = content.read(0..SIZE as u64);
                        let next = random.u8(1..);
                        let outcome = match random.u8(0..4) {
                            0 => {
                                let any = Precondition::default();
                                let upload = pool.upload(id, Placement::Replace, &any, NOW);
                                let mut upload = runtime.block_on(upload);
                                match &mut upload {
                                    Ok(upload) => {
                                        upload.push(&[next; SIZE / 2]).expect("live");
                                        std::thread::yield_now();
                                        upload.push(&[next; SIZE / 2]).expect("live");
                                    }
                                    Err(error) => assert!(is_full(error), "{error}"),
                                }
                                upload.and_then(|upload| upload.commit(&any, NOW))
                            }
                            1 => {
                                // Both halves by turns: the edges come from a version that may be moved meanwhile.
                                let half = [Bytes::from(vec![byte; SIZE / 2])];
                                let named = Some(Versions::OneOf(vec![version]));
                                let same = Precondition { if_match: named, ..Precondition::default() };
                                let offset = SIZE as u64 / 2 * (round % 2);
                                let patch = Placement::Patch { offset };
                                runtime.block_on(pool.write(id, patch, &half, &same, NOW))
                            }
                            _ => {
                                let any = Precondition::default();
                                let whole = [Bytes::from(vec![next; SIZE])];
                                runtime.block_on(pool.write(id, Placement::Replace, &whole, &any, NOW))
                            }
                        };
                        let is_patch = outcome.as_ref().is_ok_and(|written| !written.whole);
                        match outcome {
                            Ok(written) => {
                                assert_eq!(written.version, version + 1);
                                mine[at] = (id, if is_patch { byte } else { next }, version + 1);
                            }
                            Err(error) => assert!(is_full(&error), "{error}"),
                        }
                        assert!(pieces.flatten().all(|seen| seen == byte), "a reader sees one instant");
                        let (id, byte, version) = mine[random.usize(..mine.len())];
                        assert_eq!(read(pool, id), (vec![byte; SIZE], version));
                        if random.u8(0..3) == 0 {
                            free(pool, mine.swap_remove(random.usize(..mine.len())).0);
                        }
                    }
                    mine.into_iter().for_each(|(id, ..)| free(pool, id));
                })
            })
            .collect();
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                squeeze(&pool, 64 << 10);
                pool.end_idle_interval();
                while pool.reclaim_idle_slice() {}
            }
        });
        let ended: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        ends.store(true, Ordering::Relaxed); // whatever became of them, or the last one would go on for ever
        ended.into_iter().for_each(|outcome| outcome.expect("no panic"));
    });
    assert!(moves(&pool) > 0, "nothing was moved");
    assert_eq!(at_once(pool.stats()).heap.in_use_bytes, 0);
    check(&pool);
}

fn is_full(error: &WriteError) -> bool {
    matches!(error, WriteError::NoRoom(_) | WriteError::Waited { .. })
}

#[test]
fn leases_end_on_time_while_their_blocks_are_moved() {
    let pool = pool(256 << 10, &[1000, 16 << 10]);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut now = NOW;
            for _ in 0..200 {
                let request = AllocateRequest {
                    size_bytes: 1000,
                    lease: Some(Duration::from_millis(20)),
                    tag: None,
                    ..AllocateRequest::new(1000)
                };
                let made: Vec<_> = (0..50)
                    .filter_map(|_| at_once(pool.allocate(&request, Duration::ZERO, now)).ok())
                    .collect();
                now = now.after(Duration::from_millis(40));
                while pool.expire(now).more {}
                for made in made {
                    assert!(at_once(pool.get(made.id, now)).is_err(), "it is over");
                }
            }
        });
        while !worker.is_finished() {
            squeeze(&pool, 16 << 10);
        }
    });
    let stats = at_once(pool.stats());
    assert_eq!((stats.active_allocations, stats.heap.in_use_bytes), (0, 0));
    check(&pool);
}
