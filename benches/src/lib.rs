//! What the benches of MaaS share: the same work is timed by all of them, with the same code.
//!
//! ```text
//!   contenders.rs  who gives out blocks: MaaS's heap, and the peers it is compared with
//!   workloads.rs   what is done with them; and the pool, against a bare array
//!   rounds.rs      alternating rounds, their medians and their spread
//! ```
//!
//! `ratios.rs` prints ratios of one run, `curves.rs` hands single ones to criterion, `footprint.rs` looks at memory and
//! start, `src/instructions/` counts instructions and compares them with committed numbers.

#[cfg(feature = "peers")]
pub mod contenders;
pub mod rounds;
pub mod workloads;
