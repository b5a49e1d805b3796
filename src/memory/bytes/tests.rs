//! Slabs of one class: who may touch which bytes, and what they read as.

use super::*;

fn one_slab(slab_bytes: u64) -> Slabs {
    let slabs =
        Slabs::reserve(slab_bytes, 4, &Protection::default()).expect("a little address space can be had");
    slabs.commit(1).expect("a little memory can be had");
    assert!(slabs.claim(1));
    slabs
}

fn write(slabs: &Slabs, index: u64, offset: u64, bytes: &[u8]) -> Result<(), AccessError> {
    let change = slabs.change(index)?;
    change.copy(offset, bytes);
    let writes = change.writes() + 1;
    change.end(writes);
    Ok(())
}

fn release(slabs: &Slabs, index: u64) -> bool {
    let last = slabs.record(index).release();
    last.map(|access| {
        slabs.scrub(index, &access);
        access.make_free();
    })
    .is_some()
}

fn content(slabs: &Slabs) -> Vec<u8> {
    // SAFETY: slab 1 is held by the test, which lives as long as the copy takes.
    unsafe { slabs.lend(1) }.to_vec()
}

#[test]
fn written_parts_are_zeroed_at_release_and_neighbours_stay() {
    let slabs = one_slab(1000);
    assert!(slabs.claim(0));
    write(&slabs, 0, 990, &[9; 10]).expect("the only holder");
    write(&slabs, 1, 7, &[1, 2, 3]).expect("the only holder");
    assert_eq!(content(&slabs)[..11], [0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0]);
    assert!(release(&slabs, 1));
    assert!(slabs.claim(1));
    assert_eq!(content(&slabs), vec![0; 1000]);
    // SAFETY: slab 0 is held by the test.
    assert_eq!(unsafe { slabs.lend(0) }[990..], [9; 10]);
}

#[test]
fn a_shared_slab_is_not_written() {
    let slabs = one_slab(4096);
    slabs.record(1).hold().expect("held");
    assert_eq!(write(&slabs, 1, 0, &[1]), Err(AccessError::Shared));
    assert!(!release(&slabs, 1));
    write(&slabs, 1, 0, &[1]).expect("alone again");
}

#[test]
#[should_panic(expected = "outside a slab")]
fn a_write_past_the_end_is_refused() {
    let slabs = one_slab(1024);
    let _ = write(&slabs, 1, 1020, &[0; 5]);
}

#[test]
#[should_panic(expected = "never committed")]
fn a_slab_without_memory_is_never_given_out() {
    let slabs =
        Slabs::reserve(1 << 20, 4, &Protection::default()).expect("a little address space can be had");
    slabs.claim(3);
}

#[test]
#[should_panic(expected = "only while all slabs on them are free")]
fn pages_of_a_held_slab_are_never_given_back() {
    let slabs = one_slab(1024);
    let _ = slabs.decommit(0..1);
}

#[test]
fn pages_given_back_leave_the_slab_usable() {
    let slabs = one_slab(4096);
    write(&slabs, 1, 0, &[7; 4096]).expect("the only holder");
    assert!(release(&slabs, 1));
    slabs.decommit(1..2).expect("the system takes pages back");
    assert!(slabs.claim(1));
    assert_eq!(content(&slabs), vec![0; 4096]);
}

#[test]
fn a_failed_give_back_leaves_everything_as_it_was() {
    let slabs = one_slab(4096);
    assert!(release(&slabs, 1));
    super::super::os::faults::fail_after(0);
    assert_eq!(slabs.decommit(1..2).expect_err("the planned failure").call, "madvise");
    assert!(slabs.claim(1));
}

#[test]
fn a_copy_has_the_written_parts_and_the_count_of_writes_and_needs_both_slabs_alone() {
    let slabs = one_slab(1000);
    assert!(slabs.claim(0));
    write(&slabs, 1, 7, &[1, 2, 3]).expect("the only holder");
    write(&slabs, 1, 990, &[4; 10]).expect("the only holder");
    slabs.record(1).hold().expect("held");
    assert_eq!(slabs.copy_slab(1, 0), Err(AccessError::Shared), "it is read");
    assert!(!release(&slabs, 1));
    assert_eq!(slabs.copy_slab(1, 2), Err(AccessError::Free), "nobody holds the other");
    assert_eq!(slabs.copy_slab(1, 0), Ok(()));
    // SAFETY: slab 0 is held by the test.
    assert_eq!(unsafe { slabs.lend(0) }, content(&slabs));
    let states = [0, 1].map(|index| {
        let record = slabs.record(index);
        (record.writes(), record.holders(), record.dirty())
    });
    assert_eq!(states, [(2, 1, 1 | 1 << 30 | 1 << 31); 2]);
    assert!(release(&slabs, 1) && release(&slabs, 0));
}

#[test]
fn each_slab_has_a_record_of_its_own_and_neighbours_are_lines_apart() {
    let places: std::collections::BTreeSet<u64> = (0..1024).map(spread).collect();
    assert_eq!(places, (0..1024).collect());
    for index in 0..1023_u64 {
        let line = |index| spread(index) * size_of::<SegmentRecord>() as u64 / 64;
        assert_ne!(line(index), line(index + 1), "slab {index} and the next");
    }
}
