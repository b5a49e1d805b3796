//! The level at this instant, shared by all who ask: admission, answers, the monitor.
//!
//! Whoever observes moves the level, up at once and down with hysteresis, and whoever moves it says so: one line in the
//! log, one count, one call. Nothing here waits: the level is one word, changed by compare-and-swap.

use super::{HYSTERESIS, Level, Outlook, Watermarks};
use crate::clock::Now;
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::units::{Factor, ratio};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Those that are told of changes, at most.
const LISTENERS_MAX: usize = 8;
/// A reading of the system older than this is read again.
const SYSTEM_READING_AGE_MAX: Duration = Duration::from_millis(100);
/// Percent of 10 seconds in which something stalled for lack of memory, from which the level is one step higher; it is so
/// until it is two points below.
const PSI_STALLED_PERCENT: f64 = 20.0;
/// A limit may be lowered far below what is used: the ratio goes no higher than this.
const RATIO_MAX: f64 = 10.0;

/// What the system says of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SystemReading {
    /// Bytes used under the limit that is nearest to being reached.
    pub used_bytes: u64,
    /// That limit; 0 where there is none.
    pub limit_bytes: u64,
    /// `some avg10` of pressure stall information, in percent; none where it is not read.
    pub psi_avg10: Option<f64>,
}

/// What decides the level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The pool's own fullness.
    Pool,
    /// A limit of the system.
    System,
    /// Stalls for lack of memory raise it by a step.
    Psi,
}

impl Source {
    /// The source's name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Source::Pool => "pool",
            Source::System => "system",
            Source::Psi => "psi",
        }
    }
}

/// The level of one instant, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// The level.
    pub level: Level,
    /// The fuller of the two. Above 1 where a limit was lowered below what is used, and at most 10.
    pub ratio: f64,
    /// In use / limit of the pool.
    pub pool_ratio: f64,
    /// Used / limit of the system; none where it has no limit.
    pub system_ratio: Option<f64>,
    /// What decides the level.
    pub source: Source,
}

/// The level moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Where it was.
    pub from: Level,
    /// Where it is: that of the reading.
    pub to: Level,
    /// What moved it.
    pub reading: Reading,
}

type ReadSystem = Box<dyn Fn() -> SystemReading + Send + Sync>;
type Tell = Box<dyn Fn(&Change) + Send + Sync>;

/// The gauge. One of a service.
pub struct Gauge {
    watermarks: Watermarks,
    /// A `State`. Changed by whoever observes.
    state: AtomicU64,
    /// When the system was read, in `Now` nanoseconds; whoever moves it on reads.
    system_read_at: AtomicU64,
    /// Bits of the system's ratio, and of its `some avg10`; not a number where there is none. Two words: a reading mixed of
    /// two looks 100 ms apart is as good as either.
    system_ratio: AtomicU64,
    psi_avg10: AtomicU64,
    read_system: OnceLock<ReadSystem>,
    /// Filled from the first place on.
    listeners: [OnceLock<Tell>; LISTENERS_MAX],
    /// Times that each level was entered.
    transitions: [AtomicU64; 5],
    outlook: Mutex<Option<Arc<Outlook>>>,
}

/// Where the gauge stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    /// By fullness alone.
    by_ratio: Level,
    /// Raised by stalls.
    is_stalled: bool,
}

impl State {
    fn word(self) -> u64 {
        u64::from(self.by_ratio.number()) << 1 | u64::from(self.is_stalled)
    }

    fn from_word(word: u64) -> State {
        let number = u8::try_from(word >> 1).expect("it was made from a level");
        State { by_ratio: Level::from_number(number), is_stalled: word & 1 == 1 }
    }

    fn level(self) -> Level {
        if self.is_stalled { self.by_ratio.raised() } else { self.by_ratio }
    }
}

impl Gauge {
    /// A gauge that stands at normal.
    pub fn new(watermarks: Watermarks) -> Gauge {
        let none = || AtomicU64::new(f64::NAN.to_bits());
        Gauge {
            watermarks,
            state: AtomicU64::new(State::default().word()),
            system_read_at: AtomicU64::new(0),
            system_ratio: none(),
            psi_avg10: none(),
            read_system: OnceLock::new(),
            listeners: std::array::from_fn(|_| OnceLock::new()),
            transitions: std::array::from_fn(|_| AtomicU64::new(0)),
            outlook: Mutex::new(None),
        }
    }

    /// The watermarks.
    pub fn watermarks(&self) -> &Watermarks {
        &self.watermarks
    }

    /// From now on whoever observes reads the system with this, at most every 100 ms. Only the first call counts.
    pub fn read_system_by(&self, read: ReadSystem) {
        let _ = self.read_system.set(read);
    }

    /// From now on each change is told to `tell` too, by whoever found it: it has to be quick.
    ///
    /// # Panics
    /// If more than 8 want to be told.
    pub fn tell(&self, tell: Tell) {
        let mut left = Some(tell);
        for place in &self.listeners {
            match left.take().map(|tell| place.set(tell)) {
                Some(Err(tell)) => left = Some(tell),
                Some(Ok(())) | None => return,
            }
        }
        panic!("{LISTENERS_MAX} are told of changes, as many as can be");
    }

    /// Where the level is, of so many bytes of a limit.
    pub fn observe(&self, used_bytes: u64, limit_bytes: u64, now: Now) -> Reading {
        if let Some(read) = self.read_system.get() {
            self.read_if_old(read, now);
        }
        let pool_ratio = ratio(used_bytes, limit_bytes).min(RATIO_MAX);
        let number =
            |word: &AtomicU64| Some(f64::from_bits(word.load(Ordering::Relaxed))).filter(|n| !n.is_nan());
        let (system_ratio, psi) = (number(&self.system_ratio), number(&self.psi_avg10));
        let pool_reaches = |mark: Factor| limit_bytes > 0 && used_bytes >= mark.of(limit_bytes);
        let system_reaches = |mark: Factor| system_ratio.is_some_and(|ratio| ratio >= mark.as_f64());
        let mut word = self.state.load(Ordering::Relaxed);
        let (before, after) = loop {
            let before = State::from_word(word);
            let by_ratio =
                self.watermarks.settle(before.by_ratio, |mark| pool_reaches(mark) || system_reaches(mark));
            let stalled_from = if before.is_stalled {
                PSI_STALLED_PERCENT - HYSTERESIS.as_f64() * 100.0
            } else {
                PSI_STALLED_PERCENT
            };
            let after = State { by_ratio, is_stalled: psi.is_some_and(|percent| percent >= stalled_from) };
            if before == after {
                break (before, after);
            }
            match self.state.compare_exchange_weak(word, after.word(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break (before, after),
                Err(other) => word = other,
            }
        };
        let source = if after.is_stalled && after.level() > after.by_ratio {
            Source::Psi
        } else if system_ratio.is_some_and(|system| system > pool_ratio) {
            Source::System
        } else {
            Source::Pool
        };
        let ratio = system_ratio.map_or(pool_ratio, |system| system.max(pool_ratio));
        let reading = Reading { level: after.level(), ratio, pool_ratio, system_ratio, source };
        if before.level() != after.level() {
            self.changed(&Change { from: before.level(), to: after.level(), reading });
        }
        reading
    }

    /// The level as it was observed last.
    pub fn level(&self) -> Level {
        State::from_word(self.state.load(Ordering::Relaxed)).level()
    }

    /// `some avg10` in percent, as it was read last; none where it is not read.
    pub fn psi_avg10(&self) -> Option<f64> {
        Some(f64::from_bits(self.psi_avg10.load(Ordering::Relaxed))).filter(|percent| !percent.is_nan())
    }

    /// Whether [`Gauge::observe`] would find the level where it is, normal, as far as the pool does not raise it: for who asks
    /// often. It is not known where the system was not read lately.
    #[inline]
    pub fn is_normal_but_for_the_pool(&self, now: Now) -> bool {
        let is_fresh = |_: &ReadSystem| {
            now.since(Now(self.system_read_at.load(Ordering::Relaxed))) < SYSTEM_READING_AGE_MAX
        };
        self.state.load(Ordering::Relaxed) == 0 && self.read_system.get().is_none_or(is_fresh)
    }

    /// How often each level was entered, by its number.
    pub fn transitions(&self) -> [u64; 5] {
        std::array::from_fn(|level| self.transitions[level].load(Ordering::Relaxed))
    }

    /// What is forecast, from now on.
    pub fn publish(&self, outlook: Outlook) {
        *self.outlook.lock() = Some(Arc::new(outlook));
    }

    /// What was forecast last; none before the first forecast.
    pub fn outlook(&self) -> Option<Arc<Outlook>> {
        self.outlook.lock().clone()
    }

    fn read_if_old(&self, read: &ReadSystem, now: Now) {
        let last = self.system_read_at.load(Ordering::Relaxed);
        if last != 0 && now.since(Now(last)) < SYSTEM_READING_AGE_MAX {
            return;
        }
        // One reads, the others go on with what was read before.
        let claimed =
            self.system_read_at.compare_exchange(last, now.0.max(1), Ordering::Relaxed, Ordering::Relaxed);
        if claimed.is_ok() {
            let system = read();
            let full =
                (system.limit_bytes > 0).then(|| ratio(system.used_bytes, system.limit_bytes).min(RATIO_MAX));
            let bits = |number: Option<f64>| number.unwrap_or(f64::NAN).to_bits();
            self.system_ratio.store(bits(full), Ordering::Relaxed);
            self.psi_avg10.store(bits(system.psi_avg10), Ordering::Relaxed);
        }
    }

    #[cold]
    fn changed(&self, change: &Change) {
        let Change { from, to, reading } = change;
        self.transitions[usize::from(to.number())].fetch_add(1, Ordering::Relaxed);
        let (from, level, source) = (from.name(), to.name(), reading.source.name());
        let ratio = (reading.ratio * 1000.0).round() / 1000.0;
        if change.to > change.from && change.to >= Level::High {
            tracing::warn!(from, level, ratio, source, "memory pressure rises");
        } else if change.to > change.from {
            tracing::info!(from, level, ratio, source, "memory pressure rises");
        } else {
            tracing::info!(from, level, ratio, source, "memory pressure falls");
        }
        self.listeners.iter().map_while(OnceLock::get).for_each(|tell| tell(change));
    }
}

impl Default for Gauge {
    fn default() -> Gauge {
        Gauge::new(Watermarks::default())
    }
}

impl fmt::Debug for Gauge {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Gauge").field("level", &self.level()).field("watermarks", &self.watermarks).finish()
    }
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    const LIMIT: u64 = 1000;

    fn at(gauge: &Gauge, used: u64) -> Level {
        gauge.observe(used, LIMIT, Now(1)).level
    }

    #[test]
    fn the_level_follows_the_pool_up_at_once_and_down_two_points_below_and_each_change_is_told_to_all_once() {
        let gauge = Gauge::default();
        let told = Arc::new(AtomicUsize::new(0));
        for _ in 0..2 {
            let counts = told.clone();
            gauge.tell(Box::new(move |_| _ = counts.fetch_add(1, Ordering::Relaxed)));
        }
        for (used, level, changes) in [
            (599, Level::Normal, 0),
            (600, Level::Moderate, 1),
            (950, Level::Emergency, 2),
            (930, Level::Emergency, 2),
            (929, Level::Critical, 3),
            (0, Level::Normal, 4),
        ] {
            assert_eq!((at(&gauge, used), told.load(Ordering::Relaxed)), (level, 2 * changes), "{used}");
            assert_eq!(gauge.level(), level);
        }
        assert_eq!(gauge.transitions(), [1, 1, 0, 1, 1]);
    }

    #[test]
    fn the_system_counts_where_it_is_fuller_and_stalls_raise_the_level_by_a_step() {
        let gauge = Gauge::default();
        let system = Arc::new(Mutex::new(SystemReading::default()));
        let its = system.clone();
        gauge.read_system_by(Box::new(move || *its.lock()));
        let mut now = Now(1);
        let mut look = |used, limit, psi_avg10, pool| {
            *system.lock() = SystemReading { used_bytes: used, limit_bytes: limit, psi_avg10 };
            now = now.after(SYSTEM_READING_AGE_MAX);
            let reading = gauge.observe(pool, LIMIT, now);
            (reading.level, reading.source, reading.system_ratio)
        };
        assert_eq!(look(0, 0, None, 100), (Level::Normal, Source::Pool, None));
        assert_eq!(look(80, 100, None, 100), (Level::High, Source::System, Some(0.8)));
        assert_eq!(look(80, 100, Some(20.0), 100), (Level::Critical, Source::Psi, Some(0.8)));
        assert_eq!(look(80, 100, Some(18.0), 100), (Level::Critical, Source::Psi, Some(0.8)));
        assert_eq!(look(80, 100, Some(17.9), 950), (Level::Emergency, Source::Pool, Some(0.8)));
        assert_eq!(gauge.psi_avg10(), Some(17.9));
        assert_eq!(
            look(1 << 40, 1, None, 950),
            (Level::Emergency, Source::System, Some(10.0)),
            "a limit was lowered"
        );
        assert_eq!(look(0, 0, Some(99.0), 950), (Level::Emergency, Source::Pool, None));
    }

    #[test]
    fn the_system_is_read_once_in_100_milliseconds() {
        let gauge = Gauge::default();
        let reads = Arc::new(AtomicUsize::new(0));
        let counts = reads.clone();
        gauge.read_system_by(Box::new(move || {
            counts.fetch_add(1, Ordering::Relaxed);
            SystemReading::default()
        }));
        for (milliseconds, read) in [(0, 1), (99, 1), (100, 2), (199, 2), (250, 3)] {
            gauge.observe(0, LIMIT, Now(1).after(Duration::from_millis(milliseconds)));
            assert_eq!(reads.load(Ordering::Relaxed), read, "{milliseconds}");
        }
    }

    #[test]
    fn what_was_read_of_the_system_lately_and_was_normal_says_so_without_another_look() {
        let gauge = Gauge::default();
        assert!(gauge.is_normal_but_for_the_pool(Now(1)), "there is no system to be asked");
        at(&gauge, 600);
        assert!(!gauge.is_normal_but_for_the_pool(Now(1)));
        at(&gauge, 0);
        gauge.read_system_by(Box::new(SystemReading::default));
        let start = Now(1).after(SYSTEM_READING_AGE_MAX);
        assert!(!gauge.is_normal_but_for_the_pool(start), "it was never read");
        gauge.observe(0, LIMIT, start);
        assert!(gauge.is_normal_but_for_the_pool(start));
        assert!(!gauge.is_normal_but_for_the_pool(start.after(SYSTEM_READING_AGE_MAX)));
    }

    #[test]
    fn nothing_is_full_of_nothing() {
        assert_eq!(Gauge::default().observe(0, 0, Now(1)).level, Level::Normal);
    }
}
