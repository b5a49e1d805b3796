//! Every system call about memory fails in turn beneath a pool at work: each request gets an error value, the accounts
//! agree, and the next request works.

use super::arenas::{arena_request, create, member, replace};
use super::*;
use crate::memory::faults;

const SIZES: [u64; 4] = [1024, 3000, 4096, 16 << 10];
/// Those of the classes, and one that none of them holds.
const WORK_SIZES: [u64; 5] = [1024, 3000, 4096, 16 << 10, 20 << 10];
const LIMIT: u64 = 160 << 10;

fn is_of_the_system(error: &AllocateError) -> bool {
    matches!(error, AllocateError::Memory(memory::AllocateError::System { .. }))
}

/// Counts what was refused for want of pages; anything else that is refused is a defect.
#[derive(Default)]
struct Refusals(u64);

impl Refusals {
    fn take<T>(&mut self, outcome: Result<T, AllocateError>) -> Option<T> {
        outcome
            .inspect_err(|error| {
                assert!(is_of_the_system(error), "{error}");
                self.0 += 1;
            })
            .ok()
    }

    fn take_write<T>(&mut self, outcome: Result<T, WriteError>) -> Option<T> {
        outcome
            .inspect_err(|error| {
                assert!(matches!(error, WriteError::NoRoom(memory::AllocateError::System { .. })), "{error}");
                self.0 += 1;
            })
            .ok()
    }
}

/// An arena with small members and a large one, one in it, and what ends them: a call, or their lease.
fn work_in_arena(pool: &Pool, refusals: &mut Refusals, now: Now) {
    let plain = |outcome: Result<Allocation, ArenaAllocateError>| {
        outcome.map_err(|error| match error {
            ArenaAllocateError::Allocate(error) => error,
            error => panic!("{error}"),
        })
    };
    for is_ended in [true, false] {
        let lease = (!is_ended).then(|| Duration::from_nanos(100));
        let wanted = ArenaRequest { lease, size: ArenaSize::Profile(Profile::Tiny), ..arena_request() };
        let Ok(arena) = create(pool, &wanted, now) else {
            refusals.0 += 1;
            continue;
        };
        let child = create(pool, &ArenaRequest { parent: Some(arena.id), ..wanted }, now).ok();
        refusals.0 += u64::from(child.is_none());
        for (id, size) in
            [(Some(arena.id), 3000), (child.map(|child| child.id), 9000), (Some(arena.id), 17_000)]
        {
            let Some(id) = id else { continue };
            let made = refusals.take(plain(member(pool, id, size, now)));
            if let Some(made) = made {
                replace(pool, made.id, &[5; 100], now).expect("in place");
            }
        }
        if is_ended {
            at_once(pool.rollback_arena(arena.id, now)).expect("ending takes no memory");
        }
    }
}

/// Single allocations, batches, one-shots, writes in place and beside readers, uploads, leases, and frees of all. How many
/// requests were refused.
fn work(pool: &Pool, now: Now) -> u64 {
    let mut refusals = Refusals::default();
    let lease = Some(Duration::from_nanos(100));
    for size_bytes in WORK_SIZES {
        let content = Bytes::from(vec![7; usize::try_from(size_bytes - 1).expect("small")]);
        let request = AllocateRequest::new(size_bytes - 1);
        let leased = AllocateRequest { lease, tag: Some("cache".parse().expect("a tag")), ..request.clone() };
        let single = refusals.take(at_once(pool.allocate(&request, Duration::ZERO, now)));
        refusals.take(at_once(pool.allocate(&leased, Duration::ZERO, now)));
        // About half of the pool, so that each size takes what the one before it gave back.
        let blocks = usize::try_from((LIMIT / size_bytes / 2).saturating_sub(2).max(1)).expect("few");
        let batch = vec![leased.clone(); blocks];
        let batch =
            refusals.take(at_once(pool.allocate_batch(&batch, Duration::ZERO, now))).unwrap_or_default();
        let deposit = refusals.take(at_once(pool.deposit(&request, Duration::ZERO, now)));
        let stored = deposit.map(|mut deposit| {
            deposit.push(&content).expect("it fits");
            deposit.commit(now).expect("it needs nothing more")
        });
        for made in single.iter().chain(&stored) {
            let (id, any) = (made.id, Precondition::default());
            let pieces = [content.clone()];
            at_once(pool.write(id, Placement::Replace, &pieces, &any, now)).expect("in place");
            let old = at_once(pool.read(id, now)).expect("it is live");
            refusals.take_write(at_once(pool.write(id, Placement::Replace, &pieces, &any, now)));
            let upload = at_once(pool.upload(id, Placement::Patch { offset: 1 }, &any, now));
            if let Some(mut upload) = refusals.take_write(upload) {
                upload.push(&[9; 10]).expect("it fits");
                upload.commit(&any, now).expect("it needs nothing more");
            }
            let read: Vec<u8> = old.read(0..size_bytes - 1).flatten().collect();
            assert!(read == content, "a reader keeps what it reads");
        }
        work_in_arena(pool, &mut refusals, now);
        check_quiet(pool);
        for made in single.iter().chain(&stored).chain(&batch[..batch.len() / 2]) {
            at_once(pool.free(made.id, now)).expect("it is live");
        }
        while pool.expire(now.after(Duration::from_secs(1))).more {}
        pool.sweep_free_slabs(1 << 20);
        check_quiet(pool);
    }
    refusals.0
}

#[test]
fn whatever_call_fails_beneath_a_request_it_is_refused_and_the_next_one_works() {
    for (guard_pages, fail) in
        [(false, faults::fail_after as fn(u64)), (false, faults::fail_on_after), (true, faults::fail_after)]
    {
        let memory = memory::Config {
            slab_sizes: SIZES.to_vec(),
            max_pool_size: LIMIT,
            initial_slabs_per_size: 0,
            guard_pages,
            ..memory::Config::default()
        };
        let mut refused = 0;
        for nth in 0.. {
            let pool = Pool::new(Heap::new(&memory).expect("nothing fails yet"), &Config::default());
            fail(nth);
            let refusals = work(&pool, Now(1_000));
            let is_over = faults::disarm();
            let stats = at_once(pool.stats());
            assert_eq!((stats.active_allocations, stats.heap.in_use_bytes), (0, 0), "call {nth}");
            assert!(stats.tags.iter().all(|tag| tag.allocated_bytes == 0));
            if is_over {
                assert_eq!(refusals, 0, "nothing failed by itself");
                assert!(nth > 10 && refused > 10, "{refused} of {nth} calls made a refusal");
                break;
            }
            refused += refusals;
            assert_eq!(work(&pool, Now(1_000_000_000_000)), 0, "the next requests work");
        }
    }
}
