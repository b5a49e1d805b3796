//! Arenas as the door shows them.

use super::*;

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
const SECOND: Duration = Duration::from_secs(1);

pub(super) fn arena_request() -> ArenaRequest {
    ArenaRequest {
        size: ArenaSize::Profile(Profile::Small),
        parent: None,
        limit_bytes: None,
        lease: None,
        tag: None,
        priority: Priority::Normal,
    }
}

fn roomy() -> Pool {
    pool(64 * MIB, &[1024, 8192, 65_536], &Config::default())
}

pub(super) fn create(pool: &Pool, request: &ArenaRequest, now: Now) -> Result<Arena, ArenaAllocateError> {
    at_once(pool.create_arena(request, Duration::ZERO, now))
}

pub(super) fn member(
    pool: &Pool,
    id: ArenaId,
    size: u64,
    now: Now,
) -> Result<Allocation, ArenaAllocateError> {
    at_once(pool.allocate_in_arena(id, size, Priority::Normal, Duration::ZERO, now))
}

pub(super) fn roll_back(pool: &Pool, id: ArenaId, now: Now) {
    at_once(pool.rollback_arena(id, now)).expect("it is open");
}

fn small(pool: &Pool) -> Arena {
    create(pool, &arena_request(), Now(1)).expect("there is room")
}

pub(super) fn content(pool: &Pool, id: AllocationId, now: Now) -> Result<Vec<u8>, ReadError> {
    at_once(pool.read(id, now)).map(|content| {
        let all = 0..content.size_bytes;
        content.read(all).flatten().collect()
    })
}

pub(super) fn replace(pool: &Pool, id: AllocationId, body: &[u8], now: Now) -> Result<Written, WriteError> {
    let pieces = [Bytes::copy_from_slice(body)];
    at_once(pool.write(id, Placement::Replace, &pieces, &Precondition::default(), now))
}

/// Nothing is left of anything.
pub(super) fn check_empty(pool: &Pool) {
    check_quiet(pool);
    let Engine::Local(local) = &pool.engine;
    let stats = at_once(pool.stats());
    assert_eq!((stats.active_allocations, stats.allocated_bytes, stats.requested_bytes), (0, 0, 0));
    let arenas = &stats.arenas;
    assert_eq!((arenas.active, arenas.chunk_bytes, arenas.used_bytes, arenas.allocations), (0, 0, 0, 0));
    assert_eq!(stats.heap.in_use_bytes, stats.heap.draining_bytes + stats.heap.retired_bytes);
    assert!(stats.tags.iter().all(|tag| (tag.allocations, tag.allocated_bytes) == (0, 0)));
    assert!(local.claim_entries(stats.allocations_max), "entries are held by nobody");
    local.entries().give_back(stats.allocations_max);
    local.arenas().check_empty();
}

#[test]
fn members_are_read_written_listed_and_freed_as_any_allocation() {
    let pool = roomy();
    let arena = small(&pool);
    assert_eq!((arena.profile, arena.limit_bytes, arena.used_bytes), (Profile::Small, 512 << 10, 0));
    assert_eq!(at_once(pool.stats()).heap.in_use_bytes, 32 << 10, "the first chunk is there");
    let before = allocate(&pool, 10, Now(2)).expect("there is room");
    let made = member(&pool, arena.id, 100, Now(3)).expect("there is room");
    assert_eq!((made.size_bytes, made.actual_size_bytes, made.arena), (100, 112, Some(arena.id)));
    let after = allocate(&pool, 10, Now(4)).expect("there is room");
    assert_eq!(at_once(pool.get(made.id, Now(5))), Ok(made.clone()));
    assert_eq!(made.id.to_string().parse(), Ok(made.id));
    for limit in 1..4 {
        assert_eq!(list_all(&pool, limit, Now(5)), [before.id, made.id, after.id]);
    }
    assert_eq!(content(&pool, made.id, Now(5)), Ok(vec![0; 100]));
    assert_eq!(replace(&pool, made.id, &[7; 100], Now(5)), Ok(Written { version: 1, whole: true }));
    assert_eq!(replace(&pool, made.id, &[8; 3], Now(5)), Ok(Written { version: 2, whole: false }));
    let expected: Vec<u8> = [8; 3].into_iter().chain([0; 97]).collect();
    assert_eq!(content(&pool, made.id, Now(5)), Ok(expected));
    let stale = Precondition { if_match: Some(Versions::OneOf(vec![1])), ..Precondition::default() };
    let patch = Placement::Patch { offset: 98 };
    let write = |bytes: &'static [u8], precondition: &Precondition| {
        at_once(pool.write(made.id, patch, &[Bytes::from_static(bytes)], precondition, Now(6)))
    };
    assert_eq!(write(b"x", &stale), Err(WriteError::PreconditionFailed { version: 2 }));
    assert_eq!(
        write(b"xyz", &Precondition::default()),
        Err(WriteError::PastEnd { end_bytes: 101, size_bytes: 100 })
    );
    assert_eq!(write(b"xy", &Precondition::default()), Ok(Written { version: 3, whole: false }));
    let any = Precondition::default();
    let mut upload = at_once(pool.upload(made.id, patch, &any, Now(7))).expect("it is live");
    upload.push(b"z").expect("it fits");
    assert!(matches!(upload.push(b"12"), Err(WriteError::PastEnd { .. })));
    assert_eq!(upload.commit(&any, Now(7)), Ok(Written { version: 4, whole: false }));
    assert_eq!(content(&pool, made.id, Now(7)).expect("it is live")[98..], *b"zy");
    let seen = at_once(pool.arena(arena.id, Now(8))).expect("it is open");
    assert_eq!((seen.used_bytes, seen.allocations), (112, 1));
    assert_eq!(at_once(pool.stats()).active_allocations, 3);
    assert_eq!(at_once(pool.free_batch(&[made.id, made.id], Now(8))), [made.id], "once");
    assert_eq!(content(&pool, made.id, Now(9)), Err(NotFound(made.id).into()));
    assert_eq!(list_all(&pool, 9, Now(9)), [before.id, after.id]);
    let seen = at_once(pool.arena(arena.id, Now(9))).expect("it is open");
    assert_eq!((seen.used_bytes, seen.allocations), (112, 0), "its memory comes back with the arena");
    let freed = at_once(pool.rollback_arena(arena.id, Now(10))).expect("it is open");
    assert_eq!(freed, ArenaFreed { freed_bytes: 112, freed_allocations: 0, state: ArenaState::RolledBack });
    assert!(at_once(pool.free_batch(&[before.id, after.id], Now(11))).is_empty());
    check_empty(&pool);
}

#[test]
fn an_arena_that_ended_is_known_for_ten_minutes_and_takes_no_calls() {
    let pool = roomy();
    let [committed, rolled_back] = [small(&pool).id, small(&pool).id];
    let made = member(&pool, committed, 50, Now(2)).expect("there is room");
    let commit = at_once(pool.commit_arena(committed, &Keep::Nothing, Now(3)));
    assert_eq!(
        commit,
        Ok(ArenaFreed { freed_bytes: 64, freed_allocations: 1, state: ArenaState::Committed })
    );
    at_once(pool.rollback_arena(rolled_back, Now(3))).expect("it is open");
    assert_eq!(at_once(pool.get(made.id, Now(3))), Err(NotFound(made.id)));
    for (id, state) in [(committed, ArenaState::Committed), (rolled_back, ArenaState::RolledBack)] {
        let ended = ArenaError::Ended { id, state };
        let seen = at_once(pool.arena(id, Now(4))).expect("it is known");
        assert_eq!((seen.state, seen.used_bytes, seen.allocations), (state, 0, 0));
        assert_eq!(at_once(pool.commit_arena(id, &Keep::Nothing, Now(4))), Err(ended));
        assert_eq!(at_once(pool.rollback_arena(id, Now(4))), Err(ended));
        assert_eq!(at_once(pool.reset_arena(id, Now(4))), Err(ended));
        assert_eq!(at_once(pool.renew_arena(id, SECOND, Now(4))), Err(ended));
        assert_eq!(member(&pool, id, 1, Now(4)), Err(ended.into()));
        assert_eq!(member(&pool, id, 100_000, Now(4)), Err(ended.into()));
        let child = ArenaRequest { parent: Some(id), ..arena_request() };
        assert_eq!(create(&pool, &child, Now(4)), Err(ended.into()));
    }
    for id in [committed, rolled_back] {
        let later = Now(3).after(Duration::from_secs(600));
        assert_eq!(at_once(pool.arena(id, later)), Err(ArenaError::NotFound(id)));
    }
    let unknown = "2000002a-1c3d-8e5f-9a7b-0123456789ab".parse().expect("an id");
    assert_eq!(at_once(pool.reset_arena(unknown, Now(5))), Err(ArenaError::NotFound(unknown)));
    assert_eq!(member(&pool, unknown, 1, Now(5)), Err(ArenaError::NotFound(unknown).into()));
    check_empty(&pool);
}

#[test]
fn a_limit_holds_for_an_arena_and_all_in_it_and_says_whose_it_is() {
    let pool = roomy();
    let parent =
        create(&pool, &ArenaRequest { limit_bytes: Some(1000), ..arena_request() }, Now(1)).expect("room");
    let child =
        create(&pool, &ArenaRequest { parent: Some(parent.id), ..arena_request() }, Now(1)).expect("room");
    member(&pool, child.id, 600, Now(2)).expect("it fits");
    member(&pool, parent.id, 384, Now(2)).expect("it fits, to the byte");
    let exhausted = ArenaAllocateError::Exhausted {
        id: parent.id,
        requested_bytes: 16,
        used_bytes: 992,
        limit_bytes: 1000,
    };
    assert_eq!(member(&pool, parent.id, 1, Now(2)), Err(exhausted.clone()));
    assert_eq!(member(&pool, child.id, 1, Now(2)), Err(exhausted));
    assert!(matches!(
        member(&pool, child.id, 20_000, Now(2)),
        Err(ArenaAllocateError::Exhausted { requested_bytes: 20_480, .. })
    ));
    at_once(pool.rollback_arena(child.id, Now(3))).expect("it is open");
    member(&pool, parent.id, 600, Now(3)).expect("what a child used comes back to its parent");
    let freed = at_once(pool.reset_arena(parent.id, Now(4))).expect("it is open");
    assert_eq!(freed, ArenaFreed { freed_bytes: 992, freed_allocations: 2, state: ArenaState::Open });
    let again = member(&pool, parent.id, 990, Now(5)).expect("it begins anew");
    assert_eq!(content(&pool, again.id, Now(5)), Ok(vec![0; 990]));
    at_once(pool.commit_arena(parent.id, &Keep::Nothing, Now(6))).expect("it is open");
    check_empty(&pool);
}

#[test]
fn what_ends_an_arena_ends_all_that_lie_in_it() {
    let pool = roomy();
    let mut line = vec![small(&pool)];
    let deepest = loop {
        let parent = line.last().expect("one").id;
        match create(&pool, &ArenaRequest { parent: Some(parent), ..arena_request() }, Now(2)) {
            Ok(child) => line.push(child),
            Err(error) => break error,
        }
    };
    assert_eq!((line.len(), deepest), (16, ArenaAllocateError::TooDeep { depth_max: 16 }));
    let members: Vec<_> =
        line.iter().map(|arena| member(&pool, arena.id, 100, Now(3)).expect("there is room")).collect();
    assert_eq!(at_once(pool.arena(line[0].id, Now(3))).expect("it is open").used_bytes, 16 * 112);
    assert_eq!(at_once(pool.arena(line[9].id, Now(3))).expect("it is open").parent, Some(line[8].id));
    let freed = at_once(pool.commit_arena(line[4].id, &Keep::Nothing, Now(4))).expect("it is open");
    assert_eq!((freed.freed_bytes, freed.freed_allocations), (12 * 112, 12));
    let states: Vec<_> =
        line.iter().map(|arena| at_once(pool.arena(arena.id, Now(4))).expect("it is known").state).collect();
    assert_eq!(states[..5], [[ArenaState::Open; 4].as_slice(), &[ArenaState::Committed]].concat());
    assert_eq!(states[5..], [ArenaState::RolledBack; 11]);
    for (at, made) in members.iter().enumerate() {
        assert_eq!(at_once(pool.get(made.id, Now(5))).is_ok(), at < 4);
    }
    assert_eq!(at_once(pool.arena(line[0].id, Now(5))).expect("it is open").used_bytes, 4 * 112);
    let freed = at_once(pool.reset_arena(line[0].id, Now(6))).expect("it is open");
    assert_eq!((freed.freed_bytes, freed.freed_allocations), (4 * 112, 4));
    let stats = at_once(pool.stats()).arenas;
    assert_eq!((stats.commits, stats.rollbacks, stats.resets, stats.active), (1, 14, 1, 1));
    at_once(pool.rollback_arena(line[0].id, Now(7))).expect("it is open");
    check_empty(&pool);
}

#[test]
fn a_lease_that_is_over_ends_an_arena_for_whoever_looks_and_for_whoever_needs_its_room() {
    let pool = pool(64 * PAGE, &[1024, 4096], &Config::default());
    let leased = ArenaRequest { lease: Some(SECOND), ..arena_request() };
    let over = Now(1).after(SECOND);
    let parent = create(&pool, &leased, Now(1)).expect("there is room");
    assert_eq!(parent.deadline, Some(over));
    let child =
        create(&pool, &ArenaRequest { parent: Some(parent.id), ..arena_request() }, Now(1)).expect("room");
    let [low, high] = [parent.id, child.id].map(|id| member(&pool, id, 100, Now(2)).expect("there is room"));
    let large = member(&pool, parent.id, 20_000, Now(2)).expect("there is room");
    assert_eq!([low.deadline, large.deadline, high.deadline], [Some(over); 3]);
    for made in [&low, &large] {
        let renewed = at_once(pool.renew(made.id, SECOND, Now(3)));
        assert_eq!(renewed, Err(RenewError::InArena(parent.id)));
    }
    assert_eq!(at_once(pool.get(high.id, over)), Err(NotFound(high.id)), "the arena above it is over");
    assert_eq!(at_once(pool.arena(child.id, over)).map(|arena| arena.state), Ok(ArenaState::RolledBack));
    assert_eq!(at_once(pool.arena(parent.id, over)).map(|arena| arena.state), Ok(ArenaState::Expired));
    assert_eq!(at_once(pool.get(large.id, over)), Err(NotFound(large.id)));
    check_empty(&pool);
    // Whoever needs the room gets it, whether anybody looked or not.
    let parent = create(&pool, &leased, Now(1)).expect("there is room");
    (0..60).for_each(|_| drop(member(&pool, parent.id, 4096, Now(1)).expect("there is room")));
    assert!(allocate(&pool, 8 * PAGE, Now(2)).is_err());
    let made = allocate(&pool, 64 * PAGE, over).expect("the lease is over");
    at_once(pool.free(made.id, over)).expect("it is live");
    // Renewed it goes on; a tick ends it.
    let parent = create(&pool, &leased, Now(1)).expect("there is room");
    let low = member(&pool, parent.id, 100, Now(2)).expect("there is room");
    let renewed = at_once(pool.renew_arena(parent.id, 2 * SECOND, Now(2))).expect("it is open");
    assert_eq!(renewed.deadline, Some(Now(2).after(2 * SECOND)));
    assert_eq!(pool.expire(over), Expired { ended: 0, more: false, leases: true });
    assert!(at_once(pool.get(low.id, over)).is_ok());
    let late = Now(2).after(2 * SECOND);
    assert_eq!(pool.expire(late), Expired { ended: 1, more: false, leases: false });
    assert_eq!(at_once(pool.stats()).arenas.expirations, 3);
    check_empty(&pool);
}

#[test]
fn what_is_kept_of_an_arena_lives_on_and_its_chunks_until_the_last_in_them_is_freed() {
    let pool = roomy();
    let arena =
        create(&pool, &ArenaRequest { size: ArenaSize::Profile(Profile::Tiny), ..arena_request() }, Now(1));
    let id = arena.expect("there is room").id;
    let made: Vec<_> = (0..9).map(|_| member(&pool, id, 2000, Now(2)).expect("there is room")).collect();
    let large = member(&pool, id, 40_000, Now(100)).expect("there is room");
    for (at, made) in made.iter().enumerate() {
        replace(&pool, made.id, &[u8::try_from(at).expect("few") + 1; 2000], Now(400)).expect("it fits");
    }
    replace(&pool, large.id, &[99; 40_000], Now(400)).expect("it fits");
    let stranger = allocate(&pool, 10, Now(400)).expect("there is room").id;
    let strange = Keep::These(vec![made[0].id, stranger]);
    let refused = ArenaError::NotAMember { id, allocation: stranger };
    assert_eq!(at_once(pool.commit_arena(id, &strange, Now(500))), Err(refused));
    let child =
        create(&pool, &ArenaRequest { parent: Some(id), ..arena_request() }, Now(500)).expect("room").id;
    assert_eq!(at_once(pool.commit_arena(child, &Keep::All, Now(500))), Err(ArenaError::KeepInChild(child)));
    let keep = Keep::These(vec![made[1].id, made[7].id, made[7].id, large.id]);
    let freed = at_once(pool.commit_arena(id, &keep, Now(600))).expect("it is open");
    assert_eq!(
        freed,
        ArenaFreed { freed_bytes: 7 * 2000, freed_allocations: 7, state: ArenaState::Committed }
    );
    assert_eq!(at_once(pool.arena(child, Now(600))).map(|child| child.state), Ok(ArenaState::RolledBack));
    let kept = at_once(pool.get(made[7].id, Now(700))).expect("it was kept");
    assert_eq!(kept, Allocation { arena: None, ..made[7].clone() });
    assert_eq!(at_once(pool.get(large.id, Now(700))), Ok(Allocation { arena: None, ..large.clone() }));
    assert_eq!(at_once(pool.renew(kept.id, SECOND, Now(700))), Err(RenewError::Kept(kept.id)));
    assert!(at_once(pool.get(made[2].id, Now(700))).is_err());
    assert_eq!(list_all(&pool, 2, Now(700)), [made[1].id, made[7].id, large.id, stranger]);
    assert_eq!(content(&pool, kept.id, Now(700)), Ok(vec![8; 2000]));
    assert_eq!(content(&pool, large.id, Now(700)), Ok(vec![99; 40_000]));
    // From 2000 to 4000, and from 14000 to 16000: of the chunks of a page each the first and the fourth.
    assert_eq!(at_once(pool.stats()).arenas.chunk_bytes, 2 * PAGE);
    check_quiet(&pool);
    replace(&pool, kept.id, b"still writable", Now(800)).expect("it was kept");
    at_once(pool.free(made[1].id, Now(900))).expect("it was kept");
    assert_eq!(at_once(pool.stats()).arenas.chunk_bytes, PAGE);
    assert_eq!(&content(&pool, kept.id, Now(900)).expect("it was kept")[..14], b"still writable");
    for id in [kept.id, large.id, stranger] {
        at_once(pool.free(id, Now(1000))).expect("it is live");
    }
    check_empty(&pool);
}

#[test]
fn all_can_be_kept_and_nothing_can() {
    let pool = roomy();
    for keep in [Keep::All, Keep::These(Vec::new())] {
        let arena = small(&pool).id;
        let made: Vec<_> =
            (0..200).map(|_| member(&pool, arena, 333, Now(2)).expect("there is room").id).collect();
        let freed = at_once(pool.commit_arena(arena, &keep, Now(3))).expect("it is open");
        let kept = if keep == Keep::All { made.clone() } else { Vec::new() };
        let ended = 200 - kept.len() as u64;
        assert_eq!((freed.freed_bytes, freed.freed_allocations), (ended * 336, ended));
        assert_eq!(list_all(&pool, 7, Now(4)), kept);
        assert_eq!(at_once(pool.free_batch(&made, Now(5))).len() as u64, ended);
        check_empty(&pool);
    }
    let arena = small(&pool).id;
    assert!(at_once(pool.commit_arena(arena, &Keep::All, Now(6))).is_ok(), "there is nothing to keep");
    check_empty(&pool);
}

#[test]
fn chunks_count_for_the_tag_and_its_budget_and_members_carry_it() {
    let budgets = [("cache".parse().expect("a tag"), 5 * PAGE)].into();
    let pool = pool(64 * MIB, &[1024, 8192], &Config { budgets, ..Config::default() });
    let tag: Tag = "cache".parse().expect("a tag");
    let size = ArenaSize::Profile(Profile::Tiny);
    let tagged = ArenaRequest { tag: Some(tag.clone()), size, ..arena_request() };
    let arena = create(&pool, &tagged, Now(1)).expect("the budget has room");
    let child = create(&pool, &ArenaRequest { parent: Some(arena.id), size, ..arena_request() }, Now(1))
        .expect("room");
    assert_eq!(child.tag, Some(tag.clone()));
    let made = member(&pool, child.id, 3000, Now(2)).expect("the first chunk has room");
    assert_eq!(made.tag, Some(tag.clone()));
    let page = at_once(pool.list(None, 9, Some(&tag), Now(3)));
    assert_eq!(ids(&page), [made.id]);
    let seen = |pool: &Pool| at_once(pool.stats()).tags[0].clone();
    assert_eq!((seen(&pool).allocations, seen(&pool).allocated_bytes), (1, 2 * PAGE));
    let large = member(&pool, arena.id, 2 * PAGE + 9000, Now(3));
    let refused = AllocateError::Budget {
        tag: tag.clone(),
        requested_bytes: 5 * PAGE,
        in_use_bytes: 2 * PAGE,
        budget_bytes: 5 * PAGE,
    };
    assert_eq!(large, Err(refused.into()));
    (0..3).for_each(|_| drop(member(&pool, child.id, 4096, Now(4)).expect("a page of the budget is left")));
    assert!(matches!(
        member(&pool, child.id, 2000, Now(4)),
        Err(ArenaAllocateError::Allocate(AllocateError::Budget { requested_bytes: PAGE, .. }))
    ));
    at_once(pool.commit_arena(arena.id, &Keep::Nothing, Now(5))).expect("it is open");
    assert_eq!((seen(&pool).allocations, seen(&pool).allocated_bytes), (0, 0));
    check_empty(&pool);
}

#[test]
fn a_chunk_is_only_as_large_as_there_is_room_for_before_anything_is_refused() {
    let pool = pool(20 * PAGE, &[4096], &Config::default());
    let filler: Vec<_> = (0..17).map(|_| allocate(&pool, 4096, Now(1)).expect("there is room").id).collect();
    let arena = small(&pool).id;
    assert_eq!(at_once(pool.stats()).heap.in_use_bytes, 18 * PAGE, "a page instead of eight");
    member(&pool, arena, 8192 + 4000, Now(2)).expect("two pages more are all there is");
    member(&pool, arena, 96, Now(2)).expect("what is left of the last");
    assert!(matches!(
        member(&pool, arena, 1, Now(2)),
        Err(ArenaAllocateError::Allocate(AllocateError::Memory(memory::AllocateError::Exhausted { .. })))
    ));
    assert!(create(&pool, &arena_request(), Now(3)).is_err());
    assert!(at_once(pool.free_batch(&filler, Now(3))).is_empty());
    at_once(pool.rollback_arena(arena, Now(3))).expect("it is open");
    check_empty(&pool);
}

#[test]
fn estimates_profiles_and_limits_are_what_was_asked_for() {
    let pool = roomy();
    let make =
        |size, limit_bytes| create(&pool, &ArenaRequest { size, limit_bytes, ..arena_request() }, Now(1));
    let shown = |size, limit| make(size, limit).map(|arena| (arena.profile, arena.limit_bytes));
    assert_eq!(shown(ArenaSize::Estimate(10 << 10), None), Ok((Profile::Tiny, 64 << 10)));
    assert_eq!(shown(ArenaSize::Estimate(MIB), Some(5)), Ok((Profile::Medium, 5)));
    assert_eq!(shown(ArenaSize::Estimate(64 * MIB), None), Ok((Profile::Huge, 256 * MIB)));
    assert_eq!(
        make(ArenaSize::Estimate(64 * MIB + 1), None),
        Err(ArenaAllocateError::EstimateTooLarge { estimate_bytes: 64 * MIB + 1, limit_bytes: 64 * MIB })
    );
    assert_eq!(shown(ArenaSize::Learned, None), Ok((Profile::Small, 512 << 10)));
    let page = at_once(pool.list_arenas(None, 3, Now(2)));
    let rest = at_once(pool.list_arenas(page.next, 3, Now(2)));
    assert_eq!((page.arenas.len(), rest.arenas.len(), rest.next), (3, 1, None));
    let all: Vec<Arena> = page.arenas.into_iter().chain(rest.arenas).collect();
    assert!(all.windows(2).all(|pair| pair[0].created < pair[1].created));
    assert_eq!(at_once(pool.stats()).arenas.per_profile, [1, 1, 1, 0, 1]);
    all.iter().for_each(|arena| roll_back(&pool, arena.id, Now(3)));
    assert_eq!(make(ArenaSize::Learned, None).expect("room").profile, Profile::Tiny, "nobody used anything");
}

#[test]
fn arenas_are_bounded_and_one_that_is_over_stands_in_nobodys_way() {
    let pool = pool(128 * MIB, &[4096], &Config::default());
    let tiny = ArenaRequest { size: ArenaSize::Profile(Profile::Tiny), ..arena_request() };
    let leased = ArenaRequest { lease: Some(SECOND), ..tiny.clone() };
    create(&pool, &leased, Now(1)).expect("there is room");
    let ids: Vec<_> = (1..16_384).map(|_| create(&pool, &tiny, Now(1)).expect("there is room").id).collect();
    let refused = create(&pool, &tiny, Now(2));
    assert_eq!(refused, Err(ArenaAllocateError::TooManyArenas { arenas_max: 16_384 }));
    let last = create(&pool, &tiny, Now(1).after(SECOND)).expect("one is over").id;
    ids.into_iter().chain([last]).for_each(|id| roll_back(&pool, id, Now(3)));
    check_empty(&pool);
}

#[test]
fn members_are_allocations_to_the_bound_of_these() {
    let pool = pool(MIB, &[1024], &Config { max_allocations: Some(10), ..Config::default() });
    let arena = small(&pool).id;
    let plain: Vec<_> = (0..4).map(|_| allocate(&pool, 1, Now(1)).expect("there is room").id).collect();
    let made: Vec<_> = (0..6).map(|_| member(&pool, arena, 1, Now(1)).expect("there is room").id).collect();
    let full = AllocateError::TableFull { allocations_max: 10 };
    assert_eq!(member(&pool, arena, 1, Now(2)), Err(full.clone().into()));
    assert_eq!(member(&pool, arena, 50_000, Now(2)), Err(full.clone().into()));
    assert_eq!(allocate(&pool, 1, Now(2)), Err(full));
    assert!(at_once(pool.free_batch(&plain[..1], Now(3))).is_empty());
    member(&pool, arena, 1, Now(3)).expect("an entry is free");
    assert!(at_once(pool.free_batch(&made, Now(4))).is_empty());
    at_once(pool.rollback_arena(arena, Now(4))).expect("it is open");
    assert!(at_once(pool.free_batch(&plain[1..], Now(4))).is_empty());
    check_empty(&pool);
}

#[tokio::test]
async fn whoever_waits_gets_what_an_arena_had_and_an_arena_waits_for_what_others_have() {
    let pool = Arc::new(pool(16 * PAGE, &[4096], &Config { max_allocations: Some(20), ..Config::default() }));
    let arena =
        pool.create_arena(&arena_request(), Duration::ZERO, Now::read()).await.expect("there is room").id;
    let filler = pool.allocate(&request(8 * PAGE, None), Duration::ZERO, Now::read()).await.expect("room").id;
    pool.allocate_in_arena(arena, 16 << 10, Priority::Normal, Duration::ZERO, Now::read())
        .await
        .expect("there is room");
    pool.allocate_in_arena(arena, 16 << 10, Priority::Normal, Duration::ZERO, Now::read())
        .await
        .expect("there is room");
    let wait = Duration::from_secs(20);
    let waiting = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { pool.allocate_in_arena(arena, 100, Priority::Normal, wait, Now::read()).await }
    });
    while at_once(pool.stats()).waiting_requests == 0 {
        tokio::task::yield_now().await;
    }
    pool.free(filler, Now::read()).await.expect("it is live");
    waiting.await.expect("no panic").expect("there is room now");
    let waiting = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { pool.allocate(&request(16 * PAGE, None), wait, Now::read()).await }
    });
    while at_once(pool.stats()).waiting_requests == 0 {
        tokio::task::yield_now().await;
    }
    pool.rollback_arena(arena, Now::read()).await.expect("it is open");
    let made = waiting.await.expect("no panic").expect("there is room now");
    let refused = pool.create_arena(&arena_request(), Duration::from_millis(5), Now::read()).await;
    assert!(matches!(refused, Err(ArenaAllocateError::Allocate(AllocateError::Waited { .. }))));
    pool.free(made.id, Now::read()).await.expect("it is live");
    check_empty(&pool);
}

#[test]
fn a_pool_that_is_closed_makes_no_arenas_and_no_members() {
    let pool = roomy();
    let arena = small(&pool).id;
    pool.close();
    let unavailable = AllocateError::from(Unavailable);
    assert_eq!(create(&pool, &arena_request(), Now(1)), Err(unavailable.clone().into()));
    assert_eq!(member(&pool, arena, 1, Now(1)), Err(unavailable.into()));
    at_once(pool.rollback_arena(arena, Now(1))).expect("ending goes on");
    check_empty(&pool);
}
