//! What the tests share: the program as a process, a client that controls every byte, and peers to push to.

mod answer;
mod arenas;
mod client;
mod description;
mod hunt;
mod peer;
mod samples;
mod server;

pub(crate) use answer::Answer;
pub(crate) use arenas::arena_path;
pub(crate) use client::{Client, JSON, OCTETS, padded, request};
pub(crate) use description::{Description, description};
pub(crate) use hunt::{chunked, is_uniform, rounds, seed};
pub(crate) use peer::{Mode, TestPeer};
pub(crate) use samples::Samples;
pub(crate) use server::{Server, Starting};

use serde_json::Value;
use std::time::{Duration, Instant};

/// Long enough for a machine that is busy with something else; no test waits for it when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The path of an allocation.
pub(crate) fn path_of(allocation: &Value) -> String {
    format!("/allocate/{}", allocation["id"].as_str().expect("an id is text"))
}

/// Waits until `condition` holds.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
