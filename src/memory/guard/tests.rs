//! Guards are hit by processes of their own: this binary, told what to do by its environment.

use super::*;
use crate::memory::compact::Sweep;
use crate::memory::os::faults;
use crate::memory::{Config, Edit, Heap, ReclaimAction, SizeClass, page_size};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

const ROLE: &str = "MAAS_GUARD_TEST_ROLE";

fn guarded(slab_bytes: u64, slabs: u64) -> Heap {
    let config = Config {
        slab_sizes: vec![slab_bytes],
        max_pool_size: slab_bytes * slabs,
        initial_slabs_per_size: 0,
        guard_pages: true,
        ..Config::default()
    };
    Heap::new(&config).expect("the configuration is right")
}

/// Allocates the slabs and writes one byte so far from the beginning of the last of them.
fn poke_last(slab_bytes: u64, slabs: u64, offset: u64) {
    let heap = guarded(slab_bytes, slabs + 100);
    for _ in 0..slabs {
        heap.allocate(SizeClass(0)).expect("there is room");
    }
    heap.classes[0].slabs().poke(slabs - 1, offset, 1);
}

/// What the process of each role does.
fn play(role: &str) {
    match role {
        "marker" => poke_last(4096, 3, 4096),
        "mapping" => {
            faults::refuse_markers(true);
            poke_last(4096, 3, 4096);
        }
        "small" => poke_last(1000, 65, 1000),
        "far" => poke_last(1 << 20, 1, (1 << 20) + 4096 + (50 << 20)),
        "inside" => poke_last(4096, 3, 4095),
        "overflow" => {
            drop(guarded(4096, 1));
            let thread = std::thread::Builder::new().stack_size(64 << 10);
            let _ = thread.spawn(|| deep(1)).expect("a thread can be had").join();
        }
        "signal" => {
            let _heap = guarded(4096, 1);
            let ourselves = rustix::process::getpid();
            // The first one goes to the handler of the standard library, which takes itself away and waits for the
            // fault to come again.
            for _ in 0..2 {
                rustix::process::kill_process(ourselves, rustix::process::Signal::SEGV).expect("we may");
                std::thread::sleep(std::time::Duration::from_millis(300));
            }
        }
        "beyond" => allocate_beyond_the_mappings(),
        role => panic!("nobody plays {role}"),
    }
}

/// Uses stack until there is none.
fn deep(depth: u64) -> u64 {
    let ballast = std::hint::black_box([depth; 512]);
    if depth == 0 { 0 } else { deep(depth + 1) + ballast[3] }
}

/// Runs this test in a process of its own, in which it plays `role`.
fn process(role: &str) -> Output {
    Command::new(std::env::current_exe().expect("we run"))
        .args(["memory::guard::tests::hits_end_the_process_with_a_line", "--exact", "--nocapture"])
        .env(ROLE, role)
        .output()
        .expect("we can be run again")
}

#[test]
fn hits_end_the_process_with_a_line() {
    if let Ok(role) = std::env::var(ROLE) {
        return play(&role);
    }
    let rest = ": a stray read or write; the process ends\n";
    for (role, line) in [
        ("marker", "maas: guard page hit behind slab 2 of class 4096"),
        ("mapping", "maas: guard page hit behind slab 2 of class 4096"),
        ("small", "maas: guard page hit behind slab 64 of class 1000"),
        ("far", "maas: no access to slab 50 of class 1048576"),
    ] {
        let output = process(role);
        assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{role}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("{line}{rest}"), "{role}");
    }
    assert!(process("inside").status.success(), "the last byte of a slab is its own");
}

#[test]
fn faults_that_are_not_ours_go_where_they_went_before() {
    let output = process("overflow");
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("overflowed its stack"), "{output:?}");
    let output = process("signal");
    assert_eq!((output.status.signal(), output.stderr.len()), (Some(libc::SIGSEGV), 0), "{output:?}");
}

/// Mappings that begin in the heap's region.
fn mappings(heap: &Heap) -> usize {
    let (start, length) = heap.classes[0].slabs().address_range();
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux has it");
    let starts = maps.lines().filter_map(|line| usize::from_str_radix(line.split_once('-')?.0, 16).ok());
    starts.filter(|at| (start..start + length).contains(at)).count()
}

/// More slabs than there can be guards that are mappings.
fn allocate_beyond_the_mappings() {
    const SLABS: u64 = GUARD_MAPPINGS_MAX + 1000;
    faults::refuse_markers(true);
    let heap = guarded(4096, SLABS);
    for _ in 0..SLABS {
        heap.allocate(SizeClass(0)).expect("there is room");
    }
    let mappings = mappings(&heap) as u64;
    assert!((2 * GUARD_MAPPINGS_MAX..=2 * GUARD_MAPPINGS_MAX + 2).contains(&mappings), "{mappings}");
    heap.classes[0].slabs().poke(SLABS - 1, 4096, 1); // does nothing, because nothing guards it
    heap.check();
}

/// In a process of its own: so many mappings would slow down every test that reads them.
#[test]
fn guards_that_are_mappings_end_before_the_process_has_no_more_and_memory_goes_on() {
    let output = process("beyond");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn guards_that_are_markers_take_no_mappings_and_stay_when_pages_go() {
    let heap = guarded(4096, 1000);
    let slabs: Vec<_> = (0..1000).map(|_| heap.allocate(SizeClass(0)).expect("there is room")).collect();
    let has_markers = heap.classes[0].slabs().has_guard_markers();
    let expected = if has_markers { 1 } else { 2000 };
    assert!((expected..=expected + 1).contains(&mappings(&heap)), "{}", mappings(&heap));
    slabs.into_iter().for_each(|slab| heap.free(slab));
    let closed = heap.close_magazines();
    let mut sweep = Sweep::new(1000);
    while sweep.wanted > 0 {
        heap.reclaim_slice(SizeClass(0), &mut sweep, ReclaimAction::Idle)
            .expect("the system takes pages back");
    }
    drop(closed);
    heap.check();
    assert!((expected..=expected + 1).contains(&mappings(&heap)));
    for _ in 0..1000 {
        heap.allocate(SizeClass(0)).expect("the pages come back");
    }
    heap.check();
}

#[test]
fn guarded_slabs_that_lie_idle_give_their_own_pages_back_and_live_ones_keep_theirs() {
    for slab_bytes in [4096, 8192, 20_000] {
        const SLABS: u64 = 40;
        let config = Config {
            slab_sizes: vec![slab_bytes],
            max_pool_size: slab_bytes * SLABS,
            initial_slabs_per_size: 40,
            guard_pages: true,
            ..Config::default()
        };
        let heap = Heap::new(&config).expect("the configuration is right");
        let slabs: Vec<_> = (0..SLABS).map(|_| heap.allocate(SizeClass(0)).expect("there is room")).collect();
        for slab in &slabs {
            let content = vec![7; usize::try_from(slab_bytes).expect("small")];
            let edit = Edit { pieces: &[&content], writes: Some(1), ..Edit::default() };
            heap.edit(*slab, &edit).expect("the only holder");
        }
        let (live, idle) = slabs.split_at(20);
        idle.iter().for_each(|slab| heap.free(*slab));
        for _ in 0..3 {
            heap.end_idle_interval();
            while heap.reclaim_idle_slice() {}
        }
        heap.check();
        let was_written = |slab: &crate::memory::SlabLocation| {
            let (slabs, index) = heap.slabs(*slab);
            slabs.record(index).was_written()
        };
        assert!(live.iter().all(was_written), "{slab_bytes}");
        if slab_bytes.is_multiple_of(page_size()) {
            assert!(!idle.iter().any(was_written), "{slab_bytes}: what is free and idle has no pages");
        }
        for _ in idle {
            heap.allocate(SizeClass(0)).expect("there is room");
        }
    }
}

#[test]
fn a_region_that_is_gone_is_not_told_of() {
    let heap = guarded(4096, 10);
    let (start, _) = heap.classes[0].slabs().address_range();
    let line = line_about(start + 4096).expect("it is watched");
    assert!(line.as_bytes().starts_with(b"maas: guard page hit behind slab 0 of class 4096"));
    drop(heap);
    let is_reused = line_about(start + 4096).is_some_and(|line| line.as_bytes().ends_with(b"class 4096"));
    assert!(!is_reused);
}
