//! Five levels of pressure, and the watermarks between them.

use crate::units::Factor;

/// How far below its watermark a level that was reached ends, in parts of the whole: two points.
pub const HYSTERESIS: Factor = Factor::thousandths(20);
/// The least part of the whole that can be told from nothing.
const LEAST: Factor = Factor::thousandths(1);

/// How full memory is, in words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Nothing to do.
    #[default]
    Normal,
    /// Worth a look.
    Moderate,
    /// Free memory is given back, and what matters little is deferred.
    High,
    /// All free memory is given back, and what matters little is rejected.
    Critical,
    /// As good as full.
    Emergency,
}

impl Level {
    /// Every level, in the order of their numbers.
    pub const ALL: [Level; 5] =
        [Level::Normal, Level::Moderate, Level::High, Level::Critical, Level::Emergency];

    /// The level's name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Level::Normal => "normal",
            Level::Moderate => "moderate",
            Level::High => "high",
            Level::Critical => "critical",
            Level::Emergency => "emergency",
        }
    }

    /// From 0, normal, to 4, emergency.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The level with that number; the highest where there is none.
    pub(super) fn from_number(number: u8) -> Level {
        Level::ALL.get(usize::from(number)).copied().unwrap_or(Level::Emergency)
    }

    /// The next one up; the highest has none.
    #[must_use]
    pub fn raised(self) -> Level {
        Level::from_number(self.number() + 1)
    }
}

/// From which part of the whole on each level begins. Each is more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Default: 0.60.
    pub moderate: Factor,
    /// Default: 0.75.
    pub high: Factor,
    /// Default: 0.90.
    pub critical: Factor,
    /// Default: 0.95.
    pub emergency: Factor,
}

impl Default for Watermarks {
    fn default() -> Watermarks {
        let mark = Factor::thousandths;
        Watermarks { moderate: mark(600), high: mark(750), critical: mark(900), emergency: mark(950) }
    }
}

impl Watermarks {
    /// Those above normal, from moderate up.
    pub fn marks(&self) -> [Factor; 4] {
        [self.moderate, self.high, self.critical, self.emergency]
    }

    /// Where a level begins; normal begins at nothing.
    pub fn mark(&self, level: Level) -> Option<Factor> {
        usize::from(level.number()).checked_sub(1).map(|at| self.marks()[at])
    }

    /// The level of a ratio, whatever was before.
    pub fn of(&self, ratio: f64) -> Level {
        self.settle(Level::Normal, |mark| ratio >= mark.as_f64())
    }

    /// The level after `previous`: up at once, and down when it is two points below where the level began, or as good as
    /// empty where there are no two points below it. `reaches` says whether memory is as full as that part of the whole.
    pub(super) fn settle(&self, previous: Level, reaches: impl Fn(Factor) -> bool) -> Level {
        let holds = |level: &Level| {
            self.mark(*level).is_none_or(|mark| {
                let end = || mark.saturating_sub(HYSTERESIS).max(LEAST);
                reaches(if *level <= previous { end() } else { mark })
            })
        };
        Level::ALL.iter().rev().copied().find(holds).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_begins_exactly_at_its_watermark() {
        let marks = Watermarks::default();
        for (ratio, level) in [
            (0.0, Level::Normal),
            (0.5999, Level::Normal),
            (0.6, Level::Moderate),
            (0.7499, Level::Moderate),
            (0.75, Level::High),
            (0.8999, Level::High),
            (0.9, Level::Critical),
            (0.9499, Level::Critical),
            (0.95, Level::Emergency),
            (1.2, Level::Emergency),
        ] {
            assert_eq!(marks.of(ratio), level, "{ratio}");
        }
    }

    #[test]
    fn a_level_is_left_downwards_two_points_below_and_upwards_at_once() {
        let marks = Watermarks::default();
        let after =
            |previous, thousandths| marks.settle(previous, |mark| Factor::thousandths(thousandths) >= mark);
        assert_eq!(after(Level::Normal, 749), Level::Moderate);
        assert_eq!(after(Level::High, 749), Level::High);
        assert_eq!(after(Level::High, 730), Level::High);
        assert_eq!(after(Level::High, 729), Level::Moderate);
        assert_eq!(after(Level::Emergency, 100), Level::Normal);
        assert_eq!(after(Level::Emergency, 890), Level::Critical);
        assert_eq!(after(Level::High, 950), Level::Emergency);
    }

    #[test]
    fn a_level_that_begins_within_two_points_of_nothing_ends_when_nothing_is_in_use() {
        for thousandths in [1, 10, 20] {
            let marks = Watermarks { moderate: Factor::thousandths(thousandths), ..Watermarks::default() };
            let after = |used| marks.settle(Level::Moderate, |mark| Factor::thousandths(used) >= mark);
            assert_eq!((after(0), after(1)), (Level::Normal, Level::Moderate), "{thousandths}");
        }
    }

    #[test]
    fn names_numbers_and_order_agree() {
        for (at, level) in (0..).zip(Level::ALL) {
            assert_eq!((level.number(), Level::from_number(at)), (at, level));
        }
        assert!(Level::ALL.is_sorted() && Level::High.raised() == Level::Critical);
        assert_eq!(Level::Emergency.raised(), Level::Emergency);
    }
}
