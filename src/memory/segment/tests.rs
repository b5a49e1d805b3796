//! Records one by one: the drawing, the flags, the bounds.

use super::*;

#[test]
fn a_record_walks_the_drawing() {
    let record = SegmentRecord::default();
    assert_eq!(record.hold(), Err(AccessError::Free));
    assert_eq!(record.begin_write().err(), Some(AccessError::Free));
    assert!(record.claim());
    assert!(!record.claim(), "a slab has one owner");
    let access = record.begin_write().expect("the only holder");
    access.raise_dirty(5);
    let writes = access.writes() + 1;
    access.end(writes);
    assert_eq!((record.writes(), record.holders(), record.dirty()), (1, 1, 5));
    assert_eq!(record.hold(), Ok(()));
    assert_eq!(record.begin_write().err(), Some(AccessError::Shared), "bytes never change under a reader");
    assert!(record.set_draining() && !record.set_draining());
    assert!(record.release().is_none());
    assert_eq!(record.writes(), 1, "draining is no write");
    let last = record.release().expect("the last holder scrubs");
    assert!(last.was_draining());
    last.set_dirty(0);
    last.make_free();
    assert_eq!((record.writes(), record.holders()), (0, 0));
    let closed = record.close_free().expect("free");
    assert!(!record.claim());
    closed.make_free();
    assert!(record.claim());
}

#[test]
fn only_readers_of_a_freed_slab_are_overdue_and_the_next_owner_begins_anew() {
    let record = SegmentRecord::default();
    assert!(!record.mark_overdue(), "nobody holds it");
    assert!(record.claim());
    record.begin_write().expect("the only holder").end(WRITES_MAX);
    record.hold().expect("held");
    assert!(!record.mark_overdue() && !record.is_draining(), "it is live");
    assert!(record.set_draining());
    assert!(record.release().is_none());
    assert!(record.is_draining() && !record.is_overdue());
    assert!(record.mark_overdue() && record.mark_overdue(), "marking twice is marking once");
    assert!(record.is_overdue() && record.is_draining());
    assert_eq!(record.writes(), WRITES_MAX, "flags are no writes");
    let last = record.release().expect("the last holder scrubs");
    assert!(last.was_draining());
    assert!(!record.is_draining() && !record.mark_overdue(), "its last reader has left");
    last.make_free();
    assert!(!record.mark_overdue() && !record.is_overdue());
    assert!(record.claim());
    assert!(!record.is_overdue() && !record.is_draining());
}

#[test]
fn a_damaged_slab_ends_with_its_last_holder_and_nobody_has_it_again() {
    let record = SegmentRecord::default();
    assert!(record.claim());
    record.hold().expect("held");
    assert!(record.set_damaged() && !record.set_damaged() && record.is_damaged());
    assert!(record.release().is_none());
    record.begin_write().expect("the only holder").end(3);
    assert!(record.is_damaged(), "a write mends nothing");
    assert_eq!(record.writes(), 3);
    record.release().expect("the last holder").make_retired();
    assert!(record.is_retired() && !record.claim() && record.close_free().is_none());
    assert_eq!((record.hold(), record.holders()), (Err(AccessError::Free), 0));
    assert_eq!(record.begin_write().err(), Some(AccessError::Free));
}

#[test]
fn that_it_was_written_stays_with_a_slab_until_its_pages_are_gone() {
    let record = SegmentRecord::default();
    assert!(record.claim());
    record.begin_write().expect("the only holder").end(0);
    assert!(!record.was_written(), "nothing was written");
    let access = record.begin_write().expect("the only holder");
    access.raise_dirty(1);
    access.set_dirty(0);
    access.end(WRITES_MAX);
    record.release().expect("the last holder").make_free();
    assert!(record.was_written());
    assert!(record.claim(), "it is free all the same");
    assert_eq!(record.writes(), 0);
    record.release().expect("the last holder").make_free();
    let closed = record.close_free().expect("free");
    closed.forget_written();
    closed.make_free();
    assert!(!record.was_written());
}

#[test]
fn holders_are_bounded() {
    let record = SegmentRecord::default();
    assert!(record.claim());
    for _ in 1..HOLDERS_MAX {
        record.hold().expect("below the bound");
    }
    assert_eq!(record.hold(), Err(AccessError::TooManyHolders));
}

#[test]
fn a_closed_slab_can_only_be_opened_or_freed() {
    let record = SegmentRecord::default();
    record.close_free().expect("free").stay_closed();
    assert!(!record.claim() && record.close_free().is_none());
    assert_eq!((record.holders(), record.is_draining(), record.mark_overdue()), (0, false, false));
    assert!(record.open(|was_written| !was_written));
    assert_eq!((record.holders(), record.writes()), (1, 0));
    record.release().expect("the only holder").stay_closed();
    record.free_closed();
    assert!(record.claim());
    assert!(std::panic::catch_unwind(|| record.open(|_| true)).is_err(), "it is held");
    assert!(std::panic::catch_unwind(|| record.free_closed()).is_err(), "it is held");
}

#[test]
fn hints_stay_with_a_slab_through_writes_and_readers_and_end_with_its_last_holder() {
    let record = SegmentRecord::default();
    assert!(!record.set_advised(), "nobody holds it");
    assert!(record.claim());
    assert!(record.set_advised() && !record.set_advised());
    record.begin_write().expect("the only holder").end(WRITES_MAX);
    assert_eq!((record.writes(), record.holders(), record.is_advised()), (WRITES_MAX, 1, true));
    assert!(record.release_unshared().is_none(), "it takes the way of those that need a look");
    record.hold().expect("held");
    assert!(record.release().is_none() && record.is_advised());
    let last = record.release().expect("the last holder");
    assert!(last.is_advised());
    last.stay_closed_written();
    let opened = record.reopen();
    assert!(opened.is_advised(), "also where they are undone later");
    opened.forget_advised();
    opened.make_free();
    assert!(record.claim() && !record.is_advised() && record.release_unshared().is_some());
}
