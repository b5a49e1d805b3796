//! Traces of memory in use, made from seeds: what forecasts are scored on.
//!
//! A trace is drawn in steps of one second, then looked at with a spacing, a jitter and a noise of its own. There are two
//! draws. What the forecaster was tuned on is [`Draw::Tuned`]; [`Draw::HeldOut`] has other seeds, other ranges of every
//! parameter, other spacings, and families of its own ([`HELD_OUT_FAMILIES`]) that tuning never saw.

/// How many seconds a trace lasts.
pub const TRACE_SECONDS: usize = 3000;

/// Which ranges parameters are drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// What the forecaster was tuned on.
    Tuned,
    /// What it was not.
    HeldOut,
}

/// One trace.
pub struct Trace {
    /// What kind it is.
    pub family: &'static str,
    /// When each look was.
    pub seconds: Vec<f64>,
    /// What each look saw, 0 to 1.
    pub ratios: Vec<f64>,
    /// What it would have seen without noise.
    pub clean: Vec<f64>,
}

type Family = (&'static str, fn(&mut Random, Draw) -> Vec<f64>);

/// Families of both draws.
pub const FAMILIES: [Family; 9] = [
    ("bursts", bursts),
    ("sawtooth", sawtooth),
    ("daily", daily),
    ("steps", steps),
    ("leak", leak),
    ("ramps", ramps),
    ("mixture", mixture),
    ("walk", walk),
    ("plateau", plateau),
];

/// Families that only the held-out draw has.
pub const HELD_OUT_FAMILIES: [Family; 4] =
    [("population", population), ("collector", collector), ("storm", storm), ("zigzag", zigzag)];

/// So many traces of each family of this draw.
pub fn traces(draw: Draw, each: u64) -> Vec<Trace> {
    let own: &[Family] = if draw == Draw::HeldOut { &HELD_OUT_FAMILIES } else { &[] };
    let families = FAMILIES.iter().chain(own);
    families.flat_map(|family| (0..each).map(|seed| trace(*family, draw, seed))).collect()
}

fn trace((family, draw_levels): Family, draw: Draw, seed: u64) -> Trace {
    let start = family.bytes().fold(seed * 2 + u64::from(draw == Draw::HeldOut), |sum, byte| {
        sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte)
    });
    let mut random = Random(start);
    let levels = draw_levels(&mut random, draw);
    let spacings: &[f64] = match draw {
        Draw::Tuned => &[1.0, 2.0, 5.0, 5.0, 5.0, 10.0],
        Draw::HeldOut => &[1.0, 3.0, 4.0, 5.0, 5.0, 7.0, 12.0],
    };
    let spacing = spacings[random.below(spacings.len())];
    let jitter = if random.chance(0.5) { 0.0 } else { random.between(0.0, 0.3) };
    let (noise, keeps) = if random.chance(0.35) {
        (0.0, 0.0)
    } else {
        let noise_max = if draw == Draw::Tuned { 0.012 } else { 0.015 };
        (random.between(0.001, noise_max), if random.chance(0.5) { 0.0 } else { random.between(0.3, 0.8) })
    };
    let mut trace = Trace { family, seconds: Vec::new(), ratios: Vec::new(), clean: Vec::new() };
    let mut at = 0.0;
    let mut error = 0.0;
    while at < (levels.len() - 1) as f64 {
        let before = at as usize;
        let clean = levels[before] + (levels[before + 1] - levels[before]) * (at - before as f64);
        error = keeps * error + noise * (1.0f64 - keeps * keeps).sqrt() * random.normal();
        trace.seconds.push(at);
        trace.clean.push(clean.clamp(0.0, 1.0));
        trace.ratios.push((clean + error).clamp(0.0, 1.0));
        at += spacing * (1.0 + jitter * random.between(-1.0, 1.0));
    }
    trace
}

/// Numbers from a seed (splitmix64), the same on every machine.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Between these two.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    fn below(&mut self, count: usize) -> usize {
        (self.unit() * count as f64) as usize
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// A waiting time with this mean.
    fn waits(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// From the range of this draw.
    fn drawn(&mut self, draw: Draw, tuned: (f64, f64), held_out: (f64, f64)) -> f64 {
        let (low, high) = if draw == Draw::Tuned { tuned } else { held_out };
        self.between(low, high)
    }
}

/// Spikes that go away, on a level that stays.
fn bursts(random: &mut Random, draw: Draw) -> Vec<f64> {
    let base = random.drawn(draw, (0.3, 0.75), (0.2, 0.8));
    let mut levels = vec![base; TRACE_SECONDS];
    let mean_gap = random.drawn(draw, (60.0, 400.0), (90.0, 600.0));
    let mut start = random.waits(mean_gap);
    while start < TRACE_SECONDS as f64 {
        let rise = random.drawn(draw, (2.0, 60.0), (1.0, 90.0));
        let height = random.drawn(draw, (0.05, 0.4), (0.04, 0.5));
        let hold = random.drawn(draw, (0.0, 60.0), (0.0, 90.0));
        let fade = random.drawn(draw, (4.0, 60.0), (2.0, 90.0));
        for (second, level) in levels.iter_mut().enumerate() {
            let after = second as f64 - start;
            *level += height
                * if after < 0.0 {
                    0.0
                } else if after < rise {
                    after / rise
                } else {
                    (-(after - rise - hold).max(0.0) / fade).exp()
                };
        }
        start += rise + hold + random.waits(mean_gap);
    }
    levels.iter().map(|level| level.min(0.995)).collect()
}

/// Batch jobs: memory fills, and all of it is freed.
fn sawtooth(random: &mut Random, draw: Draw) -> Vec<f64> {
    let mean_fill = random.drawn(draw, (60.0, 500.0), (45.0, 700.0));
    let spread = random.drawn(draw, (0.0, 0.2), (0.0, 0.3));
    let top = random.drawn(draw, (0.35, 1.0), (0.3, 1.0));
    let floor = random.drawn(draw, (0.02, 0.25), (0.0, 0.35));
    let pause = random.drawn(draw, (0.0, 80.0), (0.0, 150.0));
    let bend = random.drawn(draw, (0.7, 1.4), (0.6, 1.6));
    let drop = random.drawn(draw, (0.0, 6.0), (0.0, 12.0));
    let mut levels = Vec::new();
    while levels.len() < TRACE_SECONDS {
        let fill = mean_fill * (1.0 + spread * random.between(-1.0, 1.0));
        let peak = (top * (1.0 + 0.5 * spread * random.between(-1.0, 1.0))).min(0.995);
        let height = (peak - floor).max(0.05);
        levels.extend((0..fill as usize).map(|at| floor + height * (at as f64 / fill).powf(bend)));
        levels.extend((0..drop as usize).map(|at| floor + height * (1.0 - at as f64 / drop)));
        let pause = pause * (1.0 + spread * random.between(-1.0, 1.0));
        levels.extend(std::iter::repeat_n(floor, pause as usize));
    }
    levels.truncate(TRACE_SECONDS);
    levels
}

/// A day's ramps, compressed or as they are, with one harmonic.
fn daily(random: &mut Random, draw: Draw) -> Vec<f64> {
    let period = random.drawn(draw, (700.0, 7200.0), (500.0, 12000.0));
    let middle = random.drawn(draw, (0.35, 0.65), (0.3, 0.7));
    let height = random.drawn(draw, (0.1, 0.4), (0.1, 0.45));
    let (second, turn, begin) =
        (random.between(0.0, 0.4), random.between(0.0, 6.3), random.between(0.0, 6.3));
    let wave = |at: usize| {
        let angle = begin + std::f64::consts::TAU * at as f64 / period;
        middle + height * (angle.sin() + second * (2.0 * angle + turn).sin()) / (1.0 + second)
    };
    (0..TRACE_SECONDS).map(|at| wave(at).clamp(0.01, 0.99)).collect()
}

/// Levels that stay for a while.
fn steps(random: &mut Random, draw: Draw) -> Vec<f64> {
    let mean_stay = random.drawn(draw, (60.0, 500.0), (40.0, 700.0));
    let takes = random.drawn(draw, (0.0, 12.0), (0.0, 20.0));
    let width = random.drawn(draw, (0.1, 0.45), (0.1, 0.5));
    let middle = random.drawn(draw, (0.4, 0.6), (0.3, 0.7));
    let mut level = middle;
    let mut levels = Vec::new();
    while levels.len() < TRACE_SECONDS {
        let next = (middle + width * random.between(-1.0, 1.0)).clamp(0.02, 0.98);
        levels.extend((0..takes as usize).map(|at| level + (next - level) * at as f64 / takes));
        level = next;
        let stay = 20.0 + random.waits(mean_stay);
        levels.extend(std::iter::repeat_n(level, stay as usize));
    }
    levels.truncate(TRACE_SECONDS);
    levels
}

/// What is never given back, until the limit ends it and it begins anew.
fn leak(random: &mut Random, draw: Draw) -> Vec<f64> {
    let start = random.drawn(draw, (0.15, 0.6), (0.1, 0.7));
    let takes = random.drawn(draw, (400.0, 3000.0), (300.0, 4500.0));
    let end = random.between(0.93, 0.995);
    let wobble = random.drawn(draw, (0.0, 0.012), (0.0, 0.018));
    let (mut level, mut aside) = (start + random.between(0.0, 0.3) * (end - start), 0.0);
    let mut levels = Vec::with_capacity(TRACE_SECONDS);
    for _ in 0..TRACE_SECONDS {
        level += (end - start) / takes;
        aside = 0.97 * aside + 0.24 * wobble * random.normal();
        if level + aside > end {
            level = start;
        }
        levels.push((level + aside).clamp(0.01, 0.995));
    }
    levels
}

/// Quiet, then growth for a while to some level, which stays and goes again.
fn ramps(random: &mut Random, draw: Draw) -> Vec<f64> {
    let mut level = random.drawn(draw, (0.1, 0.5), (0.05, 0.6));
    let mut levels = Vec::new();
    while levels.len() < TRACE_SECONDS {
        let quiet = random.drawn(draw, (40.0, 400.0), (60.0, 600.0));
        levels.extend(std::iter::repeat_n(level, quiet as usize));
        let next = if level < 0.6 { random.between(level + 0.1, 0.99) } else { random.between(0.1, 0.5) };
        let takes = if next > level {
            random.drawn(draw, (45.0, 400.0), (60.0, 600.0))
        } else {
            random.drawn(draw, (2.0, 120.0), (1.0, 200.0))
        };
        levels.extend((0..takes as usize).map(|at| level + (next - level) * at as f64 / takes));
        level = next;
    }
    levels.truncate(TRACE_SECONDS);
    levels
}

/// Two of the others, one on top of the other.
fn mixture(random: &mut Random, draw: Draw) -> Vec<f64> {
    let families: [fn(&mut Random, Draw) -> Vec<f64>; 5] = [daily, sawtooth, bursts, leak, steps];
    let first = random.below(families.len());
    let second = (first + 1 + random.below(families.len() - 1)) % families.len();
    let share = random.drawn(draw, (0.4, 0.8), (0.3, 0.85));
    let below = families[first](random, draw);
    let above = families[second](random, draw);
    below
        .iter()
        .zip(above)
        .map(|(below, above)| (1.15 * (share * below + (1.0 - share) * above)).min(0.995))
        .collect()
}

/// Steps that nobody can foresee; half of them are drawn back to a middle.
fn walk(random: &mut Random, draw: Draw) -> Vec<f64> {
    let stride = random.drawn(draw, (0.0005, 0.005), (0.0003, 0.007));
    let pull = if random.chance(0.5) { 0.0 } else { random.drawn(draw, (0.001, 0.02), (0.001, 0.03)) };
    let middle = random.drawn(draw, (0.3, 0.75), (0.2, 0.8));
    let mut level = middle;
    (0..TRACE_SECONDS)
        .map(|_| {
            level += pull * (middle - level) + stride * random.normal();
            if level > 0.995 {
                level = 1.99 - level;
            }
            level = level.abs();
            level
        })
        .collect()
}

/// A warm-up that ends in a level, and begins anew after a restart.
fn plateau(random: &mut Random, draw: Draw) -> Vec<f64> {
    let mut levels = Vec::new();
    while levels.len() < TRACE_SECONDS {
        let top = random.drawn(draw, (0.3, 0.96), (0.25, 0.98));
        let start = random.between(0.02, 0.2);
        let takes = random.drawn(draw, (20.0, 300.0), (15.0, 450.0));
        let stays = random.drawn(draw, (300.0, 1500.0), (250.0, 2000.0));
        levels.extend(
            (0..stays as usize).map(|at| start + (top - start) * (1.0 - (-(at as f64) / takes).exp())),
        );
    }
    levels.truncate(TRACE_SECONDS);
    levels
}

/// Allocations come and end by chance, at a rate that changes: leases of clients.
fn population(random: &mut Random, _: Draw) -> Vec<f64> {
    let life = random.between(30.0, 400.0);
    let size = random.between(0.001, 0.01);
    let mut wanted = random.between(0.2, 0.9);
    let mut next_change = random.waits(500.0);
    let mut level = wanted;
    (0..TRACE_SECONDS)
        .map(|at| {
            if at as f64 > next_change {
                wanted = random.between(0.15, 1.0);
                next_change = at as f64 + random.between(60.0, 100.0) + random.waits(500.0);
            }
            let flow = (wanted + level) / life;
            level += (wanted - level) / life + (flow * size).sqrt() * random.normal();
            level = level.clamp(0.01, 0.995);
            level
        })
        .collect()
}

/// A collected heap: garbage piles up and is collected, what lives grows and is collected more rarely.
fn collector(random: &mut Random, _: Draw) -> Vec<f64> {
    let (rate, live_rate) = (random.between(0.001, 0.012), random.between(0.00005, 0.0008));
    let threshold = random.between(0.15, 0.4);
    let floor = random.between(0.1, 0.35);
    let (mut live, mut garbage) = (floor, 0.0);
    (0..TRACE_SECONDS)
        .map(|_| {
            garbage += rate * random.between(0.5, 1.5);
            live += live_rate * random.between(0.0, 2.0);
            if garbage > threshold || live + garbage > 0.98 {
                garbage = 0.0;
                if live > 0.75 {
                    live = floor;
                }
            }
            (live + garbage).min(0.995)
        })
        .collect()
}

/// Growth that doubles, as where failed requests are sent again, until the load is shed or the pool is nearly full.
fn storm(random: &mut Random, _: Draw) -> Vec<f64> {
    let base = random.between(0.2, 0.6);
    let mut levels = Vec::new();
    while levels.len() < TRACE_SECONDS {
        levels.extend(std::iter::repeat_n(base, random.between(100.0, 500.0) as usize));
        let doubling = random.between(20.0, 90.0);
        let peak = if random.chance(0.6) { 0.98 } else { random.between(base + 0.1, 0.95) };
        let mut above = 0.01;
        while base + above < peak {
            levels.push(base + above);
            above *= 2f64.powf(1.0 / doubling);
        }
        levels.extend(std::iter::repeat_n(peak, random.between(5.0, 100.0) as usize));
        let fade = random.between(5.0, 60.0);
        let falling = (0..(5.0 * fade) as usize).map(|at| base + above * (-(at as f64) / fade).exp());
        levels.extend(falling);
    }
    levels.truncate(TRACE_SECONDS);
    levels
}

/// Slopes of any kind, one after the other.
fn zigzag(random: &mut Random, _: Draw) -> Vec<f64> {
    let mean_stay = random.between(60.0, 300.0);
    let steepest = random.between(0.0008, 0.006);
    let mut level = random.between(0.2, 0.7);
    let mut levels = Vec::new();
    while levels.len() < TRACE_SECONDS {
        let slope = random.between(-steepest, steepest);
        for _ in 0..(30.0 + random.waits(mean_stay)) as usize {
            level += slope;
            if !(0.02..=0.985).contains(&level) {
                level -= slope;
                break;
            }
            levels.push(level);
        }
    }
    levels.truncate(TRACE_SECONDS);
    levels
}
