//! Reports against a list that says the same the simple way, and what keeps an allocation out of one.

use super::*;
use crate::memory::{self, Heap};
use crate::pool::tests::at_once;
use crate::pool::{
    AllocateRequest, AllocationId, ArenaRequest, ArenaSize, Config, Keep, Placement, Pool, Precondition,
    Priority, Profile,
};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);
const START: Now = Now(1_000_000 * 1_000_000_000);

fn at(seconds: u64) -> Now {
    START.after(SECOND * u32::try_from(seconds).expect("small"))
}

fn pool() -> Pool {
    let memory = memory::Config {
        slab_sizes: vec![64, 1024, 65_536],
        max_pool_size: 64 << 20,
        ..memory::Config::default()
    };
    Pool::new(Heap::new(&memory).expect("the configuration is right"), &Config::default())
}

fn tag(name: &str) -> Option<Tag> {
    (!name.is_empty()).then(|| name.parse().expect("a tag"))
}

fn make(pool: &Pool, size_bytes: u64, name: &str, lease: Option<Duration>, now: Now) -> AllocationId {
    let request = AllocateRequest { lease, tag: tag(name), ..AllocateRequest::new(size_bytes) };
    at_once(pool.allocate(&request, Duration::ZERO, now)).expect("there is room").id
}

fn write(pool: &Pool, id: AllocationId, now: Now) {
    let pieces = [bytes::Bytes::from_static(b"x")];
    let any = Precondition::default();
    at_once(pool.write(id, Placement::Replace, &pieces, &any, now)).expect("it is live");
}

fn look(pool: &Pool, older_than: u64, now: Now) -> LeakReport {
    at_once(pool.leaks(SECOND * u32::try_from(older_than).expect("small"), now))
}

fn untouched(report: &LeakReport) -> Vec<u64> {
    report.allocations.iter().map(|leaked| report.at.since(leaked.touched).as_secs()).collect()
}

#[test]
fn what_is_old_enough_is_added_up_by_tag_and_the_largest_are_described() {
    let pool = pool();
    let first = make(&pool, 1000, "cache", None, at(0));
    let second = make(&pool, 1000, "cache", None, at(5));
    let large = make(&pool, 3 << 20, "", None, at(7));
    make(&pool, 10, "cache", None, at(20));
    let report = look(&pool, 10, at(20));
    assert_eq!((report.count, report.bytes), (3, 2 * 1024 + (3 << 20)));
    let of = |by: LeakedBy, count, bytes, oldest| {
        let touched = if by == LeakedBy::Nobody { at(7).0 } else { at(5).0 };
        LeakedTag { by, count, bytes, oldest, touched: Now(touched) }
    };
    let cache = LeakedBy::Tag("cache".parse().expect("a tag"));
    let ids: Vec<AllocationId> = report.allocations.iter().map(|leaked| leaked.allocation.id).collect();
    assert_eq!(report.tags, [of(LeakedBy::Nobody, 1, 3 << 20, at(7)), of(cache, 2, 2048, at(0))]);
    assert_eq!(ids, [large, first, second], "of equal ones the oldest first");
    assert_eq!(look(&pool, 0, at(20)).count, 4);
    assert_eq!(look(&pool, 21, at(20)).count, 0);
    assert_eq!(at_once(pool.leaks(Duration::MAX, at(20))).count, 0, "older than the clock is nothing");
}

#[test]
fn what_its_lease_ends_is_no_leak() {
    let pool = pool();
    let leased = make(&pool, 10, "", Some(SECOND * 1000), at(0));
    let renewed = make(&pool, 10, "", None, at(0));
    assert_eq!(look(&pool, 1, at(5)).count, 1);
    at_once(pool.renew(renewed, SECOND * 1000, at(5))).expect("it is live");
    at_once(pool.renew(leased, SECOND * 1000, at(5))).expect("it is live");
    assert_eq!(look(&pool, 1, at(6)).count, 0);
}

#[test]
fn reading_and_writing_touch_and_looking_up_does_not() {
    for size_bytes in [50, 60_000, 1 << 20] {
        let pool = pool();
        let id = make(&pool, size_bytes, "", None, at(0));
        at_once(pool.get(id, at(50))).expect("it is live");
        assert_eq!(untouched(&look(&pool, 1, at(100)))[0], 100, "{size_bytes}");
        at_once(pool.read(id, at(101))).expect("it is live");
        assert_eq!(untouched(&look(&pool, 1, at(111)))[0], 9, "{size_bytes}: to a second, never too long");
        write(&pool, id, at(120));
        assert_eq!(untouched(&look(&pool, 1, at(120)))[0], 0, "{size_bytes}");
        let none =
            Precondition { if_match: Some(crate::pool::Versions::OneOf(vec![7])), ..Default::default() };
        let refused = at_once(pool.write(id, Placement::Replace, &[], &none, at(200)));
        assert!(refused.is_err() && untouched(&look(&pool, 1, at(200)))[0] == 79, "nothing was written");
        let mut upload =
            at_once(pool.upload(id, Placement::Patch { offset: 1 }, &Precondition::default(), at(300)))
                .expect("there is room");
        assert_eq!(untouched(&look(&pool, 1, at(310)))[0], 9, "{size_bytes}");
        upload.push(b"more").expect("it fits");
        at_once(upload.finish(&Precondition::default(), at(400))).expect("it is live");
        assert_eq!(untouched(&look(&pool, 1, at(405)))[0], 4, "{size_bytes}");
        at_once(pool.free(id, at(500))).expect("it is live");
        assert_eq!(look(&pool, 1, at(500)).count, 0);
        make(&pool, size_bytes, "", None, at(600));
        assert_eq!(untouched(&look(&pool, 1, at(700))), [100], "the entry forgot whom it had before");
    }
}

#[test]
fn members_of_an_arena_are_reported_where_nothing_ends_it() {
    let pool = pool();
    let arena = |lease, parent, seconds| {
        let size = ArenaSize::Profile(Profile::Medium);
        let request = ArenaRequest {
            size,
            parent,
            limit_bytes: None,
            lease,
            tag: tag("job"),
            priority: Priority::Normal,
        };
        at_once(pool.create_arena(&request, Duration::ZERO, at(seconds))).expect("there is room").id
    };
    let member = |arena, size_bytes, seconds| {
        at_once(pool.allocate_in_arena(arena, size_bytes, Priority::Normal, Duration::ZERO, at(seconds)))
            .expect("there is room")
            .id
    };
    let (open, leased) = (arena(None, None, 0), arena(Some(SECOND * 1000), None, 0));
    let within = arena(None, Some(leased), 1);
    for arena in [open, leased, within] {
        member(arena, 100, 2);
        member(arena, 100_000, 3);
    }
    let young = member(open, 100, 90);
    let report = look(&pool, 50, at(100));
    let seen: Vec<(u64, _)> = report
        .allocations
        .iter()
        .map(|leaked| (leaked.allocation.size_bytes, leaked.allocation.arena))
        .collect();
    assert_eq!(seen, [(100_000, Some(open)), (100, Some(open))], "the others end with their lease");
    assert_eq!(report.tags.len(), 1);
    assert_eq!(untouched(&report), [97, 98]);
    at_once(pool.read(young, at(110))).expect("it is live");
    assert_eq!(untouched(&look(&pool, 50, at(120))), [117, 10], "one of its members was read");

    at_once(pool.commit_arena(leased, &Keep::All, at(130))).expect("it is open");
    let report = look(&pool, 50, at(140));
    assert_eq!(report.count, 5, "what was kept lives on without a lease");
    let kept = report.allocations.iter().filter(|leaked| leaked.allocation.arena.is_none()).count();
    assert_eq!(kept, 2);
}

#[test]
fn sixty_four_tags_are_told_apart_and_the_rest_is_one() {
    let pool = pool();
    make(&pool, 1000, "other", None, at(0));
    make(&pool, 50, "", None, at(1));
    for number in 0..70 {
        make(&pool, 60_000, &format!("t{number:02}"), None, at(number + 2));
    }
    let report = look(&pool, 0, at(100));
    assert_eq!((report.count, report.tags.len()), (72, 66));
    let names: Vec<Option<&str>> = report.tags.iter().map(|tag| tag.by.name()).collect();
    assert_eq!((names[0], names[1], names[2]), (Some("other"), Some("t00"), Some("t01")));
    assert_eq!((report.tags[0].count, report.tags[0].bytes), (7, 6 * 65_536 + 1024));
    assert_eq!((report.tags[0].oldest, report.tags[0].touched), (at(0), at(71)));
    assert_eq!(names[65], None);
    assert_eq!(report.tags.iter().map(|tag| tag.bytes).sum::<u64>(), report.bytes);
    assert_eq!(report.allocations.len(), LEAKS_SHOWN);
}

#[tokio::test]
async fn a_look_at_many_lets_others_have_their_turn_and_misses_none() {
    let pool = pool();
    let ids: Vec<AllocationId> = (0..20_000).map(|_| make(&pool, 64, "", None, at(0))).collect();
    let turns = std::rc::Rc::new(std::cell::Cell::new(0));
    let looking = pool.leaks(SECOND, at(10));
    let counting = async {
        for id in ids.iter().step_by(1000).skip(10) {
            // Freed ahead of the look, and behind it: what stays is seen once.
            at_once(pool.free(*id, at(10))).expect("it is live");
            turns.set(turns.get() + 1);
            tokio::task::yield_now().await;
        }
    };
    let (report, ()) = tokio::join!(looking, counting);
    assert!(turns.get() >= 4, "{}", turns.get());
    assert!((19_990..=20_000).contains(&report.count), "{}", report.count);
}

/// What happens to the pool and to the list.
#[derive(Clone, Debug)]
enum Step {
    Make { size_bytes: u64, tag: u8, is_leased: bool },
    Free { nth: usize },
    Read { nth: usize },
    Write { nth: usize },
    Renew { nth: usize },
    Wait { seconds: u64 },
    Look { older_than: u64 },
}

#[derive(Clone, Debug)]
struct Known {
    id: AllocationId,
    size_bytes: u64,
    tag: u8,
    created: u64,
    touched: u64,
    is_leased: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (prop_oneof![Just(40), Just(900), Just(5000), Just(200_000)], 0_u8..4, any::<bool>())
            .prop_map(|(size_bytes, tag, is_leased)| Step::Make { size_bytes, tag, is_leased: is_leased && size_bytes < 1000 }),
        2 => (0_usize..64).prop_map(|nth| Step::Free { nth }),
        2 => (0_usize..64).prop_map(|nth| Step::Read { nth }),
        2 => (0_usize..64).prop_map(|nth| Step::Write { nth }),
        1 => (0_usize..64).prop_map(|nth| Step::Renew { nth }),
        3 => (0_u64..40).prop_map(|seconds| Step::Wait { seconds }),
        2 => (0_u64..80).prop_map(|older_than| Step::Look { older_than }),
    ];
    prop::collection::vec(step, 1..100)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The twin is a list of all that lives.
    #[test]
    fn a_report_says_what_a_list_says(steps in steps()) {
        let names = ["", "a", "b", "c"];
        let (pool, mut list, mut now) = (pool(), Vec::<Known>::new(), 0);
        for step in steps {
            let count = list.len().max(1);
            match step {
                Step::Make { size_bytes, tag, is_leased } => {
                    let lease = is_leased.then_some(SECOND * 1_000_000);
                    let id = make(&pool, size_bytes, names[usize::from(tag)], lease, at(now));
                    list.push(Known { id, size_bytes, tag, created: now, touched: now, is_leased });
                }
                Step::Wait { seconds } => now += seconds,
                Step::Look { older_than } => {
                    // Half a second later: of those made at one instant each has its own nanosecond.
                    let half_past = at(now).after(SECOND / 2);
                    let report = look(&pool, older_than, half_past);
                    let old: Vec<&Known> =
                        list.iter().filter(|known| !known.is_leased && now - known.created >= older_than).collect();
                    let actual = |known: &Known| pool.actual_size(known.size_bytes).expect("it was allocated");
                    prop_assert_eq!(report.count, old.len() as u64);
                    prop_assert_eq!(report.bytes, old.iter().map(|known| actual(known)).sum::<u64>());
                    for tag in &report.tags {
                        let of_it: Vec<_> = old.iter()
                            .filter(|known| names[usize::from(known.tag)] == tag.by.name().unwrap_or_default())
                            .collect();
                        prop_assert_eq!(tag.count, of_it.len() as u64);
                        prop_assert_eq!(tag.bytes, of_it.iter().map(|known| actual(known)).sum::<u64>());
                        let oldest = of_it.iter().map(|known| known.created).min();
                        prop_assert_eq!(Some(half_past.since(tag.oldest).as_secs()), oldest.map(|made| now - made));
                        let touched = of_it.iter().map(|known| known.touched).max().expect("it has some");
                        let idle = half_past.since(tag.touched).as_secs();
                        prop_assert!(idle <= now - touched && idle + 1 >= now - touched);
                    }
                    let mut expected: Vec<_> = old.iter().map(|known| (Reverse(actual(known)), known.id)).collect();
                    expected.sort_by_key(|(bytes, _)| *bytes); // stable: the oldest stay first
                    expected.truncate(LEAKS_SHOWN);
                    let shown: Vec<_> = report.allocations.iter()
                        .map(|leaked| (Reverse(leaked.allocation.actual_size_bytes), leaked.allocation.id))
                        .collect();
                    prop_assert_eq!(shown, expected);
                }
                _ if list.is_empty() => {}
                Step::Free { nth } => {
                    let at_place = nth % count;
                    at_once(pool.free(list.remove(at_place).id, at(now))).expect("it is live");
                }
                Step::Read { nth } => {
                    let at_place = nth % count;
                    let known = &mut list[at_place];
                    at_once(pool.read(known.id, at(now))).expect("it is live");
                    known.touched = now;
                }
                Step::Write { nth } => {
                    let at_place = nth % count;
                    let known = &mut list[at_place];
                    write(&pool, known.id, at(now));
                    known.touched = now;
                }
                Step::Renew { nth } => {
                    let at_place = nth % count;
                    let known = &mut list[at_place];
                    at_once(pool.renew(known.id, SECOND * 1_000_000, at(now))).expect("it is live");
                    known.is_leased = true;
                }
            }
        }
    }
}
