//! Alternating rounds. A figure is a ratio against a named other in the same run: whatever slows the machine for a while
//! slows both. The median of the rounds' ratios counts, and the spread of one contender against itself says what
//! differences mean anything.

use rustix::time::{ClockId, clock_gettime};
use std::sync::Barrier;
use std::time::Instant;

/// A contender works so long in each round.
const SLICE_NS: f64 = 5e6;
/// The same where threads are started for it.
const THREADS_SLICE_NS: f64 = 40e6;

/// Somebody who does an operation as often as is said.
pub struct Contender<'a> {
    /// As it stands in the table.
    pub name: String,
    /// What it does at a time counts as so many.
    operations: u64,
    work: Box<dyn FnMut(u64) + 'a>,
}

impl<'a> Contender<'a> {
    /// One whose operation is `operate`.
    pub fn new(name: impl Into<String>, operate: impl FnMut() + 'a) -> Contender<'a> {
        Contender::of_many(name, 1, operate)
    }

    /// One that does so many operations at a time, which belong together: no slice ends between them.
    pub fn of_many(
        name: impl Into<String>,
        operations: u64,
        mut operate: impl FnMut() + 'a,
    ) -> Contender<'a> {
        let work = move |times| {
            for _ in 0..times {
                operate();
            }
        };
        Contender { name: name.into(), operations, work: Box::new(work) }
    }

    /// Operations that it does at a time.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Does it so often.
    pub fn work(&mut self, times: u64) {
        (self.work)(times);
    }

    /// Nanoseconds for each operation, where it works so often.
    fn time(&mut self, times: u64) -> f64 {
        // Untimed, so that nobody gains by whom it follows: ours follows itself from one round to the next, and would
        // find its caches warm where a peer finds its own cold.
        self.work(times.div_ceil(4));
        let began = cpu_ns();
        self.work(times);
        (cpu_ns() - began) / (times * self.operations) as f64
    }

    /// How often it works in a slice.
    fn times(&mut self) -> u64 {
        let operations = self.operations;
        times_in(SLICE_NS, |times| self.time(times) * (times * operations) as f64)
    }
}

/// How often something is done in a slice, where `ns` does it so often and says how long that took.
///
/// The shorter of two tries counts: the first one of all may set an allocator up, which takes longer than a slice, and a
/// slice of one operation would time nothing but the clock.
fn times_in(slice_ns: f64, mut ns: impl FnMut(u64) -> f64) -> u64 {
    let mut times = 1;
    loop {
        let shorter = ns(times).min(ns(times));
        if shorter >= slice_ns / 4.0 {
            return ((times as f64 * slice_ns / shorter) as u64).max(1);
        }
        times *= 2;
    }
}

/// Time that this thread was running, so that others on the machine cost it nothing but their use of caches.
fn cpu_ns() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// The middle of some numbers, with the least and the most.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    /// Of at least one number.
    ///
    /// # Panics
    /// If there is none.
    pub fn of(numbers: impl IntoIterator<Item = f64>) -> Spread {
        let mut numbers: Vec<f64> = numbers.into_iter().collect();
        numbers.sort_by(f64::total_cmp);
        let (least, most) = (numbers[0], numbers[numbers.len() - 1]);
        Spread { median: numbers[numbers.len() / 2], least, most }
    }
}

/// Three significant digits: `0.0512`, `1.23`, `45.6`, `12300`.
pub fn digits(number: f64) -> String {
    let places = 2 - number.abs().max(1e-6).log10().floor() as i32;
    format!("{number:.*}", places.clamp(0, 4) as usize)
}

impl std::fmt::Display for Spread {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} ({}–{})", digits(self.median), digits(self.least), digits(self.most))
    }
}

/// What the rounds of one group came to.
pub struct Outcome {
    /// Nanoseconds of an operation: for each contender, in each round.
    ns: Vec<Vec<f64>>,
    /// The first contender's second time in each round.
    again: Vec<f64>,
}

impl Outcome {
    /// Lets all contenders work in turn, in so many rounds. The first of them works twice in each, at the beginning and
    /// at the end; the others' order rotates.
    pub fn of(contenders: &mut [Contender<'_>], rounds: usize) -> Outcome {
        let times: Vec<u64> = contenders.iter_mut().map(Contender::times).collect();
        let mut outcome = Outcome { ns: vec![Vec::new(); times.len()], again: Vec::new() };
        for round in 0..rounds {
            outcome.ns[0].push(contenders[0].time(times[0]));
            let others = times.len() - 1;
            for step in 0..others {
                let at = 1 + (round + step) % others;
                outcome.ns[at].push(contenders[at].time(times[at]));
            }
            outcome.again.push(contenders[0].time(times[0]));
        }
        outcome
    }

    /// Nanoseconds of a contender's operation.
    pub fn ns(&self, contender: usize) -> Spread {
        Spread::of(self.ns[contender].iter().copied())
    }

    /// Round by round, one contender's time over another's.
    pub fn ratio(&self, over: usize, under: usize) -> Spread {
        Spread::of(self.ns[over].iter().zip(&self.ns[under]).map(|(over, under)| over / under))
    }

    /// The first contender's time over its own second time.
    pub fn against_itself(&self) -> Spread {
        Spread::of(self.ns[0].iter().zip(&self.again).map(|(first, again)| first / again))
    }
}

/// How many operations a thread does each second when two do them at once, all in all, over one thread alone: 2 where
/// they do not disturb each other and the machine has two free cores. By the clock on the wall: a thread that waits for
/// the other must not look fast.
pub fn two_threads_over_one(work: &(dyn Fn(u64) + Sync), rounds: usize) -> Spread {
    let times = times_in(THREADS_SLICE_NS, |times| wall_ns(1, times, work));
    Spread::of((0..rounds).map(|_| 2.0 * wall_ns(1, times, work) / wall_ns(2, times, work)))
}

/// Nanoseconds from the first thread's begin to the last one's end, where so many do so many operations each.
fn wall_ns(threads: usize, times: u64, work: &(dyn Fn(u64) + Sync)) -> f64 {
    let start = Barrier::new(threads);
    let worker = || {
        work(times / 64); // its slot and its caches are its own when the time begins
        start.wait();
        let began = Instant::now();
        work(times);
        (began, Instant::now())
    };
    let spans: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().expect("no workload panics")).collect()
    });
    let began = spans.iter().map(|span| span.0).min().expect("there is a thread");
    let ended = spans.iter().map(|span| span.1).max().expect("there is a thread");
    (ended - began).as_nanos() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_first_operation_does_not_make_the_slices_short() {
        let mut calls = 0;
        let times = times_in(5e6, |times| {
            calls += 1;
            times as f64 * 10.0 + if calls == 1 { 2e6 } else { 0.0 }
        });
        assert!((400_000..=600_000).contains(&times), "{times} operations of 10 ns in 5 ms");
    }

    #[test]
    fn an_operation_longer_than_a_slice_is_done_once() {
        assert_eq!(times_in(5e6, |times| times as f64 * 9e6), 1);
    }

    #[test]
    fn what_is_done_many_at_a_time_is_told_for_one() {
        let pause = || {
            for turn in 0..100_000_u64 {
                std::hint::black_box(turn);
            }
        };
        let (mut one, mut many) = (Contender::new("one", pause), Contender::of_many("many", 1000, pause));
        let ratio = one.time(200) / many.time(200);
        assert!((200.0..5000.0).contains(&ratio), "{ratio}");
    }

    #[test]
    fn the_median_stands_between_the_least_and_the_most() {
        let spread = Spread::of([3.0, 1.0, 2.0]);
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.0, 3.0));
    }

    #[test]
    fn numbers_have_three_digits() {
        let told = [0.05123, 1.234, 45.67, 12_300.4, 0.0].map(digits);
        assert_eq!(told, ["0.0512", "1.23", "45.7", "12300", "0.0000"]);
    }
}
