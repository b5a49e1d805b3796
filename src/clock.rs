//! Time as every room speaks it: [`Now`], read once at the edge and passed down as an argument.

use std::time::Duration;

/// A point in time: nanoseconds of `CLOCK_BOOTTIME`, which counts through suspend and never jumps back.
///
/// A plain number, so that deadlines can be stored in shared memory and tests can choose the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Now(pub u64);

impl Now {
    /// Reads the clock (about 25 ns; once a request is enough).
    pub fn read() -> Now {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        // Both parts are never negative: the clock starts at zero when the machine boots.
        Now(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
    }

    /// Time passed since `earlier`; zero if that is in the future.
    pub fn since(self, earlier: Now) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This point plus `length`, or the end of time where that overflows.
    pub fn after(self, length: Duration) -> Now {
        Now(self.0.saturating_add(u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_runs_forward() {
        let first = Now::read();
        std::thread::sleep(Duration::from_millis(2));
        assert!(Now::read().since(first) >= Duration::from_millis(2));
    }

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(Now(5).since(Now(9)), Duration::ZERO);
        assert_eq!(Now(5).after(Duration::MAX), Now(u64::MAX));
    }
}
