//! From samples to a forecast: a line through the samples of the last minute.

use super::{Action, Forecast, HORIZONS_SECONDS, Trend, Watermarks};
use crate::units::ratio;
use std::collections::VecDeque;

/// Samples further back say nothing.
const WINDOW_SECONDS: f64 = 60.0;
/// Samples kept at most.
const SAMPLES_MAX: usize = 256;
/// Beyond an hour nothing is foretold.
const HORIZON_SECONDS_MAX: f64 = 3600.0;

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
    /// Time and ratio.
    samples: VecDeque<(f64, f64)>,
}

impl Forecaster {
    /// A forecaster that has seen nothing.
    pub fn new(watermarks: Watermarks) -> Forecaster {
        Forecaster { watermarks, samples: VecDeque::new() }
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
        if let Some((last_seconds, _)) = self.samples.back().filter(|(last, _)| *last > seconds) {
            return Err(SampleError::TimeWentBack { seconds, last_seconds: *last_seconds });
        }
        if sample.total_bytes == 0 {
            return Err(SampleError::NothingThere);
        }
        self.samples.push_back((seconds, ratio(sample.used_bytes, sample.total_bytes).min(1.0)));
        while self.samples.len() > SAMPLES_MAX
            || self.samples.front().is_some_and(|(first, _)| *first < seconds - WINDOW_SECONDS)
        {
            self.samples.pop_front();
        }
        Ok(())
    }

    /// What is expected after the last sample; none before the first.
    pub fn forecast(&self) -> Option<Forecast> {
        let (last, now) = *self.samples.back()?;
        #[expect(clippy::cast_precision_loss, reason = "there are few samples")]
        let count = self.samples.len() as f64;
        let mean = |of: &dyn Fn(&(f64, f64)) -> f64| self.samples.iter().map(of).sum::<f64>() / count;
        let (time, level) = (mean(&|sample| sample.0 - last), mean(&|sample| sample.1));
        let spread = mean(&|sample| (sample.0 - last - time).powi(2));
        let joint = mean(&|sample| (sample.0 - last - time) * (sample.1 - level));
        if spread <= 0.0 {
            return Some(Forecast::still(now, &self.watermarks));
        }
        let slope = joint / spread;
        let seconds_to = self.watermarks.marks().map(|mark| {
            let left = mark.as_f64() - now;
            if left <= 0.0 {
                return Some(0.0);
            }
            (slope > 0.0).then(|| left / slope).filter(|seconds| *seconds <= HORIZON_SECONDS_MAX)
        });
        Some(Forecast {
            ratio: now,
            predicted: HORIZONS_SECONDS
                .map(|ahead| (level + slope * (f64::from(ahead) - time)).clamp(0.0, 1.0)),
            confidence: (count / 12.0).min(1.0),
            ratio_per_second: slope,
            trend: Trend::of(slope * 500.0),
            seconds_to,
            action: Action::of(self.watermarks.of(now), seconds_to[2]),
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
