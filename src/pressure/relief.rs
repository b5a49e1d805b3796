//! When will there be room? What was forecast, read the other way round: not how full it will be, but when it is less full.

use super::{HORIZONS_SECONDS, HYSTERESIS, Outlook};
use crate::clock::Now;
use crate::units::ratio;
use std::time::Duration;

/// A forecast older than this says nothing any more: whoever made it has stopped.
const AGE_MAX: Duration = Duration::from_secs(120);

impl Outlook {
    /// When no more than `wanted_bytes` are expected to be in use, where `used_bytes` of `limit_bytes` are now; none where
    /// that is not to be expected of what is known.
    ///
    /// Where fullness is expected to fall so far within the horizons, that says when. Where it is not, but memory is
    /// given back all the time, for others to take it, it is when so much was given back: who asks then has a chance.
    pub fn relief(&self, used_bytes: u64, limit_bytes: u64, wanted_bytes: u64, now: Now) -> Option<Duration> {
        let age = now.since(self.at);
        if used_bytes <= wanted_bytes {
            return Some(Duration::ZERO);
        }
        if age > AGE_MAX {
            return None;
        }
        let wanted = ratio(wanted_bytes, limit_bytes);
        self.falls_to(wanted, ratio(used_bytes, limit_bytes), age).or_else(|| {
            let seconds = number(used_bytes - wanted_bytes) / self.free_bytes_per_second;
            Duration::try_from_secs_f64(seconds).ok()
        })
    }

    /// When the line from the fullness of now through what is predicted comes down to `wanted`. None where it is fuller now
    /// than was to be expected: what was predicted then was of another course.
    fn falls_to(&self, wanted: f64, full: f64, age: Duration) -> Option<Duration> {
        let expected = self.forecast.predicted.into_iter().fold(self.forecast.ratio, f64::max);
        if full > expected + HYSTERESIS.as_f64() {
            return None;
        }
        let mut before = (0.0, full);
        for (horizon, predicted) in HORIZONS_SECONDS.iter().zip(self.forecast.predicted) {
            let after = (f64::from(*horizon) - age.as_secs_f64(), predicted);
            if after.0 <= before.0 {
                continue; // it is over
            }
            if after.1 <= wanted {
                let part = (before.1 - wanted) / (before.1 - after.1);
                return Duration::try_from_secs_f64(before.0 + part * (after.0 - before.0)).ok();
            }
            before = after;
        }
        None
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate needs few digits")]
fn number(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pressure::{Forecast, Watermarks};

    fn outlook(predicted: [f64; 3], free_bytes_per_second: f64) -> Outlook {
        let forecast = Forecast { predicted, ..Forecast::still(0.9, &Watermarks::default()) };
        Outlook { at: Now(1), forecast, allocation_bytes_per_second: 0.0, free_bytes_per_second }
    }

    #[test]
    fn room_comes_when_the_forecast_falls_so_far_or_when_enough_was_given_back() {
        let seconds = |outlook: &Outlook, age, wanted| {
            let relief = outlook.relief(900, 1000, wanted, Now(1).after(Duration::from_secs(age)));
            relief.map(|relief| (relief.as_secs_f64() * 10.0).round() / 10.0)
        };
        let falling = outlook([0.6, 0.3, 0.0], 0.0);
        for (age, wanted, expected) in [
            (0, 900, Some(0.0)),
            (0, 800, Some(10.0)),
            (0, 600, Some(30.0)),
            (0, 450, Some(45.0)),
            (0, 0, Some(120.0)),
            (15, 750, Some(7.5)),
            (45, 600, Some(7.5)),
            (121, 800, None),
            (121, 900, Some(0.0)),
        ] {
            assert_eq!(seconds(&falling, age, wanted), expected, "{age} {wanted}");
        }
        let steady = outlook([0.9; 3], 20.0);
        assert_eq!((seconds(&steady, 0, 800), seconds(&steady, 0, 0)), (Some(5.0), Some(45.0)));
        let growing = outlook([0.95, 1.0, 1.0], 0.0);
        assert_eq!(seconds(&growing, 0, 800), None);
        let overtaken = |free| {
            let forecast = Forecast { predicted: [0.0; 3], ..Forecast::still(0.0, &Watermarks::default()) };
            Outlook { forecast, ..outlook([0.0; 3], free) }
        };
        assert_eq!(seconds(&overtaken(0.0), 1, 800), None, "it filled since");
        assert_eq!(seconds(&overtaken(10.0), 1, 800), Some(10.0));
        let dips = outlook([1.0, 0.5, 0.5], 0.0);
        assert_eq!(seconds(&dips, 0, 750), Some(45.0));
    }
}
