//! The floor: errors are values, and every call can be made to fail.

use super::*;

#[test]
fn address_space_beyond_the_machine_is_an_error_value() {
    let refused = Reservation::reserve(u64::MAX).expect_err("no machine has that");
    assert_eq!(refused.call, "mmap");
    assert!(Reservation::reserve(1 << 60).is_err());
}

#[test]
#[should_panic(expected = "is outside")]
fn a_run_outside_the_reservation_is_refused() {
    let region = Reservation::reserve(page_size()).expect("one page can be had");
    let _ = region.commit(0..2 * page_size());
}

#[test]
fn a_failing_call_is_reported_once_and_the_next_works() {
    let region = Reservation::reserve(page_size()).expect("one page can be had");
    faults::fail_after(0);
    let refused = region.commit(0..page_size()).expect_err("the planned failure");
    assert_eq!((refused.call, refused.bytes), ("mprotect", page_size()));
    assert!(!faults::disarm());
    region.commit(0..page_size()).expect("the next call works");
}
