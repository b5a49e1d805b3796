//! The content of one object under a naive twin: a plain vector.

use super::*;
use crate::memory::Advice;
use proptest::prelude::*;

/// Leaves memory in pieces: blocks of two pages, of which the first of each `of` stay.
pub(super) fn scatter(pool: &Pool, of: usize) {
    let blocks: Vec<_> = std::iter::from_fn(|| {
        at_once(pool.allocate(&request(page_size() + 1), Duration::ZERO, NOW)).ok().map(|made| made.id)
    })
    .collect();
    for (at, id) in blocks.iter().enumerate() {
        if at % of != 0 {
            at_once(pool.free(*id, NOW)).expect("live");
        }
    }
}

/// What a client does with its one object.
#[derive(Clone, Debug)]
enum Step {
    Write {
        offset: u64,
        length: u64,
    },
    Replace {
        length: u64,
    },
    Upload {
        offset: u64,
        length: u64,
        is_told: bool,
    },
    ReplaceAll {
        length: u64,
    },
    BreakOff {
        offset: u64,
        length: u64,
        is_told: bool,
    },
    /// Begins to read, and keeps the pieces.
    Hold,
    /// Begins an upload that commits when another begins, or at the end.
    Linger {
        offset: u64,
        length: u64,
        is_told: bool,
    },
    Commit,
    LetGo,
    FreeAndAllocate,
    Advise(Advice),
}

const TWIN_SIZE: u64 = (160 << 10) + 123;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = || (0..TWIN_SIZE, 0..TWIN_SIZE).prop_map(|(a, b)| (a.min(b), a.max(b) - a.min(b)));
    let short = || (0..TWIN_SIZE, 0_u64..30_000).prop_map(|(at, length)| (at, length.min(TWIN_SIZE - at)));
    let step = prop_oneof![
        4 => short().prop_map(|(offset, length)| Step::Write { offset, length }),
        1 => (0_u64..30_000).prop_map(|length| Step::Replace { length }),
        3 => (place(), any::<bool>())
            .prop_map(|((offset, length), is_told)| Step::Upload { offset, length, is_told }),
        1 => (0..=TWIN_SIZE).prop_map(|length| Step::ReplaceAll { length }),
        1 => (place(), any::<bool>())
            .prop_map(|((offset, length), is_told)| Step::BreakOff { offset, length, is_told }),
        3 => Just(Step::Hold),
        3 => (place(), any::<bool>())
            .prop_map(|((offset, length), is_told)| Step::Linger { offset, length, is_told }),
        2 => Just(Step::Commit),
        2 => Just(Step::LetGo),
        1 => Just(Step::FreeAndAllocate),
        2 => Just(Step::Advise(Advice::DontNeed)),
        1 => Just(Step::Advise(Advice::Random)),
        1 => Just(Step::Advise(Advice::WillNeed)),
    ];
    proptest::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever is written however, in memory that is in one piece or scattered, each reader sees the bytes of its
    /// instant, each write all or nothing, and in the end nothing is left.
    #[test]
    fn an_objects_content_is_that_of_a_plain_vector(steps in steps(), pieces in 1_usize..5) {
        let pool = pool(4 * MEBIBYTE, &[1024, 4096]);
        if pieces > 1 {
            scatter(&pool, pieces);
        }
        let before = in_use(&pool);
        let mut id = allocate(&pool, TWIN_SIZE);
        let (mut twin, mut version, mut seed) = (vec![0_u8; at(TWIN_SIZE)], 0, 0_u8);
        let mut held = Vec::new();
        let mut lingering: Option<(Upload<'_>, u64, Vec<u8>)> = None;
        let put = |twin: &mut Vec<u8>, offset: u64, bytes: &[u8]| {
            let offset = at(offset);
            twin[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        for step in steps {
            seed = seed.wrapping_add(1);
            match step {
                Step::Write { offset, length } => {
                    let body = pattern(length, seed);
                    let written = write(&pool, id, patch(offset), &body).expect("there is room");
                    version += u64::from(length > 0);
                    prop_assert_eq!(written.version, version);
                    put(&mut twin, offset, &body);
                }
                Step::Replace { length } => {
                    let body = pattern(length, seed);
                    write(&pool, id, Placement::Replace, &body).expect("there is room");
                    version += 1;
                    twin.fill(0);
                    put(&mut twin, 0, &body);
                }
                Step::Upload { offset, length, is_told } => {
                    let body = pattern(length, seed);
                    upload(&pool, id, patch(offset), &body, is_told).expect("there is room");
                    version += u64::from(length > 0);
                    put(&mut twin, offset, &body);
                }
                Step::ReplaceAll { length } => {
                    let body = pattern(length, seed);
                    upload(&pool, id, Placement::Replace, &body, seed % 2 == 0).expect("there is room");
                    version += 1;
                    twin.fill(0);
                    put(&mut twin, 0, &body);
                }
                Step::BreakOff { offset, length, is_told } => {
                    let mut broken = begin(&pool, id, patch(offset), is_told.then_some(length)).expect("room");
                    broken.push(&pattern(length, seed)).expect("it fits");
                }
                Step::Hold => {
                    let content = at_once(pool.read(id, NOW)).expect("live");
                    prop_assert_eq!(content.version, version);
                    held.push((content.read(0..TWIN_SIZE), twin.clone()));
                }
                Step::Linger { offset, length, is_told } => {
                    let body = pattern(length, seed);
                    let mut upload = begin(&pool, id, patch(offset), is_told.then_some(length)).expect("room");
                    upload.push(&body).expect("it fits");
                    lingering = Some((upload, offset, body));
                }
                Step::Commit => {
                    if let Some((upload, offset, body)) = lingering.take() {
                        upload.commit(&Precondition::default(), NOW).expect("there is room");
                        version += u64::from(!body.is_empty());
                        put(&mut twin, offset, &body);
                    }
                }
                Step::LetGo => {
                    if let Some((pieces, expected)) = held.pop() {
                        prop_assert!(joined(pieces) == expected, "a reader sees another instant");
                    }
                }
                Step::Advise(advice) => {
                    let written = at_once(pool.advise(id, advice, NOW)).expect("there is room");
                    if advice.discards() {
                        version += 1;
                        twin.fill(0);
                    }
                    prop_assert_eq!(written.map(|written| written.version), advice.discards().then_some(version));
                }
                Step::FreeAndAllocate => {
                    at_once(pool.free(id, NOW)).expect("live");
                    if let Some((upload, _, body)) = lingering.take() {
                        let ended = upload.commit(&Precondition::default(), NOW);
                        prop_assert!(ended.is_err(), "{} bytes", body.len());
                    }
                    id = allocate(&pool, TWIN_SIZE);
                    version = 0;
                    twin.fill(0);
                }
            }
            prop_assert!(read(&pool, id) == (twin.clone(), version), "after a step");
            if held.len() > 3 {
                let (pieces, expected) = held.remove(0);
                prop_assert!(joined(pieces) == expected, "a reader sees another instant");
            }
        }
        for (pieces, expected) in held {
            prop_assert!(joined(pieces) == expected, "a reader sees another instant");
        }
        drop(lingering);
        at_once(pool.free(id, NOW)).expect("live");
        prop_assert_eq!((in_use(&pool), heap(&pool).draining_bytes()), (before, 0));
        heap(&pool).check();
    }
}
