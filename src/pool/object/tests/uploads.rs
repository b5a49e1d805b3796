//! Bodies on their way into a large object: what room they take, what is seen of them, and what they leave.

use super::super::broken::is_clean;
use super::*;

#[test]
fn an_upload_takes_room_for_the_segments_that_it_touches_and_one_that_breaks_off_leaves_nothing() {
    let pool = pool(64 * MEBIBYTE, &[1024]);
    let size = 20 * MEBIBYTE;
    let id = allocate(&pool, size);
    let mut content = pattern(size, 9);
    upload(&pool, id, Placement::Replace, &content, true).expect("it is lent");
    let body = pattern(3 * MEBIBYTE, 77);
    let offset = 5 * MEBIBYTE + 100;
    {
        let mut broken = begin(&pool, id, patch(offset), Some(body.len() as u64)).expect("there is room");
        broken.push(&body[..1000]).expect("it fits");
        assert_eq!(in_use(&pool), size + 8 * MEBIBYTE, "the second segment, and the third");
    }
    assert_eq!((in_use(&pool), read(&pool, id).1), (size, 1));
    for (version, is_told) in [(2, true), (3, false)] {
        let written = upload(&pool, id, patch(offset), &body, is_told);
        assert_eq!(written, Ok(Written { version, whole: false }));
        assert_eq!(in_use(&pool), size, "the old ones are free");
    }
    content[at(offset)..at(offset) + body.len()].copy_from_slice(&body);
    assert!(read(&pool, id) == (content, 3));
    // Nothing to write: nothing changes.
    assert_eq!(upload(&pool, id, patch(size), &[], true), Ok(Written { version: 3, whole: false }));
    assert_eq!(upload(&pool, id, patch(7), &[], false), Ok(Written { version: 3, whole: false }));
    // A short replacement leaves zeros behind it.
    assert_eq!(upload(&pool, id, Placement::Replace, &body, false), Ok(Written { version: 4, whole: false }));
    let (replaced, _) = read(&pool, id);
    assert!(replaced[..body.len()] == body && replaced[body.len()..].iter().all(|byte| *byte == 0));
    at_once(pool.free(id, NOW)).expect("live");
    assert_empty(&pool);
}

#[test]
fn a_body_longer_than_was_announced_is_refused_and_one_that_ends_behind_the_content_too() {
    let pool = pool(64 * MEBIBYTE, &[1024]);
    let id = allocate(&pool, 12 * MEBIBYTE);
    upload(&pool, id, Placement::Replace, &[1], true).expect("there is room");
    assert!(matches!(begin(&pool, id, patch(12 * MEBIBYTE - 10), Some(11)), Err(WriteError::PastEnd { .. })));
    let mut longer = begin(&pool, id, patch(0), Some(100)).expect("there is room");
    longer.push(&vec![0; 4 << 20]).expect("as far as its segment goes");
    assert!(matches!(longer.push(&[0]), Err(WriteError::PastEnd { .. })));
}

#[test]
fn while_the_first_upload_is_under_way_others_read_zeros_and_write_beside_it() {
    let pool = pool(64 * MEBIBYTE, &[1024]);
    let size = 9 * MEBIBYTE;
    let id = allocate(&pool, size);
    let mut first = begin(&pool, id, patch(MEBIBYTE), None).expect("lent");
    first.push(&[7; 2000]).expect("it fits");
    assert!(read(&pool, id) == (vec![0; at(size)], 0));
    // What the first writes must not be seen, so another one shares nothing with it.
    assert_eq!(write(&pool, id, patch(10), b"second").map(|written| written.version), Ok(1));
    assert_eq!(in_use(&pool), 2 * size, "the first upload has its segments still");
    first.push(&[8; 1]).expect("it fits");
    assert_eq!(first.commit(&Precondition::default(), NOW).map(|written| written.version), Ok(2));
    assert_eq!(in_use(&pool), size);
    let mut expected = vec![0; at(size)];
    expected[10..16].copy_from_slice(b"second");
    expected[1 << 20..(1 << 20) + 2000].fill(7);
    expected[(1 << 20) + 2000] = 8;
    assert!(read(&pool, id) == (expected, 2));
    at_once(pool.free(id, NOW)).expect("live");
    assert_empty(&pool);
}

#[test]
fn a_first_upload_that_breaks_off_leaves_zeros_where_it_ends_or_when_the_janitor_has_been_there() {
    for has_janitor in [false, true] {
        let pool = pool(40 * MEBIBYTE, &[1024]);
        if has_janitor {
            pool.begin_janitor();
        }
        let size = 40 * MEBIBYTE;
        let id = allocate(&pool, size);
        let mut broken = begin(&pool, id, Placement::Replace, None).expect("lent");
        for piece in pattern(36 * MEBIBYTE, 5).chunks(1 << 20) {
            broken.push(piece).expect("it fits");
        }
        drop(broken);
        assert_eq!(read(&pool, id).1, 0);
        if has_janitor {
            assert!(matches!(begin(&pool, id, patch(0), Some(1)), Err(WriteError::NoRoom(_))), "still lent");
            for _ in 0..3 {
                assert_eq!(pool.await_chore(Duration::ZERO), Chore::Scrub);
                pool.scrub_slice();
            }
            assert_eq!(pool.await_chore(Duration::ZERO), Chore::Nothing);
        }
        let Engine::Local(local) = &pool.engine;
        let number = local.look_up(id, NOW).expect("live").2.place.object().expect("an object");
        assert!(local.objects().look(number, |object| is_clean(local.heap(), object)));
        assert_eq!(write(&pool, id, patch(1), b"x").map(|written| written.version), Ok(1));
        at_once(pool.free(id, NOW)).expect("live");
        pool.end_janitor();
        pool.abandon_chores();
        assert_empty(&pool);
    }
}

#[test]
fn an_upload_into_a_block_that_was_freed_ends_there_and_frees_what_it_has() {
    let pool = pool(64 * MEBIBYTE, &[1024]);
    for is_first in [true, false] {
        let id = allocate(&pool, 5 * MEBIBYTE);
        if !is_first {
            write(&pool, id, patch(0), b"x").expect("in place");
        }
        let mut upload = begin(&pool, id, Placement::Replace, None).expect("there is room");
        upload.push(&[1; 100]).expect("it fits");
        at_once(pool.free(id, NOW)).expect("live");
        assert!(matches!(upload.push(&[1]), Err(WriteError::NotFound(_))));
        assert!(matches!(upload.commit(&Precondition::default(), NOW), Err(WriteError::NotFound(_))));
        assert_empty(&pool);
    }
}

#[test]
fn of_two_writers_with_one_etag_one_is_refused() {
    let pool = pool(64 * MEBIBYTE, &[1024]);
    let id = allocate(&pool, 8 * MEBIBYTE);
    write(&pool, id, patch(0), b"x").expect("in place");
    let first = Precondition { if_match: Some(Versions::OneOf(vec![1])), ..Precondition::default() };
    let begin = || at_once(pool.upload_exactly(id, patch(3), 2, &first, NOW)).expect("it matches");
    let (mut one, mut other) = (begin(), begin());
    one.push(b"ab").expect("it fits");
    other.push(b"cd").expect("it fits");
    assert_eq!(other.commit(&first, NOW).map(|written| written.version), Ok(2));
    assert_eq!(one.commit(&first, NOW), Err(WriteError::PreconditionFailed { version: 2 }));
    assert_eq!(&read(&pool, id).0[..6], b"x\0\0cd\0");
    assert!(at_once(pool.upload(id, patch(3), &first, NOW)).is_err(), "it can never match again");
}

#[test]
fn an_upload_whose_neighbours_were_replaced_meanwhile_keeps_them() {
    let pool = pool(64 * MEBIBYTE, &[1024]);
    let id = allocate(&pool, 12 * MEBIBYTE);
    let mut content = pattern(12 * MEBIBYTE, 2);
    upload(&pool, id, Placement::Replace, &content, true).expect("lent");
    let body = pattern(5 * MEBIBYTE, 40);
    for is_told in [true, false] {
        let mut slow =
            begin(&pool, id, patch(3 * MEBIBYTE), is_told.then_some(body.len() as u64)).expect("room");
        slow.push(&body).expect("it fits");
        let other = pattern(12 * MEBIBYTE, 90);
        upload(&pool, id, Placement::Replace, &other, true).expect("there is room");
        write(&pool, id, patch(11 * MEBIBYTE), b"and this").expect("in place");
        slow.commit(&Precondition::default(), NOW).expect("the newer version is filled in");
        content = other;
        content[11 << 20..(11 << 20) + 8].copy_from_slice(b"and this");
        content[3 << 20..(3 << 20) + body.len()].copy_from_slice(&body);
        assert!(read(&pool, id).0 == content);
    }
    at_once(pool.free(id, NOW)).expect("live");
    assert_empty(&pool);
}

#[test]
fn what_is_deposited_is_there_whole_and_what_breaks_off_leaves_nothing() {
    let pool = pool(16 * MEBIBYTE, &[1024]);
    let size = 6 * MEBIBYTE + 1;
    let content = pattern(size, 8);
    let begin = || at_once(pool.deposit(&request(size), Duration::ZERO, NOW)).expect("there is room");
    let mut broken = begin();
    broken.push(&content[..5 << 20]).expect("it fits");
    drop(broken);
    assert_empty(&pool);
    let mut deposit = begin();
    content.chunks(70_000).for_each(|piece| deposit.push(piece).expect("it fits"));
    assert!(matches!(deposit.push(&[0]), Err(WriteError::PastEnd { .. })));
    let made = deposit.commit(NOW).expect("open");
    assert!(read(&pool, made.id) == (content, 1));
    at_once(pool.free(made.id, NOW)).expect("live");
    assert_empty(&pool);
}
