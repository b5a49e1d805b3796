//! What is told of arenas: when they end, what still fits, and what counts as a size that was asked for.

use super::arenas::{arena_request, check_empty, create, member, roll_back};
use super::*;

const PAGE: u64 = 4096;
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn what_ends_with_an_outer_arena_says_when_that_ends() {
    let pool = pool(64 * PAGE, &[1024], &Config::default());
    let leased =
        |seconds: u32, parent| ArenaRequest { lease: Some(SECOND * seconds), parent, ..arena_request() };
    let outer = create(&pool, &leased(10, None), Now(0)).expect("there is room").id;
    let inner = create(&pool, &leased(60, Some(outer)), Now(0)).expect("there is room");
    let innermost = create(&pool, &leased(5, Some(inner.id)), Now(0)).expect("there is room");
    let in_seconds = |seconds: u32| Some(Now(0).after(SECOND * seconds));
    assert_eq!([inner.deadline, innermost.deadline], [10, 5].map(in_seconds));
    let made = [100, 20_000].map(|size| member(&pool, inner.id, size, Now(1)).expect("there is room"));
    for one in &made {
        assert_eq!(one.deadline, in_seconds(10), "{} bytes", one.size_bytes);
        assert_eq!(at_once(pool.get(one.id, Now(1))).as_ref(), Ok(one));
    }
    let listed = at_once(pool.list(None, 10, None, Now(1))).allocations;
    assert!(listed.len() == 2 && listed.iter().all(|one| one.deadline == in_seconds(10)), "{listed:?}");
    let arenas = at_once(pool.list_arenas(None, 10, Now(1))).arenas;
    assert_eq!(arenas.iter().map(|arena| arena.deadline).collect::<Vec<_>>(), [10, 10, 5].map(in_seconds));
    // Renewed, an inner one still ends with the outer; the outer takes what is in it along.
    let renewed = at_once(pool.renew_arena(inner.id, SECOND * 90, Now(0))).expect("it is open");
    assert_eq!(renewed.deadline, in_seconds(10));
    at_once(pool.renew_arena(outer, SECOND * 70, Now(0))).expect("it is open");
    for one in &made {
        assert_eq!(at_once(pool.get(one.id, Now(1))).expect("it is live").deadline, in_seconds(70));
    }
    // What has ended ends no more.
    roll_back(&pool, inner.id, Now(2));
    roll_back(&pool, outer, Now(2));
    for id in [outer, inner.id, innermost.id] {
        assert_eq!(at_once(pool.arena(id, Now(3))).expect("it is known").deadline, None);
    }
    check_empty(&pool);
}

#[test]
fn the_largest_member_that_is_told_is_granted_and_one_byte_more_is_not() {
    let pool = pool(64 * PAGE, &[1024, 4096], &Config::default());
    let limited = |limit: u64, parent| {
        let size = ArenaSize::Profile(Profile::Tiny);
        let request = ArenaRequest { size, limit_bytes: Some(limit), parent, ..arena_request() };
        create(&pool, &request, Now(1)).expect("there is room").id
    };
    let largest = |id| {
        let (in_use_bytes, limit_bytes) = pool.in_use_and_limit_bytes();
        pool.largest_member_within(id, limit_bytes - in_use_bytes, Now(1))
    };
    let outer = limited(30 * PAGE, None);
    let [inner, roomy] = [limited(20 * PAGE, Some(outer)), limited(1 << 20, None)];
    let mut told = Vec::new();
    // Bound by its own limit, by the one above, by the pool, and by what is free in chunks where the pool has nothing.
    for (id, rest_bytes) in
        [(inner, 5000), (outer, 3000), (inner, 0), (roomy, 7 * PAGE), (roomy, 0), (roomy, 0)]
    {
        let Some(bytes) = largest(id) else {
            assert!(member(&pool, id, 1, Now(1)).is_err());
            told.push(0);
            continue;
        };
        assert!(member(&pool, id, bytes + 1, Now(1)).is_err(), "{bytes} is the most");
        let some = bytes.saturating_sub(rest_bytes).max(1);
        if rest_bytes > 0 {
            member(&pool, id, some, Now(1)).expect("less than the most");
        } else {
            member(&pool, id, bytes, Now(1)).expect("the most");
        }
        told.push(bytes);
    }
    assert_eq!(told[0], 20 * PAGE, "the limit of its own");
    assert!(told.iter().skip(1).all(|bytes| *bytes < 61 * PAGE), "{told:?}");
    [outer, roomy].into_iter().for_each(|id| roll_back(&pool, id, Now(1)));
    // Where the pool is full, a chunk still has room.
    let chunked = limited(1 << 20, None);
    while allocate(&pool, 1024, Now(1)).is_ok() {}
    assert_eq!(largest(chunked), Some(PAGE));
    assert!(member(&pool, chunked, PAGE + 1, Now(1)).is_err());
    member(&pool, chunked, 100, Now(1)).expect("it is in the chunk");
    assert_eq!(largest(chunked), Some(PAGE - 112));
    member(&pool, chunked, PAGE - 112, Now(1)).expect("it is in the chunk");
    assert_eq!(largest(chunked), None);
    roll_back(&pool, chunked, Now(1));
    assert_eq!(largest(chunked), None, "it has ended");
}

#[test]
fn a_pool_that_is_smaller_than_a_page_says_that_it_can_have_no_arenas() {
    let small = pool(PAGE - 8, &[1024], &Config::default());
    let too_small = ArenaAllocateError::PoolTooSmall { page_bytes: PAGE, limit_bytes: PAGE - 8 };
    assert_eq!(create(&small, &arena_request(), Now(1)), Err(too_small));
    let just_enough = pool(PAGE, &[1024], &Config::default());
    let arena = create(&just_enough, &arena_request(), Now(1)).expect("there is room for a page");
    member(&just_enough, arena.id, PAGE, Now(1)).expect("all of it");
}

#[test]
fn members_of_arenas_are_allocations_that_were_made_and_no_sizes_that_were_asked_for() {
    let pool = pool(64 * PAGE, &[1024], &Config::default());
    allocate(&pool, 1000, Now(1)).expect("there is room");
    let arena = create(&pool, &arena_request(), Now(1)).expect("there is room").id;
    for size in [100, 10_000, 30_000] {
        member(&pool, arena, size, Now(1)).expect("there is room");
    }
    let seen = pool.seen();
    assert_eq!(
        seen.groups.iter().map(|group| (group.largest_bytes, group.count)).collect::<Vec<_>>(),
        [(1000, 1)]
    );
    assert_eq!(seen.actual_bytes, 1024);
    assert_eq!(at_once(pool.stats()).allocations_made, 4);
}
