//! Memory and start: bytes of records for each live allocation, resident bytes for each byte written, and the time that it
//! takes to make a pool. Rows of a Markdown table.
//!
//! `cargo bench --manifest-path benches/Cargo.toml --bench footprint [-- CASE]`. Each case runs in a process of its own, so
//! that nothing another one left behind is resident.

use bytes::Bytes;
use maas::memory::Config;
use maas::pool::{self, Placement, Pool, Precondition};
use maas_benches::resident_bytes;
use maas_benches::rounds::{Spread, digits};
use maas_benches::workloads::{Held, NOW, REQUEST, heap, ready};
use std::process::Command;
use std::time::Instant;

/// Figures to reach.
const METADATA_BYTES_MAX: f64 = 96.0;
const RESIDENT_RATIO_MAX: f64 = 1.05;

/// Pools made, one after the other, to time how long that takes.
const STARTS: usize = 15;

/// A case: its name, and what makes its rows.
type Case = (&'static str, fn(&str));

const CASES: [Case; 5] = [
    ("metadata/10^6", |case| metadata(case, 1_000_000)),
    ("metadata/10^7", |case| metadata(case, 10_000_000)),
    ("resident/10^6x1KiB", resident),
    ("start/1GiB", |case| start(case, 1 << 30)),
    ("start/64GiB", |case| start(case, 64 << 30)),
];

fn row(case: &str, what: &str, figure: &str, bound: f64, reached: bool) {
    let reached = if reached { "reached" } else { "**not reached**" };
    println!("| `{case}` | {what} | {figure} | ≤ {bound}: {reached} |");
}

fn metadata(case: &str, live: usize) {
    let before = resident_bytes();
    let held = Held::new(live);
    let ids_bytes = size_of_val(held.ids()) as f64;
    // Nothing was written: what came to be resident is records, and our own list of ids.
    let resident = (resident_bytes() - before - ids_bytes) / live as f64;
    let counted = ready(held.pool().stats()).metadata_bytes as f64 / live as f64;
    let reached = |bytes: f64| bytes <= METADATA_BYTES_MAX;
    row(
        case,
        "bytes of records for an allocation, as exported",
        &digits(counted),
        METADATA_BYTES_MAX,
        reached(counted),
    );
    row(case, "the same, as resident", &digits(resident), METADATA_BYTES_MAX, reached(resident));
}

fn resident(case: &str) {
    let held = Held::new(1_000_000);
    let body = [Bytes::from(vec![7; REQUEST.size_bytes as usize])];
    let precondition = Precondition::default();
    let before = resident_bytes();
    for id in held.ids() {
        let written = held.pool().write(*id, Placement::Replace, &body, &precondition, NOW);
        ready(written).expect("nobody reads it");
    }
    let ratio = (resident_bytes() - before) / (held.ids().len() as f64 * REQUEST.size_bytes as f64);
    let what = "resident bytes for each byte written, 1 KiB each, whole";
    row(case, what, &format!("{ratio:.4}"), RESIDENT_RATIO_MAX, ratio <= RESIDENT_RATIO_MAX);
}

fn start(case: &str, max_pool_size: u64) {
    let usual = |config: &mut Config| config.slab_sizes = Config::default().slab_sizes;
    let ms = Spread::of((0..STARTS).map(|_| {
        let began = Instant::now();
        let pool = Pool::new(heap(max_pool_size, &usual), &pool::Config::default());
        let ms = began.elapsed().as_secs_f64() * 1e3;
        drop(pool);
        ms
    }));
    // The figure is for the whole program, up to its first answer: this is a part of it and decides nothing.
    println!("| `{case}` | ms to make heap and pool | {ms} | part of ≤ 50 to the first /health |");
}

fn main() {
    let mut arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [flag, case] = &arguments[..]
        && flag == "--in-this-process"
    {
        let (case, run) = CASES.iter().find(|(name, _)| name == case).expect("it is one of our own names");
        return run(case);
    }
    println!("| case | what | figure | figure to reach |\n|---|---|---|---|");
    let filter = arguments.pop().unwrap_or_default();
    for (case, _) in CASES.iter().filter(|(case, _)| case.contains(&filter)) {
        let this = std::env::current_exe().expect("Linux knows");
        let ended = Command::new(this).args(["--in-this-process", case]).status().expect("it ran before");
        assert!(ended.success(), "{case} failed");
    }
}
