//! Arenas, large objects and plain allocations against a naive twin, with compaction: random calls, and after each the
//! pool says what two lists say.

use super::arenas::{check_empty, content, create, member, replace};
use super::*;
use proptest::prelude::*;

const LIMIT: u64 = 400_000;
const ENTRIES: u32 = 60;
const BUDGET: u64 = 60_000;
const PAGE: u64 = 4096;
const MS: u64 = 1_000_000;
const TAG: &str = "cache";
/// Two of them share pages, so that slabs are moved; what is larger is a large object.
const CLASSES: [u64; 3] = [1000, 3000, 8192];
const READERS_MAX: usize = 8;

#[derive(Debug, Clone)]
enum Action {
    Create {
        parent: Option<usize>,
        limit: Option<u64>,
        lease: Option<u64>,
        tagged: bool,
        size: ArenaSize,
    },
    Member(usize, u64),
    Plain(u64),
    Write(usize, u8, u64),
    Read(usize),
    EndRead,
    Free(usize),
    Reset(usize),
    Rollback(usize),
    Commit(usize),
    Keep(usize, Vec<usize>),
    KeepAll(usize),
    Renew(usize, u64),
    Pass(u64),
    Expire,
    /// What lies idle goes back, and what can be moved is moved.
    Squeeze,
    List(usize, bool),
    Check,
}

fn action() -> impl Strategy<Value = Action> {
    let any_place = any::<usize>;
    let any_flag = any::<bool>;
    let size = prop_oneof![
        Just(ArenaSize::Profile(Profile::Tiny)),
        Just(ArenaSize::Profile(Profile::Small)),
        Just(ArenaSize::Learned),
        (1_u64..500_000).prop_map(ArenaSize::Estimate),
    ];
    let create = (
        proptest::option::of(any_place()),
        proptest::option::of(1_u64..80_000),
        proptest::option::of(1..500 * MS),
        any_flag(),
        size,
    );
    prop_oneof![
        4 => create.prop_map(|(parent, limit, lease, tagged, size)| Action::Create { parent, limit, lease, tagged, size }),
        10 => (any_place(), prop_oneof![5 => 1_u64..3000, 1 => 3000_u64..60_000]).prop_map(|(at, size)| Action::Member(at, size)),
        4 => prop_oneof![2 => 1_u64..1000, 2 => 1000_u64..9000, 1 => 9000_u64..80_000].prop_map(Action::Plain),
        5 => (any_place(), 1_u8.., 1_u64..20_000).prop_map(|(at, byte, length)| Action::Write(at, byte, length)),
        2 => any_place().prop_map(Action::Read),
        2 => Just(Action::EndRead),
        4 => any_place().prop_map(Action::Free),
        1 => any_place().prop_map(Action::Reset),
        1 => any_place().prop_map(Action::Rollback),
        1 => any_place().prop_map(Action::Commit),
        1 => (any_place(), prop::collection::vec(any_place(), 0..4)).prop_map(|(at, kept)| Action::Keep(at, kept)),
        1 => any_place().prop_map(Action::KeepAll),
        1 => (any_place(), 1..500 * MS).prop_map(|(at, lease)| Action::Renew(at, lease)),
        2 => (0..100 * MS).prop_map(Action::Pass),
        1 => Just(Action::Expire),
        1 => Just(Action::Squeeze),
        2 => (1_usize..8, any_flag()).prop_map(|(limit, tagged)| Action::List(limit, tagged)),
        2 => Just(Action::Check),
    ]
}

#[derive(Clone, Debug)]
struct ArenaTwin {
    made: Arena,
    /// What its own members used since it was made or reset.
    used: u64,
    state: ArenaState,
}

#[derive(Clone, Debug)]
struct Member {
    made: Allocation,
    content: Vec<u8>,
    writes: u64,
}

#[derive(Default)]
struct Twin {
    arenas: Vec<ArenaTwin>,
    /// Live allocations of every kind, in creation order.
    members: Vec<Member>,
    /// Reads that go on, and what they must come to.
    readers: Vec<(AllocationId, Content, Vec<u8>)>,
    now: Now,
}

impl Twin {
    fn arena(&self, id: ArenaId) -> &ArenaTwin {
        self.arenas.iter().find(|arena| arena.made.id == id).expect("it was made")
    }

    fn lies_in(&self, id: ArenaId, above: ArenaId) -> bool {
        id == above || self.arena(id).made.parent.is_some_and(|parent| self.lies_in(parent, above))
    }

    fn open(&self) -> Vec<ArenaId> {
        self.arenas
            .iter()
            .filter(|arena| arena.state == ArenaState::Open)
            .map(|arena| arena.made.id)
            .collect()
    }

    /// What it and those in it use.
    fn used(&self, id: ArenaId) -> u64 {
        let lies_in = |arena: &&ArenaTwin| arena.state == ArenaState::Open && self.lies_in(arena.made.id, id);
        self.arenas.iter().filter(lies_in).map(|arena| arena.used).sum()
    }

    /// When it ends by itself: its own lease, which is what it was `made` with here, or one above it.
    fn deadline(&self, id: ArenaId) -> Option<Now> {
        let arena = &self.arena(id).made;
        arena.deadline.into_iter().chain(arena.parent.and_then(|parent| self.deadline(parent))).min()
    }

    fn fits(&self, id: ArenaId, bytes: u64) -> bool {
        let arena = &self.arena(id).made;
        self.used(id) + bytes <= arena.limit_bytes
            && arena.parent.is_none_or(|parent| self.fits(parent, bytes))
    }

    /// Ends an arena and those in it, or only those and all members; says how many members ended.
    fn end(&mut self, id: ArenaId, state: ArenaState, kept: &[AllocationId]) -> u64 {
        let doomed: Vec<ArenaId> = self.open().into_iter().filter(|other| self.lies_in(*other, id)).collect();
        let before = self.members.len();
        self.members.retain(|member| {
            member.made.arena.is_none_or(|arena| !doomed.contains(&arena)) || kept.contains(&member.made.id)
        });
        let kept = self.members.iter_mut().filter(|member| kept.contains(&member.made.id));
        kept.for_each(|member| member.made.arena = None);
        for arena in &mut self.arenas {
            if arena.made.id == id {
                (arena.state, arena.used) = (state, 0);
            } else if doomed.contains(&arena.made.id) {
                (arena.state, arena.used) = (ArenaState::RolledBack, 0);
            }
        }
        (before - self.members.len()) as u64
    }

    /// Ends what is over, those above before those in them.
    fn pass_leases(&mut self) {
        loop {
            let is_over =
                |id: &ArenaId| self.arena(*id).made.deadline.is_some_and(|deadline| deadline <= self.now);
            let over: Vec<ArenaId> = self.open().into_iter().filter(is_over).collect();
            // Which of two that are over is looked at first, when one lies in the other, is anybody's guess.
            let Some(top) =
                over.iter().find(|id| !over.iter().any(|above| above != *id && self.lies_in(**id, *above)))
            else {
                return;
            };
            self.end(*top, ArenaState::Expired, &[]);
        }
    }
}

/// What a member takes.
fn actual(size: u64) -> u64 {
    if size <= 16 << 10 { size.next_multiple_of(16) } else { size.next_multiple_of(PAGE) }
}

/// What a block of its own takes.
fn actual_plain(size: u64) -> u64 {
    CLASSES.into_iter().find(|class| size <= *class).unwrap_or(size.next_multiple_of(PAGE))
}

fn check(pool: &Pool, twin: &Twin) -> Result<(), TestCaseError> {
    check_quiet(pool);
    let stats = at_once(pool.stats());
    let sum = |of: fn(&Allocation) -> u64| twin.members.iter().map(|member| of(&member.made)).sum::<u64>();
    prop_assert_eq!(stats.active_allocations, twin.members.len() as u64);
    prop_assert_eq!(stats.allocated_bytes, sum(|made| made.actual_size_bytes));
    prop_assert_eq!(stats.requested_bytes, sum(|made| made.size_bytes));
    prop_assert_eq!(stats.arenas.active, twin.open().len() as u64);
    let used: u64 = twin.open().iter().map(|id| twin.arena(*id).used).sum();
    prop_assert_eq!(stats.arenas.used_bytes, used);
    let tagged = twin.members.iter().filter(|member| member.made.tag.is_some()).count() as u64;
    let seen = stats.tags.iter().find(|tag| tag.tag.as_str() == TAG).expect("it has a budget");
    prop_assert_eq!(seen.allocations, tagged);
    prop_assert!(seen.allocated_bytes <= BUDGET);
    for member in &twin.members {
        let deadline = member.made.arena.and_then(|arena| twin.deadline(arena));
        let expected = Allocation { deadline, ..member.made.clone() };
        prop_assert_eq!(at_once(pool.get(member.made.id, twin.now)), Ok(expected));
        prop_assert_eq!(content(pool, member.made.id, twin.now), Ok(member.content.clone()));
    }
    for arena in &twin.arenas {
        let id = arena.made.id;
        let seen = at_once(pool.arena(id, twin.now)).expect("it is known");
        prop_assert_eq!(seen.state, arena.state);
        if arena.state == ArenaState::Open {
            let own = twin.members.iter().filter(|member| member.made.arena == Some(id)).count() as u64;
            prop_assert_eq!((seen.used_bytes, seen.allocations), (twin.used(id), own));
            prop_assert_eq!(seen.deadline, twin.deadline(id));
        }
    }
    Ok(())
}

/// Whether it was refused for lack of room, entries or budget, of which chunks are a part that the twin does not know.
fn is_lack(error: &AllocateError) -> bool {
    matches!(error, AllocateError::Memory(_) | AllocateError::TableFull { .. } | AllocateError::Budget { .. })
}

fn act(pool: &Pool, twin: &mut Twin, action: Action) -> Result<(), TestCaseError> {
    let now = twin.now;
    let pick = |at: usize| (!twin.arenas.is_empty()).then(|| twin.arenas[at % twin.arenas.len()].clone());
    match action {
        Action::Create { parent, limit, lease, tagged, size } => {
            let parent = parent.and_then(&pick);
            let request = ArenaRequest {
                size,
                parent: parent.as_ref().map(|parent| parent.made.id),
                limit_bytes: limit,
                lease: lease.map(Duration::from_nanos),
                tag: tagged.then(|| TAG.parse().expect("a tag")),
                priority: Priority::Normal,
            };
            let own_tag = request.tag.clone();
            match create(pool, &request, now) {
                Ok(made) => {
                    prop_assert!(parent.as_ref().is_none_or(|parent| parent.state == ArenaState::Open));
                    prop_assert_eq!(made.tag.clone(), own_tag.or(parent.and_then(|parent| parent.made.tag)));
                    let own = Arena { deadline: lease.map(|lease| Now(now.0 + lease)), ..made.clone() };
                    twin.arenas.push(ArenaTwin { made: own, used: 0, state: ArenaState::Open });
                    prop_assert_eq!(made.deadline, twin.deadline(made.id));
                }
                Err(ArenaAllocateError::Arena(error)) => {
                    let parent = parent.expect("it is about the parent");
                    prop_assert_eq!(error, ArenaError::Ended { id: parent.made.id, state: parent.state });
                }
                Err(ArenaAllocateError::EstimateTooLarge { .. }) => {
                    prop_assert!(matches!(size, ArenaSize::Estimate(bytes) if bytes > LIMIT))
                }
                Err(ArenaAllocateError::TooDeep { .. }) => prop_assert!(parent.is_some()),
                Err(ArenaAllocateError::Allocate(error)) => {
                    prop_assert!(is_lack(&error));
                    // Not even a page is left, of the pool or of the budget.
                    let in_use = at_once(pool.stats()).heap.in_use_bytes;
                    let of_a_page = matches!(error, AllocateError::Budget { requested_bytes: PAGE, .. });
                    prop_assert!(in_use + PAGE > LIMIT || of_a_page);
                }
                Err(error) => prop_assert!(false, "{}", error),
            }
        }
        Action::Member(at, size) => {
            let Some(arena) = pick(at) else { return Ok(()) };
            let id = arena.made.id;
            match member(pool, id, size, now) {
                Ok(made) => {
                    prop_assert!(arena.state == ArenaState::Open && twin.fits(id, actual(size)));
                    prop_assert_eq!((made.size_bytes, made.actual_size_bytes), (size, actual(size)));
                    prop_assert_eq!(
                        (made.arena, &made.tag, made.deadline),
                        (Some(id), &arena.made.tag, twin.deadline(id))
                    );
                    let content = vec![0; usize::try_from(size).expect("small")];
                    let used = twin.arenas.iter_mut().find(|twin| twin.made.id == id).expect("it was made");
                    used.used += actual(size);
                    twin.members.push(Member { made, content, writes: 0 });
                }
                Err(ArenaAllocateError::Arena(error)) => {
                    prop_assert_eq!(error, ArenaError::Ended { id, state: arena.state })
                }
                Err(ArenaAllocateError::Exhausted { .. }) => prop_assert!(!twin.fits(id, actual(size))),
                Err(ArenaAllocateError::Allocate(error)) => {
                    prop_assert!(arena.state == ArenaState::Open && is_lack(&error));
                    let in_use = at_once(pool.stats()).heap.in_use_bytes;
                    if let AllocateError::Memory(_) = error {
                        prop_assert!(in_use + actual(size).next_multiple_of(PAGE) > LIMIT);
                    }
                }
                Err(error) => prop_assert!(false, "{}", error),
            }
        }
        Action::Plain(size) => match allocate(pool, size, now) {
            Ok(made) => {
                prop_assert_eq!(made.actual_size_bytes, actual_plain(size));
                let content = vec![0; usize::try_from(size).expect("small")];
                twin.members.push(Member { made, content, writes: 0 });
            }
            Err(AllocateError::Memory(_)) => {
                prop_assert!(at_once(pool.stats()).heap.in_use_bytes + actual_plain(size) > LIMIT);
            }
            Err(error) => prop_assert!(matches!(error, AllocateError::TableFull { .. }), "{}", error),
        },
        Action::Write(at, byte, length) if !twin.members.is_empty() => {
            let at = at % twin.members.len();
            let member = &mut twin.members[at];
            // Beside a reader it takes room for a second version.
            if twin.readers.iter().any(|(id, ..)| *id == member.made.id) {
                return Ok(());
            }
            let length = length.min(member.made.size_bytes);
            let body = vec![byte; usize::try_from(length).expect("small")];
            member.writes += 1;
            let expected = Written { version: member.writes, whole: length == member.made.size_bytes };
            prop_assert_eq!(replace(pool, member.made.id, &body, now), Ok(expected));
            member.content.fill(0);
            member.content[..body.len()].copy_from_slice(&body);
        }
        Action::Read(at) if !twin.members.is_empty() && twin.readers.len() < READERS_MAX => {
            let member = &twin.members[at % twin.members.len()];
            let content = at_once(pool.read(member.made.id, now)).expect("it is live");
            twin.readers.push((member.made.id, content, member.content.clone()));
        }
        Action::EndRead if !twin.readers.is_empty() => {
            let (_, content, expected) = twin.readers.swap_remove(0);
            let size_bytes = content.size_bytes;
            prop_assert_eq!(content.read(0..size_bytes).collect::<Vec<_>>().concat(), expected);
        }
        Action::Free(at) if !twin.members.is_empty() => {
            let member = twin.members.remove(at % twin.members.len());
            prop_assert_eq!(at_once(pool.free(member.made.id, now)), Ok(()));
            prop_assert_eq!(at_once(pool.free(member.made.id, now)), Err(NotFound(member.made.id)));
        }
        Action::Reset(at) => end(pool, twin, pick(at), ArenaState::Open, &Keep::Nothing)?,
        Action::Rollback(at) => end(pool, twin, pick(at), ArenaState::RolledBack, &Keep::Nothing)?,
        Action::Commit(at) => end(pool, twin, pick(at), ArenaState::Committed, &Keep::Nothing)?,
        Action::KeepAll(at) => end(pool, twin, pick(at), ArenaState::Committed, &Keep::All)?,
        Action::Keep(at, places) => {
            let Some(arena) = pick(at) else { return Ok(()) };
            let own: Vec<_> =
                twin.members.iter().filter(|member| member.made.arena == Some(arena.made.id)).collect();
            let kept =
                places.iter().filter(|_| !own.is_empty()).map(|at| own[at % own.len()].made.id).collect();
            end(pool, twin, Some(arena), ArenaState::Committed, &Keep::These(kept))?;
        }
        Action::Renew(at, lease) => {
            let Some(arena) = pick(at) else { return Ok(()) };
            let id = arena.made.id;
            let renewed = at_once(pool.renew_arena(id, Duration::from_nanos(lease), now));
            prop_assert_eq!(renewed.is_ok(), arena.state == ArenaState::Open);
            if renewed.is_ok() {
                let deadline = Some(now.after(Duration::from_nanos(lease)));
                let mut arenas = twin.arenas.iter_mut();
                arenas.find(|arena| arena.made.id == id).expect("it was made").made.deadline = deadline;
            }
        }
        Action::Pass(nanoseconds) => {
            twin.now = Now(now.0 + nanoseconds);
            let open = twin.open();
            twin.pass_leases();
            for arena in twin.arenas.iter_mut().filter(|arena| open.contains(&arena.made.id)) {
                let seen = at_once(pool.arena(arena.made.id, twin.now)).expect("it is known").state;
                // Where both its own lease and that of one above it were over, either may have ended it.
                if arena.state == ArenaState::RolledBack && seen == ArenaState::Expired {
                    prop_assert!(arena.made.deadline.is_some_and(|deadline| deadline <= twin.now));
                    arena.state = seen;
                }
                prop_assert_eq!(seen, arena.state);
            }
        }
        Action::Expire => while pool.expire(now).more {},
        Action::Squeeze => {
            pool.end_idle_interval();
            while pool.reclaim_idle_slice() {}
        }
        Action::List(limit, tagged) => {
            let tag: Option<Tag> = tagged.then(|| TAG.parse().expect("a tag"));
            let wanted = |member: &&Member| tag.is_none() || member.made.tag == tag;
            let mut expected: Vec<_> = twin
                .members
                .iter()
                .filter(wanted)
                .map(|member| (member.made.created, member.made.id))
                .collect();
            let (mut listed, mut cursor) = (Vec::new(), None);
            loop {
                let page = at_once(pool.list(cursor, limit, tag.as_ref(), now));
                prop_assert!(page.allocations.len() <= limit);
                listed.extend(page.allocations.iter().map(|made| (made.created, made.id)));
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
            prop_assert!(listed.windows(2).all(|pair| pair[0].0 <= pair[1].0), "in creation order");
            let by_id = |one: &(Now, AllocationId)| one.1.to_string();
            listed.sort_by_key(by_id);
            expected.sort_by_key(by_id);
            prop_assert_eq!(listed, expected);
            let open: Vec<_> =
                at_once(pool.list_arenas(None, 10_000, now)).arenas.iter().map(|arena| arena.id).collect();
            prop_assert_eq!(open, twin.open());
        }
        Action::Check => {
            let Engine::Local(local) = &pool.engine;
            while local.reap_due(now) > 0 {}
            check(pool, twin)?;
        }
        _ => {}
    }
    Ok(())
}

/// Ends an arena, or resets it.
fn end(
    pool: &Pool,
    twin: &mut Twin,
    arena: Option<ArenaTwin>,
    state: ArenaState,
    keep: &Keep,
) -> Result<(), TestCaseError> {
    let Some(arena) = arena else { return Ok(()) };
    let (id, now) = (arena.made.id, twin.now);
    let outcome = match state {
        ArenaState::Open => at_once(pool.reset_arena(id, now)),
        ArenaState::RolledBack => at_once(pool.rollback_arena(id, now)),
        _ => at_once(pool.commit_arena(id, keep, now)),
    };
    if arena.state != ArenaState::Open {
        prop_assert_eq!(outcome, Err(ArenaError::Ended { id, state: arena.state }));
        return Ok(());
    }
    if arena.made.parent.is_some() && *keep != Keep::Nothing {
        prop_assert_eq!(outcome, Err(ArenaError::KeepInChild(id)));
        return Ok(());
    }
    let kept: Vec<AllocationId> = match keep {
        Keep::Nothing => Vec::new(),
        Keep::All => twin
            .members
            .iter()
            .filter(|member| member.made.arena == Some(id))
            .map(|member| member.made.id)
            .collect(),
        Keep::These(kept) => kept.clone(),
    };
    let of_kept = |member: &&Member| kept.contains(&member.made.id);
    let kept_bytes: u64 =
        twin.members.iter().filter(of_kept).map(|member| member.made.actual_size_bytes).sum();
    let freed_bytes = twin.used(id) - kept_bytes;
    let freed_allocations = twin.end(id, state, &kept);
    prop_assert_eq!(outcome, Ok(ArenaFreed { freed_bytes, freed_allocations, state }));
    Ok(())
}

fn walk(actions: Vec<Action>) -> Result<(), TestCaseError> {
    let budgets = [(TAG.parse().expect("a tag"), BUDGET)].into();
    let config = Config { max_allocations: Some(ENTRIES), budgets, ..Config::default() };
    let memory =
        memory::Config { slab_sizes: CLASSES.to_vec(), max_pool_size: LIMIT, ..memory::Config::default() };
    // Nothing is kept ready, so that what is free goes, and what lies above it moves.
    let heap = Heap::new(&memory::Config { initial_slabs_per_size: 0, ..memory });
    let pool = Pool::new(heap.expect("the configuration is right"), &config);
    let mut twin = Twin { now: Now(12_345_678), ..Twin::default() };
    // Of twelve slabs on shared pages only the highest stays: it is moved, in every walk.
    let plain = std::iter::repeat_n(Action::Plain(900), 12);
    let moved = std::iter::repeat_n(Action::Free(0), 11).chain([Action::Squeeze, Action::Squeeze]);
    for action in plain.chain(moved).chain(actions) {
        act(&pool, &mut twin, action)?;
    }
    let Engine::Local(local) = &pool.engine;
    while local.reap_due(twin.now) > 0 {}
    check(&pool, &twin)?;
    for id in twin.open() {
        let _ = at_once(pool.rollback_arena(id, twin.now)); // those in others end with them
    }
    at_once(pool.free_batch(&list_all(&pool, 50, twin.now), twin.now));
    twin.readers.clear();
    check_empty(&pool);
    prop_assert!(at_once(pool.stats()).heap.compaction.moves > 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn arenas_large_objects_and_slabs_that_are_moved_agree_with_a_naive_twin(
        actions in prop::collection::vec(action(), 1..120),
    ) {
        walk(actions)?;
    }
}
