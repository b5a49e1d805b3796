//! When to do what is recommended: at once where it is more than was done last, else not again before a time is over.

use super::Action;
use crate::clock::Now;
use std::time::Duration;

/// Remembers what was done, and says what is to be done now.
#[derive(Clone, Debug)]
pub struct Steering {
    cooldown: Duration,
    last: Option<Done>,
    /// Since when nothing is to be done; none while something is.
    quiet_since: Option<Now>,
}

/// What was done last.
#[derive(Clone, Copy, Debug)]
struct Done {
    action: Action,
    at: Now,
}

/// Something is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// What; never [`Action::Monitor`].
    pub action: Action,
    /// It is not what was done before: worth a line in the log.
    pub is_news: bool,
}

impl Steering {
    /// Nothing was done yet.
    pub fn new(cooldown: Duration) -> Steering {
        Steering { cooldown, last: None, quiet_since: None }
    }

    /// What is to be done where this is recommended; none where nothing is, or the same was done only just.
    ///
    /// What is done again and again is news once. It is news again when nothing was to be done for a whole cooldown in
    /// between: one look that sees no need is no end.
    pub fn steer(&mut self, action: Action, now: Now) -> Option<Order> {
        if action == Action::Monitor {
            self.quiet_since.get_or_insert(now);
            return None;
        }
        let was_over = self.quiet_since.is_some_and(|since| now.since(since) >= self.cooldown);
        if let Some(last) = self.last
            && action <= last.action
            && now.since(last.at) < self.cooldown
        {
            return None;
        }
        self.quiet_since = None;
        let is_news = was_over || self.last.is_none_or(|last| last.action != action);
        self.last = Some(Done { action, at: now });
        Some(Order { action, is_news })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Action::{AggressiveReclaim, Emergency, GentleReclaim, Monitor};

    /// What is done and is news, by second and recommendation.
    fn done(cooldown_seconds: u64, recommended: &[(u64, Action)]) -> Vec<(u64, Action, bool)> {
        let mut steering = Steering::new(Duration::from_secs(cooldown_seconds));
        let steer = |(second, action): &(u64, Action)| {
            let order = steering.steer(*action, Now(1).after(Duration::from_secs(*second)))?;
            Some((*second, order.action, order.is_news))
        };
        recommended.iter().filter_map(steer).collect()
    }

    #[test]
    fn the_same_is_not_done_again_before_the_cooldown_is_over_and_is_news_once() {
        let looks: Vec<_> = (0..=25).map(|second| (second, GentleReclaim)).collect();
        let expected = [(0, GentleReclaim, true), (10, GentleReclaim, false), (20, GentleReclaim, false)];
        assert_eq!(done(10, &looks), expected);
    }

    #[test]
    fn more_is_done_at_once_and_less_waits() {
        let looks = [
            (0, GentleReclaim),
            (1, Emergency),
            (2, AggressiveReclaim),
            (5, Emergency),
            (11, AggressiveReclaim),
            (12, GentleReclaim),
            (13, Emergency),
        ];
        let expected = [
            (0, GentleReclaim, true),
            (1, Emergency, true),
            (11, AggressiveReclaim, true),
            (13, Emergency, true),
        ];
        assert_eq!(done(10, &looks), expected);
    }

    #[test]
    fn nothing_is_done_where_there_is_no_need_and_a_need_that_comes_and_goes_is_one() {
        assert_eq!(done(10, &[(0, Monitor), (100, Monitor)]), []);
        let flutters: Vec<_> =
            (0..60).map(|second| (second, if second % 2 == 0 { GentleReclaim } else { Monitor })).collect();
        let news: Vec<_> =
            done(10, &flutters).into_iter().map(|(second, _, is_news)| (second, is_news)).collect();
        assert_eq!(news, [(0, true), (10, false), (20, false), (30, false), (40, false), (50, false)]);
    }

    #[test]
    fn after_a_whole_cooldown_without_need_the_same_is_news_again() {
        let looks = [
            (0, GentleReclaim),
            (5, Monitor),
            (14, Monitor),
            (15, GentleReclaim),
            (20, Monitor),
            (29, GentleReclaim),
        ];
        assert_eq!(
            done(10, &looks),
            [(0, GentleReclaim, true), (15, GentleReclaim, true), (29, GentleReclaim, false)]
        );
    }

    #[test]
    fn without_a_cooldown_each_look_acts() {
        assert_eq!(done(0, &[(0, Emergency), (0, GentleReclaim), (1, GentleReclaim)]).len(), 3);
    }
}
