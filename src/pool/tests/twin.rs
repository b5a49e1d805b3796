//! The pool against a naive twin: random calls, and after each the pool says what a list of allocations says.

use super::*;
use proptest::prelude::*;

const LIMIT: u64 = 40_000;
const ENTRIES: u32 = 24;
const BUDGET: u64 = 12_000;
const MS: u64 = 1_000_000;

#[derive(Debug, Clone)]
enum Action {
    /// One block, or several as a batch, or one with its content.
    Allocate {
        blocks: Vec<(u64, Option<u64>, Option<usize>)>,
        deposit: bool,
    },
    Free(usize),
    FreeBatch(Vec<usize>),
    Get(usize),
    Renew(usize, u64),
    Pass(u64),
    Expire,
    List(usize, Option<usize>),
    Check,
}

/// The first has a budget.
const TAGS: [&str; 3] = ["cache", "other", "b.u-f_9"];

fn action() -> impl Strategy<Value = Action> {
    let lease = || proptest::option::of(prop_oneof![1..50 * MS, 1..5000 * MS]);
    let tag = || proptest::option::of(0..TAGS.len());
    let size = prop_oneof![6 => 1_u64..9000, 1 => 1_u64..45_000];
    let block = (size, lease(), tag());
    prop_oneof![
        6 => (prop::collection::vec(block, 1..6), any::<bool>()).prop_map(|(blocks, deposit)| Action::Allocate { blocks, deposit }),
        3 => any::<usize>().prop_map(Action::Free),
        1 => prop::collection::vec(any::<usize>(), 0..8).prop_map(Action::FreeBatch),
        1 => any::<usize>().prop_map(Action::Get),
        2 => (any::<usize>(), 1..3000 * MS).prop_map(|(at, lease)| Action::Renew(at, lease)),
        2 => prop_oneof![0..30 * MS, 0..3000 * MS].prop_map(Action::Pass),
        1 => Just(Action::Expire),
        1 => (1_usize..10, tag()).prop_map(|(limit, tag)| Action::List(limit, tag)),
        2 => Just(Action::Check),
    ]
}

fn is_dead(allocation: &Allocation, now: Now) -> bool {
    allocation.deadline.is_some_and(|deadline| deadline <= now)
}

fn bytes<'a>(allocations: impl IntoIterator<Item = &'a Allocation>) -> u64 {
    allocations.into_iter().map(|allocation| allocation.actual_size_bytes).sum()
}

/// Bytes of a block: of its class, or of whole pages where none holds it. None where the pool never could.
fn actual(size: u64) -> Option<u64> {
    let class = [1024, 8192].into_iter().find(|class| size <= *class);
    let bytes = class.unwrap_or_else(|| size.next_multiple_of(memory::page_size()));
    (bytes <= LIMIT).then_some(bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The twin: a list of allocations ever made, in order, with their deadlines.
    #[test]
    fn it_agrees_with_a_naive_twin(actions in prop::collection::vec(action(), 1..150)) {
        let budgets = [(TAGS[0].parse().expect("a tag"), BUDGET)].into();
        let config = Config { max_allocations: Some(ENTRIES), budgets, ..Config::default() };
        let pool = pool(LIMIT, &[1024, 8192], &config);
        let Engine::Local(local) = &pool.engine;
        let mut twin: Vec<Allocation> = Vec::new();
        let mut now = Now(12_345_678);
        for action in actions {
            match action {
                Action::Allocate { blocks, deposit } => {
                    let requests: Vec<AllocateRequest> = blocks.iter().map(|(size, lease, tag)| AllocateRequest {
                        lease: lease.map(Duration::from_nanos),
                        ..request(*size, tag.map(|tag| TAGS[tag]))
                    }).collect();
                    let outcome = match requests.as_slice() {
                        [one] if deposit => at_once(pool.deposit(one, Duration::ZERO, now)).and_then(|mut deposit| {
                            deposit.push(&[7]).expect("a byte fits");
                            deposit.commit(now).map(|made| vec![made])
                        }),
                        [one] => at_once(pool.allocate(one, Duration::ZERO, now)).map(|made| vec![made]),
                        all => at_once(pool.allocate_batch(all, Duration::ZERO, now)),
                    };
                    let alive: Vec<&Allocation> = twin.iter().filter(|allocation| !is_dead(allocation, now)).collect();
                    let wanted: u64 = blocks.iter().filter_map(|(size, ..)| actual(*size)).sum();
                    let of_cache = |tag: Option<&str>| tag == Some(TAGS[0]);
                    let cached = bytes(alive.iter().copied().filter(|allocation| of_cache(allocation.tag.as_ref().map(Tag::as_str))));
                    let wanted_cached: u64 = blocks.iter().filter(|(.., tag)| of_cache(tag.map(|tag| TAGS[tag]))).filter_map(|(size, ..)| actual(*size)).sum();
                    let too_large = blocks.iter().any(|(size, ..)| actual(*size).is_none());
                    let fits_pool = bytes(alive.iter().copied()) + wanted <= LIMIT;
                    let fits_budget = wanted_cached == 0 || cached + wanted_cached <= BUDGET;
                    let fits_table = alive.len() + blocks.len() <= ENTRIES as usize;
                    match outcome {
                        Ok(made) => {
                            prop_assert!(!too_large && fits_pool && fits_budget && fits_table);
                            prop_assert_eq!(made.len(), blocks.len());
                            for (allocation, (size, lease, tag)) in made.iter().zip(&blocks) {
                                prop_assert_eq!(allocation.size_bytes, *size);
                                prop_assert_eq!(Some(allocation.actual_size_bytes), actual(*size));
                                prop_assert_eq!(allocation.deadline, lease.map(|lease| Now(now.0 + lease)));
                                prop_assert_eq!(allocation.tag.as_ref().map(Tag::as_str), tag.map(|tag| TAGS[tag]));
                            }
                            twin.extend(made);
                        }
                        Err(AllocateError::TooLarge { .. }) => prop_assert!(too_large),
                        Err(AllocateError::TooLargeTogether { .. }) => prop_assert!(wanted > LIMIT),
                        Err(AllocateError::Memory(_)) => prop_assert!(!fits_pool),
                        Err(AllocateError::Budget { .. }) => prop_assert!(!fits_budget),
                        Err(AllocateError::TableFull { .. }) => prop_assert!(!fits_table),
                        Err(error) => prop_assert!(false, "{}", error),
                    }
                }
                Action::Free(at) if !twin.is_empty() => {
                    let allocation = twin.remove(at % twin.len());
                    prop_assert_eq!(at_once(pool.free(allocation.id, now)).is_ok(), !is_dead(&allocation, now));
                }
                Action::FreeBatch(places) if !twin.is_empty() => {
                    let named: Vec<AllocationId> = places.iter().map(|at| twin[at % twin.len()].id).collect();
                    let mut missing = Vec::new();
                    for id in &named {
                        match twin.iter().position(|allocation| allocation.id == *id) {
                            Some(at) => if is_dead(&twin.remove(at), now) { missing.push(*id) },
                            None => missing.push(*id),
                        }
                    }
                    prop_assert_eq!(at_once(pool.free_batch(&named, now)), missing);
                }
                Action::Get(at) if !twin.is_empty() => {
                    let expected = &twin[at % twin.len()];
                    let found = at_once(pool.get(expected.id, now)).ok();
                    prop_assert_eq!(found.as_ref(), (!is_dead(expected, now)).then_some(expected));
                }
                Action::Renew(at, lease) if !twin.is_empty() => {
                    let at = at % twin.len();
                    let renewed = at_once(pool.renew(twin[at].id, Duration::from_nanos(lease), now));
                    prop_assert_eq!(renewed.is_ok(), !is_dead(&twin[at], now));
                    if let Ok(renewed) = renewed {
                        twin[at].deadline = Some(Now(now.0 + lease));
                        prop_assert_eq!(&renewed, &twin[at]);
                    }
                }
                Action::Pass(nanoseconds) => now = Now(now.0 + nanoseconds),
                Action::Expire => {
                    while pool.expire(now).more {}
                    // What was due before this tick is gone; the rest of the dead may be.
                    let long_dead = |allocation: &Allocation| allocation.deadline.is_some_and(|deadline| deadline.0 / (10 * MS) < now.0 / (10 * MS));
                    let lasting = twin.iter().filter(|allocation| !long_dead(allocation)).count();
                    prop_assert!(at_once(pool.stats()).active_allocations <= lasting as u64);
                }
                Action::List(limit, tag) => {
                    let wanted = |allocation: &&Allocation| !is_dead(allocation, now) && tag.is_none_or(|tag| allocation.tag.as_ref().map(Tag::as_str) == Some(TAGS[tag]));
                    let expected: Vec<_> = twin.iter().filter(wanted).map(|allocation| allocation.id).collect();
                    let tag: Option<Tag> = tag.map(|tag| TAGS[tag].parse().expect("a tag"));
                    let (mut listed, mut cursor) = (Vec::new(), None);
                    loop {
                        let page = at_once(pool.list(cursor, limit, tag.as_ref(), now));
                        listed.extend(ids(&page));
                        cursor = page.next;
                        if cursor.is_none() { break; }
                    }
                    prop_assert_eq!(listed, expected);
                }
                Action::Check => {
                    local.reap_due(now);
                    twin.retain(|allocation| !is_dead(allocation, now));
                    check_quiet(&pool);
                    for slot in local.slots().iter() { slot.lock().wheel.check(local.table()); }
                    let stats = at_once(pool.stats());
                    prop_assert_eq!((stats.active_allocations, stats.allocated_bytes), (twin.len() as u64, bytes(&twin)));
                    for known in TAGS {
                        let of_tag: Vec<&Allocation> = twin.iter().filter(|allocation| allocation.tag.as_ref().map(Tag::as_str) == Some(known)).collect();
                        let seen = stats.tags.iter().find(|stats| stats.tag.as_str() == known);
                        let seen = seen.map_or((0, 0), |stats| (stats.allocations, stats.allocated_bytes));
                        prop_assert_eq!(seen, (of_tag.len() as u64, bytes(of_tag)));
                    }
                }
                _ => {}
            }
        }
    }
}
