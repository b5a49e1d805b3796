//! Single curves, by criterion: how the time of one operation is distributed, and how it changed since the last run.
//!
//! `cargo bench --manifest-path benches/Cargo.toml --bench curves -- FILTER`. The cases and their code are those of
//! `ratios.rs`, which compares in one run; criterion measures one after the other, so its figures are not for ratios.

use criterion::{Criterion, criterion_group, criterion_main};
use maas_benches::contenders::{FreeLists, Ours, Touch, VARIANTS};
use maas_benches::rounds::Contender;
use maas_benches::workloads::{BareArray, Churned, FreedAtOnce, Held, LIVE, SIZES, Workload};
use std::time::{Duration, Instant};

/// Measures each of them; what was prepared for it stays outside of the time.
fn curve(criterion: &mut Criterion, case: &str, contenders: Vec<Contender<'_>>) {
    let mut group = criterion.benchmark_group(case);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(30);
    for mut contender in contenders {
        let name = contender.name.clone();
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let began = Instant::now();
                contender.work(times.div_ceil(contender.operations()));
                // What is done many at a time is done more often than criterion asked.
                let done = times.next_multiple_of(contender.operations());
                began.elapsed().mul_f64(times as f64 / done as f64)
            });
        });
    }
    group.finish();
}

fn blocks(criterion: &mut Criterion) {
    for variant in VARIANTS {
        let (ours, lists) = (Ours::new(variant), FreeLists::default());
        for touch in [Touch::Unwritten, Touch::Written, Touch::Copied] {
            for (size, size_bytes) in SIZES {
                let contenders = FreedAtOnce(size_bytes, touch).with_all(&ours, &lists);
                curve(criterion, &format!("heap/{size}/{}", touch.name()), contenders);
            }
            curve(criterion, &format!("heap/churn/{}", touch.name()), Churned(touch).with_all(&ours, &lists));
        }
    }
}

fn pool(criterion: &mut Criterion) {
    for (live, count) in LIVE {
        let held = Held::new(count);
        let at_once = vec![Contender::new("maas", || held.freed_at_once())];
        curve(criterion, &format!("pool/freed-at-once/{live}"), at_once);
        let (mut held, mut bare) = (held.shuffled(), BareArray::new(count));
        let random =
            vec![Contender::new("maas", || held.replace()), Contender::new("bare array", || bare.replace())];
        curve(criterion, &format!("pool/random/{live}"), random);
    }
}

criterion_group!(curves, blocks, pool);
criterion_main!(curves);
