//! What the benches of MaaS share: the same work is timed by all of them, with the same code.
//!
//! ```text
//!   contenders.rs  who gives out blocks: MaaS's heap, and the peers it is compared with
//!   workloads.rs   what is done with them; and the pool, against a bare array
//!   rounds.rs      alternating rounds, their medians and their spread
//! ```
//!
//! `ratios.rs` prints ratios of one run, `library.rs` those of the library, `arenas.rs` and
//! `large.rs` those of arenas and large blocks, `curves.rs` hands single ones to criterion, `footprint.rs` looks at memory and
//! start, `src/instructions/` counts instructions and compares them with committed numbers.

#[cfg(feature = "peers")]
pub mod contenders;
pub mod rounds;
pub mod workloads;

/// Bytes of this process that are in memory.
///
/// # Panics
/// Where the system does not tell: it is Linux's way of telling.
pub fn resident_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells about a process");
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it tells what is resident");
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().expect("it is a number of kB");
    kibibytes * 1024.0
}
