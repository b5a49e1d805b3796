//! Threads that write, read, replace and free a few objects at once, in memory that is in pieces: nobody sees half a
//! write, no write gets lost, and in the end nothing is left.

use super::twin::scatter;
use super::*;
use crate::pressure::{Action, Order};

const OBJECTS: usize = 3;
const SIZE: u64 = 96 << 10;
const THREADS: u64 = 4;

/// What a call says, also one whose work the janitor does.
fn wait_for<T>(call: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(call))
}

fn steps() -> u64 {
    let given = std::env::var("MAAS_HUNT_ROUNDS").ok().and_then(|rounds| rounds.parse::<u64>().ok());
    given.unwrap_or(1) * 3000
}

/// Of each 4 KiB of the content only the first 8 bytes are written, and they count the writes that were made there; but
/// the last number of all says how many writes were made in all.
const STRIDE: u64 = 4096;

fn number(bytes: &[u8], offset: u64) -> u64 {
    u64::from_le_bytes(bytes[at(offset)..at(offset) + 8].try_into().expect("8 bytes"))
}

/// Adds one to all numbers of a stretch, by whichever way, if nobody else wrote meanwhile. Whether it did.
fn add(pool: &Pool, id: AllocationId, random: &mut fastrand::Rng) -> bool {
    let Ok(content) = wait_for(pool.read(id, NOW)) else { return false };
    let version = content.version;
    let old = joined(content.read(0..SIZE));
    let sum: u64 = (0..SIZE / STRIDE).map(|stride| number(&old, stride * STRIDE)).sum();
    let count = number(&old, SIZE - 8);
    assert_eq!(count, version, "as many writes were made as are counted");
    assert!(sum >= count, "a write was seen in part");
    let only = Precondition { if_match: Some(Versions::OneOf(vec![version])), ..Precondition::default() };
    let first = random.u64(..SIZE / STRIDE) * STRIDE;
    let mut new = old;
    for offset in (first..SIZE).step_by(at(STRIDE)) {
        let next = number(&new, offset) + 1;
        new[at(offset)..at(offset) + 8].copy_from_slice(&next.to_le_bytes());
    }
    new[at(SIZE - 8)..].copy_from_slice(&(version + 1).to_le_bytes());
    let (placement, body) = match random.u8(..3) {
        0 => (Placement::Replace, &new[..]),
        _ => (patch(first), &new[at(first)..]),
    };
    let outcome = if body.len() as u64 <= crate::pool::SMALL_WRITE_BYTES && random.bool() {
        let pieces = [Bytes::copy_from_slice(body)];
        let Engine::Local(local) = &pool.engine;
        wait_for(local.write(id, placement, &pieces, &only, None, NOW))
    } else {
        let length = random.bool().then_some(body.len() as u64);
        let begun = match length {
            Some(length) => wait_for(pool.upload_exactly(id, placement, length, &only, NOW)),
            None => wait_for(pool.upload(id, placement, &only, NOW)),
        };
        begun.and_then(|mut upload| {
            for piece in body.chunks(10_000) {
                upload.push(piece)?;
                if random.u8(..64) == 0 {
                    return Err(WriteError::Waited { waited_ms: 0 }); // it breaks off
                }
            }
            upload.commit(&only, NOW)
        })
    };
    match outcome {
        Ok(written) => {
            assert_eq!(written.version, version + 1);
            true
        }
        Err(WriteError::NoRoom(_) | WriteError::PreconditionFailed { .. } | WriteError::NotFound(_)) => false,
        Err(WriteError::Waited { waited_ms }) => {
            assert_eq!(waited_ms, 0);
            false
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn threads_that_write_read_and_free_objects_see_whole_versions_and_leave_nothing() {
    let pool = pool(4 * MEBIBYTE, &[1024, 4096]);
    scatter(&pool, 3);
    let before = in_use(&pool);
    let objects: Vec<_> =
        (0..OBJECTS).map(|_| parking_lot::Mutex::new((allocate(&pool, SIZE), 0_u64))).collect();
    pool.begin_janitor();
    std::thread::scope(|scope| {
        let janitor = scope.spawn(|| {
            loop {
                match pool.await_chore(Duration::from_micros(100)) {
                    Chore::Ready => pool.do_chore(),
                    Chore::Scrub => pool.scrub_slice(),
                    Chore::Relief => _ = pool.relieve_slice(NOW),
                    Chore::Nothing => {
                        pool.end_idle_interval();
                        while pool.reclaim_idle_slice() {}
                        pool.order_relief(Order { action: Action::Emergency, is_news: false });
                        pool.sweep_free_slabs(1 << 16);
                        pool.sweep_readers(NOW);
                    }
                    Chore::Ended => return,
                }
            }
        });
        let hunters: Vec<_> = (0..THREADS)
            .map(|seed| {
                let (pool, objects) = (&pool, &objects);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    let (mut held, mut written) = (Vec::new(), 0);
                    for _ in 0..steps() {
                        let object = &objects[random.usize(..OBJECTS)];
                        match random.u8(..32) {
                            0 => {
                                let mut object = object.lock();
                                wait_for(pool.free(object.0, NOW))
                                    .expect("it is freed by whoever holds its lock");
                                let made = wait_for(pool.allocate(&request(SIZE), Duration::ZERO, NOW));
                                *object = (made.expect("there is room").id, 0);
                            }
                            1..4 => {
                                let id = object.lock().0;
                                if let Ok(content) = wait_for(pool.read(id, NOW)) {
                                    let version = content.version;
                                    held.push((content.read(SIZE - 8..SIZE), version));
                                }
                            }
                            4..7 if !held.is_empty() => {
                                let (pieces, version) = held.swap_remove(random.usize(..held.len()));
                                let last = joined(pieces);
                                assert_eq!(number(&last, 0), version, "a reader sees its own version");
                            }
                            _ => {
                                let id = object.lock().0;
                                written += u64::from(add(pool, id, &mut random));
                            }
                        }
                        held.truncate(3);
                    }
                    written
                })
            })
            .collect();
        let ended: Vec<_> = hunters.into_iter().map(|hunter| hunter.join()).collect();
        pool.end_janitor();
        let written: u64 = ended.into_iter().map(|written| written.expect("no hunter panics")).sum();
        assert!(written > steps() / 8, "{written} writes were made");
        janitor.join().expect("the janitor does not panic");
    });
    pool.abandon_chores();
    for object in objects {
        wait_for(pool.free(object.into_inner().0, NOW)).expect("live");
    }
    assert_eq!((in_use(&pool), heap(&pool).draining_bytes()), (before, 0));
    heap(&pool).check();
}
