//! From samples to a forecast.
//!
//! ```text
//!   recent.rs    the points of the last minutes
//!   lines.rs     levels and slopes of now
//!   echoes.rs    an hour in steps of five seconds: what came after times like now
//!   learned.rs   by which signs the level changed so far
//!   guesses.rs   simple forecasters, each right in its own kind of weather
//!   mixture.rs   who was right of late, at each horizon
//!   ensemble.rs  all of them together: every guess is kept until its time comes, and judged
//!   path.rs      from levels on the way to seconds until each watermark
//!   alarm.rs     when to say that the critical watermark will be reached
//! ```

mod alarm;
mod echoes;
mod ensemble;
mod guesses;
mod learned;
mod lines;
mod mixture;
mod path;
mod recent;

use super::{Action, Forecast, Level, Trend, Watermarks};
use crate::units::ratio;
use alarm::Alarm;
use ensemble::{Ensemble, at_horizons};

/// What is held back stays so far below the critical watermark.
const BELOW: f64 = 0.001;

/// From parts of the whole in a second.
const POINTS_PER_5_SECONDS: f64 = 500.0;

/// How full memory was at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When, in seconds from any beginning.
    pub seconds: f64,
    /// Bytes used.
    pub used_bytes: u64,
    /// Bytes there are, at least 1.
    pub total_bytes: u64,
}

/// A sample that says nothing.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// No time at all.
    #[error("the time of a sample is {0}: expected a finite number of seconds")]
    NoTime(f64),
    /// Time goes forward.
    #[error("a sample of {seconds} s comes after one of {last_seconds} s")]
    TimeWentBack {
        /// Its time.
        seconds: f64,
        /// The time of the one before.
        last_seconds: f64,
    },
    /// Of nothing, nothing can be used.
    #[error("a sample has total_bytes = 0")]
    NothingThere,
}

/// Learns from samples, and forecasts.
#[derive(Clone, Debug)]
pub struct Forecaster {
    watermarks: Watermarks,
    ensemble: Ensemble,
    /// Of the critical watermark.
    alarm: Alarm,
    level: Level,
}

impl Forecaster {
    /// A forecaster that has seen nothing.
    pub fn new(watermarks: Watermarks) -> Forecaster {
        Forecaster { watermarks, ensemble: Ensemble::new(), alarm: Alarm::default(), level: Level::Normal }
    }

    /// Takes the next sample. Samples may be any time apart.
    ///
    /// # Errors
    /// [`SampleError`]; nothing was learned then.
    pub fn record(&mut self, sample: Sample) -> Result<(), SampleError> {
        let seconds = sample.seconds;
        if !seconds.is_finite() {
            return Err(SampleError::NoTime(seconds));
        }
        if let Some((last_seconds, _)) = self.ensemble.newest().filter(|(last, _)| *last > seconds) {
            return Err(SampleError::TimeWentBack { seconds, last_seconds });
        }
        if sample.total_bytes == 0 {
            return Err(SampleError::NothingThere);
        }
        let ratio = ratio(sample.used_bytes, sample.total_bytes).min(1.0);
        self.level = self.watermarks.settle(self.level, |mark| ratio >= mark.as_f64());
        self.ensemble.record(seconds, ratio);
        let mark = self.watermarks.critical.as_f64();
        let claim = path::reaches(mark, ratio, self.ensemble.path()).filter(|_| ratio < mark);
        self.alarm.look(seconds, claim, self.ensemble.rise_seconds());
        Ok(())
    }

    /// The level of the samples so far: up at once, and down when it is two points below where the level began.
    pub fn level(&self) -> Level {
        self.level
    }

    /// What is expected after the last sample; none before the first.
    pub fn forecast(&self) -> Option<Forecast> {
        let (_, ratio) = self.ensemble.newest()?;
        let critical = self.watermarks.critical.as_f64();
        // What is not sure enough to be told is not foretold by other fields either.
        let held_back = ratio < critical && !self.alarm.stands();
        let below = critical - BELOW;
        let path = self.ensemble.path().map(|value| if held_back { value.min(below) } else { value });
        let drift = self.ensemble.drift();
        let seconds_to = self.watermarks.marks().map(|mark| {
            let mark = mark.as_f64();
            if ratio >= mark {
                return Some(0.0);
            }
            let drifts_to = || path::drifts_to(mark, ratio, &path, drift?);
            let reached = path::reaches(mark, ratio, self.ensemble.path());
            if held_back && mark >= critical && reached.is_some() {
                return None;
            }
            reached.or_else(drifts_to)
        });
        let slope = self.ensemble.slope();
        Some(Forecast {
            ratio,
            predicted: at_horizons(&path),
            confidence: self.ensemble.right(),
            ratio_per_second: slope,
            trend: Trend::of(slope * POINTS_PER_5_SECONDS),
            seconds_to,
            action: Action::of(self.level, seconds_to[2]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_climb_is_foretold() {
        let mut forecaster = Forecaster::new(Watermarks::default());
        assert_eq!(forecaster.forecast(), None);
        for at in 0..13_u32 {
            let sample = Sample {
                seconds: f64::from(at) * 5.0,
                used_bytes: 400 + u64::from(at) * 25,
                total_bytes: 1000,
            };
            forecaster.record(sample).expect("a good sample");
        }
        let forecast = forecaster.forecast().expect("samples are there");
        assert!((forecast.predicted[0] - 0.85).abs() < 1e-9, "{forecast:?}");
        assert!((forecast.seconds_to[2].expect("it grows") - 40.0).abs() < 1e-6, "{forecast:?}");
        assert_eq!((forecast.trend, forecast.action), (Trend::Critical, Action::AggressiveReclaim));
    }

    #[test]
    fn samples_that_say_nothing_are_refused_by_name() {
        let mut forecaster = Forecaster::new(Watermarks::default());
        let sample = |seconds, total_bytes| Sample { seconds, used_bytes: 1, total_bytes };
        assert!(matches!(forecaster.record(sample(f64::NAN, 1)), Err(SampleError::NoTime(_))));
        assert_eq!(forecaster.record(sample(1.0, 0)), Err(SampleError::NothingThere));
        forecaster.record(sample(1.0, 2)).expect("a good sample");
        let refused = forecaster.record(sample(0.5, 2));
        assert_eq!(refused, Err(SampleError::TimeWentBack { seconds: 0.5, last_seconds: 1.0 }));
    }
}
