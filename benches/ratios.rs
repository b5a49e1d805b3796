//! Ratios of one run: MaaS and each peer by turns in the same rounds, as rows of a Markdown table.
//!
//! ```text
//! cargo bench --manifest-path benches/Cargo.toml --bench ratios               all rows, about ten minutes
//! cargo bench --manifest-path benches/Cargo.toml --bench ratios -- heap/1KiB  rows whose name contains that
//! cargo bench --manifest-path benches/Cargo.toml --bench ratios -- --list     their names
//! cargo bench --manifest-path benches/Cargo.toml --bench ratios -- --rounds 5
//! ```

use maas_benches::contenders::{
    Blocks, FreeLists, JEMALLOC, MIMALLOC, Ours, SWITCHES, SYSTEM, Touch, VARIANTS, Variant,
};
use maas_benches::rounds::{Contender, Outcome, Spread, digits, two_threads_over_one};
use maas_benches::workloads::{BareArray, Churned, FreedAtOnce, Held, LIVE, SIZES, Workload, freed_at_once};
use std::cell::RefCell;
use std::hint::black_box;

/// Rounds, if nothing else is said. Odd, so that the median is a round.
const ROUNDS: usize = 15;

/// Figures to reach: the case, the peer, and what the ratio may be at most.
const FIGURES: [(&str, &str, f64); 7] = [
    ("heap/1KiB/unwritten", "mimalloc", 1.5),
    ("heap/1MiB/unwritten", "mimalloc", 0.05),
    ("pool/random/10^3", "bare array", 1.3),
    ("pool/random/10^4", "bare array", 1.3),
    ("pool/random/10^5", "bare array", 1.3),
    ("pool/random/10^6", "bare array", 1.3),
    ("pool/random/10^7", "bare array", 1.3),
];
/// An allocation and its free through the pool take so many nanoseconds at most.
const POOL_NS_MAX: f64 = 80.0;
/// And so much more than with 10^3 live ones.
const POOL_GROWTH_MAX: f64 = 1.2;
/// Two threads do so much of what one does, at least.
const THREADS_MIN: f64 = 1.8;
/// Two threads that share nothing do so much on a machine that has two cores for them.
const MACHINE_MIN: f64 = 1.9;

/// What the command line says.
struct Run {
    filters: Vec<String>,
    rounds: usize,
    list: bool,
    /// A table's head, until its first row is printed.
    head: RefCell<Option<String>>,
}

impl Run {
    fn from_arguments() -> Run {
        let mut run = Run { filters: Vec::new(), rounds: ROUNDS, list: false, head: RefCell::default() };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => {} // cargo says so to every bench
                "--list" => run.list = true,
                "--rounds" => {
                    let rounds = arguments.next().and_then(|rounds| rounds.parse().ok());
                    run.rounds =
                        rounds.filter(|rounds| *rounds > 0).expect("--rounds takes a number above 0");
                }
                _ => run.filters.push(argument),
            }
        }
        run
    }

    /// Whether the case of that name is to be run now.
    fn wants(&self, case: &str) -> bool {
        let wanted =
            self.filters.is_empty() || self.filters.iter().any(|filter| case.contains(filter.as_str()));
        if wanted && self.list {
            println!("{case}");
        }
        wanted && !self.list
    }

    /// From here on rows are of a table with these columns.
    fn table(&self, columns: &[&str]) {
        let head = format!("\n| {} |\n|{}", columns.join(" | "), "---|".repeat(columns.len()));
        self.head.replace(Some(head));
    }

    fn row(&self, cells: &[&str]) {
        if let Some(head) = self.head.take() {
            println!("{head}");
        }
        println!("| {} |", cells.join(" | "));
    }
}

fn verdict(sign: &str, bound: f64, reached: bool) -> String {
    format!("{sign} {bound}: {}", if reached { "reached" } else { "**not reached**" })
}

/// One row for each peer of a group whose first contender is ours.
fn rows(case: &str, contenders: &mut [Contender<'_>], run: &Run) {
    let outcome = Outcome::of(contenders, run.rounds);
    for peer in 1..contenders.len() {
        let name = &contenders[peer].name;
        let ratio = outcome.ratio(0, peer);
        let figure = FIGURES.iter().find(|figure| figure.0 == case && figure.1 == name);
        run.row(&[
            &format!("`{case}`"),
            &contenders[0].name,
            &digits(outcome.ns(0).median),
            name,
            &digits(outcome.ns(peer).median),
            &ratio.to_string(),
            &outcome.against_itself().to_string(),
            &figure.map_or(String::new(), |(.., most)| verdict("≤", *most, ratio.median <= *most)),
        ]);
    }
}

const HEAD: [&str; 8] = [
    "case",
    "ours",
    "its ns",
    "peer",
    "its ns",
    "ours / peer (least–most)",
    "ours / ours (least–most)",
    "figure to reach",
];

fn blocks(run: &Run) {
    run.table(&HEAD);
    for variant in VARIANTS {
        for (size, size_bytes) in SIZES {
            for touch in [Touch::Unwritten, Touch::Written, Touch::Copied] {
                against_all(
                    &format!("heap/{size}/{}", touch.name()),
                    &FreedAtOnce(size_bytes, touch),
                    variant,
                    run,
                );
            }
        }
        for touch in [Touch::Unwritten, Touch::Written, Touch::Copied] {
            against_all(&format!("heap/churn/{}", touch.name()), &Churned(touch), variant, run);
        }
    }
}

/// The heap as it comes against itself with one switch the other way.
fn switches(run: &Run) {
    run.table(&HEAD);
    for switch in SWITCHES {
        for (size, size_bytes) in SIZES {
            for touch in [Touch::Unwritten, Touch::Copied] {
                switched(
                    &format!("switch/{size}/{}", touch.name()),
                    &FreedAtOnce(size_bytes, touch),
                    switch,
                    run,
                );
            }
        }
        switched("switch/churn/copied", &Churned(Touch::Copied), switch, run);
    }
}

fn switched(case: &str, workload: &impl Workload, switch: &Variant, run: &Run) {
    if run.wants(case) {
        let (ours, other) = (Ours::new(&VARIANTS[0]), Ours::new(switch));
        rows(case, &mut [workload.with(&ours), workload.with(&other)], run);
    }
}

fn against_all(case: &str, workload: &impl Workload, variant: &Variant, run: &Run) {
    if run.wants(case) {
        let (ours, lists) = (Ours::new(variant), FreeLists::default());
        rows(case, &mut workload.with_all(&ours, &lists), run);
    }
}

/// An allocation and its free, while others live: in one run for all numbers of them, so that growth is a ratio too.
fn pool_freed_at_once(run: &Run) {
    let wanted: Vec<_> = LIVE
        .iter()
        .map(|(live, count)| (format!("pool/freed-at-once/{live}"), *count))
        .filter(|(case, _)| run.wants(case))
        .collect();
    if wanted.is_empty() {
        return;
    }
    let pools: Vec<Held> = wanted.iter().map(|(_, live)| Held::new(*live)).collect();
    let mut contenders: Vec<_> =
        pools.iter().map(|held| Contender::new("maas", || held.freed_at_once())).collect();
    let outcome = Outcome::of(&mut contenders, run.rounds);
    run.table(&["case", "ns (least–most)", "figure to reach", "growth (least–most)", "figure to reach"]);
    for (at, (case, _)) in wanted.iter().enumerate() {
        let (ns, growth) = (outcome.ns(at), outcome.ratio(at, 0));
        // The first one has nothing to have grown from: its spread against itself stands there.
        let growth = if at == 0 { outcome.against_itself() } else { growth };
        run.row(&[
            &format!("`{case}`"),
            &ns.to_string(),
            &verdict("≤", POOL_NS_MAX, ns.median <= POOL_NS_MAX),
            &growth.to_string(),
            &verdict("≤", POOL_GROWTH_MAX, growth.median <= POOL_GROWTH_MAX),
        ]);
    }
}

fn pool_random(run: &Run) {
    run.table(&HEAD);
    for (live, count) in LIVE {
        let case = format!("pool/random/{live}");
        if run.wants(&case) {
            let (mut held, mut bare) = (Held::new(count).shuffled(), BareArray::new(count));
            let mut contenders =
                [Contender::new("maas", || held.replace()), Contender::new("bare array", || bare.replace())];
            rows(&case, &mut contenders, run);
        }
    }
}

fn threads(run: &Run) {
    run.table(&["case", "who", "two threads / one (least–most)", "figure to reach"]);
    let cases = ["threads/machine", "threads/heap/64B", "threads/heap/1KiB", "threads/pool/10^3"];
    let wanted = cases.map(|case| run.wants(case));
    if !wanted.contains(&true) {
        return;
    }
    // Measured whichever row is wanted: without two free cores no row can tell whether the figure is reached.
    let count = |times| {
        for turn in 0..times {
            black_box(turn);
        }
    };
    let machine = two_threads_over_one(&count, run.rounds);
    let row = |case: &str, who: &str, ratio: Spread, ours: bool| {
        let figure = if !ours {
            String::new()
        } else if machine.median < MACHINE_MIN {
            format!("≥ {THREADS_MIN}: not decided, the machine had no two free cores")
        } else {
            verdict("≥", THREADS_MIN, ratio.median >= THREADS_MIN)
        };
        run.row(&[&format!("`{case}`"), who, &ratio.to_string(), &figure]);
    };
    row(cases[0], "counting, nothing shared", machine, false);
    fn blocks<B: Blocks>(blocks: &B, size_bytes: u64, run: &Run) -> Spread {
        let work = |times| (0..times).for_each(|_| freed_at_once(blocks, size_bytes, Touch::Unwritten));
        two_threads_over_one(&work, run.rounds)
    }
    for (at, (_, size_bytes)) in (1..).zip(SIZES.into_iter().take(2)) {
        if wanted[at] {
            for variant in VARIANTS {
                let ours = Ours::new(variant);
                row(cases[at], ours.name(), blocks(&ours, size_bytes, run), true);
            }
            let lists = FreeLists::default();
            row(cases[at], MIMALLOC.name(), blocks(&MIMALLOC, size_bytes, run), false);
            row(cases[at], JEMALLOC.name(), blocks(&JEMALLOC, size_bytes, run), false);
            row(cases[at], SYSTEM.name(), blocks(&SYSTEM, size_bytes, run), false);
            row(cases[at], lists.name(), blocks(&lists, size_bytes, run), false);
        }
    }
    if wanted[3] {
        let held = Held::new(1000);
        let work = |times| (0..times).for_each(|_| held.freed_at_once());
        row(cases[3], "maas", two_threads_over_one(&work, run.rounds), true);
    }
}

fn main() {
    let run = Run::from_arguments();
    blocks(&run);
    switches(&run);
    threads(&run);
    pool_freed_at_once(&run);
    pool_random(&run);
}
