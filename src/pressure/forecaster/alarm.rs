//! When to say that the critical watermark will be reached: late enough to be sure, early enough to be of use.
//!
//! It is not enough that the likeliest path leads there, and not necessary: where the times of peaks differ, the path between
//! them has none. So the guesses vote. What rose for ten seconds may end in the next ten, so a claim must not look ahead
//! much further than the rise is old, and must have been made for a moment before it is told.

use super::echoes::Led;

/// A claim begins with this part of the votes, and ends below that.
const BEGINS: f64 = 0.35;
const ENDS: f64 = 0.25;
/// Any rise may be claimed to go on for so long.
const AHEAD_SECONDS: f64 = 45.0;
/// And for so much of its own age more.
const AHEAD_OF_AGE: f64 = 0.5;
/// So long a claim is made before it is told, or three tenths of the time that it leaves if that is shorter.
const SURE_SECONDS: f64 = 5.0;
const SURE_OF_CLAIM: f64 = 0.3;

/// What was claimed until now.
#[derive(Clone, Debug, Default)]
pub(super) struct Alarm {
    /// Since when it is claimed.
    since: Option<f64>,
    /// After how many seconds it is expected; none where that is not told.
    told: Option<f64>,
}

impl Alarm {
    /// The next look: at this time, this part of the guesses leads to the watermark, after so many seconds.
    pub(super) fn look(&mut self, now: f64, led: Led, rise_seconds: f64) {
        let is_claimed = match self.told {
            Some(_) => led.part >= ENDS,
            None => led.part >= BEGINS && led.seconds <= AHEAD_SECONDS + AHEAD_OF_AGE * rise_seconds,
        };
        if !is_claimed {
            *self = Alarm::default();
            return;
        }
        let since = *self.since.get_or_insert(now);
        if self.told.is_some() || now - since >= SURE_SECONDS.min(SURE_OF_CLAIM * led.seconds) {
            self.told = Some(led.seconds);
        }
    }

    /// After how many seconds the watermark is expected, if that is to be told.
    pub(super) fn told(&self) -> Option<f64> {
        self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_told_when_it_was_made_for_a_while_and_as_long_as_it_is_made() {
        let mut alarm = Alarm::default();
        let mut told_after = |now, part, seconds, rise_seconds| {
            alarm.look(now, Led { part, seconds }, rise_seconds);
            alarm.told()
        };
        assert_eq!(told_after(0.0, 0.9, 100.0, 60.0), None, "the rise is too young for so far ahead");
        assert_eq!(told_after(5.0, 0.9, 60.0, 65.0), None, "it was not claimed before");
        assert_eq!(told_after(9.0, 0.9, 56.0, 69.0), None);
        assert_eq!(told_after(15.0, 0.9, 50.0, 75.0), Some(50.0));
        assert_eq!(told_after(20.0, 0.3, 110.0, 80.0), Some(110.0), "it was told, and not given up");
        assert_eq!(told_after(25.0, 0.2, 110.0, 85.0), None);
        assert_eq!(told_after(30.0, 0.3, 20.0, 90.0), None, "to begin anew takes more");
        assert_eq!(told_after(35.0, 0.5, 20.0, 95.0), None);
        assert_eq!(told_after(41.0, 0.5, 14.0, 101.0), Some(14.0), "what is near is told sooner");
    }
}
