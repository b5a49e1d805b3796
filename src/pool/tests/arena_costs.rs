//! What arenas cost: memory of the pool, records beside it, and time to end one.

use super::arenas::{arena_request, check_empty, content, create, member, replace, roll_back};
use super::*;
use std::time::Instant;

const MEMBERS: u64 = 100_000;
const MEMBER_BYTES: u64 = 100;

/// A pool with an arena of many small members, written or not, and what these cost.
fn with_many(is_written: bool) -> (Pool, ArenaId) {
    let pool = pool(64 << 20, &[1024], &Config { max_allocations: Some(1 << 20), ..Config::default() });
    let before = at_once(pool.stats()).metadata_bytes;
    let size = ArenaSize::Estimate(MEMBERS * MEMBER_BYTES);
    let arena = create(&pool, &ArenaRequest { size, ..arena_request() }, Now(1)).expect("there is room").id;
    let body = [Bytes::from(vec![7; usize::try_from(MEMBER_BYTES).expect("small")])];
    for _ in 0..MEMBERS {
        let made = member(&pool, arena, MEMBER_BYTES, Now(2)).expect("there is room");
        if is_written {
            let any = Precondition::default();
            at_once(pool.write(made.id, Placement::Replace, &body, &any, Now(3))).expect("it fits");
        }
    }
    let stats = at_once(pool.stats());
    let in_pool = stats.heap.in_use_bytes as f64 / (MEMBERS * MEMBER_BYTES) as f64;
    let metadata = (stats.metadata_bytes - before) as f64 / MEMBERS as f64;
    println!("in the pool {in_pool:.3} of their bytes; {metadata:.1} bytes of records for each");
    assert!(in_pool <= 1.15, "{in_pool} of their bytes in the pool");
    assert!(metadata <= 64.0, "{metadata} bytes of records for each");
    assert_eq!(stats.arenas.fragmentation_avoided_bytes, MEMBERS * (1024 - 112));
    assert!(stats.metadata_bytes <= stats.metadata_bytes_max);
    (pool, arena)
}

#[test]
fn a_hundred_thousand_small_members_cost_little_more_than_their_bytes_and_end_at_once() {
    for is_written in [false, true] {
        let mut times = Vec::new();
        for _ in 0..3 {
            let (pool, arena) = with_many(is_written);
            pool.begin_janitor(); // zeroing is its work
            let began = Instant::now();
            let freed = at_once(pool.rollback_arena(arena, Now(4))).expect("it is open");
            times.push(began.elapsed());
            assert_eq!((freed.freed_allocations, freed.freed_bytes), (MEMBERS, MEMBERS * 112));
            pool.end_janitor();
            pool.scrub_slice();
            check_empty(&pool);
        }
        times.sort_unstable();
        println!("written: {is_written}; ended in {:?}", times[1]);
        let bound =
            if cfg!(debug_assertions) { Duration::from_millis(100) } else { Duration::from_millis(5) };
        assert!(times[1] <= bound, "ended in {:?}", times[1]);
    }
}

#[test]
fn keeping_a_hundred_thousand_members_and_freeing_them_leaves_nothing() {
    let (pool, arena) = with_many(true);
    let began = Instant::now();
    let freed = at_once(pool.commit_arena(arena, &Keep::All, Now(4))).expect("it is open");
    println!("kept in {:?}", began.elapsed());
    assert_eq!((freed.freed_allocations, freed.freed_bytes), (0, 0));
    let kept = list_all(&pool, 1000, Now(5));
    assert_eq!(kept.len() as u64, MEMBERS);
    for ids in kept.chunks(1000) {
        assert!(at_once(pool.free_batch(ids, Now(6))).is_empty());
    }
    check_empty(&pool);
}

#[test]
fn an_arena_of_many_large_members_ends_in_slices_and_where_nobody_waits_for_it_all_the_same() {
    const LARGE: u64 = 20_000;
    let pool = pool(64 << 20, &[1024], &Config { max_allocations: Some(10_000), ..Config::default() });
    let huge = ArenaRequest { size: ArenaSize::Profile(Profile::Huge), ..arena_request() };
    for is_dropped in [false, true] {
        let arena = create(&pool, &huge, Now(1)).expect("there is room").id;
        let made: Vec<_> =
            (0..1000).map(|_| member(&pool, arena, LARGE, Now(2)).expect("there is room").id).collect();
        let mut call = Box::pin(pool.rollback_arena(arena, Now(3)));
        let mut polls = 0;
        let mut poll = || {
            polls += 1;
            call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
        assert!(poll().is_pending(), "a slice is not all of it");
        assert!(made.iter().all(|id| at_once(pool.get(*id, Now(3))).is_err()), "no half of it is seen");
        if is_dropped {
            drop(call);
            while pool.expire(Now(4)).more {}
        } else {
            let freed = loop {
                if let Poll::Ready(freed) = poll() {
                    break freed.expect("it is open");
                }
            };
            assert_eq!((freed.freed_allocations, polls), (1000, 4));
        }
        check_empty(&pool);
    }
}

#[test]
fn of_many_members_a_few_are_kept_in_slices_and_the_rest_is_zeroed_even_where_nobody_waits_for_it() {
    for is_dropped in [false, true] {
        let (pool, arena) = with_many(true);
        let all = list_all(&pool, 1000, Now(4));
        let keep = Keep::These(all.iter().step_by(1000).copied().collect());
        let kept = u64::try_from(all.len().div_ceil(1000)).expect("small");
        let mut call = Box::pin(pool.commit_arena(arena, &keep, Now(5)));
        let mut polls = 0;
        let mut poll = || {
            polls += 1;
            call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
        assert!(poll().is_pending(), "a slice is not all of it");
        assert_eq!(list_all(&pool, 1000, Now(5)).len() as u64, kept, "no half of it is seen");
        if is_dropped {
            drop(call);
            while pool.expire(Now(6)).more {}
        } else {
            let freed = loop {
                if let Poll::Ready(freed) = poll() {
                    break freed.expect("it is open");
                }
            };
            assert_eq!(
                (freed.freed_allocations, freed.freed_bytes),
                (MEMBERS - kept, (MEMBERS - kept) * 112)
            );
            assert!(polls >= 3, "{polls} polls");
        }
        let left = list_all(&pool, 1000, Now(7));
        assert!(left.iter().all(|id| content(&pool, *id, Now(7)) == Ok(vec![7; 100])));
        assert!(at_once(pool.free_batch(&left, Now(8))).is_empty());
        check_empty(&pool);
    }
}

#[test]
fn an_arena_of_few_members_costs_few_records() {
    let pool = pool(64 << 20, &[1024], &Config::default());
    let tiny = ArenaRequest { size: ArenaSize::Profile(Profile::Tiny), ..arena_request() };
    let before = at_once(pool.stats()).metadata_bytes;
    let ids: Vec<_> = (0..1000)
        .map(|_| {
            let arena = create(&pool, &tiny, Now(1)).expect("there is room").id;
            member(&pool, arena, 100, Now(2)).expect("there is room");
            arena
        })
        .collect();
    let each = (at_once(pool.stats()).metadata_bytes - before) / 1000;
    println!("{each} bytes of records for an arena of one member");
    assert!(each <= 2000, "{each} bytes");
    ids.iter().for_each(|id| roll_back(&pool, *id, Now(3)));
    check_empty(&pool);
}

#[test]
fn a_page_is_full_however_many_arenas_lie_beside_those_that_it_is_of() {
    const BESIDE: u64 = 1500;
    let pool = pool(64 << 20, &[1024], &Config::default());
    let tiny = ArenaRequest { size: ArenaSize::Profile(Profile::Tiny), ..arena_request() };
    let many = create(&pool, &ArenaRequest { size: ArenaSize::Estimate(1 << 20), ..arena_request() }, Now(1));
    let many = many.expect("there is room").id;
    let mut made: Vec<_> =
        (0..1000).map(|at| member(&pool, many, 16, Now(10 + at)).expect("there is room").id).collect();
    let beside: Vec<_> =
        (0..BESIDE).map(|_| create(&pool, &tiny, Now(1)).expect("there is room").id).collect();
    // Half of them have nothing, and half something later.
    for (id, at) in beside.iter().zip(0..BESIDE / 2) {
        made.push(member(&pool, *id, 16, Now(10_000 + at)).expect("there is room").id);
    }
    // Through all of these lanes by turns.
    for turn in 0..3 {
        for (id, at) in beside.iter().zip(0..100) {
            made.push(member(&pool, *id, 16, Now(20_000 + 100 * turn + at)).expect("there is room").id);
        }
    }
    for limit in [1, 100, 1000] {
        let (mut cursor, mut seen) = (None, Vec::new());
        loop {
            let page = at_once(pool.list(cursor, limit, None, Now(30_000)));
            seen.extend(ids(&page));
            cursor = page.next;
            assert!(cursor.is_none() || page.allocations.len() == limit, "a page of {limit} is short");
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, made, "by pages of {limit}");
    }
    beside.iter().chain([&many]).for_each(|id| roll_back(&pool, *id, Now(30_000)));
    check_empty(&pool);
}

#[test]
fn a_body_on_its_way_into_a_member_and_a_copy_on_its_way_out_are_charged_to_the_inflight_budget() {
    let pool = pool(1 << 20, &[1024], &Config { max_inflight_bytes: 20_000, ..Config::default() });
    let arena = create(&pool, &arena_request(), Now(1)).expect("there is room").id;
    let id = member(&pool, arena, 16_000, Now(1)).expect("there is room").id;
    let any = Precondition::default();
    let begin = || at_once(pool.upload(id, Placement::Replace, &any, Now(2))).expect("it is live");
    let (mut upload, mut other) = (begin(), begin());
    upload.push(&[1; 7000]).expect("there is room");
    assert_eq!(pool.inflight().bytes(), 7000, "what it has come to");
    upload.push(&[1; 1]).expect("there is room");
    assert_eq!(pool.inflight().bytes(), 14_000, "what it takes");
    let refused = WriteError::Inflight { received_bytes: 7000, held_bytes: 14_000, bytes_max: 20_000 };
    assert_eq!(other.push(&[2; 7000]), Err(refused));
    other.push(&[2; 6000]).expect("so much is left");
    drop(other);
    upload.push(&[1; 8999]).expect("it fits");
    upload.commit(&any, Now(3)).expect("it is live");
    assert_eq!(pool.inflight().bytes(), 0);
    let read = || at_once(pool.read(id, Now(4))).expect("it is live");
    let (first, second) = (read(), read());
    assert_eq!(pool.inflight().bytes(), 16_000, "the second found no room, and is there all the same");
    let pieces: Vec<Bytes> = first.read(0..16_000).chain(second.read(0..16_000)).collect();
    assert_eq!(pool.inflight().bytes(), 16_000, "what is sent is held");
    assert!(pieces.iter().all(|piece| **piece == [1; 16_000]));
    drop(pieces);
    assert_eq!(pool.inflight().bytes(), 0);
    let small = member(&pool, arena, 4096, Now(5)).expect("there is room").id;
    replace(&pool, small, &[3; 4096], Now(5)).expect("it fits");
    let held = at_once(pool.read(small, Now(5))).expect("it is live");
    assert_eq!((held.version, pool.inflight().bytes()), (1, 0), "what is small is not charged");
    drop(held);
    assert_eq!(content(&pool, small, Now(5)), Ok(vec![3; 4096]));
    roll_back(&pool, arena, Now(6));
    check_empty(&pool);
}
