//! Each example runs to its end, and says what it is there to show.
//!
//! `cargo test` builds the examples beside the tests. `cargo test --test examples` alone does not: then what was built last
//! is run, so `cargo build --examples` comes first.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where cargo puts the examples that it builds beside this test.
fn built(example: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it lies");
    let profile = test.ancestors().nth(2).expect("tests lie in deps/ of their profile");
    let program = profile.join("examples").join(example);
    assert!(program.exists(), "{} is not there: cargo build --examples", program.display());
    program
}

/// Runs an example; what it prints has all of these.
fn says(example: &str, expected: &[&str]) {
    let output = Command::new(built(example)).output().expect("it was built");
    let printed = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{example} ended with {}: {printed}{complained}", output.status);
    for expected in expected {
        assert!(printed.contains(expected), "{example} does not say {expected:?}: {printed}{complained}");
    }
}

#[test]
fn the_quick_start_shows_slabs_refusals_threads_and_blocks() {
    let expected = [
        "one size: 5000 slabs of 4096 bytes given out",
        "a full one: 1 slabs requested, 2 of 2 in use\n",
        "there is room again: true\n",
        "ten slabs came with a sum of 45, 0 are in use now\n",
        "many sizes: handed on without a copy\n",
    ];
    says("quick_start", &expected);
}

#[test]
fn database_pages_are_found_in_the_cache_and_frames_used_again() {
    let expected = ["a scan: 400 of 2000 pages in memory", "frames: 0 in use of 400, at most 400 at once"];
    says("database_pages", &expected);
}

#[test]
fn network_messages_arrive_and_leave_nothing_behind() {
    let expected = [
        "20000 messages, ",
        "3221225472 bytes requested, the limit leaves room for 4194304 at most\n",
        " 0 are now; the limit is 4194304\n",
    ];
    says("network_buffers", &expected);
}

#[test]
fn a_transaction_keeps_its_changes_in_an_arena_and_a_savepoint_in_one_inside_it() {
    let expected = [
        "a savepoint: 50 pieces, 1600 bytes in chunks of 4096\n",
        "two accounts with one name: 50 pieces rolled back\n",
        "committed: 1002 changes; 2005 pieces, 80160 bytes freed\n",
        "an endless one: 32 bytes requested of an arena, 1048560 of 1048576 are used\n",
        "left in the heap: 0 bytes\n",
    ];
    says("transaction", &expected);
}

#[test]
fn the_end_of_batch_jobs_is_foretold_and_a_leak_beneath_them_noticed() {
    let expected = [
        "150 s into a job 62 % are in use\n",
        "in 60 s, when the next has begun, 1",
        "to do: monitor\n",
        "s are left to 90 %\n",
        "time does not go back: a sample of 0 s comes after one of ",
    ];
    says("forecast", &expected);
}

#[test]
fn large_objects_share_the_memory_of_small_ones() {
    let expected = [
        "an image of 33177600 bytes takes 33177600\n",
        "four threads added up 76032000\n",
        "25600 small blocks fill the heap\n3 images fit where they were\n",
        "1073741824 bytes requested, the limit leaves room for 104857600 at most\n",
    ];
    says("large_objects", &expected);
}

#[test]
fn secure_memory_is_zeroed_and_stray_writes_are_found() {
    let expected = [
        "plain: the next owner finds \"correct horse battery staple\"\n",
        "secure: the next owner finds zeros\n",
        "beyond the end: something wrote beyond the end of slab 0: it is retired\n",
        "gets another slab (true), all zeros (true)\n",
        "2 stray writes found, 2 slabs retired, 14 of 16 still to be had; guard pages on\n",
    ];
    says("secure_memory", &expected);
}

#[test]
fn the_leak_hunt_finds_where_leaked_slabs_were_allocated() {
    let expected = [
        "10 of the oldest 10 were allocated in log_in_from_telephone\n",
        "an id a second time: the slab was given back before\n",
        "closed, with 10 slabs that nobody gave back\n",
    ];
    says("leak_hunt", &expected);
}

#[test]
fn every_example_opens_with_what_it_shows_and_how_to_run_it() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut examples = 0;
    for entry in fs::read_dir(directory).expect("the examples can be read") {
        let path = entry.expect("the examples can be read").path();
        let (Some(name), Some("rs")) = (
            path.file_stem().and_then(|stem| stem.to_str()),
            path.extension().and_then(|extension| extension.to_str()),
        ) else {
            continue;
        };
        let text = fs::read_to_string(&path).expect("an example is text");
        let head: Vec<&str> = text.lines().take_while(|line| line.starts_with("//!")).collect();
        assert!(head.first().is_some_and(|line| line.len() > 4), "{name} opens with what it shows");
        let is_told = head.iter().any(|line| line.starts_with("//! cargo run ") && line.contains(name));
        assert!(is_told, "{name} says how to run it");
        examples += 1;
    }
    assert!(examples >= 5, "the examples were found: {examples}");
}
