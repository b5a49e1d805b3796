//! What taking a buffer and giving it back costs by itself: CPU time of the thread, kinds by turns.

use super::measure::{median, tell_row};
use bytes::{BufMut, BytesMut};
use maas::slab::{BufferPool, ObjectPool};
use std::fmt::Write;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

/// Time that one kind works in a round, about.
const SLICE_NS: f64 = 5e6;

/// Size of the buffers, and how much of them is written.
const BUFFERS: [(usize, usize); 5] =
    [(16 << 10, 0), (16 << 10, 300), (16 << 10, 16 << 10), (256 << 10, 300), (256 << 10, 256 << 10)];

/// What the objects are made of: as much as a parser's state.
type Object = [u64; 64];

/// Rows of the table of `measure`.
pub(super) fn tell(text: &mut String, rounds: usize) -> Result<(), super::Failure> {
    let pool = BufferPool::builder().build()?;
    let content = vec![0x5A; 256 << 10];
    for (size_bytes, written_bytes) in BUFFERS {
        let content = &content[..written_bytes];
        let mut plain = || {
            let mut buffer = BytesMut::with_capacity(size_bytes);
            buffer.put_slice(content);
            black_box(&buffer);
        };
        let mut pooled = || {
            let mut buffer = pool.acquire(size_bytes).expect("nobody else has any");
            buffer.put_slice(content);
            black_box(&buffer);
        };
        let case = format!("{} KiB, {written_bytes} bytes written", size_bytes >> 10);
        compare(text, &case, rounds, &mut plain, &mut pooled);
    }
    let objects = ObjectPool::builder(8, || Box::new(Object::from([0; 64]))).build();
    let mut boxed = || drop(black_box(Box::new(Object::from([0; 64]))));
    let mut pooled = || drop(black_box(objects.acquire().expect("nobody else has any")));
    compare(text, "an object of 512 bytes", rounds, &mut boxed, &mut pooled);
    let times = [1, 2].map(|threads| {
        let figures: Vec<f64> = (0..rounds).map(|_| wall_ns(threads, &pool)).collect();
        median(&figures)
    });
    let _ = writeln!(
        text,
        "| two threads, 16 KiB, 300 bytes written | times the work of one | | {:.2} | | |",
        2.0 * times[0] / times[1]
    );
    Ok(())
}

fn compare(text: &mut String, case: &str, rounds: usize, plain: &mut dyn FnMut(), pooled: &mut dyn FnMut()) {
    let (plain_times, pooled_times) = (times_in_slice(plain), times_in_slice(pooled));
    let [mut plain_ns, mut pooled_ns, mut again_ns] = [const { Vec::new() }; 3];
    for round in 0..rounds {
        for turn in 0..3 {
            match (round + turn) % 3 {
                0 => plain_ns.push(cpu_ns(plain, plain_times)),
                1 => pooled_ns.push(cpu_ns(pooled, pooled_times)),
                _ => again_ns.push(cpu_ns(pooled, pooled_times)),
            }
        }
    }
    tell_row(text, &format!("{case} | ns"), [&plain_ns, &pooled_ns, &again_ns]);
}

/// How often something can be done in a slice.
fn times_in_slice(operate: &mut dyn FnMut()) -> u32 {
    let mut times = 1;
    loop {
        let ns = cpu_ns(operate, times) * f64::from(times);
        if ns > SLICE_NS || times > 1 << 24 {
            return times;
        }
        times *= 2;
    }
}

/// CPU time of this thread for doing it once, of so many times.
fn cpu_ns(operate: &mut dyn FnMut(), times: u32) -> f64 {
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let begin = now();
    (0..times).for_each(|_| operate());
    (now() - begin) / f64::from(times)
}

/// Time on the wall for one buffer of one thread, with so many at work: what they wait for each other counts.
fn wall_ns(threads: usize, pool: &BufferPool) -> f64 {
    const TIMES: u32 = 200_000;
    let start = Barrier::new(threads);
    let slowest = std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let begin = Instant::now();
                    for _ in 0..TIMES {
                        let mut buffer = pool.acquire(16 << 10).expect("few are in use");
                        buffer.put_slice(&[0x5A; 300]);
                        black_box(&buffer);
                    }
                    begin.elapsed()
                })
            })
            .collect();
        all.into_iter().map(|thread| thread.join().expect("no panic")).max().unwrap_or_default()
    });
    slowest.as_secs_f64() * 1e9 / f64::from(TIMES)
}
