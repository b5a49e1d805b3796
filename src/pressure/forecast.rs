//! What a forecast says.

use super::{Level, Watermarks};
use crate::clock::Now;

/// How far ahead is looked, in seconds.
pub const HORIZONS_SECONDS: [u32; 3] = [30, 60, 120];

/// Where fullness goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trend {
    /// It gets less.
    Decreasing,
    /// It stays.
    Stable,
    /// It gets more.
    Increasing,
    /// It gets more fast.
    Critical,
}

impl Trend {
    /// From how many points fullness changes in 5 seconds; a point is a hundredth of the whole.
    pub fn of(points_per_5_seconds: f64) -> Trend {
        match points_per_5_seconds {
            points if points < -0.5 => Trend::Decreasing,
            points if points <= 0.5 => Trend::Stable,
            points if points <= 2.0 => Trend::Increasing,
            _ => Trend::Critical,
        }
    }

    /// The trend's name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Trend::Decreasing => "decreasing",
            Trend::Stable => "stable",
            Trend::Increasing => "increasing",
            Trend::Critical => "critical",
        }
    }
}

/// What is to be done, from nothing to all there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Go on looking.
    #[default]
    Monitor,
    /// Give back free memory beyond what is kept ready.
    GentleReclaim,
    /// Give back all free memory.
    AggressiveReclaim,
    /// That, and what each CPU keeps for itself.
    Emergency,
}

impl Action {
    /// Every action, from least to most.
    pub const ALL: [Action; 4] =
        [Action::Monitor, Action::GentleReclaim, Action::AggressiveReclaim, Action::Emergency];

    /// The action's name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Action::Monitor => "monitor",
            Action::GentleReclaim => "gentle_reclaim",
            Action::AggressiveReclaim => "aggressive_reclaim",
            Action::Emergency => "emergency",
        }
    }

    /// What to do at a level, where it is expected that the watermark of critical is passed in so many seconds.
    pub fn of(level: Level, seconds_to_critical: Option<f64>) -> Action {
        let by_level = match level {
            Level::Normal | Level::Moderate => Action::Monitor,
            Level::High => Action::GentleReclaim,
            Level::Critical => Action::AggressiveReclaim,
            Level::Emergency => Action::Emergency,
        };
        let [soon, later, last] = HORIZONS_SECONDS.map(f64::from);
        let by_forecast = match seconds_to_critical {
            Some(seconds) if seconds <= 0.0 => Action::Monitor, // it is there: the level says what to do
            Some(seconds) if seconds <= soon => Action::Emergency,
            Some(seconds) if seconds <= later => Action::AggressiveReclaim,
            Some(seconds) if seconds <= last => Action::GentleReclaim,
            _ => Action::Monitor,
        };
        by_level.max(by_forecast)
    }
}

/// What is expected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// How full it is: used / total, 0 to 1.
    pub ratio: f64,
    /// How full it will be after each of [`HORIZONS_SECONDS`], 0 to 1.
    pub predicted: [f64; 3],
    /// How far to trust that, 0 to 1.
    pub confidence: f64,
    /// How fast the ratio changes now.
    pub ratio_per_second: f64,
    /// The same in a word.
    pub trend: Trend,
    /// Seconds until each watermark, from moderate up, is reached; 0 above it, none where it is not expected.
    pub seconds_to: [Option<f64>; 4],
    /// What to do about it.
    pub action: Action,
}

impl Forecast {
    /// Nothing moves: what can be said of a single sample.
    pub fn still(ratio: f64, watermarks: &Watermarks) -> Forecast {
        let above = |mark: crate::units::Factor| (ratio >= mark.as_f64()).then_some(0.0);
        Forecast {
            ratio,
            predicted: [ratio; 3],
            confidence: 0.0,
            ratio_per_second: 0.0,
            trend: Trend::Stable,
            seconds_to: watermarks.marks().map(above),
            action: Action::of(watermarks.of(ratio), None),
        }
    }

    /// Of two that bound the same memory, what is to be expected: the fuller of both at each instant, and the sooner. Trend,
    /// speed and confidence are of the one that is critical first; where neither will be, of the one that will be fuller.
    #[must_use]
    pub fn or_worse(self, other: Forecast) -> Forecast {
        let critical = |forecast: &Forecast| forecast.seconds_to[2].unwrap_or(f64::INFINITY);
        let fullest = |forecast: &Forecast| forecast.predicted.iter().copied().fold(forecast.ratio, f64::max);
        let by_time = critical(&other).total_cmp(&critical(&self));
        let is_worse = by_time.then(fullest(&self).total_cmp(&fullest(&other))).is_lt();
        let (decides, less) = if is_worse { (other, self) } else { (self, other) };
        let sooner = |at: usize| {
            let both = [decides.seconds_to[at], less.seconds_to[at]];
            both.into_iter().flatten().reduce(f64::min)
        };
        Forecast {
            ratio: decides.ratio.max(less.ratio),
            predicted: std::array::from_fn(|at| decides.predicted[at].max(less.predicted[at])),
            seconds_to: std::array::from_fn(sooner),
            action: decides.action.max(less.action),
            ..decides
        }
    }
}

/// What was forecast last, of what service, and how fast memory is taken and given back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlook {
    /// When.
    pub at: Now,
    /// What is expected from there on.
    pub forecast: Forecast,
    /// Actual bytes allocated in a second, lately.
    pub allocation_bytes_per_second: f64,
    /// Actual bytes freed in a second, lately.
    pub free_bytes_per_second: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trends_are_told_by_points_in_5_seconds() {
        for (points, trend) in [
            (-0.51, Trend::Decreasing),
            (-0.5, Trend::Stable),
            (0.5, Trend::Stable),
            (0.51, Trend::Increasing),
            (2.0, Trend::Increasing),
            (2.01, Trend::Critical),
        ] {
            assert_eq!(Trend::of(points), trend, "{points}");
        }
    }

    #[test]
    fn of_two_forecasts_the_worse_counts_at_each_instant() {
        let still = |ratio| Forecast::still(ratio, &Watermarks::default());
        let growing = Forecast {
            predicted: [0.5, 0.7, 0.95],
            confidence: 0.8,
            ratio_per_second: 0.005,
            trend: Trend::Critical,
            seconds_to: [Some(40.0), Some(70.0), Some(100.0), Some(120.0)],
            action: Action::GentleReclaim,
            ..still(0.4)
        };
        let expected = Forecast {
            ratio: 0.8,
            predicted: [0.8, 0.8, 0.95],
            seconds_to: [Some(0.0), Some(0.0), Some(100.0), Some(120.0)],
            ..growing
        };
        assert_eq!(growing.or_worse(still(0.8)), expected);
        assert_eq!(still(0.8).or_worse(growing), expected);
        // One that is critical already is so before any other.
        assert_eq!(growing.or_worse(still(0.92)).trend, Trend::Stable);
        assert_eq!(growing.or_worse(still(0.92)).action, Action::AggressiveReclaim);
        assert_eq!(still(0.1).or_worse(still(0.3)), still(0.3));
        let falling = Forecast { ratio_per_second: -1.0, predicted: [0.0; 3], ..still(0.5) };
        assert_eq!(
            falling.or_worse(still(0.3)).ratio_per_second.to_bits(),
            (-1.0_f64).to_bits(),
            "it is fuller now"
        );
    }

    #[test]
    fn an_action_is_what_the_level_or_the_forecast_asks_for_whichever_is_more() {
        for (level, seconds, action) in [
            (Level::Normal, None, Action::Monitor),
            (Level::Moderate, Some(121.0), Action::Monitor),
            (Level::Normal, Some(120.0), Action::GentleReclaim),
            (Level::Moderate, Some(60.0), Action::AggressiveReclaim),
            (Level::High, Some(30.0), Action::Emergency),
            (Level::High, None, Action::GentleReclaim),
            (Level::Critical, Some(0.0), Action::AggressiveReclaim),
            (Level::Emergency, Some(0.0), Action::Emergency),
        ] {
            assert_eq!(Action::of(level, seconds), action, "{level:?} {seconds:?}");
        }
    }
}
