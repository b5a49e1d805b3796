//! When to say that the critical watermark will be reached: late enough to be sure, early enough to be of use.
//!
//! That a path leads there is not enough. What rose for ten seconds may end in the next ten, so a claim must not look ahead
//! much further than the rise is old, and must have been made for a moment before it is told.

/// Any rise may be claimed to go on for so long.
const AHEAD_SECONDS: f64 = 30.0;
/// And for so much of its own age more.
const AHEAD_OF_AGE: f64 = 0.5;
/// So long a claim is made before it is told, or three tenths of the time that it leaves if that is shorter.
const SURE_SECONDS: f64 = 10.0;
const SURE_OF_CLAIM: f64 = 0.3;

/// What was claimed until now.
#[derive(Clone, Debug, Default)]
pub(super) struct Alarm {
    /// Since when it is claimed.
    since: Option<f64>,
    stands: bool,
}

impl Alarm {
    /// The next look: at this time the watermark is expected in so many seconds, or not at all. Tells whether that is
    /// to be told.
    pub(super) fn look(&mut self, now: f64, claim: Option<f64>, rise_seconds: f64) -> bool {
        let believed = |claim: &f64| self.stands || *claim <= AHEAD_SECONDS + AHEAD_OF_AGE * rise_seconds;
        let Some(claim) = claim.filter(believed) else {
            *self = Alarm::default();
            return false;
        };
        let since = *self.since.get_or_insert(now);
        self.stands |= now - since >= SURE_SECONDS.min(SURE_OF_CLAIM * claim);
        self.stands
    }

    /// Whether it was told.
    pub(super) fn stands(&self) -> bool {
        self.stands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_told_when_it_was_made_for_a_while_and_as_long_as_it_is_made() {
        let mut alarm = Alarm::default();
        assert!(!alarm.look(0.0, Some(100.0), 60.0), "the rise is too young for so far ahead");
        assert!(!alarm.look(5.0, Some(60.0), 65.0), "it was not claimed before");
        assert!(!alarm.look(10.0, Some(55.0), 70.0));
        assert!(alarm.look(15.0, Some(50.0), 75.0));
        assert!(alarm.look(20.0, Some(110.0), 80.0), "it was told and still holds, only later");
        assert!(!alarm.look(25.0, None, 85.0));
        assert!(!alarm.look(30.0, Some(20.0), 90.0), "and begins anew");
        assert!(alarm.look(36.0, Some(14.0), 96.0), "what is near is told sooner");
    }
}
